//! What fails, and that the next task does not.

use crate::common::{Lab, digest, json, port, silero, spec, task, until};
use nightshift_agent::engine::Task;
use nightshift_types::{Bytes, Codec, Digest, FailureReason};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use tokio_util::sync::CancellationToken;

async fn fails(lab: &Lab, task: Task, reason: FailureReason, words: &[&str]) {
    let failed = lab.run(task).await.unwrap_err();
    assert_eq!(failed.reason, reason, "{failed}");
    for word in words {
        assert!(failed.message.contains(word), "{word:?} is not in {failed}");
    }
    let host = lab.folder.path().to_str().unwrap();
    assert!(!failed.message.contains(host) && failed.message.chars().count() <= 500, "{failed}");
}

async fn works(lab: &Lab) {
    assert_eq!(json(&lab.run(lab.affine()).await.unwrap()), serde_json::json!([3.0, 5.0, 7.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_models() {
    let lab = Lab::new();
    let good = lab.affine();
    let bytes = std::fs::read(&good.model_path).unwrap();
    let path = lab.folder.path().join("broken.pt");
    for (index, content) in [&bytes[..bytes.len() / 2], b"no model", b""].into_iter().enumerate() {
        std::fs::write(&path, content).unwrap();
        let mut broken = task(&path, good.spec.clone());
        broken.input = good.input.clone();
        let words: &[&str] = if index == 0 { &["libtorch cannot load the model"] } else { &[] };
        fails(&lab, broken, FailureReason::ModelLoadFailed, words).await;
    }
    let mut wrong = good.clone();
    wrong.model_digest = Digest([7; 32]);
    fails(&lab, wrong, FailureReason::DigestMismatch, &["sha256:0707"]).await;
    let mut gone = good;
    gone.model_path = lab.folder.path().join("gone.pt");
    gone.model_digest = Digest([8; 32]);
    fails(&lab, gone, FailureReason::Internal, &["cannot be opened"]).await;
    works(&lab).await;
    assert_eq!(lab.workers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_none() {
    let lab = Lab::new();
    let mut text = lab.affine();
    text.input = b"[1, oops]".to_vec();
    fails(&lab, text.clone(), FailureReason::InputInvalid, &["\"x\"", "line 1"]).await;
    text.parameters.insert("threshold".into(), "0.5".into());
    fails(&lab, text.clone(), FailureReason::InputInvalid, &["threshold"]).await;
    text.parameters.clear();
    text.input = vec![b' '; 300 << 20];
    fails(&lab, text, FailureReason::InputInvalid, &["at most 256Mi"]).await;
    works(&lab).await;
    assert_eq!(lab.workers().len(), 1, "bad inputs cost no worker");

    let Some(mut voice) = silero() else { return };
    voice.input = b"RIFF\x00\x00\x00\x00WAVE and then nothing".to_vec();
    fails(&lab, voice, FailureReason::InputInvalid, &["\"audio\"", "WAV"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_fail() {
    let lab = Lab::new();
    let mut shapes = lab.busy("shapes", 4, 1);
    shapes.spec.inputs[0].shape = vec![3, -1];
    shapes.input = vec![0; 24];
    fails(&lab, shapes, FailureReason::ModelExecutionFailed, &["forward", "cannot be multiplied"]).await;
    let mut method = lab.affine();
    method.spec.method = "backward".into();
    fails(&lab, method, FailureReason::ModelExecutionFailed, &["backward", "is not defined"]).await;
    let mut output = lab.affine();
    output.spec.outputs.push(port("z", Codec::Json, &[]));
    fails(&lab, output, FailureReason::OutputInvalid, &["\"z\"", "1 values"]).await;
    let mut device = lab.affine();
    device.device = "cuda77".into();
    fails(&lab, device, FailureReason::Internal, &["cuda77"]).await;
    works(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_over_the_limit() {
    let lab = Lab::with(|config| config.max_output = Bytes(1000));
    let mut large = lab.affine();
    large.input = format!("[{}]", vec!["1"; 600].join(",")).into_bytes();
    fails(&lab, large, FailureReason::OutputInvalid, &["at most 1000"]).await;
    works(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_a_typed_failure() {
    let lab = Lab::new();
    let x = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    let spec = spec(vec![port("x", Codec::Tensor, &[-1])], vec![port("y", Codec::Json, &[])]);
    let mut greedy = lab.traced("greedy", &[x], spec, |xs| vec![xs[0].outer(&xs[0]).sum(Kind::Float)]);
    // 30,000² float32: 3.4 GiB.
    greedy.input = vec![0; 4 * 30_000];
    greedy.memory_limit = Bytes::mebi(512);
    fails(&lab, greedy, FailureReason::OutOfMemory, &["memory"]).await;
    works(&lab).await;
}

/// A task that runs until it is stopped, and the worker it runs on.
async fn endless(lab: &Lab) -> Task {
    // A traced chain is run as it is, and each product takes some tenths of a second. A chain of some ten thousand
    // would overflow the worker's stack in libtorch's passes over the graph, which recurse, after a second or two.
    let mut slow = lab.busy("endless", 1536, 1_000);
    slow.deadline = Duration::from_secs(600);
    let (engine, first) = (lab.engine.clone(), slow.clone());
    let cancel = CancellationToken::new();
    let warm = tokio::spawn({
        let cancel = cancel.clone();
        async move { engine.run(first, cancel).await }
    });
    until("the worker's start", || lab.workers().len() == 1 && !lab.engine.loaded().is_empty()).await;
    cancel.cancel();
    assert_eq!(warm.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
    until("the worker's end", || lab.workers().is_empty()).await;
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_frees_its_worker_at_once() {
    let lab = Lab::new();
    endless(&lab).await;
    assert!(lab.engine.loaded().is_empty());
    works(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_can_be_cancelled() {
    let lab = Lab::new();
    let slow = endless(&lab).await;
    let stop = CancellationToken::new();
    let (engine, first, token) = (lab.engine.clone(), slow.clone(), stop.clone());
    let running = tokio::spawn(async move { engine.run(first, token).await });
    until("the worker's start", || !lab.engine.loaded().is_empty()).await;
    let queued = CancellationToken::new();
    let (engine, second, token) = (lab.engine.clone(), slow, queued.clone());
    let waiting = tokio::spawn(async move { engine.run(second, token).await });
    tokio::task::yield_now().await;
    queued.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
    assert_eq!(lab.workers().len(), 1, "the running task goes on");
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_task_ends_at_its_deadline() {
    let lab = Lab::new();
    let mut slow = endless(&lab).await;
    slow.deadline = Duration::from_millis(1500);
    let began = Instant::now();
    fails(&lab, slow, FailureReason::DeadlineExceeded, &["1500 ms"]).await;
    assert!(began.elapsed() < Duration::from_secs(60), "the model itself takes minutes");
    until("the worker's end", || lab.workers().is_empty()).await;
    works(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_one_failed_task() {
    let lab = Lab::new();
    let slow = endless(&lab).await;
    for (signal, name) in [(Signal::SIGKILL, "SIGKILL"), (Signal::SIGSEGV, "SIGSEGV")] {
        let (engine, task) = (lab.engine.clone(), slow.clone());
        let run = tokio::spawn(async move { engine.run(task, CancellationToken::new()).await });
        until("the worker's start", || !lab.engine.loaded().is_empty()).await;
        let worker = Pid::from_raw(lab.workers()[0]);
        // Rust's handler takes a first SIGSEGV from outside for a fault, and waits for it to come again.
        while !run.is_finished() {
            let _ = kill(worker, signal);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let failed = run.await.unwrap().unwrap_err();
        assert_eq!(failed.reason, FailureReason::WorkerCrashed);
        assert!(failed.message.contains(name), "{failed}");
        until("the worker's end", || lab.workers().is_empty()).await;
    }
    works(&lab).await;
    // An idle one that dies fails nothing.
    kill(Pid::from_raw(lab.workers()[0]), Signal::SIGKILL).unwrap();
    until("the worker's end", || lab.workers().is_empty()).await;
    works(&lab).await;
}

/// Not a test by itself: an agent to be killed by the next one, which says where to run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by workers_die_with_their_agent"]
async fn an_agent_that_is_killed() {
    let Ok(folder) = std::env::var("NIGHTSHIFT_TEST_FOLDER") else { return };
    let lab = Lab::with(|config| config.runtime_dir = folder.into());
    works(&lab).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_die_with_their_agent() {
    let lab = Lab::new();
    std::fs::create_dir(lab.folder.path().join("run")).unwrap();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "failures::an_agent_that_is_killed", "--ignored"])
        .env("NIGHTSHIFT_TEST_FOLDER", lab.folder.path().join("run"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the worker's start", || !lab.workers().is_empty()).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("the worker's end", || lab.workers().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_killed_at_the_deadline() {
    let lab = Lab::new();
    works(&lab).await;
    kill(Pid::from_raw(lab.workers()[0]), Signal::SIGSTOP).unwrap();
    let mut task = lab.affine();
    task.deadline = Duration::from_millis(200);
    fails(&lab, task, FailureReason::DeadlineExceeded, &[]).await;
    until("the worker's end", || lab.workers().is_empty()).await;
    works(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_after_shutdown() {
    let lab = Lab::new();
    let before = shared_memory();
    let slow = endless(&lab).await;
    works(&lab).await;
    let engine = lab.engine.clone();
    let run = tokio::spawn(async move { engine.run(slow, CancellationToken::new()).await });
    until("both workers", || lab.engine.loaded().len() == 2).await;
    lab.engine.shutdown().await;
    assert!(lab.workers().is_empty());
    assert_eq!(run.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
    assert_eq!(lab.run(lab.affine()).await.unwrap_err().reason, FailureReason::Cancelled);
    assert_eq!(shared_memory(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_end_with_the_last_clone_of_their_engine() {
    let Lab { engine, folder } = Lab::new();
    let lab = Lab { engine, folder };
    works(&lab).await;
    let Lab { engine, folder } = lab;
    drop(engine);
    let lab = Lab { engine: Lab::new().engine, folder };
    until("the worker's end", || lab.workers().is_empty()).await;
}

/// Files in the system's folder of shared memory: ours have no name, so none may ever be added.
fn shared_memory() -> usize {
    std::fs::read_dir("/dev/shm").map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("nightshift")).count()
    })
}

#[test]
fn digests_are_sha256() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    std::fs::write(&path, b"").unwrap();
    assert!(digest(&path).to_string().starts_with("sha256:e3b0c442"));
}
