//! In: a snapshot and tasks in their order → out: a [`Plan`].
//! Invariant: pure and greedy: each task gets the best device left by those before it, and takes its memory, its slot and
//! its quote; the plan never gives away more than there is. The same arguments give the same plan.
//!
//! ```text
//! requests ─▶ one by one, or as a gang ─▶ a device, or a refusal ─▶ kept for the overdue     [`decide`] [`keep`] [`refusals`]
//! ```

pub(crate) mod decide;
mod keep;
pub(crate) mod refusals;

use crate::filter::{Ask, filter};
use crate::latency::{Prediction, busy_ms, predict};
use crate::score::{Score, Weights, asks, best};
use crate::view::{DeviceView, NodeView, Request, Snapshot};
use crate::why::WhyNot;
use decide::{Decision, Ground, InOrder, Spot, Taken, decide};
use nightshift_types::{Bytes, Digest, JobId, NodeId, PicoPoints, TaskId};
use refusals::Refusals;

/// What to commit, and what to tell those that wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the requests.
    pub placements: Vec<Placed>,
    /// In the order of the requests.
    pub refused: Vec<(TaskId, WhyNot)>,
}

impl Plan {
    pub(crate) fn new(requests: &[Request], decisions: Vec<Decision>) -> Self {
        let mut plan = Self::default();
        for (request, decision) in requests.iter().zip(decisions) {
            match decision {
                Decision::Placed(taken) => plan.placements.push(taken.placed),
                Decision::Refused(why) => plan.refused.push((request.task.clone(), why)),
            }
        }
        plan
    }
}

/// One task on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The task.
    pub task: TaskId,
    /// Where.
    pub node: NodeId,
    /// Name of the device.
    pub device: String,
    /// Memory it holds there until it ends.
    pub memory: Bytes,
    /// What it costs, at most.
    pub quote: PicoPoints,
    /// What it should take.
    pub predicted: Prediction,
    /// Warm models to evict first. Empty for now: an idle warm model counts as free, and the agent chooses.
    pub evict: Vec<Digest>,
}

/// What tasks take of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub free: Bytes,
    pub running: u32,
    pub queued_ms: u64,
}

impl Load {
    pub fn of(device: &DeviceView) -> Self {
        Self { free: device.free, running: device.running, queued_ms: device.queued_ms }
    }

    pub fn put(self, device: &mut DeviceView) {
        (device.free, device.running, device.queued_ms) = (self.free, self.running, self.queued_ms);
    }

    /// With a task more.
    pub fn with(self, memory: Bytes, busy_ms: u64) -> Self {
        Self {
            free: self.free.saturating_sub(memory),
            running: self.running.saturating_add(1),
            queued_ms: self.queued_ms.saturating_add(busy_ms),
        }
    }

    /// With a task less.
    pub fn without(self, memory: Bytes, busy_ms: u64) -> Self {
        Self {
            free: self.free.saturating_add(memory),
            running: self.running.saturating_sub(1),
            queued_ms: self.queued_ms.saturating_sub(busy_ms),
        }
    }
}

/// Decides every request, in the given order; those of a gang when its first one's turn comes.
pub fn plan(snapshot: &Snapshot, requests: &[Request], weights: &Weights) -> Plan {
    let mut pool = Working { snapshot, changed: vec![None; snapshot.nodes.len()], version: 0 };
    let (decisions, _) =
        decide(&mut pool, &mut Refusals::default(), requests, &mut InOrder::of(requests.len()), weights);
    Plan::new(requests, decisions)
}

/// Filter and score of one task over every node.
fn choose(pool: &Working<'_>, ask: &Ask<'_>, weights: &Weights) -> Option<Spot> {
    let mut chosen: Option<(Score<'_>, Spot)> = None;
    for (position, node) in pool.nodes().enumerate() {
        let Ok(feasible) = filter(node, ask) else { continue };
        let Some(score) = best(&feasible, ask, weights) else { continue };
        if chosen.as_ref().is_none_or(|(least, _)| score < *least) {
            chosen = Some((score, Spot { node: position, device: score.device }));
        }
    }
    chosen.map(|(_, spot)| spot)
}

/// The snapshot and what the plan took from it so far; only nodes with a placement are copied.
struct Working<'a> {
    snapshot: &'a Snapshot,
    changed: Vec<Option<Box<NodeView>>>,
    version: u64,
}

impl<'a> Ground<'a> for Working<'_> {
    fn version(&self) -> u64 {
        self.version
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.snapshot.nodes.iter().zip(&self.changed).map(|(node, changed)| changed.as_deref().unwrap_or(node))
    }

    fn node(&self, at: usize) -> &NodeView {
        self.changed[at].as_deref().unwrap_or(&self.snapshot.nodes[at])
    }

    fn place(&mut self, request: &'a Request, ask: &Ask<'_>, weights: &Weights) -> Option<Taken> {
        let spot = choose(self, ask, weights)?;
        let node = self.node(spot.node);
        let device = &node.devices[spot.device];
        let placed = Placed {
            task: request.task.clone(),
            node: node.id.clone(),
            device: device.name.clone(),
            memory: request.spec.memory,
            quote: PicoPoints(asks(node.price_per_hour).into()).quote(request.spec.reference),
            predicted: predict(node, device, ask),
            evict: Vec::new(),
        };
        let (before, busy_ms) = (Load::of(device), busy_ms(node, device, ask));
        self.set(spot, before.with(placed.memory, busy_ms));
        self.version += 1;
        Some(Taken { spot, before, busy_ms, placed })
    }

    fn set(&mut self, spot: Spot, load: Load) {
        let original = &self.snapshot.nodes[spot.node];
        let node = self.changed[spot.node].get_or_insert_with(|| Box::new(original.clone()));
        load.put(&mut node.devices[spot.device]);
    }

    fn rewind(&mut self, version: u64, _: &JobId) {
        self.version = version;
    }
}
