//! Shares: in every window in which all queues are backlogged they are the weights, within what the module promises.

use crate::common::Random;
use crate::fixture::{Tenants, job, next, task, with};
use nightshift_placement::queue::{CREDIT, Queue, QueuedJob, Tenant, window};
use nightshift_types::queue::Usage;
use nightshift_types::{JobId, Milliseconds, TenantQueue, Timestamp};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A pool of `slots` that every task fits, and queues that always have tasks while they are there.
struct World {
    random: Random,
    queue: Queue,
    tenants: Tenants,
    usage: Vec<Usage>,
    jobs: Vec<QueuedJob>,
    /// Placements at which a queue comes, goes and comes back.
    present: Vec<[usize; 3]>,
    /// End, and position of the job.
    running: BinaryHeap<Reverse<(u64, usize)>>,
    slots: usize,
    now: u64,
    /// Queue and reference time of each placement; none: not all queues were there.
    log: Vec<(usize, u64)>,
    all: Vec<bool>,
}

fn name(number: usize) -> String {
    format!("q{number}")
}

impl World {
    fn new(seed: u64, weights: &[u32], slots: usize, longest: u64) -> Self {
        let mut random = Random(seed);
        let queue = |weight| TenantQueue { weight, ..TenantQueue::default() };
        let tenants = weights.iter().enumerate();
        let tenants = tenants.map(|(n, &w)| (name(n), Tenant { queue: queue(w), ..Tenant::default() })).collect();
        let mut jobs = Vec::new();
        for number in 0..weights.len() {
            for nth in 0..1 + random.below(3) {
                let reference = Milliseconds(1 + random.next() % longest);
                let fresh = job(&format!("j{number}-{nth}"), &name(number), 0);
                jobs.push(with(fresh, |spec| {
                    (spec.reference, spec.parallelism) = (reference, u32::MAX);
                    spec.priority = random.below(2) as i32;
                }));
            }
        }
        let present = weights.iter().map(|_| [random.below(300), 400 + random.below(300), 800 + random.below(300)]);
        let present = present.collect();
        let (usage, running) = (vec![Usage::default(); weights.len()], BinaryHeap::new());
        let (log, all) = (Vec::new(), Vec::new());
        let queue = Queue::default();
        Self { random, queue, tenants, usage, jobs, present, running, slots, now: 5, log, all }
    }

    fn there(&self, number: usize) -> bool {
        let [comes, goes, back] = self.present[number];
        // The first never goes, so that there is always something to place.
        number == 0 || (comes..goes).contains(&self.log.len()) || self.log.len() >= back
    }

    fn step(&mut self) {
        while self.running.peek().is_some_and(|Reverse((end, _))| *end <= self.now) {
            let Some(Reverse((_, job))) = self.running.pop() else { break };
            self.jobs[job].job.running -= 1;
        }
        let free = self.slots - self.running.len();
        let numbers: BTreeMap<String, usize> = (0..self.usage.len()).map(|number| (name(number), number)).collect();
        let mut at: BTreeMap<JobId, usize> = BTreeMap::new();
        for position in 0..self.jobs.len() {
            let there = self.there(numbers[&self.jobs[position].job.spec.queue]);
            let queued = &mut self.jobs[position];
            at.insert(queued.job.id.clone(), position);
            // One more than can be placed is always there: nobody runs out within a plan.
            let more = if there { free as u32 + 1 } else { 0 };
            queued.job.waiting = (0..more).map(task).collect();
            queued.unfinished = queued.job.running + more;
        }
        for (number, usage) in self.usage.iter().enumerate() {
            if let Some(tenant) = self.tenants.get_mut(&name(number)) {
                tenant.usage = usage.at(Timestamp(self.now));
            }
        }
        let everyone = (0..self.usage.len()).all(|number| self.there(number));
        let limit = free + self.random.below(3) * 10;
        let order = next(&mut self.queue, &self.tenants, &self.jobs, self.now, limit);
        let mut left = free;
        for request in order.requests.iter().take(free) {
            let (position, reference) = (at[&request.task.job], request.spec.reference);
            self.jobs[position].job.running += 1;
            self.running.push(Reverse((self.now + 1 + reference.0 / 2 + self.random.next() % 2_000, position)));
            let number = numbers[&request.spec.queue];
            self.usage[number].add(reference, Timestamp(self.now));
            self.log.push((number, reference.0));
            self.all.push(everyone);
            left -= 1;
        }
        assert!(left == 0 || order.requests.len() < free, "a free slot though tasks wait");
        let placed: Vec<_> = order.requests.iter().take(free).map(|request| request.task.clone()).collect();
        let mut placed = placed.iter().peekable();
        let flags: Vec<bool> = order.requests.iter().map(|r| placed.next_if(|p| **p == r.task).is_some()).collect();
        let chosen: Vec<_> =
            order.requests.iter().zip(flags).filter(|(_, f)| *f).map(|(r, _)| r.task.clone()).collect();
        self.queue.placed(&order, |task| chosen.contains(task));
        self.now = self.running.peek().map_or(self.now + 1, |Reverse((end, _))| *end);
    }

