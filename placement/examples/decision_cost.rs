//! Nanoseconds a decision among n nodes, by plain loops: `cargo run --release -p nightshift-placement --example decision_cost`.
//! Every third node is refused; memory never runs out, so each decision looks at the same pool. Medians of 5.

use nightshift_placement::{Ask, DeviceView, NodeView, Request, Snapshot, Weights, WhyNot, plan};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, ModelSpec, NodeId, Objective,
    PicoPoints, TaskId, Timestamp, TrustTier,
};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

fn pool(nodes: u64) -> Snapshot {
    let node = |i: u64| {
        let mix = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let memory = Bytes::gibi(4 + mix % 3 * 1_000);
        let device = DeviceView {
            name: "cpu0".into(),
            class: DeviceClass::Cpu,
            total: memory,
            free: memory,
            slots: 1 << 20,
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

fn spec(objective: Objective, memory: Bytes) -> JobSpec {
    JobSpec {
        namespace: "default".into(),
        name: "job".into(),
        generation: 1,
        model_name: "model".into(),
        model_digest: Digest([7; 32]),
        model_size: Bytes::mebi(100),
        variant: "default".into(),
        model: ModelSpec { method: "forward".into(), inputs: Vec::new(), outputs: Vec::new() },
        memory,
        reference: Milliseconds(1_000),
        inputs: vec![InputRef { digest: Digest([1; 32]), size: Bytes::mebi(1) }],
        parameters: BTreeMap::new(),
        objective,
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
    }
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..5).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn main() {
    let weights = Weights::default();
    println!("{:>8} {:>10} {:>14} {:>12}", "nodes", "objective", "ns/decision", "ns/node");
    for n in [1_000u64, 10_000] {
        let pool = pool(n);
        for objective in [Objective::Cheapest, Objective::Fastest, Objective::Balanced] {
            let shared = Arc::new(spec(objective, Bytes::gibi(6)));
            let task = |index| TaskId { job: JobId::new("job").expect("a plain id"), index };
            let request =
                |i| Request { task: task(i), spec: Arc::clone(&shared), avoid: Vec::new(), budget_left: None };
            let requests: Vec<Request> = (0..200).map(request).collect();
            let each = median(|| {
                let start = Instant::now();
                let plan = black_box(plan(&pool, &requests, &weights));
                assert_eq!(plan.placements.len(), requests.len());
                start.elapsed().as_nanos() as f64 / requests.len() as f64
            });
            println!("{n:>8} {objective:>10} {each:>14.0} {:>12.1}", each / n as f64);
        }
        let task = TaskId { job: JobId::new("job").expect("a plain id"), index: 0 };
        let large = spec(Objective::Balanced, Bytes::gibi(1 << 20));
        let refused = Request { task, spec: Arc::new(large), avoid: Vec::new(), budget_left: None };
        let each = median(|| {
            let start = Instant::now();
            black_box(WhyNot::explain(pool.nodes.iter(), &Ask::from(&refused)));
            start.elapsed().as_nanos() as f64
        });
        println!("{n:>8} {:>10} {each:>14.0} {:>12.1}", "why not", each / n as f64);
    }
}
