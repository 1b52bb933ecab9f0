//! What decisions do, told as stories: each step ends in the invariants, each story in a replay.

mod common;

use common::*;
use nightshift_state::event::job_reason;
use nightshift_state::*;
use nightshift_types::*;

fn done(bench: &Bench, name: &str) -> Option<JobResult> {
    bench.state().job(&job(name)).unwrap().result.clone().map(|(result, _)| result)
}

fn reason(bench: &Bench, name: &str) -> String {
    match done(bench, name) {
        Some(JobResult::Failed { reason, .. }) => reason,
        other => panic!("{name} is {other:?}"),
    }
}

fn owner(name: &str) -> AccountId {
    AccountId::Owner(format!("owner-{name}"))
}

/// The batches alone give the same state.
fn end(bench: &Bench) {
    let replayed = bench.replay();
    assert_eq!(&replayed, bench.state());
    assert_eq!(replayed.digest(), bench.state().digest());
}

#[test]
fn a_job_completes_and_its_quotes_are_paid() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.ok(admit("a", spec(2)));
    let effects = bench.ok(Command::Place(vec![placement("a", 0, "n1", 5), placement("a", 1, "n2", 7)]));
    assert!(matches!(&effects[0], Effect::Dispatch { attempt: first, .. } if *first == attempt("a", 0, 1)));
    assert_eq!(bench.state().ledger().queue("default").reserved, PicoPoints(12));
    assert_eq!(bench.state().running_on(&node("n1")).count(), 1);
    let effects = bench.ok(succeed(attempt("a", 0, 1), "n1"));
    assert_eq!(effects[0], Effect::Acknowledge { node: node("n1"), attempt: attempt("a", 0, 1) });
    assert_eq!(done(&bench, "a"), None);
    bench.ok(succeed(attempt("a", 1, 1), "n2"));
    assert_eq!(done(&bench, "a"), Some(JobResult::Complete));
    assert_eq!(bench.state().balance(&owner("n1")), PicoPoints(5));
    assert_eq!(bench.state().balance(&owner("n2")), PicoPoints(7));
    assert_eq!(bench.state().balance(&AccountId::Mint), PicoPoints(-12));
    let book = bench.state().ledger().queue("default");
    assert_eq!((book.spent, book.reserved), (PicoPoints(12), PicoPoints(0)));
    let last = Batch::decode(bench.batches.last().unwrap()).unwrap().events;
    assert!(
        matches!(&last[..], [Event::TaskSucceeded { .. }, Event::Transferred { .. }, Event::JobFinished { .. }]),
        "outcome, settlement and end share a batch: {last:?}"
    );
    end(&bench);
}

#[test]
fn a_repeated_or_superseded_report_settles_nothing() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.ok(admit("a", spec(2)));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(lose("n1"));
    // Without back-off, preferably elsewhere.
    let waiting: Vec<_> = bench.state().waiting().collect();
    assert_eq!(waiting[0].index, 0);
    assert!(waiting[0].not_before <= bench.now);
    assert_eq!(waiting[0].task.avoid, [node("n1")]);
    bench.ok(place("a", 0, "n2", 6));
    let batches = bench.batches.len();
    let late = bench.ok(succeed(attempt("a", 0, 1), "n1"));
    assert_eq!(late, [Effect::Acknowledge { node: node("n1"), attempt: attempt("a", 0, 1) }]);
    assert_eq!(bench.batches.len(), batches, "dropped");
    bench.ok(succeed(attempt("a", 0, 2), "n2"));
    let batches = bench.batches.len();
    for _ in 0..3 {
        assert_eq!(bench.ok(succeed(attempt("a", 0, 2), "n2")).len(), 1);
        assert_eq!(bench.ok(fail(attempt("a", 0, 2), "n2", FailureReason::WorkerCrashed)).len(), 1);
        assert_eq!(bench.ok(succeed(attempt("unknown", 0, 2), "n2")).len(), 1);
    }
    assert_eq!(bench.batches.len(), batches);
    assert_eq!(bench.state().balance(&owner("n1")), PicoPoints::ZERO);
    assert!(bench.state().settled(&attempt("a", 0, 2)) && !bench.state().settled(&attempt("a", 0, 1)));
    end(&bench);
}

