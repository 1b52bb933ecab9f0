//! In: decisions. Out: what the journal keeps. Invariant: an event states a result, so that the fold never recomputes,
//! reads a clock or fails; its time is its batch's.

use crate::ledger::{EntryKind, LedgerEntry};
use nightshift_types::{
    AttemptId, Budget, Bytes, CellId, Digest, Epoch, FailureReason, JobId, JobSpec, Milliseconds, NodeId, NodeSelector,
    Objective, PicoPoints, Reputation, Timestamp, TokenId, Toleration, TrustTier,
};
use std::sync::Arc;

/// The highest format of batches that this version reads and writes. A batch is of the lowest that has all its events
/// ([`Event::format`]), so that a pool that uses nothing new can go back to the version before. Events of format 3 and
/// later are written only once the journal's format was raised to theirs ([`crate::State::format`]): by being made with it,
/// or by [`Event::FormatRaised`].
pub const FORMAT: u32 = 3;
/// The highest that was written without being raised first, before there was a [`Event::FormatRaised`].
pub const FORMAT_UNRAISED: u32 = 2;
/// Longest output kept in the journal itself; a longer one is a blob. Bytes.
pub const MAX_INLINE_OUTPUT: usize = 4096;
/// Longest message kept of a failure; decisions shorten. Bytes.
pub const MAX_MESSAGE: usize = 1024;
/// Longest name kept of a device, a content type, a namespace, a queue. Bytes.
pub const MAX_NAME: usize = 253;
/// Longest encoded JobSpec. Bytes.
pub const MAX_SPEC: usize = 768 << 10;

/// One fact. The order inside a batch is the order of the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// First event of every journal.
    JournalCreated {
        /// Minted with it; part of the epoch.
        journal: String,
        /// Part of every attempt id.
        cell: CellId,
        /// [`FORMAT`] of the writer.
        format: u32,
    },
    /// A new leader: every running attempt is granted one whole lease from this event's time.
    LeaderStarted {
        /// Its epoch.
        epoch: Epoch,
    },
    /// A join token was made.
    TokenCreated {
        /// Its public half.
        id: TokenId,
        /// SHA-256 of its secret half.
        secret_hash: [u8; 32],
        /// Not accepted from this time on.
        expires: Timestamp,
        /// Account name of who will own the node.
        owner: String,
        /// Tier of the node that joins with it.
        tier: TrustTier,
    },
    /// A join token was spent: written before the certificate leaves.
    TokenSpent {
        /// Which.
        id: TokenId,
        /// SHA-256 of the public key that joined; the same key may ask again and gets the same node.
        key_hash: [u8; 32],
        /// The node it became.
        node: NodeId,
    },
    /// A token is no longer needed: withdrawn, or long expired.
    TokenForgotten {
        /// Which.
        id: TokenId,
    },
    /// A machine joined.
    NodeJoined {
        /// Its id.
        node: NodeId,
        /// Account name of its owner.
        owner: String,
        /// SHA-256 of its public key.
        key_hash: [u8; 32],
        /// As its token said.
        tier: TrustTier,
    },
    /// A machine may no longer speak.
    NodeRevoked {
        /// Which.
        node: NodeId,
    },
    /// A model's proving run ended well.
    ModelProved {
        /// The file.
        digest: Digest,
        /// Time one item takes on the reference machine.
        reference: Milliseconds,
    },
    /// A job is known; its tasks wait.
    JobAdmitted {
        /// Its custom resource's uid.
        job: JobId,
        /// What it asks for.
        spec: Arc<JobSpec>,
    },
    /// The mutable part of the custom resource changed.
    JobUpdated {
        /// Which.
        job: JobId,
        /// The new values, all of them.
        update: JobUpdate,
    },
    /// A task runs: any earlier attempt of it is superseded.
    TaskPlaced {
        /// Its number is the task's count of attempts, this one included.
        attempt: AttemptId,
        /// Where.
        node: NodeId,
        /// Device of that node.
        device: String,
        /// Reserved on that device.
        memory: Bytes,
        /// Reserved against the queue; charged on success.
        quote: PicoPoints,
        /// The queue's own balance pays; else the mint does.
        drawn: bool,
    },
    /// A running attempt's result was accepted. Its settlement is the next event.
    TaskSucceeded {
        /// Which.
        attempt: AttemptId,
        /// The result.
        output: OutputRef,
        /// The agent's claim of where the time went.
        timings: Timings,
    },
    /// A running attempt ended without a result.
    AttemptFailed {
        /// Which.
        attempt: AttemptId,
        /// Why.
        reason: FailureReason,
        /// In words, at most [`MAX_MESSAGE`] bytes.
        message: String,
        /// The task waits again, not placed before this time; `None`: the task has failed.
        requeue: Option<Timestamp>,
    },
    /// A job ended: what still waited or ran of it is stopped.
    JobFinished {
        /// Which.
        job: JobId,
        /// How.
        result: JobResult,
    },
    /// A finished job's custom resource is gone: it leaves memory. Its ledger entries stay.
    JobForgotten {
        /// Which.
        job: JobId,
    },
    /// Points moved.
    Transferred {
        /// From where to where, and why.
        entry: LedgerEntry,
    },
    /// What a TenantQueue may spend changed.
    QueueSet {
        /// Which.
        queue: String,
        /// In a period; `None`: all that its account holds.
        budget: Option<Budget>,
    },
    /// Every scheduler that may lead reads this format: events of it may follow.
    FormatRaised {
        /// Never lowered.
        format: u32,
    },
    /// The last event of a batch: the state after it is snapshotted.
    SnapshotBegun,
    /// That state is in a snapshot, which names the same digest. A fold with another digest at that batch may not lead.
    SnapshotTaken {
        /// Of the batch that ends with [`Event::SnapshotBegun`].
        sequence: u64,
        /// [`crate::State::digest`] after it.
        digest: [u8; 32],
        /// SHA-256 of the snapshot's manifest.
        manifest: [u8; 32],
    },
}

