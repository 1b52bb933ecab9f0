//! The texts that people read, and the words that programs read.

use crate::fixture::{device, node, points, request, snapshot, spec, taint};
use nightshift_placement::{AdmittedReason, Ask, Change, NodeView, Unavailable, Weights, WhyNot, plan};
use nightshift_types::{Bytes, DeviceClass, JobSpec, Milliseconds, Reputation, TaintEffect, TrustTier};

fn why(nodes: Vec<NodeView>, change: impl FnOnce(&mut JobSpec)) -> WhyNot {
    let mut spec = spec();
    change(&mut spec);
    let request = request("j", 0, spec);
    WhyNot::explain(snapshot(nodes).nodes.iter(), &Ask::from(&request))
}

fn nodes(prefix: &str, count: usize, change: impl Fn(&mut NodeView)) -> Vec<NodeView> {
    (0..count)
        .map(|i| {
            let mut node = node(&format!("{prefix}{i:03}"));
            change(&mut node);
            node
        })
        .collect()
}

#[track_caller]
fn check(why: &WhyNot, reason: AdmittedReason, message: &str) {
    assert_eq!(why.message(), message);
    assert_eq!(why.admitted_reason(), reason);
}

#[test]
fn the_apis_example() {
    let full = nodes("full", 30, |n| n.devices[0].free = Bytes::gibi(4));
    let dear = nodes("dear", 8, |n| n.price_per_hour = points("0.24"));
    let owned = nodes("owned", 3, |n| n.unavailable = Some(Unavailable::OwnerActive));
    let why = why([full, dear, owned].concat(), |s| s.max_price_per_hour = Some(points("0.2")));
    check(
        &why,
        AdmittedReason::WaitingForCapacity,
        "0/41 nodes fit: 30 too little memory (need 6Gi, best free 4Gi), 8 over 0.20 points/h (cheapest 0.24), \
         3 owner active; at 0.24 points/h, 8 nodes would fit",
    );
}

#[test]
fn no_nodes() {
    check(
        &why(Vec::new(), |_| {}),
        AdmittedReason::NoMatchingNode,
        "0/0 nodes fit: no node has joined yet; join one: `nightshift token create` prints the command",
    );
}

#[test]
fn too_small_is_not_too_full() {
    let pool = || nodes("a", 2, |n| n.devices[0].free = Bytes::gibi(12));
    check(
        &why(pool(), |s| s.memory = Bytes::gibi(24)),
        AdmittedReason::NoMatchingNode,
        "0/2 nodes fit: 2 too little memory (need 24Gi, largest device 16Gi); with 12Gi of device memory, 2 nodes would fit",
    );
    check(
        &why(pool(), |s| s.memory = Bytes::gibi(14)),
        AdmittedReason::WaitingForCapacity,
        "0/2 nodes fit: 2 too little memory (need 14Gi, best free 12Gi); 2 nodes will fit once memory is free",
    );
    // Different amounts never read the same.
    let text = why(pool(), |s| s.memory = Bytes(Bytes::gibi(12).0 + 1)).to_string();
    assert_eq!(text, "0/2 nodes fit: 2 too little memory (need 12884901889, best free 12Gi)");
}

#[test]
fn money() {
    let pool = || [nodes("a", 11, |n| n.price_per_hour = points("0.24")), nodes("b", 2, |_| {})].concat();
    check(
        &why(pool(), |s| s.max_price_per_hour = Some(points("0.15"))),
        AdmittedReason::PriceAboveLimit,
        "0/13 nodes fit: 13 over 0.15 points/h (cheapest 0.20); at 0.20 points/h, 2 nodes would fit",
    );
    let hour = |s: &mut JobSpec| s.reference = Milliseconds(3_600_000);
    let dear = why(pool(), |s| {
        hour(s);
        s.max_cost = Some(points("0.1"));
    });
    check(
        &dear,
        AdmittedReason::PriceAboveLimit,
        "0/13 nodes fit: 13 over the 0.10 points left of maxCost (cheapest 0.20); with maxCost raised by 0.10, 2 nodes would fit",
    );
}

#[test]
fn static_facts() {
    let of = |change: fn(&mut JobSpec)| why(nodes("a", 2, |_| {}), change);
    let never = AdmittedReason::NoMatchingNode;
    check(
        &of(|s| s.min_trust_tier = TrustTier::Operator),
        never,
        "0/2 nodes fit: 2 below trust tier Operator (best Vetted); with minTrustTier Vetted, 2 nodes would fit",
    );
    check(
        &of(|s| s.device_classes = vec![DeviceClass::Cuda, DeviceClass::Mps]),
        never,
        "0/2 nodes fit: 2 without a device of class cuda or mps",
    );
    check(
        &of(|s| drop(s.node_selector.insert("zone".into(), "a".into()))),
        never,
        "0/2 nodes fit: 2 without the labels zone=a; without its nodeSelector, 2 nodes would fit",
    );
    check(
        &of(|s| s.regions = vec!["us".into(), "ap".into()]),
        never,
        "0/2 nodes fit: 2 outside us, ap; with the region eu, 2 nodes would fit",
    );
    check(
        &of(|s| s.max_latency = Some(Milliseconds(500))),
        never,
        "0/2 nodes fit: 2 too slow for 500 ms (fastest 3181 ms); with maxLatencyMilliseconds 3181, 2 nodes would fit",
    );
    let tainted = nodes("a", 1, |n| n.taints = vec![taint("gpu", TaintEffect::NoSchedule)]);
    check(
        &why(tainted, |_| {}),
        never,
        "0/1 nodes fit: 1 tainted (gpu:NoSchedule); with a toleration for gpu:NoSchedule, 1 node would fit",
    );
}

