//! Stories about the core, each step followed by `check_invariants`; and a model that plays random ones.

use super::*;
use nightshift_wire::convert::Timings;
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use proptest::prelude::*;

const MODEL: Digest = Digest([9; 32]);

fn facts() -> Facts {
    let device = Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() };
    Facts { devices: vec![device], ..Facts::default() }
}

fn around(seconds: u64) -> Surroundings {
    Surroundings { now: Duration::from_secs(seconds), ..Surroundings::default() }
}

fn epoch(journal: &str, revision: u64) -> Option<proto::Epoch> {
    Some(proto::Epoch { journal: journal.into(), revision })
}

fn down(kind: Down) -> proto::SchedulerMessage {
    proto::SchedulerMessage { kind: Some(kind) }
}

fn welcome(journal: &str, revision: u64) -> proto::SchedulerMessage {
    let welcome = proto::Welcome {
        epoch: epoch(journal, revision),
        heartbeat_interval_ms: 5000,
        lease_ms: 20_000,
        ..Default::default()
    };
    down(Down::Welcome(welcome))
}

fn assign_on(attempt: &str, memory: u64, epoch: Option<proto::Epoch>) -> proto::SchedulerMessage {
    let model = proto::Model {
        file: Some(proto::Blob { digest: MODEL.to_string(), size_bytes: 4 }),
        format: "TorchScript".into(),
        method: "forward".into(),
        ..Default::default()
    };
    down(Down::Assignment(proto::Assignment {
        attempt: attempt.into(),
        epoch,
        model: Some(model),
        input: Some(proto::Blob { digest: MODEL.to_string(), size_bytes: 4 }),
        device: "cpu0".into(),
        memory_bytes: memory << 30,
        ..Default::default()
    }))
}

fn assign(attempt: &str, memory: u64) -> proto::SchedulerMessage {
    assign_on(attempt, memory, epoch("j", 2))
}

fn ack(attempt: &str) -> proto::SchedulerMessage {
    down(Down::Ack(proto::Ack { attempt: attempt.into() }))
}

fn cancel(attempt: &str) -> proto::SchedulerMessage {
    down(Down::Cancel(proto::Cancel { attempt: attempt.into(), reason: "job deleted".into() }))
}

fn id(attempt: &str) -> AttemptId {
    attempt.parse().unwrap()
}

fn report(attempt: &str, reason: FailureReason) -> Report {
    Report {
        attempt: id(attempt),
        epoch: Epoch { journal: "j".into(), revision: 2 },
        result: Err((reason, "x".into())),
        timings: Timings::default(),
    }
}

/// A core whose every step is checked.
struct Checked(AgentCore);

impl Checked {
    fn new(limits: Limits) -> Self {
        Self(AgentCore::new(limits, facts(), None, Vec::new()))
    }
    fn connected() -> Self {
        let mut core = Self::new(Limits::default());
        core.tell(welcome("j", 2));
        core
    }
    fn tell(&mut self, message: proto::SchedulerMessage) -> Vec<Action> {
        self.at(0, message)
    }
    fn at(&mut self, seconds: u64, message: proto::SchedulerMessage) -> Vec<Action> {
        let actions = self.0.message(message, &around(seconds));
        self.0.check_invariants().unwrap();
        actions
    }
    fn finish(&mut self, attempt: &str) -> Vec<Action> {
        let actions = self.0.finished(report(attempt, FailureReason::Cancelled));
        self.0.check_invariants().unwrap();
        actions
    }
}

/// The one frame that the actions send.
fn sent(actions: &[Action]) -> Option<&Up> {
    match actions {
        [Action::Send(frame)] => frame.kind.as_ref(),
        _ => None,
    }
}

fn refusal(actions: &[Action]) -> String {
    match sent(actions) {
        Some(Up::Refusal(refusal)) => refusal.message.clone(),
        _ => panic!("no refusal: {actions:?}"),
    }
}

fn started(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Start(_)))
}

