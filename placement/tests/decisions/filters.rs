//! Each filter alone, and their order.

use crate::fixture::{device, node, points, request, spec, taint};
use nightshift_placement::{Ask, NodeView, Reason, ReasonKind, Request, Unavailable, filter};
use nightshift_types::{
    Bytes, DeviceClass, JobSpec, Milliseconds, NodeId, Reputation, TaintEffect, Toleration, TolerationOperator,
    TrustTier,
};

fn verdict(node: &NodeView, request: &Request) -> Option<Reason> {
    filter(node, &Ask::from(request)).err()
}

fn node_with(change: impl FnOnce(&mut NodeView)) -> Option<Reason> {
    let mut node = node("n");
    change(&mut node);
    verdict(&node, &request("j", 0, spec()))
}

fn spec_with(change: impl FnOnce(&mut JobSpec)) -> Option<Reason> {
    let mut spec = spec();
    change(&mut spec);
    verdict(&node("n"), &request("j", 0, spec))
}

#[test]
fn the_fixture_fits() {
    assert_eq!(node_with(|_| {}), None);
}

#[test]
fn state() {
    assert_eq!(node_with(|n| n.unschedulable = true), Some(Reason::Unschedulable));
    assert_eq!(node_with(|n| n.ready = false), Some(Reason::NotReady));
    for why in [
        Unavailable::OwnerActive,
        Unavailable::OutsideWindow,
        Unavailable::OnBattery,
        Unavailable::Hot,
        Unavailable::Draining,
        Unavailable::Parked,
    ] {
        let reason = node_with(|n| n.unavailable = Some(why)).unwrap();
        assert_eq!(reason, Reason::Unavailable(why));
        assert_eq!(reason.kind().as_str(), format!("{why:?}"));
    }
}

#[test]
fn trust() {
    let (need, has) = (TrustTier::Vetted, TrustTier::Public);
    assert_eq!(node_with(|n| n.tier = has), Some(Reason::TrustTier { need, has }));
    assert_eq!(node_with(|n| n.tier = TrustTier::Operator), None);
    let (need, has) = (Reputation::new(501), Reputation::new(500));
    assert_eq!(spec_with(|s| s.min_reputation = Some(need)), Some(Reason::Reputation { need, has }), "a new node's");
    assert_eq!(spec_with(|s| s.min_reputation = Some(has)), None);
    assert_eq!(node_with(|n| n.reputation = Reputation::new(0)), None, "nobody asked");
}

#[test]
fn labels_and_regions() {
    let zone = |s: &mut JobSpec| drop(s.node_selector.insert("zone".into(), "a".into()));
    assert_eq!(spec_with(zone), Some(Reason::NodeSelector));
    let mut labelled = node("n");
    labelled.labels.insert("zone".into(), "a".into());
    let mut wants = spec();
    zone(&mut wants);
    assert_eq!(verdict(&labelled, &request("j", 0, wants)), None);
    assert_eq!(spec_with(|s| s.regions = vec!["us".into()]), Some(Reason::Region));
    assert_eq!(spec_with(|s| s.regions = vec!["us".into(), "eu".into()]), None);
}

#[test]
fn taints() {
    for effect in [TaintEffect::NoSchedule, TaintEffect::NoExecute] {
        assert_eq!(node_with(|n| n.taints = vec![taint("gpu", effect)]), Some(Reason::Taint { untolerated: 1 }));
    }
    assert_eq!(node_with(|n| n.taints = vec![taint("gpu", TaintEffect::PreferNoSchedule)]), None);
    let mut tainted = node("n");
    tainted.taints = vec![taint("gpu", TaintEffect::NoSchedule)];
    let mut tolerant = spec();
    tolerant.tolerations =
        vec![Toleration { key: "gpu".into(), operator: TolerationOperator::Exists, ..Toleration::default() }];
    assert_eq!(verdict(&tainted, &request("j", 0, tolerant)), None);
}

#[test]
fn devices() {
    assert_eq!(spec_with(|s| s.device_classes = vec![DeviceClass::Cuda]), Some(Reason::DeviceClass));
    assert_eq!(node_with(|n| n.devices.clear()), Some(Reason::DeviceClass));
    let (need, gibi) = (Bytes::gibi(6), Bytes::gibi);
    let small = Reason::MemoryTotal { need, largest: gibi(4), free: gibi(4) };
    assert_eq!(node_with(|n| n.devices = vec![device("cpu0", DeviceClass::Cpu, 4)]), Some(small));
    assert_eq!(node_with(|n| n.devices[0].free = gibi(5)), Some(Reason::MemoryFree { need, free: gibi(5) }));
    assert_eq!(node_with(|n| n.devices[0].free = need), None);
    assert_eq!(node_with(|n| n.devices[0].running = 4), Some(Reason::Slots { running: 4, slots: 4 }));
}