#[test]
fn a_reputation_that_few_have() {
    let pool = [
        nodes("new", 2, |_| {}),
        nodes("good", 3, |n| n.reputation = Reputation::new(872)),
        nodes("bad", 1, |n| n.reputation = Reputation::new(90)),
    ];
    check(
        &why(pool.concat(), |s| s.min_reputation = Some(Reputation::new(900))),
        AdmittedReason::NoMatchingNode,
        "0/6 nodes fit: 6 below reputation 0.9 (best 0.872); with minReputation 0.872, 3 nodes would fit",
    );
}

#[test]
fn no_single_change_is_suggested_where_two_are_needed() {
    let taints = [taint("gpu", TaintEffect::NoSchedule), taint("disk", TaintEffect::NoExecute)];
    let twice = why(nodes("a", 1, |n| n.taints = taints.to_vec()), |_| {});
    assert_eq!(twice.message(), "0/1 nodes fit: 1 tainted (disk:NoExecute)");
    let both = why(nodes("a", 1, |n| n.tier = TrustTier::Public), |s| s.regions = vec!["us".into()]);
    assert_eq!(both.message(), "0/1 nodes fit: 1 below trust tier Vetted (best Public)");
}

#[test]
fn passing_reasons() {
    let pool = [
        nodes("a", 1, |n| n.unschedulable = true),
        nodes("b", 2, |n| n.devices[0].running = 4),
        nodes("c", 2, |n| n.ready = false),
        nodes("d", 1, |n| n.devices[0].queued_ms = 1_000),
    ];
    check(
        &why(pool.concat(), |s| s.max_latency = Some(Milliseconds(3_200))),
        AdmittedReason::WaitingForCapacity,
        "0/6 nodes fit: 2 not ready, 2 without a free slot, 1 unschedulable, 1 too busy for 3200 ms (soonest 3556 ms); \
         once uncordoned, 1 node would fit",
    );
}

#[test]
fn a_passing_reason_does_not_hide_a_lasting_one() {
    // Its owner is there, but it would be too small without him as well: waiting is no use.
    let pool = nodes("a", 3, |n| {
        n.unavailable = Some(Unavailable::OwnerActive);
        n.devices = vec![device("cpu0", DeviceClass::Cpu, 4)];
    });
    check(&why(pool.clone(), |_| {}), AdmittedReason::NoMatchingNode, "0/3 nodes fit: 3 owner active");
    let why = why(pool, |s| s.memory = Bytes::gibi(2));
    assert_eq!(why.admitted_reason(), AdmittedReason::WaitingForCapacity);
    assert!(matches!(why.suggestion().unwrap().change, Change::Wait(_)));
}

#[test]
fn each_lack_by_itself_and_each_change_that_would_help() {
    let full = nodes("full", 3, |n| {
        n.devices[0].free = Bytes::gibi(4);
        n.price_per_hour = points("0.3");
    });
    let dear = nodes("dear", 2, |n| n.price_per_hour = points("0.24"));
    let dearer = nodes("dearer", 9, |n| n.price_per_hour = points("0.5"));
    let why = why([full, dear, dearer].concat(), |s| s.max_price_per_hour = Some(points("0.1")));
    let words = |counts: &[nightshift_placement::Count]| counts.iter().map(ToString::to_string).collect::<Vec<_>>();
    // A node counts once among the reasons, and in each dimension that it lacks.
    assert_eq!(
        words(&why.counts),
        ["11 over 0.10 points/h (cheapest 0.24)", "3 too little memory (need 6Gi, best free 4Gi)"]
    );
    assert_eq!(
        words(&why.misses),
        ["3 too little memory (need 6Gi, best free 4Gi)", "14 over 0.10 points/h (cheapest 0.24)"]
    );
    let help: Vec<String> = why.suggestions().iter().map(ToString::to_string).collect();
    assert_eq!(help, ["at 0.24 points/h, 2 nodes would fit", "at 0.50 points/h, 11 nodes would fit"]);
}

/// Two jobs of one plan that want the same are looked at once. These want almost the same.
#[test]
fn jobs_that_differ_in_one_demand_have_their_own_refusals() {
    let pool = snapshot(nodes("a", 3, |n| n.taints = vec![taint("gpu", TaintEffect::NoSchedule)]));
    let changes: [fn(&mut JobSpec); 8] = [
        |_| {},
        |s| s.min_trust_tier = TrustTier::Operator,
        |s| s.min_reputation = Some(Reputation::new(900)),
        |s| s.device_classes = vec![DeviceClass::Cuda],
        |s| drop(s.node_selector.insert("zone".into(), "a".into())),
        |s| s.regions = vec!["us".into()],
        |s| s.max_latency = Some(Milliseconds(1)),
        |s| s.max_price_per_hour = Some(points("0.01")),
    ];
    let mut tasks = Vec::new();
    for (job, change) in changes.iter().enumerate() {
        let mut wants = spec();
        change(&mut wants);
        tasks.push(request(&format!("j{job}"), 0, wants));
    }
    let weights = Weights::default();
    let together = plan(&pool, &tasks, &weights).refused;
    let alone: Vec<_> =
        tasks.iter().flat_map(|task| plan(&pool, std::slice::from_ref(task), &weights).refused).collect();
    assert_eq!(together, alone);
    assert_eq!(together.len(), changes.len());
}