#[test]
fn an_agent_speaks_for_its_own_attempts_alone() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    for command in [succeed(attempt("a", 0, 1), "n2"), fail(attempt("a", 0, 1), "n2", FailureReason::Internal)] {
        assert!(matches!(bench.submit(command), Err(Rejection::NotItsNode { .. })));
    }
    // Nor does it say what only the scheduler knows.
    bench.ok(fail(attempt("a", 0, 1), "n1", FailureReason::NodeLost));
    let known = bench.state().task(&task("a", 0)).unwrap();
    assert_eq!((known.losses, known.failures), (0, 1));
    assert_eq!(known.last_failure.as_ref().unwrap().reason, FailureReason::Internal);
    end(&bench);
}

#[test]
fn counted_failures_back_off_and_end_the_job() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { backoff_limit: 2, ..spec(2) }));
    bench.ok(place("a", 1, "n1", 5));
    for (number, wait) in [(1, 1_000), (2, 2_000)] {
        bench.ok(place("a", 0, "n1", 5));
        bench.ok(fail(attempt("a", 0, number), "n1", FailureReason::WorkerCrashed));
        let declined = bench.core.submit(place("a", 0, "n1", 5), bench.now).unwrap();
        assert!(matches!(declined.declined(), [(_, Rejection::BackOff { .. })]));
        bench.wait(wait - 1);
        assert!(bench.ok(place("a", 0, "n1", 5)).is_empty());
        bench.wait(1);
    }
    bench.ok(place("a", 0, "n1", 5));
    let effects = bench.ok(fail(attempt("a", 0, 3), "n1", FailureReason::WorkerCrashed));
    assert_eq!(reason(&bench, "a"), job_reason::BACKOFF_LIMIT_EXCEEDED);
    let cancelled = effects.iter().any(|e| matches!(e, Effect::Cancel { attempt: a, .. } if *a == attempt("a", 1, 1)));
    assert!(cancelled, "what still runs is stopped: {effects:?}");
    let Some(JobResult::Failed { message, .. }) = done(&bench, "a") else { unreachable!() };
    assert!(message.contains("WorkerCrashed: as the test says"), "{message}");
    assert!(matches!(bench.state().task(&task("a", 1)).unwrap().state, TaskState::Stopped));
    assert_eq!(bench.ok(succeed(attempt("a", 1, 1), "n1")).len(), 1, "too late: acknowledged, unpaid");
    assert_eq!(bench.state().balance(&owner("n1")), PicoPoints::ZERO);
    end(&bench);
}

#[test]
fn the_back_off_doubles_to_a_minute() {
    let waits: Vec<u64> = (1..9).map(decide::back_off).collect();
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!(decide::back_off(u32::MAX), 60_000);
}

#[test]
fn a_failure_that_no_retry_helps_fails_the_job_with_its_reason() {
    for bad in [FailureReason::InputInvalid, FailureReason::ModelLoadFailed, FailureReason::DigestMismatch] {
        let mut bench = Bench::new(&["n1"]);
        bench.ok(admit("a", spec(2)));
        bench.ok(place("a", 0, "n1", 5));
        bench.ok(fail(attempt("a", 0, 1), "n1", bad));
        assert_eq!(reason(&bench, "a"), bad.as_str());
        assert_eq!(bench.state().waiting_count(), 0);
        end(&bench);
    }
}

