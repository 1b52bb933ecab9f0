//! In: plans and outcomes. Out: attempts and their ends. Invariant: only a running attempt settles, once, to its node's
//! owner, by its quote; any other report is acknowledged and dropped.

use super::jobs::out_of_indexes;
use super::{MAX_QUOTE, back_off, check_name, in_words, shorten, stop_running};
use crate::command::{Decision, Effect, Outcome, Placement, Rejection};
use crate::event::{Event, JobResult, MAX_INLINE_OUTPUT, OutputBody, OutputRef, Timings, job_reason};
use crate::fold::counted;
use crate::hooks::planted;
use crate::ledger::LedgerEntry;
use crate::state::{Job, POISON_LOSSES, Running, State, TaskState};
use nightshift_types::{
    AttemptId, CellId, DEFAULT_QUEUE, FailureReason, Fault, JobId, Milliseconds, NodeId, PicoPoints, TaskId, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// What the placements before this one in the same plan add to the state.
#[derive(Default)]
struct Planned<'a> {
    jobs: BTreeMap<JobId, (u32, PicoPoints)>,
    tasks: BTreeSet<TaskId>,
    /// What is left to spend, where that is limited.
    queues: BTreeMap<&'a str, Option<PicoPoints>>,
}

pub(super) fn place(state: &State, placements: Vec<Placement>, now: Timestamp) -> Result<Decision, Rejection> {
    let cell = state.cell().ok_or(Rejection::NotStarted)?;
    let mut planned = Planned::default();
    let mut decision = Decision::default();
    let mut accepted = Vec::new();
    for placement in placements {
        match place_one(state, cell, &mut planned, &placement, now) {
            Ok(one) => accepted.push((placement, one)),
            Err(rejection) => decision.declined.push((placement, rejection)),
        }
    }
    let mut changed: BTreeSet<JobId> = BTreeSet::new();
    for (placement, (attempt, drawn)) in accepted {
        match whole_gang(state, &planned, &placement.task.job) {
            Ok(()) => {
                let Placement { task, node, device, memory, quote } = placement;
                let effect =
                    Effect::Dispatch { attempt: attempt.clone(), node: node.clone(), device: device.clone(), memory };
                decision.effects.push(effect);
                decision.events.push(Event::TaskPlaced { attempt, node, device, memory, quote, drawn });
                changed.insert(task.job);
            }
            Err(rejection) => decision.declined.push((placement, rejection)),
        }
    }
    decision.effects.extend(changed.into_iter().map(|job| Effect::JobChanged { job }));
    Ok(decision)
}

/// A job that starts as a gang starts whole: what would leave it with fewer is declined, all of it. What the others of its
/// queue could have spent instead is theirs in the next plan.
fn whole_gang(state: &State, planned: &Planned<'_>, id: &JobId) -> Result<(), Rejection> {
    let (Some(job), Some((more, _))) = (state.job(id), planned.jobs.get(id)) else { return Ok(()) };
    let together = job.running + more;
    // Of fewer tasks than that all that are left go together.
    let need = job.spec.min_parallelism.min(job.running + job.waiting());
    if together < need {
        return Err(Rejection::GangIncomplete { job: id.clone(), together, need });
    }
    Ok(())
}