#[test]
fn an_attempt_is_stored_delivered_and_forgotten() {
    let mut core = Checked::connected();
    assert!(started(&core.tell(assign("c/j/0/1", 1))));
    assert_eq!(core.tell(assign("c/j/0/1", 1)), [], "a duplicate changes nothing");
    assert!(matches!(&core.finish("c/j/0/1")[..], [Action::Store(_)]));
    assert_eq!(core.0.stored(&id("c/j/0/1"), Duration::ZERO), [Action::Deliver(id("c/j/0/1"))]);
    assert_eq!(core.tell(assign("c/j/0/1", 1)), [Action::Deliver(id("c/j/0/1"))], "a duplicate is answered");
    assert_eq!(core.tell(ack("c/j/0/1")), [Action::Forget(id("c/j/0/1"))]);
    assert_eq!(core.tell(ack("c/j/0/1")), []);
    assert_eq!(core.tell(assign("c/j/0/1", 1)), [], "a late duplicate is not run again");
    assert_eq!(core.0.held(), 0);
}

#[test]
fn outcomes_are_resent_after_a_reconnect_and_after_the_lease() {
    let mut core = Checked::new(Limits::default());
    core.0 = AgentCore::new(
        Limits::default(),
        facts(),
        None,
        vec![(id("c/j/0/1"), report("c/j/0/1", FailureReason::Internal).epoch)],
    );
    let deliver = Action::Deliver(id("c/j/0/1"));
    assert!(core.at(0, welcome("j", 2)).contains(&deliver));
    assert!(!core.0.tick(&around(6)).contains(&deliver));
    assert!(core.0.tick(&around(30)).contains(&deliver));
    core.0.disconnected(Duration::from_secs(31), 0.5);
    assert_eq!(core.0.tick(&around(32)), []);
    assert!(core.at(33, welcome("j", 3)).contains(&deliver));
    core.0.undelivered(&id("c/j/0/1"));
    assert!(core.0.tick(&around(40)).contains(&deliver));
}

#[test]
fn after_a_good_session_another_leader_is_expected_for_a_while() {
    let mut core = Checked::connected();
    let (limits, good) = (Limits::default(), Duration::from_secs(60));
    core.0.lost_session(good);
    let mut at = good;
    while at < good + limits.hand_over {
        let delay = core.0.disconnected(at, 1.0);
        assert!(delay <= limits.expecting, "{delay:?} at {at:?}");
        at += delay;
    }
    let later: Vec<Duration> = (0..12).map(|n| core.0.disconnected(at + n * limits.backoff.most, 1.0)).collect();
    assert!(later.is_sorted() && later.last() == Some(&limits.backoff.most), "{later:?}");
    // A session that ends at once is none to hope on.
    core.tell(welcome("j", 3));
    core.0.lost_session(Duration::from_secs(1));
    assert_eq!(core.0.disconnected(at + Duration::from_secs(3600), 1.0), limits.backoff.most);
}

#[test]
fn a_stale_epoch_starts_nothing() {
    let mut core = Checked::connected();
    assert!(started(&core.tell(assign_on("c/j/0/1", 1, epoch("j", 5)))), "a newer leader is believed");
    assert!(refusal(&core.tell(assign("c/j/1/1", 1))).starts_with("stale epoch j@2"));
    assert!(refusal(&core.tell(assign_on("c/j/1/1", 1, epoch("other", 9)))).starts_with("stale epoch"));
    let actions = core.tell(welcome("j", 4));
    assert!(matches!(&actions[..], [Action::Disconnect(_)]), "{actions:?}");
}

#[test]
fn an_attempt_that_fetches_says_how_far_its_model_is() {
    let mut core = Checked::connected();
    core.tell(assign("c/j/0/1", 1));
    let download = Download { done_bytes: 340, total_bytes: 1000, seconds_left: Some(12) };
    let around = Surroundings { downloads: [(MODEL, download)].into(), ..around(10) };
    let said = |core: &mut Checked, at: u64| {
        let around = Surroundings { now: Duration::from_secs(at), ..around.clone() };
        match sent(&core.0.tick(&around)) {
            Some(Up::Heartbeat(beat)) => (beat.running[0].percent, beat.running[0].download),
            other => panic!("no heartbeat: {other:?}"),
        }
    };
    let wire = proto::Download { done_bytes: 340, total_bytes: 1000, seconds_left: Some(12) };
    assert_eq!(said(&mut core, 10), (34, Some(wire)));
    core.0.phase(&id("c/j/0/1"), Phase::Computing, Duration::from_secs(11));
    assert_eq!(said(&mut core, 20), (0, None), "what others wait for is not its matter");
}

