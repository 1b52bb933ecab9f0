//! A cluster of a test's own: etcd with TLS, a Kubernetes API, two `nightshift scheduler` processes, three real agents.

use crate::common::ledger::Story;
use crate::common::{self, Home, Process, model};
use kube::api::{Api, PostParams};
use nightshift_apiserver::{ApiServer, Config};
use nightshift_crds::{InferenceJob, ModelArtifact};
use nightshift_testkit::etcd::Etcd;
use nightshift_testkit::{free_port, until_within};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const TASKS: u64 = 200;

/// A cluster of the test's own.
pub struct Cluster {
    pub home: Home,
    pub etcd: Etcd,
    pub client: kube::Client,
    pub schedulers: [Scheduler; 2],
    pub agents: Vec<Agent>,
    pub story: Story,
    _stop: tokio_util::sync::DropGuard,
}

pub struct Scheduler {
    pub process: Process,
    pub agents_port: u16,
    pub http_port: u16,
}

pub struct Agent {
    pub name: String,
    pub process: Process,
}

/// Waits until `look` gives something.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(common::DEADLINE, what, look).await
}

impl Cluster {
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Home::new();
        std::fs::create_dir_all(home.data()).unwrap();
        let etcd = Etcd::start_tls().await;
        etcd.client_tls().unwrap().write_to(&home.folder.path().join("etcd"));
        let crds = nightshift_crds::all().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        let listen = "127.0.0.1:0".parse().unwrap();
        let api = Config { data_dir: home.data().join("api"), listen, crds, server_names: vec![] };
        let api = ApiServer::open(api).await.unwrap();
        let client = api.client();
        let stop = CancellationToken::new();
        tokio::spawn(api.serve(stop.clone()));
        let schedulers = [(); 2].map(|()| {
            let (agents_port, http_port) = (free_port(), free_port());
            Scheduler { process: scheduler(&home, &etcd, agents_port, http_port), agents_port, http_port }
        });
        let _stop = stop.drop_guard();
        let mut cluster = Self { home, etcd, client, schedulers, agents: Vec::new(), story: Story::default(), _stop };
        for number in 0..3 {
            cluster.join(&format!("agent-{number}")).await;
        }
        cluster
    }

    /// Which scheduler leads, once one does.
    pub async fn leader(&self) -> usize {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        until("a scheduler leads", async || {
            for (index, scheduler) in self.schedulers.iter().enumerate() {
                let url = format!("http://127.0.0.1:{}/metrics", scheduler.http_port);
                let Ok(answer) = http.get(url).send().await else { continue };
                if answer.text().await.unwrap_or_default().contains("\nnightshift_scheduler_leader 1\n") {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// The gateway's token, as the chart's notes tell people to read it.
    pub async fn gateway_token(&self) -> String {
        let api: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(self.client.clone(), "default");
        let secret = api.get("nightshift-scheduler").await.unwrap();
        String::from_utf8(secret.data.unwrap()["gateway-token"].0.clone()).unwrap()
    }

    pub async fn join(&mut self, name: &str) {
        let leader = self.leader().await;
        let url = format!("http://127.0.0.1:{}/v1/tokens", self.schedulers[leader].http_port);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(url).bearer_auth(self.gateway_token().await).json(&json!({ "owner": name }));
        let answer: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        let process = self.agent_process(name, Some(answer["token"].as_str().unwrap()));
        self.agents.push(Agent { name: name.into(), process });
    }

    fn agent_process(&self, name: &str, token: Option<&str>) -> Process {
        let servers: Vec<String> =
            self.schedulers.iter().map(|scheduler| format!("127.0.0.1:{}", scheduler.agents_port)).collect();
        let mut command = Command::new(self.home.agent());
        self.home.environment(&mut command);
        command.args(["run", "--server", &servers.join(","), "--name", name, "--threads", "1", "--memory", "1Gi"]);
        command.env("NIGHTSHIFT_WHEN", "always");
        command.arg("--data-dir").arg(self.home.folder.path().join(name));
        if let Some(token) = token {
            command.env("NIGHTSHIFT_JOIN_TOKEN", token);
        }
        Process::start(&mut command)
    }

    /// What the journal has by now.
    pub async fn read_journal(&mut self) {
        let mut etcd = self.etcd.client().await.unwrap();
        let key = |sequence: u64| format!("/nightshift/test/batch/{sequence:016x}");
        let range = etcd_client::GetOptions::new().with_range(key(u64::MAX)).with_limit(500);
        let mut answer = etcd.get(key(self.story.sequence + 1), Some(range)).await.unwrap();
        for row in answer.take_kvs() {
            self.story.read(row.value());
        }
    }

    /// Reads the journal until what it says is enough.
    pub async fn read_until(&mut self, what: &str, enough: impl Fn(&Story) -> bool) {
        let started = Instant::now();
        loop {
            self.read_journal().await;
            if enough(&self.story) {
                return;
            }
            assert!(started.elapsed() < common::DEADLINE, "in time: {what}{}", self.logs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many of a job's tasks have succeeded.
    pub async fn wait_for_successes(&mut self, job: &str, count: u64) {
        self.read_until(&format!("{count} tasks"), |story| story.successes(job) as u64 >= count).await;
    }

    /// Waits until so many leaders have led.
    pub async fn wait_for_leaders(&mut self, count: usize) {
        self.read_until(&format!("{count} leaders"), |story| story.leaders.len() >= count).await;
    }

    pub async fn apply_model(&self) {
        let api: Api<ModelArtifact> = Api::namespaced(self.client.clone(), "default");
        let model: ModelArtifact = serde_yaml::from_str(&common::sound::json_model()).unwrap();
        api.create(&PostParams::default(), &model).await.unwrap();
    }

    /// A batch; returns its uid, which is the job's id in the journal.
    pub async fn apply_batch(&self, name: &str) -> String {
        let items: Vec<String> = (0..TASKS)
            .map(|task| {
                let samples: Vec<&str> = (0..64).map(|n| if n == task % 64 { "0.5" } else { "0" }).collect();
                format!("[[{}]]", std::iter::repeat_n(samples.join(","), 8).collect::<Vec<_>>().join(","))
            })
            .collect();
        let job = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "InferenceJob", "metadata": { "name": name },
            "spec": { "modelRef": { "name": "silero-json" }, "parallelism": 12, "input": { "items": items } },
        });
        let api: Api<InferenceJob> = Api::namespaced(self.client.clone(), "default");
        let job = api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
        job.metadata.uid.unwrap()
    }

    pub async fn wait_complete(&self, name: &str) -> nightshift_crds::InferenceJobStatus {
        let api: Api<InferenceJob> = Api::namespaced(self.client.clone(), "default");
        until(&format!("{name} is complete"), async || {
            let status = api.get(name).await.unwrap().status?;
            let is = |kind: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == "True");
            assert!(!is("Failed"), "{name}: {:?}{}", status.conditions, self.logs());
            is("Complete").then_some(status)
        })
        .await
    }

    pub fn logs(&self) -> String {
        let processes = self.schedulers.iter().map(|s| &s.process).chain(self.agents.iter().map(|a| &a.process));
        let tail = |process: &Process| {
            let output = process.output();
            let lines: Vec<&str> = output.lines().collect();
            format!("\n--- {}\n{}", process.pid(), lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        processes.map(tail).collect()
    }

    /// kill -9. Its work is lost with its lease.
    pub async fn kill_agent(&mut self, name: &str) {
        let index = self.agents.iter().position(|agent| agent.name == name).unwrap();
        self.agents[index].process.signal(Signal::SIGKILL);
        self.agents[index].process.wait();
    }

    /// Its machine is back.
    pub async fn restart_agent(&mut self, name: &str) {
        let index = self.agents.iter().position(|agent| agent.name == name).unwrap();
        self.agents[index].process = self.agent_process(name, None);
    }

    /// kill -9, and a start as its supervisor would do it.
    pub async fn kill_leader(&mut self) {
        let index = self.leader().await;
        self.schedulers[index].process.signal(Signal::SIGKILL);
        self.schedulers[index].process.wait();
        self.restart_scheduler(index);
    }

    /// On the same ports, as a standby.
    pub fn restart_scheduler(&mut self, index: usize) {
        let Scheduler { agents_port, http_port, .. } = self.schedulers[index];
        self.schedulers[index].process = scheduler(&self.home, &self.etcd, agents_port, http_port);
    }
}

fn scheduler(home: &Home, etcd: &Etcd, agents_port: u16, http_port: u16) -> Process {
    scheduler_at(home, etcd, agents_port, &format!("127.0.0.1:{http_port}"))
}

pub fn scheduler_at(home: &Home, etcd: &Etcd, agents_port: u16, http: &str) -> Process {
    let file = |name: &str| -> PathBuf { home.folder.path().join("etcd").join(name) };
    let mut command = home.command();
    command.args(["scheduler", "--namespace", "default", "--cell", "test", "--etcd-prefix", "/nightshift/test"]);
    command.arg("--kubeconfig").arg(home.data().join("api/kubeconfig")).args(["--etcd", &etcd.endpoint()]);
    command.arg("--etcd-ca-file").arg(file("ca.crt")).arg("--etcd-cert-file").arg(file("tls.crt"));
    command.arg("--etcd-key-file").arg(file("tls.key")).arg("--data-dir").arg(home.data().join("shared"));
    command.args(["--agents-listen", &format!("127.0.0.1:{agents_port}")]);
    command.args(["--http-listen", http]);
    command.args(["--leader-lease", "2s", "--agent-lease", "3s", "--heartbeat", "500ms"]);
    command.arg("--agent-program").arg(home.agent()).arg("--seed").arg(model());
    Process::start(&mut command)
}
