//! The little that a session must remember across restarts.
//!
//! in → epochs, dials · out → session numbers · invariant: a number is never used twice, not even after the data folder
//! was restored from a backup (numbers are at least the clock's milliseconds).

use crate::files;
use nightshift_types::Epoch;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tracing::{error, warn};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Stored {
    session: u64,
    epoch: Option<Epoch>,
}

/// The file `session.json`.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    stored: Mutex<Stored>,
}

impl StateFile {
    /// Reads it; a damaged one is replaced, for all it holds can be learnt again.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("session.json");
        let stored = files::read_optional(&path)?.map(|text| serde_json::from_str(&text)).transpose();
        let stored = stored.unwrap_or_else(|error| {
            warn!(file = %path.display(), %error, "a damaged file is replaced");
            None
        });
        Ok(Self { path, stored: Mutex::new(stored.unwrap_or_default()) })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Stored) -> T) -> T {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut stored);
        let written = serde_json::to_vec(&*stored)
            .map_err(io::Error::other)
            .and_then(|text| files::write_atomic(&self.path, &[&text]));
        if let Err(error) = written {
            error!(file = %self.path.display(), %error, "cannot be written; the agent goes on without");
        }
        answer
    }

    /// The number of the next session.
    pub fn next_session(&self) -> u64 {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let clock = u64::try_from(clock).unwrap_or(0);
        self.change(|stored| {
            stored.session = clock.max(stored.session.saturating_add(1));
            stored.session
        })
    }

    /// Whom we follow.
    pub fn remember(&self, epoch: Epoch) {
        self.change(|stored| stored.epoch = Some(epoch));
    }

    /// Whom we followed last.
    pub fn epoch(&self) -> Option<Epoch> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).epoch.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::open(dir.path()).unwrap();
        let first = file.next_session();
        assert!(file.next_session() > first);
        let epoch = Epoch { journal: "j".into(), revision: 4 };
        file.remember(epoch.clone());
        let file = StateFile::open(dir.path()).unwrap();
        assert!(file.next_session() > first + 1);
        assert_eq!(file.epoch(), Some(epoch));
        std::fs::write(dir.path().join("session.json"), "{").unwrap();
        assert!(StateFile::open(dir.path()).unwrap().next_session() > first);
    }
}
