//! What is preferred among nodes that fit, where only one thing differs.

use crate::fixture::{MODEL, device, node, points, request, snapshot, spec, taint};
use nightshift_placement::{NodeView, Weights, plan};
use nightshift_types::{DeviceClass, Milliseconds, NodeId, Objective, TaintEffect};

/// Names of the node and the device that are chosen.
fn chosen(nodes: Vec<NodeView>, objective: Objective, avoid: &str) -> String {
    let mut request = request("j", 0, nightshift_types::JobSpec { objective, ..spec() });
    request.avoid = NodeId::new(avoid).into_iter().collect();
    let plan = plan(&snapshot(nodes), &[request], &Weights::default());
    format!("{} {}", plan.placements[0].node, plan.placements[0].device)
}

fn with(name: &str, change: impl FnOnce(&mut NodeView)) -> NodeView {
    let mut node = node(name);
    change(&mut node);
    node
}

#[test]
fn objectives() {
    let pool = || {
        let fast = with("fast", |n| n.measured.gigaflops = 1_000);
        let cheap = with("cheap", |n| n.price_per_hour = points("0.199999"));
        vec![fast, cheap]
    };
    assert_eq!(chosen(pool(), Objective::Cheapest, ""), "cheap cpu0");
    assert_eq!(chosen(pool(), Objective::Fastest, ""), "fast cpu0");
    assert_eq!(chosen(pool(), Objective::Balanced, ""), "fast cpu0");
}

#[test]
fn an_hour_of_waiting_is_worth_a_quarter_point() {
    // One second of reference time at 0.25 points/h more is worth one second of waiting: 667 ms of round trip at p95.
    let pool = |slower: u64| {
        let near = with("near", |n| n.price_per_hour = points("0.25"));
        let far = with("far", |n| {
            n.price_per_hour = points("0");
            n.round_trip = Milliseconds(10 + slower);
        });
        vec![near, far]
    };
    assert_eq!(chosen(pool(666), Objective::Balanced, ""), "far cpu0");
    assert_eq!(chosen(pool(667), Objective::Balanced, ""), "near cpu0");
}

#[test]
fn a_node_to_avoid_is_taken_only_if_no_other_fits() {
    let pool = || vec![with("good", |n| n.price_per_hour = points("0.1")), node("other")];
    assert_eq!(chosen(pool(), Objective::Cheapest, "good"), "other cpu0");
    assert_eq!(chosen(vec![node("good")], Objective::Cheapest, "good"), "good cpu0");
}

#[test]
fn soft_taints_warm_models_tight_fits_then_names() {
    let cheapest = |nodes| chosen(nodes, Objective::Cheapest, "");
    let tainted = with("a", |n| n.taints = vec![taint("gpu", TaintEffect::PreferNoSchedule)]);
    assert_eq!(cheapest(vec![tainted, node("b")]), "b cpu0");
    let warm = with("b", |n| n.devices[0].warm = vec![MODEL]);
    assert_eq!(cheapest(vec![node("a"), warm]), "b cpu0");
    let tight = with("b", |n| n.devices = vec![device("cpu0", DeviceClass::Cpu, 8)]);
    assert_eq!(cheapest(vec![node("a"), tight]), "b cpu0");
    assert_eq!(cheapest(vec![node("b"), node("a")]), "a cpu0");
    let two = with("a", |n| n.devices.push(device("cpu1", DeviceClass::Cpu, 16)));
    assert_eq!(cheapest(vec![two]), "a cpu0");
}
