//! What a decision costs among n unequal nodes, against a plain scan over columns, in turns: `make bench WHAT=placement`.
//! Both look at every node, take what they give, and must choose the same nodes. The scan has each node's time for the
//! job worked out beforehand, and knows of no taints, labels, regions or owners: it is the floor, not another scheduler.
//! Every third node is refused for its memory; one core.

#[path = "../../bench/measure.rs"]
mod measure;

use measure::{Clock, Peer, Runs, TURNS, quantile, resident, row};
use nightshift_placement::latency::{predict, service};
use nightshift_placement::{Ask, DeviceView, NodeView, Request, Snapshot, Weights, plan};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, ModelSpec, NodeId, Objective,
    PicoPoints, TaskId, Timestamp, TrustTier,
};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 1 << 20;

fn main() {
    // The largest first: its memory is read before anything was given back to the allocator.
    for (nodes, batch, singles) in [(1_000_000, 5, 20), (100_000, 50, 100), (10_000, 500, 200), (1_000, 2_000, 1_000)] {
        compare(nodes, batch, singles);
    }
}

fn compare(nodes: usize, batch: u32, singles: u32) {
    let before = resident();
    let pool = pool(nodes as u64);
    let memory = resident().zip(before).map(|(after, before)| (after - before) / nodes as f64);
    let shared = Arc::new(spec());
    let request = |index| {
        let task = TaskId { job: JobId::new("job").expect("a plain id"), index };
        Request { task, spec: Arc::clone(&shared), avoid: Vec::new(), budget_left: None }
    };
    let requests: Vec<Request> = (0..batch.max(singles)).map(request).collect();
    let batch = &requests[..batch as usize];
    let columns = Columns::new(&pool, &requests[0]);
    let weights = Weights::default();
    let [mut rate, mut scan_rate, mut p50, mut scan_p50, mut p99, mut scan_p99] = [(); 6].map(|()| Runs::default());
    for _ in 0..TURNS {
        let clock = Clock::start();
        let planned = black_box(plan(&pool, batch, &weights));
        rate.rate(batch.len(), &clock);
        let mut working = columns.clone();
        let clock = Clock::start();
        let scanned: Vec<usize> = batch.iter().map(|_| working.place().expect("one fits")).collect();
        // Too short for the CPU clock's steps; it is one thread that never waits.
        let wall = clock.wall();
        let planned: Vec<&NodeId> = planned.placements.iter().map(|placed| &placed.node).collect();
        let scanned: Vec<&NodeId> = scanned.into_iter().map(|node| &pool.nodes[node].id).collect();
        scan_rate.push(batch.len() as f64 / wall.as_secs_f64());
        assert_eq!(planned, scanned, "both are exact");

        let (mut times, mut scan_times) = (Vec::new(), Vec::new());
        for request in &requests[..singles as usize] {
            times.push(time(|| plan(&pool, std::slice::from_ref(request), &weights).placements.len()));
            scan_times.push(time(|| columns.best().expect("one fits")));
        }
        for (share, runs, scan_runs) in [(0.5, &mut p50, &mut scan_p50), (0.99, &mut p99, &mut scan_p99)] {
            runs.push(quantile(&mut times, share));
            scan_runs.push(quantile(&mut scan_times, share));
        }
    }
    // The goals are told for a million nodes.
    let goal = |text| if nodes == 1_000_000 { text } else { "" };
    let scan = "a scan over columns";
    let name = |what: &str| format!("{what}, {nodes} nodes");
    row(&name("decisions in a batch"), "1/s", goal("value >= 50000"), &rate, &Peer::Measured(scan, &scan_rate));
    row(&name("one decision alone, p50"), "µs", goal("value <= 10"), &p50, &Peer::Measured(scan, &scan_p50));
    row(&name("one decision alone, p99"), "µs", goal("value <= 100"), &p99, &Peer::Measured(scan, &scan_p99));
    if let Some(memory) = memory.filter(|_| nodes == 1_000_000) {
        let mut runs = Runs::default();
        runs.push(memory);
        row(&name("memory of the snapshot, once"), "B a node", "", &runs, &Peer::None);
    }
}

fn time<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed()
}

