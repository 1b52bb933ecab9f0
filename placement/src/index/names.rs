//! In: nodes, their devices and who has which model, by number → out: the row of any of them ([`Names::row`]).
//! Invariant: the devices of a node have numbers one after another; a device's place in a tree is where its entry is.
//!
//! What every search reads of a device is half a line of the cache ([`Hot`]), the rest stands apart ([`Device`]).

use super::columns::{CLOSED, NOBODY, Row};
use super::millis;
use crate::latency::{Model, Rates, round_trip_nanos, round24, wait_nanos};
use crate::view::DeviceView;
use nightshift_types::{Milliseconds, NodeId, Reputation};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A device as it stands in a tree: its number, and this bit where it has the tree's model in memory.
pub(super) const RESIDENT: u32 = 1 << 31;
/// In [`Holding::model`]: on the node's disk.
const CACHED: u32 = 1 << 30;
/// The tree of all devices; every other tree is of a model.
pub(super) const ALL: u32 = CACHED - 1;

/// What nodes and devices are, by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub nodes: Vec<Node>,
    pub hot: Vec<Hot>,
    pub devices: Vec<Device>,
    holdings: Vec<Holding>,
    pub unused_nodes: Vec<u32>,
    /// The first of so many.
    unused_devices: BTreeMap<u32, Vec<u32>>,
    unused_holdings: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub id: Option<NodeId>,
    /// Its devices, by position.
    pub first: u32,
    pub count: u8,
    /// Ready, and neither its operator nor its owner holds it back.
    pub willing: bool,
    /// It has the label `kubernetes.io/hostname` with its own id, which is kept nowhere else.
    pub hostname: bool,
    pub region: u32,
    pub taints: u32,
    pub round_trip_ms: u32,
    /// Picopoints an hour, exactly.
    pub ask: u64,
    pub reputation: Reputation,
}

/// As a [`Row`] has them.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Hot {
    pub free: f32,
    pub ask: f32,
    pub base: f32,
    pub link: f32,
    pub load: f32,
    pub slowness: f32,
    pub facts: u32,
    pub node: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    /// Bytes, exactly.
    pub free: u64,
    pub labels: u64,
    pub queued_ms: u32,
    pub running: u32,
    pub slots: u32,
    pub size: u32,
    /// In the tree of all.
    place: u32,
    /// The first of its models.
    models: u32,
}

/// A device has a model: on its node's disk, in its memory, or both.
#[derive(Debug, Clone, Copy)]
struct Holding {
    /// With [`CACHED`] and [`RESIDENT`].
    model: u32,
    /// In the model's tree.
    place: u32,
    next: u32,
}

/// The number of an entry's device.
pub(super) fn device_of(entry: u32) -> u32 {
    entry & !RESIDENT
}

impl Hot {
    const NONE: Self = Self {
        free: CLOSED,
        ask: f32::MAX,
        base: f32::MAX,
        link: f32::MAX,
        load: f32::MAX,
        slowness: f32::MAX,
        facts: 0,
        node: NOBODY,
    };

    pub fn open(&self) -> bool {
        self.free >= 0.0
    }

    pub fn rates(&self) -> Rates {
        Rates { link: self.link as u32, load: self.load as u32, slowness: self.slowness as u32 }
    }
}

impl Device {
    pub fn load(&mut self, view: &DeviceView) {
        (self.queued_ms, self.running, self.slots) = (millis(view.queued_ms), view.running, view.slots);
        self.free = view.free.0;
    }
}

impl Names {
    pub fn id(&self, node: u32) -> Option<&NodeId> {
        self.nodes.get(node as usize)?.id.as_ref()
    }

    pub fn node_of(&self, entry: u32) -> u32 {
        self.hot[device_of(entry) as usize].node
    }

    pub fn by_id(&self, a: u32, b: u32) -> Ordering {
        self.id(self.node_of(a)).cmp(&self.id(self.node_of(b)))
    }

    /// The devices of a node, by position.
    pub fn devices(&self, node: u32) -> std::ops::Range<u32> {
        let Node { first, count, .. } = self.nodes[node as usize];
        first..first + u32::from(count)
    }

