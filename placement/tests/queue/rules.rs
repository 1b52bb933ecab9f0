//! Tiers, priorities, deadlines, stops, quotas, prices and back-off, one by one.

use crate::fixture::{Tenants, at, first, job, next, tenants, text, weight, why, with};
use nightshift_placement::queue::{BACK_OFF_MOST, Queue, QueuedJob, Refusal, Tenant};
use nightshift_placement::{Batch, DeviceView, NodeView, Pool, Snapshot, Weights};
use nightshift_types::{Bytes, Milliseconds, NodeId, PicoPoints, QueueTier, Quota, StopPolicy, TenantQueue, Timestamp};
use std::sync::Arc;

fn refused(mut queued: QueuedJob, count: u32, at: u64, changed: bool) -> QueuedJob {
    queued.refusal = Some(Refusal { count, at: Timestamp(at), changed, capacity: true });
    queued
}

#[test]
fn queues_take_turns_by_weight() {
    let two = tenants([("a", weight(2)), ("b", weight(1))]);
    assert_eq!(first(&two, &[job("x", "a", 9), job("y", "b", 9)], 0, 6), "x/0 y/0 x/1 x/2 y/1 x/3");
    // A queue without an object is a default one.
    assert_eq!(first(&Tenants::new(), &[job("x", "a", 9), job("y", "b", 9)], 0, 4), "x/0 y/0 x/1 y/1");
}

#[test]
fn a_turn_is_charged_by_reference_time() {
    let long = with(job("long", "a", 9), |spec| spec.reference = Milliseconds(3_000));
    assert_eq!(first(&Tenants::new(), &[long, job("y", "b", 9)], 0, 6), "long/0 y/0 y/1 y/2 long/1 y/3");
}

#[test]
fn one_that_comes_back_is_ahead_by_its_credit_and_no_more() {
    let mut queue = Queue::default();
    let mut tenants = tenants([("a", weight(1)), ("b", weight(1))]);
    for _ in 0..100 {
        let order = next(&mut queue, &tenants, &[job("x", "a", 10)], 0, 10);
        queue.placed(&order, |_| true);
    }
    tenants.get_mut("a").unwrap().usage = 1_000_000;
    let both = [job("x", "a", 20), job("y", "b", 20)];
    // A thousand seconds were a's; five of them are b's credit, then they take turns.
    assert_eq!(text(&next(&mut queue, &tenants, &both, 0, 10)), "y/0 y/1 y/2 y/3 y/4 y/5 x/0 y/6 x/1 y/7",);
    // Without usage on record there is no credit either.
    tenants.get_mut("a").unwrap().usage = 0;
    assert_eq!(text(&next(&mut queue, &tenants, &both, 0, 4)), "y/0 x/0 y/1 x/1");
}

#[test]
fn priority_then_fewest_running_then_first_come() {
    let high = with(at(job("high", "q", 2), 9), |spec| spec.priority = 1);
    let mut busy = job("busy", "q", 2);
    (busy.job.running, busy.unfinished) = (2, 4);
    let jobs = [busy, at(job("late", "q", 2), 5), high, job("early", "q", 2)];
    let order = "high/0 high/1 early/0 late/0 early/1 late/1 busy/0 busy/1";
    assert_eq!(first(&Tenants::new(), &jobs, 10, 10), order);
}

#[test]
fn a_deadline_that_can_be_met_goes_first() {
    let deadline = |id: &str, seconds: u64| {
        let mut queued = with(job(id, "q", 4), |spec| {
            spec.active_deadline = Some(Milliseconds(seconds * 1_000));
            spec.parallelism = 1;
        });
        queued.active_since = Some(Timestamp(0));
        queued
    };
    // Four tasks of a second, one at a time.
    let jobs =
        [job("a", "q", 1), deadline("missed", 3), deadline("near", 10), deadline("nearer", 4), deadline("far", 600)];
    assert_eq!(first(&Tenants::new(), &jobs, 0, 10), "nearer/0 near/0 a/0 far/0 missed/0");
    let mut pending = with(job("p", "q", 2), |spec| spec.pending_deadline = Some(Milliseconds(5_000)));
    pending.pending_since = Some(Timestamp(0));
    // One placement meets it.
    assert_eq!(first(&Tenants::new(), &[job("a", "q", 2), pending.clone()], 4_000, 10), "p/0 a/0 a/1 p/1");
    assert_eq!(first(&Tenants::new(), &[job("a", "q", 2), pending], 5_001, 10), "a/0 p/0 a/1 p/1");
}

