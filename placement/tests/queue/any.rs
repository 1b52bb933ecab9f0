//! Whatever the jobs and queues: the promises hold, and the order depends on nothing else.

use crate::common::Random;
use crate::fixture::{Tenants, job, next, text, with};
use nightshift_placement::queue::{Queue, QueuedJob, Refusal, Tenant};
use nightshift_types::{Bytes, Milliseconds, PicoPoints, QueueTier, Quota, StopPolicy, TenantQueue, Timestamp};
use proptest::prelude::*;

const NOW: u64 = 200_000;

fn any_tenants(random: &mut Random) -> Tenants {
    let mut tenants = Tenants::new();
    for n in 0..random.below(6) {
        let queue = TenantQueue {
            weight: 1 + random.below(100) as u32,
            tier: random.of(&[QueueTier::Free, QueueTier::Paid]),
            stop: random.of(&[StopPolicy::None, StopPolicy::None, StopPolicy::None, StopPolicy::Hold]),
            quota: Quota {
                tasks: random.percent(30).then(|| random.below(12) as u32),
                device_memory: random.percent(30).then(|| Bytes(random.below(40) as u64)),
            },
            max_price_per_hour: random.percent(30).then(|| PicoPoints(random.below(5) as i128)),
            default_priority: 0,
        };
        let (usage, running) = (random.next() % 1_000_000, random.below(8) as u32);
        tenants.insert(format!("q{n}"), Tenant { queue, usage, running, memory: Bytes(random.below(30) as u64) });
    }
    tenants
}

fn any_job(random: &mut Random, number: usize) -> QueuedJob {
    let queue = format!("q{}", random.below(6));
    let mut queued = with(job(&format!("j{number}"), &queue, random.below(6) as u32), |spec| {
        spec.priority = random.below(3) as i32;
        spec.parallelism = random.below(12) as u32;
        spec.min_parallelism = if random.percent(25) { random.below(6) as u32 } else { 0 };
        spec.suspend = random.percent(5);
        spec.reference = Milliseconds(random.of(&[0, 1, 1_000, 90_000, u64::MAX]));
        spec.memory = Bytes(random.below(9) as u64);
        spec.max_price_per_hour = random.percent(30).then(|| PicoPoints(random.below(5) as i128));
        spec.active_deadline = random.percent(20).then(|| Milliseconds(random.next() % 400_000));
        spec.pending_deadline = random.percent(20).then(|| Milliseconds(random.next() % 400_000));
    });
    for task in &mut queued.job.waiting {
        task.not_before = Timestamp(if random.percent(70) { 0 } else { random.next() % (2 * NOW) });
    }
    queued.job.running = random.below(4) as u32;
    queued.job.submitted = Timestamp(random.next() % NOW);
    queued.unfinished = queued.job.running + queued.job.waiting.len() as u32 + random.below(2) as u32;
    queued.active_since = random.percent(50).then(|| Timestamp(random.next() % NOW));
    queued.pending_since = random.percent(50).then(|| Timestamp(random.next() % NOW));
    let (count, at) = (random.below(9) as u32, Timestamp(random.next() % NOW));
    queued.refusal =
        random.percent(25).then(|| Refusal { count, at, changed: random.percent(50), capacity: random.percent(50) });
    queued.nominated = if random.percent(20) { (0..random.below(6) as u32).collect() } else { Vec::new() };
    queued
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn promises_hold_and_looking_changes_nothing(seed: u64, count in 0usize..40, limit in 0usize..60) {
        let mut random = Random(seed);
        let tenants = any_tenants(&mut random);
        let mut jobs: Vec<_> = (0..count).map(|number| any_job(&mut random, number)).collect();
        let mut queue = Queue::default();
        for step in 0..3 {
            let now = NOW + step * 30_000;
            let order = next(&mut queue, &tenants, &jobs, now, limit);
            // The same again; for another that knows as much; and whatever order the jobs are told in.
            prop_assert_eq!(text(&next(&mut queue, &tenants, &jobs, now, limit)), text(&order));
            prop_assert_eq!(text(&next(&mut queue.clone(), &tenants, &jobs, now, limit)), text(&order));
            jobs.reverse();
            let other = next(&mut queue, &tenants, &jobs, now, limit);
            prop_assert_eq!(text(&other), text(&order));
            prop_assert_eq!(&other.ranks, &order.ranks);
            let (mut held, mut same) = (order.held.clone(), other.held.clone());
            held.sort_by(|a, b| a.0.cmp(&b.0));
            same.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(held, same);
            for position in 0..order.requests.len() {
                prop_assert!(order.why(position).is_some_and(|why| !why.to_string().is_empty()));
            }
            // A shorter one is its beginning.
            let half = text(&next(&mut queue, &tenants, &jobs, now, limit / 2));
            prop_assert!(text(&order).starts_with(&half), "{} does not begin with {}", text(&order), half);
            let mut placed = Random(seed ^ step);
            let placed: Vec<_> = order.requests.iter().filter(|_| placed.percent(60)).map(|r| r.task.clone()).collect();
            queue.placed(&order, |task| placed.contains(task));
        }
    }
}
