//! In: nodes as they join, leave, fill and change → out: the best device for a task, exactly, without a look at each.
//! Invariant: what [`Index::best`] finds is what [`crate::plan()`] finds by looking at every node, ties included.
//!
//! ```text
//! devices ─▶ leaves of 8, like with like ─▶ bounds per leaf ─▶ a tree of bounds             [`names`] [`kd`] [`tree`]
//!     └─▶ for each model a tree of those that have it
//! task ─▶ a query ─▶ best-first search of both: a bound not better than the best found ends it   [`search`] [`frontier`]
//!              └─▶ the same in floats, many bounds at once                                     [`columns`] [`sieve`]
//! ```
//!
//! * Memory, ask, round trip and wait, link, disk, speed, size: the best of each among the **open** devices below.
//! * Class, tier, region, taints, labels: which there are below, a bit each. Where there are more than bits, some
//!   share one: then a device is looked up before it is chosen. So it is for a reputation, which has two bits.
//! * A task looks among the devices that have its model, in memory or on disk, and among all as if none had it: the better
//!   of both is the best. So no bound mixes who is fast with who has the model.
//! * Labels of few nodes have lists ([`tags`]): a task for such a label looks at nothing else.
//! * Ties reach down to the node's id, which bounds have too: a pool of equal nodes is searched as fast as any other.
//! * Where bounds do not help, the search turns into a pass over the leaves: never much worse than a scan.
//!
//! The sieve's floats decide nothing: what is next to the best within their error is compared in integers.

mod check;
mod columns;
mod cursor;
mod frontier;
mod ids;
mod kd;
mod names;
mod node;
mod rows;
mod search;
mod sieve;
mod tags;
mod tree;

pub use check::IndexError;
pub use cursor::Cursor;
pub(crate) use rows::{Like, Side};
pub use search::Found;

use crate::latency::round24;
use crate::score::asks;
use crate::view::{DeviceView, NodeView};
use ids::{Ids, Interner};
use names::{Device, Names, model_of};
use nightshift_types::{Bytes, Digest, Milliseconds, NodeId, PicoPoints, Taint};
use std::borrow::Borrow;
use tags::Tags;
use tree::Tree;

/// All nodes of a pool, ready for decisions.
#[derive(Debug, Clone)]
pub struct Index {
    names: Names,
    ids: Ids,
    all: Tree,
    /// By model: those that have it.
    holders: Vec<Tree>,
    labels: Tags,
    words: Words,
    version: u64,
    /// Rises with every change but a placement: only a placement makes no device better.
    loosened: u64,
}

/// One device of one node; valid until the node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    device: u32,
}

/// Words to numbers.
#[derive(Debug, Clone, Default)]
struct Words {
    labels: Interner<String>,
    models: Interner<Digest>,
    regions: Interner<String>,
    taints: Interner<String>,
    /// By number, as `taints`.
    taint_sets: Vec<Vec<Taint>>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(std::iter::empty::<&NodeView>())
    }
}

impl Index {
    /// Of many nodes at once; of two with the same id the later stays.
    pub fn new<N: Borrow<NodeView>>(nodes: impl Iterator<Item = N> + Clone) -> Self {
        node::build(nodes)
    }

    /// Nodes in it.
    pub fn len(&self) -> usize {
        self.names.nodes.len() - self.names.unused_nodes.len()
    }

    /// No node in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rises with every change: what was found at a version is so as long as the version stands.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The ids of all nodes, in no order.
    pub fn ids(&self) -> impl Iterator<Item = &NodeId> {
        self.names.nodes.iter().filter_map(|node| node.id.as_ref())
    }

    fn number(&self, id: &NodeId) -> Option<u32> {
        self.ids.find(id, |number| self.names.id(number))
    }

    /// The device at `position` of a node.
    pub fn place(&self, id: &NodeId, position: usize) -> Option<Place> {
        let device = self.names.devices(self.number(id)?).nth(position)?;
        Some(Place { device })
    }

    /// A task was placed on a device: it takes memory, a slot and `busy_ms` of the device's time.
    pub fn take(&mut self, place: Place, memory: Bytes, busy_ms: u64) {
        self.version += 1;
        self.fill(place, |device| {
            device.running = device.running.saturating_add(1);
            device.queued_ms = device.queued_ms.saturating_add(millis(busy_ms));
            device.free = device.free.saturating_sub(memory.0);
        });
    }

    /// A task left a device: what [`Index::take`] took is given back.
    pub fn release(&mut self, place: Place, memory: Bytes, busy_ms: u64) {
        self.changed();
        self.fill(place, |device| {
            device.running = device.running.saturating_sub(1);
            device.queued_ms = device.queued_ms.saturating_sub(millis(busy_ms));
            device.free = device.free.saturating_add(memory.0);
        });
    }

    /// What was taken and given back since `version` is as it was: no news for a search that did not go on meanwhile.
    pub(crate) fn rewind(&mut self, version: u64) {
        self.version = version;
    }

    /// What was found before is found no longer.
    pub(crate) fn outdate(&mut self) {
        self.changed();
    }

    /// Another load of a device, for a while: neither version nor searches that go on hear of it.
    pub(crate) fn reload(&mut self, place: Place, view: &DeviceView) {
        self.fill(place, |device| device.load(view));
    }

    fn changed(&mut self) {
        self.version += 1;
        self.loosened += 1;
    }

    fn fill(&mut self, place: Place, change: impl FnOnce(&mut Device)) {
        change(&mut self.names.devices[place.device as usize]);
        self.restate(place.device);
    }

    /// Brings a device's row to its state, and every tree that it stands in.
    fn restate(&mut self, device: u32) {
        let before = self.names.restate(device);
        self.all.fill(self.names.place(names::ALL, device), before, &self.names);
        for (held, place) in self.names.holdings(device) {
            self.holders[model_of(held) as usize].fill(place, before, &self.names);
        }
    }

    /// The owner asks another price; false if there is no such node.
    pub fn set_ask(&mut self, id: &NodeId, ask: PicoPoints) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.changed();
        let ask = asks(ask);
        self.names.nodes[node as usize].ask = ask;
        let new = round24(ask) as f32;
        for device in self.names.devices(node) {
            let old = std::mem::replace(&mut self.names.hot[device as usize].ask, new);
            if new == old {
                continue;
            }
            self.all.ask(device, old, &mut self.names);
            let mut at = self.names.first_holding(device);
            while let Some((held, next)) = self.names.holding_at(at) {
                let entry = device | held & names::RESIDENT;
                self.holders[model_of(held) as usize].ask(entry, old, &mut self.names);
                at = next;
            }
        }
        true
    }

    /// Another round trip was measured; false if there is no such node.
    pub fn set_round_trip(&mut self, id: &NodeId, round_trip: Milliseconds) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.names.nodes[node as usize].round_trip_ms = millis(round_trip.0);
        self.restate_all(node)
    }

    /// The node takes work from now on, or does not; false if there is no such node.
    pub fn set_willing(&mut self, id: &NodeId, willing: bool) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.names.nodes[node as usize].willing = willing;
        self.restate_all(node)
    }

    /// Something that all devices of a node share has changed.
    fn restate_all(&mut self, node: u32) -> bool {
        self.names.devices(node).for_each(|device| self.restate(device));
        self.changed();
        true
    }

    /// Memory of the index in bytes, as far as its own tables say: allocator, ids and words are not in it.
    pub fn bytes(&self) -> usize {
        let holders: usize = self.holders.iter().map(Tree::bytes).sum();
        self.all.bytes() + holders + self.ids.bytes() + self.names.bytes()
    }
}

fn millis(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}
