//! In: an order, and what became of each request so far → out: whose request is tried next.
//! Invariant: each request is tried once, those that a place was made free for before all others, then those of one queue
//! in their order; a queue is charged for what is placed, not for
//! what is tried.
//!
//! The order alone would take turns by what it hands out. Where many requests of a queue find no node, the others' turns
//! would come before the first of it that does, and its share would go to them.

use super::fair::{self, Share};
use super::{FREE_TURN, Order, Turn};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Whose turn it is while the requests of an order are placed.
#[derive(Debug)]
pub struct Arbiter<'o> {
    order: &'o Order,
    /// Requests that a place was made free for.
    nominated: VecDeque<usize>,
    /// Of each queue: its requests that were not tried.
    left: Vec<VecDeque<usize>>,
    /// Of each queue: its virtual start now.
    starts: Vec<u128>,
    /// By tier: starts and queues; an entry whose start is not its queue's is out of date.
    tiers: [BinaryHeap<Reverse<(u128, usize)>>; 2],
    paid_in_a_row: u32,
    /// Free queues that are overdue and of which nothing was placed yet, longest first.
    overdue: VecDeque<usize>,
}

impl<'o> Arbiter<'o> {
    pub(super) fn new(order: &'o Order) -> Self {
        let (mut left, mut nominated) = (vec![VecDeque::new(); order.shares.len()], VecDeque::new());
        for (position, rank) in order.ranks.iter().enumerate() {
            match rank.turn {
                Turn::Nominated => nominated.push_back(position),
                _ => left[rank.share as usize].push_back(position),
            }
        }
        let starts: Vec<u128> = order.shares.iter().map(|share| share.begin).collect();
        let mut tiers = [BinaryHeap::new(), BinaryHeap::new()];
        for (number, share) in order.shares.iter().enumerate() {
            tiers[fair::tier(share.tier)].push(Reverse((share.begin, number)));
        }
        let overdue = order.overdue_free.iter().copied().collect();
        Self { order, nominated, left, starts, tiers, paid_in_a_row: order.paid_in_a_row, overdue }
    }

    fn share(&self, position: usize) -> (usize, &'o Share) {
        let number = self.order.ranks[position].share as usize;
        (number, &self.order.shares[number])
    }

    /// The position of the next request to try; none: all were.
    pub fn turn(&mut self) -> Option<usize> {
        if let Some(position) = self.nominated.pop_front() {
            return Some(position);
        }
        if self.paid_in_a_row + 1 >= FREE_TURN {
            while let Some(&number) = self.overdue.front() {
                match self.left[number].pop_front() {
                    Some(position) => return Some(position),
                    None => drop(self.overdue.pop_front()),
                }
            }
        }
        for tier in &mut self.tiers {
            while let Some(Reverse((start, number))) = tier.pop() {
                if start != self.starts[number] {
                    tier.push(Reverse((self.starts[number], number)));
                } else if let Some(position) = self.left[number].pop_front() {
                    tier.push(Reverse((start, number)));
                    return Some(position);
                }
            }
        }
        None
    }

    /// The request at a position was placed.
    pub fn placed(&mut self, position: usize) {
        let (number, share) = self.share(position);
        self.starts[number] = share.after(self.starts[number], &self.order.requests[position].spec);
        self.paid_in_a_row = fair::paid_in_a_row(self.paid_in_a_row, share.tier, 1);
        self.overdue.retain(|&overdue| overdue != number);
    }
}