#[test]
fn paid_goes_before_free() {
    let free = TenantQueue { tier: QueueTier::Free, weight: 100, ..TenantQueue::default() };
    let two = tenants([("free", free), ("paid", weight(1))]);
    let jobs = [job("f", "free", 2), job("p", "paid", 2)];
    assert_eq!(first(&two, &jobs, 0, 10), "p/0 p/1 f/0 f/1");
    // After the ageing bound it has one turn of ten; then the bound begins anew.
    let jobs = [job("f", "free", 2), at(job("p", "paid", 20), 60_000)];
    let mut queue = Queue::default();
    let order = next(&mut queue, &two, &jobs, 60_001, 12);
    assert_eq!(text(&order), "f/0 p/0 p/1 p/2 p/3 p/4 p/5 p/6 p/7 p/8 p/9 p/10");
    assert!(order.requests[0].overdue && !order.requests[1].overdue);
    queue.placed(&order, |_| true);
    assert!(text(&next(&mut queue, &two, &jobs, 119_000, 12)).starts_with("p/0"));
}

#[test]
fn stopped_suspended_and_full() {
    let hold = TenantQueue { stop: StopPolicy::HoldAndDrain, ..TenantQueue::default() };
    let mut full = with(job("full", "q", 2), |spec| spec.parallelism = 3);
    (full.job.running, full.unfinished) = (3, 5);
    let mut later = job("later", "q", 1);
    later.job.waiting[0].not_before = Timestamp(11);
    let mut hidden = job("hidden", "q", 0);
    hidden.unfinished = 3;
    let jobs = [with(job("sus", "q", 1), |spec| spec.suspend = true), job("stop", "held", 1), full, later, hidden];
    let order = next(&mut Queue::default(), &tenants([("held", hold)]), &jobs, 10, 10);
    assert_eq!(text(&order), "");
    assert_eq!(why(&order, "sus"), "Suspended: the job is suspended");
    assert_eq!(why(&order, "stop"), "QueueStopped: the queue is stopped: stopPolicy HoldAndDrain");
    assert_eq!(why(&order, "full"), "OverParallelism: 3 of its tasks run, parallelism is 3");
    assert_eq!(why(&order, "later"), "BackOff: its tasks are in back-off after failures");
    assert_eq!(why(&order, "hidden"), "BackOff: its waiting tasks are in back-off after failures");
}

#[test]
fn quotas_count_what_runs_and_what_is_handed_out() {
    let quota = Quota { tasks: Some(5), device_memory: Some(Bytes::gibi(10)) };
    let mut one = tenants([("q", TenantQueue { quota, ..TenantQueue::default() })]);
    *one.get_mut("q").unwrap() = Tenant { running: 2, memory: Bytes::gibi(4), ..one["q"].clone() };
    let of = |id: &str, gibi| with(job(id, "q", 9), |spec| spec.memory = Bytes::gibi(gibi));
    // What is too large is passed by what is not.
    let order = next(&mut Queue::default(), &one, &[of("big", 7), of("small", 2)], 0, 10);
    assert_eq!(text(&order), "small/0 small/1 small/2");
    assert_eq!(why(&order, "big"), "QuotaExceeded: the queue holds 4Gi of 10Gi device memory, 7Gi more would be held");
    // But not when it is overdue: then the queue runs dry until it has room; unless it never has.
    let order = next(&mut Queue::default(), &one, &[of("big", 7), at(of("small", 2), 5_000)], 60_001, 10);
    assert_eq!(text(&order), "");
    assert_eq!(
        why(&order, "small"),
        "QuotaExceeded: what is left of the queue's quota is kept for job big, which waits longest"
    );
    assert_eq!(first(&one, &[of("huge", 11), at(of("small", 2), 5_000)], 60_001, 10), "small/0 small/1 small/2");
}

