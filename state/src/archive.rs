//! In: the ledger's entries of batches that will be deleted. Out: segments in object storage, each of which names the one
//! before by its hash. Invariant: an object is never written with other bytes, as its name holds its hash, so that no
//! deposed leader can harm what another wrote.

mod history;
mod names;

pub use history::{Concerns, History, LedgerHistory, Past};

use crate::batch::{Batch, Head};
use crate::convert::{DecodeError, bad, hash, id, pb};
use crate::event::{Event, FORMAT};
use crate::journal::{JournalError, Reader, corrupt};
use crate::ledger::Posted;
use crate::snapshot::{Manifest, posted_from, posted_to};
use names::Names;
use nightshift_types::CellId;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A segment is ended by the batch that brings it to this size. Bytes.
const SEGMENT: usize = 4 << 20;
/// Longest segment that is read: a batch may bring its size above [`SEGMENT`].
const MAX_SEGMENT: u64 = 16 << 20;

/// How far the ledger's history is archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveHead {
    /// Id of the journal that wrote the newest segment.
    pub folder: String,
    /// Of the newest segment; 1 for the first.
    pub number: u64,
    /// SHA-256 of the newest segment.
    pub hash: [u8; 32],
    /// The last batch whose entries are archived.
    pub through: Head,
    /// In all segments.
    pub entries: u64,
}

impl ArchiveHead {
    fn message(&self) -> pb::ArchiveHead {
        pb::ArchiveHead {
            folder: self.folder.clone(),
            number: self.number,
            hash: self.hash.to_vec(),
            sequence: self.through.sequence,
            head: self.through.hash.to_vec(),
            entries: self.entries,
        }
    }

    fn from_message(m: pb::ArchiveHead) -> Result<Self, DecodeError> {
        // It becomes a path.
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if m.folder.is_empty() || m.folder.len() > 64 || !m.folder.bytes().all(plain) || m.number == 0 {
            return Err(bad("archive", "its folder and number must be set"));
        }
        Ok(Self {
            folder: m.folder,
            number: m.number,
            hash: hash("archive.hash", &m.hash)?,
            through: Head { sequence: m.sequence, hash: hash("archive.head", &m.head)? },
            entries: m.entries,
        })
    }

    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message = pb::ArchiveHead::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        Self::from_message(message)
    }

    /// The newest segment's object, below the archive's place.
    pub fn object(&self) -> String {
        format!("{}/{:016}-{}", self.folder, self.number, &hex::encode(self.hash)[..32])
    }
}

/// Entries of batches that follow each other.
#[derive(Debug)]
pub struct Segment {
    /// The cell's.
    pub cell: CellId,
    /// The segments before.
    pub before: Option<ArchiveHead>,
    /// The last batch whose entries are in it.
    pub through: Head,
    /// Oldest first.
    pub entries: Vec<Posted>,
}

impl Segment {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let m = pb::Segment::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if m.format > FORMAT {
            return Err(DecodeError::UnknownFormat(m.format));
        }
        Ok(Self {
            cell: id("segment.cell", &m.cell)?,
            before: m.before.map(ArchiveHead::from_message).transpose()?,
            through: Head { sequence: m.sequence, hash: hash("segment.head", &m.head)? },
            entries: m.entries.into_iter().map(posted_from).collect::<Result<_, _>>()?,
        })
    }
}

/// Where the ledger's history goes when its batches are deleted.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    root: Path,
    place: String,
}

