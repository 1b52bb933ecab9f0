//! In: a task → out: the best device of all, or none. Invariant: a part of the tree is passed over only if nothing in it fits,
//! or nothing in it is better than what was found.
//!
//! Best-first search (A*, without a way to it): the bound with the least score is opened next, so that the first device
//! that is not worse than every bound left is the answer.

use super::columns::{
    CLASSES, NOBODY, REGIONS, Row, TAINTS, class_bit, region_bit, reputation_bits, taints_bit, tier_bit,
};
use super::frontier::Frontier;
use super::node::{HOSTNAME, label_word};
use super::sieve::Sieve;
use super::tags::Tags;
use super::tree::{Block, FAN};
use super::{Index, Place};
use crate::filter::Ask;
use crate::latency::{Model, Prediction, Work, round_trip_nanos, round24, wait_nanos};
use crate::score::{Goal, MOST_ASK, Weights, asks};
use nightshift_types::{Milliseconds, NodeId, PicoPoints, TaintEffect};
use std::cmp::Ordering;

/// The best device for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'i> {
    /// For [`Index::take`].
    pub place: Place,
    /// The node.
    pub node: &'i NodeId,
    /// Position of the device in its node.
    pub position: usize,
    /// What the node asks, picopoints an hour.
    pub ask: PicoPoints,
    /// What the run should take.
    pub predicted: Prediction,
    /// Milliseconds of the device's own time it takes, for [`Index::take`].
    pub busy_ms: u64,
}

/// A score without its ties: what [`crate::score::Score`] has between `avoided` and `node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub soft_taints: u32,
    pub first: u128,
    second: u64,
    size: u32,
}

/// Sets of taints with a verdict worked out before the search; others are looked at one by one.
const VERDICTS: usize = 64;
/// Not tolerated.
const REPELLED: u32 = u32::MAX;

/// A task as the search reads it.
pub(super) struct Query<'q> {
    pub index: &'q Index,
    pub ask: &'q Ask<'q>,
    pub work: Work,
    pub goal: Goal,
    /// As rows have them: nothing that fits has less, or more.
    pub need: f32,
    pub most_ask: f32,
    pub exact_ask: u64,
    pub most_expected: u64,
    /// Bits of the classes, of the tier, and all those of the reputation.
    pub classes: u32,
    pub tier: u32,
    pub reputation: u32,
    /// Interned; empty: any.
    pub regions: Vec<u32>,
    pub region_bits: u32,
    /// Bits of the labels it needs.
    pub labels: u128,
    /// Labels it needs that have no bit.
    pub listed: Vec<u32>,
    /// The only node it may run on, by its hostname.
    pub only: Option<u32>,
    pub verdicts: [u32; VERDICTS],
    pub tolerated: u32,
    pub untainted: u32,
    pub least_soft: u32,
    pub model: Option<u32>,
    pub cached: Holders,
    pub resident: Holders,
    pub avoid: Vec<u32>,
}

/// How the search knows who has the task's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holders {
    /// Bits of which one is set in every row and bound with it.
    pub bits: u128,
    /// No other entry has one of the bits.
    exact: bool,
    /// They are few, and looked at one by one instead.
    listed: bool,
}

impl Holders {
    const NOBODY: Self = Self { bits: 0, exact: true, listed: false };

