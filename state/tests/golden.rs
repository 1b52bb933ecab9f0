//! Journals that each format wrote still mean what they meant: 1, before queues had budgets; 2; 3, which begins with a
//! snapshot.

mod common;

use nightshift_state::{Archive, Command, Core, EmbeddedJournal, EntryKind, Journal, Source, State, compact};
use nightshift_types::{
    AccountId, Budget, BudgetPeriod, FailureReason, JobId, NodeId, PicoPoints, Reputation, Timestamp, TokenId,
};
use std::path::Path;

fn source(format: u32) -> Source {
    let name = format!("tests/golden/journal-{format}.nsj");
    Source::Backup(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
}

fn balance(state: &State, account: &str) -> i128 {
    state.balance(&account.parse::<AccountId>().unwrap()).0
}

#[tokio::test]
async fn a_journal_of_format_1_folds_to_what_it_said() {
    let verified = source(1).verify(None).await.unwrap();
    let (folded, events) = (&verified.folded, verified.events);
    let state = folded.state();
    assert_eq!((folded.head().sequence, events), (20, 30));
    assert_eq!((balance(state, "mint"), balance(state, "owner/ann"), balance(state, "owner/owner-n1")), (-25, 9, 16));
    let books = ["default", "other"].map(|queue| state.ledger().queue(queue));
    assert_eq!(books.map(|book| (book.spent.0, book.reserved.0)), [(14, 0), (11, 13)]);
    // Nothing of that time draws on an account.
    assert_eq!(books.map(|book| (book.drawn, book.budget)), [(PicoPoints::ZERO, None); 2]);
    assert_eq!((state.ledger().entries(), state.ledger().grants()), (3, 0));
    assert!(state.ledger().recent().all(|posted| matches!(posted.entry.kind, EntryKind::Settlement { .. })));
    assert_eq!((state.jobs().count(), state.unfinished().count(), state.running().count()), (2, 1, 1));
    assert!(state.running().all(|running| !running.drawn));
    assert!(state.node(&NodeId::new("n2").unwrap()).unwrap().revoked);
    assert!(state.token(&TokenId::new("t2").unwrap()).is_none());
}

#[tokio::test]
async fn a_journal_of_format_2_folds_to_what_it_said() {
    let verified = source(2).verify(None).await.unwrap();
    let (folded, events) = (&verified.folded, verified.events);
    let state = folded.state();
    assert_eq!((folded.head().sequence, events), (16, 22));
    let accounts = ["mint", "tenant/research", "owner/owner-n1", "owner/owner-n2"];
    assert_eq!(accounts.map(|account| balance(state, account)), [-306, 280, 20, 6]);
    let books = ["default", "research"].map(|queue| state.ledger().queue(queue));
    assert_eq!(books.map(|book| (book.spent.0, book.reserved.0, book.drawn.0)), [(6, 0, 0), (20, 51, 51)]);
    let budget = |points, period| Some(Budget { points: PicoPoints(points), period });
    assert_eq!(books.map(|book| book.budget), [budget(90, BudgetPeriod::Day), budget(500, BudgetPeriod::Month)]);
    assert_eq!(state.ledger().granted("research", "2026-11"), Some(PicoPoints(300)));
    let job = |name: &str| state.job(&JobId::new(name).unwrap()).unwrap();
    let (low, gang) = (job("low"), job("gang"));
    assert_eq!((low.spec.priority, low.spec.min_reputation), (-100, Some(Reputation::new(600))));
    let terms = (gang.spec.priority, gang.spec.min_parallelism, gang.spec.min_reputation);
    assert_eq!(terms, (100, 2, Some(Reputation::new(250))));
    // One made way, one was drained; neither failed.
    assert_eq!((low.tasks[0].preempted, low.tasks[0].cancelled, low.failures), (1, 1, 0));
    assert_eq!((gang.tasks[1].preempted, gang.tasks[1].cancelled, gang.failures), (0, 1, 0));
    assert!(state.running().all(|running| running.drawn) && state.running().count() == 2);
}

#[tokio::test]
async fn their_batches_are_written_again_byte_for_byte() {
    for (format, wanted) in [(1, 20), (2, 16), (3, 3)] {
        let (mut batches, mut highest) = (0, 0);
        let mut same = |bytes: &[u8], batch: nightshift_state::Batch, head: nightshift_state::Head| {
            let again = batch.encode();
            assert_eq!((again.bytes(), again.head()), (bytes, head));
            (batches, highest) = (batches + 1, highest.max(u32::from(bytes[1])));
            Ok(())
        };
        source(format).read(&mut same).await.unwrap();
        assert_eq!((batches, highest), (wanted, format));
    }
}

#[tokio::test]
async fn a_journal_of_format_3_begins_with_its_snapshot() {
    let verified = source(3).verify(None).await.unwrap();
    let (state, head) = (verified.folded.state(), verified.folded.head());
    let snapshot = verified.snapshot.unwrap();
    assert_eq!((head.sequence, snapshot, verified.batches), (17, 14, 3));
    assert_eq!(verified.archive.as_ref().map(|archive| (archive.number, archive.entries)), Some((1, 3)));
    assert_eq!(state.format(), 3);
    assert_eq!(verified.folded.diverged(), None);
    let digest = nightshift_types::Digest(state.digest()).hex();
    assert_eq!(
        digest, "7c04e3ac3b8bec246c706472e828a0dd3c984cc7491f864a8f6ec710ccfe0aa5",
        "folds and digests are what they were"
    );
    assert_eq!((state.ledger().entries(), state.ledger().recent().len()), (5, 5));
    assert_eq!((state.jobs().count(), state.running().count(), state.waiting_count()), (2, 1, 1));
}

/// Made `journal-3.nsj`.
#[tokio::test]
#[ignore = "writes a golden file"]
async fn write_a_journal_of_format_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let mut journal = EmbeddedJournal::open(&path).await.unwrap();
    let mut core = Core::recover(&mut journal, common::cell(), Timestamp(1_000_000)).await.unwrap();
    let mut commands = vec![common::join("n1"), common::join("n2")];
    commands.extend([common::admit("a", common::spec(3)), common::admit("b", common::spec(3))]);
    let grant =
        Command::Grant { id: "g".into(), queue: "research".into(), amount: PicoPoints(9), note: "golden".into() };
    commands.push(grant);
    commands.extend((0..3).map(|index| common::place("a", index, "n1", 5)));
    commands.extend((0..2).map(|index| common::succeed(common::attempt("a", index, 1), "n1")));
    commands.push(common::fail(common::attempt("a", 2, 1), "n1", FailureReason::OutOfMemory));
    commands.extend([common::place("b", 0, "n2", 7), common::place("b", 1, "n2", 7)]);
    for (after, command) in commands.into_iter().enumerate() {
        submit(&mut core, &mut journal, command, 1_000_001 + after as u64).await;
    }
    assert!(core.begin_snapshot(Timestamp(1_000_100)));
    flush(&mut core, &mut journal).await;
    let (store, archive) = (journal.store(), Archive::open(folder.path().join("archive").to_str().unwrap()).unwrap());
    let manifest = compact::snapshot(&store, core.freeze().unwrap(), &mut |_| Ok(())).await.unwrap();
    compact::tidy(&store, &archive, &journal.epoch().journal.clone(), &mut |_| Ok(())).await.unwrap();
    core.snapshot_taken(&manifest, Timestamp(1_000_101));
    submit(&mut core, &mut journal, common::succeed(common::attempt("b", 0, 1), "n2"), 1_000_102).await;
    submit(&mut core, &mut journal, common::place("a", 2, "n2", 6), 1_100_000).await;
    submit(&mut core, &mut journal, common::succeed(common::attempt("a", 2, 2), "n2"), 1_100_001).await;
    drop((store, journal));
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal-3.nsj");
    Source::Embedded(path).backup(&to).await.unwrap();
}

async fn submit(core: &mut Core, journal: &mut EmbeddedJournal, command: Command, at: u64) {
    drop(core.submit(command, Timestamp(at)).unwrap());
    flush(core, journal).await;
}

async fn flush(core: &mut Core, journal: &mut EmbeddedJournal) {
    while let Some(batch) = core.take_batch() {
        journal.append(&batch).await.unwrap();
    }
}
