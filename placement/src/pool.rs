//! In: snapshots one after another, and tasks → out: plans, as [`crate::plan()`] makes them, from an index that lives on;
//! where tasks are planned together, no worse ones.
//! Invariant: a plan follows from its own snapshot and tasks alone: what earlier plans took counts only as far as the
//! snapshot says so too. The index has exactly the nodes of the last snapshot, as the last plan left them.

use crate::batch::{self, Batch};
use crate::estimate::ModelEstimate;
use crate::filter::Ask;
use crate::index::{Cursor, Found, Index, IndexError, Place};
use crate::plan::decide::{Ground, InOrder, Spot, Taken, Turns, decide, lift};
use crate::plan::refusals::Refusals;
use crate::plan::{Load, Placed, Plan};
use crate::queue::Order;
use crate::score::{Weights, asks};
use crate::view::{NodeView, Request, Snapshot};
use nightshift_types::{Bytes, JobId, JobSpec, NodeId, PicoPoints};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The nodes and their index.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// In the order of their ids.
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) index: Index,
    refusals: Refusals,
}

/// A search that goes on for each job: its tasks are alike, but for the size of their inputs and what they avoid.
#[derive(Default)]
struct Cursors<'r>(BTreeMap<&'r JobId, (&'r JobSpec, Alike<'r>, Cursor)>);

/// What tasks of one job may differ in.
type Alike<'r> = (Bytes, ModelEstimate, &'r [NodeId]);

impl<'r> Cursors<'r> {
    fn of(&mut self, request: &'r Request, ask: &Ask<'_>) -> &mut Cursor {
        let (spec, alike): (&JobSpec, Alike<'r>) = (&request.spec, (ask.input, ask.estimate, &request.avoid));
        let fresh = || (spec, alike, Cursor::default());
        let known = self.0.entry(&request.task.job).or_insert_with(fresh);
        if !std::ptr::eq(known.0, spec) || known.1 != alike {
            *known = fresh();
        }
        &mut known.2
    }
}

/// The pool while tasks are placed on it.
pub(crate) struct Placing<'p, 'r> {
    pub pool: &'p mut Pool,
    cursors: Cursors<'r>,
}

impl<'p> Placing<'p, '_> {
    pub fn new(pool: &'p mut Pool) -> Self {
        Self { pool, cursors: Cursors::default() }
    }
}

impl<'r> Ground<'r> for Placing<'_, 'r> {
    fn version(&self) -> u64 {
        self.pool.index.version()
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.pool.nodes.iter()
    }

    fn node(&self, at: usize) -> &NodeView {
        &self.pool.nodes[at]
    }

    fn place(&mut self, request: &'r Request, ask: &Ask<'_>, weights: &Weights) -> Option<Taken> {
        let found = self.pool.index.next_best(self.cursors.of(request, ask), ask, weights)?;
        let (place, taken) = self.pool.taken(request, &found)?;
        self.pool.take(place, &taken);
        Some(taken)
    }

    fn set(&mut self, spot: Spot, load: Load) {
        self.pool.set(spot, load);
    }

    fn rewind(&mut self, version: u64, job: &JobId) {
        // Others' searches did not go on meanwhile: they stand as they stood.
        self.cursors.0.remove(job);
        self.pool.index.rewind(version);
    }
}

impl Pool {
    /// Decides every request, in the given order, as [`crate::plan()`] does.
    pub fn plan(&mut self, snapshot: Snapshot, requests: &[Request], weights: &Weights) -> Plan {
        self.plan_batch(snapshot, requests, weights, &Batch::OFF)
    }

    /// The same tasks are placed as by [`Pool::plan`], and those that wait wait for the same reasons; but where they go
    /// costs all of them together less, or the same: see [`crate::batch`].
    pub fn plan_batch(&mut self, snapshot: Snapshot, requests: &[Request], weights: &Weights, batch: &Batch) -> Plan {
        self.plan_in_turns(snapshot, requests, &mut InOrder::of(requests.len()), weights, batch)
    }

    /// The requests of an order, each queue's in their turns by what of it was placed: what finds no node takes no turn.
    pub fn plan_order(&mut self, snapshot: Snapshot, order: &Order, weights: &Weights, batch: &Batch) -> Plan {
        self.plan_in_turns(snapshot, &order.requests, &mut order.arbiter(), weights, batch)
    }

    fn plan_in_turns(
        &mut self,
        snapshot: Snapshot,
        requests: &[Request],
        turns: &mut impl Turns,
        weights: &Weights,
        batch: &Batch,
    ) -> Plan {
        self.renew(snapshot.nodes);
        let mut refusals = std::mem::take(&mut self.refusals);
        let (mut decisions, kept) = decide(&mut Placing::new(self), &mut refusals, requests, turns, weights);
        let improved = batch::improve(self, requests, &mut decisions, weights, batch);
        lift(&mut Placing::new(self), &kept);
        self.refusals = refusals;
        if improved {
            // The refusals are about where the tasks went first.
            self.index.outdate();
        }
        self.refusals.keep(self.index.version());
        Plan::new(requests, decisions)
    }

    /// Brings index and nodes to what a snapshot says; only nodes that differ cost more than a comparison.
    fn renew(&mut self, nodes: Vec<NodeView>) {
        if self.nodes.is_empty() {
            self.index = Index::new(nodes.iter());
        } else {
            let (mut old, mut new) = (self.nodes.iter().peekable(), nodes.iter().peekable());
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => break,
                    (Some(old), Some(new)) => old.id.cmp(&new.id),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                };
                let before = if order.is_le() { old.next() } else { None };
                let after = if order.is_ge() { new.next() } else { None };
                match (before, after) {
                    (before, Some(after)) if before != Some(after) => self.index.insert(after),
                    (Some(before), None) => drop(self.index.remove(&before.id)),
                    _ => {}
                }
            }
        }
        self.nodes = nodes;
    }

    /// A task's place on the device that was found for it.
    pub(crate) fn taken(&self, request: &Request, found: &Found<'_>) -> Option<(Place, Taken)> {
        let node = self.nodes.binary_search_by(|view| view.id.cmp(found.node)).ok()?;
        let spot = Spot { node, device: found.position };
        let device = self.nodes[node].devices.get(found.position)?;
        let placed = Placed {
            task: request.task.clone(),
            node: found.node.clone(),
            device: device.name.clone(),
            memory: request.spec.memory,
            quote: PicoPoints(asks(found.ask).into()).quote(request.spec.reference),
            predicted: found.predicted,
            evict: Vec::new(),
        };
        Some((found.place, Taken { spot, before: Load::of(device), busy_ms: found.busy_ms, placed }))
    }

    pub(crate) fn take(&mut self, place: Place, taken: &Taken) {
        let Taken { spot, before, busy_ms, placed } = taken;
        before.with(placed.memory, *busy_ms).put(&mut self.nodes[spot.node].devices[spot.device]);
        self.index.take(place, placed.memory, *busy_ms);
    }

    /// Another load of a device, on both sides.
    pub(crate) fn set(&mut self, spot: Spot, load: Load) {
        let node = &mut self.nodes[spot.node];
        load.put(&mut node.devices[spot.device]);
        if let Some(place) = self.index.place(&node.id, spot.device) {
            self.index.reload(place, &node.devices[spot.device]);
        }
    }

    /// Checks what every decision relies on; slow, for tests and for a doubt in production.
    pub fn check_invariants(&self) -> Result<(), IndexError> {
        self.index.check_invariants()
    }
}
