//! What the queue is told of a job and of its tasks.

use nightshift_types::{JobId, JobSpec, NodeId, PicoPoints, Timestamp};
use std::sync::Arc;

/// One admitted job that is not finished; one with nothing waiting still counts for its queue's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// The job.
    pub id: JobId,
    /// Its intent.
    pub spec: Arc<JobSpec>,
    /// When it was admitted.
    pub submitted: Timestamp,
    /// Its tasks that hold a device now.
    pub running: u32,
    /// Quotes placed or settled so far.
    pub committed: PicoPoints,
    /// Its tasks that wait, by rising index.
    pub waiting: Vec<WaitingTask>,
}

/// One task that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingTask {
    /// Completion index.
    pub index: u32,
    /// Back-off after a failure: not placed earlier.
    pub not_before: Timestamp,
    /// Nodes where it was lost or refused.
    pub avoid: Vec<NodeId>,
}

/// One admitted job that is not finished, with what its turn depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// The job. Of its waiting tasks as many as `parallelism` are enough, if those are ready.
    pub job: WaitingJob,
    /// Its tasks that run or wait, back-off included. If fewer than `job` shows, what `job` shows counts.
    pub unfinished: u32,
    /// Since when `activeDeadlineSeconds` counts, if it does.
    pub active_since: Option<Timestamp>,
    /// Since when `pendingDeadlineSeconds` counts, if it does.
    pub pending_since: Option<Timestamp>,
    /// Set while its last look found no node.
    pub refusal: Option<Refusal>,
    /// Those of its tasks that a place was made free for lately, by index: they go first, whatever was said before.
    pub nominated: Vec<u32>,
}

/// How often in a row, and when, no node took a job's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Looks since its last placement that found none.
    pub count: u32,
    /// The last of them.
    pub at: Timestamp,
    /// What could help has changed since: for a refusal for want of capacity, anything that was freed, and a node that
    /// became available; for any refusal,
    /// a node that joined, or changed its ask, labels, taints or trust. Looked at again at once.
    pub changed: bool,
    /// It was for want of capacity: waiting helps. Of any other nothing is kept for the job meanwhile.
    pub capacity: bool,
}
