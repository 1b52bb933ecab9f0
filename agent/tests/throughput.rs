//! What the whole agent makes of libtorch: assignments from a scheduler over mutual TLS on loopback, inputs fetched, workers,
//! outbox, outcomes back; beside it the same model called in a loop in this process, in turns. Ignored, because it measures:
//! `make bench WHAT=agent`, or `cargo test --release -p nightshift-agent --test throughput -- --ignored --nocapture`.
#![allow(missing_docs)]

#[path = "../../bench/measure.rs"]
mod measure;
#[path = "throughput/models.rs"]
mod models;
mod session_support;

use measure::{Clock, Peer, Runs, TURNS, row};
use models::Subject;
use nightshift_agent::codec::Plan;
use nightshift_agent::engine::{Engine, EngineConfig, Sandbox};
use nightshift_agent::hardware::Hardware;
use nightshift_agent::serve::{DataDir, serve};
use nightshift_types::{Batching, Bytes, Device, Measured};
use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use session_support::{Scheduler, World, config};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tch::{CModule, IValue, Tensor};
use tokio_util::sync::CancellationToken;

/// Of the agent's workers and of the loop alike.
const THREADS: usize = 1;
const PEER: &str = "a raw libtorch loop";

/// An agent in this process, with real workers, and the test's scheduler.
struct Bench {
    world: Arc<World>,
    _scheduler: Scheduler,
    _stop: tokio_util::sync::DropGuard,
    next: AtomicUsize,
}

impl Bench {
    async fn start(folder: &std::path::Path) -> Self {
        let world = World::new();
        let scheduler = Scheduler::start(&world);
        let mut config = config(&world, scheduler.address, &folder.join("data"));
        config.limits.max_attempts = 256;
        let mut engine = EngineConfig::new(env!("CARGO_BIN_EXE_nightshift-agent"), folder.join("run"));
        engine.threads = THREADS;
        let stop = CancellationToken::new();
        let cancel = stop.clone();
        tokio::spawn(async move {
            let data = DataDir::open(&config.data_dir).unwrap();
            let identity = data.identity(&config).await.unwrap();
            let device = Device { name: "cpu0".into(), memory: Bytes::gibi(64), ..Device::default() };
            let (measured, sandbox) = (Measured::default(), Sandbox::default());
            let hardware = Hardware { devices: vec![device], measured, free_memory: |d| d.memory, sandbox };
            serve(&config, &data, identity, hardware, Arc::new(Engine::new(engine)), cancel).await.unwrap();
        });
        world.hello().await;
        Self { world, _scheduler: scheduler, _stop: stop.drop_guard(), next: AtomicUsize::new(0) }
    }

    fn assignment(&self, subject: &Prepared, task: usize, batching: Batching) -> proto::Assignment {
        let attempt = format!("local/bench/{}/1", self.next.fetch_add(1, Ordering::Relaxed));
        let mut assignment = self.world.assignment(&attempt, &[], &[]);
        assignment.input = Some(subject.inputs[task % subject.inputs.len()].clone());
        let model = assignment.model.as_mut().unwrap();
        model.file = Some(subject.file.clone());
        model.method = subject.of.spec.method.clone();
        model.inputs = subject.of.spec.inputs.iter().map(Into::into).collect();
        model.outputs = subject.of.spec.outputs.iter().map(Into::into).collect();
        (model.batch_max, model.batch_delay_ms) = (batching.max, batching.max_delay_ms);
        (model.weights_bytes, model.per_item_bytes) = (1 << 30, 64 << 20);
        assignment.memory_bytes = (1 << 30) + (64 << 20);
        assignment.deadline_ms = 600_000;
        assignment
    }

