//! The pipeline: queue → filter → score → plan → commit → dispatch.
//!
//! in → the fold, live nodes, the time · out → placements to commit, and why the others wait · invariant: everything
//! between the snapshot and the commit is `nightshift-placement`'s: pure.

use crate::nodes::Nodes;
use nightshift_placement::{Plan, Request, WaitingJob, WaitingTask, Weights, WhyNot, queue};
use nightshift_state::{Job, Placement, State, TaskState};
use nightshift_types::{JobId, Milliseconds, PicoPoints, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks looked at in one cycle; the next cycle follows at once if there are more.
pub const MAX_REQUESTS: usize = 4096;

/// What one cycle decided.
#[derive(Debug, Default)]
pub struct Decided {
    /// To be committed.
    pub placements: Vec<Placement>,
    /// Jobs of which at least one task was placed or refused, and the refusal if there was one.
    pub verdicts: BTreeMap<JobId, Option<WhyNot>>,
}

/// One cycle's decisions. Of a job that was `refused` before only one task is looked at: its tasks are alike, and a
/// batch that fits nowhere must not hide the jobs behind it.
pub fn decide(state: &State, nodes: &Nodes, now: Timestamp, lease: Milliseconds, refused: &BTreeSet<JobId>) -> Decided {
    let jobs: Vec<WaitingJob> = state
        .unfinished()
        .map(|job| waiting_job(job, now, if refused.contains(&job.id) { 1 } else { job.spec.parallelism as usize }))
        .collect();
    let mut requests = queue::next(&jobs, now, MAX_REQUESTS);
    within_their_means(state, now, &mut requests);
    if requests.is_empty() {
        return Decided::default();
    }
    let snapshot = nodes.snapshot(state, now, lease);
    let mut requests = one_per_hopeless_job(requests, &snapshot);
    nodes.estimates().prepare(&mut requests);
    let plan = nodes.pool().plan(snapshot, &requests, &Weights::default());
    nodes.estimates().promise(&plan, &requests);
    decided(plan)
}

/// No task is planned at a quote that its queue cannot pay. Several of one queue may be too much together: the core
/// declines those, and the next cycle knows what is left.
fn within_their_means(state: &State, now: Timestamp, requests: &mut [Request]) {
    let mut queues: BTreeMap<String, Option<PicoPoints>> = BTreeMap::new();
    for request in requests {
        let queue = &request.spec.queue;
        if !queues.contains_key(queue) {
            queues.insert(queue.clone(), state.spendable(queue, now));
        }
        let left = [request.budget_left, request.spec.max_cost, queues[queue]];
        request.budget_left = left.into_iter().flatten().min();
    }
}

/// Tasks of one job are alike: where no node can take the first, the others need no look. With no nodes at all a batch
/// of thousands costs one explanation a job.
fn one_per_hopeless_job(requests: Vec<Request>, snapshot: &nightshift_placement::Snapshot) -> Vec<Request> {
    let able = snapshot.nodes.iter().any(|node| node.ready && !node.unschedulable && node.unavailable.is_none());
    if able {
        return requests;
    }
    let mut seen = BTreeSet::new();
    requests.into_iter().filter(|request| seen.insert(request.task.job.clone())).collect()
}

fn decided(plan: Plan) -> Decided {
    let mut decided = Decided::default();
    for placed in plan.placements {
        decided.verdicts.entry(placed.task.job.clone()).or_insert(None);
        let (task, node, device) = (placed.task, placed.node, placed.device);
        decided.placements.push(Placement { task, node, device, memory: placed.memory, quote: placed.quote });
    }
    for (task, why) in plan.refused {
        decided.verdicts.entry(task.job).or_insert(None).get_or_insert(why);
    }
    decided
}

/// No more of its tasks than may start: a batch of thousands costs a cycle no more than one of tens.
fn waiting_job(job: &Job, now: Timestamp, most: usize) -> WaitingJob {
    let waiting = job.tasks.iter().enumerate().filter_map(|(index, task)| match task.state {
        TaskState::Waiting { not_before } if not_before <= now => {
            Some(WaitingTask { index: index as u32, not_before, avoid: task.avoid.clone() })
        }
        _ => None,
    });
    WaitingJob {
        id: job.id.clone(),
        spec: job.spec.clone(),
        submitted: job.admitted_at,
        running: job.running,
        committed: job.cost + job.reserved,
        waiting: waiting.take(most).collect(),
    }
}
