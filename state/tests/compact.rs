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
    let verified = place.source().verify(None).await.unwrap();
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
        place.source().verify(None).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));

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
    let (entries, verified) = (archived(place).await, place.source().verify(None).await.unwrap());
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
    a_backup_holds_what_is_not_archived,
    a_forged_snapshot_and_a_forged_archive_are_found,
    what_is_missing_is_found
);

/// Changed by somebody who knows the format and mends every hash that can be mended.
async fn a_forged_snapshot_and_a_forged_archive_are_found(place: &impl Place) {
    let mut led = begun(place).await;
    led.compact(&place.archive(), Some(Step::Chunks)).await.unwrap_err();
    let store = led.journal.store();
    let records = store.records().await.unwrap();
    let (manifest, archive) = (records.manifest.unwrap(), records.archive.unwrap());
    drop((store, led));
    place.source().verify(Some(&place.archive())).await.unwrap();

    // Another life, in which a result was dearer: its snapshot under our batch, its archive under our head.
    let other = File::new().await;
    let mut richer = Led::begin(&other, 1_000_000).await;
    richer.ok(common::join("n1")).await;
    richer.ok(admit("a", spec(2))).await;
    richer.ok(place_dear()).await;
    richer.ok(succeed(common::attempt("a", 0, 1), "n1")).await;
    richer.compact(&place.archive(), None).await.unwrap();
    let theirs = richer.journal.store().records().await.unwrap();
    let chunk =
        richer.journal.store().chunk(theirs.manifest.as_ref().unwrap().head.sequence, 0).await.unwrap().unwrap();
    let led = place.lead().await.unwrap();
    let store = led.store();
    let good = store.chunk(manifest.head.sequence, 0).await.unwrap().unwrap();
    store.put_chunk(manifest.head.sequence, 0, chunk).await.unwrap();
    let forged = Manifest { head: manifest.head, ..theirs.manifest.unwrap() };
    store.put_manifest(&forged).await.unwrap();
    drop((store, led));
    let error = place.source().verify(Some(&place.archive())).await.unwrap_err();
    assert!(error.to_string().contains("do not add up"), "{error}");
    // The snapshot that is right, and an archive that is not.
    let led = place.lead().await.unwrap();
    let store = led.store();
    store.put_chunk(manifest.head.sequence, 0, good).await.unwrap();
    store.put_manifest(&manifest).await.unwrap();
    store.put_archive(&ArchiveHead { through: archive.through, ..theirs.archive.unwrap() }).await.unwrap();
    drop((store, led));
    let error = place.source().verify(Some(&place.archive())).await.unwrap_err();
    assert!(error.to_string().contains("do not add up"), "{error}");
}

fn place_dear() -> Command {
    place("a", 0, "n1", 500)
}

/// Why a start from this journal is refused.
async fn place_error<J: Journal>(journal: &mut J) -> Option<JournalError> {
    Core::recover(journal, cell(), Timestamp(9_000_000)).await.err()
}

#[tokio::test]
async fn every_flipped_byte_of_a_compacted_journal_and_its_archive_is_found() {
    let place = File::new().await;
    let mut led = Led::begin(&place, 1_000_000).await;
    led.ok(common::join("n1")).await;
    led.work(0..1).await;
    led.compact(&place.archive(), None).await.unwrap();
    led.work(1..2).await;
    drop(led);
    let (archive, backup, bad) = (place.archive(), place.folder().join("b.nsj"), place.folder().join("bad.nsj"));
    place.source().backup(&backup).await.unwrap();
    let source = Source::Backup(bad.clone());
    let whole = std::fs::read(&backup).unwrap();
    assert!(whole.starts_with(b"nightshift journal backup 2\n"));
    std::fs::write(&bad, &whole).unwrap();
    let verified = source.verify(Some(&archive)).await.unwrap();
    assert!(verified.archive_read && verified.archive.as_ref().unwrap().entries == 1);
    // Head, manifest, archive record, chunks and batches are all in it.
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&bad, bytes).unwrap();
        assert!(source.verify(Some(&archive)).await.is_err(), "byte {at} of {}", whole.len());
    }
    std::fs::write(&bad, &whole).unwrap();
    let object = place.folder().join("archive").join(verified.archive.unwrap().object());
    let segment = std::fs::read(&object).unwrap();
    for at in 0..segment.len() {
        let mut bytes = segment.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&object, bytes).unwrap();
        let error = source.verify(Some(&archive)).await.expect_err("byte {at} of the archive").to_string();
        assert!(error.contains("archive"), "{error}");
    }
    std::fs::remove_file(&object).unwrap();
    assert!(source.verify(Some(&archive)).await.unwrap_err().to_string().contains("archive"));
    source.verify(None).await.unwrap();
}

