//! In: what somebody wants. Out: types only; [`crate::decide()`] answers. Invariant: a command carries all that the
//! decision needs beside the state and the time: no randomness, no I/O.

use crate::event::{JobUpdate, OutputRef, Timings};
use nightshift_types::{
    AttemptId, Budget, Bytes, Digest, FailureReason, IdError, JobId, JobSpec, Milliseconds, NodeId, PicoPoints, TaskId,
    Timestamp, TokenId, TrustTier,
};
use std::sync::Arc;
use thiserror::Error;

/// What somebody wants of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Admit a job. Again with the same spec: nothing happens. A job without inputs is Complete at once.
    AdmitJob {
        /// Its custom resource's uid.
        job: JobId,
        /// What it asks for.
        spec: Arc<JobSpec>,
    },
    /// Take over the mutable part of a changed custom resource. Again: nothing happens. `suspend` stops what runs,
    /// uncounted. Of a finished job: nothing happens.
    UpdateJob {
        /// Which.
        job: JobId,
        /// The new values, all of them.
        update: JobUpdate,
    },
    /// Stop a job. Of a finished or unknown job: nothing happens.
    CancelJob {
        /// Which.
        job: JobId,
        /// Why, in words.
        message: String,
    },
    /// Fail a job for a reason found outside, such as its model's proving run. Of a finished job: nothing happens.
    FailJob {
        /// Which.
        job: JobId,
        /// CamelCase word: a [`FailureReason`] or a [`crate::event::job_reason`].
        reason: String,
        /// In words.
        message: String,
    },
    /// The custom resource is gone: stop the job if it runs, and drop it. Of an unknown job: nothing happens.
    ForgetJob {
        /// Which.
        job: JobId,
    },
    /// Place tasks. Each is checked on its own, against those before it: see [`Decision::declined`].
    Place(Vec<Placement>),
    /// An agent's outcome. Of any but the running attempt: acknowledged and dropped.
    Report {
        /// Who says so; proved by its certificate.
        node: NodeId,
        /// Which attempt ended.
        attempt: AttemptId,
        /// How.
        outcome: Outcome,
        /// Where the time went.
        timings: Timings,
    },
    /// An agent refused an assignment: its books have no room. Not counted, no back-off.
    Refuse {
        /// Who says so.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// In words, with the free bytes.
        message: String,
    },
    /// A node's lease ran out, or it came back without some attempts: they wait again, at once, uncounted.
    LoseAttempts {
        /// Which node.
        node: NodeId,
        /// Those alone; `None`: all that run there.
        attempts: Option<Vec<AttemptId>>,
        /// In words.
        message: String,
    },
    /// Make a join token.
    CreateToken {
        /// Its public half.
        id: TokenId,
        /// SHA-256 of its secret half.
        secret_hash: [u8; 32],
        /// Not accepted from this time on.
        expires: Timestamp,
        /// Account name of who will own the node.
        owner: String,
        /// Tier of the node.
        tier: TrustTier,
    },
    /// Withdraw a token. Of an unknown one: nothing happens.
    ForgetToken {
        /// Which.
        id: TokenId,
    },
    /// Spend a join token. Again with the same key: the same node.
    SpendToken {
        /// Which.
        id: TokenId,
        /// SHA-256 of the secret half that was shown.
        secret_hash: [u8; 32],
        /// SHA-256 of the public key that joins.
        key_hash: [u8; 32],
        /// The node it will be, if it is new.
        node: NodeId,
    },
    /// Join a node without a token: the operator's own, beside the scheduler. Again with the same key: nothing happens.
    JoinNode {
        /// Its id.
        node: NodeId,
        /// Account name of its owner.
        owner: String,
        /// SHA-256 of its public key.
        key_hash: [u8; 32],
        /// How far it is trusted.
        tier: TrustTier,
    },
    /// Revoke a node: what runs there is lost. Again: nothing happens.
    RevokeNode {
        /// Which.
        node: NodeId,
    },
    /// Remember a proving run. Again with the same time: nothing happens.
    ProveModel {
        /// The file.
        digest: Digest,
        /// Time one item takes on the reference machine.
        reference: Milliseconds,
    },
    /// What a TenantQueue may spend in a period. Again: nothing happens.
    SetQueue {
        /// Which.
        queue: String,
        /// `None`: all that its account holds.
        budget: Option<Budget>,
    },
    /// Bring points in: from the mint to a queue's account. Again with the same id and amount: nothing happens.
    Grant {
        /// Its name among the queue's, which whoever asks makes up; a queue's last [`crate::ledger::MAX_GRANTS`] are
        /// remembered.
        id: String,
        /// Which queue; not the default one, which draws on the mint itself.
        queue: String,
        /// More than nothing.
        amount: PicoPoints,
        /// What it is for, in words.
        note: String,
    },
    /// Stop running attempts for others' sake: they wait again at once, uncounted. Of any but running ones: nothing
    /// happens.
    Preempt {
        /// Which.
        attempts: Vec<AttemptId>,
        /// In words.
        message: String,
    },
    /// Stop running attempts because nothing of their queue may run: they wait again at once, uncounted, and it is not
    /// held to them as a preemption is.
    Drain {
        /// Which.
        attempts: Vec<AttemptId>,
        /// In words.
        message: String,
    },
    /// Fail jobs whose deadlines passed, forget tokens that expired a day ago. For a timer.
    ExpireDeadlines,
}

