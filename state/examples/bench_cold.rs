//! A start from nothing, at a million tasks: from every batch, from a snapshot and a tail, and of a standby that folded
//! along; and what taking the snapshot costs the leader. `make bench WHAT=state`.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../bench/measure.rs"]
mod measure;

use common::{admit, attempt, cell, join, placement, spec, succeed};
use measure::{Clock, Peer, Runs, TURNS, row};
use nightshift_state::*;
use nightshift_testkit::etcd::Etcd;
use nightshift_types::*;
use std::time::Duration;

const JOBS: usize = 1000;
const TASKS: usize = 1000;
const NODES: usize = 1000;
/// Tasks of each job that are done, and that run, when the snapshot is taken; the others wait.
const DONE: usize = 250;
const RUNNING: usize = 250;
/// Events after the snapshot.
const TAIL: usize = 100_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("journal.redb");
    file(&path, folder.path()).await?;
    let etcd = Etcd::start().await;
    let options = EtcdOptions {
        endpoints: vec![etcd.endpoint()],
        prefix: "/nightshift/cold".into(),
        request_timeout: Duration::from_secs(30),
        ..EtcdOptions::default()
    };
    cluster(&path, &options).await
}

/// Everything but the journal in etcd.
async fn file(path: &std::path::Path, folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let [mut replay, mut pause, mut write, mut cold, mut hot] = [(); 5].map(|()| Runs::default());
    let mut journal = EmbeddedJournal::open(path).await?;
    let mut core = Core::recover(&mut journal, cell(), Timestamp(1)).await?;
    fill(&mut core, &mut journal).await?;
    for _ in 0..TURNS {
        let (mut state, mut events) = (State::default(), 0);
        let clock = Clock::start();
        let mut fold = |batch: Batch| {
            events += batch.events.len();
            batch.events.iter().for_each(|event| state.apply(batch.time, event));
        };
        journal.load(&mut fold).await?;
        replay.rate(events, &clock);
        assert_eq!(state.digest(), core.state().digest(), "read back to the same state");
    }
    for turn in 0..TURNS {
        assert!(core.begin_snapshot(Timestamp(3)));
        flush(&mut core, &mut journal).await?;
        let clock = Clock::start();
        let frozen = core.freeze().expect("all is appended");
        pause.push(clock.wall().as_secs_f64());
        let clock = Clock::start();
        let manifest = compact::snapshot(&journal.store(), frozen, &mut |_| Ok(())).await?;
        write.push(clock.wall().as_secs_f64());
        core.snapshot_taken(&manifest, Timestamp(3));
        flush(&mut core, &mut journal).await?;
        if turn == 0 {
            eprintln!(
                "a snapshot of {} tasks: {} chunks, {} bytes",
                JOBS * TASKS,
                manifest.chunks.len(),
                manifest.size
            );
        }
    }
    let archive = Archive::open(&folder.join("archive").display().to_string())?;
    let id = journal.epoch().journal.clone();
    let clock = Clock::start();
    compact::tidy(&journal.store(), &archive, &id, &mut |_| Ok(())).await?;
    eprintln!("archived and deleted in {:?}", clock.wall());
    tail(&mut core, &mut journal).await?;
    let expected = core.state().digest();
    let head = journal.head();
    drop((core, journal));
    for _ in 0..TURNS {
        let clock = Clock::start();
        let mut journal = EmbeddedJournal::open(path).await?;
        let core = Core::recover(&mut journal, cell(), Timestamp(9)).await?;
        cold.push(clock.wall().as_secs_f64());
        assert!(core.state().jobs().count() == JOBS && core.state().digest() != expected);
        drop(core);
        // The same of one that has folded all of it: nothing is read again.
        let mut folded = Folded::default();
        journal.catch_up(&mut folded).await?;
        assert_eq!((folded.state().digest(), folded.head()), (expected, head));
        let clock = Clock::start();
        drop(Core::take_over(folded, &mut journal, cell(), Timestamp(9)).await?);
        hot.push(clock.wall().as_secs_f64());
    }
    let none = Peer::None;
    row("replay of 10⁶ tasks' events from a file", "events/s", "value >= 500000", &replay, &none);
    row("snapshot at 10⁶ tasks: the leader's turn stands still", "s", "", &pause, &none);
    row("snapshot at 10⁶ tasks: written to a file meanwhile", "s", "", &write, &none);
    row("cold start at 10⁶ tasks from a file: a snapshot and 10⁵ events", "s", "value <= 5", &cold, &none);
    row("a standby that folded along takes over at 10⁶ tasks", "s", "", &hot, &none);
    Ok(())
}

/// The same journal in etcd: put there as a restore does.
async fn cluster(path: &std::path::Path, options: &EtcdOptions) -> Result<(), Box<dyn std::error::Error>> {
    let backup = path.with_extension("nsj");
    Source::Embedded(path.into()).backup(&backup).await?;
    let mut journal = EtcdJournal::campaign(options).await?;
    restore(&backup, &mut journal).await?;
    journal.resign().await?;
    let mut cold = Runs::default();
    for _ in 0..TURNS {
        let clock = Clock::start();
        let mut journal = EtcdJournal::campaign(options).await?;
        let core = Core::recover(&mut journal, cell(), Timestamp(9)).await?;
        cold.push(clock.wall().as_secs_f64());
        assert_eq!(core.state().jobs().count(), JOBS);
        journal.resign().await?;
    }
    row("cold start at 10⁶ tasks from etcd: a snapshot and 10⁵ events", "s", "value <= 5", &cold, &Peer::None);
    Ok(())
}

fn name(job: usize) -> String {
    format!("4a9f6b2e-0000-4000-8000-{job:012}")
}

async fn fill<J: Journal>(core: &mut Core, journal: &mut J) -> Result<(), JournalError> {
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    nodes.iter().for_each(|name| drop(core.submit(join(name), Timestamp(1)).expect("a new node")));
    for job in 0..JOBS {
        let spec = JobSpec { parallelism: u32::MAX, ..spec(TASKS) };
        drop(core.submit(admit(&name(job), spec), Timestamp(1)).expect("a new job"));
        place(core, job, 0..DONE + RUNNING, &nodes);
        for index in 0..DONE {
            let done = succeed(attempt(&name(job), index as u32, 1), &nodes[index % NODES]);
            drop(core.submit(done, Timestamp(2)).expect("it runs there"));
        }
        flush(core, journal).await?;
    }
    Ok(())
}

fn place(core: &mut Core, job: usize, tasks: std::ops::Range<usize>, nodes: &[String]) {
    let plan = tasks.map(|index| placement(&name(job), index as u32, &nodes[index % nodes.len()], 1000)).collect();
    drop(core.submit(Command::Place(plan), Timestamp(2)).expect("all of it fits"));
}

/// Placements after the snapshot.
async fn tail<J: Journal>(core: &mut Core, journal: &mut J) -> Result<(), JournalError> {
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    let each = TAIL / JOBS;
    for job in 0..JOBS {
        place(core, job, DONE + RUNNING..DONE + RUNNING + each, &nodes);
        flush(core, journal).await?;
    }
    Ok(())
}

async fn flush<J: Journal>(core: &mut Core, journal: &mut J) -> Result<(), JournalError> {
    while let Some(batch) = core.take_batch() {
        journal.append(&batch).await?;
    }
    Ok(())
}
