//! In: batches. Out: keys under one etcd prefix of ours alone. Invariant: an append is one transaction that compares
//! the leader key's create-revision and the head, so a deposed leader writes nothing and there are no gaps.
//!
//! | key | value |
//! |---|---|
//! | `PREFIX/journal` | the journal's id |
//! | `PREFIX/leader` | who leads, on a lease; its create-revision is the epoch |
//! | `PREFIX/head` | a Head message |
//! | `PREFIX/batch/0000000000000001` | batches by sequence, hexadecimal |
//! | `PREFIX/snapshot/0000000000000001/00000000` | chunks of the snapshot at that batch |
//! | `PREFIX/manifest` | names the newest snapshot; sealed |
//! | `PREFIX/archive` | how far the ledger's history is archived; sealed |

mod lead;
mod options;
mod standby;
mod store;

pub use options::EtcdOptions;
pub use standby::stand_by;
pub use store::EtcdStore;

use super::{Journal, JournalError, continues, corrupt, mint_id};
use crate::batch::{EncodedBatch, Head};
use crate::convert::pb;
use crate::core::Folded;
use crate::hooks::planted;
use etcd_client::{Client, Compare, CompareOp, KeyValue, KvClient, Txn, TxnOp, TxnOpResponse};
use lead::Lead;
use nightshift_types::Epoch;
use options::{Keys, request};
use prost::Message;
use std::time::Duration;

/// Longest wait, after the lead was given away, for another's first batch; and between two looks.
const SUCCESSOR: Duration = Duration::from_millis(500);
const SUCCESSOR_POLL: Duration = Duration::from_millis(5);

/// The journal of a cluster.
pub struct EtcdJournal {
    client: Client,
    kv: KvClient,
    keys: Keys,
    timeout: Duration,
    lead: Lead,
    epoch: Epoch,
    head: Head,
    /// An append whose end we do not know: read the head before anything else.
    uncertain: bool,
}

impl EtcdJournal {
    /// Connects and waits until this process leads. Dropped before that, it stands back. A retryable error may be
    /// answered by another campaign.
    pub async fn campaign(options: &EtcdOptions) -> Result<Self, JournalError> {
        let keys = Keys::new(&options.prefix)?;
        let mut client = options.connect().await?;
        let kv = client.kv_client().max_decoding_message_size(store::MAX_ANSWER);
        let lead = Lead::campaign(&mut client, &keys, options).await?;
        let epoch = Epoch { journal: String::new(), revision: lead.revision() as u64 };
        let timeout = options.request_timeout;
        let mut journal = Self { client, kv, keys, timeout, lead, epoch, head: Head::default(), uncertain: false };
        journal.epoch.journal = journal.journal_id().await?;
        journal.head = journal.stored_head().await?;
        Ok(journal)
    }

    /// Compares that this process still leads.
    fn fence(&self) -> Compare {
        Compare::create_revision(self.keys.leader.as_str(), CompareOp::Equal, self.lead.revision())
    }

    fn lost_fence(&self) -> JournalError {
        JournalError::LostFence(format!("epoch {} is over", self.epoch))
    }

    async fn journal_id(&mut self) -> Result<String, JournalError> {
        let key = self.keys.journal.as_str();
        let none = Compare::create_revision(key, CompareOp::Equal, 0);
        let make = Txn::new().when([self.fence(), none]).and_then([TxnOp::put(key, mint_id(), None)]);
        request(self.timeout, self.kv.txn(make)).await?;
        let found = self.fenced_get(self.keys.journal.clone()).await?;
        let id = found.ok_or_else(|| self.lost_fence())?;
        String::from_utf8(id.value().to_vec()).map_err(|_| corrupt(0, "the journal's id is no text"))
    }

    /// Reads a key linearizably, if we still lead.
    async fn fenced_get(&mut self, key: String) -> Result<Option<KeyValue>, JournalError> {
        let txn = Txn::new().when([self.fence()]).and_then([TxnOp::get(key, None)]);
        let answer = request(self.timeout, self.kv.txn(txn)).await?;
        if !answer.succeeded() {
            return Err(self.lost_fence());
        }
        Ok(answer.op_responses().into_iter().find_map(first_value))
    }

    async fn stored_head(&mut self) -> Result<Head, JournalError> {
        let found = self.fenced_get(self.keys.head.clone()).await?;
        found.map_or(Ok(Head::default()), |kv| decode_head(kv.value()))
    }

