//! Stories of an owner who comes and goes.

use super::*;
use crate::config::Accept;
use nightshift_wire::convert::{Output, OutputPlace};

const GRACE: Duration = Duration::from_secs(2);

fn away() -> (String, String) {
    ("OwnerActive".into(), "somebody uses this machine".into())
}

fn succeeded(attempt: &str, seconds: u64) -> Report {
    let timings = Timings { compute_us: seconds * 1_000_000, ..Timings::default() };
    let output = Output { content_type: "text/plain".into(), place: OutputPlace::Inline(Vec::new()) };
    Report { result: Ok(output), timings, ..report(attempt, FailureReason::Internal) }
}

/// With one attempt that computes since second 100, of a model that took 20 seconds before.
fn computing() -> Checked {
    let mut core = Checked::connected();
    core.tell(assign("c/j/0/1", 1));
    core.0.finished(succeeded("c/j/0/1", 20));
    core.tell(assign("c/j/1/1", 1));
    core.0.phase(&id("c/j/1/1"), Phase::Computing, Duration::from_secs(100));
    core
}

fn availability(actions: &[Action]) -> Option<proto::Availability> {
    match sent(&actions[..1])? {
        Up::Heartbeat(heartbeat) => heartbeat.availability.clone(),
        _ => None,
    }
}

#[test]
fn the_owner_returns_and_the_scheduler_hears_why_before_work_is_handed_back() {
    let mut core = Checked::connected();
    core.tell(assign("c/j/0/1", 1));
    let actions = core.0.pause(away(), GRACE, &around(1));
    let told = availability(&actions).unwrap();
    assert_eq!((told.available, told.reason.as_str()), (false, "OwnerActive"));
    assert_eq!(actions[1..], [Action::Cancel(id("c/j/0/1"))]);
    let stored = core.finish("c/j/0/1");
    let [Action::Store(report)] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!(report.result, Err((FailureReason::OwnerActive, away().1)), "nobody's fault");
    assert!(refusal(&core.tell(assign("c/j/1/1", 1))).starts_with("OwnerActive: "));
    assert_eq!(core.0.tell_away(away(), &around(2)), [], "no news");
    assert!(availability(&core.0.resume(&around(3))).unwrap().available);
    assert!(started(&core.tell(assign("c/j/1/1", 1))));
}

#[test]
fn what_is_almost_done_may_end() {
    for (now, grace, spared) in [
        (118, GRACE, true),           // 18 of 20 s, 2 left
        (117, GRACE, false),          // 17 of 20
        (118, GRACE / 2, false),      // 2 s left, 1 allowed
        (118, Duration::ZERO, false), // the owner allows none
        (130, GRACE, true),           // later than expected: any moment
        (131, GRACE, false),          // so late that it must be a larger one
    ] {
        let mut core = computing();
        let actions = core.0.pause(away(), grace, &around(now));
        assert_eq!(!actions.contains(&Action::Cancel(id("c/j/1/1"))), spared, "{now} {grace:?}");
        assert_eq!(core.0.grace_ends.is_some(), spared);
    }
}

#[test]
fn when_the_grace_is_over_so_is_the_attempt() {
    let mut core = computing();
    core.0.pause(away(), GRACE, &around(119));
    let cancel = Action::Cancel(id("c/j/1/1"));
    assert!(!core.0.tick(&around(120)).contains(&cancel));
    assert!(core.0.tick(&around(121)).contains(&cancel));
    assert!(!core.0.tick(&around(122)).contains(&cancel), "once");
    // And one that ends in time is a result like any other.
    let mut core = computing();
    core.0.pause(away(), GRACE, &around(119));
    assert!(matches!(&core.0.finished(succeeded("c/j/1/1", 20))[..], [Action::Store(report)] if report.result.is_ok()));
}

#[test]
fn without_a_session_the_grace_ends_too() {
    let mut core = computing();
    core.0.pause(away(), GRACE, &around(119));
    core.0.lost_session(Duration::from_secs(120));
    assert_eq!(core.0.next_tick(), Some(Duration::from_secs(121)));
    assert_eq!(core.0.tick(&around(121)), [Action::Cancel(id("c/j/1/1"))]);
    assert_eq!(core.0.next_tick(), None);
}

#[test]
fn a_stopping_agent_does_not_become_available() {
    let mut core = Checked::connected();
    core.0.stop(&around(0));
    assert_eq!(core.0.pause(away(), GRACE, &around(1)), []);
    assert_eq!(core.0.resume(&around(2)), []);
    assert!(refusal(&core.tell(assign("c/j/0/1", 1))).starts_with("Stopping: "));
}

#[test]
fn models_that_the_owner_does_not_want_are_refused_by_name() {
    let mut core = Checked::connected();
    core.0.set_accept(Accept { deny_models: vec!["*/mine*".into()], ..Accept::default() });
    let mut message = assign("c/j/0/1", 1);
    let Some(Down::Assignment(assignment)) = &mut message.kind else { panic!() };
    assignment.model.as_mut().unwrap().name = "coins/miner".into();
    let why = refusal(&core.tell(message));
    assert_eq!(why, "NotAllowed: the owner of this machine does not run model \"coins/miner\"");
    assert!(started(&core.tell(assign("c/j/1/1", 1))));
}

#[test]
fn a_new_offer_is_told_once() {
    let mut core = Checked::connected();
    let offer = Offer { region: "attic".into(), ..Offer::default() };
    assert!(matches!(sent(&core.0.set_offer(offer.clone())), Some(Up::Offer(told)) if told.region == "attic"));
    assert_eq!(core.0.set_offer(offer), []);
}
