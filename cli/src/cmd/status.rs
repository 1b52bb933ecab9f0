//! `nightshift status`: is it up, where, and what does it do. *Out*: a few lines; exit code 1 where it is not up.

use super::nodes;
use crate::connect::{Connection, Pool};
use crate::up::lock::{self, Running};
use crate::{exit, output};
use clap::ValueEnum;
use kube::api::Api;
use nightshift_crds::{DEFAULT_QUEUE, InferenceJob, JobState, ModelArtifact, TenantQueue, queue_condition};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  nightshift status
  nightshift status -o json | jq .nodes
  until nightshift status >/dev/null 2>&1; do sleep 1; done";

const WITHIN: Duration = Duration::from_secs(10);

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
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

#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: String,
    api: String,
    api_version: String,
    gateway: Option<String>,
    up: Option<Running>,
    nodes: Share,
    models: Share,
    jobs: BTreeMap<String, usize>,
    /// Why the journal takes nothing, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

#[derive(Serialize, Debug, Default)]
struct Share {
    ready: usize,
    total: usize,
}

/// Looks and prints.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pool = args.connection.pool().await?;
    let looked = tokio::time::timeout(WITHIN, look(&pool)).await;
    let status = looked.map_err(|_| {
        exit::Coded::error(exit::FAILURE, format!("{} does not answer: see the log in the data dir's logs/", pool.url))
    })??;
    match args.output {
        Format::Json => output::json(&status),
        Format::Text => output::write(text(&status).as_bytes()),
    }
}

async fn look(pool: &Pool) -> anyhow::Result<Status> {
    let version = pool.client.apiserver_version().await.map_err(|error| pool.explain(error))?;
    let nodes = nodes::list(pool).await?;
    let models: Api<ModelArtifact> = Api::all(pool.client.clone());
    let models = models.list(&Default::default()).await.map_err(|error| pool.explain(error))?;
    let api: Api<InferenceJob> = Api::all(pool.client.clone());
    let mut jobs = BTreeMap::new();
    for job in api.list(&Default::default()).await.map_err(|error| pool.explain(error))? {
        let state = job.status.and_then(|status| status.state).unwrap_or(JobState::Pending);
        *jobs.entry(state.to_string()).or_default() += 1;
    }
    let ready_model = |model: &&ModelArtifact| {
        let conditions = model.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        api: pool.url.clone(),
        api_version: version.git_version,
        gateway: pool.gateway().ok().map(|gateway| gateway.url().to_string()),
        up: pool.folders().iter().filter_map(lock::running).find(|up| pool.url.ends_with(&up.api)),
        nodes: Share { ready: nodes.iter().filter(|node| nodes::is_ready(node)).count(), total: nodes.len() },
        models: Share { ready: models.iter().filter(ready_model).count(), total: models.items.len() },
        jobs,
        trouble: trouble(pool).await,
    })
}

/// What the scheduler says on the queue `default` while the journal takes nothing.
async fn trouble(pool: &Pool) -> Option<String> {
    let queues: Api<TenantQueue> = Api::all(pool.client.clone());
    let conditions = queues.get(DEFAULT_QUEUE).await.ok()?.status?.conditions;
    let active = conditions.into_iter().find(|condition| condition.type_ == queue_condition::ACTIVE)?;
    let reason = active.reason.strip_prefix("Journal").filter(|_| active.status == "False")?;
    Some(format!("{reason} since {}: {}", active.last_transition_time.0, active.message))
}

fn text(status: &Status) -> String {
    let mut text = match &status.up {
        Some(up) => format!("up: nightshift {}, process {}\n", up.version, up.pid),
        None => "up\n".to_string(),
    };
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("command", &status.version);
    line("kubernetes", &format!("{} ({})", status.api, status.api_version));
    line("gateway", status.gateway.as_deref().unwrap_or("unknown here: name the pool's --data-dir"));
    if let Some(up) = &status.up {
        line("agents", &up.agents);
    }
    if let Some(trouble) = &status.trouble {
        line("journal", trouble);
    }
    line("nodes", &format!("{} ready of {}", status.nodes.ready, status.nodes.total));
    line("models", &format!("{} ready of {}", status.models.ready, status.models.total));
    let jobs: Vec<String> = status.jobs.iter().map(|(state, count)| format!("{count} {state}")).collect();
    line("jobs", &if jobs.is_empty() { "none".into() } else { jobs.join(", ") });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_it_knows() {
        let up = Running {
            pid: 7,
            version: "0.1.0".into(),
            api: "127.0.0.1:1".into(),
            agents: "127.0.0.1:2".into(),
            http: "127.0.0.1:3".into(),
        };
        let status = Status {
            version: "0.1.0".into(),
            api: "https://127.0.0.1:1".into(),
            api_version: "v1.36".into(),
            up: Some(up),
            jobs: BTreeMap::from([("Complete".into(), 3), ("Failed".into(), 1)]),
            ..Status::default()
        };
        let expected = "\
up: nightshift 0.1.0, process 7
command     0.1.0
kubernetes  https://127.0.0.1:1 (v1.36)
gateway     unknown here: name the pool's --data-dir
agents      127.0.0.1:2
nodes       0 ready of 0
models      0 ready of 0
jobs        3 Complete, 1 Failed
";
        assert_eq!(text(&status), expected);
    }
}
