//! In: a journal's records, chunks and batches, wherever they are. Out: a fold of them. Invariant: a reader starts from the
//! newest snapshot or from what it has folded already, never from a gap; what it folded is checked up to the head.

use super::JournalError;
use crate::archive::ArchiveHead;
use crate::batch::{Batch, EncodedBatch, Head};
use crate::convert::{DecodeError, bad};
use crate::core::Folded;
use crate::snapshot::Manifest;
use crate::state::State;
use sha2::{Digest as _, Sha256};
use std::future::Future;

/// What is called with a batch's bytes, the batch, and the head it makes; it may end the reading.
pub(crate) type Each<'a> = dyn FnMut(&[u8], Batch, Head) -> Result<(), JournalError> + Send + 'a;

/// Where a journal ends and begins, all read at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// `None`: there is no journal.
    pub head: Option<Head>,
    /// Of the newest snapshot.
    pub manifest: Option<Manifest>,
    /// How far the ledger's history is archived.
    pub archive: Option<ArchiveHead>,
}

/// Reads a journal, without leading it; others may write meanwhile.
pub trait Reader: Sync {
    /// Where it ends and begins.
    fn records(&self) -> impl Future<Output = Result<Records, JournalError>> + Send;

    /// A chunk of the snapshot at batch `sequence`. `None`: it is not there, or no more.
    fn chunk(&self, sequence: u64, index: u32) -> impl Future<Output = Result<Option<Vec<u8>>, JournalError>> + Send;

    /// The first batch that is there; `None` if there is none.
    fn first(&self) -> impl Future<Output = Result<Option<u64>, JournalError>> + Send;

    /// Batches after `after` up to number `last`, oldest first. Checks the chain.
    ///
    /// # Errors
    /// [`JournalError::Missing`] where one is not there.
    fn batches(
        &self,
        after: Head,
        last: u64,
        each: &mut Each<'_>,
    ) -> impl Future<Output = Result<Head, JournalError>> + Send;
}

/// Writes what is no batch, beside the leader's loop. Every write is fenced as an append is.
pub trait Store: Reader + Clone + Send + 'static {
    /// A chunk of the snapshot at batch `sequence`.
    fn put_chunk(
        &self,
        sequence: u64,
        index: u32,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Makes a snapshot the newest: its chunks are all there. Compares the head too.
    fn put_manifest(&self, manifest: &Manifest) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// The ledger's history is archived up to there.
    fn put_archive(&self, archive: &ArchiveHead) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Deletes the oldest batches, at most so many, up to number `last`; `true` while there may be more.
    fn delete_batches(&self, last: u64, most: u64) -> impl Future<Output = Result<bool, JournalError>> + Send;

    /// Deletes every chunk but those of the snapshot at batch `keep`.
    fn delete_chunks(&self, keep: u64) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Gives the space of what was deleted back to the store.
    fn reclaim(&self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// A batch of before the snapshot that an empty journal will begin with.
    fn put_batch(&self, batch: &EncodedBatch) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Makes an empty journal begin with a snapshot, whose chunks are there.
    fn begin_with(
        &self,
        manifest: &Manifest,
        archive: Option<&ArchiveHead>,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;
}

/// Folds what `folded` does not hold yet, up to the head of now, which is returned.
pub(crate) async fn catch_up(reader: &impl Reader, folded: &mut Folded) -> Result<Head, JournalError> {
    let mut told = None;
    loop {
        let records = reader.records().await?;
        let Some(end) = records.head else {
            let nothing = folded.head() == Head::default();
            return if nothing { Ok(Head::default()) } else { Err(corrupt(0, "the head is missing")) };
        };
        let sequence = records.manifest.as_ref().map(|manifest| manifest.head.sequence);
        match fold_to(reader, records, end, folded).await {
            // Compacted while it was read? Then there is a newer snapshot by now. The same one again: it is really missing.
            Err(JournalError::Missing(batch)) if told != Some((sequence, batch)) => told = Some((sequence, batch)),
            Err(JournalError::Missing(batch)) => {
                return Err(corrupt(batch, "it is missing, and no snapshot stands for it"));
            }
            end => return end,
        }
    }
}

async fn fold_to(reader: &impl Reader, records: Records, end: Head, folded: &mut Folded) -> Result<Head, JournalError> {
    let after = folded.head().sequence;
    if let Some(manifest) = records.manifest.filter(|manifest| manifest.head.sequence > after) {
        let compacted = after == 0 || reader.first().await?.is_none_or(|first| first > after + 1);
        if compacted {
            let state = read_snapshot(reader, &manifest).await?;
            tracing::info!(batch = manifest.head.sequence, "read from the snapshot");
            *folded = Folded::from_snapshot(state, &manifest);
        }
    }
    let after = folded.head();
    let mut fold = |bytes: &[u8], batch: Batch, head: Head| {
        folded.apply(&batch, head, bytes.len());
        Ok(())
    };
    let head = reader.batches(after, end.sequence, &mut fold).await?;
    if head != end {
        return Err(corrupt(head.sequence, "the last batch is not the head's"));
    }
    Ok(head)
}

/// The state that a snapshot holds.
///
/// # Errors
/// [`JournalError::Missing`] where a chunk is not there.
pub(crate) async fn read_snapshot(reader: &impl Reader, manifest: &Manifest) -> Result<State, JournalError> {
    let sequence = manifest.head.sequence;
    let wrong = |error: DecodeError| JournalError::decode(sequence, error);
    let mut thaw = manifest.thaw();
    for index in 0..manifest.chunks.len() as u32 {
        let bytes = reader.chunk(sequence, index).await?.ok_or(JournalError::Missing(sequence))?;
        thaw.chunk(&bytes).map_err(wrong)?;
    }
    thaw.finish().map_err(wrong)
}

pub(crate) fn corrupt(sequence: u64, what: impl Into<String>) -> JournalError {
    JournalError::Corrupt { sequence, what: what.into() }
}

/// A record with its own SHA-256 before it: no batch's hash covers it.
pub(crate) fn seal(bytes: &[u8]) -> Vec<u8> {
    [Sha256::digest(bytes).as_slice(), bytes].concat()
}

/// What [`seal`] was given.
pub(crate) fn unseal<'a>(field: &'static str, sealed: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let (hash, bytes) = sealed.split_at_checked(32).ok_or_else(|| bad(field, "is cut short"))?;
    if Sha256::digest(bytes).as_slice() == hash { Ok(bytes) } else { Err(bad(field, "is not what was written")) }
}

pub(crate) fn manifest_from(sealed: &[u8]) -> Result<Manifest, JournalError> {
    let decode = |sealed| Manifest::decode(unseal("manifest", sealed)?);
    decode(sealed).map_err(|error| JournalError::decode(0, error))
}

pub(crate) fn archive_from(sealed: &[u8]) -> Result<ArchiveHead, JournalError> {
    let decode = |sealed| ArchiveHead::decode(unseal("archive", sealed)?);
    decode(sealed).map_err(|error| JournalError::decode(0, error))
}
