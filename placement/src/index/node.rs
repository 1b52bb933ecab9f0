//! In: a node as placement sees it → out: its entries, tags and numbers in the index.
//! Invariant: a node that left holds no number, no tag and no place; one without devices holds its number alone.

use super::columns::{class_bit, region_bit, reputation_bits, taints_bit, tier_bits};
use super::ids::Interner;
use super::names::{ALL, Hot, Names, Node, model_of};
use super::tags::Tags;
use super::tree::{LANES, Tree};
use super::{Index, Place, Words, millis};
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

/// The index of many nodes: labels are counted first, so that the common ones have their bits from the start; the trees are
/// made at the end, at once.
pub(super) fn build<N: Borrow<NodeView>>(nodes: impl Iterator<Item = N> + Clone) -> Index {
    let mut index = Index {
        names: Names::default(),
        ids: super::Ids::default(),
        all: Tree::new(ALL),
        holders: Vec::new(),
        labels: Tags::new(),
        words: Words::default(),
        version: 0,
        loosened: 0,
    };
    // The empty set is always number 0.
    index.words.hold_taints(&[]);
    let held = index.reserve(nodes.clone());
    for view in nodes {
        let view = view.borrow();
        // A second of the same id replaces the first.
        if let Some(node) = index.number(&view.id) {
            index.forget(node, &view.id);
        }
        index.join(view);
    }
    let all: Vec<u32> = (0..index.names.nodes.len() as u32).flat_map(|node| index.names.devices(node)).collect();
    index.all.fill_with(all.into_iter(), &mut index.names);
    let new = index.names.renumber(index.all.entries());
    index.all.renumber(&new);
    let mut holders = vec![Vec::new(); index.words.models.limit()];
    for device in index.all.entries() {
        for (held, _) in index.names.holdings(device) {
            holders[model_of(held) as usize].push(index.names.entry(device, model_of(held)));
        }
    }
    for (model, entries) in (0..).zip(holders) {
        let mut tree = Tree::new(model);
        tree.fill_with(entries.into_iter(), &mut index.names);
        index.holders.push(tree);
    }
    held.into_iter().for_each(|number| index.words.labels.release(number));
    index.rebalance();
    index
}

impl Index {
    /// Bits for the labels that most nodes have; the words held while they are counted.
    fn reserve<N: Borrow<NodeView>>(&mut self, nodes: impl Iterator<Item = N>) -> Vec<u32> {
        let (mut counts, mut held) = (Vec::<u32>::new(), Vec::new());
        for view in nodes.filter(|view| !view.borrow().devices.is_empty()) {
            for word in label_words(view.borrow()) {
                let number = self.words.labels.find(&word).unwrap_or_else(|| {
                    let number = self.words.labels.hold(&word);
                    held.push(number);
                    number
                });
                counts.resize(counts.len().max(number as usize + 1), 0);
                counts[number as usize] += 1;
            }
        }
        self.labels.reserve(&counts);
        held
    }

    /// A node joins, or is another than it was. Of its devices the first [`MAX_DEVICES`] count.
    pub fn insert(&mut self, view: &NodeView) {
        self.changed();
        let devices = view.devices.len().min(MAX_DEVICES);
        match self.number(&view.id) {
            Some(node) if devices > 0 && self.names.devices(node).len() == devices => self.renew(node, view),
            known => {
                if let Some(node) = known {
                    self.leave(node, &view.id);
                }
                let node = self.join(view);
                self.enter(node);
            }
        }
        self.rebalance();
    }

    /// A node leaves; false if it was not there.
    pub fn remove(&mut self, id: &NodeId) -> bool {
        let Some(node) = self.number(id) else { return false };
        self.changed();
        self.leave(node, id);
        self.rebalance();
        true
    }

    /// The devices of a node come into the trees.
    fn enter(&mut self, node: u32) {
        for device in self.names.devices(node) {
            self.all.insert(device, &mut self.names);
            let models: Vec<u32> = self.names.holdings(device).map(|(held, _)| model_of(held)).collect();
            models.into_iter().for_each(|model| self.enter_holders(device, model));
        }
    }

    fn enter_holders(&mut self, device: u32, model: u32) {
        for model in self.holders.len()..=model as usize {
            self.holders.push(Tree::new(model as u32));
        }
        let entry = self.names.entry(device, model);
        self.holders[model as usize].insert(entry, &mut self.names);
    }

    /// The devices of a node leave the trees.
    fn exit(&mut self, node: u32) {
        for device in self.names.devices(node) {
            self.all.remove(device, &mut self.names);
            let models: Vec<u32> = self.names.holdings(device).map(|(held, _)| model_of(held)).collect();
            for model in models {
                let entry = self.names.entry(device, model);
                self.holders[model as usize].remove(entry, &mut self.names);
            }
        }
    }

