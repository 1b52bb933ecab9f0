//! A second opinion, written from the documentation alone: it shares no filter, score or latency code with the crate.
//! Slow and plain: every pair of node and device, wide integers, tuples.

use nightshift_placement::{Correction, DeviceView, NodeView, Request, Snapshot};
use nightshift_types::{Objective, TaintEffect, Toleration, TolerationOperator};
use std::collections::HashMap;

/// Task → node and device, `None` where nothing fits; in the order of the requests.
#[allow(dead_code)] // each test takes its part
pub fn place(snapshot: &Snapshot, requests: &[Request], waiting_per_hour: i128) -> Vec<Option<(String, String)>> {
    let mut nodes = snapshot.nodes.clone();
    let mut spent: HashMap<String, i128> = HashMap::new();
    let mut answer = Vec::new();
    for request in requests {
        let paid = spent.entry(request.task.job.to_string()).or_default();
        let (_, best) = best(nodes.iter(), request, *paid, waiting_per_hour);
        let Some((n, d)) = best else {
            answer.push(None);
            continue;
        };
        *paid += quote(&nodes[n], request);
        take(&mut nodes[n], d, request);
        answer.push(Some((nodes[n].id.to_string(), nodes[n].devices[d].name.clone())));
    }
    answer
}

/// How many nodes fit, and the positions of the best node and of its device.
pub fn best<'n>(
    nodes: impl Iterator<Item = &'n NodeView>,
    request: &Request,
    paid: i128,
    waiting_per_hour: i128,
) -> (usize, Option<(usize, usize)>) {
    let (mut fitting, mut best) = (0, None);
    for (n, node) in nodes.enumerate() {
        let open = fits_node(node, request, paid);
        let fit = |d: &usize| open && fits_device(node, &node.devices[*d], request);
        let ranks =
            (0..node.devices.len()).filter(fit).map(|d| (rank(node, d, request, waiting_per_hour), &node.id, d, n));
        if let Some(least) = ranks.min() {
            fitting += 1;
            if best.as_ref().is_none_or(|best| least < *best) {
                best = Some(least);
            }
        }
    }
    (fitting, best.map(|(_, _, d, n)| (n, d)))
}

/// What a placement takes.
pub fn take(node: &mut NodeView, d: usize, request: &Request) -> u64 {
    let busy = service(node, &node.devices[d], request).div_ceil(1_000_000) as u64;
    let device = &mut node.devices[d];
    device.free.0 -= request.spec.memory.0;
    device.running += 1;
    device.queued_ms += busy;
    busy
}

fn fits_node(node: &NodeView, request: &Request, paid: i128) -> bool {
    let spec = &request.spec;
    let budget = request.budget_left.or(spec.max_cost);
    node.ready
        && !node.unschedulable
        && node.unavailable.is_none()
        && node.tier as u8 >= spec.min_trust_tier as u8
        && spec.min_reputation.is_none_or(|least| node.reputation.permille() >= least.permille())
        && spec.node_selector.iter().all(|(k, v)| node.labels.get(k).is_some_and(|has| has == v))
        && repelling(node, request, false) == 0
        && (spec.regions.is_empty() || spec.regions.contains(&node.region))
        && spec.max_price_per_hour.is_none_or(|limit| node.price_per_hour.0 <= limit.0)
        && budget.is_none_or(|left| quote(node, request) <= (left.0 - paid).max(0))
}

fn fits_device(node: &NodeView, device: &DeviceView, request: &Request) -> bool {
    let spec = &request.spec;
    (spec.device_classes.is_empty() || spec.device_classes.contains(&device.class))
        && device.free.0 >= spec.memory.0
        && device.running < device.slots
        && spec.max_latency.is_none_or(|limit| p95(node, device, request) <= u128::from(limit.0) * 1_000_000)
}

type Rank = (bool, usize, u128, u128, u64);

fn rank(node: &NodeView, d: usize, request: &Request, waiting_per_hour: i128) -> Rank {
    let device = &node.devices[d];
    let cost = bits24(node.price_per_hour.0 as u128) * u128::from(request.spec.reference.0);
    let time = p95(node, device, request);
    let (first, second) = match request.spec.objective {
        Objective::Cheapest => (cost, time),
        Objective::Fastest => (time, cost),
        // Both to picopoint-nanoseconds.
        Objective::Balanced => (cost * 1_000_000 + waiting_per_hour as u128 * time, time),
    };
    (request.avoid.contains(&node.id), repelling(node, request, true), first, second, device.total.0 / (1 << 20))
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

/// Rounded up to 24 significant bits.
fn bits24(mut amount: u128) -> u128 {
    let mut shift = 0;
    while amount >= 1 << 24 {
        amount = amount.div_ceil(2);
        shift += 1;
    }
    amount << shift
}

/// What runs made of a time; rounded up.
fn corrected(time: u128, correction: Correction) -> u128 {
    (time * u128::from(correction.parts())).div_ceil(65_536)
}

/// Nanoseconds of computing.
fn service(node: &NodeView, device: &DeviceView, request: &Request) -> u128 {
    let measured = device.gigaflops.unwrap_or(node.measured.gigaflops);
    let speed = if measured == 0 { 100 } else { u128::from(measured) };
    // A microsecond of reference time takes 100 ÷ speed microseconds: kept in 1,024ths of a nanosecond, rounded up.
    let benchmark = (100u128 * 1_000 * 1_024).div_ceil(speed);
    let slowness = bits24(corrected(benchmark, device.correction).min(1 << 27));
    let micros = corrected(u128::from(request.spec.reference.0) * 1_000, request.estimate.service).min(1 << 36);
    (micros * slowness / 1_024).max(1_000_000)
}

/// Nanoseconds.
fn p95(node: &NodeView, device: &DeviceView, request: &Request) -> u128 {
    let spec = &request.spec;
    let mebi =
        |rate: u64| bits24((1_048_576 * 1_000_000_000u128).div_ceil(u128::from(rate)).min(u128::from(u32::MAX - 255)));
    let kibi = |bytes: u64| u128::from(bytes.div_ceil(1_024));
    let link = mebi(node.link_bandwidth.filter(|&rate| rate > 0).unwrap_or(125_000_000));
    let disk = mebi(if node.measured.load_bandwidth == 0 { 500_000_000 } else { node.measured.load_bandwidth });
    let resident = device.warm.contains(&spec.model_digest);
    let here = resident || node.cached.contains(&spec.model_digest);
    let model = kibi(spec.model_size.0);
    let sent = kibi(spec.inputs.get(request.task.index as usize).map_or(0, |input| input.size.0))
        + if here { 0 } else { model };
    let wait = (u128::from(device.queued_ms) * 1_000_000).div_ceil(u128::from(device.slots.max(1)));
    let mut sum = bits24(u128::from(node.round_trip.0) * 1_000_000 + wait);
    sum += sent * link / 1_024;
    sum += if resident { 0 } else { model * disk / 1_024 };
    sum += service(node, device, request);
    sum * u128::from(request.estimate.p95.parts()) / 256
}
