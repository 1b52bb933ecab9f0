//! In: a journal's store, the ledger's archive. Out: every entry that somebody asks about, oldest first. Invariant: what is
//! in both, or in neither for a moment, is told once: all is read up to one head.

use super::names::Names;
use super::{Archive, ArchiveHead};
use crate::batch::{Batch, Head};
use crate::event::Event;
use crate::journal::{JournalError, Reader, Records, Store};
use crate::ledger::Posted;
use futures::future::BoxFuture;
use nightshift_types::Timestamp;

/// Between looking at the records and reading the batches these may be deleted: so often it is begun anew.
const TRIES: u32 = 5;

/// Whether an entry is asked about.
pub type Concerns<'a> = dyn Fn(&Posted) -> bool + Send + Sync + 'a;

/// Entries of the past.
#[derive(Debug, Default)]
pub struct Past {
    /// Those asked about, oldest first.
    pub entries: Vec<Posted>,
    /// Entries of the ledger up to where this was read, asked about or not.
    pub total: u64,
    /// All since then are here; `None`: all that there ever were.
    pub since: Option<Timestamp>,
}

/// The whole history of a ledger, wherever it is.
pub trait History: Send + Sync {
    /// Entries since `from`, the newest `most` of them.
    fn read<'a>(
        &'a self,
        from: Timestamp,
        most: usize,
        concerns: &'a Concerns<'a>,
    ) -> BoxFuture<'a, Result<Past, JournalError>>;
}

/// The history that a journal and an archive hold together.
#[derive(Debug, Clone)]
pub struct LedgerHistory<S> {
    /// The journal's.
    pub store: S,
    /// Of what was deleted there.
    pub archive: Archive,
}

impl<S: Store + Sync> History for LedgerHistory<S> {
    fn read<'a>(
        &'a self,
        from: Timestamp,
        most: usize,
        concerns: &'a Concerns<'a>,
    ) -> BoxFuture<'a, Result<Past, JournalError>> {
        Box::pin(async move {
            for _ in 1..TRIES {
                match self.once(from, most, concerns).await {
                    Err(JournalError::Missing(_)) => {}
                    end => return end,
                }
            }
            self.once(from, most, concerns).await
        })
    }
}

impl<S: Store + Sync> LedgerHistory<S> {
    async fn once(&self, from: Timestamp, most: usize, concerns: &Concerns<'_>) -> Result<Past, JournalError> {
        let records = self.store.records().await?;
        let (mut newest, total) = tail(&self.store, &records, concerns).await?;
        let mut older = Vec::new();
        let mut next = records.archive.clone();
        while let Some(head) = next.take_if(|_| newest.len() + older.len() <= most) {
            let segment = self.archive.segment(&head).await?;
            let reached = segment.entries.first().is_some_and(|first| first.at < from);
            // Newest first, as the segments are read.
            older.extend(segment.entries.into_iter().rev().filter(|posted| concerns(posted)));
            next = segment.before.filter(|_| !reached);
        }
        let mut since = (from > Timestamp(0)).then_some(from);
        let mut entries: Vec<Posted> = older.into_iter().rev().collect();
        entries.append(&mut newest);
        entries.retain(|posted| posted.at >= from);
        if entries.len() > most {
            entries.drain(..entries.len() - most);
            since = entries.first().map(|first| first.at);
        }
        Ok(Past { entries, total, since })
    }
}

/// Entries of the batches that are not archived, and the number of all entries up to their end.
async fn tail(
    reader: &impl Reader,
    records: &Records,
    concerns: &Concerns<'_>,
) -> Result<(Vec<Posted>, u64), JournalError> {
    let archived: Option<&ArchiveHead> = records.archive.as_ref();
    let after = archived.map_or(Head::default(), |archive| archive.through);
    let last = records.head.unwrap_or_default().sequence;
    let snapshot = records.manifest.as_ref().map_or(0, |manifest| manifest.head.sequence);
    let names = Names::gather(reader, after, last, [snapshot, after.sequence]).await?;
    let (mut entries, mut total) = (Vec::new(), archived.map_or(0, |archive| archive.entries));
    let mut look = |_: &[u8], batch: Batch, _: Head| {
        for event in batch.events {
            let Event::Transferred { entry } = event else { continue };
            total += 1;
            let posted = Posted { at: batch.time, job: names.about(&entry), entry };
            if concerns(&posted) {
                entries.push(posted);
            }
        }
        Ok(())
    };
    reader.batches(after, last, &mut look).await?;
    Ok((entries, total))
}