    /// Of `n` devices, the k with the model: a list costs k looks; a search by shared bits about n ÷ k, since that many
    /// nodes without it come before the best with it.
    fn new(tags: &Tags, tag: u32, n: usize) -> Self {
        let count = tags.count(tag) as usize;
        match tags.bit(tag) {
            _ if count == 0 => Self::NOBODY,
            0 if count <= 8 || count * count <= n / 32 => Self { bits: 0, exact: true, listed: true },
            0 => Self { bits: tags.bloom(tag), exact: false, listed: false },
            bits => Self { bits, exact: true, listed: false },
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    pub key: Key,
    pub device: u32,
    pub model: Model,
}

impl Index {
    /// The best device for a task; `None` if no node fits.
    pub fn best(&self, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        self.found(&query.work, query.search()?)
    }

    /// What was found, as others see it.
    pub(super) fn found(&self, work: &Work, best: Best) -> Option<Found<'_>> {
        let rates = self.tree.row(best.device).rates();
        let device = &self.names.devices[best.device as usize];
        let node = &self.names.nodes[device.node as usize];
        let wait = wait_nanos(device.queued_ms.into(), device.slots);
        let round_trip = round_trip_nanos(Milliseconds(node.round_trip_ms.into()));
        Some(Found {
            place: Place { device: best.device },
            node: node.id.as_ref()?,
            position: self.names.position(best.device),
            ask: PicoPoints(node.ask.into()),
            predicted: work.predict(round_trip, wait, rates, best.model),
            busy_ms: work.service(rates).div_ceil(1_000_000),
        })
    }
}

/// The highest ask that a job accepts, by its limit an hour and by what is left of its budget; `None`: none at all.
fn most_ask(ask: &Ask<'_>) -> Option<u64> {
    let clamp = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
    let hourly = match ask.spec.max_price_per_hour {
        Some(limit) => clamp(u128::try_from(limit.0).ok()?),
        None => u64::MAX,
    };
    // A quote is ask × reference ÷ an hour, rounded up: within a whole budget exactly if it is before rounding.
    let by_budget = match (ask.budget, ask.spec.reference) {
        (Some(left), reference) if reference > Milliseconds(0) => {
            let left = u128::try_from(left.0).ok()?;
            clamp(left.saturating_mul(3_600_000) / u128::from(reference.0))
        }
        (Some(left), _) if left < PicoPoints::ZERO => return None,
        _ => u64::MAX,
    };
    Some(hourly.min(by_budget))
}

impl<'q> Query<'q> {
    /// `None` if no node of the index can fit: it needs a region or a label that none has, or may pay less than nothing.
    pub fn new(index: &'q Index, ask: &'q Ask<'q>, weights: &Weights) -> Option<Self> {
        let (spec, words) = (ask.spec, &index.words);
        let exact_ask = most_ask(ask)?;
        let work = Work::new(ask);
        let regions: Vec<u32> = spec.regions.iter().filter_map(|region| words.regions.find(region)).collect();
        if regions.is_empty() && !spec.regions.is_empty() {
            return None;
        }
        let model = words.models.find(&spec.model_digest);
        let classes = spec.device_classes.iter().fold(0, |bits, &class| bits | class_bit(class));
        let mut query = Self {
            index,
            ask,
            work,
            goal: Goal::new(spec.objective, &work, weights),
            need: round24(spec.memory.0) as f32,
            most_ask: round24(exact_ask.min(asks(MOST_ASK))) as f32,
            exact_ask,
            most_expected: spec
                .max_latency
                .map_or(u64::MAX, |limit| work.percentile().within(u128::from(limit.0) * 1_000_000)),
            classes: if classes == 0 { CLASSES } else { classes },
            tier: tier_bit(spec.min_trust_tier),
            reputation: spec.min_reputation.map_or(0, reputation_bits),
            region_bits: regions
                .iter()
                .fold(if regions.is_empty() { REGIONS } else { 0 }, |bits, &r| bits | region_bit(r)),
            regions,
            labels: 0,
            listed: Vec::new(),
            only: None,
            verdicts: [0; VERDICTS],
            tolerated: TAINTS,
            untainted: TAINTS,
            least_soft: 0,
            model,
            cached: model.map_or(Holders::NOBODY, |tag| Holders::new(&index.cached, tag, index.tree.len())),
            resident: model.map_or(Holders::NOBODY, |tag| Holders::new(&index.resident, tag, index.tree.len())),
            avoid: ask.avoid.iter().filter_map(|id| index.number(id)).collect(),
        };
        query.select()?;
        query.judge();
        Some(query)
    }

    /// Few nodes come into question, and are looked at one by one.
    pub fn is_narrow(&self) -> bool {
        self.only.is_some() || !self.listed.is_empty()
    }

    /// Whether a node has the labels that have no bit.
    pub fn has_listed(&self, node: u32) -> bool {
        self.listed.iter().all(|&tag| self.index.labels.is_listed(tag, node))
    }

    /// Whether a device's node is one to avoid.
    pub fn avoids(&self, device: u32) -> bool {
        !self.avoid.is_empty() && self.avoid.contains(&self.index.names.devices[device as usize].node)
    }

    /// A device's key as it is now, if it fits, and where its model is.
    pub fn now(&self, device: u32) -> Option<(Key, Model)> {
        let row = self.index.tree.row(device);
        let model = self.model_of(self.index.names.devices[device as usize].node, device);
        Some((self.exact(&row, model)?, model))
    }

    /// Labels, by bit or by list; `None` if no node has them.
    fn select(&mut self) -> Option<()> {
        for (key, value) in &self.ask.spec.node_selector {
            if let Some(tag) = self.index.words.labels.find(&label_word(key, value)) {
                match self.index.labels.bit(tag) {
                    0 => self.listed.push(tag),
                    bit => self.labels |= bit,
                }
            } else {
                let id = (key == HOSTNAME).then(|| NodeId::new(value.as_str()).ok()).flatten()?;
                let node = self.index.number(&id).filter(|&node| self.index.names.nodes[node as usize].hostname)?;
                self.only = Some(node);
            }
        }
        self.listed.sort_by_key(|&tag| self.index.labels.count(tag));
        Some(())
    }

