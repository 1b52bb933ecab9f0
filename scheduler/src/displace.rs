//! Tasks of lower priority that make way for one of higher priority.
//!
//! in → the fold, the pool as the plan left it, requests that found no place · out → attempts to stop, and why · invariant:
//! who may displace whom is `nightshift_placement::preempt`'s: pure. What is stopped waits again at once, uncounted.

use crate::nodes::Nodes;
use crate::nodes::load::{Group, Load};
use nightshift_placement::preempt::{Preemption, RunningTask, TAKES, preempt};
use nightshift_placement::queue::Tenant;
use nightshift_placement::{AdmittedReason, Plan, Request, Snapshot, Unavailable, WhyNot};
use nightshift_state::{Running, State, TaskState};
use nightshift_types::{AttemptId, Bytes, JobId, Milliseconds, NodeId, StopPolicy, TaskId, TenantQueue, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Requests that may displace in one cycle; the next cycle follows at once.
const MAX_CLAIMS: usize = 8;

/// Attempts that make way, and what their owners read.
pub struct Displaced {
    /// On one device.
    pub attempts: Vec<AttemptId>,
    /// In words.
    pub message: String,
}

/// A place that was made free, and for whom.
#[derive(Debug, Clone)]
struct Nomination {
    task: TaskId,
    node: NodeId,
    device: String,
    at: Timestamp,
}

/// Places that were made free within [`TAKES`]: until then those they were made for go first, and nothing more is stopped
/// for them. A machine may still hold the memory of what it stops, and refuse what comes in its place.
#[derive(Debug, Default)]
pub struct Nominations(BTreeMap<JobId, BTreeMap<u32, Nomination>>);

impl Nominations {
    /// Forgets those whose time is over, or that a clock which was set back made long.
    pub fn expire(&mut self, now: Timestamp) {
        for tasks in self.0.values_mut() {
            tasks.retain(|_, nomination| nomination.at <= now && now < nomination.at.after(TAKES));
        }
        self.0.retain(|_, tasks| !tasks.is_empty());
    }

    /// Tasks of a job that a place was made free for, by index.
    pub fn of(&self, job: &JobId) -> Vec<u32> {
        self.0.get(job).map_or_else(Vec::new, |tasks| tasks.keys().copied().collect())
    }

    fn add(&mut self, nomination: Nomination) {
        let tasks = self.0.entry(nomination.task.job.clone()).or_default();
        tasks.insert(nomination.task.index, nomination);
    }

    fn has(&self, task: &TaskId) -> bool {
        self.0.get(&task.job).is_some_and(|tasks| tasks.contains_key(&task.index))
    }

    fn all(&self) -> Vec<Nomination> {
        self.0.values().flat_map(BTreeMap::values).cloned().collect()
    }
}

/// Whether anything that runs could make way for any of these: seldom, and only then is more looked at.
pub fn possible(state: &State, requests: &[Request]) -> bool {
    let least = state.unfinished().filter(|job| job.running > 0).map(|job| job.spec.priority).min();
    least.is_some_and(|least| requests.iter().any(|request| request.spec.priority > least))
}

/// What to stop for those requests that the plan refused for want of capacity and that may take another's place; at most
/// one displacement a device, and none for a request that `nominations` has. `snapshot` is what the plan was made from.
pub fn for_refused(
    state: &State,
    nodes: &Nodes,
    tenants: &BTreeMap<String, Tenant>,
    (mut snapshot, plan): (Snapshot, &Plan),
    requests: &[Request],
    nominations: &mut Nominations,
) -> Vec<Displaced> {
    take(&mut snapshot, plan);
    let refused: HashMap<&TaskId, &WhyNot> = plan.refused.iter().map(|(task, why)| (task, why)).collect();
    let mut running = running(state, nodes);
    let least = running.iter().map(|task| task.priority).min().unwrap_or(i32::MAX);
    let freed = nominations.all();
    reserve(&mut snapshot, &freed, requests, &refused);
    let parked = unpark(&mut snapshot, &freed);
    running.retain(|task| !parked.contains(task.node));
    running.extend(freed.iter().map(|nomination| ending(nomination, snapshot.now)));
    let full = |task: &TaskId| {
        refused.get(task).is_some_and(|why| why.admitted_reason() == AdmittedReason::WaitingForCapacity)
    };
    let claims = requests.iter().filter(|request| request.gang <= 1 && request.spec.priority > least);
    let claims: Vec<&Request> =
        claims.filter(|request| full(&request.task) && !nominations.has(&request.task)).collect();
    let mut displaced = Vec::new();
    for request in claims.into_iter().take(MAX_CLAIMS) {
        // It was refused where something was being stopped: that says nothing of the node.
        let mut request = request.clone();
        request.avoid.retain(|node| freed.iter().all(|nomination| nomination.node != *node));
        let Preemption::Displace(choice) = preempt(&request, &snapshot, &running, tenants) else { continue };
        let victims: BTreeSet<_> = choice.victims.iter().collect();
        let attempts = state.running_on(&choice.node).filter(|running| victims.contains(&running.attempt.task));
        let priority = request.spec.priority;
        let message = format!("it makes way for {} of priority {priority}: {choice}", request.task);
        displaced.push(Displaced { attempts: attempts.map(|running| running.attempt.clone()).collect(), message });
        // The snapshot still shows what stood there.
        running.retain(|task| *task.node != choice.node || task.device != choice.device);
        for task in running.iter_mut().filter(|task| task.spare < u32::MAX) {
            let lost = victims.iter().filter(|victim| victim.job == task.task.job).count();
            task.spare = task.spare.saturating_sub(lost as u32);
        }
        let (node, device, at) = (choice.node, choice.device, snapshot.now);
        nominations.add(Nomination { task: request.task, node, device, at });
    }
    displaced
}

/// What was made free for one that is not there yet is not free for anybody else.
fn reserve(snapshot: &mut Snapshot, freed: &[Nomination], requests: &[Request], refused: &HashMap<&TaskId, &WhyNot>) {
    for nomination in freed.iter().filter(|nomination| refused.contains_key(&nomination.task)) {
        let Some(request) = requests.iter().find(|request| request.task == nomination.task) else { continue };
        let Ok(at) = snapshot.nodes.binary_search_by(|node| node.id.cmp(&nomination.node)) else { continue };
        let devices = &mut snapshot.nodes[at].devices;
        let Some(device) = devices.iter_mut().find(|device| device.name == nomination.device) else { continue };
        device.free = device.free.saturating_sub(request.spec.memory);
        device.running = device.running.saturating_add(1);
    }
}

/// A node that refused while it was being cleared will take what it has room for: what runs there stays, and nothing else is
/// stopped instead. Which nodes these are.
fn unpark(snapshot: &mut Snapshot, freed: &[Nomination]) -> HashSet<NodeId> {
    let mut parked = HashSet::new();
    for nomination in freed {
        let Ok(at) = snapshot.nodes.binary_search_by(|node| node.id.cmp(&nomination.node)) else { continue };
        let node = &mut snapshot.nodes[at];
        if node.unavailable == Some(Unavailable::Parked) {
            node.unavailable = None;
            parked.insert(node.id.clone());
        }
    }
    parked
}

/// What ends on a place that is made free; the book does not count it any more.
fn ending(nomination: &Nomination, now: Timestamp) -> RunningTask<'_> {
    RunningTask {
        task: nomination.task.clone(),
        queue: "",
        priority: i32::MAX,
        node: &nomination.node,
        device: &nomination.device,
        memory: Bytes(0),
        queued_ms: 0,
        placed_at: nomination.at,
        expected_end: Some(now),
        displaced: 0,
        owner: false,
        spare: 0,
    }
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

/// What runs, as a decision about it sees it. Of a model that several attempts of a device share, the end of one frees its
/// own part alone; those that run together with others share a slot too, end soon, and are no victims.
fn running<'s>(state: &'s State, nodes: &Nodes) -> Vec<RunningTask<'s>> {
    let known = nodes.estimates().known();
    let sharing = nodes.sharing();
    let mut loads: HashMap<(&NodeId, &str), Load> = HashMap::new();
    for running in state.running().filter(|running| sharing.contains(&(running.node.clone(), running.device.clone()))) {
        if let Some(job) = state.job(&running.attempt.task.job) {
            loads.entry((&running.node, &running.device)).or_default().add(&job.spec, running.memory);
        }
    }
    let look = |running: &'s Running| {
        let (task, node) = (&running.attempt.task, &running.node);
        let job = state.job(&task.job)?;
        let load = loads.get(&(node, running.device.as_str()));
        let group = load.map_or_else(Group::default, |load| load.group(&job.spec.model_digest));
        if group.count > 1 && group.together > 1 {
            return None;
        }
        let memory = if group.count > 1 { job.spec.per_item.min(running.memory) } else { running.memory };
        let queue = job.spec.queue.as_str();
        let taken = known.busy_ms(task, node).unwrap_or(job.spec.reference.0);
        Some(RunningTask {
            task: task.clone(),
            queue,
            priority: job.spec.priority,
            node,
            device: &running.device,
            memory,
            queued_ms: taken,
            placed_at: running.placed_at,
            expected_end: Some(running.placed_at.after(known.expected(task, node).unwrap_or(Milliseconds(taken)))),
            displaced: job.tasks.get(task.index as usize).map_or(0, |task| task.preempted),
            // The account that pays is the account that earns.
            owner: state.node(node).is_some_and(|node| node.owner == queue),
            spare: match job.spec.min_parallelism {
                0 | 1 => u32::MAX,
                together => job.running.saturating_sub(together),
            },
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
