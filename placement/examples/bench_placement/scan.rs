//! The brute force that the index is held against: every node of a pool, in columns, four at a time (the compiler's
//! vectors), with the index's latency model and score. Exact: whatever the columns of 32 bit floats leave open within
//! their error is decided by the integers.

use crate::population::{MODELS, REGIONS, digest};
use nightshift_placement::latency::{LEAST_SERVICE_NANOS, Model, Rates, Work, round24};
use nightshift_placement::score::{Goal, asks, size};
use nightshift_placement::{Ask, NodeView, Weights};
use nightshift_types::{NodeId, TaintEffect, TrustTier};

const CHUNK: usize = 512;
/// Far above the error of eight operations on 32 bit floats.
const ERROR: f32 = 1e-5;
const TEAM_HARD: u32 = 1 << 30;
const TEAM_SOFT: u32 = 1 << 31;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    soft: bool,
    first: u128,
    second: u64,
    size: u32,
    node: u32,
}

/// Nodes with one device each, in the order of their ids.
pub struct Scan {
    free: Vec<f32>,
    ask: Vec<f32>,
    base: Vec<f32>,
    link: Vec<f32>,
    load: Vec<f32>,
    slowness: Vec<f32>,
    facts: Vec<u32>,
    exact: Vec<Exact>,
    /// A bit a model, in columns of 32 models.
    cached: Vec<Vec<u32>>,
    resident: Vec<Vec<u32>>,
    ids: Vec<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Exact {
    free: u64,
    ask: u64,
    round_trip: u64,
    queued_ms: u64,
    rates: Rates,
    size: u32,
    running: u32,
    slots: u32,
    willing: bool,
}

impl Exact {
    fn base(&self) -> u64 {
        round24(self.round_trip + (self.queued_ms * 1_000_000).div_ceil(u64::from(self.slots)))
    }
}

struct Query {
    need: u64,
    most_ask: u64,
    most_expected: u64,
    all: u32,
    none: u32,
    classes: u32,
    regions: u32,
    work: Work,
    goal: Goal,
    /// What a MiB over the link, a MiB of model, a microsecond of reference time weigh; then ask and time in the score, and
    /// a MiB over the link where the model is there.
    factors: [f32; 6],
    /// Where the model's bit stands.
    column: usize,
    bit: u32,
}

fn facts(view: &NodeView) -> u32 {
    let region = REGIONS.iter().position(|(name, _)| *name == view.region).expect("a known region");
    let mut facts = 1 << (view.devices[0].class as u32) | 1 << (8 + region);
    facts |= u32::from(view.tier >= TrustTier::Vetted) << 3 | u32::from(view.tier >= TrustTier::Operator) << 4;
    facts |= u32::from(view.labels["kubernetes.io/arch"] == "amd64") << 5;
    for taint in &view.taints {
        facts |= if taint.effect == TaintEffect::PreferNoSchedule { TEAM_SOFT } else { TEAM_HARD };
    }
    facts
}

impl Scan {
    pub fn new(nodes: impl Iterator<Item = NodeView>) -> Self {
        let mut scan = Self {
            free: Vec::new(),
            ask: Vec::new(),
            base: Vec::new(),
            link: Vec::new(),
            load: Vec::new(),
            slowness: Vec::new(),
            facts: Vec::new(),
            exact: Vec::new(),
            cached: vec![Vec::new(); MODELS.div_ceil(32)],
            resident: vec![Vec::new(); MODELS.div_ceil(32)],
            ids: Vec::new(),
        };
        let models: std::collections::HashMap<_, usize> = (0..MODELS).map(|model| (digest(model), model)).collect();
        for view in nodes {
            let (number, device) = (scan.exact.len() as u32, &view.devices[0]);
            let rates = Rates::new(&view, device);
            scan.link.push(rates.link as f32 / 1024.0);
            scan.load.push(rates.load as f32 / 1024.0);
            scan.slowness.push(rates.slowness as f32 / 1024.0);
            scan.facts.push(facts(&view));
            for (columns, digests) in [(&mut scan.cached, &view.cached), (&mut scan.resident, &device.warm)] {
                columns.iter_mut().for_each(|column| column.push(0));
                for digest in digests {
                    let model = models[digest];
                    columns[model / 32][number as usize] |= 1 << (model % 32);
                }
            }
            scan.exact.push(Exact {
                free: device.free.0,
                ask: asks(view.price_per_hour),
                round_trip: view.round_trip.0 * 1_000_000,
                queued_ms: device.queued_ms,
                rates,
                size: size(device.total),
                running: device.running,
                slots: device.slots,
                willing: view.ready && !view.unschedulable && view.unavailable.is_none(),
            });
            [&mut scan.free, &mut scan.ask, &mut scan.base].into_iter().for_each(|column| column.push(0.0));
            scan.ids.push(view.id);
            scan.renew(number as usize);
        }
        scan
    }

