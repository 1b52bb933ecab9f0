//! How near plans are to the optimum: by trying everything, by an exact assignment, and by a solver's figures.

use crate::common::Random;
use crate::hungarian;
use crate::world::{Shape, check, p95_ms, placed, points, requests, service_ms, snapshot};
use nightshift_placement::{Ask, Batch, NodeView, Pool, Request, Snapshot, Weights, filter, plan};
use nightshift_types::{JobSpec, Objective};
use std::sync::Arc;

/// The plan's tasks, in order, with their greedy quotes as limits where the budget is limited: what a batch may do.
fn limited(pool: &Snapshot, tasks: &[Request]) -> (Vec<Request>, f64, f64) {
    let weights = Weights::default();
    let greedy = plan(pool, tasks, &weights);
    let better = Pool::default().plan_batch(pool.clone(), tasks, &weights, &Batch::default());
    let ids = placed(&greedy);
    assert_eq!(ids, placed(&better));
    let mut kept: Vec<Request> = Vec::new();
    for (task, first) in tasks.iter().filter(|task| ids.contains(&&task.task)).zip(&greedy.placements) {
        let left = task.spec.max_cost.map(|_| first.quote);
        kept.push(Request { budget_left: left, ..task.clone() });
    }
    (kept, check(pool, tasks, &greedy), check(pool, tasks, &better))
}

/// Tries every device for every task, in their order.
fn least(nodes: &mut [NodeView], tasks: &[Request], so_far: f64, best: &mut f64) {
    let Some((task, rest)) = tasks.split_first() else {
        *best = best.min(so_far);
        return;
    };
    for at in 0..nodes.len() {
        let queued = nodes[at].devices[0].queued_ms as f64;
        if !fits(&nodes[at], task, queued) {
            continue;
        }
        let cost = so_far + points(&nodes[at], task, queued);
        if cost >= *best {
            continue;
        }
        let (before, busy) = (nodes[at].devices[0].clone(), service_ms(&nodes[at], task).ceil() as u64);
        let device = &mut nodes[at].devices[0];
        (device.free.0, device.running) = (device.free.0 - task.spec.memory.0, device.running + 1);
        device.queued_ms += busy;
        least(nodes, rest, cost, best);
        nodes[at].devices[0] = before;
    }
}

/// Whether a device takes a task: memory, slots, region, price, budget and time.
fn fits(node: &NodeView, task: &Request, queued: f64) -> bool {
    let (spec, device) = (&task.spec, &node.devices[0]);
    let quote = node.price_per_hour.0 as f64 * spec.reference.0 as f64 / 3_600_000.0;
    device.running < device.slots
        && device.free >= spec.memory
        && (spec.regions.is_empty() || spec.regions.contains(&node.region))
        && spec.max_price_per_hour.is_none_or(|limit| node.price_per_hour <= limit)
        && task.budget_left.is_none_or(|left| quote <= left.0 as f64)
        && spec.max_latency.is_none_or(|limit| p95_ms(node, task, queued) <= limit.0 as f64)
}

#[test]
fn small_plans_against_everything_there_is() {
    let mut random = Random(21);
    let (mut first, mut then, mut optimum, mut worst) = (0.0, 0.0, 0.0, 1.0f64);
    for _ in 0..150 {
        let shape = random.of(&[Shape::OneEach, Shape::Shared, Shape::Shared]);
        let (nodes, count) = (2 + random.below(4), 2 + random.below(6));
        let pool = snapshot(&mut random, shape, nodes);
        let most = random.of(&[1, 3]);
        let tasks = requests(&mut random, count, most);
        let (kept, greedy, better) = limited(&pool, &tasks);
        let mut best = f64::INFINITY;
        least(&mut pool.nodes.clone(), &kept, 0.0, &mut best);
        if kept.is_empty() {
            continue;
        }
        assert!(better >= best * (1.0 - 1e-6), "{better} is less than the least, {best}");
        (first, then, optimum) = (first + greedy / best, then + better / best, optimum + 1.0);
        worst = worst.max(better / best);
    }
    println!("one by one {:.4}, together {:.4}, worst {worst:.4}", first / optimum, then / optimum);
    assert!(then / optimum <= 1.02, "on average {:.4} times the optimum", then / optimum);
    assert!((then - optimum) * 3.0 < first - optimum);
}

/// 300 tasks on 300 devices that take one each: an assignment, whose optimum is known.
#[test]
fn an_assignment_of_three_hundred_within_two_percent() {
    for (seed, most, devices) in [(31, 1, 300), (32, 30, 300), (33, 1, 400), (34, 10, 1_000)] {
        let mut random = Random(seed);
        let pool = snapshot(&mut random, Shape::OneEach, devices);
        let mut tasks = requests(&mut random, 300, most);
        for task in &mut tasks {
            Arc::make_mut(&mut task.spec).max_cost = None;
        }
        // Of one job the specs are the same again.
        share(&mut tasks);
        let (kept, greedy, better) = limited(&pool, &tasks);
        let cost = |task: usize, node: usize| {
            let node = &pool.nodes[node];
            let fits = filter(node, &Ask::from(&kept[task])).is_ok();
            fits.then(|| points(node, &kept[task], 0.0))
        };
        let optimum = hungarian::least(kept.len(), devices, &cost).unwrap();
        println!("{} on {devices}: one by one {:.4}, together {:.4}", kept.len(), greedy / optimum, better / optimum);
        assert!(better >= optimum * (1.0 - 1e-6) && better <= optimum * 1.02, "{better}, but {optimum} is possible");
    }
}

