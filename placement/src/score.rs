//! In: a device that fits → out: its [`Score`]; the least is the best.
//! Invariant: scores are integers, of one device each, and never equal for two devices of a snapshot: the node's id and
//! the device's position are their last members. A score depends on its own node alone, and rises with the ask and with
//! the predicted time: so an index can keep it, and bound it for many nodes at once.
//!
//! | objective | first | then |
//! |---|---|---|
//! | Cheapest | ask × reference time | predicted p95 |
//! | Fastest | predicted p95 | ask × reference time |
//! | Balanced | ask × reference time + [`Weights::waiting_per_hour`] × predicted p95 | predicted p95 |
//!
//! The products are the quote, and the price of waiting, before the division by an hour: exact, so nothing is rounded.
//! The ask counts with 24 significant bits, rounded up, as all of the latency model does: see [`crate::latency`].
//! Amounts have bounds that no real one meets, so that nothing overflows: see [`MOST_ASK`] and [`crate::latency`].

use crate::filter::{Ask, Feasible, untolerated_soft};
use crate::latency::{Work, predict, round24};
use crate::view::NodeView;
use nightshift_types::{Bytes, NodeId, Objective, PicoPoints};

/// A higher ask counts as this: 18 million points an hour; of 24 significant bits.
pub const MOST_ASK: PicoPoints = PicoPoints((u64::MAX << 40) as i128);

/// A node's ask in picopoints an hour, as every decision reads it: a negative one is zero.
pub fn asks(price: PicoPoints) -> u64 {
    price.clamp(PicoPoints::ZERO, MOST_ASK).0 as u64
}

/// What the objectives are weighed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Points that an hour of waiting for one task is worth to a `Balanced` job. The default, 0.25, is near a common ask:
    /// a node twice as fast may cost twice as much.
    pub waiting_per_hour: PicoPoints,
}

impl Default for Weights {
    fn default() -> Self {
        Self { waiting_per_hour: PicoPoints(250_000_000_000) }
    }
}

/// How a job's objective weighs ask and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    ask: u64,
    time: u64,
    then_ask: bool,
    priced: bool,
}

impl Goal {
    /// Of a task of so much `work`.
    pub fn new(objective: Objective, work: &Work, weights: &Weights) -> Self {
        // Reference times are microseconds, predictions nanoseconds.
        let cost = work.reference_micros() * 1_000;
        let (ask, time) = match objective {
            Objective::Cheapest => (cost, 0),
            Objective::Fastest => (0, 1),
            Objective::Balanced => (cost, asks(weights.waiting_per_hour)),
        };
        Self { ask, time, then_ask: objective == Objective::Fastest, priced: cost > 0 }
    }

    /// What a picopoint of ask, and a nanosecond of the 95th percentile, weigh in the first number.
    pub fn weights(&self) -> (u64, u64) {
        (self.ask, self.time)
    }

    /// The first and the second number of the score, from an ask and a 95th percentile: neither falls when either rises.
    pub fn weigh(&self, ask: u64, p95: u64) -> (u128, u64) {
        let first = u128::from(self.ask) * u128::from(ask) + u128::from(self.time) * u128::from(p95);
        // The same task everywhere: its cost is ordered as the ask is.
        let second = if !self.then_ask { p95 } else { ask * u64::from(self.priced) };
        (first, second)
    }
}

/// How good a device is for a task; most important first, less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score<'a> {
    /// The task was lost or refused on this node.
    pub avoided: bool,
    /// `PreferNoSchedule` taints that the job does not tolerate.
    pub soft_taints: usize,
    /// By objective; see the module's table. 0.001 picopoint-milliseconds an hour, or nanoseconds.
    pub first: u128,
    /// By objective; see the module's table. Picopoints an hour, or nanoseconds.
    pub second: u64,
    /// The device's memory in MiB: of equals the smaller, so that large devices stay free for large tasks.
    pub size: u32,
    /// Decides between equals.
    pub node: &'a NodeId,
    /// Position of the device in its node.
    pub device: usize,
}

impl<'a> Score<'a> {
    /// Of the device at `position`, which fits.
    pub fn new(node: &'a NodeView, position: usize, ask: &Ask<'_>, weights: &Weights) -> Self {
        let device = &node.devices[position];
        let goal = Goal::new(ask.spec.objective, &Work::new(ask), weights);
        let (first, second) = goal.weigh(round24(asks(node.price_per_hour)), predict(node, device, ask).p95());
        Self {
            avoided: ask.avoid.contains(&node.id),
            soft_taints: untolerated_soft(node, ask.spec),
            first,
            second,
            size: size(device.total),
            node: &node.id,
            device: position,
        }
    }
}

/// MiB, rounded down.
pub fn size(total: Bytes) -> u32 {
    u32::try_from(total.0 >> 20).unwrap_or(u32::MAX)
}

/// The best of a node's devices that fit.
pub fn best<'a>(feasible: &Feasible<'a>, ask: &Ask<'_>, weights: &Weights) -> Option<Score<'a>> {
    feasible.devices.iter().map(|position| Score::new(feasible.node, position, ask, weights)).min()
}
