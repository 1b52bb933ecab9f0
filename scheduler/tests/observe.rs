//! What Prometheus asks: targets that outlive their agents, the scheduler's figures, and a token that opens no more.

mod common;

use common::Plane;
use nightshift_scheduler::edge::front;
use nightshift_scheduler::edge::observe::scrape_token;
use nightshift_scheduler::metrics::Metrics;
use nightshift_testkit::until;
use nightshift_wire::proto::{self, agent_message::Kind as Up};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tower::ServiceExt as _;

const GIB: u64 = 1 << 30;

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

async fn get(plane: &Plane, path: &str, token: &str) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(format!("http://{}{path}", plane.http)).bearer_auth(token).send().await.unwrap();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_string();
    Answer { status: answer.status().as_u16(), content_type, body: answer.text().await.unwrap() }
}

/// The scheduler leads soon after it listens; until then it answers 503, as a standby does.
async fn targets(plane: &Plane, query: &str, token: &str) -> Vec<Value> {
    let path = format!("/v1/prometheus/targets{query}");
    until("targets are listed", || async {
        let answer = get(plane, &path, token).await;
        if answer.status == 503 {
            assert!(answer.body.contains("error"), "{}", answer.body);
            return None;
        }
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"), "{}", answer.body);
        Some(serde_json::from_str(&answer.body).unwrap())
    })
    .await
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stays_a_target_while_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let token = std::fs::read_to_string(folder.path().join("prometheus.token")).unwrap();
    assert_eq!(token, scrape_token(&plane.gateway_token));
    let attic = plane.join("attic").await;
    let offer = proto::Offer { price_per_hour: "0.05".into(), region: "eu-north".into(), ..Default::default() };
    let session = attic.open(proto::Hello { offer: Some(offer), ..attic.hello(1, GIB) }).await.unwrap();
    let expected = json!([{
        "targets": [plane.http.to_string()],
        "labels": {
            "__metrics_path__": "/v1/nodes/attic/metrics", "__meta_nightshift_role": "agent",
            "instance": "attic", "node": "attic", "device_class": "cpu", "region": "eu-north",
        },
    }]);
    assert_eq!(Value::Array(targets(&plane, "?role=agent", &token).await), expected);
    let all = targets(&plane, "", &token).await;
    assert_eq!((all.len(), &all[0]["labels"]["__metrics_path__"]), (2, &json!("/metrics")));
    assert_eq!(targets(&plane, "?role=scheduler", &token).await.len(), 1);
    assert_eq!(get(&plane, "/v1/prometheus/targets?role=cook", &token).await.status, 400);

    drop(session);
    until("the session is seen to end", || async { (plane.leader.nodes().connected() == 0).then_some(()) }).await;
    assert_eq!(Value::Array(targets(&plane, "?role=agent", &token).await), expected);
    assert_eq!(get(&plane, "/v1/nodes/attic/metrics", &token).await.status, 502, "so that up is 0");
    let text = get(&plane, "/metrics", &token).await.body;
    assert_eq!(value(&text, "nightshift_scheduler_nodes{state=\"Lost\"}"), 1.0);
    assert_eq!(value(&text, "nightshift_edge_scrapes_total{result=\"failed\"}"), 1.0);

    // Who cordons a machine that is gone says that it is not missed.
    let patch = json!({ "spec": { "unschedulable": true } });
    let nodes: kube::Api<nightshift_crds::ComputeNode> = kube::Api::all(plane.client.clone());
    until("the node's object is there", || async { nodes.get("attic").await.ok() }).await;
    nodes.patch("attic", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    until("it is no target", || async { targets(&plane, "?role=agent", &token).await.is_empty().then_some(()) }).await;
    let again = attic.open(attic.hello(2, GIB)).await.unwrap();
    assert_eq!(targets(&plane, "?role=agent", &token).await.len(), 1, "a cordoned node that is there is scraped");
    drop(again);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrape_token_opens_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let token = scrape_token(&plane.gateway_token);
    for path in ["/v1/namespaces/default/jobs/x/results", "/v1/namespaces/default/jobs/x/explain", "/v1/tokens"] {
        assert_eq!(get(&plane, path, &token).await.status, 401, "{path}");
    }
    assert_eq!(get(&plane, "/v1/prometheus/targets", "wrong").await.status, 401);
    assert_eq!(get(&plane, "/v1/nodes/x/metrics", "wrong").await.status, 401);
    targets(&plane, "", &plane.gateway_token).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_follow_a_job_from_waiting_to_paid() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    plane.apply_job("j", &["1", "2"], json!({ "parallelism": 1 })).await;
    let figures = || async { get(&plane, "/metrics", "").await.body };
    let waiting = "nightshift_scheduler_pending_tasks{reason=\"NoNode\"}";
    until("both tasks wait for a node", || async { (value(&figures().await, waiting) == 2.0).then_some(()) }).await;
    until("time passes", || async {
        (value(&figures().await, "nightshift_scheduler_oldest_pending_job_seconds") > 0.0).then_some(())
    })
    .await;
    let pc = plane.join("pc").await;
    let mut session = pc.open(pc.hello(1, GIB)).await.unwrap();
    session.keep_alive();
    let first = session.assignment().await.unwrap();
    let text = figures().await;
    assert_eq!(value(&text, "nightshift_scheduler_pending_tasks{reason=\"Parallelism\"}"), 1.0);
    assert_eq!(value(&text, "nightshift_scheduler_jobs{state=\"Running\"}"), 1.0);
    let class = "{device_class=\"cpu\"}";
    assert_eq!(value(&text, &format!("nightshift_scheduler_device_memory_capacity_bytes{class}")), GIB as f64);
    assert_eq!(
        value(&text, &format!("nightshift_scheduler_device_memory_allocated_bytes{class}")),
        first.memory_bytes as f64
    );
    let reserved = value(&text, "nightshift_ledger_reserved_points");
    session.succeed(&first.attempt, "1").await;
    let second = session.assignment().await.unwrap();
    session.succeed(&second.attempt, "2").await;
    plane.status("j", "is complete", |status| status.succeeded == Some(2)).await;
    let text = figures().await;
    assert_eq!(value(&text, "nightshift_scheduler_nodes{state=\"Ready\"}"), 1.0);
    assert_eq!(value(&text, "nightshift_scheduler_placement_wait_seconds_count"), 2.0);
    assert_eq!(value(&text, "nightshift_ledger_entries_total"), 2.0);
    // Both were predicted, and judged once.
    let judged = |within: &str| value(&text, &format!("nightshift_placement_predictions_total{{within=\"{within}\"}}"));
    assert_eq!(
        (judged("p95") + judged("over"), value(&text, "nightshift_placement_prediction_ratio_count")),
        (2.0, 2.0)
    );
    assert_eq!(value(&text, "nightshift_ledger_reserved_points"), 0.0);
    let charged = value(&text, "nightshift_ledger_charged_points_total");
    assert!(reserved > 0.0 && (charged - 2.0 * reserved).abs() < 1e-12, "{charged} is not twice {reserved}");
    assert_eq!(charged, value(&text, "nightshift_ledger_earned_points_total"));
    assert!(value(&text, "nightshift_scheduler_journal_bytes_total") > 100.0);

    // An attempt that ends with its job is counted too: what was placed has ended or runs.
    plane.apply_job("gone", &["3"], json!({})).await;
    session.assignment().await.unwrap();
    plane.jobs().delete("gone", &Default::default()).await.unwrap();
    let ended = |result: &str| format!("nightshift_scheduler_attempts_finished_total{{result=\"{result}\"}}");
    until("its attempt is cancelled", || async { (value(&figures().await, &ended("Cancelled")) == 1.0).then_some(()) })
        .await;
    let text = figures().await;
    assert_eq!((value(&text, &ended("Succeeded")), value(&text, "nightshift_scheduler_placements_total")), (2.0, 3.0));
    plane.stop().await;
}

#[tokio::test]
async fn a_standby_says_that_it_does_not_lead() {
    let standby = front::standby(Metrics::new(), Arc::new(AtomicBool::new(true)));
    let ask = |path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let standby = standby.clone();
        async move {
            let answer = standby.oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        }
    };
    for path in ["/v1/prometheus/targets?role=agent", "/v1/nodes/attic/metrics"] {
        let (status, body) = ask(path).await;
        assert_eq!(status, 503, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().unwrap().contains("another one leads"), "{body}");
    }
    let (status, text) = ask("/metrics").await;
    assert_eq!((status, value(&text, "nightshift_scheduler_leader")), (200, 0.0));
    // What only the leader knows is not there: a standby must not say that there are no nodes.
    assert!(!text.contains("nightshift_scheduler_nodes"), "{text}");
}

