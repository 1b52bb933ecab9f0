//! In: a device that fits → out: its [`Score`]; the least is the best.
//! Invariant: scores are integers, of one device each, and never equal for two devices of a snapshot: the node's id and
//! the device's position are their last members. A score depends on its own node alone, so an index can keep it.
//!
//! | objective | first | then |
//! |---|---|---|
//! | Cheapest | ask × reference time | predicted p95 |
//! | Fastest | predicted p95 | ask × reference time |
//! | Balanced | ask × reference time + [`Weights::waiting_per_hour`] × predicted p95 | predicted p95 |
//!
//! The products are the quote, and the price of waiting, before the division by an hour: exact, so nothing is rounded.

use crate::filter::{Ask, Feasible, untolerated_soft};
use crate::latency::predict;
use crate::view::NodeView;
use nightshift_types::{NodeId, Objective, PicoPoints};

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

/// How good a device is for a task; most important first, less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score<'a> {
    /// The task was lost or refused on this node.
    pub avoided: bool,
    /// `PreferNoSchedule` taints that the job does not tolerate.
    pub soft_taints: usize,
    /// By objective; see the module's table.
    pub first: i128,
    /// By objective; see the module's table.
    pub second: i128,
    /// Bytes left free afterwards: of equals the tightest fit, so that large devices stay free for large tasks.
    pub slack: u64,
    /// Decides between equals.
    pub node: &'a NodeId,
    /// Position of the device in its node.
    pub device: usize,
}

impl<'a> Score<'a> {
    /// Of the device at `position`, which fits.
    pub fn new(node: &'a NodeView, position: usize, ask: &Ask<'_>, weights: &Weights) -> Self {
        let device = &node.devices[position];
        let price = node.price_per_hour.max(PicoPoints::ZERO).0;
        let cost = price.saturating_mul(i128::from(ask.spec.reference.0));
        let time = i128::from(predict(node, device, ask).p95());
        let (first, second) = match ask.spec.objective {
            Objective::Cheapest => (cost, time),
            Objective::Fastest => (time, cost),
            Objective::Balanced => {
                // Reference times are milliseconds, predictions microseconds.
                let waiting = weights.waiting_per_hour.0.max(0).saturating_mul(time);
                (cost.saturating_mul(1_000).saturating_add(waiting), time)
            }
        };
        Self {
            avoided: ask.avoid.contains(&node.id),
            soft_taints: untolerated_soft(node, ask.spec),
            first,
            second,
            slack: device.free.saturating_sub(ask.spec.memory).0,
            node: &node.id,
            device: position,
        }
    }
}

/// The best of a node's devices that fit.
pub fn best<'a>(feasible: &Feasible<'a>, ask: &Ask<'_>, weights: &Weights) -> Option<Score<'a>> {
    feasible.devices.iter().map(|position| Score::new(feasible.node, position, ask, weights)).min()
}
