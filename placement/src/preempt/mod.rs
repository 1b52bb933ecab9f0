//! In: a refused request, the pool and what runs on it → out: the least harmful tasks on one device after whose end the
//! request fits ([`Displacement`]), or why nothing is displaced ([`Preemption`]).
//! Invariant: pure; a victim's priority is below the preemptor's; nothing is displaced where waiting is as good.
//!
//! Preemption is kube-scheduler's: victims of lower priority on one node, as few and as unimportant as will do. Between
//! queues it is Kueue's `reclaimWithinCohort: LowerPriority`: only a queue below its fair share displaces, and only
//! tasks of a queue above its own, never of a better tier. It takes:
//!
//! * a lower priority. Waiting too long is no ground: [`Request::overdue`] keeps capacity, it displaces nothing;
//! * tasks that ran for [`MIN_RUN`] at least, so that each start does some work (Slurm's `PreemptExemptTime`), and
//!   whose end is not near: most inference is short, and ending a task takes time too ([`TAKES`]);
//! * never the owner's own work, and no task that was displaced [`MOST_DISPLACEMENTS`] times;
//! * no gang as preemptor: one member's place does not let it start; and none as victim, but for its tasks beyond those that
//!   must run together: the end of one of those would waste what all others do.
//!
//! **No loops.** Every displacement goes from a higher to a strictly lower priority, so along any chain of
//! displacements priorities fall, and a displaced task never displaces its displacer, nor that one's. Each counts on
//! its victim, at most [`MOST_DISPLACEMENTS`] times: t tasks see at most t × [`MOST_DISPLACEMENTS`] displacements in
//! all, whatever comes and goes.
//!
//! **Least harm**, in this order: the highest priority among the victims, how many they are, how long they ran, then
//! the node's id and the device's position. Only what the request lacks is freed: nothing on a device that it fits.
//! Exact, unless one device has so many tasks that the search for the least time lost would take more than [`STEPS`]
//! steps; then the best found so far.

mod cover;

pub use cover::STEPS;

use crate::filter::{Ask, Reason, failures};
use crate::queue::Tenant;
use crate::view::{DeviceView, NodeView, Request, Snapshot};
use cover::{Need, Weight};
use nightshift_types::{Bytes, JobId, Milliseconds, NodeId, TaskId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use thiserror::Error;

/// A task runs so long before it may be displaced.
pub const MIN_RUN: Milliseconds = Milliseconds(10_000);
/// From the decision to displace until the place is free: the agent stops the task and says so, and the next plan uses
/// it. What ends by itself that soon is waited for.
pub const TAKES: Milliseconds = Milliseconds(5_000);
/// A task displaced so often is not displaced again.
pub const MOST_DISPLACEMENTS: u32 = 3;

/// A task that holds a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTask<'a> {
    /// The task.
    pub task: TaskId,
    /// Its job's queue.
    pub queue: &'a str,
    /// Its job's priority.
    pub priority: i32,
    /// Where it runs.
    pub node: &'a NodeId,
    /// Name of the device.
    pub device: &'a str,
    /// Memory it holds there.
    pub memory: Bytes,
    /// Its part of [`DeviceView::queued_ms`].
    pub queued_ms: u64,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it should end, if that is known; of one that is being stopped: now.
    pub expected_end: Option<Timestamp>,
    /// How often this task was displaced before.
    pub displaced: u32,
    /// The node's owner is its tenant.
    pub owner: bool,
    /// Running tasks of its job beyond those that must run together (`minParallelism`); of a job without such: the most.
    pub spare: u32,
}

impl RunningTask<'_> {
    /// Whether it should be gone as soon as if it were displaced. A prediction that has long passed counts no more.
    fn ends_soon(&self, now: Timestamp) -> bool {
        self.expected_end.is_some_and(|end| end <= now.after(TAKES) && now <= end.after(TAKES))
    }
}

/// What to do for a refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preemption {
    /// End these tasks and keep their place for it.
    Displace(Displacement),
    /// It should fit here soon, without displacing anything: the first such place.
    Wait {
        /// The node.
        node: NodeId,
        /// Name of the device.
        device: String,
        /// When.
        until: Timestamp,
    },
    /// No displacement that is allowed makes room for it.
    Nothing,
}

