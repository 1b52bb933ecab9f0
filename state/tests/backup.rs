//! What a journal holds can be read, saved and put elsewhere; whatever was changed in it is found.

mod common;

use common::{admit, cell, place, spec, succeed};
use nightshift_state::{
    Batch, Core, EmbeddedJournal, EncodedBatch, EtcdJournal, EtcdOptions, Journal, Source, State, restore,
};
use nightshift_testkit::etcd::Etcd;
use nightshift_types::Timestamp;
use std::path::{Path, PathBuf};

/// A journal that was led for a while: a job is done, one runs.
async fn led<J: Journal>(journal: &mut J) -> State {
    let mut core = Core::recover(journal, cell(), Timestamp(1_000_000)).await.unwrap();
    let mut commands = vec![common::join("n1"), admit("a", spec(3)), admit("b", spec(2))];
    commands.extend((0..3).map(|index| place("a", index, "n1", 5)));
    commands.extend((0..3).map(|index| succeed(common::attempt("a", index, 1), "n1")));
    commands.push(place("b", 0, "n1", 5));
    for (after, command) in commands.into_iter().enumerate() {
        let _ = core.submit(command, Timestamp(1_000_001 + after as u64)).unwrap();
        while let Some(batch) = core.take_batch() {
            journal.append(&batch).await.unwrap();
        }
    }
    let mut state = State::default();
    journal.load(&mut |batch| batch.events.iter().for_each(|event| state.apply(batch.time, event))).await.unwrap();
    state
}

async fn file_of(folder: &Path) -> (PathBuf, State) {
    let path = folder.join("journal.redb");
    let state = led(&mut EmbeddedJournal::open(&path).await.unwrap()).await;
    (path, state)
}

#[tokio::test]
async fn a_backup_restores_into_another_store_under_a_new_id() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = file_of(folder.path()).await;
    let source = Source::Embedded(path.clone());
    let backup = folder.path().join("b.nsj");
    let head = source.backup(&backup).await.unwrap();
    assert_eq!(source.verify(None).await.unwrap().folded.head(), head, "reading changed nothing");
    let again = source.backup(&backup).await.unwrap_err();
    assert!(again.to_string().contains("is there already"), "{again}");

    // From one machine to a cluster, and back.
    let etcd = Etcd::start().await;
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..EtcdOptions::default() };
    let mut cluster = EtcdJournal::campaign(&options).await.unwrap();
    restore(&backup, &mut cluster).await.unwrap();
    assert!(restore(&backup, &mut cluster).await.unwrap_err().to_string().contains("not empty"));
    let core = Core::recover(&mut cluster, cell(), Timestamp(2_000_000)).await.unwrap();
    let after = core.state();
    assert_ne!(after.journal(), before.journal(), "a new id");
    assert_eq!(after.jobs().collect::<Vec<_>>(), before.jobs().collect::<Vec<_>>());
    assert_eq!(after.nodes(), before.nodes());
    assert_eq!(after.ledger().balances().collect::<Vec<_>>(), before.ledger().balances().collect::<Vec<_>>());
    assert_eq!(after.running().count(), 1, "what ran has a whole lease under the new leader");

    let live = Source::Etcd(Box::new(options));
    let second = folder.path().join("c.nsj");
    live.backup(&second).await.unwrap();
    let mut file = EmbeddedJournal::open(folder.path().join("other.redb")).await.unwrap();
    restore(&second, &mut file).await.unwrap();
    assert!(Core::recover(&mut file, cell(), Timestamp(3_000_000)).await.is_ok());
}

#[tokio::test]
async fn a_running_pools_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let mut journal = EmbeddedJournal::open(&path).await.unwrap();
    led(&mut journal).await;
    let error = Source::Embedded(path).verify(None).await.unwrap_err();
    assert!(error.to_string().contains("stop that one first"), "{error}");
    let none = Source::Embedded(folder.path().join("none.redb")).verify(None).await.unwrap_err();
    assert!(none.to_string().contains("none.redb"), "{none}");
}

/// A backup as its frames: bytes of each batch, then the end.
fn frames(path: &Path) -> (Vec<Vec<u8>>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let start = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (mut rest, mut all) = (&bytes[start..], Vec::new());
    loop {
        let (length, after) = rest.split_at(4);
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if length == 0 {
            return (all, after.to_vec());
        }
        let (frame, after) = after.split_at(length);
        all.push(frame.to_vec());
        rest = after;
    }
}

fn write(path: &Path, frames: &[Vec<u8>], end: &[u8]) {
    let mut bytes = b"nightshift journal backup 1\n".to_vec();
    for frame in frames {
        bytes.extend((frame.len() as u32).to_le_bytes());
        bytes.extend(frame);
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(end);
    std::fs::write(path, bytes).unwrap();
}

async fn refused(path: &Path, what: &str) -> String {
    let error = Source::Backup(path.into()).verify(None).await.expect_err(what).to_string();
    let folder = tempfile::tempdir().unwrap();
    let mut journal = EmbeddedJournal::open(folder.path().join("j.redb")).await.unwrap();
    assert!(restore(path, &mut journal).await.is_err(), "{what}: restored");
    assert_eq!(journal.head().sequence, 0, "{what}: nothing was written");
    error
}

#[tokio::test]
async fn every_flipped_byte_every_missing_batch_and_every_forged_entry_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = file_of(folder.path()).await;
    let backup = folder.path().join("b.nsj");
    Source::Embedded(path).backup(&backup).await.unwrap();
    let (good, end) = frames(&backup);
    let bad = folder.path().join("bad.nsj");
    let whole = std::fs::read(&backup).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&bad, bytes).unwrap();
        assert!(Source::Backup(bad.clone()).verify(None).await.is_err(), "byte {at} of {}", whole.len());
    }
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bad, &whole[..length]).unwrap();
        refused(&bad, "cut short").await;
    }
    for missing in 0..good.len() {
        let mut frames = good.clone();
        frames.remove(missing);
        write(&bad, &frames, &end);
        refused(&bad, "a batch is missing").await;
    }
    // Forged by somebody who knows the format and mends the whole chain: a result that was paid a second time.
    let paid = good.iter().position(|frame| {
        let batch = Batch::decode(frame).unwrap();
        batch.events.iter().any(|event| format!("{event:?}").starts_with("TaskSucceeded"))
    });
    let twice = Batch::decode(&good[paid.unwrap()]).unwrap();
    let mut chain: Vec<Batch> = good.iter().map(|frame| Batch::decode(frame).unwrap()).collect();
    chain.push(twice);
    let mut forged: Vec<EncodedBatch> = Vec::new();
    for (index, mut batch) in chain.into_iter().enumerate() {
        batch.sequence = index as u64 + 1;
        batch.previous = forged.last().map_or([0; 32], |before| before.head().hash);
        forged.push(batch.encode());
    }
    let frames: Vec<Vec<u8>> = forged.iter().map(|batch| batch.bytes().to_vec()).collect();
    write(&bad, &frames, &forged.last().unwrap().head().hash);
    let error = refused(&bad, "a result paid twice").await;
    assert!(error.contains("did not fit"), "{error}");
}

#[tokio::test]
async fn no_journal_is_said_so() {
    let etcd = Etcd::start().await;
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..EtcdOptions::default() };
    let error = Source::Etcd(Box::new(options)).verify(None).await.unwrap_err();
    assert!(error.to_string().contains("no journal under etcd prefix /nightshift/local"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("x");
    std::fs::write(&other, "something else").unwrap();
    assert!(Source::Backup(other).verify(None).await.unwrap_err().to_string().contains("no journal backup"));
}
