//! From manifest to result with the real model: the examples as a newcomer applies them, a sound nobody has seen before,
//! and what cannot change afterwards.

mod common;

use common::sound::{by_python, pairs, raw_model, segments, speak};
use common::{Home, Pool, condition, example, repository, until};
use serde_json::Value;

fn expected() -> Value {
    let text = std::fs::read_to_string(example("voice").join("reference/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn result(pool: &Pool, job: &str) -> Value {
    let text = pool.kubectl_ok(&["get", "inferencejob", job, "-o", "jsonpath={.status.results[0].output}"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{job}: {error}: {text}"))
}

#[test]
fn the_example_gives_sileros_own_answer_and_survives_a_restart() {
    let home = Home::new();
    let pool = Pool::up(&home);
    pool.apply(&example("voice"));
    let job = pool.wait("voice", "Complete");
    assert_eq!(result(&pool, "voice"), expected());
    assert_eq!(job["status"]["state"], "Complete");
    assert_eq!(job["status"]["progress"], "1/1");
    assert_eq!(condition(&job, "Complete")["status"], "True");

    let explained = pool.cli_ok(&["explain", "ij/voice"]);
    assert!(explained.starts_with("job/voice is Complete"), "{explained}");
    let line: Value = serde_json::from_str(&pool.cli_ok(&["results", "job/voice"])).unwrap();
    assert_eq!((&line["index"], &line["output"]), (&Value::from(0), &expected()));
    let raw: Value = serde_json::from_str(&pool.cli_ok(&["results", "voice", "-o", "raw"])).unwrap();
    assert_eq!(raw, expected());
    let cost = job["status"]["cost"].as_str().unwrap().to_string();
    // Written to the node soon after the job, not with it.
    let nodes = until("the node shows what it earned", || {
        let nodes: Value = serde_json::from_str(&pool.cli_ok(&["nodes", "-o", "json"])).unwrap();
        (nodes[0]["earned"].as_str() == Some(cost.as_str())).then_some(nodes)
    });
    assert_eq!((nodes.as_array().unwrap().len(), nodes[0]["ready"].as_str()), (1, Some("True")));
    let status = pool.cli_ok(&["status"]);
    assert!(status.contains("1 ready of 1") && status.contains("1 Complete"), "{status}");
    pool.stop();

    let pool = Pool::up_with(&home, &[]);
    assert_eq!(result(&pool, "voice"), expected());
    let again: Value = serde_json::from_str(&pool.cli_ok(&["nodes", "-o", "json"])).unwrap();
    assert_eq!((&again[0]["name"], again[0]["earned"].as_str()), (&nodes[0]["name"], Some(cost.as_str())));
    let wav = example("voice").join("speech.wav");
    let output = pool.cli_ok(&["run", "--model", "silero-vad", "--input", wav.to_str().unwrap()]);
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap(), expected());
    assert_eq!(pool.kubectl_ok(&["get", "inferencejobs", "-o", "name"]).lines().count(), 1, "run left its job behind");
    pool.stop();
}

#[test]
fn segments_computed_here_agree_with_sileros_vectors() {
    for name in ["speech.json", "no-speech.json", "speech-to-the-end.json"] {
        let text = std::fs::read_to_string(repository().join("agent/testdata/silero").join(name)).unwrap();
        let vector: Value = serde_json::from_str(&text).unwrap();
        let probabilities: Vec<f64> =
            vector["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        let samples = vector["samples"].as_u64().unwrap() as usize;
        assert_eq!(segments(&probabilities, samples), pairs(&vector["segments"]), "{name}");
    }
}

#[test]
fn a_sound_made_now() {
    let home = Home::new();
    let wav = home.folder.path().join("made-now.wav");
    let sentences = ["The night shift begins.", "Nobody is in the office, and the machines hum.", "Good night."];
    let samples = speak(&sentences, &wav);
    let pool = Pool::up(&home);
    pool.apply(&example("voice").join("model.yaml"));
    pool.apply_text("raw", &raw_model());
    let file = wav.to_str().unwrap();

    let found: Value = serde_json::from_str(&pool.cli_ok(&["run", "--model", "silero-vad", "--input", file])).unwrap();
    let raw = pool.cli_ok(&["run", "--model", "silero-raw", "--input", file, "-o", "json"]);
    let raw: Value = serde_json::from_str(&raw).unwrap();
    let probabilities: Vec<f64> = raw[0].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_eq!(probabilities.len(), samples.div_ceil(512));
    let wanted = by_python(&wav).unwrap_or_else(|| segments(&probabilities, samples));
    assert!(wanted.len() >= sentences.len(), "the model heard {wanted:?}");
    assert_eq!(pairs(&found), wanted);

    let stricter = pool.cli_ok(&["run", "-m", "silero-vad", "-i", file, "--param", "threshold=0.95", "-q"]);
    assert_ne!(pairs(&serde_json::from_str(&stricter).unwrap()), wanted, "a parameter changed nothing");
    pool.stop();
}

#[test]
fn what_a_job_reads_cannot_change() {
    let home = Home::new();
    let pool = Pool::up(&home);
    pool.apply(&example("voice"));
    pool.wait("voice", "Complete");
    let manifest = |name: &str| std::fs::read_to_string(example("voice").join(name)).unwrap();
    // Silence, under another key: the ConfigMap may change, the job that read it may not.
    let audio = manifest("audio.yaml");
    let base = audio.split("binaryData:").next().unwrap();
    let silence = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA=";
    let folder = home.write("changed/audio.yaml", format!("{base}binaryData:\n  silence.wav: {silence}\n"));
    home.write("changed/job.yaml", manifest("job.yaml").replace("key: speech.wav", "key: silence.wav"));
    let said = pool.kubectl_refused(&["apply", "-f", folder.parent().unwrap().to_str().unwrap()]);
    assert!(said.contains("spec.input is immutable") && said.contains("create a new InferenceJob"), "{said}");
    assert_eq!(result(&pool, "voice"), expected());

    let model = manifest("model.yaml").replace("method: audio_forward", "method: forward");
    let path = home.write("model.yaml", model);
    let said = pool.kubectl_refused(&["apply", "-f", path.to_str().unwrap()]);
    assert!(said.contains("spec is immutable") && said.contains("another name"), "{said}");
    pool.stop();
}
