//! `nightshift nodes`: the machines of the pool. *In*: ComputeNodes, and what their agents say they run. *Out*: a table.

use crate::connect::{Connection, Pool};
use crate::gateway::Gateway;
use crate::output;
use clap::ValueEnum;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use nightshift_crds::{ComputeNode, Condition, node_condition};
use serde::Serialize;
use std::collections::BTreeMap;

const EXAMPLES: &str = "\
Examples:
  nightshift nodes
  nightshift nodes -o json
  kubectl describe computenode NAME          # everything about one";

/// Nodes asked at once what they run.
const AT_ONCE: usize = 16;
const RUNNING_METRIC: &str = "nightshift_agent_attempts_running";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Format {
    Table,
    Json,
    Name,
}

#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    class: Option<String>,
    memory: Option<String>,
    price_per_hour: Option<String>,
    ready: Option<String>,
    available: Option<String>,
    reason: Option<String>,
    running: Option<u64>,
    earned: Option<String>,
    #[serde(skip)]
    age: String,
}

/// Lists them.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pool = args.connection.pool().await?;
    let nodes = list(&pool).await?;
    if matches!(args.output, Format::Name) {
        let names = nodes.iter().filter_map(|node| node.metadata.name.as_deref());
        let lines: Vec<String> = names.map(|name| format!("computenode.nightshift.dev/{name}\n")).collect();
        return output::write(lines.concat().as_bytes());
    }
    let running = match pool.gateway() {
        Ok(gateway) => running(&gateway, &nodes).await,
        Err(_) => BTreeMap::new(),
    };
    let now = Timestamp::now();
    let rows: Vec<Row> = nodes.iter().map(|node| row(node, &running, now)).collect();
    match args.output {
        Format::Json => output::json(&rows),
        _ if rows.is_empty() => {
            eprintln!("no machine has joined yet: `nightshift token create` prints the command that makes one join");
            Ok(())
        }
        _ => output::write(text(&rows).as_bytes()),
    }
}

/// Every ComputeNode, by name.
pub async fn list(pool: &Pool) -> anyhow::Result<Vec<ComputeNode>> {
    let api: Api<ComputeNode> = Api::all(pool.client.clone());
    let mut nodes = api.list(&Default::default()).await.map_err(|error| pool.explain(error))?.items;
    nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(nodes)
}

/// A node's condition.
pub fn condition<'a>(node: &'a ComputeNode, kind: &str) -> Option<&'a Condition> {
    node.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether its agent is connected.
pub fn is_ready(node: &ComputeNode) -> bool {
    condition(node, node_condition::READY).is_some_and(|ready| ready.status == "True")
}

/// What ready nodes run now, by their own metrics; a node that does not answer in time is left out.
async fn running(gateway: &Gateway, nodes: &[ComputeNode]) -> BTreeMap<String, u64> {
    let ready = nodes.iter().filter(|node| is_ready(node)).filter_map(|node| node.metadata.name.clone());
    let asked = futures::stream::iter(ready).map(async |name| {
        let text = gateway.node_metrics(&name).await.ok()?;
        Some((name, gauge(&text, RUNNING_METRIC)?))
    });
    asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// A gauge in Prometheus' text format, with or without labels.
fn gauge(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
    let value: f64 = line.rsplit_once(' ')?.1.parse().ok()?;
    (value >= 0.0).then_some(value as u64)
}

fn row(node: &ComputeNode, running: &BTreeMap<String, u64>, now: Timestamp) -> Row {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let word = |kind| condition(node, kind).map(|condition| condition.status.clone());
    let unhappy = [node_condition::READY, node_condition::AVAILABLE];
    let reason = unhappy.iter().filter_map(|kind| condition(node, kind)).find(|found| found.status != "True");
    Row {
        class: status.devices.first().map(|device| device.class.to_string()),
        memory: status.allocatable.and_then(|all| all.device_memory).map(|memory| memory.0),
        price_per_hour: status.offer.and_then(|offer| offer.price_per_hour).map(|price| price.0),
        ready: word(node_condition::READY),
        available: word(node_condition::AVAILABLE),
        reason: reason.map(|condition| condition.reason.clone()),
        running: running.get(&name).copied(),
        earned: status.earned.map(|earned| earned.0),
        age: output::age(node.metadata.creation_timestamp.as_ref(), now),
        name,
    }
}

fn text(rows: &[Row]) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let available = |row: &Row| match (&row.available, &row.reason) {
        (Some(word), Some(reason)) => format!("{word} ({reason})"),
        (word, _) => or_dash(word),
    };
    let cells = rows.iter().map(|row| {
        vec![
            row.name.clone(),
            or_dash(&row.class),
            row.memory.as_deref().map_or("-".into(), output::memory),
            or_dash(&row.price_per_hour),
            or_dash(&row.ready),
            available(row),
            row.running.map_or("-".into(), |count| count.to_string()),
            or_dash(&row.earned),
            row.age.clone(),
        ]
    });
    let header = ["NAME", "CLASS", "MEMORY", "PRICE/H", "READY", "AVAILABLE", "RUNNING", "EARNED", "AGE"];
    output::table(&header, &cells.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges() {
        let text =
            "# HELP x\nnightshift_agent_attempts_running_max 9\nnightshift_agent_attempts_running{node=\"a\"} 2\n";
        assert_eq!(gauge(text, RUNNING_METRIC), Some(2));
        assert_eq!(gauge("nightshift_agent_attempts_running 0\n", RUNNING_METRIC), Some(0));
        assert_eq!(gauge("", RUNNING_METRIC), None);
    }

    #[test]
    fn rows_say_why() {
        let node: ComputeNode = serde_json::from_value(serde_json::json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "ComputeNode",
            "metadata": {"name": "attic", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {},
            "status": {
                "offer": {"pricePerHour": "0.05"}, "earned": "1.5", "allocatable": {"deviceMemory": "12342046Ki"},
                "devices": [{"name": "cpu0", "class": "cpu"}],
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "Connected", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Available", "status": "False", "reason": "OwnerActive", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                ],
            },
        }))
        .unwrap();
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let shown = text(&[row(&node, &BTreeMap::from([("attic".into(), 3)]), now), Row::default()]);
        let expected = "\
NAME    CLASS   MEMORY   PRICE/H   READY   AVAILABLE             RUNNING   EARNED   AGE
attic   cpu     11Gi     0.05      True    False (OwnerActive)   3         1.5      5m
        -       -        -         -       -                     -         -
";
        assert_eq!(shown, expected);
    }
}
