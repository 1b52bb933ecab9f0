//! How a job is paused, resumed, narrowed, retried, given up and thrown away, against the embedded Kubernetes API; agents
//! are simulated. Names and reasons are batch/v1's.

mod common;

use common::{Plane, reason};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use nightshift_crds::{InferenceJobStatus, JobState};
use nightshift_testkit::agent::SimulatedSession;
use nightshift_testkit::until;
use nightshift_types::FailureReason;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// A plane with a model.
async fn plane(folder: &tempfile::TempDir) -> Plane {
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane
}

/// A machine that is there for as long as the session.
async fn node(plane: &Plane, name: &str) -> SimulatedSession {
    let agent = plane.join(name).await;
    let session = agent.open(agent.hello(1, GIB)).await.unwrap();
    session.keep_alive();
    session
}

async fn patch(plane: &Plane, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    plane.jobs().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// Patches, and waits until the journal has it.
async fn patch_taken(plane: &Plane, name: &str, spec: Value) {
    patch(plane, name, spec).await;
    let generation = plane.jobs().get(name).await.unwrap().metadata.generation.unwrap();
    until("the leader knows the new spec", || async {
        let state = plane.leader.state().await;
        state.jobs().any(|job| job.spec.name == name && job.spec.generation >= generation).then_some(())
    })
    .await;
}

async fn gone(plane: &Plane, name: &str) {
    let get = || async { plane.jobs().get_opt(name).await.unwrap().is_none().then_some(()) };
    until("the job is deleted", get).await;
}

/// The next attempt that the session is told to stop.
async fn cancelled(session: &mut SimulatedSession) -> String {
    loop {
        if let Down::Cancel(cancel) = session.next_of_interest().await.unwrap() {
            return cancel.attempt;
        }
    }
}

fn message<'a>(status: &'a InferenceJobStatus, type_: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message
}

/// Settlements so far, and that the books agree.
async fn settled(plane: &Plane) -> u64 {
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    state.ledger().entries()
}

