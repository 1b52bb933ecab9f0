//! In: batches. Out: a redb file. Invariant: one process has the file open; a commit is on disk before it returns.

use super::{
    Each, Journal, JournalError, Reader, Records, Store, archive_from, continues, manifest_from, mint_id, seal,
};
use crate::archive::ArchiveHead;
use crate::batch::{Batch, EncodedBatch, Head};
use crate::convert::{DecodeError, pb};
use crate::core::Folded;
use crate::snapshot::Manifest;
use nightshift_types::Epoch;
use prost::Message;
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `journal`: its id; `revision`: u64, little-endian; `head`: a Head message; `manifest`, `archive`: sealed records.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Batches by sequence.
const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");
/// Chunks of snapshots, by the snapshot's batch and their index.
const CHUNKS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("chunks");
/// Bytes of batches that are read in one transaction.
const PAGE: usize = 4 << 20;

/// The journal of one machine.
pub struct EmbeddedJournal {
    database: Arc<Database>,
    path: PathBuf,
    epoch: Epoch,
    head: Head,
}

impl EmbeddedJournal {
    /// Opens or makes the file, with a new epoch. The folder must exist.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref().to_owned();
        blocking(move || Self::open_now(path)).await
    }

    fn open_now(path: PathBuf) -> Result<Self, JournalError> {
        let database = Database::create(&path).map_err(|error| open_error(&path, &error))?;
        let (epoch, head) = take_over(&database).map_err(|error| error.at(&path))?;
        Ok(Self { database: Arc::new(database), path, epoch, head })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for EmbeddedJournal {
    type Store = EmbeddedStore;

    fn store(&self) -> EmbeddedStore {
        let (database, path) = (self.database.clone(), self.path.clone());
        EmbeddedStore { reader: EmbeddedReader { database, path }, epoch: self.epoch.clone() }
    }

    async fn catch_up(&mut self, folded: &mut Folded) -> Result<Head, JournalError> {
        self.head = super::catch_up(&self.store(), folded).await?;
        Ok(self.head)
    }

    async fn append(&mut self, batch: &EncodedBatch) -> Result<Head, JournalError> {
        if continues(&self.head, batch)? {
            return Ok(self.head);
        }
        let (database, path, epoch, batch) =
            (self.database.clone(), self.path.clone(), self.epoch.clone(), batch.clone());
        let head = self.head;
        self.head = blocking(move || write(&database, &epoch, head, &batch).map_err(|error| error.at(&path))).await?;
        Ok(self.head)
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn head(&self) -> Head {
        self.head
    }

    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }

    async fn confirm(&mut self) -> Result<(), JournalError> {
        // The file is locked: nobody else can lead.
        Ok(())
    }

    async fn resign(&mut self) -> Result<(), JournalError> {
        // The file is free when this is dropped.
        Ok(())
    }
}

/// Reads a file; of a database that nobody has open, or of the leader's.
#[derive(Debug)]
pub(crate) struct EmbeddedReader<D = ReadOnlyDatabase> {
    database: Arc<D>,
    path: PathBuf,
}

impl<D> Clone for EmbeddedReader<D> {
    fn clone(&self) -> Self {
        Self { database: self.database.clone(), path: self.path.clone() }
    }
}

impl EmbeddedReader {
    /// Opens a file that nobody has open.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let database = ReadOnlyDatabase::open(path).map_err(|error| open_error(path, &error))?;
        Ok(Self { database: Arc::new(database), path: path.into() })
    }
}

impl<D: Send + Sync + 'static> EmbeddedReader<D> {
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&D) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (database, path) = (self.database.clone(), self.path.clone());
        blocking(move || work(&database).map_err(|error| error.at(&path))).await
    }
}

impl<D: ReadableDatabase + Send + Sync + 'static> Reader for EmbeddedReader<D> {
    async fn records(&self) -> Result<Records, JournalError> {
        self.with(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            let head = meta.get("head")?.is_some().then(|| read_head(&meta)).transpose()?;
            let manifest = meta.get("manifest")?.map(|sealed| manifest_from(sealed.value())).transpose();
            let archive = meta.get("archive")?.map(|sealed| archive_from(sealed.value())).transpose();
            let (manifest, archive) = (manifest.map_err(Failure::Journal)?, archive.map_err(Failure::Journal)?);
            Ok(Records { head, manifest, archive })
        })
        .await
    }

    async fn chunk(&self, sequence: u64, index: u32) -> Result<Option<Vec<u8>>, JournalError> {
        self.with(move |database| match database.begin_read()?.open_table(CHUNKS) {
            // A file of before there were snapshots.
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(table?.get((sequence, index))?.map(|bytes| bytes.value().to_vec())),
        })
        .await
    }

    async fn first(&self) -> Result<Option<u64>, JournalError> {
        self.with(|database| Ok(database.begin_read()?.open_table(BATCHES)?.first()?.map(|(key, _)| key.value()))).await
    }

    async fn batches(&self, after: Head, last: u64, each: &mut Each<'_>) -> Result<Head, JournalError> {
        let mut head = after;
        while head.sequence < last {
            let page = self.with(move |database| read_page(database, head, last)).await?;
            for (bytes, batch, next) in page {
                head = next;
                each(&bytes, batch, head)?;
            }
        }
        Ok(head)
    }
}

