//! In: events. Out: protobuf messages, and back. Invariant: every conversion from protobuf checks what it reads;
//! what was encoded decodes to an equal value; no bytes panic.

use crate::event::{Event, JobResult, JobUpdate, OutputBody, OutputRef, Timings};
use crate::ledger::{EntryKind, LedgerEntry};
use crate::spec::{spec_from, spec_to, terms_from, terms_to};
use nightshift_types::{AttemptId, Budget, Bytes, Digest, Epoch, Milliseconds, PicoPoints, TaskId, Timestamp};
use prost::Message;
use std::sync::Arc;
use thiserror::Error;

/// The generated messages.
#[allow(missing_docs, clippy::all)]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/nightshift.journal.v1.rs"));
}

/// Bytes that are no batch or event of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not protobuf, or not this message.
    #[error("not a journal record: {0}")]
    Malformed(String),
    /// A field holds what it may not.
    #[error("field {field}: {what}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Written by a newer version.
    #[error("an event of a kind that this version does not know; upgrade this scheduler")]
    UnknownEvent,
    /// Written by a newer version.
    #[error("format {0} is newer than this version reads, {known}; upgrade this scheduler", known = crate::event::FORMAT)]
    UnknownFormat(u32),
}

pub(crate) fn bad(field: &'static str, what: impl ToString) -> DecodeError {
    DecodeError::Field { field, what: what.to_string() }
}

pub(crate) fn id<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, DecodeError>
where
    T::Err: ToString,
{
    text.parse().map_err(|error: T::Err| bad(field, error))
}

pub(crate) fn hash(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], DecodeError> {
    bytes.try_into().map_err(|_| bad(field, format!("{} bytes, must be 32", bytes.len())))
}

pub(crate) fn points(field: &'static str, bytes: &[u8]) -> Result<PicoPoints, DecodeError> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| bad(field, format!("{} bytes, must be 16", bytes.len())))?;
    Ok(PicoPoints(i128::from_be_bytes(bytes)))
}

pub(crate) fn points_to(points: PicoPoints) -> Vec<u8> {
    points.0.to_be_bytes().to_vec()
}

fn attempt_to(attempt: &AttemptId) -> Option<pb::Attempt> {
    Some(pb::Attempt {
        cell: attempt.cell.to_string(),
        job: attempt.task.job.to_string(),
        index: attempt.task.index,
        number: attempt.number,
    })
}

fn attempt_from(attempt: Option<pb::Attempt>) -> Result<AttemptId, DecodeError> {
    let attempt = attempt.ok_or_else(|| bad("attempt", "missing"))?;
    let task = TaskId { job: id("attempt.job", &attempt.job)?, index: attempt.index };
    Ok(AttemptId { cell: id("attempt.cell", &attempt.cell)?, task, number: attempt.number })
}

/// The event's protobuf bytes.
pub fn encode_event(event: &Event) -> Vec<u8> {
    pb::Event { kind: Some(event_to(event)) }.encode_to_vec()
}

/// Reads [`encode_event`]'s bytes.
pub fn decode_event(bytes: &[u8]) -> Result<Event, DecodeError> {
    let event = pb::Event::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    event_from(event.kind.ok_or(DecodeError::UnknownEvent)?)
}

