//! Whatever happens, in whatever order: the books agree, points are conserved, nothing settles twice, and the batches
//! alone give the same state.

mod common;

use common::*;
use nightshift_state::*;
use nightshift_types::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NODES: [&str; 3] = ["n0", "n1", "n2"];
/// The second draws on its own account.
const QUEUES: [&str; 2] = ["default", "other"];

/// A step of a random life; small numbers, so that the steps meet.
#[derive(Debug, Clone)]
enum Step {
    Admit {
        job: u8,
        tasks: u8,
        parallelism: u8,
        limit: u8,
        indexes: Option<(u8, Option<u8>)>,
        cost: Option<u8>,
        deadlines: bool,
        queue: bool,
    },
    Place {
        job: u8,
        index: u8,
        node: u8,
        quote: u8,
    },
    PlaceAll {
        node: u8,
        quote: u8,
    },
    Report {
        job: u8,
        index: u8,
        number: u8,
        node: u8,
        success: bool,
        reason: u8,
    },
    ReportRunning {
        nth: u8,
        success: bool,
        reason: u8,
    },
    Lose {
        node: u8,
    },
    LoseOne {
        nth: u8,
    },
    Refuse {
        nth: u8,
    },
    Cancel {
        job: u8,
    },
    Forget {
        job: u8,
    },
    Update {
        job: u8,
        generation: u8,
        suspend: bool,
        parallelism: u8,
        indexes: Option<u8>,
        cost: Option<u8>,
        queue: bool,
    },
    Revoke {
        node: u8,
    },
    Expire,
    Wait {
        milliseconds: u16,
    },
    Days {
        days: u8,
    },
    Budget {
        queue: bool,
        points: Option<u8>,
        period: u8,
    },
    Grant {
        id: u8,
        points: u8,
    },
    Preempt {
        nth: u8,
    },
    Lead,
    Token {
        id: u8,
        secret: u8,
        key: u8,
        create: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (j, i, n) = (0..3u8, 0..4u8, 0..3u8);
    let indexes = proptest::option::of((0..2u8, proptest::option::of(0..3u8)));
    prop_oneof![
        3 => (j.clone(), 0..4u8, 0..4u8, 0..3u8, indexes, proptest::option::of(0..20u8), any::<bool>(), any::<bool>())
            .prop_map(|(job, tasks, parallelism, limit, indexes, cost, deadlines, queue)| Step::Admit { job, tasks, parallelism, limit, indexes, cost, deadlines, queue }),
        4 => (j.clone(), i.clone(), n.clone(), 0..8u8).prop_map(|(job, index, node, quote)| Step::Place { job, index, node, quote }),
        6 => (n.clone(), 0..8u8).prop_map(|(node, quote)| Step::PlaceAll { node, quote }),
        4 => (j.clone(), i, 0..5u8, n.clone(), any::<bool>(), any::<u8>())
            .prop_map(|(job, index, number, node, success, reason)| Step::Report { job, index, number, node, success, reason }),
        8 => (any::<u8>(), prop::bool::weighted(0.7), any::<u8>()).prop_map(|(nth, success, reason)| Step::ReportRunning { nth, success, reason }),
        2 => n.clone().prop_map(|node| Step::Lose { node }),
        1 => any::<u8>().prop_map(|nth| Step::LoseOne { nth }),
        2 => any::<u8>().prop_map(|nth| Step::Refuse { nth }),
        1 => j.clone().prop_map(|job| Step::Cancel { job }),
        1 => j.clone().prop_map(|job| Step::Forget { job }),
        2 => (j, 0..6u8, any::<bool>(), 0..4u8, proptest::option::of(0..3u8), proptest::option::of(0..20u8), any::<bool>())
            .prop_map(|(job, generation, suspend, parallelism, indexes, cost, queue)| Step::Update { job, generation, suspend, parallelism, indexes, cost, queue }),
        1 => n.prop_map(|node| Step::Revoke { node }),
        2 => Just(Step::Expire),
        3 => (0..4_000u16).prop_map(|milliseconds| Step::Wait { milliseconds }),
        1 => (0..40u8).prop_map(|days| Step::Days { days }),
        2 => (any::<bool>(), proptest::option::of(0..30u8), 0..3u8).prop_map(|(queue, points, period)| Step::Budget { queue, points, period }),
        2 => (0..6u8, 0..40u8).prop_map(|(id, points)| Step::Grant { id, points }),
        1 => any::<u8>().prop_map(|nth| Step::Preempt { nth }),
        1 => Just(Step::Lead),
        1 => (0..2u8, 0..2u8, 0..2u8, any::<bool>()).prop_map(|(id, secret, key, create)| Step::Token { id, secret, key, create }),
    ]
}

fn name(job: u8) -> String {
    format!("job-{job}")
}

fn outcome(success: bool, reason: u8) -> Outcome {
    if success {
        return Outcome::Success(output("[1]"));
    }
    let reason = FailureReason::ALL[usize::from(reason) % FailureReason::ALL.len()];
    Outcome::Failure { reason, message: "m".into() }
}

fn nth_running(bench: &Bench, nth: u8) -> Option<(NodeId, AttemptId)> {
    let running: Vec<_> = bench.state().running().map(|r| (r.node.clone(), r.attempt.clone())).collect();
    (!running.is_empty()).then(|| running[usize::from(nth) % running.len()].clone())
}

fn command(bench: &Bench, step: &Step) -> Option<Command> {
    Some(match step.clone() {
        Step::Admit { job, tasks, parallelism, limit, indexes, cost, deadlines, queue } => {
            let mut spec = spec(usize::from(tasks));
            spec.queue = QUEUES[usize::from(queue)].into();
            spec.parallelism = parallelism.into();
            spec.backoff_limit = limit.into();
            spec.backoff_limit_per_index = indexes.map(|(limit, _)| limit.into());
            spec.max_failed_indexes = indexes.and_then(|(_, most)| most).map(u32::from);
            spec.max_cost = cost.map(|cost| PicoPoints(cost.into()));
            spec.min_reputation = cost.map(|cost| Reputation::new(u16::from(cost) * 50));
            spec.active_deadline = deadlines.then_some(Milliseconds(9_000));
            spec.pending_deadline = deadlines.then_some(Milliseconds(5_000));
            admit(&name(job), spec)
        }
        Step::Place { job, index, node, quote } => {
            place(&name(job), index.into(), NODES[usize::from(node)], quote.into())
        }
        Step::PlaceAll { node, quote } => {
            let all = bench
                .state()
                .waiting()
                .map(|w| placement(w.job.id.as_str(), w.index, NODES[usize::from(node)], quote.into()));
            Command::Place(all.collect())
        }
        Step::Report { job, index, number, node: on, success, reason } => Command::Report {
            node: node(NODES[usize::from(on)]),
            attempt: attempt(&name(job), index.into(), number.into()),
            outcome: outcome(success, reason),
            timings: Timings { compute_us: 7, ..Timings::default() },
        },
        Step::ReportRunning { nth, success, reason } => {
            let (node, attempt) = nth_running(bench, nth)?;
            Command::Report { node, attempt, outcome: outcome(success, reason), timings: Timings::default() }
        }
        Step::Lose { node } => lose(NODES[usize::from(node)]),
        Step::LoseOne { nth } => {
            let (node, attempt) = nth_running(bench, nth)?;
            Command::LoseAttempts { node, attempts: Some(vec![attempt]), message: "gone".into() }
        }
        Step::Refuse { nth } => {
            let (node, attempt) = nth_running(bench, nth)?;
            Command::Refuse { node, attempt, message: "full".into() }
        }
        Step::Cancel { job } => Command::CancelJob { job: common::job(&name(job)), message: "stop".into() },
        Step::Forget { job } => Command::ForgetJob { job: common::job(&name(job)) },
        Step::Update { job, generation, suspend, parallelism, indexes, cost, queue } => {
            let (generation, parallelism) = (generation.into(), parallelism.into());
            let max_failed_indexes = indexes.map(u32::from);
            let (queue, max_cost) = (QUEUES[usize::from(queue)].into(), cost.map(|c| PicoPoints(c.into())));
            let min_reputation = indexes.map(|n| Reputation::new(n as u16 * 500));
            let terms = Some(JobTerms { queue, max_cost, min_reputation, ..JobTerms::from(&spec(1)) });
            let update =
                JobUpdate { generation, suspend, parallelism, max_failed_indexes, terms, ..JobUpdate::from(&spec(1)) };
            Command::UpdateJob { job: common::job(&name(job)), update }
        }
        Step::Revoke { node: n } => Command::RevokeNode { node: node(NODES[usize::from(n)]) },
        Step::Expire => Command::ExpireDeadlines,
        Step::Token { id, secret, key, create } => {
            let id = TokenId::new(format!("t{id}")).unwrap();
            let secret_hash = [secret; 32];
            if create {
                let expires = Timestamp(1_010_000);
                Command::CreateToken { id, secret_hash, expires, owner: "ann".into(), tier: TrustTier::Public }
            } else {
                Command::SpendToken { id, secret_hash, key_hash: [key; 32], node: node(&format!("t-{key}")) }
            }
        }
        Step::Budget { queue, points, period } => {
            let period = BudgetPeriod::ALL[usize::from(period)];
            let budget = points.map(|points| Budget { points: PicoPoints(points.into()), period });
            Command::SetQueue { queue: QUEUES[usize::from(queue)].into(), budget }
        }
        Step::Grant { id, points } => Command::Grant {
            id: format!("g{id}"),
            queue: "other".into(),
            amount: PicoPoints(points.into()),
            note: String::new(),
        },
        Step::Preempt { nth } => {
            let (_, attempt) = nth_running(bench, nth)?;
            let (attempts, message) = (vec![attempt.clone(), attempt], "for another".into());
            if nth % 2 == 0 { Command::Preempt { attempts, message } } else { Command::Drain { attempts, message } }
        }
        Step::Wait { .. } | Step::Days { .. } | Step::Lead => return None,
    })
}

/// Whatever a queue reserved in this step, its budget and its account allowed.
fn within_their_means(state: &State, before: &[QueueBook; 2]) {
    for (queue, before) in QUEUES.iter().zip(before) {
        let book = state.ledger().queue(queue);
        if book.reserved <= before.reserved {
            continue;
        }
        if let Some(budget) = book.budget {
            let committed = book.spent_in(budget.period, state.time()) + book.reserved;
            assert!(committed <= budget.points, "{queue} committed {committed} of {budget:?}");
        }
        let balance = state.balance(&AccountId::Tenant((*queue).to_owned()));
        assert!(book.drawn <= balance, "{queue} draws {} of {balance}", book.drawn);
        assert!(*queue != "default" || book.drawn == PicoPoints::ZERO);
    }
}

/// Every settlement in the journal, by attempt; and that each follows its outcome.
fn settlements(bench: &Bench) -> BTreeMap<AttemptId, u32> {
    let mut count = BTreeMap::new();
    for bytes in &bench.batches {
        let events = Batch::decode(bytes).unwrap().events;
        for pair in events.windows(2) {
            if let [Event::TaskSucceeded { attempt, .. }, next] = pair {
                let Event::Transferred { entry } = next else { panic!("{attempt} is followed by {next:?}") };
                assert_eq!(entry.id, attempt.to_string());
            }
        }
        for event in events {
            if let Event::Transferred { entry: LedgerEntry { kind: EntryKind::Settlement { attempt, .. }, .. } } = event
            {
                *count.entry(attempt).or_default() += 1;
            }
        }
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_life_keeps_the_books(steps in prop::collection::vec(step(), 1..100), commit_every in 1..6usize) {
        let mut bench = Bench::new(&NODES);
        let mut acknowledged = BTreeSet::new();
        let mut waiting: Vec<Submitted> = Vec::new();
        for (count, step) in steps.iter().enumerate() {
            let before = QUEUES.map(|queue| bench.state().ledger().queue(queue));
            match step {
                Step::Wait { milliseconds } => bench.wait(u64::from(*milliseconds)),
                Step::Days { days } => bench.wait(u64::from(*days) * 86_400_000),
                // The leader dies with what it had not committed; another folds the journal.
                Step::Lead => {
                    waiting.clear();
                    let state = bench.replay();
                    bench.core = Core::lead(state, bench.head, cell(), epoch(bench.head.sequence + 2), bench.now);
                    bench.commit();
                }
                _ => if let Some(command) = command(&bench, step)
                    && let Ok(submitted) = bench.core.submit(command, bench.now) {
                        waiting.push(submitted);
                    },
            }
            bench.state().check_invariants().unwrap();
            within_their_means(bench.state(), &before);
            if count % commit_every == 0 {
                bench.commit();
                for submitted in waiting.drain(..) {
                    for effect in submitted.release(&bench.head).expect("committed") {
                        if let Effect::Succeeded { attempt } = effect {
                            prop_assert!(acknowledged.insert(attempt), "released twice");
                        }
                    }
                }
            }
        }
        bench.commit();
        let replayed = bench.replay();
        prop_assert_eq!(&replayed, bench.state());
        prop_assert_eq!(replayed.digest(), bench.state().digest());
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        let keep = |_, bytes| -> Result<(), JournalError> { chunks.push(bytes); Ok(()) };
        let manifest = bench.core.freeze().expect("all is committed").chunks(keep).unwrap();
        prop_assert_eq!(&snapshot::thaw(&manifest, chunks).unwrap(), bench.state());
        let settled = settlements(&bench);
        prop_assert!(settled.values().all(|count| *count == 1), "settled twice: {:?}", settled);
        prop_assert!(acknowledged.iter().all(|attempt| settled.contains_key(attempt)), "published, not settled");
        let ledger = bench.state().ledger();
        prop_assert_eq!(settled.len() as u64, ledger.entries() - ledger.grants());
        let balances: PicoPoints = ledger.balances().map(|(_, amount)| amount).sum();
        prop_assert_eq!(balances, PicoPoints::ZERO);
    }

    #[test]
    fn a_digest_tells_states_apart(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(&NODES);
        for step in &steps {
            let before = bench.state().clone();
            if let Some(command) = command(&bench, step) {
                let _ = bench.submit(command);
            }
            prop_assert_eq!(before == *bench.state(), before.digest() == bench.state().digest());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Batch::decode(&bytes);
        let _ = decode_event(&bytes);
        let _ = Head::default().follow(&bytes);
    }

    #[test]
    fn damaged_batches_do_not_panic(steps in prop::collection::vec(step(), 1..30), at: prop::sample::Index, bit in 0..8u8) {
        let mut bench = Bench::new(&NODES);
        steps.iter().for_each(|step| if let Some(command) = command(&bench, step) { let _ = bench.submit(command); });
        let (mut state, mut head) = (State::default(), Head::default());
        let damaged = at.index(bench.batches.len());
        for (count, batch) in bench.batches.iter().enumerate() {
            let mut bytes = batch.clone();
            if count == damaged {
                let byte = at.index(bytes.len());
                bytes[byte] ^= 1 << bit;
            }
            // Even events that fit nowhere leave a state that says so; the chain breaks at the next batch.
            let Ok((next, batch)) = head.follow(&bytes) else { break };
            batch.events.iter().for_each(|event| state.apply(batch.time, event));
            prop_assert!(count <= damaged, "a damaged batch was followed");
            head = next;
        }
        let _ = state.check_invariants();
        let _ = state.digest();
    }

    #[test]
    fn batches_round_trip(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(&NODES);
        steps.iter().for_each(|step| if let Some(command) = command(&bench, step) { let _ = bench.submit(command); });
        for bytes in &bench.batches {
            let batch = Batch::decode(bytes).unwrap();
            let again = batch.encode();
            prop_assert_eq!(again.bytes(), bytes.as_slice());
        }
    }
}
