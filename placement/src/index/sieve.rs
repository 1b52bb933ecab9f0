//! In: many rows or bounds → out: a score of each as a float, infinite where nothing fits: in a few vector instructions.
//! Invariant: what fits has a finite score, and none of two whose exact scores differ by more than [`ERROR`] is mistaken.

use super::columns::{Columns, NOBODY};
use super::names::{Hot, RESIDENT, device_of};
use super::search::{Best, Query};
use super::tree::{LANES, Leaf};
use crate::latency::{LEAST_SERVICE_NANOS, Model};

/// Far above what eight operations on 32 bit floats can be off by: 8 × 2⁻²⁴.
const ERROR: f32 = 2e-6;

/// What a task asks of rows, in floats.
pub(super) struct Sieve {
    need: f32,
    most_ask: f32,
    most_time: f32,
    classes: u32,
    tier: u32,
    reputation: u32,
    regions: u32,
    tolerated: u32,
    labels: [u32; 2],
    /// KiB over the link, and KiB of the model from disk, in MiB.
    sent: f32,
    loaded: f32,
    /// Nanoseconds of computing are this times the slowness.
    pub reference: f32,
    /// What a picopoint of ask, and a nanosecond of expected time, weigh in the score.
    pub by_ask: f32,
    pub by_time: f32,
}

impl Sieve {
    /// For devices that have the model there.
    pub fn new(query: &Query<'_>, model: Model) -> Self {
        let (by_ask, by_time) = query.goal.weights();
        let (sent, loaded) = query.work.kibis(model);
        Self {
            need: query.need,
            most_ask: query.most_ask,
            most_time: query.most_expected as f32 * (1.0 + ERROR),
            classes: query.classes,
            tier: query.tier,
            reputation: query.reputation,
            regions: query.region_bits,
            tolerated: query.tolerated,
            labels: [query.labels as u32, (query.labels >> 32) as u32],
            // Rates are a MiB's.
            sent: sent as f32 / 1024.0,
            loaded: loaded as f32 / 1024.0,
            reference: query.work.corrected_micros() as f32 / 1024.0,
            by_ask: by_ask as f32,
            by_time: by_time as f32 * (query.work.percentile().parts() as f32 / 256.0),
        }
    }

    /// No score above this is of something better than the best.
    pub fn limit(best: &Option<Best>) -> f32 {
        match best {
            // Whatever is untainted is better than a best that is not.
            Some(best) if best.key.soft_taints == 0 => best.key.first as f32 * (1.0 + ERROR) + 1.0,
            _ => f32::MAX,
        }
    }

    /// From this score on something may be worse than the best whose limit this is.
    pub fn near(limit: f32) -> f32 {
        limit * (1.0 - 3.0 * ERROR) - 2.0
    }

    /// Of every row a score, and what is second.
    pub fn scores<const N: usize>(&self, rows: &Columns<N>) -> ([f32; N], [f32; N]) {
        let (mut scores, mut seconds) = ([f32::INFINITY; N], [0.0; N]);
        for i in 0..N {
            let service = self.reference * rows.slowness[i];
            let service = if service > LEAST_SERVICE_NANOS as f32 { service } else { LEAST_SERVICE_NANOS as f32 };
            let time = rows.base[i] + self.sent * rows.link[i] + self.loaded * rows.load[i] + service;
            let facts = rows.facts[i];
            let fits = (rows.free[i] >= self.need)
                & (rows.ask[i] <= self.most_ask)
                & (time <= self.most_time)
                & (facts & self.classes != 0)
                & (facts & self.tier != 0)
                & (facts & self.regions != 0)
                & (facts & self.tolerated != 0);
            let score = self.by_ask * rows.ask[i] + self.by_time * time;
            scores[i] = if fits { score } else { f32::INFINITY };
            seconds[i] = if self.by_ask == 0.0 { rows.ask[i] } else { time };
        }
        if self.labels != [0, 0] {
            for (i, score) in scores.iter_mut().enumerate() {
                let missing = (!rows.labels[0][i] & self.labels[0]) | (!rows.labels[1][i] & self.labels[1]);
                *score = if missing == 0 { *score } else { f32::INFINITY };
            }
        }
        if self.reputation != 0 {
            for (facts, score) in rows.facts.iter().zip(&mut scores) {
                *score = if facts & self.reputation == self.reputation { *score } else { f32::INFINITY };
            }
        }
        (scores, seconds)
    }

    /// Of every entry of a leaf a score; labels and reputation are not looked at.
    pub fn of_leaf(&self, leaf: &Leaf, hot: &[Hot]) -> [f32; LANES] {
        let mut scores = [f32::INFINITY; LANES];
        for (score, &entry) in scores.iter_mut().zip(leaf) {
            if entry != NOBODY {
                *score = self.of(&hot[device_of(entry) as usize], entry & RESIDENT != 0);
            }
        }
        scores
    }

    fn of(&self, row: &Hot, resident: bool) -> f32 {
        let service = self.reference * row.slowness;
        let service = if service > LEAST_SERVICE_NANOS as f32 { service } else { LEAST_SERVICE_NANOS as f32 };
        let loaded = if resident { 0.0 } else { self.loaded };
        let time = row.base + self.sent * row.link + loaded * row.load + service;
        let fits = (row.free >= self.need)
            & (row.ask <= self.most_ask)
            & (time <= self.most_time)
            & (row.facts & self.classes != 0)
            & (row.facts & self.tier != 0)
            & (row.facts & self.regions != 0)
            & (row.facts & self.tolerated != 0);
        if fits { self.by_ask * row.ask + self.by_time * time } else { f32::INFINITY }
    }
}
