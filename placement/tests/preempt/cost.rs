//! What a decision costs: printed, never asserted. `cargo test --release -p nightshift-placement --test preempt --
//! --ignored --nocapture`

use crate::common::Random;
use crate::fixture::{NOW, node, node_id, request, running, tenant};
use nightshift_placement::Snapshot;
use nightshift_placement::preempt::{Preemption, preempt};
use nightshift_types::{Bytes, NodeId, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time of the processor that this thread used: the machine may do other work too.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
#[ignore = "prints figures"]
fn a_decision_in_a_full_pool() {
    for count in [1_000, 10_000, 100_000] {
        let mut random = Random(1);
        let ids: Vec<NodeId> = (0..count).map(|n| node_id(&format!("node-{n:06}"))).collect();
        let (mut nodes, mut tasks) = (Vec::new(), Vec::new());
        for (n, id) in ids.iter().enumerate() {
            let own: Vec<_> = (0..4)
                .map(|nth| {
                    let queue = random.of(&["q", "rich", "poor"]);
                    let mut task = running(&format!("t{n}-{nth}"), queue, random.below(7) as i32, id, 4);
                    task.placed_at = Timestamp(NOW.0 - random.next() % 600_000);
                    task
                })
                .collect();
            nodes.push(node(id, 16, 4, &own));
            tasks.extend(own);
        }
        let snapshot = Snapshot::new(nodes, NOW);
        let tenants =
            [("q", 1), ("rich", 90), ("poor", 2)].map(|(name, usage)| (name.to_owned(), tenant(1, usage))).into();
        for (priority, gibi) in [(7, 4), (7, 12), (1, 12), (0, 4)] {
            let mut new = request("new", "q", priority, 1);
            std::sync::Arc::make_mut(&mut new.spec).memory = Bytes::gibi(gibi);
            let begin = cpu();
            let decided = preempt(&new, &snapshot, &tasks, &tenants);
            let took = cpu() - begin;
            let victims = if let Preemption::Displace(displacement) = decided { displacement.victims.len() } else { 0 };
            println!(
                "{count} nodes, {} tasks, priority {priority}, {gibi}Gi: {took:?}, {victims} victims",
                tasks.len()
            );
        }
    }
}
