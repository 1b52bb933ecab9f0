//! TenantQueues: who may use one, what it may spend, what its status says; agents are simulated.

mod common;

use common::{Plane, reason};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nightshift_crds::{InferenceJobStatus, JobState, TenantQueue, TenantQueueStatus};
use nightshift_state::{Command, EntryKind};
use nightshift_testkit::until;
use nightshift_types::PicoPoints;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

fn queues(plane: &Plane) -> Api<TenantQueue> {
    Api::all(plane.client.clone())
}

async fn apply_queue(plane: &Plane, name: &str, spec: Value) {
    let object = json!({
        "apiVersion": "nightshift.dev/v1alpha1", "kind": "TenantQueue", "metadata": { "name": name }, "spec": spec,
    });
    let object: TenantQueue = serde_json::from_value(object).unwrap();
    queues(plane).create(&PostParams::default(), &object).await.unwrap();
}

async fn change_queue(plane: &Plane, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    queues(plane).patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn queue_status(
    plane: &Plane,
    name: &str,
    what: &str,
    wanted: impl Fn(&TenantQueueStatus) -> bool,
) -> TenantQueueStatus {
    let api = queues(plane);
    until(&format!("queue {name} {what}"), || async {
        api.get_opt(name).await.unwrap().and_then(|queue| queue.status).filter(&wanted)
    })
    .await
}

fn condition<'a>(status: &'a TenantQueueStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.as_str(), condition.reason.as_str()))
}

fn message<'a>(status: &'a InferenceJobStatus, type_: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message
}

