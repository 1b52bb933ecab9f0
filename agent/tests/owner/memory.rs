//! The owner returns: real workers, a real model, and memory as the kernel counts it from outside.

use super::idle::{touch, x_server};
use super::lab::{Guest, Process, ask, program, told};
use crate::session_support::{Scheduler, World, failure, inline, until};
use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{CModule, Device, Kind, Tensor};

/// Bytes that the model takes when it runs: enough that freeing them is work.
const WEIGHTS: i64 = 200 << 20;

/// A model that multiplies its input so often that a large one takes minutes, and keeps memory all the while.
fn heavy(folder: &Path) -> Vec<u8> {
    let path = folder.join("heavy.pt");
    let small = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
    let mut body = |inputs: &[Tensor]| {
        // Of the input, so that nothing of it is known before.
        let weights = Tensor::ones([WEIGHTS / 4], (Kind::Float, Device::Cpu)) + inputs[0].mean(Kind::Float);
        let mut y = inputs[0].shallow_clone();
        for _ in 0..3000 {
            y = y.matmul(&inputs[0]);
        }
        vec![y.sum(Kind::Float) + weights.sum(Kind::Float)]
    };
    CModule::create_by_tracing("heavy", "forward", &[small], &mut body).unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn assignment(world: &World, model: &proto::Blob, attempt: &str, side: usize) -> proto::Assignment {
    let mut assignment = world.assignment(attempt, &vec![0; side * side * 4], &[]);
    let port = |name: &str, codec: &str, shape: Vec<i64>| proto::Port {
        name: name.into(),
        codec: codec.into(),
        dtype: "float32".into(),
        shape,
        constant: None,
        options: HashMap::new(),
    };
    let spec = assignment.model.as_mut().unwrap();
    spec.file = Some(model.clone());
    spec.inputs = vec![port("x", "tensor", vec![side as i64, side as i64])];
    spec.outputs = vec![port("y", "json", vec![])];
    assignment.memory_bytes = 2 << 30;
    assignment
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// Proportional set size of one process: its own memory, and its part of what it shares.
fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Shared memory that a process has mapped, anonymous segments included.
fn shared(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssShmem:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What the workers of an agent hold, the memory it shares with them included.
fn held(agent: u32) -> u64 {
    children(agent).into_iter().map(pss).sum::<u64>() + shared(agent)
}

/// The last availability that the scheduler heard.
fn away(seen: &[Up]) -> Option<String> {
    let word = |up: &Up| if let Up::Heartbeat(beat) = up { beat.availability.clone() } else { None };
    seen.iter().rev().find_map(word).map(|word| word.reason)
}

/// An agent that computes, with more memory than its weights.
async fn at_work(world: &World, model: &proto::Blob, agent: u32, attempt: &str) -> u64 {
    world.tell(Down::Assignment(assignment(world, model, attempt, 700))).await;
    let enough = |agent| held(agent) > WEIGHTS as u64;
    until("the model is in memory", || enough(agent)).await;
    held(agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_free_for_the_kernel_and_the_work_completes_elsewhere() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let model = world.blob(&heavy(dir.path()));
    let data = dir.path().join("data");
    let agent = Process::start(&world, &scheduler, &data, &["--when", "always"]);
    world.hello().await;
    let before = at_work(&world, &model, agent.0.id(), "local/job/0/1").await;
    let (code, _, error) = told(program().args(["pause", "--data-dir", data.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{error}");
    until("the workers are gone", || children(agent.0.id()).is_empty()).await;
    assert_eq!(shared(agent.0.id()), 0);
    let handed_back = world.outcome("local/job/0/1", 1).await;
    assert_eq!(failure(&handed_back).0, "OwnerActive");
    world.wait("the reason", |seen| (away(seen)? == "OwnerActive").then_some(())).await;
    until("the agent has looked too", || !ask(&data, &["status"])["lastFreed"].is_null()).await;
    let freed = ask(&data, &["status"])["lastFreed"].clone();
    assert_eq!(freed["leftBytes"], 0, "{freed}");
    assert!(freed["beforeBytes"].as_u64().unwrap() > WEIGHTS as u64, "{freed}, {before} from outside");

    // Another machine of the pool takes it up; and this one does again, after a resume.
    let (there, second_dir) = (World::new(), tempfile::tempdir().unwrap());
    let second = Scheduler::start(&there);
    let other = Process::start(&there, &second, second_dir.path(), &["--when", "always"]);
    there.hello().await;
    let elsewhere = there.blob(&world.blobs.lock().unwrap()[&model.digest].clone());
    there.tell(Down::Assignment(assignment(&there, &elsewhere, "local/job/0/2", 2))).await;
    assert_eq!(inline(&there.outcome("local/job/0/2", 1).await), format!("{:.1}", (WEIGHTS / 4) as f64).into_bytes());
    drop(other);
    ask(&data, &["resume"]);
    world.wait("no reason", |seen| away(seen)?.is_empty().then_some(())).await;
    world.tell(Down::Assignment(assignment(&world, &model, "local/job/0/3", 2))).await;
    inline(&world.outcome("local/job/0/3", 1).await);
    drop(agent);
}

/// A busy loop of another program.
struct Load(Vec<std::process::Child>);
impl Load {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = || std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..cores).map(|_| busy()).collect())
    }
}
impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_of_another_program_frees_the_memory() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let model = world.blob(&heavy(dir.path()));
    let data = dir.path().join("data");
    // Whoever runs the tests types, and other tests compute: load counts from the moment there is some for sure.
    let file = dir.path().join("agent.toml");
    let rules = |load: &str| {
        let text =
            format!("[availability]\nidle_after = \"0s\"\ntemperature_limit = 0.0\nother_programs = \"{load}\"\n");
        std::fs::write(&file, text).unwrap();
    };
    rules("none");
    let agent = Process::start(&world, &scheduler, &data, &["--config", file.to_str().unwrap()]);
    world.hello().await;
    until("it listens", || data.join("agent.sock").exists()).await;
    at_work(&world, &model, agent.0.id(), "local/job/0/1").await;
    let load = Load::start();
    rules("5%");
    until("the workers are gone", || children(agent.0.id()).is_empty()).await;
    assert_eq!(failure(&world.outcome("local/job/0/1", 1).await).0, "OwnerActive");
    until("the agent has looked too", || ask(&data, &["status"])["lastFreed"]["leftBytes"] == 0).await;
    assert_eq!(ask(&data, &["status"])["reason"], "OtherPrograms");
    drop((load, agent));
}

/// The short form of the measurements below: the mouse of a real X server, and the memory as the kernel counts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_mouse_frees_the_memory() {
    let Some((_server, display)) = x_server() else { return };
    returns_by_touch(&display, 2).await;
}

/// 200 returns of an owner; prints the times from the touch to the memory's end, seen from outside, looking included.
/// `cargo test -p nightshift-agent --test owner -- --ignored --nocapture --test-threads 1 two_hundred`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn two_hundred_touches() {
    let Some((_server, display)) = x_server() else { return };
    report("a moved mouse (X11)", returns_by_touch(&display, 200).await);
}

/// The same by `nightshift-agent pause`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn two_hundred_pauses() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let model = world.blob(&heavy(dir.path()));
    let data = dir.path().join("data");
    let agent = Process::start(&world, &scheduler, &data, &["--when", "always"]);
    world.hello().await;
    let mut times = Vec::new();
    for run in 0..200 {
        let pause = || {
            let request = nightshift_agent::owner::control::Request::Pause { seconds: None };
            nightshift_agent::owner::socket::ask(&data, &request).unwrap();
        };
        times.push(one_return(&world, &model, agent.0.id(), run, pause).await);
        ask(&data, &["resume"]);
    }
    report("pause by hand", times);
    drop(agent);
}

