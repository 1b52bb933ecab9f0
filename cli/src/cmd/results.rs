//! `nightshift results`: what a job put out so far. *Out*: lines of JSON as they come, or the outputs' own bytes.

use crate::connect::Connection;
use crate::gateway::TaskResult;
use crate::output;
use crate::parse::JobName;
use anyhow::Context;
use base64::Engine as _;
use clap::ValueEnum;
use futures::StreamExt;
use std::io::IsTerminal;

const EXAMPLES: &str = "\
Examples:
  nightshift results job/voice                      # one line a task: {\"index\":0,\"output\":…}
  nightshift results job/voice -o raw               # the outputs alone
  nightshift results job/embed --index 7 -o raw > seven.bin";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The job: NAME, job/NAME or ij/NAME
    #[arg(value_name = "JOB")]
    job: JobName,
    /// jsonl: a line a task; raw: the outputs alone, JSON as a line each, anything else as it is
    #[arg(short, long, value_enum, default_value_t = Format::Jsonl)]
    output: Format,
    /// Only this task's result, counted from 0
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Format {
    Jsonl,
    Raw,
}

/// Fetches and prints.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let namespace = args.connection.namespace();
    let gateway = args.connection.gateway()?;
    let job = &args.job;
    let nothing = || format!("{job} has no such result yet: `nightshift explain {job}` says where it is");
    if args.output == Format::Jsonl && args.index.is_none() {
        let mut stream = std::pin::pin!(gateway.results(&namespace, &job.0).await?);
        let mut empty = true;
        while let Some(chunk) = stream.next().await {
            empty = false;
            output::write(&chunk?)?;
        }
        anyhow::ensure!(!empty, "{}", nothing());
        return Ok(());
    }
    let mut results = gateway.task_results(&namespace, &job.0).await?;
    results.retain(|result| args.index.is_none_or(|index| result.index == index));
    anyhow::ensure!(!results.is_empty(), "{}", nothing());
    for result in results {
        match args.output {
            Format::Raw => raw(&result)?,
            Format::Jsonl => output::line(&serde_json::to_string(&serde_json::json!({
                "index": result.index, "contentType": result.content_type,
                "output": result.output, "outputBase64": result.output_base64,
            }))?)?,
        }
    }
    Ok(())
}

/// One output: a line of JSON, or the bytes; binary never goes to a terminal.
pub fn raw(result: &TaskResult) -> anyhow::Result<()> {
    let Some(encoded) = &result.output_base64 else {
        return output::line(&serde_json::to_string(&result.output)?);
    };
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(encoded).context("the gateway's base64 cannot be read")?;
    let printable =
        std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c)));
    anyhow::ensure!(
        printable || !std::io::stdout().is_terminal(),
        "the output is {} of {}, not text: send it to a file with `> FILE`",
        output::bytes(bytes.len() as u64),
        if result.content_type.is_empty() { "bytes" } else { &result.content_type }
    );
    output::write(&bytes)
}
