//! Three models in a budget for two, for as many tasks as wanted, while workers are killed: the real program, told what to run
//! by the test's scheduler. Nothing is lost, nothing grows, the cache stays under its cap.
//!
//! `NIGHTSHIFT_RESIDENCY_TASKS=2000 cargo test --release -p nightshift-agent --test residency -- --nocapture` is the long run.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod session_support;

use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use session_support::{Scheduler, World, failure, inline, outbox, until};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tch::{CModule, Device, Kind, Tensor};

const MODELS: usize = 3;
/// Tasks of one model in a row: with each change one of three models has to make way.
const BLOCK: usize = 25;
/// Assignments at once.
const WINDOW: usize = 12;
const MEBI: u64 = 1 << 20;
/// Of a task: what it needs alone, and what of that is its own.
const MEMORY: u64 = 300 * MEBI;
const ITEM: u64 = 8 * MEBI;
/// Two copies, and what [`WINDOW`] tasks add.
const BUDGET: u64 = 2 * (MEMORY - ITEM) + WINDOW as u64 * ITEM;

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    fn start(world: &World, scheduler: &Scheduler, dir: &Path, cache: u64) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift-agent"));
        command.args(["run", "--server", &scheduler.address.to_string(), "--threads", "1", "--when", "always"]);
        command.args(["--memory", &BUDGET.to_string(), "--cache-disk", &cache.to_string(), "--metrics-listen", "none"]);
        command.arg("--data-dir").arg(dir).env("NIGHTSHIFT_JOIN_TOKEN", world.token.to_string());
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn workers(&self) -> Vec<u32> {
        children(self.0.id())
    }
}

/// A process's living children, whichever of its threads started them.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    let lives = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|fields| !fields.trim_start().starts_with('Z') && !fields.is_empty())
    };
    pids.into_iter().filter(lives).collect()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count())
}

