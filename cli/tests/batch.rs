//! 200 digits on three agents that `nightshift up --agents 3` starts: every index once, the right answers, work for
//! everybody, never more at once than `parallelism`; as items, out of a file and out of a ConfigMap.

mod common;

use common::{Home, Pool, digits, example, text};
use nightshift_state::{EmbeddedJournal, Event, Journal};
use nightshift_types::JobId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

const MANY: usize = 200;
const AGENTS: usize = 3;

#[test]
fn two_hundred_digits_on_three_agents() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--agents", "3", "--seed", &digits::model()]);
    assert!(pool.cli_ok(&["status"]).contains("3 ready of 3"), "{}", pool.cli_ok(&["nodes"]));
    pool.apply(&example("digits").join("model.yaml"));
    pool.apply(&example("batch"));
    let job = pool.wait("batch", "Complete");
    let right = digits::expected()["batch"]["right"].clone();
    digits::check(&digits::results(&pool, "batch"), MANY, &right);
    assert_eq!(job["status"]["succeeded"], MANY);
    assert_eq!(job["status"]["completedIndexes"], format!("0-{}", MANY - 1));
    assert_eq!(job["status"]["nodes"].as_array().unwrap().len(), AGENTS, "{}", job["status"]["nodes"]);
    accuracy_as_documented(&pool);
    let all: Value = serde_json::from_str(&pool.cli_ok(&["results", "batch", "-o", "json"])).unwrap();
    assert_eq!(all.as_array().unwrap().len(), MANY);
    assert_eq!(pool.cli_ok(&["results", "batch", "--from", &(MANY - 3).to_string()]).lines().count(), 3);
    let last: Value = serde_json::from_str(&pool.cli_ok(&["results", "batch", "--index", "7", "-o", "raw"])).unwrap();
    assert_eq!(last, all[7]["output"]);

    // The same out of a file in the blob store; `push` prints what stands in the manifest.
    let pushed = pool.cli_ok(&["push", example("batch").join("digits.jsonl").to_str().unwrap(), "-o", "name"]);
    pool.apply(&example("batch").join("from-a-file"));
    let from_file = pool.wait("batch-file", "Complete");
    assert_eq!(from_file["spec"]["input"]["uri"], pushed.trim());
    digits::check(&digits::results(&pool, "batch-file"), MANY, &right);

    // And out of a ConfigMap's key.
    let file = format!("--from-file={}", example("batch").join("digits.jsonl").display());
    pool.kubectl_ok(&["create", "configmap", "digits", &file]);
    pool.apply_text(
        "config-map",
        "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {name: batch-map}\nspec:\n  \
         modelRef: {name: digits}\n  input: {configMapKeyRef: {name: digits, key: digits.jsonl}}\n",
    );
    pool.wait("batch-map", "Complete");
    digits::check(&digits::results(&pool, "batch-map"), MANY, &right);
    pool.stop();
    journal_agrees(&home, job["metadata"]["uid"].as_str().unwrap(), job["spec"]["parallelism"].as_u64().unwrap());
}

/// The README's command says the README's figure.
fn accuracy_as_documented(pool: &Pool) {
    let mut results = pool.home.command().args(["results", "batch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut python = Command::new("python3");
    let said = python.arg(example("batch").join("accuracy.py")).stdin(results.stdout.take().unwrap()).output().unwrap();
    assert!(results.wait().unwrap().success());
    let readme = std::fs::read_to_string(example("batch").join("README.md")).unwrap();
    assert!(said.status.success() && readme.contains(&format!("    {}", text(&said))), "{}", text(&said));
}

/// Reads the journal's events with code that shares nothing with the fold.
fn journal_agrees(home: &Home, uid: &str, parallelism: u64) {
    let wanted = JobId::new(uid).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut journal = EmbeddedJournal::open(home.data().join("journal.redb")).await.unwrap();
        let mut running = BTreeMap::new();
        let mut done: BTreeMap<u32, String> = BTreeMap::new();
        let mut each = |batch: nightshift_state::Batch| {
            for event in batch.events {
                match event {
                    Event::TaskPlaced { attempt, node, .. } if attempt.task.job == wanted => {
                        running.insert(attempt, node.to_string());
                        assert!(running.len() as u64 <= parallelism, "{} run at once", running.len());
                    }
                    Event::TaskSucceeded { attempt, .. } if attempt.task.job == wanted => {
                        let node = running.remove(&attempt).expect("what succeeds was placed");
                        assert_eq!(done.insert(attempt.task.index, node), None, "{attempt}: its task had succeeded");
                    }
                    Event::AttemptFailed { attempt, .. } if attempt.task.job == wanted => {
                        running.remove(&attempt);
                    }
                    _ => {}
                }
            }
        };
        journal.load(&mut each).await.unwrap();
        assert_eq!(done.keys().copied().collect::<Vec<_>>(), (0..MANY as u32).collect::<Vec<_>>());
        assert_eq!(done.values().collect::<BTreeSet<_>>().len(), AGENTS, "every agent did some of it");
    });
}
