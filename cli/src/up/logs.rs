//! Logs of `up`. *In*: events. *Out*: `logs/nightshift.log`, and warnings on the terminal. *Invariant*: a log starts anew
//! when it has grown large; the one before is kept beside it.

use crate::paths::DataDir;
use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// A log larger than this at start is moved aside.
const LARGE: u64 = 16 << 20;
/// Bytes of a log's end that are read for its last lines.
const TAIL: u64 = 16 << 10;

const FILE: &str = "info,kube_client=warn,kube_runtime=warn";
const FILE_VERBOSE: &str =
    "debug,hyper=info,hyper_util=info,h2=info,tower=info,rustls=info,kube_client=info,tonic=info";
// Libraries warn of what their callers handle.
const TERMINAL: &str =
    "warn,kube_client=off,kube_runtime=off,hyper=off,hyper_util=off,h2=off,tower=off,rustls=off,tonic=off";

/// Begins to log; once a process.
pub fn begin(data_dir: &DataDir, verbose: bool) -> anyhow::Result<()> {
    let file = open(&data_dir.logs().join("nightshift.log"))?;
    let default = if verbose { FILE_VERBOSE } else { FILE };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let to_file = fmt::layer().with_writer(Mutex::new(file)).with_ansi(false).with_filter(filter);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let terminal = if verbose { TERMINAL.replacen("warn", "info", 1) } else { TERMINAL.into() };
    let to_terminal = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .without_time()
        .with_target(false)
        .with_filter(EnvFilter::new(terminal));
    let subscriber = tracing_subscriber::registry().with(to_file).with(to_terminal);
    tracing::subscriber::set_global_default(subscriber).context("logging began twice")
}

/// Opens a log to append to, readable by its owner alone.
pub fn open(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LARGE) {
        std::fs::rename(path, path.with_extension("log.1"))
            .with_context(|| format!("cannot move {}", path.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot write the log {}", path.display()))
}

/// The last lines of a log that were written after `from`.
pub fn last_lines(path: &Path, from: u64, count: usize) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL)).min(end)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|line| line.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn last_lines_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut file = open(&path).unwrap();
        writeln!(file, "before").unwrap();
        let from = file.metadata().unwrap().len();
        write!(file, "one\n\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&path, from, 2), ["two", "three"]);
        assert_eq!(last_lines(&path, from, 9), ["one", "two", "three"]);
        assert!(last_lines(&path, 1000, 9).is_empty());
        assert!(last_lines(&folder.path().join("none"), 0, 9).is_empty());
    }

    #[test]
    fn large_logs_move_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        open(&path).unwrap().set_len(LARGE + 1).unwrap();
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(folder.path().join("x.log.1").exists());
    }
}
