//! Indexes that fail by themselves, pauses, and what deadlines count: each step ends in the invariants, each story in a
//! replay.

mod common;

use common::*;
use nightshift_state::event::job_reason;
use nightshift_state::*;
use nightshift_types::*;

fn per_index(tasks: usize, limit: u32) -> JobSpec {
    JobSpec { backoff_limit: i32::MAX as u32, backoff_limit_per_index: Some(limit), ..spec(tasks) }
}

fn known<'a>(bench: &'a Bench, name: &str) -> &'a Job {
    bench.state().job(&job(name)).unwrap()
}

fn failed(bench: &Bench, name: &str) -> Option<(String, String)> {
    match known(bench, name).result.as_ref()? {
        (JobResult::Failed { reason, message }, _) => Some((reason.clone(), message.clone())),
        (other, _) => panic!("{name} is {other:?}"),
    }
}

fn end(bench: &Bench) {
    let replayed = bench.replay();
    assert_eq!(&replayed, bench.state());
    assert_eq!(replayed.digest(), bench.state().digest());
}

fn update(name: &str, generation: i64, change: impl FnOnce(&mut JobUpdate)) -> Command {
    let mut update = JobUpdate { generation, ..JobUpdate::from(&spec(1)) };
    change(&mut update);
    Command::UpdateJob { job: job(name), update }
}

#[test]
fn an_index_fails_by_itself_and_the_job_when_the_others_are_done() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", per_index(3, 1)));
    for index in 0..3 {
        bench.ok(place("a", index, "n1", 5));
    }
    // The first failure of index 1 is retried, the second is its last; a bad input is not tried again.
    bench.ok(fail(attempt("a", 1, 1), "n1", FailureReason::WorkerCrashed));
    bench.wait(1_000);
    bench.ok(place("a", 1, "n1", 5));
    bench.ok(fail(attempt("a", 1, 2), "n1", FailureReason::WorkerCrashed));
    bench.ok(fail(attempt("a", 2, 1), "n1", FailureReason::InputInvalid));
    let job = known(&bench, "a");
    assert_eq!((job.failed, job.running, job.waiting(), &job.result), (2, 1, 0, &None));
    assert!(matches!(job.tasks[1].state, TaskState::Failed { reason: FailureReason::WorkerCrashed, .. }));
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    let (reason, message) = failed(&bench, "a").unwrap();
    assert_eq!(reason, job_reason::FAILED_INDEXES);
    assert!(message.contains("2 of 3"), "{message}");
    assert_eq!(bench.state().ledger().entries(), 1, "what succeeded is paid");
    end(&bench);
}

#[test]
fn a_bad_model_is_every_indexs_and_the_jobs_limit_still_counts() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", per_index(2, 5)));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(fail(attempt("a", 0, 1), "n1", FailureReason::ModelLoadFailed));
    assert_eq!(failed(&bench, "a").unwrap().0, "ModelLoadFailed");
    bench.ok(admit("b", JobSpec { backoff_limit: 1, ..per_index(2, 5) }));
    for index in 0..2 {
        bench.ok(place("b", index, "n1", 5));
        bench.ok(fail(attempt("b", index, 1), "n1", FailureReason::WorkerCrashed));
    }
    assert_eq!(failed(&bench, "b").unwrap().0, job_reason::BACKOFF_LIMIT_EXCEEDED);
    end(&bench);
}

#[test]
fn too_many_failed_indexes_end_the_job_and_the_limit_may_change() {
    let mut bench = Bench::new(&["n1"]);
    let spec = JobSpec { max_failed_indexes: Some(1), ..per_index(5, 0) };
    bench.ok(admit("a", spec.clone()));
    for index in 0..4 {
        bench.ok(place("a", index, "n1", 5));
    }
    bench.ok(fail(attempt("a", 0, 1), "n1", FailureReason::WorkerCrashed));
    bench.ok(update("a", 2, |update| update.max_failed_indexes = Some(2)));
    bench.ok(fail(attempt("a", 1, 1), "n1", FailureReason::WorkerCrashed));
    assert_eq!(failed(&bench, "a"), None);
    let effects = bench.ok(update("a", 3, |update| update.max_failed_indexes = Some(1)));
    assert_eq!(failed(&bench, "a").unwrap().0, job_reason::MAX_FAILED_INDEXES_EXCEEDED);
    let cancelled = effects.iter().filter(|effect| matches!(effect, Effect::Cancel { .. })).count();
    assert_eq!(cancelled, 2, "what runs is stopped: {effects:?}");
    bench.ok(admit("b", spec));
    for index in 0..3 {
        bench.ok(place("b", index, "n1", 5));
    }
    bench.ok(fail(attempt("b", 0, 1), "n1", FailureReason::WorkerCrashed));
    bench.ok(fail(attempt("b", 1, 1), "n1", FailureReason::WorkerCrashed));
    assert_eq!(failed(&bench, "b").unwrap().0, job_reason::MAX_FAILED_INDEXES_EXCEEDED);
    assert_eq!(bench.state().ledger().entries(), 0);
    end(&bench);
}

#[test]
fn indexes_that_one_lost_node_poisons_together_end_the_job() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", per_index(2, 0)));
    bench.ok(admit("b", JobSpec { max_failed_indexes: Some(1), ..per_index(3, 0) }));
    for _ in 0..3 {
        assert_eq!((failed(&bench, "a"), failed(&bench, "b")), (None, None));
        for index in 0..2 {
            bench.ok(place("a", index, "n1", 5));
            bench.ok(place("b", index, "n1", 5));
        }
        bench.ok(lose("n1"));
    }
    assert_eq!(failed(&bench, "a").unwrap().0, job_reason::FAILED_INDEXES);
    assert_eq!(failed(&bench, "b").unwrap().0, job_reason::MAX_FAILED_INDEXES_EXCEEDED);
    end(&bench);
}

