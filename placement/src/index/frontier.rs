//! In: groups of bounds that were opened → out: their children, the most promising first.
//! Invariant: each child is handed out at most once, and none before one with a lower score that was there already.
//!
//! A group stands in the heap once, with its best child that is left: so the heap stays small.

use super::sieve::Sieve;
use super::tree::{FAN, Tree};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Parts of the tree that may have something.
pub(super) struct Frontier {
    groups: Vec<Opened>,
    /// Score and second, then group and lane.
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

struct Opened {
    scores: [f32; FAN],
    seconds: [f32; FAN],
    level: u32,
    at: u32,
}

impl Opened {
    /// The best child left, and its lane.
    fn best(&self) -> (u64, usize) {
        let mut best = (u64::MAX, 0);
        for lane in 0..FAN {
            // Neither is negative, so their bits are ordered as they are.
            let promise = u64::from(self.scores[lane].to_bits()) << 32 | u64::from(self.seconds[lane].to_bits());
            if promise < best.0 {
                best = (promise, lane);
            }
        }
        best
    }
}

fn score(promise: u64) -> f32 {
    f32::from_bits((promise >> 32) as u32)
}

impl Frontier {
    pub fn new() -> Self {
        Self { groups: Vec::with_capacity(64), heap: BinaryHeap::with_capacity(64) }
    }

    /// Opens a group.
    pub fn add(&mut self, sieve: &Sieve, tree: &Tree, level: usize, at: usize, limit: f32) {
        let (mut scores, seconds) = sieve.scores(&tree.levels[level][at].bounds);
        for score in &mut scores {
            *score = if *score <= limit { *score } else { f32::INFINITY };
        }
        let opened = Opened { scores, seconds, level: level as u32, at: at as u32 };
        let (promise, lane) = opened.best();
        if score(promise) <= limit {
            self.heap.push(Reverse((promise, (self.groups.len() * FAN + lane) as u32)));
            self.groups.push(opened);
        }
    }

    /// The best child of all that is not above `limit`: its score, its level and where it is there.
    pub fn next(&mut self, limit: f32) -> Option<(f32, usize, usize)> {
        let mut top = self.heap.peek_mut()?;
        let Reverse((promise, place)) = *top;
        if score(promise) > limit {
            return None;
        }
        let (group, lane) = (place as usize / FAN, place as usize % FAN);
        let opened = &mut self.groups[group];
        opened.scores[lane] = f32::INFINITY;
        let (rest, next) = opened.best();
        let child = (score(promise), opened.level as usize, opened.at as usize * FAN + lane);
        if score(rest) <= limit {
            *top = Reverse((rest, (group * FAN + next) as u32));
        } else {
            PeekMut::pop(top);
        }
        Some(child)
    }
}
