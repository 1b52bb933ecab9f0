//! In: the jobs that run or wait → out: the next tasks, as requests in the order they are placed in.
//! Invariant: pure; no tenant starves; a job never has more than `parallelism` tasks at once.
//!
//! The order, version 1:
//!
//! 1. Queues take turns, one task each; the queue with fewest running tasks begins, then the one that waits longest.
//! 2. Inside a queue its jobs take turns in the same way: fewest running tasks, then first come, then by id.
//! 3. Inside a job the lowest index is first. A task before its `not_before` is passed over.
//!
//! So a batch of thousands delays another tenant's single task by one task, not by thousands, and a task that fits
//! nowhere costs its own queue one turn.

use crate::estimate::ModelEstimate;
use crate::view::Request;
use nightshift_types::{JobId, JobSpec, NodeId, PicoPoints, TaskId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
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

/// At most `limit` tasks that may be placed at `now`, in order.
pub fn next(jobs: &[WaitingJob], now: Timestamp, limit: usize) -> Vec<Request> {
    let mut queues: BTreeMap<&str, Vec<&WaitingJob>> = BTreeMap::new();
    for job in jobs {
        queues.entry(&job.spec.queue).or_default().push(job);
    }
    let mut turns: Vec<_> = queues.into_values().map(|jobs| Turn::of_queue(jobs, now, limit)).collect();
    turns.sort_by_key(|turn| (turn.running, turn.since));
    take_turns(turns, limit).into_iter().map(|(job, task)| request(job, task)).collect()
}

/// One of those that take turns.
struct Turn<'a> {
    running: u64,
    since: Timestamp,
    tasks: VecDeque<(&'a WaitingJob, &'a WaitingTask)>,
}

impl<'a> Turn<'a> {
    fn of_queue(mut jobs: Vec<&'a WaitingJob>, now: Timestamp, limit: usize) -> Self {
        jobs.sort_by_key(|job| (job.running, job.submitted, &job.id));
        let running = jobs.iter().map(|job| u64::from(job.running)).sum();
        let turns: Vec<_> = jobs.into_iter().map(|job| Self::of_job(job, now, limit)).collect();
        let since = turns.iter().filter(|turn| !turn.tasks.is_empty()).map(|turn| turn.since).min();
        Self { running, since: since.unwrap_or_default(), tasks: take_turns(turns, limit).into() }
    }

    fn of_job(job: &'a WaitingJob, now: Timestamp, limit: usize) -> Self {
        let room = if job.spec.suspend { 0 } else { job.spec.parallelism.saturating_sub(job.running) as usize };
        let ready = job.waiting.iter().filter(|task| task.not_before <= now);
        let tasks = ready.take(room.min(limit)).map(|task| (job, task)).collect();
        Self { running: u64::from(job.running), since: job.submitted, tasks }
    }
}

/// One from each in their order, again and again.
fn take_turns<'a>(mut turns: Vec<Turn<'a>>, limit: usize) -> Vec<(&'a WaitingJob, &'a WaitingTask)> {
    let mut order = Vec::new();
    while order.len() < limit && !turns.is_empty() {
        for turn in &mut turns {
            order.extend(turn.tasks.pop_front());
        }
        turns.retain(|turn| !turn.tasks.is_empty());
    }
    order.truncate(limit);
    order
}

fn request(job: &WaitingJob, task: &WaitingTask) -> Request {
    Request {
        task: TaskId { job: job.id.clone(), index: task.index },
        spec: Arc::clone(&job.spec),
        avoid: task.avoid.clone(),
        budget_left: job.spec.max_cost.map(|limit| limit - job.committed),
        gang: 0,
        overdue: false,
        estimate: ModelEstimate::default(),
    }
}
