//! In: some devices, and tasks one after another → out: what each task would cost on every one of them ([`Side::weigh`]).
//! Invariant: what is finite fits, as far as 32 bit floats tell; a device that was chosen is looked at again ([`Index::look`]).
//!
//! The rows of the devices are copied side by side, and weighed by the search's own sieve. Where a model is, is worked out
//! once for all tasks that want it.

use super::columns::{Columns, NOBODY, reputation_is_told};
use super::search::{Best, Query};
use super::sieve::Sieve;
use super::tree::{Block, LANES};
use super::{Found, Index, Place};
use crate::filter::Ask;
use crate::latency::Work;
use crate::score::Weights;
use std::collections::HashMap;

/// Bits of [`Columns::models`] as a side has them.
const CACHED: u32 = 1;
const RESIDENT: u32 = 2;

/// Devices side by side.
pub(crate) struct Side {
    blocks: Vec<Block>,
    places: Vec<Place>,
    lanes: HashMap<u32, u32>,
    /// By model: who has it, as the blocks' lanes have it.
    holders: HashMap<Option<u32>, Vec<u32>>,
    /// The model whose holders are in the blocks.
    shown: Option<Option<u32>>,
}

/// What weighs a task's time on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Like {
    /// Of the score, for each nanosecond more.
    pub by_time: f32,
    /// Nanoseconds of computing are this times the device's slowness.
    pub reference: f32,
    /// It has to be in time: its slack was written.
    pub limited: bool,
    /// It can only be on its own device: what it costs there was not written, and no slack.
    pub fixed: bool,
    /// Any other task that demands the same of nodes, and has the same bytes to send, would cost the same where it fits.
    pub shared: bool,
}

impl Side {
    /// Of these devices, which stand in the index, each once.
    pub fn new(index: &Index, places: Vec<Place>) -> Self {
        let rows: Vec<_> = places.iter().map(|place| index.tree.row(place.device)).collect();
        let block = |rows: &[super::columns::Row]| {
            let mut block: Block = Columns::EMPTY;
            rows.iter().enumerate().for_each(|(lane, row)| block.set(lane, row));
            block
        };
        let lanes = places.iter().zip(0..).map(|(place, lane)| (place.device, lane)).collect();
        Self { blocks: rows.chunks(LANES).map(block).collect(), places, lanes, holders: HashMap::new(), shown: None }
    }

    /// Numbers that [`Side::weigh`] writes: those beyond the last device are infinite.
    pub fn width(&self) -> usize {
        self.blocks.len() * LANES
    }

