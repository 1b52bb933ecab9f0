//! A job's way through the control plane, against the embedded Kubernetes API; agents are simulated.

mod common;

use common::{Plane, reason};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nightshift_crds::{ComputeNode, JobState, ModelArtifact};
use nightshift_testkit::until;
use nightshift_types::FailureReason;
use nightshift_wire::convert::{Output, OutputPlace};
use serde_json::json;
use std::time::Duration;

const GIB: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_completes_and_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    // Any order: the job comes before its model.
    plane.apply_job("j", &["[0]", "[1]", "[2]"], json!({ "parallelism": 2 })).await;
    let waiting = plane.status("j", "waits for its model", |s| reason(s, "Admitted").is_some()).await;
    assert_eq!(reason(&waiting, "Admitted"), Some(("False", "ModelNotReady")));
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_model().await;
    let (first, second) = (session.assignment().await.unwrap(), session.assignment().await.unwrap());
    assert_eq!(first.model.as_ref().unwrap().name, "default/m");
    session.succeed(&first.attempt, "{\"n\":0}").await;
    let third = session.assignment().await.unwrap();
    session.succeed(&third.attempt, "{\"n\":2}").await;
    // A result too large for the journal is a blob; the status leaves it out, the gateway has it.
    let large = format!("[{}]", vec!["1"; 30_000].join(","));
    let blob = session.put(&second.attempt, large.as_bytes()).await.unwrap();
    let place = OutputPlace::Blob(nightshift_wire::convert::blob("blob", &Some(blob)).unwrap());
    session.report(&second.attempt, Ok(Output { content_type: "application/json".into(), place })).await;
    let status = plane.status("j", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.state, Some(JobState::Complete));
    assert_eq!(status.progress.as_deref(), Some("3/3"));
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert_eq!(status.nodes, ["a"]);
    assert_eq!(status.cost, status.quoted_cost);
    assert_eq!(status.results.iter().map(|r| r.index).collect::<Vec<_>>(), [0, 2]);
    let url = format!("http://{}/v1/namespaces/default/jobs/j/results", plane.http);
    let client = reqwest::Client::new();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let text = client.get(&url).bearer_auth(&plane.gateway_token).send().await.unwrap().text().await.unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().nth(1).unwrap().contains(&large));
    {
        let state = plane.leader.state().await;
        state.check_invariants().unwrap();
        assert_eq!(state.ledger().entries(), 3);
        let cost = state.jobs().next().unwrap().cost;
        assert!(cost.0 > 0);
        assert_eq!(state.balance(&"owner/owner-a".parse().unwrap()), cost);
    }
    let nodes: Api<ComputeNode> = Api::all(plane.client.clone());
    until("the node shows what it earned", || async {
        let earned = nodes.get("a").await.unwrap().status.and_then(|s| s.earned);
        (earned == status.cost).then_some(())
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_job("early", &["[1]"], json!({})).await;
    let none = plane.status("early", "says that nobody is there", |s| reason(s, "Admitted").is_some()).await;
    assert!(none.conditions[0].message.contains("no node has joined"), "{:?}", none.conditions);
    let agent = plane.join("a").await;
    let _session = agent.open(agent.hello(1, 4 * GIB)).await.unwrap();
    plane.apply_job("large", &["[1]"], json!({ "resources": { "deviceMemory": "900Gi" } })).await;
    let large = plane.status("large", "is refused", |s| reason(s, "Admitted").is_some()).await;
    assert_eq!(reason(&large, "Admitted"), Some(("False", "NoMatchingNode")));
    let message = &large.conditions.iter().find(|c| c.type_ == "Admitted").unwrap().message;
    assert!(message.contains("0/1 nodes fit") && message.contains("900Gi") && message.contains("4Gi"), "{message}");
    assert_eq!(large.unschedulable[0].count, 1);
    assert_eq!(large.state, Some(JobState::Pending));
    plane.apply_job("cheap", &["[1]"], json!({ "maxPricePerHour": "0.01" })).await;
    let cheap = plane.status("cheap", "is refused", |s| reason(s, "Admitted").is_some()).await;
    assert_eq!(reason(&cheap, "Admitted"), Some(("False", "PriceAboveLimit")));
    plane.apply_job("gang", &["[1]"], json!({ "minParallelism": 2 })).await;
    let gang = plane.status("gang", "is refused", |s| reason(s, "Admitted").is_some()).await;
    assert_eq!(reason(&gang, "Admitted"), Some(("False", "Misconfigured")));
    assert!(gang.conditions[0].message.contains("spec.minParallelism"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_costs_no_task_and_no_second_charge() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start_with_lease(folder.path(), Duration::from_secs(2)).await;
    plane.apply_model().await;
    let (lost, other) = (plane.join("lost").await, plane.join("other").await);
    let mut first = lost.open(lost.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[1]"], json!({})).await;
    let attempt = first.assignment().await.unwrap().attempt;
    // It says nothing more. Another machine comes, and gets the task when the lease is over.
    let mut second = other.open(other.hello(1, GIB)).await.unwrap();
    second.keep_alive();
    let moved = second.assignment().await.unwrap().attempt;
    assert_ne!(moved, attempt);
    // The lost one finished after all: superseded, acknowledged, unpaid.
    first.succeed(&attempt, "\"late\"").await;
    first.acknowledged(&attempt).await.unwrap();
    second.succeed(&moved, "\"right\"").await;
    let status = plane.status("j", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.results[0].output, "\"right\"");
    assert_eq!(status.nodes, ["other"]);
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    assert_eq!(state.ledger().entries(), 1);
    drop(state);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_gets_nothing_new_until_it_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start_with_lease(folder.path(), Duration::from_secs(1)).await;
    plane.apply_model().await;
    let agent = plane.join("suspended").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[1]"], json!({})).await;
    let first = session.assignment().await.unwrap().attempt;
    // Its connection is up and it says nothing: a suspended laptop. The attempt is lost once, and not placed there again.
    let waits =
        |s: &nightshift_crds::InferenceJobStatus| reason(s, "Admitted") == Some(("False", "WaitingForCapacity"));
    let status = plane.status("j", "waits for a node", waits).await;
    assert_eq!((status.active, status.failed, status.state), (Some(0), Some(1), Some(JobState::Pending)));
    session.keep_alive();
    let second = session.assignment().await.unwrap().attempt;
    assert_ne!(first, second);
    session.succeed(&second, "[]").await;
    plane.status("j", "completes", |s| s.completion_time.is_some()).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_and_counted_by_their_fault() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_job("bad-input", &["nonsense"], json!({})).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.report(&attempt, Err((FailureReason::InputInvalid, "x: not JSON".into()))).await;
    let status = plane.status("bad-input", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "InputInvalid")));
    assert_eq!(status.cost.as_deref(), Some("0"));
    plane.apply_job("flaky", &["[1]"], json!({ "backoffLimit": 1 })).await;
    for _ in 0..2 {
        let attempt = session.assignment().await.unwrap().attempt;
        session.report(&attempt, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
    }
    let status = plane.status("flaky", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "BackoffLimitExceeded")));
    let failed = status.conditions.iter().find(|c| c.type_ == "Failed").unwrap();
    assert!(failed.message.contains("signal 11"), "{}", failed.message);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_models_fail_their_jobs_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let models: Api<ModelArtifact> = Api::namespaced(plane.client.clone(), "default");
    let mut wrong = common::model("m", common::MODEL);
    wrong.spec.digest = format!("sha256:{}", "1".repeat(64)).into();
    models.create(&PostParams::default(), &wrong).await.unwrap();
    plane.apply_job("j", &["[1]"], json!({})).await;
    let status = plane.status("j", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reason(&status, "Failed"), Some(("True", "DigestMismatch")));
    let missing = common::model("missing", b"never pushed");
    models.create(&PostParams::default(), &missing).await.unwrap();
    plane.apply_job("k", &["[1]"], json!({ "modelRef": { "name": "missing" } })).await;
    let unreachable = |s: &nightshift_crds::InferenceJobStatus| {
        s.conditions.first().is_some_and(|c| c.message.contains("nightshift push"))
    };
    let status = plane.status("k", "says what to push", unreachable).await;
    assert_eq!(reason(&status, "Admitted"), Some(("False", "ModelNotReady")));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_delete_and_time_to_live() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[1]"], json!({ "suspend": true, "ttlSecondsAfterFinished": 0 })).await;
    plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    let resume = Patch::Merge(json!({ "spec": { "suspend": false } }));
    plane.jobs().patch("j", &PatchParams::default(), &resume).await.unwrap();
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "[]").await;
    until("the finished job is deleted", || async { plane.jobs().get_opt("j").await.unwrap().is_none().then_some(()) })
        .await;
    plane.apply_job("k", &["[1]"], json!({})).await;
    let attempt = session.assignment().await.unwrap().attempt;
    plane.jobs().delete("k", &DeleteParams::default()).await.unwrap();
    until("the running job is gone", || async { plane.jobs().get_opt("k").await.unwrap().is_none().then_some(()) })
        .await;
    let cancelled = loop {
        match session.next_of_interest().await.unwrap() {
            nightshift_wire::proto::scheduler_message::Kind::Cancel(cancel) => break cancel.attempt,
            _ => continue,
        }
    };
    assert_eq!(cancelled, attempt);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_continues_with_the_same_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[1]", "[2]"], json!({})).await;
    let (first, second) = (session.assignment().await.unwrap(), session.assignment().await.unwrap());
    session.succeed(&first.attempt, "1").await;
    session.acknowledged(&first.attempt).await.unwrap();
    plane.stop().await;
    let plane = Plane::start(folder.path()).await;
    let agent = agent.at(plane.agents);
    // The agent ran on meanwhile: its outcome was in its outbox. The first one is sent again: it settles nothing twice.
    let attempts = vec![first.attempt.clone(), second.attempt.clone()];
    let hello = nightshift_wire::proto::Hello { attempts, ..agent.hello(2, GIB) };
    let mut session = agent.open(hello).await.unwrap();
    session.succeed(&second.attempt, "2").await;
    session.succeed(&first.attempt, "9").await;
    session.acknowledged(&second.attempt).await.unwrap();
    let status = plane.status("j", "completes", |s| s.completion_time.is_some()).await;
    let outputs: Vec<_> = status.results.iter().map(|r| r.output.as_str()).collect();
    assert_eq!(outputs, ["1", "2"]);
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    assert_eq!(state.ledger().entries(), 2);
    drop(state);
    plane.stop().await;
}
