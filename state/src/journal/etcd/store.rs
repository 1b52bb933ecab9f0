//! In: records, chunks and batches. Out: their keys in etcd, read by anybody, written beside the leader's loop. Invariant:
//! every write compares the leader key's create-revision; a manifest's compares the head too.

use super::options::{EtcdOptions, Keys, request};
use super::{decode_head, first_value, head_value};
use crate::archive::ArchiveHead;
use crate::batch::{EncodedBatch, Head};
use crate::journal::{Each, JournalError, Reader, Records, Store, archive_from, corrupt, manifest_from, seal};
use crate::snapshot::Manifest;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, KvClient, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse,
};
use std::time::Duration;

/// Batches in one page; with [`crate::MAX_BATCH`] it bounds an answer to 32 MiB.
const PAGE: i64 = 32;
pub(super) const MAX_ANSWER: usize = 40 << 20;
/// Tries to write a manifest while appends change the head.
const TRIES: u32 = 100;

/// The journal in etcd, beside the leader's loop or without a lead.
#[derive(Clone)]
pub struct EtcdStore {
    pub(super) client: Client,
    pub(super) kv: KvClient,
    pub(super) keys: Keys,
    pub(super) timeout: Duration,
    /// The lead's; `None`: it only reads.
    pub(super) revision: Option<i64>,
}

impl EtcdStore {
    /// To read a journal that another process may lead.
    pub(crate) async fn reader(options: &EtcdOptions) -> Result<Self, JournalError> {
        let keys = Keys::new(&options.prefix)?;
        let client = options.connect().await?;
        let kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        Ok(Self { client, kv, keys, timeout: options.request_timeout, revision: None })
    }

    fn fence(&self) -> Result<Compare, JournalError> {
        let revision = self.revision.ok_or_else(|| JournalError::LostFence("this process only reads".into()))?;
        Ok(Compare::create_revision(self.keys.leader.as_str(), CompareOp::Equal, revision))
    }

    /// A chunk is a larger request than an append, and nobody waits for it.
    fn patience(&self) -> Duration {
        self.timeout.max(Duration::from_secs(30))
    }

