//! The order of waiting tasks.

use crate::fixture::{points, spec};
use nightshift_placement::queue::next;
use nightshift_placement::{WaitingJob, WaitingTask};
use nightshift_types::{JobId, Timestamp};
use std::sync::Arc;

fn job(id: &str, queue: &str, submitted: u64, running: u32, waiting: u32) -> WaitingJob {
    let spec = nightshift_types::JobSpec { queue: queue.into(), ..spec() };
    let task = |index| WaitingTask { index, not_before: Timestamp(0), avoid: Vec::new() };
    WaitingJob {
        id: JobId::new(id).unwrap(),
        spec: Arc::new(spec),
        submitted: Timestamp(submitted),
        running,
        committed: points("0"),
        waiting: (running..running + waiting).map(task).collect(),
    }
}

fn order(jobs: &[WaitingJob], limit: usize) -> String {
    next(jobs, Timestamp(100), limit).iter().map(|r| r.task.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn first_come_first_served_inside_a_job_and_turns_between() {
    let jobs = [job("b", "q", 2, 0, 2), job("a", "q", 1, 0, 3)];
    assert_eq!(order(&jobs, 10), "a/0 b/0 a/1 b/1 a/2");
}

#[test]
fn a_large_batch_delays_another_tenant_by_one_task() {
    let mut batch = job("batch", "big", 0, 0, 1_000);
    Arc::make_mut(&mut batch.spec).parallelism = 1_000;
    let jobs = [batch, job("one", "small", 50, 0, 1)];
    assert_eq!(order(&jobs, 3), "batch/0 one/0 batch/1");
}

#[test]
fn who_has_least_begins() {
    let jobs = [job("a", "x", 1, 3, 1), job("b", "y", 9, 0, 1), job("c", "x", 0, 5, 0)];
    assert_eq!(order(&jobs, 10), "b/0 a/3");
    // Inside a queue too, before who came first.
    assert_eq!(order(&[job("a", "x", 1, 3, 1), job("b", "x", 9, 0, 1)], 10), "b/0 a/3");
}

#[test]
fn parallelism_suspension_and_back_off_are_kept() {
    let jobs = [job("a", "q", 0, 8, 5)];
    assert_eq!(order(&jobs, 10), "a/8 a/9");
    let mut suspended = job("a", "q", 0, 0, 5);
    Arc::make_mut(&mut suspended.spec).suspend = true;
    assert_eq!(order(&[suspended], 10), "");
    let mut later = job("a", "q", 0, 0, 3);
    later.waiting[0].not_before = Timestamp(101);
    later.waiting[1].not_before = Timestamp(100);
    assert_eq!(order(&[later], 10), "a/1 a/2");
}

#[test]
fn a_request_carries_what_is_left() {
    let mut job = job("a", "q", 0, 0, 1);
    assert_eq!(next(std::slice::from_ref(&job), Timestamp(0), 1)[0].budget_left, None);
    Arc::make_mut(&mut job.spec).max_cost = Some(points("1"));
    job.committed = points("0.75");
    assert_eq!(next(&[job], Timestamp(0), 1)[0].budget_left, Some(points("0.25")));
}