/// The same by the load of another program, as a `/proc` of the test tells it: on a machine that others use too, real load
/// could not be told from theirs. The agent is this process; workers and memory are real.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn two_hundred_loads() {
    report("load of other programs (a /proc of the test)", returns_by_load(200).await);
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    let (middle, most, longest) = (at(50), at(99), at(100));
    println!(
        "{what}: {} runs, at least {} MiB each, to memory freed (PSS of the tree and shared memory, from outside): p50 {middle:?}, p99 {most:?}, longest {longest:?}",
        times.len(),
        WEIGHTS >> 20
    );
}

/// One attempt of the heavy model, the owner's return, and the time until nothing of its memory is left.
async fn one_return(world: &World, model: &proto::Blob, agent: u32, run: usize, back: impl FnOnce()) -> Duration {
    let free = |seen: &[Up]| away(seen).is_none_or(|reason| reason.is_empty()).then_some(());
    world.wait("a free machine", free).await;
    let attempt = format!("local/job/{run}/1");
    at_work(world, model, agent, &attempt).await;
    let began = Instant::now();
    back();
    while held(agent) > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "still {} bytes", held(agent));
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    assert_eq!(failure(&world.outcome(&attempt, 1).await).0, "OwnerActive");
    world.seen.lock().unwrap().retain(|up| !matches!(up, Up::Outcome(_)));
    took
}

