//! In: a node as placement sees it → out: its entries, tags and numbers in the index.
//! Invariant: a node that left holds no number, no tag and no place; one without devices holds its number alone.

use super::columns::{NOBODY, Row, class_bit, region_bit, reputation_bits, taints_bit, tier_bits};
use super::ids::Interner;
use super::tags::{BLOOM, Change, Tags};
use super::tree::Tree;
use super::{CACHED_BITS, Device, Index, Names, Node, RESIDENT_BITS, Words, millis};
use crate::latency::{Rates, round24};
use crate::score::{asks, size};
use crate::view::{DeviceView, MAX_DEVICES, NodeView};
use nightshift_types::{Digest, NodeId, Taint, TaintEffect};
use std::borrow::Borrow;

/// A label whose value is the node's own id needs no place of its own.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A label as one word; keys have no NUL.
pub(super) fn label_word(key: &str, value: &str) -> String {
    format!("{key}\0{value}")
}

fn taints_word(taints: &[Taint]) -> String {
    let effect = |taint: &Taint| match taint.effect {
        TaintEffect::NoSchedule => 's',
        TaintEffect::PreferNoSchedule => 'p',
        TaintEffect::NoExecute => 'x',
    };
    taints.iter().map(|taint| format!("{}\0{}\0{}\0", taint.key, taint.value, effect(taint))).collect()
}

fn willing(view: &NodeView) -> bool {
    view.ready && !view.unschedulable && view.unavailable.is_none()
}

fn hostname(view: &NodeView) -> bool {
    view.labels.get(HOSTNAME).is_some_and(|name| name == view.id.as_str())
}

fn label_words(view: &NodeView) -> impl Iterator<Item = String> + '_ {
    let own = hostname(view);
    let labels = view.labels.iter().filter(move |(key, _)| !(own && key.as_str() == HOSTNAME));
    labels.map(|(key, value)| label_word(key, value))
}

