//! In: batches, snapshots. Out: the names of the jobs whose results were paid in those batches. Invariant: a job is named as
//! the fold named it when it was paid, wherever it was admitted; one that no snapshot and no batch knows, by its id.

use crate::batch::{Batch, Head};
use crate::convert::pb;
use crate::event::Event;
use crate::journal::{JournalError, Reader};
use crate::ledger::{EntryKind, LedgerEntry};
use nightshift_types::JobId;
use prost::Message;
use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Names {
    /// `None`: not found yet.
    known: HashMap<String, Option<String>>,
}

impl Names {
    /// Of the batches after `after` up to number `last`; jobs that were admitted before stand in one of the snapshots.
    pub async fn gather(
        reader: &impl Reader,
        after: Head,
        last: u64,
        snapshots: [u64; 2],
    ) -> Result<Self, JournalError> {
        let mut names = Self::default();
        let mut look = |_: &[u8], batch: Batch, _: Head| {
            batch.events.iter().for_each(|event| names.event(event));
            Ok(())
        };
        reader.batches(after, last, &mut look).await?;
        // Most jobs are paid soon, so that no snapshot is read for them.
        for snapshot in snapshots {
            let mut index = 0;
            while names.known.values().any(Option::is_none)
                && let Some(chunk) = reader.chunk(snapshot, index).await?
            {
                names.chunk(&chunk);
                index += 1;
            }
        }
        Ok(names)
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::JobAdmitted { job, spec } => {
                self.known.insert(job.to_string(), Some(format!("{}/{}", spec.namespace, spec.name)));
            }
            Event::Transferred { entry } => {
                if let EntryKind::Settlement { attempt, .. } = &entry.kind {
                    self.known.entry(attempt.task.job.to_string()).or_default();
                }
            }
            _ => {}
        }
    }

    fn chunk(&mut self, bytes: &[u8]) {
        let Ok(chunk) = pb::Chunk::decode(bytes) else { return };
        for item in chunk.items {
            let Some(pb::item::Kind::Job(pb::KnownJob { admitted: Some(admitted), .. })) = item.kind else { continue };
            if let (Some(name), Some(spec)) = (self.known.get_mut(&admitted.job), admitted.spec) {
                name.get_or_insert_with(|| format!("{}/{}", spec.namespace, spec.name));
            }
        }
    }

    fn of(&self, job: &JobId) -> String {
        self.known.get(job.as_str()).cloned().flatten().unwrap_or_else(|| job.to_string())
    }

    /// What [`crate::Posted::job`] says of an entry.
    pub fn about(&self, entry: &LedgerEntry) -> String {
        match &entry.kind {
            EntryKind::Settlement { attempt, .. } => self.of(&attempt.task.job),
            EntryKind::Grant { .. } => String::new(),
        }
    }
}
