//! Everything that a run breaks: an etcd of three members, two schedulers, simulated machines and a real one, and relays
//! between all of them.
//!
//! in → a seed's jobs · out → the journal's rows as they come, and what everybody was told · invariant: whatever ends by itself
//! is started again, as a supervisor does it.

use crate::agents::Machine;
use crate::common::{self, Home, Process};
use crate::judge::{Evidence, Row, Seen, Telling, decode};
use crate::record::Recorder;
use kube::api::{Api, PostParams};
use nightshift_apiserver::{ApiServer, Config};
use nightshift_crds::{InferenceJob, ModelArtifact, TenantQueue};
use nightshift_testkit::agent::SimulatedAgent;
use nightshift_testkit::relay::{Mode, Relay};
use nightshift_testkit::trio::{MEMBERS, Trio};
use nightshift_testkit::{free_port, until_within};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

const PREFIX: &str = "/nightshift/chaos";
/// Longer than a run ever takes, were it not for a fault that nobody mended.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// The leader's lease, and the agents'.
pub const LEADER_LEASE: Duration = Duration::from_secs(2);
pub const AGENT_LEASE: Duration = Duration::from_secs(4);
/// The tenant whose points are just enough.
pub const QUEUE: &str = "tight";
/// The job whose input cannot be read.
pub const UNREADABLE: &str = "unreadable";

/// One scheduler.
pub struct Scheduler {
    pub process: Process,
    pub agents_port: u16,
    pub http_port: u16,
    /// To each member of etcd.
    pub etcd: Vec<Relay>,
    /// For its next start: hooks, clock.
    pub environment: BTreeMap<&'static str, String>,
    /// Ends of its earlier lives.
    pub log: String,
    stopped: bool,
}

/// A machine, and its way to each scheduler.
pub struct Agent {
    pub machine: Machine,
    pub relays: Vec<Relay>,
}

/// All of it.
pub struct World {
    pub home: Home,
    pub etcd: Trio,
    pub client: kube::Client,
    pub schedulers: Vec<Scheduler>,
    pub agents: Vec<Agent>,
    pub real: Option<Process>,
    pub recorder: Recorder,
    pub rows: Vec<Row>,
    pub settled: u64,
    /// Of the first placement: every one's, as every machine asks the same.
    pub quote: i128,
    /// For whatever should end by itself.
    pub patience: Duration,
    http: reqwest::Client,
    reader: Option<etcd_client::Client>,
    _stop: DropGuard,
}

impl World {
    /// Starts it all, with so many simulated machines.
    pub async fn start(machines: usize, planted: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Home::new();
        std::fs::create_dir_all(home.data()).unwrap();
        let etcd = Trio::start(64 << 20).await;
        let crds = nightshift_crds::all().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        let listen = "127.0.0.1:0".parse().unwrap();
        let api = Config { data_dir: home.data().join("api"), listen, crds, server_names: vec![] };
        let api = ApiServer::open(api).await.unwrap();
        let client = api.client();
        let stop = CancellationToken::new();
        tokio::spawn(api.serve(stop.clone()));
        let mut schedulers = Vec::new();
        for _ in 0..2 {
            schedulers.push(Scheduler::start(&home, &etcd, planted).await);
        }
        let recorder = Recorder::default();
        let ports = etcd.ports;
        let connect = async move || {
            let endpoints = ports.map(|port| format!("http://127.0.0.1:{port}"));
            let options = etcd_client::ConnectOptions::new().with_connect_timeout(Duration::from_secs(1));
            etcd_client::Client::connect(endpoints, Some(options)).await
        };
        let recording = recorder.clone().run(format!("{PREFIX}/head"), connect);
        let watching = recorder.clone().watch(format!("{PREFIX}/leader"), connect);
        let ends = stop.clone();
        tokio::spawn(async move {
            tokio::select! { () = ends.cancelled() => {}, () = recording => {}, () = watching => {} }
        });
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let mut world = Self {
            home,
            etcd,
            client,
            schedulers,
            agents: Vec::new(),
            real: None,
            recorder,
            rows: Vec::new(),
            settled: 0,
            quote: 0,
            patience: PATIENCE,
            http,
            reader: None,
            _stop: stop.drop_guard(),
        };
        world.apply_model().await;
        for number in 0..machines {
            world.join(number).await;
        }
        world
    }

    /// Which scheduler leads now, if one says so.
    pub async fn leader_now(&self) -> Option<usize> {
        for (index, scheduler) in self.schedulers.iter().enumerate().filter(|(_, scheduler)| !scheduler.stopped) {
            let url = format!("http://127.0.0.1:{}/metrics", scheduler.http_port);
            let Ok(answer) = self.http.get(url).send().await else { continue };
            if answer.text().await.unwrap_or_default().contains("\nnightshift_scheduler_leader 1\n") {
                return Some(index);
            }
        }
        None
    }

