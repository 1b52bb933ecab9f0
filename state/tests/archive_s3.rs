//! The archive in an S3-compatible store. Needs one: `pip install 'moto[s3,server]'`, `moto_server -p 5555`, a bucket made by
//! `curl -X PUT http://127.0.0.1:5555/nightshift`, then
//!
//!     AWS_ENDPOINT=http://127.0.0.1:5555 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b \
//!       cargo test -p nightshift-state --test archive_s3 -- --ignored

mod common;

use common::{admit, attempt, cell, join, place, spec, succeed};
use nightshift_state::{
    Archive, Core, EmbeddedJournal, History, Journal, JournalError, LedgerHistory, Source, compact,
};
use nightshift_types::Timestamp;

#[tokio::test]
#[ignore = "needs an S3-compatible store"]
async fn history_goes_to_s3_and_is_read_and_verified_there() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let mut journal = EmbeddedJournal::open(&path).await.unwrap();
    let mut core = Core::recover(&mut journal, cell(), Timestamp(1)).await.unwrap();
    drop(core.submit(join("n1"), Timestamp(2)).unwrap());
    drop(core.submit(admit("a", spec(20)), Timestamp(3)).unwrap());
    for index in 0..20 {
        drop(core.submit(place("a", index, "n1", 5), Timestamp(4)).unwrap());
        drop(core.submit(succeed(attempt("a", index, 1), "n1"), Timestamp(5)).unwrap());
    }
    assert!(core.begin_snapshot(Timestamp(6)));
    flush(&mut core, &mut journal).await;
    let (store, id) = (journal.store(), journal.epoch().journal.clone());
    let frozen = core.freeze().unwrap();
    compact::snapshot(&store, frozen, &mut |_| Ok(())).await.unwrap();
    // A bucket that is not there: nothing is deleted.
    let nowhere = Archive::open("s3://nowhere/x").unwrap();
    let error = compact::tidy(&store, &nowhere, &id, &mut |_| Ok(())).await.unwrap_err();
    assert!(matches!(&error, JournalError::Archive { place, .. } if place.starts_with("s3://nowhere/x/")), "{error}");
    let archive = Archive::open("s3://nightshift/pool").unwrap();
    compact::tidy(&store, &archive, &id, &mut |_| Ok(())).await.unwrap();
    let history = LedgerHistory { store: store.clone(), archive: archive.clone() };
    let past = history.read(Timestamp(0), 100, &|_| true).await.unwrap();
    assert_eq!((past.entries.len(), past.total, past.since), (20, 20, None));
    drop((history, store, journal));
    let verified = Source::Embedded(path).verify(Some(&archive)).await.unwrap();
    assert!(verified.archive_read && verified.archive.unwrap().entries == 20);
}

async fn flush(core: &mut Core, journal: &mut EmbeddedJournal) {
    while let Some(batch) = core.take_batch() {
        journal.append(&batch).await.unwrap();
    }
}
