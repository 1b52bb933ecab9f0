//! The latency model, part by part.

use crate::fixture::{MODEL, node, request, spec};
use nightshift_placement::latency::{ASSUMED_LINK_BANDWIDTH, LEAST_SERVICE_MICROS, predict};
use nightshift_placement::{Ask, NodeView, Prediction};
use nightshift_types::{Bytes, Milliseconds};

fn of(node: &NodeView) -> Prediction {
    predict(node, &node.devices[0], &Ask::from(&request("j", 0, spec())))
}

const COLD: Prediction =
    Prediction { round_trip: 10_000, wait: 0, input: 10_000, fetch: 1_000_000, load: 100_000, service: 1_000_000 };

#[test]
fn cold_cached_warm() {
    let mut node = node("n");
    assert_eq!(of(&node), COLD);
    assert_eq!((COLD.expected(), COLD.p95()), (2_120_000, 3_180_000));
    node.cached = vec![MODEL];
    assert_eq!(of(&node), Prediction { fetch: 0, ..COLD });
    node.cached.clear();
    node.devices[0].warm = vec![MODEL];
    assert_eq!(of(&node), Prediction { fetch: 0, load: 0, ..COLD });
}

#[test]
fn waiting_is_shared_by_the_slots() {
    let mut node = node("n");
    node.devices[0].queued_ms = 4_001;
    assert_eq!(of(&node).wait, 1_000_250);
    node.devices[0].slots = 0;
    assert_eq!(of(&node).wait, 4_001_000);
}

#[test]
fn service_scales_with_measured_speed() {
    let mut node = node("n");
    node.measured.gigaflops = 400;
    assert_eq!(of(&node).service, 250_000);
    node.devices[0].gigaflops = Some(50);
    assert_eq!(of(&node).service, 2_000_000);
    node.devices[0].gigaflops = Some(u64::MAX);
    assert_eq!(of(&node).service, LEAST_SERVICE_MICROS);
    node.devices[0].gigaflops = None;
    node.measured.gigaflops = 0;
    assert_eq!(of(&node).service, 1_000_000);
}

#[test]
fn the_unmeasured_is_assumed_and_extremes_do_not_overflow() {
    let mut node = node("n");
    node.link_bandwidth = None;
    assert_eq!(of(&node).fetch, 100_000_000u64 * 1_000_000 / ASSUMED_LINK_BANDWIDTH);
    node.link_bandwidth = Some(1);
    node.round_trip = Milliseconds(u64::MAX);
    let mut huge = spec();
    huge.model_size = Bytes(u64::MAX);
    huge.reference = Milliseconds(u64::MAX);
    let request = request("j", 0, huge);
    assert_eq!(predict(&node, &node.devices[0], &Ask::from(&request)).p95(), u64::MAX);
}
