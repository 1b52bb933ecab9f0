//! InferenceJob → admitted job, and facts → its status.
//!
//! in → custom resources, changed jobs of the journal · out → commands, status patches, Events · invariant: idempotent;
//! a job that was once admitted and is not in the journal is never silently run again.

mod update;

pub use self::update::Warned;
use self::update::update;
use super::conditions::{self, Wanted};
use super::convert::{self, Identity};
use super::inputs::{self, InputError};
use super::status::Soft;
use super::{Context, collect, merge_diff, status};
use crate::leader::SubmitError;
use crate::models::Readiness;
use futures::StreamExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use nightshift_crds::{
    FIELD_MANAGER, FINALIZER, InferenceJob, InferenceJobStatus, MANAGED_BY, job_condition as condition,
};
use nightshift_state::Command;
use nightshift_types::{JobId, Milliseconds, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Changed jobs are taken this often: what changes meanwhile is written together. (The runtime's own debounce would put
/// off a busy job's status for as long as it stays busy.)
const GATHER: Duration = Duration::from_millis(50);
/// How soon a job is looked at again whose model or input is not there.
const RETRY: Duration = Duration::from_secs(3);
/// How soon one is looked at again that came before the queues were read.
const SOON: Duration = Duration::from_millis(200);
/// How often jobs of the journal are compared with the objects there are.
const SWEEP: Duration = Duration::from_secs(30);
/// A job younger than this is not missed: its object may not be in the cache yet.
const GRACE: Milliseconds = Milliseconds(60_000);
/// Jobs reconciled at once.
const CONCURRENCY: u16 = 16;

/// Why a reconciliation will be tried again.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The API server's words.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// An object the API server should never give.
    #[error("{0}")]
    Object(String),
    /// The leader's words.
    #[error(transparent)]
    Leader(#[from] SubmitError),
}

/// Reconciles every InferenceJob until `shutdown`.
/// `waited_for` counts verdicts on models and changes of queues and priorities.
pub async fn run(context: Context, waited_for: tokio::sync::watch::Receiver<u64>, shutdown: CancellationToken) {
    let jobs: Api<InferenceJob> = Api::all(context.client.clone());
    let config = Config::default().concurrency(CONCURRENCY);
    let news = tokio_stream::wrappers::WatchStream::from_changes(waited_for).map(|_| ());
    let controller = Controller::new(jobs, watcher::Config::default());
    let watch_errors = context.leader.metrics().watch_errors.with_label_values(&["InferenceJob"]);
    tokio::spawn(look_through(context.clone(), controller.store(), shutdown.clone()));
    controller
        .with_config(config)
        .reconcile_all_on(news)
        .reconcile_on(changed(context.clone()))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, on_error, Arc::new(context))
        .for_each(|result| {
            if let Err(ControllerError::QueueError(_)) = result {
                watch_errors.inc();
            }
            std::future::ready(())
        })
        .await;
}

/// Jobs whose facts changed, as references to their objects.
fn changed(context: Context) -> impl futures::Stream<Item = ObjectRef<InferenceJob>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(1024);
    tokio::spawn(async move {
        loop {
            let ids = context.leader.changed_jobs().take().await;
            for id in ids {
                let names = {
                    let state = context.leader.state().await;
                    state.job(&id).map(|job| (job.spec.name.clone(), job.spec.namespace.clone()))
                };
                let Some((name, namespace)) = names else { continue };
                if sender.send(ObjectRef::new(&name).within(&namespace)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(GATHER).await;
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// What is done from time to time with all objects there are, once they are known.
async fn look_through(context: Context, store: Store<InferenceJob>, shutdown: CancellationToken) {
    let work = async {
        if ready(&store).await {
            tokio::join!(sweep(&context, &store), collect::run(&context, &store));
        }
    };
    tokio::select! { () = shutdown.cancelled() => {}, () = work => {} }
}

/// Waits until every object is known. The controller waits for the same, and of several that do kube wakes the last alone:
/// so this one comes later, and looks again.
async fn ready(store: &Store<InferenceJob>) -> bool {
    loop {
        tokio::time::sleep(SOON).await;
        if let Ok(ready) = tokio::time::timeout(SOON, store.wait_until_ready()).await {
            return ready.is_ok();
        }
    }
}

/// Forgets jobs whose objects vanished unseen: without their finalizer, while nobody watched. They must not run on.
async fn sweep(context: &Context, store: &Store<InferenceJob>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let there: BTreeSet<String> = store.state().iter().filter_map(|job| job.uid()).collect();
        let now = context.leader.now();
        let missed: Vec<JobId> = {
            let state = context.leader.state().await;
            let old = state.jobs().filter(|job| now.since(job.admitted_at).0 > GRACE.0);
            old.map(|job| job.id.clone()).filter(|id| !there.contains(id.as_str())).collect()
        };
        for job in missed {
            tracing::warn!(%job, "the job's object is gone; it is stopped and forgotten");
            let _ = context.leader.submit(Command::ForgetJob { job }).await;
        }
    }
}

fn on_error(job: Arc<InferenceJob>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let expected = matches!(error, ReconcileError::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409));
    if !expected {
        tracing::warn!(namespace = job.namespace(), name = job.name_any(), %error, "job not reconciled; trying again");
        context.leader.metrics().reconcile_errors.with_label_values(&["InferenceJob"]).inc();
    }
    Action::requeue(if expected { Duration::from_millis(100) } else { RETRY })
}

#[tracing::instrument(level = "debug", skip_all, fields(namespace = job.namespace(), name = job.name_any()))]
async fn reconcile(job: Arc<InferenceJob>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if job.spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGED_BY) {
        return Ok(Action::await_change());
    }
    let uid = job.uid().ok_or_else(|| ReconcileError::Object("an InferenceJob without uid".into()))?;
    let id = JobId::new(uid).map_err(|e| ReconcileError::Object(e.to_string()))?;
    if job.meta().deletion_timestamp.is_some() {
        return delete(&job, &id, &context).await;
    }
    if !job.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let mut finalizers = job.finalizers().to_vec();
        finalizers.push(FINALIZER.into());
        set_finalizers(&job, &context, finalizers).await?;
        return Ok(Action::await_change());
    }
    let known = context.leader.state().await.job(&id).map(|known| known.spec.generation);
    let next = match known {
        Some(generation) => update(&job, &id, generation, &context).await?,
        None => admit(&job, &id, &context).await?,
    };
    finish(&job, next, &context).await
}

/// What a reconciliation found.
enum Next {
    /// The journal knows the job: its facts are the status. To be looked at again then, if a part of it waits.
    Facts(JobId, Option<Duration>),
    /// The journal does not: this is the status, to be looked at again.
    Waiting(InferenceJobStatus),
    /// The journal does not and never will.
    Terminal(InferenceJobStatus),
    /// The scheduler has not read the queues yet: nothing can be said.
    Soon,
}

/// Admits a job that the journal does not know, or says why not.
async fn admit(job: &InferenceJob, id: &JobId, context: &Context) -> Result<Next, ReconcileError> {
    let before = job.status.clone().unwrap_or_default();
    if status::is_terminal(&before) {
        return Ok(Next::Terminal(before));
    }
    let generation = job.meta().generation;
    let now = context.leader.now();
    let unknown = |type_, value, reason: &str, message: &str| {
        status::of_unknown(&before, Wanted { type_, status: Some(value), reason, message }, generation, now)
    };
    // Only the journal's facts count completions: a job that shows them had been admitted.
    let was_known = before.completions.is_some() || conditions::is_true(&before.conditions, condition::ADMITTED);
    if was_known || context.leader.state().await.forgotten(id) {
        // A leader that slept does not know what another one admitted meanwhile.
        context.leader.confirm().await?;
        let message = "the journal no longer knows this job, which had been admitted; it is not run again: \
                       create it anew if it should be";
        return Ok(Next::Terminal(unknown(condition::FAILED, true, "JournalLost", message)));
    }
    if !context.leader.tenants().listed() {
        return Ok(Next::Soon);
    }
    match prepare(job, context).await? {
        Prepared::Ready(spec) => {
            match context.leader.submit(Command::AdmitJob { job: id.clone(), spec: Arc::new(*spec) }).await {
                Ok(_) => Ok(Next::Facts(id.clone(), None)),
                Err(SubmitError::Rejected(why)) => {
                    let status = unknown(condition::ADMITTED, false, "Misconfigured", &why.to_string());
                    Ok(Next::Terminal(status))
                }
                Err(error) => Err(error.into()),
            }
        }
        Prepared::NotYet { reason, message } => {
            let why = Wanted { type_: condition::ADMITTED, status: Some(false), reason: &reason, message: &message };
            Ok(Next::Waiting(status::of_waiting(&before, why, job.spec.suspend, generation, now)))
        }
        Prepared::Misconfigured(message) => {
            Ok(Next::Terminal(unknown(condition::ADMITTED, false, "Misconfigured", &message)))
        }
        Prepared::Never { reason, message } => Ok(Next::Terminal(unknown(condition::FAILED, true, &reason, &message))),
    }
}

/// A manifest on its way to the journal.
enum Prepared {
    Ready(Box<nightshift_types::JobSpec>),
    NotYet {
        reason: String,
        message: String,
    },
    /// Until the object changes.
    Misconfigured(String),
    Never {
        reason: String,
        message: String,
    },
}

/// The job's priority, if its queue permits its namespace; else why not, and what helps.
fn priority(job: &InferenceJob, namespace: &str, context: &Context) -> Result<i32, String> {
    let queue = context.leader.tenants().permit(&job.spec.queue_name, namespace).map_err(|why| why.to_string())?;
    match &job.spec.priority_class_name {
        Some(name) => context.priorities.resolve("spec.priorityClassName", name),
        None => Ok(queue.default_priority),
    }
}

async fn prepare(job: &InferenceJob, context: &Context) -> Result<Prepared, ReconcileError> {
    let not_yet = |reason: &str, message: String| Prepared::NotYet { reason: reason.into(), message };
    let namespace = job.namespace().unwrap_or_default();
    if let Err(error) = convert::check_supported(&job.spec) {
        return Ok(Prepared::Misconfigured(error.to_string()));
    }
    let priority = match priority(job, &namespace, context) {
        Ok(priority) => priority,
        // It comes right without a change of the job: when the queue or the class is there.
        Err(why) => return Ok(not_yet("Misconfigured", why)),
    };
    let name = &job.spec.model_ref.name;
    let model = match context.leader.models().find(&namespace, name) {
        None => {
            let message =
                format!("ModelArtifact {name} is not in namespace {namespace}, nor public elsewhere: apply it");
            return Ok(not_yet("ModelNotReady", message));
        }
        Some((_, Readiness::Waiting { reason, message })) => {
            return Ok(not_yet("ModelNotReady", format!("ModelArtifact {name}: {reason}: {message}")));
        }
        Some((_, Readiness::Broken { reason, message })) => {
            return Ok(Prepared::Never { reason, message: format!("ModelArtifact {name}: {message}") });
        }
        Some((_, Readiness::Ready(model))) => model,
    };
    let chosen =
        convert::choose_variant(&model, job.spec.model_ref.variant.as_deref(), &context.leader.nodes().classes());
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Prepared::Misconfigured(error.to_string())),
    };
    let blobs = context.leader.blobs();
    let inputs = inputs::resolve(&context.client, blobs, &context.policy, &namespace, &job.spec.input).await;
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(InputError::Api(error)) => return Err(error.into()),
        Err(InputError::NotYet(text)) => return Ok(not_yet("Misconfigured", text)),
        Err(InputError::Misconfigured(text)) => return Ok(Prepared::Misconfigured(text)),
    };
    let object = job.name_any();
    let generation = job.meta().generation.unwrap_or_default();
    let identity = Identity { namespace: &namespace, name: &object, generation };
    match convert::job_spec(identity, &job.spec, &model, chosen, inputs, priority) {
        Ok(spec) => Ok(Prepared::Ready(Box::new(spec))),
        Err(error) => Ok(Prepared::Misconfigured(error.to_string())),
    }
}

