//! What holds for every plan whose tasks are planned together.

use crate::common::Random;
use crate::world::{Shape, check, placed, requests, snapshot};
use nightshift_placement::{Batch, Pool, Request, Snapshot, Weights, plan};
use nightshift_types::{JobId, JobSpec, Reputation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes with and without a good name, and jobs that ask for one: of just so much as a bit of the index tells, and of less.
fn names(pool: &mut Snapshot, tasks: &mut [Request]) {
    let mut specs: BTreeMap<JobId, Arc<JobSpec>> = BTreeMap::new();
    for (position, node) in pool.nodes.iter_mut().enumerate() {
        node.reputation = Reputation::new([833, 900, 500, 992, 666][position % 5]);
    }
    for task in tasks {
        let number = specs.len();
        let spec = specs.entry(task.task.job.clone()).or_insert_with(|| {
            let mut spec = JobSpec::clone(&task.spec);
            spec.min_reputation = [Some(700), None, Some(900)][number % 3].map(Reputation::new);
            Arc::new(spec)
        });
        task.spec = Arc::clone(spec);
    }
}

/// The same tasks are placed and refused as one by one; every limit is kept; the total is not more; and planning again
/// gives the same.
#[test]
fn planned_together_never_costs_more_and_breaks_no_limit() {
    let (mut random, weights) = (Random(11), Weights::default());
    let (mut less, mut all) = (0, 0);
    for turn in 0..120 {
        let shape = random.of(&[Shape::OneEach, Shape::Shared]);
        let nodes = 1 + random.below(40);
        let mut pool = snapshot(&mut random, shape, nodes);
        let (count, most) = (1 + random.below(60), random.of(&[1, 5, 30]));
        let mut tasks = requests(&mut random, count, most);
        if turn % 2 == 0 {
            names(&mut pool, &mut tasks);
        }
        for task in &mut tasks {
            if random.percent(10) {
                task.avoid.push(pool.nodes[random.below(nodes)].id.clone());
            }
        }
        let greedy = plan(&pool, &tasks, &weights);
        let batch = match turn % 3 {
            // A few at a time; and devices by what more of the tasks would get.
            0 => Batch { tasks: 7, ..Batch::default() },
            1 => Batch { devices: 3, ..Batch::default() },
            _ => Batch::default(),
        };
        let mut indexed = Pool::default();
        let better = indexed.plan_batch(pool.clone(), &tasks, &weights, &batch);
        indexed.check_invariants().unwrap();
        assert_eq!((placed(&better), &better.refused), (placed(&greedy), &greedy.refused));
        let (before, after) = (check(&pool, &tasks, &greedy), check(&pool, &tasks, &better));
        assert!(after <= before * (1.0 + 1e-6), "turn {turn}: {after} instead of {before}");
        less += usize::from(after < before * 0.999);
        all += usize::from(greedy.placements.len() > 1);
        for task in &tasks {
            let of = |plan: &nightshift_placement::Plan| {
                plan.placements.iter().find(|placed| placed.task == task.task).map(|placed| placed.node.clone())
            };
            let (first, then) = (of(&greedy), of(&better));
            assert!(then.is_none_or(|then| !task.avoid.contains(&then) || Some(then) == first), "sent where it avoids");
        }
        assert_eq!(
            indexed.plan_batch(pool.clone(), &tasks, &weights, &batch),
            better,
            "planning twice changes nothing"
        );
        assert_eq!(Pool::default().plan_batch(pool.clone(), &tasks, &weights, &batch), better);
        // What was done for a batch leaves nothing behind.
        assert_eq!(indexed.plan(pool, &tasks, &weights), greedy);
        indexed.check_invariants().unwrap();
    }
    assert!(less * 2 > all, "of {all} plans of several tasks only {less} became better");
}

#[test]
fn a_single_task_is_placed_as_ever() {
    let (mut random, weights) = (Random(12), Weights::default());
    let pool = snapshot(&mut random, Shape::Shared, 30);
    let tasks = requests(&mut random, 1, 1);
    let mut indexed = Pool::default();
    assert_eq!(indexed.plan_batch(pool.clone(), &tasks, &weights, &Batch::default()), plan(&pool, &tasks, &weights));
}