// One arm a kind: longer than a page, and flat.
fn event_to(event: &Event) -> pb::event::Kind {
    use pb::event::Kind;
    match event {
        Event::JournalCreated { journal, cell, format } => Kind::JournalCreated(pb::JournalCreated {
            journal: journal.clone(),
            cell: cell.to_string(),
            format: *format,
        }),
        Event::LeaderStarted { epoch } => {
            Kind::LeaderStarted(pb::LeaderStarted { journal: epoch.journal.clone(), revision: epoch.revision })
        }
        Event::TokenCreated { id, secret_hash, expires, owner, tier } => Kind::TokenCreated(pb::TokenCreated {
            id: id.to_string(),
            secret_hash: secret_hash.to_vec(),
            expires_ms: expires.0,
            owner: owner.clone(),
            tier: tier.to_string(),
        }),
        Event::TokenSpent { id, key_hash, node } => {
            Kind::TokenSpent(pb::TokenSpent { id: id.to_string(), key_hash: key_hash.to_vec(), node: node.to_string() })
        }
        Event::TokenForgotten { id } => Kind::TokenForgotten(pb::TokenForgotten { id: id.to_string() }),
        Event::NodeJoined { node, owner, key_hash, tier } => Kind::NodeJoined(pb::NodeJoined {
            node: node.to_string(),
            owner: owner.clone(),
            key_hash: key_hash.to_vec(),
            tier: tier.to_string(),
        }),
        Event::NodeRevoked { node } => Kind::NodeRevoked(pb::NodeRevoked { node: node.to_string() }),
        Event::ModelProved { digest, reference } => {
            Kind::ModelProved(pb::ModelProved { digest: digest.0.to_vec(), reference_ms: reference.0 })
        }
        Event::JobAdmitted { job, spec } => {
            Kind::JobAdmitted(pb::JobAdmitted { job: job.to_string(), spec: Some(spec_to(spec)) })
        }
        Event::JobUpdated { job, update } => Kind::JobUpdated(update_to(job.as_str(), update)),
        Event::TaskPlaced { attempt, node, device, memory, quote, drawn } => Kind::TaskPlaced(pb::TaskPlaced {
            attempt: attempt_to(attempt),
            node: node.to_string(),
            device: device.clone(),
            memory: memory.0,
            quote: points_to(*quote),
            drawn: *drawn,
        }),
        Event::TaskSucceeded { attempt, output, timings } => Kind::TaskSucceeded(pb::TaskSucceeded {
            attempt: attempt_to(attempt),
            output: Some(body_to(&output.body)),
            content_type: output.content_type.clone(),
            timings: Some(timings_to(timings)),
        }),
        Event::AttemptFailed { attempt, reason, message, requeue } => Kind::AttemptFailed(pb::AttemptFailed {
            attempt: attempt_to(attempt),
            reason: reason.to_string(),
            message: message.clone(),
            requeue_ms: requeue.map(|time| time.0),
        }),
        Event::JobFinished { job, result } => {
            Kind::JobFinished(pb::JobFinished { job: job.to_string(), result: Some(result_to(result)) })
        }
        Event::JobForgotten { job } => Kind::JobForgotten(pb::JobForgotten { job: job.to_string() }),
        Event::Transferred { entry } => Kind::Transferred(entry_to(entry)),
        Event::QueueSet { queue, budget } => {
            let budget = budget.map(budget_to);
            Kind::QueueSet(pb::QueueSet { queue: queue.clone(), budget })
        }
        Event::FormatRaised { format } => Kind::FormatRaised(pb::FormatRaised { format: *format }),
        Event::SnapshotBegun => Kind::SnapshotBegun(pb::SnapshotBegun {}),
        Event::SnapshotTaken { sequence, digest, manifest } => Kind::SnapshotTaken(pb::SnapshotTaken {
            sequence: *sequence,
            digest: digest.to_vec(),
            manifest: manifest.to_vec(),
        }),
    }
}

