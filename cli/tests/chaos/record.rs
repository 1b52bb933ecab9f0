//! Writes down what agents and clients were told, each with a head of the journal that was read after it.
//!
//! in → tellings, as they happen · out → [`Told`] · invariant: the head's read begins after the telling: what a correct
//! scheduler has told stands in the journal up to it.

use crate::judge::{Reigns, Telling, Told, decode};
use etcd_client::{Client, EventType, WatchOptions};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Vec<Telling>>,
    /// Tellings without a head yet, those that are being read for among them.
    unread: AtomicUsize,
    told: Mutex<Vec<Told>>,
    reigns: Mutex<Reigns>,
}

impl Recorder {
    /// Takes one in.
    pub fn told(&self, what: Telling) {
        self.shared.unread.fetch_add(1, Ordering::SeqCst);
        self.shared.pending.lock().unwrap().push(what);
    }

    /// Reads heads until it is aborted; `connect` reaches any member that answers.
    pub async fn run(self, head_key: String, connect: impl AsyncFn() -> Result<Client, etcd_client::Error>) {
        let mut client: Option<Client> = None;
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let pending = std::mem::take(&mut *self.shared.pending.lock().unwrap());
            if pending.is_empty() {
                continue;
            }
            let head = loop {
                if client.is_none() {
                    client = connect().await.ok();
                }
                let Some(reader) = client.as_mut() else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                match tokio::time::timeout(Duration::from_secs(2), reader.get(head_key.as_str(), None)).await {
                    Ok(Ok(answer)) => break answer.kvs().first().and_then(|kv| decode::head(kv.value()).ok()),
                    _ => client = None,
                }
            };
            let head = head.map_or(0, |(sequence, _)| sequence);
            let count = pending.len();
            let told = pending.into_iter().map(|what| Told { what, head });
            self.shared.told.lock().unwrap().extend(told);
            self.shared.unread.fetch_sub(count, Ordering::SeqCst);
        }
    }

    /// Follows the leader's key until it is aborted.
    pub async fn watch(self, key: String, connect: impl AsyncFn() -> Result<Client, etcd_client::Error>) {
        let mut next = 1;
        loop {
            if let Ok(mut client) = connect().await {
                let _ = self.follow(&mut client, &key, &mut next).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn follow(&self, client: &mut Client, key: &str, next: &mut i64) -> Result<(), etcd_client::Error> {
        let options = WatchOptions::new().with_start_revision(*next).with_progress_notify();
        let mut stream = client.watch(key, Some(options)).await?;
        while let Some(answer) = stream.message().await? {
            let mut reigns = self.shared.reigns.lock().unwrap();
            if answer.compact_revision() > 0 {
                // What was between is not known any more.
                *next = answer.compact_revision();
                reigns.from = *next;
                return Ok(());
            }
            for event in answer.events() {
                let Some(kv) = event.kv() else { continue };
                let holder = (event.event_type() == EventType::Put).then(|| kv.create_revision());
                reigns.changes.push((kv.mod_revision(), holder));
                *next = kv.mod_revision() + 1;
            }
        }
        Ok(())
    }

    /// Who held the key, once it is known up to whom it is now.
    pub async fn reigns(&self, now: Option<i64>) -> Reigns {
        for _ in 0..100 {
            let reigns = self.shared.reigns.lock().unwrap().clone();
            if reigns.changes.last().is_some_and(|(_, holder)| *holder == now) {
                return reigns;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Too late for some: those are not judged by it.
        Reigns { from: i64::MAX, ..Reigns::default() }
    }

    /// Everything, once each has its head.
    pub async fn all(&self) -> Vec<Told> {
        while self.shared.unread.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.shared.told.lock().unwrap().clone()
    }
}