    /// What `operations` answer, if this process still leads.
    async fn write(&self, operations: Vec<TxnOp>) -> Result<Vec<TxnOpResponse>, JournalError> {
        let txn = Txn::new().when([self.fence()?]).and_then(operations);
        let answer = request(self.patience(), self.kv.clone().txn(txn)).await?;
        if answer.succeeded() { Ok(answer.op_responses()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> JournalError {
        JournalError::LostFence("another scheduler leads by now".into())
    }

    /// The store's.
    pub(super) async fn revision_now(&self) -> Result<i64, JournalError> {
        let answer = request(self.timeout, self.kv.clone().get(self.keys.head.as_str(), None)).await?;
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    async fn get(&self, key: String, options: Option<GetOptions>) -> Result<Vec<KeyValue>, JournalError> {
        Ok(request(self.patience(), self.kv.clone().get(key, options)).await?.take_kvs())
    }
}

impl Reader for EtcdStore {
    async fn records(&self) -> Result<Records, JournalError> {
        // One transaction: one moment.
        let keys = [&self.keys.head, &self.keys.manifest, &self.keys.archive];
        let txn = Txn::new().and_then(keys.map(|key| TxnOp::get(key.as_str(), None)));
        let answer = request(self.timeout, self.kv.clone().txn(txn)).await?;
        let mut found = answer.op_responses().into_iter().map(first_value);
        let mut next = || found.next().flatten();
        Ok(Records {
            head: next().map(|kv| decode_head(kv.value())).transpose()?,
            manifest: next().map(|kv| manifest_from(kv.value())).transpose()?,
            archive: next().map(|kv| archive_from(kv.value())).transpose()?,
        })
    }

    async fn chunk(&self, sequence: u64, index: u32) -> Result<Option<Vec<u8>>, JournalError> {
        let found = self.get(self.keys.chunk(sequence, index), None).await?;
        Ok(found.into_iter().next().map(|kv| kv.value().to_vec()))
    }

    async fn first(&self) -> Result<Option<u64>, JournalError> {
        let options = GetOptions::new()
            .with_range(self.keys.batch(u64::MAX))
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_limit(1)
            .with_keys_only();
        let found = self.get(self.keys.batch(0), Some(options)).await?;
        Ok(found.first().and_then(|kv| self.keys.batch_of(kv.key())))
    }

    async fn batches(&self, after: Head, last: u64, each: &mut Each<'_>) -> Result<Head, JournalError> {
        let mut head = after;
        let end = self.keys.batch(last + 1);
        while head.sequence < last {
            let options = GetOptions::new().with_range(end.as_str()).with_limit(PAGE);
            let rows = self.get(self.keys.batch(head.sequence + 1), Some(options)).await?;
            if rows.is_empty() {
                return Err(JournalError::Missing(head.sequence + 1));
            }
            for row in rows {
                if self.keys.batch_of(row.key()) != Some(head.sequence + 1) {
                    return Err(JournalError::Missing(head.sequence + 1));
                }
                let (next, batch) =
                    head.follow(row.value()).map_err(|error| JournalError::decode(head.sequence + 1, error))?;
                head = next;
                each(row.value(), batch, head)?;
            }
        }
        Ok(head)
    }
}

impl Store for EtcdStore {
    async fn put_chunk(&self, sequence: u64, index: u32, bytes: Vec<u8>) -> Result<(), JournalError> {
        self.write(vec![TxnOp::put(self.keys.chunk(sequence, index), bytes, None)]).await.map(drop)
    }

    async fn put_manifest(&self, manifest: &Manifest) -> Result<(), JournalError> {
        let value = seal(&manifest.encode());
        for _ in 0..TRIES {
            let head = self.records().await?.head.unwrap_or_default();
            if head.sequence < manifest.head.sequence {
                return Err(corrupt(head.sequence, "the head is before the snapshot"));
            }
            let unchanged = Compare::value(self.keys.head.as_str(), CompareOp::Equal, head_value(&head));
            let leads = Txn::new().when([self.fence()?]);
            let txn = Txn::new()
                .when([self.fence()?, unchanged])
                .and_then([TxnOp::put(self.keys.manifest.as_str(), value.clone(), None)])
                .or_else([TxnOp::txn(leads)]);
            let answer = request(self.patience(), self.kv.clone().txn(txn)).await?;
            if answer.succeeded() {
                return Ok(());
            }
            let still = |op| matches!(op, TxnOpResponse::Txn(inner) if inner.succeeded());
            if !answer.op_responses().into_iter().any(still) {
                return Err(self.lost());
            }
        }
        Err(JournalError::Unavailable("the head changes faster than a manifest is written".into()))
    }

    async fn put_archive(&self, archive: &ArchiveHead) -> Result<(), JournalError> {
        self.write(vec![TxnOp::put(self.keys.archive.as_str(), seal(&archive.encode()), None)]).await.map(drop)
    }

    async fn delete_batches(&self, last: u64, most: u64) -> Result<bool, JournalError> {
        let Some(first) = self.first().await?.filter(|first| *first <= last) else { return Ok(false) };
        let end = last.min(first + most - 1);
        let options = DeleteOptions::new().with_range(self.keys.batch(end + 1));
        self.write(vec![TxnOp::delete(self.keys.batch(first), Some(options))]).await?;
        Ok(end < last)
    }

    async fn delete_chunks(&self, keep: u64) -> Result<(), JournalError> {
        let older = DeleteOptions::new().with_range(self.keys.chunk(keep, 0));
        let newer = DeleteOptions::new().with_range(self.keys.chunk(u64::MAX, u32::MAX));
        self.write(vec![
            TxnOp::delete(self.keys.chunk(0, 0), Some(older)),
            TxnOp::delete(self.keys.chunk(keep + 1, 0), Some(newer)),
        ])
        .await
        .map(drop)
    }

    async fn reclaim(&self) -> Result<(), JournalError> {
        // Up to now: older revisions are of use to nobody. Whoever watches from one of them is told, and reads anew.
        let now = self.revision_now().await?;
        request(self.patience(), self.client.clone().compact(now, None)).await.map(drop)
    }

    async fn put_batch(&self, batch: &EncodedBatch) -> Result<(), JournalError> {
        self.write(vec![TxnOp::put(self.keys.batch(batch.sequence()), batch.bytes(), None)]).await.map(drop)
    }

    async fn begin_with(&self, manifest: &Manifest, archive: Option<&ArchiveHead>) -> Result<(), JournalError> {
        let head_key = self.keys.head.as_str();
        let empty = Compare::create_revision(head_key, CompareOp::Equal, 0);
        let mut writes = vec![
            TxnOp::put(head_key, head_value(&manifest.head), None),
            TxnOp::put(self.keys.manifest.as_str(), seal(&manifest.encode()), None),
        ];
        writes.extend(archive.map(|a| TxnOp::put(self.keys.archive.as_str(), seal(&a.encode()), None)));
        let txn = Txn::new().when([self.fence()?, empty]).and_then(writes);
        let answer = request(self.patience(), self.kv.clone().txn(txn)).await?;
        if answer.succeeded() { Ok(()) } else { Err(JournalError::LostFence("or the journal is not empty".into())) }
    }
}
