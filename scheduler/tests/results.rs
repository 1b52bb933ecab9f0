//! Results through the gateway, as streams; and blobs, which live with what refers to them.

mod common;

use common::{Limits, Plane, model};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nightshift_crds::{JobState, ModelArtifact};
use nightshift_testkit::agent::SimulatedSession;
use nightshift_testkit::until;
use nightshift_types::FailureReason;
use nightshift_wire::convert::{Output, OutputPlace};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(2);
const GIB: u64 = 1 << 30;

struct Gateway {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Gateway {
    fn of(plane: &Plane) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}/v1/namespaces/default", plane.http);
        Self { http, base, token: plane.gateway_token.clone() }
    }

    async fn get(&self, path: &str, range: Option<&str>) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        range.into_iter().fold(request, |request, range| request.header("range", range)).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        self.get(path, None).await.error_for_status().unwrap().text().await.unwrap()
    }

    async fn push(&self, bytes: &[u8]) -> String {
        let request = self.http.post(format!("{}/blobs", self.base)).bearer_auth(&self.token).body(bytes.to_vec());
        let answer: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        answer["digest"].as_str().unwrap().to_string()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
    folder.join("blobs/sha256").join(hex::encode(Sha256::digest(bytes)))
}

async fn gone(what: &str, path: PathBuf) {
    until(&format!("{what} is removed"), || async { (!path.exists()).then_some(()) }).await;
}

/// Puts a large result and reports it.
async fn succeed_with(session: &mut SimulatedSession, attempt: &str, content_type: &str, bytes: &[u8]) {
    let blob = session.put(attempt, bytes).await.unwrap();
    let place = OutputPlace::Blob(nightshift_wire::convert::blob("blob", &Some(blob)).unwrap());
    session.report(attempt, Ok(Output { content_type: content_type.into(), place })).await;
    session.acknowledged(attempt).await.unwrap();
}

