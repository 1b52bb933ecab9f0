//! How fast the journals are here: `cargo run --release -p nightshift-state --example journal_rate [FOLDER]`.
//! Prints appended batches and events a second, durable, and replayed events a second. Starts an etcd of its own.

#[path = "../tests/common/mod.rs"]
mod common;

use common::etcd::Etcd;
use common::{admit, cell, join, node, placement, spec};
use nightshift_state::*;
use nightshift_types::*;
use std::time::{Duration, Instant};

const NODES: usize = 500;
const TASKS: usize = 1000;
const JOBS: usize = 60;

#[tokio::main]
async fn main() -> Result<(), JournalError> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).expect("a folder to write in");
    for batch in [1, 100, 1000] {
        let path = folder.path().join(format!("{batch}.redb"));
        measure("redb", batch, async || EmbeddedJournal::open(&path).await).await?;
    }
    let etcd = Etcd::start().await;
    for batch in [1, 100, 1000] {
        let (endpoints, prefix) = (vec![etcd.endpoint()], format!("/nightshift/{batch}"));
        let options =
            EtcdOptions { endpoints, prefix, request_timeout: Duration::from_secs(30), ..EtcdOptions::default() };
        measure("etcd", batch, async || EtcdJournal::campaign(&options).await).await?;
    }
    Ok(())
}

/// Places and settles tasks, `size` to a batch, for some seconds; then reads all of it back.
async fn measure<J: Journal>(
    name: &str,
    size: usize,
    open: impl AsyncFn() -> Result<J, JournalError>,
) -> Result<(), JournalError> {
    let mut journal = open().await?;
    let mut core = Core::recover(&mut journal, cell(), Timestamp(1)).await?;
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    nodes.iter().for_each(|name| drop(core.submit(join(name), Timestamp(1))));
    for job in 0..JOBS {
        let spec = JobSpec { parallelism: u32::MAX, ..spec(TASKS) };
        drop(core.submit(admit(&format!("4a9f6b2e-0000-4000-8000-{job:012}"), spec), Timestamp(1)));
    }
    flush(&mut core, &mut journal).await?;

    let (mut batches, mut cpu, mut appending) = (0, Duration::ZERO, Duration::ZERO);
    let mut placed = 0;
    let start = Instant::now();
    while placed < JOBS * TASKS && start.elapsed() < Duration::from_secs(4) {
        let begin = Instant::now();
        let waiting = core.state().waiting().take(size);
        let plan: Vec<_> = waiting
            .enumerate()
            .map(|(n, w)| placement(w.job.id.as_str(), w.index, &nodes[(placed + n) % NODES], 1000))
            .collect();
        placed += plan.len();
        drop(core.submit(Command::Place(plan), Timestamp(2)));
        cpu += begin.elapsed();
        let begin = Instant::now();
        batches += flush(&mut core, &mut journal).await?;
        appending += begin.elapsed();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{name}: {size:>4} placements a batch: {:>6.0} batches/s, {:>7.0} placements/s; deciding {:.2} µs each, appending {:.2} ms a batch",
        f64::from(batches) / seconds,
        placed as f64 / seconds,
        cpu.as_secs_f64() * 1e6 / placed as f64,
        appending.as_secs_f64() * 1e3 / f64::from(batches),
    );
    let running: Vec<AttemptId> =
        nodes.iter().flat_map(|name| core.state().running_on(&node(name)).map(|r| r.attempt.clone())).collect();
    let nodes: Vec<NodeId> = running.iter().map(|a| core.state().current(a).expect("runs").node.clone()).collect();
    let begin = Instant::now();
    let mut appending = Duration::ZERO;
    for (count, (attempt, node)) in running.into_iter().zip(nodes).enumerate() {
        let (outcome, timings) = (Outcome::Success(common::output("[0.1,0.9]")), Timings::default());
        drop(core.submit(Command::Report { node, attempt, outcome, timings }, Timestamp(3)));
        if (count + 1) % size.max(100) == 0 {
            let begin = Instant::now();
            flush(&mut core, &mut journal).await?;
            appending += begin.elapsed();
        }
    }
    let deciding = begin.elapsed() - appending;
    println!("{name}:      settling: {:.2} µs of deciding each", deciding.as_secs_f64() * 1e6 / placed as f64);
    flush(&mut core, &mut journal).await?;
    drop(journal);

    let mut journal = open().await?;
    let (mut state, mut events) = (State::default(), 0);
    let begin = Instant::now();
    journal
        .load(&mut |batch| {
            events += batch.events.len();
            batch.events.iter().for_each(|event| state.apply(batch.time, event));
        })
        .await?;
    println!("{name}:      replay: {events} events, {:.0} events/s", events as f64 / begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    state.check_invariants().expect("the books agree");
    println!("{name}:      invariants of {} tasks: {:.1} ms", JOBS * TASKS, begin.elapsed().as_secs_f64() * 1e3);
    assert_eq!(state.digest(), core.state().digest(), "replayed to the same state");
    Ok(())
}

async fn flush<J: Journal>(core: &mut Core, journal: &mut J) -> Result<u32, JournalError> {
    let mut batches = 0;
    while let Some(batch) = core.take_batch() {
        journal.append(&batch).await?;
        batches += 1;
    }
    Ok(batches)
}
