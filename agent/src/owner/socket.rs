//! The running agent's door for its owner's commands.
//!
//! in → one line of JSON · out → one line of JSON · invariant: the socket is in the data folder, readable and writable by its
//! owner alone (0600); a request is bounded in size, time and number.

use super::control::{Local, Request};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

const LONGEST_LINE: u64 = 64 * 1024;
const LONGEST_ANSWER: u64 = 8 << 20;
const LONGEST: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

/// Where it is.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("agent.sock")
}

/// Opens the door. What an earlier process left is replaced: the data folder's lock says that it is gone.
pub fn listen(data_dir: &Path) -> std::io::Result<UnixListener> {
    let path = path(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers.
pub async fn serve(listener: UnixListener, local: Arc<Local>) {
    let few = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors: not for ever
            continue;
        };
        let Ok(permit) = few.clone().acquire_owned().await else { return };
        let local = local.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let _ = tokio::time::timeout(LONGEST, answer(stream, &local)).await;
        });
    }
}

async fn answer(stream: UnixStream, local: &Local) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(LONGEST_LINE)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => local.answer(&request).map_or_else(|error| json!({ "error": error }), |ok| json!({ "ok": ok })),
        Err(error) => {
            json!({ "error": format!("this agent does not understand the request ({error}): is it of another version?") })
        }
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the agent that runs with this data folder.
pub fn ask(data_dir: &Path, request: &Request) -> anyhow::Result<Value> {
    let path = path(data_dir);
    let mut stream = BlockingStream::connect(&path).with_context(|| {
        format!(
            "no agent runs with {}: start one with `nightshift-agent run`, or name its --data-dir",
            data_dir.display()
        )
    })?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut line).context("the agent does not answer")?;
    let mut answer: Value = serde_json::from_str(&line).context("the agent's answer makes no sense")?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => bail!("{error}"),
        None => Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default()),
    }
}