async fn node(plane: &Plane, name: &str) -> SimulatedSession {
    let agent = plane.join(name).await;
    let session = agent.open(agent.hello(1, GIB)).await.unwrap();
    session.keep_alive();
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_any_size_come_as_lines_and_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let mut session = node(&plane, "a").await;
    let large: Vec<u8> = (0..5 << 20).map(|n: u32| (n % 253) as u8).collect();
    let list: Vec<u32> = (0..200_000).collect();
    let text = serde_json::to_string_pretty(&json!({ "list": list })).unwrap();
    plane.apply_job("j", &["[0]", "[1]", "[2]", "[3]"], json!({ "parallelism": 1 })).await;
    for index in 0..3 {
        let attempt = session.assignment().await.unwrap().attempt;
        match index {
            0 => session.succeed(&attempt, "{\n\"small\": 1.0}").await,
            1 => succeed_with(&mut session, &attempt, "application/octet-stream", &large).await,
            _ => succeed_with(&mut session, &attempt, "application/json", text.as_bytes()).await,
        }
    }
    session.assignment().await.unwrap();
    let gateway = Gateway::of(&plane);
    let all = gateway.text("/jobs/j/results").await;
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "a line a result, and the fourth task runs");
    assert_eq!(lines[0], "{\"index\":0,\"contentType\":\"application/json\",\"output\":{ \"small\": 1.0}}");
    let second: Value = serde_json::from_str(lines[1]).unwrap();
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(second["outputBase64"].as_str().unwrap()).unwrap();
    assert!(second["index"] == 1 && decoded == large, "the large one too");
    let third: Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(third["output"]["list"][199_999], 199_999);
    // Where a client was cut off it goes on, in the midst of a line too.
    let skip = lines[1].len() - 10;
    let rest = gateway.text(&format!("/jobs/j/results?from=1&skip={skip}")).await;
    assert_eq!(rest, all[lines[0].len() + 1 + skip..]);
    assert_eq!(gateway.text("/jobs/j/results?from=2&count=2").await.lines().count(), 1);
    assert_eq!(gateway.text("/jobs/j/results?from=9").await, "");
    let sizes = gateway.text("/jobs/j/results?largest=1000").await;
    assert!(sizes.contains(&format!("\"size\":{}}}", large.len())) && sizes.lines().count() == 3, "{sizes}");
    // One by itself, or the rest of it.
    let one = gateway.get("/jobs/j/results/1", None).await;
    assert_eq!(one.headers()["content-type"], "application/octet-stream");
    assert_eq!(one.headers()["content-length"], large.len().to_string().as_str());
    assert_eq!(digest(&one.bytes().await.unwrap()), digest(&large));
    let rest = gateway.get("/jobs/j/results/1", Some("bytes=1000000-")).await;
    assert_eq!(rest.status(), 206);
    assert_eq!(digest(&rest.bytes().await.unwrap()), digest(&large[1_000_000..]));
    for nothing in ["/jobs/j/results/3", "/jobs/j/results/99", "/jobs/x/results", "/jobs/x/results/0"] {
        assert_eq!(gateway.get(nothing, None).await.status(), 404, "{nothing}");
    }
    assert_eq!(gateway.get("/jobs/j/results?form=1", None).await.status(), 400);
    // What is lost is said where it would have stood; the others are not lost with it.
    std::fs::remove_file(file(folder.path(), &large)).unwrap();
    let lost = gateway.text("/jobs/j/results").await;
    let second: Value = serde_json::from_str(lost.lines().nth(1).unwrap()).unwrap();
    assert!(second["error"].as_str().unwrap().contains("not in the blob store"), "{second}");
    assert_eq!(gateway.get("/jobs/j/results/1", None).await.status(), 410);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_with_the_last_that_refers_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let plane = Plane::start_as(folder, Limits { blob_grace: GRACE, ..Limits::default() }).await;
    plane.apply_model().await;
    let gateway = Gateway::of(&plane);
    // A model of its own; and a file that nobody ever names.
    let models: Api<ModelArtifact> = Api::namespaced(plane.client.clone(), "default");
    models.create(&PostParams::default(), &model("other", b"another model")).await.unwrap();
    assert_eq!(gateway.push(b"another model").await, digest(b"another model"));
    gateway.push(b"never named").await;
    assert!(file(folder, b"never named").exists());

    let mut session = node(&plane, "a").await;
    plane.apply_job("j", &["[1, 2, 3]"], json!({})).await;
    plane.apply_job("stays", &["[4, 5, 6]"], json!({ "suspend": true })).await;
    let first = session.assignment().await.unwrap().attempt;
    session.put(&first, b"the result of an attempt that fails then").await.unwrap();
    session.report(&first, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
    let second = session.assignment().await.unwrap().attempt;
    succeed_with(&mut session, &second, "text/plain", b"a result in the blob store").await;
    plane.status("j", "completes", |s| s.state == Some(JobState::Complete)).await;
    gone("what was pushed and never named", file(folder, b"never named")).await;
    gone("the upload of a superseded attempt", file(folder, b"the result of an attempt that fails then")).await;
    let staged = std::fs::read_dir(folder.join("blobs/grants")).unwrap().flatten();
    assert_eq!(staged.filter(|entry| entry.file_name().to_string_lossy().starts_with("_staging")).count(), 0);
    // By now the grace of all that lives is over too.
    assert_eq!(gateway.get("/jobs/j/results/0", None).await.bytes().await.unwrap(), &b"a result in the blob store"[..]);
    for lives in [&b"[1, 2, 3]"[..], b"[4, 5, 6]", b"another model", common::MODEL] {
        assert!(file(folder, lives).exists(), "{}", String::from_utf8_lossy(lives));
    }
    let ttl = Patch::Merge(json!({ "spec": { "ttlSecondsAfterFinished": 0 } }));
    plane.jobs().patch("j", &PatchParams::default(), &ttl).await.unwrap();
    models.delete("other", &DeleteParams::default()).await.unwrap();
    gone("the result", file(folder, b"a result in the blob store")).await;
    gone("the input", file(folder, b"[1, 2, 3]")).await;
    gone("the model", file(folder, b"another model")).await;
    assert!(file(folder, b"[4, 5, 6]").exists() && file(folder, common::MODEL).exists());
    until("the metrics say so", || async {
        let url = format!("http://{}/metrics", plane.http);
        let text = gateway.http.get(url).send().await.unwrap().text().await.unwrap();
        let bytes = 9 + common::MODEL.len();
        let wanted = [
            "nightshift_blobs_collected_total 5".to_string(),
            "nightshift_blobs_held 2".to_string(),
            format!("nightshift_blobs_bytes{{use=\"live\"}} {bytes}"),
        ];
        wanted.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;
    plane.stop().await;
}
