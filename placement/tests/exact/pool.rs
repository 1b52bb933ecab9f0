//! Pools, tasks and changes from a seed: few different values, so that ties, full devices and near misses are common.

use crate::common::{Random, plain_spec};
use nightshift_placement::{Correction, DeviceView, ModelEstimate, NodeView, Percentile, Request, Unavailable};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, NodeId, Objective, PicoPoints,
    Reputation, Taint, TaintEffect, TaskId, Toleration, TolerationOperator, TrustTier,
};

/// What a pool is like.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Few values of everything.
    Mixed,
    /// All nodes alike but for their ids and what they do: only ties.
    Equal,
    /// Wide ranges, dear nodes with much memory and cheap ones with little.
    Wide,
}

pub fn digest(model: usize) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(model as u64).to_le_bytes());
    Digest(bytes)
}

pub fn any_model(random: &mut Random) -> Digest {
    // A few are everywhere, most are rare.
    let spread = [2, 8, 60, 400][random.below(4)];
    digest(random.below(spread))
}

pub fn node(random: &mut Random, kind: Kind, number: u64) -> NodeView {
    let mut view = NodeView::new(NodeId::new(format!("node-{}", number % 1_000_003)).unwrap());
    view.labels.insert("kubernetes.io/os".into(), "linux".into());
    if random.percent(70) {
        view.labels.insert("kubernetes.io/hostname".into(), view.id.to_string());
    }
    view.tier = TrustTier::Vetted;
    view.region = "eu".into();
    view.link_bandwidth = Some(100_000_000);
    view.measured = Measured { gigaflops: 100, memory_bandwidth: 0, load_bandwidth: 1_000_000_000 };
    view.price_per_hour = PicoPoints(200_000_000_000);
    view.round_trip = Milliseconds(10);
    if !matches!(kind, Kind::Equal) {
        differ(random, &mut view);
    }
    let devices = if matches!(kind, Kind::Equal) { 1 } else { random.of(&[1, 1, 1, 1, 2, 3, 0]) };
    view.devices = (0..devices).map(|position| device(random, kind, position)).collect();
    if matches!(kind, Kind::Wide) {
        let memory = view.devices.iter().map(|device| device.total.0 >> 20).max().unwrap_or(0);
        view.price_per_hour = PicoPoints(i128::from(memory) * 1_000_000 * (50 + random.below(100) as i128));
        view.round_trip = Milliseconds(1 + random.next() % 400);
        view.link_bandwidth = Some((1_000_000 << random.below(12)) + random.next() % 1_000_000);
        view.measured.gigaflops = 20 + random.next() % 40_000;
    }
    view.ready = !random.percent(4);
    view.unschedulable = random.percent(3);
    view.unavailable = random.percent(10).then_some(Unavailable::OwnerActive);
    view
}

fn differ(random: &mut Random, view: &mut NodeView) {
    view.tier = random.of(&[TrustTier::Public, TrustTier::Vetted, TrustTier::Vetted, TrustTier::Operator]);
    view.reputation = Reputation::new(random.of(&[7, 333, 500, 599, 600, 666, 833, 899, 900, 901, 992]));
    view.region = random.of(&["eu", "us", "ap", "", "far-1", "far-2"]).into();
    view.price_per_hour = PicoPoints(random.of(&[0i128, 1, 1, 2, 2, 3, 5, 8]) * 100_000_000_000);
    view.round_trip = Milliseconds(random.of(&[0, 5, 5, 20, 20, 100]));
    view.link_bandwidth =
        random.of(&[None, Some(0), Some(1_000_000), Some(10_000_000), Some(1_000_000_000), Some(100)]);
    view.measured.gigaflops = random.of(&[0, 50, 100, 100, 1_000, 30_000]);
    view.measured.load_bandwidth = random.of(&[0, 100_000_000, 1_000_000_000, 7_000_000_000]);
    if random.percent(30) {
        view.labels.insert("zone".into(), random.of(&["a", "b", "c"]).into());
    }
    if random.percent(5) {
        view.labels.insert("rack".into(), format!("r{}", random.below(200)));
    }
    if random.percent(10) {
        let effect = random.of(&[TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule, TaintEffect::NoExecute]);
        let key = random.of(&["gpu", "spot"]);
        let value = if random.percent(20) { format!("v{}", random.below(100)) } else { String::new() };
        view.taints.push(Taint { key: key.into(), value, effect });
        if random.percent(30) {
            let effect = TaintEffect::PreferNoSchedule;
            view.taints.push(Taint { key: "slow".into(), value: String::new(), effect });
        }
    }
    view.cached = (0..random.below(4)).map(|_| any_model(random)).collect();
}

fn device(random: &mut Random, kind: Kind, position: usize) -> DeviceView {
    let total = match kind {
        Kind::Mixed => random.of(&[2u64, 4, 8, 8, 16, 24]) << 30,
        Kind::Equal => 16 << 30,
        Kind::Wide => (1 << 30) + random.next() % (80 << 30),
    };
    let slots = random.of(&[1, 4, 4, 4]);
    let running = if random.percent(60) { 1 + random.below(slots as usize) as u32 } else { 0 };
    let equal = matches!(kind, Kind::Equal);
    DeviceView {
        name: format!("dev{position}"),
        class: if equal {
            DeviceClass::Cuda
        } else {
            random.of(&[DeviceClass::Cpu, DeviceClass::Cuda, DeviceClass::Mps])
        },
        total: Bytes(total),
        free: Bytes(if equal { total } else { total - total / 5 * u64::from(running) }),
        running: if equal { 0 } else { running },
        slots,
        queued_ms: if equal { 0 } else { u64::from(running) * random.of(&[100, 1_000, 2_500]) },
        gigaflops: if equal { None } else { random.of(&[None, None, Some(50), Some(2_000)]) },
        correction: if equal { Correction::NONE } else { correction(random, kind) },
        warm: if !equal && random.percent(30) { vec![any_model(random)] } else { Vec::new() },
    }
}