/// The attempt it makes, and whether its queue's own balance pays.
fn place_one<'a>(
    state: &'a State,
    cell: &CellId,
    planned: &mut Planned<'a>,
    placement: &Placement,
    now: Timestamp,
) -> Result<(AttemptId, bool), Rejection> {
    let Placement { task: id, node, device, quote, .. } = placement;
    check_name("device", device)?;
    if *quote < PicoPoints::ZERO || *quote > MAX_QUOTE {
        return Err(Rejection::Invalid { field: "quote", what: format!("{quote} must be 0 to {MAX_QUOTE}") });
    }
    let known = state.node(node).ok_or_else(|| Rejection::UnknownNode(node.clone()))?;
    if known.revoked {
        return Err(Rejection::NodeRevoked(node.clone()));
    }
    let job = state.job(&id.job).ok_or_else(|| Rejection::UnknownJob(id.job.clone()))?;
    let task = job.tasks.get(id.index as usize).ok_or_else(|| Rejection::UnknownTask(id.clone()))?;
    if job.result.is_some() {
        return Err(Rejection::JobFinished(id.job.clone()));
    }
    if job.spec.suspend {
        return Err(Rejection::Suspended(id.job.clone()));
    }
    match task.state {
        TaskState::Waiting { not_before } if not_before > now => {
            return Err(Rejection::BackOff { task: id.clone(), not_before });
        }
        TaskState::Waiting { .. } if !planned.tasks.contains(id) => {}
        _ => return Err(Rejection::NotWaiting(id.clone())),
    }
    let (more, more_quotes) = planned.jobs.get(&id.job).copied().unwrap_or_default();
    check_limits(job, more, more_quotes, *quote)?;
    let queue = job.spec.queue.as_str();
    let left = planned.queues.entry(queue).or_insert_with(|| state.spendable(queue, now));
    match left {
        Some(left) if *quote > *left => {
            return Err(Rejection::BudgetExhausted { queue: queue.to_owned(), left: *left, quote: *quote });
        }
        Some(left) => *left -= *quote,
        None => {}
    }
    planned.jobs.insert(id.job.clone(), (more + 1, more_quotes + *quote));
    planned.tasks.insert(id.clone());
    let attempt = AttemptId { cell: cell.clone(), task: id.clone(), number: task.attempts + 1 };
    // What costs nothing is drawn on nobody.
    Ok((attempt, queue != DEFAULT_QUEUE && *quote > PicoPoints::ZERO))
}

fn check_limits(job: &Job, more: u32, more_quotes: PicoPoints, quote: PicoPoints) -> Result<(), Rejection> {
    let limit = job.spec.parallelism;
    if job.running + more >= limit {
        return Err(Rejection::OverParallelism { job: job.id.clone(), limit });
    }
    let committed = job.cost + job.reserved + more_quotes;
    match job.spec.max_cost {
        Some(limit) if committed + quote > limit => {
            Err(Rejection::OverMaxCost { job: job.id.clone(), limit, committed, quote })
        }
        _ => Ok(()),
    }
}

pub(super) fn report(
    state: &State,
    node: NodeId,
    attempt: AttemptId,
    outcome: Outcome,
    timings: Timings,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let acknowledge = Effect::Acknowledge { node: node.clone(), attempt: attempt.clone() };
    if let Some(again) = again(state, &attempt) {
        return Ok(again);
    }
    let mut decision = match (current(state, &node, &attempt)?, outcome) {
        (None, _) => Decision::default(),
        (Some((job, running)), Outcome::Success(output)) => succeed(state, job, running, output, timings)?,
        (Some((job, running)), Outcome::Failure { reason, message }) => {
            let (reason, message) = claimed(reason, message);
            fail(job, running, reason, shorten(message), now, 0)
        }
    };
    decision.effects.insert(0, acknowledge);
    Ok(decision)
}

/// A bug that tests plant: a report that comes again is settled again.
fn again(state: &State, attempt: &AttemptId) -> Option<Decision> {
    let task = if planted("settled-again") { state.task(&attempt.task)? } else { return None };
    let TaskState::Succeeded(success) = &task.state else { return None };
    let (job, node) = (state.job(&attempt.task.job)?, state.node(&success.node)?);
    let entry = LedgerEntry::settlement(attempt, &job.spec.queue, false, &node.owner, success.cost);
    let (output, timings) = (success.output.clone(), success.timings);
    let events = vec![Event::TaskSucceeded { attempt: attempt.clone(), output, timings }, Event::Transferred { entry }];
    let effects = vec![Effect::Acknowledge { node: success.node.clone(), attempt: attempt.clone() }];
    Some(Decision { events, effects, ..Decision::default() })
}

pub(super) fn refuse(
    state: &State,
    node: NodeId,
    attempt: AttemptId,
    message: String,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    match current(state, &node, &attempt)? {
        None => Ok(Decision::default()),
        Some((job, running)) => Ok(fail(job, running, FailureReason::Refused, shorten(message), now, 0)),
    }
}