// One arm a kind: longer than a page, and flat.
fn event_from(kind: pb::event::Kind) -> Result<Event, DecodeError> {
    use pb::event::Kind;
    Ok(match kind {
        Kind::JournalCreated(m) => {
            Event::JournalCreated { journal: m.journal, cell: id("journal_created.cell", &m.cell)?, format: m.format }
        }
        Kind::LeaderStarted(m) => Event::LeaderStarted { epoch: Epoch { journal: m.journal, revision: m.revision } },
        Kind::TokenCreated(m) => Event::TokenCreated {
            id: id("token_created.id", &m.id)?,
            secret_hash: hash("token_created.secret_hash", &m.secret_hash)?,
            expires: Timestamp(m.expires_ms),
            owner: m.owner,
            tier: id("token_created.tier", &m.tier)?,
        },
        Kind::TokenSpent(m) => Event::TokenSpent {
            id: id("token_spent.id", &m.id)?,
            key_hash: hash("token_spent.key_hash", &m.key_hash)?,
            node: id("token_spent.node", &m.node)?,
        },
        Kind::TokenForgotten(m) => Event::TokenForgotten { id: id("token_forgotten.id", &m.id)? },
        Kind::NodeJoined(m) => Event::NodeJoined {
            node: id("node_joined.node", &m.node)?,
            owner: m.owner,
            key_hash: hash("node_joined.key_hash", &m.key_hash)?,
            tier: id("node_joined.tier", &m.tier)?,
        },
        Kind::NodeRevoked(m) => Event::NodeRevoked { node: id("node_revoked.node", &m.node)? },
        Kind::ModelProved(m) => Event::ModelProved {
            digest: Digest(hash("model_proved.digest", &m.digest)?),
            reference: Milliseconds(m.reference_ms),
        },
        Kind::JobAdmitted(m) => Event::JobAdmitted {
            job: id("job_admitted.job", &m.job)?,
            spec: Arc::new(spec_from(m.spec.ok_or_else(|| bad("job_admitted.spec", "missing"))?)?),
        },
        Kind::JobUpdated(m) => Event::JobUpdated { job: id("job_updated.job", &m.job)?, update: update_from(m)? },
        Kind::TaskPlaced(m) => Event::TaskPlaced {
            attempt: attempt_from(m.attempt)?,
            node: id("task_placed.node", &m.node)?,
            device: m.device,
            memory: Bytes(m.memory),
            quote: points("task_placed.quote", &m.quote)?,
            drawn: m.drawn,
        },
        Kind::TaskSucceeded(m) => Event::TaskSucceeded {
            attempt: attempt_from(m.attempt)?,
            output: OutputRef { body: body_from(m.output)?, content_type: m.content_type },
            timings: timings_from(m.timings.unwrap_or_default()),
        },
        Kind::AttemptFailed(m) => Event::AttemptFailed {
            attempt: attempt_from(m.attempt)?,
            reason: id("attempt_failed.reason", &m.reason)?,
            message: m.message,
            requeue: m.requeue_ms.map(Timestamp),
        },
        Kind::JobFinished(m) => {
            Event::JobFinished { job: id("job_finished.job", &m.job)?, result: result_from(m.result)? }
        }
        Kind::JobForgotten(m) => Event::JobForgotten { job: id("job_forgotten.job", &m.job)? },
        Kind::Transferred(m) => Event::Transferred { entry: entry_from(m)? },
        Kind::QueueSet(m) => Event::QueueSet { queue: m.queue, budget: m.budget.map(budget_from).transpose()? },
        Kind::FormatRaised(m) => Event::FormatRaised { format: m.format },
        Kind::SnapshotBegun(_) => Event::SnapshotBegun,
        Kind::SnapshotTaken(m) => Event::SnapshotTaken {
            sequence: m.sequence,
            digest: hash("snapshot_taken.digest", &m.digest)?,
            manifest: hash("snapshot_taken.manifest", &m.manifest)?,
        },
    })
}

pub(crate) fn budget_to(budget: Budget) -> pb::Budget {
    pb::Budget { points: points_to(budget.points), period: budget.period.to_string() }
}

pub(crate) fn budget_from(m: pb::Budget) -> Result<Budget, DecodeError> {
    let points = points("queue_set.budget.points", &m.points)?;
    Ok(Budget { points, period: id("queue_set.budget.period", &m.period)? })
}

fn update_to(job: &str, update: &JobUpdate) -> pb::JobUpdated {
    pb::JobUpdated {
        job: job.to_owned(),
        generation: update.generation,
        suspend: update.suspend,
        parallelism: update.parallelism,
        backoff_limit: update.backoff_limit,
        max_failed_indexes: update.max_failed_indexes,
        active_deadline_ms: update.active_deadline.map(|length| length.0),
        pending_deadline_ms: update.pending_deadline.map(|length| length.0),
        terms: update.terms.as_ref().map(terms_to),
    }
}

fn update_from(m: pb::JobUpdated) -> Result<JobUpdate, DecodeError> {
    Ok(JobUpdate {
        generation: m.generation,
        suspend: m.suspend,
        parallelism: m.parallelism,
        backoff_limit: m.backoff_limit,
        max_failed_indexes: m.max_failed_indexes,
        active_deadline: m.active_deadline_ms.map(Milliseconds),
        pending_deadline: m.pending_deadline_ms.map(Milliseconds),
        terms: m.terms.map(terms_from).transpose()?,
    })
}

