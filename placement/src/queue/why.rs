//! In: an order and a position → out: why that request stands there, in words.

use super::fair::{Share, tier};
use super::{Order, Request};
use nightshift_types::Milliseconds;
use std::fmt;

/// What gave a request its turn inside its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// A place was made free for it: it goes before all others, of whatever queue.
    Nominated,
    /// It waited longest of those that wait too long.
    Aged,
    /// Its deadline is near, and it can still make it.
    Deadline,
    /// Its priority, then the fewest running, then first come.
    Priority,
}

/// Where a request stands, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    pub(super) share: u32,
    /// Among the requests of its queue, from 1.
    pub place: u32,
    /// What gave it its turn.
    pub turn: Turn,
    /// Its job's.
    pub priority: i32,
    /// Since its job had a task placed, or could have.
    pub waited: Milliseconds,
    pub(super) overdue_waits: bool,
}

/// Why a request stands where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Why<'o> {
    /// Its rank.
    pub rank: Rank,
    /// Requests that go first, of whatever queue.
    pub before: usize,
    request: &'o Request,
    own: &'o Share,
    /// The other queue with most requests before it, and how many.
    most: Option<(&'o Share, usize)>,
}

impl<'o> Why<'o> {
    pub(super) fn new(order: &'o Order, position: usize) -> Option<Self> {
        let (rank, request) = (*order.ranks.get(position)?, order.requests.get(position)?);
        let own = order.shares.get(rank.share as usize)?;
        let mut before = vec![0usize; order.shares.len()];
        for other in &order.ranks[..position] {
            before[other.share as usize] += 1;
        }
        let others = order.shares.iter().zip(before).filter(|(share, count)| *count > 0 && share.name != own.name);
        // The first of those with equally many.
        let most = others.rev().max_by_key(|(_, count)| *count);
        Some(Self { rank, before: position, request, own, most })
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rank { place, priority, waited, turn, .. } = self.rank;
        let (queue, seconds) = (&self.own.name, waited.0 / 1_000);
        write!(f, "{place}{} in queue {queue}: priority {priority}, waited {seconds} s", ordinal(place))?;
        match turn {
            Turn::Nominated => f.write_str(", a place was made free for it")?,
            Turn::Aged => f.write_str(", longest of those that wait too long")?,
            Turn::Deadline => f.write_str(", its deadline is near")?,
            Turn::Priority => {}
        }
        if self.request.gang > 1 {
            write!(f, ", {} tasks start together", self.request.gang)?;
        }
        let Some((other, count)) = self.most else { return Ok(()) };
        let (tasks, go) = if count == 1 { ("task", "goes") } else { ("tasks", "go") };
        write!(f, "; {count} {tasks} of queue {} {go} first: ", other.name)?;
        if tier(other.tier) < tier(self.own.tier) {
            return write!(f, "its tier is {}", other.tier);
        }
        let (used, due) = other.percent();
        write!(f, "share {used} % used of {due} %")
    }
}

fn ordinal(number: u32) -> &'static str {
    match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    }
}
