//! What a run must have come to: shares by weight, nobody overtaken for ever, every waiting job explained.

use crate::mix::TENANTS;
use nightshift_placement::queue::{AGEING, window};
use nightshift_scheduler::leader::Leader;
use nightshift_state::{Job, State, TaskState};
use nightshift_types::{Milliseconds, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A placement that came to a result: when, the queue's position, reference milliseconds.
type Placed = (Timestamp, usize, u64);

fn placed(state: &State) -> Vec<Placed> {
    let mut all: Vec<Placed> = Vec::new();
    for job in state.jobs() {
        let Some(queue) = TENANTS.iter().position(|(name, _)| *name == job.spec.queue) else { continue };
        for task in &job.tasks {
            if let TaskState::Succeeded(success) = &task.state {
                all.push((success.placed_at, queue, job.spec.reference.0));
            }
        }
    }
    all.sort();
    all
}

/// Work of a window in which each tenant must have its share within `percent` of itself: the queue alone keeps to three
/// fifths of that in it; the rest is for moments in which the free machines fit none of a tenant's tasks.
pub fn window_of(largest: Milliseconds, percent: u32) -> Milliseconds {
    let weights: Vec<u32> = TENANTS.iter().map(|(_, weight)| *weight).collect();
    window(largest, &weights, percent * 3 / 5)
}

/// While every tenant has enough to place, how far the shares of the work placed in any window were from the weights'. Returns
/// the number of windows and the largest deviation in percent of a share.
pub fn shares(state: &State, window: Milliseconds) -> (usize, f64) {
    let weights: Vec<u32> = TENANTS.iter().map(|(_, weight)| *weight).collect();
    let total: u32 = weights.iter().sum();
    let window = window.0;
    let all = placed(state);
    let backlogged = &all[..backlogged(state, &all)];
    for (tenth, part) in backlogged.chunks(backlogged.len().div_ceil(10).max(1)).enumerate() {
        let mut sums = vec![0u64; weights.len()];
        part.iter().for_each(|(_, queue, reference)| sums[*queue] += reference);
        let whole: u64 = sums.iter().sum();
        let percent: Vec<u64> = sums.iter().map(|sum| sum * 100 / whole.max(1)).collect();
        println!("tenth {tenth} of the placements: {percent:?} % of the work to {TENANTS:?}");
    }
    // What was placed in one plan has one moment and no order: a window holds whole plans.
    let plans: Vec<&[Placed]> = backlogged.chunk_by(|a, b| a.0 == b.0).collect();
    let of = |plan: &[Placed]| plan.iter().map(|(_, _, reference)| reference).sum::<u64>();
    let (mut first, mut work, mut sums) = (0, 0, vec![0u64; weights.len()]);
    let (mut windows, mut worst) = (0, 0f64);
    for &plan in &plans {
        plan.iter().for_each(|(_, queue, reference)| sums[*queue] += reference);
        work += of(plan);
        while work - of(plans[first]) >= window {
            plans[first].iter().for_each(|(_, queue, reference)| sums[*queue] -= reference);
            work -= of(plans[first]);
            first += 1;
        }
        if work >= window {
            windows += 1;
            for (sum, weight) in sums.iter().zip(&weights) {
                let due = work as f64 * f64::from(*weight) / f64::from(total);
                worst = worst.max((*sum as f64 / due - 1.0).abs() * 100.0);
            }
        }
    }
    (windows, worst)
}

/// Placements until a tenant had less than four tenths of its tasks waiting. About three tenths want what few machines have, or
/// start together: once they are all that waits, a tenant has nothing for most machines.
fn backlogged(state: &State, all: &[Placed]) -> usize {
    let mut came: Vec<(Timestamp, usize)> = Vec::new();
    let mut total = vec![0usize; TENANTS.len()];
    for job in state.jobs().filter(|job| job.result.is_some()) {
        let Some(queue) = TENANTS.iter().position(|(name, _)| *name == job.spec.queue) else { continue };
        came.extend(job.tasks.iter().map(|_| (job.admitted_at, queue)));
        total[queue] += job.tasks.len();
    }
    came.sort();
    let (mut waiting, mut came) = (vec![0usize; TENANTS.len()], came.into_iter().peekable());
    for (position, (at, queue, _)) in all.iter().enumerate() {
        while let Some((_, newcomer)) = came.next_if(|(admitted, _)| admitted <= at) {
            waiting[newcomer] += 1;
        }
        waiting[*queue] = waiting[*queue].saturating_sub(1);
        if waiting.iter().zip(&total).any(|(left, total)| left * 10 <= *total * 4) {
            return position;
        }
    }
    all.len()
}

/// A job starts within `bound` of the later of two moments: it is overdue, or the last job of its queue that was admitted
/// before it has started. Returns by how much the slowest missed or kept that, in milliseconds; below zero: it was overtaken by none.
pub fn slowest_start(state: &State) -> i64 {
    let mut slowest = i64::MIN;
    for (queue, _) in TENANTS {
        let mut started = Timestamp(0);
        // In order of admission.
        for job in state.jobs().filter(|job| job.spec.queue == queue) {
            let Some(start) = job.started_at else { continue };
            let due = started.max(job.admitted_at.after(AGEING));
            slowest = slowest.max(start.0 as i64 - due.0 as i64);
            started = started.max(start);
        }
    }
    slowest
}

/// Every job that waits, was there for some seconds and has nothing running says why. Returns how many, by word.
pub async fn explained(leader: &Leader) -> BTreeMap<String, usize> {
    let mut words: BTreeMap<String, usize> = BTreeMap::new();
    let order = leader.order();
    let looked_at: BTreeSet<_> = order.requests.iter().map(|request| &request.task.job).collect();
    let held: BTreeMap<_, _> = order.held.iter().map(|(job, held)| (job, held)).collect();
    let (state, now) = (leader.state().await, leader.now());
    let old = |job: &&Job| now.since(job.admitted_at).0 > 5_000 && job.running == 0 && job.waiting() > 0;
    for job in state.unfinished().filter(old) {
        let word = match (leader.why(&job.id), held.get(&job.id)) {
            (Some(why), _) if why.total == 0 => "NoNodeYet".to_string(),
            (Some(why), _) => why.admitted_reason().to_string(),
            (None, Some(held)) => held.as_str().to_string(),
            // Placed by that very cycle, or ended since.
            (None, None) if looked_at.contains(&job.id) => "LookedAt".to_string(),
            (None, None) => panic!("job {} waits and nobody says why", job.spec.name),
        };
        *words.entry(word).or_default() += 1;
    }
    words
}
