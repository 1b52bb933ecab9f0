//! The proving run: a process of its own loads a model once, before any node is asked to.
//!
//! in → a file in the blob store and how to call it · out → a report, or why it cannot run · invariant: whatever the
//! model does, this process lives on; the run is bounded in time.

use nightshift_types::{Bytes, FailureReason, Milliseconds, ModelSpec};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(self.timeout, command.output()).await {
            Err(_) => return Err(NotProved::Broken(format!("it did not load and run within {:?}", self.timeout))),
            Ok(Err(error)) => return Err(NotProved::Later(format!("{}: {error}", program.display()))),
            Ok(Ok(output)) => output,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| line.trim_start().starts_with('{'));
        match last.and_then(|line| serde_json::from_str::<Printed>(line).ok()) {
            Some(printed) => judge(printed),
            None => Err(NotProved::Broken(format!("loading it ended the proving process ({})", output.status))),
        }
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
        let spec = ModelSpec { method: "forward".into(), inputs: vec![], outputs: vec![] };
        let minute = Duration::from_secs(60);
        let cases = [
            (r#"echo '{"loadMilliseconds":12.5,"computeMilliseconds":3.2,"peakMemoryBytes":1024}'"#, "ok"),
            (r#"echo '{"reason":"ModelLoadFailed","message":"truncated"}'; exit 1"#, "truncated"),
            ("kill -SEGV $$", "ended the proving process"),
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
        assert!(matches!(slow.prove(Path::new("m"), &spec).await, Err(NotProved::Broken(_))));
    }
}
