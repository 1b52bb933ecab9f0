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
    let said = poor.unschedulable[0].message.as_deref().unwrap();
    assert!(said.contains("over the 0 points left of queue research"), "{said}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_pay_is_named_whatever_else_is_too_dear() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let _session = agent.open(agent.hello(1, GIB)).await.unwrap();
    apply_queue(&plane, "research", json!({})).await;
    // Its node asks more an hour than the job may pay, and more than the queue has.
    plane.apply_job("j", &["[0]"], json!({ "queueName": "research", "maxPricePerHour": "0.000001" })).await;
    let poor = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "BudgetExhausted"));
    let poor = plane.status("j", "says that there are no points", poor).await;
    let why = message(&poor, "Admitted");
    assert!(why.contains("queue research has 0 points left") && !why.contains("maxCost"), "{why}");
    grant(&plane, "research", "5").await;
    plane.leader.wake();
    let dear = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "PriceAboveLimit"));
    plane.status("j", "says that the price is too high", dear).await;
    // The job's own limit is less than what the queue has: then it is the job's that is named.
    plane.apply_job("own", &["[0]"], json!({ "queueName": "research", "maxCost": "0" })).await;
    let own = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "PriceAboveLimit"));
    let own = plane.status("own", "names its maxCost", own).await;
    assert!(message(&own, "Admitted").contains("0 points left of maxCost"), "{}", message(&own, "Admitted"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_taken_over_when_its_queue_is_there_and_the_rest_of_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[0]"], json!({ "suspend": true })).await;
    plane.status("j", "is suspended", |s| s.state == Some(JobState::Suspended)).await;
    let edit = json!({ "queueName": "research", "suspend": false, "parallelism": 7 });
    let patch = Patch::Merge(json!({ "spec": edit }));
    plane.jobs().patch("j", &PatchParams::default(), &patch).await.unwrap();
    let spec = || async {
        let state = plane.leader.state().await;
        state.jobs().find(|job| job.spec.name == "j").unwrap().spec.clone()
    };
    let before = until("the parallelism is taken over", || async {
        let spec = spec().await;
        (spec.parallelism == 7).then_some(spec)
    })
    .await;
    // Not on the old queue's account, and not lost.
    assert_eq!((before.queue.as_str(), before.suspend, before.generation), ("default", true, 1));
    plane.apply_queue("research", 1).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "0").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    let after = spec().await;
    assert_eq!((after.queue.as_str(), after.suspend, after.generation), ("research", false, 2));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_lifts_no_limit() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_queue("team", 1).await;
    let limits = json!({ "quotas": [{ "resource": "tasks", "limit": "1e0" }], "budget": { "points": "4" } });
    change_queue(&plane, "team", limits).await;
    let agent = plane.join("a").await;
    let mut hello = agent.hello(1, GIB);
    hello.devices[0].attributes.insert("slots".into(), "4".into());
    let mut session = agent.open(hello).await.unwrap();
    session.keep_alive();
    plane.apply_job("one", &["[1]"], json!({ "queueName": "team" })).await;
    let one = session.assignment().await.unwrap();
    plane.apply_job("two", &["[1]"], json!({ "queueName": "team" })).await;
    let quota = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "QuotaExceeded"));
    plane.status("two", "is held", quota).await;
    // More than a quantity of bytes can be, in an edit that lifts the budget too.
    let broken = json!({ "quotas": [{ "resource": "deviceMemory", "limit": "64000E" }], "budget": null });
    change_queue(&plane, "team", broken.clone()).await;
    let wrong = |s: &TenantQueueStatus| condition(s, "Active") == Some(("False", "Misconfigured"));
    let status = queue_status(&plane, "team", "says so", wrong).await;
    let said = &status.conditions.iter().find(|condition| condition.type_ == "Active").unwrap().message;
    assert!(said.contains("spec.quotas") && said.contains("stays in force"), "{said}");
    assert!(plane.leader.state().await.ledger().queue("team").budget.is_some());
    // Whatever comes next is placed under the old quota: other's task goes first, two's still waits.
    plane.apply_job("other", &["[1]"], json!({})).await;
    let other = session.assignment().await.unwrap();
    session.succeed(&other.attempt, "1").await;
    plane.status("other", "completes", |s| s.state == Some(JobState::Complete)).await;
    let still = plane.jobs().get("two").await.unwrap().status.unwrap();
    assert!(quota(&still) && plane.leader.state().await.running().count() == 1, "{still:?}");
    session.succeed(&one.attempt, "1").await;
    let two = session.assignment().await.unwrap();
    session.succeed(&two.attempt, "1").await;
    plane.status("two", "completes", |s| s.state == Some(JobState::Complete)).await;
    // Of one that never could be read nothing starts.
    apply_queue(&plane, "never", broken).await;
    let status = queue_status(&plane, "never", "says so", wrong).await;
    let said = &status.conditions.iter().find(|condition| condition.type_ == "Active").unwrap().message;
    assert!(said.contains("nothing of this queue starts"), "{said}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_an_object_starts_nothing_until_it_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_queue("team", 1).await;
    plane.apply_job("j", &["[1]"], json!({ "queueName": "team" })).await;
    plane.status("j", "is known", |s| s.completions == Some(1)).await;
    queues(&plane).delete("team", &DeleteParams::default()).await.unwrap();
    let stopped = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "QueueStopped"));
    let status = plane.status("j", "is held", stopped).await;
    let why = message(&status, "Admitted");
    assert!(why.contains("there is no TenantQueue team"), "{why}");
    let agent = plane.join("a").await;
    let mut hello = agent.hello(1, GIB);
    hello.devices[0].attributes.insert("slots".into(), "4".into());
    let mut session = agent.open(hello).await.unwrap();
    session.keep_alive();
    // Another queue's job, which came later, runs; this one does not.
    plane.apply_job("other", &["[1]"], json!({})).await;
    let other = session.assignment().await.unwrap();
    session.succeed(&other.attempt, "1").await;
    plane.status("other", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert_eq!(plane.leader.state().await.running().count(), 0);
    apply_queue(&plane, "team", json!({})).await;
    let attempt = session.assignment().await.unwrap().attempt;
    session.succeed(&attempt, "1").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    plane.stop().await;
}
