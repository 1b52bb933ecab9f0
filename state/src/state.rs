//! In: events. Out: what is true now, for readers. Invariant: equal histories give equal states; everything here is
//! ordered and derived from events alone.

use crate::event::{JobResult, OutputRef, Timings};
use crate::ledger::Ledger;
use nightshift_types::{
    AccountId, AttemptId, Bytes, CellId, Digest, Epoch, Evidence, FailureReason, JobId, JobSpec, Milliseconds, NodeId,
    PicoPoints, Reputation, TaskId, Timestamp, TokenId, TrustTier,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A task that loses this many nodes fails.
pub const POISON_LOSSES: u32 = 3;
/// Forgotten jobs remembered, so that a late admission does not run one again.
pub const MAX_FORGOTTEN: usize = 4096;
/// Nodes a task remembers to avoid.
pub const MAX_AVOID: usize = 3;

/// Everything the journal says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub(crate) journal: String,
    pub(crate) cell: Option<CellId>,
    pub(crate) format: u32,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) leader_since: Timestamp,
    pub(crate) time: Timestamp,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) tokens: BTreeMap<TokenId, Token>,
    pub(crate) models: BTreeMap<Digest, Milliseconds>,
    /// By admission number. Shared with a snapshot while it is written: a job that changes meanwhile is copied.
    pub(crate) jobs: BTreeMap<u64, Arc<Job>>,
    pub(crate) numbers: BTreeMap<JobId, u64>,
    /// Admission numbers of jobs without a result.
    pub(crate) unfinished: BTreeSet<u64>,
    pub(crate) admitted: u64,
    /// The same ids twice: by age, and to look up.
    pub(crate) forgotten: VecDeque<JobId>,
    pub(crate) forgotten_ids: BTreeSet<JobId>,
    /// (admission number, index) of every waiting task of an unfinished job.
    pub(crate) waiting: BTreeSet<(u64, u32)>,
    pub(crate) running: BTreeMap<NodeId, BTreeSet<(u64, u32)>>,
    pub(crate) ledger: Ledger,
    /// Events that did not fit; see [`State::check_invariants`].
    pub(crate) misfits: u64,
}

/// A machine that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Account name of its owner.
    pub owner: String,
    /// SHA-256 of its public key.
    pub key_hash: [u8; 32],
    /// As its token said; the operator's ComputeNode may say otherwise since.
    pub tier: TrustTier,
    /// When.
    pub joined_at: Timestamp,
    /// May no longer speak, and gets nothing.
    pub revoked: bool,
    /// Paid for its results so far.
    pub earned: PicoPoints,
    /// Accepted results.
    pub succeeded: u64,
    /// Failed attempts, of every reason but that they were cancelled.
    pub failed: u64,
    /// What its reputation is of: see [`Node::reputation`].
    pub evidence: Evidence,
}

impl Node {
    /// How far its work has earned trust. Good is an accepted result, bad an attempt that failed by the node's own fault
    /// ([`nightshift_types::Fault::Node`]: lost nodes too); other failures count for nothing, and so does all work of a queue
    /// that has the owner's name. Results are **accepted, not verified**: until replicas compare them, a node that answers
    /// wrongly and in time has a good name.
    pub fn reputation(&self) -> Reputation {
        self.evidence.reputation()
    }
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of its secret half.
    pub secret_hash: [u8; 32],
    /// Not accepted from this time on.
    pub expires: Timestamp,
    /// Owner of the node that joins with it.
    pub owner: String,
    /// Tier of the node that joins with it.
    pub tier: TrustTier,
    /// Key and node, once spent.
    pub spent: Option<([u8; 32], NodeId)>,
}

