//! An order can be explained.

use crate::fixture::{Tenants, at, job, next, tenants, with};
use nightshift_placement::queue::{Order, Queue};
use nightshift_types::{JobId, QueueTier, TaskId, TenantQueue};

fn words(order: &Order, job: &str, index: u32) -> String {
    let task = TaskId { job: JobId::new(job).unwrap(), index };
    order.why(order.position(&task).unwrap()).unwrap().to_string()
}

#[test]
fn a_rank_names_the_queue_that_goes_first_and_its_share() {
    let mut two = tenants([
        ("voice", TenantQueue { weight: 2, ..TenantQueue::default() }),
        ("video", TenantQueue { weight: 2, ..TenantQueue::default() }),
        ("free", TenantQueue { tier: QueueTier::Free, ..TenantQueue::default() }),
    ]);
    two.get_mut("voice").unwrap().usage = 20_000;
    two.get_mut("video").unwrap().usage = 80_000;
    let video = with(job("film", "video", 9), |spec| spec.priority = 100);
    let jobs = [video, job("call", "voice", 9), at(job("x", "free", 1), 1_000)];
    let order = next(&mut Queue::default(), &two, &jobs, 12_000, 100);
    assert_eq!(
        words(&order, "film", 2),
        "3rd in queue video: priority 100, waited 12 s; 7 tasks of queue voice go first: share 20 % used of 50 %"
    );
    assert_eq!(
        words(&order, "x", 0),
        "1st in queue free: priority 0, waited 11 s; 9 tasks of queue video go first: its tier is Paid"
    );
    assert_eq!(words(&order, "call", 0), "1st in queue voice: priority 0, waited 12 s");
}

#[test]
fn overdue_deadline_and_gang_are_told() {
    let gang = with(job("g", "q", 2), |spec| spec.min_parallelism = 2);
    let mut soon = with(at(job("d", "q", 1), 60_000), |spec| {
        spec.pending_deadline = Some(nightshift_types::Milliseconds(1_000));
    });
    soon.pending_since = Some(soon.job.submitted);
    let order = next(&mut Queue::default(), &Tenants::new(), &[gang, soon], 60_001, 10);
    let says = "2nd in queue q: priority 0, waited 60 s, longest of those that wait too long, 2 tasks start together";
    assert_eq!(words(&order, "g", 1), says);
    assert_eq!(words(&order, "d", 0), "3rd in queue q: priority 0, waited 0 s, its deadline is near");
}
