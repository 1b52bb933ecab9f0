//! Puts a scheduler together and runs it.
//!
//! in → settings, a Kubernetes client, a journal · out → listeners, controllers, the leader · invariant: when
//! [`Scheduler::serve`] returns, everything it started has ended.

use crate::blobs::{BlobStore, EVERYONE};
use crate::controller::collect::Keep;
use crate::controller::priority::Priorities;
use crate::controller::{self, Context};
use crate::credentials::Credentials;
use crate::edge::front::{self, Front, Tls};
use crate::edge::{http, service::Edge};
use crate::leader::trouble::Reason;
use crate::leader::{self, Keeping, Lead, Leader, Parts, Timing};
use crate::metrics::Metrics;
use crate::prove::Prover;
use crate::role::PodRef;
use crate::uri::FetchPolicy;
use anyhow::Context as _;
use kube::runtime::events::{Recorder, Reporter};
use nightshift_state::{Archive, EtcdJournal, EtcdOptions, Folded, Journal, JournalError};
use nightshift_types::{Bytes, CellId, Digest, Milliseconds, TrustTier};
use nightshift_wire::pki::{self, CertificateAuthority};
use nightshift_wire::proto::agent_server::AgentServer;
use nightshift_wire::token::JoinToken;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

const PROVE_WITHIN: Duration = Duration::from_secs(300);
/// The archive's folder in the data dir.
pub const ARCHIVE: &str = "archive";
/// How far a journal grows before it is made smaller, unless said otherwise.
pub const SNAPSHOT_AFTER: Bytes = Bytes::mebi(64);
/// Largest file seeded at start.
const MAX_SEED: Bytes = Bytes::gibi(64);

/// Between two looks whether our pod is still marked, and after a failure.
const MARK_AGAIN: Duration = Duration::from_secs(60);
const MARK_RETRY: Duration = Duration::from_secs(1);

/// Settings of one scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Blobs live here; of a cluster, the same folder for every scheduler.
    pub data_dir: PathBuf,
    /// Part of every attempt id.
    pub cell: CellId,
    /// Where agents dial; TLS with client certificates.
    pub agents_listen: SocketAddr,
    /// `HOST:PORT` that join tokens name; `None`: where we listen.
    pub agents_address: Option<String>,
    /// Further names and addresses for the certificates that agents and the gateway's clients see.
    pub server_names: Vec<String>,
    /// Health, metrics, gateway: plain HTTP on loopback, TLS elsewhere.
    pub http_listen: SocketAddr,
    /// `HOST:PORT` of the gateway as people reach it; `None`: where we listen.
    pub http_address: Option<String>,
    /// The pod this process runs in, to be marked while it leads.
    pub pod: Option<PodRef>,
    /// `nightshift-agent`, for proving runs.
    pub prover: Option<PathBuf>,
    /// What URIs may be fetched.
    pub fetch: FetchPolicy,
    /// Heartbeats and leases.
    pub timing: Timing,
    /// Where the ledger's history goes when its batches are deleted: a folder or a URL; `None`: a folder of `data_dir`.
    pub archive: Option<String>,
    /// Bytes that the journal grows by until it is made smaller.
    pub snapshot_after: Bytes,
    /// Every scheduler that may lead is of this version: its format may be written.
    pub raise_format: bool,
    /// Files, or folders of files, that become blobs every namespace may use.
    pub seeds: Vec<PathBuf>,
    /// Blobs that nothing refers to are removed after so long.
    pub blob_grace: Duration,
}

/// Long enough that what was pushed in the evening is there in the morning.
pub const BLOB_GRACE: Duration = Duration::from_secs(24 * 3600);

/// A scheduler that does not lead yet: its HTTP port is open, the agents' port is not.
pub struct Standby {
    config: SchedulerConfig,
    credentials: Credentials,
    blobs: BlobStore,
    keeping: Keeping,
    metrics: Metrics,
    front: Front,
    ready: Arc<AtomicBool>,
    seeded: Vec<Digest>,
}

/// A scheduler that listens and has recovered, but does not lead yet.
pub struct Scheduler<J: Journal> {
    lead: Lead<J>,
    leader: Leader,
    context: Context,
    agents: (TcpListener, SocketAddr),
    agents_address: String,
    front: Front,
    tls: ServerTlsConfig,
    gateway_token: String,
    pod: Option<PodRef>,
}