pub(crate) fn body_to(body: &OutputBody) -> pb::task_succeeded::Output {
    use pb::task_succeeded::Output;
    match body {
        OutputBody::Inline(bytes) => Output::Inline(bytes.clone()),
        OutputBody::Blob { digest, size } => Output::Blob(pb::Blob { digest: digest.0.to_vec(), size: size.0 }),
    }
}

pub(crate) fn body_from(output: Option<pb::task_succeeded::Output>) -> Result<OutputBody, DecodeError> {
    use pb::task_succeeded::Output;
    match output.ok_or_else(|| bad("task_succeeded.output", "missing"))? {
        Output::Inline(bytes) => Ok(OutputBody::Inline(bytes)),
        Output::Blob(blob) => Ok(OutputBody::Blob {
            digest: Digest(hash("task_succeeded.blob.digest", &blob.digest)?),
            size: Bytes(blob.size),
        }),
    }
}

pub(crate) fn timings_to(t: &Timings) -> pb::Timings {
    pb::Timings {
        fetch_us: t.fetch_us,
        load_us: t.load_us,
        queue_us: t.queue_us,
        compute_us: t.compute_us,
        codec_us: t.codec_us,
    }
}

pub(crate) fn timings_from(t: pb::Timings) -> Timings {
    Timings {
        fetch_us: t.fetch_us,
        load_us: t.load_us,
        queue_us: t.queue_us,
        compute_us: t.compute_us,
        codec_us: t.codec_us,
    }
}

pub(crate) fn result_to(result: &JobResult) -> pb::job_finished::Result {
    use pb::job_finished as f;
    match result {
        JobResult::Complete => f::Result::Complete(f::Complete {}),
        JobResult::Failed { reason, message } => {
            f::Result::Failed(f::Failed { reason: reason.clone(), message: message.clone() })
        }
        JobResult::Cancelled { message } => f::Result::Cancelled(f::Cancelled { message: message.clone() }),
    }
}

pub(crate) fn result_from(result: Option<pb::job_finished::Result>) -> Result<JobResult, DecodeError> {
    use pb::job_finished::Result as R;
    Ok(match result.ok_or_else(|| bad("job_finished.result", "missing"))? {
        R::Complete(_) => JobResult::Complete,
        R::Failed(m) => JobResult::Failed { reason: m.reason, message: m.message },
        R::Cancelled(m) => JobResult::Cancelled { message: m.message },
    })
}

pub(crate) fn entry_to(entry: &LedgerEntry) -> pb::Transferred {
    let posting = |(account, amount): &(_, PicoPoints)| pb::Posting {
        account: ToString::to_string(account),
        amount: points_to(*amount),
    };
    let kind = match &entry.kind {
        EntryKind::Settlement { attempt, queue } => {
            pb::transferred::Kind::Settlement(pb::Settlement { attempt: attempt_to(attempt), queue: queue.clone() })
        }
        EntryKind::Grant { queue, note } => {
            pb::transferred::Kind::Grant(pb::Grant { queue: queue.clone(), note: note.clone() })
        }
    };
    pb::Transferred {
        id: entry.id.clone(),
        postings: entry.postings.iter().map(|p: &(nightshift_types::AccountId, PicoPoints)| posting(p)).collect(),
        kind: Some(kind),
    }
}

pub(crate) fn entry_from(m: pb::Transferred) -> Result<LedgerEntry, DecodeError> {
    let postings =
        m.postings.into_iter().map(|p| Ok((id("posting.account", &p.account)?, points("posting.amount", &p.amount)?)));
    let kind = match m.kind.ok_or(DecodeError::UnknownEvent)? {
        pb::transferred::Kind::Settlement(s) => {
            EntryKind::Settlement { attempt: attempt_from(s.attempt)?, queue: s.queue }
        }
        pb::transferred::Kind::Grant(g) => EntryKind::Grant { queue: g.queue, note: g.note },
    };
    let entry = LedgerEntry { id: m.id, postings: postings.collect::<Result<_, _>>()?, kind };
    if entry.sum() != Some(PicoPoints::ZERO) {
        return Err(bad("transferred.postings", "do not sum to zero"));
    }
    Ok(entry)
}
