//! The latency model, part by part.

use crate::fixture::{MODEL, node, request, spec};
use nightshift_placement::latency::{LEAST_SERVICE_NANOS, Rates, predict, round24};
use nightshift_placement::{Ask, Correction, ModelEstimate, NodeView, Percentile, Prediction, Request, Weights, plan};
use nightshift_types::{Bytes, Milliseconds};

fn of(node: &NodeView) -> Prediction {
    predict(node, &node.devices[0], &Ask::from(&request("j", 0, spec())))
}

/// 98,634 KiB at 10,485,760 ns a MiB, 97,657 KiB at 1,048,576.
const COLD: Prediction = Prediction {
    round_trip: 10_000_000,
    wait: 0,
    transfer: 1_010_012_160,
    load: 100_000_768,
    service: 1_000_000_000,
    percentile: Percentile::PRIOR,
};

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
    assert!(longest.p95() > shortest && longest.expected() < 1 << 55);
    // Nor do corrections, however large.
    let most = Correction::ratio(u32::MAX, 1);
    node.devices[0].correction = most;
    let mut request = request("j", 0, spec());
    std::sync::Arc::make_mut(&mut request.spec).reference = Milliseconds(u64::MAX);
    request.estimate = ModelEstimate { service: most, p95: Percentile::new(u32::MAX) };
    let longest = predict(&node, &node.devices[0], &Ask::from(&request));
    assert!(longest.service > 1 << 50 && longest.expected() < 1 << 55 && longest.p95() > longest.expected());
}

#[test]
fn a_limit_allows_exactly_the_times_whose_percentile_is_within_it() {
    for limit in [0, 1_000_000, 3_000_000, 333_000_000, 1_000_001_000_000] {
        for parts in [0, 261, 300, 384, 1_000, u32::MAX] {
            let percentile = Percentile::new(parts);
            let most = percentile.within(limit.into());
            let p95 = |expected| percentile.of_expected(expected);
            assert!(p95(most) <= limit && p95(most + 1) > limit, "{limit} {parts}");
        }
    }
    assert_eq!(Percentile::PRIOR.within(u128::from(u64::MAX) * 1_000_000), u64::MAX);
    assert_eq!(Percentile::PRIOR.of_expected(1_000_001), 1_500_001);
}

fn corrected(service: Correction, p95: Percentile) -> Request {
    Request { estimate: ModelEstimate { service, p95 }, ..request("j", 0, spec()) }
}

#[test]
fn corrections_of_model_and_device_multiply_and_change_no_price() {
    let mut node = node("n");
    let twice = corrected(Correction::ratio(2, 1), Percentile::new(512));
    node.devices[0].correction = Correction::ratio(3, 2);
    let predicted = predict(&node, &node.devices[0], &Ask::from(&twice));
    assert_eq!(predicted, Prediction { service: 3_000_000_000, percentile: Percentile::new(512), ..COLD });
    assert_eq!(predicted.p95(), 2 * predicted.expected());
    let pool = crate::fixture::snapshot(vec![node]);
    let plain = request("j", 0, spec());
    let quotes = [twice, plain].map(|request| plan(&pool, &[request], &Weights::default()).placements[0].quote);
    assert_eq!(quotes[0], quotes[1]);
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
