//! One `up` a data dir. *In*: a data dir. *Out*: a held lock, or the process that holds it. *Invariant*: the lock is the
//! kernel's, so it ends with the process however that ends; the file's text only says whose it is.

use crate::paths::DataDir;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::time::Duration;

/// A command that only looks holds the lock for a moment.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(20);

/// What the holder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Where the Kubernetes API listens; empty until it does.
    pub api: String,
    /// Where agents are listened for.
    pub agents: String,
    /// Where the gateway listens.
    pub http: String,
}

/// The held lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes it, or says who has it.
    pub fn take(data_dir: &DataDir) -> anyhow::Result<Self> {
        let path = data_dir.lock();
        let unusable = || format!("cannot use {}: choose another folder with --data-dir", data_dir.path().display());
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(unusable)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => {
                    let mut lock = Self { file };
                    lock.tell("", "", "")?;
                    return Ok(lock);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(error).with_context(unusable),
            }
        }
        let holder = read(&path).map_or("another process".into(), |running| format!("process {}", running.pid));
        let stop = read(&path).map_or(String::new(), |running| format!("stop it (`kill {}`) or ", running.pid));
        anyhow::bail!(
            "{holder} runs a pool on {} (lock {}): {stop}choose another folder with --data-dir",
            data_dir.path().display(),
            path.display()
        )
    }

    /// Writes down who holds it and where it listens.
    pub fn tell(&mut self, api: &str, agents: &str, http: &str) -> anyhow::Result<()> {
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_string());
        let running = Running { pid, version, api: api.into(), agents: agents.into(), http: http.into() };
        let text = serde_json::to_string(&running)?;
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().context("cannot write the data dir's lock file")
    }
}

fn read(path: &std::path::Path) -> Option<Running> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The `up` that runs on a data dir now.
pub fn running(data_dir: &DataDir) -> Option<Running> {
    let path = data_dir.lock();
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read(&path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::resolve(Some(folder.path())).unwrap();
        assert_eq!(running(&data_dir), None);
        let mut lock = Lock::take(&data_dir).unwrap();
        lock.tell("a:1", "b:2", "c:3").unwrap();
        assert_eq!(running(&data_dir).unwrap().agents, "b:2");
        let error = Lock::take(&data_dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())) && error.contains("--data-dir"), "{error}");
        drop(lock);
        assert_eq!(running(&data_dir), None);
        Lock::take(&data_dir).unwrap();
    }
}
