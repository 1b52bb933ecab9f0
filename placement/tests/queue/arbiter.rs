//! What finds no node takes no turn.

use crate::fixture::{first, job, next, tenants, weight, with};
use nightshift_placement::queue::{Order, Queue};
use nightshift_types::{QueueTier, TenantQueue};

/// Requests of the order by queue, as the arbiter gives them while those for which `fits` is false find no node.
fn placed(order: &Order, fits: impl Fn(&str, u32) -> bool, places: usize) -> Vec<&str> {
    let mut arbiter = order.arbiter();
    let mut placed = Vec::new();
    while let Some(position) = arbiter.turn() {
        let request = &order.requests[position];
        if placed.len() < places && fits(&request.spec.queue, request.task.index) {
            arbiter.placed(position);
            placed.push(request.spec.queue.as_str());
        }
    }
    placed
}

fn counts(placed: &[&str], names: [&str; 2]) -> [usize; 2] {
    names.map(|name| placed.iter().filter(|queue| **queue == name).count())
}

#[test]
fn each_request_is_given_once_and_each_queues_in_their_order() {
    let tenants = tenants([("a", weight(1)), ("b", weight(3))]);
    let order = next(&mut Queue::default(), &tenants, &[job("x", "a", 7), job("y", "b", 9)], 0, 100);
    let mut arbiter = order.arbiter();
    let mut given = Vec::new();
    while let Some(position) = arbiter.turn() {
        arbiter.placed(position);
        given.push(position);
    }
    // Where all is placed it is the order itself.
    assert_eq!(given, (0..16).collect::<Vec<_>>());
    let none = placed(&order, |_, _| false, 100);
    assert!(none.is_empty());
}

#[test]
fn a_queue_whose_first_tasks_find_no_node_has_its_share_all_the_same() {
    let tenants = tenants([("a", weight(1)), ("b", weight(3))]);
    let jobs = [job("x", "a", 200), job("y", "b", 200)];
    let order = next(&mut Queue::default(), &tenants, &jobs, 0, 1_000);
    let all = placed(&order, |_, _| true, 40);
    let some = placed(&order, |queue, index| queue == "a" || index >= 100, 40);
    assert_eq!(counts(&all, ["a", "b"]), [10, 30]);
    assert_eq!(counts(&some, ["a", "b"]), [10, 30]);
}

#[test]
fn tiers_and_the_turn_of_the_overdue_free_queue_stand() {
    let free = TenantQueue { tier: QueueTier::Free, ..TenantQueue::default() };
    let tenants = tenants([("free", free), ("paid", weight(1))]);
    let jobs = [job("x", "free", 50), with(job("y", "paid", 50), |_| {})];
    // Long after both came: of ten placements in a row one is for the free queue, until it had one.
    let order = next(&mut Queue::default(), &tenants, &jobs, 100_000, 1_000);
    let some = placed(&order, |queue, index| queue == "free" || index >= 5, 30);
    assert_eq!(some[0], "free");
    assert_eq!(counts(&some, ["free", "paid"]), [1, 29]);
    assert!(first(&tenants, &jobs, 0, 10).starts_with("y/0"), "nobody is overdue yet");
}

#[test]
fn nor_does_it_cost_a_turn_in_the_orders_that_follow() {
    let tenants = tenants([("a", weight(1)), ("b", weight(3))]);
    let mut queue = Queue::default();
    let mut jobs = [job("x", "a", 400), job("y", "b", 900)];
    let mut sums = [0usize; 2];
    for cycle in 1..=12 {
        let order = next(&mut queue, &tenants, &jobs, cycle * 1_000, 10_000);
        // The first two hundred of b never find a node: they stand before all others each time.
        let mut arbiter = order.arbiter();
        let mut placed = Vec::new();
        while let Some(position) = arbiter.turn() {
            let request = &order.requests[position];
            if placed.len() < 40 && (request.spec.queue == "a" || request.task.index >= 200) {
                arbiter.placed(position);
                placed.push(request.task.clone());
            }
        }
        queue.placed(&order, |task| placed.contains(task));
        for (number, job) in jobs.iter_mut().enumerate() {
            let before = job.job.waiting.len();
            let id = job.job.id.clone();
            job.job.waiting.retain(|task| !placed.iter().any(|placed| placed.job == id && placed.index == task.index));
            sums[number] += before - job.job.waiting.len();
            job.unfinished = job.job.waiting.len() as u32;
        }
        let due = cycle as usize * 10;
        assert!(sums[0].abs_diff(due) <= 2, "after {cycle} cycles: {sums:?}");
    }
}
