//! What it costs to plan many tasks together, and how near the plans are to the optimum: `make bench WHAT=placement`.
//! Times are CPU times of the one thread, the medians of several turns.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/batch/hungarian.rs"]
mod hungarian;
#[path = "../../../bench/measure.rs"]
mod measure;
#[allow(dead_code)] // the other benchmark's
#[path = "../bench_placement/population.rs"]
mod population;

use common::Random;
use measure::{Peer, Runs, TURNS, row};
use nightshift_placement::{Ask, Batch, NodeView, Placed, Pool, Request, Snapshot, Weights, batch, filter, latency};
use nightshift_types::{Bytes, InputRef, JobId, NodeId, Taint, TaskId, Timestamp};
use nix::time::{ClockId, clock_gettime};
use population::{Kind, node, request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const GREEDY: &str = "the same tasks one by one, in their order";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Idle devices that take one task each: the optimum is an assignment's.
    OneEach,
    /// Devices of 4 slots, 60 % of them busy; memory is shared.
    Shared,
}

fn main() {
    for shape in [Shape::OneEach, Shape::Shared] {
        measure(shape, 1_000, 1_000, 1_000);
        measure(shape, 1_000, 1_000, 40);
    }
    measure(Shape::Shared, 4_096, 10_000, 4_096);
    measure(Shape::Shared, 4_096, 10_000, 40);
    measure(Shape::Shared, 4_096, 100_000, 4_096);
    measure(Shape::Shared, 4_096, 100_000, 40);
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn nodes(shape: Shape, count: u64, turn: u64) -> Snapshot {
    let mut all: Vec<NodeView> =
        (0..count).map(|number| node(Kind::Busy60, number + turn * 10_000_000, count)).collect();
    if shape == Shape::OneEach {
        for view in &mut all {
            view.unavailable = None;
            let device = &mut view.devices[0];
            (device.running, device.slots, device.free, device.queued_ms) = (0, 1, device.total, 0);
        }
    }
    Snapshot::new(all, Timestamp(0))
}

/// Tasks of so many jobs, in turns; inputs differ.
fn requests(count: usize, jobs: usize, turn: u64) -> Vec<Request> {
    let mut random = Random(turn + 77);
    let mut specs: Vec<Request> = (0..jobs).map(|_| request(&mut random, Kind::Busy60)).collect();
    for request in &mut specs {
        let spec = std::sync::Arc::make_mut(&mut request.spec);
        let one = spec.inputs[0];
        let any = |_| InputRef { size: Bytes(one.size.0 / 2 + random.next() % (one.size.0 + 1)), ..one };
        spec.inputs = (0..count.div_ceil(jobs)).map(any).collect();
    }
    let task = |number: usize| TaskId {
        job: JobId::new(format!("job-{}", number % jobs)).expect("plain"),
        index: (number / jobs) as u32,
    };
    (0..count).map(|number| Request { task: task(number), ..specs[number % jobs].clone() }).collect()
}

/// What the placed tasks cost.
fn total(nodes: &BTreeMap<&NodeId, &NodeView>, tasks: &BTreeMap<&TaskId, &Request>, placed: &[Placed]) -> f64 {
    let cost = |placed: &Placed| {
        let spec = &tasks[&placed.task].spec;
        batch::cost(spec, nodes[&placed.node].price_per_hour, &placed.predicted, &Weights::default()) as f64
    };
    placed.iter().map(cost).sum()
}

/// The least that the placed tasks can cost where each device takes one, as far as they may go: taints that they do not
/// tolerate come before any cost.
fn least(snapshot: &Snapshot, tasks: &BTreeMap<&TaskId, &Request>, placed: &[Placed]) -> f64 {
    let tainted = |node: &NodeView, request: &Request| {
        let open = |taint: &&Taint| !request.spec.tolerations.iter().any(|other| other.tolerates(taint));
        node.taints.iter().filter(open).count()
    };
    let requests: Vec<&Request> = placed.iter().map(|placed| tasks[&placed.task]).collect();
    let nodes: BTreeMap<&NodeId, &NodeView> = snapshot.nodes.iter().map(|node| (&node.id, node)).collect();
    let most: Vec<usize> = placed.iter().zip(&requests).map(|(placed, of)| tainted(nodes[&placed.node], of)).collect();
    let cost = |task: usize, node: usize| {
        let (node, request) = (&snapshot.nodes[node], requests[task]);
        let ask = Ask::from(request);
        let fits = filter(node, &ask).is_ok() && tainted(node, request) <= most[task];
        let predicted = latency::predict(node, &node.devices[0], &ask);
        fits.then(|| batch::cost(&request.spec, node.price_per_hour, &predicted, &Weights::default()) as f64)
    };
    hungarian::least(placed.len(), snapshot.nodes.len(), &cost).expect("the plan shows that all can be placed")
}

fn measure(shape: Shape, tasks: usize, devices: u64, jobs: usize) {
    let [mut time, mut alone, mut gap, mut greedy_gap, mut saved] = [(); 5].map(|()| Runs::default());
    let weights = Weights::default();
    for turn in 0..TURNS as u64 {
        let snapshot = nodes(shape, devices, turn);
        let mut pool = Pool::default();
        // Only such as fit: a refusal's reasons cost much more than a place.
        let more = if devices > 1_000 { tasks / 4 } else { tasks };
        let mut requests = requests(tasks + more, jobs, turn);
        let fits = pool.plan(snapshot.clone(), &requests, &weights).placements;
        let fits: BTreeSet<&TaskId> = fits.iter().take(tasks).map(|placed| &placed.task).collect();
        requests.retain(|request| fits.contains(&request.task));
        pool.plan(snapshot.clone(), &[], &weights);
        let copy = snapshot.clone();
        let start = cpu();
        let greedy = pool.plan(copy, &requests, &weights);
        alone.push((cpu() - start).as_secs_f64() * 1e3);
        pool.plan(snapshot.clone(), &[], &weights);
        let copy = snapshot.clone();
        let start = cpu();
        let better = pool.plan_batch(copy, &requests, &weights, &Batch::default());
        time.push((cpu() - start).as_secs_f64() * 1e3);
        let by_id: BTreeMap<&NodeId, &NodeView> = snapshot.nodes.iter().map(|node| (&node.id, node)).collect();
        let by_task: BTreeMap<&TaskId, &Request> = requests.iter().map(|request| (&request.task, request)).collect();
        let (first, then) = (total(&by_id, &by_task, &greedy.placements), total(&by_id, &by_task, &better.placements));
        saved.push(then / first);
        if shape == Shape::OneEach {
            let least = least(&snapshot, &by_task, &greedy.placements);
            gap.push(then / least);
            greedy_gap.push(first / least);
        }
        println!("{shape:?} {tasks} × {devices}, {jobs} jobs: {} placed", better.placements.len());
    }
    let place = match shape {
        Shape::OneEach => "a task a device",
        Shape::Shared => "shared devices, 60 % busy",
    };
    let name = |what: &str| format!("{what}: {place}, {tasks} tasks of {jobs} jobs, {devices} devices");
    let goal = if tasks <= 1_000 { "value <= 10" } else { "" };
    row(&name("a batch planned together"), "ms", goal, &time, &Peer::Measured(GREEDY, &alone));
    if shape == Shape::OneEach {
        let one_by_one = Peer::Measured(GREEDY, &greedy_gap);
        row(&name("its cost over the least there is"), "×", "value <= 1.02", &gap, &one_by_one);
    }
    row(&name("its cost over that of the same tasks one by one"), "×", "", &saved, &Peer::None);
}