/// Writes the status if it changed, tells Events of what is new, and says when to look again.
async fn finish(job: &InferenceJob, next: Next, context: &Context) -> Result<Action, ReconcileError> {
    let before = job.status.clone().unwrap_or_default();
    let (status, action) = match next {
        Next::Soon => return Ok(Action::requeue(SOON)),
        Next::Waiting(status) => (status, Action::requeue(RETRY)),
        Next::Terminal(status) => (status, Action::await_change()),
        Next::Facts(id, again) => {
            let url = results_url(context, job);
            let state = context.leader.state().await;
            let Some(facts) = state.job(&id) else { return Ok(Action::requeue(RETRY)) };
            let seen = job.meta().generation.unwrap_or_default();
            let now = context.leader.now();
            let soft = Soft::of(&context.leader, &state, facts);
            let status = status::of_job(&before, facts, &soft, &url, seen, now);
            (status, again.map_or_else(Action::await_change, Action::requeue))
        }
    };
    let ended = status.completion_time.clone().filter(|_| status::is_terminal(&status));
    write_status(job, &before, status, context).await?;
    match (ended, job.spec.ttl_seconds_after_finished) {
        (Some(ended), Some(ttl)) => expire(job, &ended, ttl, context).await,
        _ => Ok(action),
    }
}