/// One machine: opens everything, recovers the state, and binds the listeners.
pub async fn start<J: Journal>(
    config: SchedulerConfig,
    client: kube::Client,
    journal: J,
) -> anyhow::Result<Scheduler<J>> {
    std::fs::create_dir_all(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let credentials = Credentials::in_folder(&config.data_dir)?;
    let standby = Standby::open(config, credentials).await?;
    standby.credentials.write_gateway_file(&standby.config.data_dir, standby.http_addr())?;
    standby.lead(client, journal, Folded::default()).await
}

impl Standby {
    /// Opens the blob store and the HTTP port.
    pub async fn open(config: SchedulerConfig, credentials: Credentials) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
        let blobs = BlobStore::open(&config.data_dir.join("blobs")).context("the blob store")?;
        let place = config.archive.clone().unwrap_or_else(|| config.data_dir.join(ARCHIVE).display().to_string());
        let archive = Archive::open(&place).context("--archive")?;
        let keeping = Keeping { archive, after: config.snapshot_after, raise_format: config.raise_format };
        // Before there is anything to lead: large ones take a while, and one that cannot be read ends only this process.
        let seeded = seed(&blobs, &config.seeds).await?;
        let (metrics, ready) = (Metrics::new(), Arc::new(AtomicBool::new(false)));
        let (listener, address) = bind(config.http_listen, "--http-listen").await?;
        let tls = if address.ip().is_loopback() {
            None
        } else {
            // People dial it by that name.
            let dialled = config.http_address.as_deref().and_then(|address| address.rsplit_once(':'));
            let dialled = dialled.map(|(host, _)| host.trim_matches(['[', ']']).to_string());
            let names: Vec<String> = config.server_names.iter().cloned().chain(dialled).collect();
            let config = pki::server_config(&credentials.ca, &names)?;
            Some(Tls { config, token: credentials.gateway_token.clone() })
        };
        let front = Front::open(listener, tls, front::standby(metrics.clone(), ready.clone()))?;
        Ok(Self { config, credentials, blobs, keeping, metrics, front, ready, seeded })
    }

    /// Where health, metrics and the gateway are.
    pub fn http_addr(&self) -> SocketAddr {
        self.front.address()
    }

    /// Folds along with whoever leads, until this process does.
    pub async fn wait_for_lead(&self, options: &EtcdOptions, folded: &mut Folded) -> Result<EtcdJournal, JournalError> {
        let mut progress = |progress: Result<&Folded, &JournalError>| {
            self.metrics.in_trouble(progress.as_ref().err().map(|error| Reason::of(error)));
            if progress.is_ok() {
                self.ready.store(true, Ordering::Relaxed);
            }
        };
        nightshift_state::stand_by(options, folded, &mut progress).await
    }

    /// Takes over: reads what `folded` does not hold yet, and opens the agents' port.
    pub async fn lead<J: Journal>(
        self,
        client: kube::Client,
        journal: J,
        folded: Folded,
    ) -> anyhow::Result<Scheduler<J>> {
        let Self { config, credentials, blobs, keeping, metrics, front, seeded, .. } = self;
        if let Err(error) = blobs.clear_staging() {
            tracing::warn!(%error, "half-written files of earlier leaders are still there");
        }
        let tls = server_tls(&credentials.ca, &config.server_names)?;
        // Before the first batch says that we lead: the one before lets its agents go when it sees that.
        let agents = bind(config.agents_listen, "--agents-listen").await?;
        let parts = Parts { ca: credentials.ca, blobs, metrics, timing: config.timing, keeping };
        let (leader, lead) = leader::start(journal, config.cell, folded, parts).await?;
        let reporter = Reporter { controller: "nightshift.dev/scheduler".into(), instance: None };
        let scheme = if front.address().ip().is_loopback() { "http" } else { "https" };
        let gateway = config.http_address.unwrap_or_else(|| front.address().to_string());
        let context = Context {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            leader: leader.clone(),
            policy: config.fetch,
            prover: Prover { program: config.prover, timeout: PROVE_WITHIN },
            priorities: Priorities::default(),
            warned: Default::default(),
            keep: Keep { grace: config.blob_grace, seeded: seeded.into() },
            gateway_url: format!("{scheme}://{gateway}"),
        };
        let agents_address = config.agents_address.unwrap_or_else(|| agents.1.to_string());
        let gateway_token = credentials.gateway_token;
        Ok(Scheduler { lead, leader, context, agents, agents_address, front, tls, gateway_token, pod: config.pod })
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {address}: choose another with {flag} ADDRESS:PORT, or port 0 for any free one")
    })?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