    /// Of each device: see [`crate::latency::Rates`].
    pub fn slowness(&self) -> impl Iterator<Item = f32> + '_ {
        self.blocks.iter().flat_map(|block| block.slowness).take(self.places.len())
    }

    /// What a task would cost on each device, in the unit of its score's first number; infinite where it does not fit, or
    /// is wanted less than on `own`, where it fits: for the taints, or because the node is to be avoided. In `slack` the
    /// nanoseconds that it may take longer, if it has to be in time. `None` if it does not fit `own`.
    pub fn weigh(
        &mut self,
        index: &Index,
        ask: &Ask<'_>,
        weights: &Weights,
        own: usize,
        (costs, slack): (&mut [f32], &mut [f32]),
    ) -> Option<Like> {
        let query = Query::new(index, ask, weights)?;
        let sieve = Sieve::new(&query).of_a_side(CACHED, RESIDENT);
        let limited = query.most_expected != u64::MAX;
        let (own_key, _) = query.now(self.places[own].device)?;
        let fixed = query.is_narrow() || (limited && sieve.by_ask == 0.0 && sieve.by_time == 0.0);
        let plain = query.is_plain() && query.ask.avoid.is_empty();
        let (by_time, reference) = (sieve.by_time, sieve.reference);
        let like = Like { by_time, reference, limited, fixed, shared: plain && !fixed };
        if fixed {
            return Some(like);
        }
        self.show(index, query.model);
        let lanes = costs.chunks_exact_mut(LANES).zip(slack.chunks_exact_mut(LANES));
        for (block, (costs, slack)) in self.blocks.iter().zip(lanes) {
            let (scores, seconds) = sieve.scores(block);
            costs.copy_from_slice(&scores);
            if limited {
                for lane in 0..LANES {
                    let time = if sieve.by_ask == 0.0 { scores[lane] / sieve.by_time } else { seconds[lane] };
                    slack[lane] = query.most_expected as f32 - time;
                }
            }
        }
        if !plain {
            let avoided = query.avoids(self.places[own].device);
            for (cost, place) in costs.iter_mut().zip(&self.places).filter(|(cost, _)| cost.is_finite()) {
                if query.now(place.device).is_none() || (query.avoids(place.device) && !avoided) {
                    *cost = f32::INFINITY;
                }
            }
        }
        if query.least_soft != 0 && query.untainted != query.tolerated {
            let facts = self.blocks.iter().flat_map(|block| block.facts);
            for ((cost, facts), place) in costs.iter_mut().zip(facts).zip(&self.places) {
                let tainted = facts & query.untainted == 0 && cost.is_finite();
                if tainted && query.now(place.device).is_none_or(|(key, _)| key.soft_taints > own_key.soft_taints) {
                    *cost = f32::INFINITY;
                }
            }
        }
        // It fits, whatever floats say.
        if costs[own] == f32::INFINITY {
            costs[own] = own_key.first as f32;
        }
        Some(like)
    }

    /// Puts who has a model into the blocks.
    fn show(&mut self, index: &Index, model: Option<u32>) {
        if self.shown == Some(model) {
            return;
        }
        if !self.holders.contains_key(&model) {
            let holders = self.holders_of(index, model);
            self.holders.insert(model, holders);
        }
        let holders = &self.holders[&model];
        for (block, holders) in self.blocks.iter_mut().zip(holders.chunks_exact(LANES)) {
            block.models[0].copy_from_slice(holders);
        }
        self.shown = Some(model);
    }

    fn holders_of(&self, index: &Index, model: Option<u32>) -> Vec<u32> {
        let mut holders = vec![0; self.width()];
        let Some(model) = model else { return holders };
        for (tags, bit) in [(&index.cached, CACHED), (&index.resident, RESIDENT)] {
            // Models on disk are the nodes', those in memory the devices'.
            let carrier = |device: u32| if bit == CACHED { index.names.devices[device as usize].node } else { device };
            let mut mark = |device: u32| {
                if let Some(&lane) = self.lanes.get(&device) {
                    holders[lane as usize] |= bit;
                }
            };
            if tags.bit(model) == 0 && (tags.count(model) as usize) < self.places.len() {
                for carrier in tags.listed(model) {
                    match bit {
                        CACHED => index.names.devices(carrier).for_each(&mut mark),
                        _ => mark(carrier),
                    }
                }
                continue;
            }
            for place in &self.places {
                let bits = index.tree.row(place.device).models;
                if tags.carries(model, carrier(place.device), bits) {
                    mark(place.device);
                }
            }
        }
        holders
    }
}

impl Query<'_> {
    /// What a row shows tells all but where the model is: no region, and no set of taints, shares a bit, and the
    /// reputation it asks for has one.
    pub fn is_plain(&self) -> bool {
        let words = &self.index.words;
        let told = reputation_is_told(self.ask.spec.min_reputation);
        told && words.taints.limit() <= 8 && (self.regions.is_empty() || words.regions.limit() <= 16)
    }

    /// Whether a device is one of the few of a narrow query.
    pub fn is_listed(&self, device: u32) -> bool {
        let node = self.index.names.devices[device as usize].node;
        self.only.is_none_or(|only| only == node) && self.has_listed(node)
    }
}

impl Index {
    /// What a device would be for a task, as [`Index::best`] tells of the best; `None` if it does not fit.
    pub(crate) fn look(&self, place: Place, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        let (key, model) = query.now(place.device)?;
        let fits = !query.is_narrow() || query.is_listed(place.device);
        let best = Best { key, device: place.device, model };
        if fits { self.found(&query.work, best) } else { None }
    }

    /// Milliseconds of a device's own time that a task keeps it.
    pub(crate) fn busy_ms(&self, place: Place, ask: &Ask<'_>) -> u64 {
        Work::new(ask).service(self.tree.row(place.device).rates()).div_ceil(1_000_000)
    }

    /// Free bytes of a device that is open, tasks it still takes, and tasks it may hold.
    pub(crate) fn room(&self, place: Place) -> Option<(u64, u32, u32)> {
        let device = self.names.devices.get(place.device as usize)?;
        let open = device.node != NOBODY && self.names.nodes[device.node as usize].willing;
        (open && device.running < device.slots).then(|| (device.free, device.slots - device.running, device.slots))
    }
}
