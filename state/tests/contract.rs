//! One suite for both journals: what a journal promises, each promise a test.

mod common;

use common::{Bench, admit, cell, place, spec, succeed};
use nightshift_state::*;
use nightshift_testkit::etcd::{Etcd, Relay};
use nightshift_types::Timestamp;
use std::path::PathBuf;
use std::time::Duration;

/// Where journals of one kind are made.
trait Store {
    type J: Journal;
    /// Leads, once nobody else does.
    async fn lead(&self) -> Result<Self::J, JournalError>;
    /// Changes one byte of a stored batch, behind the journal's back.
    async fn tamper(&self, sequence: u64);
    /// Removes a stored batch, behind the journal's back.
    async fn remove(&self, sequence: u64);
    /// Puts `bytes` in a batch's place.
    async fn replace(&self, sequence: u64, bytes: Vec<u8>);
}

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("journal.redb")
    }
    fn change(&self, sequence: u64, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        use redb::ReadableTable;
        let database = redb::Database::open(self.path()).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut table = write.open_table(redb::TableDefinition::<u64, &[u8]>::new("batches")).unwrap();
            let old = table.get(sequence).unwrap().unwrap().value().to_vec();
            match change(old) {
                Some(new) => drop(table.insert(sequence, new.as_slice()).unwrap()),
                None => drop(table.remove(sequence).unwrap()),
            }
        }
        write.commit().unwrap();
    }
}

fn flip(mut bytes: Vec<u8>) -> Vec<u8> {
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bytes
}

impl Store for File {
    type J = EmbeddedJournal;
    async fn lead(&self) -> Result<EmbeddedJournal, JournalError> {
        EmbeddedJournal::open(self.path()).await
    }
    async fn tamper(&self, sequence: u64) {
        self.change(sequence, |bytes| Some(flip(bytes)));
    }
    async fn remove(&self, sequence: u64) {
        self.change(sequence, |_| None);
    }
    async fn replace(&self, sequence: u64, bytes: Vec<u8>) {
        self.change(sequence, |_| Some(bytes));
    }
}

struct Cluster {
    etcd: Etcd,
    options: EtcdOptions,
}

impl Cluster {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let options = EtcdOptions {
            endpoints: vec![etcd.endpoint()],
            lease: Duration::from_secs(2),
            request_timeout: Duration::from_secs(2),
            ..EtcdOptions::default()
        };
        Self { etcd, options }
    }
    async fn raw(&self) -> etcd_client::Client {
        self.etcd.client().await.unwrap()
    }
    fn key(sequence: u64) -> String {
        format!("/nightshift/local/batch/{sequence:016x}")
    }
    /// As when its lease had run out.
    async fn depose(&self) {
        self.raw().await.delete("/nightshift/local/leader", None).await.unwrap();
    }
}

impl Store for Cluster {
    type J = EtcdJournal;
    async fn lead(&self) -> Result<EtcdJournal, JournalError> {
        EtcdJournal::campaign(&self.options).await
    }
    async fn tamper(&self, sequence: u64) {
        let mut client = self.raw().await;
        let old = client.get(Self::key(sequence), None).await.unwrap().take_kvs().remove(0);
        client.put(Self::key(sequence), flip(old.value().to_vec()), None).await.unwrap();
    }
    async fn remove(&self, sequence: u64) {
        self.raw().await.delete(Self::key(sequence), None).await.unwrap();
    }
    async fn replace(&self, sequence: u64, bytes: Vec<u8>) {
        self.raw().await.put(Self::key(sequence), bytes, None).await.unwrap();
    }
}

/// Batches of a small story, chained from nothing.
fn story() -> Vec<EncodedBatch> {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.ok(admit("a", spec(3)));
    for index in 0..3 {
        bench.ok(place("a", index, "n1", 5));
        bench.ok(succeed(common::attempt("a", index, 1), "n1"));
    }
    bench.batches.iter().map(|bytes| Batch::decode(bytes).unwrap().encode()).collect()
}

async fn fill<J: Journal>(journal: &mut J) -> Head {
    let mut head = journal.load(&mut |_| panic!("empty")).await.unwrap();
    for batch in story() {
        head = journal.append(&batch).await.unwrap();
        assert_eq!(head, batch.head());
    }
    head
}

