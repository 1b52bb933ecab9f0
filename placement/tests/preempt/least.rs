//! The least harm, against every choice there is.

use crate::common::Random;
use crate::fixture::{NOW, Tenants, displaced, node, node_id, request, running, tenant};
use nightshift_placement::preempt::{Displacement, MIN_RUN, MOST_DISPLACEMENTS, RunningTask};
use nightshift_placement::{NodeView, Request};
use nightshift_types::{Bytes, NodeId, Timestamp};
use proptest::prelude::*;

type Harm = (i32, usize, u64, NodeId);

/// Every set of tasks of every device, by the rules' words and not by their code. One queue, or a tenth of it each.
fn least(request: &Request, nodes: &[NodeView], tasks: &[RunningTask<'_>]) -> Option<Harm> {
    let may = |task: &&RunningTask<'_>| {
        let allowed = task.queue == "q" || task.queue == "rich";
        allowed
            && task.priority < request.spec.priority
            && !task.owner
            && task.displaced < MOST_DISPLACEMENTS
            && task.placed_at.0 + MIN_RUN.0 <= NOW.0
            && task.expected_end.is_none()
    };
    let mut best: Option<Harm> = None;
    for node in nodes {
        let device = &node.devices[0];
        let here: Vec<_> = tasks.iter().filter(|task| *task.node == node.id).filter(may).collect();
        for set in 1u32..1 << here.len() {
            let chosen: Vec<_> = (0..here.len()).filter(|n| set >> n & 1 == 1).map(|n| here[n]).collect();
            let freed: Bytes = chosen.iter().map(|task| task.memory).sum();
            let running = device.running - chosen.len() as u32;
            if device.free + freed < request.spec.memory
                || running >= device.slots
                || device.total < request.spec.memory
            {
                continue;
            }
            let priority = chosen.iter().map(|task| task.priority).max().unwrap();
            let lost = chosen.iter().map(|task| NOW.0 - task.placed_at.0).sum();
            let harm = (priority, chosen.len(), lost, node.id.clone());
            best = Some(best.map_or(harm.clone(), |before| before.min(harm)));
        }
    }
    best
}

fn harm(displacement: &Displacement) -> Harm {
    let Displacement { priority, victims, lost, node, .. } = displacement;
    (*priority, victims.len(), lost.0, node.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(3_000) })]

    #[test]
    fn no_choice_is_less_harmful(seed: u64, count in 1usize..5) {
        let mut random = Random(seed);
        let ids: Vec<NodeId> = (0..count).map(|n| node_id(&format!("n{n}"))).collect();
        let mut tasks = Vec::new();
        let mut sizes = Vec::new();
        for (n, id) in ids.iter().enumerate() {
            let (total, slots) = (4 + random.below(20) as u64, 1 + random.below(8) as u32);
            let mut left = total;
            for nth in 0..slots {
                let gibi = 1 + random.below(6) as u64;
                if gibi > left || random.percent(10) {
                    break;
                }
                left -= gibi;
                let mut task = running(&format!("t{n}-{nth}"), random.of(&["q", "q", "rich", "poor"]), 0, id, gibi);
                (task.priority, task.owner) = (random.below(7) as i32, random.percent(10));
                task.placed_at = Timestamp(NOW.0 - random.next() % 60_000);
                task.displaced = random.below(5) as u32;
                tasks.push(task);
            }
            sizes.push((total, slots));
        }
        let nodes: Vec<_> =
            ids.iter().zip(sizes).map(|(id, (total, slots))| node(id, total, slots, &tasks)).collect();
        let usage = [("q", 1), ("rich", 90), ("poor", 2)];
        let tenants: Tenants = usage.map(|(name, usage)| (name.to_owned(), tenant(1, usage))).into();
        let request = request("new", "q", random.below(8) as i32, 1 + random.below(16) as u64);
        let fits = nodes.iter().any(|node| {
            let device = &node.devices[0];
            device.free >= request.spec.memory && device.running < device.slots
        });
        prop_assume!(!fits);
        let expected = least(&request, &nodes, &tasks);
        prop_assert_eq!(displaced(&request, nodes, &tasks, &tenants).as_ref().map(harm), expected);
    }
}