    /// One try: the new head, or what stands in its way.
    async fn put(&mut self, batch: &EncodedBatch) -> Result<Head, JournalError> {
        let new = batch.head();
        let head_key = self.keys.head.as_str();
        let unchanged = if self.head.sequence == 0 {
            Compare::create_revision(head_key, CompareOp::Equal, 0)
        } else {
            Compare::value(head_key, CompareOp::Equal, head_value(&self.head))
        };
        let leads = Txn::new().when([self.fence()]).and_then([TxnOp::get(head_key, None)]);
        let compares = match () {
            () if planted("fence-removed") => Vec::new(),
            () if planted("epoch-unchecked") => vec![unchanged],
            () => vec![self.fence(), unchanged],
        };
        crate::pass!("append.before");
        let txn = Txn::new()
            .when(compares)
            .and_then([
                TxnOp::put(self.keys.batch(new.sequence), batch.bytes(), None),
                TxnOp::put(head_key, head_value(&new), None),
            ])
            .or_else([TxnOp::txn(leads)]);
        let answer = request(self.timeout, self.kv.txn(txn)).await?;
        if answer.succeeded() {
            crate::pass!("append.after");
            return Ok(new);
        }
        // Not ours to write: either the lead is lost, or an earlier try of this batch landed.
        let inner = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Txn(inner) => Some(inner),
            _ => None,
        });
        let inner = inner.filter(|inner| inner.succeeded()).ok_or_else(|| self.lost_fence())?;
        let stored = inner.op_responses().into_iter().find_map(first_value);
        let stored = stored.map_or(Ok(Head::default()), |kv| decode_head(kv.value()))?;
        self.accept(stored, &new)
    }

    /// The head as stored, when it should be the old or the new one.
    fn accept(&self, stored: Head, new: &Head) -> Result<Head, JournalError> {
        if stored == *new {
            return Ok(stored);
        }
        Err(corrupt(stored.sequence, format!("the head is not batch {} as this leader wrote it", self.head.sequence)))
    }
}

impl Journal for EtcdJournal {
    type Store = EtcdStore;

    fn store(&self) -> EtcdStore {
        let (client, kv, keys) = (self.client.clone(), self.kv.clone(), self.keys.clone());
        EtcdStore { client, kv, keys, timeout: self.timeout, revision: Some(self.lead.revision()) }
    }

    async fn catch_up(&mut self, folded: &mut Folded) -> Result<Head, JournalError> {
        self.head = self.stored_head().await?;
        let head = super::catch_up(&self.store(), folded).await?;
        if head != self.head {
            return Err(corrupt(head.sequence, "the last batch is not the head's"));
        }
        Ok(head)
    }

    async fn append(&mut self, batch: &EncodedBatch) -> Result<Head, JournalError> {
        if self.uncertain {
            let stored = self.stored_head().await?;
            if stored != self.head {
                self.head = self.accept(stored, &batch.head())?;
            }
            self.uncertain = false;
        }
        if continues(&self.head, batch)? {
            return Ok(self.head);
        }
        // Also if this future is dropped before its end.
        self.uncertain = true;
        let head = self.put(batch).await?;
        self.uncertain = false;
        self.head = head;
        Ok(head)
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn head(&self) -> Head {
        self.head
    }

    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        self.lead.lost()
    }

    async fn confirm(&mut self) -> Result<(), JournalError> {
        self.stored_head().await.map(drop)
    }

    async fn resign(&mut self) -> Result<(), JournalError> {
        crate::pass!("resign.before");
        self.lead.resign(&mut self.client, self.timeout).await?;
        crate::pass!("resign.after");
        let (key, ours) = (self.keys.head.as_str(), head_value(&self.head));
        let mut kv = self.kv.clone();
        let succeeded = async {
            loop {
                match kv.get(key, None).await {
                    Ok(answer) if answer.kvs().first().is_some_and(|head| head.value() == ours) => {}
                    _ => return,
                }
                tokio::time::sleep(SUCCESSOR_POLL).await;
            }
        };
        let _ = tokio::time::timeout(SUCCESSOR, succeeded).await;
        Ok(())
    }
}

fn first_value(op: TxnOpResponse) -> Option<KeyValue> {
    match op {
        TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
        _ => None,
    }
}

/// The same for every leader, so that it can be compared whole.
fn head_value(head: &Head) -> Vec<u8> {
    pb::Head { sequence: head.sequence, hash: head.hash.to_vec() }.encode_to_vec()
}

fn decode_head(bytes: &[u8]) -> Result<Head, JournalError> {
    let bad = |what: String| corrupt(0, format!("the head is malformed: {what}"));
    let head = pb::Head::decode(bytes).map_err(|error| bad(error.to_string()))?;
    let hash = head.hash.as_slice().try_into().map_err(|_| bad("its hash is not 32 bytes".into()))?;
    Ok(Head { sequence: head.sequence, hash })
}
