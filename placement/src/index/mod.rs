//! In: nodes as they join, leave, fill and change → out: the best device for a task, exactly, without a look at each.
//! Invariant: what [`Index::best`] finds is what [`crate::plan()`] finds by looking at every node, ties included.
//!
//! ```text
//! devices ─▶ rows ─▶ blocks of 16, like with like ─▶ bounds per block ─▶ a tree of bounds     [`columns`] [`kd`] [`tree`]
//! task    ─▶ a query ─▶ best-first search: a bound not better than the best found ends it     [`search`] [`frontier`]
//!                └─▶ the same in floats, many rows or bounds at once                          [`sieve`]
//! ```
//!
//! * Memory, ask, round trip and wait, link, disk, speed, size: the best of each among the **open** devices below.
//! * Class, tier, region, taints, labels, models: which there are below, a bit each. Where there are more than bits, some
//!   share one: then a device is looked up before it is chosen. So it is for a reputation, which has two bits.
//! * Models and labels of few nodes have lists too ([`tags`]): a task for such a model looks at those nodes first, which
//!   often ends the search at once; a task for such a label looks at nothing else.
//! * Ties reach down to the node's id, which bounds have too: a pool of equal nodes is searched as fast as any other.
//! * Where bounds do not help, the search turns into a pass over the blocks: never much worse than a scan.
//!
//! The sieve's floats decide nothing: what is next to the best within their error is compared in integers.

mod check;
mod columns;
mod cursor;
mod frontier;
mod ids;
mod kd;
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

use crate::latency::{round_trip_nanos, round24, wait_nanos};
use crate::score::asks;
use crate::view::{DeviceView, NodeView};
use columns::{CLOSED, NOBODY, Row};
use ids::{Ids, Interner};
use nightshift_types::{Bytes, Digest, Milliseconds, NodeId, PicoPoints, Reputation, Taint};
use std::borrow::Borrow;
use std::cmp::Ordering;
use tags::Tags;
use tree::Tree;

/// Bits of a word for models on disk, and in memory; the others are shared by all that have none.
const CACHED_BITS: usize = 48;
const RESIDENT_BITS: usize = tags::BLOOM as usize - CACHED_BITS;

/// All nodes of a pool, ready for decisions.
#[derive(Debug, Clone)]
pub struct Index {
    names: Names,
    ids: Ids,
    tree: Tree,
    labels: Tags,
    cached: Tags,
    resident: Tags,
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

/// What nodes and devices are, by number.
#[derive(Debug, Clone, Default)]
struct Names {
    nodes: Vec<Node>,
    devices: Vec<Device>,
    unused_nodes: Vec<u32>,
    unused_devices: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Node {
    id: Option<NodeId>,
    /// Its first device; the others follow by [`Device::next`], by position.
    first: u32,
    region: u32,
    taints: u32,
    round_trip_ms: u32,
    /// Picopoints an hour, exactly.
    ask: u64,
    reputation: Reputation,
    /// Ready, and neither its operator nor its owner holds it back.
    willing: bool,
    /// It has the label `kubernetes.io/hostname` with its own id, which is kept nowhere else.
    hostname: bool,
}

#[derive(Debug, Clone, Copy)]
struct Device {
    node: u32,
    next: u32,
    queued_ms: u32,
    running: u32,
    slots: u32,
    /// Bytes, exactly.
    free: u64,
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

impl Device {
    fn load(&mut self, view: &DeviceView) {
        (self.queued_ms, self.running, self.slots) = (millis(view.queued_ms), view.running, view.slots);
        self.free = view.free.0;
    }
}

impl Names {
    fn id(&self, node: u32) -> Option<&NodeId> {
        self.nodes.get(node as usize)?.id.as_ref()
    }

    fn id_of_device(&self, device: u32) -> Option<&NodeId> {
        self.id(self.devices[device as usize].node)
    }

    fn by_id(&self, a: u32, b: u32) -> Ordering {
        self.id_of_device(a).cmp(&self.id_of_device(b))
    }

    /// The devices of a node, by position.
    fn devices(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.nodes[node as usize].first;
        std::iter::from_fn(move || {
            let device = next;
            next = self.devices.get(device as usize)?.next;
            Some(device)
        })
    }

    /// What a device has free, or that it takes nothing, and its round trip and wait: as its row has them.
    fn state(&self, device: u32) -> (f32, f32) {
        let device = &self.devices[device as usize];
        let node = &self.nodes[device.node as usize];
        let open = node.willing && device.running < device.slots;
        let free = if open { round24(device.free) as f32 } else { CLOSED };
        let round_trip = round_trip_nanos(Milliseconds(node.round_trip_ms.into()));
        (free, round24(round_trip + wait_nanos(device.queued_ms.into(), device.slots)) as f32)
    }

    /// Ids, then positions.
    fn order(&self, a: u32, b: u32) -> Ordering {
        if self.devices[a as usize].node != self.devices[b as usize].node {
            return self.by_id(a, b);
        }
        self.position(a).cmp(&self.position(b))
    }

    fn position(&self, device: u32) -> usize {
        self.devices(self.devices[device as usize].node).position(|other| other == device).unwrap_or(usize::MAX)
    }
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
        let (free, base) = self.names.state(place.device);
        self.tree.fill(place.device, free, base);
    }

    /// The owner asks another price; false if there is no such node.
    pub fn set_ask(&mut self, id: &NodeId, ask: PicoPoints) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.changed();
        let ask = asks(ask);
        self.names.nodes[node as usize].ask = ask;
        let mut next = self.names.nodes[node as usize].first;
        while next != NOBODY {
            let row = Row { ask: round24(ask) as f32, ..self.tree.row(next) };
            self.tree.change(&row, &|a, b| self.names.by_id(a, b));
            next = self.names.devices[next as usize].next;
        }
        true
    }

    /// Another round trip was measured; false if there is no such node.
    pub fn set_round_trip(&mut self, id: &NodeId, round_trip: Milliseconds) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.names.nodes[node as usize].round_trip_ms = millis(round_trip.0);
        self.restate(node)
    }

    /// The node takes work from now on, or does not; false if there is no such node.
    pub fn set_willing(&mut self, id: &NodeId, willing: bool) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.names.nodes[node as usize].willing = willing;
        self.restate(node)
    }

    /// Something that all devices of a node share has changed.
    fn restate(&mut self, node: u32) -> bool {
        let mut next = self.names.nodes[node as usize].first;
        while next != NOBODY {
            self.fill(Place { device: next }, |_| {});
            next = self.names.devices[next as usize].next;
        }
        self.changed();
        true
    }

    /// Memory of the index in bytes, as far as its own tables say: allocator, ids and words are not in it.
    pub fn bytes(&self) -> usize {
        let names =
            self.names.nodes.capacity() * size_of::<Node>() + self.names.devices.capacity() * size_of::<Device>();
        self.tree.bytes() + self.ids.bytes() + names
    }
}

fn millis(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}