#[test]
fn another_journal_drops_older_attempts() {
    let mut core = Checked::connected();
    core.tell(assign("c/j/0/1", 1));
    core.tell(assign("c/j/1/1", 1));
    core.finish("c/j/1/1");
    core.0.stored(&id("c/j/1/1"), Duration::ZERO);
    let actions = core.tell(welcome("restored", 1));
    assert!(actions.contains(&Action::Cancel(id("c/j/0/1"))));
    assert!(actions.contains(&Action::Forget(id("c/j/1/1"))));
    assert!(!actions.contains(&Action::Deliver(id("c/j/1/1"))));
    assert!(refusal(&core.tell(assign_on("c/j/0/1", 1, epoch("restored", 1)))).contains("still ending"));
    assert_eq!(core.finish("c/j/0/1"), [], "nobody wants its outcome");
    assert!(started(&core.tell(assign_on("c/j/0/1", 1, epoch("restored", 1)))));
}

#[test]
fn refusals_say_why() {
    let mut core = Checked::connected();
    assert!(refusal(&core.tell(assign("c/j/0/1", 5))).contains("needs 5Gi"));
    let message = core.0.message(
        assign("c/j/0/1", 2),
        &Surroundings { free: BTreeMap::from([("cpu0".to_string(), Bytes::gibi(1))]), ..around(0) },
    );
    assert!(refusal(&message).contains("in the machine"));
    core.tell(assign("c/j/7/2", 1));
    assert!(refusal(&core.tell(assign("c/j/7/1", 1))).contains("superseded"));
    assert!(core.tell(assign("c/j/7/3", 1)).contains(&Action::Cancel(id("c/j/7/2"))));
    core.0.stop(&around(0));
    assert!(refusal(&core.tell(assign("c/j/8/1", 1))).contains("Stopping"));
}

