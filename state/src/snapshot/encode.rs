//! In: a state. Out: its chunks. Invariant: the same state gives the same chunks.

use super::CHUNK;
use crate::batch::EVENT_OVERHEAD;
use crate::convert::{body_to, budget_to, entry_to, pb, points_to, result_to, timings_to};
use crate::ledger::{Ledger, Posted, QueueBook};
use crate::spec::spec_to;
use crate::state::{Job, Node, State, Task, TaskState, Token};
use nightshift_types::{NodeId, Timestamp, TokenId};
use pb::item::Kind;
use prost::Message;

/// Tasks in one item.
const TASKS: usize = 500;

/// Items gathered up to a chunk.
struct Gather<'a, E> {
    items: Vec<pb::Item>,
    bytes: usize,
    each: &'a mut dyn FnMut(Vec<u8>) -> Result<(), E>,
}

impl<E> Gather<'_, E> {
    fn add(&mut self, kind: Kind) -> Result<(), E> {
        let item = pb::Item { kind: Some(kind) };
        let bytes = item.encoded_len() + EVENT_OVERHEAD;
        if self.bytes + bytes > CHUNK {
            self.flush()?;
        }
        self.bytes += bytes;
        self.items.push(item);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), E> {
        self.bytes = 0;
        let items = std::mem::take(&mut self.items);
        if items.is_empty() { Ok(()) } else { (self.each)(pb::Chunk { items }.encode_to_vec()) }
    }
}

