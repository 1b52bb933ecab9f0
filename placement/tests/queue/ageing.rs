//! Ageing: what waits too long goes first, and nobody waits for ever.

use crate::common::Random;
use crate::fixture::{Tenants, at, job, next, task, tenants, weight, with};
use nightshift_placement::queue::{AGEING, AGEING_TURN, FREE_TURN, Order, Queue, QueuedJob};
use nightshift_types::{JobId, QueueTier, TenantQueue, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the test knows of a job by itself.
#[derive(Debug, Clone)]
struct Known {
    since: u64,
    priority: i32,
    queue: String,
    /// Once it is overdue: overdue jobs of its queue that waited longer then, and placements of a higher priority
    /// since.
    passed: Option<(u32, u32)>,
}

impl Known {
    fn overdue(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > AGEING.0
    }
}

fn no_later_one_is_before(order: &Order, known: &BTreeMap<JobId, Known>, now: u64) -> Result<(), TestCaseError> {
    let mut seen: Vec<&Known> = Vec::new();
    let mut done: BTreeSet<&JobId> = BTreeSet::new();
    for request in &order.requests {
        let own = &known[&request.task.job];
        if done.insert(&request.task.job) && own.overdue(now) {
            for before in seen.iter().filter(|before| before.queue == own.queue && before.priority <= own.priority) {
                prop_assert!(before.since <= own.since, "{before:?} is before {own:?}");
            }
        }
        // A job counts again with its next task, which began to wait now.
        seen.push(own);
    }
    Ok(())
}

fn marks_are_right(order: &Order, known: &BTreeMap<JobId, Known>, now: u64) -> Result<(), TestCaseError> {
    for queue in ["a", "b"] {
        let overdue = known.iter().filter(|(_, known)| known.queue == queue && known.overdue(now));
        let longest = overdue.min_by_key(|(id, known)| (known.since, *id)).map(|(id, _)| id);
        let own = || order.requests.iter().filter(|request| known[&request.task.job].queue == queue);
        let marked: BTreeSet<&JobId> =
            own().filter(|request| request.overdue).map(|request| &request.task.job).collect();
        let shown = longest.filter(|id| own().any(|request| &request.task.job == *id));
        prop_assert!(marked.iter().all(|id| Some(*id) == shown));
        prop_assert_eq!(marked.len(), usize::from(shown.is_some()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two queues, jobs that come all the time at four priorities, and a pool that takes less than comes: of its own or
    /// a lower priority nothing later is looked at before an overdue job, and of a higher one no more is placed than
    /// promised.
    #[test]
    fn an_overdue_job_is_overtaken_no_more_than_promised(seed: u64, load in 2usize..6, most in 1usize..5) {
        let mut random = Random(seed);
        let two = tenants([("a", weight(3)), ("b", weight(2))]);
        let mut queue = Queue::default();
        let (mut jobs, mut known) = (Vec::<QueuedJob>::new(), BTreeMap::<JobId, Known>::new());
        let mut overdue_ones = 0;
        for cycle in 0..150u64 {
            let now = 1 + cycle * 4_000;
            for nth in 0..random.below(load) {
                let (name, priority) = (random.of(&["a", "b"]), random.of(&[0, 0, 0, 5, 5, 7, 9, 9, 9, 9]));
                let id = format!("j{cycle}-{nth}");
                jobs.push(with(at(job(&id, name, 1 + random.below(3) as u32), now), |spec| spec.priority = priority));
                let own = Known { since: now, priority, queue: name.into(), passed: None };
                known.insert(JobId::new(id).unwrap(), own);
            }
            let order = next(&mut queue, &two, &jobs, now, 8 + random.below(100));
            no_later_one_is_before(&order, &known, now)?;
            marks_are_right(&order, &known, now)?;
            for id in known.keys().cloned().collect::<Vec<_>>() {
                let own = &known[&id];
                if own.overdue(now) && own.passed.is_none() {
                    let older = known.iter().filter(|(other, has)| {
                        has.queue == own.queue && has.overdue(now) && (has.since, *other) < (own.since, &id)
                    });
                    let passed = Some((older.count() as u32, 0));
                    known.get_mut(&id).unwrap().passed = passed;
                    overdue_ones += 1;
                }
            }
            let placed: BTreeSet<_> =
                order.requests.iter().take(1 + random.below(most)).map(|request| request.task.clone()).collect();
            queue.placed(&order, |task| placed.contains(task));
            for request in order.requests.iter().filter(|request| placed.contains(&request.task)) {
                let by = known[&request.task.job].clone();
                for own in known.values_mut().filter(|own| own.queue == by.queue && own.since < by.since) {
                    let Some((older, passed)) = &mut own.passed else { continue };
                    *passed += 1;
                    prop_assert!(own.priority < by.priority, "{own:?} by {by:?}");
                    prop_assert!(*passed <= (AGEING_TURN - 1) * (*older + 1), "{own:?} by {by:?}");
                }
                let own = known.get_mut(&request.task.job).unwrap();
                (own.since, own.passed) = (now, None);
                let queued = jobs.iter_mut().find(|queued| queued.job.id == request.task.job).unwrap();
                queued.job.waiting.retain(|task| task.index != request.task.index);
                queued.unfinished -= 1;
            }
            jobs.retain(|queued| !queued.job.waiting.is_empty());
            known.retain(|id, _| jobs.iter().any(|queued| &queued.job.id == id));
        }
        prop_assume!(overdue_ones > 0);
    }

    /// Paid queues that take the whole pool: each Free queue still has its turn, in the order in which they waited.
    #[test]
    fn free_queues_have_one_turn_in_ten(seed: u64, free in 1u64..6, slots in 1usize..15, paid in 1u32..4) {
        let mut random = Random(seed);
        let tier = TenantQueue { tier: QueueTier::Free, ..TenantQueue::default() };
        let mut all: Tenants = (0..paid).map(|n| (format!("paid{n}"), Default::default())).collect();
        let mut jobs: Vec<_> = (0..paid).map(|n| job(&format!("p{n}"), &format!("paid{n}"), 100)).collect();
        for n in 0..free {
            all.extend(tenants([(&format!("free{n}"), tier.clone())]));
            jobs.push(at(job(&format!("f{n}"), &format!("free{n}"), 100), random.next() % 100_000));
        }
        let mut queue = Queue::default();
        let waits = jobs[paid as usize..].iter().map(|queued| (queued.job.spec.queue.clone(), queued.job.submitted.0));
        let mut since: BTreeMap<String, u64> = waits.collect();
        let mut passed: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        let mut turns = 0;
        let mut now = 100_000;
        for _ in 0..200 {
            now += random.next() % 2_000;
            for (name, &from) in since.iter().filter(|(_, from)| now.saturating_sub(**from) > AGEING.0) {
                let older = since.iter().filter(|(other, has)| (**has, *other) < (from, name)).count() as u32;
                passed.entry(name.clone()).or_insert((older, 0));
            }
            let order = next(&mut queue, &all, &jobs, now, slots + random.below(20));
            queue.placed(&order, |task| order.position(task).is_some_and(|position| position < slots));
            for request in order.requests.iter().take(slots) {
                let by = &request.spec.queue;
                passed.remove(by);
                if let Some(from) = since.get_mut(by) {
                    *from = now;
                    turns += 1;
                }
                for (name, (older, count)) in &mut passed {
                    *count += 1;
                    prop_assert!(*count < FREE_TURN * (*older + 1), "{name} waits behind {by}");
                }
            }
        }
        prop_assert!(turns > 0);
    }
}

#[test]
fn a_large_batch_that_is_served_is_not_overdue() {
    let mut queue = Queue::default();
    let none = Tenants::new();
    let mut batch = job("batch", "q", 100);
    let order = next(&mut queue, &none, &[batch.clone()], 100_000, 1);
    assert!(order.requests[0].overdue);
    queue.placed(&order, |_| true);
    batch.job.waiting.remove(0);
    // Its other tasks waited as long, but the job was served: what is more urgent goes first.
    let urgent = with(at(job("urgent", "q", 1), 150_000), |spec| spec.priority = 1);
    let order = next(&mut queue, &none, &[batch.clone(), urgent.clone()], 150_001, 2);
    assert_eq!(crate::fixture::text(&order), "urgent/0 batch/1");
    // A task that becomes ready again begins to wait then.
    batch.job.waiting = vec![task(7)];
    batch.job.waiting[0].not_before = Timestamp(290_000);
    assert!(!next(&mut queue, &none, &[batch], 300_000, 2).requests[0].overdue);
}

/// Overdue jobs and Free queues have their turns and no more: priority and Paid keep theirs, from one order to the next
/// too.
#[test]
fn those_that_do_not_wait_keep_their_turns() {
    let low = ["a", "b", "c"].map(|id| job(id, "q", 9));
    let high = with(at(job("high", "q", 99), 60_000), |spec| spec.priority = 1);
    let jobs = [low[0].clone(), low[1].clone(), low[2].clone(), high];
    let none = Tenants::new();
    let order = next(&mut Queue::default(), &none, &jobs, 60_001, 10);
    let expected = "a/0 high/0 high/1 high/2 b/0 high/3 high/4 high/5 c/0 high/6";
    assert_eq!(crate::fixture::text(&order), expected);
    let free = TenantQueue { tier: QueueTier::Free, ..TenantQueue::default() };
    let tenants = tenants([("f", free.clone()), ("g", free)]);
    let paid = [job("f", "f", 9), job("g", "g", 9), at(job("p", "paid", 99), 60_000)];
    for (jobs, tenants, expected) in
        [(&jobs[..], &none, expected), (&paid[..], &tenants, "f/0 p/0 p/0 p/0 p/0 p/0 p/0 p/0 p/0 p/0 g/0")]
    {
        // One placement an order, of which each shows the job's first task again.
        let mut queue = Queue::default();
        let mut served = Vec::new();
        while served.len() < expected.split(' ').count() {
            let order = next(&mut queue, tenants, jobs, 60_001, 5);
            queue.placed(&order, |task| *task == order.requests[0].task);
            served.push(order.requests[0].task.job.to_string());
        }
        let jobs: Vec<_> = expected.split(' ').map(|task| task.split('/').next().unwrap()).collect();
        assert_eq!(served, jobs);
    }
}
