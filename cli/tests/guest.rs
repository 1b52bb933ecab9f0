//! The owner of one of two machines returns, through the whole pool: their work is handed back, blamed on nobody, and ends on
//! the other machine.

mod common;

use common::{Home, Pool, condition, example, model, until};

/// How often the example's six seconds are repeated: work that is still running when the owner returns.
const TIMES: usize = 40;

/// The example's sound, many times over.
fn long_sound(home: &Home) -> std::path::PathBuf {
    let wav = std::fs::read(example("voice").join("speech.wav")).unwrap();
    let (head, samples) = wav.split_at(44);
    let all = samples.repeat(TIMES);
    let mut head = head.to_vec();
    head[4..8].copy_from_slice(&u32::try_from(all.len() + 36).unwrap().to_le_bytes());
    head[40..44].copy_from_slice(&u32::try_from(all.len()).unwrap().to_le_bytes());
    home.write("long.wav", [head, all].concat())
}

#[test]
fn the_owner_returns_and_the_work_ends_elsewhere() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--agents", "2", "--seed", model().to_str().unwrap()]);
    pool.apply(&example("voice"));
    pool.wait("voice", "Complete");
    let uri = pool.cli_ok(&["push", long_sound(&home).to_str().unwrap(), "-o", "name"]);
    let jobs = ["long-1", "long-2", "long-3", "long-4"];
    for name in jobs {
        let manifest = format!(
            "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: {name}}}\nspec:\n  \
             modelRef: {{name: silero-vad}}\n  objective: Fastest\n  backoffLimit: 0\n  input: {{uri: \"{}\"}}\n",
            uri.trim()
        );
        pool.apply_text(name, &manifest);
    }
    let program = home.agent();
    let ask = |folder: &str, words: &[&str]| -> serde_json::Value {
        let data = home.data().join(folder);
        let mut all = vec!["agent", "--agent-program", program.to_str().unwrap()];
        all.extend(words);
        all.extend(["-o", "json", "--data-dir", data.to_str().unwrap()]);
        serde_json::from_str(&pool.cli_ok(&all)).unwrap()
    };
    // Whichever of the two has work: its owner returns.
    let (folder, running) = until("work on a machine", || {
        ["agent", "agent-2"].into_iter().find_map(|folder| {
            let status = ask(folder, &["status"]);
            let busy = status["running"].as_array().is_some_and(|list| !list.is_empty());
            busy.then(|| (folder, status["node"].as_str().unwrap().to_string()))
        })
    });
    let agent = |words: &[&str]| ask(folder, words);
    agent(&["pause"]);
    let freed = until("the memory is free", || {
        Some(agent(&["status"])["lastFreed"].clone()).filter(serde_json::Value::is_object)
    });
    assert_eq!(freed["leftBytes"], 0, "{freed}");
    until("the pool knows why", || {
        let node = pool.get(&format!("computenode/{running}"));
        (condition(&node, "Available")["reason"] == "OwnerActive").then_some(())
    });
    let handed_back = agent(&["history"]);
    let handed_back = handed_back.as_array().unwrap().iter().filter(|entry| entry["result"] == "OwnerActive").count();
    assert!(handed_back > 0, "nothing was running any more: TIMES is too small for this machine");
    let mut lost = 0;
    for name in jobs {
        let job = pool.wait(name, "Complete");
        // One failure that counts would have ended it.
        assert_eq!(job["status"]["succeeded"], 1, "{job:#}");
        lost += job["status"]["failed"].as_u64().unwrap_or(0);
    }
    assert_eq!(lost, handed_back as u64, "what was handed back is seen on the jobs, and nothing else failed");
    agent(&["resume"]);
    pool.stop();
}