    fn largest(&self, number: usize) -> u64 {
        let own = self.jobs.iter().filter(|queued| queued.job.spec.queue == name(number));
        own.map(|queued| queued.job.spec.reference.0).max().unwrap_or(1)
    }

    /// Stretches of placements during which all queues were there.
    fn stretches(&self) -> Vec<&[(usize, u64)]> {
        let mut stretches = Vec::new();
        let mut begin = 0;
        for position in 0..=self.log.len() {
            if position == self.log.len() || !self.all[position] {
                stretches.push(&self.log[begin..position]);
                begin = position + 1;
            }
        }
        stretches
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The bound between two queues, in every window: the largest less the smallest of the running difference.
    #[test]
    fn no_queue_gets_ahead_of_another_by_more_than_a_charge_and_the_credit(
        seed: u64, weights in prop::collection::vec(1u32..=100, 2..7), slots in 1usize..40, longest in 1u64..20_000,
    ) {
        let mut world = World::new(seed, &weights, slots, longest);
        while world.log.len() < 2_500 {
            world.step();
        }
        for stretch in world.stretches() {
            for i in 0..weights.len() {
                for j in 0..i {
                    let (wi, wj) = (i128::from(weights[i]), i128::from(weights[j]));
                    let (mut ahead, mut most, mut least) = (0i128, 0i128, 0i128);
                    for &(number, reference) in stretch {
                        let reference = i128::from(reference);
                        ahead += if number == i { reference * wj } else if number == j { -reference * wi } else { 0 };
                        (most, least) = (most.max(ahead), least.min(ahead));
                    }
                    let slack = |n: usize| i128::from(world.largest(n) + CREDIT.0);
                    let bound = slack(i) * wj + slack(j) * wi;
                    prop_assert!(most - least <= bound, "{} and {}: {} > {}", i, j, most - least, bound);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Every window as long as the module says has shares within 5 % of the weights.
    #[test]
    fn shares_are_within_five_percent(
        seed: u64, weights in prop::collection::vec(1u32..=100, 2..5), slots in 20usize..200, longest in 200u64..10_000,
    ) {
        let mut world = World::new(seed, &weights, slots, longest);
        let largest = (0..weights.len()).map(|number| world.largest(number)).max().unwrap();
        let length = window(Milliseconds(largest), &weights, 5).0;
        let mut done = 0;
        while done < length + length / 4 || world.log.len() < 1_200 {
            let before = world.log.len();
            world.step();
            let placed: u64 = world.log[before..].iter().map(|(_, reference)| reference).sum();
            done = if world.all.last() == Some(&true) { done + placed } else { 0 };
        }
        let last = *world.stretches().last().unwrap();
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let (mut parts, mut total, mut end, mut windows) = (vec![0u64; weights.len()], 0u64, 0, 0);
        for begin in 0..last.len() {
            while total < length && end < last.len() {
                parts[last[end].0] += last[end].1;
                total += last[end].1;
                end += 1;
            }
            if total < length {
                break;
            }
            windows += 1;
            for (part, weight) in parts.iter().zip(&weights) {
                let (has, due) = (u128::from(part * sum), u128::from(total) * u128::from(*weight));
                prop_assert!(has.abs_diff(due) * 100 <= due * 5, "{has} of {due} from {begin}");
            }
            parts[last[begin].0] -= last[begin].1;
            total -= last[begin].1;
        }
        prop_assert!(windows > 0);
    }
}

/// What is overdue goes first inside its queue; it takes nothing from the others.
#[test]
fn shares_hold_when_everything_is_overdue() {
    let weights = [1u32, 2, 5];
    let queue = |weight| TenantQueue { weight, ..TenantQueue::default() };
    let tenants: Tenants =
        (0..3).map(|n| (name(n), Tenant { queue: queue(weights[n]), ..Tenant::default() })).collect();
    let one = |n: u32| {
        let (queue, priority) = (name(n as usize % 3), n as i32 % 4);
        with(job(&format!("j{n}"), &queue, 1), |spec| spec.priority = priority)
    };
    let mut jobs: Vec<QueuedJob> = (0..2_000).map(one).collect();
    let (mut queue, mut counts) = (Queue::default(), BTreeMap::new());
    for cycle in 0..40 {
        let order = next(&mut queue, &tenants, &jobs, 1_000_000 + cycle, 30);
        let placed: Vec<_> = order.requests.iter().take(20).map(|request| request.task.job.clone()).collect();
        queue.placed(&order, |task| placed.contains(&task.job));
        for request in &order.requests[..20] {
            *counts.entry(request.spec.queue.clone()).or_insert(0u32) += 1;
        }
        jobs.retain(|queued| !placed.contains(&queued.job.id));
    }
    for (number, weight) in weights.iter().enumerate() {
        assert!(counts[&name(number)].abs_diff(weight * 100) <= 2, "{counts:?}");
    }
}