    /// What it makes of each set of taints.
    fn judge(&mut self) {
        let sets = self.index.words.taints.limit();
        if sets <= 1 {
            return;
        }
        (self.tolerated, self.untainted, self.least_soft) = (0, 0, u32::MAX);
        for set in 0..sets.min(VERDICTS) as u32 {
            let verdict = self.verdict(set);
            self.verdicts[set as usize] = verdict;
            if verdict != REPELLED {
                self.tolerated |= taints_bit(set);
                self.least_soft = if verdict > 0 { self.least_soft.min(verdict) } else { self.least_soft };
            }
            if verdict == 0 {
                self.untainted |= taints_bit(set);
            }
        }
        if sets > VERDICTS {
            (self.tolerated, self.untainted) = (TAINTS, TAINTS);
        }
    }

    fn verdict(&self, set: u32) -> u32 {
        let spec = self.ask.spec;
        let open = |taint: &&nightshift_types::Taint| !spec.tolerations.iter().any(|other| other.tolerates(taint));
        let mut soft = 0;
        for taint in self.index.words.taint_sets[set as usize].iter().filter(open) {
            match taint.effect {
                TaintEffect::PreferNoSchedule => soft += 1,
                TaintEffect::NoSchedule | TaintEffect::NoExecute => return REPELLED,
            }
        }
        soft
    }

    /// The key of a row, if it fits as far as the row tells; of a bound, the least key of what may fit below.
    fn key(&self, row: &Row, model: Model) -> Option<Key> {
        let fits = row.free >= self.need
            && row.ask <= self.most_ask
            && row.facts & self.classes != 0
            && row.facts & self.tier != 0
            && row.facts & self.reputation == self.reputation
            && row.facts & self.region_bits != 0
            && row.facts & self.tolerated != 0
            && row.labels & self.labels == self.labels;
        if !fits {
            return None;
        }
        let expected = row.base as u64 + self.work.nanos(row.rates(), model);
        if expected > self.most_expected {
            return None;
        }
        let (first, second) = self.goal.weigh(row.ask as u64, self.work.percentile().of_expected(expected));
        let soft_taints = if row.facts & self.untainted != 0 { 0 } else { self.least_soft };
        Some(Key { soft_taints, first, second, size: row.size })
    }

    /// The key of a device, if it fits: with what its row has rounded, or shares a bit for.
    fn exact(&self, row: &Row, model: Model) -> Option<Key> {
        let key = self.key(row, model)?;
        let device = &self.index.names.devices[row.who as usize];
        let node = &self.index.names.nodes[device.node as usize];
        let fits = device.free >= self.ask.spec.memory.0
            && node.ask <= self.exact_ask
            && self.ask.spec.min_reputation.is_none_or(|need| node.reputation >= need)
            && (self.regions.is_empty() || self.regions.contains(&node.region));
        let known = self.verdicts.get(node.taints as usize).copied();
        let soft_taints = known.unwrap_or_else(|| self.verdict(node.taints));
        (fits && soft_taints != REPELLED).then_some(Key { soft_taints, ..key })
    }

    /// The best place the model may be, for any entry with no other bits than these.
    fn model_by_bits(&self, models: u128) -> Model {
        if models & self.resident.bits != 0 {
            Model::Resident
        } else if models & self.cached.bits != 0 {
            Model::Cached
        } else {
            Model::Absent
        }
    }

    fn search(&self) -> Option<Best> {
        let mut best = None;
        if self.is_narrow() {
            self.look_at_listed(&mut best, false);
        } else {
            self.each_holder(&mut |device| {
                if !self.avoids(device) {
                    self.look(&mut best, device);
                }
            });
            self.look_at_tree(&mut best);
        }
        if best.is_none() && !self.avoid.is_empty() {
            self.look_at_listed(&mut best, true);
        }
        best
    }

    /// The few nodes that a rare label leaves; or those to avoid, which are taken only if no other fits.
    fn look_at_listed(&self, best: &mut Option<Best>, avoided: bool) {
        let tags = &self.index.labels;
        let fits = |node: u32| self.only.is_none_or(|only| only == node) && self.has_listed(node);
        let mut look = |node: u32| {
            if fits(node) && self.avoid.contains(&node) == avoided {
                for device in self.index.names.devices(node) {
                    self.look(best, device);
                }
            }
        };
        if avoided {
            self.avoid.iter().copied().for_each(look);
        } else if let Some(only) = self.only {
            look(only);
        } else if let Some(&tag) = self.listed.first() {
            tags.listed(tag).for_each(look);
        }
    }