async fn loaded<J: Journal>(journal: &mut J) -> Result<(Head, Vec<Batch>), JournalError> {
    let mut batches = Vec::new();
    let head = journal.load(&mut |batch| batches.push(batch)).await?;
    Ok((head, batches))
}

async fn round_trip(store: &impl Store) {
    let mut journal = store.lead().await.unwrap();
    assert_eq!(journal.head(), Head::default());
    let head = fill(&mut journal).await;
    let epoch = journal.epoch().clone();
    let expected: Vec<Batch> = story().iter().map(|batch| Batch::decode(batch.bytes()).unwrap()).collect();
    assert_eq!(loaded(&mut journal).await.unwrap(), (head, expected.clone()));
    drop(journal);

    // Another process: the same journal, the same batches, a newer epoch.
    let mut journal = store.lead().await.unwrap();
    assert_eq!(journal.epoch().journal, epoch.journal);
    assert!(journal.epoch().revision > epoch.revision);
    assert_eq!(loaded(&mut journal).await.unwrap(), (head, expected));
}

async fn gapless(store: &impl Store) {
    let mut journal = store.lead().await.unwrap();
    let batches = story();
    let refused = journal.append(&batches[1]).await.unwrap_err();
    assert_eq!(refused, JournalError::OutOfOrder { given: 2, head: 0 });
    let first = journal.append(&batches[0]).await.unwrap();
    assert_eq!(journal.append(&batches[0]).await.unwrap(), first, "the newest batch again is answered, not written");
    // Right number, wrong past.
    let mut forged = Batch::decode(batches[1].bytes()).unwrap();
    forged.previous = [9; 32];
    assert!(matches!(journal.append(&forged.encode()).await, Err(JournalError::OutOfOrder { .. })));
    journal.append(&batches[1]).await.unwrap();
    assert_eq!(loaded(&mut journal).await.unwrap().1.len(), 2);
}

async fn corruption_is_found(store: &impl Store) {
    let mut journal = store.lead().await.unwrap();
    fill(&mut journal).await;
    drop(journal);
    let last = story().len() as u64;
    let check = async |expected: u64| {
        let error = loaded(&mut store.lead().await.unwrap()).await.unwrap_err();
        assert!(matches!(&error, JournalError::Corrupt { sequence, .. } if *sequence == expected), "{error}");
    };
    store.tamper(last).await;
    check(last).await;
    store.replace(last, story()[last as usize - 1].bytes().to_vec()).await;
    loaded(&mut store.lead().await.unwrap()).await.unwrap();
    store.replace(2, story()[2].bytes().to_vec()).await;
    check(2).await;
    store.replace(2, b"not protobuf".to_vec()).await;
    check(2).await;
    store.remove(2).await;
    check(2).await;
}

async fn newer_formats_stop(store: &impl Store) {
    let mut journal = store.lead().await.unwrap();
    fill(&mut journal).await;
    drop(journal);
    // Field 1, format: 99.
    let mut newer = vec![0x08, 99];
    newer.extend_from_slice(&story()[0].bytes()[2..]);
    store.replace(1, newer).await;
    let error = loaded(&mut store.lead().await.unwrap()).await.unwrap_err();
    assert!(matches!(error, JournalError::UnknownFormat { sequence: 1, .. }), "{error}");
}

async fn recovery(store: &impl Store) {
    let mut journal = store.lead().await.unwrap();
    let mut core = Core::recover(&mut journal, cell(), Timestamp(5)).await.unwrap();
    let submitted = core.submit(common::join("n1"), Timestamp(6)).unwrap();
    let early = core.submit(admit("a", spec(2)), Timestamp(7)).unwrap().release(&Head::default());
    assert!(early.is_err(), "no effect before the append");
    let head = journal.append(&core.take_batch().unwrap()).await.unwrap();
    submitted.release(&head).unwrap();
    assert!(core.take_batch().is_none());
    let before = core.state().clone();
    drop((core, journal));

    let mut journal = store.lead().await.unwrap();
    let core = Core::recover(&mut journal, cell(), Timestamp(2)).await.unwrap();
    assert_eq!(core.state().waiting_count(), 2);
    assert_eq!(core.state().epoch(), Some(journal.epoch()));
    assert_eq!(core.state().time(), before.time(), "a slower clock does not turn time back");
    drop((core, journal));

    let mut journal = store.lead().await.unwrap();
    let other = nightshift_types::CellId::new("other").unwrap();
    let error = Core::recover(&mut journal, other, Timestamp(2)).await.unwrap_err();
    assert!(matches!(error, JournalError::WrongCell { .. }), "{error}");
}

