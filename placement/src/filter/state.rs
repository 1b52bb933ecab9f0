//! In: a node's state → out: whether it takes work at all. Invariant: nothing here depends on the task.

use super::{Ask, Reason};
use crate::view::NodeView;

pub(super) fn unschedulable(node: &NodeView, _: &Ask<'_>) -> Option<Reason> {
    node.unschedulable.then_some(Reason::Unschedulable)
}

pub(super) fn not_ready(node: &NodeView, _: &Ask<'_>) -> Option<Reason> {
    (!node.ready).then_some(Reason::NotReady)
}

pub(super) fn unavailable(node: &NodeView, _: &Ask<'_>) -> Option<Reason> {
    node.unavailable.map(Reason::Unavailable)
}
