//! Pools and tasks to decide about, from a seed. What is realistic about them is assumed, not measured: consumer GPUs,
//! laptops and plain processors with their memory and speed, asks near their kind's with a wide spread, round trips by
//! region, links from 10 Mbit/s to 10 Gbit/s, models by Zipf's law.

use crate::common::{Random, plain_spec};
use nightshift_placement::{Correction, DeviceView, ModelEstimate, NodeView, Request, Unavailable};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, NodeId, Objective, PicoPoints, Taint,
    TaintEffect, TaskId, TrustTier,
};
use std::collections::BTreeMap;

/// What populations need of a generator, beside whole numbers.
pub trait Shapes {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64;
    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }
    /// About normal, mean 0 and deviation 1: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
    fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }
    /// Small numbers often, by Zipf's law with exponent 1.
    fn zipf(&mut self, count: usize) -> usize {
        ((count as f64 + 1.0).powf(self.unit()) as usize - 1).min(count - 1)
    }
}

impl Shapes for Random {
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mixed devices, 60 % of them busy.
    Busy60,
    /// The same, 99 % with no slot left.
    Busy99,
    /// Only one node fits the tasks.
    OneFits,
    /// None does.
    NoneFits,
    /// The more memory, the dearer: what is cheap is too small.
    Against,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy60 => "60 % busy",
            Self::Busy99 => "99 % busy",
            Self::OneFits => "one fits",
            Self::NoneFits => "none fits",
            Self::Against => "memory against price",
        }
    }
}

/// Class, memory in GiB, GFLOP/s single precision, a common ask in points an hour, how common.
const DEVICES: [(DeviceClass, u64, f64, f64, u32); 16] = [
    (DeviceClass::Cpu, 8, 150.0, 0.02, 10),
    (DeviceClass::Cpu, 16, 300.0, 0.03, 14),
    (DeviceClass::Cpu, 32, 700.0, 0.05, 8),
    (DeviceClass::Cpu, 128, 2_500.0, 0.20, 2),
    (DeviceClass::Cuda, 6, 5_000.0, 0.06, 7),
    (DeviceClass::Cuda, 8, 11_000.0, 0.09, 14),
    (DeviceClass::Cuda, 12, 13_000.0, 0.12, 12),
    (DeviceClass::Cuda, 12, 29_000.0, 0.18, 6),
    (DeviceClass::Cuda, 16, 40_000.0, 0.25, 4),
    (DeviceClass::Cuda, 24, 35_000.0, 0.25, 5),
    (DeviceClass::Cuda, 24, 82_000.0, 0.45, 3),
    (DeviceClass::Cuda, 80, 67_000.0, 2.00, 1),
    (DeviceClass::Mps, 8, 2_600.0, 0.04, 6),
    (DeviceClass::Mps, 16, 3_600.0, 0.05, 5),
    (DeviceClass::Mps, 36, 7_000.0, 0.12, 2),
    (DeviceClass::Mps, 96, 13_000.0, 0.30, 1),
];
/// Name and round trip in milliseconds.
pub const REGIONS: [(&str, f64); 12] = [
    ("eu-central", 8.0),
    ("eu-west", 14.0),
    ("us-east", 85.0),
    ("us-west", 140.0),
    ("eu-north", 25.0),
    ("ap-southeast", 170.0),
    ("ap-northeast", 220.0),
    ("sa-east", 190.0),
    ("ap-south", 130.0),
    ("us-central", 110.0),
    ("af-south", 160.0),
    ("ap-east", 240.0),
];
pub const MODELS: usize = 300;
const MODEL_GIB: [f64; 8] = [0.1, 0.5, 1.5, 3.0, 5.0, 8.0, 14.0, 22.0];

pub fn digest(model: usize) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(model as u64).to_le_bytes());
    Digest(bytes)
}

pub fn model_bytes(model: usize) -> u64 {
    (MODEL_GIB[model * 7 % 8] * (1u64 << 30) as f64) as u64
}

/// Which model a task is for.
pub fn model_of(request: &Request) -> usize {
    let bytes = request.spec.model_digest.0;
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize
}

