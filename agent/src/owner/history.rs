//! What ran on this machine, for its owner.
//!
//! in → attempts that ended · out → the last of them, and sums · invariant: at most two files of [`MOST`] bytes; a damaged
//! line is skipped, and the agent works whether or not the file can be written.

use crate::files;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// Bytes after which a new file is begun.
const MOST: u64 = 2 << 20;
/// Attempts kept at hand.
const RECENT: usize = 500;
/// Models summed by name; the rest together.
const MODELS: usize = 200;
const OTHERS: &str = "(others)";

/// One attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When it ended.
    pub at: Timestamp,
    /// Its id.
    pub attempt: String,
    /// `namespace/name` of the model; the namespace is the tenant's.
    pub model: String,
    /// Where.
    pub device: String,
    /// `Succeeded`, or a failure's reason.
    pub result: String,
    /// From its arrival to its end.
    pub seconds: f64,
    /// Of that, computing.
    pub compute_seconds: f64,
}

/// Sums.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// Attempts that gave a result.
    pub succeeded: u64,
    /// Attempts handed back because the owner returned.
    pub handed_back: u64,
    /// Other attempts without a result.
    pub failed: u64,
    /// Computing time of those that gave a result.
    pub compute_seconds: f64,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        match entry.result.as_str() {
            "Succeeded" => {
                self.succeeded += 1;
                self.compute_seconds += entry.compute_seconds;
            }
            "OwnerActive" => self.handed_back += 1,
            _ => self.failed += 1,
        }
    }
}

/// All sums.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sums {
    /// The first attempt that is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Everything.
    pub all: Sum,
    /// By model.
    pub models: BTreeMap<String, Sum>,
}

impl Sums {
    fn add(&mut self, entry: &Entry) {
        self.since = Some(self.since.map_or(entry.at, |since| since.min(entry.at)));
        self.all.add(entry);
        let known = self.models.contains_key(&entry.model) || self.models.len() < MODELS;
        let model = if known { &entry.model } else { OTHERS };
        self.models.entry(model.into()).or_default().add(entry);
    }
}

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<Entry>,
    sums: Sums,
}

/// The history of one data folder.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    inner: Mutex<Inner>,
}

impl History {
    /// Reads what there is.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("history.jsonl");
        let mut inner = Inner::default();
        for path in [older(&path), path.clone()] {
            let text = match files::read_optional(&path) {
                Ok(text) => text.unwrap_or_default(),
                Err(error) => {
                    warn!(file = %path.display(), %error, "the history cannot be read");
                    continue;
                }
            };
            for entry in text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
                inner.add(entry);
            }
        }
        Self { path, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt.
    pub fn add(&self, entry: Entry) {
        let written = serde_json::to_string(&entry).map_err(std::io::Error::other).and_then(|line| self.write(&line));
        if let Err(error) = written {
            warn!(file = %self.path.display(), %error, "the history could not be written");
        }
        self.lock().add(entry);
    }

    fn write(&self, line: &str) -> std::io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= MOST) {
            fs::rename(&self.path, older(&self.path))?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{line}\n").as_bytes())
    }

    /// The last `most`, the newest first.
    pub fn recent(&self, most: usize) -> Vec<Entry> {
        self.lock().recent.iter().rev().take(most).cloned().collect()
    }

    /// The sums.
    pub fn sums(&self) -> Sums {
        self.lock().sums.clone()
    }
}

impl Inner {
    fn add(&mut self, entry: Entry) {
        self.sums.add(&entry);
        self.recent.push_back(entry);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize, result: &str) -> Entry {
        Entry {
            at: Timestamp::from_second(1_795_000_000 + number as i64).unwrap(),
            attempt: format!("local/job/{number}/1"),
            model: "default/digits".into(),
            device: "cpu0".into(),
            result: result.into(),
            seconds: 2.0,
            compute_seconds: 1.5,
        }
    }

    #[test]
    fn sums_survive_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path());
        for (number, result) in ["Succeeded", "OwnerActive", "OutOfMemory", "Succeeded"].iter().enumerate() {
            history.add(entry(number, result));
        }
        let sum = Sum { succeeded: 2, handed_back: 1, failed: 1, compute_seconds: 3.0 };
        assert_eq!((history.sums().all, history.recent(1)), (sum.clone(), vec![entry(3, "Succeeded")]));
        let path = dir.path().join("history.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"at\":")).unwrap();
        assert_eq!(History::open(dir.path()).sums().models["default/digits"], sum);
    }

    #[test]
    fn two_files_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path());
        fs::write(dir.path().join("history.jsonl"), vec![b'\n'; MOST as usize]).unwrap();
        history.add(entry(0, "Succeeded"));
        assert!(fs::metadata(dir.path().join("history.jsonl")).unwrap().len() < 1000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
