//! A backup's file. In: records, chunks, batches. Out: the same, from a file. Invariant: a file that was cut short has no end.
//!
//! A backup is a line of text, then frames, then a length of 0 and the last batch's hash. Of a journal without a snapshot
//! ([`MAGIC`]) a frame is a batch: its length (u32, little-endian) and its bytes. Of one with a snapshot ([`MAGIC_2`]) a
//! byte before the length says what it is.

use crate::archive::ArchiveHead;
use crate::batch::{Batch, Head, MAX_BATCH};
use crate::journal::{Each, JournalError, Reader, Records, archive_from, corrupt, manifest_from, seal};
use crate::snapshot::Manifest;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// First line of a backup that holds batches alone.
const MAGIC: &[u8] = b"nightshift journal backup 1\n";
/// First line of a backup that begins with a snapshot.
const MAGIC_2: &[u8] = b"nightshift journal backup 2\n";

const BATCH: u8 = b'B';
const CHUNK: u8 = b'C';
const MANIFEST: u8 = b'M';
const ARCHIVE: u8 = b'A';
const END: u8 = b'E';

/// Writes one.
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    /// Frames say what they are.
    kinds: bool,
    begun: bool,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let file = private(path).map_err(|error| JournalError::Io(format!("{}: {error}", path.display())))?;
        Ok(Self { file: BufWriter::new(file), path: path.into(), kinds: false, begun: false })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.file.write_all(bytes).map_err(|error| JournalError::Io(format!("{}: {error}", self.path.display())))
    }

    fn begin(&mut self) -> Result<(), JournalError> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        self.put(if self.kinds { MAGIC_2 } else { MAGIC })
    }

    fn frame(&mut self, kind: u8, bytes: &[u8]) -> Result<(), JournalError> {
        self.begin()?;
        if self.kinds {
            self.put(&[kind])?;
        }
        self.put(&(bytes.len() as u32).to_le_bytes())?;
        self.put(bytes)
    }

    pub fn begin_with(&mut self, manifest: &Manifest, archive: Option<&ArchiveHead>) -> Result<(), JournalError> {
        self.kinds = true;
        self.frame(MANIFEST, &seal(&manifest.encode()))?;
        archive.map_or(Ok(()), |archive| self.frame(ARCHIVE, &seal(&archive.encode())))
    }

    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.frame(CHUNK, bytes)
    }

    pub fn batch(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.frame(BATCH, bytes)
    }

    pub fn end(mut self, head: Head) -> Result<(), JournalError> {
        self.frame(END, &[])?;
        self.put(&head.sequence.to_le_bytes()[..if self.kinds { 8 } else { 0 }])?;
        self.put(&head.hash)?;
        let failed = |error: std::io::Error| JournalError::Io(format!("{}: {error}", self.path.display()));
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)
    }
}

/// A new file that its owner alone can read: it holds results.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Where the frames of a backup are.
pub(super) struct BackupFile {
    path: PathBuf,
    records: Records,
    chunks: Vec<(u64, u32)>,
    batches: Vec<(u64, u32)>,
    /// Of the first batch.
    first: u64,
}