pub fn node(kind: Kind, number: u64, of: u64) -> NodeView {
    let mut random = Random(number.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ kind as u64);
    let (class, memory, speed, price, _) = any_device(&mut random);
    let (region, away) = REGIONS[random.zipf(REGIONS.len())];
    let mut view = NodeView::new(NodeId::new(format!("node-{number:07}")).expect("a plain id"));
    view.tier = match random.below(20) {
        0 => TrustTier::Operator,
        1..=8 => TrustTier::Vetted,
        _ => TrustTier::Public,
    };
    let points = match kind {
        Kind::Against => memory as f64 * 0.01 * random.lognormal(1.0, 0.05),
        _ => random.lognormal(price, 0.35),
    };
    // Owners write prices with three decimals at most.
    view.price_per_hour = PicoPoints((points * 1_000.0).ceil() as i128 * 1_000_000_000);
    view.region = region.into();
    view.measured.gigaflops = random.lognormal(speed, 0.15) as u64 + 1;
    view.measured = Measured { load_bandwidth: random.lognormal(1.2e9, 0.7) as u64, ..view.measured };
    view.link_bandwidth = Some((random.lognormal(2.5e7, 1.1) as u64).clamp(1_250_000, 1_250_000_000));
    view.round_trip = Milliseconds((away + random.lognormal(6.0, 0.8)) as u64);
    for (key, value) in [
        ("kubernetes.io/os", if class == DeviceClass::Mps { "darwin" } else { "linux" }),
        ("kubernetes.io/arch", if class == DeviceClass::Mps { "arm64" } else { "amd64" }),
        ("topology.kubernetes.io/region", region),
        ("kubernetes.io/hostname", view.id.clone().as_str()),
    ] {
        view.labels.insert(key.into(), value.into());
    }
    if random.chance(0.02) {
        let effect = if random.chance(0.5) { TaintEffect::NoSchedule } else { TaintEffect::PreferNoSchedule };
        view.taints.push(Taint { key: "dedicated".into(), value: "team".into(), effect });
    }
    view.unavailable = random.chance(0.1).then_some(Unavailable::OwnerActive);
    view.cached = (0..random.below(5)).map(|_| digest(random.zipf(MODELS))).collect();
    view.devices = vec![device(&mut random, kind, class, memory)];
    if kind == Kind::OneFits && number == of / 3 * 2 {
        (view.tier, view.unavailable, view.taints) = (TrustTier::Operator, None, Vec::new());
        view.labels.insert("only".into(), "yes".into());
        let total = Bytes::gibi(192);
        view.devices[0] = DeviceView { total, free: total, running: 0, queued_ms: 0, ..view.devices[0].clone() };
    }
    view
}

fn any_device(random: &mut Random) -> (DeviceClass, u64, f64, f64, u32) {
    let all: u32 = DEVICES.iter().map(|device| device.4).sum();
    let mut left = random.below(all as usize) as u32;
    for device in DEVICES {
        if left < device.4 {
            return device;
        }
        left -= device.4;
    }
    DEVICES[0]
}

fn device(random: &mut Random, kind: Kind, class: DeviceClass, memory: u64) -> DeviceView {
    let slots = 4;
    let busy = random.chance(if kind == Kind::Busy99 { 0.99 } else { 0.6 });
    let running = match (busy, kind) {
        (false, _) => 0,
        (true, Kind::Busy99) => slots,
        (true, _) => 1 + random.below(slots as usize) as u32,
    };
    let total = Bytes::gibi(memory);
    let share = 1.0 - f64::from(running) / f64::from(slots) * (0.3 + 0.6 * random.unit());
    let warm = if random.chance(0.4) { vec![digest(random.zipf(MODELS))] } else { Vec::new() };
    DeviceView {
        name: "dev0".into(),
        class,
        total,
        free: Bytes((total.0 as f64 * share) as u64),
        running,
        slots,
        queued_ms: (f64::from(running) * random.lognormal(800.0, 1.0)) as u64,
        gigaflops: None,
        correction: Correction::NONE,
        warm,
    }
}

/// A task of a job of its own: every decision is another one.
pub fn request(random: &mut Random, kind: Kind) -> Request {
    let model = random.zipf(MODELS);
    let mut spec = spec();
    spec.model_digest = digest(model);
    spec.model_size = Bytes(model_bytes(model));
    spec.memory = Bytes(model_bytes(model) * 5 / 4 + (300 << 20));
    spec.reference = Milliseconds(random.lognormal(4_000.0, 1.2) as u64 + 10);
    spec.inputs = vec![InputRef { digest: Digest([1; 32]), size: Bytes(random.lognormal(300_000.0, 1.5) as u64) }];
    spec.objective = match random.below(5) {
        0 | 1 => Objective::Cheapest,
        2 => Objective::Fastest,
        _ => Objective::Balanced,
    };
    if random.chance(0.4) {
        spec.max_latency = Some(Milliseconds(random.lognormal(20_000.0, 1.0) as u64));
    }
    if random.chance(0.4) {
        spec.max_price_per_hour = Some(PicoPoints((random.lognormal(200.0, 0.7) as i128) * 1_000_000_000));
    }
    if random.chance(0.4) {
        spec.device_classes = vec![DeviceClass::Cuda];
    }
    if random.chance(0.25) {
        spec.regions = vec![REGIONS[random.below(4)].0.into(), REGIONS[4].0.into()];
    }
    if random.chance(0.5) {
        spec.min_trust_tier = TrustTier::Vetted;
    }
    if random.chance(0.1) {
        spec.node_selector.insert("kubernetes.io/arch".into(), "amd64".into());
    }
    match kind {
        Kind::OneFits | Kind::NoneFits => {
            // By memory alone: neither label nor hostname helps.
            spec.memory = Bytes::gibi(160);
            (spec.device_classes, spec.regions, spec.node_selector) = (Vec::new(), Vec::new(), BTreeMap::new());
            (spec.max_latency, spec.max_price_per_hour) = (None, None);
        }
        _ => {}
    }
    let task = TaskId { job: JobId::new("job").expect("a plain id"), index: 0 };
    Request {
        task,
        spec: spec.into(),
        avoid: Vec::new(),
        budget_left: None,
        gang: 0,
        overdue: false,
        estimate: ModelEstimate::default(),
    }
}

fn spec() -> JobSpec {
    JobSpec {
        model_digest: Digest([7; 32]),
        model_size: Bytes::mebi(100),
        memory: Bytes::gibi(6),
        reference: Milliseconds(1_000),
        ..plain_spec()
    }
}