/// An admitted job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Rises with every admission: the stable order of jobs.
    pub number: u64,
    /// What it asks for, as of the last update.
    pub spec: Arc<JobSpec>,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// First placement since it was last resumed, if it ever was: `status.startTime`.
    pub started_at: Option<Timestamp>,
    /// First placement since it was last suspended: `activeDeadlineSeconds` counts from here.
    pub active_since: Option<Timestamp>,
    /// Since when nothing of it runs though it may, back-off apart: `pendingDeadlineSeconds` counts from here.
    pub pending_since: Option<Timestamp>,
    /// One per input, by index.
    pub tasks: Vec<Task>,
    /// Tasks running.
    pub running: u32,
    /// Tasks succeeded.
    pub succeeded: u32,
    /// Tasks failed for good.
    pub failed: u32,
    /// Failed attempts that count against `backoffLimit`.
    pub failures: u32,
    /// Charged so far.
    pub cost: PicoPoints,
    /// Quotes of its running tasks.
    pub reserved: PicoPoints,
    /// How and when it ended.
    pub result: Option<(JobResult, Timestamp)>,
}

impl Job {
    /// The id of its `index`-th task.
    pub fn task_id(&self, index: u32) -> TaskId {
        TaskId { job: self.id.clone(), index }
    }
    /// Tasks waiting for a node.
    pub fn waiting(&self) -> u32 {
        if self.result.is_some() { 0 } else { self.tasks.len() as u32 - self.running - self.succeeded - self.failed }
    }
    /// Its running tasks, by index.
    pub fn running_tasks(&self) -> impl Iterator<Item = &Running> {
        self.tasks.iter().filter_map(|task| match &task.state {
            TaskState::Running(running) => Some(running),
            _ => None,
        })
    }
}

/// One input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Task {
    /// Where it stands.
    pub state: TaskState,
    /// Attempts so far; the number of the newest.
    pub attempts: u32,
    /// Attempts that failed and count; the back-off's exponent.
    pub failures: u32,
    /// Attempts that we stopped: the job was suspended, or another task needed their place.
    pub cancelled: u32,
    /// Those of them that made way for a task of higher priority.
    pub preempted: u32,
    /// Nodes it lost.
    pub losses: u32,
    /// Nodes of its last failures, newest last, at most [`MAX_AVOID`]: preferably elsewhere.
    pub avoid: Vec<NodeId>,
    /// The newest failure; of cancelled attempts nothing is kept.
    pub last_failure: Option<Failure>,
    pub(crate) settlements: u32,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// For a node.
    Waiting {
        /// Not placed earlier: back-off.
        not_before: Timestamp,
    },
    /// On a node.
    Running(Running),
    /// Its result is accepted and settled.
    Succeeded(Success),
    /// No attempt will succeed; the job fails with it, at once or, with `backoffLimitPerIndex`, when the others are done.
    Failed {
        /// Why.
        reason: FailureReason,
        /// In words.
        message: String,
    },
    /// The job ended first. Nothing is charged.
    Stopped,
}

impl Default for TaskState {
    fn default() -> Self {
        Self::Waiting { not_before: Timestamp(0) }
    }
}

/// A running attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub attempt: AttemptId,
    /// Where.
    pub node: NodeId,
    /// Device of that node.
    pub device: String,
    /// Reserved on that device.
    pub memory: Bytes,
    /// Reserved against the queue; charged on success.
    pub quote: PicoPoints,
    /// The queue's own balance pays; else the mint does.
    pub drawn: bool,
    /// When it was placed.
    pub placed_at: Timestamp,
}

/// An accepted result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    /// The attempt that counts.
    pub attempt: AttemptId,
    /// Where it ran.
    pub node: NodeId,
    /// The result.
    pub output: OutputRef,
    /// What was charged: the attempt's quote.
    pub cost: PicoPoints,
    /// The agent's claim of where the time went.
    pub timings: Timings,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When the result was accepted.
    pub finished_at: Timestamp,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub attempt: AttemptId,
    /// Where.
    pub node: NodeId,
    /// Why.
    pub reason: FailureReason,
    /// In words.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// A task that waits for a node.
#[derive(Debug, Clone, Copy)]
pub struct WaitingTask<'a> {
    /// Its job.
    pub job: &'a Job,
    /// Its index.
    pub index: u32,
    /// Itself.
    pub task: &'a Task,
    /// Not placed earlier.
    pub not_before: Timestamp,
}