    pub fn position(&self, device: u32) -> usize {
        (device - self.nodes[self.node_of(device) as usize].first) as usize
    }

    /// Ids, then positions.
    pub fn order(&self, a: u32, b: u32) -> Ordering {
        self.by_id(a, b).then(device_of(a).cmp(&device_of(b)))
    }

    pub fn row(&self, entry: u32) -> Row {
        let at = device_of(entry) as usize;
        let (hot, device) = (&self.hot[at], &self.devices[at]);
        Row {
            free: hot.free,
            ask: hot.ask,
            base: hot.base,
            link: hot.link,
            load: if entry & RESIDENT == 0 { hot.load } else { 0.0 },
            slowness: hot.slowness,
            facts: hot.facts,
            labels: device.labels,
            size: device.size,
            who: entry,
        }
    }

    /// What a device has free, or that it takes nothing, and its round trip and wait: as its row has them.
    pub fn state(&self, device: u32) -> (f32, f32) {
        let (node, device) = (&self.nodes[self.node_of(device) as usize], &self.devices[device as usize]);
        let open = node.willing && device.running < device.slots;
        let free = if open { round24(device.free) as f32 } else { CLOSED };
        let round_trip = round_trip_nanos(Milliseconds(node.round_trip_ms.into()));
        (free, round24(round_trip + wait_nanos(device.queued_ms.into(), device.slots)) as f32)
    }

    /// Brings a device's row to its state; what it was before.
    pub fn restate(&mut self, device: u32) -> (f32, f32) {
        let state = self.state(device);
        let hot = &mut self.hot[device as usize];
        let before = (hot.free, hot.base);
        (hot.free, hot.base) = state;
        before
    }

    /// So many devices of a node, one after another: the first.
    pub fn new_devices(&mut self, node: u32, count: u32) -> u32 {
        let known = self.unused_devices.get_mut(&count).and_then(Vec::pop);
        let first = known.unwrap_or(self.hot.len() as u32);
        let end = (first + count) as usize;
        let device =
            Device { free: 0, labels: 0, queued_ms: 0, running: 0, slots: 0, size: 0, place: NOBODY, models: NOBODY };
        self.hot.resize(self.hot.len().max(end), Hot::NONE);
        self.devices.resize(self.devices.len().max(end), device);
        self.hot[first as usize..end].fill(Hot { node, ..Hot::NONE });
        self.devices[first as usize..end].fill(device);
        first
    }

    /// Numbers in this order, so that devices which are looked at together stand together; the new ones, by the old.
    pub fn renumber(&mut self, order: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut new = vec![NOBODY; self.hot.len()];
        let (mut hot, mut devices) = (Vec::with_capacity(self.hot.len()), Vec::with_capacity(self.hot.len()));
        for device in order {
            let node = self.node_of(device);
            let known = self.devices(node);
            if new[device as usize] == NOBODY {
                self.nodes[node as usize].first = hot.len() as u32;
                for old in known {
                    new[old as usize] = hot.len() as u32;
                    hot.push(self.hot[old as usize]);
                    devices.push(self.devices[old as usize]);
                }
            }
        }
        (self.hot, self.devices) = (hot, devices);
        self.unused_devices.clear();
        new
    }

    /// A node's devices are used no more.
    pub fn drop_devices(&mut self, node: u32) {
        let devices = self.devices(node);
        self.hot[devices.start as usize..devices.end as usize].fill(Hot::NONE);
        if !devices.is_empty() {
            self.unused_devices.entry(devices.len() as u32).or_default().push(devices.start);
        }
        self.nodes[node as usize].count = 0;
    }

    /// Devices in use.
    pub fn count_devices(&self) -> usize {
        let unused = self.unused_devices.iter().map(|(count, firsts)| *count as usize * firsts.len());
        self.hot.len() - unused.sum::<usize>()
    }

    /// The holdings of a device: model with its bits, and place.
    pub fn holdings(&self, device: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut next = self.devices[device as usize].models;
        std::iter::from_fn(move || {
            let holding = self.holdings.get(next as usize)?;
            next = holding.next;
            Some((holding.model, holding.place))
        })
    }

