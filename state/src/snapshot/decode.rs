//! In: a snapshot's chunks, in order. Out: the state, with its indices built anew. Invariant: a chunk that is not the one the
//! manifest names, a field that holds what it may not, and a state of another digest are errors.

use super::Manifest;
use crate::convert::{
    DecodeError, bad, body_from, budget_from, entry_from, hash, id, pb, points, result_from, timings_from,
};
use crate::event::OutputRef;
use crate::ledger::{Posted, QueueBook};
use crate::spec::spec_from;
use crate::state::{Failure, Job, Node, Running, State, Success, Task, TaskState, Token};
use nightshift_types::{
    AttemptId, Bytes, CellId, Digest, Epoch, Evidence, JobId, Milliseconds, NodeId, TaskId, Timestamp, Usage,
};
use pb::item::Kind;
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A state that is being read.
pub(crate) struct Thaw<'a> {
    manifest: &'a Manifest,
    chunks: usize,
    state: State,
    /// The last job, while its tasks are read.
    job: Option<Job>,
    /// Names stand at many tasks and are kept once.
    nodes: HashMap<String, NodeId>,
}

impl<'a> Thaw<'a> {
    pub(super) fn new(manifest: &'a Manifest) -> Self {
        Self { manifest, chunks: 0, state: State::default(), job: None, nodes: HashMap::new() }
    }