/// A chunk or a batch that is not there, in either store.
async fn what_is_missing_is_found(place: &impl Place) {
    let mut led = begun(place).await;
    led.compact(&place.archive(), None).await.unwrap();
    led.work(80..82).await;
    let store = led.journal.store();
    // Batches after the snapshot are never deleted by us.
    let first = store.first().await.unwrap().unwrap();
    assert!(!store.delete_batches(first, 10).await.unwrap());
    drop((store, led));
    for error in
        [place.source().verify(None).await.unwrap_err(), place_error(&mut place.lead().await.unwrap()).await.unwrap()]
    {
        assert!(matches!(error, JournalError::Corrupt { sequence, .. } if sequence == first), "{error}");
    }
    place.lead().await.unwrap().store().delete_chunks(0).await.unwrap();
    assert!(place.source().verify(None).await.unwrap_err().to_string().contains("missing"));
}

/// A standby that was away while its batches were deleted reads the snapshot; one that folds along compares digests.
#[tokio::test]
async fn a_standby_reloads_from_the_snapshot_and_compares_digests() {
    let cluster = Cluster::new().await;
    let mut led = begun(&cluster).await;
    let mut late = Folded::default();
    let archive = cluster.archive();
    // What it folds up to here is a batch that will be gone.
    let mut reader = led.journal.store();
    late_catch_up(&mut reader, &mut late, 5).await;
    led.compact(&archive, None).await.unwrap();
    led.work(90..92).await;
    let facts_of_leader = facts(led.core.state());
    let options = cluster.options.clone();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let standby = tokio::spawn(async move {
        let mut progress = |folded: Result<&Folded, &JournalError>| {
            if let Ok(folded) = folded {
                let _ = sender.send(folded.head().sequence);
            }
        };
        let journal = stand_by(&options, &mut late, &mut progress).await;
        (journal, late)
    });
    while seen.recv().await.expect("it stands by") < led.journal.head().sequence {}
    // It folds along while the next one is taken: the digest in the journal is its own.
    led.compact(&archive, None).await.unwrap();
    while seen.recv().await.expect("it stands by") < led.journal.head().sequence {}
    led.journal.resign().await.unwrap();
    let (journal, folded) = standby.await.unwrap();
    let (mut journal, last) = (journal.unwrap(), folded.head());
    assert_eq!((folded.diverged(), last), (None, led.journal.head()));
    assert_eq!(facts(folded.state()), facts_of_leader);
    let core = Core::take_over(folded, &mut journal, cell(), Timestamp(8_000_000)).await.unwrap();
    assert_eq!(core.state().epoch(), Some(journal.epoch()));
}

/// Folds the first batches alone.
async fn late_catch_up(store: &mut impl Store, folded: &mut Folded, last: u64) {
    let mut fold = |bytes: &[u8], batch: Batch, head: Head| {
        folded.apply(&batch, head, bytes.len());
        Ok(())
    };
    store.batches(Head::default(), last, &mut fold).await.unwrap();
}

/// A fold that is another than the leader's may not lead.
#[tokio::test]
async fn a_standby_whose_state_differs_may_not_lead() {
    let place = File::new().await;
    let mut led = begun(&place).await;
    let mut folded = Folded::default();
    let before = led.journal.head();
    led.compact(&place.archive(), Some(Step::Manifest)).await.unwrap_err();
    // The leader says that its state was another: it, or we, folded wrongly.
    let manifest = led.journal.store().records().await.unwrap().manifest.unwrap();
    led.core.snapshot_taken(&Manifest { digest: [7; 32], ..manifest.clone() }, Timestamp(led.now));
    led.commit().await;
    let mut store = led.journal.store();
    late_catch_up(&mut store, &mut folded, before.sequence).await;
    led.journal.catch_up(&mut folded).await.unwrap();
    assert_eq!(folded.diverged(), Some(manifest.head.sequence));
    let error = Core::take_over(folded, &mut led.journal, cell(), Timestamp(9_000_000)).await.unwrap_err();
    assert_eq!(error, JournalError::Diverged(manifest.head.sequence));
    drop((led, store));
    let error = place.source().verify(None).await.unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
}

/// A journal of a format before snapshots is not made smaller until somebody says that every scheduler reads them.
#[test]
fn the_format_is_raised_first() {
    let epoch = common::epoch(1);
    let mut state = State::default();
    let created = Event::JournalCreated { journal: epoch.journal.clone(), cell: cell(), format: 2 };
    state.apply(Timestamp(1), &created);
    let mut core = Core::lead(state, Head::default(), cell(), epoch, Timestamp(2));
    assert!(!core.begin_snapshot(Timestamp(3)), "a version that may still lead would stop at it");
    let formats = |core: &mut Core| -> Vec<u8> {
        std::iter::from_fn(|| core.take_batch()).map(|batch| batch.bytes()[1]).collect()
    };
    assert_eq!(formats(&mut core), [1]);
    core.raise_format(Timestamp(4));
    assert_eq!(core.state().format(), nightshift_state::event::FORMAT);
    assert!(core.begin_snapshot(Timestamp(5)));
    assert_eq!(formats(&mut core), [3], "a reader of before stops here");
    core.raise_format(Timestamp(6));
    assert!(core.take_batch().is_none(), "raised once");
}