/// Tasks of one device to end for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displacement {
    /// The node.
    pub node: NodeId,
    /// Name of the device.
    pub device: String,
    /// By id.
    pub victims: Vec<TaskId>,
    /// The highest of their priorities.
    pub priority: i32,
    /// How long they ran, together.
    pub lost: Milliseconds,
}

impl fmt::Display for Displacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tasks, seconds) = (self.victims.len(), self.lost.0 / 1_000);
        let plural = if tasks == 1 { "" } else { "s" };
        write!(
            f,
            "displaces {tasks} task{plural} of priority {} at most on {} of {}",
            self.priority, self.device, self.node
        )?;
        write!(f, ", which ran for {seconds} s")
    }
}

/// The highest priority, how many, and how long they ran: the least is best, of equals the first in the snapshot.
type Harm = (i32, usize, u64);

/// Decides what to displace for `request`, whose job has `priority` in its spec.
pub fn preempt(
    request: &Request,
    snapshot: &Snapshot,
    running: &[RunningTask<'_>],
    tenants: &BTreeMap<String, Tenant>,
) -> Preemption {
    if request.gang > 1 {
        return Preemption::Nothing;
    }
    let claim = Claim::new(request, tenants, snapshot.now);
    let mut nodes: HashMap<&NodeId, Vec<&RunningTask<'_>>> = HashMap::new();
    for task in running.iter().filter(|task| task.ends_soon(snapshot.now) || claim.may_displace(task)) {
        nodes.entry(task.node).or_default().push(task);
    }
    // Node by node as the snapshot has them: the map is only looked into, its order decides nothing.
    let places = || {
        let nodes = snapshot.nodes.iter().filter_map(|node| Some((node, nodes.get(&node.id)?)));
        let nodes = nodes.filter(|(node, _)| !request.avoid.contains(&node.id));
        nodes.flat_map(|(node, tasks)| (0..node.devices.len()).map(move |device| Place { node, device, tasks }))
    };
    for place in places() {
        if let Some(until) = claim.waits(&place) {
            return Preemption::Wait { node: place.node.id.clone(), device: place.device().name.clone(), until };
        }
    }
    let mut best: Option<(Harm, Displacement)> = None;
    for place in places() {
        if let Some(less) = claim.displace(&place, best.as_ref().map(|(harm, _)| *harm)) {
            best = Some(less);
        }
    }
    best.map_or(Preemption::Nothing, |(_, displacement)| Preemption::Displace(displacement))
}

/// A device, and the tasks of its node that end soon or may be displaced.
struct Place<'p, 't> {
    node: &'p NodeView,
    device: usize,
    tasks: &'p [&'p RunningTask<'t>],
}

impl<'p, 't> Place<'p, 't> {
    fn device(&self) -> &'p DeviceView {
        &self.node.devices[self.device]
    }

    fn tasks(&self) -> impl Iterator<Item = &'p RunningTask<'t>> + use<'_, 'p, 't> {
        self.tasks.iter().copied().filter(|task| task.device == self.device().name)
    }
}

/// A request and what it may displace.
struct Claim<'a> {
    ask: Ask<'a>,
    request: &'a Request,
    tenants: &'a BTreeMap<String, Tenant>,
    /// Usage and weight of the queues that run something, and of its own.
    sums: (u128, u128),
    now: Timestamp,
}

impl<'a> Claim<'a> {
    fn new(request: &'a Request, tenants: &'a BTreeMap<String, Tenant>, now: Timestamp) -> Self {
        let counted = tenants.iter().filter(|(name, tenant)| tenant.running > 0 || **name == request.spec.queue);
        let sums = counted.fold((0, 0), |(usage, weight), (_, tenant)| {
            (usage + u128::from(tenant.usage), weight + u128::from(tenant.queue.weight.max(1)))
        });
        Self { ask: Ask::from(request), request, tenants, sums, now }
    }

    /// What a queue used of all usage, and should have, on one scale.
    fn share(&self, tenant: &Tenant) -> (u128, u128) {
        let (usage, weight) = self.sums;
        (u128::from(tenant.usage) * weight, u128::from(tenant.queue.weight.max(1)) * usage)
    }