#[test]
fn a_cancelled_attempt_says_so_and_a_stopped_agent_blames_nobody() {
    let mut core = Checked::connected();
    core.tell(assign("c/j/0/1", 1));
    core.tell(assign("c/j/1/1", 1));
    assert_eq!(core.tell(cancel("c/j/0/1")), [Action::Cancel(id("c/j/0/1"))]);
    assert_eq!(core.tell(cancel("c/j/9/1")), []);
    assert_eq!(core.0.cancel_all().len(), 2);
    for (attempt, reason, words) in [
        ("c/j/0/1", FailureReason::Cancelled, "job deleted"),
        ("c/j/1/1", FailureReason::OwnerActive, "the agent was stopped"),
    ] {
        match &core.finish(attempt)[..] {
            [Action::Store(report)] => assert_eq!(report.result, Err((reason, words.to_string()))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_malformed_assignment_fails_with_the_fields_name() {
    let mut core = Checked::connected();
    let Some(Down::Assignment(mut frame)) = assign("c/j/0/1", 1).kind else { unreachable!() };
    frame.model = None;
    match &core.tell(down(Down::Assignment(frame.clone())))[..] {
        [Action::Store(report)] => assert!(report.result.as_ref().unwrap_err().1.contains("model: missing")),
        other => panic!("{other:?}"),
    }
    frame.attempt = "nonsense".into();
    assert_eq!(core.tell(down(Down::Assignment(frame))), []);
}

#[test]
fn a_ping_is_echoed_at_once_and_once() {
    let mut core = Checked::connected();
    let pong = |actions: &[Action]| match sent(actions) {
        Some(Up::Heartbeat(heartbeat)) => heartbeat.pong,
        _ => panic!("{actions:?}"),
    };
    assert_eq!(pong(&core.tell(down(Down::Ping(proto::Ping { nonce: 7 })))), 7);
    assert_eq!(pong(&core.0.tick(&around(5))), 0);
}

#[test]
fn frames_stay_under_the_limit() {
    use prost::Message;
    let held = |i: u32| {
        (format!("cell/{}/{i}/1", "j".repeat(200)).parse().unwrap(), Epoch { journal: "j".into(), revision: 2 })
    };
    let mut core = AgentCore::new(Limits::default(), facts(), None, (0..512).map(held).collect());
    let around = Surroundings { cached: vec![MODEL; 5000], ..around(0) };
    assert!(core.hello(1, &around).encoded_len() <= nightshift_wire::MAX_CONTROL_FRAME);
    assert!(core.heartbeat(&around).encoded_len() <= nightshift_wire::MAX_CONTROL_FRAME);
    assert!(core.message(welcome("j", 2), &around).len() <= Limits::default().delivery_window + 2);
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u32, u32, u64),
    Cancel(u32, u32),
    Ack(u32, u32),
    Finish(usize),
    Store(usize),
    Lose(usize),
    Reconnect(u64),
    Disconnect,
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (task, number) = (0u32..4, 1u32..3);
    prop_oneof![
        4 => (task.clone(), number.clone(), 0u64..5).prop_map(|(t, n, m)| Step::Assign(t, n, m)),
        1 => (task.clone(), number.clone()).prop_map(|(t, n)| Step::Cancel(t, n)),
        2 => (task, number).prop_map(|(t, n)| Step::Ack(t, n)),
        3 => (0usize..8).prop_map(Step::Finish),
        3 => (0usize..8).prop_map(Step::Store),
        1 => (0usize..8).prop_map(Step::Lose),
        1 => (2u64..6).prop_map(Step::Reconnect),
        1 => Just(Step::Disconnect),
        1 => (0u64..40).prop_map(Step::Tick),
    ]
}

/// What a shell and a scheduler would remember.
#[derive(Default)]
struct World {
    running: Vec<AttemptId>,
    storing: Vec<AttemptId>,
    outbox: BTreeSet<AttemptId>,
    acked: BTreeSet<AttemptId>,
    memory: BTreeMap<AttemptId, u64>,
    now: u64,
}

impl World {
    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start(work) => {
                    assert!(!self.acked.contains(&work.attempt), "started after its acknowledgement");
                    assert!(!self.running.contains(&work.attempt), "started twice");
                    self.memory.insert(work.attempt.clone(), work.demand.memory.0);
                    self.running.push(work.attempt);
                }
                Action::Store(report) => self.storing.push(report.attempt),
                Action::Deliver(attempt) => {
                    assert!(self.outbox.contains(&attempt), "delivered before it was stored");
                    assert!(!self.acked.contains(&attempt), "delivered after its acknowledgement");
                }
                Action::Forget(attempt) => assert!(self.outbox.remove(&attempt), "forgotten twice"),
                _ => {}
            }
        }
        let reserved: u64 = self.running.iter().map(|attempt| self.memory[attempt]).sum();
        assert!(reserved <= 4 << 30, "{reserved} bytes run on a device of 4Gi");
    }

    fn play(&mut self, core: &mut AgentCore, step: Step) -> Vec<Action> {
        let name = |task: u32, number: u32| format!("c/j/{task}/{number}");
        let around = around(self.now);
        match step {
            Step::Assign(task, number, memory) => core.message(assign(&name(task, number), memory.max(1)), &around),
            Step::Cancel(task, number) => core.message(cancel(&name(task, number)), &around),
            Step::Ack(task, number) => {
                let attempt = id(&name(task, number));
                if core.held.contains_key(&attempt) {
                    self.acked.insert(attempt);
                }
                core.message(ack(&name(task, number)), &around)
            }
            Step::Finish(i) if !self.running.is_empty() => {
                let attempt = self.running.swap_remove(i % self.running.len());
                core.finished(report(&attempt.to_string(), FailureReason::Internal))
            }
            Step::Store(i) if !self.storing.is_empty() => {
                let attempt = self.storing.swap_remove(i % self.storing.len());
                self.outbox.insert(attempt.clone());
                core.stored(&attempt, around.now)
            }
            Step::Lose(i) => {
                if let Some(attempt) = self.outbox.iter().nth(i) {
                    core.undelivered(attempt);
                }
                Vec::new()
            }
            Step::Reconnect(revision) => core.message(welcome("j", revision), &around),
            Step::Disconnect => {
                core.disconnected(around.now, 0.3);
                Vec::new()
            }
            Step::Tick(seconds) => {
                self.now += seconds;
                core.tick(&super::tests::around(self.now))
            }
            Step::Finish(_) | Step::Store(_) => Vec::new(),
        }
    }
}

proptest! {
    #[test]
    fn never_twice_after_ack_and_never_over_the_memory(steps in prop::collection::vec(step(), 1..120)) {
        let limits = Limits { max_attempts: 3, max_held: 5, delivery_window: 2, ..Limits::default() };
        let mut core = AgentCore::new(limits, facts(), None, Vec::new());
        let mut world = World::default();
        let actions = core.message(welcome("j", 2), &around(0));
        world.obey(actions);
        for step in steps {
            let actions = world.play(&mut core, step);
            world.obey(actions);
            if let Err(problem) = core.check_invariants() {
                return Err(TestCaseError::fail(problem));
            }
        }
    }
}

#[path = "owner_tests.rs"]
mod owner;
