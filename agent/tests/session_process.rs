//! The real program: killed, stopped, misused.
#![allow(missing_docs)]

mod session_support;

use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use session_support::{Scheduler, World, failure, inline, outbox, until};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift-agent"));
    command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIGHTSHIFT_")) {
        command.env_remove(name);
    }
    command
}

/// Killed when the test ends, however it ends.
struct Agent(Child);

impl Agent {
    fn start(world: &World, scheduler: &Scheduler, dir: &Path) -> Self {
        let mut command = program();
        command.args(["run", "--server", &scheduler.address.to_string(), "--threads", "1", "--grace-seconds", "1"]);
        // Other tests use the processor.
        command.args(["--when", "always"]);
        command.arg("--data-dir").arg(dir).env("NIGHTSHIFT_JOIN_TOKEN", world.token.to_string());
        Self(command.stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }

    async fn exit_code(mut self) -> Option<i32> {
        tokio::task::spawn_blocking(move || self.0.wait().unwrap().code()).await.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An attempt that ends with a failure, whatever the engine is: its model is no model.
fn hopeless(world: &World) -> proto::Assignment {
    world.assignment("local/job/0/1", b"[1]", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_survives_kill_9_and_is_delivered_until_acknowledged() {
    let (world, dir): (Arc<World>, _) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    world.acknowledge.store(0, Ordering::SeqCst);
    let agent = Agent::start(&world, &scheduler, dir.path());
    world.hello().await;
    world.tell(Down::Assignment(hopeless(&world))).await;
    let first = world.outcome("local/job/0/1", 1).await;
    assert!(!failure(&first).0.is_empty());
    drop(agent); // SIGKILL
    assert_eq!(outbox(dir.path()), 1);

    let agent = Agent::start(&world, &scheduler, dir.path());
    assert_eq!(world.outcome("local/job/0/1", 2).await, first);
    assert_eq!(world.hello().await.attempts, ["local/job/0/1"]);
    world.ack("local/job/0/1").await;
    until("an empty outbox", || outbox(dir.path()) == 0).await;
    agent.signal("-9");
    agent.exit_code().await;

    let before = world.hellos();
    let agent = Agent::start(&world, &scheduler, dir.path());
    until("another hello", || world.hellos() > before).await;
    assert!(world.hello().await.attempts.is_empty());
    agent.signal("-TERM");
    assert_eq!(agent.exit_code().await, Some(0));
    assert_eq!(world.outcomes("local/job/0/1"), 2);
    assert_eq!(world.join_keys.lock().unwrap().len(), 1, "joined once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_kill_9_and_goes_on_where_it_was() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let large: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
    let mut assignment = hopeless(&world);
    let file = world.blob(&large);
    assignment.model.as_mut().unwrap().file = Some(file.clone());
    *world.hold_after.lock().unwrap() = Some(600_000);
    let agent = Agent::start(&world, &scheduler, dir.path());
    world.hello().await;
    world.tell(Down::Assignment(assignment.clone())).await;
    world.downloaded("local/job/0/1", 600_000).await;
    drop(agent); // SIGKILL
    let whole = dir.path().join("models").join(&file.digest["sha256:".len()..]);
    assert_eq!(std::fs::metadata(whole.with_extension("part")).unwrap().len(), 600_000);

    *world.hold_after.lock().unwrap() = None;
    let before = world.hellos();
    let agent = Agent::start(&world, &scheduler, dir.path());
    until("another hello", || world.hellos() > before).await;
    world.tell(Down::Assignment(assignment)).await;
    // It is no model, but it is whole.
    assert_eq!(failure(&world.outcome("local/job/0/1", 1).await).0, "ModelLoadFailed");
    let offsets: Vec<u64> =
        world.fetches.lock().unwrap().iter().filter(|f| f.digest == file.digest).map(|f| f.offset).collect();
    assert_eq!(offsets, [0, 600_000]);
    assert_eq!(std::fs::read(&whole).unwrap(), large);
    assert!(!whole.with_extension("part").exists());
    agent.signal("-TERM");
    assert_eq!(agent.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_process_that_started_it() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let run = format!(
        "{} run --exit-with-parent --server {} --data-dir {} & echo $!; wait",
        env!("CARGO_BIN_EXE_nightshift-agent"),
        scheduler.address,
        dir.path().display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &run]).env("NIGHTSHIFT_JOIN_TOKEN", world.token.to_string()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut pid).unwrap();
    world.hello().await;
    shell.kill().unwrap();
    shell.wait().unwrap();
    let alive = || Command::new("kill").args(["-0", pid.trim()]).stderr(Stdio::null()).status().unwrap().success();
    until("the agent is gone", || !alive() || is_zombie(pid.trim())).await;
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn misuse_is_one_line_with_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| -> Output {
        let mut command = program();
        command.args(args).env("NIGHTSHIFT_DATA_DIR", dir.path()).env("RUST_LOG", "off").output().unwrap()
    };
    for (args, code, words) in [
        (&["run", "--server", "nowhere"][..], 2, "--server: \"nowhere\" must be HOST:PORT"),
        (&["run", "--server", "h:1", "--join", "nsj1.hunter2"], 2, "this is not a join token"),
        (&["run", "--server", "h:1"], 3, "this machine has not joined yet"),
        (&["run", "--server", "h:1", "--data-dir", "/proc/nowhere"], 4, "cannot use the data folder"),
        (&["run"], 2, "--server: nobody to dial: give --server HOST:PORT, or `server` in "),
        (
            &["run", "--server", "h:1", "--set", "availability.idle_after=soon"],
            2,
            "availability.idle_after: \"soon\" must be a duration",
        ),
        (&["run", "--server", "h:1", "--config", "/nonexistent"], 2, "/nonexistent: cannot be read"),
    ] {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let help = program().args(["run", "--help"]).stdout(Stdio::piped()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for words in ["Examples:", "NIGHTSHIFT_JOIN_TOKEN", "Exit codes:"] {
        assert!(help.contains(words), "{help}");
    }
}

/// Silero's voice activity detector over the whole way: join, fetch, sandboxed worker, outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_model_runs_from_assignment_to_outcome() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let Ok(model) = std::fs::read(checkout.join(".deps/models/silero_vad.jit")) else {
        eprintln!("skipped: .deps/models/silero_vad.jit is missing; `make deps` fetches it");
        return;
    };
    let speech = std::fs::read(checkout.join("examples/voice/speech.wav")).unwrap();
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = Agent::start(&world, &scheduler, dir.path());
    world.hello().await;
    let mut assignment = world.assignment("local/job/0/1", &speech, &[]);
    let rate = HashMap::from([("sampleRate".to_string(), "16000".to_string())]);
    let port = |name: &str, codec: &str, constant: Option<&str>, options: HashMap<String, String>| proto::Port {
        name: name.into(),
        codec: codec.into(),
        dtype: "float32".into(),
        constant: constant.map(String::from),
        options,
        ..Default::default()
    };
    let spec = assignment.model.as_mut().unwrap();
    spec.file = Some(world.blob(&model));
    spec.method = "audio_forward".into();
    spec.inputs = vec![port("audio", "wav", None, rate.clone()), port("sr", "json", Some("16000"), HashMap::new())];
    spec.outputs = vec![port("speech", "segments", None, rate)];
    world.tell(Down::Assignment(assignment.clone())).await;
    let cold = world.outcome("local/job/0/1", 1).await;
    let segments: serde_json::Value = serde_json::from_slice(&inline(&cold)).unwrap();
    assert!(segments.as_array().is_some_and(|list| !list.is_empty()), "{segments}");
    assert!(cold.timings.is_some_and(|t| t.load_us > 0 && t.compute_us > 0 && t.fetch_us > 0), "{cold:?}");
    let loaded =
        |up: &Up| matches!(up, Up::Heartbeat(beat) if beat.models.iter().any(|m| m.loaded && m.device == "cpu0"));
    world.wait("the model loaded", |seen| seen.iter().any(loaded).then_some(())).await;

    assignment.attempt = "local/job/1/1".into();
    world.tell(Down::Assignment(assignment)).await;
    let warm = world.outcome("local/job/1/1", 1).await;
    assert_eq!(inline(&warm), inline(&cold));
    assert_eq!(warm.timings.unwrap().load_us, 0, "the worker is warm");
    agent.signal("-TERM");
    assert_eq!(agent.exit_code().await, Some(0));
}
