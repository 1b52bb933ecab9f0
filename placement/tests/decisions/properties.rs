//! What holds for every pool and every list of tasks.

use crate::fixture::{MODEL, device, node, request, snapshot, spec, taint};
use crate::oracle;
use nightshift_placement::{
    Ask, Change, DeviceView, NodeView, Plan, Pool, Request, Snapshot, Unavailable, Weights, WhyNot, filter, plan,
};
use nightshift_types::{
    Bytes, DeviceClass, JobSpec, Milliseconds, NodeId, Objective, PicoPoints, Reputation, TaintEffect, Toleration,
    TolerationOperator, TrustTier,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::sync::Arc;

fn any_device() -> impl Strategy<Value = DeviceView> {
    let class = select(vec![DeviceClass::Cpu, DeviceClass::Cuda]);
    let speed = select(vec![None, Some(50), Some(1_000)]);
    (class, 1u64..20, 0u64..20, 0u32..3, 1u32..4, 0u64..3_000, speed, any::<bool>()).prop_map(
        |(class, total, used, running, slots, queued_ms, gigaflops, warm)| DeviceView {
            free: Bytes::gibi(total.saturating_sub(used / 3)),
            running,
            slots,
            queued_ms,
            gigaflops,
            warm: if warm { vec![MODEL] } else { Vec::new() },
            ..device("", class, total)
        },
    )
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let rare = |percent: u32| prop::bool::weighted(f64::from(percent) / 100.0);
    let tier = select(vec![TrustTier::Public, TrustTier::Vetted, TrustTier::Vetted, TrustTier::Operator]);
    let effect = select(vec![None, None, Some(TaintEffect::NoSchedule), Some(TaintEffect::PreferNoSchedule)]);
    let link = select(vec![None, Some(1_000_000u64), Some(100_000_000)]);
    let reputation = select(vec![333u16, 500, 666, 900]).prop_map(Reputation::new);
    let state = (rare(5), rare(5), rare(10), tier, effect, reputation);
    let facts = (0i128..4, any::<bool>(), rare(50), select(vec![0u64, 80, 100, 300]), 0u64..4, link, rare(30));
    (state, facts, vec(any_device(), 0..3)).prop_map(|(state, facts, mut devices)| {
        let (cordoned, lost, owned, tier, effect, reputation) = state;
        let (price, europe, zone, gigaflops, trip, link, cached) = facts;
        let mut node = node("unnamed");
        devices.iter_mut().enumerate().for_each(|(i, device)| device.name = format!("dev{i}"));
        (node.unschedulable, node.ready) = (cordoned, !lost);
        node.unavailable = owned.then_some(Unavailable::OwnerActive);
        (node.tier, node.reputation) = (tier, reputation);
        node.taints = effect.map(|effect| taint("gpu", effect)).into_iter().collect();
        node.price_per_hour = PicoPoints(price * 100_000_000_000);
        node.region = if europe { "eu" } else { "us" }.into();
        if zone {
            node.labels.insert("zone".into(), "a".into());
        }
        node.measured.gigaflops = gigaflops;
        node.round_trip = Milliseconds(trip * 10);
        node.link_bandwidth = link;
        node.cached = if cached { vec![MODEL] } else { Vec::new() };
        node.devices = devices;
        node
    })
}

fn any_pool() -> impl Strategy<Value = Snapshot> {
    vec(any_node(), 0..12).prop_map(|mut nodes| {
        for (i, node) in nodes.iter_mut().enumerate() {
            node.id = NodeId::new(format!("n{i:02}")).unwrap();
        }
        snapshot(nodes)
    })
}

fn any_spec() -> impl Strategy<Value = JobSpec> {
    let objective = select(vec![Objective::Cheapest, Objective::Fastest, Objective::Balanced]);
    let limits = (
        proptest::option::weighted(0.3, 500u64..20_000),
        proptest::option::weighted(0.3, 0i128..4),
        proptest::option::weighted(0.3, 0i128..500_000_000),
    );
    let least =
        proptest::option::weighted(0.2, select(vec![500u16, 600, 666, 700, 900, 950]).prop_map(Reputation::new));
    let rules = (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>(), least);
    (objective, limits, rules, 1u64..10, 1u64..5_000).prop_map(|(objective, limits, rules, memory, reference)| {
        let mut spec = spec();
        spec.objective = objective;
        spec.memory = Bytes::gibi(memory);
        spec.reference = Milliseconds(reference);
        spec.max_latency = limits.0.map(Milliseconds);
        spec.max_price_per_hour = limits.1.map(|tenths| PicoPoints(tenths * 100_000_000_000));
        spec.max_cost = limits.2.map(PicoPoints);
        spec.min_reputation = rules.4;
        if rules.0 {
            spec.regions = vec!["eu".into()];
        }
        if rules.1 {
            spec.node_selector.insert("zone".into(), "a".into());
        }
        if rules.2 {
            spec.device_classes = vec![DeviceClass::Cuda];
        }
        if rules.3 {
            let exists = TolerationOperator::Exists;
            spec.tolerations = vec![Toleration { key: "gpu".into(), operator: exists, ..Toleration::default() }];
        }
        spec
    })
}

/// Up to three jobs of up to eight tasks, some of which avoid a node.
fn any_requests() -> impl Strategy<Value = Vec<Request>> {
    vec((any_spec(), 1u32..8, proptest::option::of(0usize..12)), 1..4).prop_map(|jobs| {
        let mut requests = Vec::new();
        for (position, (spec, tasks, avoid)) in jobs.into_iter().enumerate() {
            let spec = Arc::new(spec);
            for index in 0..tasks {
                let mut request = request(&format!("job{position}"), index, crate::fixture::spec());
                // As from the queue: a job's tasks share its spec.
                request.spec = Arc::clone(&spec);
                request.avoid = avoid.map(|i| NodeId::new(format!("n{i:02}")).unwrap()).into_iter().collect();
                requests.push(request);
            }
        }
        requests
    })
}

/// Memory, slots and money that a plan gives away are there.
fn never_over_committed(pool: &Snapshot, requests: &[Request], plan: &Plan) {
    let mut taken: BTreeMap<(&NodeId, &str), (u64, u32)> = BTreeMap::new();
    let mut bill: BTreeMap<&str, i128> = BTreeMap::new();
    for placed in &plan.placements {
        let entry = taken.entry((&placed.node, &placed.device)).or_default();
        *entry = (entry.0 + placed.memory.0, entry.1 + 1);
        *bill.entry(placed.task.job.as_str()).or_default() += placed.quote.0;
    }
    for ((node, name), (memory, tasks)) in taken {
        let node = pool.nodes.iter().find(|n| n.id == *node).unwrap();
        let device = node.devices.iter().find(|d| d.name == name).unwrap();
        assert!(memory <= device.free.0 && device.running + tasks <= device.slots);
    }
    for request in requests {
        let cost = bill.get(request.task.job.as_str()).copied().unwrap_or(0);
        assert!(request.spec.max_cost.is_none_or(|limit| cost <= limit.0));
    }
}

fn fitting(pool: &Snapshot, request: &Request) -> usize {
    pool.nodes.iter().filter(|node| filter(node, &Ask::from(request)).is_ok()).count()
}

/// The request after the change; `None` where the change is not the tenant's. True: exactly the nodes named would fit.
/// Less memory and more time also help nodes that are full or busy, so there it may be more.
fn changed(request: &Request, change: &Change) -> Option<(Request, bool)> {
    let mut spec = JobSpec::clone(&request.spec);
    match change {
        Change::PricePerHour(price) => spec.max_price_per_hour = Some(*price),
        Change::MoreCost(more) => spec.max_cost = spec.max_cost.map(|limit| limit + *more),
        Change::DeviceMemory(memory) => spec.memory = *memory,
        Change::Latency(limit) => spec.max_latency = Some(*limit),
        Change::TrustTier(tier) => spec.min_trust_tier = *tier,
        Change::Reputation(least) => spec.min_reputation = Some(*least),
        Change::Tolerate(taint) => spec.tolerations.push(Toleration {
            key: taint.key.clone(),
            value: taint.value.clone(),
            effect: Some(taint.effect),
            ..Toleration::default()
        }),
        Change::Region(region) => spec.regions.push(region.clone()),
        Change::NodeSelector => spec.node_selector.clear(),
        Change::Uncordon | Change::Wait(_) | Change::JoinNode => return None,
    }
    let exact = !matches!(change, Change::DeviceMemory(_) | Change::Latency(_));
    Some((Request { spec: spec.into(), ..request.clone() }, exact))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_keeps_its_promises(pool in any_pool(), requests in any_requests()) {
        pool.check_invariants().unwrap();
        let weights = Weights::default();
        let plan = plan(&pool, &requests, &weights);
        never_over_committed(&pool, &requests, &plan);
        prop_assert_eq!(plan.placements.len() + plan.refused.len(), requests.len());
        for (task, why) in &plan.refused {
            prop_assert_eq!(why.total, pool.nodes.len(), "{}: {}", task, why);
            prop_assert_eq!(why.counts.iter().map(|count| count.nodes).sum::<usize>(), why.total);
            prop_assert!(why.counts.is_sorted_by_key(|count| std::cmp::Reverse(count.nodes)));
        }
        // The oracle agrees, task by task.
        let mut places: BTreeMap<_, _> = BTreeMap::new();
        for placed in &plan.placements {
            places.insert(&placed.task, (placed.node.to_string(), placed.device.clone()));
        }
        let expected = oracle::place(&pool, &requests, weights.waiting_per_hour.0);
        for (request, expected) in requests.iter().zip(expected) {
            prop_assert_eq!(places.get(&request.task).cloned(), expected, "{}", request.task);
        }
    }

    /// The pool's index, brought from snapshot to snapshot, plans as a look at every node does; and planning again from
    /// the same snapshot gives the same plan.
    #[test]
    fn a_pool_plans_as_a_look_at_every_node(turns in vec((any_pool(), any_requests()), 1..4)) {
        let (mut pool, weights) = (Pool::default(), Weights::default());
        for (snapshot, requests) in turns {
            let expected = plan(&snapshot, &requests, &weights);
            for _ in 0..2 {
                prop_assert_eq!(&pool.plan(snapshot.clone(), &requests, &weights), &expected);
                prop_assert_eq!(pool.check_invariants(), Ok(()));
            }
        }
    }

    #[test]
    fn the_order_in_which_nodes_are_told_does_not_matter(pool in any_pool(), requests in any_requests(), turn in 0usize..12) {
        let mut nodes = pool.nodes.clone();
        nodes.reverse();
        let middle = turn.min(nodes.len());
        nodes.rotate_left(middle);
        let (weights, shuffled) = (Weights::default(), Snapshot::new(nodes, pool.now));
        let first = plan(&pool, &requests, &weights);
        prop_assert_eq!(&first, &plan(&shuffled, &requests, &weights));
        prop_assert_eq!(&first, &plan(&pool, &requests, &weights));
    }

    /// Told apart by their specs' addresses, each task is looked at afresh: the same plan as with remembered refusals.
    #[test]
    fn a_remembered_refusal_is_what_another_look_finds(pool in any_pool(), mut requests in any_requests()) {
        let remembered = plan(&pool, &requests, &Weights::default());
        requests.iter_mut().for_each(|request| request.spec = Arc::new(JobSpec::clone(&request.spec)));
        prop_assert_eq!(remembered, plan(&pool, &requests, &Weights::default()));
    }

    #[test]
    fn a_suggestion_keeps_its_word(pool in any_pool(), spec in any_spec()) {
        let request = request("j", 0, spec);
        prop_assume!(fitting(&pool, &request) == 0);
        let why = WhyNot::explain(pool.nodes.iter(), &Ask::from(&request));
        for suggestion in why.suggestions() {
            let Some((better, exact)) = changed(&request, &suggestion.change) else { continue };
            let fit = fitting(&pool, &better);
            prop_assert!(fit >= suggestion.nodes && suggestion.nodes > 0, "{} but {fit}", why.message());
            prop_assert!(!exact || fit == suggestion.nodes, "{} but {fit}", why.message());
        }
    }
}
