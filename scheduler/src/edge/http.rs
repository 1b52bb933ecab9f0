//! Health, and the gateway of people's tools: pushes, results, explanations, join tokens.
//!
//! in → HTTP on loopback · out → JSON, JSON Lines, Prometheus' text · invariant: everything under `/v1` needs the bearer
//! token; every body has a limit; errors are `{"error": …}` with the remedy.

use crate::blobs::{BlobError, EVERYONE};
use crate::controller::status::{self, Soft};
use crate::edge::front::Tokens;
use crate::edge::{observe, points, results};
use crate::leader::{Leader, SubmitError};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use nightshift_placement::queue::Held;
use nightshift_state::{Command, Job, State, TaskState};
use nightshift_types::{Bytes, Milliseconds, NodeId, TrustTier};
use nightshift_wire::token::JoinToken;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest file that may be pushed.
const MAX_PUSH: Bytes = Bytes::gibi(64);

/// Seconds after which who was sent away may ask again.
const AGAIN: header::HeaderValue = header::HeaderValue::from_static("2");

/// What the gateway's handlers share.
#[derive(Clone)]
pub struct Gateway {
    pub(super) leader: Leader,
    tokens: Tokens,
    agents: Arc<str>,
}

/// An error as a person reads it.
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(json!({ "error": self.1 }))).into_response();
        if matches!(self.0, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, AGAIN);
        }
        response
    }
}

