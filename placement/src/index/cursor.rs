//! In: tasks that are alike, one after another → out: the best device for each, from one search that goes on.
//! Invariant: what a cursor finds is what [`Index::best`] finds.
//!
//! A placement makes its device worse and no device better. So what the search found and passed over stays in order, but
//! for devices that were taken since: they are looked at again when their turn comes. Any other change starts it anew.

use super::columns::NOBODY;
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
    /// Parts that had nothing better than the best at the time.
    deferred: Vec<Child>,
    found: BinaryHeap<Reverse<Candidate>>,
}

/// A device that fitted when it was looked at; ordered as scores are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: Key,
    node: NodeId,
    position: usize,
    device: u32,
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
        self.deferred.drain(..).for_each(|child| self.frontier.put_back(child));
        let tree = &query.index.tree;
        loop {
            let best = self.best(query);
            let limit = sieve.limit(&best);
            let Some(child) = self.frontier.next(limit) else { return best };
            let (level, at) = (child.level, child.at);
            let bound = tree.levels[level][at / FAN].bounds.get(at % FAN);
            if best.is_some() && child.score() >= sieve.near(limit) && query.beaten(&best, &bound) {
                self.deferred.push(child);
            } else if level > 0 {
                self.frontier.add(sieve, tree, level - 1, at);
            } else {
                let (scores, _) = sieve.scores(&tree.blocks[at]);
                for (lane, _) in scores.into_iter().enumerate().filter(|(_, score)| *score < f32::INFINITY) {
                    self.look(query, tree.blocks[at].who[lane]);
                }
            }
        }
    }

    /// The best of those found, as it is now.
    fn best(&mut self, query: &Query<'_>) -> Option<Best> {
        while let Some(mut top) = self.found.peek_mut() {
            let device = top.0.device;
            match query.now(device) {
                None => drop(PeekMut::pop(top)),
                Some((key, model)) if (key, model) == (top.0.key, top.0.model) => {
                    return Some(Best { key, device, model });
                }
                // It was taken since, and is worse; it sinks to where it belongs.
                Some((key, model)) => (top.0.key, top.0.model) = (key, model),
            }
        }
        None
    }

    fn look(&mut self, query: &Query<'_>, device: u32) {
        let names = &query.index.names;
        if device == NOBODY || query.avoids(device) {
            return;
        }
        if let Some((key, model)) = query.now(device)
            && let Some(node) = names.id_of_device(device)
        {
            let position = names.position(device);
            self.found.push(Reverse(Candidate { key, node: node.clone(), position, device, model }));
        }
    }
}
