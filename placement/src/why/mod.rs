//! In: a task that fits nowhere and the nodes → out: [`WhyNot`]: counted reasons, a word for the job's condition, and the
//! change that would help.
//! Invariant: the counts sum to the number of nodes; the same nodes give the same text.

mod count;
mod suggest;

pub use count::{Count, Nearest};
pub use suggest::{Change, Suggestion};

use crate::filter::{Ask, Class, Reason, ReasonKind, failures, filter};
use crate::view::{MAX_DEVICES, NodeView};
use std::fmt;

/// Why no node takes a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyNot {
    /// Nodes looked at.
    pub total: usize,
    /// By number of nodes, most first, then in the filters' order. The numbers sum to `total`.
    pub counts: Vec<Count>,
    /// By dimension, in the filters' order: the nodes that fail it, whatever else they fail, and how near the nearest is.
    pub misses: Vec<Count>,
    /// Of a gang: how many of those that must start together have a place; the counts are for the next one.
    pub together: Option<Together>,
    /// Devices or places that were kept for tasks that waited too long: they count as full.
    pub kept: usize,
    reason: AdmittedReason,
    suggestions: Vec<Suggestion>,
}

/// A gang that cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    /// How many could start now.
    pub fit: usize,
    /// How many must.
    pub need: usize,
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the {} that must start together fit", self.fit, self.need)
    }
}

/// The reasons of `Admitted=False` that a decision can give, in the API's precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdmittedReason {
    /// No node could ever take it: class, size, tier, reputation, labels, taints, region or speed forbid.
    NoMatchingNode,
    /// Nodes could, but each asks more than the job may pay.
    PriceAboveLimit,
    /// A node would, were it free, available and ready.
    WaitingForCapacity,
}

impl AdmittedReason {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoMatchingNode => "NoMatchingNode",
            Self::PriceAboveLimit => "PriceAboveLimit",
            Self::WaitingForCapacity => "WaitingForCapacity",
        }
    }
}

impl fmt::Display for AdmittedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WhyNot {
    /// Looks at every node again, this time at every filter. Nodes that fit are not counted: ask only for a refused task.
    pub fn explain<'n>(nodes: impl Iterator<Item = &'n NodeView>, ask: &Ask<'_>) -> Self {
        let mut counts: Vec<Option<Count>> = vec![None; ReasonKind::ALL.len()];
        let (mut changes, mut misses) = (Vec::new(), vec![None; ReasonKind::ALL.len()]);
        let mut reason = AdmittedReason::NoMatchingNode;
        let mut total = 0;
        for node in nodes {
            let Err(first) = filter(node, ask) else { continue };
            total += 1;
            add(&mut counts, &first, node, ask);
            let devices = devices_failures(node, ask);
            miss(&mut misses, &devices, node, ask);
            reason = reason.max(devices.iter().map(|reasons| outlook(reasons)).max().unwrap_or(reason));
            changes.extend(suggest::changes(&devices, node, ask));
        }
        let mut counts: Vec<Count> = counts.into_iter().flatten().collect();
        counts.sort_by_key(|count| (std::cmp::Reverse(count.nodes), count.kind));
        let (misses, suggestions) = (misses.into_iter().flatten().collect(), suggest::all(total, changes));
        Self { total, counts, misses, together: None, kept: 0, reason, suggestions }
    }

    /// Of a gang of which too few wait.
    pub(crate) fn none_waits() -> Self {
        let reason = AdmittedReason::WaitingForCapacity;
        let (counts, misses, suggestions) = (Vec::new(), Vec::new(), Vec::new());
        Self { total: 0, counts, misses, together: None, kept: 0, reason, suggestions }
    }

    /// The word for the job's `Admitted` condition.
    ///
    /// A node that fits but for passing reasons makes it `WaitingForCapacity`; else one that fails on money alone (and
    /// passing reasons) `PriceAboveLimit`; else no node can ever take the task. Each thus holds exactly when those of the
    /// API that stand before it do not.
    pub fn admitted_reason(&self) -> AdmittedReason {
        self.reason
    }

    /// The one change that would make it fit on most nodes; `None` where no single change does.
    pub fn suggestion(&self) -> Option<&Suggestion> {
        self.suggestions.first()
    }

    /// Each single change that would make it fit on some nodes, the best first; for amounts the nearest, and the one that is
    /// enough for all that lack nothing else.
    pub fn suggestions(&self) -> &[Suggestion] {
        &self.suggestions
    }

    /// The counted reasons and the suggestion: the condition's message.
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        if let Some(suggestion) = self.suggestion() {
            text += &format!("; {suggestion}");
        }
        match self.kept {
            0 => {}
            1 => text += "; 1 device is kept for a task that waited too long",
            kept => text += &format!("; {kept} places are kept for tasks that waited too long"),
        }
        text
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.together {
            Some(together) if self.total == 0 => return write!(f, "{together}, and no more of them wait"),
            Some(together) => write!(f, "{together}; the next: ")?,
            None => {}
        }
        write!(f, "0/{} nodes fit: ", self.total)?;
        if self.total == 0 {
            return f.write_str("no node has joined yet");
        }
        for (position, count) in self.counts.iter().enumerate() {
            write!(f, "{}{count}", if position > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

fn add(counts: &mut [Option<Count>], reason: &Reason, node: &NodeView, ask: &Ask<'_>) {
    match &mut counts[reason.kind() as usize] {
        Some(count) => count.add(reason, node, ask),
        empty => *empty = Some(Count::new(reason, node, ask)),
    }
}

/// Counts a node once in each dimension that all its devices fail, as the nearest of them does.
fn miss(misses: &mut [Option<Count>], devices: &[Vec<Reason>], node: &NodeView, ask: &Ask<'_>) {
    let Some((first, others)) = devices.split_first() else { return };
    for reason in first {
        let same = |reasons: &Vec<Reason>| reasons.iter().find(|other| other.kind() == reason.kind()).copied();
        let all: Option<Vec<Reason>> = others.iter().map(same).collect();
        let Some(all) = all else { continue };
        add(misses, reason, node, ask);
        if let Some(count) = &mut misses[reason.kind() as usize] {
            all.iter().for_each(|other| count.near(other, node, ask));
        }
    }
}

/// What each device of a node fails; of a node without devices, what the node fails.
fn devices_failures(node: &NodeView, ask: &Ask<'_>) -> Vec<Vec<Reason>> {
    if node.devices.is_empty() {
        return vec![failures(node, None, ask)];
    }
    node.devices.iter().take(MAX_DEVICES).map(|device| failures(node, Some(device), ask)).collect()
}

/// What one device promises.
fn outlook(reasons: &[Reason]) -> AdmittedReason {
    match reasons.iter().map(|reason| reason.kind().class()).max() {
        Some(Class::Lasting) => AdmittedReason::NoMatchingNode,
        Some(Class::Money) => AdmittedReason::PriceAboveLimit,
        Some(Class::Passing) | None => AdmittedReason::WaitingForCapacity,
    }
}