    fn leave(&mut self, node: u32, id: &NodeId) {
        self.exit(node);
        self.forget(node, id);
    }

    /// Numbers, labels and models of a node that stands in no tree.
    fn forget(&mut self, node: u32, id: &NodeId) {
        let devices = self.names.devices(node);
        if !devices.is_empty() {
            let labels = self.names.devices[devices.start as usize].labels;
            for label in self.labels.of(node, labels) {
                self.labels.remove(label, node);
                self.words.labels.release(label);
            }
        }
        for device in devices {
            let models: Vec<u32> = self.names.holdings(device).map(|(held, _)| model_of(held)).collect();
            models.into_iter().for_each(|model| self.hold(device, model, [false; 2]));
        }
        let Node { region, taints, .. } = self.names.nodes[node as usize];
        self.words.regions.release(region);
        self.words.taints.release(taints);
        self.ids.remove(node, id, |number| self.names.id(number));
        self.names.drop_devices(node);
        self.names.nodes[node as usize].id = None;
        self.names.unused_nodes.push(node);
    }

    /// What a device has of a model from now on; it stands in none of the model's trees meanwhile.
    fn hold(&mut self, device: u32, model: u32, held: [bool; 2]) {
        let before = self.names.held(device, model) != [false; 2];
        self.names.hold(device, model, held);
        if before && held == [false; 2] {
            self.words.models.release(model);
        }
    }

    fn hold_digest(&mut self, device: u32, digest: &Digest, held: [bool; 2]) {
        let model = self.words.models.hold(digest);
        let fresh = self.names.held(device, model) == [false; 2] && held != [false; 2];
        self.hold(device, model, held);
        if !fresh {
            self.words.models.release(model);
        }
    }

