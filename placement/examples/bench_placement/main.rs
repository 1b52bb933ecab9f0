//! What a decision costs among n unequal nodes, against a scan of all of them, in turns: `make bench WHAT=placement`.
//! Every decision is about another task, and is committed before the next; scan and index must agree, or it fails.
//! Times are CPU times of the one thread, so that other work on the machine counts only by what it does to the caches.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../../bench/measure.rs"]
mod measure;
mod plot;
mod population;
mod scan;
mod updates;

use common::Random;
use measure::{Peer, Runs, TURNS, quantile, resident, row};
use nightshift_placement::{Ask, Cursor, Index, Place, Request, Weights};
use nightshift_types::Bytes;
use nix::time::{ClockId, clock_gettime};
use plot::Line;
use population::{Kind, model_of, node, request};
use scan::Scan;
use std::collections::VecDeque;
use std::time::Duration;

const MILLION: u64 = 1_000_000;
const SCAN: &str = "a scan of all nodes, in columns, vectorised";
/// Tasks that run at once: a decision more, and the oldest is released.
const RUNNING: usize = 500;
/// Jobs of a batch, and the tasks of each.
const JOBS: usize = 40;
const TASKS: usize = 100;

fn main() {
    // The largest first: its memory is read before anything was given back to the allocator.
    let memory = memory();
    let mut lines = [Line::new("index, p50"), Line::new("index, p99"), Line::new("scan, p50")];
    for nodes in [MILLION, 100_000, 10_000, 1_000] {
        let points = compare(Kind::Busy60, nodes);
        lines.iter_mut().zip(points).for_each(|(line, micros)| line.push(nodes, micros));
    }
    for kind in [Kind::Busy99, Kind::OneFits, Kind::NoneFits, Kind::Against] {
        compare(kind, MILLION);
        compare(kind, 100_000);
    }
    if let Some(memory) = memory {
        row("memory of the index with its ids, once, 1000000 nodes", "B a node", "value <= 200", &memory, &Peer::None);
    }
    updates::measure(MILLION);
    plot::write(&lines);
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What a million nodes take, with their ids and all that the allocator keeps.
fn memory() -> Option<Runs> {
    let before = resident()?;
    let index = Index::new((0..MILLION).map(|number| node(Kind::Busy60, number, MILLION)));
    let mut runs = Runs::default();
    runs.push((resident()? - before) / MILLION as f64);
    assert_eq!(index.len() as u64, MILLION);
    Some(runs)
}

/// A pool, twice: indexed, and in the scan's columns.
struct Pools {
    index: Index,
    scan: Scan,
    random: Random,
    kind: Kind,
    running: VecDeque<(Place, usize, u64, u64)>,
    weights: Weights,
}

impl Pools {
    fn new(kind: Kind, nodes: u64) -> Self {
        let all = || (0..nodes).map(|number| node(kind, number, nodes));
        let (index, scan) = (Index::new(all()), Scan::new(all()));
        let (random, running, weights) = (Random(7), VecDeque::new(), Weights::default());
        Self { index, scan, random, kind, running, weights }
    }

    fn requests(&mut self, count: usize) -> Vec<Request> {
        (0..count).map(|_| request(&mut self.random, self.kind)).collect()
    }

    /// Decides and commits; the time of both.
    fn decide(&mut self, request: &Request) -> (Duration, Option<usize>) {
        let start = cpu();
        let ask = Ask::from(request);
        let found = self.index.best(&ask, &self.weights);
        let taken = found.map(|found| (found.place, found.busy_ms, found.node.clone()));
        if let Some((place, busy, _)) = &taken {
            self.index.take(*place, request.spec.memory, *busy);
        }
        let took = cpu() - start;
        let Some((place, busy, id)) = taken else { return (took, None) };
        let at = self.scan.position(&id);
        self.scan.take(at, request.spec.memory.0, busy);
        self.running.push_back((place, at, request.spec.memory.0, busy));
        if self.running.len() > RUNNING {
            self.release();
        }
        (took, Some(at))
    }

    fn release(&mut self) {
        if let Some((place, at, memory, busy)) = self.running.pop_front() {
            self.index.release(place, Bytes(memory), busy);
            self.scan.release(at, memory, busy);
        }
    }

    /// Decisions a second, each committed, nothing else between; a cursor for each request, or none at all.
    fn rate(&mut self, requests: &[Request], tasks: usize) -> f64 {
        let mut cursors: Vec<Cursor> = requests.iter().map(|_| Cursor::default()).collect();
        let mut placed = Vec::with_capacity(requests.len() * tasks);
        let start = cpu();
        for _ in 0..tasks {
            for (request, cursor) in requests.iter().zip(&mut cursors) {
                let ask = Ask::from(request);
                let found = match tasks {
                    1 => self.index.best(&ask, &self.weights),
                    _ => self.index.next_best(cursor, &ask, &self.weights),
                };
                let Some(found) = found else { continue };
                let (place, busy) = (found.place, found.busy_ms);
                self.index.take(place, request.spec.memory, busy);
                placed.push((place, request.spec.memory, busy));
            }
        }
        let took = cpu() - start;
        for (place, memory, busy) in placed {
            self.index.release(place, memory, busy);
        }
        (requests.len() * tasks) as f64 / took.as_secs_f64()
    }
}

/// Medians of the index's p50 and p99 and of the scan's p50, in microseconds.
fn compare(kind: Kind, nodes: u64) -> [f64; 3] {
    let mut pools = Pools::new(kind, nodes);
    let (decisions, every) = if nodes == MILLION { (1_000, 50) } else { (2_000, 10) };
    let [mut p50, mut p99, mut scan_p50, mut rate, mut jobs_rate] = [(); 5].map(|()| Runs::default());
    let (mut fitted, mut looked) = (0, 0);
    for _ in 0..TURNS {
        let (mut times, mut scans) = (Vec::new(), Vec::new());
        for (turn, request) in pools.requests(decisions).iter().enumerate() {
            let scanned = (turn % every == 0).then(|| {
                let (ask, model) = (Ask::from(request), model_of(request));
                let start = cpu();
                let found = pools.scan.best(&ask, &pools.weights, model);
                scans.push(cpu() - start);
                found
            });
            let (took, found) = pools.decide(request);
            times.push(took);
            fitted += usize::from(found.is_some());
            looked += 1;
            assert!(scanned.is_none_or(|scanned| scanned == found), "scan and index disagree about {request:?}");
        }
        p50.push(quantile(&mut times, 0.5));
        p99.push(quantile(&mut times, 0.99));
        scan_p50.push(quantile(&mut scans, 0.5));
        let requests = pools.requests(decisions);
        rate.push(pools.rate(&requests, 1));
        let jobs = pools.requests(JOBS);
        jobs_rate.push(pools.rate(&jobs, TASKS));
    }
    pools.index.check_invariants().expect("the index is sound after the run");
    let goal = |million: &'static str, tenth: &'static str| match nodes {
        MILLION => million,
        100_000 => tenth,
        _ => "",
    };
    let name = |what: &str| format!("{what}: {}, {nodes} nodes", kind.name());
    let peer = Peer::Measured(SCAN, &scan_p50);
    row(&name("one decision, p50"), "µs", goal("ratio <= 0.00333", "ratio <= 0.02"), &p50, &peer);
    row(&name("one decision, p99, against the scan's p50"), "µs", goal("ratio <= 0.05", "ratio <= 0.2"), &p99, &peer);
    let goal = goal("value >= 50000", "");
    row(&name("decisions for 40 jobs in turns, 100 tasks each, each committed"), "1/s", goal, &jobs_rate, &Peer::None);
    row(&name("decisions, every task another job's, each committed"), "1/s", goal, &rate, &Peer::None);
    println!("{}, {nodes} nodes: {fitted} of {looked} tasks fit", kind.name());
    [&p50, &p99, &scan_p50].map(Runs::median)
}
