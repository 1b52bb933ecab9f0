//! A whole control plane in one process: embedded Kubernetes API, embedded journal, scheduler; agents are simulated.
#![allow(dead_code)] // each test binary uses its own part of it

use kube::api::{Api, PostParams};
use nightshift_apiserver::{ApiServer, Config};
use nightshift_crds::{InferenceJob, InferenceJobStatus, ModelArtifact, TenantQueue};
use nightshift_scheduler::leader::{Leader, Timing};
use nightshift_scheduler::run::{self, SchedulerConfig};
use nightshift_scheduler::uri::FetchPolicy;
use nightshift_state::{Command, EmbeddedJournal, Journal};
use nightshift_testkit::agent::SimulatedAgent;
use nightshift_testkit::until;
use nightshift_types::{Bytes, CellId, PicoPoints, TrustTier};
use nightshift_wire::token::JoinToken;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bytes that stand for a model: no process loads them here.
pub const MODEL: &[u8] = b"a model nobody loads";

/// A running control plane.
pub struct Plane {
    pub client: kube::Client,
    pub leader: Leader,
    pub agents: SocketAddr,
    pub http: SocketAddr,
    pub gateway_token: String,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What tests of a control plane want otherwise than an operator does.
pub struct Limits {
    pub lease: Duration,
    pub snapshot_after: Bytes,
    pub blob_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), snapshot_after: run::SNAPSHOT_AFTER, blob_grace: run::BLOB_GRACE }
    }
}

impl Plane {
    /// Starts one on a folder; a second time it continues with the data.
    pub async fn start(folder: &Path) -> Self {
        Self::start_with_lease(folder, Duration::from_secs(30)).await
    }

    pub async fn start_with_lease(folder: &Path, lease: Duration) -> Self {
        Self::start_as(folder, Limits { lease, ..Limits::default() }).await
    }

    /// One whose journal is made smaller when it has grown by so much.
    pub async fn start_keeping(folder: &Path, lease: Duration, snapshot_after: Bytes) -> Self {
        Self::start_as(folder, Limits { lease, snapshot_after, ..Limits::default() }).await
    }

    pub async fn start_as(folder: &Path, limits: Limits) -> Self {
        let journal = EmbeddedJournal::open(folder.join("journal.redb")).await.unwrap();
        Self::start_on(folder, limits, journal).await
    }