async fn grant(plane: &Plane, queue: &str, points: &str) {
    let (id, note) = (format!("{queue}-{points}"), String::new());
    let command = Command::Grant { id, queue: queue.into(), amount: points.parse().unwrap(), note };
    plane.leader.submit(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_its_queue_and_goes_on_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    let status = queue_status(&plane, "default", "is made", |s| !s.conditions.is_empty()).await;
    assert_eq!(condition(&status, "Active"), Some(("True", "Active")));
    assert_eq!(condition(&status, "BudgetAvailable"), Some(("True", "Unlimited")));
    assert_eq!((status.pending_tasks, status.running_tasks, status.balance), (Some(0), Some(0), None));

    plane.apply_job("j", &["[0]"], json!({ "queueName": "research" })).await;
    let waiting = plane.status("j", "waits", |s| reason(s, "Admitted").is_some()).await;
    assert_eq!(reason(&waiting, "Admitted"), Some(("False", "Misconfigured")));
    let why = message(&waiting, "Admitted");
    assert!(why.contains("there is no TenantQueue \"research\", but default"), "{why}");
    // The queue comes, but not for this namespace; then for it, without points; then with them.
    apply_queue(&plane, "research", json!({ "namespaceSelector": { "matchLabels": { "team": "research" } } })).await;
    let refused = |s: &InferenceJobStatus| {
        reason(s, "Admitted").is_some() && message(s, "Admitted").contains("does not permit namespace default")
    };
    plane.status("j", "is not permitted", refused).await;
    let namespaces: Api<Namespace> = Api::all(plane.client.clone());
    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "research" } } }));
    namespaces.patch("default", &PatchParams::default(), &label).await.unwrap();
    plane.status("j", "is known", |s| s.completions == Some(1)).await;
    let broke = queue_status(&plane, "research", "has a task and no points", |s| s.pending_tasks == Some(1)).await;
    assert_eq!(condition(&broke, "BudgetAvailable"), Some(("False", "NoBalance")));
    let poor = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "BudgetExhausted"));
    let poor = plane.status("j", "says that there are no points", poor).await;
    let why = message(&poor, "Admitted");
    assert!(
        why.contains("queue research has 0 points left") && why.contains("nightshift points grant research"),
        "{why}"
    );
    assert_eq!(plane.leader.state().await.running().count(), 0);

    grant(&plane, "research", "5").await;
    plane.leader.wake();
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "0").await;
    let done = plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    let cost = done.cost.unwrap().pico().unwrap();
    assert!(cost > PicoPoints::ZERO);
    let paid =
        queue_status(&plane, "research", "shows what it spent", |s| s.spent.as_ref().is_some_and(|p| p.0 != "0")).await;
    assert_eq!(paid.spent.unwrap().pico().unwrap(), cost);
    assert_eq!(paid.balance.unwrap().pico().unwrap() + cost, "5".parse().unwrap());
    assert_eq!(paid.share.as_ref().map(|share| share.0.as_str()), Some("1"), "nobody else had any work");
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    let kinds: Vec<bool> =
        state.ledger().recent().map(|posted| matches!(posted.entry.kind, EntryKind::Grant { .. })).collect();
    assert_eq!(kinds, [true, false]);
    drop(state);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_journaled_held_and_taken_back_with_its_object() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    apply_queue(&plane, "research", json!({ "budget": { "points": "0.000000000001", "period": "Day" } })).await;
    grant(&plane, "research", "5").await;
    plane.apply_job("j", &["[0]"], json!({ "queueName": "research" })).await;
    plane.status("j", "is known", |s| s.completions == Some(1)).await;
    let status = queue_status(&plane, "research", "has a task", |s| s.pending_tasks == Some(1)).await;
    assert_eq!(status.budget_left.unwrap().0, "0.000000000001");
    assert_eq!(plane.leader.state().await.running().count(), 0, "a task costs more than the whole budget");
    // A larger budget: the job goes on by itself.
    change_queue(&plane, "research", json!({ "budget": { "points": "4" } })).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "0").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert!(plane.leader.state().await.ledger().queue("research").budget.is_some());
    queues(&plane).delete("research", &DeleteParams::default()).await.unwrap();
    until("the budget goes with its object", || async {
        let state = plane.leader.state().await;
        state.ledger().queue("research").budget.is_none().then_some(())
    })
    .await;
    // The queue default comes back.
    queues(&plane).delete("default", &DeleteParams::default()).await.unwrap();
    queue_status(&plane, "default", "is made again", |s| !s.conditions.is_empty()).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_are_resolved_or_the_job_says_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    apply_queue(&plane, "low", json!({ "defaultPriorityClassName": "nightshift-low" })).await;
    apply_queue(&plane, "broken", json!({ "defaultPriorityClassName": "urgent" })).await;
    for (name, spec, wanted) in [
        ("named", json!({ "priorityClassName": "nightshift-high" }), 100),
        ("queues", json!({ "queueName": "low" }), -100),
        ("own", json!({ "queueName": "low", "priorityClassName": "nightshift-normal" }), 0),
        ("none", json!({}), 0),
    ] {
        plane.apply_job(name, &["[0]"], spec).await;
        plane.status(name, "is known", |s| s.completions == Some(1)).await;
        let state = plane.leader.state().await;
        let priority = state.jobs().find(|job| job.spec.name == name).unwrap().spec.priority;
        assert_eq!(priority, wanted, "{name}");
    }
    for (name, spec, said) in [
        ("system", json!({ "priorityClassName": "system-node-critical" }), "for Kubernetes' own pods"),
        ("unknown", json!({ "priorityClassName": "urgent" }), "but nightshift-high, nightshift-low, nightshift-normal"),
        ("in-broken", json!({ "queueName": "broken" }), "TenantQueue broken: spec.defaultPriorityClassName"),
    ] {
        plane.apply_job(name, &["[0]"], spec).await;
        let status = plane.status(name, "waits", |s| reason(s, "Admitted").is_some()).await;
        assert_eq!(reason(&status, "Admitted"), Some(("False", "Misconfigured")));
        assert!(message(&status, "Admitted").contains(said), "{}", message(&status, "Admitted"));
    }
    let status = queue_status(&plane, "broken", "says so", |s| !s.conditions.is_empty()).await;
    assert_eq!(condition(&status, "Active"), Some(("False", "Misconfigured")));
    // What was wrong is put right: the job goes on by itself.
    change_queue(&plane, "broken", json!({ "defaultPriorityClassName": "nightshift-high" })).await;
    plane.status("in-broken", "is known", |s| s.completions == Some(1)).await;
    change_queue(&plane, "broken", json!({ "stopPolicy": "Hold" })).await;
    let held = |s: &TenantQueueStatus| condition(s, "Active") == Some(("False", "Stopped"));
    queue_status(&plane, "broken", "is held", held).await;
    plane.stop().await;
}
