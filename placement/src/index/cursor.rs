//! In: tasks that are alike, one after another → out: the best device for each, from one search that goes on.
//! Invariant: what a cursor finds is what [`Index::best`] finds.
//!
//! A placement makes its device worse and no device better. So what the search found and passed over stays in order, but
//! for devices that were taken since: they are looked at again when their turn comes. Any other change starts it anew.

use super::frontier::{Child, Frontier};
use super::search::{Best, Key, Query};
use super::sieve::Sieve;
use super::tree::FAN;
use super::{Found, Index};
use crate::filter::Ask;
use crate::latency::Model;
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
    model: Model,
}

impl Index {
    /// The best device for a task that is like those the cursor was used for before; `None` if no node fits.
    pub fn next_best(&self, cursor: &mut Cursor, ask: &Ask<'_>, weights: &Weights) -> Option<Found<'_>> {
        let query = Query::new(self, ask, weights)?;
        if query.is_narrow() {
            return self.best(ask, weights);
        }
        let sieve = Sieve::new(&query);
        if cursor.since != Some(self.loosened) {
            *cursor = Cursor { since: Some(self.loosened), ..Cursor::default() };
            cursor.frontier.add(&sieve, &self.tree, self.tree.levels.len() - 1, 0);
            query.each_holder(&mut |device| cursor.look(&query, device));
        }
        match cursor.search(&query, &sieve) {
            Some(best) => self.found(&query.work, best),
            // Only nodes to avoid are left, if any.
            None if !ask.avoid.is_empty() => self.best(ask, weights),
            None => None,
        }
    }
}

impl Cursor {
    fn search(&mut self, query: &Query<'_>, sieve: &Sieve) -> Option<Best> {
        let tree = &query.index.tree;
        loop {
            let best = self.best(query);
            self.reconsider(query, &best);
            let limit = sieve.limit(&best);
            let Some(child) = self.frontier.next(limit) else { return best };
            let (level, at) = (child.level, child.at);
            let bound = tree.levels[level][at / FAN].bounds.get(at % FAN);
            if best.is_some() && child.score() >= sieve.near(limit) && query.beaten(&best, &bound) {
                // Of one where nothing fits any more there is no key.
                self.deferred.extend(query.lower(&bound).map(|key| Reverse((key, child))));
            } else if level > 0 {
                self.frontier.add(sieve, tree, level - 1, at);
            } else {
                let (scores, _) = sieve.scores(&tree.blocks[at]);
                for (lane, _) in scores.into_iter().enumerate().filter(|(_, score)| *score < f32::INFINITY) {
                    let row = tree.blocks[at].get(lane);
                    if let Some(key) = query.lower(&row).filter(|_| !query.avoids(row.who)) {
                        self.found.push(Reverse(Candidate { key, looked_at: None, device: row.who }));
                    }
                }
            }
        }
    }

    /// Puts back what was deferred and may be better than the best is now.
    fn reconsider(&mut self, query: &Query<'_>, best: &Option<Best>) {
        let mut beaten = Vec::new();
        while let Some(top) = self.deferred.peek_mut() {
            if best.as_ref().is_some_and(|best| top.0.0 > best.key) {
                break;
            }
            let Reverse((key, child)) = PeekMut::pop(top);
            let bound = query.index.tree.levels[child.level][child.at / FAN].bounds.get(child.at % FAN);
            if query.beaten(best, &bound) { beaten.push(Reverse((key, child))) } else { self.frontier.put_back(child) }
        }
        self.deferred.extend(beaten);
    }

    /// The best of those found, as it is now.
    fn best(&mut self, query: &Query<'_>) -> Option<Best> {
        while let Some(mut top) = self.found.peek_mut() {
            let Reverse(Candidate { key: then, looked_at, device }) = &mut *top;
            let Some((key, model)) = query.now(*device) else {
                PeekMut::pop(top);
                continue;
            };
            if looked_at.as_ref().is_some_and(|looked_at| (*then, looked_at.model) == (key, model)) {
                return Some(Best { key, device: *device, model });
            }
            // It is looked at for the first time, or was taken since and is worse: it sinks to where it belongs.
            let names = &query.index.names;
            let Some(node) = names.id_of_device(*device).cloned() else {
                PeekMut::pop(top);
                continue;
            };
            (*then, *looked_at) = (key, Some(LookedAt { node, position: names.position(*device), model }));
        }
        None
    }

    /// A device that bounds do not tell of.
    fn look(&mut self, query: &Query<'_>, device: u32) {
        if let Some((key, _)) = query.now(device).filter(|_| !query.avoids(device)) {
            self.found.push(Reverse(Candidate { key, looked_at: None, device }));
        }
    }
}
