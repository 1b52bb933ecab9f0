//! `nightshift-agent leave`: the machine is out, and nothing of the pool stays on it.
//!
//! in → a data folder · out → it is gone · invariant: a running agent ends first, gently; a folder that is none of ours is not
//! touched.

use super::Common;
use crate::owner::control::Request;
use crate::owner::socket;
use crate::serve::{DataDir, ServeError};
use anyhow::{Context, bail};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for a running agent's end: its grace, and the last results.
const PATIENCE: Duration = Duration::from_secs(90);
/// What an agent keeps.
const OURS: [&str; 13] = [
    "identity",
    "models",
    "outbox",
    "run",
    "session.json",
    "measured.json",
    "history.jsonl",
    "history.1.jsonl",
    "owner.json",
    "agent.sock",
    "page.url",
    "join-token",
    "lock",
];

/// Runs it.
pub fn run(common: &Common) -> anyhow::Result<()> {
    let data_dir = common.places.data_dir().map_err(anyhow::Error::msg)?;
    if !data_dir.exists() {
        bail!("{} does not exist: no node lives there; name its --data-dir", data_dir.display());
    }
    let lost = clear(&data_dir)?;
    let answer = json!({ "dataDir": data_dir, "removed": true, "resultsNotDelivered": lost });
    common.print(&answer, |_| {
        let lost = if lost > 0 { format!("; {lost} results had not been delivered and are lost") } else { String::new() };
        format!(
            "left: key, models and history are gone from {}{lost}. The pool's operator may delete the ComputeNode; a service \
             goes with `nightshift-agent uninstall`",
            data_dir.display()
        )
    });
    Ok(())
}

/// Ends the agent and deletes what it keeps; answers how many results were not delivered.
pub fn clear(data_dir: &Path) -> anyhow::Result<usize> {
    let lock = ended(data_dir)?;
    let lost = std::fs::read_dir(data_dir.join("outbox")).map_or(0, Iterator::count);
    for name in OURS {
        let path = data_dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be deleted", path.display()));
            }
            _ => {}
        }
    }
    drop(lock);
    // What somebody else put there stays, and so does the folder then.
    let _ = std::fs::remove_dir(data_dir);
    Ok(lost)
}

/// Waits until no agent has the folder, and keeps others out.
fn ended(data_dir: &Path) -> anyhow::Result<DataDir> {
    let began = Instant::now();
    let mut asked = false;
    loop {
        match DataDir::open(data_dir) {
            Ok(lock) => return Ok(lock),
            Err(ServeError::Locked(_)) if began.elapsed() < PATIENCE => {
                // One that is just starting has no socket yet.
                asked = asked || socket::ask(data_dir, &Request::Stop).is_ok();
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