    fn renew(&mut self, node: usize) {
        let exact = &self.exact[node];
        self.free[node] = if exact.willing && exact.running < exact.slots { exact.free as f32 } else { -1.0 };
        self.ask[node] = exact.ask as f32;
        self.base[node] = exact.base() as f32;
    }

    pub fn take(&mut self, node: usize, memory: u64, busy_ms: u64) {
        let exact = &mut self.exact[node];
        (exact.free, exact.running, exact.queued_ms) =
            (exact.free - memory, exact.running + 1, exact.queued_ms + busy_ms);
        self.renew(node);
    }

    pub fn release(&mut self, node: usize, memory: u64, busy_ms: u64) {
        let exact = &mut self.exact[node];
        (exact.free, exact.running, exact.queued_ms) =
            (exact.free + memory, exact.running - 1, exact.queued_ms - busy_ms);
        self.renew(node);
    }

    /// Where a node stands.
    pub fn position(&self, id: &NodeId) -> usize {
        self.ids.binary_search(id).expect("a node of the pool")
    }

    /// The best node of all.
    pub fn best(&self, ask: &Ask<'_>, weights: &Weights, model: usize) -> Option<usize> {
        let query = Query::new(ask, weights, model);
        let mut best: Option<Key> = None;
        let mut scores = [0f32; CHUNK];
        for start in (0..self.exact.len()).step_by(CHUNK) {
            let end = (start + CHUNK).min(self.exact.len());
            let least = self.scores(&query, start, end, &mut scores);
            if least == f32::INFINITY {
                continue;
            }
            let limit = best.map_or(f32::INFINITY, |best| best.first as f32 * (1.0 + ERROR) + 1.0);
            // A softly tainted best loses to any that is not.
            let limit = if best.is_some_and(|best| best.soft) { f32::MAX } else { limit };
            if least > limit {
                continue;
            }
            for (lane, &score) in scores[..end - start].iter().enumerate() {
                if score <= limit && score < f32::INFINITY {
                    self.offer(&mut best, &query, start + lane);
                }
            }
        }
        best.map(|best| best.node as usize)
    }

