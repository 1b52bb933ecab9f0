//! Who goes first, who makes way and who waits: priorities, quotas and stop policies; agents are simulated.

mod common;

use common::{Plane, reason};
use kube::api::{Api, Patch, PatchParams};
use nightshift_crds::{InferenceJobStatus, TenantQueue};
use nightshift_testkit::agent::{SimulatedAgent, SimulatedSession};
use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// A session of a machine that takes so many tasks at once.
async fn open(agent: &SimulatedAgent, slots: u32) -> SimulatedSession {
    let mut hello = agent.hello(1, 64 * GIB);
    hello.devices[0].attributes.insert("slots".into(), slots.to_string());
    let session = agent.open(hello).await.unwrap();
    session.keep_alive();
    session
}

async fn change_queue(plane: &Plane, name: &str, spec: Value) {
    let queues: Api<TenantQueue> = Api::all(plane.client.clone());
    queues.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
}

fn says<'a>(status: &'a InferenceJobStatus, word: &str) -> Option<&'a str> {
    let found = reason(status, "Admitted") == Some(("False", word));
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Admitted")?;
    found.then_some(condition.message.as_str())
}

/// The next order to stop an attempt; its heartbeats name none, so assignments come again meanwhile.
async fn cancelled(session: &mut SimulatedSession) -> proto::Cancel {
    loop {
        if let Down::Cancel(cancel) = session.next().await.unwrap() {
            return cancel;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_low_priority_makes_way_and_runs_later() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    // Minutes on this machine: worth displacing, once it has run for its least time.
    plane.apply_model_of("m", 20_000).await;
    let agent = plane.join("a").await;
    let mut session = open(&agent, 1).await;
    plane.apply_job("low", &["[1]"], json!({ "priorityClassName": "nightshift-low" })).await;
    let low = session.assignment().await.unwrap();
    plane.apply_job("same", &["[1]"], json!({ "priorityClassName": "nightshift-low" })).await;
    plane.apply_job("high", &["[1]"], json!({ "priorityClassName": "nightshift-high" })).await;
    let cancel = cancelled(&mut session).await;
    assert_eq!(cancel.attempt, low.attempt);
    assert!(cancel.reason.contains("makes way for"), "{}", cancel.reason);
    let high = session.assignment().await.unwrap();
    session.succeed(&high.attempt, "\"high\"").await;
    plane.status("high", "completes", |s| s.completion_time.is_some()).await;
    // The two that wait have one priority: first come, first served.
    let again = session.assignment().await.unwrap();
    assert_ne!(again.attempt, low.attempt);
    session.succeed(&again.attempt, "\"low\"").await;
    let status = plane.status("low", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.failed, Some(0), "what made way did not fail");
    let last = session.assignment().await.unwrap();
    session.succeed(&last.attempt, "\"same\"").await;
    plane.status("same", "completes", |s| s.completion_time.is_some()).await;
    plane.leader.state().await.check_invariants().unwrap();
    plane.stop().await;
}

/// An agent that still holds the memory of what it stops refuses what comes in its place: nothing else is stopped for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_free_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model_of("m", 20_000).await;
    let (first, second) = (plane.join("a").await, plane.join("b").await);
    let (mut first, mut second) = (open(&first, 1).await, open(&second, 1).await);
    plane.apply_job("low", &["[1]", "[2]"], json!({ "priorityClassName": "nightshift-low" })).await;
    let (of_first, of_second) = (first.assignment().await.unwrap(), second.assignment().await.unwrap());
    plane.apply_job("high", &["[1]"], json!({ "priorityClassName": "nightshift-high" })).await;
    let (cancel, on_first) = tokio::select! {
        cancel = cancelled(&mut first) => (cancel, true),
        cancel = cancelled(&mut second) => (cancel, false),
    };
    let (freed, mut other) = if on_first { (&mut first, second) } else { (&mut second, first) };
    let (stopped, spared) = if on_first { (of_first, of_second) } else { (of_second, of_first) };
    assert_eq!(cancel.attempt, stopped.attempt);
    let refused = loop {
        let next = freed.assignment().await.unwrap();
        if next.attempt != stopped.attempt {
            break next;
        }
    };
    let refusal =
        proto::Refusal { attempt: refused.attempt.clone(), message: "no memory".into(), ..Default::default() };
    freed.send(Up::Refusal(refusal)).await;
    // The same again, on the same machine, once it may be asked again.
    let high = loop {
        tokio::select! {
            next = freed.assignment() => match next.unwrap() {
                next if next.attempt == refused.attempt => {}
                next => break next,
            },
            cancel = cancelled(&mut other) => panic!("another was stopped: {cancel:?}"),
        }
    };
    freed.succeed(&high.attempt, "\"high\"").await;
    plane.status("high", "completes", |s| s.completion_time.is_some()).await;
    let again = freed.assignment().await.unwrap();
    freed.succeed(&again.attempt, "1").await;
    other.succeed(&spared.attempt, "2").await;
    let status = plane.status("low", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.failed, Some(0), "what made way did not fail");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_queue_starts_nothing_and_a_drained_one_stops_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_queue("team", 1).await;
    let agent = plane.join("a").await;
    let mut session = open(&agent, 1).await;
    plane.apply_job("first", &["[1]"], json!({ "queueName": "team" })).await;
    let first = session.assignment().await.unwrap();
    plane.apply_job("second", &["[1]"], json!({ "queueName": "team" })).await;
    plane.status("second", "waits", |s| says(s, "WaitingForCapacity").is_some()).await;
    change_queue(&plane, "team", json!({ "stopPolicy": "Hold" })).await;
    let held = plane.status("second", "is held", |s| says(s, "QueueStopped").is_some()).await;
    assert!(says(&held, "QueueStopped").unwrap().contains("stopPolicy Hold; an operator starts it"), "{held:?}");
    change_queue(&plane, "team", json!({ "stopPolicy": "HoldAndDrain" })).await;
    let cancel = cancelled(&mut session).await;
    assert_eq!(cancel.attempt, first.attempt);
    plane.status("first", "is held", |s| says(s, "QueueStopped").is_some() && s.active == Some(0)).await;
    change_queue(&plane, "team", json!({ "stopPolicy": "None" })).await;
    for name in ["first", "second"] {
        let next = session.assignment().await.unwrap();
        session.succeed(&next.attempt, "1").await;
        plane.status(name, "completes", |s| s.completion_time.is_some()).await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_holds_no_more_than_its_quota() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_queue("team", 1).await;
    change_queue(&plane, "team", json!({ "quotas": [{ "resource": "tasks", "limit": "1" }] })).await;
    let agent = plane.join("a").await;
    let mut session = open(&agent, 4).await;
    plane.apply_job("one", &["[1]"], json!({ "queueName": "team" })).await;
    let one = session.assignment().await.unwrap();
    plane.apply_job("two", &["[1]"], json!({ "queueName": "team" })).await;
    let held = plane.status("two", "is held", |s| says(s, "QuotaExceeded").is_some()).await;
    let message = says(&held, "QuotaExceeded").unwrap();
    assert!(message.contains("runs 1 of 1 tasks") && message.contains("TenantQueue team"), "{message}");
    // Another queue is not held back by it.
    plane.apply_job("other", &["[1]"], json!({})).await;
    let other = session.assignment().await.unwrap();
    session.succeed(&other.attempt, "1").await;
    session.succeed(&one.attempt, "1").await;
    let two = session.assignment().await.unwrap();
    session.succeed(&two.attempt, "1").await;
    plane.status("two", "completes", |s| s.completion_time.is_some()).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_starts_together_or_waits_with_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let (first, second) = (plane.join("a").await, plane.join("b").await);
    let mut first = open(&first, 2).await;
    plane.apply_job("gang", &["[1]", "[2]", "[3]", "[4]"], json!({ "minParallelism": 3, "parallelism": 3 })).await;
    let waits = plane.status("gang", "waits", |s| says(s, "WaitingForCapacity").is_some()).await;
    let message = says(&waits, "WaitingForCapacity").unwrap();
    assert!(message.contains("2 of the 3 that must start together fit"), "{message}");
    assert_eq!(waits.active, Some(0));
    // What it cannot use it does not hold.
    plane.apply_job("single", &["[1]"], json!({})).await;
    let single = first.assignment().await.unwrap();
    let mut second = open(&second, 2).await;
    let together = [second.assignment().await.unwrap(), second.assignment().await.unwrap()];
    let third = first.assignment().await.unwrap();
    first.succeed(&single.attempt, "1").await;
    first.succeed(&third.attempt, "1").await;
    for one in together {
        second.succeed(&one.attempt, "1").await;
    }
    // The fourth goes by itself, wherever there is room.
    let fourth = tokio::select! {
        fourth = first.assignment() => (true, fourth.unwrap()),
        fourth = second.assignment() => (false, fourth.unwrap()),
    };
    let session = if fourth.0 { &first } else { &second };
    session.succeed(&fourth.1.attempt, "1").await;
    let status = plane.status("gang", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.progress.as_deref(), Some("4/4"));
    plane.stop().await;
}
