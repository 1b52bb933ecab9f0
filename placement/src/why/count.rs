//! In: the reasons of one kind → out: how many nodes, and the nearest miss among them.
//! Invariant: a text never shows two different amounts as the same number.

use crate::filter::{Ask, Reason, ReasonKind, untolerated_hard};
use crate::view::NodeView;
use nightshift_types::{Bytes, DeviceClass, Milliseconds, PicoPoints, Reputation, TaintEffect, TrustTier};
use std::fmt;

/// Nodes with the same kind of reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The kind.
    pub kind: ReasonKind,
    /// How many nodes.
    pub nodes: usize,
    /// How near the nearest of them came.
    pub nearest: Nearest,
}

/// The numbers of a miss; of several the nearest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nearest {
    /// Nothing to measure.
    Nothing,
    /// Least tier demanded, best there is.
    TrustTier(TrustTier, TrustTier),
    /// Least reputation demanded, best there is.
    Reputation(Reputation, Reputation),
    /// Classes accepted.
    DeviceClasses(Vec<DeviceClass>),
    /// What was asked for, or what repels: for people.
    Words(String),
    /// Needed; the largest device, or the most that is free.
    Memory(Bytes, Bytes),
    /// Limit, cheapest.
    Points(PicoPoints, PicoPoints),
    /// Limit, fastest.
    Latency(Milliseconds, Milliseconds),
}

impl Count {
    pub(super) fn new(reason: &Reason, node: &NodeView, ask: &Ask<'_>) -> Self {
        Self { kind: reason.kind(), nodes: 1, nearest: Nearest::of(reason, node, ask) }
    }

    pub(super) fn add(&mut self, reason: &Reason, node: &NodeView, ask: &Ask<'_>) {
        self.nodes += 1;
        self.near(reason, node, ask);
    }

    /// Another device of a node that is counted: it may be nearer.
    pub(super) fn near(&mut self, reason: &Reason, node: &NodeView, ask: &Ask<'_>) {
        match (&mut self.nearest, reason) {
            (Nearest::TrustTier(_, best), Reason::TrustTier { has, .. }) => *best = (*best).max(*has),
            (Nearest::Reputation(_, best), Reason::Reputation { has, .. }) => *best = (*best).max(*has),
            (
                Nearest::Memory(_, best),
                Reason::MemoryTotal { largest: has, .. } | Reason::MemoryFree { free: has, .. },
            ) => {
                *best = (*best).max(*has);
            }
            (Nearest::Points(_, best), Reason::Price { ask: has, .. } | Reason::Cost { quote: has, .. }) => {
                *best = (*best).min(*has);
            }
            (Nearest::Latency(_, best), Reason::TooSlow { p95, .. } | Reason::TooBusy { p95, .. }) => {
                *best = (*best).min(*p95);
            }
            (Nearest::Words(words), Reason::Taint { .. }) => {
                // The same example whatever the nodes' order.
                *words = std::mem::take(words).min(taint_words(node, ask));
            }
            _ => {}
        }
    }
}

impl Nearest {
    fn of(reason: &Reason, node: &NodeView, ask: &Ask<'_>) -> Self {
        let spec = ask.spec;
        match *reason {
            Reason::TrustTier { need, has } => Self::TrustTier(need, has),
            Reason::Reputation { need, has } => Self::Reputation(need, has),
            Reason::DeviceClass => Self::DeviceClasses(spec.device_classes.clone()),
            Reason::NodeSelector => {
                let pairs: Vec<String> =
                    spec.node_selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
                Self::Words(pairs.join(","))
            }
            Reason::Taint { .. } => Self::Words(taint_words(node, ask)),
            Reason::Region => Self::Words(spec.regions.join(", ")),
            Reason::MemoryTotal { need, largest: has, .. } | Reason::MemoryFree { need, free: has } => {
                Self::Memory(need, has)
            }
            Reason::Price { limit, ask: has } | Reason::Cost { left: limit, quote: has } => Self::Points(limit, has),
            Reason::TooSlow { limit, p95 } | Reason::TooBusy { limit, p95 } => Self::Latency(limit, p95),
            _ => Self::Nothing,
        }
    }
}

