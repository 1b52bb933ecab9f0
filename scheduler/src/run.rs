//! Puts a scheduler together and runs it.
//!
//! in → settings, a Kubernetes client, a journal · out → listeners, controllers, the leader · invariant: when
//! [`Scheduler::serve`] returns, everything it started has ended.

use crate::blobs::{BlobStore, EVERYONE};
use crate::controller::{self, Context};
use crate::edge::{http, service::Edge};
use crate::leader::{self, Lead, Leader, Parts, Timing};
use crate::metrics::Metrics;
use crate::prove::Prover;
use crate::uri::FetchPolicy;
use anyhow::Context as _;
use kube::runtime::events::{Recorder, Reporter};
use nightshift_state::Journal;
use nightshift_types::{Bytes, CellId, Milliseconds, TrustTier};
use nightshift_wire::pki::CertificateAuthority;
use nightshift_wire::proto::agent_server::AgentServer;
use nightshift_wire::token::JoinToken;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

const PROVE_WITHIN: Duration = Duration::from_secs(300);
/// Largest file seeded at start.
const MAX_SEED: Bytes = Bytes::gibi(64);

/// Settings of one scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Blobs, certificates and the gateway's token live here.
    pub data_dir: PathBuf,
    /// Part of every attempt id.
    pub cell: CellId,
    /// Where agents dial; TLS with client certificates.
    pub agents_listen: SocketAddr,
    /// Further names and addresses for the certificate that agents see.
    pub server_names: Vec<String>,
    /// Health, metrics, gateway: plain HTTP, so loopback only.
    pub http_listen: SocketAddr,
    /// `nightshift-agent`, for proving runs.
    pub prover: Option<PathBuf>,
    /// What URIs may be fetched.
    pub fetch: FetchPolicy,
    /// Heartbeats and leases.
    pub timing: Timing,
    /// Files, or folders of files, that become blobs every namespace may use.
    pub seeds: Vec<PathBuf>,
}

/// A scheduler that listens and has recovered, but does not lead yet.
pub struct Scheduler<J> {
    lead: Lead<J>,
    leader: Leader,
    context: Context,
    agents: (TcpListener, SocketAddr),
    http: (TcpListener, SocketAddr),
    tls: ServerTlsConfig,
    gateway_token: String,
}

/// Opens everything, recovers the state, and binds the listeners.
pub async fn start<J: Journal>(
    config: SchedulerConfig,
    client: kube::Client,
    journal: J,
) -> anyhow::Result<Scheduler<J>> {
    if !config.http_listen.ip().is_loopback() {
        anyhow::bail!(
            "--http-listen {} is not loopback: the gateway has no TLS yet, put a proxy before it",
            config.http_listen
        );
    }
    std::fs::create_dir_all(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let blobs = BlobStore::open(&config.data_dir.join("blobs")).context("the blob store")?;
    seed(&blobs, &config.seeds).await?;
    let ca = certificate_authority(&config.data_dir.join("pki"))?;
    let tls = server_tls(&ca, &config.server_names)?;
    let agents = bind(config.agents_listen, "--agents-listen").await?;
    let http = bind(config.http_listen, "--http-listen").await?;
    let gateway_token = gateway_token(&config.data_dir, http.1)?;
    let parts = Parts { ca, blobs, metrics: Metrics::new(), timing: config.timing };
    let (leader, lead) = leader::start(journal, config.cell, parts).await?;
    let reporter = Reporter { controller: "nightshift.dev/scheduler".into(), instance: None };
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        leader: leader.clone(),
        policy: config.fetch,
        prover: Prover { program: config.prover, timeout: PROVE_WITHIN },
        gateway_url: format!("http://{}", http.1),
    };
    Ok(Scheduler { lead, leader, context, agents, http, tls, gateway_token })
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {address}: choose another with {flag} ADDRESS:PORT, or port 0 for any free one")
    })?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

async fn seed(blobs: &BlobStore, seeds: &[PathBuf]) -> anyhow::Result<()> {
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
        }
    }
    Ok(())
}

/// Writes a file that nobody else may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}

fn certificate_authority(folder: &Path) -> anyhow::Result<CertificateAuthority> {
    std::fs::create_dir_all(folder)?;
    let (certificate, key) = (folder.join("agents-ca.crt"), folder.join("agents-ca.key"));
    if certificate.exists() && key.exists() {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        return Ok(CertificateAuthority::from_pem(&read(&certificate)?, &read(&key)?)?);
    }
    let ca = CertificateAuthority::generate("nightshift agents CA")?;
    write_private(&key, ca.key_pem())?;
    write_private(&certificate, ca.certificate_pem())?;
    Ok(ca)
}

fn server_tls(ca: &CertificateAuthority, names: &[String]) -> anyhow::Result<ServerTlsConfig> {
    let (chain, key) = ca.server_identity(names)?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, key))
        .client_ca_root(Certificate::from_pem(ca.certificate_pem()))
        .client_auth_optional(true))
}

/// The token is kept over restarts; the address may change with each.
fn gateway_token(data_dir: &Path, http: SocketAddr) -> anyhow::Result<String> {
    let path = data_dir.join("gateway.json");
    let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let known = known.and_then(|value| value["token"].as_str().map(String::from)).filter(|token| token.len() >= 32);
    let token = known.unwrap_or_else(|| hex::encode(rand::random::<[u8; 32]>()));
    let url = format!("http://{http}");
    write_private(&path, &serde_json::json!({ "url": url, "token": token }).to_string())?;
    Ok(token)
}

impl<J: Journal + 'static> Scheduler<J> {
    /// Where agents dial.
    pub fn agents_addr(&self) -> SocketAddr {
        self.agents.1
    }
    /// Where health, metrics and the gateway are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.1
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
        let (models_sender, models) = tokio::sync::watch::channel(0u64);
        let leading = tokio::spawn(self.lead.run(stop.clone()));
        let context = self.context;
        let controllers = [
            tokio::spawn(controller::job::run(context.clone(), models, stop.clone())),
            tokio::spawn(controller::model::run(context.clone(), models_sender, stop.clone())),
            tokio::spawn(controller::node::run(context, stop.clone())),
            tokio::spawn(ping(self.leader.clone(), stop.clone())),
        ];
        let grpc = tokio::spawn(serve_agents(self.leader.clone(), self.agents.0, self.tls, stop.clone()));
        let app = http::router(self.leader.clone(), &self.gateway_token, self.agents.1);
        let gateway = axum::serve(self.http.0, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        let gateway = tokio::spawn(async move { gateway.await });
        let led = leading.await;
        stop.cancel();
        // Streams of agents and half-read results end with their tasks: nobody waits for them.
        grpc.abort();
        gateway.abort();
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
