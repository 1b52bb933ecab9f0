//! In: events. Out: one append's bytes, chained by hash. Invariant: a batch's hash covers its bytes, which contain the
//! hash of the batch before, so that no batch can be changed, left out or put elsewhere unseen.

use crate::convert::{DecodeError, bad, decode_event, hash, pb};
use crate::event::{Event, FORMAT};
use nightshift_types::Timestamp;
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Longest encoded batch. etcd refuses requests over 1.5 MiB.
pub const MAX_BATCH: usize = 1 << 20;
/// What a batch's own fields may take of it, and each event's tag and length.
pub(crate) const BATCH_OVERHEAD: usize = 64;
pub(crate) const EVENT_OVERHEAD: usize = 5;

/// Where a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Of the last batch; 0 while there is none.
    pub sequence: u64,
    /// Of the last batch; zeros while there is none.
    pub hash: [u8; 32],
}

/// Events that became durable together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// 1 for the first; no gaps.
    pub sequence: u64,
    /// Of every event in it; never before the batch before.
    pub time: Timestamp,
    /// Hash of the batch before.
    pub previous: [u8; 32],
    /// In order; never empty.
    pub events: Vec<Event>,
}

/// A batch as it is written; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBatch {
    sequence: u64,
    previous: [u8; 32],
    hash: [u8; 32],
    bytes: Arc<[u8]>,
}

impl EncodedBatch {
    /// `format` is the highest of the events'.
    pub(crate) fn from_events(
        format: u32,
        sequence: u64,
        time: Timestamp,
        previous: [u8; 32],
        events: Vec<Vec<u8>>,
    ) -> Self {
        let batch = pb::Batch { format, sequence, time_ms: time.0, previous: previous.to_vec(), events };
        let bytes = batch.encode_to_vec();
        Self { sequence, previous, hash: Sha256::digest(&bytes).into(), bytes: bytes.into() }
    }
    /// What was read somewhere, as it is.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let Batch { sequence, previous, .. } = Batch::decode(&bytes)?;
        Ok(Self { sequence, previous, hash: Sha256::digest(&bytes).into(), bytes: bytes.into() })
    }
    /// Its place.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
    /// Hash of the batch before.
    pub fn previous(&self) -> [u8; 32] {
        self.previous
    }
    /// What the journal keeps.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// The head once it is appended.
    pub fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash }
    }
}

impl Batch {
    /// Its bytes and hash.
    pub fn encode(&self) -> EncodedBatch {
        let events = self.events.iter().map(crate::convert::encode_event).collect();
        let format = self.events.iter().map(Event::format).max().unwrap_or(1);
        EncodedBatch::from_events(format, self.sequence, self.time, self.previous, events)
    }

    /// Reads a batch. A newer format, an unknown event and every malformed field are errors.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let batch = pb::Batch::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if batch.format > FORMAT {
            return Err(DecodeError::UnknownFormat(batch.format));
        }
        if batch.format == 0 || batch.sequence == 0 || batch.events.is_empty() {
            return Err(bad("batch", "format, sequence and events must be set"));
        }
        let previous = hash("batch.previous", &batch.previous)?;
        let events = batch.events.iter().map(|bytes| decode_event(bytes)).collect::<Result<_, _>>()?;
        Ok(Self { sequence: batch.sequence, time: Timestamp(batch.time_ms), previous, events })
    }
}

impl Head {
    /// The head after `bytes`, decoded: checks that they continue this head without a gap and with the right hash.
    pub fn follow(&self, bytes: &[u8]) -> Result<(Self, Batch), DecodeError> {
        let batch = Batch::decode(bytes)?;
        if batch.sequence != self.sequence + 1 {
            return Err(bad("batch.sequence", format!("{} after {}", batch.sequence, self.sequence)));
        }
        if batch.previous != self.hash {
            return Err(bad("batch.previous", "is not the hash of the batch before: the chain is broken"));
        }
        Ok((Self { sequence: batch.sequence, hash: Sha256::digest(bytes).into() }, batch))
    }
}
