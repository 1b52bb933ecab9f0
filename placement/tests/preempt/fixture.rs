//! A node with one device, tasks on it, and a request; a test changes what it is about.

use crate::common::plain_spec;
use nightshift_placement::preempt::{Displacement, Preemption, RunningTask, preempt};
use nightshift_placement::queue::{Queue, QueuedJob, Tenant};
use nightshift_placement::{DeviceView, NodeView, Request, Snapshot, WaitingJob, WaitingTask};
use nightshift_types::{Bytes, JobId, JobSpec, Milliseconds, NodeId, PicoPoints, TaskId, TenantQueue, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NOW: Timestamp = Timestamp(1_000_000);

pub type Tenants = BTreeMap<String, Tenant>;

pub fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn task_id(job: &str) -> TaskId {
    TaskId { job: JobId::new(job).unwrap(), index: 0 }
}

/// A request of a job of queue `q`, made as the scheduler makes it: by the queue.
pub fn request(job: &str, queue: &str, priority: i32, gibi: u64) -> Request {
    let spec = JobSpec {
        queue: queue.into(),
        priority,
        memory: Bytes::gibi(gibi),
        reference: Milliseconds(1_000),
        ..plain_spec()
    };
    let task = WaitingTask { index: 0, not_before: Timestamp(0), avoid: Vec::new() };
    let job = WaitingJob {
        id: JobId::new(job).unwrap(),
        spec: Arc::new(spec),
        submitted: NOW,
        running: 0,
        committed: PicoPoints::ZERO,
        waiting: vec![task],
    };
    let (refusal, nominated) = (None, Vec::new());
    let queued = QueuedJob { job, unfinished: 1, active_since: None, pending_since: None, refusal, nominated };
    Queue::default().next(&BTreeMap::new(), &[queued], NOW, 1).requests.remove(0)
}

/// A task that ran for a minute and whose end nobody knows.
pub fn running<'a>(job: &str, queue: &'a str, priority: i32, node: &'a NodeId, gibi: u64) -> RunningTask<'a> {
    RunningTask {
        task: task_id(job),
        queue,
        priority,
        node,
        device: "gpu0",
        memory: Bytes::gibi(gibi),
        queued_ms: 0,
        placed_at: Timestamp(NOW.0 - 60_000),
        expected_end: None,
        displaced: 0,
        owner: false,
        spare: u32::MAX,
    }
}

/// A node whose device of so many Gi and slots holds the tasks that are there.
pub fn node(id: &NodeId, gibi: u64, slots: u32, tasks: &[RunningTask<'_>]) -> NodeView {
    let here = || tasks.iter().filter(|task| task.node == id);
    let device = DeviceView {
        name: "gpu0".into(),
        total: Bytes::gibi(gibi),
        free: Bytes::gibi(gibi).saturating_sub(here().map(|task| task.memory).sum()),
        running: here().count() as u32,
        slots,
        queued_ms: here().map(|task| task.queued_ms).sum(),
        ..DeviceView::default()
    };
    NodeView { devices: vec![device], ..NodeView::new(id.clone()) }
}

pub fn tenant(weight: u32, usage: u64) -> Tenant {
    Tenant { queue: TenantQueue { weight, ..TenantQueue::default() }, usage, running: 1, ..Tenant::default() }
}

/// What is displaced, if its promises hold.
pub fn displaced(
    request: &Request,
    nodes: Vec<NodeView>,
    running: &[RunningTask<'_>],
    tenants: &Tenants,
) -> Option<Displacement> {
    let snapshot = Snapshot::new(nodes, NOW);
    match preempt(request, &snapshot, running, tenants) {
        Preemption::Displace(displacement) => {
            displacement.check_invariants(request, &snapshot, running, tenants).unwrap();
            Some(displacement)
        }
        Preemption::Wait { .. } | Preemption::Nothing => None,
    }
}