/// The journal's file beside the leader's loop.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    reader: EmbeddedReader<Database>,
    epoch: Epoch,
}

impl EmbeddedStore {
    /// One durable commit, if this process still leads.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, JournalError> {
        let epoch = self.epoch.clone();
        let write = move |database: &Database| {
            let write = database.begin_write()?;
            fence(&write.open_table(META)?, &epoch)?;
            let done = work(&write)?;
            write.commit()?;
            Ok(done)
        };
        self.reader.with(write).await
    }

    async fn put_meta(&self, key: &'static str, value: Vec<u8>) -> Result<(), JournalError> {
        self.write(move |write| {
            write.open_table(META)?.insert(key, value.as_slice())?;
            Ok(())
        })
        .await
    }
}

impl Reader for EmbeddedStore {
    async fn records(&self) -> Result<Records, JournalError> {
        self.reader.records().await
    }
    async fn chunk(&self, sequence: u64, index: u32) -> Result<Option<Vec<u8>>, JournalError> {
        self.reader.chunk(sequence, index).await
    }
    async fn first(&self) -> Result<Option<u64>, JournalError> {
        self.reader.first().await
    }
    async fn batches(&self, after: Head, last: u64, each: &mut Each<'_>) -> Result<Head, JournalError> {
        self.reader.batches(after, last, each).await
    }
}

impl Store for EmbeddedStore {
    async fn put_chunk(&self, sequence: u64, index: u32, bytes: Vec<u8>) -> Result<(), JournalError> {
        self.write(move |write| {
            write.open_table(CHUNKS)?.insert((sequence, index), bytes.as_slice())?;
            Ok(())
        })
        .await
    }

    async fn put_manifest(&self, manifest: &Manifest) -> Result<(), JournalError> {
        let (value, head) = (seal(&manifest.encode()), manifest.head);
        self.write(move |write| {
            let mut meta = write.open_table(META)?;
            if read_head(&meta)?.sequence < head.sequence {
                return Err(corrupt(head.sequence, "the head is before the snapshot"));
            }
            meta.insert("manifest", value.as_slice())?;
            Ok(())
        })
        .await
    }

    async fn put_archive(&self, archive: &ArchiveHead) -> Result<(), JournalError> {
        self.put_meta("archive", seal(&archive.encode())).await
    }

    async fn delete_batches(&self, last: u64, most: u64) -> Result<bool, JournalError> {
        self.write(move |write| {
            let mut table = write.open_table(BATCHES)?;
            let doomed: Vec<u64> = table
                .range(..=last)?
                .take(most as usize)
                .map(|row| row.map(|(key, _)| key.value()))
                .collect::<Result<_, _>>()?;
            for key in &doomed {
                table.remove(key)?;
            }
            Ok(doomed.len() as u64 == most)
        })
        .await
    }

    async fn delete_chunks(&self, keep: u64) -> Result<(), JournalError> {
        self.write(move |write| {
            write.open_table(CHUNKS)?.retain(|(sequence, _), _| sequence == keep)?;
            Ok(())
        })
        .await
    }

    async fn reclaim(&self) -> Result<(), JournalError> {
        // What is deleted is written over: the file keeps its size, and does not grow.
        Ok(())
    }

    async fn put_batch(&self, batch: &EncodedBatch) -> Result<(), JournalError> {
        let batch = batch.clone();
        self.write(move |write| {
            write.open_table(BATCHES)?.insert(batch.sequence(), batch.bytes())?;
            Ok(())
        })
        .await
    }

    async fn begin_with(&self, manifest: &Manifest, archive: Option<&ArchiveHead>) -> Result<(), JournalError> {
        let (value, head) = (seal(&manifest.encode()), manifest.head);
        let archive = archive.map(|archive| seal(&archive.encode()));
        self.write(move |write| {
            let mut meta = write.open_table(META)?;
            if meta.get("head")?.is_some() {
                return Err(Failure::Journal(JournalError::Config("the journal is not empty".into())));
            }
            meta.insert("head", head_record(&head).as_slice())?;
            meta.insert("manifest", value.as_slice())?;
            if let Some(archive) = archive {
                meta.insert("archive", archive.as_slice())?;
            }
            Ok(())
        })
        .await
    }
}

fn head_record(head: &Head) -> Vec<u8> {
    pb::Head { sequence: head.sequence, hash: head.hash.to_vec() }.encode_to_vec()
}

/// An error where another process took the file over.
fn fence(meta: &impl ReadableTable<&'static str, &'static [u8]>, epoch: &Epoch) -> Result<(), Failure> {
    let revision = read_revision(meta)?;
    if revision == epoch.revision {
        return Ok(());
    }
    let what = format!("its epoch {} is older than {revision}", epoch.revision);
    Err(Failure::Journal(JournalError::LostFence(what)))
}

/// A store's error, before it names the file.
enum Failure {
    Store(redb::Error),
    Journal(JournalError),
}

