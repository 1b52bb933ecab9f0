//! Hostile models, through the engine and the proving run: what they aim at stays as it was, and the next task succeeds.
//! Where the kernel has no Landlock or no seccomp there is nothing to test, and it is said aloud.

#[path = "worker/common.rs"]
#[allow(dead_code)]
mod common;

use common::{Lab, PROGRAM, checkout, json, port, spec, task};
use nightshift_agent::caps::{Caps, Places};
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
    // It is memory that ends it: libtorch profiles each turn of the loop, which takes its time on a busy machine.
    (greedy.memory_limit, greedy.deadline) = (Bytes::mebi(256), Duration::from_secs(600));
    is(attempt(&lab, greedy, &path).await, FailureReason::OutOfMemory, "");
}

/// The kernel's cap closes where the worker's own limit does not; here it is the lower one, so that it closes first.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_more_than_its_cgroup_has() {
    let caps = Caps::claim_exactly(Places::default(), Some(Bytes::mebi(160)));
    if caps.found().base.is_none() {
        return eprintln!("skipped: {}", caps.found());
    }
    let lab = Lab::with(|config| config.caps = caps);
    let path = target(&lab);
    let mut greedy = hostile("grow", &path);
    (greedy.memory_limit, greedy.deadline) = (Bytes::gibi(1), Duration::from_secs(600));
    is(attempt(&lab, greedy, &path).await, FailureReason::OutOfMemory, "more memory than its cap");
}

/// A ZIP archive as libtorch writes it, damaged where each part of its reader looks.
#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_malformed() {
    let lab = Lab::new();
    let path = target(&lab);
    let good = std::fs::read(hostile("write", &path).model_path).unwrap();
    let at = |what: &[u8]| good.windows(what.len()).rposition(|part| part == what).expect("it has one");
    let (end, directory) = (at(b"PK\x05\x06"), good.windows(4).position(|part| part == b"PK\x01\x02").unwrap());
    let changed = |place: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[place..place + bytes.len()].copy_from_slice(bytes);
        file
    };
    let pickle = good.windows(8).position(|part| part == b"data.pkl").unwrap();
    let listed = good.windows(8).rposition(|part| part == b"data.pkl").unwrap();
    for (name, file) in [
        ("cut off", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("no archive", b"not a model at all".to_vec()),
        ("65,535 records that are not there", changed(end + 8, &[0xff; 4])),
        ("a directory beyond the end", changed(end + 16, &0x7fff_ffffu32.to_le_bytes())),
        ("a record of 4 GiB", changed(directory + 20, &[0xff; 8])),
        ("a pickle of other bytes", changed(pickle + 100, &[0x80; 40])),
        ("one record of another name", changed(listed, b"data.txt")),
    ] {
        let broken = lab.folder.path().join("broken.pt");
        std::fs::write(&broken, &file).unwrap();
        let mut task = hostile("write", &path);
        (task.model_digest, task.model_path) = (common::digest(&broken), broken);
        let failed = attempt(&lab, task, &path).await.expect_err(name);
        assert_eq!(failed.reason, FailureReason::ModelLoadFailed, "{name}: {failed}");
    }
}

/// A model with one input of this codec, sent these bytes.
fn fed(lab: &Lab, name: &str, codec: Codec, shape: &[i64], input: Vec<u8>) -> Task {
    let x = tch::Tensor::zeros(shape.iter().map(|size| (*size).max(1)).collect::<Vec<_>>(), tch::kind::FLOAT_CPU);
    let spec = spec(vec![port("x", codec, &[])], vec![port("y", Codec::Json, &[])]);
    let mut task = lab.traced(name, &[x], spec, |xs| vec![xs[0].sum(tch::Kind::Float)]);
    (task.input, task.memory_limit) = (input, Bytes::mebi(512));
    task
}

/// A PNG whose header promises 16,384 × 16,384 pixels, or whose 60 kB of data are a picture of 2 GiB.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_are_bombs() {
    let lab = Lab::new();
    let path = target(&lab);
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut out = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
        let body = [&kind[..], data].concat();
        out.extend(&body);
        out.extend(crc32fast::hash(&body).to_be_bytes());
        out
    };
    let png = |side: u32| {
        let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        // Stored zeros, as many as fit into one block: the rest never comes.
        let data = [&[0x78, 0x01, 0x01, 0xff, 0xff, 0x00, 0x00][..], &[0; 65_535]].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &data), &chunk(b"IEND", &[])].concat()
    };
    for (name, side, words) in [("wide", 60_000, "at most"), ("large", 16_384, "at most"), ("cut", 2000, "")] {
        let task = fed(&lab, name, Codec::Image, &[1, 3, 2, 2], png(side));
        is(attempt(&lab, task, &path).await, FailureReason::InputInvalid, words);
    }
}

/// Sound whose header lies, and sound that is hours of nothing in a few bytes.
#[tokio::test(flavor = "multi_thread")]
async fn sounds_that_are_bombs() {
    let lab = Lab::new();
    let path = target(&lab);
    let mut lies = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0".to_vec();
    lies.extend(b"data\xf0\xff\xff\x7f\0\0");
    // MPEG-2 layer III, 8 kbit/s, 22,050 Hz, one channel: 26 bytes a frame, and 2,500,000 frames are 18 hours.
    let silence = [&[0xff, 0xf3, 0x10, 0xc4][..], &[0; 22]].concat();
    let hours = silence.repeat(2_500_000);
    let a_minute = |mut task: Task| {
        if task.spec.inputs[0].codec == Codec::Audio {
            task.spec.inputs[0].options.insert("maxSeconds".into(), "60".into());
        }
        task
    };
    for (name, codec, input, words) in [
        ("lying_wav", Codec::Wav, lies.clone(), "samples"),
        ("lying_audio", Codec::Audio, lies, ""),
        ("hours", Codec::Audio, hours, "more than 60 s of audio"),
    ] {
        let task = a_minute(fed(&lab, name, codec, &[1, 8], input));
        is(attempt(&lab, task, &path).await, FailureReason::InputInvalid, words);
    }
}

/// All of the above once more, as a user without any rights. Root starts it; for anybody else it is what ran above.
#[test]
fn an_ordinary_user_is_as_safe() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: the tests beside this one run as an ordinary user already");
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let command = |args: &[&str]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(args).uid(NOBODY).gid(NOBODY).env("TMPDIR", folder.path()).env("HOME", folder.path());
        command.output()
    };
    let listed = command(&["--list"]);
    if !listed.is_ok_and(|listed| listed.status.success()) {
        return eprintln!("skipped: another user may not read {}", std::env::current_exe().unwrap().display());
    }
    let output = command(&["--skip", "an_ordinary_user", "--test-threads", "2"]).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("11 passed; 0 failed"), "{out}");
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
