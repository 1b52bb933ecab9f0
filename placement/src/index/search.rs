//! In: a task → out: the best device of all, or none. Invariant: a part of the tree is passed over only if nothing in it fits,
//! or nothing in it is better than what was found.
//!
//! Best-first search (A*, without a way to it): the bound with the least score is opened next, so that the first device
//! that is not worse than every bound left is the answer.

use super::columns::{
    CLASSES, NOBODY, REGIONS, Row, TAINTS, class_bit, region_bit, reputation_bits, taints_bit, tier_bit,
};
use super::frontier::Frontier;
use super::names::{RESIDENT, device_of};
use super::node::{HOSTNAME, label_word};
use super::sieve::Sieve;
use super::tree::{FAN, Leaf, Tree};
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
    pub labels: u64,
    /// Labels it needs that have no bit.
    pub listed: Vec<u32>,
    /// The only node it may run on, by its hostname.
    pub only: Option<u32>,
    pub verdicts: [u32; VERDICTS],
    pub tolerated: u32,
    pub untainted: u32,
    pub least_soft: u32,
    pub model: Option<u32>,
    pub avoid: Vec<u32>,
}

/// A tree to search, and how its rows are read.
pub(super) struct Part<'t> {
    pub tree: &'t Tree,
    pub sieve: Sieve,
    /// Where the model is for every entry, unless it is marked as resident.
    model: Model,
}

impl Part<'_> {
    /// Where the model is for one entry.
    pub fn model_of(&self, entry: u32) -> Model {
        if entry & RESIDENT == 0 { self.model } else { Model::Resident }
    }

    pub fn bound(&self, level: usize, at: usize) -> Row {
        self.tree.levels[level][at / FAN].bounds.get(at % FAN)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    pub key: Key,
    pub device: u32,
}

impl Index {
    /// The best device for a task; `None` if no node fits.
    pub fn best(&self, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        self.found(&query, query.search()?)
    }