#[test]
fn parallelism_changes_while_it_runs() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { parallelism: 1, ..spec(4) }));
    let all = || Command::Place((0..4).map(|index| placement("a", index, "n1", 5)).collect());
    let running = |bench: &Bench| known(bench, "a").running;
    bench.ok(all());
    assert_eq!(running(&bench), 1);
    bench.ok(update("a", 2, |update| update.parallelism = 3));
    bench.ok(all());
    assert_eq!(running(&bench), 3);
    // Less: what runs goes on, nothing starts until there is room.
    assert!(
        bench.ok(update("a", 3, |update| update.parallelism = 2)).iter().all(|e| !matches!(e, Effect::Cancel { .. }))
    );
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    bench.ok(all());
    assert_eq!(running(&bench), 2);
    bench.ok(succeed(attempt("a", 1, 1), "n1"));
    bench.ok(all());
    assert_eq!(running(&bench), 2);
    end(&bench);
}

#[test]
fn suspension_is_no_failure_and_resumption_a_new_start() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    let first = known(&bench, "a").started_at;
    bench.ok(update("a", 2, |update| update.suspend = true));
    let task = bench.state().task(&task("a", 0)).unwrap();
    assert_eq!((task.cancelled, task.failures, &task.last_failure, task.avoid.len()), (1, 0, &None, 0));
    assert_eq!(bench.state().node(&node("n1")).unwrap().failed, 0);
    assert_eq!(bench.state().ledger().queue("default").reserved, PicoPoints(0));
    bench.wait(7_000);
    bench.ok(update("a", 3, |_| ()));
    assert_eq!(known(&bench, "a").started_at, None);
    bench.ok(place("a", 0, "n1", 5));
    assert!(known(&bench, "a").started_at > first);
    bench.ok(succeed(attempt("a", 0, 2), "n1"));
    assert_eq!(known(&bench, "a").result.as_ref().unwrap().0, JobResult::Complete);
    end(&bench);
}

#[test]
fn a_pause_and_a_back_off_are_no_wait_for_a_node() {
    let mut bench = Bench::new(&["n1"]);
    let pending = Some(Milliseconds(5_000));
    bench.ok(admit("paused", JobSpec { pending_deadline: pending, parallelism: 0, ..spec(1) }));
    bench.ok(admit("backoff", JobSpec { pending_deadline: pending, ..spec(1) }));
    for number in 1..=4 {
        bench.ok(place("backoff", 0, "n1", 5));
        bench.ok(fail(attempt("backoff", 0, number), "n1", FailureReason::WorkerCrashed));
        bench.wait(decide::back_off(number));
    }
    // The last back-off alone was 8 s.
    bench.ok(Command::ExpireDeadlines);
    assert_eq!((failed(&bench, "paused"), failed(&bench, "backoff")), (None, None));
    bench.ok(update("paused", 2, |update| update.pending_deadline = pending));
    bench.wait(5_000);
    bench.ok(Command::ExpireDeadlines);
    for name in ["paused", "backoff"] {
        assert_eq!(failed(&bench, name).unwrap().0, job_reason::PENDING_DEADLINE_EXCEEDED);
    }
    end(&bench);
}

#[test]
fn terms_change_while_it_runs_and_what_is_promised_stands() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", JobSpec { max_cost: Some(PicoPoints(4)), parallelism: 2, ..spec(3) }));
    let submitted = bench.core.submit(place("a", 0, "n1", 5), bench.now).unwrap();
    assert!(matches!(submitted.declined(), [(_, Rejection::OverMaxCost { .. })]));
    let terms = |generation, change: fn(&mut JobTerms)| {
        update("a", generation, move |update| change(update.terms.as_mut().unwrap()))
    };
    bench.ok(terms(2, |terms| terms.max_cost = Some(PicoPoints(12))));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(place("a", 1, "n1", 5));
    // Lowered below what is reserved: that is kept, nothing is added, also when it is released.
    bench.ok(terms(3, |terms| terms.max_cost = Some(PicoPoints(6))));
    assert_eq!(known(&bench, "a").spec.max_cost, Some(PicoPoints(6)));
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    bench.ok(fail(attempt("a", 1, 1), "n1", FailureReason::WorkerCrashed));
    bench.wait(600_000);
    let submitted = bench.core.submit(place("a", 1, "n1", 2), bench.now).unwrap();
    assert!(matches!(submitted.declined(), [(_, Rejection::OverMaxCost { .. })]), "6 - 5 is left");
    bench.ok(place("a", 1, "n1", 1));
    let submitted = bench.core.submit(place("a", 2, "n1", 1), bench.now).unwrap();
    assert!(matches!(submitted.declined(), [(_, Rejection::OverMaxCost { .. })]));
    // Another queue: what runs is stopped, and starts again for the new one.
    let effects = bench.ok(terms(4, |terms| terms.queue = "other".into()));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { .. })));
    assert_eq!(bench.state().ledger().queue("default").reserved, PicoPoints(0));
    let amount = PicoPoints(7);
    bench.ok(Command::Grant { id: "g".into(), queue: "other".into(), amount, note: String::new() });
    bench.ok(place("a", 1, "n1", 7));
    let book = |name| bench.state().ledger().queue(name);
    assert_eq!((book("default").spent, book("other").reserved), (PicoPoints(5), PicoPoints(7)));
    assert!(bench.submit(terms(5, |terms| terms.queue = "not a/queue".into())).is_err());
    end(&bench);
}
