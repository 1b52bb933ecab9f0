//! Pools and tasks from a seed, and what tasks cost: from the documentation alone, in floats, without the crate's code.

use crate::common::{Random, plain_spec};
use nightshift_placement::{DeviceView, NodeView, Placed, Plan, Request, Snapshot, filter};
use nightshift_types::{
    Bytes, Digest, InputRef, JobId, Measured, Milliseconds, NodeId, Objective, PicoPoints, TaskId, Timestamp, TrustTier,
};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const GIB: u64 = 1 << 30;

/// What a device of a pool takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One task.
    OneEach,
    /// Up to four, as far as its memory goes; some are busy.
    Shared,
}

pub fn node(random: &mut Random, shape: Shape, number: usize) -> NodeView {
    let mut view = NodeView::new(NodeId::new(format!("n{number:05}")).unwrap());
    view.tier = TrustTier::Vetted;
    view.region = random.of(&["eu", "us"]).into();
    view.price_per_hour = PicoPoints(i128::from(20 + random.next() % 400) * 1_000_000_000);
    view.round_trip = Milliseconds(random.next() % 200);
    view.link_bandwidth = Some(1_000_000 + random.next() % 100_000_000);
    let speed = 100 + random.next() % 20_000;
    view.measured = Measured { gigaflops: speed, memory_bandwidth: 0, load_bandwidth: 1_000_000_000 };
    let total = Bytes(random.of(&[4u64, 8, 8, 16, 24]) * GIB);
    let (slots, running) = match shape {
        Shape::OneEach => (1, 0),
        Shape::Shared => (4, random.of(&[0, 0, 1, 2])),
    };
    let free = Bytes(total.0 - total.0 / 5 * u64::from(running));
    let queued_ms = u64::from(running) * (random.next() % 3_000);
    let name = "dev0".into();
    view.devices = vec![DeviceView { name, total, free, slots, running, queued_ms, ..DeviceView::default() }];
    view
}

pub fn snapshot(random: &mut Random, shape: Shape, count: usize) -> Snapshot {
    Snapshot::new((0..count).map(|number| node(random, shape, number)).collect(), Timestamp(0))
}

/// Tasks of jobs of up to `most` tasks each, in turns.
pub fn requests(random: &mut Random, count: usize, most: usize) -> Vec<Request> {
    let mut all: Vec<Request> = Vec::new();
    while all.len() < count {
        let mut spec = plain_spec();
        spec.objective = random.of(&[Objective::Cheapest, Objective::Fastest, Objective::Balanced]);
        spec.memory = Bytes(random.of(&[1u64, 2, 3, 6]) * GIB);
        spec.reference = Milliseconds(100 + random.next() % 20_000);
        spec.model_digest = Digest([7; 32]);
        let tasks = 1 + random.below(most);
        let size = |random: &mut Random| Bytes(random.next() % 4_000_000);
        spec.inputs = (0..tasks).map(|_| InputRef { digest: Digest([1; 32]), size: size(random) }).collect();
        if random.percent(20) {
            spec.max_latency = Some(Milliseconds(5_000 + random.next() % 60_000));
        }
        if random.percent(20) {
            spec.max_price_per_hour = Some(PicoPoints(i128::from(100 + random.next() % 300) * 1_000_000_000));
        }
        if random.percent(20) {
            spec.regions = vec!["eu".into()];
        }
        if random.percent(10) {
            spec.max_cost = Some(PicoPoints(i128::from(random.next() % 2_000_000_000)));
        }
        let job = JobId::new(format!("job-{}", all.len())).unwrap();
        let spec = Arc::new(spec);
        all.extend((0..tasks as u32).map(|index| request(&job, index, &spec)));
    }
    // In turns, as the queue has them: the same order every time.
    all.truncate(count);
    all.sort_by_key(|request| (request.task.index, request.task.job.clone()));
    all
}

pub fn request(job: &JobId, index: u32, spec: &Arc<nightshift_types::JobSpec>) -> Request {
    let task = TaskId { job: job.clone(), index };
    let (spec, avoid, budget_left) = (Arc::clone(spec), Vec::new(), None);
    Request { task, spec, avoid, budget_left, gang: 0, overdue: false, estimate: Default::default() }
}

/// Milliseconds that a task computes on a node.
pub fn service_ms(node: &NodeView, request: &Request) -> f64 {
    (request.spec.reference.0 as f64 * 100.0 / node.measured.gigaflops as f64).max(1.0)
}

/// Predicted p95 in milliseconds behind so much work of the node's only device.
pub fn p95_ms(node: &NodeView, request: &Request, queued_ms: f64) -> f64 {
    let device = &node.devices[0];
    let input = request.spec.inputs[request.task.index as usize].size.0 as f64;
    let transfer = input / node.link_bandwidth.unwrap() as f64 * 1e3;
    let wait = queued_ms / f64::from(device.slots);
    1.5 * (node.round_trip.0 as f64 + wait + transfer + service_ms(node, request))
}

/// Points, with a quarter point for an hour of waiting.
pub fn points(node: &NodeView, request: &Request, queued_ms: f64) -> f64 {
    let hours = 1.0 / 3_600_000.0;
    let money = node.price_per_hour.0 as f64 / 1e12 * request.spec.reference.0 as f64 * hours;
    let time = 0.25 * p95_ms(node, request, queued_ms) * hours;
    match request.spec.objective {
        Objective::Cheapest => money,
        Objective::Fastest => time,
        Objective::Balanced => money + time,
    }
}

/// What a plan costs, in points; and that it keeps every limit, task after task.
pub fn check(snapshot: &Snapshot, requests: &[Request], plan: &Plan) -> f64 {
    let mut nodes: BTreeMap<&NodeId, NodeView> = snapshot.nodes.iter().map(|node| (&node.id, node.clone())).collect();
    let places: BTreeMap<&TaskId, &Placed> = plan.placements.iter().map(|placed| (&placed.task, placed)).collect();
    assert_eq!(places.len() + plan.refused.len(), requests.len());
    let mut spent: BTreeMap<&JobId, PicoPoints> = BTreeMap::new();
    let mut total = 0.0;
    for request in requests {
        let Some(placed) = places.get(&request.task) else { continue };
        let node = nodes.get_mut(&placed.node).unwrap();
        let spent = spent.entry(&request.task.job).or_default();
        let ask = nightshift_placement::Ask::new(request, *spent);
        assert!(filter(node, &ask).is_ok(), "{placed:?} does not fit");
        let predicted = placed.predicted.p95() as f64 / 1e6;
        let queued = node.devices[0].queued_ms as f64;
        assert!((predicted - p95_ms(node, request, queued)).abs() < 1e-3 * predicted + 1.0, "{placed:?}");
        total += points(node, request, queued);
        *spent += placed.quote;
        let device = node.devices.iter_mut().find(|device| device.name == placed.device).unwrap();
        device.free = Bytes(device.free.0.checked_sub(placed.memory.0).unwrap());
        device.running += 1;
        assert!(device.running <= device.slots);
        let busy = service_ms(
            &snapshot.nodes[snapshot.nodes.binary_search_by(|view| view.id.cmp(&placed.node)).unwrap()],
            request,
        );
        device.queued_ms += busy.ceil() as u64;
    }
    total
}

/// The placed tasks, without their places.
pub fn placed(plan: &Plan) -> Vec<&TaskId> {
    plan.placements.iter().map(|placed| &placed.task).collect()
}
