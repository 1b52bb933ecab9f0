//! In: a journal, wherever it is. Out: its batches, checked; a file that holds all of them; a journal made from such a file.
//! Invariant: reading changes nothing; a restored journal has a new id, so that agents and standbys of the old one know.
//!
//! A backup is a line of text ([`MAGIC`]), then each batch as a length (u32, little-endian) and its bytes, then a length
//! of 0 and the last batch's hash: a file that was cut short has no end.

use crate::batch::{Batch, EncodedBatch, Head, MAX_BATCH};
use crate::core::Folded;
use crate::event::{Event, FORMAT};
use crate::journal::{EtcdOptions, Journal, JournalError, read_embedded, read_etcd};
use nightshift_types::Timestamp;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A backup's first line.
pub const MAGIC: &[u8] = b"nightshift journal backup 1\n";

/// Where batches are read from, without leading.
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
pub type Each<'a> = dyn FnMut(&[u8], &Batch, Head) -> Result<(), JournalError> + Send + 'a;

impl Source {
    /// Every batch, with its bytes and the head it makes. Checks the chain and that it ends where its store says.
    pub async fn read(&self, each: &mut Each<'_>) -> Result<Head, JournalError> {
        match self {
            Self::Etcd(options) => read_etcd(options, each).await,
            Self::Embedded(path) => read_embedded(path, each),
            Self::Backup(path) => read_file(path, each),
        }
    }

    /// Folds all of it and checks what must always hold. Returns the fold, and the number of events.
    pub async fn verify(&self) -> Result<(Folded, u64), JournalError> {
        let (mut folded, mut events) = (Folded::default(), 0);
        self.read(&mut |_, batch, head| {
            events += batch.events.len() as u64;
            folded.apply(batch, head);
            Ok(())
        })
        .await?;
        check(&folded)?;
        Ok((folded, events))
    }

    /// Writes all of it to a new file, and returns where it ends. A file that is there is not overwritten.
    pub async fn backup(&self, path: &Path) -> Result<Head, JournalError> {
        let failed = |error: std::io::Error| JournalError::Io(format!("{}: {error}", path.display()));
        let mut folded = Folded::default();
        let partial = path.with_extension("partial");
        if path.exists() {
            return Err(JournalError::Config(format!("{} is there already: name another file", path.display())));
        }
        let mut file = BufWriter::new(private(&partial).map_err(failed)?);
        file.write_all(MAGIC).map_err(failed)?;
        let mut save = |bytes: &[u8], batch: &Batch, head: Head| {
            folded.apply(batch, head);
            file.write_all(&(bytes.len() as u32).to_le_bytes()).and_then(|()| file.write_all(bytes)).map_err(failed)
        };
        let read = self.read(&mut save).await;
        // A backup of what cannot be restored would be found out when it is needed.
        let head = match read.and_then(|head| check(&folded).map(|()| head)) {
            Ok(head) => head,
            Err(error) => {
                let _ = std::fs::remove_file(&partial);
                return Err(error);
            }
        };
        file.write_all(&0u32.to_le_bytes()).and_then(|()| file.write_all(&head.hash)).map_err(failed)?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&partial, path)).map_err(failed)?;
        Ok(head)
    }
}

/// Fills an empty journal with a backup's batches, and gives it the id of the store it is in. The backup is checked
/// whole before anything is written; cut off in the middle, the journal cannot be led and must be emptied.
pub async fn restore<J: Journal>(backup: &Path, journal: &mut J) -> Result<Head, JournalError> {
    if journal.head() != Head::default() {
        let text = "the journal is not empty: restore into a new --etcd-prefix or data folder";
        return Err(JournalError::Config(text.into()));
    }
    let source = Source::Backup(backup.into());
    let (folded, _) = source.verify().await?;
    let Some(cell) = folded.state().cell().cloned() else {
        return Err(JournalError::Config(format!("{} holds no batch", backup.display())));
    };
    let mut file = Frames::open(backup)?;
    while let Some(bytes) = file.next()? {
        let batch = EncodedBatch::from_bytes(bytes)
            .map_err(|error| JournalError::decode(journal.head().sequence + 1, error))?;
        append(journal, &batch).await?;
    }
    let (time, head) = (folded.state().time(), journal.head());
    let created = Event::JournalCreated { journal: journal.epoch().journal.clone(), cell, format: FORMAT };
    let batch =
        Batch { sequence: head.sequence + 1, time: time.max(Timestamp(1)), previous: head.hash, events: vec![created] };
    append(journal, &batch.encode()).await
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

fn check(folded: &Folded) -> Result<(), JournalError> {
    let corrupt = |what| JournalError::Corrupt { sequence: folded.head().sequence, what };
    folded.state().check_invariants().map_err(corrupt)
}

/// A new file that its owner alone can read: it holds results.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The batches in a backup, as bytes; the end's hash once all are read.
struct Frames {
    file: BufReader<File>,
    path: PathBuf,
    end: Option<[u8; 32]>,
}

impl Frames {
    fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |error: std::io::Error| JournalError::Io(format!("{}: {error}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut magic = vec![0; MAGIC.len()];
        if file.read_exact(&mut magic).is_err() || magic != MAGIC {
            return Err(JournalError::Config(format!("{} is no journal backup of this version", path.display())));
        }
        Ok(Self { file, path: path.into(), end: None })
    }

    fn cut(&self, error: &std::io::Error) -> JournalError {
        JournalError::Io(format!("{} was cut short or is damaged: {error}", self.path.display()))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, JournalError> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length).map_err(|error| self.cut(&error))?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            let mut hash = [0; 32];
            self.file.read_exact(&mut hash).map_err(|error| self.cut(&error))?;
            self.end = Some(hash);
            return Ok(None);
        }
        if length > MAX_BATCH {
            return Err(JournalError::Io(format!("{}: a batch of {length} bytes: it is damaged", self.path.display())));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(|error| self.cut(&error))?;
        Ok(Some(bytes))
    }
}

fn read_file(path: &Path, each: &mut Each<'_>) -> Result<Head, JournalError> {
    let mut frames = Frames::open(path)?;
    let mut head = Head::default();
    while let Some(bytes) = frames.next()? {
        let (next, batch) = head.follow(&bytes).map_err(|error| JournalError::decode(head.sequence + 1, error))?;
        head = next;
        each(&bytes, &batch, head)?;
    }
    if frames.end != Some(head.hash) {
        return Err(JournalError::Corrupt {
            sequence: head.sequence,
            what: "it is not the batch the backup ends with".into(),
        });
    }
    Ok(head)
}
