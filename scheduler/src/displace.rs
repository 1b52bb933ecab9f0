//! Tasks of lower priority that make way for one of higher priority.
//!
//! in → the fold, the pool as the plan left it, requests that found no place · out → attempts to stop, and why · invariant:
//! who may displace whom is `nightshift_placement::preempt`'s: pure. What is stopped waits again at once, uncounted.

use crate::nodes::Nodes;
use nightshift_placement::preempt::{Preemption, RunningTask, preempt};
use nightshift_placement::queue::Tenant;
use nightshift_placement::{Plan, Request, Snapshot};
use nightshift_state::{Running, State, TaskState};
use nightshift_types::{AttemptId, Milliseconds, StopPolicy, TaskId, TenantQueue};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Requests that may displace in one cycle; the next cycle follows at once.
const MAX_CLAIMS: usize = 8;

/// Attempts that make way, and what their owners read.
pub struct Displaced {
    /// On one device.
    pub attempts: Vec<AttemptId>,
    /// In words.
    pub message: String,
}

/// Whether anything that runs could make way for any of these: seldom, and only then is more looked at.
pub fn possible(state: &State, requests: &[Request]) -> bool {
    let least = state.unfinished().filter(|job| job.running > 0).map(|job| job.spec.priority).min();
    least.is_some_and(|least| requests.iter().any(|request| request.spec.priority > least))
}

/// What to stop for those requests that the plan refused and that may take another's place; at most one displacement a
/// device. `snapshot` is what the plan was made from.
pub fn for_refused(
    state: &State,
    nodes: &Nodes,
    tenants: &BTreeMap<String, Tenant>,
    (mut snapshot, plan): (Snapshot, &Plan),
    requests: &[Request],
) -> Vec<Displaced> {
    take(&mut snapshot, plan);
    let refused: HashSet<&TaskId> = plan.refused.iter().map(|(task, _)| task).collect();
    let mut running = running(state, nodes);
    let least = running.iter().map(|task| task.priority).min().unwrap_or(i32::MAX);
    let claims = requests.iter().filter(|request| request.spec.priority > least && refused.contains(&request.task));
    let mut displaced = Vec::new();
    for request in claims.take(MAX_CLAIMS) {
        let Preemption::Displace(choice) = preempt(request, &snapshot, &running, tenants) else { continue };
        let victims: BTreeSet<_> = choice.victims.iter().collect();
        let attempts = state.running_on(&choice.node).filter(|running| victims.contains(&running.attempt.task));
        let priority = request.spec.priority;
        let message = format!("it makes way for {} of priority {priority}: {choice}", request.task);
        displaced.push(Displaced { attempts: attempts.map(|running| running.attempt.clone()).collect(), message });
        // The snapshot still shows what stood there.
        running.retain(|task| *task.node != choice.node || task.device != choice.device);
    }
    displaced
}

/// What the plan took is not free for anybody else.
fn take(snapshot: &mut Snapshot, plan: &Plan) {
    for placed in &plan.placements {
        let Ok(at) = snapshot.nodes.binary_search_by(|node| node.id.cmp(&placed.node)) else { continue };
        let devices = &mut snapshot.nodes[at].devices;
        let Some(device) = devices.iter_mut().find(|device| device.name == placed.device) else { continue };
        device.free = device.free.saturating_sub(placed.memory);
        device.running = device.running.saturating_add(1);
        device.queued_ms = device.queued_ms.saturating_add(placed.predicted.service.div_ceil(1_000_000));
    }
}

/// What runs, as a decision about it sees it.
fn running<'s>(state: &'s State, nodes: &Nodes) -> Vec<RunningTask<'s>> {
    let known = nodes.estimates().known();
    let look = |running: &'s Running| {
        let (task, node) = (&running.attempt.task, &running.node);
        let job = state.job(&task.job)?;
        let queue = job.spec.queue.as_str();
        let taken = known.busy_ms(task, node).unwrap_or(job.spec.reference.0);
        Some(RunningTask {
            task: task.clone(),
            queue,
            priority: job.spec.priority,
            node,
            device: &running.device,
            memory: running.memory,
            queued_ms: taken,
            placed_at: running.placed_at,
            expected_end: Some(running.placed_at.after(known.expected(task, node).unwrap_or(Milliseconds(taken)))),
            displaced: job.tasks.get(task.index as usize).map_or(0, |task| task.preempted),
            // The account that pays is the account that earns.
            owner: state.node(node).is_some_and(|node| node.owner == queue),
        })
    };
    state.running().filter_map(look).collect()
}

/// What runs for queues whose stop policy is HoldAndDrain.
pub fn drained(state: &State, queues: &BTreeMap<String, TenantQueue>) -> Vec<AttemptId> {
    let drains = |name: &str| queues.get(name).is_some_and(|queue| queue.stop == StopPolicy::HoldAndDrain);
    let jobs = state.unfinished().filter(|job| job.running > 0 && drains(&job.spec.queue));
    let running = jobs.flat_map(|job| job.tasks.iter()).filter_map(|task| match &task.state {
        TaskState::Running(running) => Some(running.attempt.clone()),
        _ => None,
    });
    running.collect()
}
