//! The latency model, part by part.

use crate::fixture::{MODEL, node, request, spec};
use nightshift_placement::latency::{LEAST_SERVICE_NANOS, Rates, expected_within, p95, predict, round24};
use nightshift_placement::{Ask, NodeView, Prediction};
use nightshift_types::{Bytes, Milliseconds};

fn of(node: &NodeView) -> Prediction {
    predict(node, &node.devices[0], &Ask::from(&request("j", 0, spec())))
}

/// 98,634 KiB at 10,485,760 ns a MiB, 97,657 KiB at 1,048,576.
const COLD: Prediction =
    Prediction { round_trip: 10_000_000, wait: 0, transfer: 1_010_012_160, load: 100_000_768, service: 1_000_000_000 };

#[test]
fn cold_cached_warm() {
    let mut node = node("n");
    assert_eq!(of(&node), COLD);
    assert_eq!((COLD.expected(), COLD.p95()), (2_120_012_928, 3_180_019_392));
    node.cached = vec![MODEL];
    let input = 977 * 10_240;
    assert_eq!(of(&node), Prediction { transfer: input, ..COLD });
    node.cached.clear();
    node.devices[0].warm = vec![MODEL];
    assert_eq!(of(&node), Prediction { transfer: input, load: 0, ..COLD });
}

#[test]
fn waiting_is_shared_by_the_slots() {
    let mut node = node("n");
    node.devices[0].queued_ms = 4_001;
    assert_eq!(of(&node).wait, 1_000_250_000);
    node.devices[0].slots = 0;
    assert_eq!(of(&node).wait, 4_001_000_000);
}

#[test]
fn service_scales_with_measured_speed() {
    let mut node = node("n");
    node.measured.gigaflops = 400;
    assert_eq!(of(&node).service, 250_000_000);
    node.devices[0].gigaflops = Some(50);
    assert_eq!(of(&node).service, 2_000_000_000);
    node.devices[0].gigaflops = Some(u64::MAX);
    assert_eq!(of(&node).service, LEAST_SERVICE_NANOS);
    node.devices[0].gigaflops = None;
    node.measured.gigaflops = 0;
    assert_eq!(of(&node).service, 1_000_000_000);
}

#[test]
fn the_unmeasured_is_assumed_and_extremes_do_not_overflow() {
    let mut node = node("n");
    node.link_bandwidth = None;
    node.measured.load_bandwidth = 0;
    let rates = Rates::new(&node, &node.devices[0]);
    assert_eq!((rates.link, rates.load), (8_388_608, 2_097_152));
    let shortest = of(&node).expected();
    node.link_bandwidth = Some(1);
    node.measured.load_bandwidth = 1;
    node.measured.gigaflops = 1;
    node.devices[0].queued_ms = u64::MAX;
    node.round_trip = Milliseconds(u64::MAX);
    let mut huge = spec();
    huge.model_size = Bytes(u64::MAX);
    huge.inputs[0].size = Bytes(u64::MAX);
    huge.reference = Milliseconds(u64::MAX);
    let longest = predict(&node, &node.devices[0], &Ask::from(&request("j", 0, huge)));
    assert!(longest.p95() > shortest && longest.expected() < 1 << 57);
}

#[test]
fn a_limit_allows_exactly_the_times_whose_percentile_is_within_it() {
    for limit in [0, 1, 3, 333, 1_000_001] {
        let most = expected_within(Milliseconds(limit));
        assert!(p95(most) <= limit * 1_000_000 && p95(most + 1) > limit * 1_000_000, "{limit}");
    }
    assert_eq!(expected_within(Milliseconds(u64::MAX)), u64::MAX);
}

#[test]
fn twenty_four_bits_are_rounded_up() {
    for (amount, rounded) in [(0, 0), (1, 1), ((1 << 24) - 1, (1 << 24) - 1), ((1 << 24) + 1, (1 << 24) + 2)] {
        assert_eq!(round24(amount), rounded);
    }
    let mut amount = 1u64;
    while amount < u64::MAX / 3 {
        let rounded = round24(amount);
        assert!(rounded >= amount && rounded - amount <= amount >> 23, "{amount}");
        assert_eq!(rounded as f32 as u64, rounded);
        amount = amount * 3 + 1;
    }
}