impl Failure {
    /// Of a command that was not taken now.
    pub(super) fn not_now(error: &SubmitError) -> Self {
        let status = match error {
            SubmitError::Busy => StatusCode::TOO_MANY_REQUESTS,
            SubmitError::Stopped | SubmitError::Rejected(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

pub(super) type Answer<T> = Result<T, Failure>;

/// The whole HTTP surface. `token` opens `/v1`; `agents` is the address that agents dial.
pub fn router(leader: Leader, token: &str, agents: &str) -> Router {
    let gateway = Gateway { leader, tokens: Tokens::of(token), agents: agents.into() };
    let of_the_journal = Router::new()
        .route("/v1/namespaces/{namespace}/jobs/{name}/results", get(results::lines))
        .route("/v1/namespaces/{namespace}/jobs/{name}/results/{index}", get(results::one))
        .route("/v1/namespaces/{namespace}/jobs/{name}/explain", get(explain))
        .route("/v1/tokens", post(create_token))
        .route("/v1/points/grants", post(points::grant))
        .route("/v1/points/balances", get(points::balances))
        .route("/v1/points/statement", get(points::statement))
        .layer(middleware::from_fn_with_state(gateway.clone(), unless_in_trouble));
    let guarded = Router::new()
        .merge(of_the_journal)
        .route("/v1/namespaces/{namespace}/blobs", post(push).layer(DefaultBodyLimit::disable()))
        .route("/v1/nodes/{node}/metrics", get(observe::node_metrics))
        .route("/v1/prometheus/targets", get(observe::targets))
        .layer(middleware::from_fn_with_state(gateway.clone(), authenticate));
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(observe::metrics))
        .merge(guarded)
        .fallback(|| async { Failure(StatusCode::NOT_FOUND, "no such page; the gateway is under /v1".into()) })
        .with_state(gateway)
}

async fn authenticate(Shared(gateway): Shared<Gateway>, request: Request, next: Next) -> Response {
    if !gateway.tokens.admit(&request) {
        let text = "a bearer token is needed: it stands in gateway.json of the data folder";
        return Failure(StatusCode::UNAUTHORIZED, text.into()).into_response();
    }
    next.run(request).await
}

/// What needs the journal does not wait while that is in trouble, however long: whoever asks is told.
async fn unless_in_trouble(Shared(gateway): Shared<Gateway>, request: Request, next: Next) -> Response {
    let mut news = gateway.leader.watch_trouble();
    let trouble = tokio::select! {
        biased;
        response = next.run(request) => return response,
        Ok(trouble) = news.wait_for(Option::is_some) => trouble.clone(),
    };
    let why = trouble.map(|trouble| trouble.message.clone()).unwrap_or_default();
    let text = format!("the journal takes nothing now: {why}. What was asked for may be done later: ask again then");
    Failure(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn ready(Shared(gateway): Shared<Gateway>) -> Answer<&'static str> {
    let leads = gateway.leader.metrics().leader.get() == 1;
    if leads { Ok("ok") } else { Err(Failure(StatusCode::SERVICE_UNAVAILABLE, "not leading".into())) }
}

#[derive(Deserialize)]
struct PushOptions {
    #[serde(default)]
    public: bool,
}

async fn push(
    Shared(gateway): Shared<Gateway>,
    Path(namespace): Path<String>,
    Query(options): Query<PushOptions>,
    body: Body,
) -> Answer<Json<Value>> {
    check_namespace(&namespace)?;
    let blobs = gateway.leader.blobs();
    let mut writer = blobs.writer(MAX_PUSH).await.map_err(storage)?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| Failure(StatusCode::BAD_REQUEST, format!("the upload broke off: {e}")))?;
        gateway.leader.metrics().blob_received_bytes.inc_by(chunk.len() as u64);
        writer.write(&chunk).await.map_err(storage)?;
    }
    let owner = if options.public { EVERYONE } else { namespace.as_str() };
    let blob = blobs.finish(writer, owner, None).await.map_err(storage)?;
    let uri = format!("store://sha256/{}", blob.digest.hex());
    Ok(Json(json!({ "digest": blob.digest.to_string(), "size": blob.size.0, "uri": uri })))
}

/// A namespace becomes a folder's name: only what Kubernetes allows.
fn check_namespace(namespace: &str) -> Answer<()> {
    let plain = namespace.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && !namespace.is_empty() && namespace.len() <= 63 {
        return Ok(());
    }
    Err(Failure(StatusCode::BAD_REQUEST, format!("namespace {namespace:?} is not a Kubernetes name")))
}

fn storage(error: BlobError) -> Failure {
    let status = match error {
        BlobError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure(status, error.to_string())
}

pub(super) fn find<'a>(state: &'a State, namespace: &str, name: &str) -> Answer<&'a Job> {
    // Of a job that was deleted and made again, the newest.
    let mut jobs: Vec<&Job> = state.jobs().filter(|j| j.spec.namespace == namespace && j.spec.name == name).collect();
    let text = || {
        format!("job {name} in namespace {namespace} is not admitted: see `kubectl describe ij/{name} -n {namespace}`")
    };
    jobs.pop().ok_or_else(|| Failure(StatusCode::NOT_FOUND, text()))
}

async fn explain(
    Shared(gateway): Shared<Gateway>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let state = gateway.leader.state().await;
    let job = find(&state, &namespace, &name)?;
    let before = nightshift_crds::InferenceJobStatus::default();
    let now = gateway.leader.now();
    let soft = Soft::of(&gateway.leader, &state, job);
    let status = status::of_job(&before, job, &soft, "", job.spec.generation, now);
    let waits = &soft.waits;
    let why = waits.as_ref().and_then(|waits| waits.why.as_ref());
    let failed = status.conditions.iter().rev().find(|c| Some(&c.reason) == status.reason.as_ref());
    let say = |what: &dyn std::fmt::Display| waits.as_ref().map_or_else(|| what.to_string(), |waits| waits.say(&what));
    let counts = |counts: &[nightshift_placement::Count]| -> Vec<Value> {
        let count =
            |c: &nightshift_placement::Count| json!({ "reason": c.kind.as_str(), "count": c.nodes, "message": say(c) });
        counts.iter().map(count).collect()
    };
    Ok(Json(json!({
        "job": format!("{namespace}/{name}"),
        "state": status.state,
        "reason": status.reason,
        "message": failed.map(|condition| condition.message.clone()),
        "suggestion": why.and_then(|why| why.suggestion()).map(|one| say(one)),
        "suggestions": why.map(|why| why.suggestions().iter().map(|one| say(one)).collect::<Vec<_>>()).unwrap_or_default(),
        "misses": why.map(|why| counts(&why.misses)).unwrap_or_default(),
        "nodes": why.map(|why| json!({ "total": why.total, "counts": counts(&why.counts) })),
        "queue": { "name": job.spec.queue, "turn": turn(&gateway.leader, job) },
        "cost": status.cost,
        "tasks": job.tasks.iter().enumerate().take(1000).map(|(index, task)| explain_task(&gateway.leader, index, task)).collect::<Vec<_>>(),
    })))
}

/// Where a waiting job stands in the order of the last cycle, or why it is not in it, in words.
fn turn(leader: &Leader, job: &nightshift_state::Job) -> Option<String> {
    if job.waiting() == 0 {
        return None;
    }
    let order = leader.order();
    let position = order.requests.iter().position(|request| request.task.job == job.id);
    match position {
        Some(position) => order.why(position).map(|why| why.to_string()),
        None => order.held.iter().find(|(held, _)| *held == job.id).map(|(_, held)| match held {
            Held::QueueStopped(_) => leader.tenants().trouble(&job.spec.queue).unwrap_or_else(|| held.to_string()),
            held => held.to_string(),
        }),
    }
}

fn explain_task(leader: &Leader, index: usize, task: &nightshift_state::Task) -> Value {
    let (state, node) = match &task.state {
        TaskState::Waiting { .. } => ("Waiting", None),
        TaskState::Running(running) => ("Running", Some(running.node.to_string())),
        TaskState::Succeeded(success) => ("Succeeded", Some(success.node.to_string())),
        TaskState::Failed { .. } => ("Failed", None),
        TaskState::Stopped => ("Stopped", None),
    };
    let failure = task.last_failure.as_ref().map(|failure| {
        json!({ "node": failure.node.as_str(), "reason": failure.reason.as_str(), "message": failure.message })
    });
    let timings = match &task.state {
        TaskState::Succeeded(success) => {
            let t = success.timings;
            json!({ "fetchMicroseconds": t.fetch_us, "loadMicroseconds": t.load_us, "queueMicroseconds": t.queue_us,
                "computeMicroseconds": t.compute_us, "codecMicroseconds": t.codec_us })
        }
        _ => Value::Null,
    };
    let download = match &task.state {
        TaskState::Running(running) => leader.downloads().of_attempt(&running.attempt),
        _ => None,
    };
    let download = download.map(|coming| {
        json!({ "doneBytes": coming.done, "totalBytes": coming.total, "percent": coming.percent(), "secondsLeft": coming.seconds_left })
    });
    json!({ "index": index, "state": state, "node": node, "attempts": task.attempts, "lastFailure": failure,
        "timings": timings, "download": download })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenRequest {
    #[serde(default = "default_owner")]
    owner: String,
    #[serde(default = "default_tier")]
    tier: String,
    #[serde(default = "default_ttl")]
    ttl_seconds: u64,
}

fn default_owner() -> String {
    "local".into()
}
fn default_tier() -> String {
    "Vetted".into()
}
fn default_ttl() -> u64 {
    24 * 3600
}

async fn create_token(Shared(gateway): Shared<Gateway>, Json(request): Json<TokenRequest>) -> Answer<Json<Value>> {
    let bad = |text: String| Failure(StatusCode::BAD_REQUEST, text);
    let tier: TrustTier = request.tier.parse().map_err(|e| bad(format!("tier: {e}")))?;
    NodeId::new(request.owner.as_str()).map_err(|e| bad(format!("owner: {e}")))?;
    if request.ttl_seconds == 0 || request.ttl_seconds > 30 * 24 * 3600 {
        return Err(bad("ttlSeconds must be 1 to 2592000 (30 days)".into()));
    }
    let token = mint_token(&gateway.leader, &request.owner, tier, Milliseconds(request.ttl_seconds * 1000)).await;
    let token = token.map_err(|e| Failure::not_now(&e))?;
    Ok(Json(json!({
        "token": token.to_string(),
        "id": token.id.as_str(),
        "server": &*gateway.agents,
        "expiresInSeconds": request.ttl_seconds,
    })))
}

/// A new join token, journaled before anybody sees it.
pub async fn mint_token(
    leader: &Leader,
    owner: &str,
    tier: TrustTier,
    life: Milliseconds,
) -> Result<JoinToken, SubmitError> {
    let token = JoinToken::generate(leader.ca().hash());
    let command = Command::CreateToken {
        id: token.id.clone(),
        secret_hash: token.secret_hash(),
        expires: leader.now().after(life),
        owner: owner.into(),
        tier,
    };
    leader.try_submit(command).await?;
    Ok(token)
}
