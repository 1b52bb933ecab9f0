//! Hostile models, through the engine and the proving run: what they aim at stays as it was, and the next task succeeds.
//! Where the kernel has no Landlock or no seccomp there is nothing to test, and it is said aloud.

#[path = "worker/common.rs"]
#[allow(dead_code)]
mod common;

use common::{Lab, PROGRAM, checkout, json, port, spec, task};
use nightshift_agent::engine::{Failed, Output, Task};
use nightshift_types::{Bytes, Codec, FailureReason, Port};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SECRET: &[u8] = b"the owner's own bytes, 32 of them";

/// Whether this machine's kernel has what the tests are about.
async fn confined() -> bool {
    let sandbox = nightshift_agent::device::sandbox(PROGRAM.as_ref()).await.unwrap();
    if !sandbox.is_whole() {
        eprintln!("skipped: {sandbox}");
    }
    sandbox.is_whole()
}

/// A file of the host that the worker's user may read and write, and whose folder too.
fn target(lab: &Lab) -> PathBuf {
    let path = lab.folder.path().join("host-file");
    std::fs::write(&path, SECRET).unwrap();
    path
}

/// A task for one of `fixtures/hostile`, which goes for `path`.
fn hostile(name: &str, path: &Path) -> Task {
    let text = serde_json::to_string(path.to_str().unwrap()).unwrap();
    let constant = Port { constant: Some(text), ..port("path", Codec::Json, &[]) };
    let spec = spec(vec![port("x", Codec::Json, &[2]), constant], vec![port("y", Codec::Json, &[])]);
    let mut task = task(&checkout().join(format!("agent/tests/fixtures/hostile/{name}.pt")), spec);
    task.input = b"[1, 2]".to_vec();
    task
}

/// Runs it; then the host's file is as it was, and a good model runs.
async fn attempt(lab: &Lab, task: Task, path: &Path) -> Result<Output, Failed> {
    let result = lab.run(task).await;
    assert_eq!(std::fs::read(path).unwrap(), SECRET, "the host's file was changed");
    assert_eq!(json(&lab.run(lab.affine()).await.unwrap()), serde_json::json!([3.0, 5.0, 7.0]));
    result
}

fn is(result: Result<Output, Failed>, reason: FailureReason, words: &str) {
    let failed = result.unwrap_err();
    assert_eq!(failed.reason, reason, "{failed}");
    assert!(failed.message.contains(words), "{words:?} is not in {failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_reads_a_file() {
    if !confined().await {
        return;
    }
    let lab = Lab::new();
    let path = target(&lab);
    let result = attempt(&lab, hostile("read", &path), &path).await;
    is(result, FailureReason::ModelExecutionFailed, "Permission denied");
    // What belongs to the agent's own process, which has the same user.
    for name in ["environ", "maps", "cmdline"] {
        let own = PathBuf::from(format!("/proc/{}/{name}", std::process::id()));
        is(lab.run(hostile("read", &own)).await, FailureReason::ModelExecutionFailed, "Permission denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_maps_a_file_and_writes_into_it() {
    if !confined().await {
        return;
    }
    let lab = Lab::new();
    let path = target(&lab);
    let result = attempt(&lab, hostile("map", &path), &path).await;
    is(result, FailureReason::ModelExecutionFailed, "Permission denied");
    let new = lab.folder.path().join("new-file");
    is(lab.run(hostile("map", &new)).await, FailureReason::ModelExecutionFailed, "");
    assert!(!new.exists());
}

/// libtorch's `save` does not look whether its file could be opened: the attempt goes on, and has written nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_writes_a_file() {
    if !confined().await {
        return;
    }
    let lab = Lab::new();
    let path = target(&lab);
    let output = attempt(&lab, hostile("write", &path), &path).await.unwrap();
    assert_eq!(json(&output), serde_json::json!([1.0, 2.0]));
    let new = lab.folder.path().join("run/new-file");
    lab.run(hostile("write", &new)).await.unwrap();
    assert!(!new.exists());
}

/// TorchScript may run code while it is loaded: the walls are there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_writes_while_it_is_loaded() {
    if !confined().await {
        return;
    }
    let lab = Lab::new();
    let path = target(&lab);
    let output = attempt(&lab, hostile("on-load", &path), &path).await.unwrap();
    assert_eq!(json(&output), serde_json::json!([5.0, 6.0]), "its loading code has run");
    assert_eq!(std::fs::read_dir(lab.folder.path().join("run")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_ends() {
    let lab = Lab::new();
    let path = target(&lab);
    let mut endless = hostile("loop", &path);
    endless.deadline = Duration::from_secs(3);
    is(attempt(&lab, endless, &path).await, FailureReason::DeadlineExceeded, "3000 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_all_memory() {
    let lab = Lab::new();
    let path = target(&lab);
    let mut greedy = hostile("grow", &path);
    greedy.memory_limit = Bytes::mebi(256);
    is(attempt(&lab, greedy, &path).await, FailureReason::OutOfMemory, "");
}

/// The proving run has the scheduler's user, and stands beside its credentials.
#[tokio::test]
async fn a_proving_run_reads_and_writes_nothing() {
    if !confined().await {
        return;
    }
    let lab = Lab::new();
    let path = target(&lab);
    let prove = |name: &str, folder: &Path| {
        let mut task = hostile(name, &path);
        task.spec.inputs[0].codec = Codec::Tensor;
        let spec = serde_json::to_string(&task.spec).unwrap();
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder).args(["prove", "--model"]).arg(&task.model_path).args(["--spec", &spec]);
        let output = command.output().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), SECRET, "the host's file was changed");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    for name in ["read", "map"] {
        let (ok, text) = prove(name, lab.folder.path());
        assert!(!ok && text.contains("ModelExecutionFailed") && text.contains("Permission denied"), "{text}");
    }
    let empty = lab.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for name in ["write", "on-load"] {
        let (ok, text) = prove(name, &empty);
        assert!(ok && text.contains("\"seccomp\":true"), "{text}");
    }
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}
