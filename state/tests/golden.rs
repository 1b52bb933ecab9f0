//! Journals that each format wrote still mean what they meant: 1, before queues had budgets, and 2.

use nightshift_state::{EntryKind, Source, State};
use nightshift_types::{AccountId, Budget, BudgetPeriod, JobId, NodeId, PicoPoints, Reputation, TokenId};
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
    for (format, wanted) in [(1, 20), (2, 16)] {
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