fn share(tasks: &mut [Request]) {
    let mut known: std::collections::BTreeMap<nightshift_types::JobId, Arc<JobSpec>> = Default::default();
    for task in tasks {
        task.spec = Arc::clone(known.entry(task.task.job.clone()).or_insert_with(|| Arc::clone(&task.spec)));
    }
}

/// The exact assignment of the tests, against all permutations.
#[test]
fn the_exact_assignment_is_exact() {
    fn all(rows: usize, columns: usize, cost: &dyn Fn(usize, usize) -> Option<f64>, row: usize, taken: u32) -> f64 {
        if row == rows {
            return 0.0;
        }
        let open = (0..columns).filter(|column| taken >> column & 1 == 0);
        open.filter_map(|column| Some(cost(row, column)? + all(rows, columns, cost, row + 1, taken | 1 << column)))
            .fold(f64::INFINITY, f64::min)
    }
    let mut random = Random(22);
    for _ in 0..300 {
        let (rows, columns) = (1 + random.below(6), 7);
        let matrix: Vec<Option<f64>> =
            (0..rows * columns).map(|_| (!random.percent(30)).then(|| random.below(50) as f64)).collect();
        let cost = |row: usize, column: usize| matrix[row * columns + column];
        let expected = all(rows, columns, &cost, 0, 0);
        let found = hungarian::least(rows, columns, &cost).unwrap_or(f64::INFINITY);
        assert_eq!(found, expected);
    }
}

/// What a solver found, by `optimum.py`: name, tasks placed, the sum of all costs that are possible, the optimum or a bound
/// below it.
const SOLVED: &str = include_str!("optimum.txt");

/// Instances whose costs are money alone: ask × reference, so that they depend on no model of time.
fn of_money(name: &str) -> (Snapshot, Vec<Request>) {
    let (seed, shape, count, devices) = match name {
        "assignment-1000x1000" => (41, Shape::OneEach, 1_000, 1_000),
        "assignment-1000x2000" => (42, Shape::OneEach, 1_000, 2_000),
        "memory-400x150" => (43, Shape::Shared, 400, 150),
        "memory-1000x400" => (44, Shape::Shared, 1_000, 400),
        other => panic!("no such instance: {other}"),
    };
    let mut random = Random(seed);
    let pool = snapshot(&mut random, shape, devices);
    let mut tasks = requests(&mut random, count, 1);
    for task in &mut tasks {
        let spec = Arc::make_mut(&mut task.spec);
        (spec.objective, spec.max_latency, spec.max_cost) = (Objective::Cheapest, None, None);
    }
    let greedy = plan(&pool, &tasks, &Weights::default());
    let ids = placed(&greedy);
    tasks.retain(|task| ids.contains(&&task.task));
    (pool, tasks)
}

#[test]
fn money_alone_against_a_solvers_optimum() {
    for line in SOLVED.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap();
        let (name, count, sum, optimum): (_, usize, f64, f64) =
            (word(), word().parse().unwrap(), word().parse().unwrap(), word().parse().unwrap());
        let (pool, tasks) = of_money(name);
        let (kept, greedy, better) = limited(&pool, &tasks);
        let possible = |task: &&Request, node: &NodeView| fits(node, task, 0.0);
        let costs = kept.iter().flat_map(|task| {
            pool.nodes.iter().filter(move |node| possible(&task, node)).map(move |node| points(node, task, 0.0))
        });
        let all: f64 = costs.sum();
        assert!(kept.len() == count && (all / sum - 1.0).abs() < 1e-9, "{name} is another now: run optimum.py again");
        println!("{name}: one by one {:.4}, together {:.4}", greedy / optimum, better / optimum);
        assert!(better >= optimum * (1.0 - 1e-6) && better <= optimum * 1.02, "{name}: {better}, bound {optimum}");
    }
}

/// Writes the instances for `optimum.py`.
#[test]
#[ignore = "only to make optimum.txt anew: INSTANCES=a folder"]
fn write_instances() {
    use std::fmt::Write;
    let folder = std::path::PathBuf::from(std::env::var_os("INSTANCES").unwrap());
    for name in ["assignment-1000x1000", "assignment-1000x2000", "memory-400x150", "memory-1000x400"] {
        let (pool, tasks) = of_money(name);
        let mut text = String::new();
        for node in &pool.nodes {
            let device = &node.devices[0];
            writeln!(text, "device {} {}", device.free.0, device.slots - device.running).unwrap();
        }
        for task in &tasks {
            write!(text, "task {}", task.spec.memory.0).unwrap();
            for (at, node) in pool.nodes.iter().enumerate().filter(|(_, node)| fits(node, task, 0.0)) {
                write!(text, " {at}:{:e}", points(node, task, 0.0)).unwrap();
            }
            writeln!(text).unwrap();
        }
        std::fs::write(folder.join(name), text).unwrap();
    }
}