pub(super) fn chunks<E>(state: &State, each: &mut dyn FnMut(Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let mut gather = Gather { items: Vec::new(), bytes: 0, each };
    gather.add(Kind::Meta(meta(state)))?;
    for (id, known) in &state.nodes {
        gather.add(Kind::Node(node(id, known)))?;
    }
    for (id, known) in &state.tokens {
        gather.add(Kind::Token(token(id, known)))?;
    }
    for (digest, reference) in &state.models {
        gather.add(Kind::Model(pb::ModelProved { digest: digest.0.to_vec(), reference_ms: reference.0 }))?;
    }
    for known in state.jobs.values() {
        gather.add(Kind::Job(job(known)))?;
        for tasks in known.tasks.chunks(TASKS) {
            let tasks = tasks.iter().map(task).collect();
            gather.add(Kind::Tasks(pb::Tasks { job: known.number, tasks }))?;
        }
    }
    for id in &state.forgotten {
        gather.add(Kind::Forgotten(pb::JobForgotten { job: id.to_string() }))?;
    }
    ledger(&state.ledger, &mut gather)?;
    gather.flush()
}

fn ledger<E>(ledger: &Ledger, gather: &mut Gather<'_, E>) -> Result<(), E> {
    for (account, amount) in &ledger.balances {
        gather.add(Kind::Account(pb::Posting { account: account.to_string(), amount: points_to(*amount) }))?;
    }
    for (queue, known) in &ledger.queues {
        gather.add(Kind::Book(book(queue, known)))?;
    }
    for (queue, grants) in &ledger.newest_grants {
        for (id, amount) in grants {
            let (queue, id) = (queue.clone(), id.clone());
            gather.add(Kind::Granted(pb::Granted { queue, id, amount: points_to(*amount) }))?;
        }
    }
    for known in &ledger.recent {
        gather.add(Kind::Posted(posted(known)))?;
    }
    Ok(())
}

fn meta(state: &State) -> pb::Meta {
    let epoch = state.epoch.as_ref();
    pb::Meta {
        journal: state.journal.clone(),
        cell: state.cell.as_ref().map(ToString::to_string).unwrap_or_default(),
        epoch: epoch.map(|epoch| pb::LeaderStarted { journal: epoch.journal.clone(), revision: epoch.revision }),
        leader_since_ms: state.leader_since.0,
        time_ms: state.time.0,
        admitted: state.admitted,
        misfits: state.misfits,
        format: state.format,
        entries: state.ledger.entries,
        grants: state.ledger.grants,
    }
}

fn node(id: &NodeId, node: &Node) -> pb::KnownNode {
    let (good, bad) = node.evidence.millionths();
    pb::KnownNode {
        joined: Some(pb::NodeJoined {
            node: id.to_string(),
            owner: node.owner.clone(),
            key_hash: node.key_hash.to_vec(),
            tier: node.tier.to_string(),
        }),
        joined_ms: node.joined_at.0,
        revoked: node.revoked,
        earned: points_to(node.earned),
        succeeded: node.succeeded,
        failed: node.failed,
        good,
        bad,
    }
}

fn token(id: &TokenId, token: &Token) -> pb::KnownToken {
    pb::KnownToken {
        created: Some(pb::TokenCreated {
            id: id.to_string(),
            secret_hash: token.secret_hash.to_vec(),
            expires_ms: token.expires.0,
            owner: token.owner.clone(),
            tier: token.tier.to_string(),
        }),
        spent: token.spent.as_ref().map(|(key, node)| pb::TokenSpent {
            id: String::new(),
            key_hash: key.to_vec(),
            node: node.to_string(),
        }),
    }
}

fn job(job: &Job) -> pb::KnownJob {
    let millis = |time: Option<Timestamp>| time.map(|time| time.0);
    let finished = job.result.as_ref();
    pb::KnownJob {
        number: job.number,
        admitted: Some(pb::JobAdmitted { job: job.id.to_string(), spec: Some(spec_to(&job.spec)) }),
        admitted_ms: job.admitted_at.0,
        started_ms: millis(job.started_at),
        active_ms: millis(job.active_since),
        pending_ms: millis(job.pending_since),
        running: job.running,
        succeeded: job.succeeded,
        failed: job.failed,
        failures: job.failures,
        cost: points_to(job.cost),
        reserved: points_to(job.reserved),
        finished: finished.map(|(result, _)| pb::JobFinished { job: String::new(), result: Some(result_to(result)) }),
        finished_ms: finished.map_or(0, |(_, at)| at.0),
    }
}

fn task(task: &Task) -> pb::KnownTask {
    use pb::known_task::State as S;
    let state = match &task.state {
        TaskState::Waiting { not_before } => (not_before.0 > 0).then_some(S::WaitingMs(not_before.0)),
        TaskState::Running(r) => Some(S::Running(pb::RunningTask {
            node: r.node.to_string(),
            device: r.device.clone(),
            memory: r.memory.0,
            quote: points_to(r.quote),
            drawn: r.drawn,
            placed_ms: r.placed_at.0,
        })),
        TaskState::Succeeded(s) => Some(S::Succeeded(pb::TaskDone {
            number: s.attempt.number,
            node: s.node.to_string(),
            result: Some(pb::TaskSucceeded {
                attempt: None,
                output: Some(body_to(&s.output.body)),
                content_type: s.output.content_type.clone(),
                timings: Some(timings_to(&s.timings)),
            }),
            cost: points_to(s.cost),
            placed_ms: s.placed_at.0,
            finished_ms: s.finished_at.0,
        })),
        TaskState::Failed { reason, message } => {
            Some(S::Failed(pb::TaskFailed { reason: reason.to_string(), message: message.clone() }))
        }
        TaskState::Stopped => Some(S::Stopped(pb::known_task::Stopped {})),
    };
    pb::KnownTask {
        attempts: task.attempts,
        failures: task.failures,
        cancelled: task.cancelled,
        preempted: task.preempted,
        losses: task.losses,
        avoid: task.avoid.iter().map(ToString::to_string).collect(),
        last_failure: task.last_failure.as_ref().map(|failure| pb::LastFailure {
            number: failure.attempt.number,
            node: failure.node.to_string(),
            reason: failure.reason.to_string(),
            message: failure.message.clone(),
            at_ms: failure.at.0,
        }),
        settlements: task.settlements,
        state,
    }
}

fn book(queue: &str, book: &QueueBook) -> pb::Book {
    let (usage, usage_at) = book.usage.parts();
    pb::Book {
        queue: queue.to_owned(),
        spent: points_to(book.spent),
        reserved: points_to(book.reserved),
        drawn: points_to(book.drawn),
        budget: book.budget.map(budget_to),
        usage,
        usage_ms: usage_at.0,
        periods: book
            .periods
            .iter()
            .map(|(start, spent)| pb::Period { start_ms: start.0, spent: points_to(*spent) })
            .collect(),
    }
}

pub(crate) fn posted(posted: &Posted) -> pb::Posted {
    pb::Posted { at_ms: posted.at.0, entry: Some(entry_to(&posted.entry)), job: posted.job.clone() }
}
