//! The journals against etcd itself and against the disk, in turns: `make bench WHAT=state`.
//! Every append is durable when its time is taken. A journal's rate has the deciding in it; what was written is read back
//! and compared after the clock stopped.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../bench/measure.rs"]
mod measure;

use common::{admit, cell, join, placement, spec};
use etcd_client::{Client, Txn, TxnOp};
use measure::{Clock, Peer, Runs, TURNS, row};
use nightshift_state::*;
use nightshift_testkit::etcd::Etcd;
use nightshift_types::*;
use std::io::Write;
use std::time::{Duration, Instant};

const NODES: usize = 500;
const TASKS: usize = 1000;
const JOBS: usize = 60;
const SECONDS: Duration = Duration::from_millis(1500);
/// Bytes of a value that etcd and the disk are given: about those of a batch with one placement.
const VALUE: usize = 256;
const CLIENTS: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let etcd = Etcd::start().await;
    let [mut file_one, mut file_many, mut etcd_one, mut etcd_many] = [(); 4].map(|()| Runs::default());
    let [mut file_replay, mut etcd_replay] = [(); 2].map(|()| Runs::default());
    let [mut puts, mut txns, mut syncs] = [(); 3].map(|()| Runs::default());
    for turn in 0..TURNS {
        sync(&folder.path().join("plain"), &mut syncs)?;
        put(&etcd, &mut puts).await?;
        let path = |size| folder.path().join(format!("{turn}-{size}.redb"));
        let options = |size| EtcdOptions {
            endpoints: vec![etcd.endpoint()],
            prefix: format!("/nightshift/{turn}-{size}"),
            request_timeout: Duration::from_secs(30),
            ..EtcdOptions::default()
        };
        journal(1, async || EmbeddedJournal::open(path(1)).await, &mut file_one, None).await?;
        journal(1, async || EtcdJournal::campaign(&options(1)).await, &mut etcd_one, None).await?;
        transactions(&etcd, &mut txns).await?;
        journal(1000, async || EmbeddedJournal::open(path(1000)).await, &mut file_many, Some(&mut file_replay)).await?;
        journal(1000, async || EtcdJournal::campaign(&options(1000)).await, &mut etcd_many, Some(&mut etcd_replay))
            .await?;
    }
    let disk = Peer::Measured("a file: append 256 B, then fdatasync", &syncs);
    let serial = Peer::Measured("etcd: puts, 1 client", &puts);
    let many = Peer::Measured("etcd: keys, 32-put transactions, 64 clients", &txns);
    let unit = "placements/s";
    row("journal in a file, 1 placement a batch", unit, "", &file_one, &disk);
    row("journal in a file, 1 placement a batch, against etcd", unit, "", &file_one, &serial);
    row("journal in etcd, 1 placement a batch", unit, "", &etcd_one, &serial);
    row("journal in a file, 1000 placements a batch", unit, "", &file_many, &many);
    row("journal in etcd, 1000 placements a batch", unit, "", &etcd_many, &many);
    row("replay from a file", "events/s", "", &file_replay, &Peer::None);
    row("replay from etcd", "events/s", "", &etcd_replay, &Peer::None);
    Ok(())
}

/// Places waiting tasks, `size` to a durable batch; then reads it all back.
async fn journal<J: Journal>(
    size: usize,
    open: impl AsyncFn() -> Result<J, JournalError>,
    rate: &mut Runs,
    replay: Option<&mut Runs>,
) -> Result<(), JournalError> {
    let mut journal = open().await?;
    let mut core = Core::recover(&mut journal, cell(), Timestamp(1)).await?;
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    nodes.iter().for_each(|name| drop(core.submit(join(name), Timestamp(1)).expect("a new node")));
    for job in 0..JOBS {
        let spec = JobSpec { parallelism: u32::MAX, ..spec(TASKS) };
        let name = format!("4a9f6b2e-0000-4000-8000-{job:012}");
        drop(core.submit(admit(&name, spec), Timestamp(1)).expect("a new job"));
    }
    flush(&mut core, &mut journal).await?;

    let mut placed = 0;
    let clock = Clock::start();
    while placed < JOBS * TASKS && clock.wall() < SECONDS {
        let waiting = core.state().waiting().take(size);
        let plan: Vec<_> = waiting
            .enumerate()
            .map(|(n, w)| placement(w.job.id.as_str(), w.index, &nodes[(placed + n) % NODES], 1000))
            .collect();
        placed += plan.len();
        drop(core.submit(Command::Place(plan), Timestamp(2)).expect("all of it fits"));
        flush(&mut core, &mut journal).await?;
    }
    rate.rate(placed, &clock);
    drop(journal);

    let mut journal = open().await?;
    let (mut state, mut events) = (State::default(), 0);
    let clock = Clock::start();
    let mut fold = |batch: Batch| {
        events += batch.events.len();
        batch.events.iter().for_each(|event| state.apply(batch.time, event));
    };
    journal.load(&mut fold).await?;
    if let Some(replay) = replay {
        replay.rate(events, &clock);
    }
    assert_eq!(state.digest(), core.state().digest(), "read back to the same state");
    Ok(())
}

async fn flush<J: Journal>(core: &mut Core, journal: &mut J) -> Result<(), JournalError> {
    while let Some(batch) = core.take_batch() {
        journal.append(&batch).await?;
    }
    Ok(())
}

/// What the disk gives one writer that waits for each of its writes.
fn sync(path: &std::path::Path, runs: &mut Runs) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let (clock, mut count) = (Clock::start(), 0);
    while clock.wall() < SECONDS {
        file.write_all(&[7; VALUE])?;
        file.sync_data()?;
        count += 1;
    }
    runs.rate(count, &clock);
    Ok(())
}

/// etcd as one client sees it that waits for each put.
async fn put(etcd: &Etcd, runs: &mut Runs) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect([etcd.endpoint()], None).await?;
    let (clock, mut count) = (Clock::start(), 0);
    while clock.wall() < SECONDS {
        client.put(format!("/peer/put/{count:08}"), vec![7; VALUE], None).await?;
        count += 1;
    }
    runs.rate(count, &clock);
    Ok(())
}

/// Keys a second of etcd at its best: many clients, transactions of 32 puts.
async fn transactions(etcd: &Etcd, runs: &mut Runs) -> Result<(), etcd_client::Error> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS / 8 {
        clients.push(Client::connect([etcd.endpoint()], None).await?);
    }
    let (clock, end) = (Clock::start(), Instant::now() + SECONDS);
    let writers = (0..CLIENTS).map(|writer| {
        let mut client = clients[writer % clients.len()].clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                let key = |n| format!("/peer/txn/{writer:02}/{:08}", count + n);
                let puts: Vec<_> = (0..32).map(|n| TxnOp::put(key(n), vec![7; VALUE], None)).collect();
                client.txn(Txn::new().and_then(puts)).await?;
                count += 32;
            }
            Ok::<_, etcd_client::Error>(count)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut count = 0;
    for writer in writers {
        count += writer.await.expect("a writer ends")?;
    }
    runs.rate(count, &clock);
    Ok(())
}