/// What runs may have shown of a device: often nothing; that it is a little or far off its benchmark.
fn correction(random: &mut Random, kind: Kind) -> Correction {
    match kind {
        Kind::Wide => Correction::ratio(1 + random.next() as u32 % 3_000, 1 + random.next() as u32 % 300),
        _ => Correction::ratio(random.of(&[2, 2, 2, 1, 3, 4, 200, 200_000]), random.of(&[2, 2, 2, 2, 31])),
    }
}

/// What runs may have shown of a model.
fn estimate(random: &mut Random) -> ModelEstimate {
    if random.percent(30) {
        return ModelEstimate::default();
    }
    let service = Correction::ratio(random.of(&[1, 2, 3, 500]), random.of(&[1, 2, 7, 90]));
    ModelEstimate { service, p95: Percentile::new(random.of(&[0, 300, 384, 700, 2_048, 100_000])) }
}

/// A task; about a third are made for a single node, or for none.
pub fn request(random: &mut Random, nodes: &[NodeView]) -> Request {
    let mut spec = JobSpec { parallelism: 1, ..plain_spec() };
    spec.objective = random.of(&[Objective::Cheapest, Objective::Fastest, Objective::Balanced]);
    spec.model_digest = any_model(random);
    spec.model_size = Bytes(random.of(&[0, 50_000_000, 900_000_000, 8_000_000_001]));
    spec.memory = Bytes(random.of(&[1u64, 1, 2, 3, 6]) << 30);
    spec.reference = Milliseconds(random.of(&[0, 1, 40, 1_000, 60_000]));
    spec.min_trust_tier = random.of(&[TrustTier::Public, TrustTier::Public, TrustTier::Public, TrustTier::Vetted]);
    spec.inputs = vec![InputRef { digest: Digest([1; 32]), size: Bytes(random.of(&[0, 1_000, 5_000_000])) }];
    demand(random, &mut spec);
    let task = TaskId { job: JobId::new("job").unwrap(), index: 0 };
    let mut request = Request {
        task,
        spec: spec.into(),
        avoid: Vec::new(),
        budget_left: None,
        gang: 0,
        overdue: false,
        estimate: estimate(random),
    };
    if !nodes.is_empty() {
        while random.percent(15) {
            request.avoid.push(nodes[random.below(nodes.len())].id.clone());
        }
        if random.percent(20) {
            let node = &nodes[random.below(nodes.len())];
            target(random, &mut request, node);
        }
    }
    request
}

fn demand(random: &mut Random, spec: &mut JobSpec) {
    if random.percent(20) {
        spec.max_latency = Some(Milliseconds(random.of(&[20, 300, 3_000, 40_000])));
    }
    if random.percent(20) {
        spec.min_reputation = Some(Reputation::new(random.of(&[0, 1, 500, 501, 600, 700, 834, 900, 950, 992, 1_000])));
    }
    if random.percent(15) {
        spec.max_price_per_hour = Some(PicoPoints(random.of(&[-1i128, 0, 1, 2, 5]) * 100_000_000_000));
    }
    if random.percent(10) {
        spec.max_cost = Some(PicoPoints(random.of(&[0i128, 1, 55_555_556, 1_000_000_000])));
    }
    if random.percent(20) {
        spec.device_classes = vec![random.of(&[DeviceClass::Cpu, DeviceClass::Cuda, DeviceClass::Mps])];
    }
    if random.percent(15) {
        spec.regions = vec![random.of(&["eu", "us", "far-1", "nowhere"]).into(), "ap".into()];
    }
    if random.percent(15) {
        let (key, value) = random.of(&[("zone", "a"), ("kubernetes.io/os", "linux"), ("zone", "none")]);
        spec.node_selector.insert(key.into(), value.into());
    }
    if random.percent(40) {
        let operator = random.of(&[TolerationOperator::Exists, TolerationOperator::Equal]);
        let key = random.of(&["gpu", "spot", "slow", ""]).to_owned();
        spec.tolerations.push(Toleration { key, operator, ..Toleration::default() });
    }
}

/// Limits that a single node just meets, or just misses.
fn target(random: &mut Random, request: &mut Request, node: &NodeView) {
    let spec = std::sync::Arc::make_mut(&mut request.spec);
    if random.percent(25) {
        spec.node_selector.insert("kubernetes.io/hostname".into(), node.id.to_string());
    } else if random.percent(25) {
        spec.node_selector.insert("rack".into(), format!("r{}", random.below(200)));
    }
    let Some(device) = node.devices.last() else { return };
    let off = random.of(&[0, 0, 0, 1]);
    spec.memory = Bytes(device.free.0 + off);
    spec.device_classes = vec![device.class];
    spec.regions = vec![node.region.clone()];
    spec.min_trust_tier = node.tier;
    spec.min_reputation = Some(Reputation::new(node.reputation.permille() + random.of(&[0, 0, 0, 1])));
    spec.max_price_per_hour = Some(node.price_per_hour);
    spec.max_latency = Some(Milliseconds(random.of(&[30, 200, 2_000])));
}