fn results_url(context: &Context, job: &InferenceJob) -> String {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    format!("{}/v1/namespaces/{namespace}/jobs/{name}/results", context.gateway_url)
}

async fn write_status(
    job: &InferenceJob,
    before: &InferenceJobStatus,
    status: InferenceJobStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    let value =
        |status: &InferenceJobStatus| serde_json::to_value(status).map_err(|e| ReconcileError::Object(e.to_string()));
    let Some(change) = merge_diff(&value(before)?, &value(&status)?) else { return Ok(()) };
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "status": change }));
    api.patch_status(&job.name_any(), &PatchParams::apply(FIELD_MANAGER), &patch).await?;
    for event in news(before, &status) {
        publish(job, context, &event).await;
    }
    Ok(())
}

/// Events are for people: one that cannot be published is not tried again.
async fn publish(job: &InferenceJob, context: &Context, event: &Event) {
    if let Err(error) = context.recorder.publish(event, &job.object_ref(&())).await {
        tracing::debug!(%error, "event not published");
    }
}

fn warning(reason: &str, note: String) -> Event {
    let (type_, reason, action) = (EventType::Warning, reason.into(), "Update".into());
    Event { type_, reason, note: Some(note), action, secondary: None }
}

/// Events: each error a user can act on, once, and the steps of the job's way.
fn news(before: &InferenceJobStatus, after: &InferenceJobStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in &after.conditions {
        let old = conditions::find(&before.conditions, &condition.type_);
        let same = old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        // A model on its way is no news yet: what comes of it is.
        let quiet = condition.reason == "ModelNotReady" && condition.message.contains(": Verifying: ");
        if same || quiet {
            continue;
        }
        let bad = (condition.type_ == condition::FAILED && condition.status == "True")
            || (condition.type_ == condition::ADMITTED
                && condition.status == "False"
                && condition.reason != "Suspended");
        // The Admitted condition says the same of a job that does not fit.
        if condition.type_ == condition::SCHEDULED && condition.status == "False" {
            continue;
        }
        let mut note = condition.message.clone();
        if condition.type_ == condition::SCHEDULED {
            note = format!("placed on {}", after.nodes.join(", "));
        }
        note.truncate((0..=1000.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0));
        events.push(Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: condition.reason.clone(),
            note: Some(note).filter(|note| !note.is_empty()),
            action: condition.type_.clone(),
            secondary: None,
        });
    }
    events
}

