//! Outcomes that the scheduler has not acknowledged, one durable file an attempt.
//!
//! in → reports · out → the same, until they are removed · invariant: a file that is there is whole (magic, length and
//! checksum say so); a torn one is deleted and its attempt runs again when its lease ends.
//!
//! File: `NSOB1\n`, CRC-32 of the rest, length of the message, the `Outcome` message with its output inline, whatever
//! its size.

use crate::files;
use nightshift_types::{AttemptId, Bytes, Epoch, FailureReason};
use nightshift_wire::{convert, convert::Report, proto};
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};
use tracing::{error, warn};

const MAGIC: &[u8; 6] = b"NSOB1\n";
const HEADER: usize = MAGIC.len() + 4 + 8;
const ENDING: &str = "outcome";
/// Outputs kept in memory while the disk takes none; beyond that an outcome becomes a failure.
const MOST_IN_MEMORY: u64 = 256 << 20;

#[derive(Debug)]
struct Entry {
    epoch: Epoch,
    bytes: u64,
    /// Where the disk would not take it.
    memory: Option<Arc<Vec<u8>>>,
}

/// The outbox. One agent opens it at a time (the data folder's lock sees to that).
#[derive(Debug)]
pub struct Outbox {
    dir: PathBuf,
    entries: Mutex<BTreeMap<AttemptId, Entry>>,
}

/// Where an outcome went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It survives a crash.
    OnDisk,
    /// The disk takes no more: it survives while this process does.
    InMemory,
}