fn taint_words(node: &NodeView, ask: &Ask<'_>) -> String {
    untolerated_hard(node, ask.spec).map(taint_text).min().unwrap_or_default()
}

/// As `kubectl` writes a taint.
pub(super) fn taint_text(taint: &nightshift_types::Taint) -> String {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    let value = if taint.value.is_empty() { String::new() } else { format!("={}", taint.value) };
    format!("{}{value}:{effect}", taint.key)
}

/// Both rounded for people, or both exact where rounding would make them equal.
fn memory_pair(need: Bytes, has: Bytes) -> (String, String) {
    let (a, b) = (need.human(), has.human());
    if a == b && need != has { (need.to_string(), has.to_string()) } else { (a, b) }
}

/// Points with at least two decimals, as prices are written.
pub(super) fn price_text(points: PicoPoints) -> String {
    let text = points.to_string();
    match text.split_once('.') {
        Some((_, decimals)) if decimals.len() == 1 => format!("{text}0"),
        _ => text,
    }
}

/// `cpu`, `cpu or cuda`; `any` for none.
fn class_list(classes: &[DeviceClass]) -> String {
    if classes.is_empty() {
        return "any".to_owned();
    }
    classes.iter().map(|class| class.as_str()).collect::<Vec<_>>().join(" or ")
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.nodes, self.phrase())
    }
}

impl Count {
    /// What is said of the nodes, without their number.
    fn phrase(&self) -> String {
        use ReasonKind as K;
        match (self.kind, &self.nearest) {
            (K::MemoryTotal, Nearest::Memory(need, largest)) => {
                let (need, largest) = memory_pair(*need, *largest);
                format!("too little memory (need {need}, largest device {largest})")
            }
            (_, Nearest::Memory(need, free)) => {
                let (need, free) = memory_pair(*need, *free);
                format!("too little memory (need {need}, best free {free})")
            }
            (K::Cost, Nearest::Points(left, quote)) => {
                format!("over the {} points left of maxCost (cheapest {})", price_text(*left), price_text(*quote))
            }
            (_, Nearest::Points(limit, price)) => {
                format!("over {} points/h (cheapest {})", price_text(*limit), price_text(*price))
            }
            (K::TooBusy, Nearest::Latency(limit, p95)) => format!("too busy for {limit} (soonest {p95})"),
            (_, Nearest::Latency(limit, p95)) => format!("too slow for {limit} (fastest {p95})"),
            (_, Nearest::TrustTier(need, best)) => format!("below trust tier {need} (best {best})"),
            (_, Nearest::Reputation(need, best)) => format!("below reputation {need} (best {best})"),
            (_, Nearest::DeviceClasses(classes)) => format!("without a device of class {}", class_list(classes)),
            (K::NodeSelector, Nearest::Words(pairs)) => format!("without the labels {pairs}"),
            (K::Region, Nearest::Words(regions)) => format!("outside {regions}"),
            (_, Nearest::Words(taint)) => format!("tainted ({taint})"),
            (_, Nearest::Nothing) => self.kind.words().to_owned(),
        }
    }
}

impl ReasonKind {
    /// For people, where there are no numbers.
    fn words(self) -> &'static str {
        match self {
            Self::Unschedulable => "unschedulable",
            Self::NotReady => "not ready",
            Self::OwnerActive => "owner active",
            Self::OutsideWindow => "outside their owners' hours",
            Self::OnBattery => "on battery",
            Self::Hot => "too hot",
            Self::Draining => "draining",
            Self::Parked => "parked after failures",
            Self::TrustTier => "below the trust tier",
            Self::Reputation => "below the reputation",
            Self::DeviceClass => "without a device of the class",
            Self::NodeSelector => "without the labels",
            Self::Taint => "tainted",
            Self::Region => "outside the regions",
            Self::MemoryTotal | Self::MemoryFree => "too little memory",
            Self::Slots => "without a free slot",
            Self::Price | Self::Cost => "over the price",
            Self::TooSlow => "too slow",
            Self::TooBusy => "too busy",
        }
    }
}