/// Deletes a finished job whose time to live is over.
async fn expire(
    job: &InferenceJob,
    ended: &nightshift_crds::Time,
    ttl: i32,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let end = Timestamp(u64::try_from(ended.0.as_millisecond()).unwrap_or_default());
    let due = end.after(Milliseconds(u64::try_from(ttl).unwrap_or_default() * 1000));
    let left = due.since(context.leader.now());
    if left.0 > 0 {
        return Ok(Action::requeue(left.as_duration()));
    }
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let mut params = DeleteParams::background();
    // Whoever raised it meanwhile wins: what is deleted is what was looked at.
    let (uid, resource_version) = (job.uid(), job.resource_version());
    params.preconditions = Some(kube::api::Preconditions { uid, resource_version });
    api.delete(&job.name_any(), &params).await?;
    Ok(Action::await_change())
}

/// The object goes: what runs is stopped and nobody waits for it. A dead node never blocks a deletion.
async fn delete(job: &InferenceJob, id: &JobId, context: &Context) -> Result<Action, ReconcileError> {
    if job.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        context.leader.submit(Command::ForgetJob { job: id.clone() }).await?;
        context.warned.forget(id);
        let others = job.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        set_finalizers(job, context, others).await?;
    }
    Ok(Action::await_change())
}

async fn set_finalizers(job: &InferenceJob, context: &Context, finalizers: Vec<String>) -> Result<(), ReconcileError> {
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let version = job.resource_version();
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } }));
    api.patch(&job.name_any(), &PatchParams::apply(FIELD_MANAGER), &patch).await?;
    Ok(())
}