/// A task on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Which task.
    pub task: TaskId,
    /// Where.
    pub node: NodeId,
    /// Device of that node.
    pub device: String,
    /// Reserved on that device.
    pub memory: Bytes,
    /// What it will cost.
    pub quote: PicoPoints,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Success(OutputRef),
    /// Without one.
    Failure {
        /// Why.
        reason: FailureReason,
        /// In words.
        message: String,
    },
}

/// What a command leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To be journaled, in this order. May be empty.
    pub events: Vec<crate::event::Event>,
    /// To be done once they are durable.
    pub effects: Vec<Effect>,
    /// Placements that were not accepted, and why: the race between plan and commit was lost.
    pub declined: Vec<(Placement, Rejection)>,
}

/// Something to do once a decision is durable, never before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the assignment to the agent.
    Dispatch {
        /// The new attempt.
        attempt: AttemptId,
        /// The agent.
        node: NodeId,
        /// Device of that node.
        device: String,
        /// Reserved on that device.
        memory: Bytes,
    },
    /// Tell the agent that it may forget the outcome: it is committed, or of no use.
    Acknowledge {
        /// The agent.
        node: NodeId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Tell the agent to stop an attempt.
    Cancel {
        /// The agent.
        node: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// `Cancelled`, or `Preempted`.
        reason: FailureReason,
        /// In words.
        message: String,
    },
    /// A result was accepted: publish it.
    Succeeded {
        /// The attempt; its output stands in the state.
        attempt: AttemptId,
    },
    /// A job's status changed.
    JobChanged {
        /// Which.
        job: JobId,
    },
    /// A token was spent, now or before, by this key: its node is this.
    Joined {
        /// The token.
        token: TokenId,
        /// The node.
        node: NodeId,
    },
    /// A node may no longer speak: end its session.
    Revoked {
        /// Which.
        node: NodeId,
    },
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The journal has no first event yet.
    #[error("the journal is not started")]
    NotStarted,
    /// No such job.
    #[error("job {0} is not known")]
    UnknownJob(JobId),
    /// The job was known and its custom resource went.
    #[error("job {0} was forgotten after its custom resource was deleted; it is not run again")]
    Forgotten(JobId),
    /// Admitted already, with another spec.
    #[error("job {0} is admitted with another spec; update it instead")]
    AlreadyAdmitted(JobId),
    /// Older than what is known.
    #[error("generation {given} of job {job} is older than {known}")]
    StaleGeneration {
        /// The job.
        job: JobId,
        /// Of the command.
        given: i64,
        /// Of the state.
        known: i64,
    },
    /// The job ended.
    #[error("job {0} is finished")]
    JobFinished(JobId),
    /// The job is suspended.
    #[error("job {0} is suspended")]
    Suspended(JobId),
    /// No such task.
    #[error("task {0} does not exist")]
    UnknownTask(TaskId),
    /// Running or ended.
    #[error("task {0} is not waiting")]
    NotWaiting(TaskId),
    /// In back-off.
    #[error("task {task} waits until {} ms", not_before.0)]
    BackOff {
        /// The task.
        task: TaskId,
        /// Until then.
        not_before: Timestamp,
    },
    /// As many tasks run as may.
    #[error("job {job} runs {limit} tasks already, its parallelism")]
    OverParallelism {
        /// The job.
        job: JobId,
        /// Its parallelism.
        limit: u32,
    },
    /// Fewer of its tasks than must start together would run.
    #[error("job {job} starts with {need} tasks together, its minParallelism, and {together} had a place")]
    GangIncomplete {
        /// The job.
        job: JobId,
        /// Tasks that would run.
        together: u32,
        /// Tasks that must.
        need: u32,
    },
    /// The quotes would exceed the job's bill.
    #[error("job {job} has {committed} of its maxCost {limit} charged or reserved; {quote} more is too much")]
    OverMaxCost {
        /// The job.
        job: JobId,
        /// Its maxCost.
        limit: PicoPoints,
        /// Charged and reserved so far.
        committed: PicoPoints,
        /// Asked for now.
        quote: PicoPoints,
    },
    /// More than its queue may spend.
    #[error(
        "queue {queue} has {left} points left to spend, a task would cost {quote}: bring points in with \
         `nightshift points grant {queue} AMOUNT`, raise spec.budget of the TenantQueue, or wait for its next period"
    )]
    BudgetExhausted {
        /// The queue.
        queue: String,
        /// Of budget and balance, the lesser, less what is reserved.
        left: PicoPoints,
        /// Asked for now.
        quote: PicoPoints,
    },
    /// No such node.
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    /// Revoked.
    #[error("node {0} is revoked")]
    NodeRevoked(NodeId),
    /// Another key has this node id.
    #[error("node {0} exists with another key")]
    NodeTaken(NodeId),
    /// The attempt runs on another node.
    #[error("attempt {attempt} does not run on node {node}")]
    NotItsNode {
        /// The attempt.
        attempt: AttemptId,
        /// Who asked.
        node: NodeId,
    },
    /// Unknown token or wrong secret: the same answer for both.
    #[error("the join token is not valid; make a new one with `nightshift token create`")]
    BadToken,
    /// Too late.
    #[error("the join token has expired; make a new one with `nightshift token create`")]
    TokenExpired,
    /// By another key.
    #[error("the join token is spent; make a new one with `nightshift token create`")]
    TokenSpent,
    /// This token id exists.
    #[error("token {0} exists")]
    TokenTaken(TokenId),
    /// A value that cannot be journaled.
    #[error("{field}: {what}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl From<IdError> for Rejection {
    fn from(error: IdError) -> Self {
        Self::Invalid { field: "id", what: error.to_string() }
    }
}