    /// Scores of a chunk as floats, infinite where a node cannot fit; the least of them.
    fn scores(&self, query: &Query, start: usize, end: usize, scores: &mut [f32; CHUNK]) -> f32 {
        let count = end - start;
        let (free, ask, base) = (&self.free[start..end], &self.ask[start..end], &self.base[start..end]);
        let (link, load) = (&self.link[start..end], &self.load[start..end]);
        let (slowness, facts) = (&self.slowness[start..end], &self.facts[start..end]);
        let (cached, resident) = (&self.cached[query.column][start..end], &self.resident[query.column][start..end]);
        let [sent, loaded, reference, by_ask, by_time, input] = query.factors;
        let need = query.need as f32 * (1.0 - ERROR);
        let most_ask = query.most_ask as f32 * (1.0 + ERROR);
        let most = query.most_expected as f32 * (1.0 + ERROR);
        let least_service = LEAST_SERVICE_NANOS as f32;
        let scores = &mut scores[..count];
        for i in 0..count {
            let service = reference * slowness[i];
            let service = if service > least_service { service } else { least_service };
            let here = resident[i] & query.bit;
            let sent = if (cached[i] & query.bit) | here != 0 { input } else { sent };
            let loaded = if here != 0 { 0.0 } else { loaded };
            let time = base[i] + sent * link[i] + loaded * load[i] + service;
            let fits = (free[i] >= need)
                & (ask[i] <= most_ask)
                & (time <= most)
                & (facts[i] & query.all == query.all)
                & (facts[i] & query.none == 0)
                & (facts[i] & query.classes != 0)
                & (facts[i] & query.regions != 0);
            let score = by_ask * ask[i] + by_time * time;
            scores[i] = if fits { score } else { f32::INFINITY };
        }
        let mut least = [f32::INFINITY; 8];
        for eight in scores.chunks_exact(8) {
            for (least, &score) in least.iter_mut().zip(eight) {
                *least = if score < *least { score } else { *least };
            }
        }
        let rest = scores.chunks_exact(8).remainder().iter().copied();
        least.into_iter().chain(rest).fold(f32::INFINITY, f32::min)
    }

    fn offer(&self, best: &mut Option<Key>, query: &Query, node: usize) {
        let has = |columns: &[Vec<u32>]| columns[query.column][node] & query.bit != 0;
        let model = match (has(&self.resident), has(&self.cached)) {
            (true, _) => Model::Resident,
            (_, true) => Model::Cached,
            _ => Model::Absent,
        };
        let (exact, facts) = (&self.exact[node], self.facts[node]);
        let expected = exact.base() + query.work.nanos(exact.rates, model);
        let fits = exact.willing
            && exact.running < exact.slots
            && exact.free >= query.need
            && exact.ask <= query.most_ask
            && expected <= query.most_expected
            && facts & query.all == query.all
            && facts & query.none == 0
            && facts & query.classes != 0
            && facts & query.regions != 0;
        if fits {
            let (first, second) = query.goal.weigh(round24(exact.ask), query.work.percentile().of_expected(expected));
            let key = Key { soft: facts & TEAM_SOFT != 0, first, second, size: exact.size, node: node as u32 };
            if best.is_none_or(|best| key < best) {
                *best = Some(key);
            }
        }
    }
}

impl Query {
    fn new(ask: &Ask<'_>, weights: &Weights, model: usize) -> Self {
        let spec = ask.spec;
        let work = Work::new(ask);
        let goal = Goal::new(spec.objective, &work, weights);
        let mut all = u32::from(spec.min_trust_tier >= TrustTier::Vetted) << 3;
        all |= u32::from(spec.min_trust_tier >= TrustTier::Operator) << 4;
        all |= u32::from(!spec.node_selector.is_empty()) << 5;
        let classes = spec.device_classes.iter().fold(0, |bits, &class| bits | 1 << class as u32);
        let region = |name: &String| REGIONS.iter().position(|(other, _)| other == name).map_or(0, |at| 1 << (8 + at));
        let regions = spec.regions.iter().fold(0, |bits, name| bits | region(name));
        let kib = |bytes: u64| bytes.div_ceil(1024) as f32;
        let by = |ask: u64, time: u64| goal.weigh(ask, time).0 as f32;
        Self {
            need: spec.memory.0,
            most_ask: spec.max_price_per_hour.map_or(u64::MAX, asks),
            most_expected: spec
                .max_latency
                .map_or(u64::MAX, |limit| work.percentile().within(u128::from(limit.0) * 1_000_000)),
            all,
            none: TEAM_HARD,
            classes: if classes == 0 { 7 } else { classes },
            regions: if regions == 0 { 0xFFF << 8 } else { regions },
            work,
            goal,
            factors: [
                kib(ask.input.0) + kib(spec.model_size.0),
                kib(spec.model_size.0),
                work.corrected_micros() as f32,
                by(1, 0),
                by(0, 1) * (work.percentile().parts() as f32 / 256.0),
                kib(ask.input.0),
            ],
            column: model / 32,
            bit: 1 << (model % 32),
        }
    }
}
