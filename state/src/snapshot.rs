//! In: a state at one batch. Out: chunks of bytes and a manifest that names them; and from those the state again.
//! Invariant: what is read back has the digest that the manifest names, or is an error; freezing a state costs a pointer
//! a job, so that the leader goes on while its snapshot is written.

mod decode;
mod encode;

use crate::batch::Head;
use crate::convert::{DecodeError, bad, hash, id, pb};
use crate::event::FORMAT;
use crate::state::State;
use nightshift_types::CellId;
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use decode::{Thaw, posted as posted_from};
pub(crate) use encode::posted as posted_to;

/// What chunks are filled up to: small, so that an append between two of them waits little.
pub const CHUNK: usize = 256 << 10;
/// Longest chunk: one item alone may be longer than [`CHUNK`], as a job with thousands of inputs is. As
/// [`crate::MAX_BATCH`], for etcd's sake.
pub const MAX_CHUNK: usize = 1 << 20;
/// Most chunks of a snapshot, so that its manifest is below what etcd takes in one request: some 7 GiB.
pub const MAX_CHUNKS: usize = 30_000;

/// A state that stays as it is while the one it was taken of goes on.
#[derive(Debug)]
pub struct Frozen {
    state: State,
    head: Head,
}

impl Frozen {
    /// The state after the batch that `head` names. Shares its jobs; what can be derived from them is left out.
    pub fn new(state: &State, head: Head) -> Self {
        let state = State {
            journal: state.journal.clone(),
            cell: state.cell.clone(),
            format: state.format,
            epoch: state.epoch.clone(),
            leader_since: state.leader_since,
            time: state.time,
            nodes: state.nodes.clone(),
            tokens: state.tokens.clone(),
            models: state.models.clone(),
            jobs: state.jobs.clone(),
            numbers: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            admitted: state.admitted,
            forgotten: state.forgotten.clone(),
            forgotten_ids: BTreeSet::new(),
            waiting: BTreeSet::new(),
            running: BTreeMap::new(),
            ledger: state.ledger.clone(),
            misfits: state.misfits,
        };
        Self { state, head }
    }

    /// After which batch.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The state's. Linear in its size.
    pub fn digest(&self) -> [u8; 32] {
        self.state.digest()
    }

    /// Hands over each chunk in turn, and returns the manifest. The caller writes the chunks before the manifest.
    ///
    /// # Errors
    /// What `each` answers, and a state that no snapshot can hold.
    pub fn chunks<E>(&self, mut each: impl FnMut(u32, Vec<u8>) -> Result<(), E>) -> Result<Manifest, E>
    where
        E: From<DecodeError>,
    {
        let mut hashes = Vec::new();
        let mut size = 0;
        encode::chunks(&self.state, &mut |bytes: Vec<u8>| {
            if hashes.len() == MAX_CHUNKS || bytes.len() > MAX_CHUNK {
                let what = format!("chunk {} of {} bytes is beyond what a snapshot holds", hashes.len(), bytes.len());
                return Err(bad("snapshot", what).into());
            }
            hashes.push(<[u8; 32]>::from(Sha256::digest(&bytes)));
            size += bytes.len() as u64;
            each(hashes.len() as u32 - 1, bytes)
        })?;
        Ok(Manifest {
            format: self.state.format.max(3),
            journal: self.state.journal.clone(),
            cell: self.state.cell.clone().ok_or_else(|| bad("snapshot.cell", "the journal is not started"))?,
            head: self.head,
            digest: self.digest(),
            chunks: hashes,
            size,
        })
    }
}

/// Names a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The highest that a reader must know.
    pub format: u32,
    /// Whose it is.
    pub journal: String,
    /// Whose it is.
    pub cell: CellId,
    /// The last batch that is in it.
    pub head: Head,
    /// Of the state.
    pub digest: [u8; 32],
    /// SHA-256 of each chunk.
    pub chunks: Vec<[u8; 32]>,
    /// Bytes of all chunks.
    pub size: u64,
}

impl Manifest {
    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let message = pb::Manifest {
            format: self.format,
            journal: self.journal.clone(),
            cell: self.cell.to_string(),
            sequence: self.head.sequence,
            head: self.head.hash.to_vec(),
            digest: self.digest.to_vec(),
            chunks: self.chunks.iter().map(|hash| hash.to_vec()).collect(),
            size: self.size,
        };
        message.encode_to_vec()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let m = pb::Manifest::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if m.format > FORMAT {
            return Err(DecodeError::UnknownFormat(m.format));
        }
        if m.sequence == 0 || m.chunks.is_empty() || m.chunks.len() > MAX_CHUNKS {
            return Err(bad("manifest", "sequence and chunks must be set"));
        }
        Ok(Self {
            format: m.format,
            journal: m.journal,
            cell: id("manifest.cell", &m.cell)?,
            head: Head { sequence: m.sequence, hash: hash("manifest.head", &m.head)? },
            digest: hash("manifest.digest", &m.digest)?,
            chunks: m.chunks.iter().map(|bytes| hash("manifest.chunks", bytes)).collect::<Result<_, _>>()?,
            size: m.size,
        })
    }

    /// SHA-256 of [`Manifest::encode`], as [`crate::Event::SnapshotTaken`] names it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// A reader of this snapshot's chunks.
    pub(crate) fn thaw(&self) -> Thaw<'_> {
        Thaw::new(self)
    }
}

/// The state that a snapshot's chunks, in order, hold.
///
/// # Errors
/// Chunks that are not those that the manifest names, and a state that it does not name.
pub fn thaw<B: AsRef<[u8]>>(manifest: &Manifest, chunks: impl IntoIterator<Item = B>) -> Result<State, DecodeError> {
    let mut thaw = manifest.thaw();
    chunks.into_iter().try_for_each(|chunk| thaw.chunk(chunk.as_ref()))?;
    thaw.finish()
}
