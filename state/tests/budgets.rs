//! Who pays, and what is left: grants, budgets and usage, told as stories; each step ends in the invariants.

mod common;

use common::*;
use nightshift_state::*;
use nightshift_types::*;

const DAY: u64 = 86_400_000;

fn other(inputs: usize) -> JobSpec {
    JobSpec { queue: "research".into(), ..spec(inputs) }
}

fn grant(id: &str, amount: i128) -> Command {
    Command::Grant { id: id.into(), queue: "research".into(), amount: PicoPoints(amount), note: "for tests".into() }
}

fn budget(queue: &str, points: i128, period: BudgetPeriod) -> Command {
    let budget = Some(Budget { points: PicoPoints(points), period });
    Command::SetQueue { queue: queue.into(), budget }
}

/// Places one task and says why not.
fn try_place(bench: &mut Bench, name: &str, index: u32, quote: i128) -> Option<Rejection> {
    let submitted = bench.core.submit(place(name, index, "n1", quote), bench.now).unwrap();
    let declined = submitted.declined().first().map(|(_, rejection)| rejection.clone());
    bench.core.state().check_invariants().unwrap();
    bench.commit();
    declined
}

fn balance(bench: &Bench) -> PicoPoints {
    bench.state().balance(&AccountId::Tenant("research".into()))
}

/// The batches alone give the same state.
fn end(bench: &Bench) {
    let replayed = bench.replay();
    assert_eq!(&replayed, bench.state());
    assert_eq!(replayed.digest(), bench.state().digest());
}

#[test]
fn a_queue_spends_what_it_was_granted_and_no_more() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", other(3)));
    let broke = try_place(&mut bench, "a", 0, 5).unwrap();
    assert_eq!(
        broke,
        Rejection::BudgetExhausted { queue: "research".into(), left: PicoPoints(0), quote: PicoPoints(5) }
    );
    assert!(broke.to_string().contains("nightshift points grant research AMOUNT"), "{broke}");
    assert_eq!(try_place(&mut bench, "a", 0, 0), None, "what is free needs no points");
    bench.ok(succeed(attempt("a", 0, 1), "n1"));

    bench.ok(grant("g1", 12));
    bench.ok(grant("g1", 12));
    let other = bench.submit(grant("g1", 13)).unwrap_err().to_string();
    assert!(other.contains("grant g1 brought queue research"), "{other}");
    assert_eq!(
        (balance(&bench), bench.state().spendable("research", bench.now)),
        (PicoPoints(12), Some(PicoPoints(12)))
    );
    let plan = vec![placement("a", 1, "n1", 7), placement("a", 2, "n1", 7)];
    let submitted = bench.core.submit(Command::Place(plan), bench.now).unwrap();
    assert_eq!(submitted.declined().len(), 1, "the second is too much beside the first of the same plan");
    bench.commit();
    assert_eq!(bench.state().spendable("research", bench.now), Some(PicoPoints(5)));
    bench.ok(succeed(attempt("a", 1, 1), "n1"));
    assert_eq!(balance(&bench), PicoPoints(5));
    assert_eq!(bench.state().balance(&AccountId::Mint), PicoPoints(-12));
    assert_eq!(bench.state().balance(&AccountId::Owner("owner-n1".into())), PicoPoints(7));
    // A failed attempt gives back what it held.
    assert_eq!(try_place(&mut bench, "a", 2, 5), None);
    assert_eq!(bench.state().spendable("research", bench.now), Some(PicoPoints(0)));
    bench.ok(lose("n1"));
    assert_eq!(bench.state().spendable("research", bench.now), Some(PicoPoints(5)));
    end(&bench);
}

#[test]
fn a_budget_begins_anew_with_its_period() {
    let mut bench = Bench::new(&["n1"]);
    assert_eq!(bench.state().spendable("default", bench.now), None, "the queue default draws on the mint");
    bench.ok(admit("a", spec(6)));
    bench.ok(budget("default", 10, BudgetPeriod::Day));
    assert_eq!(try_place(&mut bench, "a", 0, 6), None);
    assert!(matches!(try_place(&mut bench, "a", 1, 5), Some(Rejection::BudgetExhausted { left: PicoPoints(4), .. })));
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    assert_eq!(bench.state().spendable("default", bench.now), Some(PicoPoints(4)), "settled counts as reserved did");
    assert_eq!(try_place(&mut bench, "a", 1, 4), None);

    bench.wait(DAY);
    assert_eq!(
        bench.state().spendable("default", bench.now),
        Some(PicoPoints(6)),
        "what runs on counts in the new day"
    );
    bench.ok(succeed(attempt("a", 1, 1), "n1"));
    assert_eq!(bench.state().spendable("default", bench.now), Some(PicoPoints(6)));
    // Another period: what was spent in it so far counts.
    bench.ok(budget("default", 20, BudgetPeriod::Month));
    assert_eq!(bench.state().spendable("default", bench.now), Some(PicoPoints(10)));
    bench.ok(budget("default", 3, BudgetPeriod::Month));
    assert_eq!(bench.state().spendable("default", bench.now), Some(PicoPoints(0)), "less than was spent is nothing");
    bench.ok(Command::SetQueue { queue: "default".into(), budget: None });
    assert_eq!(bench.state().spendable("default", bench.now), None);
    end(&bench);
}

