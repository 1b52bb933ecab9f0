//! Jobs and queues; a test changes what it is about.

use crate::common::plain_spec;
use nightshift_placement::queue::{Order, Queue, QueuedJob, Tenant};
use nightshift_placement::{WaitingJob, WaitingTask};
use nightshift_types::{JobId, JobSpec, Milliseconds, PicoPoints, TenantQueue, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

pub type Tenants = BTreeMap<String, Tenant>;

/// A job submitted at 0 with `waiting` ready tasks of one second; a thousand may run.
pub fn job(id: &str, queue: &str, waiting: u32) -> QueuedJob {
    let spec = JobSpec { queue: queue.into(), reference: Milliseconds(1_000), parallelism: 1_000, ..plain_spec() };
    QueuedJob {
        job: WaitingJob {
            id: JobId::new(id).unwrap(),
            spec: Arc::new(spec),
            submitted: Timestamp(0),
            running: 0,
            committed: PicoPoints::ZERO,
            waiting: (0..waiting).map(task).collect(),
        },
        unfinished: waiting,
        active_since: None,
        pending_since: None,
        refusal: None,
        nominated: Vec::new(),
    }
}

pub fn task(index: u32) -> WaitingTask {
    WaitingTask { index, not_before: Timestamp(0), avoid: Vec::new() }
}

/// The same job with another intent.
pub fn with(mut queued: QueuedJob, change: impl FnOnce(&mut JobSpec)) -> QueuedJob {
    change(Arc::make_mut(&mut queued.job.spec));
    queued
}

pub fn at(mut queued: QueuedJob, submitted: u64) -> QueuedJob {
    queued.job.submitted = Timestamp(submitted);
    queued
}

pub fn tenants<const N: usize>(queues: [(&str, TenantQueue); N]) -> Tenants {
    queues.map(|(name, queue)| (name.to_owned(), Tenant { queue, ..Tenant::default() })).into()
}

pub fn weight(weight: u32) -> TenantQueue {
    TenantQueue { weight, ..TenantQueue::default() }
}

/// An order that keeps its promises.
pub fn next(queue: &mut Queue, tenants: &Tenants, jobs: &[QueuedJob], now: u64, limit: usize) -> Order {
    let order = queue.next(tenants, jobs, Timestamp(now), limit);
    if let Err(broken) = order.check_invariants(tenants, jobs, Timestamp(now), limit) {
        panic!("{broken}\n{order:#?}");
    }
    order
}

pub fn text(order: &Order) -> String {
    order.requests.iter().map(|request| request.task.to_string()).collect::<Vec<_>>().join(" ")
}

/// The order of a queue that nothing was placed for before.
pub fn first(tenants: &Tenants, jobs: &[QueuedJob], now: u64, limit: usize) -> String {
    text(&next(&mut Queue::default(), tenants, jobs, now, limit))
}

/// Why a job is held.
pub fn why(order: &Order, id: &str) -> String {
    let held = order.held.iter().find(|(job, _)| job.as_str() == id);
    held.map_or_else(String::new, |(_, held)| format!("{}: {held}", held.as_str()))
}