impl BackupFile {
    /// Reads the frames' places and what is no batch and no chunk.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |error: std::io::Error| JournalError::Io(format!("{}: {error}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut magic = vec![0; MAGIC.len()];
        let read = file.read_exact(&mut magic).is_ok();
        if !read || (magic != MAGIC && magic != MAGIC_2) {
            return Err(JournalError::Config(format!("{} is no journal backup of this version", path.display())));
        }
        let (mut records, kinds) = (Records::default(), magic == MAGIC_2);
        let mut opened =
            Self { path: path.into(), records: Records::default(), chunks: Vec::new(), batches: Vec::new(), first: 1 };
        loop {
            let kind = if kinds { opened.bytes::<1>(&mut file)?[0] } else { BATCH };
            let length = u32::from_le_bytes(opened.bytes(&mut file)?);
            if length == 0 && (kind == END || !kinds) {
                break;
            }
            // A manifest may be as long as a batch, and its seal.
            if length as usize > MAX_BATCH + 32 {
                return Err(opened.damaged(format!("a frame of {length} bytes")));
            }
            let place = (file.stream_position().map_err(failed)?, length);
            let mut content = vec![0; length as usize];
            file.read_exact(&mut content).map_err(|error| opened.damaged(error.to_string()))?;
            match kind {
                BATCH => opened.batches.push(place),
                CHUNK => opened.chunks.push(place),
                MANIFEST => records.manifest = Some(manifest_from(&content)?),
                ARCHIVE => records.archive = Some(archive_from(&content)?),
                _ => return Err(opened.damaged(format!("a frame of kind {kind}"))),
            }
            if kind == BATCH && opened.batches.len() == 1 {
                opened.first = Batch::decode(&content).map_err(|error| JournalError::decode(1, error))?.sequence;
            }
        }
        let mut end = Head { sequence: opened.first + opened.batches.len() as u64 - 1, hash: [0; 32] };
        if kinds {
            end.sequence = u64::from_le_bytes(opened.bytes(&mut file)?);
        }
        end.hash = opened.bytes(&mut file)?;
        if file.read(&mut [0]).map_err(failed)? != 0 {
            return Err(opened.damaged("something follows its end"));
        }
        records.head = (end.sequence > 0 || !opened.batches.is_empty()).then_some(end);
        opened.records = records;
        Ok(opened)
    }

    fn bytes<const N: usize>(&self, file: &mut impl Read) -> Result<[u8; N], JournalError> {
        let mut bytes = [0; N];
        file.read_exact(&mut bytes).map_err(|error| self.damaged(error.to_string()))?;
        Ok(bytes)
    }

    fn damaged(&self, what: impl std::fmt::Display) -> JournalError {
        JournalError::Io(format!("{} was cut short or is damaged: {what}", self.path.display()))
    }

    fn frames(
        &self,
        places: &[(u64, u32)],
    ) -> Result<impl Iterator<Item = Result<Vec<u8>, JournalError>>, JournalError> {
        let failed = |path: &Path, error: std::io::Error| JournalError::Io(format!("{}: {error}", path.display()));
        let mut file = File::open(&self.path).map_err(|error| failed(&self.path, error))?;
        let (path, places) = (self.path.clone(), places.to_vec());
        Ok(places.into_iter().map(move |(at, length)| {
            let mut bytes = vec![0; length as usize];
            file.seek(SeekFrom::Start(at)).map_err(|error| failed(&path, error))?;
            file.read_exact(&mut bytes).map_err(|error| failed(&path, error))?;
            Ok(bytes)
        }))
    }

    /// Bytes of the batches after number `sequence`.
    pub fn after(&self, sequence: u64) -> Result<impl Iterator<Item = Result<Vec<u8>, JournalError>>, JournalError> {
        let skipped = (sequence + 1).saturating_sub(self.first).min(self.batches.len() as u64) as usize;
        self.frames(&self.batches[skipped..])
    }
}

impl Reader for BackupFile {
    async fn records(&self) -> Result<Records, JournalError> {
        Ok(self.records.clone())
    }

    async fn chunk(&self, _: u64, index: u32) -> Result<Option<Vec<u8>>, JournalError> {
        let place = self.chunks.get(index as usize);
        place
            .and_then(|place| self.frames(&[*place]).map(|mut frames| frames.next()).transpose())
            .transpose()?
            .transpose()
    }

    async fn first(&self) -> Result<Option<u64>, JournalError> {
        Ok((!self.batches.is_empty()).then_some(self.first))
    }

    async fn batches(&self, after: Head, last: u64, each: &mut Each<'_>) -> Result<Head, JournalError> {
        if after.sequence + 1 < self.first && after.sequence < last {
            return Err(JournalError::Missing(after.sequence + 1));
        }
        let mut head = after;
        for bytes in self.after(after.sequence)? {
            if head.sequence >= last {
                break;
            }
            let bytes = bytes?;
            let (next, batch) = head.follow(&bytes).map_err(|error| JournalError::decode(head.sequence + 1, error))?;
            head = next;
            each(&bytes, batch, head)?;
        }
        if head.sequence < last {
            return Err(corrupt(head.sequence + 1, "the batch is missing"));
        }
        Ok(head)
    }
}