impl Outbox {
    /// Reads what an earlier process left; answers how many torn files were deleted.
    pub fn open(dir: &Path) -> io::Result<(Self, usize)> {
        files::private_dir(dir)?;
        let mut entries = BTreeMap::new();
        let mut torn = 0;
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            let outcome = match path.extension().and_then(|e| e.to_str()) {
                Some(ENDING) => decode(&fs::read(&path)?),
                Some(files::TEMPORARY) => None,
                _ => continue,
            };
            let named = outcome
                .as_ref()
                .and_then(|o| Some((convert::attempt(&o.attempt).ok()?, convert::epoch(&o.epoch).ok()?)));
            let Some((attempt, epoch)) = named else {
                warn!(file = %path.display(), "a torn outcome was deleted: its attempt runs again when its lease ends");
                torn += 1;
                fs::remove_file(&path)?;
                continue;
            };
            let bytes = fs::metadata(&path)?.len();
            entries.insert(attempt, Entry { epoch, bytes, memory: None });
        }
        Ok((Self { dir: dir.into(), entries: Mutex::new(entries) }, torn))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, attempt: &AttemptId) -> PathBuf {
        let name = hex::encode(Sha256::digest(attempt.to_string().as_bytes()));
        self.dir.join(name).with_extension(ENDING)
    }

    /// Makes an outcome durable. If the disk will not, it is kept in memory, and said so in the log.
    pub fn put(&self, report: &Report) -> Kept {
        let outcome = proto::Outcome::from(report);
        let body = outcome.encode_to_vec();
        let bytes = (HEADER + body.len()) as u64;
        let epoch = report.epoch.clone();
        let written = files::write_atomic(&self.path(&report.attempt), &[&header(&body), &body]);
        let mut entries = self.lock();
        let Err(problem) = written else {
            entries.insert(report.attempt.clone(), Entry { epoch, bytes, memory: None });
            return Kept::OnDisk;
        };
        error!(
            attempt = %report.attempt, error = %problem, dir = %self.dir.display(),
            "the disk did not take an outcome; it is kept in memory and lost if this process ends: free some disk space"
        );
        let in_memory: u64 = entries.values().filter_map(|entry| entry.memory.as_ref()).map(|m| m.len() as u64).sum();
        let body = if in_memory + bytes <= MOST_IN_MEMORY {
            body
        } else {
            let message = "the node's disk is full and its memory for results too".to_string();
            let result = Err((FailureReason::Internal, message));
            proto::Outcome::from(&Report { result, ..report.clone() }).encode_to_vec()
        };
        let bytes = body.len() as u64;
        entries.insert(report.attempt.clone(), Entry { epoch, bytes, memory: Some(Arc::new(body)) });
        Kept::InMemory
    }

    /// An outcome, its output inline whatever its size; `None` if it is not there, or torn since it was written.
    pub fn get(&self, attempt: &AttemptId) -> io::Result<Option<proto::Outcome>> {
        let memory = match self.lock().get(attempt) {
            None => return Ok(None),
            Some(entry) => entry.memory.clone(),
        };
        if let Some(body) = memory {
            return Ok(proto::Outcome::decode(body.as_slice()).ok());
        }
        match fs::read(self.path(attempt)) {
            Ok(file) => Ok(decode(&file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets an outcome. A crash right after may bring it back: it is then delivered, and acknowledged, again.
    pub fn remove(&self, attempt: &AttemptId) {
        let Some(entry) = self.lock().remove(attempt) else { return };
        if entry.memory.is_none()
            && let Err(error) = fs::remove_file(self.path(attempt))
        {
            warn!(%attempt, %error, "an acknowledged outcome could not be deleted");
        }
    }

    /// Attempts with an outcome here, and the epoch that placed each.
    pub fn list(&self) -> Vec<(AttemptId, Epoch)> {
        self.lock().iter().map(|(attempt, entry)| (attempt.clone(), entry.epoch.clone())).collect()
    }

    /// How many, and their size.
    pub fn size(&self) -> (usize, Bytes) {
        let entries = self.lock();
        (entries.len(), entries.values().map(|entry| Bytes(entry.bytes)).sum())
    }
}

fn header(body: &[u8]) -> [u8; HEADER] {
    let length = (body.len() as u64).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(body);
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(MAGIC);
    header[6..10].copy_from_slice(&crc.finalize().to_le_bytes());
    header[10..].copy_from_slice(&length);
    header
}

fn decode(file: &[u8]) -> Option<proto::Outcome> {
    let (head, body) = file.split_at_checked(HEADER)?;
    if head != header(body) {
        return None;
    }
    proto::Outcome::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_wire::convert::{Output, OutputPlace, Timings};
    use proptest::prelude::*;

    fn report(index: u32, bytes: Vec<u8>) -> Report {
        Report {
            attempt: format!("local/job/{index}/1").parse().unwrap(),
            epoch: Epoch { journal: "j".into(), revision: 1 },
            result: Ok(Output { content_type: "application/json".into(), place: OutputPlace::Inline(bytes) }),
            timings: Timings::default(),
        }
    }

    #[test]
    fn outcomes_survive_a_restart_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, torn) = Outbox::open(dir.path()).unwrap();
        assert_eq!(torn, 0);
        let large = report(0, vec![7; 300_000]);
        assert_eq!(outbox.put(&large), Kept::OnDisk);
        outbox.put(&report(1, vec![]));
        drop(outbox);
        let (outbox, torn) = Outbox::open(dir.path()).unwrap();
        assert_eq!((outbox.list().len(), torn), (2, 0));
        assert_eq!(outbox.get(&large.attempt).unwrap().unwrap(), proto::Outcome::from(&large));
        outbox.remove(&large.attempt);
        outbox.remove(&large.attempt);
        assert_eq!(outbox.get(&large.attempt).unwrap(), None);
        assert_eq!(Outbox::open(dir.path()).unwrap().0.list().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_torn_or_flipped_anywhere_is_lost_alone(cut in 0usize..200, flip: bool) {
            let dir = tempfile::tempdir().unwrap();
            let (outbox, _) = Outbox::open(dir.path()).unwrap();
            let victim = report(0, vec![1; 120]);
            outbox.put(&victim);
            outbox.put(&report(1, vec![2; 120]));
            let path = outbox.path(&victim.attempt);
            let mut bytes = fs::read(&path).unwrap();
            let at = cut.min(bytes.len() - 1);
            if flip { bytes[at] ^= 0x40 } else { bytes.truncate(at) }
            fs::write(&path, bytes).unwrap();
            fs::write(path.with_extension(files::TEMPORARY), b"half").unwrap();
            let (outbox, torn) = Outbox::open(dir.path()).unwrap();
            prop_assert_eq!(torn, 2);
            prop_assert_eq!(outbox.list().len(), 1);
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_durability_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _) = Outbox::open(dir.path()).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        let report = report(0, vec![3; 10]);
        assert_eq!(outbox.put(&report), Kept::InMemory);
        assert_eq!(outbox.get(&report.attempt).unwrap().unwrap(), proto::Outcome::from(&report));
        outbox.remove(&report.attempt);
        assert_eq!(outbox.size(), (0, Bytes(0)));
    }
}