    /// Runs so many tasks, a window at a time; their results, in order.
    async fn run(&self, subject: &Prepared, count: usize, window: usize, batching: Batching) -> Vec<Vec<u8>> {
        let mut running: HashMap<String, usize> = HashMap::new();
        let mut results: Vec<Option<Vec<u8>>> = vec![None; count];
        let (mut sent, mut done) = (0, 0);
        self.world.seen.lock().unwrap().clear();
        let mut cursor = 0;
        while done < count {
            while sent < count && running.len() < window {
                let assignment = self.assignment(subject, sent, batching);
                running.insert(assignment.attempt.clone(), sent);
                self.world.tell(Down::Assignment(assignment)).await;
                sent += 1;
            }
            let from = cursor;
            let outcome = |up: &Up| match up {
                Up::Outcome(outcome) => Some(outcome.clone()),
                Up::Refusal(refusal) => panic!("{refusal:?}"),
                _ => None,
            };
            let (news, end) = self
                .world
                .wait("outcomes", |seen| {
                    let news: Vec<_> = seen[from..].iter().filter_map(outcome).collect();
                    (!news.is_empty()).then_some((news, seen.len()))
                })
                .await;
            cursor = end;
            for outcome in news {
                let Some(task) = running.remove(&outcome.attempt) else { continue };
                results[task] = Some(self.bytes(&outcome));
                done += 1;
            }
        }
        results.into_iter().map(Option::unwrap).collect()
    }

