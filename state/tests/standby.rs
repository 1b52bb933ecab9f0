//! A standby: folds what the leader appends as it is appended, and takes over without reading it again. On a real etcd,
//! with TLS and client certificates.

mod common;

use common::{Bench, admit, place, spec, succeed};
use nightshift_state::{Batch, Core, EncodedBatch, EtcdJournal, EtcdOptions, Folded, Journal, JournalError, stand_by};
use nightshift_testkit::etcd::Etcd;
use nightshift_testkit::until;
use nightshift_types::{CellId, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn options(etcd: &Etcd) -> EtcdOptions {
    let tls = etcd.client_tls().unwrap();
    EtcdOptions {
        endpoints: vec![etcd.endpoint()],
        lease: Duration::from_secs(2),
        request_timeout: Duration::from_secs(2),
        ca_pem: Some(tls.ca.clone().into_bytes()),
        client_pem: Some((tls.certificate.clone().into_bytes(), tls.key.clone().into_bytes())),
        ..EtcdOptions::default()
    }
}

/// Batches of a job that is admitted, placed and done.
fn story() -> Vec<EncodedBatch> {
    let mut bench = Bench::new(&["n1"]);
    bench.ok(admit("a", spec(3)));
    for index in 0..3 {
        bench.ok(place("a", index, "n1", 5));
        bench.ok(succeed(common::attempt("a", index, 1), "n1"));
    }
    bench.batches.iter().map(|bytes| Batch::decode(bytes).unwrap().encode()).collect()
}

#[tokio::test]
async fn folds_along_and_takes_over() {
    let etcd = Etcd::start_tls().await;
    let mut leader = EtcdJournal::campaign(&options(&etcd)).await.unwrap();
    let batches = story();
    let (most, last) = batches.split_at(batches.len() - 1);
    let seen = Arc::new(AtomicU64::new(0));
    let standby = {
        let (options, seen) = (options(&etcd), seen.clone());
        tokio::spawn(async move {
            let mut folded = Folded::default();
            let mut progress = |folded: Result<&Folded, &JournalError>| {
                seen.store(folded.unwrap().head().sequence, Ordering::SeqCst);
            };
            let journal = stand_by(&options, &mut folded, &mut progress).await.unwrap();
            (journal, folded)
        })
    };
    for batch in most {
        leader.append(batch).await.unwrap();
        until("the standby has the batch", || async {
            (seen.load(Ordering::SeqCst) == batch.sequence()).then_some(())
        })
        .await;
    }
    assert!(!standby.is_finished(), "it stands by while another leads");
    leader.append(&last[0]).await.unwrap();
    leader.resign().await.unwrap();
    let (mut journal, folded) = standby.await.unwrap();
    assert!(folded.head().sequence >= most.len() as u64, "what was folded is kept");

    // What it holds is what a start from nothing reads.
    let mut read = Vec::new();
    let head = journal.load(&mut |batch| read.push(batch.sequence)).await.unwrap();
    assert_eq!((head.sequence, read.len()), (batches.len() as u64, batches.len()));
    let cell: CellId = folded.state().cell().unwrap().clone();
    let epoch_of_the_story = folded.state().journal().to_string();
    let refused = Core::take_over(folded, &mut journal, cell, Timestamp(1)).await.unwrap_err();
    // The story was told by a journal of another id: a standby does not take over what is not this store's.
    assert!(refused.to_string().contains(&epoch_of_the_story), "{refused}");
}

#[tokio::test]
async fn takes_over_without_reading_again() {
    let etcd = Etcd::start_tls().await;
    let cell = CellId::new("local").unwrap();
    let mut first = EtcdJournal::campaign(&options(&etcd)).await.unwrap();
    let mut core = Core::recover(&mut first, cell.clone(), Timestamp(1)).await.unwrap();
    while let Some(batch) = core.take_batch() {
        first.append(&batch).await.unwrap();
    }
    let standby = {
        let options = options(&etcd);
        tokio::spawn(async move {
            let mut folded = Folded::default();
            let journal = stand_by(&options, &mut folded, &mut |_| {}).await.unwrap();
            (journal, folded)
        })
    };
    first.resign().await.unwrap();
    let (mut second, folded) = standby.await.unwrap();
    let core = Core::take_over(folded, &mut second, cell, Timestamp(2)).await.unwrap();
    assert_eq!(core.state().epoch().unwrap(), second.epoch());
    assert!(second.epoch().revision > first.epoch().revision);
}

#[tokio::test]
async fn certificates_are_needed() {
    let etcd = Etcd::start_tls().await;
    let bare = EtcdOptions { client_pem: None, ..options(&etcd) };
    let error = EtcdJournal::campaign(&bare).await.err().expect("no client certificate");
    assert!(!error.to_string().is_empty());
    let stranger = nightshift_wire::pki::CertificateAuthority::generate("another").unwrap();
    let wrong = EtcdOptions { ca_pem: Some(stranger.certificate_pem().as_bytes().to_vec()), ..options(&etcd) };
    assert!(EtcdJournal::campaign(&wrong).await.is_err(), "another CA's server is not trusted");
}
