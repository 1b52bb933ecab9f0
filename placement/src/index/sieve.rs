//! In: many rows or bounds → out: a score of each as a float, infinite where nothing fits: in a few vector instructions.
//! Invariant: what fits has a finite score, and none of two whose exact scores differ by more than [`ERROR`] is mistaken.

use super::columns::Columns;
use super::search::{Best, Query};
use crate::latency::LEAST_SERVICE_NANOS;

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
    cached: (usize, u32),
    resident: (usize, u32),
    /// KiB over the link, with and without the model; KiB of the model.
    sent: f32,
    input: f32,
    model: f32,
    /// Nanoseconds of computing are this times the slowness.
    pub reference: f32,
    /// What a picopoint of ask, and a nanosecond of expected time, weigh in the score.
    pub by_ask: f32,
    pub by_time: f32,
}

impl Sieve {
    pub fn new(query: &Query<'_>) -> Self {
        let [absent, cached, _] = query.work.kibis();
        let (by_ask, by_time) = query.goal.weights();
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
            cached: part(query.cached.bits),
            resident: part(query.resident.bits),
            // Rates are a MiB's.
            sent: absent.0 as f32 / 1024.0,
            input: cached.0 as f32 / 1024.0,
            model: cached.1 as f32 / 1024.0,
            reference: query.work.corrected_micros() as f32 / 1024.0,
            by_ask: by_ask as f32,
            by_time: by_time as f32 * (query.work.percentile().parts() as f32 / 256.0),
        }
    }

    /// For rows whose first part of models has these bits, and nothing else.
    pub fn of_a_side(self, cached: u32, resident: u32) -> Self {
        Self { cached: (0, cached), resident: (0, resident), ..self }
    }

    /// No score above this is of something better than the best.
    pub fn limit(&self, best: &Option<Best>) -> f32 {
        match best {
            // Whatever is untainted is better than a best that is not.
            Some(best) if best.key.soft_taints == 0 => best.key.first as f32 * (1.0 + ERROR) + 1.0,
            _ => f32::MAX,
        }
    }

    /// From this score on something may be worse than the best whose limit this is.
    pub fn near(&self, limit: f32) -> f32 {
        limit * (1.0 - 3.0 * ERROR) - 2.0
    }

    /// Of every row a score, and what is second.
    pub fn scores<const N: usize>(&self, rows: &Columns<N>) -> ([f32; N], [f32; N]) {
        let (mut scores, mut seconds) = ([f32::INFINITY; N], [0.0; N]);
        // A word's bits are all in one of its parts.
        let (cached, resident) = (&rows.models[self.cached.0], &rows.models[self.resident.0]);
        for i in 0..N {
            let resident = resident[i] & self.resident.1;
            let here = (cached[i] & self.cached.1) | resident;
            let sent = if here != 0 { self.input } else { self.sent };
            let loaded = if resident != 0 { 0.0 } else { self.model };
            let service = self.reference * rows.slowness[i];
            let service = if service > LEAST_SERVICE_NANOS as f32 { service } else { LEAST_SERVICE_NANOS as f32 };
            let time = rows.base[i] + sent * rows.link[i] + loaded * rows.load[i] + service;
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
}

/// The part of a word that has bits, and these.
fn part(word: u128) -> (usize, u32) {
    let at = if word == 0 { 0 } else { word.trailing_zeros() as usize / 32 };
    (at, (word >> (at * 32)) as u32)
}
