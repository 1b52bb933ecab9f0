//! In: a journal, wherever it is. Out: its batches, checked; a file that holds all of it; a journal made from such a file.
//! Invariant: reading changes nothing; a restored journal has a new id, so that agents and standbys of the old one know.

mod file;
mod verify;

pub use verify::Verified;

use crate::archive::Archive;
use crate::batch::{Batch, EncodedBatch, Head};
use crate::event::{Event, FORMAT};
use crate::journal::{EmbeddedReader, EtcdOptions, EtcdStore, Journal, JournalError, Reader, Records, Store, corrupt};
use file::{BackupFile, Writer};
use nightshift_types::Timestamp;
use std::path::{Path, PathBuf};

/// Where a journal is read from, without leading.
#[derive(Debug, Clone)]
pub enum Source {
    /// A live cluster's.
    Etcd(Box<EtcdOptions>),
    /// One machine's file, while nothing runs on it.
    Embedded(PathBuf),
    /// A backup.
    Backup(PathBuf),
}

/// What is called with every batch, oldest first; it may end the reading.
pub type Each<'a> = dyn FnMut(&[u8], Batch, Head) -> Result<(), JournalError> + Send + 'a;

/// How often a reading begins anew because the journal was compacted meanwhile.
const TRIES: u32 = 5;

/// The same expression with the reader of a source's kind.
macro_rules! with_reader {
    ($source:expr, $reader:ident => $work:expr) => {
        match $source {
            Source::Etcd(options) => {
                let $reader = EtcdStore::reader(options).await?;
                $work
            }
            Source::Embedded(path) => {
                let $reader = EmbeddedReader::open(path)?;
                $work
            }
            Source::Backup(path) => {
                let $reader = BackupFile::open(path)?;
                $work
            }
        }
    };
}

impl Source {
    fn none(&self) -> JournalError {
        JournalError::Config(match self {
            Self::Etcd(options) => format!("there is no journal under etcd prefix {}", options.prefix),
            Self::Embedded(path) | Self::Backup(path) => format!("{} holds no batch", path.display()),
        })
    }

    /// Every batch that is there, with its bytes and the head it makes: of a compacted journal those after its snapshot.
    /// Checks the chain and that it ends where its store says.
    pub async fn read(&self, each: &mut Each<'_>) -> Result<Head, JournalError> {
        with_reader!(self, reader => {
            let records = reader.records().await?;
            let end = records.head.ok_or_else(|| self.none())?;
            let after = oldest(&reader, &records).await?;
            let head = reader.batches(after, end.sequence, each).await.map_err(missing)?;
            if head == end { Ok(head) } else { Err(corrupt(head.sequence, "the last batch is not the head's")) }
        })
    }

    /// Checks all of it: snapshot, batches, and what must always hold; with the ledger's archive, that its chain leads from
    /// the first entry to the snapshot's balances.
    pub async fn verify(&self, archive: Option<&Archive>) -> Result<Verified, JournalError> {
        with_reader!(self, reader => {
            for _ in 1..TRIES {
                match verify::verify(&reader, archive, || self.none()).await {
                    Err(JournalError::Missing(_)) => {}
                    end => return end,
                }
            }
            verify::verify(&reader, archive, || self.none()).await.map_err(missing)
        })
    }

    /// Writes all of it to a new file, and returns where it ends. A file that is there is not overwritten.
    pub async fn backup(&self, path: &Path) -> Result<Head, JournalError> {
        if path.exists() {
            return Err(JournalError::Config(format!("{} is there already: name another file", path.display())));
        }
        with_reader!(self, reader => {
            for _ in 1..TRIES {
                match save(&reader, path, || self.none()).await {
                    Err(JournalError::Missing(_)) => {}
                    end => return end,
                }
            }
            save(&reader, path, || self.none()).await.map_err(missing)
        })
    }
}

fn missing(error: JournalError) -> JournalError {
    match error {
        JournalError::Missing(batch) => corrupt(batch, "it is missing, and no snapshot stands for it"),
        other => other,
    }
}

/// After which batch the ones begin that are of use: all, or those that no snapshot and no archive stands for.
async fn oldest(reader: &impl Reader, records: &Records) -> Result<Head, JournalError> {
    let Some(manifest) = &records.manifest else { return Ok(Head::default()) };
    if reader.first().await? == Some(1) {
        return Ok(Head::default());
    }
    let archived = records.archive.as_ref().map(|archive| archive.through);
    Ok(archived.filter(|archived| archived.sequence < manifest.head.sequence).unwrap_or(manifest.head))
}

