//! In: tasks that are alike, one after another → out: the best device for each, from one search that goes on.
//! Invariant: what a cursor finds is what [`Index::best`] finds.
//!
//! A placement makes its device worse and no device better. So what the search found and passed over stays in order, but
//! for devices that were taken since: they are looked at again when their turn comes. Any other change starts it anew.

use super::frontier::{Child, Frontier};
use super::names::device_of;
use super::search::{Best, Key, Part, Query};
use super::sieve::Sieve;
use super::tree::Leaf;
use super::{Found, Index};
use crate::filter::Ask;
use crate::score::Weights;
use nightshift_types::NodeId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A search that goes on: for the tasks of one job that want the same and avoid the same nodes. What they may cost may
/// fall from one to the next, not rise.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// As of which [`Index::loosened`] the rest is.
    since: Option<u64>,
    frontier: Frontier,
    /// Parts whose scores are next to that of the best at the time, but whose bounds are not better, by bound.
    deferred: BinaryHeap<Reverse<(Key, Child)>>,
    found: BinaryHeap<Reverse<Candidate>>,
}

/// A device that may fit; ordered as scores are, and of equals those first that were not looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Not above what it is now.
    key: Key,
    looked_at: Option<LookedAt>,
    device: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LookedAt {
    node: NodeId,
    position: usize,
}

impl Index {
    /// The best device for a task that is like those the cursor was used for before; `None` if no node fits.
    pub fn next_best(&self, cursor: &mut Cursor, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        if query.is_narrow() {
            return self.best(ask, weights);
        }
        let parts = query.parts();
        if cursor.since != Some(self.loosened) {
            *cursor = Cursor { since: Some(self.loosened), ..Cursor::default() };
            for (at, part) in parts.iter().enumerate() {
                match part.tree.levels.len() {
                    0 => part.tree.leaves.iter().for_each(|leaf| cursor.look(&query, part, leaf)),
                    levels => cursor.frontier.add(&parts, at, levels - 1, 0),
                }
            }
        }
        match cursor.search(&query, &parts) {
            Some(best) => self.found(&query, best),
            // Only nodes to avoid are left, if any.
            None if !ask.avoid.is_empty() => self.best(ask, weights),
            None => None,
        }
    }
}

impl Cursor {
    fn search(&mut self, query: &Query<'_>, parts: &[Part<'_>]) -> Option<Best> {
        loop {
            let best = self.best(query);
            self.reconsider(query, parts, &best);
            let limit = Sieve::limit(&best);
            let Some(child) = self.frontier.next(limit) else { return best };
            let (part, level, at) = (&parts[child.part], child.level, child.at);
            let bound = part.bound(level, at);
            if best.is_some() && child.score() >= Sieve::near(limit) && query.beaten(&best, part, &bound) {
                // Of one where nothing fits any more there is no key.
                self.deferred.extend(query.lower(part, &bound).map(|key| Reverse((key, child))));
            } else if level > 0 {
                self.frontier.add(parts, child.part, level - 1, at);
            } else {
                self.look(query, part, &part.tree.leaves[at]);
            }
        }
    }

    /// Puts back what was deferred and may be better than the best is now.
    fn reconsider(&mut self, query: &Query<'_>, parts: &[Part<'_>], best: &Option<Best>) {
        let mut beaten = Vec::new();
        while let Some(top) = self.deferred.peek_mut() {
            if best.as_ref().is_some_and(|best| top.0.0 > best.key) {
                break;
            }
            let Reverse((key, child)) = PeekMut::pop(top);
            let part = &parts[child.part];
            let stays = query.beaten(best, part, &part.bound(child.level, child.at));
            if stays { beaten.push(Reverse((key, child))) } else { self.frontier.put_back(child) }
        }
        self.deferred.extend(beaten);
    }

    /// The best of those found, as it is now.
    fn best(&mut self, query: &Query<'_>) -> Option<Best> {
        while let Some(mut top) = self.found.peek_mut() {
            let Reverse(Candidate { key: then, looked_at, device }) = &mut *top;
            let Some(key) = query.now(*device) else {
                PeekMut::pop(top);
                continue;
            };
            if looked_at.is_some() && *then == key {
                return Some(Best { key, device: *device });
            }
            // It is looked at for the first time, or was taken since and is worse: it sinks to where it belongs.
            let names = &query.index.names;
            let Some(node) = names.id(names.node_of(*device)).cloned() else {
                PeekMut::pop(top);
                continue;
            };
            (*then, *looked_at) = (key, Some(LookedAt { node, position: names.position(*device) }));
        }
        None
    }

    /// Those of a leaf that may fit.
    fn look(&mut self, query: &Query<'_>, part: &Part<'_>, leaf: &Leaf) {
        let scores = part.sieve.of_leaf(leaf, &query.index.names.hot);
        for (&entry, _) in leaf.iter().zip(scores).filter(|(_, score)| *score < f32::INFINITY) {
            let device = device_of(entry);
            if let Some(key) = query.exact(device, part.model_of(entry)).filter(|_| !query.avoids(device)) {
                self.found.push(Reverse(Candidate { key, looked_at: None, device }));
            }
        }
    }
}
