//! In: every filter that each device fails → out: the one change that would make the task fit on most nodes.
//! Invariant: a node counts only where that change **alone** would make it fit now; what the tenant can change is
//! preferred to waiting.

use super::count::{price_text, taint_text};
use crate::filter::{Ask, Reason, ReasonKind, untolerated_hard};
use crate::view::NodeView;
use nightshift_types::{Bytes, Milliseconds, PicoPoints, Reputation, Taint, TrustTier};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// Changes that are named.
const MOST: usize = 12;

/// One change and the nodes that would fit after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// What to change.
    pub change: Change,
    /// Nodes that would fit then.
    pub nodes: usize,
}

/// What could be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Raise `maxPricePerHour` to this.
    PricePerHour(PicoPoints),
    /// Raise `maxCost` by this.
    MoreCost(PicoPoints),
    /// Need this much device memory instead.
    DeviceMemory(Bytes),
    /// Raise `maxLatencyMilliseconds` to this.
    Latency(Milliseconds),
    /// Lower `minTrustTier` to this.
    TrustTier(TrustTier),
    /// Lower `minReputation` to this.
    Reputation(Reputation),
    /// Tolerate this taint.
    Tolerate(Taint),
    /// Accept this region.
    Region(String),
    /// Drop `nodeSelector`.
    NodeSelector,
    /// Uncordon nodes.
    Uncordon,
    /// Wait until this passes.
    Wait(ReasonKind),
    /// Join a node to the pool.
    JoinNode,
}

/// What would make the node fit: at most one change a device, the nearest of each kind.
pub(super) fn changes(devices: &[Vec<Reason>], node: &NodeView, ask: &Ask<'_>) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    for reasons in devices {
        let [only] = reasons.as_slice() else { continue };
        let Some(change) = cure(only, node, ask) else { continue };
        let key = change.key();
        match found.iter_mut().find(|other| other.key().kind == key.kind) {
            Some(other) if key < other.key() => *other = change,
            Some(_) => {}
            None => found.push(change),
        }
    }
    found
}

/// What cures one reason, if a change of the job or of the nodes does.
fn cure(reason: &Reason, node: &NodeView, ask: &Ask<'_>) -> Option<Change> {
    Some(match *reason {
        Reason::Unschedulable => Change::Uncordon,
        Reason::TrustTier { has, .. } => Change::TrustTier(has),
        Reason::Reputation { has, .. } => Change::Reputation(has),
        // Another class takes another variant of the model, which may need other memory.
        Reason::DeviceClass => return None,
        Reason::NodeSelector => Change::NodeSelector,
        Reason::Taint { untolerated: 1 } => Change::Tolerate(untolerated_hard(node, ask.spec).next()?.clone()),
        Reason::Taint { .. } => return None,
        Reason::Region if node.region.is_empty() => return None,
        Reason::Region => Change::Region(node.region.clone()),
        Reason::MemoryTotal { free, .. } if free > Bytes(0) => Change::DeviceMemory(free),
        Reason::MemoryTotal { .. } => return None,
        Reason::Price { ask, .. } => Change::PricePerHour(ask),
        Reason::Cost { left, quote } => Change::MoreCost(quote - left),
        Reason::TooSlow { p95, .. } => Change::Latency(p95),
        Reason::NotReady
        | Reason::Unavailable(_)
        | Reason::MemoryFree { .. }
        | Reason::Slots { .. }
        | Reason::TooBusy { .. } => Change::Wait(reason.kind()),
    })
}