impl Archive {
    /// A folder, which is made, or the URL of one: `file:///…`, `s3://BUCKET/…`, `gs://BUCKET/…`, `az://CONTAINER/…`. What
    /// the store needs beside it stands in the environment, as its own tools read it: `AWS_…`, `GOOGLE_…`, `AZURE_…`.
    pub fn open(place: &str) -> Result<Self, JournalError> {
        let failed = |error: String| JournalError::Config(format!("archive {place}: {error}"));
        let folder = |path: &str| -> Result<Self, JournalError> {
            std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?;
            Ok(Self { store: Arc::new(store.with_fsync(true)), root: Path::default(), place: place.into() })
        };
        if !place.contains("://") {
            return folder(place);
        }
        let url = url::Url::parse(place).map_err(|error| failed(error.to_string()))?;
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) => folder(&path.to_string_lossy()),
                Err(()) => Err(failed("write it as file:///FOLDER".into())),
            },
            "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" => {
                let opened = object_store::parse_url_opts(&url, std::env::vars());
                let (store, root) = opened.map_err(|error| failed(error.to_string()))?;
                Ok(Self { store: store.into(), root, place: place.into() })
            }
            _ => Err(failed("it must be a folder, or begin with file:, s3:, gs: or az:".into())),
        }
    }

    /// As it was named.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn failed(&self, object: &str, error: object_store::Error) -> JournalError {
        JournalError::Archive {
            place: format!("{}/{object}", self.place.trim_end_matches('/')),
            what: error.to_string(),
        }
    }

    fn path(&self, object: &str) -> Path {
        Path::from_iter(self.root.parts().chain(Path::from(object).parts()))
    }

    /// Archives the entries after `before` up to the snapshot's batch, in new segments of this journal.
    pub(crate) async fn extend(
        &self,
        reader: &impl Reader,
        journal: &str,
        before: Option<ArchiveHead>,
        manifest: &Manifest,
    ) -> Result<ArchiveHead, JournalError> {
        let after = before.as_ref().map_or(Head::default(), |before| before.through);
        // What was forgotten since stands in the snapshot before.
        let last = manifest.head.sequence;
        let names = Names::gather(reader, after, last, [last, after.sequence]).await?;
        let mut writing = Writing { journal, cell: &manifest.cell, before, entries: Vec::new(), bytes: 0 };
        let mut head = after;
        while head.sequence < manifest.head.sequence {
            // A few batches at a time: a segment is written between two of them.
            let last = manifest.head.sequence.min(head.sequence + 64);
            let mut full = Vec::new();
            head = reader
                .batches(head, last, &mut |_, batch, head| {
                    writing.take(&batch, &names);
                    full.extend(writing.full(head));
                    Ok(())
                })
                .await?;
            for (object, bytes) in full {
                self.put(&object, bytes).await?;
            }
        }
        if head != manifest.head {
            return Err(corrupt(head.sequence, "is not the batch that the snapshot stands at"));
        }
        let end = writing.before.as_ref().map_or(0, |before| before.through.sequence);
        if end < head.sequence {
            let (object, bytes) = writing.end(head);
            self.put(&object, bytes).await?;
        }
        writing.before.ok_or_else(|| corrupt(head.sequence, "there is nothing to archive"))
    }

    async fn put(&self, object: &str, bytes: Vec<u8>) -> Result<(), JournalError> {
        let put = self.store.put(&self.path(object), bytes.into()).await;
        put.map(drop).map_err(|error| self.failed(object, error))
    }

    /// The newest segment of `head`, checked. Its own `before` leads to the one before.
    pub async fn segment(&self, head: &ArchiveHead) -> Result<Segment, JournalError> {
        let object = head.object();
        let got = self.store.get(&self.path(&object)).await.map_err(|error| self.failed(&object, error))?;
        let wrong = |what: String| {
            let place = format!("{}/{object}", self.place.trim_end_matches('/'));
            corrupt(head.through.sequence, format!("the ledger's archive, {place}: {what}"))
        };
        if got.meta.size > MAX_SEGMENT {
            return Err(wrong(format!("{} bytes", got.meta.size)));
        }
        let bytes = got.bytes().await.map_err(|error| self.failed(&object, error))?;
        if <[u8; 32]>::from(Sha256::digest(&bytes)) != head.hash {
            return Err(wrong("it is not what was written".into()));
        }
        let segment = Segment::decode(&bytes).map_err(|error| wrong(error.to_string()))?;
        let (number, entries) = segment.before.as_ref().map_or((0, 0), |before| (before.number, before.entries));
        let follows = number + 1 == head.number
            && entries + segment.entries.len() as u64 == head.entries
            && segment.through.sequence <= head.through.sequence;
        if follows { Ok(segment) } else { Err(wrong("it does not follow the one before".into())) }
    }
}

/// Segments as they are filled.
struct Writing<'a> {
    journal: &'a str,
    cell: &'a CellId,
    before: Option<ArchiveHead>,
    entries: Vec<pb::Posted>,
    bytes: usize,
}

impl Writing<'_> {
    fn take(&mut self, batch: &Batch, names: &Names) {
        for event in &batch.events {
            let Event::Transferred { entry } = event else { continue };
            let posted = Posted { at: batch.time, entry: entry.clone(), job: names.about(entry) };
            let posted = posted_to(&posted);
            self.bytes += posted.encoded_len();
            self.entries.push(posted);
        }
    }

    fn full(&mut self, head: Head) -> Option<(String, Vec<u8>)> {
        (self.bytes >= SEGMENT).then(|| self.end(head))
    }

    /// The segment's object and its bytes.
    fn end(&mut self, head: Head) -> (String, Vec<u8>) {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        let (number, before) = self.before.as_ref().map_or((0, 0), |before| (before.number, before.entries));
        let count = entries.len() as u64;
        let segment = pb::Segment {
            format: 3,
            cell: self.cell.to_string(),
            before: self.before.as_ref().map(ArchiveHead::message),
            sequence: head.sequence,
            head: head.hash.to_vec(),
            entries,
        };
        let bytes = segment.encode_to_vec();
        let new = ArchiveHead {
            folder: self.journal.to_owned(),
            number: number + 1,
            hash: Sha256::digest(&bytes).into(),
            through: head,
            entries: before + count,
        };
        let object = new.object();
        self.before = Some(new);
        (object, bytes)
    }
}