#[test]
fn nobodys_failures_are_not_counted_and_three_lost_nodes_are_poison() {
    let mut bench = Bench::new(&["n1", "n2", "n3"]);
    bench.ok(admit("a", JobSpec { backoff_limit: 0, ..spec(2) }));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(fail(attempt("a", 0, 1), "n1", FailureReason::OwnerActive));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(Command::Refuse { node: node("n1"), attempt: attempt("a", 0, 2), message: "0 bytes free".into() });
    bench.ok(place("a", 1, "n3", 5));
    for (on, number) in [("n1", 3), ("n2", 4), ("n3", 5)] {
        assert_eq!(done(&bench, "a"), None);
        bench.ok(place("a", 0, on, 5));
        assert_eq!(bench.state().task(&task("a", 0)).unwrap().attempts, number);
        bench.ok(lose(on));
    }
    assert_eq!(reason(&bench, "a"), job_reason::POISON_TASK);
    assert_eq!(bench.state().running().count(), 0);
    end(&bench);
}

#[test]
fn a_gang_is_committed_whole_or_not_at_all() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { min_parallelism: 3, ..spec(4) }));
    let plan = vec![placement("a", 0, "n1", 1), placement("a", 1, "n1", 1), placement("a", 2, "n9", 1)];
    let submitted = bench.core.submit(Command::Place(plan), bench.now).unwrap();
    let declined: Vec<_> = submitted.declined().iter().map(|(_, rejection)| rejection.clone()).collect();
    use Rejection::*;
    let incomplete = |r: &Rejection| matches!(r, GangIncomplete { together: 2, need: 3, .. });
    assert!(matches!(declined[0], UnknownNode(_)) && declined[1..].iter().all(incomplete), "{declined:?}");
    assert_eq!((declined.len(), bench.state().running().count()), (3, 0));
    let plan = (0..3).map(|index| placement("a", index, "n1", 1)).collect();
    bench.ok(Command::Place(plan));
    assert_eq!(bench.state().running().count(), 3);
    // Beyond the gang each is by itself; of the last ones all that are left go together.
    for index in 0..3 {
        bench.ok(succeed(attempt("a", index, 1), "n1"));
    }
    bench.ok(Command::Place(vec![placement("a", 3, "n1", 1)]));
    assert_eq!(bench.state().running().count(), 1);
    end(&bench);
}

#[test]
fn limits_hold_within_one_plan() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { parallelism: 2, max_cost: Some(PicoPoints(10)), ..spec(4) }));
    let plan = vec![
        placement("a", 0, "n1", 6),
        placement("a", 0, "n1", 1),
        placement("a", 1, "n1", 5),
        placement("a", 1, "n1", 4),
        placement("a", 2, "n1", 0),
        placement("a", 9, "n1", 0),
        placement("b", 0, "n1", 0),
        placement("a", 3, "n9", 0),
    ];
    let submitted = bench.core.submit(Command::Place(plan), bench.now).unwrap();
    let declined: Vec<_> = submitted.declined().iter().map(|(_, rejection)| rejection.clone()).collect();
    use Rejection::*;
    assert!(
        matches!(
            &declined[..],
            [NotWaiting(_), OverMaxCost { .. }, OverParallelism { .. }, UnknownTask(_), UnknownJob(_), UnknownNode(_)]
        ),
        "{declined:?}"
    );
    bench.commit();
    assert_eq!(bench.state().job(&job("a")).unwrap().reserved, PicoPoints(10));
    let submitted = bench.core.submit(place("a", 2, "n1", -1), bench.now).unwrap();
    assert!(matches!(submitted.declined()[0].1, Invalid { field: "quote", .. }));
    end(&bench);
}

#[test]
fn suspending_stops_what_runs_uncounted() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { active_deadline: Some(Milliseconds(5_000)), ..spec(2) }));
    bench.ok(place("a", 0, "n1", 5));
    let update = |generation, suspend| Command::UpdateJob {
        job: job("a"),
        update: JobUpdate { generation, suspend, ..JobUpdate::from(&spec(2)) },
    };
    let effects = bench.ok(update(2, true));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { .. })));
    assert!(bench.ok(update(2, true)).is_empty(), "again: nothing");
    let submitted = bench.core.submit(place("a", 0, "n1", 5), bench.now).unwrap();
    assert!(matches!(submitted.declined(), [(_, Rejection::Suspended(_))]));
    bench.wait(10_000);
    bench.ok(Command::ExpireDeadlines);
    assert_eq!(done(&bench, "a"), None, "a suspended job's clock stands");
    assert!(matches!(bench.submit(update(1, false)), Err(Rejection::StaleGeneration { .. })));
    bench.ok(update(3, false));
    assert_eq!(bench.ok(succeed(attempt("a", 0, 1), "n1")).len(), 1);
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(succeed(attempt("a", 0, 2), "n1"));
    assert_eq!(bench.state().job(&job("a")).unwrap().failures, 0);
    end(&bench);
}

