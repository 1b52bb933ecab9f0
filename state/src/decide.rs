//! In: state, command, time. Out: a decision, or why not. Invariant: checks everything, so that the fold cannot fail;
//! a success is settled, and a job's end is told, by the very next events.

mod attempts;
mod jobs;
mod nodes;
mod queues;

use crate::command::{Command, Decision, Effect, Rejection};
use crate::event::{Event, JobResult, MAX_MESSAGE, MAX_NAME};
use crate::state::{Job, State};
use nightshift_types::{AttemptId, FailureReason, NodeId, PicoPoints, Timestamp};

/// First back-off of a task whose attempt failed and counts; doubles with every further one.
pub const BACKOFF_BASE_MS: u64 = 1_000;
/// Longest back-off.
pub const BACKOFF_MAX_MS: u64 = 60_000;
/// Largest quote of one task; keeps every sum far from `i128`'s end.
pub const MAX_QUOTE: PicoPoints = PicoPoints(1_000_000_000_000_000_000_000_000_000);

/// Answers a command. `now` before the last event's time counts as that.
pub fn decide(state: &State, command: Command, now: Timestamp) -> Result<Decision, Rejection> {
    let now = now.max(state.time());
    match command {
        Command::AdmitJob { job, spec } => jobs::admit(state, job, spec),
        Command::UpdateJob { job, update } => jobs::update(state, &job, update, now),
        Command::CancelJob { job, message } => {
            Ok(jobs::end(state, &job, JobResult::Cancelled { message: shorten(message) }))
        }
        Command::FailJob { job, reason, message } => {
            check_name("reason", &reason)?;
            Ok(jobs::end(state, &job, JobResult::Failed { reason, message: shorten(message) }))
        }
        Command::ForgetJob { job } => Ok(jobs::forget(state, &job)),
        Command::Place(placements) => attempts::place(state, placements, now),
        Command::Report { node, attempt, outcome, timings } => {
            attempts::report(state, node, attempt, outcome, timings, now)
        }
        Command::Refuse { node, attempt, message } => attempts::refuse(state, node, attempt, message, now),
        Command::LoseAttempts { node, attempts, message } => {
            Ok(attempts::lose(state, &node, attempts.as_deref(), &message, now))
        }
        Command::CreateToken { id, secret_hash, expires, owner, tier } => {
            nodes::create_token(state, id, secret_hash, expires, owner, tier)
        }
        Command::ForgetToken { id } => Ok(Decision {
            events: state.token(&id).map(|_| Event::TokenForgotten { id }).into_iter().collect(),
            ..Decision::default()
        }),
        Command::SpendToken { id, secret_hash, key_hash, node } => {
            nodes::spend_token(state, id, &secret_hash, key_hash, node, now)
        }
        Command::JoinNode { node, owner, key_hash, tier } => nodes::join(state, node, owner, key_hash, tier),
        Command::RevokeNode { node } => nodes::revoke(state, node, now),
        Command::ProveModel { digest, reference } => {
            let news = state.proved(&digest) != Some(reference);
            let events = news.then_some(Event::ModelProved { digest, reference }).into_iter().collect();
            Ok(Decision { events, ..Decision::default() })
        }
        Command::SetQueue { queue, budget } => queues::set(state, queue, budget),
        Command::Grant { id, queue, amount, note } => queues::grant(state, id, queue, amount, note),
        Command::Preempt { attempts, message } => {
            Ok(attempts::stop(state, &attempts, FailureReason::Preempted, &message, now))
        }
        Command::Drain { attempts, message } => {
            Ok(attempts::stop(state, &attempts, FailureReason::Cancelled, &message, now))
        }
        Command::ExpireDeadlines => Ok(jobs::expire(state, now)),
    }
}

/// How long a task waits after its `failures`-th counted failure, in milliseconds.
pub fn back_off(failures: u32) -> u64 {
    BACKOFF_BASE_MS.checked_shl(failures.saturating_sub(1).min(32)).unwrap_or(BACKOFF_MAX_MS).min(BACKOFF_MAX_MS)
}

/// Cancels what runs of a job that ends, but for `except`.
fn stop_running(job: &Job, except: Option<&AttemptId>, message: &str) -> Vec<Effect> {
    let running = job.running_tasks().filter(|running| Some(&running.attempt) != except);
    let cancel = |node: &NodeId, attempt: &AttemptId| Effect::Cancel {
        node: node.clone(),
        attempt: attempt.clone(),
        reason: FailureReason::Cancelled,
        message: message.to_owned(),
    };
    running.map(|running| cancel(&running.node, &running.attempt)).collect()
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

fn check_name(field: &'static str, text: &str) -> Result<(), Rejection> {
    if text.len() <= MAX_NAME {
        Ok(())
    } else {
        Err(Rejection::Invalid { field, what: format!("{} bytes, at most {MAX_NAME} are kept", text.len()) })
    }
}

/// Part of an account name: what an id may be.
fn check_account(field: &'static str, text: &str) -> Result<(), Rejection> {
    NodeId::new(text).map(drop).map_err(|error| Rejection::Invalid { field, what: error.to_string() })
}

fn in_words(reason: FailureReason, message: &str) -> String {
    if message.is_empty() { reason.to_string() } else { format!("{reason}: {message}") }
}
