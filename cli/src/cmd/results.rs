//! `nightshift results`: what a job put out so far. *Out*: lines of JSON as they come, one document, or the outputs' own
//! bytes. *Invariant*: no more is in memory than a line of bounded length; what was written is never written again, also
//! where the connection broke in between.

mod lines;

use self::lines::{Lines, Sink};
use crate::connect::Connection;
use crate::exit::{self, Coded};
use crate::gateway::{Gateway, Output, Range, TaskResult};
use crate::output;
use crate::parse::JobName;
use crate::signals::Signals;
use anyhow::Context;
use base64::Engine as _;
use clap::ValueEnum;
use futures::{StreamExt, stream};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::oneshot;

const EXAMPLES: &str = "\
Examples:
  nightshift results job/voice                      # one line a task: {\"index\":0,\"output\":…}
  nightshift results job/voice -o raw               # the outputs alone
  nightshift results job/embed --index 7 -o raw > seven.bin
  nightshift results job/embed --from 5000 >> embed.jsonl   # go on where Ctrl-C stopped it";

/// Outputs larger than this are fetched by themselves, where their own bytes are wanted.
const LARGEST: u64 = 1 << 20;
/// Tries after which a connection that brings nothing new is given up, and the time before the first one again.
const TRIES: u32 = 6;
const AGAIN: Duration = Duration::from_millis(200);

/// Longest wait, after Ctrl-C, for what is being written.
const STUCK: Duration = Duration::from_secs(1);

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The job: NAME, job/NAME or ij/NAME
    #[arg(value_name = "JOB")]
    job: JobName,
    /// jsonl: a line a task; json: one array of the same; raw: the outputs alone, JSON as a line each, anything else as it is
    #[arg(short, long, value_enum, default_value_t = Format::Jsonl)]
    output: Format,
    /// Only this task's result, counted from 0
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// From this task's result on
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "index")]
    from: u32,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Format {
    Jsonl,
    Json,
    Raw,
}

/// Fetches and prints.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let namespace = args.connection.namespace();
    let job = Job { gateway: args.connection.gateway()?, namespace, name: args.job.clone() };
    let mut interrupted = interrupted(Signals::take()?);
    if let (Format::Raw, Some(index)) = (args.output, args.index) {
        let found = job.gateway.output(&job.namespace, &job.name.0, index.into()).await?;
        let found = found.with_context(|| job.nothing())?;
        return tokio::select! {
            printed = raw(found, false) => printed,
            _ = &mut interrupted => Err(Coded::error(exit::INTERRUPTED, "interrupted: the output is not whole")),
        };
    }
    let mut sink = Sink::new(args.output == Format::Json);
    let largest = (args.output == Format::Raw).then_some(LARGEST);
    let first = u64::from(args.index.unwrap_or(args.from));
    let mut lines = Lines::new(Range { from: first, count: args.index.map(|_| 1), largest, ..Range::default() });
    let ended = tokio::select! {
        ended = job.print(&mut lines, &mut sink, largest.is_some()) => ended.map(|()| true),
        _ = &mut interrupted => Ok(false),
    };
    sink.end()?;
    match ended {
        Ok(true) if lines.is_empty() => anyhow::bail!("{}", job.nothing()),
        Ok(true) => Ok(()),
        Ok(false) => {
            let text = format!("interrupted{}: `--from {}` goes on", sink.torn(), lines.next());
            Err(Coded::error(exit::INTERRUPTED, text))
        }
        Err(error) => Err(error.context(format!("`--from {}` goes on{}", lines.next(), sink.torn()))),
    }
}

/// Resolves with Ctrl-C. Where stdout is a pipe that nobody reads, and the process hangs in it, it ends all the same.
fn interrupted(mut signals: Signals) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        signals.stop().await;
        let _ = tell.send(());
        tokio::time::sleep(STUCK).await;
        std::process::exit(exit::INTERRUPTED.into());
    });
    told
}

/// Whose results, and where.
struct Job {
    gateway: Gateway,
    namespace: String,
    name: JobName,
}

impl Job {
    fn nothing(&self) -> String {
        let name = &self.name;
        format!("{name} has no such result yet: `nightshift explain {name}` says where it is")
    }

    /// All lines, over as many connections as it takes.
    async fn print(&self, lines: &mut Lines, sink: &mut Sink, raw: bool) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            let before = lines.received();
            let error = match self.once(lines, sink, raw).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tries = if lines.received() > before { 1 } else { tries + 1 };
            // A first answer that is a refusal stays one.
            if before == 0 && lines.received() == 0 || tries >= TRIES || error.downcast_ref::<Lost>().is_some() {
                return Err(error);
            }
            tokio::time::sleep(AGAIN * 2u32.pow(tries)).await;
        }
    }

    async fn once(&self, lines: &mut Lines, sink: &mut Sink, raw: bool) -> anyhow::Result<()> {
        let mut stream = self.gateway.results(&self.namespace, &self.name.0, lines.range()).await?;
        while let Some(chunk) = stream.next().await {
            for piece in lines.feed(&chunk?)? {
                if raw {
                    self.raw_line(&piece.bytes).await?;
                } else {
                    sink.write(&piece)?;
                }
                lines.done(&piece);
            }
        }
        anyhow::ensure!(lines.at_end_of_line(), "the results ended early");
        Ok(())
    }

    /// The output of a line, which is whole: large ones are fetched by themselves.
    async fn raw_line(&self, line: &[u8]) -> anyhow::Result<()> {
        let result: TaskResult = serde_json::from_slice(line).context("the gateway's results cannot be read")?;
        let bytes = match (&result.output, &result.output_base64, &result.error) {
            (_, _, Some(error)) => {
                let text = format!("the result of task {} is lost: {error}", result.index);
                return Err(anyhow::Error::new(Lost).context(text));
            }
            (Some(value), ..) => return output::line(&value.to_string()),
            (_, Some(encoded), _) => base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .context("the gateway's base64 cannot be read")?,
            _ => {
                let found = self.gateway.output(&self.namespace, &self.name.0, result.index).await?;
                return raw(found.with_context(|| self.nothing())?, false).await;
            }
        };
        let size = Some(bytes.len() as u64);
        raw(Output { content_type: result.content_type, size, bytes: stream::iter([Ok(bytes)]).boxed() }, false).await
    }
}

/// Another try does not bring it back.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("other results are there: name them with --index")
    }
}

impl std::error::Error for Lost {}

/// One output, as its bytes come: JSON ends with a line break, `pretty` JSON is indented; binary never goes to a terminal.
pub async fn raw(found: Output, pretty: bool) -> anyhow::Result<()> {
    let Output { content_type, size, mut bytes } = found;
    let json = content_type.contains("json");
    if json && pretty {
        let mut text = Vec::new();
        while let Some(chunk) = bytes.next().await {
            text.extend(chunk?);
        }
        return match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(value) => output::json(&value),
            Err(_) => output::write(&text),
        };
    }
    let mut last = b'\n';
    let mut first = true;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        if std::mem::take(&mut first) && !printable(&chunk) && std::io::stdout().is_terminal() {
            let size = size.map(output::bytes).unwrap_or_default();
            let type_ = if content_type.is_empty() { "bytes" } else { &content_type };
            anyhow::bail!("the output is {size} of {type_}, not text: send it to a file with `> FILE`");
        }
        last = chunk.last().copied().unwrap_or(last);
        output::write(&chunk)?;
    }
    if json && last != b'\n' { output::write(b"\n") } else { Ok(()) }
}

/// Whether a beginning is text; its last character may be cut.
fn printable(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c))
}