    /// Whether a health check says yes.
    pub async fn answers(&self, url: &str) -> bool {
        self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// An operator makes room in etcd, as often as it takes.
    pub async fn make_room(&mut self) {
        let started = Instant::now();
        while let Err(error) = self.etcd.make_room().await {
            assert!(started.elapsed() < PATIENCE, "no room in etcd: {error}");
            self.pause(Duration::from_millis(200)).await;
        }
    }

    /// Line 7: each is refused by name, and the rest of the run shows that nothing else came of it.
    pub async fn malformed(&mut self) {
        for port in self.schedulers.iter().flat_map(|s| [s.agents_port, s.http_port]) {
            use tokio::io::AsyncWriteExt;
            if let Ok(mut socket) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                let _ = socket.write_all(&[0x16, 3, 1, 255, 255, 0, 7, 0xfe]).await;
            }
        }
        for agent in &mut self.agents {
            agent.machine.babble();
        }
        let job = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "InferenceJob", "metadata": { "name": "no-job" },
            "spec": { "modelRef": { "name": "digits" }, "parallelism": -3, "input": { "inline": "[]" } },
        });
        let api: Api<InferenceJob> = Api::namespaced(self.client.clone(), "default");
        let refused = api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await;
        let error = refused.expect_err("a parallelism below zero").to_string();
        assert!(error.contains("spec.parallelism"), "{error}");
    }

    /// The leader's gateway is asked until it says yes.
    async fn post(&mut self, path: &str, body: Value) -> Option<Value> {
        let started = Instant::now();
        loop {
            if let Some(leader) = self.leader_now().await
                && let Some(answer) = self.post_once(leader, path, &body).await
            {
                return Some(answer);
            }
            if started.elapsed() > self.patience {
                return None;
            }
            self.pause(Duration::from_millis(50)).await;
        }
    }

    async fn post_once(&self, scheduler: usize, path: &str, body: &Value) -> Option<Value> {
        let api: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(self.client.clone(), "default");
        let secret = api.get("nightshift-scheduler").await.ok()?.data?;
        let token = String::from_utf8(secret["gateway-token"].0.clone()).unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.schedulers[scheduler].http_port);
        let answer = self.http.post(url).bearer_auth(token).json(body).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    async fn token(&mut self, owner: &str) -> String {
        let answer = self.post("/v1/tokens", json!({ "owner": owner })).await;
        let answer = answer.unwrap_or_else(|| panic!("no scheduler makes a token{}", self.logs()));
        let token = answer["token"].as_str().unwrap().to_string();
        let id = token.split('.').nth(1).unwrap().to_string();
        self.recorder.told(Telling::Token { id });
        token
    }

    async fn join(&mut self, number: usize) {
        let name = format!("sim-{number}");
        let token = self.token(&format!("owner-{number}")).await.parse().unwrap();
        let api: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(self.client.clone(), "default");
        let ca = api.get("nightshift-scheduler").await.unwrap().data.unwrap()["ca.crt"].0.clone();
        let leader = until_within(PATIENCE, "somebody leads", async || self.leader_now().await).await;
        let at = ([127, 0, 0, 1], self.schedulers[leader].agents_port).into();
        let agent = SimulatedAgent::join(at, &String::from_utf8(ca).unwrap(), &token, &name).await.unwrap();
        let mut relays = Vec::new();
        for scheduler in &self.schedulers {
            relays.push(Relay::to(scheduler.agents_port).await);
        }
        let servers = relays.iter().map(|relay| ([127, 0, 0, 1], relay.port).into()).collect();
        self.agents.push(Agent { machine: Machine::new(agent, servers, self.recorder.clone()), relays });
    }

    /// A real agent, with libtorch; again after it was killed.
    pub async fn start_real(&mut self) {
        let folder = self.home.folder.path().join("real");
        let servers: Vec<String> = self.schedulers.iter().map(|s| format!("127.0.0.1:{}", s.agents_port)).collect();
        let mut command = Command::new(self.home.agent());
        self.home.environment(&mut command);
        command.args(["run", "--server", &servers.join(","), "--name", "real", "--threads", "1", "--memory", "2Gi"]);
        command.args(["--price-per-hour", "0.05"]).env("NIGHTSHIFT_WHEN", "always").arg("--data-dir").arg(&folder);
        if !folder.join("identity").exists() {
            command.env("NIGHTSHIFT_JOIN_TOKEN", self.token("owner-real").await);
        }
        self.real = Some(Process::start(&mut command));
    }

    async fn apply_model(&self) {
        let model = std::fs::read_to_string(common::example("digits").join("model.yaml")).unwrap();
        let model: ModelArtifact = serde_yaml::from_str(&model).unwrap();
        let api: Api<ModelArtifact> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &model).await.unwrap();
        let queue = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "TenantQueue", "metadata": { "name": QUEUE }, "spec": {},
        });
        let api: Api<TenantQueue> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(queue).unwrap()).await.unwrap();
    }

    /// A batch of pictures of a digit, or of what is none.
    pub async fn apply_batch(&self, name: &str, spec: Value, items: Vec<String>) {
        let mut job = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "InferenceJob", "metadata": { "name": name },
            "spec": { "modelRef": { "name": "digits" }, "backoffLimit": 100_000, "input": { "items": items } },
        });
        let own = job["spec"].as_object_mut().unwrap();
        own.extend(spec.as_object().unwrap().clone());
        let api: Api<InferenceJob> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    }

    /// Points for the tight queue; asked for again until somebody says that they are there.
    pub async fn grant(&mut self, id: &str, pico: i128) -> bool {
        let amount = format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000);
        let granted = self.post("/v1/points/grants", json!({ "id": id, "queue": QUEUE, "amount": amount })).await;
        if granted.is_some() {
            self.recorder.told(Telling::Grant { id: format!("grant/{QUEUE}/{id}") });
        }
        granted.is_some()
    }

    /// Lets time pass: reads the journal, and starts again what has ended.
    pub async fn pause(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            for scheduler in &mut self.schedulers {
                if scheduler.process.has_ended().is_some() {
                    scheduler.restart(&self.home);
                }
            }
            self.read().await;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
    }

    /// What the journal has by now, as far as etcd answers.
    pub async fn read(&mut self) {
        if self.reader.is_none() {
            let connected = tokio::time::timeout(Duration::from_millis(500), self.etcd.client(&[0, 1, 2])).await;
            self.reader = connected.ok().and_then(Result::ok);
        }
        let Some(reader) = self.reader.as_mut() else { return };
        let key = |sequence: u64| format!("{PREFIX}/batch/{sequence:016x}");
        let after = self.rows.last().map_or(0, |row| row.sequence);
        let range = etcd_client::GetOptions::new().with_range(key(u64::MAX)).with_limit(32);
        let answer = reader.get(key(after + 1), Some(range));
        match tokio::time::timeout(Duration::from_millis(500), answer).await {
            Ok(Ok(mut answer)) => answer.take_kvs().into_iter().for_each(|kv| self.take(&kv)),
            _ => self.reader = None,
        }
    }

    fn take(&mut self, kv: &etcd_client::KeyValue) {
        let Some(row) = row(kv) else { return };
        if let Ok(batch) = decode::batch(&row.bytes) {
            for event in &batch.events {
                match event {
                    decode::Event::Succeeded { .. } => self.settled += 1,
                    decode::Event::Placed { quote, .. } if self.quote == 0 => self.quote = *quote,
                    _ => {}
                }
            }
        }
        self.rows.push(row);
    }

    /// Every job's end, as people see it.
    pub async fn jobs(&self) -> Vec<Seen> {
        let api: Api<InferenceJob> = Api::namespaced(self.client.clone(), "default");
        let all = api.list(&Default::default()).await.unwrap().items;
        let seen = |job: InferenceJob| {
            let conditions = job.status.map(|status| status.conditions).unwrap_or_default();
            let is = |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
            let failed = is("Failed").map(|condition| Err(condition.reason.clone()));
            let ended = is("Complete").map(|_| Ok(())).or(failed);
            let name = job.metadata.name.unwrap_or_default();
            Seen { bad: name == UNREADABLE, name, uid: job.metadata.uid.unwrap_or_default(), ended }
        };
        all.into_iter().map(seen).collect()
    }

    /// Names of those that have not ended.
    pub async fn unfinished(&self) -> Vec<String> {
        let open = self.jobs().await.into_iter().filter(|job| job.ended.is_none());
        open.map(|job| job.name).collect()
    }

    /// The whole journal anew, from etcd, and what everybody was told.
    pub async fn evidence(&mut self, ended: bool) -> Evidence {
        self.etcd.serves().await;
        let mut client = self.etcd.client(&[0, 1, 2]).await.unwrap();
        let told = self.recorder.all().await;
        let head = client.get(format!("{PREFIX}/head"), None).await.unwrap();
        // All of one moment: schedulers may be writing.
        let moment = head.header().map_or(0, etcd_client::ResponseHeader::revision);
        let head = head.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision()));
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let key = |sequence: u64| format!("{PREFIX}/batch/{sequence:016x}");
            let after = rows.last().map_or(0, |row| row.sequence);
            let range = etcd_client::GetOptions::new().with_range(key(u64::MAX)).with_limit(500).with_revision(moment);
            let page = client.get(key(after + 1), Some(range)).await.unwrap().take_kvs();
            if page.is_empty() {
                break;
            }
            rows.extend(page.iter().filter_map(row));
        }
        let options = etcd_client::GetOptions::new().with_revision(moment);
        let leader = client.get(format!("{PREFIX}/leader"), Some(options)).await.unwrap();
        let reigns = self.recorder.reigns(leader.kvs().first().map(etcd_client::KeyValue::create_revision)).await;
        let jobs = self.jobs().await;
        Evidence { reigns, jobs, rows, head, told, lease_ms: AGENT_LEASE.as_millis() as u64, ended }
    }

    /// The end of what everybody said.
    pub fn logs(&self) -> String {
        let tail = |text: String, lines: usize| {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        let mut all: String = String::new();
        for (index, scheduler) in self.schedulers.iter().enumerate() {
            let text = format!("{}{}", scheduler.log, scheduler.process.output());
            all += &format!("\n--- scheduler {index}\n{}", tail(text, 60));
        }
        if let Some(real) = &self.real {
            all += &format!("\n--- the real agent\n{}", tail(real.output(), 30));
        }
        let held: Vec<usize> = self.agents.iter().map(|agent| agent.machine.undelivered()).collect();
        all + &format!("\n--- undelivered {held:?}\n--- etcd\n{}", self.etcd.log())
    }
}

