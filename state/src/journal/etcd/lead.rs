//! In: a leader key. Out: the lead, while the lease lives. Invariant: the key's create-revision rises with every lead;
//! whoever holds the key with another revision is another leader.

use super::options::{EtcdOptions, Keys, request};
use crate::journal::JournalError;
use etcd_client::{Client, Compare, CompareOp, EventType, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A lead, kept alive until dropped.
pub(super) struct Lead {
    lease: i64,
    revision: i64,
    lost: watch::Receiver<bool>,
    keeper: JoinHandle<()>,
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Lead {
    /// Waits for the lead, for as long as it takes.
    pub async fn campaign(client: &mut Client, keys: &Keys, options: &EtcdOptions) -> Result<Self, JournalError> {
        let seconds = options.lease.as_secs().max(1) as i64;
        let timeout = options.request_timeout;
        let lease = request(timeout, client.lease_grant(seconds, None)).await?.id();
        let (tell, lost) = watch::channel(false);
        let keeper = tokio::spawn(keep_alive(client.clone(), lease, options.clone(), tell));
        let mut lead = Self { lease, revision: 0, lost, keeper };
        loop {
            if *lead.lost.borrow() {
                return Err(JournalError::Unavailable("the lease ran out while waiting for the lead".into()));
            }
            match lead.try_take(client, keys, options).await? {
                Ok(revision) => {
                    lead.revision = revision;
                    return Ok(lead);
                }
                Err(seen) => lead.wait(client, keys, seen, options.lease).await?,
            }
        }
    }

    /// The revision of our key, or the store's revision at which another had it.
    async fn try_take(
        &self,
        client: &mut Client,
        keys: &Keys,
        options: &EtcdOptions,
    ) -> Result<Result<i64, i64>, JournalError> {
        let key = keys.leader.as_str();
        let put = TxnOp::put(key, options.identity.as_str(), Some(PutOptions::new().with_lease(self.lease)));
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        let answer = request(options.request_timeout, client.txn(txn)).await?;
        let now = answer.header().map_or(0, |header| header.revision());
        if answer.succeeded() {
            return Ok(Ok(now));
        }
        let held = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
            _ => None,
        });
        // Our own key: the answer to an earlier try was lost.
        Ok(match held.filter(|kv| kv.lease() == self.lease) {
            Some(own) => Ok(own.create_revision()),
            None => Err(now),
        })
    }

    /// Until the key is deleted, our lease is lost, or a whole lease passed.
    async fn wait(
        &mut self,
        client: &mut Client,
        keys: &Keys,
        seen: i64,
        longest: Duration,
    ) -> Result<(), JournalError> {
        let options = WatchOptions::new().with_start_revision(seen + 1);
        let mut watch = request(longest, client.watch(keys.leader.as_str(), Some(options))).await?;
        let deleted = async {
            while let Ok(Some(answer)) = watch.message().await {
                if answer.canceled() || answer.events().iter().any(|event| event.event_type() == EventType::Delete) {
                    return;
                }
            }
            // The watch broke: ask again, but not in a tight loop.
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            () = deleted => {}
            _ = self.lost.changed() => {}
            () = tokio::time::sleep(longest) => {}
        }
        Ok(())
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Ends when the lease is known to be gone, or the lead was dropped.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut lost = self.lost.clone();
        async move {
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    pub async fn resign(&mut self, client: &mut Client, timeout: Duration) -> Result<(), JournalError> {
        self.keeper.abort();
        request(timeout, client.lease_revoke(self.lease)).await.map(drop)
    }
}

/// Renews until etcd says that the lease is gone, or until it must be: a renewal counts from when it was sent, and after a
/// whole lease without one nobody can know that we still lead. (Where etcd itself was away its leases live on, and a
/// standby that starts anew gets the lead again.)
async fn keep_alive(mut client: Client, lease: i64, options: EtcdOptions, lost: watch::Sender<bool>) {
    let (life, timeout) = (options.lease.max(Duration::from_secs(2)), options.request_timeout);
    let mut tick = tokio::time::interval(options.lease / 3);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    loop {
        tick.tick().await;
        let sent = Instant::now();
        let left = life.saturating_sub(renewed.elapsed());
        if request(timeout.min(left.max(options.lease / 3)), client.lease_keep_alive(lease)).await.is_ok() {
            renewed = sent;
            continue;
        }
        match request(timeout, client.lease_time_to_live(lease, None)).await {
            Ok(answer) if answer.ttl() <= 0 => {
                tracing::error!(lease, "the lead is lost: its lease ran out");
                let _ = lost.send(true);
                return;
            }
            // etcd answers and the lease lives: the next renewal may be heard.
            Ok(_) => continue,
            Err(error) => tracing::warn!(%error, "cannot renew the lead's lease; trying on"),
        }
        if renewed.elapsed() > life {
            tracing::error!(lease, "the lead is lost: it could not be renewed for a whole lease");
            let _ = lost.send(true);
            return;
        }
    }
}
