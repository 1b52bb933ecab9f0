//! A leader keeps its journal small while it works, and nothing is forgotten by it.

mod common;

use common::Plane;
use nightshift_state::{Archive, Source};
use nightshift_testkit::until;
use nightshift_types::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

const TASKS: usize = 60;

async fn statement(plane: &Plane, from: &str) -> Value {
    let url = format!("http://{}/v1/points/statement?queue=default{from}", plane.http);
    let answer = reqwest::Client::new().get(&url).bearer_auth(&plane.gateway_token).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_grew_is_made_smaller_and_its_history_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let lease = Duration::from_secs(30);
    let plane = Plane::start_keeping(folder.path(), lease, Bytes(16 << 10)).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut session = agent.open(agent.hello(1, 1 << 30)).await.unwrap();
    let items: Vec<String> = (0..TASKS).map(|n| format!("[{n}]")).collect();
    plane.apply_job("j", &items.iter().map(String::as_str).collect::<Vec<_>>(), json!({ "parallelism": 4 })).await;
    for _ in 0..TASKS {
        let assignment = session.assignment().await.unwrap();
        session.succeed(&assignment.attempt, "{}").await;
    }
    plane.status("j", "completes", |status| status.completion_time.is_some()).await;
    let metrics = plane.leader.metrics().clone();
    until("a snapshot stands for what was before", || async {
        (metrics.snapshots.with_label_values(&["done"]).get() >= 2 && metrics.snapshot_bytes.get() > 0).then_some(())
    })
    .await;
    assert_eq!(metrics.snapshots.with_label_values(&["failed"]).get(), 0);
    let all = statement(&plane, "&fromMilliseconds=0").await;
    let told = |all: &Value| {
        let entries = all["entries"].as_array().unwrap();
        assert_eq!((entries.len(), &all["opening"], &all["sinceMilliseconds"]), (TASKS, &json!("0"), &Value::Null));
        assert!(entries.iter().all(|entry| entry["about"] == "default/j"), "{all}");
        assert_eq!(entries.last().unwrap()["balance"], all["closing"]);
    };
    told(&all);
    assert_eq!(statement(&plane, "").await["entries"], all["entries"], "so far memory has all of it");
    let middle = all["entries"][TASKS / 2]["timeMilliseconds"].as_u64().unwrap();
    let part = statement(&plane, &format!("&fromMilliseconds={middle}")).await;
    assert!(part["entries"].as_array().unwrap().len() < TASKS && part["closing"] == all["closing"]);
    assert_ne!(part["opening"], "0");
    plane.stop().await;

    let source = Source::Embedded(folder.path().join("journal.redb"));
    let archive = Archive::open(folder.path().join("archive").to_str().unwrap()).unwrap();
    let verified = source.verify(Some(&archive)).await.unwrap();
    assert!(verified.snapshot.is_some() && verified.archive_read);
    assert!(verified.batches < verified.folded.head().sequence, "the first ones are gone");

    // The next start is from the snapshot.
    let plane = Plane::start_keeping(folder.path(), lease, Bytes(16 << 10)).await;
    assert_eq!(plane.leader.state().await.ledger().entries(), TASKS as u64);
    told(&statement(&plane, "&fromMilliseconds=0").await);
    plane.stop().await;
}
