//! A node's claims, a node's own runs, and an owner's own models: none of them makes a node look fast that is not.

use nightshift_placement::estimate::{Claims, HALF_LIFE, Limits, NodeEstimate, Observation};
use nightshift_placement::{Correction, Estimator, ModelEstimate, Percentile, Prediction};
use nightshift_types::{Digest, NodeId, Timestamp};

const MS: u64 = 1_000_000;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A warm run of one second by the prior, on a free device: what it took, and what was claimed.
fn warm_run(estimator: &mut Estimator, model: u8, node: &str, owner: &str, took_ms: u64, claims: Claims) {
    let (model, node) = (Digest([model; 32]), id(node));
    // As placement would predict it now.
    let known = (estimator.model(&model), estimator.device(&node, "dev0"));
    let service = known.1.apply(known.0.service.apply(1_000 * MS));
    let predicted =
        Prediction { round_trip: 10 * MS, wait: 0, transfer: MS, load: 0, service, percentile: known.0.p95 };
    let expected = estimator.expect(&model, &node, "dev0", predicted);
    let total = took_ms * MS;
    let device = "dev0";
    let now = Timestamp(0);
    estimator.observe(&Observation { model, node: &node, owner, device, expected: &expected, claims, total, now });
}

fn honest(estimator: &mut Estimator, model: u8) {
    for run in 0..300 {
        let node = run % 10;
        warm_run(estimator, model, &format!("n{node}"), &format!("o{node}"), 1_010, Claims::default());
    }
}

#[test]
fn claims_alone_make_no_device_fast() {
    let mut estimator = Estimator::default();
    honest(&mut estimator, 1);
    let lie = Claims { wait: u64::MAX, transfer: u64::MAX, load: u64::MAX, service: 0 };
    for took in [1_010, 2_010, 1_010, 4_010] {
        for _ in 0..50 {
            warm_run(&mut estimator, 1, "liar", "mallory", took, lie);
            assert!(estimator.device(&id("liar"), "dev0") >= Correction::NONE);
        }
    }
    // It was four times as slow in the end, and is known to be.
    assert!(estimator.device(&id("liar"), "dev0") > Correction::ratio(3, 1));
    assert_eq!(estimator.node(&id("liar")), NodeEstimate::default());
}

#[test]
fn an_owners_own_model_makes_none_of_his_devices_fast() {
    let mut estimator = Estimator::default();
    honest(&mut estimator, 1);
    // A model whose count of work is a hundred times too high, run by its owner alone.
    for run in 0..500 {
        warm_run(&mut estimator, 66, &format!("m{}", run % 3), "mallory", 20, Claims::default());
    }
    for node in ["m0", "m1", "m2"] {
        assert_eq!(estimator.device(&id(node), "dev0"), Correction::NONE);
    }
    assert!(estimator.model(&Digest([66; 32])).service < Correction::ratio(1, 20), "the model is known to be short");
}

#[test]
fn one_node_hardly_moves_a_model() {
    let mut estimator = Estimator::default();
    honest(&mut estimator, 1);
    let before = estimator.model(&Digest([1; 32]));
    for _ in 0..1_000 {
        warm_run(&mut estimator, 1, "slow", "mallory", 20_000, Claims::default());
    }
    let after = estimator.model(&Digest([1; 32]));
    assert!(after.service.parts().abs_diff(before.service.parts()) < before.service.parts() / 16);
    assert!(estimator.device(&id("slow"), "dev0") > Correction::ratio(16, 1));
}

#[test]
fn whoever_was_slow_is_tried_again_some_time() {
    let mut estimator = Estimator::default();
    honest(&mut estimator, 1);
    for _ in 0..50 {
        warm_run(&mut estimator, 1, "slow", "mallory", 8_010, Claims::default());
        warm_run(&mut estimator, 2, "n0", "o0", 9_010, Claims::default());
    }
    let (mut last, model) = (estimator.device(&id("slow"), "dev0"), Digest([2; 32]));
    assert!(last > Correction::ratio(6, 1) && estimator.model(&model).service > Correction::ratio(6, 1));
    estimator.forget(Timestamp(HALF_LIFE.0));
    assert_eq!(estimator.device(&id("slow"), "dev0"), last, "not before the time");
    for lives in 1..=10 {
        let now = Timestamp(HALF_LIFE.0 * lives + lives);
        estimator.forget(now);
        let known = estimator.device(&id("slow"), "dev0");
        assert!(known <= last);
        last = known;
        estimator.forget(now);
        assert_eq!(estimator.device(&id("slow"), "dev0"), last, "once in a while");
    }
    assert!(estimator.is_empty() && last == Correction::NONE);
    assert_eq!(estimator.model(&model).service, Correction::NONE);
}

#[test]
fn a_pool_of_one_owner_learns_its_devices() {
    let mut estimator = Estimator::default();
    for run in 0..400 {
        let node = run % 5;
        let took = if node == 4 { 3_010 } else { 1_010 };
        warm_run(&mut estimator, 1, &format!("n{node}"), "operator", took, Claims::default());
    }
    assert!(estimator.device(&id("n4"), "dev0") > Correction::ratio(5, 2));
    assert!(estimator.device(&id("n0"), "dev0") < Correction::ratio(5, 4));
}

#[test]
fn before_anything_was_observed_the_prior_stands_and_memory_is_bounded() {
    let mut estimator = Estimator::new(Limits { models: 3, nodes: 5 });
    assert!(estimator.is_empty());
    assert_eq!(estimator.model(&Digest([1; 32])), ModelEstimate::default());
    assert_eq!(ModelEstimate::default(), ModelEstimate { service: Correction::NONE, p95: Percentile::PRIOR });
    assert_eq!(estimator.device(&id("n"), "dev0"), Correction::NONE);
    for run in 0..200u8 {
        warm_run(&mut estimator, run, &format!("n{run}"), "o", 900, Claims::default());
        assert!(estimator.len().0 <= 3 && estimator.len().1 <= 5);
    }
    assert_eq!(estimator.evidence(&Digest([199; 32])), (1, 1));
}