    /// The next chunk.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let wanted = self.manifest.chunks.get(self.chunks);
        if wanted != Some(&Sha256::digest(bytes).into()) {
            return Err(bad("snapshot.chunk", format!("chunk {} is not the one its manifest names", self.chunks)));
        }
        self.chunks += 1;
        let chunk = pb::Chunk::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        chunk.items.into_iter().try_for_each(|item| self.item(item.kind.ok_or(DecodeError::UnknownEvent)?))
    }

    /// The state, once every chunk was read.
    pub fn finish(mut self) -> Result<State, DecodeError> {
        if self.chunks != self.manifest.chunks.len() {
            return Err(bad("snapshot", format!("{} chunks of {}", self.chunks, self.manifest.chunks.len())));
        }
        self.end_job()?;
        let Self { manifest, mut state, .. } = self;
        index(&mut state);
        if state.journal != manifest.journal || state.cell.as_ref() != Some(&manifest.cell) {
            return Err(bad("snapshot", "is another journal's"));
        }
        if state.digest() != manifest.digest {
            let what = "the state in it is not the one its manifest names; a scheduler of another version wrote it?";
            return Err(bad("snapshot.digest", what));
        }
        Ok(state)
    }

    fn item(&mut self, kind: Kind) -> Result<(), DecodeError> {
        let ledger = &mut self.state.ledger;
        match kind {
            Kind::Meta(m) => meta(&mut self.state, m)?,
            Kind::Node(m) => self.node(m)?,
            Kind::Token(m) => self.token(m)?,
            Kind::Model(m) => {
                let digest = Digest(hash("model.digest", &m.digest)?);
                self.state.models.insert(digest, Milliseconds(m.reference_ms));
            }
            Kind::Job(m) => {
                self.end_job()?;
                self.job = Some(job(m)?);
            }
            Kind::Tasks(m) => self.tasks(m)?,
            Kind::Forgotten(m) => self.state.forgotten.push_back(id("forgotten.job", &m.job)?),
            Kind::Account(m) => {
                let amount = points("account.amount", &m.amount)?;
                ledger.balances.insert(id("account", &m.account)?, amount);
            }
            Kind::Book(m) => drop(ledger.queues.insert(m.queue.clone(), book(m)?)),
            Kind::Granted(m) => {
                let amount = points("granted.amount", &m.amount)?;
                ledger.newest_grants.entry(m.queue).or_default().push_back((m.id, amount));
            }
            Kind::Posted(m) => ledger.recent.push_back(Arc::new(posted(m)?)),
        }
        Ok(())
    }

    fn node(&mut self, m: pb::KnownNode) -> Result<(), DecodeError> {
        let joined = m.joined.ok_or_else(|| bad("node.joined", "missing"))?;
        let node = Node {
            owner: joined.owner,
            key_hash: hash("node.key_hash", &joined.key_hash)?,
            tier: id("node.tier", &joined.tier)?,
            joined_at: Timestamp(m.joined_ms),
            revoked: m.revoked,
            earned: points("node.earned", &m.earned)?,
            succeeded: m.succeeded,
            failed: m.failed,
            evidence: Evidence::from_millionths(m.good, m.bad),
        };
        let name = self.name("node", &joined.node)?;
        self.state.nodes.insert(name, node);
        Ok(())
    }

    fn token(&mut self, m: pb::KnownToken) -> Result<(), DecodeError> {
        let created = m.created.ok_or_else(|| bad("token.created", "missing"))?;
        let spent = m.spent.map(|spent| -> Result<_, DecodeError> {
            Ok((hash("token.key_hash", &spent.key_hash)?, self.name("token.node", &spent.node)?))
        });
        let token = Token {
            secret_hash: hash("token.secret_hash", &created.secret_hash)?,
            expires: Timestamp(created.expires_ms),
            owner: created.owner,
            tier: id("token.tier", &created.tier)?,
            spent: spent.transpose()?,
        };
        self.state.tokens.insert(id("token.id", &created.id)?, token);
        Ok(())
    }

    fn name(&mut self, field: &'static str, text: &str) -> Result<NodeId, DecodeError> {
        if let Some(known) = self.nodes.get(text) {
            return Ok(known.clone());
        }
        let name: NodeId = id(field, text)?;
        self.nodes.insert(text.to_owned(), name.clone());
        Ok(name)
    }

    fn end_job(&mut self) -> Result<(), DecodeError> {
        let Some(job) = self.job.take() else { return Ok(()) };
        if job.tasks.len() != job.spec.inputs.len() {
            let what = format!("job {} has {} tasks and {} inputs", job.id, job.tasks.len(), job.spec.inputs.len());
            return Err(bad("snapshot.tasks", what));
        }
        self.state.jobs.insert(job.number, Arc::new(job));
        Ok(())
    }

    fn tasks(&mut self, m: pb::Tasks) -> Result<(), DecodeError> {
        let job = self.job.take().filter(|job| job.number == m.job);
        let mut job = job.ok_or_else(|| bad("tasks.job", "is not the job before"))?;
        let cell = self.state.cell.clone().ok_or_else(|| bad("meta", "must come first"))?;
        for task in m.tasks {
            let index = job.tasks.len() as u32;
            let task = self.task(&cell, &job.id, index, task)?;
            job.tasks.push(task);
        }
        self.job = Some(job);
        Ok(())
    }

    fn task(&mut self, cell: &CellId, job: &JobId, index: u32, m: pb::KnownTask) -> Result<Task, DecodeError> {
        let attempt = |number| AttemptId { cell: cell.clone(), task: TaskId { job: job.clone(), index }, number };
        let last_failure = match m.last_failure {
            None => None,
            Some(failure) => Some(Failure {
                attempt: attempt(failure.number),
                node: self.name("last_failure.node", &failure.node)?,
                reason: id("last_failure.reason", &failure.reason)?,
                message: failure.message,
                at: Timestamp(failure.at_ms),
            }),
        };
        use pb::known_task::State as S;
        let state = match m.state {
            None => TaskState::default(),
            Some(S::WaitingMs(not_before)) => TaskState::Waiting { not_before: Timestamp(not_before) },
            Some(S::Running(r)) => TaskState::Running(Running {
                attempt: attempt(m.attempts),
                node: self.name("running.node", &r.node)?,
                device: r.device,
                memory: Bytes(r.memory),
                quote: points("running.quote", &r.quote)?,
                drawn: r.drawn,
                placed_at: Timestamp(r.placed_ms),
            }),
            Some(S::Succeeded(s)) => {
                let result = s.result.ok_or_else(|| bad("task.result", "missing"))?;
                TaskState::Succeeded(Success {
                    attempt: attempt(s.number),
                    node: self.name("task.node", &s.node)?,
                    output: OutputRef { body: body_from(result.output)?, content_type: result.content_type },
                    cost: points("task.cost", &s.cost)?,
                    timings: timings_from(result.timings.unwrap_or_default()),
                    placed_at: Timestamp(s.placed_ms),
                    finished_at: Timestamp(s.finished_ms),
                })
            }
            Some(S::Failed(f)) => TaskState::Failed { reason: id("task.reason", &f.reason)?, message: f.message },
            Some(S::Stopped(_)) => TaskState::Stopped,
        };
        Ok(Task {
            state,
            attempts: m.attempts,
            failures: m.failures,
            cancelled: m.cancelled,
            preempted: m.preempted,
            losses: m.losses,
            avoid: m.avoid.iter().map(|node| self.name("task.avoid", node)).collect::<Result<_, _>>()?,
            last_failure,
            settlements: m.settlements,
        })
    }
}

