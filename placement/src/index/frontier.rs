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
#[derive(Debug, Clone, Default)]
pub(super) struct Frontier {
    groups: Vec<Opened>,
    /// Score and second; then where: a group's best child that is left, or one that was put back.
    heap: BinaryHeap<Reverse<(u64, Place)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    OfGroup(u32),
    PutBack { level: u32, at: u32 },
}

/// A part of the tree that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Child {
    promise: u64,
    pub level: usize,
    pub at: usize,
}

impl Child {
    pub fn score(&self) -> f32 {
        score(self.promise)
    }
}

#[derive(Debug, Clone)]
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
        Self { groups: Vec::with_capacity(128), heap: BinaryHeap::with_capacity(128) }
    }

    /// Opens a group.
    pub fn add(&mut self, sieve: &Sieve, tree: &Tree, level: usize, at: usize) {
        let (scores, seconds) = sieve.scores(&tree.levels[level][at].bounds);
        let opened = Opened { scores, seconds, level: level as u32, at: at as u32 };
        let (promise, lane) = opened.best();
        if score(promise) < f32::INFINITY {
            self.heap.push(Reverse((promise, Place::OfGroup((self.groups.len() * FAN + lane) as u32))));
            self.groups.push(opened);
        }
    }

    /// The best child of all that is not above `limit`.
    pub fn next(&mut self, limit: f32) -> Option<Child> {
        let mut top = self.heap.peek_mut()?;
        let Reverse((promise, place)) = *top;
        if score(promise) > limit {
            return None;
        }
        let place = match place {
            Place::OfGroup(place) => place as usize,
            Place::PutBack { level, at } => {
                PeekMut::pop(top);
                return Some(Child { promise, level: level as usize, at: at as usize });
            }
        };
        let (group, lane) = (place / FAN, place % FAN);
        let opened = &mut self.groups[group];
        opened.scores[lane] = f32::INFINITY;
        let (rest, next) = opened.best();
        let child = Child { promise, level: opened.level as usize, at: opened.at as usize * FAN + lane };
        if score(rest) < f32::INFINITY {
            *top = Reverse((rest, Place::OfGroup((group * FAN + next) as u32)));
        } else {
            PeekMut::pop(top);
        }
        Some(child)
    }

    /// Takes a child back that was handed out.
    pub fn put_back(&mut self, child: Child) {
        self.heap.push(Reverse((child.promise, Place::PutBack { level: child.level as u32, at: child.at as u32 })));
    }
}
