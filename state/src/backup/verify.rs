//! In: a reader of a journal. Out: its fold, once all of it was checked. Invariant: every byte that a start from it would
//! read is covered by a hash that is checked here, and the fold by its invariants.

use crate::archive::{Archive, ArchiveHead};
use crate::batch::{Batch, Head};
use crate::core::Folded;
use crate::event::Event;
use crate::journal::{JournalError, Reader, corrupt, read_snapshot};
use crate::ledger::{EntryKind, Ledger, LedgerEntry};
use crate::snapshot::Manifest;
use nightshift_types::{AccountId, PicoPoints};
use std::collections::BTreeMap;

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
    /// How far the ledger's history is archived; `None`: it is all in the batches.
    pub archive: Option<ArchiveHead>,
    /// The archive was read too.
    pub archive_read: bool,
}

/// Entries, added up.
#[derive(Default, PartialEq, Debug)]
struct Sums {
    balances: BTreeMap<AccountId, PicoPoints>,
    spent: BTreeMap<String, PicoPoints>,
    entries: u64,
    grants: u64,
}

impl Sums {
    fn add(&mut self, entry: &LedgerEntry) {
        self.entries += 1;
        for (account, amount) in &entry.postings {
            *self.balances.entry(account.clone()).or_default() += *amount;
        }
        match &entry.kind {
            EntryKind::Grant { .. } => self.grants += 1,
            EntryKind::Settlement { queue, .. } => {
                let paid = entry.postings.iter().map(|(_, amount)| *amount).filter(|amount| amount.0 > 0).sum();
                *self.spent.entry(queue.clone()).or_default() += paid;
            }
        }
    }

    fn of(ledger: &Ledger) -> Self {
        let spent = ledger.queues().map(|(queue, book)| (queue.to_owned(), book.spent));
        Self {
            balances: ledger.balances().map(|(account, amount)| (account.clone(), amount)).collect(),
            spent: spent.collect(),
            entries: ledger.entries(),
            grants: ledger.grants(),
        }
    }

    /// Queues that spent nothing are in one and not in the other.
    fn without_zeros(mut self) -> Self {
        self.spent.retain(|_, spent| *spent != PicoPoints::ZERO);
        self
    }

    /// Every entry of the archive.
    async fn archived(archive: &Archive, head: &ArchiveHead) -> Result<Self, JournalError> {
        let (mut sums, mut next) = (Self::default(), Some(head.clone()));
        while let Some(head) = next {
            let segment = archive.segment(&head).await?;
            segment.entries.iter().for_each(|posted| sums.add(&posted.entry));
            next = segment.before;
        }
        Ok(sums)
    }
}

pub(super) async fn verify(
    reader: &impl Reader,
    archive: Option<&Archive>,
    none: impl Fn() -> JournalError,
) -> Result<Verified, JournalError> {
    let records = reader.records().await?;
    let end = records.head.ok_or_else(none)?;
    let manifest = records.manifest.as_ref();
    let mut folded = Folded::default();
    if let Some(manifest) = manifest {
        let state = read_snapshot(reader, manifest).await?;
        state.check_invariants().map_err(|what| corrupt(manifest.head.sequence, what))?;
        let mut sums = match (archive, &records.archive) {
            (Some(archive), Some(head)) => Some(Sums::archived(archive, head).await?),
            _ => None,
        };
        if reader.first().await? != Some(1) {
            let archived = records.archive.as_ref().map_or(Head::default(), |archive| archive.through);
            older_batches(reader, manifest, archived, sums.as_mut()).await?;
            history(sums, state.ledger(), manifest)?;
            folded = Folded::from_snapshot(state, manifest);
        } else if records.archive.as_ref().is_some_and(|archive| archive.through == manifest.head) {
            history(sums, state.ledger(), manifest)?;
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
    let snapshot = manifest.map(|manifest| manifest.head.sequence);
    let archive_read = archive.is_some() && records.archive.is_some();
    Ok(Verified { folded, events, batches, snapshot, archive: records.archive, archive_read })
}

/// Where the fold begins.
async fn folded_head(manifest: Option<&Manifest>, reader: &impl Reader) -> Result<Head, JournalError> {
    let all = manifest.is_none() || reader.first().await? == Some(1);
    Ok(if all { Head::default() } else { manifest.map_or(Head::default(), |manifest| manifest.head) })
}

/// Batches that the snapshot stands for already and the archive does not.
async fn older_batches(
    reader: &impl Reader,
    manifest: &Manifest,
    archived: Head,
    mut sums: Option<&mut Sums>,
) -> Result<(), JournalError> {
    if archived.sequence >= manifest.head.sequence {
        return Ok(());
    }
    let mut add = |_: &[u8], batch: Batch, _: Head| {
        for event in &batch.events {
            if let (Event::Transferred { entry }, Some(sums)) = (event, sums.as_deref_mut()) {
                sums.add(entry);
            }
        }
        Ok(())
    };
    let head = reader.batches(archived, manifest.head.sequence, &mut add).await?;
    if head != manifest.head {
        return Err(corrupt(head.sequence, "is not the batch that the snapshot stands at"));
    }
    Ok(())
}

/// Whether the ledger of the snapshot is what all entries before it add up to.
fn history(sums: Option<Sums>, ledger: &Ledger, manifest: &Manifest) -> Result<(), JournalError> {
    let Some(sums) = sums else { return Ok(()) };
    if sums.without_zeros() == Sums::of(ledger).without_zeros() {
        return Ok(());
    }
    Err(corrupt(manifest.head.sequence, "the entries of the ledger's archive do not add up to the snapshot's balances"))
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
