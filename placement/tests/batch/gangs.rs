//! Tasks of one job that start together, or not at all.

use crate::common::{Random, plain_spec};
use crate::world::{GIB, Shape, node, request, requests, snapshot};
use nightshift_placement::{AdmittedReason, Batch, NodeView, Plan, Pool, Request, Snapshot, Together, Weights, plan};
use nightshift_types::{Bytes, InputRef, JobId, Milliseconds, Objective, TaskId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes with one slot and 8 GiB each.
fn singles(count: usize) -> Snapshot {
    let mut random = Random(1);
    let one = |number| {
        let mut view: NodeView = node(&mut random, Shape::OneEach, number);
        (view.devices[0].total, view.devices[0].free) = (Bytes(8 * GIB), Bytes(8 * GIB));
        view
    };
    Snapshot::new((0..count).map(one).collect(), Timestamp(0))
}

fn job(name: &str, tasks: u32, gang: u32) -> Vec<Request> {
    let input = InputRef { digest: nightshift_types::Digest([1; 32]), size: Bytes(0) };
    let mut spec = plain_spec();
    (spec.memory, spec.reference) = (Bytes(4 * GIB), Milliseconds(1_000));
    (spec.objective, spec.inputs) = (Objective::Cheapest, vec![input; tasks as usize]);
    let (name, spec) = (JobId::new(name).unwrap(), Arc::new(spec));
    (0..tasks).map(|index| Request { gang, ..request(&name, index, &spec) }).collect()
}

/// As `plan` and as a pool plans, which must agree; twice, for what was refused is remembered.
fn both(pool: &Snapshot, tasks: &[Request]) -> Plan {
    let (weights, mut indexed) = (Weights::default(), Pool::default());
    let expected = plan(pool, tasks, &weights);
    for _ in 0..2 {
        assert_eq!(indexed.plan(pool.clone(), tasks, &weights), expected);
        indexed.check_invariants().unwrap();
    }
    expected
}

fn started(plan: &Plan, job: &str) -> usize {
    plan.placements.iter().filter(|placed| placed.task.job.as_str() == job).count()
}

#[test]
fn a_gang_that_does_not_fit_holds_nothing() {
    let pool = singles(3);
    let tasks = [job("gang", 4, 4), job("other", 3, 0)].concat();
    let found = both(&pool, &tasks);
    assert_eq!((started(&found, "gang"), started(&found, "other")), (0, 3));
    let (_, why) = &found.refused[0];
    assert_eq!(why.together, Some(Together { fit: 3, need: 4 }));
    assert_eq!(why.admitted_reason(), AdmittedReason::WaitingForCapacity);
    assert!(why.message().starts_with("3 of the 4 that must start together fit; the next: 0/3 nodes fit: "), "{why}");
    // All of them say the same.
    assert!(found.refused.iter().all(|(_, other)| other == why));
}

#[test]
fn a_gang_that_fits_starts_and_those_beyond_it_too() {
    let pool = singles(6);
    let found = both(&pool, &job("gang", 8, 4));
    assert_eq!(started(&found, "gang"), 6);
    // Those that came too late are no gang that waits.
    assert!(found.refused.iter().all(|(_, why)| why.together.is_none()));
}

#[test]
fn a_gang_of_which_too_few_wait_says_so() {
    let found = both(&singles(6), &job("gang", 8, 4)[..2]);
    assert_eq!(found.placements, []);
    assert_eq!(found.refused[0].1.message(), "2 of the 4 that must start together fit, and no more of them wait");
}

/// Two gangs that each could have half of the nodes: no order of their tasks lets them block each other.
#[test]
fn two_gangs_never_hold_halves() {
    let pool = singles(4);
    let (a, b) = (job("a", 3, 3), job("b", 3, 3));
    let turns: Vec<Request> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let found = both(&pool, &turns);
    assert_eq!((started(&found, "a"), started(&found, "b")), (3, 0));
}

/// What a gang that was withdrawn had spent is spent no more; a budget counts for its tasks together.
#[test]
fn a_gang_keeps_its_jobs_budget() {
    let mut pool = singles(4);
    pool.nodes.iter_mut().for_each(|node| node.price_per_hour = "0.36".parse().unwrap());
    for (budget, expected) in [("0.000399", 0), ("0.0004", 4)] {
        let mut tasks = job("gang", 4, 4);
        let mut spec = (*tasks[0].spec).clone();
        spec.max_cost = Some(budget.parse().unwrap());
        let spec = Arc::new(spec);
        tasks.iter_mut().for_each(|task| task.spec = Arc::clone(&spec));
        assert_eq!(started(&both(&pool, &tasks), "gang"), expected, "{budget}");
    }
}

/// The rule, told once more and plainly: when the first task of a gang comes up, its tasks are placed one after another
/// until enough are; if they run out before, those places are given up. Everything else goes on in order.
fn by_the_rule(pool: &Snapshot, tasks: &[Request]) -> Vec<Option<(String, String)>> {
    let alone = |tasks: Vec<Request>| -> BTreeMap<TaskId, (String, String)> {
        let tasks: Vec<Request> = tasks.into_iter().map(|task| Request { gang: 0, overdue: false, ..task }).collect();
        let plan = plan(pool, &tasks, &Weights::default());
        plan.placements.into_iter().map(|placed| (placed.task, (placed.node.to_string(), placed.device))).collect()
    };
    // Tasks in the order they had their turn, without those that gave up.
    let (mut turns, mut seen): (Vec<Request>, Vec<&TaskId>) = (Vec::new(), Vec::new());
    for task in tasks {
        if seen.contains(&&task.task) {
            continue;
        }
        if task.gang < 2 {
            turns.push(task.clone());
            continue;
        }
        let members: Vec<&Request> =
            tasks.iter().filter(|other| other.task.job == task.task.job && !seen.contains(&&other.task)).collect();
        let started = turns.iter().any(|other| other.task.job == task.task.job);
        if started {
            turns.push(task.clone());
            seen.push(&task.task);
            continue;
        }
        let mut tried = turns.clone();
        let mut count = 0;
        for member in &members {
            tried.push((*member).clone());
            count = alone(tried.clone()).keys().filter(|id| id.job == task.task.job).count();
            if count == task.gang as usize {
                break;
            }
        }
        if count == task.gang as usize {
            seen.extend(
                tried[turns.len()..]
                    .iter()
                    .filter_map(|tried| Some(&tasks.iter().find(|t| t.task == tried.task)?.task)),
            );
            turns = tried;
        } else {
            seen.extend(members.iter().map(|member| &member.task));
        }
    }
    let places = alone(turns);
    tasks.iter().map(|task| places.get(&task.task).cloned()).collect()
}

/// Memory and slots that a plan gives away are there. (A gang's later tasks have their turn with its first: so the order of
/// the requests does not tell their waits.)
fn enough_room(pool: &Snapshot, plan: &Plan) {
    for node in &pool.nodes {
        let here = || plan.placements.iter().filter(|placed| placed.node == node.id);
        let (device, memory) = (&node.devices[0], here().map(|placed| placed.memory.0).sum::<u64>());
        assert!(memory <= device.free.0 && here().count() as u32 + device.running <= device.slots.max(device.running));
    }
}

/// Pools and jobs from a seed, with and without gangs and such that wait too long.
fn mixed(random: &mut Random) -> (Snapshot, Vec<Request>) {
    let (shape, nodes) = (random.of(&[Shape::OneEach, Shape::Shared]), 1 + random.below(12));
    let pool = snapshot(random, shape, nodes);
    let mut tasks = requests(random, 30, 8);
    let mut gangs: BTreeMap<JobId, (u32, bool)> = BTreeMap::new();
    for task in &mut tasks {
        let fresh = || (random.of(&[0, 0, 1, 2, 3, 5]), random.percent(30));
        (task.gang, task.overdue) = *gangs.entry(task.task.job.clone()).or_insert_with(fresh);
    }
    share(&mut tasks);
    (pool, tasks)
}

fn share(tasks: &mut [Request]) {
    let mut known = BTreeMap::new();
    for task in tasks {
        let spec = known.entry(task.task.job.clone()).or_insert_with(|| Arc::clone(&task.spec));
        task.spec = Arc::clone(spec);
    }
}

#[test]
fn a_gang_starts_whole_or_not_at_all() {
    let (mut random, mut whole, mut none) = (Random(51), 0, 0);
    let (mut reused, weights) = (Pool::default(), Weights::default());
    for _ in 0..400 {
        let (pool, tasks) = mixed(&mut random);
        let found = both(&pool, &tasks);
        // Also by an index that has seen other pools, and where tasks are planned together.
        assert_eq!(reused.plan(pool.clone(), &tasks, &weights), found);
        let better = reused.plan_batch(pool.clone(), &tasks, &weights, &Batch::default());
        reused.check_invariants().unwrap();
        for found in [&found, &better] {
            enough_room(&pool, found);
            for task in tasks.iter().filter(|task| task.gang > 1) {
                let count = started(found, task.task.job.as_str());
                assert!(count == 0 || count >= task.gang as usize, "{count} of a gang of {}", task.gang);
                (whole, none) = (whole + usize::from(count > 0), none + usize::from(count == 0));
            }
        }
    }
    assert!(whole > 500 && none > 500, "{whole} started, {none} did not");
}

#[test]
fn gangs_are_placed_by_the_rule() {
    let mut random = Random(52);
    for _ in 0..150 {
        let (pool, mut tasks) = mixed(&mut random);
        tasks.iter_mut().for_each(|task| task.overdue = false);
        let found = both(&pool, &tasks);
        let place = |task: &Request| {
            let placed = found.placements.iter().find(|placed| placed.task == task.task)?;
            Some((placed.node.to_string(), placed.device.clone()))
        };
        assert_eq!(tasks.iter().map(place).collect::<Vec<_>>(), by_the_rule(&pool, &tasks));
    }
}