#[test]
fn money() {
    let (limit, ask) = (points("0.19"), points("0.2"));
    assert_eq!(spec_with(|s| s.max_price_per_hour = Some(limit)), Some(Reason::Price { limit, ask }));
    assert_eq!(spec_with(|s| s.max_price_per_hour = Some(ask)), None);
    let quote = ask.quote(Milliseconds(1_000));
    let left = points("0.000001");
    assert_eq!(spec_with(|s| s.max_cost = Some(left)), Some(Reason::Cost { left, quote }));
    assert_eq!(spec_with(|s| s.max_cost = Some(quote)), None);
    let mut spent = request("j", 0, spec());
    spent.budget_left = Some(points("-1"));
    assert_eq!(verdict(&node("n"), &spent), Some(Reason::Cost { left: points("0"), quote }));
}

#[test]
fn latency() {
    // 10 ms round trip, 10 ms input, 1 s fetch, 0.1 s load, 1 s service, times 1.5.
    let (limit, p95) = (Milliseconds(3_180), Milliseconds(3_181));
    assert_eq!(spec_with(|s| s.max_latency = Some(limit)), Some(Reason::TooSlow { limit, p95 }));
    assert_eq!(spec_with(|s| s.max_latency = Some(p95)), None);
    let mut busy = node("n");
    busy.devices[0].queued_ms = 40;
    let mut wants = spec();
    wants.max_latency = Some(p95);
    let reason = verdict(&busy, &request("j", 0, wants));
    assert_eq!(reason, Some(Reason::TooBusy { limit: p95, p95: Milliseconds(3_196) }));
}

#[test]
fn a_node_with_every_fault_shows_them_in_order() {
    let mut node = node("n");
    let mut spec = spec();
    spec.node_selector.insert("zone".into(), "a".into());
    spec.regions = vec!["us".into()];
    spec.max_price_per_hour = Some(points("0.1"));
    spec.max_cost = Some(points("0"));
    spec.max_latency = Some(Milliseconds(1));
    spec.min_reputation = Some(Reputation::new(900));
    node.unschedulable = true;
    node.ready = false;
    node.unavailable = Some(Unavailable::Hot);
    node.tier = TrustTier::Public;
    node.taints = vec![taint("gpu", TaintEffect::NoSchedule)];
    node.devices[0].free = Bytes(0);
    node.devices[0].running = 9;
    let mut seen = Vec::new();
    while let Some(reason) = verdict(&node, &request("j", 0, spec.clone())) {
        seen.push(reason.kind());
        match reason.kind() {
            ReasonKind::Unschedulable => node.unschedulable = false,
            ReasonKind::NotReady => node.ready = true,
            ReasonKind::Hot => node.unavailable = None,
            ReasonKind::TrustTier => node.tier = TrustTier::Vetted,
            ReasonKind::Reputation => spec.min_reputation = None,
            ReasonKind::NodeSelector => spec.node_selector.clear(),
            ReasonKind::Taint => node.taints.clear(),
            ReasonKind::Region => spec.regions.clear(),
            ReasonKind::MemoryFree => node.devices[0].free = node.devices[0].total,
            ReasonKind::Slots => node.devices[0].running = 0,
            ReasonKind::Price => spec.max_price_per_hour = None,
            ReasonKind::Cost => spec.max_cost = None,
            ReasonKind::TooSlow => spec.max_latency = None,
            other => panic!("unexpected {other}"),
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.len(), 13);
}

#[test]
fn a_nodes_reason_is_its_furthest_devices() {
    let mut two = node("n");
    two.devices = vec![device("cpu0", DeviceClass::Cpu, 4), device("cuda0", DeviceClass::Cuda, 8)];
    two.devices[1].free = Bytes::gibi(2);
    let reason = verdict(&two, &request("j", 0, spec()));
    assert_eq!(reason, Some(Reason::MemoryFree { need: Bytes::gibi(6), free: Bytes::gibi(2) }));
    two.devices[1].free = Bytes::gibi(8);
    let request = request("j", 0, spec());
    let feasible = filter(&two, &Ask::from(&request)).unwrap();
    assert_eq!(feasible.devices.iter().collect::<Vec<_>>(), [1]);
    assert_eq!(feasible.node.id, NodeId::new("n").unwrap());
}
