//! Nodes and jobs that fit each other; a test changes what it is about.

use crate::common::plain_spec;
use nightshift_placement::{DeviceView, ModelEstimate, NodeView, Request, Snapshot};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, NodeId, Objective, PicoPoints, Taint,
    TaintEffect, TaskId, Timestamp, TrustTier,
};
use std::sync::Arc;

pub const MODEL: Digest = Digest([7; 32]);

pub fn points(text: &str) -> PicoPoints {
    text.parse().unwrap()
}

/// 6 Gi of memory, one second of reference time, a model of 100 MB and inputs of 1 MB.
pub fn spec() -> JobSpec {
    JobSpec {
        model_digest: MODEL,
        model_size: Bytes(100_000_000),
        memory: Bytes::gibi(6),
        reference: Milliseconds(1_000),
        inputs: vec![InputRef { digest: Digest([1; 32]), size: Bytes(1_000_000) }; 8],
        objective: Objective::Cheapest,
        min_trust_tier: TrustTier::Vetted,
        ..plain_spec()
    }
}

pub fn request(job: &str, index: u32, spec: JobSpec) -> Request {
    let task = TaskId { job: JobId::new(job).unwrap(), index };
    Request {
        task,
        spec: Arc::new(spec),
        avoid: Vec::new(),
        budget_left: None,
        gang: 0,
        overdue: false,
        estimate: ModelEstimate::default(),
    }
}

/// A vetted CPU node with one idle device of 16 Gi and 4 slots, at 0.20 points an hour.
pub fn node(name: &str) -> NodeView {
    NodeView {
        tier: TrustTier::Vetted,
        price_per_hour: points("0.2"),
        region: "eu".into(),
        measured: Measured { gigaflops: 100, memory_bandwidth: 0, load_bandwidth: 1_000_000_000 },
        round_trip: Milliseconds(10),
        link_bandwidth: Some(100_000_000),
        devices: vec![device("cpu0", DeviceClass::Cpu, 16)],
        ..NodeView::new(NodeId::new(name).unwrap())
    }
}

pub fn device(name: &str, class: DeviceClass, gibi: u64) -> DeviceView {
    let total = Bytes::gibi(gibi);
    DeviceView { name: name.into(), class, total, free: total, slots: 4, ..DeviceView::default() }
}

pub fn taint(key: &str, effect: TaintEffect) -> Taint {
    Taint { key: key.into(), value: String::new(), effect }
}

pub fn snapshot(nodes: Vec<NodeView>) -> Snapshot {
    Snapshot::new(nodes, Timestamp(0))
}
