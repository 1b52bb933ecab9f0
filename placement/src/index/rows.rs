//! In: some devices, and tasks one after another → out: what each task would cost on every one of them ([`Side::weigh`]).
//! Invariant: what is finite fits, as far as 32 bit floats tell; a device that was chosen is looked at again ([`Index::look`]).
//!
//! The rows of the devices are copied side by side, and weighed by the search's own sieve, as if none had the model; then
//! those that have it, one by one. Which these are is worked out once for all tasks that want a model.

use super::columns::{Columns, reputation_is_told};
use super::search::{Best, Query};
use super::sieve::Sieve;
use super::{Found, Index, Place};
use crate::filter::Ask;
use crate::latency::{Model, Work};
use crate::score::Weights;
use std::collections::HashMap;

/// Devices looked at together.
const LANES: usize = 16;

type Block = Columns<LANES>;

/// Devices side by side.
pub(crate) struct Side {
    blocks: Vec<Block>,
    places: Vec<Place>,
    /// By model: which of the devices have it, by position, and where.
    holders: HashMap<u32, Vec<(u32, Model)>>,
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
        let mut holders: HashMap<u32, Vec<(u32, Model)>> = HashMap::new();
        for (place, at) in places.iter().zip(0..) {
            for (model, has) in index.names.models(place.device) {
                holders.entry(model).or_default().push((at, has));
            }
        }
        let block = |places: &[Place]| {
            let mut block: Block = Columns::EMPTY;
            places.iter().enumerate().for_each(|(lane, place)| block.set(lane, &index.names.row(place.device)));
            block
        };
        Self { blocks: places.chunks(LANES).map(block).collect(), places, holders }
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
        &self,
        index: &Index,
        ask: &Ask<'_>,
        weights: &Weights,
        own: usize,
        (costs, slack): (&mut [f32], &mut [f32]),
    ) -> Option<Like> {
        let query = Query::new(index, ask, weights)?;
        let sieve = Sieve::new(&query, Model::Absent);
        let limited = query.most_expected != u64::MAX;
        let own_key = query.now(self.places[own].device)?;
        let fixed = query.is_narrow() || (limited && sieve.by_ask == 0.0 && sieve.by_time == 0.0);
        let plain = query.is_plain() && query.ask.avoid.is_empty();
        let (by_time, reference) = (sieve.by_time, sieve.reference);
        let like = Like { by_time, reference, limited, fixed, shared: plain && !fixed };
        if fixed {
            return Some(like);
        }
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
        let holders = query.model.and_then(|model| self.holders.get(&model));
        for &(at, model) in holders.into_iter().flatten() {
            let device = self.places[at as usize].device;
            if let Some(key) = query.exact(device, model) {
                costs[at as usize] = key.first as f32;
                slack[at as usize] = query.most_expected.saturating_sub(query.expected(device, model)) as f32;
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
                if tainted && query.now(place.device).is_none_or(|key| key.soft_taints > own_key.soft_taints) {
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
        let node = self.index.names.node_of(device);
        self.only.is_none_or(|only| only == node) && self.has_listed(node)
    }
}

impl Index {
    /// What a device would be for a task, as [`Index::best`] tells of the best; `None` if it does not fit.
    pub(crate) fn look(&self, place: Place, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        let key = query.now(place.device)?;
        let fits = !query.is_narrow() || query.is_listed(place.device);
        let best = Best { key, device: place.device };
        if fits { self.found(&query, best) } else { None }
    }

    /// Milliseconds of a device's own time that a task keeps it.
    pub(crate) fn busy_ms(&self, place: Place, ask: &Ask<'_>) -> u64 {
        Work::new(ask).service(self.names.hot[place.device as usize].rates()).div_ceil(1_000_000)
    }

    /// Free bytes of a device that is open, tasks it still takes, and tasks it may hold.
    pub(crate) fn room(&self, place: Place) -> Option<(u64, u32, u32)> {
        let device = self.names.devices.get(place.device as usize)?;
        let node = self.names.nodes.get(self.names.node_of(place.device) as usize)?;
        (node.willing && device.running < device.slots)
            .then(|| (device.free, device.slots - device.running, device.slots))
    }
}