impl State {
    /// The journal's id; empty before its first event.
    pub fn journal(&self) -> &str {
        &self.journal
    }
    /// The journal's cell; none before its first event.
    pub fn cell(&self) -> Option<&CellId> {
        self.cell.as_ref()
    }
    /// The highest format that events may have: every scheduler that may lead reads it. 0 before the first event.
    pub fn format(&self) -> u32 {
        self.format
    }
    /// The newest leader's epoch.
    pub fn epoch(&self) -> Option<&Epoch> {
        self.epoch.as_ref()
    }
    /// When the newest leader started: no lease ends before this and one whole lease.
    pub fn leader_since(&self) -> Timestamp {
        self.leader_since
    }
    /// Time of the last event.
    pub fn time(&self) -> Timestamp {
        self.time
    }
    /// Every machine that ever joined, by id.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }
    /// One machine.
    pub fn node(&self, node: &NodeId) -> Option<&Node> {
        self.nodes.get(node)
    }
    /// Every known token, by id.
    pub fn tokens(&self) -> &BTreeMap<TokenId, Token> {
        &self.tokens
    }
    /// One token.
    pub fn token(&self, token: &TokenId) -> Option<&Token> {
        self.tokens.get(token)
    }
    /// Reference time of a model whose proving run ended well.
    pub fn proved(&self, digest: &Digest) -> Option<Milliseconds> {
        self.models.get(digest).copied()
    }
    /// Every job in memory, in order of admission.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|job| &**job)
    }
    /// Every job without a result, in order of admission.
    pub fn unfinished(&self) -> impl Iterator<Item = &Job> {
        self.unfinished.iter().filter_map(|number| self.jobs.get(number)).map(|job| &**job)
    }
    /// Number of jobs without a result.
    pub fn unfinished_count(&self) -> usize {
        self.unfinished.len()
    }
    /// One job.
    pub fn job(&self, job: &JobId) -> Option<&Job> {
        self.jobs.get(self.numbers.get(job)?).map(|job| &**job)
    }
    /// One task.
    pub fn task(&self, task: &TaskId) -> Option<&Task> {
        self.job(&task.job)?.tasks.get(task.index as usize)
    }
    /// Whether this job was known once and its custom resource is gone; remembers the last [`MAX_FORGOTTEN`].
    pub fn forgotten(&self, job: &JobId) -> bool {
        self.forgotten_ids.contains(job)
    }
    /// Every waiting task, by admission of its job, then index: suspended jobs and back-off included.
    pub fn waiting(&self) -> impl Iterator<Item = WaitingTask<'_>> {
        self.waiting.iter().filter_map(|(number, index)| {
            let job = self.jobs.get(number)?;
            let task = job.tasks.get(*index as usize)?;
            match task.state {
                TaskState::Waiting { not_before } => Some(WaitingTask { job, index: *index, task, not_before }),
                _ => None,
            }
        })
    }
    /// Number of waiting tasks.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }
    /// Attempts running on a node, by admission of their job, then index.
    pub fn running_on<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = &'a Running> + use<'a> {
        self.running.get(node).into_iter().flatten().filter_map(|key| self.running_at(key))
    }
    /// Every running attempt, by node.
    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.values().flatten().filter_map(|key| self.running_at(key))
    }
    /// The attempt, if it is its task's current one and runs.
    pub fn current(&self, attempt: &AttemptId) -> Option<&Running> {
        match &self.task(&attempt.task)?.state {
            TaskState::Running(running) if running.attempt == *attempt => Some(running),
            _ => None,
        }
    }
    /// Whether this attempt was paid. A forgotten job's were, but are not remembered here: see the ledger's history.
    pub fn settled(&self, attempt: &AttemptId) -> bool {
        let task = self.task(&attempt.task);
        task.is_some_and(|task| matches!(&task.state, TaskState::Succeeded(success) if success.attempt == *attempt))
    }
    /// Accounts and queues.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    /// What an account holds.
    pub fn balance(&self, account: &AccountId) -> PicoPoints {
        self.ledger.balance(account)
    }

    pub(crate) fn running_at(&self, (number, index): &(u64, u32)) -> Option<&Running> {
        match &self.jobs.get(number)?.tasks.get(*index as usize)?.state {
            TaskState::Running(running) => Some(running),
            _ => None,
        }
    }
}
