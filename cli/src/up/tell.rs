//! What `up` says. *In*: steps, news. *Out*: lines with the seconds since the start on stdout, trouble on stderr.
//! *Invariant*: the `export` line stands alone on its line, so that scripts and people can take it.

use super::agent::News;
use super::plane::Plane;
use crate::output;
use crate::paths::{DataDir, shell_quoted};
use nightshift_crds::ComputeNode;
use std::collections::BTreeMap;
use std::time::Instant;

/// Says it.
pub struct Teller {
    started: Instant,
    was_ready: bool,
    /// Of each agent.
    last_words: BTreeMap<u16, Vec<String>>,
}

impl Teller {
    /// The clock starts.
    pub fn begin() -> Self {
        Self { started: Instant::now(), was_ready: false, last_words: BTreeMap::new() }
    }

    fn line(&self, text: &str) {
        // Who closed our stdout does not want to hear; the pool goes on.
        let _ = output::line(text);
    }

    /// What this is.
    pub fn begins(&self, data_dir: &DataDir) {
        self.line(&format!("nightshift {} in {}", env!("CARGO_PKG_VERSION"), data_dir.path().display()));
    }

    /// A part is there.
    pub fn step(&self, what: &str, detail: &str) {
        self.line(&format!("{:>7}  {what:<16}{detail}", output::took(self.started.elapsed())));
    }

    /// Everything is there: what to type next.
    pub fn ready(&mut self, nodes: &[ComputeNode], plane: &Plane, data_dir: &DataDir) {
        for node in nodes {
            self.step("node", &node_line(node));
        }
        if nodes.is_empty() {
            self.step("node", "none here (--no-agent): `nightshift token create` lets a machine join");
        }
        if !std::mem::replace(&mut self.was_ready, true) {
            self.line(&next(&shell_quoted(&data_dir.kubeconfig()), &plane.http.to_string(), data_dir));
        }
    }

    /// The agent died. Its last words are repeated only when they are others than before.
    pub fn agent(&mut self, news: News, data_dir: &DataDir) {
        let News::Died { number, how, lines, again_in } = news;
        let which = if number < 2 { String::new() } else { format!(" {number}") };
        eprintln!("warning: the agent{which} died: {how}; it is started again in {}", output::took(again_in));
        if self.last_words.get(&number) == Some(&lines) && !lines.is_empty() {
            return;
        }
        for line in &lines {
            eprintln!("  | {line}");
        }
        eprintln!("  log: {}", data_dir.agent_log(number).display());
        self.last_words.insert(number, lines);
    }

    /// Still not every node, such as that of agent `number`.
    pub fn still_waits(&self, data_dir: &DataDir, number: u16) {
        let log = data_dir.agent_log(number);
        self.step("node", &format!("not ready yet, still waiting; the agent's log is {}", log.display()));
    }

    /// The end begins.
    pub fn stops(&self, agents: usize) {
        let order = match agents {
            0 => "scheduler, API",
            1 => "agent, scheduler, API",
            _ => "agents, scheduler, API",
        };
        self.step("stopping", &format!("{order} (Ctrl-C again: at once)"));
    }

    /// The end.
    pub fn stopped(&self) {
        self.step("stopped", "everything is kept in the data dir");
    }
}

fn node_line(node: &ComputeNode) -> String {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut parts = vec![format!("{name} is ready")];
    parts.extend(status.devices.first().map(|device| device.class.to_string()));
    parts.extend(status.allocatable.and_then(|all| all.device_memory).map(|memory| output::memory(&memory.0)));
    parts.extend(status.offer.and_then(|offer| offer.price_per_hour).map(|price| format!("{price} points/h")));
    parts.join(", ")
}

fn next(kubeconfig: &str, http: &str, data_dir: &DataDir) -> String {
    let logs = data_dir.logs();
    format!(
        "
Ready. In another terminal:

export KUBECONFIG={kubeconfig}

  kubectl apply -f examples/voice/
  kubectl get inferencejobs,modelartifacts,computenodes
  nightshift explain job/voice

gateway  http://{http}
metrics  http://{http}/metrics
watch    with Prometheus: deploy/prometheus/prometheus.yml and {}
logs     {}
Ctrl-C stops it.
",
        shell_quoted(&data_dir.path().join("prometheus.token")),
        logs.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_export_line_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::resolve(Some(folder.path())).unwrap();
        let text = next("'/a b/kubeconfig'", "127.0.0.1:1", &data_dir);
        assert!(text.lines().any(|line| line == "export KUBECONFIG='/a b/kubeconfig'"), "{text}");
        assert!(text.contains("http://127.0.0.1:1/metrics"));
        assert!(text.contains(&format!("prometheus.yml and {}/prometheus.token", data_dir.path().display())), "{text}");
    }
}