async fn seed(blobs: &BlobStore, seeds: &[PathBuf]) -> anyhow::Result<Vec<Digest>> {
    let mut seeded = Vec::new();
    for seed in seeds {
        let files: Vec<PathBuf> = if seed.is_dir() {
            let entries = std::fs::read_dir(seed).with_context(|| seed.display().to_string())?;
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_file()).collect()
        } else {
            vec![seed.clone()]
        };
        for file in files {
            let blob = blobs.put_file(EVERYONE, &file, MAX_SEED).await;
            let blob = blob.with_context(|| format!("--seed {}", file.display()))?;
            tracing::info!(file = %file.display(), digest = %blob.digest, "seeded");
            seeded.push(blob.digest);
        }
    }
    Ok(seeded)
}

fn server_tls(ca: &CertificateAuthority, names: &[String]) -> anyhow::Result<ServerTlsConfig> {
    let (chain, key) = ca.server_identity(names)?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, key))
        .client_ca_root(Certificate::from_pem(ca.certificate_pem()))
        .client_auth_optional(true))
}

impl<J: Journal + 'static> Scheduler<J> {
    /// Where agents dial.
    pub fn agents_addr(&self) -> SocketAddr {
        self.agents.1
    }
    /// Where health, metrics and the gateway are.
    pub fn http_addr(&self) -> SocketAddr {
        self.front.address()
    }
    /// The gateway's bearer token.
    pub fn gateway_token(&self) -> &str {
        &self.gateway_token
    }
    /// The handle of its leader.
    pub fn leader(&self) -> &Leader {
        &self.leader
    }

    /// Leads and serves until `shutdown`, or until the fence is lost.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let stop = shutdown.child_token();
        // What jobs wait for beside nodes: verdicts on models, queues, priorities.
        let (news, waited_for) = tokio::sync::watch::channel(0u64);
        let leading = tokio::spawn(self.lead.run(stop.clone()));
        let context = self.context;
        let controllers = [
            tokio::spawn(controller::job::run(context.clone(), waited_for, stop.clone())),
            tokio::spawn(controller::queue::run(context.clone(), news.clone(), stop.clone())),
            tokio::spawn(controller::model::run(context.clone(), news, stop.clone())),
            tokio::spawn(controller::queue::tell_trouble(context.clone(), stop.clone())),
            tokio::spawn(mark(self.pod, context.client.clone(), stop.clone())),
            tokio::spawn(controller::node::run(context, stop.clone())),
            tokio::spawn(ping(self.leader.clone(), stop.clone())),
        ];
        let grpc = tokio::spawn(serve_agents(self.leader.clone(), self.agents.0, self.tls, stop.clone()));
        self.front.show(http::router(self.leader.clone(), &self.gateway_token, &self.agents_address));
        let led = leading.await;
        stop.cancel();
        // Streams of agents and half-read results end with their tasks: nobody waits for them.
        grpc.abort();
        drop(self.front);
        for controller in controllers {
            controller.abort();
        }
        led.context("the leader's task")?.context("the leader")
    }
}

async fn serve_agents(
    leader: Leader,
    listener: TcpListener,
    tls: ServerTlsConfig,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let service = AgentServer::new(Edge::new(leader))
        .max_decoding_message_size(nightshift_wire::MAX_MESSAGE)
        .max_encoding_message_size(nightshift_wire::MAX_MESSAGE);
    let server = Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .concurrency_limit_per_connection(64)
        .add_service(service);
    server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()).await?;
    Ok(())
}

/// Marks our pod as the leader's, and sees to it that it stays so.
async fn mark(pod: Option<PodRef>, client: kube::Client, stop: CancellationToken) {
    let Some(pod) = pod else { return };
    loop {
        let again = match pod.lead(&client).await {
            Ok(()) => MARK_AGAIN,
            Err(error) => {
                tracing::warn!(%error, pod = pod.name, "this pod is not marked as the leader's yet");
                MARK_RETRY
            }
        };
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(again) => {} }
    }
}

/// Measures round trips.
async fn ping(leader: Leader, stop: CancellationToken) {
    let mut timer = tokio::time::interval(Duration::from_secs(5));
    let mut nonce = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {
                nonce += 1;
                leader.nodes().ping_all(nonce, leader.now());
            }
        }
    }
}

/// A new join token. The leader must run: call it beside [`Scheduler::serve`].
pub async fn create_token(leader: &Leader, owner: &str, tier: TrustTier, life: Duration) -> anyhow::Result<JoinToken> {
    let life = Milliseconds(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
    Ok(http::mint_token(leader, owner, tier, life).await?)
}
