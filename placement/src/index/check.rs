//! In: an index → out: whether all it relies on holds. Invariant: nothing is trusted: bounds, places, tags and ids are worked
//! out again from the entries.

use super::columns::{ALL_REPUTATIONS, NOBODY, REGIONS, Row, TAINTS, region_bit, reputation_bits, taints_bit};
use super::tags::{BLOOM, Tags};
use super::tree::{FAN, LANES};
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
    /// A tag has another number of carriers than it should, or a carrier both ways.
    #[error("{kind} {tag} is carried by {carriers}, and should be by {expected}")]
    Tag {
        /// Which tags.
        kind: &'static str,
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
        self.check_bounds()?;
        self.check_ids()?;
        let on_node = |device: u32| self.names.devices[device as usize].node;
        self.check_tags("label", &self.labels, |row| row.labels, &on_node)?;
        self.check_tags("cached model", &self.cached, |row| row.models, &on_node)?;
        self.check_tags("resident model", &self.resident, |row| row.models, &|device| device)
    }

    fn check_devices(&self) -> Result<(), IndexError> {
        let mut seen = 0;
        for (number, block) in self.tree.blocks.iter().enumerate() {
            for lane in block.used() {
                let row = block.get(lane);
                let device = row.who;
                let node = self.names.devices[device as usize].node;
                let known = self.names.devices(node).any(|other| other == device);
                let of = &self.names.nodes[node as usize];
                let (free, base) = self.names.state(device);
                let facts = region_bit(of.region) | taints_bit(of.taints) | reputation_bits(of.reputation);
                let same = row.facts & (REGIONS | TAINTS | ALL_REPUTATIONS) == facts
                    && (row.free, row.ask, row.base) == (free, round24(of.ask) as f32, base)
                    && row.models >> BLOOM << BLOOM == self.bloom(device);
                if self.tree.place(device) != (number, lane) || !known || !same {
                    return Err(IndexError::Device { device });
                }
                seen += 1;
            }
        }
        let devices = self.names.devices.len() - self.names.unused_devices.len();
        if seen != devices || self.tree.len() != devices || self.tree.blocks.len() * LANES < devices {
            return Err(IndexError::Device { device: NOBODY });
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), IndexError> {
        let tree = &self.tree;
        for (level, groups) in tree.levels.iter().enumerate() {
            for (node, group) in groups.iter().enumerate() {
                for lane in 0..tree.children(level, node) {
                    let below = node * FAN + lane;
                    let (bound, who, used) = match level.checked_sub(1) {
                        None => (
                            tree.blocks[below].bound(),
                            &tree.blocks[below].who[..],
                            tree.blocks[below].used().count() as u32,
                        ),
                        Some(level) => {
                            let group = &tree.levels[level][below];
                            (group.bounds.bound(), &group.bounds.who[..], group.used.iter().sum())
                        }
                    };
                    let kept = group.bounds.get(lane);
                    if kept != (Row { who: kept.who, ..bound }) || group.used[lane] != used {
                        return Err(IndexError::Bound { level, node: below });
                    }
                    let mut firsts = who.iter().filter(|&&who| who != NOBODY);
                    let among = who.contains(&kept.who) || (kept.who == NOBODY && used == 0);
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

    fn check_tags(
        &self,
        kind: &'static str,
        tags: &Tags,
        word: impl Fn(&Row) -> u128,
        carrier: &dyn Fn(u32) -> u32,
    ) -> Result<(), IndexError> {
        let mut carried = std::collections::BTreeSet::new();
        for row in self.tree.rows() {
            let carrier = carrier(row.who);
            carried.extend(tags.of(carrier, word(&row)).into_iter().map(|tag| (tag, carrier)));
        }
        let mut counts = std::collections::BTreeMap::<u32, u32>::new();
        carried.iter().for_each(|(tag, _)| *counts.entry(*tag).or_default() += 1);
        for tag in 0..tags.limit() {
            let (carriers, expected) = (counts.get(&tag).copied().unwrap_or(0), tags.count(tag));
            let twice = tags.bit(tag) != 0 && tags.listed(tag).next().is_some();
            if carriers != expected || twice {
                return Err(IndexError::Tag { kind, tag, carriers, expected });
            }
        }
        Ok(())
    }
}