    fn bytes(&self, outcome: &proto::Outcome) -> Vec<u8> {
        match &outcome.result {
            Some(proto::outcome::Result::Success(success)) => match &success.output {
                Some(proto::success::Output::Inline(bytes)) => bytes.clone(),
                _ => self.world.staged.lock().unwrap()[&outcome.attempt].clone(),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// A subject whose file and inputs the scheduler has, and the loop beside it.
struct Prepared {
    of: Subject,
    file: proto::Blob,
    inputs: Vec<proto::Blob>,
    module: CModule,
    plan: Plan,
    resets: bool,
}

impl Prepared {
    fn new(of: Subject, world: &World) -> Self {
        let _no_grad = tch::no_grad_guard();
        let mut module = CModule::load(&of.path).unwrap();
        module.f_set_eval().unwrap();
        let resets = module.method_is::<IValue>("reset_states", &[]).is_ok();
        let plan = Plan::new(&of.spec, &BTreeMap::new()).unwrap();
        let file = world.blob(&std::fs::read(&of.path).unwrap());
        let inputs = of.inputs.iter().map(|input| world.blob(input)).collect();
        Self { of, file, inputs, module, plan, resets }
    }

    /// Decodes, stacks, calls, takes apart, encodes: what any server of this model does.
    fn raw(&self, count: usize, batch: usize) -> Vec<Vec<u8>> {
        let _no_grad = tch::no_grad_guard();
        let tasks: Vec<usize> = (0..count).collect();
        let mut results = Vec::with_capacity(count);
        for tasks in tasks.chunks(batch) {
            if self.resets {
                self.module.method_is::<IValue>("reset_states", &[]).unwrap();
            }
            let inputs = tasks.iter().map(|task| &self.of.inputs[task % self.of.inputs.len()]);
            let mut decoded: Vec<_> = inputs.map(|input| self.plan.decode(input).unwrap()).collect();
            if tasks.len() == 1 {
                let decoded = decoded.remove(0);
                let returned = self.module.method_is(&self.of.spec.method, &decoded.values).unwrap();
                results.push(self.plan.encode(returned, decoded.samples, 1 << 30).unwrap().bytes);
                continue;
            }
            let tensors: Vec<Tensor> =
                decoded.into_iter().map(|mut decoded| tensor(decoded.values.remove(0))).collect();
            let stacked = IValue::Tensor(Tensor::cat(&tensors, 0));
            let returned = tensor(self.module.method_is(&self.of.spec.method, &[stacked]).unwrap());
            for at in 0..tasks.len() {
                let part = IValue::Tensor(returned.narrow(0, at as i64, 1));
                results.push(self.plan.encode(part, None, 1 << 30).unwrap().bytes);
            }
        }
        results
    }
}

fn tensor(value: IValue) -> Tensor {
    match value {
        IValue::Tensor(tensor) => tensor,
        other => panic!("no tensor: {other:?}"),
    }
}

/// Items a second of both, in turns; the medians.
async fn rate(bench: &Bench, subject: &Prepared, batch: usize, count: usize, goal: &str) -> (f64, f64) {
    // While one call runs the next one's tasks arrive; of those who wait alone nobody waits long.
    let batching = Batching { max: batch as u32, max_delay_ms: if batch > 1 { 50 } else { 0 } };
    let window = if batch > 1 { 2 * batch } else { 8 };
    subject.raw(batch, batch);
    bench.run(subject, 2 * batch, window, batching).await;
    let (mut ours, mut peers) = (Runs::default(), Runs::default());
    for _ in 0..TURNS {
        let clock = Clock::start();
        subject.raw(count, batch);
        peers.rate(count, &clock);
        let clock = Clock::start();
        bench.run(subject, count, window, batching).await;
        ours.rate(count, &clock);
    }
    row(&format!("{}: batch {batch}", subject.of.name), "1/s", goal, &ours, &Peer::Measured(PEER, &peers));
    (ours.median(), peers.median())
}

/// A batch of the same tasks in the same order has the same bits.
async fn same_bits(bench: &Bench, subject: &Prepared, batch: usize) {
    let batching = Batching { max: batch as u32, max_delay_ms: 5_000 };
    let mut share = Runs::default();
    let expected = subject.raw(batch, batch);
    let found = bench.run(subject, batch, batch, batching).await;
    let same = expected.iter().zip(&found).filter(|(a, b)| a == b).count();
    share.push(same as f64 / batch as f64);
    let name = format!("{}: results with the same bits, batch {batch}", subject.of.name);
    row(&name, "share", "value >= 1", &share, &Peer::None);
}

/// From the sending of an assignment to the arrival of its outcome, one at a time, beyond what the loop takes.
async fn latency(bench: &Bench, subject: &Prepared, count: usize, goal: &str) {
    bench.run(subject, 20, 1, Batching::default()).await;
    let mut added = Runs::default();
    for _ in 0..TURNS {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let began = Instant::now();
            subject.raw(1, 1);
            raw.push(began.elapsed());
            let began = Instant::now();
            bench.run(subject, 1, 1, Batching::default()).await;
            ours.push(began.elapsed());
        }
        let median = |times: &mut Vec<Duration>| measure::quantile(times, 0.5);
        added.push(median(&mut ours) - median(&mut raw));
    }
    row(&format!("{}: added to one request, median", subject.of.name), "µs", goal, &added, &Peer::None);
}

async fn batches(bench: &Bench, subject: &Prepared, sizes: &[usize], count: usize, goal: &str) {
    let mut rates = Vec::new();
    for batch in sizes {
        let best = batch == sizes.last().unwrap();
        rates.push(rate(bench, subject, *batch, count, if best { goal } else { "" }).await);
    }
    let (mut ours, mut peers) = (Runs::default(), Runs::default());
    let best = |of: fn(&(f64, f64)) -> f64| rates.iter().map(of).fold(0.0, f64::max);
    ours.push(best(|(ours, _)| *ours) / rates[0].0);
    peers.push(best(|(_, raw)| *raw) / rates[0].1);
    let name = format!("{}: the best batch over batch 1, once", subject.of.name);
    row(&name, "×", "", &ours, &Peer::Measured(PEER, &peers));
    same_bits(bench, subject, *sizes.last().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn the_whole_agent_against_a_raw_loop() {
    tch::set_num_threads(THREADS as i32);
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::start(folder.path()).await;
    let prepare = |subject| Prepared::new(subject, &bench.world);
    // NIGHTSHIFT_BENCH_ONLY=resnet: that one alone.
    let only = std::env::var("NIGHTSHIFT_BENCH_ONLY").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("tiny") {
        latency(&bench, &prepare(models::tiny(folder.path())), 100, "value <= 300").await;
    }
    if wanted("digits") {
        let digits = prepare(models::digits());
        latency(&bench, &digits, 50, "").await;
        rate(&bench, &digits, 1, 400, "").await;
        batches(&bench, &prepare(models::digits_in_batches(folder.path())), &[1, 8, 32], 256, "").await;
    }
    if let Some(voice) = models::voice().filter(|_| wanted("voice")) {
        rate(&bench, &prepare(voice), 1, 10, "").await;
    }
    if wanted("minilm") {
        match models::minilm(folder.path()) {
            Some(minilm) => batches(&bench, &prepare(minilm), &[1, 4, 16], 32, "ratio >= 0.97").await,
            None => eprintln!("skipped: no .deps/models/all-minilm-l6-v2.safetensors; `scripts/deps.sh bench-models`"),
        }
    }
    if wanted("resnet") {
        batches(&bench, &prepare(models::resnet(folder.path())), &[1, 4, 8], 8, "ratio >= 0.97").await;
    }
}