async fn returns_by_touch(display: &str, runs: usize) -> Vec<Duration> {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let model = world.blob(&heavy(dir.path()));
    let data = dir.path().join("data");
    let rules = "availability.idle_after=700ms;availability.other_programs=none;availability.temperature_limit=0.0";
    let more = ["--when", "idle", "--set", rules];
    let agent = Process::start_with(&world, &scheduler, &data, &more, &[("DISPLAY", display)]);
    world.hello().await;
    until("it listens", || data.join("agent.sock").exists()).await;
    let source = ask(&data, &["status"])["idleSource"].clone();
    assert!(source.as_str().unwrap_or_default().starts_with(&format!("X11 {display} ")), "{source}");
    let mut times = Vec::new();
    for run in 0..runs {
        let x = (100 + run).to_string();
        times.push(one_return(&world, &model, agent.0.id(), run, || touch(display, &x)).await);
    }
    drop(agent);
    times
}

/// A `/proc` in which `busy` of 200 new ticks are other programs'.
fn tick(proc: &Path, ticks: &mut (u64, u64), busy: u64) {
    ticks.0 += busy;
    ticks.1 += 200 - busy;
    let temporary = proc.join("stat.new");
    std::fs::write(&temporary, format!("cpu  {} 0 0 {} 0 0 0 0 0 0\n", ticks.0, ticks.1)).unwrap();
    std::fs::rename(temporary, proc.join("stat")).unwrap();
}

async fn returns_by_load(runs: usize) -> Vec<Duration> {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let model = world.blob(&heavy(dir.path()));
    let proc = dir.path().join("proc");
    let own = std::process::id();
    std::fs::create_dir_all(proc.join(format!("{own}/task"))).unwrap();
    std::fs::write(proc.join(format!("{own}/stat")), format!("{own} (x) S 1 0 0 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0"))
        .unwrap();
    // The kernel's clock: two cores, ten times a second.
    let (busy, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut ticks = (1000, 1000);
    tick(&proc, &mut ticks, 0);
    let (percent, ended, folder) = (busy.clone(), stop.clone(), proc.clone());
    let clock = std::thread::spawn(move || {
        while ended.load(SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(100));
            tick(&folder, &mut ticks, 2 * percent.load(SeqCst));
        }
    });
    let agent = Guest::with_workers(&world, &scheduler, proc);
    world.hello().await;
    // The workers are children of this process: measure with `--test-threads 1`.
    let mut times = Vec::new();
    for run in 0..runs {
        times.push(one_return(&world, &model, own, run, || busy.store(60, SeqCst)).await);
        busy.store(1, SeqCst);
    }
    stop.store(1, SeqCst);
    agent.stopped().await.unwrap();
    clock.join().unwrap();
    times
}