fn meta(state: &mut State, m: pb::Meta) -> Result<(), DecodeError> {
    state.journal = m.journal;
    state.cell = Some(id("meta.cell", &m.cell)?);
    state.format = m.format;
    state.epoch = m.epoch.map(|epoch| Epoch { journal: epoch.journal, revision: epoch.revision });
    state.leader_since = Timestamp(m.leader_since_ms);
    state.time = Timestamp(m.time_ms);
    state.admitted = m.admitted;
    state.misfits = m.misfits;
    state.ledger.entries = m.entries;
    state.ledger.grants = m.grants;
    Ok(())
}

fn job(m: pb::KnownJob) -> Result<Job, DecodeError> {
    let admitted = m.admitted.ok_or_else(|| bad("job.admitted", "missing"))?;
    let spec = spec_from(admitted.spec.ok_or_else(|| bad("job.spec", "missing"))?)?;
    let finished = m.finished.map(|finished| result_from(finished.result)).transpose()?;
    Ok(Job {
        id: id("job.id", &admitted.job)?,
        number: m.number,
        tasks: Vec::with_capacity(spec.inputs.len()),
        spec: Arc::new(spec),
        admitted_at: Timestamp(m.admitted_ms),
        started_at: m.started_ms.map(Timestamp),
        active_since: m.active_ms.map(Timestamp),
        pending_since: m.pending_ms.map(Timestamp),
        running: m.running,
        succeeded: m.succeeded,
        failed: m.failed,
        failures: m.failures,
        cost: points("job.cost", &m.cost)?,
        reserved: points("job.reserved", &m.reserved)?,
        result: finished.map(|result| (result, Timestamp(m.finished_ms))),
    })
}

fn book(m: pb::Book) -> Result<QueueBook, DecodeError> {
    let mut periods = [Default::default(); 3];
    if m.periods.len() != periods.len() {
        return Err(bad("book.periods", format!("{}, must be {}", m.periods.len(), periods.len())));
    }
    for (period, known) in periods.iter_mut().zip(&m.periods) {
        *period = (Timestamp(known.start_ms), points("book.period.spent", &known.spent)?);
    }
    Ok(QueueBook {
        spent: points("book.spent", &m.spent)?,
        reserved: points("book.reserved", &m.reserved)?,
        drawn: points("book.drawn", &m.drawn)?,
        budget: m.budget.map(budget_from).transpose()?,
        usage: Usage::from_parts(m.usage, Timestamp(m.usage_ms)),
        periods,
    })
}

pub(crate) fn posted(m: pb::Posted) -> Result<Posted, DecodeError> {
    let entry = entry_from(m.entry.ok_or_else(|| bad("posted.entry", "missing"))?)?;
    Ok(Posted { at: Timestamp(m.at_ms), entry, job: m.job })
}

/// Everything that the jobs say of themselves.
fn index(state: &mut State) {
    let mut running: BTreeMap<NodeId, BTreeSet<(u64, u32)>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for (number, job) in &state.jobs {
        for (index, task) in job.tasks.iter().enumerate() {
            match &task.state {
                TaskState::Waiting { .. } => waiting.push((*number, index as u32)),
                TaskState::Running(r) => {
                    running.entry(r.node.clone()).or_default().insert((*number, index as u32));
                }
                _ => {}
            }
        }
    }
    state.numbers = state.jobs.values().map(|job| (job.id.clone(), job.number)).collect();
    state.unfinished = state.jobs.values().filter(|job| job.result.is_none()).map(|job| job.number).collect();
    state.forgotten_ids = state.forgotten.iter().cloned().collect();
    state.waiting = waiting.into_iter().collect();
    state.running = running;
}
