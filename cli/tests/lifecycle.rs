//! Deleting and suspending with kubectl while the real agent works: what runs is stopped on the node, not only in the
//! books; what was done stays done.

mod common;

use common::{Home, Pool, children, condition, digits, example, is_alive, model, until};
use nightshift_state::{EmbeddedJournal, Event, Journal};
use serde_json::json;
use std::collections::BTreeSet;

/// A silence so long that finding no speech in it takes many seconds: nothing here waits for that.
fn long_silence(home: &Home) -> std::path::PathBuf {
    let path = home.write("sounds/silence.wav", []);
    let (channels, sample_rate, bits_per_sample) = (1, 16_000, 16);
    let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format: hound::SampleFormat::Int };
    let mut wav = hound::WavWriter::create(&path, spec).unwrap();
    let mut samples = wav.get_i16_writer(20 * 60 * sample_rate);
    (0..20 * 60 * sample_rate).for_each(|_| samples.write_sample(0i16));
    samples.flush().unwrap();
    wav.finalize().unwrap();
    path
}

/// The one worker of the pool's agent, once it is there.
fn worker(pool: &Pool) -> u32 {
    let agent = pool.agent_pid().expect("the agent's process");
    until("the agent starts a worker", || children(agent).into_iter().next())
}

#[test]
fn what_is_deleted_or_suspended_stops_on_its_node() {
    let home = Home::new();
    let wav = long_silence(&home);
    let allowed = format!("default={}", wav.parent().unwrap().display());
    let pool = Pool::up_with(&home, &["--seed", model().to_str().unwrap(), "--allow-files", &allowed]);
    pool.apply(&example("voice").join("model.yaml"));
    let job = |name: &str, more: &str| {
        format!(
            "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: {name}}}\nspec:\n  \
             modelRef: {{name: silero-vad}}\n  resources: {{deviceMemory: 2Gi}}\n  input: {{uri: \"file://{}\"}}\n{more}",
            wav.display()
        )
    };
    pool.apply_text("deleted", &job("deleted", ""));
    let computing = worker(&pool);
    pool.kubectl_ok(&["delete", "inferencejob", "deleted", "--timeout=60s"]);
    // A worker whose task ends by itself stays, warm for the next: only a cancelled one goes.
    until("the deleted job's worker is stopped", || (!is_alive(computing)).then_some(()));
    assert!(pool.kubectl_refused(&["get", "inferencejob", "deleted"]).contains("not found"));

    pool.apply_text("paused", &job("paused", ""));
    let computing = worker(&pool);
    pool.kubectl_ok(&["patch", "inferencejob", "paused", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    until("the suspended job's worker is stopped", || (!is_alive(computing)).then_some(()));
    let paused = pool.wait("paused", "Suspended");
    assert_eq!(condition(&paused, "Suspended")["reason"], "JobSuspended");
    let status = &paused["status"];
    assert_eq!((&status["state"], &status["active"], &status["failed"]), (&json!("Suspended"), &json!(0), &json!(0)));
    assert_eq!(status["cost"], "0");
    pool.kubectl_ok(&["patch", "inferencejob", "paused", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    // It runs again, from the start.
    let again = worker(&pool);
    pool.kubectl_ok(&["delete", "inferencejob", "paused", "--timeout=60s"]);
    until("the resumed job's worker is stopped", || (!is_alive(again)).then_some(()));

    pool.apply_text("slow", &job("slow", "  activeDeadlineSeconds: 1\n"));
    let failed = pool.wait("slow", "Failed");
    assert_eq!(condition(&failed, "Failed")["reason"], "DeadlineExceeded");
    // The node is free for others again, and is paid for what it completed alone.
    pool.apply(&example("voice"));
    let voice = pool.wait("voice", "Complete");
    let points = |value: &serde_json::Value| value.as_str().unwrap().parse::<nightshift_types::PicoPoints>().unwrap();
    let charged = points(&voice["status"]["cost"]);
    let node = pool.agent_node();
    until("the node has earned what was charged", || {
        (points(&pool.get(&format!("computenode/{node}"))["status"]["earned"]) == charged).then_some(())
    });
    pool.stop();
}

#[test]
fn a_batch_that_was_suspended_completes_and_does_nothing_twice() {
    const ROUNDS: usize = 5;
    const ROWS: usize = 200;
    let home = Home::new();
    let lines = std::fs::read_to_string(example("batch").join("digits.jsonl")).unwrap().repeat(ROUNDS);
    let file = home.write("batch/many.jsonl", lines);
    let pool = Pool::up_with(&home, &["--agents", "2", "--seed", &digits::model()]);
    pool.apply(&example("digits").join("model.yaml"));
    let uri = pool.cli_ok(&["push", file.to_str().unwrap(), "-o", "name"]);
    pool.apply_text(
        "many",
        &format!(
            "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: many}}\nspec:\n  \
             modelRef: {{name: digits}}\n  parallelism: 2\n  ttlSecondsAfterFinished: 3600\n  input: {{uri: \"{}\"}}\n",
            uri.trim()
        ),
    );
    let succeeded = |pool: &Pool| pool.get("inferencejob/many")["status"]["succeeded"].as_u64().unwrap_or(0);
    let patch = |spec: &str| {
        let patch = format!(r#"{{"spec":{spec}}}"#);
        pool.kubectl_ok(&["patch", "inferencejob", "many", "--type=merge", "-p", &patch]);
    };
    until("the batch is under way", || (succeeded(&pool) >= 20).then_some(()));
    patch(r#"{"suspend":true}"#);
    let paused = pool.wait("many", "Suspended");
    let before = paused["status"]["succeeded"].as_u64().unwrap();
    assert!((20..(ROUNDS * ROWS) as u64).contains(&before), "suspended after {before}");
    assert_eq!(paused["status"]["active"], 0);
    patch(r#"{"suspend":false,"parallelism":24}"#);
    let done = pool.wait("many", "Complete");
    assert_eq!((&done["status"]["failed"], done["status"]["succeeded"].as_u64()), (&json!(0), Some(1000)));
    let (labels, expected) = (digits::results(&pool, "many"), digits::answers(ROWS));
    assert_eq!(labels.len(), ROUNDS * ROWS);
    assert!(labels.values().zip(expected.iter().cycle()).all(|(label, expected)| label == expected), "{labels:?}");
    // Done is done: a job that lives for another hour goes at once when it says so.
    patch(r#"{"ttlSecondsAfterFinished":0}"#);
    until("the finished job is deleted", || (!pool.kubectl(&["get", "ij", "many"]).status.success()).then_some(()));
    pool.stop();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut journal = EmbeddedJournal::open(home.data().join("journal.redb")).await.unwrap();
        let mut done = BTreeSet::new();
        let mut each = |batch: nightshift_state::Batch| {
            for event in batch.events {
                if let Event::TaskSucceeded { attempt, .. } = event {
                    assert!(done.insert(attempt.task.clone()), "{attempt}: its task had succeeded before");
                }
            }
        };
        journal.load(&mut each).await.unwrap();
        assert_eq!(done.len(), ROUNDS * ROWS);
    });
}
