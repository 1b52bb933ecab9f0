//! In: batches. Out: a redb file. Invariant: one process has the file open; a commit is on disk before it returns.

use super::{Journal, JournalError, continues, mint_id};
use crate::batch::{Batch, EncodedBatch, Head};
use crate::convert::{DecodeError, pb};
use nightshift_types::Epoch;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `journal`: its id; `revision`: u64, little-endian; `head`: a Head message.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Batches by sequence.
const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");

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
    async fn load_after(
        &mut self,
        after: Head,
        each: &mut (dyn FnMut(Batch, Head) + Send),
    ) -> Result<Head, JournalError> {
        let mut head = after;
        while head.sequence < self.head.sequence {
            let (database, path) = (self.database.clone(), self.path.clone());
            let (next, batches) = blocking(move || read_page(&database, head).map_err(|error| error.at(&path))).await?;
            head = next;
            batches.into_iter().for_each(|(batch, head)| each(batch, head));
        }
        if head != self.head {
            return Err(JournalError::Corrupt {
                sequence: head.sequence,
                what: "the last batch is not the head's".into(),
            });
        }
        Ok(head)
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

/// Reads a file that nobody has open.
pub(crate) fn read(path: &Path, each: &mut crate::backup::Each<'_>) -> Result<Head, JournalError> {
    let database = redb::ReadOnlyDatabase::open(path).map_err(|error| open_error(path, &error))?;
    read_all(&database, each).map_err(|error| error.at(path))
}

fn read_all(database: &impl ReadableDatabase, each: &mut crate::backup::Each<'_>) -> Result<Head, Failure> {
    let read = database.begin_read()?;
    let end = read_head(&read.open_table(META)?)?;
    let mut head = Head::default();
    for row in read.open_table(BATCHES)?.iter()? {
        let (key, value) = row?;
        let batch;
        (head, batch) = follow(head, key.value(), value.value())?;
        each(value.value(), &batch, head).map_err(Failure::Journal)?;
    }
    if head != end {
        return Err(corrupt(head.sequence, "the last batch is not the head's"));
    }
    Ok(head)
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

/// The batch that stands at `key` and continues `head`, and the head it makes.
fn follow(head: Head, key: u64, bytes: &[u8]) -> Result<(Head, Batch), Failure> {
    let wrong = |error: DecodeError| Failure::Journal(JournalError::decode(head.sequence + 1, error));
    let (next, batch) = head.follow(bytes).map_err(wrong)?;
    if key == next.sequence { Ok((next, batch)) } else { Err(corrupt(key, "the batch stands in another's place")) }
}

/// Batches after `head`, up to a few MiB.
fn read_page(database: &Database, mut head: Head) -> Result<(Head, Vec<(Batch, Head)>), Failure> {
    const PAGE: usize = 4 << 20;
    let table = database.begin_read()?.open_table(BATCHES)?;
    let (mut batches, mut size) = (Vec::new(), 0);
    for row in table.range(head.sequence + 1..)? {
        let (key, value) = row?;
        let batch;
        (head, batch) = follow(head, key.value(), value.value())?;
        batches.push((batch, head));
        size += value.value().len();
        if size >= PAGE {
            break;
        }
    }
    if batches.is_empty() {
        return Err(corrupt(head.sequence + 1, "the batch is missing"));
    }
    Ok((head, batches))
}

fn write(database: &Database, epoch: &Epoch, head: Head, batch: &EncodedBatch) -> Result<Head, Failure> {
    let write = database.begin_write()?;
    let new = batch.head();
    {
        let mut meta = write.open_table(META)?;
        let revision = read_revision(&meta)?;
        if revision != epoch.revision {
            let what = format!("its epoch {} is older than {revision}", epoch.revision);
            return Err(Failure::Journal(JournalError::LostFence(what)));
        }
        let stored = read_head(&meta)?;
        if stored == new {
            return Ok(new);
        }
        if stored != head {
            return Err(corrupt(stored.sequence, "the head is not where this process left it"));
        }
        let record = pb::Head { sequence: new.sequence, hash: new.hash.to_vec() };
        meta.insert("head", record.encode_to_vec().as_slice())?;
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