fn row(kv: &etcd_client::KeyValue) -> Option<Row> {
    let (_, sequence) = kv.key_str().ok()?.rsplit_once('/')?;
    Some(Row {
        sequence: u64::from_str_radix(sequence, 16).ok()?,
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        version: kv.version(),
        bytes: kv.value().to_vec(),
    })
}

impl Scheduler {
    async fn start(home: &Home, etcd: &Trio, planted: Option<&str>) -> Self {
        let mut relays = Vec::new();
        for member in 0..MEMBERS {
            relays.push(Relay::to(etcd.ports[member]).await);
        }
        let (agents_port, http_port) = (free_port(), free_port());
        let environment: BTreeMap<_, _> =
            planted.map(|bug| ("NIGHTSHIFT_PLANTED_BUG", bug.to_string())).into_iter().collect();
        let process = run(home, agents_port, http_port, &relays, &environment);
        let (log, stopped) = (String::new(), false);
        Self { process, agents_port, http_port, etcd: relays, environment, log, stopped }
    }

    /// Ends it, if it runs, and starts it on the same ports.
    pub fn restart(&mut self, home: &Home) {
        if self.process.has_ended().is_none() {
            self.process.signal(nix::sys::signal::Signal::SIGKILL);
            self.process.wait();
        }
        self.log += &self.process.output();
        self.log += "--- started again\n";
        self.stopped = false;
        // What it died of it does not meet again.
        let environment = self.environment.clone();
        self.environment.remove("NIGHTSHIFT_FAILPOINT");
        self.process = run(home, self.agents_port, self.http_port, &self.etcd, &environment);
    }