pub(super) fn lose(
    state: &State,
    node: &NodeId,
    only: Option<&[AttemptId]>,
    message: &str,
    now: Timestamp,
) -> Decision {
    let only: Option<BTreeSet<&AttemptId>> = only.map(|attempts| attempts.iter().collect());
    let lost =
        state.running_on(node).filter(|running| only.as_ref().is_none_or(|only| only.contains(&running.attempt)));
    let message = shorten(message.to_owned());
    let mut decision = Decision::default();
    let mut ended: BTreeSet<JobId> = BTreeSet::new();
    let mut changed: BTreeSet<JobId> = BTreeSet::new();
    // The state does not know yet what this decision has failed.
    let mut failed: BTreeMap<JobId, u32> = BTreeMap::new();
    for running in lost {
        let Some(job) = state.job(&running.attempt.task.job) else { continue };
        if ended.contains(&job.id) {
            continue;
        }
        let failed = failed.entry(job.id.clone()).or_default();
        let one = fail(job, running, FailureReason::NodeLost, message.clone(), now, *failed);
        *failed += u32::from(matches!(one.events.first(), Some(Event::AttemptFailed { requeue: None, .. })));
        if one.events.iter().any(|event| matches!(event, Event::JobFinished { .. })) {
            ended.insert(job.id.clone());
        }
        decision.events.extend(one.events);
        decision.effects.extend(one.effects.into_iter().filter(|effect| !matches!(effect, Effect::JobChanged { .. })));
        changed.insert(job.id.clone());
    }
    decision.effects.extend(changed.into_iter().map(|job| Effect::JobChanged { job }));
    decision
}

/// `Preempted` counts against those that may make way so and so often, `Cancelled` against nothing.
pub(super) fn stop(
    state: &State,
    attempts: &[AttemptId],
    reason: FailureReason,
    message: &str,
    now: Timestamp,
) -> Decision {
    let message = shorten(message.to_owned());
    let mut decision = Decision::default();
    let mut changed: BTreeSet<JobId> = BTreeSet::new();
    let attempts: BTreeSet<&AttemptId> = attempts.iter().collect();
    for running in attempts.into_iter().filter_map(|attempt| state.current(attempt)) {
        let (attempt, node) = (running.attempt.clone(), running.node.clone());
        changed.insert(attempt.task.job.clone());
        decision.effects.push(Effect::Cancel { node, attempt: attempt.clone(), reason, message: message.clone() });
        let event = Event::AttemptFailed { attempt, reason, message: message.clone(), requeue: Some(now) };
        decision.events.push(event);
    }
    decision.effects.extend(changed.into_iter().map(|job| Effect::JobChanged { job }));
    decision
}

/// The running attempt a node speaks of; none if it is any other attempt.
fn current<'a>(
    state: &'a State,
    node: &NodeId,
    attempt: &AttemptId,
) -> Result<Option<(&'a Job, &'a Running)>, Rejection> {
    let Some(running) = state.current(attempt) else { return Ok(None) };
    if running.node != *node {
        return Err(Rejection::NotItsNode { attempt: attempt.clone(), node: node.clone() });
    }
    Ok(state.job(&attempt.task.job).map(|job| (job, running)))
}

/// What an agent may not say of itself becomes Internal: only the scheduler knows a node lost or an attempt stopped.
fn claimed(reason: FailureReason, message: String) -> (FailureReason, String) {
    match reason {
        FailureReason::NodeLost | FailureReason::Cancelled | FailureReason::Preempted => {
            (FailureReason::Internal, format!("the agent says {}", in_words(reason, &message)))
        }
        other => (other, message),
    }
}