#[test]
fn deadlines_fail_jobs() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("active", JobSpec { active_deadline: Some(Milliseconds(5_000)), ..spec(1) }));
    bench.ok(admit("pending", JobSpec { pending_deadline: Some(Milliseconds(5_000)), ..spec(1) }));
    bench.wait(4_000);
    bench.ok(place("active", 0, "n1", 5));
    bench.wait(1_000);
    bench.ok(Command::ExpireDeadlines);
    assert_eq!(reason(&bench, "pending"), job_reason::PENDING_DEADLINE_EXCEEDED);
    assert_eq!(done(&bench, "active"), None);
    bench.wait(4_000);
    let effects = bench.ok(Command::ExpireDeadlines);
    assert_eq!(reason(&bench, "active"), job_reason::DEADLINE_EXCEEDED);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { .. })));
    end(&bench);
}

#[test]
fn a_job_is_admitted_once_and_never_again_after_it_was_forgotten() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("empty", spec(0)));
    assert_eq!(done(&bench, "empty"), Some(JobResult::Complete));
    bench.ok(admit("a", spec(1)));
    assert!(bench.ok(admit("a", spec(1))).is_empty());
    let other = JobSpec { generation: 2, ..spec(3) };
    assert!(matches!(bench.submit(admit("a", other)), Err(Rejection::AlreadyAdmitted(_))));
    bench.ok(place("a", 0, "n1", 5));
    let effects = bench.ok(Command::ForgetJob { job: job("a") });
    assert!(matches!(&effects[..], [Effect::Cancel { .. }, Effect::JobChanged { .. }]));
    assert!(bench.state().job(&job("a")).is_none());
    assert!(matches!(bench.submit(admit("a", spec(1))), Err(Rejection::Forgotten(_))));
    assert_eq!(bench.ok(succeed(attempt("a", 0, 1), "n1")).len(), 1);
    assert!(bench.ok(Command::ForgetJob { job: job("a") }).is_empty());
    bench.ok(admit("b", spec(1)));
    bench.ok(Command::CancelJob { job: job("b"), message: "by hand".into() });
    assert_eq!(done(&bench, "b"), Some(JobResult::Cancelled { message: "by hand".into() }));
    end(&bench);
}

#[test]
fn a_token_makes_one_node() {
    let mut bench = Bench::new(&[]);
    let id = TokenId::new("t1").unwrap();
    let expires = bench.now.after(Milliseconds(1_000));
    let (owner, tier) = ("ann".to_owned(), TrustTier::Vetted);
    bench.ok(Command::CreateToken { id: id.clone(), secret_hash: [3; 32], expires, owner, tier });
    let spend = |secret: u8, key: u8, name: &str| Command::SpendToken {
        id: id.clone(),
        secret_hash: [secret; 32],
        key_hash: [key; 32],
        node: node(name),
    };
    assert!(matches!(bench.submit(spend(4, 1, "n1")), Err(Rejection::BadToken)));
    let joined = [Effect::Joined { token: id.clone(), node: node("n1") }];
    assert_eq!(bench.ok(spend(3, 1, "n1")), joined);
    bench.wait(5_000);
    assert_eq!(bench.ok(spend(3, 1, "n2")), joined, "the same key gets the same node, however late");
    assert!(matches!(bench.submit(spend(3, 2, "n2")), Err(Rejection::TokenSpent)));
    assert_eq!(bench.state().node(&node("n1")).unwrap().owner, "ann");
    bench.ok(Command::RevokeNode { node: node("n1") });
    assert!(matches!(bench.submit(spend(3, 1, "n1")), Err(Rejection::NodeRevoked(_))));
    bench.wait(25 * 3600 * 1000);
    bench.ok(Command::ExpireDeadlines);
    assert!(bench.state().tokens().is_empty());
    end(&bench);
}

