//! kill -9 in the middle of a batch: the next start completes it, and everything is settled once.

mod common;

use common::{Home, Pool, example, model, until};
use nightshift_state::{EmbeddedJournal, Event, Journal};
use std::collections::BTreeSet;
use std::fmt::Write;

const TASKS: usize = 400;

#[test]
fn a_killed_pool_completes_its_batch_and_settles_it_once() {
    let home = Home::new();
    let mut batch = String::new();
    for task in 0..TASKS {
        // Each line another sound: nothing can be answered from another task's result.
        let samples: Vec<String> =
            (0..512).map(|n| if n == task % 512 { "0.5".into() } else { "0".to_string() }).collect();
        writeln!(batch, "[[{}]]", samples.join(",")).unwrap();
    }
    let file = home.write("batch/batch.jsonl", batch);
    let allowed = format!("default={}", file.parent().unwrap().display());
    let seed = model();
    let args = ["--seed", seed.to_str().unwrap(), "--allow-files", &allowed];
    let manifest = format!(
        "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: batch}}\n\
         spec:\n  modelRef: {{name: silero-json}}\n  parallelism: 2\n  input: {{uri: \"file://{}\"}}\n",
        file.display()
    );

    let pool = Pool::up_with(&home, &args);
    pool.apply_text("model", &common::sound::json_model());
    pool.apply_text("job", &manifest);
    let done = |pool: &Pool| pool.get("inferencejob/batch")["status"]["succeeded"].as_u64().unwrap_or(0);
    until("the batch is in its middle", || (done(&pool) >= 20).then_some(()));
    let agent = pool.agent_pid().expect("the agent's process");
    pool.kill();
    until("the agent ends with it", || (!common::is_alive(agent)).then_some(()));

    let pool = Pool::up_with(&home, &args);
    let before = done(&pool);
    assert!(before < TASKS as u64, "the kill came too late: all {before} were done");
    let job = pool.wait("batch", "Complete");
    assert_eq!(job["status"]["succeeded"], TASKS);
    assert_eq!(job["status"]["progress"], format!("{TASKS}/{TASKS}"));
    assert_eq!(job["status"]["completedIndexes"], format!("0-{}", TASKS - 1));
    assert_eq!(pool.cli_ok(&["results", "batch"]).lines().count(), TASKS);
    // A good job of another model still runs beside what was recovered.
    pool.apply(&example("voice"));
    let voice = pool.wait("voice", "Complete");
    let points = |value: &serde_json::Value| value.as_str().unwrap().parse::<nightshift_types::PicoPoints>().unwrap();
    let charged = points(&job["status"]["cost"]) + points(&voice["status"]["cost"]);
    let node = pool.agent_node();
    let earned = until("the node's earnings are written", || {
        let earned = points(&pool.get(&format!("computenode/{node}"))["status"]["earned"]);
        (earned >= charged).then_some(earned)
    });
    assert_eq!(earned, charged, "what jobs were charged is what the node earned");
    pool.stop();
    settled_once(&home);
}

/// Reads the journal itself: one success a task, each of an attempt of its own.
fn settled_once(home: &Home) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut journal = EmbeddedJournal::open(home.data().join("journal.redb")).await.unwrap();
        let (mut tasks, mut successes) = (BTreeSet::new(), 0);
        let mut each = |batch: nightshift_state::Batch| {
            for event in &batch.events {
                if let Event::TaskSucceeded { attempt, .. } = event {
                    successes += 1;
                    assert!(tasks.insert(attempt.task.clone()), "{attempt}: its task had succeeded before");
                }
            }
        };
        journal.load(&mut each).await.unwrap();
        assert_eq!((successes, tasks.len()), (TASKS + 1, TASKS + 1));
    });
}