#[test]
fn the_lesser_of_budget_and_balance_counts() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(grant("g", 100));
    bench.ok(budget("research", 8, BudgetPeriod::Week));
    assert_eq!(bench.state().spendable("research", bench.now), Some(PicoPoints(8)));
    bench.ok(budget("research", 800, BudgetPeriod::Week));
    assert_eq!(bench.state().spendable("research", bench.now), Some(PicoPoints(100)));
    let again = bench.head;
    bench.ok(budget("research", 800, BudgetPeriod::Week));
    assert_eq!(bench.head, again, "the same again is nothing new");
    end(&bench);
}

#[test]
fn what_cannot_be_granted_is_said() {
    let mut bench = Bench::new(&[]);
    let mut refused = |id: &str, queue: &str, amount: i128| {
        let (id, queue, amount) = (id.into(), queue.into(), PicoPoints(amount));
        bench.submit(Command::Grant { id, queue, amount, note: String::new() }).unwrap_err().to_string()
    };
    assert!(refused("g", "default", 1).contains("draws on the mint"));
    assert!(refused("g", "research", 0).contains("more than 0"));
    assert!(refused("g", "research", -1).contains("must be 0 to"));
    assert!(refused("", "research", 1).contains("id: must not be empty"));
    assert!(refused("g", "no queue", 1).contains("queue"));
}

#[test]
fn usage_is_charged_at_placement_and_what_did_not_run_is_given_back() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(2)));
    let reference = spec(1).reference.0;
    assert_eq!(try_place(&mut bench, "a", 0, 1), None);
    assert_eq!(bench.state().usage("default", bench.now), reference);
    bench.wait(500);
    bench.ok(lose("n1"));
    assert_eq!(bench.state().usage("default", bench.now), 500, "it ran so long");
    assert_eq!(try_place(&mut bench, "a", 1, 1), None);
    bench.ok(succeed(attempt("a", 1, 1), "n1"));
    assert_eq!(bench.state().usage("default", bench.now), 500 + reference);
    let later = bench.now.after(queue::USAGE_HALF_LIFE);
    let left = bench.state().usage("default", later);
    assert!(left > 0 && left < 500 + reference, "{left}");
    assert_eq!(bench.state().usage("nobody", bench.now), 0);
    end(&bench);
}

#[test]
fn a_preempted_task_waits_again_uncounted() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    let running = attempt("a", 0, 1);
    let effects = bench.ok(Command::Preempt { attempts: vec![running.clone()], message: "for job b".into() });
    assert!(matches!(&effects[0], Effect::Cancel { attempt, .. } if *attempt == running));
    let job = bench.state().job(&job("a")).unwrap();
    assert_eq!((job.running, job.failures, job.reserved), (0, 0, PicoPoints(0)));
    assert!(job.tasks[0].avoid.is_empty() && job.tasks[0].failures == 0);
    assert_eq!(bench.state().node(&node("n1")).unwrap().failed, 0);
    assert_eq!(bench.ok(Command::Preempt { attempts: vec![running.clone()], message: String::new() }), []);
    // Its agent may say so itself only as of something else.
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(fail(attempt("a", 0, 2), "n1", FailureReason::Preempted));
    let failure = bench.state().task(&task("a", 0)).unwrap().last_failure.clone().unwrap();
    assert_eq!(failure.reason, FailureReason::Internal);
    end(&bench);
}

#[test]
fn what_is_drained_waits_again_and_was_not_preempted() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(1)));
    for number in 1..=2 {
        bench.ok(place("a", 0, "n1", 5));
        let (attempts, message) = (vec![attempt("a", 0, number)], "its queue was stopped".to_string());
        let drained = number == 1;
        let command =
            if drained { Command::Drain { attempts, message } } else { Command::Preempt { attempts, message } };
        let effects = bench.ok(command);
        assert!(
            matches!(&effects[0], Effect::Cancel { reason, .. } if (*reason == FailureReason::Cancelled) == drained)
        );
        let task = bench.state().task(&task("a", 0)).unwrap();
        assert!(matches!(task.state, TaskState::Waiting { .. }) && task.failures == 0 && task.avoid.is_empty());
        assert_eq!((task.cancelled, task.preempted), (number, number - 1));
    }
    end(&bench);
}

