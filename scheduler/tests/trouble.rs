//! etcd full, and corrupt by its own word, under a whole scheduler: it does not end, says what is wrong, and goes on by
//! itself.

mod common;

use common::{Limits, Plane};
use etcd_client::{AlarmAction, AlarmType};
use kube::api::Api;
use nightshift_crds::{JobState, TenantQueue};
use nightshift_state::{EtcdJournal, EtcdOptions};
use nightshift_testkit::agent::SimulatedSession;
use nightshift_testkit::etcd::Etcd;
use nightshift_testkit::until;
use serde_json::json;
use std::time::Duration;

const GIB: u64 = 1 << 30;

/// Agents' lease: shorter than the troubles of these tests.
const LEASE: Duration = Duration::from_secs(5);

async fn plane(folder: &tempfile::TempDir, port: u16) -> Plane {
    let options = EtcdOptions {
        endpoints: vec![format!("http://127.0.0.1:{port}")],
        lease: Duration::from_secs(30),
        request_timeout: Duration::from_secs(5),
        ..EtcdOptions::default()
    };
    let journal = EtcdJournal::campaign(&options).await.unwrap();
    let plane = Plane::start_on(folder.path(), Limits { lease: LEASE, ..Limits::default() }, journal).await;
    plane.apply_model().await;
    plane
}

async fn node(plane: &Plane) -> SimulatedSession {
    let agent = plane.join("a").await;
    let session = agent.open(agent.hello(1, GIB)).await.unwrap();
    session.keep_alive();
    session
}

async fn metric(plane: &Plane, line: &str) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    until(&format!("the metrics say {line}"), || async {
        let text = http.get(format!("http://{}/metrics", plane.http)).send().await.ok()?.text().await.ok()?;
        text.lines().any(|one| one == line).then_some(())
    })
    .await;
}

async fn trouble(plane: &Plane, reason: &str, is: bool) {
    metric(plane, &format!("nightshift_scheduler_journal_trouble{{reason=\"{reason}\"}} {}", u8::from(is))).await;
}

/// What the queue `default` says of whether its tasks may start.
async fn active(plane: &Plane, status: &str, reason: &str) -> String {
    let queues: Api<TenantQueue> = Api::all(plane.client.clone());
    until(&format!("the queue is Active {status}, {reason}"), || async {
        let conditions = queues.get("default").await.ok()?.status?.conditions;
        let active = conditions.into_iter().find(|condition| condition.type_ == "Active")?;
        (active.status == status && active.reason == reason).then_some(active.message)
    })
    .await
}

async fn refused(plane: &Plane) -> String {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/namespaces/default/jobs/first/explain", plane.http);
    let answer = http.get(url).bearer_auth(&plane.gateway_token).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_stops_placement_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start_with(&["--quota-backend-bytes=33554432"]).await;
    let plane = plane(&folder, etcd.port).await;
    let mut session = node(&plane).await;
    plane.apply_job("first", &["[0]"], json!({})).await;
    let attempt = session.assignment().await.unwrap().attempt;
    etcd.fill().await;
    session.succeed(&attempt, "0").await;
    plane.apply_job("second", &["[1]"], json!({})).await;
    trouble(&plane, "NoSpace", true).await;
    let said = active(&plane, "False", "JournalNoSpace").await;
    assert!(said.contains("--quota-backend-bytes") && said.contains("alarm disarm"), "{said}");
    assert!(refused(&plane).await.contains("database space exceeded"));
    // Longer than an agent's lease: what runs is not lost, as its agent was heard all the time.
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    let running = plane.jobs().get("first").await.unwrap().status.unwrap();
    assert_eq!((running.succeeded, running.active), (Some(0), Some(1)), "what is not durable is not told");
    assert_eq!(plane.jobs().get("second").await.unwrap().status.and_then(|status| status.active), None);

    etcd.make_room().await;
    session.acknowledged(&attempt).await.unwrap();
    let second = session.assignment().await.unwrap().attempt;
    session.succeed(&second, "1").await;
    for (name, result) in [("first", "0"), ("second", "1")] {
        let status = plane.status(name, "completes", |s| s.state == Some(JobState::Complete)).await;
        assert_eq!((status.failed, status.results[0].output.as_str()), (Some(0), result));
    }
    trouble(&plane, "NoSpace", false).await;
    active(&plane, "True", "Active").await;

    // The other alarm.
    etcd.alarm(AlarmAction::Activate, AlarmType::Corrupt).await;
    plane.apply_job("third", &["[2]"], json!({})).await;
    trouble(&plane, "Corrupt", true).await;
    active(&plane, "False", "JournalCorrupt").await;
    etcd.alarm(AlarmAction::Deactivate, AlarmType::Corrupt).await;
    let third = session.assignment().await.unwrap().attempt;
    session.succeed(&third, "2").await;
    plane.status("third", "completes", |s| s.state == Some(JobState::Complete)).await;
    trouble(&plane, "Corrupt", false).await;
    plane.stop().await;
}