/// What would help, the best first: the nearest change of each kind, that with most nodes first and waiting last, of equals
/// the first in the order of [`Change`]; then, for amounts, the change that is enough for every node that fails by it alone.
pub(super) fn all(total: usize, changes: Vec<Change>) -> Vec<Suggestion> {
    if total == 0 {
        return vec![Suggestion { change: Change::JoinNode, nodes: 0 }];
    }
    let mut groups: BTreeMap<Key, Suggestion> = BTreeMap::new();
    for change in changes {
        groups.entry(change.key()).or_insert(Suggestion { change, nodes: 0 }).nodes += 1;
    }
    let mut furthest: BTreeMap<u8, Suggestion> = BTreeMap::new();
    for (key, group) in groups.iter().filter(|(_, group)| group.change.measured()) {
        let so_far = furthest.get(&key.kind).map_or(0, |nearer| nearer.nodes);
        furthest.insert(key.kind, Suggestion { change: group.change.clone(), nodes: so_far + group.nodes });
    }
    let mut nearest: Vec<(Key, Suggestion)> = groups.into_iter().collect();
    nearest.dedup_by(|later, first| later.0.kind == first.0.kind && later.1.change.measured());
    furthest.retain(|_, all| nearest.iter().all(|(_, near)| near.change != all.change));
    nearest.sort_by_key(|(key, group)| (group.change.waits(), Reverse(group.nodes), key.clone()));
    nearest.into_iter().map(|(_, near)| near).chain(furthest.into_values()).take(MOST).collect()
}

/// Orders changes: by kind, then the smaller change, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: u8,
    distance: i128,
    name: String,
}

impl Change {
    fn key(&self) -> Key {
        let (kind, distance, name) = match self {
            Self::PricePerHour(price) => (0, price.0, String::new()),
            Self::MoreCost(more) => (1, more.0, String::new()),
            Self::DeviceMemory(memory) => (2, -i128::from(memory.0), String::new()),
            Self::Latency(limit) => (3, i128::from(limit.0), String::new()),
            Self::TrustTier(tier) => (4, -(*tier as i128), String::new()),
            Self::Reputation(least) => (5, -i128::from(least.permille()), String::new()),
            Self::Tolerate(taint) => (6, 0, taint_text(taint)),
            Self::Region(region) => (7, 0, region.clone()),
            Self::NodeSelector => (8, 0, String::new()),
            Self::Uncordon => (9, 0, String::new()),
            Self::JoinNode => (10, 0, String::new()),
            Self::Wait(kind) => (11, 0, kind.as_str().to_owned()),
        };
        Key { kind, distance, name }
    }

    /// Of an amount: the nearest is enough to name.
    fn measured(&self) -> bool {
        self.key().kind <= 5
    }

    /// Nothing to do but wait.
    fn waits(&self) -> bool {
        matches!(self, Self::Wait(_))
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = if self.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", self.nodes) };
        match &self.change {
            Change::PricePerHour(price) => write!(f, "at {} points/h, {nodes} would fit", price_text(*price)),
            Change::MoreCost(more) => write!(f, "with maxCost raised by {}, {nodes} would fit", price_text(*more)),
            Change::DeviceMemory(memory) => write!(f, "with {} of device memory, {nodes} would fit", memory.human()),
            Change::Latency(limit) => write!(f, "with maxLatencyMilliseconds {}, {nodes} would fit", limit.0),
            Change::TrustTier(tier) => write!(f, "with minTrustTier {tier}, {nodes} would fit"),
            Change::Reputation(least) => write!(f, "with minReputation {least}, {nodes} would fit"),
            Change::Tolerate(taint) => write!(f, "with a toleration for {}, {nodes} would fit", taint_text(taint)),
            Change::Region(region) => write!(f, "with the region {region}, {nodes} would fit"),
            Change::NodeSelector => write!(f, "without its nodeSelector, {nodes} would fit"),
            Change::Uncordon => write!(f, "once uncordoned, {nodes} would fit"),
            Change::JoinNode => f.write_str("join one: `nightshift token create` prints the command"),
            Change::Wait(kind) => write!(f, "{nodes} will fit once {}", kind.passes()),
        }
    }
}

impl ReasonKind {
    /// What a task waits for; of the reasons that pass.
    fn passes(self) -> &'static str {
        match self {
            Self::NotReady => "connected",
            Self::OwnerActive => "the owner is away",
            Self::OutsideWindow => "the owner's hours begin",
            Self::OnBattery => "on mains power",
            Self::Hot => "cooler",
            Self::Draining => "drained and back",
            Self::Parked => "its pause is over",
            Self::MemoryFree => "memory is free",
            Self::Slots => "a slot is free",
            _ => "less busy",
        }
    }
}