fn once_each(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// The index of many nodes: tags are counted first, so that the common ones have their bits from the start.
pub(super) fn build<N: Borrow<NodeView>>(nodes: impl Iterator<Item = N> + Clone) -> Index {
    let mut index = Index {
        names: Names::default(),
        ids: super::Ids::default(),
        tree: Tree::new(Vec::new(), &|_, _| std::cmp::Ordering::Equal),
        labels: Tags::new(0, 64),
        cached: Tags::new(0, CACHED_BITS),
        resident: Tags::new(CACHED_BITS as u32, RESIDENT_BITS),
        words: Words::default(),
        version: 0,
        loosened: 0,
    };
    // The empty set is always number 0.
    index.words.hold_taints(&[]);
    let held = index.reserve(nodes.clone());
    let mut rows = Vec::new();
    for view in nodes {
        let view = view.borrow();
        // A second of the same id replaces the first, the slow way.
        if index.number(&view.id).is_some() {
            let names = &index.names;
            index.tree = Tree::new(std::mem::take(&mut rows), &|a, b| names.by_id(a, b));
            index.remove(&view.id);
            rows = index.tree.rows();
        }
        rows.extend(index.join(view));
    }
    let names = &index.names;
    index.tree = Tree::new(rows, &|a, b| names.by_id(a, b));
    index.unreserve(held);
    index.rebalance();
    index
}

/// Words held while they are counted.
struct Held {
    labels: Vec<u32>,
    models: Vec<u32>,
}

impl Index {
    fn reserve<N: Borrow<NodeView>>(&mut self, nodes: impl Iterator<Item = N>) -> Held {
        fn count<T: Clone + Eq + std::hash::Hash>(
            words: &mut Interner<T>,
            counts: &mut Vec<u32>,
            held: &mut Vec<u32>,
            word: &T,
        ) {
            let number = words.find(word).unwrap_or_else(|| {
                let number = words.hold(word);
                held.push(number);
                number
            });
            let least = number as usize + 1;
            counts.resize(counts.len().max(least), 0);
            counts[number as usize] += 1;
        }
        let mut held = Held { labels: Vec::new(), models: Vec::new() };
        let [mut labels, mut cached, mut resident] = [const { Vec::new() }; 3];
        for view in nodes.filter(|view| !view.borrow().devices.is_empty()) {
            let view = view.borrow();
            label_words(view).for_each(|word| count(&mut self.words.labels, &mut labels, &mut held.labels, &word));
            for model in once_each(view.cached.clone()) {
                count(&mut self.words.models, &mut cached, &mut held.models, &model);
            }
            for device in &view.devices {
                for model in once_each(device.warm.clone()) {
                    count(&mut self.words.models, &mut resident, &mut held.models, &model);
                }
            }
        }
        self.labels.reserve(&labels);
        self.cached.reserve(&cached);
        self.resident.reserve(&resident);
        held
    }

    fn unreserve(&mut self, held: Held) {
        held.labels.into_iter().for_each(|number| self.words.labels.release(number));
        held.models.into_iter().for_each(|number| self.words.models.release(number));
    }

    /// A node joins, or is another than it was. Of its devices the first [`MAX_DEVICES`] count.
    pub fn insert(&mut self, view: &NodeView) {
        self.changed();
        let devices = view.devices.len().min(MAX_DEVICES);
        match self.number(&view.id) {
            Some(node) if devices > 0 && self.names.devices(node).count() == devices => self.renew(node, view),
            known => {
                if known.is_some() {
                    self.remove(&view.id);
                }
                for row in self.join(view) {
                    self.tree.insert(&row, &|a, b| self.names.by_id(a, b));
                }
            }
        }
        self.rebalance();
    }

    /// A node leaves; false if it was not there.
    pub fn remove(&mut self, id: &NodeId) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.changed();
        let devices: Vec<u32> = self.names.devices(node).collect();
        if let Some(&first) = devices.first() {
            let row = self.tree.row(first);
            for label in self.labels.of(node, row.labels) {
                self.labels.remove(label, node);
                self.words.labels.release(label);
            }
            for model in self.cached.of(node, row.models) {
                self.cached.remove(model, node);
                self.words.models.release(model);
            }
        }
        for device in devices {
            for model in self.resident.of(device, self.tree.row(device).models) {
                self.resident.remove(model, device);
                self.words.models.release(model);
            }
            self.tree.remove(device, &|a, b| self.names.by_id(a, b));
            self.names.unused_devices.push(device);
        }
        let Node { region, taints, .. } = self.names.nodes[node as usize];
        self.words.regions.release(region);
        self.words.taints.release(taints);
        self.ids.remove(node, id, |number| self.names.id(number));
        self.names.nodes[node as usize].id = None;
        self.names.nodes[node as usize].first = NOBODY;
        self.names.unused_nodes.push(node);
        self.rebalance();
        true
    }

    /// Numbers and tags of a new node, and the entries of its devices, which are not in the tree yet.
    fn join(&mut self, view: &NodeView) -> Vec<Row> {
        let names = &mut self.names;
        let node = names.unused_nodes.pop().unwrap_or(names.nodes.len() as u32);
        let (region, taints) = (self.words.regions.hold(&view.region), self.words.hold_taints(&view.taints));
        let fresh = Node {
            id: Some(view.id.clone()),
            first: NOBODY,
            region,
            taints,
            round_trip_ms: millis(view.round_trip.0),
            ask: asks(view.price_per_hour),
            reputation: view.reputation,
            willing: willing(view),
            hostname: hostname(view),
        };
        match names.nodes.get_mut(node as usize) {
            Some(old) => *old = fresh,
            None => names.nodes.push(fresh),
        }
        self.ids.insert(node, &view.id, |number| self.names.id(number));
        let devices = &view.devices[..view.devices.len().min(MAX_DEVICES)];
        let numbers: Vec<u32> = devices.iter().map(|_| self.names.new_device(node)).collect();
        for pair in numbers.windows(2) {
            self.names.devices[pair[0] as usize].next = pair[1];
        }
        self.names.nodes[node as usize].first = numbers.first().copied().unwrap_or(NOBODY);
        if devices.is_empty() {
            return Vec::new();
        }
        let (mut labels, mut models) = (0, 0);
        for word in label_words(view) {
            labels |= self.labels.add(self.words.labels.hold(&word), node).bit();
        }
        for model in once_each(view.cached.clone()) {
            models |= self.cached.add(self.words.models.hold(&model), node).bit();
        }
        let row = |(device, number): (&DeviceView, u32)| {
            let mut models = models;
            for model in once_each(device.warm.clone()) {
                models |= self.resident.add(self.words.models.hold(&model), number).bit();
            }
            self.names.load(number, device);
            self.row(view, device, number, labels, models | self.bloom(number))
        };
        devices.iter().zip(numbers).map(row).collect()
    }

    fn row(&self, view: &NodeView, device: &DeviceView, number: u32, labels: u128, models: u128) -> Row {
        let node = &self.names.nodes[self.names.devices[number as usize].node as usize];
        let rates = Rates::new(view, device);
        let (free, base) = self.names.state(number);
        Row {
            free,
            ask: round24(node.ask) as f32,
            base,
            link: rates.link as f32,
            load: rates.load as f32,
            slowness: rates.slowness as f32,
            facts: class_bit(device.class)
                | tier_bits(view.tier)
                | reputation_bits(view.reputation)
                | region_bit(node.region)
                | taints_bit(node.taints),
            labels,
            models,
            size: size(device.total),
            who: number,
        }
    }

    /// A known node that has as many devices as before.
    fn renew(&mut self, node: u32, view: &NodeView) {
        let devices: Vec<u32> = self.names.devices(node).collect();
        let known = self.tree.row(devices[0]);
        let words: Vec<String> = label_words(view).collect();
        let labels = exchange(&mut self.labels, &mut self.words.labels, node, known.labels, &words);
        let cached =
            exchange(&mut self.cached, &mut self.words.models, node, known.models, &once_each(view.cached.clone()));
        let (region, taints) = (self.words.regions.hold(&view.region), self.words.hold_taints(&view.taints));
        let of = &mut self.names.nodes[node as usize];
        self.words.regions.release(std::mem::replace(&mut of.region, region));
        self.words.taints.release(std::mem::replace(&mut of.taints, taints));
        (of.willing, of.hostname, of.reputation) = (willing(view), hostname(view), view.reputation);
        (of.round_trip_ms, of.ask) = (millis(view.round_trip.0), asks(view.price_per_hour));
        for (device, number) in view.devices.iter().zip(devices) {
            let old = self.tree.row(number);
            let warm = once_each(device.warm.clone());
            let resident = exchange(&mut self.resident, &mut self.words.models, number, old.models, &warm);
            self.names.load(number, device);
            let new = self.row(view, device, number, labels, cached | resident | self.bloom(number));
            self.tree.change(&new, &|a, b| self.names.by_id(a, b));
        }
    }

    /// What a device's entry shows of models that have no bit of their own.
    pub(super) fn bloom(&self, device: u32) -> u128 {
        self.cached.bloom_of(self.names.devices[device as usize].node) | self.resident.bloom_of(device)
    }

    /// Sets or clears a model's own bit, if it has one, and renews the shared ones.
    fn mark_model(&mut self, device: u32, bit: u128, on: bool) {
        let bloom = self.bloom(device);
        self.tree.adjust(device, |block, lane| {
            let mut row = block.get(lane);
            let own = row.models & ((1 << BLOOM) - 1);
            row.models = if on { own | bit } else { own & !bit } | bloom;
            block.set(lane, &row);
        });
    }

    fn mark_label(&mut self, device: u32, bit: u128, on: bool) {
        self.tree.adjust(device, |block, lane| {
            let mut row = block.get(lane);
            row.labels = if on { row.labels | bit } else { row.labels & !bit };
            block.set(lane, &row);
        });
    }

    fn devices_of(&self, nodes: &[u32]) -> Vec<u32> {
        nodes.iter().flat_map(|&node| self.names.devices(node)).collect()
    }

    /// Bits to tags that became common, lists to those that became rare.
    pub(super) fn rebalance(&mut self) {
        while let Some(tag) = self.labels.next_common() {
            self.labels.to_demote().into_iter().for_each(|rare| self.list_label(rare));
            let Some((bit, nodes)) = self.labels.promote(tag) else { break };
            self.devices_of(&nodes).into_iter().for_each(|device| self.mark_label(device, bit, true));
        }
        while let Some(tag) = self.cached.next_common() {
            self.cached.to_demote().into_iter().for_each(|rare| self.list_cached(rare));
            let Some((bit, nodes)) = self.cached.promote(tag) else { break };
            self.devices_of(&nodes).into_iter().for_each(|device| self.mark_model(device, bit, true));
        }
        while let Some(tag) = self.resident.next_common() {
            self.resident.to_demote().into_iter().for_each(|rare| self.list_resident(rare));
            let Some((bit, devices)) = self.resident.promote(tag) else { break };
            devices.into_iter().for_each(|device| self.mark_model(device, bit, true));
        }
        while let Some(tag) = self.labels.next_rare() {
            self.list_label(tag);
        }
        while let Some(tag) = self.cached.next_rare() {
            self.list_cached(tag);
        }
        while let Some(tag) = self.resident.next_rare() {
            self.list_resident(tag);
        }
    }

    fn list_label(&mut self, tag: u32) {
        let bit = self.labels.bit(tag);
        let devices = self.tree.marked(bit, 0);
        self.labels.demote(tag, devices.iter().map(|&device| self.names.devices[device as usize].node));
        devices.into_iter().for_each(|device| self.mark_label(device, bit, false));
    }

    fn list_cached(&mut self, tag: u32) {
        let bit = self.cached.bit(tag);
        let devices = self.tree.marked(0, bit);
        self.cached.demote(tag, devices.iter().map(|&device| self.names.devices[device as usize].node));
        devices.into_iter().for_each(|device| self.mark_model(device, bit, false));
    }

    fn list_resident(&mut self, tag: u32) {
        let bit = self.resident.bit(tag);
        let devices = self.tree.marked(0, bit);
        self.resident.demote(tag, devices.iter().copied());
        devices.into_iter().for_each(|device| self.mark_model(device, bit, false));
    }

    /// A model came to a node's disk, or left it; false if there is no such node, or it is no news.
    pub fn set_cached(&mut self, id: &NodeId, model: &Digest, there: bool) -> bool {
        let Some(node) = self.number(id) else { return false };
        let Some(first) = self.names.devices(node).next() else { return false };
        let models = self.tree.row(first).models;
        let Some(change) = toggle(&mut self.cached, &mut self.words.models, node, models, model, there) else {
            return false;
        };
        self.changed();
        self.devices_of(&[node]).into_iter().for_each(|device| self.mark_model(device, change.bit(), there));
        self.rebalance();
        true
    }

    /// A model came into a device's memory, or left it; false if it is no news.
    pub fn set_resident(&mut self, place: super::Place, model: &Digest, there: bool) -> bool {
        let models = self.tree.row(place.device).models;
        let Some(change) = toggle(&mut self.resident, &mut self.words.models, place.device, models, model, there)
        else {
            return false;
        };
        self.changed();
        self.mark_model(place.device, change.bit(), there);
        self.rebalance();
        true
    }
}

