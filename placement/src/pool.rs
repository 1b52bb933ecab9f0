//! In: snapshots one after another, and tasks → out: plans, as [`crate::plan()`] makes them, from an index that lives on.
//! Invariant: a plan follows from its own snapshot and tasks alone: what earlier plans took counts only as far as the
//! snapshot says so too. The index has exactly the nodes of the last snapshot, as the last plan left them.

use crate::filter::Ask;
use crate::index::{Cursor, Found, Index, IndexError};
use crate::plan::{Placed, Plan, Refusals};
use crate::score::{Weights, asks};
use crate::view::{NodeView, Request, Snapshot};
use crate::why::WhyNot;
use nightshift_types::{Bytes, JobId, JobSpec, NodeId, PicoPoints};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The nodes and their index.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// In the order of their ids.
    nodes: Vec<NodeView>,
    index: Index,
    refusals: Refusals,
}

/// A search that goes on for each job: its tasks are alike, but for the size of their inputs and what they avoid.
#[derive(Default)]
struct Cursors<'r>(BTreeMap<&'r JobId, (&'r JobSpec, Bytes, &'r [NodeId], Cursor)>);

impl<'r> Cursors<'r> {
    fn of(&mut self, request: &'r Request, ask: &Ask<'_>) -> &mut Cursor {
        let (spec, avoid): (&JobSpec, &[NodeId]) = (&request.spec, &request.avoid);
        let fresh = || (spec, ask.input, avoid, Cursor::default());
        let known = self.0.entry(&request.task.job).or_insert_with(fresh);
        if !std::ptr::eq(known.0, spec) || (known.1, known.2) != (ask.input, avoid) {
            *known = fresh();
        }
        &mut known.3
    }
}

impl Pool {
    /// Decides every request, in the given order, as [`crate::plan()`] does.
    pub fn plan(&mut self, snapshot: Snapshot, requests: &[Request], weights: &Weights) -> Plan {
        self.renew(snapshot.nodes);
        let mut spent: BTreeMap<&JobId, PicoPoints> = BTreeMap::new();
        let mut cursors = Cursors::default();
        let mut plan = Plan::default();
        for request in requests {
            let spent = spent.entry(&request.task.job).or_default();
            let ask = Ask::new(request, *spent);
            if let Some(known) = self.refusals.of(request, &ask, self.index.version()) {
                plan.refused.push((request.task.clone(), known));
            } else if let Some(placed) = self.place(request, &ask, cursors.of(request, &ask), weights) {
                *spent += placed.quote;
                plan.placements.push(placed);
            } else {
                let why = WhyNot::explain(self.nodes.iter(), &ask);
                self.refusals.remember(request, &ask, self.index.version(), &why);
                plan.refused.push((request.task.clone(), why));
            }
        }
        self.refusals.keep(self.index.version());
        plan
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

    /// The best device takes the task.
    fn place(&mut self, request: &Request, ask: &Ask<'_>, cursor: &mut Cursor, weights: &Weights) -> Option<Placed> {
        let found = self.index.next_best(cursor, ask, weights)?;
        let Found { place, node, position, ask: price, predicted, busy_ms } = found;
        let at = self.nodes.binary_search_by(|view| view.id.cmp(node)).ok()?;
        let device = self.nodes[at].devices.get_mut(position)?;
        let placed = Placed {
            task: request.task.clone(),
            node: node.clone(),
            device: device.name.clone(),
            memory: request.spec.memory,
            quote: PicoPoints(asks(price).into()).quote(request.spec.reference),
            predicted,
            evict: Vec::new(),
        };
        device.free = device.free.saturating_sub(placed.memory);
        device.running = device.running.saturating_add(1);
        device.queued_ms = device.queued_ms.saturating_add(busy_ms);
        self.index.take(place, placed.memory, busy_ms);
        Some(placed)
    }

    /// Checks what every decision relies on; slow, for tests and for a doubt in production.
    pub fn check_invariants(&self) -> Result<(), IndexError> {
        self.index.check_invariants()
    }
}