#[test]
fn a_queue_lowers_the_price_and_hands_out_one_copy() {
    let price = |points: &str| Some(points.parse::<PicoPoints>().unwrap());
    let one = tenants([("q", TenantQueue { max_price_per_hour: price("0.2"), ..TenantQueue::default() })]);
    let jobs = ["0.1", "0.3"].map(|limit| with(job(limit, "q", 1), |spec| spec.max_price_per_hour = price(limit)));
    let jobs = [jobs[0].clone(), jobs[1].clone(), job("any", "q", 1)];
    let mut queue = Queue::default();
    let before = next(&mut queue, &one, &jobs, 0, 10);
    let prices: Vec<_> = before.requests.iter().map(|request| request.spec.max_price_per_hour).collect();
    assert_eq!(prices, [price("0.1"), price("0.2"), price("0.2")]);
    let after = next(&mut queue, &one, &jobs, 1, 10);
    for (a, b) in before.requests.iter().zip(&after.requests) {
        assert!(Arc::ptr_eq(&a.spec, &b.spec));
    }
    assert!(Arc::ptr_eq(&before.requests[0].spec, &jobs[0].job.spec));
}

#[test]
fn a_refused_job_is_looked_at_with_one_task_and_growing_gaps() {
    let none = Tenants::new();
    let jobs = |count, at, changed| [refused(job("x", "q", 3), count, at, changed)];
    assert_eq!(first(&none, &jobs(1, 0, false), 999, 10), "");
    // The next one each time: one that fits nowhere must not hide the others.
    assert_eq!(first(&none, &jobs(1, 0, false), 1_000, 10), "x/1");
    assert_eq!(first(&none, &jobs(2, 0, false), 1_999, 10), "");
    assert_eq!(first(&none, &jobs(2, 0, false), 2_000, 10), "x/2");
    assert_eq!(first(&none, &jobs(2, 0, true), 0, 10), "x/2");
    assert_eq!(first(&none, &jobs(99, 0, false), BACK_OFF_MOST.0 - 1, 10), "");
    assert_eq!(first(&none, &jobs(99, 0, false), BACK_OFF_MOST.0, 10), "x/0");
    // A clock that was set back holds nobody.
    assert_eq!(first(&none, &jobs(9, 50_000, false), 1, 10), "x/0");
    let order = next(&mut Queue::default(), &none, &jobs(5, 0, false), 10, 10);
    assert_eq!(why(&order, "x"), "BackOff: no node took it 5 times in a row, and nothing changed since");
}

#[test]
fn a_request_carries_what_is_left_of_the_budget() {
    let points = |text: &str| text.parse::<PicoPoints>().unwrap();
    let left = |queued: &QueuedJob| {
        next(&mut Queue::default(), &Tenants::new(), std::slice::from_ref(queued), 0, 1).requests[0].budget_left
    };
    let mut queued = job("a", "q", 1);
    queued.job.committed = points("0.75");
    assert_eq!(left(&queued), None);
    assert_eq!(left(&with(queued, |spec| spec.max_cost = Some(points("1")))), Some(points("0.25")));
}

/// A job whose last look, at 60 s, found that no node could take it whatever is free.
fn doomed(queued: QueuedJob, changed: bool) -> QueuedJob {
    let mut queued = refused(queued, 1, 60_000, changed);
    queued.refusal.as_mut().unwrap().capacity = false;
    queued
}

#[test]
fn nothing_is_kept_for_a_job_that_waiting_does_not_help() {
    let none = Tenants::new();
    let overdue = |jobs: &[QueuedJob], now| {
        let order = next(&mut Queue::default(), &none, jobs, now, 10);
        let marked = order.requests.iter().filter(|request| request.overdue).map(|request| request.task.to_string());
        (text(&order), marked.collect::<Vec<_>>().join(" "))
    };
    let later = at(job("later", "q", 1), 1);
    let both = |old: QueuedJob| [old, later.clone()];
    let is = |order: &str, marked: &str| (order.to_owned(), marked.to_owned());
    // One that was never looked at, and one that waits for capacity, have the reservation.
    assert_eq!(overdue(&both(job("old", "q", 1)), 62_000), is("old/0 later/0", "old/0"));
    assert_eq!(overdue(&both(refused(job("old", "q", 1), 1, 60_000, false)), 62_000), is("old/0 later/0", "old/0"));
    // Else the next has it; a node that joined has it looked at, and no more.
    assert_eq!(overdue(&both(doomed(job("old", "q", 1), false)), 62_000), is("later/0 old/0", "later/0"));
    assert_eq!(overdue(&both(doomed(job("old", "q", 1), true)), 60_010), is("later/0 old/0", "later/0"));
    // Something changed and it was not looked at for long: nobody knows.
    assert_eq!(overdue(&both(doomed(job("old", "q", 1), true)), 120_001), is("old/0 later/0", "old/0"));
    assert_eq!(overdue(&both(doomed(job("old", "q", 1), false)), 120_001), is("later/0 old/0", "later/0"));
}

