//! The one-shot uses of the worker: proving a model, measuring a machine, and the program's own subcommands.

use crate::common::{Lab, PROGRAM, silero};
use nightshift_agent::device;
use nightshift_agent::engine::{ProveReport, Task};
use std::process::Command;

fn prove(task: &Task, more: &[&str]) -> (bool, String) {
    let spec = serde_json::to_string(&task.spec).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["prove", "--model"]).arg(&task.model_path).args(["--spec", &spec]).args(more);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_good_model_is_proven() {
    let Some(task) = silero() else { return };
    let (ok, text) = prove(&task, &["--digest", &task.model_digest.to_string(), "--memory", "1000000000"]);
    assert!(ok, "{text}");
    let report: ProveReport = serde_json::from_str(&text).unwrap();
    assert!(report.method_found && report.load_milliseconds > 0.0);
    assert!(report.compute_milliseconds.unwrap() > 0.0);
    assert!(report.peak_memory_bytes > report.empty_process_bytes && report.empty_process_bytes > 10_000_000);
}

#[test]
fn open_sizes_are_loaded_but_not_run() {
    let lab = Lab::new();
    let (ok, text) = prove(&lab.affine(), &[]);
    assert!(ok, "{text}");
    let report: ProveReport = serde_json::from_str(&text).unwrap();
    assert_eq!(report.compute_milliseconds, None);
}

#[test]
fn a_bad_model_is_refused_with_a_reason() {
    let lab = Lab::new();
    let mut task = lab.affine();
    let (ok, text) = prove(&task, &["--digest", &format!("sha256:{}", "00".repeat(32))]);
    assert!(!ok && text.contains("\"reason\":\"DigestMismatch\""), "{text}");
    task.spec.method = "nothing".into();
    let (ok, text) = prove(&task, &[]);
    assert!(!ok && text.contains("ModelExecutionFailed") && text.contains("no method"), "{text}");
    std::fs::write(&task.model_path, b"no model").unwrap();
    let (ok, text) = prove(&task, &[]);
    assert!(!ok && text.contains("ModelLoadFailed"), "{text}");
    let (ok, text) = prove(&task, &["--colour", "red"]);
    assert!(!ok && text.is_empty());
}

#[tokio::test]
async fn a_machine_is_measured() {
    let measured = device::measure(PROGRAM.as_ref()).await.unwrap();
    assert!(measured.gigaflops > 0 && measured.memory_bandwidth > 1_000_000 && measured.load_bandwidth > 0);
    assert!(device::probe(PROGRAM.as_ref(), 50).await.iter().any(|device| device.name == "cpu0"));
}

#[test]
fn a_worker_is_not_started_by_hand() {
    for args in [&["worker"][..], &["worker", "--control-fd", "0"], &["worker", "--control-fd", "99"]] {
        let output = Command::new(PROGRAM).args(args).stdin(std::process::Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
    }
}
