//! etcd's alarms, and users whose tokens run out: the journal waits, and goes on by itself.

mod common;

use common::{Bench, admit, spec};
use etcd_client::{AlarmAction, AlarmType};
use nightshift_state::{Batch, EncodedBatch, EtcdJournal, EtcdOptions, Folded, Journal, JournalError, stand_by};
use nightshift_testkit::etcd::Etcd;
use nightshift_testkit::until;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![etcd.endpoint()],
        lease: Duration::from_secs(10),
        request_timeout: Duration::from_secs(5),
        ..EtcdOptions::default()
    }
}

/// Some batches.
fn story() -> Vec<EncodedBatch> {
    let mut bench = Bench::new(&["n1"]);
    for job in ["a", "b", "c", "d", "e"] {
        bench.ok(admit(job, spec(1)));
    }
    bench.batches.iter().map(|bytes| Batch::decode(bytes).unwrap().encode()).collect()
}

#[tokio::test]
async fn an_alarm_is_waited_for_by_leader_and_standby() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=16777216"]).await;
    let mut leader = EtcdJournal::campaign(&options(&etcd)).await.unwrap();
    let batches = story();
    leader.append(&batches[0]).await.unwrap();
    etcd.fill().await;
    for _ in 0..2 {
        let error = leader.append(&batches[1]).await.unwrap_err();
        assert!(matches!(error, JournalError::NoSpace(_)) && error.retryable(), "{error:?}");
        assert!(error.to_string().contains("etcdctl alarm disarm"), "{error}");
    }
    leader.confirm().await.expect("it leads on, and can read");
    // A standby cannot even ask for a lease; it is no reason to end.
    let heard = Arc::new(AtomicU64::new(0));
    let standby = {
        let (options, heard) = (options(&etcd), heard.clone());
        tokio::spawn(async move {
            let mut folded = Folded::default();
            let mut progress = |progress: Result<&Folded, &JournalError>| {
                heard.fetch_add(u64::from(matches!(progress, Err(JournalError::NoSpace(_)))), Ordering::SeqCst);
            };
            stand_by(&options, &mut folded, &mut progress).await.map(|journal| journal.head())
        })
    };
    until("the standby has heard of it, twice", || async { (heard.load(Ordering::SeqCst) > 1).then_some(()) }).await;
    etcd.make_room().await;
    assert_eq!(leader.append(&batches[1]).await.unwrap(), batches[1].head());

    etcd.alarm(AlarmAction::Activate, AlarmType::Corrupt).await;
    let error = leader.append(&batches[2]).await.unwrap_err();
    assert!(matches!(error, JournalError::StoreCorrupt(_)) && error.retryable(), "{error:?}");
    etcd.alarm(AlarmAction::Deactivate, AlarmType::Corrupt).await;
    assert_eq!(leader.append(&batches[2]).await.unwrap(), batches[2].head());
    leader.resign().await.unwrap();
    assert_eq!(standby.await.unwrap().unwrap(), batches[2].head());
}

#[tokio::test]
async fn a_users_token_that_ran_out_or_was_forgotten_ends_no_lead() {
    let mut etcd = Etcd::start_with(&["--auth-token-ttl=1"]).await;
    let mut admin = etcd.client().await.unwrap();
    for name in ["root", "nightshift"] {
        admin.user_add(name, "secret", None).await.unwrap();
    }
    admin.user_grant_role("root", "root").await.unwrap();
    admin.role_add("nightshift").await.unwrap();
    let ours = etcd_client::Permission::read_write("/nightshift/").with_prefix();
    admin.role_grant_permission("nightshift", ours).await.unwrap();
    admin.user_grant_role("nightshift", "nightshift").await.unwrap();
    admin.auth_enable().await.unwrap();
    let options = EtcdOptions { user: Some(("nightshift".into(), "secret".into())), ..options(&etcd) };
    let mut journal = EtcdJournal::campaign(&options).await.unwrap();
    let batches = story();
    journal.append(&batches[0]).await.unwrap();
    // Longer than a token lives while nobody shows it.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    journal.append(&batches[1]).await.unwrap();
    // etcd forgets its tokens with a restart.
    etcd.kill();
    etcd.run_with_users().await;
    for _ in 0..100 {
        match journal.append(&batches[2]).await {
            Err(error) if error.retryable() => tokio::time::sleep(Duration::from_millis(100)).await,
            end => {
                assert_eq!(end.unwrap(), batches[2].head());
                return;
            }
        }
    }
    panic!("still unavailable after 100 tries");
}
