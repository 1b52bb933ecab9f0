//! Who may displace whom, and when.

use crate::fixture::{NOW, Tenants, displaced, node, node_id, request, running, task_id, tenant};
use nightshift_placement::preempt::{MIN_RUN, MOST_DISPLACEMENTS, Preemption, RunningTask, TAKES, preempt};
use nightshift_placement::{Request, Snapshot, Unavailable};
use nightshift_types::{Milliseconds, NodeId, QueueTier, Timestamp};

/// Whether a request of `queue` at priority 5 displaces one task of queue `q` that fills the only device.
fn displaces(change: impl FnOnce(&mut RunningTask<'_>)) -> bool {
    takes(&request("new", "q", 5, 8), &Tenants::new(), change)
}

fn takes(request: &Request, tenants: &Tenants, change: impl FnOnce(&mut RunningTask<'_>)) -> bool {
    let id = node_id("n");
    let mut task = running("old", "q", 4, &id, 8);
    change(&mut task);
    let tasks = [task];
    displaced(request, vec![node(&id, 10, 4, &tasks)], &tasks, tenants).is_some()
}

#[test]
fn only_a_lower_priority_that_ran_a_while_and_goes_on() {
    assert!(displaces(|_| {}));
    assert!(!displaces(|task| task.priority = 5));
    assert!(!displaces(|task| task.owner = true));
    assert!(!displaces(|task| task.displaced = MOST_DISPLACEMENTS));
    assert!(displaces(|task| task.displaced = MOST_DISPLACEMENTS - 1));
    assert!(displaces(|task| task.placed_at = Timestamp(NOW.0 - MIN_RUN.0)));
    assert!(!displaces(|task| task.placed_at = Timestamp(NOW.0 - MIN_RUN.0 + 1)));
    assert!(!displaces(|task| task.expected_end = Some(NOW.after(TAKES))));
    assert!(displaces(|task| task.expected_end = Some(Timestamp(NOW.0 + TAKES.0 + 1))));
    // A prediction that has long passed protects nobody.
    assert!(displaces(|task| task.expected_end = Some(Timestamp(NOW.0 - TAKES.0 - 1))));
}

#[test]
fn waiting_too_long_displaces_nothing_and_neither_does_a_gang() {
    let mut late = request("new", "q", 4, 8);
    late.overdue = true;
    assert!(!takes(&late, &Tenants::new(), |_| {}));
    let mut gang = request("new", "q", 5, 8);
    gang.gang = 2;
    assert!(!takes(&gang, &Tenants::new(), |_| {}));
}

#[test]
fn another_queue_gives_only_what_it_has_too_much_of() {
    let of = |own, other| Tenants::from([("p".to_owned(), own), ("q".to_owned(), other)]);
    let new = request("new", "p", 5, 8);
    assert!(takes(&new, &of(tenant(1, 10), tenant(1, 90)), |_| {}));
    assert!(!takes(&new, &of(tenant(1, 50), tenant(1, 50)), |_| {}));
    assert!(!takes(&new, &of(tenant(1, 10), tenant(9, 90)), |_| {}));
    // Not even then at the same priority, from a better tier, or without an object.
    assert!(!takes(&new, &of(tenant(1, 10), tenant(1, 90)), |task| task.priority = 5));
    let mut free = tenant(1, 10);
    free.queue.tier = QueueTier::Free;
    assert!(!takes(&new, &of(free.clone(), tenant(1, 90)), |_| {}));
    assert!(takes(&new, &of(tenant(1, 10), tenant(1, 90)), |_| {}));
    free.usage = 90;
    assert!(takes(&new, &of(tenant(1, 10), free), |_| {}));
    assert!(!takes(&new, &Tenants::new(), |_| {}));
}

#[test]
fn nothing_is_displaced_where_that_does_not_help() {
    let id = node_id("n");
    let tasks = [running("old", "q", 0, &id, 8)];
    let refused = |node| displaced(&request("new", "q", 5, 8), vec![node], &tasks, &Tenants::new()).is_none();
    let fine = node(&id, 10, 4, &tasks);
    assert!(!refused(fine.clone()));
    let mut owner = fine.clone();
    owner.unavailable = Some(Unavailable::OwnerActive);
    assert!(refused(owner));
    let mut cordoned = fine.clone();
    cordoned.unschedulable = true;
    assert!(refused(cordoned));
    let mut small = fine.clone();
    small.devices[0].total = nightshift_types::Bytes::gibi(7);
    assert!(refused(small));
    let mut avoids = request("new", "q", 5, 8);
    avoids.avoid = vec![id.clone()];
    assert!(displaced(&avoids, vec![fine], &tasks, &Tenants::new()).is_none());
}

#[test]
fn what_ends_soon_is_waited_for() {
    let (a, b) = (node_id("a"), node_id("b"));
    let mut soon = running("soon", "q", 9, &b, 8);
    soon.expected_end = Some(Timestamp(NOW.0 + 3_000));
    let tasks = [running("low", "q", 0, &a, 8), soon];
    let decide = |ids: &[&NodeId]| {
        let nodes = ids.iter().map(|id| node(id, 10, 4, &tasks)).collect();
        preempt(&request("new", "q", 5, 8), &Snapshot::new(nodes, NOW), &tasks, &Tenants::new())
    };
    let until = Timestamp(NOW.0 + 3_000);
    assert_eq!(decide(&[&a, &b]), Preemption::Wait { node: b.clone(), device: "gpu0".into(), until });
    let Preemption::Displace(displacement) = decide(&[&a]) else { panic!("nothing displaced") };
    assert_eq!(displacement.victims, [task_id("low")]);
    let says = "displaces 1 task of priority 0 at most on gpu0 of a, which ran for 60 s";
    assert_eq!(displacement.to_string(), says);
}

#[test]
fn a_busy_device_is_relieved_as_far_as_needed() {
    let id = node_id("n");
    let busy = |job: &str, queued_ms, ran| {
        let mut task = running(job, "q", 0, &id, 1);
        (task.queued_ms, task.placed_at) = (queued_ms, Timestamp(NOW.0 - ran));
        task
    };
    let tasks = [busy("a", 40_000, 30_000), busy("b", 20_000, 20_000), busy("c", 9_000, 10_000)];
    let mut new = request("new", "q", 5, 1);
    std::sync::Arc::make_mut(&mut new.spec).max_latency = Some(Milliseconds(18_000));
    let victims = |slots| {
        let displacement = displaced(&new, vec![node(&id, 10, slots, &tasks)], &tasks, &Tenants::new());
        displacement.map(|displacement| displacement.victims)
    };
    // 69 s of work on four slots are a wait of 17 s: the longest is enough, and neither of the others is.
    assert_eq!(victims(4), Some(vec![task_id("a")]));
    // With one slot all must go; with many nothing has to.
    assert_eq!(victims(1).map(|victims| victims.len()), Some(3));
    assert_eq!(victims(40), None);
}

#[test]
fn least_harm_is_priority_then_number_then_time() {
    let (a, b, c) = (node_id("a"), node_id("b"), node_id("c"));
    let task = |job: &str, node: &'static str, priority, gibi, ran| (job.to_owned(), node, priority, gibi, ran);
    let choose = |tasks: &[(String, &str, i32, u64, u64)]| {
        let id = |name: &str| -> &NodeId { [&a, &b, &c].into_iter().find(|id| id.as_str() == name).unwrap() };
        let tasks: Vec<_> = tasks
            .iter()
            .map(|(job, node, priority, gibi, ran)| {
                let placed_at = Timestamp(NOW.0 - ran);
                RunningTask { placed_at, ..running(job, "q", *priority, id(node), *gibi) }
            })
            .collect();
        let nodes = [&a, &b, &c].map(|id| node(id, 8, 4, &tasks)).into();
        let chosen = displaced(&request("new", "q", 5, 6), nodes, &tasks, &Tenants::new()).unwrap();
        chosen.victims.iter().map(|task| task.job.to_string()).collect::<Vec<_>>().join(" ")
    };
    let (high, low1, low2) =
        (task("high", "a", 3, 8, 20_000), task("low1", "b", 2, 4, 90_000), task("low2", "b", 1, 4, 90_000));
    let whole = task("whole", "c", 2, 8, 95_000);
    let full = task("full", "c", 9, 8, 95_000);
    assert_eq!(choose(&[high.clone(), low1.clone(), low2.clone(), full]), "low1 low2");
    assert_eq!(choose(&[high, low1, low2, whole.clone()]), "whole");
    assert_eq!(choose(&[task("x", "a", 2, 8, 95_001), task("y", "b", 2, 8, 94_999), whole]), "y");
}

#[test]
fn a_gang_loses_no_more_than_it_can_spare() {
    let id = node_id("n");
    let member = |index: u32, spare: u32| {
        let mut task = RunningTask { spare, ..running("gang", "q", 0, &id, 4) };
        (task.task.index, task.placed_at) = (index, Timestamp(NOW.0 - 60_000 + u64::from(index)));
        task
    };
    let victims = |spare: u32, gibi: u64| {
        let tasks = [member(0, spare), member(1, spare), member(2, spare)];
        let displacement =
            displaced(&request("new", "q", 5, gibi), vec![node(&id, 12, 4, &tasks)], &tasks, &Tenants::new());
        displacement.map(|displacement| displacement.victims.iter().map(|task| task.index).collect::<Vec<_>>())
    };
    assert_eq!(victims(0, 4), None);
    // One, the shortest of them; not two.
    assert_eq!(victims(1, 4), Some(vec![2]));
    assert_eq!(victims(1, 8), None);
    assert_eq!(victims(2, 8), Some(vec![1, 2]));
    assert_eq!(victims(u32::MAX, 12), Some(vec![0, 1, 2]));
}