    /// The few devices that have a rare model: their bounds do not tell.
    pub fn each_holder(&self, look: &mut dyn FnMut(u32)) {
        let Some(model) = self.model else { return };
        if self.resident.listed {
            self.index.resident.listed(model).for_each(&mut *look);
        }
        if self.cached.listed {
            let nodes = self.index.cached.listed(model);
            nodes.flat_map(|node| self.index.names.devices(node)).for_each(look);
        }
    }

    /// Where the task's model is, exactly.
    fn model_of(&self, node: u32, device: u32) -> Model {
        let Some(model) = self.model else { return Model::Absent };
        let (block, lane) = self.index.tree.place(device);
        let bits = self.index.tree.blocks[block].get(lane).models;
        if self.index.resident.carries(model, device, bits) {
            Model::Resident
        } else if self.index.cached.carries(model, node, bits) {
            Model::Cached
        } else {
            Model::Absent
        }
    }

    fn look(&self, best: &mut Option<Best>, device: u32) {
        if let Some((key, model)) = self.now(device) {
            self.offer(best, Best { key, device, model });
        }
    }

    fn offer(&self, best: &mut Option<Best>, new: Best) {
        let better = best.as_ref().is_none_or(|best| match new.key.cmp(&best.key) {
            Ordering::Less => true,
            // The same device may come twice: from a list, where its model is, and from the tree, as if it had it not.
            Ordering::Equal => self.index.names.order(new.device, best.device).is_lt(),
            Ordering::Greater => false,
        });
        if better {
            *best = Some(new);
        }
    }

    /// The least key of what may fit below a bound.
    pub fn lower(&self, bound: &Row) -> Option<Key> {
        self.key(bound, self.model_by_bits(bound.models))
    }

    /// Whether nothing of a part with this bound is better than the best.
    pub fn beaten(&self, best: &Option<Best>, bound: &Row) -> bool {
        let Some(key) = self.lower(bound) else { return true };
        let Some(best) = best else { return false };
        match key.cmp(&best.key) {
            Ordering::Less => false,
            Ordering::Equal => bound.who == NOBODY || self.index.names.by_id(bound.who, best.device).is_gt(),
            Ordering::Greater => true,
        }
    }

    fn look_at_tree(&self, best: &mut Option<Best>) {
        let tree = &self.index.tree;
        let sieve = Sieve::new(self);
        let mut limit = sieve.limit(best);
        let mut frontier = Frontier::new();
        frontier.add(&sieve, tree, tree.levels.len() - 1, 0);
        let mut opened = 0;
        while let Some(child) = frontier.next(limit) {
            let (level, at) = (child.level, child.at);
            // Only next to the best the exact bounds tell more.
            if child.score() >= sieve.near(limit)
                && self.beaten(best, &tree.levels[level][at / FAN].bounds.get(at % FAN))
            {
                continue;
            }
            if level > 0 {
                frontier.add(&sieve, tree, level - 1, at);
                continue;
            }
            self.look_at_block(best, &sieve, &tree.blocks[at]);
            limit = sieve.limit(best);
            opened += 1;
            if opened * 4 > tree.blocks.len() + 64 {
                return self.look_at_all(best, &sieve);
            }
        }
    }

    /// Bounds were no help: every block that might have better, in order.
    fn look_at_all(&self, best: &mut Option<Best>, sieve: &Sieve) {
        for (group, blocks) in self.index.tree.levels[0].iter().zip(self.index.tree.blocks.chunks(FAN)) {
            let (scores, _) = sieve.scores(&group.bounds);
            for (lane, block) in blocks.iter().enumerate() {
                if scores[lane] <= sieve.limit(best) && !self.beaten(best, &group.bounds.get(lane)) {
                    self.look_at_block(best, sieve, block);
                }
            }
        }
    }

    fn look_at_block(&self, best: &mut Option<Best>, sieve: &Sieve, block: &Block) {
        let better = |best: &Option<Best>, key: &Key| best.as_ref().is_none_or(|best| *key <= best.key);
        let (scores, _) = sieve.scores(block);
        let mut limit = sieve.limit(best);
        for (lane, score) in scores.into_iter().enumerate() {
            if score > limit {
                continue;
            }
            let row = block.get(lane);
            let mut model = self.model_by_bits(row.models);
            if !self.key(&row, model).is_some_and(|key| better(best, &key)) {
                continue;
            }
            if self.avoids(row.who) {
                continue;
            }
            if !(self.cached.exact && self.resident.exact) && model != Model::Absent {
                // The bit may be another model's.
                model = self.model_of(self.index.names.devices[row.who as usize].node, row.who);
            }
            if let Some(key) = self.exact(&row, model).filter(|key| better(best, key)) {
                self.offer(best, Best { key, device: row.who, model });
                limit = sieve.limit(best);
            }
        }
    }
}