    pub async fn start_on(folder: &Path, limits: Limits, journal: impl Journal + 'static) -> Self {
        let Limits { lease, snapshot_after, blob_grace } = limits;
        let crds = nightshift_crds::all().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let api_dir = folder.join("api");
        let api = Config { data_dir: api_dir, listen: any, crds, server_names: vec![] };
        let api = ApiServer::open(api).await.unwrap();
        let client = api.client();
        let model = folder.join("model.pt");
        std::fs::write(&model, MODEL).unwrap();
        let config = SchedulerConfig {
            data_dir: folder.into(),
            cell: CellId::new("test").unwrap(),
            agents_listen: any,
            agents_address: None,
            server_names: vec![],
            http_listen: any,
            http_address: None,
            pod: None,
            prover: None,
            fetch: FetchPolicy::default(),
            timing: Timing { heartbeat: Duration::from_secs(1), lease },
            archive: None,
            snapshot_after,
            raise_format: true,
            seeds: vec![model],
            blob_grace,
        };
        let scheduler = run::start(config, client.clone(), journal).await.unwrap();
        let stop = CancellationToken::new();
        let (agents, http) = (scheduler.agents_addr(), scheduler.http_addr());
        let (leader, gateway_token) = (scheduler.leader().clone(), scheduler.gateway_token().to_string());
        let (first, second) = (stop.clone(), stop.clone());
        let tasks = vec![
            tokio::spawn(async move { api.serve(first).await.unwrap() }),
            tokio::spawn(async move { scheduler.serve(second).await.unwrap() }),
        ];
        Self { client, leader, agents, http, gateway_token, stop, tasks }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    pub async fn token(&self, owner: &str) -> JoinToken {
        run::create_token(&self.leader, owner, TrustTier::Operator, Duration::from_secs(600)).await.unwrap()
    }

    pub async fn join(&self, name: &str) -> SimulatedAgent {
        let token = self.token(&format!("owner-{name}")).await;
        SimulatedAgent::join(self.agents, self.leader.ca().certificate_pem(), &token, name).await.unwrap()
    }

    /// The `number`-th of many machines, with an owner of its own.
    pub async fn join_numbered(&self, number: u64) -> SimulatedAgent {
        self.join(&format!("machine-{number:04}")).await
    }

    pub fn jobs(&self) -> Api<InferenceJob> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Applies the model `m` and waits until it is ready.
    pub async fn apply_model(&self) {
        self.apply(&model("m", MODEL)).await;
    }

    /// A TenantQueue of some weight, with points for everything.
    pub async fn apply_queue(&self, name: &str, weight: u32) {
        let queue = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "TenantQueue", "metadata": { "name": name },
            "spec": { "weight": weight },
        });
        let queue: TenantQueue = serde_json::from_value(queue).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &queue).await.unwrap();
        let amount = PicoPoints(1_000_000_000_000_000_000);
        let grant = Command::Grant { id: format!("for-{name}"), queue: name.into(), amount, note: String::new() };
        self.leader.submit(grant).await.unwrap();
    }

    /// A model of so much work an item.
    pub async fn apply_model_of(&self, name: &str, gigaflops: u32) {
        let mut model = model(name, MODEL);
        let work = serde_json::from_value(json!({ "gigaflopsPerItem": gigaflops.to_string() })).unwrap();
        model.spec.work = Some(work);
        self.apply(&model).await;
    }

    async fn apply(&self, model: &ModelArtifact) {
        let models: Api<ModelArtifact> = Api::namespaced(self.client.clone(), "default");
        let name = model.metadata.name.clone().unwrap();
        models.create(&PostParams::default(), model).await.unwrap();
        until("the model is ready", || async {
            let model = models.get(&name).await.unwrap();
            let conditions = model.status.map(|status| status.conditions).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
        })
        .await;
    }

    /// Applies a job of these inputs, with more fields of its spec.
    pub async fn apply_job(&self, name: &str, items: &[&str], more: Value) -> InferenceJob {
        let mut spec = json!({ "modelRef": { "name": "m" }, "input": { "items": items } });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let job = json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "InferenceJob", "metadata": { "name": name }, "spec": spec,
        });
        let job: InferenceJob = serde_json::from_value(job).unwrap();
        self.jobs().create(&PostParams::default(), &job).await.unwrap()
    }

    /// Waits until a job's status is as wanted.
    pub async fn status(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&InferenceJobStatus) -> bool,
    ) -> InferenceJobStatus {
        let jobs = self.jobs();
        until(&format!("job {name} {what}"), || async { jobs.get(name).await.unwrap().status.filter(&wanted) }).await
    }
}

/// A ModelArtifact of some bytes in the blob store.
pub fn model(name: &str, bytes: &[u8]) -> ModelArtifact {
    let hex = hex::encode(Sha256::digest(bytes));
    serde_json::from_value(json!({
        "apiVersion": "nightshift.dev/v1alpha1",
        "kind": "ModelArtifact",
        "metadata": { "name": name },
        "spec": {
            "source": { "uri": format!("store://sha256/{hex}") },
            "digest": format!("sha256:{hex}"),
            "inputs": [{ "name": "x", "codec": "json", "dtype": "float32" }],
            "outputs": [{ "name": "y", "codec": "json", "dtype": "float32" }],
        },
    }))
    .unwrap()
}

/// Reason of a condition that is False, or of one that is True.
pub fn reason<'a>(status: &'a InferenceJobStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.as_str(), condition.reason.as_str()))
}
