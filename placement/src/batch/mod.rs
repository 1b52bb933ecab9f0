//! In: the tasks of a plan, each on the best device that those before it left → out: the same tasks, where they cost least
//! together, or nearly so.
//! Invariant: every task that had a place has one, within all its limits; the total is not above what it was. The same
//! snapshot and tasks give the same places.
//!
//! ```text
//! places of a plan ─▶ tasks × devices: costs in floats ─▶ shortest augmenting paths ─▶ once more, exactly
//!                       [`instance`]                        [`paths`] [`seats`]          [`in_order`]
//! ```
//!
//! WHO is placed was decided before, in the order of the queue, and stays. WHERE is decided here, for up to
//! [`Batch::tasks`] tasks at a time.
//!
//! One currency ([`cost`]), picopoint-nanoseconds an hour: a 3.6 × 10²⁴th of a point.
//!
//! | objective | cost of a task |
//! |---|---|
//! | Cheapest | ask × reference time |
//! | Fastest | [`Weights::waiting_per_hour`] × predicted p95 |
//! | Balanced | the sum of both |
//!
//! The predicted time has the wait for those of the plan that stand before it on the same device. A task is never moved to
//! a node that it avoids, or that has more taints that it does not tolerate, unless it was there before; and where its job's
//! budget is limited, not to a dearer node.
//!
//! Floats only propose: every place is looked at again by the index, in the order of the requests, and the totals are
//! compared in integers. If anything does not hold, the plan stays as it was.

mod instance;
mod paths;
mod seats;

use crate::filter::Ask;
use crate::index::Place;
use crate::latency::{Prediction, round24};
use crate::plan::decide::{Decision, Ground, Spot, Taken};
use crate::pool::{Placing, Pool};
use crate::score::{Weights, asks};
use crate::view::Request;
use nightshift_types::{Bytes, JobId, JobSpec, Objective, PicoPoints};
use std::collections::BTreeMap;
use std::ops::Range;

/// How tasks are planned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Tasks at a time; below 2: none.
    pub tasks: usize,
    /// In a pool of at most so many devices all of them come into question; in a larger one those that the tasks have, and
    /// those that more such tasks would get.
    pub devices: usize,
    /// Rows of costs looked at a task, at most, on average.
    pub rows: usize,
}

impl Batch {
    /// Each task by itself.
    pub const OFF: Self = Self { tasks: 0, devices: 0, rows: 0 };
}

impl Default for Batch {
    fn default() -> Self {
        Self { tasks: 1_024, devices: 2_048, rows: 64 }
    }
}

/// What a task costs where it should take so long and the node asks so much, picopoint-nanoseconds an hour.
pub fn cost(spec: &JobSpec, ask: PicoPoints, predicted: &Prediction, weights: &Weights) -> u128 {
    let money = u128::from(round24(asks(ask))) * u128::from(spec.reference.0) * 1_000_000;
    // Where waiting is worth nothing, the faster of two places is still the better one.
    let time = u128::from(asks(weights.waiting_per_hour));
    match spec.objective {
        Objective::Cheapest => money,
        Objective::Fastest => time.max(1) * u128::from(predicted.p95()),
        Objective::Balanced => money + time * u128::from(predicted.p95()),
    }
}

/// A task of the plan.
struct Member<'r> {
    request: &'r Request,
    /// What the order gave it.
    first: Taken,
    /// Where it is now, and what it takes there of the device's own time.
    spot: Spot,
    busy_ms: u64,
}

impl<'r> Member<'r> {
    /// As the device's filters read it; a limited budget is what its first place was quoted, so that the job's is kept.
    fn ask(&self) -> Ask<'r> {
        let ask = Ask::from(self.request);
        Ask { budget: ask.budget.map(|_| self.first.placed.quote), ..ask }
    }
}

/// Places of `decisions` that cost less together; false if they stay.
pub(crate) fn improve(
    pool: &mut Pool,
    requests: &[Request],
    decisions: &mut [Decision],
    weights: &Weights,
    batch: &Batch,
) -> bool {
    let placed = |decision: &Decision| matches!(decision, Decision::Placed(_));
    if batch.tasks < 2 || decisions.iter().filter(|decision| placed(decision)).count() < 2 {
        return false;
    }
    let member = |(request, decision): (_, &Decision)| match decision {
        Decision::Placed(first) => {
            Some(Member { request, first: first.clone(), spot: first.spot, busy_ms: first.busy_ms })
        }
        Decision::Refused(_) => None,
    };
    let mut members: Vec<Member<'_>> = requests.iter().zip(decisions.iter()).filter_map(member).collect();
    let version = pool.index.version();
    let count = members.len().div_ceil(batch.tasks);
    for part in 0..count {
        let part = members.len() * part / count..members.len() * (part + 1) / count;
        together(pool, &mut members, part, weights, batch);
    }
    let better = if members.iter().all(|member| member.spot == member.first.spot) {
        None
    } else {
        in_order(pool, &members, weights)
    };
    let Some(better) = better else {
        pool.index.rewind(version);
        return false;
    };
    let mut better = better.into_iter();
    for decision in decisions.iter_mut().filter(|decision| placed(decision)) {
        *decision = better.next().map_or_else(|| decision.clone(), Decision::Placed);
    }
    true
}