impl Event {
    /// Whether this event belongs to the one before it: never in another batch, unless a decision starts with it.
    pub fn follows(&self) -> bool {
        matches!(self, Self::Transferred { .. } | Self::JobFinished { .. } | Self::NodeJoined { .. })
    }

    /// The first format that has it. How a job's model may share (`batching`, `per_item`) needs none: who drops that runs the
    /// same tasks one by one, and books them in full.
    pub fn format(&self) -> u32 {
        let newer = match self {
            Self::FormatRaised { .. } | Self::SnapshotBegun | Self::SnapshotTaken { .. } => return 3,
            Self::QueueSet { .. } => true,
            Self::TaskPlaced { drawn, .. } => *drawn,
            Self::JobAdmitted { spec, .. } => newer_terms(spec.priority, spec.min_parallelism, spec.min_reputation),
            Self::JobUpdated { update, .. } => update
                .terms
                .as_ref()
                .is_some_and(|terms| newer_terms(terms.priority, terms.min_parallelism, terms.min_reputation)),
            Self::AttemptFailed { reason, .. } => *reason == FailureReason::Preempted,
            Self::Transferred { entry } => matches!(entry.kind, EntryKind::Grant { .. }),
            _ => false,
        };
        if newer { 2 } else { 1 }
    }
}

/// Whether a job's terms say what a reader of format 1 would drop unseen.
fn newer_terms(priority: i32, min_parallelism: u32, min_reputation: Option<Reputation>) -> bool {
    priority != 0 || min_parallelism != 0 || min_reputation.is_some()
}

/// What of a job may change after admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUpdate {
    /// Custom resource generation these values come from.
    pub generation: i64,
    /// True: nothing is placed, and what runs is stopped and waits again.
    pub suspend: bool,
    /// Tasks running at once; lowering it stops nothing.
    pub parallelism: u32,
    /// Counted failures that the job survives.
    pub backoff_limit: u32,
    /// Failed tasks that the job survives until the others are done.
    pub max_failed_indexes: Option<u32>,
    /// From the first placement.
    pub active_deadline: Option<Milliseconds>,
    /// Longest wait with nothing running.
    pub pending_deadline: Option<Milliseconds>,
    /// Where it may run from now on, and who pays; `None`: as before. What runs goes on where it is.
    pub terms: Option<JobTerms>,
}