#[test]
fn a_quota_is_not_drained_for_a_job_that_waiting_does_not_help() {
    let quota = Quota { tasks: None, device_memory: Some(Bytes::gibi(10)) };
    let mut one = tenants([("q", TenantQueue { quota, ..TenantQueue::default() })]);
    *one.get_mut("q").unwrap() = Tenant { running: 2, memory: Bytes::gibi(4), ..one["q"].clone() };
    let of = |id: &str, gibi| with(job(id, "q", 9), |spec| spec.memory = Bytes::gibi(gibi));
    let small = at(of("small", 2), 5_000);
    assert_eq!(first(&one, &[refused(of("big", 7), 1, 60_000, true), small.clone()], 66_000, 10), "");
    for changed in [false, true] {
        let jobs = [doomed(of("big", 7), changed), small.clone()];
        let order = next(&mut Queue::default(), &one, &jobs, 66_000, 10);
        assert_eq!(text(&order), "small/0 small/1 small/2");
        assert!(why(&order, "big").starts_with("QuotaExceeded: the queue holds"), "{}", why(&order, "big"));
    }
    // A quota that never has room hides what changed: after long enough it is drained for one look.
    assert_eq!(first(&one, &[doomed(of("big", 7), true), small.clone()], 120_001, 10), "");
    assert_eq!(first(&one, &[doomed(of("big", 7), false), small], 120_001, 10), "small/0 small/1 small/2");
}

#[test]
fn what_a_place_was_made_free_for_goes_first() {
    let none = Tenants::new();
    let old = job("old", "q", 2);
    let urgent = with(at(job("urgent", "r", 1), 5_000), |spec| spec.priority = 9);
    let mut high = refused(with(at(job("high", "q", 3), 60_000), |spec| spec.priority = 1), 1, 61_000, false);
    // The overdue one has its turn, and one that was just refused waits.
    assert_eq!(first(&none, &[old.clone(), high.clone(), urgent.clone()], 61_500, 10), "old/0 urgent/0 old/1");
    high.nominated = vec![2];
    let jobs = [old, high, urgent];
    let order = next(&mut Queue::default(), &none, &jobs, 61_500, 10);
    assert_eq!(text(&order), "high/2 urgent/0 old/0 old/1");
    assert!(order.why(0).unwrap().to_string().contains("a place was made free for it"));
    // The plan tries them as they stand, and the one that waited longest keeps its reservation.
    assert_eq!(order.arbiter().turn(), Some(0));
    let overdue: Vec<_> = order.requests.iter().map(|request| request.overdue).collect();
    assert_eq!(overdue, [false, false, true, false]);
    // A quota holds for it too, and what is left of one is kept as ever.
    let quota = Quota { tasks: Some(1), device_memory: None };
    let mut full = tenants([("q", TenantQueue { quota, ..TenantQueue::default() })]);
    full.get_mut("q").unwrap().running = 1;
    let order = next(&mut Queue::default(), &full, &jobs, 61_500, 10);
    assert_eq!(text(&order), "urgent/0");
    assert!(why(&order, "high").ends_with("kept for job old, which waits longest"), "{}", why(&order, "high"));
}

/// The place that was made free is its, though a job of its queue waits for longer than the ageing bound.
#[test]
fn the_place_goes_to_whom_it_was_made_free_for() {
    let device = DeviceView { name: "gpu0".into(), total: Bytes::gibi(8), slots: 1, ..DeviceView::default() };
    let device = DeviceView { free: device.total, ..device };
    let node = NodeView { devices: vec![device], ..NodeView::new(NodeId::new("n").unwrap()) };
    let gets = |nominated: Vec<u32>| {
        let mut high = with(at(job("high", "q", 1), 61_000), |spec| spec.priority = 1);
        high.nominated = nominated;
        let order = next(&mut Queue::default(), &Tenants::new(), &[job("old", "q", 1), high], 61_500, 10);
        let snapshot = Snapshot::new(vec![node.clone()], Timestamp(61_500));
        let plan = Pool::default().plan_order(snapshot, &order, &Weights::default(), &Batch::default());
        plan.placements.iter().map(|placed| placed.task.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(gets(Vec::new()), "old/0");
    assert_eq!(gets(vec![0]), "high/0");
}
