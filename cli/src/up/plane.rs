//! The control plane in this process. *In*: settings. *Out*: Kubernetes API, journal and scheduler, serving. *Invariant*:
//! the scheduler stops before the API it writes to.

use super::tell::Teller;
use crate::paths::DataDir;
use anyhow::Context;
use nightshift_apiserver::{ApiServer, Config};
use nightshift_scheduler::leader::{Leader, Timing};
use nightshift_scheduler::run::{self, SchedulerConfig};
use nightshift_scheduler::uri::FetchPolicy;
use nightshift_state::EmbeddedJournal;
use nightshift_types::Bytes;
use nightshift_types::CellId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The cell of a machine that is one by itself.
const CELL: &str = "local";
/// Longest time for a part to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What the flags say.
pub struct Settings {
    /// `--api-listen`
    pub api_listen: SocketAddr,
    /// `--agents-listen`
    pub agents_listen: SocketAddr,
    /// `--http-listen`
    pub http_listen: SocketAddr,
    /// The agent's program, which proves models.
    pub prover: Option<PathBuf>,
    /// `--archive`
    pub archive: Option<String>,
    /// `--snapshot-after`
    pub snapshot_after: Bytes,
    /// `--seed`
    pub seeds: Vec<PathBuf>,
    /// `--blob-grace`
    pub blob_grace: Duration,
    /// `--allow-private-uris`
    pub allow_private: bool,
    /// `--allow-files`
    pub files: BTreeMap<String, PathBuf>,
}

/// One part: a task, and how to end it.
struct Part {
    name: &'static str,
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    over: bool,
}

impl Part {
    fn spawn<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
        name: &'static str,
        serve: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let stop = CancellationToken::new();
        Self { name, task: tokio::spawn(serve(stop.clone())), stop, over: false }
    }

    /// Ends by itself only when something is wrong.
    async fn ended(&mut self) -> anyhow::Error {
        let result = (&mut self.task).await;
        self.over = true;
        match result {
            Ok(Ok(())) => anyhow::anyhow!("{} ended by itself: see the log", self.name),
            Ok(Err(error)) => error.context(format!("{} failed", self.name)),
            Err(error) => anyhow::Error::new(error).context(format!("{} crashed", self.name)),
        }
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        if self.over {
            return Ok(());
        }
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP_WITHIN, &mut self.task).await;
        let ended = ended.with_context(|| format!("{} did not stop within {STOP_WITHIN:?}", self.name))?;
        ended.with_context(|| format!("{} crashed", self.name))?.with_context(|| self.name.to_string())
    }
}

/// The control plane.
pub struct Plane {
    /// Where the Kubernetes API listens.
    pub api: SocketAddr,
    /// Where agents are listened for.
    pub agents: SocketAddr,
    /// Where the gateway listens.
    pub http: SocketAddr,
    /// A client of the API, in process.
    pub client: kube::Client,
    /// The scheduler's facts.
    pub leader: Leader,
    api_part: Part,
    scheduler_part: Part,
}

impl Plane {
    /// Opens what is in the data dir and starts everything.
    pub async fn start(settings: Settings, data_dir: &DataDir, teller: &mut Teller) -> anyhow::Result<Self> {
        let crds = nightshift_crds::all().iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        let config =
            Config { data_dir: data_dir.path().into(), listen: settings.api_listen, crds, server_names: Vec::new() };
        let server = ApiServer::open(config).await.context("the Kubernetes API (--api-listen)")?;
        let (api, client) = (server.local_addr(), server.client());
        let api_part = Part::spawn("the Kubernetes API", |stop| server.serve(stop));
        teller.step("Kubernetes API", &format!("https://{api}"));

        let journal = EmbeddedJournal::open(data_dir.journal()).await.context("the journal")?;
        let seeds = settings.seeds.len();
        let config = SchedulerConfig {
            data_dir: data_dir.path().into(),
            cell: CellId::new(CELL)?,
            agents_listen: settings.agents_listen,
            agents_address: None,
            server_names: Vec::new(),
            http_listen: settings.http_listen,
            http_address: None,
            pod: None,
            prover: settings.prover,
            fetch: FetchPolicy {
                allow_private: settings.allow_private,
                files: settings.files,
                ..FetchPolicy::default()
            },
            timing: Timing::default(),
            archive: settings.archive,
            snapshot_after: settings.snapshot_after,
            // Nobody else may lead: the file is ours.
            raise_format: true,
            seeds: settings.seeds,
            blob_grace: settings.blob_grace,
        };
        let scheduler = run::start(config, client.clone(), journal).await.context("the scheduler")?;
        let (agents, http) = (scheduler.agents_addr(), scheduler.http_addr());
        let leader = scheduler.leader().clone();
        let scheduler_part = Part::spawn("the scheduler", |stop| scheduler.serve(stop));
        teller.step("scheduler", &format!("gateway http://{http}, agents {agents}"));
        if seeds > 0 {
            teller.step("seeds", &format!("{seeds} put into the blob store"));
        }
        Ok(Self { api, agents, http, client, leader, api_part, scheduler_part })
    }

    /// Returns only when a part ended without being asked to.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            error = self.scheduler_part.ended() => Err(error),
            error = self.api_part.ended() => Err(error),
        }
    }

    /// Stops the scheduler, then the API.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let scheduler = self.scheduler_part.stop().await;
        let api = self.api_part.stop().await;
        scheduler.and(api)
    }
}