#[test]
fn grants_are_remembered_by_queue() {
    let mut bench = Bench::new(&[]);
    let grant = |queue: usize, month: usize| Command::Grant {
        id: format!("2026-{month}"),
        queue: format!("q{queue}"),
        amount: PicoPoints(7),
        note: String::new(),
    };
    // A month's script over more queues than any one list would hold, and all of it again.
    for queue in (0..1_100).chain(0..1_100) {
        bench.ok(grant(queue, 1));
    }
    assert_eq!((bench.state().ledger().grants(), bench.state().ledger().entries()), (1_100, 1_100));
    // Of one queue its newest are known.
    for month in 2..=ledger::MAX_GRANTS + 1 {
        bench.ok(grant(0, month));
    }
    let known = |month: usize| bench.state().ledger().granted("q0", &format!("2026-{month}"));
    assert_eq!((known(1), known(2)), (None, Some(PicoPoints(7))));
    assert_eq!(bench.state().ledger().granted("q1", "2026-1"), Some(PicoPoints(7)));
    end(&bench);
}

#[test]
fn statements_have_every_entry_and_the_job_it_is_of() {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(grant("g", 100));
    bench.ok(admit("a", other(1)));
    bench.ok(place("a", 0, "n1", 30));
    bench.wait(1_000);
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    bench.ok(Command::ForgetJob { job: job("a") });
    let account = AccountId::Tenant("research".into());
    let lines: Vec<(u64, PicoPoints, &str)> = bench
        .state()
        .ledger()
        .recent()
        .map(|posted| (posted.at.0, posted.entry.change(&account), posted.job.as_str()))
        .collect();
    assert_eq!(lines, [(1_000_000, PicoPoints(100), ""), (1_001_000, PicoPoints(-30), "default/test")]);
    end(&bench);
}

#[test]
fn what_a_model_may_share_is_kept_and_needs_no_newer_format() {
    let mut bench = Bench::new(&["n1"]);
    let mut shared = spec(1);
    shared.model.batching = Batching { max: 16, max_delay_ms: 5 };
    shared.per_item = Bytes::mebi(4);
    bench.ok(admit("shared", shared.clone()));
    assert!(bench.batches.iter().all(|batch| batch[..2] == [0x08, 1]));
    let kept = bench.batches.last().unwrap();
    let events = nightshift_state::Batch::decode(kept).unwrap().events;
    let Some(Event::JobAdmitted { spec, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(**spec, shared);
    assert_eq!(spec.shared_memory(), Bytes::mebi(60));
}

#[test]
fn a_batch_says_the_format_that_it_needs() {
    // Field 1 of a batch, a varint: its format.
    let format = |bench: &Bench| bench.batches.last().unwrap()[..2].to_vec();
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(1)));
    bench.ok(place("a", 0, "n1", 5));
    bench.ok(succeed(attempt("a", 0, 1), "n1"));
    assert!(bench.batches.iter().all(|batch| batch[..2] == [0x08, 1]), "what format 1 has is written in format 1");
    bench.ok(grant("g", 100));
    assert_eq!(format(&bench), [0x08, 2]);
    bench.ok(admit("b", other(1)));
    assert_eq!(format(&bench), [0x08, 1]);
    bench.ok(place("b", 0, "n1", 5));
    assert_eq!(format(&bench), [0x08, 2]);
    bench.ok(budget("default", 3, BudgetPeriod::Month));
    assert_eq!(format(&bench), [0x08, 2]);
    // What costs nothing needs no points, and nothing new.
    bench.ok(admit("free", other(1)));
    bench.ok(place("free", 0, "n1", 0));
    assert_eq!(format(&bench), [0x08, 1]);
    bench.ok(succeed(attempt("free", 0, 1), "n1"));
    assert_eq!(format(&bench), [0x08, 1]);
    // Terms that an earlier version would drop, and an end that it would not know.
    let least = Some(Reputation::new(700));
    let newer = [
        JobSpec { priority: 100, ..spec(1) },
        JobSpec { min_parallelism: 1, ..spec(1) },
        JobSpec { min_reputation: least, ..spec(1) },
    ];
    for (number, newer) in newer.into_iter().enumerate() {
        let terms = Some(JobTerms::from(&newer));
        bench.ok(admit(&format!("new-{number}"), newer));
        assert_eq!(format(&bench), [0x08, 2]);
        bench.ok(admit(&format!("old-{number}"), spec(1)));
        assert_eq!(format(&bench), [0x08, 1]);
        let update = JobUpdate { generation: 2, parallelism: 3, terms, ..JobUpdate::from(&spec(1)) };
        bench.ok(Command::UpdateJob { job: job(&format!("old-{number}")), update });
        assert_eq!(format(&bench), [0x08, 2]);
    }
    bench.ok(admit("c", spec(1)));
    for number in 1..=2 {
        bench.ok(place("c", 0, "n1", 0));
        let (attempts, message) = (vec![attempt("c", 0, number)], String::new());
        let preempt = number == 2;
        bench.ok(if preempt { Command::Preempt { attempts, message } } else { Command::Drain { attempts, message } });
        assert_eq!(format(&bench), [0x08, number as u8]);
    }
}