#[test]
fn a_revoked_node_loses_its_work_and_gets_no_more() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    let effects = bench.ok(Command::RevokeNode { node: node("n1") });
    assert!(effects.contains(&Effect::Revoked { node: node("n1") }));
    let submitted = bench.core.submit(place("a", 0, "n1", 5), bench.now).unwrap();
    assert!(matches!(submitted.declined(), [(_, Rejection::NodeRevoked(_))]));
    bench.ok(place("a", 0, "n2", 5));
    end(&bench);
}

#[test]
fn outputs_and_messages_are_bounded() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    let outcome = Outcome::Success(output(&"x".repeat(event::MAX_INLINE_OUTPUT + 1)));
    let (node, timings) = (node("n1"), Timings::default());
    let attempt = attempt("a", 0, 1);
    let report = Command::Report { node: node.clone(), attempt: attempt.clone(), outcome, timings };
    assert!(matches!(bench.submit(report), Err(Rejection::Invalid { field: "output", .. })));
    let outcome = Outcome::Failure { reason: FailureReason::Internal, message: "é".repeat(2_000) };
    bench.ok(Command::Report { node, attempt, outcome, timings });
    let failure = bench.state().task(&task("a", 0)).unwrap().last_failure.clone().unwrap();
    assert!(failure.message.len() <= event::MAX_MESSAGE && failure.message.ends_with("é…"));
    let error = bench.submit(admit("huge", spec(40_000))).unwrap_err().to_string();
    assert!(error.contains("split the job"), "{error}");
    end(&bench);
}

#[test]
fn a_large_decision_is_split_between_outcomes() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { parallelism: 4_000, ..spec(4_000) }));
    bench.ok(Command::Place((0..4_000).map(|index| placement("a", index, "n1", 5)).collect()));
    let before = bench.batches.len();
    bench.ok(Command::LoseAttempts { node: node("n1"), attempts: None, message: "m".repeat(2_000) });
    assert!(bench.batches.len() - before >= 4, "{} batches", bench.batches.len() - before);
    assert_eq!(bench.state().waiting_count(), 4_000);
    // A stalled journal: successes pile up, and are parted between tasks alone.
    bench.ok(Command::Place((0..4_000).map(|index| placement("a", index, "n1", 5)).collect()));
    let mut answers = Vec::new();
    for index in 0..4_000 {
        let mut output = output(&"o".repeat(4_000));
        output.content_type = "text/plain".into();
        let (node, attempt) = (node("n1"), attempt("a", index, 2));
        let report = Command::Report { node, attempt, outcome: Outcome::Success(output), timings: Timings::default() };
        answers.push(bench.core.submit(report, bench.now).unwrap());
    }
    assert!(bench.core.backlog() > 15 << 20);
    bench.commit();
    assert_eq!(bench.core.backlog(), 0);
    for bytes in &bench.batches {
        let events = Batch::decode(bytes).unwrap().events;
        assert!(!matches!(events.last(), Some(Event::TaskSucceeded { .. })), "an outcome without its settlement");
        assert!(!matches!(events.first(), Some(Event::Transferred { .. })));
    }
    assert!(answers.into_iter().all(|answer| answer.release(&bench.head).is_ok()));
    assert_eq!(done(&bench, "a"), Some(JobResult::Complete));
    end(&bench);
}

#[test]
fn an_open_batch_does_not_stop_the_clock() {
    let mut bench = Bench::new(&["n1"]);
    for name in ["a", "b", "c"] {
        let _ = bench.core.submit(admit(name, spec(1)), bench.now).unwrap();
        bench.wait(600);
    }
    let times: Vec<u64> = bench.state().jobs().map(|job| job.admitted_at.0).collect();
    assert_eq!(times, [1_000_000, 1_000_000, 1_001_200]);
    bench.commit();
    end(&bench);
}

