//! In: a frozen state, a journal's store, an archive. Out: a journal that begins with a snapshot. Invariant: after every
//! step the journal can be loaded and nothing is lost; a step that is done again changes nothing more.
//!
//! ```text
//! chunks ─▶ manifest (fenced) ─▶ the ledger's history archived ─▶ batches and older chunks deleted ─▶ space reclaimed
//! ```
//!
//! [`snapshot`] does the first two, [`tidy`] the others; a leader that starts tidies up after the one before.

use crate::archive::Archive;
use crate::journal::{JournalError, Store};
use crate::snapshot::{Frozen, Manifest};
use std::time::Duration;
use tokio::sync::mpsc;

/// What was done just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One chunk is written.
    Chunk,
    /// The manifest is written: from now on readers start from this snapshot.
    Manifest,
    /// The segments are durable; the journal does not say so yet.
    Segments,
    /// The journal says how far its ledger is archived.
    Archived,
    /// Some batches that the snapshot stands for are deleted.
    Batches,
    /// The chunks of other snapshots are deleted.
    Chunks,
}

/// Told after every step; an error ends the work there, as the end of the process would.
pub type Reached<'a> = dyn FnMut(Step) -> Result<(), JournalError> + Send + 'a;

/// Batches deleted in one transaction: an append waits for it.
pub const SLICE: u64 = 64;
/// Tries of one write of a chunk.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_millis(500);

/// Writes a snapshot. The state is encoded by a thread of its own, a few chunks ahead.
pub async fn snapshot<S: Store>(
    store: &S,
    frozen: Frozen,
    reached: &mut Reached<'_>,
) -> Result<Manifest, JournalError> {
    let sequence = frozen.head().sequence;
    let (sender, mut chunks) = mpsc::channel(4);
    let encode = tokio::task::spawn_blocking(move || {
        frozen.chunks(|index, bytes| {
            let gone = JournalError::Unavailable("the snapshot was given up".into());
            sender.blocking_send((index, bytes)).map_err(|_| gone)
        })
    });
    while let Some((index, bytes)) = chunks.recv().await {
        let mut tries = 1;
        while let Err(error) = store.put_chunk(sequence, index, bytes.clone()).await {
            if !error.retryable() || tries == TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(RETRY).await;
        }
        reached(Step::Chunk)?;
    }
    let manifest = encode.await.map_err(|error| JournalError::Io(error.to_string()))??;
    store.put_manifest(&manifest).await?;
    reached(Step::Manifest)?;
    Ok(manifest)
}

/// Archives what the newest snapshot stands for, then deletes it. `journal` is the id of the journal that is led.
pub async fn tidy<S: Store>(
    store: &S,
    archive: &Archive,
    journal: &str,
    reached: &mut Reached<'_>,
) -> Result<(), JournalError> {
    let records = store.records().await?;
    let Some(manifest) = records.manifest else { return Ok(()) };
    let last = manifest.head.sequence;
    if records.archive.as_ref().is_none_or(|archive| archive.through.sequence < last) {
        let archived = archive.extend(store, journal, records.archive, &manifest).await?;
        reached(Step::Segments)?;
        store.put_archive(&archived).await?;
        reached(Step::Archived)?;
    }
    while store.delete_batches(last, SLICE).await? {
        reached(Step::Batches)?;
    }
    store.delete_chunks(last).await?;
    reached(Step::Chunks)?;
    if let Err(error) = store.reclaim().await {
        tracing::warn!(%error, "what was deleted of the journal takes space until the next time");
    }
    Ok(())
}
