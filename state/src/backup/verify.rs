//! In: a reader of a journal. Out: its fold, once all of it was checked. Invariant: every byte that a start from it would
//! read is covered by a hash that is checked here, and the fold by its invariants.

use crate::batch::{Batch, Head};
use crate::core::Folded;
use crate::event::Event;
use crate::journal::{JournalError, Reader, corrupt, read_snapshot};
use crate::snapshot::Manifest;

/// What was checked.
#[derive(Debug)]
pub struct Verified {
    /// All of it.
    pub folded: Folded,
    /// Events of the batches that were read.
    pub events: u64,
    /// Batches that were read.
    pub batches: u64,
    /// The batch that the snapshot stands at; `None`: there is none.
    pub snapshot: Option<u64>,
}

pub(super) async fn verify(reader: &impl Reader, none: impl Fn() -> JournalError) -> Result<Verified, JournalError> {
    let records = reader.records().await?;
    let end = records.head.ok_or_else(none)?;
    let manifest = records.manifest.as_ref();
    let mut folded = Folded::default();
    if let Some(manifest) = manifest {
        let state = read_snapshot(reader, manifest).await?;
        state.check_invariants().map_err(|what| corrupt(manifest.head.sequence, what))?;
        if reader.first().await? != Some(1) {
            older_batches(reader, manifest, records.archive.map_or(Head::default(), |archive| archive.through)).await?;
            folded = Folded::from_snapshot(state, manifest);
        }
    }
    let (mut events, mut batches) = (0, 0);
    let mut fold = |bytes: &[u8], batch: Batch, head: Head| {
        (events, batches) = (events + batch.events.len() as u64, batches + 1);
        folded.apply(&batch, head, bytes.len());
        compare(&folded, &batch, manifest)
    };
    let head = reader.batches(folded_head(manifest, reader).await?, end.sequence, &mut fold).await?;
    if head != end {
        return Err(corrupt(head.sequence, "the last batch is not the head's"));
    }
    if let Some(sequence) = folded.diverged() {
        return Err(corrupt(sequence, "its state has not the digest that the journal says"));
    }
    folded.state().check_invariants().map_err(|what| corrupt(head.sequence, what))?;
    Ok(Verified { folded, events, batches, snapshot: manifest.map(|manifest| manifest.head.sequence) })
}

/// Where the fold begins.
async fn folded_head(manifest: Option<&Manifest>, reader: &impl Reader) -> Result<Head, JournalError> {
    let all = manifest.is_none() || reader.first().await? == Some(1);
    Ok(if all { Head::default() } else { manifest.map_or(Head::default(), |manifest| manifest.head) })
}

/// Batches that the snapshot stands for already and the archive does not.
async fn older_batches(reader: &impl Reader, manifest: &Manifest, archived: Head) -> Result<(), JournalError> {
    if archived.sequence >= manifest.head.sequence {
        return Ok(());
    }
    let head = reader.batches(archived, manifest.head.sequence, &mut |_, _, _| Ok(())).await?;
    if head != manifest.head {
        return Err(corrupt(head.sequence, "is not the batch that the snapshot stands at"));
    }
    Ok(())
}

/// What batches and manifest say of each other.
fn compare(folded: &Folded, batch: &Batch, manifest: Option<&Manifest>) -> Result<(), JournalError> {
    let sequence = batch.sequence;
    let here = manifest.filter(|manifest| manifest.head.sequence == sequence);
    if here.is_some_and(|here| folded.head() != here.head || folded.state().digest() != here.digest) {
        return Err(corrupt(sequence, "the snapshot at this batch holds another state"));
    }
    for event in &batch.events {
        let Event::SnapshotTaken { sequence: at, digest, manifest: hash } = event else { continue };
        let Some(manifest) = manifest.filter(|manifest| manifest.head.sequence >= *at) else {
            return Err(corrupt(sequence, format!("the snapshot at batch {at} is missing")));
        };
        let same = manifest.digest == *digest && manifest.hash() == *hash;
        if manifest.head.sequence == *at && !same {
            return Err(corrupt(*at, "the snapshot at this batch is not the one that was taken"));
        }
    }
    Ok(())
}
