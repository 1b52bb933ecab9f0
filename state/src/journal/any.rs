//! In: a choice made at start. Out: one type for both journals. Invariant: adds nothing of its own.

use super::{EmbeddedJournal, EtcdJournal, Journal, JournalError};
use crate::batch::{Batch, EncodedBatch, Head};
use nightshift_types::Epoch;

/// Either journal.
// One exists a process: its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum AnyJournal {
    /// One machine.
    Embedded(EmbeddedJournal),
    /// A cluster.
    Etcd(EtcdJournal),
}

impl Journal for AnyJournal {
    async fn load_after(
        &mut self,
        after: Head,
        each: &mut (dyn FnMut(Batch, Head) + Send),
    ) -> Result<Head, JournalError> {
        match self {
            Self::Embedded(journal) => journal.load_after(after, each).await,
            Self::Etcd(journal) => journal.load_after(after, each).await,
        }
    }

    async fn append(&mut self, batch: &EncodedBatch) -> Result<Head, JournalError> {
        match self {
            Self::Embedded(journal) => journal.append(batch).await,
            Self::Etcd(journal) => journal.append(batch).await,
        }
    }

    fn epoch(&self) -> &Epoch {
        match self {
            Self::Embedded(journal) => journal.epoch(),
            Self::Etcd(journal) => journal.epoch(),
        }
    }

    fn head(&self) -> Head {
        match self {
            Self::Embedded(journal) => journal.head(),
            Self::Etcd(journal) => journal.head(),
        }
    }

    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let (embedded, etcd) = match self {
            Self::Embedded(journal) => (Some(journal.lost()), None),
            Self::Etcd(journal) => (None, Some(journal.lost())),
        };
        async move {
            if let Some(lost) = embedded {
                lost.await;
            }
            if let Some(lost) = etcd {
                lost.await;
            }
        }
    }

    async fn confirm(&mut self) -> Result<(), JournalError> {
        match self {
            Self::Embedded(journal) => journal.confirm().await,
            Self::Etcd(journal) => journal.confirm().await,
        }
    }

    async fn resign(&mut self) -> Result<(), JournalError> {
        match self {
            Self::Embedded(journal) => journal.resign().await,
            Self::Etcd(journal) => journal.resign().await,
        }
    }
}