/// The terms of a job: fields of [`JobSpec`] by the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct JobTerms {
    pub objective: Objective,
    pub max_latency: Option<Milliseconds>,
    pub max_price_per_hour: Option<PicoPoints>,
    pub max_cost: Option<PicoPoints>,
    pub memory: Bytes,
    pub node_selector: NodeSelector,
    pub tolerations: Vec<Toleration>,
    pub min_trust_tier: TrustTier,
    pub min_reputation: Option<Reputation>,
    pub regions: Vec<String>,
    pub queue: String,
    pub priority: i32,
    pub min_parallelism: u32,
}

impl From<&JobSpec> for JobTerms {
    fn from(spec: &JobSpec) -> Self {
        Self {
            objective: spec.objective,
            max_latency: spec.max_latency,
            max_price_per_hour: spec.max_price_per_hour,
            max_cost: spec.max_cost,
            memory: spec.memory,
            node_selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
            min_trust_tier: spec.min_trust_tier,
            min_reputation: spec.min_reputation,
            regions: spec.regions.clone(),
            queue: spec.queue.clone(),
            priority: spec.priority,
            min_parallelism: spec.min_parallelism,
        }
    }
}

impl From<&JobSpec> for JobUpdate {
    fn from(spec: &JobSpec) -> Self {
        Self {
            generation: spec.generation,
            suspend: spec.suspend,
            parallelism: spec.parallelism,
            backoff_limit: spec.backoff_limit,
            max_failed_indexes: spec.max_failed_indexes,
            active_deadline: spec.active_deadline,
            pending_deadline: spec.pending_deadline,
            terms: Some(spec.into()),
        }
    }
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRef {
    /// The bytes, or where they are.
    pub body: OutputBody,
    /// MIME type, at most [`MAX_NAME`] bytes.
    pub content_type: String,
}

/// Bytes of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputBody {
    /// At most [`MAX_INLINE_OUTPUT`] bytes.
    Inline(Vec<u8>),
    /// In the blob store.
    Blob {
        /// What they hash to.
        digest: Digest,
        /// How many.
        size: Bytes,
    },
}

/// Where an attempt's time went, in microseconds; the agent's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Fetching model and input.
    pub fetch_us: u64,
    /// Loading the model.
    pub load_us: u64,
    /// Waiting for the device.
    pub queue_us: u64,
    /// Running the model.
    pub compute_us: u64,
    /// Decoding and encoding.
    pub codec_us: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// Every task succeeded.
    Complete,
    /// It cannot succeed any more.
    Failed {
        /// CamelCase word: a [`FailureReason`], or one of [`job_reason`].
        reason: String,
        /// In words.
        message: String,
    },
    /// Somebody stopped it, or its custom resource is gone.
    Cancelled {
        /// In words.
        message: String,
    },
}

/// Reasons of failed jobs that are no [`FailureReason`].
pub mod job_reason {
    /// More counted failures than `backoffLimit`.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// Every task ended, and with `backoffLimitPerIndex` some failed.
    pub const FAILED_INDEXES: &str = "FailedIndexes";
    /// More failed tasks than `maxFailedIndexes`.
    pub const MAX_FAILED_INDEXES_EXCEEDED: &str = "MaxFailedIndexesExceeded";
    /// A task took [`crate::POISON_LOSSES`] nodes with it.
    pub const POISON_TASK: &str = "PoisonTask";
    /// `activeDeadlineSeconds` passed.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// `pendingDeadlineSeconds` passed with nothing running.
    pub const PENDING_DEADLINE_EXCEEDED: &str = "PendingDeadlineExceeded";
    /// The custom resource was admitted by a journal that this one does not continue.
    pub const JOURNAL_LOST: &str = "JournalLost";
}
