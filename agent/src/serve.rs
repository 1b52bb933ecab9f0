//! An agent's life: folder, identity, session, end.
//!
//! in → a [`Config`], the hardware, what runs models · out → nothing, or why it could not start · invariant: one process a
//! data folder; whatever was accepted is delivered or stays in the outbox.

mod local;

use crate::attempt::Runner;
use crate::cache::Cache;
use crate::config::Config;
use crate::edge::Edge;
use crate::executor::Executor;
use crate::fetch::Fetcher;
use crate::hardware::Hardware;
use crate::identity::{Identity, Store};
use crate::join::{self, JoinConfig, JoinError};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::owner::Roots;
use crate::owner::idle::Places;
use crate::owner::watch::{Machine, Sense};
use crate::reactor::{AgentCore, Facts};
use crate::session::{self, Parts, Stop};
use crate::state::StateFile;
use crate::{expose, files};
use nightshift_types::Bytes;
use nightshift_wire::pki;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Largest input of one attempt.
pub const MAX_INPUT: Bytes = Bytes::mebi(256);
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// Why an agent did not start; one line, with the remedy.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Not joined, or not here.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The data folder.
    #[error("cannot use the data folder {}: {source}; choose another with --data-dir", path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Two agents, one folder.
    #[error("another agent runs with {}: stop it, or give this one a --data-dir of its own", .0.display())]
    Locked(PathBuf),
    /// No walls, and `--require-sandbox`.
    #[error("models cannot be confined here, and --require-sandbox is given: {0}")]
    Sandbox(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl ServeError {
    /// The process' exit code; `nightshift-agent --help` documents them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Join(_) => 3,
            Self::DataDir { .. } | Self::Locked(_) => 4,
            Self::Sandbox(_) => 5,
        }
    }
}

/// The data folder, ours alone while this lives.
#[derive(Debug)]
pub struct DataDir {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes it if it is missing, and locks it.
    pub fn open(path: &Path) -> Result<Self, ServeError> {
        let disk = |source| ServeError::DataDir { path: path.into(), source };
        files::private_dir(path).map_err(disk)?;
        let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
        let lock = options.open(path.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::Locked(path.into())),
            Err(std::fs::TryLockError::Error(source)) => Err(disk(source)),
        }
    }

    /// Who this node is; joins if it has to.
    pub async fn identity(&self, config: &Config) -> Result<Identity, ServeError> {
        let folder = self.path.join("identity");
        let store = Store::open(&folder).map_err(JoinError::from)?;
        let join = JoinConfig {
            servers: &config.servers,
            token: config.token.clone(),
            node_name: &config.name,
            patience: config.join_patience,
            backoff: config.limits.backoff,
        };
        Ok(join::identity(&store, &folder.display().to_string(), join).await?)
    }
}

/// Serves until `stop`, with this machine's own signs of its owner; then everything is ended and what was not acknowledged is in the outbox.
pub async fn serve(
    config: &Config,
    data: &DataDir,
    identity: Identity,
    hardware: Hardware,
    executor: Arc<dyn Executor>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let sense = Machine::new(Roots::default(), std::process::id(), Places::of_this_session);
    serve_with(config, data, identity, hardware, executor, sense, stop).await
}

/// The same, with other signs.
pub async fn serve_with(
    config: &Config,
    data: &DataDir,
    identity: Identity,
    hardware: Hardware,
    executor: Arc<dyn Executor>,
    sense: impl Sense + 'static,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let disk = |source| ServeError::DataDir { path: data.path.clone(), source };
    let metrics = Metrics::new().map_err(anyhow::Error::from)?;
    let (outbox, torn) = Outbox::open(&data.path.join("outbox")).map_err(disk)?;
    metrics.torn.inc_by(torn as u64);
    Metrics::bytes(&metrics.capacity, hardware.devices.iter().map(|device| device.memory).sum());
    metrics.sandbox(&hardware.sandbox);
    let cache = Cache::open(&data.path.join("models"), config.cache_disk).map_err(disk)?;
    Metrics::bytes(&metrics.cache_cap, cache.cap());
    let state = Arc::new(StateFile::open(&data.path).map_err(disk)?);
    let edge = Edge::new(&config.servers, &identity)?;
    let backoff = config.limits.backoff;
    let fetcher = Arc::new(Fetcher::new(edge.clone(), cache.clone(), metrics.clone(), backoff, MAX_INPUT));
    let facts = Facts { devices: hardware.devices.clone(), measured: hardware.measured, offer: config.offer.clone() };
    let core = AgentCore::new(config.limits.clone(), facts, state.epoch(), outbox.list());
    let owner = local::start(config, data, &identity, sense, &stop).await?;
    owner.local.live().capacity = hardware.devices.iter().map(|device| device.memory).sum();
    owner.local.live().caps = executor.caps();
    info!(node = %identity.node, server = edge.server(), outbox = core.held(), "the agent starts");

    let background = CancellationToken::new();
    let _ends_with_us = background.clone().drop_guard();
    let store = Store::open(&data.path.join("identity")).map_err(JoinError::from)?;
    let renewing = renew(store, identity, edge.clone(), metrics.clone());
    spawn_until(&background, renewing);
    if let Some(address) = config.metrics_listen {
        let listener = expose::listen(address).await?;
        spawn_until(&background, expose::serve(listener, metrics.clone()));
    }
    let doors = local::open(config, data, &owner.local).await;
    doors.into_iter().for_each(|door| spawn_until(&background, door));
    spawn_until(&background, local::reload(config.reload.clone(), owner.clone()));
    let watch = owner.local.watch.clone();
    let parts = Parts {
        edge,
        runner: Runner { executor, fetcher, metrics: metrics.clone() },
        outbox: Arc::new(outbox),
        cache,
        state,
        metrics,
        devices: hardware.devices,
        free_memory: hardware.free_memory,
        owner: owner.owner(),
    };
    session::run(core, parts, Stop { gently: stop, grace: config.grace, flush: config.flush }).await;
    watch.end();
    local::close(data);
    info!("the agent has stopped");
    Ok(())
}

fn spawn_until(end: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let end = end.clone();
    tokio::spawn(async move {
        tokio::select! { () = work => {}, () = end.cancelled() => {} }
    });
}

/// Renews the certificate at two thirds of its life.
async fn renew(store: Store, mut identity: Identity, edge: Edge, metrics: Metrics) {
    loop {
        let (due, end) = identity.renewal();
        metrics.certificate.set(end as f64);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if now >= due {
            match renew_once(&store, &identity, &edge).await {
                Ok(new) => {
                    info!(node = %new.node, "the certificate was renewed");
                    identity = new;
                }
                Err(error) => {
                    let days = end.saturating_sub(now) / 86400;
                    warn!(error = format!("{error:#}"), days_left = days, "the certificate could not be renewed yet");
                }
            }
        }
        tokio::time::sleep(RENEWAL_CHECK).await;
    }
}

async fn renew_once(store: &Store, identity: &Identity, edge: &Edge) -> anyhow::Result<Identity> {
    let csr = pki::node_request_for(&identity.key_pem)?;
    let answer = edge.renew_certificate(csr).await?;
    let new = store.save(&answer, identity.ca_hash()?)?;
    edge.renew(&new)?;
    Ok(new)
}