async fn save(reader: &impl Reader, path: &Path, none: impl Fn() -> JournalError) -> Result<Head, JournalError> {
    let records = reader.records().await?;
    let end = records.head.ok_or_else(none)?;
    let after = oldest(reader, &records).await?;
    let partial = path.with_extension("partial");
    let result = async {
        let mut file = Writer::create(&partial)?;
        if after != Head::default()
            && let Some(manifest) = &records.manifest
        {
            file.begin_with(manifest, records.archive.as_ref())?;
            for index in 0..manifest.chunks.len() as u32 {
                let sequence = manifest.head.sequence;
                let bytes = reader.chunk(sequence, index).await?.ok_or(JournalError::Missing(sequence))?;
                file.chunk(&bytes)?;
            }
        }
        let mut batch = |bytes: &[u8], _: Batch, _: Head| file.batch(bytes);
        let head = reader.batches(after, end.sequence, &mut batch).await?;
        if head != end {
            return Err(corrupt(head.sequence, "the last batch is not the head's"));
        }
        file.end(head)?;
        // A backup of what cannot be restored would be found out when it is needed.
        verify::verify(&BackupFile::open(&partial)?, None, || corrupt(0, "nothing was written"))
            .await
            .map_err(missing)?;
        Ok(head)
    };
    let result = result.await;
    let failed = |error: std::io::Error| JournalError::Io(format!("{}: {error}", path.display()));
    match result {
        Ok(head) => std::fs::rename(&partial, path).map_err(failed).map(|()| head),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

/// Fills an empty journal with what a backup holds, and gives it the id of the store it is in. The backup is checked
/// whole before anything is written; cut off in the middle, the journal cannot be led and must be emptied.
pub async fn restore<J: Journal>(backup: &Path, journal: &mut J) -> Result<Head, JournalError> {
    if journal.head() != Head::default() {
        let text = "the journal is not empty: restore into a new --etcd-prefix or data folder";
        return Err(JournalError::Config(text.into()));
    }
    let verified = Source::Backup(backup.into()).verify(None).await?;
    let Some(cell) = verified.folded.state().cell().cloned() else {
        return Err(JournalError::Config(format!("{} holds no batch", backup.display())));
    };
    let file = BackupFile::open(backup)?;
    let records = file.records().await?;
    if let Some(manifest) = &records.manifest {
        begin(&file, manifest, &records, journal).await?;
    }
    for bytes in file.after(journal.head().sequence)? {
        let batch = EncodedBatch::from_bytes(bytes?)
            .map_err(|error| JournalError::decode(journal.head().sequence + 1, error))?;
        append(journal, &batch).await?;
    }
    let (time, head) = (verified.folded.state().time(), journal.head());
    let created = Event::JournalCreated { journal: journal.epoch().journal.clone(), cell, format: FORMAT };
    let batch =
        Batch { sequence: head.sequence + 1, time: time.max(Timestamp(1)), previous: head.hash, events: vec![created] };
    append(journal, &batch.encode()).await
}

/// The snapshot, the batches before it that are not archived yet, and then the records that make it count.
async fn begin<J: Journal>(
    file: &BackupFile,
    manifest: &crate::Manifest,
    records: &Records,
    journal: &mut J,
) -> Result<(), JournalError> {
    let store = journal.store();
    for index in 0..manifest.chunks.len() as u32 {
        let sequence = manifest.head.sequence;
        let bytes = file.chunk(sequence, index).await?.ok_or(JournalError::Missing(sequence))?;
        store.put_chunk(sequence, index, bytes).await?;
    }
    for bytes in file.after(0)? {
        let batch = EncodedBatch::from_bytes(bytes?).map_err(|error| JournalError::decode(0, error))?;
        if batch.sequence() <= manifest.head.sequence {
            store.put_batch(&batch).await?;
        }
    }
    store.begin_with(manifest, records.archive.as_ref()).await?;
    journal.catch_up(&mut crate::Folded::default()).await.map(drop)
}

async fn append<J: Journal>(journal: &mut J, batch: &EncodedBatch) -> Result<Head, JournalError> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match journal.append(batch).await {
            Err(error) if error.retryable() => {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            end => return end,
        }
    }
    journal.append(batch).await
}