    /// Whether one queue may take from another: not one that is not among the tenants, whose use nobody knows. The
    /// scheduler names every queue that has a job; one whose object is gone has default terms, here as in the order.
    fn reclaims(&self, from: &str) -> bool {
        let own = &self.request.spec.queue;
        if own == from {
            return true;
        }
        let (Some(own), Some(other)) = (self.tenants.get(own), self.tenants.get(from)) else { return false };
        let ((used, due), (other_used, other_due)) = (self.share(own), self.share(other));
        used < due && other_used > other_due && other.queue.tier <= own.queue.tier
    }

    fn may_displace(&self, task: &RunningTask<'_>) -> bool {
        task.priority < self.request.spec.priority
            && !task.owner
            && task.spare > 0
            && task.displaced < MOST_DISPLACEMENTS
            && self.now.since(task.placed_at) >= MIN_RUN
            && !task.ends_soon(self.now)
            && self.reclaims(task.queue)
    }

    fn fits(&self, node: &NodeView, device: &DeviceView) -> bool {
        failures(node, Some(device), &self.ask).is_empty()
    }

    /// When it should fit though nothing is displaced, if that is as soon.
    fn waits(&self, place: &Place<'_, '_>) -> Option<Timestamp> {
        let ending = || place.tasks().filter(|task| task.ends_soon(self.now));
        ending().next()?;
        let (after, until) = ending().fold((place.device().clone(), self.now), |(device, until), task| {
            (without(device, task), until.max(task.expected_end.unwrap_or(until)))
        });
        self.fits(place.node, &after).then_some(until)
    }

    /// The least harm on one device, if that is less than `best`.
    fn displace(&self, place: &Place<'_, '_>, best: Option<Harm>) -> Option<(Harm, Displacement)> {
        let low = |task: &&RunningTask<'_>| best.is_none_or(|(priority, ..)| task.priority <= priority);
        let mut able: Vec<_> = place.tasks().filter(low).filter(|task| self.may_displace(task)).collect();
        able.sort_by_key(|task| (task.priority, task.placed_at, &task.task));
        spare_gangs(&mut able);
        let device = place.device();
        let memory = self.ask.spec.memory.0.saturating_sub(device.free.0);
        let count = (device.running + 1).saturating_sub(device.slots) as usize;
        // What memory and slots alone take; most devices are no better even so, and need no closer look.
        let need = Need { memory, count, queued_ms: 0 };
        let better = |(harm, _): &(Harm, _)| best.is_none_or(|best| *harm < best);
        let relaxed = self.least(&able, &need).filter(better)?;
        let (harm, victims) = match self.queued_ms(place, &need)? {
            0 if need.memory == 0 && need.count == 0 => return None,
            0 => relaxed,
            queued_ms => self.least(&able, &Need { queued_ms, ..need }).filter(better)?,
        };
        let (node, device) = (place.node.id.clone(), device.name.clone());
        let (priority, _, lost) = harm;
        Some((harm, Displacement { node, device, victims, priority, lost: Milliseconds(lost) }))
    }

    /// The least harmful of some tasks, by rising priority, that free what is needed.
    fn least(&self, able: &[&RunningTask<'_>], need: &Need) -> Option<(Harm, Vec<TaskId>)> {
        let weight = |task: &&RunningTask<'_>| Weight {
            memory: task.memory.0,
            queued_ms: task.queued_ms,
            lost: self.now.since(task.placed_at).0,
        };
        let weights: Vec<Weight> = able.iter().map(weight).collect();
        // As few of the higher priorities as will do: add one priority after another.
        let mut ends = (1..=able.len()).filter(|&end| end == able.len() || able[end].priority > able[end - 1].priority);
        let chosen = ends.find_map(|end| cover::least(&weights[..end], need))?;
        let mut victims: Vec<TaskId> = chosen.iter().map(|&at| able[at].task.clone()).collect();
        victims.sort();
        let lost = chosen.iter().map(|&at| weights[at].lost).sum();
        let priority = chosen.iter().map(|&at| able[at].priority).max()?;
        Some(((priority, victims.len(), lost), victims))
    }