#[tokio::test(flavor = "multi_thread")]
async fn parallelism_holds_and_may_change_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    let items: Vec<String> = (0..7).map(|n| format!("[{n}]")).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    plane.apply_job("j", &items, json!({ "parallelism": 2 })).await;
    let mut running = vec![session.assignment().await.unwrap(), session.assignment().await.unwrap()];
    let active =
        |wanted: i32, done: i32| move |s: &InferenceJobStatus| (s.active, s.succeeded) == (Some(wanted), Some(done));
    plane.status("j", "runs two", active(2, 0)).await;
    patch(&plane, "j", json!({ "parallelism": 3 })).await;
    running.push(session.assignment().await.unwrap());
    // Less: nothing is stopped, and nothing starts while as many run.
    patch_taken(&plane, "j", json!({ "parallelism": 1 })).await;
    for (done, attempt) in running.drain(..2).enumerate() {
        session.succeed(&attempt.attempt, "0").await;
        plane.status("j", "starts nothing", active(2 - done as i32, done as i32 + 1)).await;
    }
    // None at all: what runs may end.
    patch_taken(&plane, "j", json!({ "parallelism": 0 })).await;
    session.succeed(&running[0].attempt, "0").await;
    let paused = plane.status("j", "is paused", active(0, 3)).await;
    assert_eq!(paused.state, Some(JobState::Running));
    patch(&plane, "j", json!({ "parallelism": 4 })).await;
    for _ in 0..4 {
        let attempt = session.assignment().await.unwrap().attempt;
        session.succeed(&attempt, "0").await;
    }
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert_eq!(settled(&plane).await, 7);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_on_one_node_is_tried_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let (mut a, mut b) = (node(&plane, "a").await, node(&plane, "b").await);
    plane.apply_job("j", &["[1]"], json!({ "backoffLimit": 2 })).await;
    let placed = until("it runs somewhere", || async {
        let state = plane.leader.state().await;
        state.running().next().map(|running| running.node.to_string())
    })
    .await;
    let (first, other) = if placed == "a" { (&mut a, &mut b) } else { (&mut b, &mut a) };
    let attempt = first.assignment().await.unwrap().attempt;
    first.report(&attempt, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
    let again = other.assignment().await.unwrap().attempt;
    let status = plane.status("j", "runs again", |s| s.active == Some(1) && s.failed == Some(1)).await;
    assert_ne!(status.nodes, [placed]);
    other.succeed(&again, "1").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert_eq!(settled(&plane).await, 1);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_job_stops_everywhere_and_costs_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    plane.apply_job("j", &["[0]", "[1]", "[2]", "[3]"], json!({ "parallelism": 3 })).await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        attempts.push(session.assignment().await.unwrap().attempt);
    }
    session.succeed(&attempts[0], "0").await;
    attempts.push(session.assignment().await.unwrap().attempt);
    plane.jobs().delete("j", &DeleteParams::default()).await.unwrap();
    let mut stopped = [cancelled(&mut session).await, cancelled(&mut session).await, cancelled(&mut session).await];
    stopped.sort();
    attempts[1..].sort();
    assert_eq!(stopped, attempts[1..]);
    gone(&plane, "j").await;
    // One was done before it heard: acknowledged, unpaid.
    session.succeed(&attempts[1], "1").await;
    session.acknowledged(&attempts[1]).await.unwrap();
    assert_eq!(settled(&plane).await, 1);
    let state = plane.leader.state().await;
    assert_eq!((state.running().count(), state.waiting_count(), state.jobs().count()), (0, 0, 0));
    assert_eq!(state.ledger().queue("default").reserved.0, 0);
    drop(state);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_stops_what_runs_and_resumed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    plane.apply_job("j", &["[0]", "[1]"], json!({ "parallelism": 1, "backoffLimit": 0 })).await;
    let done = session.assignment().await.unwrap().attempt;
    session.succeed(&done, "0").await;
    let running = session.assignment().await.unwrap().attempt;
    plane.status("j", "runs its second task", |s| (s.active, s.succeeded) == (Some(1), Some(1))).await;
    patch(&plane, "j", json!({ "suspend": true })).await;
    assert_eq!(cancelled(&mut session).await, running);
    let status = plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    assert_eq!(reason(&status, "Suspended"), Some(("True", "JobSuspended")));
    assert_eq!(reason(&status, "Admitted"), Some(("False", "Suspended")));
    assert_eq!(reason(&status, "Scheduled"), Some(("False", "Suspended")));
    assert_eq!((status.active, status.succeeded, status.failed), (Some(0), Some(1), Some(0)));
    // As an agent does that was told to stop, and as one does that was faster than the order.
    session.report(&running, Err((FailureReason::Cancelled, "the job was suspended".into()))).await;
    session.acknowledged(&running).await.unwrap();
    session.succeed(&running, "late").await;
    session.acknowledged(&running).await.unwrap();
    plane.stop().await;

    // A restart forgets neither the pause nor what was done.
    let plane = Plane::start(folder.path()).await;
    let mut session = node(&plane, "b").await;
    let status = plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    assert_eq!(status.completed_indexes.as_deref(), Some("0"));
    patch(&plane, "j", json!({ "suspend": false })).await;
    let again = session.assignment().await.unwrap().attempt;
    let status = plane.status("j", "runs", |s| s.active == Some(1)).await;
    assert_eq!(reason(&status, "Suspended"), Some(("False", "JobResumed")));
    assert_eq!(reason(&status, "Scheduled"), Some(("True", "Placed")));
    session.succeed(&again, "1").await;
    let status = plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    let outputs: Vec<&str> = status.results.iter().map(|result| result.output.as_str()).collect();
    assert_eq!((outputs, status.failed), (vec!["0", "1"], Some(0)));
    assert_eq!(settled(&plane).await, 2);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_goes_before_a_missing_model() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_job("j", &["[0]"], json!({ "suspend": true })).await;
    let status = plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    assert_eq!(reason(&status, "Suspended"), Some(("True", "JobSuspended")));
    assert_eq!(reason(&status, "Admitted"), Some(("False", "Suspended")));
    patch(&plane, "j", json!({ "suspend": false })).await;
    let status = plane.status("j", "waits for its model", |s| s.state == Some(JobState::Pending)).await;
    assert_eq!(reason(&status, "Suspended"), Some(("False", "JobResumed")));
    assert_eq!(reason(&status, "Admitted"), Some(("False", "ModelNotReady")));
    let mut session = node(&plane, "a").await;
    plane.apply_model().await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "0").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_live_as_long_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    // One that fails, one that completes and says so later, one that nobody deletes.
    plane.apply_job("fails", &["x"], json!({ "ttlSecondsAfterFinished": 1 })).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.report(&attempt, Err((FailureReason::InputInvalid, "not JSON".into()))).await;
    gone(&plane, "fails").await;
    for name in ["later", "stays"] {
        plane.apply_job(name, &["[0]"], json!({})).await;
        let attempt = session.assignment().await.unwrap().attempt;
        session.succeed(&attempt, "0").await;
        plane.status(name, "completes", |s| s.state == Some(JobState::Complete)).await;
    }
    patch(&plane, "later", json!({ "ttlSecondsAfterFinished": 0 })).await;
    gone(&plane, "later").await;
    assert_eq!(plane.jobs().get("stays").await.unwrap().status.unwrap().state, Some(JobState::Complete));
    assert_eq!(settled(&plane).await, 2, "deletion takes nothing back");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_jobs_and_stop_their_work() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    plane.apply_job("waits", &["[0]"], json!({ "pendingDeadlineSeconds": 1 })).await;
    let status = plane.status("waits", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "PendingDeadlineExceeded")));
    let mut session = node(&plane, "a").await;
    plane.apply_job("slow", &["[0]", "[1]"], json!({ "activeDeadlineSeconds": 1, "parallelism": 1 })).await;
    let attempt = session.assignment().await.unwrap().attempt;
    assert_eq!(cancelled(&mut session).await, attempt);
    let status = plane.status("slow", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "DeadlineExceeded")));
    assert!(message(&status, "Failed").contains("0 of 2 tasks succeeded"), "{}", message(&status, "Failed"));
    assert_eq!((status.active, status.cost.as_deref()), (Some(0), Some("0")));
    assert_eq!(settled(&plane).await, 0);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_keeps_failing_is_given_up_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    let limits = json!({ "backoffLimitPerIndex": 1, "parallelism": 1 });
    plane.apply_job("j", &["[0]", "nonsense", "[2]", "[3]"], limits).await;
    // Index 1 cannot be read, index 2 crashes twice.
    let mut crashes = 0;
    let mut successes = 0;
    while crashes < 2 || successes < 2 {
        let assignment = session.assignment().await.unwrap();
        let index = assignment.attempt.rsplit('/').nth(1).unwrap().to_string();
        match index.as_str() {
            "1" => session.report(&assignment.attempt, Err((FailureReason::InputInvalid, "not JSON".into()))).await,
            "2" => {
                crashes += 1;
                session.report(&assignment.attempt, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
            }
            _ => {
                successes += 1;
                session.succeed(&assignment.attempt, &index).await;
            }
        }
    }
    let status = plane.status("j", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "FailedIndexes")));
    assert_eq!((status.completed_indexes.as_deref(), status.failed_indexes.as_deref()), (Some("0,3"), Some("1-2")));
    assert_eq!((status.progress.as_deref(), status.failed), (Some("2/4"), Some(3)));
    assert_eq!(status.results.iter().map(|result| result.index).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(settled(&plane).await, 2);

    let limits = json!({ "backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "parallelism": 2 });
    plane.apply_job("strict", &["[0]", "[1]", "[2]"], limits).await;
    let (first, second) = (session.assignment().await.unwrap(), session.assignment().await.unwrap());
    session.report(&first.attempt, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
    assert_eq!(cancelled(&mut session).await, second.attempt);
    let status = plane.status("strict", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "MaxFailedIndexesExceeded")));
    assert_eq!((status.failed_indexes.as_deref(), status.active), (Some("0"), Some(0)));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_that_nothing_meets_may_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    let cases = [
        ("price", json!({ "maxPricePerHour": "0.01" }), json!({ "maxPricePerHour": "1" }), "PriceAboveLimit"),
        ("memory", json!({ "resources": { "deviceMemory": "9Gi" } }), json!({ "resources": null }), "NoMatchingNode"),
        ("label", json!({ "nodeSelector": { "a": "b" } }), json!({ "nodeSelector": null }), "NoMatchingNode"),
    ];
    for (name, too_strict, better, why) in cases {
        plane.apply_job(name, &["[0]"], too_strict).await;
        let waits = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", why));
        plane.status(name, "waits", waits).await;
        patch(&plane, name, better).await;
        let attempt = session.assignment().await.unwrap().attempt;
        session.succeed(&attempt, "0").await;
        plane.status(name, "completes", |s| s.state == Some(JobState::Complete)).await;
    }
    assert_eq!(settled(&plane).await, 3);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_not_supported_is_said_and_the_rest_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let plane = plane(&folder).await;
    let mut session = node(&plane, "a").await;
    plane.apply_job("j", &["[0]"], json!({ "suspend": true })).await;
    plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    patch(&plane, "j", json!({ "suspend": false, "verification": "Always" })).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "0").await;
    let events: Api<Event> = Api::namespaced(plane.client.clone(), "default");
    let note = until("an Event says what was not taken over", || async {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.items.into_iter().find(|event| event.reason.as_deref() == Some("NotSupported")).and_then(|event| event.note)
    })
    .await;
    assert!(note.contains("spec.verification is not supported"), "{note}");
    plane.stop().await;
}