macro_rules! contract {
    ($($name:ident),*) => {
        mod embedded { $(#[tokio::test] async fn $name() { super::$name(&super::File::new()).await; })* }
        mod etcd { $(#[tokio::test] async fn $name() { super::$name(&super::Cluster::new().await).await; })* }
    };
}
contract!(round_trip, gapless, corruption_is_found, newer_formats_stop, recovery);

#[tokio::test]
async fn embedded_is_opened_once() {
    let file = File::new();
    let mut journal = file.lead().await.unwrap();
    let error = file.lead().await.err().expect("refused").to_string();
    assert!(error.contains("journal.redb") && error.contains("stop that one first"), "{error}");
    journal.append(&story()[0]).await.unwrap();
    drop(journal);
    assert_eq!(file.lead().await.unwrap().head().sequence, 1);
}

#[tokio::test]
async fn etcd_fences_an_old_leader() {
    let cluster = Cluster::new().await;
    let mut old = cluster.lead().await.unwrap();
    let batches = story();
    old.append(&batches[0]).await.unwrap();
    cluster.depose().await;
    // No leader at all: still not ours.
    assert!(matches!(old.append(&batches[1]).await, Err(JournalError::LostFence(_))));
    let mut new = cluster.lead().await.unwrap();
    assert!(new.epoch().revision > old.epoch().revision);
    assert_eq!(new.head().sequence, 1);
    assert!(matches!(old.append(&batches[1]).await, Err(JournalError::LostFence(_))));
    new.append(&batches[1]).await.unwrap();
    // Even where the batch is the very one.
    assert!(matches!(old.append(&batches[1]).await, Err(JournalError::LostFence(_))));
    assert_eq!(loaded(&mut new).await.unwrap().1.len(), 2);
}

#[tokio::test]
async fn etcd_standby_takes_over_and_the_old_leader_learns_it() {
    let cluster = Cluster::new().await;
    let mut leader = cluster.lead().await.unwrap();
    let lost = leader.lost();
    let options = cluster.options.clone();
    let standby = tokio::spawn(async move { EtcdJournal::campaign(&options).await.map(|journal| journal.head()) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!standby.is_finished(), "a standby waits");
    leader.resign().await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), standby).await.expect("at once").unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(5), lost).await.expect("told");
}

#[tokio::test]
async fn etcd_time_out_is_read_again_not_written_twice() {
    let cluster = Cluster::new().await;
    let relay = Relay::to(cluster.etcd.port).await;
    let mut options = cluster.options.clone();
    options.endpoints = vec![format!("http://127.0.0.1:{}", relay.port)];
    options.request_timeout = Duration::from_millis(500);
    options.lease = Duration::from_secs(30);
    let mut journal = EtcdJournal::campaign(&options).await.unwrap();
    let batches = story();
    journal.append(&batches[0]).await.unwrap();

    relay.swallow_answers();
    let error = journal.append(&batches[1]).await.unwrap_err();
    assert!(error.retryable(), "{error}");
    let landed = cluster.raw().await.get(Cluster::key(2), None).await.unwrap();
    assert_eq!(landed.kvs().len(), 1, "the write itself went through");
    let revision = landed.kvs()[0].mod_revision();
    assert!(journal.append(&batches[1]).await.unwrap_err().retryable());

    relay.heal();
    let head = retry(&mut journal, &batches[1]).await;
    assert_eq!(head, batches[1].head());
    let stored = cluster.raw().await.get(Cluster::key(2), None).await.unwrap();
    assert_eq!(stored.kvs()[0].mod_revision(), revision, "written once");
    assert_eq!(journal.append(&batches[2]).await.unwrap(), batches[2].head());
    assert_eq!(loaded(&mut journal).await.unwrap().1.len(), 3);
}

#[tokio::test]
async fn etcd_outage_longer_than_the_lease_ends_the_lead() {
    let mut cluster = Cluster::new().await;
    let mut journal = cluster.lead().await.unwrap();
    let lost = journal.lost();
    let batches = story();
    journal.append(&batches[0]).await.unwrap();
    journal.confirm().await.unwrap();
    cluster.etcd.kill();
    assert!(journal.append(&batches[1]).await.unwrap_err().retryable());
    // Whether etcd is down or only out of reach cannot be known: another may lead by now.
    tokio::time::timeout(Duration::from_secs(30), lost).await.expect("told without etcd's word");
    cluster.etcd.run().await;
    let mut next = cluster.lead().await.unwrap();
    assert_eq!(next.append(&batches[1]).await.unwrap(), batches[1].head());
    assert_eq!(loaded(&mut next).await.unwrap().1.len(), 2);
    assert!(matches!(journal.confirm().await, Err(JournalError::LostFence(_))));
}

async fn retry<J: Journal>(journal: &mut J, batch: &EncodedBatch) -> Head {
    for _ in 0..100 {
        match journal.append(batch).await {
            Err(error) if error.retryable() => tokio::time::sleep(Duration::from_millis(100)).await,
            end => return end.unwrap(),
        }
    }
    panic!("still unavailable after 100 tries");
}

#[tokio::test]
async fn etcd_says_what_is_wrong_with_options() {
    let options = EtcdOptions { prefix: "nightshift".into(), ..EtcdOptions::default() };
    assert!(EtcdJournal::campaign(&options).await.err().unwrap().to_string().contains("must begin with '/'"));
    let options = EtcdOptions { user: Some(("u".into(), "secret".into())), ..EtcdOptions::default() };
    assert!(EtcdJournal::campaign(&options).await.err().unwrap().to_string().contains("at least one"));
    assert!(!format!("{options:?}").contains("secret"));
}

/// Whatever happened to the file's bytes: an error, or batches that were written (redb may fall back on an older
/// commit); no panic and no other batches.
#[tokio::test]
async fn embedded_survives_a_damaged_file() {
    let file = File::new();
    let mut journal = file.lead().await.unwrap();
    fill(&mut journal).await;
    let expected = loaded(&mut journal).await.unwrap().1;
    drop(journal);
    let good = std::fs::read(file.path()).unwrap();
    for step in 0..60usize {
        let mut bytes = good.clone();
        let at = step * good.len() / 60;
        if step % 3 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 0x40
        }
        std::fs::write(file.path(), &bytes).unwrap();
        let read = async { loaded(&mut file.lead().await?).await };
        match read.await {
            Ok((_, batches)) => assert!(expected.starts_with(&batches), "step {step}"),
            Err(error) => assert!(!error.retryable(), "step {step}: {error}"),
        }
    }
}

#[tokio::test]
async fn etcd_users_are_let_in_by_password_alone() {
    use etcd_client::Permission;
    let cluster = Cluster::new().await;
    let mut admin = cluster.raw().await;
    admin.user_add("root", "root", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.role_add("nightshift").await.unwrap();
    let ours = Permission::read_write("/nightshift/").with_prefix();
    admin.role_grant_permission("nightshift", ours).await.unwrap();
    admin.user_add("nightshift", "secret", None).await.unwrap();
    admin.user_grant_role("nightshift", "nightshift").await.unwrap();
    admin.auth_enable().await.unwrap();
    let with = |user: Option<(&str, &str)>, prefix: &str| EtcdOptions {
        user: user.map(|(name, password)| (name.into(), password.into())),
        prefix: prefix.into(),
        ..cluster.options.clone()
    };
    let mut journal = EtcdJournal::campaign(&with(Some(("nightshift", "secret")), "/nightshift/a")).await.unwrap();
    journal.append(&story()[0]).await.unwrap();
    for refused in [
        with(None, "/nightshift/b"),
        with(Some(("nightshift", "wrong")), "/nightshift/b"),
        with(Some(("nightshift", "secret")), "/others"),
    ] {
        let error = EtcdJournal::campaign(&refused).await.err().expect("refused");
        assert!(!error.retryable(), "{error}");
    }
}