/// Makes `word` one of a carrier's tags, or no longer; `None` if it is so already.
fn toggle<T: Clone + Eq + std::hash::Hash>(
    tags: &mut Tags,
    words: &mut Interner<T>,
    carrier: u32,
    bits: u128,
    word: &T,
    there: bool,
) -> Option<Change> {
    let known = words.find(word).filter(|&tag| tags.carries(tag, carrier, bits));
    match (known, there) {
        (Some(tag), false) => {
            let change = tags.remove(tag, carrier);
            words.release(tag);
            Some(change)
        }
        (None, true) => Some(tags.add(words.hold(word), carrier)),
        _ => None,
    }
}

/// Makes `wanted` a carrier's tags; the bits of those that have one.
fn exchange<T: Clone + Eq + std::hash::Hash>(
    tags: &mut Tags,
    words: &mut Interner<T>,
    carrier: u32,
    bits: u128,
    wanted: &[T],
) -> u128 {
    let had = tags.of(carrier, bits);
    let mut new = 0;
    for word in wanted {
        match words.find(word).filter(|tag| had.contains(tag)) {
            Some(tag) => new |= tags.bit(tag),
            None => new |= tags.add(words.hold(word), carrier).bit(),
        }
    }
    for tag in had {
        if !words.word(tag).is_some_and(|word| wanted.contains(word)) {
            tags.remove(tag, carrier);
            words.release(tag);
        }
    }
    new
}

impl Names {
    fn new_device(&mut self, node: u32) -> u32 {
        let fresh = Device { node, next: NOBODY, queued_ms: 0, running: 0, slots: 0, free: 0 };
        if let Some(number) = self.unused_devices.pop() {
            self.devices[number as usize] = fresh;
            return number;
        }
        self.devices.push(fresh);
        self.devices.len() as u32 - 1
    }

    fn load(&mut self, number: u32, view: &DeviceView) {
        self.devices[number as usize].load(view);
    }
}

impl Words {
    fn hold_taints(&mut self, taints: &[Taint]) -> u32 {
        let number = self.taints.hold(&taints_word(taints));
        self.taint_sets.resize(self.taint_sets.len().max(number as usize + 1), Vec::new());
        if self.taint_sets[number as usize] != taints {
            self.taint_sets[number as usize] = taints.to_vec();
        }
        number
    }
}