    /// SIGSTOP, SIGCONT.
    pub fn stop(&mut self, stopped: bool) {
        use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
        if self.process.has_ended().is_none() {
            self.process.signal(if stopped { SIGSTOP } else { SIGCONT });
            self.stopped = stopped;
        }
    }

    /// SIGTERM.
    pub fn term(&mut self) {
        if self.process.has_ended().is_none() {
            self.process.signal(nix::sys::signal::Signal::SIGTERM);
        }
    }

    /// Of its way to etcd, all of it.
    pub fn etcd_mode(&self, mode: Mode) {
        self.etcd.iter().for_each(|relay| relay.set(mode));
    }
}

fn run(home: &Home, agents: u16, http: u16, etcd: &[Relay], environment: &BTreeMap<&'static str, String>) -> Process {
    let endpoints: Vec<String> = etcd.iter().map(|relay| format!("http://127.0.0.1:{}", relay.port)).collect();
    let mut command = home.command();
    command.args(["scheduler", "--namespace", "default", "--cell", "test", "--etcd-prefix", PREFIX]);
    command.arg("--kubeconfig").arg(home.data().join("api/kubeconfig")).args(["--etcd", &endpoints.join(",")]);
    command.arg("--data-dir").arg(home.data().join("shared"));
    command.args(["--agents-listen", &format!("127.0.0.1:{agents}"), "--http-listen", &format!("127.0.0.1:{http}")]);
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    command.args(["--leader-lease", &seconds(LEADER_LEASE), "--agent-lease", &seconds(AGENT_LEASE)]);
    command.args(["--heartbeat", "500ms", "--agent-program"]).arg(home.agent());
    command.arg("--seed").arg(common::digits::model()).envs(environment);
    Process::start(&mut command)
}