fn place_of(pool: &Pool, spot: Spot) -> Option<Place> {
    pool.index.place(&pool.nodes[spot.node].id, spot.device)
}

fn give_back(pool: &mut Pool, spot: Spot, memory: Bytes, busy_ms: u64) {
    let now = crate::plan::Load::of(&pool.nodes[spot.node].devices[spot.device]);
    pool.set(spot, now.without(memory, busy_ms));
}

fn take_again(pool: &mut Pool, spot: Spot, memory: Bytes, busy_ms: u64) {
    let now = crate::plan::Load::of(&pool.nodes[spot.node].devices[spot.device]);
    pool.set(spot, now.with(memory, busy_ms));
}

/// Other places for some of the members, while the others are where they are.
fn together(pool: &mut Pool, members: &mut [Member<'_>], part: Range<usize>, weights: &Weights, batch: &Batch) {
    let spots = candidates(pool, &members[part.clone()], weights, batch);
    let members = &mut members[part];
    for member in members.iter() {
        give_back(pool, member.spot, member.first.placed.memory, member.busy_ms);
    }
    let instance = instance::Instance::new(pool, members, &spots, weights);
    if let Some(found) = instance.and_then(|instance| paths::paths(&instance, batch.rows * members.len())) {
        for (member, at) in members.iter_mut().zip(found) {
            let spot = spots[at as usize];
            if spot != member.spot
                && let Some(place) = place_of(pool, spot)
            {
                (member.spot, member.busy_ms) = (spot, pool.index.busy_ms(place, &member.ask()));
            }
        }
    }
    for member in members.iter() {
        take_again(pool, member.spot, member.first.placed.memory, member.busy_ms);
    }
}

/// Devices that come into question: all; or those that the members have, and those that more of them would get.
fn candidates(pool: &mut Pool, members: &[Member<'_>], weights: &Weights, batch: &Batch) -> Vec<Spot> {
    let devices = pool.nodes.iter().map(|node| node.devices.len()).sum::<usize>();
    let mut spots: Vec<Spot> = Vec::new();
    if devices <= batch.devices {
        let all = pool.nodes.iter().enumerate();
        spots.extend(all.flat_map(|(node, view)| (0..view.devices.len()).map(move |device| Spot { node, device })));
        return spots;
    }
    spots.extend(members.iter().map(|member| member.spot));
    let version = pool.index.version();
    let mut placing = Placing::new(pool);
    let more = members.iter().step_by(MORE).filter_map(|member| {
        let ask = Ask::from(member.request);
        placing.place(member.request, &ask, weights)
    });
    let more: Vec<Taken> = more.collect();
    for taken in more.iter().rev() {
        pool.set(taken.spot, taken.before);
    }
    pool.index.rewind(version);
    spots.extend(more.iter().map(|taken| taken.spot));
    spots.sort_unstable();
    spots.dedup();
    spots
}

/// A task more for every so many, to see where it would go.
const MORE: usize = 4;

/// Every member on its new place, one after another, as exactly as before; `None`, and all are where they were first,
/// where one does not fit, or the total is not less.
fn in_order(pool: &mut Pool, members: &[Member<'_>], weights: &Weights) -> Option<Vec<Taken>> {
    for member in members {
        give_back(pool, member.spot, member.first.placed.memory, member.busy_ms);
    }
    let price = |pool: &Pool, taken: &Taken| pool.nodes[taken.spot.node].price_per_hour;
    let total = |pool: &Pool, all: &mut dyn Iterator<Item = (&Member<'_>, &Taken)>| {
        all.map(|(member, taken)| cost(&member.request.spec, price(pool, taken), &taken.placed.predicted, weights))
            .sum::<u128>()
    };
    let before = total(pool, &mut members.iter().map(|member| (member, &member.first)));
    let mut spent: BTreeMap<&JobId, PicoPoints> = BTreeMap::new();
    let mut done: Vec<Taken> = Vec::with_capacity(members.len());
    for member in members {
        let spent = spent.entry(&member.request.task.job).or_default();
        let ask = Ask::new(member.request, *spent);
        let found = place_of(pool, member.spot).and_then(|place| pool.index.look(place, &ask, weights));
        let Some((place, taken)) = found.and_then(|found| pool.taken(member.request, &found)) else { break };
        pool.take(place, &taken);
        *spent += taken.placed.quote;
        done.push(taken);
    }
    if done.len() == members.len() && total(pool, &mut members.iter().zip(&done)) < before {
        return Some(done);
    }
    for taken in done.iter().rev() {
        pool.set(taken.spot, taken.before);
    }
    for member in members {
        let Member { first, .. } = member;
        take_again(pool, first.spot, first.placed.memory, first.busy_ms);
    }
    None
}
