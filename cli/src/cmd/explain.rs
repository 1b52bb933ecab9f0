//! `nightshift explain`: why a job is where it is. *In*: the gateway's explanation. *Out*: the same for a person.

use crate::connect::Connection;
use crate::output;
use crate::parse::JobName;
use clap::ValueEnum;
use kube::api::Api;
use nightshift_crds::{InferenceJob, JobState};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  nightshift explain job/too-big
  nightshift explain ij/voice -n sounds -o json";

/// Tasks shown to a person; JSON has all.
const MAX_TASKS: usize = 20;

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The job: NAME, job/NAME or ij/NAME
    #[arg(value_name = "JOB")]
    job: JobName,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Format {
    Text,
    Json,
}

/// The gateway's answer. Every part may be missing: an older pool says less.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    state: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    suggestion: Option<String>,
    suggestions: Vec<String>,
    misses: Vec<Count>,
    nodes: Option<Nodes>,
    queue: Option<Queue>,
    tasks: Vec<Task>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Queue {
    name: String,
    turn: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Nodes {
    total: u64,
    counts: Vec<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Count {
    reason: String,
    count: u64,
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Task {
    index: u32,
    state: String,
    node: Option<String>,
    attempts: u32,
    last_failure: serde_json::Value,
    download: Option<Download>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Download {
    percent: u64,
    seconds_left: Option<u64>,
}

impl Task {
    /// Where it is; of a running one that waits for its model, how far that is.
    fn stands(&self) -> String {
        let Some(download) = &self.download else { return self.state.clone() };
        let left = download.seconds_left.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
        format!("{}: downloading {} %{left}", self.state, download.percent)
    }
}

/// Asks and prints. What the scheduler does not know, it has not admitted yet: then the object says why.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pool = args.connection.pool().await?;
    let api: Api<InferenceJob> = Api::namespaced(pool.client.clone(), &pool.namespace);
    let object = api.get(&args.job.0).await.map_err(|error| pool.explain(error))?;
    let answer = match pool.gateway()?.explain(&pool.namespace, &args.job.0).await? {
        Some(answer) => answer,
        None => from_object(&pool.namespace, &object),
    };
    match args.output {
        Format::Json => output::json(&answer),
        Format::Text => output::line(&text(&args.job, &serde_json::from_value(answer)?)),
    }
}

/// The gateway's form, from the object's own status.
fn from_object(namespace: &str, job: &InferenceJob) -> serde_json::Value {
    let status = job.status.clone().unwrap_or_default();
    let decides = status.conditions.iter().rev().find(|condition| Some(&condition.reason) == status.reason.as_ref());
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let counts: Vec<_> = status.unschedulable.iter().map(|why| serde_json::json!(why)).collect();
    serde_json::json!({
        "job": format!("{namespace}/{name}"),
        "state": status.state.map_or("Pending", JobState::as_str),
        "reason": status.reason,
        "message": decides.map(|condition| condition.message.clone()),
        "nodes": {"total": status.unschedulable.iter().map(|why| why.count).sum::<i32>(), "counts": counts},
        "tasks": [],
    })
}

/// The explanation for a person.
pub fn text(job: &JobName, explanation: &Explanation) -> String {
    let Explanation { state, reason, message, suggestion, suggestions, misses, nodes, queue, tasks } = explanation;
    let mut text = format!("{job} is {}", state.as_deref().unwrap_or("Pending"));
    if let Some(reason) = some(reason) {
        let _ = write!(text, ": {reason}");
    }
    text.push('\n');
    if let Some(message) = some(message) {
        let _ = writeln!(text, "  {message}");
    }
    let first = some(suggestion).map(str::to_owned);
    let others = suggestions.iter().filter(|other| Some(other.as_str()) != first.as_deref()).cloned();
    for (position, help) in first.iter().cloned().chain(others).enumerate() {
        let _ = writeln!(text, "{}  {help}", if position == 0 { "\nWhat would help\n" } else { "" });
    }
    if let Some(Queue { name, turn: Some(turn) }) = queue {
        let _ = writeln!(text, "\nIts turn in queue {name}\n  {turn}");
    }
    if let Some(nodes) = nodes.as_ref().filter(|nodes| !nodes.counts.is_empty()) {
        let _ = write!(text, "\nWhy not ({} nodes)\n{}", nodes.total, count_table(&nodes.counts));
        // The same again where no node lacks two things.
        if counted(misses) != counted(&nodes.counts) && !misses.is_empty() {
            let _ = write!(text, "\nEach lack by itself, whatever else a node lacks\n{}", count_table(misses));
        }
    }
    if !tasks.is_empty() {
        let _ = write!(text, "\n{}", task_table(tasks));
    }
    text
}

fn some(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn counted(counts: &[Count]) -> BTreeMap<&str, u64> {
    counts.iter().map(|count| (count.reason.as_str(), count.count)).collect()
}

fn count_table(counts: &[Count]) -> String {
    let row =
        |count: &Count| vec![count.count.to_string(), count.reason.clone(), count.message.clone().unwrap_or_default()];
    let rows: Vec<_> = counts.iter().map(row).collect();
    indented(&output::table(&["NODES", "REASON", "MEANS"], &rows))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Unfinished and failed tasks first: they are why somebody asks.
fn task_table(tasks: &[Task]) -> String {
    let mut shown: Vec<&Task> = tasks.iter().collect();
    shown.sort_by_key(|task| (task.state == "Succeeded", task.index));
    let rest = shown.len().saturating_sub(MAX_TASKS);
    let rows = shown.iter().take(MAX_TASKS).map(|task| {
        let node = task.node.clone().unwrap_or_else(|| "-".into());
        vec![task.index.to_string(), task.stands(), node, task.attempts.to_string(), failure(&task.last_failure)]
    });
    let table = output::table(&["TASK", "STATE", "NODE", "ATTEMPTS", "LAST FAILURE"], &rows.collect::<Vec<_>>());
    let mut text = format!("Tasks ({})\n{}", tasks.len(), indented(&table));
    if rest > 0 {
        let _ = writeln!(text, "  … and {rest} more; -o json has all");
    }
    text
}

/// A failure is text, or a reason with its message.
fn failure(value: &serde_json::Value) -> String {
    let part = |name: &str| value.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
    match (value, part("reason"), part("message")) {
        (serde_json::Value::String(text), ..) => text.clone(),
        (_, Some(reason), Some(message)) => format!("{reason}: {message}"),
        (_, reason, message) => reason.or(message).unwrap_or("-").to_string(),
    }
}
