//! In: an index → out: whether all it relies on holds. Invariant: nothing is trusted: bounds, places, tags and ids are worked
//! out again from the entries.

use super::columns::{ALL_REPUTATIONS, NOBODY, REGIONS, Row, TAINTS, region_bit, reputation_bits, taints_bit};
use super::names::{ALL, RESIDENT, device_of};
use super::tree::{FAN, LANES, Tree, used};
use super::{Index, NodeId};
use crate::latency::round24;
use thiserror::Error;

/// An index that no decision should be made from: a defect in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// A bound is not what its entries say.
    #[error("the bound of node {node} at level {level} is not that of what is below it")]
    Bound {
        /// From the blocks up.
        level: usize,
        /// Position in the level.
        node: usize,
    },
    /// The first id below a bound is not known there.
    #[error("the first id of node {node} at level {level} is not the first of what is below it")]
    First {
        /// From the blocks up.
        level: usize,
        /// Position in the level.
        node: usize,
    },
    /// A device is not where its place says, or its node does not know it.
    #[error("device {device} is not where it should be")]
    Device {
        /// Its number.
        device: u32,
    },
    /// A node is not found by its id, or another is.
    #[error("node {id} is not found by its id")]
    Id {
        /// The node.
        id: NodeId,
    },
    /// A label has another number of carriers than it should, or a carrier both ways.
    #[error("label {tag} is carried by {carriers}, and should be by {expected}")]
    Label {
        /// Its number.
        tag: u32,
        /// As counted from the entries and lists.
        carriers: u32,
        /// As kept.
        expected: u32,
    },
}

impl Index {
    /// Checks everything that decisions rely on; slow, for tests and for a doubt in production.
    pub fn check_invariants(&self) -> Result<(), IndexError> {
        self.check_devices()?;
        self.check_tree(&self.all, ALL)?;
        for (model, tree) in (0..).zip(&self.holders) {
            self.check_tree(tree, model)?;
        }
        self.check_ids()?;
        self.check_labels()
    }

    fn check_devices(&self) -> Result<(), IndexError> {
        let (mut seen, mut held) = (0, 0);
        for node in 0..self.names.nodes.len() as u32 {
            for device in self.names.devices(node) {
                let (of, hot) = (&self.names.nodes[node as usize], &self.names.hot[device as usize]);
                let facts = region_bit(of.region) | taints_bit(of.taints) | reputation_bits(of.reputation);
                let same = hot.node == node
                    && hot.facts & (REGIONS | TAINTS | ALL_REPUTATIONS) == facts
                    && ((hot.free, hot.base), hot.ask) == (self.names.state(device), round24(of.ask) as f32);
                let mut models: Vec<u32> = self.names.holdings(device).map(|(held, _)| held & !RESIDENT).collect();
                held += models.len();
                models.sort_unstable();
                if !same || of.id.is_none() || models.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(IndexError::Device { device });
                }
                seen += 1;
            }
        }
        let trees: usize = self.holders.iter().map(Tree::len).sum();
        if (seen, seen, held) != (self.names.count_devices(), self.all.len(), trees) {
            return Err(IndexError::Device { device: NOBODY });
        }
        Ok(())
    }

    fn check_tree(&self, tree: &Tree, which: u32) -> Result<(), IndexError> {
        let mut seen = 0;
        for (leaf, entries) in tree.leaves.iter().enumerate() {
            for (lane, &entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != NOBODY) {
                let device = device_of(entry);
                let known = which == ALL && entry == device || which != ALL && entry == self.names.entry(device, which);
                if !known || self.names.place(which, device) as usize != leaf * LANES + lane {
                    return Err(IndexError::Device { device });
                }
                seen += 1;
            }
        }
        if seen != tree.len() {
            return Err(IndexError::Device { device: NOBODY });
        }
        self.check_bounds(tree)
    }

    fn check_bounds(&self, tree: &Tree) -> Result<(), IndexError> {
        for (level, groups) in tree.levels.iter().enumerate() {
            for (node, group) in groups.iter().enumerate() {
                for lane in 0..tree.children(level, node) {
                    let below = node * FAN + lane;
                    let (bound, who, count) = match level.checked_sub(1) {
                        None => {
                            let leaf = &tree.leaves[below];
                            (Tree::bound_of(leaf, &self.names), &leaf[..], used(leaf).count() as u32)
                        }
                        Some(level) => {
                            let group = &tree.levels[level][below];
                            (group.bounds.bound(), &group.bounds.who[..], group.used.iter().sum())
                        }
                    };
                    let kept = group.bounds.get(lane);
                    if kept != (Row { who: kept.who, ..bound }) || group.used[lane] != count {
                        return Err(IndexError::Bound { level, node: below });
                    }
                    let mut firsts = who.iter().filter(|&&who| who != NOBODY);
                    let among = who.contains(&kept.who) || (kept.who == NOBODY && count == 0);
                    if !among || firsts.any(|&first| self.names.by_id(first, kept.who).is_lt()) {
                        return Err(IndexError::First { level, node: below });
                    }
                }
            }
        }
        Ok(())
    }

    fn check_ids(&self) -> Result<(), IndexError> {
        for (number, node) in self.names.nodes.iter().enumerate() {
            if let Some(id) = &node.id
                && self.number(id) != Some(number as u32)
            {
                return Err(IndexError::Id { id: id.clone() });
            }
        }
        Ok(())
    }

    fn check_labels(&self) -> Result<(), IndexError> {
        let mut counts = std::collections::BTreeMap::<u32, u32>::new();
        for node in 0..self.names.nodes.len() as u32 {
            let mut words = self.names.devices(node).map(|device| self.names.devices[device as usize].labels);
            let Some(word) = words.next() else { continue };
            if let Some(device) = words.position(|other| other != word) {
                return Err(IndexError::Device { device: device as u32 });
            }
            self.labels.of(node, word).into_iter().for_each(|tag| *counts.entry(tag).or_default() += 1);
        }
        for tag in 0..self.labels.limit() {
            let (carriers, expected) = (counts.get(&tag).copied().unwrap_or(0), self.labels.count(tag));
            let twice = self.labels.bit(tag) != 0 && self.labels.listed(tag).next().is_some();
            if carriers != expected || twice {
                return Err(IndexError::Label { tag, carriers, expected });
            }
        }
        Ok(())
    }
}
