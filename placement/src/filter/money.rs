//! In: a node's ask and the job's limits → out: whether the job may pay it.
//! Invariant: a quote within the budget here is within `maxCost` whatever else is placed in the same plan.

use super::{Ask, Reason};
use crate::score::asks;
use crate::view::{DeviceView, NodeView};
use nightshift_types::PicoPoints;

fn asked(node: &NodeView) -> PicoPoints {
    PicoPoints(asks(node.price_per_hour).into())
}

pub(super) fn price(node: &NodeView, _: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let limit = ask.spec.max_price_per_hour?;
    let price = asked(node);
    (price > limit).then_some(Reason::Price { limit, ask: price })
}

pub(super) fn cost(node: &NodeView, _: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let left = ask.budget?;
    let quote = asked(node).quote(ask.spec.reference);
    (quote > left).then_some(Reason::Cost { left, quote })
}