    /// How much less work a device must have before it, in milliseconds, for the request to be in time there once
    /// `need` is freed; none if it does not fit even then.
    fn queued_ms(&self, place: &Place<'_, '_>, need: &Need) -> Option<u64> {
        let device = place.device();
        let fits = |freed: u64| {
            let (free, running) = (device.free + Bytes(need.memory), device.running.saturating_sub(need.count as u32));
            let queued_ms = device.queued_ms - freed;
            self.fits(place.node, &DeviceView { free, running, queued_ms, ..device.clone() })
        };
        if fits(0) {
            return Some(0);
        }
        if !fits(device.queued_ms) {
            return None;
        }
        // More freed is never slower: the least that is enough.
        let (mut low, mut high) = (0, device.queued_ms);
        while low < high {
            let middle = low + (high - low) / 2;
            if fits(middle) { high = middle } else { low = middle + 1 }
        }
        Some(low)
    }
}

/// Leaves of each job no more than it can spare: those that ran shortest, which stand last.
fn spare_gangs(able: &mut Vec<&RunningTask<'_>>) {
    if able.iter().all(|task| task.spare == u32::MAX) {
        return;
    }
    let mut left: HashMap<&JobId, u32> = HashMap::new();
    let mut kept: Vec<bool> = Vec::with_capacity(able.len());
    for task in able.iter().rev() {
        let left = left.entry(&task.task.job).or_insert(task.spare);
        kept.push(*left > 0);
        *left = left.saturating_sub(1);
    }
    able.retain(|_| kept.pop().unwrap_or(false));
}

/// A device once a task has ended.
fn without(device: DeviceView, task: &RunningTask<'_>) -> DeviceView {
    DeviceView {
        free: (device.free + task.memory).min(device.total),
        running: device.running.saturating_sub(1),
        queued_ms: device.queued_ms.saturating_sub(task.queued_ms),
        ..device
    }
}

/// A promise that a displacement broke.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DisplacementError {
    /// A victim that does not run there, or stands twice.
    #[error("task {0} does not run on the device")]
    Unknown(TaskId),
    /// A victim that may not be displaced.
    #[error("task {0} may not be displaced")]
    Forbidden(TaskId),
    /// The request still does not fit.
    #[error("the request does not fit: {0:?}")]
    NoRoom(Vec<Reason>),
    /// The request fits without this victim.
    #[error("task {0} is displaced for nothing")]
    Needless(TaskId),
}

impl Displacement {
    /// Checks all it promises but that there is nothing less harmful.
    pub fn check_invariants(
        &self,
        request: &Request,
        snapshot: &Snapshot,
        running: &[RunningTask<'_>],
        tenants: &BTreeMap<String, Tenant>,
    ) -> Result<(), DisplacementError> {
        let claim = Claim::new(request, tenants, snapshot.now);
        let node = snapshot.nodes.iter().find(|node| node.id == self.node);
        let device = node.and_then(|node| node.devices.iter().find(|device| device.name == self.device));
        let (Some(node), Some(device)) = (node, device) else { return Err(DisplacementError::NoRoom(Vec::new())) };
        let mut victims = Vec::new();
        for id in &self.victims {
            let here =
                |task: &&RunningTask<'_>| &task.task == id && *task.node == self.node && task.device == self.device;
            let task = running.iter().find(here).ok_or_else(|| DisplacementError::Unknown(id.clone()))?;
            let of_job = self.victims.iter().filter(|other| other.job == id.job).count();
            if !claim.may_displace(task) || request.gang > 1 || of_job > task.spare as usize {
                return Err(DisplacementError::Forbidden(id.clone()));
            }
            victims.push(task);
        }
        let after = |spared: Option<&TaskId>| {
            let gone = victims.iter().filter(|task| Some(&task.task) != spared);
            failures(node, Some(&gone.fold(device.clone(), |device, task| without(device, task))), &claim.ask)
        };
        let missing = after(None);
        if !missing.is_empty() {
            return Err(DisplacementError::NoRoom(missing));
        }
        match self.victims.iter().find(|id| after(Some(id)).is_empty()) {
            Some(id) => Err(DisplacementError::Needless(id.clone())),
            None => Ok(()),
        }
    }
}
