//! Gang start: together or not at all.

use crate::common::Random;
use crate::fixture::{Tenants, at, first, job, next, tenants, text, why, with};
use nightshift_placement::queue::{AGEING, AGEING_TURN, Queue, QueuedJob};
use nightshift_types::{Quota, TenantQueue, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn gang(id: &str, waiting: u32, together: u32) -> QueuedJob {
    with(job(id, "q", waiting), |spec| spec.min_parallelism = together)
}

#[test]
fn a_gang_stands_together_and_its_other_tasks_wait_for_it() {
    let order = next(&mut Queue::default(), &Tenants::new(), &[gang("g", 5, 3), job("x", "q", 2)], 0, 10);
    assert_eq!(text(&order), "g/0 g/1 g/2 x/0 x/1");
    let gangs: Vec<u32> = order.requests.iter().map(|request| request.gang).collect();
    assert_eq!(gangs, [3, 3, 3, 0, 0]);
}

#[test]
fn only_what_is_missing_starts_together() {
    let mut started = gang("g", 5, 4);
    (started.job.running, started.unfinished) = (2, 7);
    let order = next(&mut Queue::default(), &Tenants::new(), &[started.clone()], 0, 10);
    assert_eq!((text(&order).as_str(), order.requests[0].gang), ("g/0 g/1", 2));
    // Near the end fewer are left than would be missing.
    started.job.waiting.truncate(1);
    (started.job.running, started.unfinished) = (0, 1);
    let order = next(&mut Queue::default(), &Tenants::new(), &[started.clone()], 0, 10);
    assert_eq!((text(&order).as_str(), order.requests[0].gang), ("g/0", 0));
    // Once it is started each goes alone.
    (started.job.running, started.unfinished) = (4, 5);
    assert_eq!(next(&mut Queue::default(), &Tenants::new(), &[started], 0, 10).requests[0].gang, 0);
}

#[test]
fn the_limit_never_cuts_a_gang() {
    assert_eq!(first(&Tenants::new(), &[job("a", "q", 1), gang("g", 5, 3)], 0, 2), "a/0 g/0 g/1 g/2");
    assert_eq!(first(&Tenants::new(), &[gang("g", 5, 3)], 0, 1), "g/0 g/1 g/2");
}

#[test]
fn what_cannot_start_together_does_not_start() {
    let mut waits = gang("waits", 3, 3);
    waits.job.waiting[1].not_before = Timestamp(1);
    let narrow = with(gang("narrow", 3, 3), |spec| spec.parallelism = 2);
    let mut hidden = gang("hidden", 2, 3);
    hidden.unfinished = 3;
    let quota = Quota { tasks: Some(2), device_memory: None };
    let one = tenants([("q", TenantQueue { quota, ..TenantQueue::default() })]);
    let order =
        next(&mut Queue::default(), &one, &[waits, narrow, hidden, gang("quota", 3, 3), job("z", "q", 2)], 0, 9);
    assert_eq!(text(&order), "z/0 z/1");
    let says = "3 tasks start together and 2 of them are ready, the others are in back-off";
    assert_eq!(why(&order, "waits"), format!("GangNotReady: {says}"));
    assert_eq!(why(&order, "hidden"), format!("GangNotReady: {says}"));
    assert_eq!(why(&order, "narrow"), "OverParallelism: 3 tasks start together and 0 run, parallelism is 2");
    assert_eq!(why(&order, "quota"), "QuotaExceeded: the queue runs 0 of 2 tasks, 3 more would start");
}

/// The longest task of the runs below, milliseconds.
const LONGEST: u64 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A pool that is never idle, small tasks of a higher priority without end, and gangs as wide as the pool: with the
    /// reservation that a planner keeps for what is overdue, each gang starts, and after its stated wait. None holds a
    /// part of the pool while it waits for the rest, so gangs never wait for each other.
    #[test]
    fn every_gang_starts(seed: u64, slots in 2usize..12, gangs in 1usize..5) {
        let mut random = Random(seed);
        let mut jobs: Vec<QueuedJob> = Vec::new();
        for n in 0..gangs {
            let together = 2 + random.below(slots - 1) as u32;
            let priority = random.below(2) as i32;
            jobs.push(with(gang(&format!("gang{n}"), together, together), |spec| spec.priority = priority));
        }
        let (mut queue, mut running) = (Queue::default(), Vec::<u64>::new());
        let (mut now, mut small) = (1, 0);
        let most = AGEING.0 + gangs as u64 * u64::from(AGEING_TURN + 1) * LONGEST;
        while jobs.iter().any(|queued| queued.job.spec.min_parallelism > 1) {
            prop_assert!(now <= most, "a gang waits for {now} ms");
            running.retain(|end| *end > now);
            let singles = jobs.iter().filter(|queued| queued.job.spec.min_parallelism < 2).count();
            for _ in singles..slots {
                small += 1;
                jobs.push(with(at(job(&format!("s{small}"), "q", 1), now), |spec| spec.priority = 2));
            }
            let order = next(&mut queue, &Tenants::new(), &jobs, now, 100);
            let mut placed = BTreeSet::new();
            for (n, request) in order.requests.iter().enumerate() {
                let begins = n == 0 || order.requests[n - 1].task.job != request.task.job;
                let needs = request.gang.max(1) as usize;
                if begins && slots - running.len() < needs {
                    // Kept for it: nothing behind it starts.
                    if request.overdue { break } else { continue }
                }
                if begins || placed.contains(&request.task.job) {
                    placed.insert(request.task.job.clone());
                    running.push(now + 1 + random.next() % LONGEST);
                }
            }
            prop_assert!(running.len() <= slots);
            queue.placed(&order, |task| placed.contains(&task.job));
            jobs.retain(|queued| !placed.contains(&queued.job.id));
            now += 500;
        }
    }
}
