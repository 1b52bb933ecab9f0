//! Agents' metrics, asked for down their sessions and answered by a call: Prometheus reaches nodes behind NAT this way.
//!
//! in → a scrape of one node · out → its text · invariant: at most [`MAX_PENDING`] scrapes wait; each ends in time.

use crate::nodes::Nodes;
use nightshift_types::NodeId;
use nightshift_wire::proto::{Scrape, scheduler_message::Kind};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

const MAX_PENDING: usize = 1024;
const WITHIN: Duration = Duration::from_secs(5);

/// Scrapes that wait for their node.
#[derive(Debug, Default)]
pub struct Scrapes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    pending: BTreeMap<(NodeId, u64), oneshot::Sender<String>>,
}

impl Scrapes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a node; `None` if it is not connected or does not answer in time.
    pub async fn ask(&self, nodes: &Nodes, node: &NodeId) -> Option<String> {
        let (key, answer) = {
            let mut inner = self.lock();
            if inner.pending.len() >= MAX_PENDING {
                return None;
            }
            inner.last += 1;
            let key = (node.clone(), inner.last);
            let (sender, receiver) = oneshot::channel();
            inner.pending.insert(key.clone(), sender);
            (key, receiver)
        };
        let sent = nodes.send(node, Kind::Scrape(Scrape { id: key.1 }));
        let text = if sent { tokio::time::timeout(WITHIN, answer).await.ok().and_then(Result::ok) } else { None };
        self.lock().pending.remove(&key);
        text
    }

    /// A node's answer; one that nobody waits for is dropped.
    pub fn answer(&self, node: &NodeId, id: u64, text: String) {
        if let Some(waiting) = self.lock().pending.remove(&(node.clone(), id)) {
            let _ = waiting.send(text);
        }
    }
}