#[test]
fn proving_runs_are_remembered() {
    let mut bench = Bench::new(&[]);
    let (digest, reference) = (Digest([5; 32]), Milliseconds(40));
    bench.ok(Command::ProveModel { digest, reference });
    let batches = bench.batches.len();
    bench.ok(Command::ProveModel { digest, reference });
    assert_eq!(bench.batches.len(), batches);
    assert_eq!(bench.state().proved(&digest), Some(reference));
    end(&bench);
}

#[test]
fn a_nodes_reputation_is_of_what_was_its_own_doing() {
    let mut bench = Bench::new(&["n1", "n2"]);
    let name = |bench: &Bench, on: &str| bench.state().node(&node(on)).unwrap().reputation().permille();
    bench.ok(admit("a", JobSpec { backoff_limit: 100, ..spec(40) }));
    assert_eq!((name(&bench, "n1"), name(&bench, "n2")), (500, 500));
    for index in 0..10 {
        bench.ok(place("a", index, "n1", 1));
        bench.ok(succeed(attempt("a", index, 1), "n1"));
    }
    assert_eq!((name(&bench, "n1"), name(&bench, "n2")), (914, 500));
    // What it did not do: its owner came back, its book was out of date, we stopped it; a job's own input is bad.
    bench.ok(Command::Place((10..13).map(|index| placement("a", index, "n1", 1)).collect()));
    bench.ok(fail(attempt("a", 10, 1), "n1", FailureReason::OwnerActive));
    let (node_1, message) = (node("n1"), String::new());
    bench.ok(Command::Refuse { node: node_1, attempt: attempt("a", 11, 1), message: message.clone() });
    bench.ok(Command::Preempt { attempts: vec![attempt("a", 12, 1)], message });
    bench.ok(admit("bad", spec(1)));
    bench.ok(place("bad", 0, "n1", 1));
    bench.ok(fail(attempt("bad", 0, 1), "n1", FailureReason::InputInvalid));
    assert_eq!(bench.state().node(&node("n1")).unwrap().failed, 3);
    assert_eq!(name(&bench, "n1"), 914);
    // What it did, its silence among it: each lowers it.
    let mut before = 914;
    for (index, reason) in (20..).zip(FailureReason::ALL.iter().filter(|reason| reason.fault() == Fault::Node)) {
        bench.ok(place("a", index, "n1", 1));
        let lost = *reason == FailureReason::NodeLost;
        bench.ok(if lost { lose("n1") } else { fail(attempt("a", index, 1), "n1", *reason) });
        assert!(name(&bench, "n1") < before, "{reason}");
        before = name(&bench, "n1");
    }
    assert_eq!((before, name(&bench, "n2")), (597, 500));
    end(&bench);
}

#[test]
fn an_owners_own_work_earns_no_reputation_and_costs_none() {
    let mut bench = Bench::new(&["n1"]);
    let name = |bench: &Bench| bench.state().node(&node("n1")).unwrap().reputation().permille();
    let amount = PicoPoints(100);
    bench.ok(Command::Grant { id: "g".into(), queue: "owner-n1".into(), amount, note: String::new() });
    bench.ok(admit("own", JobSpec { queue: "owner-n1".into(), ..spec(3) }));
    bench.ok(place("own", 0, "n1", 1));
    bench.ok(succeed(attempt("own", 0, 1), "n1"));
    bench.ok(place("own", 1, "n1", 1));
    bench.ok(fail(attempt("own", 1, 1), "n1", FailureReason::WorkerCrashed));
    let known = bench.state().node(&node("n1")).unwrap();
    assert_eq!((known.succeeded, known.failed, known.reputation()), (1, 1, Reputation::default()));
    bench.ok(admit("other", spec(1)));
    bench.ok(place("other", 0, "n1", 1));
    bench.ok(succeed(attempt("other", 0, 1), "n1"));
    assert_eq!(name(&bench), 666);
    end(&bench);
}
