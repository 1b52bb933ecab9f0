//! In: what was placed for each queue → out: each queue's virtual start.
//! Invariant: a queue's start is never more than its last charge beyond the virtual time of its tier, nor more than its
//! credit before it: so neither an idle past nor a greedy one counts for longer.
//!
//! Virtual time is reference time ÷ weight, in 2⁻³² of a millisecond: a charge is rounded down by less than one part in
//! 400,000 at the largest weight.

use super::line::Pick;
use super::{AGEING_TURN, FREE_TURN, QueuedJob, Rank, Tenant, Turn};
use crate::view::Request;
use nightshift_types::{JobId, JobSpec, Milliseconds, QueueTier, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Reference time that a queue which comes back may be ahead of the others by at most.
pub const CREDIT: Milliseconds = Milliseconds(5_000);
const SHIFT: u32 = 32;
/// A charge is capped at two years: no sum of charges overflows.
const CHARGE_MOST: u64 = 1 << 36;
/// Jobs forgotten in one go, so that it costs little a job.
const PRUNE: usize = 1_024;
/// How long a queue without jobs is remembered: its debt is at most one charge.
const REMEMBERED: Milliseconds = Milliseconds(600_000);

/// The smallest window in which each backlogged queue of a tier is sure to have its share within `percent` of itself:
/// reference time placed. `largest` is the largest charge, `weights` those of the backlogged queues.
pub fn window(largest: Milliseconds, weights: &[u32], percent: u32) -> Milliseconds {
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight.max(1))).sum();
    let least = weights.iter().min().map_or(1, |&weight| u64::from(weight.max(1)));
    let factor = sum.div_ceil(least) + weights.len() as u64;
    Milliseconds((largest.0 + CREDIT.0) * factor * 100 / u64::from(percent.max(1)))
}

/// What placing a task of a job is charged, milliseconds of reference time.
pub(super) fn charge(spec: &JobSpec) -> u64 {
    spec.reference.0.clamp(1, CHARGE_MOST)
}

pub(super) fn tier(tier: QueueTier) -> usize {
    match tier {
        QueueTier::Paid => 0,
        QueueTier::Free => 1,
    }
}

/// Placements of the Paid tier since the last of the Free.
pub(super) fn paid_in_a_row(before: u32, tier: QueueTier, tasks: u32) -> u32 {
    match tier {
        QueueTier::Paid => before.saturating_add(tasks).min(FREE_TURN),
        QueueTier::Free => 0,
    }
}

/// Placements that passed the longest overdue job of a queue, given one more on `turn`.
pub(super) fn passed_over(before: u32, turn: Turn, overdue_waits: bool) -> u32 {
    match turn {
        Turn::Aged => 0,
        _ if overdue_waits => before.saturating_add(1).min(AGEING_TURN),
        _ => AGEING_TURN,
    }
}

/// A queue that has something to start, in one order.
#[derive(Debug, Clone)]
pub(super) struct Share {
    pub name: String,
    pub tier: QueueTier,
    pub weight: u32,
    /// Decayed, as of the order.
    pub usage: u64,
    /// Of those that share its tier and have something to start.
    pub tier_usage: u64,
    pub tier_weight: u64,
    /// How far it may start before the virtual time.
    credit: u128,
    /// Virtual start of its first task of this order.
    pub begin: u128,
    /// Virtual start of its next task.
    pub start: u128,
    /// Tasks handed out in this order.
    pub handed: u32,
}

impl Share {
    pub fn new(name: &str, tenant: &Tenant) -> Self {
        let (tier, weight) = (tenant.queue.tier, tenant.queue.weight.max(1));
        let (usage, name) = (tenant.usage, name.to_owned());
        Self { name, tier, weight, usage, tier_usage: 0, tier_weight: 0, credit: 0, begin: 0, start: 0, handed: 0 }
    }

    /// Tasks of it were picked.
    pub fn charge(&mut self, pick: &Pick<'_>) {
        let amount = (u128::from(charge(&pick.queued.job.spec)) << SHIFT) * u128::from(pick.tasks);
        self.start = self.start.saturating_add(amount / u128::from(self.weight));
        self.handed += pick.tasks;
    }

    /// Its virtual start after a task, placed at one.
    pub fn after(&self, start: u128, spec: &JobSpec) -> u128 {
        start.saturating_add((u128::from(charge(spec)) << SHIFT) / u128::from(self.weight))
    }