/// Memory that is this process's alone, in bytes.
fn private(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn folder_size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => folder_size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// `y = x W + 1` of one row, where W is so many times the identity: a file of 256 KiB, and another one for every factor.
fn model(folder: &Path, factor: usize) -> Vec<u8> {
    let weights = Tensor::eye(256, (Kind::Float, Device::Cpu)) * factor as f64;
    let x = Tensor::zeros([1, 256], (Kind::Float, Device::Cpu));
    let mut forward = |xs: &[Tensor]| vec![xs[0].matmul(&weights) + 1.0];
    let path = folder.join(format!("{factor}.pt"));
    CModule::create_by_tracing("m", "forward", &[x], &mut forward).unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

struct Load {
    tasks: usize,
    models: Vec<proto::Blob>,
}

impl Load {
    /// Blocks of one model, then the next: of three, so that two never do for long.
    fn model_of(&self, task: usize) -> usize {
        let block = task / BLOCK;
        // Not always the one that was left out: 0 1 2 1 0 2 …
        let model = [0, 1, 2, 1, 0, 2][block % 6];
        // And now and then one of another in between, so that all three are wanted at once.
        if task % 25 < 2 && task > 0 { (model + 1) % MODELS } else { model }
    }

    /// One in fifty is no JSON.
    fn is_bad(task: usize) -> bool {
        task % 50 == 17
    }

    fn input(task: usize) -> Vec<u8> {
        if Self::is_bad(task) {
            return b"[[oops]]".to_vec();
        }
        let row: Vec<String> = (0..256).map(|at| (task + at).to_string()).collect();
        format!("[[{}]]", row.join(",")).into_bytes()
    }

    fn assignment(&self, world: &World, task: usize, number: u32) -> proto::Assignment {
        let model = self.model_of(task);
        let mut assignment = world.assignment(&format!("local/job/{task}/{number}"), &Self::input(task), &[]);
        let port = |name: &str, shape: &[i64]| proto::Port {
            name: name.into(),
            codec: "json".into(),
            dtype: "float32".into(),
            shape: shape.to_vec(),
            ..Default::default()
        };
        let spec = assignment.model.as_mut().unwrap();
        spec.file = Some(self.models[model].clone());
        (spec.inputs, spec.outputs) = (vec![port("x", &[-1, 256])], vec![port("y", &[-1, 256])]);
        // One of them runs one by one.
        spec.batch_max = if model == 2 { 1 } else { 8 };
        (spec.weights_bytes, spec.per_item_bytes) = (MEMORY - ITEM, ITEM);
        assignment.memory_bytes = MEMORY;
        assignment.deadline_ms = 120_000;
        assignment
    }

    fn check(&self, task: usize, outcome: &proto::Outcome) {
        if Self::is_bad(task) {
            assert_eq!(failure(outcome).0, "InputInvalid", "{outcome:?}");
            return;
        }
        let result: Vec<Vec<f64>> = serde_json::from_slice(&inline(outcome)).unwrap();
        let factor = (self.model_of(task) + 2) as f64;
        let expected: Vec<f64> = (0..256).map(|at| (task + at) as f64 * factor + 1.0).collect();
        assert_eq!(result, [expected], "task {task}");
    }
}

/// What was seen from outside while it ran.
#[derive(Default)]
struct Watch {
    over: AtomicBool,
    most_cache: AtomicU64,
    most_workers: AtomicU64,
}

fn watch(watch: Arc<Watch>, cache: PathBuf, agent: u32) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !watch.over.load(Ordering::Relaxed) {
            watch.most_cache.fetch_max(folder_size(&cache), Ordering::Relaxed);
            watch.most_workers.fetch_max(children(agent).len() as u64, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    })
}

fn is_crash(outcome: &proto::Outcome) -> bool {
    matches!(&outcome.result, Some(proto::outcome::Result::Failure(failure)) if failure.reason == "WorkerCrashed")
}

#[derive(Default)]
struct Tally {
    done: BTreeMap<usize, u32>,
    crashes: usize,
    refusals: usize,
    kills: usize,
    most_loaded: usize,
}

/// Assigns in order, a window at a time, until every task has its one result; kills a worker after every `kill` results.
async fn drive(
    world: &World,
    load: &Load,
    agent: &Agent,
    tasks: std::ops::Range<usize>,
    kill: usize,
    tally: &mut Tally,
) {
    let mut waiting: VecDeque<(usize, u32)> = tasks.map(|task| (task, 1)).collect();
    let mut running: BTreeMap<String, (usize, u32)> = BTreeMap::new();
    let mut cursor = world.seen.lock().unwrap().len();
    let mut since_kill = 0;
    let mut full = false;
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < WINDOW && !full {
            let Some((task, number)) = waiting.pop_front() else { break };
            let assignment = load.assignment(world, task, number);
            running.insert(assignment.attempt.clone(), (task, number));
            world.tell(Down::Assignment(assignment)).await;
        }
        world.wait("news", |seen| (seen.len() > cursor).then_some(())).await;
        let news: Vec<Up> = world.seen.lock().unwrap()[cursor..].to_vec();
        cursor += news.len();
        for up in news {
            match up {
                Up::Refusal(refusal) => {
                    let (task, number) = running.remove(&refusal.attempt).expect("of one that runs");
                    assert!(refusal.message.contains("free"), "{}", refusal.message);
                    tally.refusals += 1;
                    // As the scheduler does: it waits until something has ended, and is the next.
                    full = !running.is_empty();
                    waiting.push_front((task, number + 1));
                    waiting.make_contiguous().sort_unstable();
                }
                Up::Outcome(outcome) => {
                    // A second delivery of one that is known says nothing new.
                    let Some((task, number)) = running.remove(&outcome.attempt) else { continue };
                    full = false;
                    if is_crash(&outcome) {
                        tally.crashes += 1;
                        waiting.push_front((task, number + 1));
                        continue;
                    }
                    load.check(task, &outcome);
                    assert_eq!(tally.done.insert(task, number), None, "task {task} twice");
                    since_kill += 1;
                }
                Up::Heartbeat(beat) => {
                    tally.most_loaded = tally.most_loaded.max(beat.models.iter().filter(|model| model.loaded).count());
                }
                _ => {}
            }
        }
        if since_kill >= kill
            && let Some(worker) = agent.workers().first()
        {
            let _ = Command::new("kill").args(["-9", &worker.to_string()]).status();
            (since_kill, tally.kills) = (0, tally.kills + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_models_in_a_budget_for_two_and_workers_that_are_killed() {
    let tasks: usize = std::env::var("NIGHTSHIFT_RESIDENCY_TASKS").map_or(200, |text| text.parse().unwrap());
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let files: Vec<Vec<u8>> = (2..2 + MODELS).map(|factor| model(dir.path(), factor)).collect();
    let cap = 2 * files.iter().map(|file| file.len() as u64).max().unwrap() + 4096;
    let load = Load { tasks, models: files.iter().map(|file| world.blob(file)).collect() };
    let scheduler = Scheduler::start(&world);
    let data = dir.path().join("data");
    let agent = Agent::start(&world, &scheduler, &data, cap);
    world.hello().await;
    let seen = Arc::new(Watch::default());
    let watcher = watch(seen.clone(), data.join("models"), agent.0.id());

    let mut tally = Tally::default();
    // What is used once, is used: from here on nothing grows.
    let (warm, kill) = (load.tasks / 2, load.tasks.div_ceil(8).min(100));
    drive(&world, &load, &agent, 0..warm, kill, &mut tally).await;
    until("an empty outbox", || outbox(&data) == 0).await;
    let before = (private(agent.0.id()), descriptors(agent.0.id()));
    drive(&world, &load, &agent, warm..load.tasks, kill, &mut tally).await;
    until("an empty outbox", || outbox(&data) == 0).await;
    let after = (private(agent.0.id()), descriptors(agent.0.id()));
    let workers: Vec<(u64, usize)> = agent.workers().iter().map(|pid| (private(*pid), descriptors(*pid))).collect();
    seen.over.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    let (most_cache, most_workers) =
        (seen.most_cache.load(Ordering::Relaxed), seen.most_workers.load(Ordering::Relaxed));
    println!(
        "{} tasks, {} kills: {} attempts lost and made again, {} refused for want of memory; at most {} models loaded, \
         {most_workers} processes, {} KiB of {} KiB cache; agent {} → {} KiB, {} → {} descriptors; workers (KiB, \
         descriptors) {:?}",
        tally.done.len(),
        tally.kills,
        tally.crashes,
        tally.refusals,
        tally.most_loaded,
        most_cache >> 10,
        cap >> 10,
        before.0 >> 10,
        after.0 >> 10,
        before.1,
        after.1,
        workers.iter().map(|(bytes, fds)| (bytes >> 10, *fds)).collect::<Vec<_>>(),
    );
    assert_eq!(tally.done.len(), load.tasks, "each task has one result");
    assert!(tally.kills >= 4 && tally.refusals > 0, "nothing was tried");
    assert!(tally.crashes <= tally.kills, "a killed worker is one failed attempt at most");
    assert_eq!(tally.most_loaded, 2, "the budget is for two");
    assert!(most_cache > 0 && most_cache <= cap, "{most_cache} bytes of {cap} in the cache");
    // Of the allocator's choosing; a leak of a task's input alone would be more over the long run.
    assert!(after.0 <= before.0 + 8 * MEBI, "the agent grew from {} to {} bytes", before.0, after.0);
    assert!(after.1 <= before.1 + 4, "descriptors went from {} to {}", before.1, after.1);
    assert!(workers.iter().all(|(_, fds)| *fds <= 16), "{workers:?}");
}
