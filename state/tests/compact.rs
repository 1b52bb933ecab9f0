//! One suite for both journals: a journal that is made smaller says what it said, wherever the work was cut off.

mod common;

use common::{admit, cell, job, place, spec, succeed};
use nightshift_state::compact::{self, Step};
use nightshift_state::*;
use nightshift_testkit::etcd::Etcd;
use nightshift_types::{AccountId, PicoPoints, Timestamp};
use std::path::PathBuf;
use std::time::Duration;

/// Where journals of one kind are led.
trait Place {
    type J: Journal;
    async fn lead(&self) -> Result<Self::J, JournalError>;
    /// To read it while nobody leads.
    fn source(&self) -> Source;
    fn folder(&self) -> &std::path::Path;
    fn archive(&self) -> Archive {
        Archive::open(self.folder().join("archive").to_str().unwrap()).unwrap()
    }
}

struct File(tempfile::TempDir);

impl File {
    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("journal.redb")
    }
}

impl Place for File {
    type J = EmbeddedJournal;
    async fn lead(&self) -> Result<EmbeddedJournal, JournalError> {
        EmbeddedJournal::open(self.path()).await
    }
    fn source(&self) -> Source {
        Source::Embedded(self.path())
    }
    fn folder(&self) -> &std::path::Path {
        self.0.path()
    }
}

struct Cluster {
    etcd: Etcd,
    options: EtcdOptions,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let options = EtcdOptions {
            endpoints: vec![etcd.endpoint()],
            lease: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            ..EtcdOptions::default()
        };
        Self { etcd, options, folder: tempfile::tempdir().unwrap() }
    }
}

impl Place for Cluster {
    type J = EtcdJournal;
    async fn lead(&self) -> Result<EtcdJournal, JournalError> {
        // As when the lease of the one before had run out.
        self.etcd.client().await.unwrap().delete("/nightshift/local/leader", None).await.unwrap();
        EtcdJournal::campaign(&self.options).await
    }
    fn source(&self) -> Source {
        Source::Etcd(Box::new(self.options.clone()))
    }
    fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// A leader: a journal and its core.
struct Led<J> {
    journal: J,
    core: Core,
    now: u64,
}

impl<J: Journal> Led<J> {
    async fn begin(place: &impl Place<J = J>, now: u64) -> Self {
        let mut journal = place.lead().await.unwrap();
        let core = Core::recover(&mut journal, cell(), Timestamp(now)).await.unwrap();
        let mut led = Self { journal, core, now };
        led.commit().await;
        led
    }

    async fn commit(&mut self) {
        while let Some(batch) = self.core.take_batch() {
            self.journal.append(&batch).await.unwrap();
        }
    }

    async fn ok(&mut self, command: Command) {
        self.now += 1;
        drop(self.core.submit(command, Timestamp(self.now)).expect("accepted"));
        self.commit().await;
    }

    /// Jobs that are admitted, done and paid: each some batches. One of them is forgotten before the snapshot.
    async fn work(&mut self, names: std::ops::Range<u32>) {
        for name in names.map(|number| format!("job-{number:03}")) {
            self.ok(admit(&name, spec(2))).await;
            self.ok(place(&name, 0, "n1", 5)).await;
            self.ok(succeed(common::attempt(&name, 0, 1), "n1")).await;
        }
    }

    async fn freeze(&mut self) -> Frozen {
        assert!(self.core.begin_snapshot(Timestamp(self.now)), "a new journal has the newest format");
        self.commit().await;
        self.core.freeze().unwrap()
    }

