//! Placements that arrive as they come (Poisson), journaled in etcd, against etcd's own puts: `make bench WHAT=state`.
//!
//! The loop is the leader's: what arrived while an append was under way is decided together and is the next append. A time
//! is from when a task was due, however late anybody looked at it, until its placement is durable. etcd's writes are
//! counted by etcd itself, and placements by reading the journal back.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../bench/measure.rs"]
mod measure;

use common::{admit, cell, join, placement, spec};
use etcd_client::{Client, Txn, TxnOp};
use measure::{Clock, Peer, Runs, TURNS, quantile, row};
use nightshift_state::*;
use nightshift_testkit::etcd::Etcd;
use nightshift_types::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NODES: usize = 500;
const TASKS: usize = 1000;
const SECONDS: Duration = Duration::from_millis(1500);
/// At so few arrivals it takes longer to see enough of them.
const LONG: Duration = Duration::from_secs(6);
const SELDOM: f64 = 10.0;
/// Bytes of a value that etcd is given: about those of a batch with one placement.
const VALUE: usize = 256;
/// Placements decided together, at most.
const TOGETHER: usize = 2048;
/// Enough for any rate of this machine; a run that needed more fails.
const JOBS: usize = 900;

type Failed = Box<dyn std::error::Error>;

#[derive(Default)]
struct Rows {
    full: Runs,
    full_together: Runs,
    half: Runs,
    half_median: Runs,
    half_p99: Runs,
    half_together: Runs,
    seldom: Runs,
    one: Runs,
    one_median: Runs,
    one_p99: Runs,
    many: Runs,
    batched: Runs,
    put_seldom: Runs,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=8589934592"]).await;
    let mut rows = Rows::default();
    for turn in 0..TURNS {
        puts(&etcd, &mut rows).await?;
        clients(&etcd, 256, 1, &mut rows.many).await?;
        clients(&etcd, 64, 32, &mut rows.batched).await?;
        let mut leader = Leader::start(&etcd, &format!("/nightshift/{turn}")).await?;
        let clock = Clock::start();
        let full = leader.arrive(None, SECONDS).await?;
        rows.full.rate(full.times.len(), &clock);
        rows.full_together.push(full.together());
        let rate = full.times.len() as f64 / SECONDS.as_secs_f64() / 2.0;
        let clock = Clock::start();
        let mut half = leader.arrive(Some(rate), SECONDS).await?;
        rows.half.rate(half.times.len(), &clock);
        rows.half_together.push(half.together());
        rows.half_median.push(quantile(&mut half.times, 0.5));
        rows.half_p99.push(quantile(&mut half.times, 0.99));
        let mut seldom = leader.arrive(Some(SELDOM), LONG).await?;
        rows.seldom.push(quantile(&mut seldom.times, 0.5));
        leader.read_back().await?;
        rows.put_seldom.push(quantile(&mut puts_at(&etcd, SELDOM, LONG).await?, 0.5));
    }
    let one = Peer::Measured("etcd: puts, 1 client", &rows.one);
    let many = Peer::Measured("etcd: puts, 256 clients", &rows.many);
    let batched = Peer::Measured("etcd: keys, 32-put transactions, 64 clients", &rows.batched);
    let unit = "placements/s";
    row("full load: placements journaled in etcd", unit, "", &rows.full, &many);
    row("full load: placements journaled in etcd, against one client", unit, "", &rows.full, &one);
    row("full load: placements journaled in etcd, against etcd's batched keys", unit, "", &rows.full, &batched);
    row("full load: placements for each etcd write", "", "value >= 50", &rows.full_together, &Peer::None);
    row("half load, Poisson: placements journaled in etcd", unit, "", &rows.half, &Peer::None);
    row("half load, Poisson: placements for each etcd write", "", "", &rows.half_together, &Peer::None);
    let median = Peer::Measured("etcd: a put after another, median", &rows.one_median);
    row("half load, Poisson: a task due until its placement is durable, median", "µs", "", &rows.half_median, &median);
    let p99 = Peer::Measured("etcd: a put after another, p99", &rows.one_p99);
    let name = "half load, Poisson: a task due until its placement is durable, p99";
    row(name, "µs", "ratio <= 3", &rows.half_p99, &p99);
    let seldom = Peer::Measured("etcd: puts, 10/s, Poisson, median", &rows.put_seldom);
    let name = "10 tasks/s, Poisson: a task due until its placement is durable, median";
    row(name, "µs", "ratio <= 2", &rows.seldom, &seldom);
    Ok(())
}

/// What came of a load.
struct Load {
    times: Vec<Duration>,
    writes: i64,
}

impl Load {
    fn together(&self) -> f64 {
        self.times.len() as f64 / self.writes as f64
    }
}

struct Leader {
    journal: EtcdJournal,
    core: Core,
    raw: Client,
    options: EtcdOptions,
    nodes: Vec<String>,
    placed: usize,
}

impl Leader {
    /// With nodes, and jobs whose tasks wait.
    async fn start(etcd: &Etcd, prefix: &str) -> Result<Self, Failed> {
        let options = EtcdOptions {
            endpoints: vec![etcd.endpoint()],
            prefix: prefix.into(),
            request_timeout: Duration::from_secs(30),
            ..EtcdOptions::default()
        };
        let mut journal = EtcdJournal::campaign(&options).await?;
        let mut core = Core::recover(&mut journal, cell(), Timestamp(1)).await?;
        let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
        for name in &nodes {
            drop(core.submit(join(name), Timestamp(1))?);
        }
        for job in 0..JOBS {
            let spec = JobSpec { parallelism: u32::MAX, ..spec(TASKS) };
            drop(core.submit(admit(&format!("4a9f6b2e-0000-4000-8000-{job:012}"), spec), Timestamp(1))?);
        }
        let raw = etcd.client().await?;
        let mut leader = Self { journal, core, raw, options, nodes, placed: 0 };
        leader.append().await?;
        Ok(leader)
    }

