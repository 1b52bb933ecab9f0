//! A journal that format 1 wrote, before queues had budgets, still means what it meant.

use nightshift_state::{EntryKind, Source, State};
use nightshift_types::{AccountId, NodeId, PicoPoints, TokenId};
use std::path::Path;

fn source() -> Source {
    Source::Backup(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal-1.nsj"))
}

fn balance(state: &State, account: &str) -> i128 {
    state.balance(&account.parse::<AccountId>().unwrap()).0
}

#[tokio::test]
async fn a_journal_of_format_1_folds_to_what_it_said() {
    let (folded, events) = source().verify().await.unwrap();
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
async fn its_batches_are_written_again_byte_for_byte() {
    let mut batches = 0;
    let mut same = |bytes: &[u8], batch: &nightshift_state::Batch, head: nightshift_state::Head| {
        let again = batch.encode();
        assert_eq!((again.bytes(), again.head()), (bytes, head));
        batches += 1;
        Ok(())
    };
    source().read(&mut same).await.unwrap();
    assert_eq!(batches, 20);
}
