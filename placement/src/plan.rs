//! In: a snapshot and tasks in their order → out: a [`Plan`].
//! Invariant: pure and greedy: each task gets the best device left by those before it, and takes its memory, its slot and
//! its quote; the plan never gives away more than there is. The same arguments give the same plan.

use crate::filter::{Ask, filter};
use crate::latency::{Prediction, busy_ms, predict};
use crate::score::{Score, Weights, asks, best};
use crate::view::{NodeView, Request, Snapshot};
use crate::why::WhyNot;
use nightshift_types::{Bytes, Digest, JobId, JobSpec, NodeId, PicoPoints, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What to commit, and what to tell those that wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the requests.
    pub placements: Vec<Placed>,
    /// In the order of the requests.
    pub refused: Vec<(TaskId, WhyNot)>,
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

/// Decides every request, in the given order.
pub fn plan(snapshot: &Snapshot, requests: &[Request], weights: &Weights) -> Plan {
    let mut pool = Working::new(snapshot);
    let mut refusals = Refusals::default();
    let mut plan = Plan::default();
    for request in requests {
        let ask = Ask::new(request, pool.spent(&request.task.job));
        // The working copy changes with every placement, and by nothing else.
        let version = plan.placements.len() as u64;
        let known = refusals.of(request, &ask, version);
        let place = if known.is_some() { None } else { choose(&pool, &ask, weights) };
        match place {
            Some(place) => plan.placements.push(pool.take(place, request)),
            None => {
                let why = known.unwrap_or_else(|| WhyNot::explain(pool.nodes(), &ask));
                refusals.remember(request, &ask, version, &why);
                plan.refused.push((request.task.clone(), why));
            }
        }
    }
    plan
}

/// Each job's last refusal: where nothing changed since, the same demand is refused for the same reasons, without another
/// look at every node. So a batch of thousands before a full pool costs one look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(BTreeMap<JobId, Refusal>);

#[derive(Debug, Clone)]
struct Refusal {
    spec: Arc<JobSpec>,
    input: Bytes,
    budget: Option<PicoPoints>,
    /// Of what was looked at.
    version: u64,
    why: WhyNot,
}

impl Refusals {
    pub fn of(&self, request: &Request, ask: &Ask<'_>, version: u64) -> Option<WhyNot> {
        let last = self.0.get(&request.task.job)?;
        let same = Arc::ptr_eq(&last.spec, &request.spec) && (last.input, last.budget) == (ask.input, ask.budget);
        (same && last.version == version).then(|| last.why.clone())
    }

    pub fn remember(&mut self, request: &Request, ask: &Ask<'_>, version: u64, why: &WhyNot) {
        let (spec, why) = (Arc::clone(&request.spec), why.clone());
        let refusal = Refusal { spec, input: ask.input, budget: ask.budget, version, why };
        self.0.insert(request.task.job.clone(), refusal);
    }

    /// Forgets all but those of some version.
    pub fn keep(&mut self, version: u64) {
        self.0.retain(|_, refusal| refusal.version == version);
    }
}

/// A device of the working copy, by position.
#[derive(Debug, Clone, Copy)]
struct Place {
    node: usize,
    device: usize,
}

/// Filter and score of one task over every node.
fn choose(pool: &Working<'_>, ask: &Ask<'_>, weights: &Weights) -> Option<Place> {
    let mut chosen: Option<(Score<'_>, Place)> = None;
    for (position, node) in pool.nodes().enumerate() {
        let Ok(feasible) = filter(node, ask) else { continue };
        let Some(score) = best(&feasible, ask, weights) else { continue };
        if chosen.as_ref().is_none_or(|(least, _)| score < *least) {
            chosen = Some((score, Place { node: position, device: score.device }));
        }
    }
    chosen.map(|(_, place)| place)
}

/// The snapshot and what the plan took from it so far; only nodes with a placement are copied.
struct Working<'a> {
    snapshot: &'a Snapshot,
    changed: Vec<Option<Box<NodeView>>>,
    spent: BTreeMap<JobId, PicoPoints>,
}

impl<'a> Working<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, changed: vec![None; snapshot.nodes.len()], spent: BTreeMap::new() }
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.snapshot.nodes.iter().zip(&self.changed).map(|(node, changed)| changed.as_deref().unwrap_or(node))
    }

    fn spent(&self, job: &JobId) -> PicoPoints {
        self.spent.get(job).copied().unwrap_or_default()
    }

    /// Takes memory, slot, the device's time and the quote.
    fn take(&mut self, place: Place, request: &Request) -> Placed {
        let ask = Ask::from(request);
        let node = self.changed[place.node].get_or_insert_with(|| Box::new(self.snapshot.nodes[place.node].clone()));
        let device = &node.devices[place.device];
        let placed = Placed {
            task: request.task.clone(),
            node: node.id.clone(),
            device: device.name.clone(),
            memory: request.spec.memory,
            quote: PicoPoints(asks(node.price_per_hour).into()).quote(request.spec.reference),
            predicted: predict(node, device, &ask),
            evict: Vec::new(),
        };
        let busy = busy_ms(node, device, &ask);
        let device = &mut node.devices[place.device];
        device.free = device.free.saturating_sub(placed.memory);
        device.running = device.running.saturating_add(1);
        device.queued_ms = device.queued_ms.saturating_add(busy);
        *self.spent.entry(request.task.job.clone()).or_default() += placed.quote;
        placed
    }
}
