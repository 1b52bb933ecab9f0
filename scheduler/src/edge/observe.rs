//! What Prometheus asks of the gateway: the scheduler's metrics, each agent's, and where the agents are.
//!
//! in → scrapes, service discovery (<https://prometheus.io/docs/prometheus/latest/http_sd/>) · out → Prometheus' text,
//! target groups · invariant: an agent that joined stays a target while it is gone, so that its `up` is 0 and an alert
//! fires; the token for scrapes opens nothing else.

use super::http::{Answer, Failure, Gateway};
use crate::metrics::facts::Facts;
use crate::nodes::census::Target;
use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use nightshift_types::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Longest wait for what only the state knows.
const FACTS_WITHIN: Duration = Duration::from_secs(1);

/// Prometheus' text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The token that opens scrapes and service discovery, and nothing else. It follows from the gateway's, which it does
/// not give away, so there is one secret to keep.
pub fn scrape_token(gateway_token: &str) -> String {
    hex::encode(Sha256::digest(format!("nightshift scrape token\n{gateway_token}")))
}

/// Whether the token for scrapes is enough for a path.
pub fn is_scrape(path: &str) -> bool {
    let node = path.strip_prefix("/v1/nodes/").and_then(|rest| rest.strip_suffix("/metrics"));
    let node = node.is_some_and(|name| !name.is_empty() && !name.contains('/'));
    node || matches!(path, "/metrics" | "/v1/prometheus/targets")
}

/// The scheduler's own metrics.
pub(super) async fn metrics(Shared(gateway): Shared<Gateway>) -> impl IntoResponse {
    let mut text = gateway.leader.metrics().render();
    // While the journal does not answer the state cannot be read; the counters must say just that.
    if let Ok(facts) = tokio::time::timeout(FACTS_WITHIN, Facts::look(&gateway.leader)).await {
        text.extend(facts.render());
    }
    ([(header::CONTENT_TYPE, TEXT)], text)
}

/// An agent's metrics, asked for down its session.
pub(super) async fn node_metrics(
    Shared(gateway): Shared<Gateway>,
    Path(node): Path<String>,
) -> Answer<impl IntoResponse> {
    let id = NodeId::new(node.as_str()).map_err(|e| Failure(StatusCode::BAD_REQUEST, e.to_string()))?;
    let text = gateway.leader.scrapes().ask(gateway.leader.nodes(), &id).await;
    let result = if text.is_some() { "answered" } else { "failed" };
    gateway.leader.metrics().scrapes.with_label_values(&[result]).inc();
    let failed = || Failure(StatusCode::BAD_GATEWAY, format!("node {node} is not connected or did not answer"));
    Ok(([(header::CONTENT_TYPE, TEXT)], text.ok_or_else(failed)?))
}

/// What to list; Kubernetes' service discovery has roles too.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Role {
    Agent,
    Scheduler,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    role: Option<Role>,
}

/// Prometheus' HTTP service discovery. Whatever address it was asked at is the one to scrape at.
pub(super) async fn targets(
    Shared(gateway): Shared<Gateway>,
    Query(wanted): Query<Wanted>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer<Json<Value>> {
    if gateway.leader.metrics().leader.get() != 1 {
        let text = "this scheduler does not lead: only the leader knows the agents; ask again in a moment";
        return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, text.into()));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let address = host.or(uri.authority().map(|authority| authority.as_str()));
    let address = address.ok_or_else(|| Failure(StatusCode::BAD_REQUEST, "the request names no host".into()))?;
    let nodes = {
        let state = gateway.leader.state().await;
        gateway.leader.nodes().targets(&state)
    };
    let mut groups = Vec::new();
    if wanted.role != Some(Role::Agent) {
        groups.push(json!({
            "targets": [address],
            "labels": { "__metrics_path__": "/metrics", "__meta_nightshift_role": "scheduler" },
        }));
    }
    if wanted.role != Some(Role::Scheduler) {
        groups.extend(nodes.iter().map(|target| group(address, target)));
    }
    Ok(Json(Value::Array(groups)))
}

/// One group for each agent: they differ in their path alone. Empty labels are as good as none to Prometheus.
fn group(address: &str, target: &Target) -> Value {
    json!({
        "targets": [address],
        "labels": {
            "__metrics_path__": format!("/v1/nodes/{}/metrics", target.node),
            "__meta_nightshift_role": "agent",
            "instance": target.node.as_str(),
            "node": target.node.as_str(),
            "device_class": target.device_class,
            "region": target.region,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scrape_token_opens_scrapes_alone() {
        for path in ["/metrics", "/v1/prometheus/targets", "/v1/nodes/a.b-c/metrics"] {
            assert!(is_scrape(path), "{path}");
        }
        for path in ["/v1/tokens", "/v1/nodes//metrics", "/v1/nodes/a/b/metrics", "/v1/namespaces/n/jobs/metrics"] {
            assert!(!is_scrape(path), "{path}");
        }
        assert_ne!(scrape_token("a"), scrape_token("b"));
        assert_eq!(scrape_token("a").len(), 64);
    }
}