    async fn compact(&mut self, archive: &Archive, fail: Option<Step>) -> Result<(), JournalError> {
        let frozen = self.freeze().await;
        let mut reached = |step| match fail {
            Some(fail) if fail == step => Err(JournalError::Io("the process ended".into())),
            _ => Ok(()),
        };
        let store = self.journal.store();
        let manifest = compact::snapshot(&store, frozen, &mut reached).await?;
        compact::tidy(&store, archive, &self.journal.epoch().journal, &mut reached).await?;
        self.core.snapshot_taken(&manifest, Timestamp(self.now));
        self.commit().await;
        Ok(())
    }
}

/// What must not change: everything but who leads since when.
fn facts(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let jobs: Vec<_> = state.jobs().cloned().collect();
    let ledger = (state.ledger().clone(), state.nodes().clone(), state.tokens().clone());
    (jobs, ledger, state.waiting_count(), state.forgotten(&job("job-000")))
}

/// Every account and every entry that is archived.
async fn archived(place: &impl Place) -> Vec<Posted> {
    let mut entries = Vec::new();
    let mut before = place.lead().await.unwrap().store().records().await.unwrap().archive;
    while let Some(head) = before {
        let segment = place.archive().segment(&head).await.unwrap();
        entries.splice(0..0, segment.entries);
        before = segment.before;
    }
    entries
}

async fn begun<P: Place>(place: &P) -> Led<P::J> {
    let mut led = Led::begin(place, 1_000_000).await;
    led.ok(common::join("n1")).await;
    led.work(0..30).await;
    led.ok(Command::CancelJob { job: job("job-000"), message: "as the test says".into() }).await;
    led.ok(Command::ForgetJob { job: job("job-000") }).await;
    led
}

async fn a_snapshot_stands_for_the_batches_before_it(place: &impl Place) {
    let mut led = begun(place).await;
    let full = led.core.tail_bytes();
    led.compact(&place.archive(), None).await.unwrap();
    assert!(led.core.tail_bytes() < full / 10, "{} of {full} bytes", led.core.tail_bytes());
    assert!(led.core.snapshot_bytes() > 0);
    led.work(30..33).await;
    let before = facts(led.core.state());
    let (head, first) = (led.journal.head(), led.journal.store().first().await.unwrap().unwrap());
    let manifest = led.journal.store().records().await.unwrap().manifest.unwrap();
    assert_eq!(first, manifest.head.sequence + 1, "what the snapshot stands for is deleted");
    assert!(led.journal.load(&mut |_| {}).await.is_err(), "the first batch is gone");
    drop(led);

    let led = Led::begin(place, 2_000_000).await;
    assert_eq!(facts(led.core.state()), before);
    assert_eq!(led.journal.head().sequence, head.sequence + 1, "a new leader started");
    led.core.state().check_invariants().unwrap();
    drop(led);
    let verified = place.source().verify().await.unwrap();
    assert_eq!(verified.snapshot, Some(manifest.head.sequence));

    // And once more: the older snapshot goes, the archive goes on.
    let mut led = Led::begin(place, 3_000_000).await;
    led.compact(&place.archive(), None).await.unwrap();
    let records = led.journal.store().records().await.unwrap();
    assert!(records.manifest.unwrap().head.sequence > manifest.head.sequence);
    assert_eq!(led.journal.store().chunk(manifest.head.sequence, 0).await.unwrap(), None);
    assert_eq!(records.archive.unwrap().number, 2);
    let before = facts(led.core.state());
    drop(led);
    assert_eq!(facts(Led::begin(place, 4_000_000).await.core.state()), before);
    let entries = archived(place).await;
    assert_eq!(entries.len(), 33);
    assert!(entries.iter().all(|posted| posted.job == "default/test"), "named after their jobs, the forgotten one too");
}

async fn a_crash_after_any_step_loses_nothing(place: &impl Place) {
    const STEPS: [Step; 6] = [Step::Chunk, Step::Manifest, Step::Segments, Step::Archived, Step::Batches, Step::Chunks];
    let mut led = begun(place).await;
    let mut paid = 30;
    for (round, step) in STEPS.into_iter().enumerate() {
        let jobs = 100 + round as u32 * 30;
        led.work(jobs..jobs + 30).await;
        paid += 30;
        let error = led.compact(&place.archive(), Some(step)).await.expect_err("cut off");
        assert!(error.to_string().contains("the process ended"), "{step:?}: {error}");
        let before = facts(led.core.state());
        drop(led);
        place.source().verify().await.unwrap_or_else(|error| panic!("{step:?}: {error}"));

        // The next leader has all of it, and finishes what was begun.
        led = Led::begin(place, 2_000_000 + 1_000 * round as u64).await;
        assert_eq!(facts(led.core.state()), before, "{step:?}");
        let (store, journal) = (led.journal.store(), led.journal.epoch().journal.clone());
        compact::tidy(&store, &place.archive(), &journal, &mut |_| Ok(())).await.unwrap();
        if let Some(manifest) = store.records().await.unwrap().manifest {
            assert_eq!(store.first().await.unwrap().unwrap(), manifest.head.sequence + 1, "{step:?}");
        }
    }
    led.compact(&place.archive(), None).await.unwrap();
    drop(led);
    let (entries, verified) = (archived(place).await, place.source().verify().await.unwrap());
    let sum = |of: &AccountId| entries.iter().map(|posted| posted.entry.change(of)).sum::<PicoPoints>();
    assert_eq!((entries.len(), verified.folded.state().ledger().entries()), (paid, paid as u64));
    for (account, amount) in verified.folded.state().ledger().balances() {
        assert_eq!(sum(account), amount, "{account}");
    }
}

async fn a_compacted_journal_is_backed_up_and_restored(place: &impl Place) {
    let mut led = begun(place).await;
    led.compact(&place.archive(), None).await.unwrap();
    led.work(50..52).await;
    let before = facts(led.core.state());
    let id = led.core.state().journal().to_owned();
    drop(led);
    let backup = place.folder().join("b.nsj");
    place.source().backup(&backup).await.unwrap();
    let other = File::new().await;
    let mut journal = other.lead().await.unwrap();
    restore(&backup, &mut journal).await.unwrap();
    drop(journal);
    let mut led = Led::begin(&other, 5_000_000).await;
    assert_eq!(facts(led.core.state()), before);
    assert_ne!(led.core.state().journal(), id);
    // Its archive goes on where the old one's ended, in a folder of its own.
    led.compact(&place.archive(), None).await.unwrap();
    let newest = led.journal.store().records().await.unwrap().archive.unwrap();
    assert_eq!((newest.number, newest.entries), (2, 32));
    assert_eq!(newest.folder, led.core.state().journal());
    assert_eq!(place.archive().segment(&newest).await.unwrap().before.unwrap().folder, id);
}

/// Cut off between manifest and archive: the backup holds what is not archived.
async fn a_backup_holds_what_is_not_archived(place: &impl Place) {
    let mut led = begun(place).await;
    led.compact(&place.archive(), None).await.unwrap();
    led.work(60..63).await;
    led.compact(&place.archive(), Some(Step::Manifest)).await.unwrap_err();
    drop(led);
    let backup = place.folder().join("b.nsj");
    place.source().backup(&backup).await.unwrap();
    let other = File::new().await;
    let mut journal = other.lead().await.unwrap();
    restore(&backup, &mut journal).await.unwrap();
    compact::tidy(&journal.store(), &place.archive(), "other", &mut |_| Ok(())).await.unwrap();
    assert_eq!(journal.store().records().await.unwrap().archive.unwrap().entries, 33);
}

macro_rules! suite {
    ($($name:ident),*) => {
        mod embedded { $(#[tokio::test] async fn $name() { super::$name(&super::File::new().await).await; })* }
        mod etcd { $(#[tokio::test] async fn $name() { super::$name(&super::Cluster::new().await).await; })* }
    };
}
suite!(
    a_snapshot_stands_for_the_batches_before_it,
    a_crash_after_any_step_loses_nothing,
    a_compacted_journal_is_backed_up_and_restored,
    a_backup_holds_what_is_not_archived
);
