//! `nightshift push`: a file becomes a blob. *In*: a file or stdin, streamed. *Out*: its URI and digest.

use crate::connect::Connection;
use crate::gateway::{Blob, Gateway};
use crate::output;
use anyhow::Context;
use clap::ValueEnum;
use futures::StreamExt;
use reqwest::Body;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::io::ReaderStream;

const EXAMPLES: &str = "\
Examples:
  nightshift push .deps/models/silero_vad.jit
  nightshift push batch.jsonl                        # a task a line
  nightshift push speech.wav -n sounds -o name       # prints store://sha256/… alone
  tar c pictures | nightshift push -";

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Between two looks of the progress bar.
const REDRAW: Duration = Duration::from_millis(100);

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The file; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Let every namespace use it, not only this one
    #[arg(long)]
    public: bool,
    /// text: URI, digest and size as YAML; name: the URI alone
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Format {
    Text,
    Json,
    Name,
}

/// Streams the file and prints what it became.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let namespace = args.connection.namespace();
    let gateway = args.connection.gateway()?;
    let mut blob = if args.file == Path::new("-") {
        let body = Body::wrap_stream(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK));
        gateway.push(&namespace, args.public, body).await?
    } else {
        push_file(&gateway, &namespace, args.public, &args.file).await?
    };
    // The name is what makes it a batch: the digest alone does not say that it has a task a line.
    if let Some(name) = args.file.file_name().and_then(|name| name.to_str()).filter(|name| is_batch(name)) {
        blob.uri = format!("{}/{name}", blob.uri);
    }
    match args.output {
        Format::Name => output::line(&blob.uri),
        Format::Json => output::json(&blob),
        Format::Text => output::line(&format!("uri: {}\ndigest: {}\nsize: {}", blob.uri, blob.digest, blob.size)),
    }
}

/// Whether a store URI may end in this name, and becomes a batch by it.
fn is_batch(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.ends_with(".jsonl") && name.len() <= 128 && name.chars().all(plain)
}

/// Streams a file, with a progress bar where somebody looks.
pub async fn push_file(gateway: &Gateway, namespace: &str, public: bool, path: &Path) -> anyhow::Result<Blob> {
    let name = path.display();
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {name}"))?;
    let meta = file.metadata().await.with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        !meta.is_dir(),
        "{name} is a folder: push its files one by one, or as one with `tar c {name} | nightshift push -`"
    );
    let mut bar = Bar::new(path, meta.len());
    let stream = ReaderStream::with_capacity(file, CHUNK).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            bar.advance(chunk.len() as u64);
        }
    });
    gateway.push(namespace, public, Body::wrap_stream(stream)).await.with_context(|| format!("push {name}"))
}

/// A line on stderr that says how far it is; silent where stderr is no terminal or the file is soon done.
struct Bar {
    name: String,
    total: u64,
    done: u64,
    drawn: Option<Instant>,
}

impl Bar {
    fn new(path: &Path, total: u64) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { name, total, done: 0, drawn: std::io::stderr().is_terminal().then(Instant::now) }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if self.drawn.is_some_and(|drawn| drawn.elapsed() >= REDRAW) {
            self.drawn = Some(Instant::now());
            eprint!("\r{}", bar_text(&self.name, self.done, self.total));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            eprint!("\r{:width$}\r", "", width = bar_text(&self.name, self.total, self.total).chars().count());
        }
    }
}

fn bar_text(name: &str, done: u64, total: u64) -> String {
    const WIDTH: u64 = 24;
    let share = |of: u64| (done.min(total) * of).checked_div(total).unwrap_or(of);
    let filled = share(WIDTH) as usize;
    let bar = format!("{}{}", "=".repeat(filled), " ".repeat(WIDTH as usize - filled));
    format!("{name} [{bar}] {:>3}% of {:<9}", share(100), output::bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar_text("a", 0, 0), format!("a [{}] 100% of 0        ", "=".repeat(24)));
        assert!(bar_text("a", 512, 1024).starts_with(&format!("a [{}{}]  50%", "=".repeat(12), " ".repeat(12))));
        assert_eq!(bar_text("a", 2048, 1024), bar_text("a", 1024, 1024));
    }
}