/// What an agent says of a model on its way stands in the job's condition, in what `explain` reads, and in the metrics.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_how_far_its_models_are() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let attic = plane.join("attic").await;
    let mut session = attic.open(attic.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["1"], json!({})).await;
    let attempt = session.assignment().await.unwrap().attempt;
    let beat = |attempt: &str, download: Option<proto::Download>| {
        let running =
            proto::RunningAttempt { attempt: attempt.into(), phase: "Fetching".into(), download, ..Default::default() };
        let availability = Some(proto::Availability { available: true, ..Default::default() });
        Up::Heartbeat(proto::Heartbeat { running: vec![running], availability, ..Default::default() })
    };
    let third = Some(proto::Download { done_bytes: 340, total_bytes: 1000, seconds_left: Some(12) });
    // Of an attempt that is not its own nothing is believed.
    session.send(beat("test/nobody/0/1", third)).await;
    session.send(beat(&attempt, third)).await;
    let scheduled = |status: &nightshift_crds::InferenceJobStatus| {
        let found = status.conditions.iter().find(|condition| condition.type_ == "Scheduled");
        found.map(|condition| (condition.reason.clone(), condition.message.clone())).unwrap_or_default()
    };
    let words = "every task has a node; its model: downloading 34 %, 12 s left";
    let status = plane.status("j", "says how far it is", |status| scheduled(status).1 == words).await;
    assert_eq!((scheduled(&status).0.as_str(), status.active), ("Placed", Some(1)));
    let text = get(&plane, "/metrics", "").await.body;
    assert_eq!(value(&text, "nightshift_scheduler_attempts_downloading"), 1.0);
    let path = "/v1/namespaces/default/jobs/j/explain";
    let explained: Value = serde_json::from_str(&get(&plane, path, &plane.gateway_token).await.body).unwrap();
    assert_eq!(explained["message"], words, "{explained}");
    let download = json!({ "doneBytes": 340, "totalBytes": 1000, "percent": 34, "secondsLeft": 12 });
    assert_eq!(explained["tasks"][0]["download"], download, "{explained}");
    session.send(beat(&attempt, None)).await;
    plane.status("j", "has its model", |status| scheduled(status).1 == "every task has a node").await;
    plane.stop().await;
}
