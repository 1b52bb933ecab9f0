//! The proving run: a process of its own loads a model once, before any node is asked to.
//!
//! in → a file in the blob store and how to call it · out → a report, or why it cannot run · invariant: whatever the
//! model does, this process lives on; the run is bounded in time.

use nightshift_types::{Bytes, FailureReason, Milliseconds, ModelSpec};
use serde::Deserialize;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Kept of what the process prints, in bytes.
const MAX_REPORT: usize = 64 << 10;
const SIGKILL: i32 = 9;

/// Runs `nightshift-agent prove`.
#[derive(Debug, Clone)]
pub struct Prover {
    /// The agent's program; `None` proves nothing, and the first node finds out.
    pub program: Option<PathBuf>,
    /// Longest run.
    pub timeout: Duration,
}

/// What the run found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// Time of one synthetic item, if the inputs' shapes allow one.
    pub item: Option<Milliseconds>,
    /// Time to load.
    pub load: Milliseconds,
    /// Most memory the process held.
    pub peak_memory: Option<Bytes>,
}

/// Why a model is not proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotProved {
    /// The model cannot run anywhere.
    Broken(String),
    /// The run itself failed; try again.
    Later(String),
}

/// `nightshift-agent prove`'s report, or its failure.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    #[serde(default)]
    load_milliseconds: f64,
    compute_milliseconds: Option<f64>,
    #[serde(default)]
    peak_memory_bytes: u64,
    reason: Option<String>,
    message: Option<String>,
}

impl Prover {
    /// One run.
    pub async fn prove(&self, file: &Path, spec: &ModelSpec) -> Result<Proof, NotProved> {
        let Some(program) = &self.program else { return Ok(Proof::default()) };
        let spec = serde_json::to_string(spec).map_err(|e| NotProved::Broken(e.to_string()))?;
        let mut command = Command::new(program);
        command.arg("prove").arg("--model").arg(file).arg("--spec").arg(spec);
        // Nothing of this process's environment is the model's business; where libtorch is, is the program's.
        command.env_clear().envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let late = || NotProved::Later(format!("it did not load and run within {:?}; trying again", self.timeout));
        match tokio::time::timeout(self.timeout, run(command)).await {
            Err(_) => Err(late()),
            Ok(Err(error)) => Err(NotProved::Later(format!("{}: {error}", program.display()))),
            Ok(Ok((text, status))) => verdict(&text, status),
        }
    }
}

/// The end of what the process printed, and how it ended. A model may print as much as it likes.
async fn run(mut command: Command) -> std::io::Result<(String, ExitStatus)> {
    let mut child = command.spawn()?;
    let mut tail = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = vec![0u8; MAX_REPORT];
        loop {
            let n = stdout.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            tail.extend_from_slice(&buffer[..n]);
            let excess = tail.len().saturating_sub(MAX_REPORT);
            tail.drain(..excess);
        }
    }
    Ok((String::from_utf8_lossy(&tail).into_owned(), child.wait().await?))
}

/// The last line is the report, and counts only with the exit status that belongs to it: a model that prints one and
/// then crashes has proved nothing.
fn verdict(text: &str, status: ExitStatus) -> Result<Proof, NotProved> {
    let last = text.lines().next_back().and_then(|line| serde_json::from_str::<Printed>(line).ok());
    match last {
        Some(printed) if status.success() == printed.reason.is_none() && status.code().is_some() => judge(printed),
        // Killed from outside, as the kernel does when memory runs out: another time it may fit.
        _ if status.signal() == Some(SIGKILL) => Err(NotProved::Later("the proving process was killed".into())),
        _ => Err(NotProved::Broken(format!("loading it ended the proving process ({status})"))),
    }
}

fn judge(printed: Printed) -> Result<Proof, NotProved> {
    let whole = |ms: f64| Milliseconds(if ms.is_finite() && ms > 0.0 { ms.ceil().min(1e12) as u64 } else { 0 });
    let Some(reason) = printed.reason else {
        let peak = (printed.peak_memory_bytes > 0).then_some(Bytes(printed.peak_memory_bytes));
        return Ok(Proof {
            item: printed.compute_milliseconds.map(whole),
            load: whole(printed.load_milliseconds),
            peak_memory: peak,
        });
    };
    let message = printed.message.unwrap_or_else(|| reason.clone());
    match reason.parse::<FailureReason>() {
        Ok(known) if known.retryable() => Err(NotProved::Later(message)),
        _ => Err(NotProved::Broken(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prover(script: &str, timeout: Duration) -> (tempfile::TempDir, Prover) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("prover");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        (folder, Prover { program: Some(program), timeout })
    }

    #[tokio::test]
    async fn every_end_is_a_verdict() {
        let spec =
            ModelSpec { method: "forward".into(), inputs: vec![], outputs: vec![], batching: Default::default() };
        let minute = Duration::from_secs(60);
        let cases = [
            (r#"echo '{"loadMilliseconds":12.5,"computeMilliseconds":3.2,"peakMemoryBytes":1024}'"#, "ok"),
            (r#"echo '{"reason":"ModelLoadFailed","message":"truncated"}'; exit 1"#, "truncated"),
            (r#"echo '{"reason":"OutOfMemory","message":"no room"}'; exit 1"#, "no room"),
            (
                r#"yes | head -c 1000000; echo '{"computeMilliseconds":0.001}'; kill -SEGV $$"#,
                "ended the proving process",
            ),
            ("kill -KILL $$", "was killed"),
            ("echo nonsense", "ended the proving process"),
        ];
        for (script, expected) in cases {
            let (_folder, prover) = prover(script, minute);
            match prover.prove(Path::new("m"), &spec).await {
                Ok(proof) => {
                    assert_eq!(expected, "ok");
                    let peak_memory = Some(Bytes(1024));
                    assert_eq!(proof, Proof { item: Some(Milliseconds(4)), load: Milliseconds(13), peak_memory });
                }
                Err(NotProved::Broken(text) | NotProved::Later(text)) => assert!(text.contains(expected), "{text}"),
            }
        }
        let (_folder, slow) = prover("sleep 600", Duration::from_millis(50));
        assert!(matches!(slow.prove(Path::new("m"), &spec).await, Err(NotProved::Later(_))));
    }
}
