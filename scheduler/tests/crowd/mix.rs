//! The crowd's machines and its tenants' jobs: mixed constraints, the same mix for every tenant.

use nightshift_wire::proto;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;

/// Tenants and their weights.
pub const TENANTS: [(&str, u32); 4] = [("amber", 1), ("birch", 2), ("cedar", 3), ("dunes", 4)];
/// Models: name, GFLOP an item; the reference machine computes 100 a second.
pub const MODELS: [(&str, u32); 3] = [("small", 200), ("medium", 400), ("large", 800)];
/// The largest charge of a placement, milliseconds of reference time: a gang of four small tasks, or one large one.
pub const LARGEST: u64 = 8_000;

/// A number that follows from two others, as good as random.
pub fn mixed(seed: u64, salt: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What the `number`-th machine says of itself.
pub fn machine(number: u64) -> proto::Hello {
    let of = |salt: u64, choices: u64| mixed(number, salt) % choices;
    let cuda = of(1, 3) == 0;
    let memory = if cuda { [8, 12, 16, 24][of(2, 4) as usize] } else { [4, 8, 16][of(2, 3) as usize] };
    let device = proto::Device {
        name: if cuda { "cuda0" } else { "cpu0" }.into(),
        class: if cuda { "cuda" } else { "cpu" }.into(),
        memory_bytes: memory * GIB,
        attributes: [("slots".to_string(), "1".to_string())].into(),
    };
    proto::Hello {
        session_number: 1,
        agent_version: "simulated".into(),
        devices: vec![device],
        measured: Some(proto::Measured {
            gigaflops: 80 + of(3, 160),
            memory_bandwidth: 20_000_000_000,
            load_bandwidth: 1_000_000_000,
        }),
        offer: Some(proto::Offer {
            price_per_hour: format!("0.{:03}", 20 + of(4, 180)),
            region: ["eu-north", "eu-west", "us-east"][of(5, 3) as usize].into(),
            labels: BTreeMap::new().into_iter().collect(),
        }),
        availability: Some(proto::Availability { available: true, ..Default::default() }),
        os: "linux".into(),
        arch: if of(6, 4) == 0 { "arm64" } else { "amd64" }.into(),
        ..Default::default()
    }
}

/// What kind of job the `number`-th is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs anywhere.
    Plain,
    /// Needs much memory, a region, a processor, a price or a short time.
    Picky,
    /// Starts with several tasks at once.
    Gang,
    /// No machine can ever take it.
    Hopeless,
}

/// A job of a tenant: its kind and its manifest. An `urgent` one has a high priority.
pub fn job(number: u64, urgent: bool) -> (Kind, Value) {
    let of = |salt: u64, choices: u64| mixed(number, 100 + salt) % choices;
    let (tenant, _) = TENANTS[(number % TENANTS.len() as u64) as usize];
    let (model, _) = MODELS[of(1, 3) as usize];
    let tasks = 1 + of(2, 3);
    let items: Vec<String> = (0..tasks).map(|index| format!("[{index}]")).collect();
    let mut spec = json!({ "modelRef": { "name": model }, "input": { "items": items }, "queueName": tenant });
    spec["objective"] = ["Cheapest", "Fastest", "Balanced"][of(3, 3) as usize].into();
    let kind = match of(4, 100) {
        0..70 => Kind::Plain,
        70..90 => Kind::Picky,
        90..97 => Kind::Gang,
        _ => Kind::Hopeless,
    };
    match (kind, of(5, 5)) {
        (Kind::Plain, _) => {}
        (Kind::Picky, 0) => spec["resources"] = json!({ "deviceMemory": "12Gi" }),
        (Kind::Picky, 1) => spec["regions"] = json!(["eu-north", "eu-west"]),
        (Kind::Picky, 2) => spec["nodeSelector"] = json!({ "kubernetes.io/arch": "amd64" }),
        (Kind::Picky, 3) => spec["maxPricePerHour"] = "0.12".into(),
        (Kind::Picky, _) => spec["maxLatencyMilliseconds"] = 20_000.into(),
        (Kind::Gang, _) => {
            let items: Vec<String> = (0..4).map(|index| format!("[{index}]")).collect();
            spec["input"] = json!({ "items": items });
            spec["modelRef"] = json!({ "name": "small" });
            spec["minParallelism"] = 4.into();
        }
        (Kind::Hopeless, 0 | 1) => spec["resources"] = json!({ "deviceMemory": "900Gi" }),
        (Kind::Hopeless, 2) => spec["maxPricePerHour"] = "0.000001".into(),
        (Kind::Hopeless, 3) => spec["regions"] = json!(["nowhere"]),
        (Kind::Hopeless, _) => spec["nodeSelector"] = json!({ "kubernetes.io/arch": "riscv64" }),
    }
    if urgent {
        spec["priorityClassName"] = "nightshift-high".into();
    }
    let manifest = json!({
        "apiVersion": "nightshift.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": { "name": format!("{tenant}-{number}") },
        "spec": spec,
    });
    (kind, manifest)
}
