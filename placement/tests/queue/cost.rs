//! What an order costs: printed, never asserted. `cargo test --release -p nightshift-placement --test queue --
//! --ignored --nocapture`

use crate::fixture::{Tenants, at, job};
use nightshift_placement::queue::{Queue, QueuedJob, Tenant};
use nightshift_types::{TenantQueue, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time of the processor that this thread used: the machine may do other work too.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
#[ignore = "prints figures"]
fn an_order_of_many_jobs() {
    for (jobs, tasks) in [(10_000, 10), (100_000, 10), (10_000, 100)] {
        let queue = |n: u32| TenantQueue { weight: 1 + n % 100, ..TenantQueue::default() };
        let tenants: Tenants = (0..100u32)
            .map(|n| {
                (format!("queue-{n}"), Tenant { queue: queue(n), usage: u64::from(n) * 1_000, ..Tenant::default() })
            })
            .collect();
        // Ids as uids are; four of ten jobs are overdue.
        let id = |n: u32| format!("{:08x}-5bd1-4c37-9d4f-{:012x}", n.wrapping_mul(2_654_435_761), n);
        let jobs: Vec<QueuedJob> = (0..jobs)
            .map(|n| at(job(&id(n), &format!("queue-{}", n % 100), tasks), u64::from(n) * 7_919 % 100_000))
            .collect();
        let mut queue = Queue::default();
        let (mut next, mut placed) = (Vec::new(), Vec::new());
        for cycle in 0..20 {
            let begin = cpu();
            let order = queue.next(&tenants, &jobs, Timestamp(100_000 + cycle), 4_096);
            next.push(cpu() - begin);
            assert_eq!(order.requests.len(), 4_096);
            let done: BTreeSet<_> = order.requests.iter().map(|request| request.task.clone()).collect();
            let begin = cpu();
            queue.placed(&order, |task| done.contains(task));
            placed.push(cpu() - begin);
        }
        next.sort();
        placed.sort();
        let count = jobs.len() * tasks as usize;
        println!(
            "{count} tasks, {} jobs, 4096 of them: next {:?} (most {:?}), placed {:?}",
            jobs.len(),
            next[10],
            next[19],
            placed[10]
        );
    }
}