    /// What was found, as others see it.
    pub(super) fn found(&self, query: &Query<'_>, best: Best) -> Option<Found<'_>> {
        let device = &self.names.devices[best.device as usize];
        let hot = &self.names.hot[best.device as usize];
        let node = &self.names.nodes[hot.node as usize];
        let wait = wait_nanos(device.queued_ms.into(), device.slots);
        let round_trip = round_trip_nanos(Milliseconds(node.round_trip_ms.into()));
        Some(Found {
            place: Place { device: best.device },
            node: node.id.as_ref()?,
            position: self.names.position(best.device),
            ask: PicoPoints(node.ask.into()),
            predicted: query.work.predict(round_trip, wait, hot.rates(), query.model_at(best.device)),
            busy_ms: query.work.service(hot.rates()).div_ceil(1_000_000),
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
        !self.avoid.is_empty() && self.avoid.contains(&self.index.names.node_of(device))
    }

    /// A device's key as it is now, if it fits.
    pub fn now(&self, device: u32) -> Option<Key> {
        self.exact(device, self.model_at(device))
    }

    /// Nanoseconds that it should take on a device that has the model there.
    pub fn expected(&self, device: u32, model: Model) -> u64 {
        let hot = &self.index.names.hot[device as usize];
        hot.base as u64 + self.work.nanos(hot.rates(), model)
    }

    /// Where the task's model is.
    pub fn model_at(&self, device: u32) -> Model {
        self.model.map_or(Model::Absent, |model| self.index.names.model_at(device, model))
    }

    /// What to search: those that have the model, and all, as if none had it.
    pub fn parts(&self) -> Vec<Part<'q>> {
        let part = |tree: &'q Tree, model| Part { tree, sieve: Sieve::new(self, model), model };
        let holders = self.model.and_then(|model| self.index.holders.get(model as usize));
        let holders = holders.filter(|tree| tree.len() > 0).map(|tree| part(tree, Model::Cached));
        holders.into_iter().chain([part(&self.index.all, Model::Absent)]).collect()
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

    /// The key of a device that has the model there, if it fits: with what its row has rounded, or shares a bit for.
    pub fn exact(&self, device: u32, model: Model) -> Option<Key> {
        let names = &self.index.names;
        let row = names.row(device);
        let key = self.key(&row, model)?;
        let node = &names.nodes[names.node_of(device) as usize];
        let fits = names.devices[device as usize].free >= self.ask.spec.memory.0
            && node.ask <= self.exact_ask
            && self.ask.spec.min_reputation.is_none_or(|need| node.reputation >= need)
            && (self.regions.is_empty() || self.regions.contains(&node.region));
        let known = self.verdicts.get(node.taints as usize).copied();
        let soft_taints = known.unwrap_or_else(|| self.verdict(node.taints));
        (fits && soft_taints != REPELLED).then_some(Key { soft_taints, ..key })
    }

    fn search(&self) -> Option<Best> {
        let mut best = None;
        if self.is_narrow() {
            self.look_at_listed(&mut best, false);
        } else {
            self.look_at_trees(&mut best);
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

    fn look(&self, best: &mut Option<Best>, device: u32) {
        if let Some(key) = self.now(device) {
            self.offer(best, Best { key, device });
        }
    }

    fn offer(&self, best: &mut Option<Best>, new: Best) {
        let better = best.as_ref().is_none_or(|best| match new.key.cmp(&best.key) {
            Ordering::Less => true,
            // The same device may come twice: as one that has the model, and as if it had it not.
            Ordering::Equal => self.index.names.order(new.device, best.device).is_lt(),
            Ordering::Greater => false,
        });
        if better {
            *best = Some(new);
        }
    }

    /// The least key of what may fit below a bound.
    pub fn lower(&self, part: &Part<'_>, bound: &Row) -> Option<Key> {
        self.key(bound, part.model)
    }

    /// Whether nothing of a part with this bound is better than the best.
    pub fn beaten(&self, best: &Option<Best>, part: &Part<'_>, bound: &Row) -> bool {
        let Some(key) = self.lower(part, bound) else { return true };
        let Some(best) = best else { return false };
        match key.cmp(&best.key) {
            Ordering::Less => false,
            Ordering::Equal => bound.who == NOBODY || self.index.names.by_id(bound.who, best.device).is_gt(),
            Ordering::Greater => true,
        }
    }

    fn look_at_trees(&self, best: &mut Option<Best>) {
        let parts = self.parts();
        let mut frontier = Frontier::new();
        for (at, part) in parts.iter().enumerate() {
            match part.tree.levels.len() {
                0 => part.tree.leaves.iter().for_each(|leaf| self.look_at_leaf(best, part, leaf)),
                levels => frontier.add(&parts, at, levels - 1, 0),
            }
        }
        let leaves: usize = parts.iter().map(|part| part.tree.leaves.len()).sum();
        let mut limit = Sieve::limit(best);
        let mut opened = 0;
        while let Some(child) = frontier.next(limit) {
            let (part, level, at) = (&parts[child.part], child.level, child.at);
            // Only next to the best the exact bounds tell more.
            if child.score() >= Sieve::near(limit) && self.beaten(best, part, &part.bound(level, at)) {
                continue;
            }
            if level > 0 {
                frontier.add(&parts, child.part, level - 1, at);
                continue;
            }
            self.look_at_leaf(best, part, &part.tree.leaves[at]);
            limit = Sieve::limit(best);
            opened += 1;
            if opened * 4 > leaves + 64 {
                return parts.iter().for_each(|part| self.look_at_all(best, part));
            }
        }
    }

    /// Bounds were no help: every leaf that might have better, in order.
    fn look_at_all(&self, best: &mut Option<Best>, part: &Part<'_>) {
        let Some(groups) = part.tree.levels.first() else { return };
        for (group, leaves) in groups.iter().zip(part.tree.leaves.chunks(FAN)) {
            let (scores, _) = part.sieve.scores(&group.bounds);
            for (lane, leaf) in leaves.iter().enumerate() {
                if scores[lane] <= Sieve::limit(best) && !self.beaten(best, part, &group.bounds.get(lane)) {
                    self.look_at_leaf(best, part, leaf);
                }
            }
        }
    }

    fn look_at_leaf(&self, best: &mut Option<Best>, part: &Part<'_>, leaf: &Leaf) {
        let scores = part.sieve.of_leaf(leaf, &self.index.names.hot);
        let mut limit = Sieve::limit(best);
        for (&entry, score) in leaf.iter().zip(scores) {
            if score > limit {
                continue;
            }
            let device = device_of(entry);
            let better = |key: &Key| best.as_ref().is_none_or(|best| *key <= best.key);
            if let Some(key) = self.exact(device, part.model_of(entry)).filter(better)
                && !self.avoids(device)
            {
                self.offer(best, Best { key, device });
                limit = Sieve::limit(best);
            }
        }
    }
}