    /// For a walk over holdings while they change, but for their models.
    pub fn first_holding(&self, device: u32) -> u32 {
        self.devices[device as usize].models
    }

    /// A model with its bits, and what follows.
    pub fn holding_at(&self, at: u32) -> Option<(u32, u32)> {
        self.holdings.get(at as usize).map(|holding| (holding.model, holding.next))
    }

    /// Where a device has a model.
    pub fn model_at(&self, device: u32, model: u32) -> Model {
        self.models(device).find(|(held, _)| *held == model).map_or(Model::Absent, |(_, has)| has)
    }

    /// The models of a device, and where it has them.
    pub fn models(&self, device: u32) -> impl Iterator<Item = (u32, Model)> + '_ {
        let has = |held: u32| if held & RESIDENT == 0 { Model::Cached } else { Model::Resident };
        self.holdings(device).map(move |(held, _)| (model_of(held), has(held)))
    }

    fn holding(&mut self, device: u32, model: u32) -> Option<&mut Holding> {
        let mut next = self.devices[device as usize].models;
        while model_of(self.holdings.get(next as usize)?.model) != model {
            next = self.holdings[next as usize].next;
        }
        self.holdings.get_mut(next as usize)
    }

    /// A device's place in a tree.
    pub fn set_place(&mut self, tree: u32, entry: u32, place: u32) {
        let device = device_of(entry);
        if tree == ALL {
            self.devices[device as usize].place = place;
        } else if let Some(holding) = self.holding(device, tree) {
            holding.place = place;
        }
    }

    pub fn place(&self, tree: u32, entry: u32) -> u32 {
        let device = device_of(entry);
        if tree == ALL {
            return self.devices[device as usize].place;
        }
        self.holdings(device).find(|(held, _)| model_of(*held) == tree).map_or(NOBODY, |(_, place)| place)
    }

    /// The entry of a device that has a model.
    pub fn entry(&self, device: u32, model: u32) -> u32 {
        device | if self.model_at(device, model) == Model::Resident { RESIDENT } else { 0 }
    }

    /// What a device has of a model: on disk, in memory.
    pub fn held(&self, device: u32, model: u32) -> [bool; 2] {
        let held = self.holdings(device).find(|(held, _)| model_of(*held) == model).map_or(0, |(held, _)| held);
        [held & CACHED != 0, held & RESIDENT != 0]
    }

    /// Makes it so; whether the holding is new, and whether it is gone.
    pub fn hold(&mut self, device: u32, model: u32, [cached, resident]: [bool; 2]) {
        let bits = if cached { CACHED } else { 0 } | if resident { RESIDENT } else { 0 };
        let first = self.devices[device as usize].models;
        if let Some(holding) = self.holding(device, model) {
            holding.model = model | bits;
            if bits == 0 {
                self.forget(device, model);
            }
        } else if bits != 0 {
            let fresh = Holding { model: model | bits, place: NOBODY, next: first };
            let at = self.unused_holdings.pop().unwrap_or(self.holdings.len() as u32);
            match self.holdings.get_mut(at as usize) {
                Some(old) => *old = fresh,
                None => self.holdings.push(fresh),
            }
            self.devices[device as usize].models = at;
        }
    }

    fn forget(&mut self, device: u32, model: u32) {
        let (mut before, mut at) = (NOBODY, self.devices[device as usize].models);
        while model_of(self.holdings[at as usize].model) != model {
            (before, at) = (at, self.holdings[at as usize].next);
        }
        let next = self.holdings[at as usize].next;
        match before {
            NOBODY => self.devices[device as usize].models = next,
            _ => self.holdings[before as usize].next = next,
        }
        self.unused_holdings.push(at);
    }

    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.hot.capacity() * size_of::<Hot>()
            + self.devices.capacity() * size_of::<Device>()
            + self.holdings.capacity() * size_of::<Holding>()
    }
}

/// The model of a holding, without its bits.
pub(super) fn model_of(held: u32) -> u32 {
    held & !(CACHED | RESIDENT)
}
