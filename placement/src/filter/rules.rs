//! In: what the job demands of a node's identity → out: whether the node has it.
//! Invariant: these facts change by hand alone, a reputation by what others have the node do: failing one is not cured by
//! waiting.

use super::{Ask, Reason};
use crate::view::NodeView;
use nightshift_types::{JobSpec, Taint, TaintEffect};

pub(super) fn trust_tier(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    let need = ask.spec.min_trust_tier;
    (node.tier < need).then_some(Reason::TrustTier { need, has: node.tier })
}

pub(super) fn reputation(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    let need = ask.spec.min_reputation?;
    (node.reputation < need).then_some(Reason::Reputation { need, has: node.reputation })
}

pub(super) fn node_selector(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    let matches = ask.spec.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    (!matches).then_some(Reason::NodeSelector)
}

pub(super) fn taints(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    let repelled = untolerated_hard(node, ask.spec).count();
    (repelled > 0).then_some(Reason::Taint { untolerated: repelled })
}

pub(super) fn region(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    let regions = &ask.spec.regions;
    (!regions.is_empty() && !regions.contains(&node.region)).then_some(Reason::Region)
}

/// Taints that keep the job away.
pub(crate) fn untolerated_hard<'a>(node: &'a NodeView, spec: &'a JobSpec) -> impl Iterator<Item = &'a Taint> {
    untolerated(node, spec).filter(|taint| taint.effect != TaintEffect::PreferNoSchedule)
}

/// How many taints only put the job off.
pub(crate) fn untolerated_soft(node: &NodeView, spec: &JobSpec) -> usize {
    untolerated(node, spec).filter(|taint| taint.effect == TaintEffect::PreferNoSchedule).count()
}

fn untolerated<'a>(node: &'a NodeView, spec: &'a JobSpec) -> impl Iterator<Item = &'a Taint> {
    node.taints.iter().filter(|taint| !spec.tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}