impl Failure {
    fn at(self, path: &Path) -> JournalError {
        match self {
            Self::Journal(error) => error,
            Self::Store(redb::Error::Corrupted(what)) => {
                JournalError::Corrupt { sequence: 0, what: format!("{}: {what}", path.display()) }
            }
            Self::Store(error) => JournalError::Io(format!("{}: {error}", path.display())),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

fn corrupt(sequence: u64, what: impl Into<String>) -> Failure {
    Failure::Journal(JournalError::Corrupt { sequence, what: what.into() })
}

fn open_error(path: &Path, error: &DatabaseError) -> JournalError {
    let path = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(format!(
            "{path} is open in another nightshift: stop that one first, or start this one with another data folder"
        )),
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
            JournalError::Corrupt { sequence: 0, what: format!("{path}: {what}") }
        }
        other => JournalError::Io(format!("{path}: {other}")),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| JournalError::Io(error.to_string()))?
}

/// Raises the revision, and makes the journal if there is none.
fn take_over(database: &Database) -> Result<(Epoch, Head), Failure> {
    let write = database.begin_write()?;
    let (epoch, head);
    {
        let mut meta = write.open_table(META)?;
        write.open_table(BATCHES)?;
        write.open_table(CHUNKS)?;
        let journal = match meta.get("journal")? {
            Some(id) => {
                String::from_utf8(id.value().to_vec()).map_err(|_| corrupt(0, "the journal's id is no text"))?
            }
            None => mint_id(),
        };
        let last = read_revision(&meta)?;
        head = read_head(&meta)?;
        epoch = Epoch { journal, revision: last + 1 };
        meta.insert("journal", epoch.journal.as_bytes())?;
        meta.insert("revision", &epoch.revision.to_le_bytes()[..])?;
    }
    write.commit()?;
    Ok((epoch, head))
}

fn read_revision(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<u64, Failure> {
    match meta.get("revision")? {
        None => Ok(0),
        Some(bytes) => {
            Ok(u64::from_le_bytes(bytes.value().try_into().map_err(|_| corrupt(0, "the revision is not 8 bytes"))?))
        }
    }
}

fn read_head(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Head, Failure> {
    let Some(bytes) = meta.get("head")? else { return Ok(Head::default()) };
    let bad = |what: &str| corrupt(0, format!("the head record is malformed: {what}"));
    let head = pb::Head::decode(bytes.value()).map_err(|error| bad(&error.to_string()))?;
    let hash = head.hash.as_slice().try_into().map_err(|_| bad("its hash is not 32 bytes"))?;
    Ok(Head { sequence: head.sequence, hash })
}

/// The batch that continues `head`, and the head it makes.
fn follow(head: Head, bytes: &[u8]) -> Result<(Head, Batch), Failure> {
    let wrong = |error: DecodeError| Failure::Journal(JournalError::decode(head.sequence + 1, error));
    head.follow(bytes).map_err(wrong)
}

/// Batches after `head`, up to number `last` or a few MiB.
fn read_page(database: &impl ReadableDatabase, mut head: Head, last: u64) -> Result<Vec<Read>, Failure> {
    let table = database.begin_read()?.open_table(BATCHES)?;
    let (mut batches, mut size) = (Vec::new(), 0);
    for row in table.range(head.sequence + 1..=last)? {
        let (key, value) = row?;
        if key.value() != head.sequence + 1 {
            break;
        }
        let bytes = value.value().to_vec();
        let batch;
        (head, batch) = follow(head, &bytes)?;
        size += bytes.len();
        batches.push((bytes, batch, head));
        if size >= PAGE {
            break;
        }
    }
    if batches.is_empty() {
        return Err(Failure::Journal(JournalError::Missing(head.sequence + 1)));
    }
    Ok(batches)
}

type Read = (Vec<u8>, Batch, Head);

fn write(database: &Database, epoch: &Epoch, head: Head, batch: &EncodedBatch) -> Result<Head, Failure> {
    let write = database.begin_write()?;
    let new = batch.head();
    {
        let mut meta = write.open_table(META)?;
        fence(&meta, epoch)?;
        let stored = read_head(&meta)?;
        if stored == new {
            return Ok(new);
        }
        if stored != head {
            return Err(corrupt(stored.sequence, "the head is not where this process left it"));
        }
        meta.insert("head", head_record(&new).as_slice())?;
        write.open_table(BATCHES)?.insert(new.sequence, batch.bytes())?;
    }
    write.commit()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Core, State};
    use nightshift_types::{CellId, Timestamp};

    #[tokio::test]
    async fn a_newer_epoch_in_the_file_fences_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = EmbeddedJournal::open(folder.path().join("journal.redb")).await.unwrap();
        let cell = CellId::new("local").unwrap();
        let mut core = Core::lead(State::default(), Head::default(), cell, journal.epoch().clone(), Timestamp(1));
        let batch = core.take_batch().unwrap();
        take_over(&journal.database).map_err(|error| error.at(&journal.path)).unwrap();
        assert!(matches!(journal.append(&batch).await, Err(JournalError::LostFence(_))));
        assert_eq!(journal.head(), Head::default());
    }
}
