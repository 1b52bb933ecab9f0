//! In: a command about a job. Out: its admission, change or end. Invariant: every command may be repeated.

use super::{check_account, check_name, stop_running};
use crate::command::{Decision, Effect, Rejection};
use crate::convert::pb;
use crate::event::{Event, JobResult, JobUpdate, MAX_SPEC, job_reason};
use crate::spec::spec_to;
use crate::state::{Job, State};
use nightshift_types::{FailureReason, JobId, JobSpec, Milliseconds, PicoPoints, Timestamp};
use prost::Message;
use std::sync::Arc;

/// Tokens are kept this long after they expire, so that a repeated join gets its answer.
const TOKEN_GRACE: Milliseconds = Milliseconds(24 * 3600 * 1000);
/// Tokens forgotten in one go.
const MAX_TOKENS: usize = 256;

pub(super) fn admit(state: &State, job: JobId, spec: Arc<JobSpec>) -> Result<Decision, Rejection> {
    state.cell().ok_or(Rejection::NotStarted)?;
    if let Some(known) = state.job(&job) {
        // An update since admission changed the mutable part: the same generation is the same spec.
        let same = known.spec == spec || known.spec.generation == spec.generation;
        return if same { Ok(Decision::default()) } else { Err(Rejection::AlreadyAdmitted(job)) };
    }
    if state.forgotten(&job) {
        return Err(Rejection::Forgotten(job));
    }
    check_account("queueName", &spec.queue)?;
    check_name("namespace", &spec.namespace)?;
    check_name("name", &spec.name)?;
    if spec.max_cost.is_some_and(|limit| limit < PicoPoints::ZERO) {
        return Err(Rejection::Invalid { field: "maxCost", what: "must not be negative".into() });
    }
    let message: pb::JobSpec = spec_to(&spec);
    let size = message.encoded_len();
    if size > MAX_SPEC {
        let what = format!(
            "{} inputs and parameters take {size} bytes, at most {MAX_SPEC} are kept: split the job",
            spec.inputs.len()
        );
        return Err(Rejection::Invalid { field: "spec", what });
    }
    let complete = spec.inputs.is_empty().then(|| Event::JobFinished { job: job.clone(), result: JobResult::Complete });
    let effects = vec![Effect::JobChanged { job: job.clone() }];
    let events = std::iter::once(Event::JobAdmitted { job, spec }).chain(complete).collect();
    Ok(Decision { events, effects, ..Decision::default() })
}

pub(super) fn update(state: &State, id: &JobId, mut update: JobUpdate, now: Timestamp) -> Result<Decision, Rejection> {
    let job = state.job(id).ok_or_else(|| Rejection::UnknownJob(id.clone()))?;
    let known = job.spec.generation;
    if update.generation < known {
        return Err(Rejection::StaleGeneration { job: id.clone(), given: update.generation, known });
    }
    let mut decision = Decision::default();
    if job.result.is_some() {
        return Ok(decision);
    }
    // What is not said stays.
    let terms = update.terms.get_or_insert_with(|| (&*job.spec).into());
    check_account("queueName", &terms.queue)?;
    // Another queue pays for new attempts alone; it can change while suspended only, so nothing should run.
    let stops = if update.suspend {
        Some("the job was suspended")
    } else {
        (terms.queue != job.spec.queue).then_some("the job was moved to another queue")
    };
    if let Some(message) = stops {
        let stopped = |attempt| Event::AttemptFailed {
            attempt,
            reason: FailureReason::Cancelled,
            message: message.to_owned(),
            requeue: Some(now),
        };
        decision.events.extend(job.running_tasks().map(|running| stopped(running.attempt.clone())));
        decision.effects.extend(stop_running(job, None, message));
    }
    if JobUpdate::from(&*job.spec) != update {
        let failed = out_of_indexes(job, job.succeeded, job.failed, update.max_failed_indexes);
        decision.events.push(Event::JobUpdated { job: id.clone(), update });
        decision.effects.push(Effect::JobChanged { job: id.clone() });
        if let Some(result) = failed {
            let ended = finish(job, result);
            decision.events.extend(ended.events);
            decision.effects.extend(ended.effects);
        }
    }
    Ok(decision)
}

pub(super) fn end(state: &State, id: &JobId, result: JobResult) -> Decision {
    let Some(job) = state.job(id).filter(|job| job.result.is_none()) else { return Decision::default() };
    finish(job, result)
}

fn finish(job: &Job, result: JobResult) -> Decision {
    let message = match &result {
        JobResult::Complete => "the job is complete".to_owned(),
        JobResult::Failed { reason, .. } => format!("the job failed: {reason}"),
        JobResult::Cancelled { message } => format!("the job was cancelled: {message}"),
    };
    let mut effects = stop_running(job, None, &message);
    effects.push(Effect::JobChanged { job: job.id.clone() });
    Decision { events: vec![Event::JobFinished { job: job.id.clone(), result }], effects, ..Decision::default() }
}

pub(super) fn forget(state: &State, id: &JobId) -> Decision {
    if state.job(id).is_none() {
        return Decision::default();
    }
    let mut decision = end(state, id, JobResult::Cancelled { message: "its custom resource is gone".into() });
    decision.events.push(Event::JobForgotten { job: id.clone() });
    decision
}

pub(super) fn expire(state: &State, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    for job in state.unfinished() {
        let Some(result) = overdue(job, now) else { continue };
        let ended = finish(job, result);
        decision.events.extend(ended.events);
        decision.effects.extend(ended.effects);
    }
    let old = state.tokens().iter().filter(|(_, token)| token.expires.after(TOKEN_GRACE) < now);
    decision.events.extend(old.take(MAX_TOKENS).map(|(id, _)| Event::TokenForgotten { id: id.clone() }));
    decision
}

/// What a job comes to of whose tasks so many succeeded and failed, of which at most `limit` may; `None`: it goes on.
pub(super) fn out_of_indexes(job: &Job, succeeded: u32, failed: u32, limit: Option<u32>) -> Option<JobResult> {
    let total = job.tasks.len();
    let end = |reason: &str, message| Some(JobResult::Failed { reason: reason.to_owned(), message });
    if let Some(limit) = limit.filter(|limit| failed > *limit) {
        let message = format!("{failed} of {total} tasks failed, maxFailedIndexes is {limit}");
        return end(job_reason::MAX_FAILED_INDEXES_EXCEEDED, message);
    }
    match (succeeded as usize + failed as usize == total, failed) {
        (false, _) => None,
        (true, 0) => Some(JobResult::Complete),
        (true, _) => end(job_reason::FAILED_INDEXES, format!("{failed} of {total} tasks failed, the others succeeded")),
    }
}

fn overdue(job: &Job, now: Timestamp) -> Option<JobResult> {
    let passed = |since: Option<Timestamp>, limit: Option<Milliseconds>| match (since, limit) {
        (Some(since), Some(limit)) if now.since(since) >= limit => Some(limit),
        _ => None,
    };
    let done = format!("{} of {} tasks succeeded", job.succeeded, job.tasks.len());
    if let Some(limit) = passed(job.active_since, job.spec.active_deadline) {
        let message = format!("active for {} s, activeDeadlineSeconds; {done}", limit.0 / 1000);
        return Some(JobResult::Failed { reason: job_reason::DEADLINE_EXCEEDED.into(), message });
    }
    let limit = passed(job.pending_since, job.spec.pending_deadline)?;
    let message = format!("waited for a node for {} s, pendingDeadlineSeconds; {done}", limit.0 / 1000);
    Some(JobResult::Failed { reason: job_reason::PENDING_DEADLINE_EXCEEDED.into(), message })
}