/// What the scan reads, a column each.
#[derive(Clone)]
struct Columns {
    need: u64,
    limit: u64,
    /// Points a picopoint of ask, and a microsecond of waiting, weigh in a balanced score.
    factors: (u64, u64),
    free: Vec<u64>,
    price: Vec<u64>,
    time: Vec<u64>,
    idle: Vec<u64>,
    service: Vec<u64>,
    queued: Vec<u64>,
}

impl Columns {
    fn new(pool: &Snapshot, request: &Request) -> Self {
        let ask = Ask::from(request);
        let of = |value: &dyn Fn(&NodeView) -> u64| pool.nodes.iter().map(value).collect::<Vec<u64>>();
        let plain = |points: PicoPoints| u64::try_from(points.0).expect("not negative");
        Self {
            need: ask.spec.memory.0,
            limit: ask.spec.max_price_per_hour.map_or(u64::MAX, plain),
            factors: (ask.spec.reference.0 * 1_000, plain(Weights::default().waiting_per_hour)),
            free: of(&|node| node.devices[0].free.0),
            price: of(&|node| plain(node.price_per_hour)),
            time: of(&|node| predict(node, &node.devices[0], &ask).p95()),
            idle: of(&|node| predict(node, &node.devices[0], &ask).expected()),
            service: of(&|node| service(node, &node.devices[0], &ask).div_ceil(1_000)),
            queued: of(&|_| 0),
        }
    }

    /// The node with the least balanced score of those that fit; the first of equals.
    fn best(&self) -> Option<usize> {
        let mut best = (u64::MAX, None);
        let columns = self.free.iter().zip(&self.price).zip(&self.time).enumerate();
        for (node, ((&free, &price), &time)) in columns {
            let score = price * self.factors.0 + time * self.factors.1;
            if free >= self.need && price <= self.limit && score < best.0 {
                best = (score, Some(node));
            }
        }
        best.1
    }

    /// Takes the best, as a plan does.
    fn place(&mut self) -> Option<usize> {
        let node = self.best()?;
        self.free[node] -= self.need;
        self.queued[node] += self.service[node];
        let wait = (self.queued[node] * 1_000).div_ceil(u64::from(SLOTS));
        self.time[node] = ((self.idle[node] + wait) * 150).div_ceil(100);
        Some(node)
    }
}

fn pool(nodes: u64) -> Snapshot {
    let node = |i: u64| {
        let mix = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let memory = Bytes::gibi(4 + mix % 3 * 1_000);
        let device = DeviceView {
            name: "cpu0".into(),
            class: DeviceClass::Cpu,
            total: memory,
            free: memory,
            slots: SLOTS,
            ..DeviceView::default()
        };
        NodeView {
            tier: TrustTier::Vetted,
            price_per_hour: PicoPoints(i128::from(mix % 1_000) * 1_000_000_000 + 1),
            measured: Measured { gigaflops: 50 + mix % 500, memory_bandwidth: 0, load_bandwidth: 1_000_000_000 },
            round_trip: Milliseconds(mix % 80),
            link_bandwidth: Some(10_000_000 + mix),
            devices: vec![device],
            ..NodeView::new(NodeId::new(format!("node-{i:07}")).expect("a plain id"))
        }
    };
    Snapshot::new((0..nodes).map(node).collect(), Timestamp(0))
}

fn spec() -> JobSpec {
    JobSpec {
        namespace: "default".into(),
        name: "job".into(),
        generation: 1,
        model_name: "model".into(),
        model_digest: Digest([7; 32]),
        model_size: Bytes::mebi(100),
        variant: "default".into(),
        model: ModelSpec { method: "forward".into(), inputs: Vec::new(), outputs: Vec::new() },
        memory: Bytes::gibi(6),
        reference: Milliseconds(1_000),
        inputs: vec![InputRef { digest: Digest([1; 32]), size: Bytes::mebi(1) }],
        parameters: BTreeMap::new(),
        objective: Objective::Balanced,
        max_latency: Some(Milliseconds(3_600_000)),
        max_price_per_hour: Some(PicoPoints(1_000_000_000_000)),
        max_cost: None,
        device_classes: vec![DeviceClass::Cpu],
        node_selector: BTreeMap::new(),
        tolerations: Vec::new(),
        min_trust_tier: TrustTier::Vetted,
        regions: Vec::new(),
        queue: "default".into(),
        parallelism: 10,
        backoff_limit: 6,
        suspend: false,
        active_deadline: None,
        pending_deadline: None,
        backoff_limit_per_index: None,
        max_failed_indexes: None,
    }
}