    /// Numbers, labels and models of a new node, which is not in the trees yet.
    fn join(&mut self, view: &NodeView) -> u32 {
        let names = &mut self.names;
        let node = names.unused_nodes.pop().unwrap_or(names.nodes.len() as u32);
        let count = view.devices.len().min(MAX_DEVICES);
        let first = if count == 0 { 0 } else { names.new_devices(node, count as u32) };
        let (region, taints) = (self.words.regions.hold(&view.region), self.words.hold_taints(&view.taints));
        let fresh = Node {
            id: Some(view.id.clone()),
            first,
            count: count as u8,
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
        if count > 0 {
            let mut labels = 0;
            for word in label_words(view) {
                labels |= self.labels.add(self.words.labels.hold(&word), node).bit();
            }
            self.describe(node, view, labels);
        }
        node
    }

    /// What does not change while a device fills and empties.
    fn hot(&self, view: &NodeView, device: &DeviceView, number: u32) -> Hot {
        let (node, rates) = (self.names.node_of(number), Rates::new(view, device));
        let of = &self.names.nodes[node as usize];
        Hot {
            ask: round24(of.ask) as f32,
            link: rates.link as f32,
            load: rates.load as f32,
            slowness: rates.slowness as f32,
            facts: class_bit(device.class)
                | tier_bits(view.tier)
                | reputation_bits(view.reputation)
                | region_bit(of.region)
                | taints_bit(of.taints),
            ..self.names.hot[number as usize]
        }
    }

    /// Rows and models of a node's devices, which are in no tree.
    fn describe(&mut self, node: u32, view: &NodeView, labels: u64) {
        for (device, number) in view.devices.iter().zip(self.names.devices(node)) {
            self.show(view, device, number, labels);
            self.names.restate(number);
            let before: Vec<u32> = self.names.holdings(number).map(|(held, _)| model_of(held)).collect();
            for model in view.cached.iter().chain(&device.warm) {
                let held = [view.cached.contains(model), device.warm.contains(model)];
                self.hold_digest(number, model, held);
            }
            for model in before {
                let digest = self.words.models.word(model);
                if !digest.is_some_and(|digest| view.cached.contains(digest) || device.warm.contains(digest)) {
                    self.hold(number, model, [false; 2]);
                }
            }
        }
    }

    /// A device's row, but for its state.
    fn show(&mut self, view: &NodeView, device: &DeviceView, number: u32, labels: u64) {
        self.names.hot[number as usize] = self.hot(view, device, number);
        let known = &mut self.names.devices[number as usize];
        known.load(device);
        (known.labels, known.size) = (labels, size(device.total));
    }

    /// Whether a device has just these models.
    fn has_just(&self, number: u32, view: &NodeView, device: &DeviceView) -> bool {
        let known = |digest: &Digest| self.words.models.find(digest);
        let mut wanted = 0;
        for (at, digest) in view.cached.iter().chain(&device.warm).enumerate() {
            let held = [view.cached.contains(digest), device.warm.contains(digest)];
            if known(digest).is_none_or(|model| self.names.held(number, model) != held) {
                return false;
            }
            wanted += usize::from(!view.cached.iter().chain(&device.warm).take(at).any(|other| other == digest));
        }
        self.names.holdings(number).count() == wanted
    }

    /// A known node that has as many devices as before.
    fn renew(&mut self, node: u32, view: &NodeView) {
        let known = self.names.devices[self.names.devices(node).start as usize].labels;
        let words: Vec<String> = label_words(view).collect();
        let labels = exchange(&mut self.labels, &mut self.words.labels, node, known, &words);
        let (region, taints) = (self.words.regions.hold(&view.region), self.words.hold_taints(&view.taints));
        let of = &mut self.names.nodes[node as usize];
        self.words.regions.release(std::mem::replace(&mut of.region, region));
        self.words.taints.release(std::mem::replace(&mut of.taints, taints));
        (of.willing, of.hostname, of.reputation) = (willing(view), hostname(view), view.reputation);
        (of.round_trip_ms, of.ask) = (millis(view.round_trip.0), asks(view.price_per_hour));
        let mut devices = view.devices.iter().zip(self.names.devices(node));
        if !devices.all(|(device, number)| self.has_just(number, view, device)) {
            self.exit(node);
            self.describe(node, view, labels);
            return self.enter(node);
        }
        for (device, number) in view.devices.iter().zip(self.names.devices(node)) {
            let before = self.names.row(number);
            self.show(view, device, number, labels);
            let now = self.names.row(number);
            if now == before {
                self.restate(number);
            } else {
                self.names.restate(number);
                self.change(number);
            }
        }
    }

    /// A device's row is another, but for its models.
    fn change(&mut self, device: u32) {
        self.all.change(device, &mut self.names);
        let mut at = self.names.first_holding(device);
        while let Some((held, next)) = self.names.holding_at(at) {
            self.holders[model_of(held) as usize].change(device, &mut self.names);
            at = next;
        }
    }

    fn mark_label(&mut self, device: u32, bit: u64, on: bool) {
        let labels = &mut self.names.devices[device as usize].labels;
        *labels = if on { *labels | bit } else { *labels & !bit };
        let (leaf, _) = self.all.place(device, &self.names);
        self.all.refresh(leaf, &self.names);
        for (held, place) in self.names.holdings(device) {
            self.holders[model_of(held) as usize].refresh(place as usize / LANES, &self.names);
        }
    }

    /// Bits to labels that became common, lists to those that became rare.
    pub(super) fn rebalance(&mut self) {
        while let Some(tag) = self.labels.next_common() {
            self.labels.to_demote().into_iter().for_each(|rare| self.list_label(rare));
            let Some((bit, nodes)) = self.labels.promote(tag) else { break };
            let devices: Vec<u32> = nodes.iter().flat_map(|&node| self.names.devices(node)).collect();
            devices.into_iter().for_each(|device| self.mark_label(device, bit, true));
        }
        while let Some(tag) = self.labels.next_rare() {
            self.list_label(tag);
        }
    }

    fn list_label(&mut self, tag: u32) {
        let bit = self.labels.bit(tag);
        let marked = |device: &u32| self.names.devices[*device as usize].labels & bit != 0;
        let devices: Vec<u32> = self.all.entries().filter(marked).collect();
        self.labels.demote(tag, devices.iter().map(|&device| self.names.node_of(device)));
        devices.into_iter().for_each(|device| self.mark_label(device, bit, false));
    }

    /// A model came to a node's disk, or left it; false if there is no such node, or it is no news.
    pub fn set_cached(&mut self, id: &NodeId, model: &Digest, there: bool) -> bool {
        let Some(node) = self.number(id) else { return false };
        let mut news = false;
        for device in self.names.devices(node) {
            news |= self.set_held(device, model, |[_, resident]| [there, resident]);
        }
        news
    }

    /// A model came into a device's memory, or left it; false if it is no news.
    pub fn set_resident(&mut self, place: Place, model: &Digest, there: bool) -> bool {
        self.set_held(place.device, model, |[cached, _]| [cached, there])
    }

    fn set_held(&mut self, device: u32, digest: &Digest, change: impl Fn([bool; 2]) -> [bool; 2]) -> bool {
        let known = self.words.models.find(digest);
        let before = known.map_or([false; 2], |model| self.names.held(device, model));
        if change(before) == before {
            return false;
        }
        self.changed();
        if let Some(model) = known.filter(|_| before != [false; 2]) {
            let entry = self.names.entry(device, model);
            self.holders[model as usize].remove(entry, &mut self.names);
        }
        self.hold_digest(device, digest, change(before));
        if let Some(model) =
            self.words.models.find(digest).filter(|&model| self.names.held(device, model) != [false; 2])
        {
            self.enter_holders(device, model);
        }
        true
    }
}

/// Makes `wanted` a carrier's tags; the bits of those that have one.
fn exchange(tags: &mut Tags, words: &mut Interner<String>, carrier: u32, bits: u64, wanted: &[String]) -> u64 {
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