    async fn append(&mut self) -> Result<(), JournalError> {
        while let Some(batch) = self.core.take_batch() {
            self.journal.append(&batch).await?;
        }
        Ok(())
    }

    /// Tasks come at a rate, or whenever there is room for more; each is placed.
    async fn arrive(&mut self, rate: Option<f64>, during: Duration) -> Result<Load, Failed> {
        let before = self.revision().await?;
        let (sender, mut due) = mpsc::channel(TOGETHER);
        let seed = self.placed as u64;
        std::thread::spawn(move || arrivals(rate, during, seed, &sender));
        let (mut times, mut gathered) = (Vec::new(), Vec::with_capacity(TOGETHER));
        while due.recv_many(&mut gathered, TOGETHER).await > 0 {
            let waiting: Vec<_> = self.core.state().waiting().take(gathered.len()).collect();
            assert_eq!(waiting.len(), gathered.len(), "more jobs are needed for this machine");
            let on = |n: usize| &self.nodes[(self.placed + n) % NODES];
            let plan = waiting.iter().enumerate().map(|(n, w)| placement(w.job.id.as_str(), w.index, on(n), 1000));
            let plan: Vec<_> = plan.collect();
            self.placed += plan.len();
            let placed = self.core.submit(Command::Place(plan), Timestamp(2))?;
            assert!(placed.declined().is_empty());
            self.append().await?;
            let now = Instant::now();
            times.extend(gathered.drain(..).map(|due: Instant| now.saturating_duration_since(due)));
        }
        Ok(Load { times, writes: self.revision().await? - before })
    }

    /// etcd counts its writes.
    async fn revision(&mut self) -> Result<i64, Failed> {
        let answer = self.raw.get("/nobody", None).await?;
        Ok(answer.header().ok_or("no header")?.revision())
    }

    /// What etcd has is what was placed.
    async fn read_back(mut self) -> Result<(), Failed> {
        self.journal.resign().await?;
        let mut journal = EtcdJournal::campaign(&self.options).await?;
        let mut placed = 0;
        let mut count = |batch: Batch| {
            placed += batch.events.iter().filter(|event| matches!(event, Event::TaskPlaced { .. })).count();
        };
        journal.load(&mut count).await?;
        assert_eq!(placed, self.placed, "every placement is in etcd");
        Ok(())
    }
}

/// Says when tasks are due; blocks where too many wait already, which only a full load does.
fn arrivals(rate: Option<f64>, during: Duration, seed: u64, sender: &mpsc::Sender<Instant>) {
    let end = Instant::now() + during;
    let mut random = StdRng::seed_from_u64(seed);
    let mut due = Instant::now();
    while due < end {
        match rate {
            None => due = Instant::now(),
            Some(rate) => {
                due += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        if sender.blocking_send(due).is_err() {
            return;
        }
    }
}

/// One client that waits for each put.
async fn puts(etcd: &Etcd, rows: &mut Rows) -> Result<(), Failed> {
    let mut client = etcd.client().await?;
    let (clock, mut times) = (Clock::start(), Vec::new());
    while clock.wall() < SECONDS {
        let begun = Instant::now();
        client.put(format!("/peer/put/{:08}", times.len()), vec![7; VALUE], None).await?;
        times.push(begun.elapsed());
    }
    rows.one.rate(times.len(), &clock);
    rows.one_median.push(quantile(&mut times, 0.5));
    rows.one_p99.push(quantile(&mut times, 0.99));
    Ok(())
}

/// The same, at a rate: a time is from when a put was due.
async fn puts_at(etcd: &Etcd, rate: f64, during: Duration) -> Result<Vec<Duration>, Failed> {
    let mut client = etcd.client().await?;
    let (sender, mut due) = mpsc::channel(TOGETHER);
    std::thread::spawn(move || arrivals(Some(rate), during, 7, &sender));
    let mut times = Vec::new();
    while let Some(due) = due.recv().await {
        client.put(format!("/peer/seldom/{:08}", times.len()), vec![7; VALUE], None).await?;
        times.push(due.elapsed());
    }
    Ok(times)
}

/// Keys a second of many clients, so many keys to a transaction.
async fn clients(etcd: &Etcd, clients: usize, keys: usize, runs: &mut Runs) -> Result<(), Failed> {
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(etcd.client().await?);
    }
    let (clock, end) = (Clock::start(), Instant::now() + SECONDS);
    let writers = (0..clients).map(|writer| {
        let mut client = connections[writer % connections.len()].clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                let key = |n| format!("/peer/{clients}/{writer:03}/{:08}", count + n);
                let puts: Vec<_> = (0..keys).map(|n| TxnOp::put(key(n), vec![7; VALUE], None)).collect();
                match keys {
                    1 => drop(client.put(key(0), vec![7; VALUE], None).await?),
                    _ => drop(client.txn(Txn::new().and_then(puts)).await?),
                }
                count += keys;
            }
            Ok::<_, etcd_client::Error>(count)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut count = 0;
    for writer in writers {
        count += writer.await??;
    }
    runs.rate(count, &clock);
    Ok(())
}
