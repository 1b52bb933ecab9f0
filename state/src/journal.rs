//! In: batches. Out: the same batches, in order, for as long as the store lives. Invariant: `append` returns only when
//! the batch is durable, and only for the holder of the newest epoch; no gaps, no forks.

mod embedded;
mod etcd;
mod store;

pub(crate) use embedded::EmbeddedReader;
pub use embedded::{EmbeddedJournal, EmbeddedStore};
pub use etcd::{EtcdJournal, EtcdOptions, EtcdStore, stand_by};
pub(crate) use store::{Each, archive_from, catch_up, corrupt, manifest_from, read_snapshot, seal};
pub use store::{Reader, Records, Store};

use crate::batch::{Batch, EncodedBatch, Head};
use crate::convert::DecodeError;
use crate::core::Folded;
use nightshift_types::{CellId, Epoch};
use std::future::Future;
use thiserror::Error;

/// Why a journal did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Another leader has a newer epoch, or ours ran out. The process must end: what it decided since is void.
    #[error("this scheduler no longer leads: {0}")]
    LostFence(String),
    /// The store does not answer. The same batch may be appended again, until it is durable or the fence is lost.
    #[error("the journal's store is not available: {0}")]
    Unavailable(String),
    /// The store is full and takes nothing until there is room: etcd's NOSPACE alarm. Otherwise as [`Self::Unavailable`].
    #[error(
        "the journal's store is full: {0}: raise etcd's --quota-backend-bytes, or compact and defragment it, then \
         `etcdctl alarm disarm`"
    )]
    NoSpace(String),
    /// The store's members differ and it takes nothing: etcd's CORRUPT alarm. Otherwise as [`Self::Unavailable`].
    #[error(
        "the journal's store says that it is corrupt: {0}: replace the member that differs, then `etcdctl alarm disarm`"
    )]
    StoreCorrupt(String),
    /// Another process has it open.
    #[error("{0}")]
    InUse(String),
    /// What is stored is not what was written.
    #[error("the journal is corrupt at batch {sequence}: {what}; restore it from a backup")]
    Corrupt {
        /// Of the batch.
        sequence: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by a newer version.
    #[error("the journal at batch {sequence} needs a newer version: {what}")]
    UnknownFormat {
        /// Of the batch.
        sequence: u64,
        /// What is unknown.
        what: String,
    },
    /// Another cell's.
    #[error("the journal belongs to cell {found}, this scheduler to {expected}")]
    WrongCell {
        /// Its cell.
        found: CellId,
        /// Ours.
        expected: CellId,
    },
    /// A batch that does not continue the head; a bug of the caller.
    #[error("batch {given} does not continue the journal's head {head}")]
    OutOfOrder {
        /// Of the batch.
        given: u64,
        /// Of the journal.
        head: u64,
    },
    /// The ledger's archive. Nothing is deleted of the journal before its history is there.
    #[error("the ledger's archive at {place}: {what}")]
    Archive {
        /// Which object.
        place: String,
        /// What its store says.
        what: String,
    },
    /// A batch is not there: compacted meanwhile, so that a reader looks for a newer snapshot; else the journal is corrupt.
    #[error("batch {0} of the journal is missing")]
    Missing(u64),
    /// This fold is not the leader's: one of the two versions folds wrongly. It may not lead.
    #[error(
        "this scheduler's state at batch {0} has another digest than the leader's: it may not lead. Run schedulers of one \
         version; `nightshift state verify` says whether the journal itself is whole"
    )]
    Diverged(u64),
    /// The store failed in a way that no retry mends.
    #[error("the journal's store failed: {0}")]
    Io(String),
    /// Options that cannot work.
    #[error("{0}")]
    Config(String),
}

impl From<DecodeError> for JournalError {
    fn from(error: DecodeError) -> Self {
        Self::decode(0, error)
    }
}

impl JournalError {
    /// Whether the same call may be repeated.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NoSpace(_) | Self::StoreCorrupt(_))
    }

    pub(crate) fn decode(sequence: u64, error: DecodeError) -> Self {
        match error {
            DecodeError::UnknownEvent | DecodeError::UnknownFormat(_) => {
                Self::UnknownFormat { sequence, what: error.to_string() }
            }
            DecodeError::Malformed(_) | DecodeError::Field { .. } => {
                Self::Corrupt { sequence, what: error.to_string() }
            }
        }
    }
}

/// A durable, fenced, gapless sequence of batches. Opening one makes the caller its leader, with a new epoch.
pub trait Journal: Send + Sync {
    /// What its snapshots are written through.
    type Store: Store;

    /// Reads and writes beside the leader's loop, for as long as the caller leads.
    fn store(&self) -> Self::Store;

    /// Folds what `folded` does not hold yet, up to the head. Checks the chain.
    fn catch_up(&mut self, folded: &mut Folded) -> impl Future<Output = Result<Head, JournalError>> + Send;

    /// Every batch from the first on; an error where they were compacted.
    fn load(
        &mut self,
        each: &mut (dyn FnMut(Batch) + Send),
    ) -> impl Future<Output = Result<Head, JournalError>> + Send {
        async move {
            let store = self.store();
            let Some(end) = store.records().await?.head else { return Ok(Head::default()) };
            let mut each = |_: &[u8], batch: Batch, _: Head| {
                each(batch);
                Ok(())
            };
            let head = store.batches(Head::default(), end.sequence, &mut each).await.map_err(|error| match error {
                JournalError::Missing(batch) => corrupt(batch, "it is missing"),
                other => other,
            })?;
            if head == end { Ok(head) } else { Err(corrupt(head.sequence, "the last batch is not the head's")) }
        }
    }

    /// Makes a batch durable and returns the new head. Repeating the newest batch is answered with the head: after
    /// [`JournalError::Unavailable`] the caller repeats until it knows.
    fn append(&mut self, batch: &EncodedBatch) -> impl Future<Output = Result<Head, JournalError>> + Send;

    /// Who leads through this journal: the caller.
    fn epoch(&self) -> &Epoch;

    /// Where it ends, as far as this process knows.
    fn head(&self) -> Head;

    /// Ends when the lead is known to be lost, which an idle leader would not notice otherwise. Never, where it cannot be.
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static;

    /// Asks the store whether the caller still leads.
    fn confirm(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Gives the lead away at once, so that a standby need not wait for the lease. Nothing can be appended after it. It
    /// returns when another has begun to lead, or soon: whoever is sent away then finds the other one.
    fn resign(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;
}

/// Checks that a batch continues `head`; `true` if it is the newest batch again.
fn continues(head: &Head, batch: &EncodedBatch) -> Result<bool, JournalError> {
    if batch.head() == *head {
        return Ok(true);
    }
    if batch.bytes().len() > crate::batch::MAX_BATCH {
        return Err(JournalError::Config(format!("batch {} has {} bytes", batch.sequence(), batch.bytes().len())));
    }
    let follows = batch.sequence() == head.sequence + 1 && batch.previous() == head.hash;
    if follows { Ok(false) } else { Err(JournalError::OutOfOrder { given: batch.sequence(), head: head.sequence }) }
}

/// A new journal id: 128 random bits.
fn mint_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