    /// Percent of its tier's recent work that was its, and that should be.
    pub fn percent(&self) -> (u64, u64) {
        let of = |part: u64, whole: u64| (u128::from(part) * 100 / u128::from(whole.max(1))) as u64;
        (of(self.usage, self.tier_usage), of(self.weight.into(), self.tier_weight))
    }
}

/// How a queue ages its jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aged {
    /// Placements that passed its longest overdue job.
    pub passed_over: u32,
    /// Its last placement.
    pub served: Timestamp,
}

#[derive(Debug, Clone)]
struct Tag {
    tier: QueueTier,
    /// Virtual start of its last task, and that task's charge before it is divided by the weight: a new weight counts
    /// at once.
    start: u128,
    charge: u128,
    aged: Aged,
}

/// Who was served what.
#[derive(Debug, Clone)]
pub(super) struct Fair {
    /// Virtual time of each tier: the furthest start placed.
    time: [u128; 2],
    tags: BTreeMap<String, Tag>,
    paid_in_a_row: u32,
    /// Each job's last placement.
    served: HashMap<JobId, Timestamp>,
}

impl Default for Fair {
    fn default() -> Self {
        // Begins where the largest credit is above zero; with an overdue Free queue and job first in turn.
        let time = u128::from(CREDIT.0) << SHIFT;
        Self { time: [time; 2], tags: BTreeMap::new(), paid_in_a_row: FREE_TURN, served: HashMap::new() }
    }
}

impl Fair {
    pub fn paid_in_a_row(&self) -> u32 {
        self.paid_in_a_row
    }

    pub fn served(&self, job: &JobId) -> Option<Timestamp> {
        self.served.get(job).copied()
    }

    pub fn aged(&self, queue: &str) -> Aged {
        self.tags.get(queue).map_or(Aged { passed_over: AGEING_TURN, served: Timestamp(0) }, |tag| tag.aged)
    }

    /// Gives those that have something to start their credit and their start.
    pub fn weigh<'s>(&self, shares: impl Iterator<Item = &'s mut Share>) {
        let mut shares: Vec<_> = shares.collect();
        let mut sums = [(0u64, 0u64); 2];
        for share in &shares {
            let (usage, weight) = &mut sums[tier(share.tier)];
            *usage = usage.saturating_add(share.usage);
            *weight += u64::from(share.weight);
        }
        for share in &mut shares {
            (share.tier_usage, share.tier_weight) = sums[tier(share.tier)];
            let due = u128::from(share.tier_usage) * u128::from(share.weight) / u128::from(share.tier_weight.max(1));
            let behind = due.saturating_sub(share.usage.into()).min(CREDIT.0.into());
            share.credit = (behind << SHIFT) / u128::from(share.weight);
            share.start = self.start(share);
            share.begin = share.start;
        }
    }

    fn start(&self, share: &Share) -> u128 {
        let earliest = self.time[tier(share.tier)].saturating_sub(share.credit);
        match self.tags.get(&share.name) {
            Some(tag) if tag.tier == share.tier => {
                earliest.max(tag.start.saturating_add(tag.charge / u128::from(share.weight)))
            }
            _ => earliest,
        }
    }

    /// A request was placed.
    pub fn placed(&mut self, share: &Share, rank: &Rank, request: &Request, now: Timestamp) {
        let (start, before) = (self.start(share), self.aged(&share.name));
        let time = &mut self.time[tier(share.tier)];
        *time = (*time).max(start);
        let aged = Aged { passed_over: passed_over(before.passed_over, rank.turn, rank.overdue_waits), served: now };
        let charge = u128::from(charge(&request.spec)) << SHIFT;
        self.tags.insert(share.name.clone(), Tag { tier: share.tier, start, charge, aged });
        self.paid_in_a_row = paid_in_a_row(self.paid_in_a_row, share.tier, 1);
        self.served.insert(request.task.job.clone(), now);
    }

    /// Forgets jobs that are gone, and queues that are gone or idle for long.
    pub fn prune(&mut self, tenants: &BTreeMap<String, Tenant>, jobs: &[QueuedJob], now: Timestamp) {
        if self.served.len() > 2 * jobs.len() + PRUNE {
            let known: HashSet<&JobId> = jobs.iter().map(|queued| &queued.job.id).collect();
            self.served.retain(|id, _| known.contains(id));
        }
        self.tags.retain(|name, tag| tenants.contains_key(name) || now.since(tag.aged.served) <= REMEMBERED);
    }
}