fn succeed(
    state: &State,
    job: &Job,
    running: &Running,
    output: OutputRef,
    timings: Timings,
) -> Result<Decision, Rejection> {
    check_name("contentType", &output.content_type)?;
    if let OutputBody::Inline(bytes) = &output.body
        && bytes.len() > MAX_INLINE_OUTPUT
    {
        let what = format!("{} bytes, at most {MAX_INLINE_OUTPUT} are kept inline: store it as a blob", bytes.len());
        return Err(Rejection::Invalid { field: "output", what });
    }
    let node = state.node(&running.node).ok_or_else(|| Rejection::UnknownNode(running.node.clone()))?;
    let attempt = running.attempt.clone();
    let entry = LedgerEntry::settlement(&attempt, &job.spec.queue, running.drawn, &node.owner, running.quote);
    let mut events =
        vec![Event::TaskSucceeded { attempt: attempt.clone(), output, timings }, Event::Transferred { entry }];
    if planted("entry-doubled") {
        events.extend(events.last().cloned());
    }
    let result = out_of_indexes(job, job.succeeded + 1, job.failed, None);
    events.extend(result.map(|result| Event::JobFinished { job: job.id.clone(), result }));
    let effects = vec![Effect::Succeeded { attempt }, Effect::JobChanged { job: job.id.clone() }];
    Ok(Decision { events, effects, ..Decision::default() })
}

/// What a failure ends.
enum Verdict {
    /// Nothing: the task waits for another attempt.
    Retry,
    /// Its task; the others go on.
    Task,
    /// The job.
    Job(JobResult),
}

/// `already` tasks of the job failed earlier in the same decision.
fn fail(
    job: &Job,
    running: &Running,
    reason: FailureReason,
    message: String,
    now: Timestamp,
    already: u32,
) -> Decision {
    let attempt = running.attempt.clone();
    let verdict = verdict(job, &attempt.task, reason, &message);
    let task = &job.tasks[attempt.task.index as usize];
    let wait = if counted(reason) { back_off(task.failures + 1) } else { 0 };
    let requeue = matches!(verdict, Verdict::Retry).then(|| now.after(Milliseconds(wait)));
    let result = match verdict {
        Verdict::Retry => None,
        Verdict::Task => out_of_indexes(job, job.succeeded, job.failed + already + 1, job.spec.max_failed_indexes),
        Verdict::Job(result) => Some(result),
    };
    let mut events = vec![Event::AttemptFailed { attempt: attempt.clone(), reason, message, requeue }];
    let mut effects = Vec::new();
    if let Some(result) = result {
        if let JobResult::Failed { reason, .. } = &result {
            effects = stop_running(job, Some(&attempt), &format!("the job failed: {reason}"));
        }
        events.push(Event::JobFinished { job: job.id.clone(), result });
    }
    effects.push(Effect::JobChanged { job: job.id.clone() });
    Decision { events, effects, ..Decision::default() }
}

/// What this failure ends, and what the job then says.
fn verdict(job: &Job, task: &TaskId, reason: FailureReason, message: &str) -> Verdict {
    let words = in_words(reason, message);
    let failed = |reason: &str, message: String| {
        Verdict::Job(JobResult::Failed { reason: reason.to_owned(), message: shorten(message) })
    };
    let known = &job.tasks[task.index as usize];
    let per_index = job.spec.backoff_limit_per_index;
    let losses = known.losses + 1;
    if reason == FailureReason::NodeLost && losses >= POISON_LOSSES {
        let message = format!("task {} lost {losses} nodes; last: {words}", task.index);
        return if per_index.is_some() { Verdict::Task } else { failed(job_reason::POISON_TASK, message) };
    }
    if !reason.retryable() {
        // A bad input is its index's own; a bad model is every one's.
        let own = per_index.is_some() && reason.fault() == Fault::Input;
        return if own { Verdict::Task } else { failed(reason.as_str(), format!("task {}: {message}", task.index)) };
    }
    if !counted(reason) {
        return Verdict::Retry;
    }
    let (failures, limit) = (job.failures + 1, job.spec.backoff_limit);
    if failures > limit {
        let message =
            format!("{failures} failed attempts, backoffLimit is {limit}; last: task {}: {words}", task.index);
        return failed(job_reason::BACKOFF_LIMIT_EXCEEDED, message);
    }
    if per_index.is_some_and(|limit| known.failures + 1 > limit) { Verdict::Task } else { Verdict::Retry }
}
