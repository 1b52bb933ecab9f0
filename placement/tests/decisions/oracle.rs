//! A second opinion, written from the documentation alone: it shares no filter, score or latency code with the crate.
//! Slow and plain: every pair of node and device, wide integers, tuples.

use nightshift_placement::{NodeView, Request, Snapshot};
use nightshift_types::{Objective, TaintEffect, Toleration, TolerationOperator};
use std::collections::HashMap;

/// Task → node and device, `None` where nothing fits; in the order of the requests.
pub fn place(snapshot: &Snapshot, requests: &[Request], waiting_per_hour: i128) -> Vec<Option<(String, String)>> {
    let mut nodes = snapshot.nodes.clone();
    let mut spent: HashMap<String, i128> = HashMap::new();
    let mut answer = Vec::new();
    for request in requests {
        let paid = spent.entry(request.task.job.to_string()).or_default();
        let mut pairs = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            for d in 0..node.devices.len() {
                if fits(node, d, request, *paid) {
                    pairs.push((rank(node, d, request, waiting_per_hour), n, d));
                }
            }
        }
        let Some((_, n, d)) = pairs.into_iter().min() else {
            answer.push(None);
            continue;
        };
        *paid += quote(&nodes[n], request);
        let compute = service(&nodes[n], d, request);
        let device = &mut nodes[n].devices[d];
        device.free.0 -= request.spec.memory.0;
        device.running += 1;
        device.queued_ms += compute.div_ceil(1_000) as u64;
        answer.push(Some((nodes[n].id.to_string(), nodes[n].devices[d].name.clone())));
    }
    answer
}

fn fits(node: &NodeView, d: usize, request: &Request, paid: i128) -> bool {
    let (spec, device) = (&request.spec, &node.devices[d]);
    let budget = request.budget_left.or(spec.max_cost);
    node.ready
        && !node.unschedulable
        && node.unavailable.is_none()
        && node.tier as u8 >= spec.min_trust_tier as u8
        && (spec.device_classes.is_empty() || spec.device_classes.contains(&device.class))
        && spec.node_selector.iter().all(|(k, v)| node.labels.get(k).is_some_and(|has| has == v))
        && repelling(node, request, false) == 0
        && (spec.regions.is_empty() || spec.regions.contains(&node.region))
        && device.free.0 >= spec.memory.0
        && device.running < device.slots
        && spec.max_price_per_hour.is_none_or(|limit| node.price_per_hour.0 <= limit.0)
        && budget.is_none_or(|left| quote(node, request) <= (left.0 - paid).max(0))
        && spec.max_latency.is_none_or(|limit| p95(node, d, request) <= u128::from(limit.0) * 1_000)
}

type Rank = (bool, usize, i128, i128, u64);

fn rank(node: &NodeView, d: usize, request: &Request, waiting_per_hour: i128) -> Rank {
    let ask = node.price_per_hour.0 * i128::from(request.spec.reference.0);
    let time = p95(node, d, request) as i128;
    let (first, second) = match request.spec.objective {
        Objective::Cheapest => (ask, time),
        Objective::Fastest => (time, ask),
        Objective::Balanced => (ask * 1_000 + waiting_per_hour * time, time),
    };
    let left = node.devices[d].free.0 - request.spec.memory.0;
    (request.avoid.contains(&node.id), repelling(node, request, true), first, second, left)
}

fn repelling(node: &NodeView, request: &Request, soft: bool) -> usize {
    let accepts = |t: &Toleration, key: &str, value: &str, effect: TaintEffect| {
        t.effect.is_none_or(|e| e == effect)
            && match t.operator {
                TolerationOperator::Exists => t.key.is_empty() || t.key == key,
                TolerationOperator::Equal => t.key == key && t.value == value,
            }
    };
    let open = |taint: &&nightshift_types::Taint| {
        (taint.effect == TaintEffect::PreferNoSchedule) == soft
            && !request.spec.tolerations.iter().any(|t| accepts(t, &taint.key, &taint.value, taint.effect))
    };
    node.taints.iter().filter(open).count()
}

fn quote(node: &NodeView, request: &Request) -> i128 {
    let product = node.price_per_hour.0 * i128::from(request.spec.reference.0);
    (product + 3_599_999) / 3_600_000
}

fn service(node: &NodeView, d: usize, request: &Request) -> u128 {
    let measured = node.devices[d].gigaflops.unwrap_or(node.measured.gigaflops);
    let speed = if measured == 0 { 100 } else { u128::from(measured) };
    (u128::from(request.spec.reference.0) * 1_000 * 100).div_ceil(speed).max(1_000)
}

fn p95(node: &NodeView, d: usize, request: &Request) -> u128 {
    let (spec, device) = (&request.spec, &node.devices[d]);
    let micros = |bytes: u64, rate: u64| (u128::from(bytes) * 1_000_000).div_ceil(u128::from(rate));
    let link = node.link_bandwidth.unwrap_or(125_000_000);
    let disk = if node.measured.load_bandwidth == 0 { 500_000_000 } else { node.measured.load_bandwidth };
    let mut sum = u128::from(node.round_trip.0) * 1_000;
    sum += (u128::from(device.queued_ms) * 1_000).div_ceil(u128::from(device.slots));
    sum += micros(spec.inputs[request.task.index as usize].size.0, link);
    if !device.warm.contains(&spec.model_digest) {
        sum += micros(spec.model_size.0, disk);
        if !node.cached.contains(&spec.model_digest) {
            sum += micros(spec.model_size.0, link);
        }
    }
    sum += service(node, d, request);
    (sum * 150).div_ceil(100)
}
