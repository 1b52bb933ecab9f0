//! The embedded Kubernetes API for one machine: `kubectl` works on Nightshift's kinds without a cluster.
//!
//! In → out → invariant: HTTP requests (TLS, bearer token) or in-process calls → Kubernetes objects, tables, watches and
//! `Status` errors → where it answers, it answers as the real API server does, and every answered write is durable.
//!
//! ```text
//! serve/client → api ─ auth ─ negotiate ─ decode ─ verbs ─ admit ─ store ─┬─ encode, table → answer
//!                 │                                                       └─ watch → stream
//!                 └ discovery, openapi, review          janitor: namespaces, owners, definitions
//! ```

mod admit;
mod api;
mod auth;
mod decode;
mod discovery;
mod encode;
mod events;
mod install;
mod janitor;
mod kinds;
mod negotiate;
mod object;
mod openapi;
mod pki;
mod protobuf;
mod request;
mod review;
mod selector;
mod serve;
mod status;
mod store;
mod table;
mod verbs;
mod watch;

use crate::api::Api;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What an embedded API server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the database, the PKI, the tokens and the kubeconfig; created if missing.
    pub data_dir: PathBuf,
    /// Where to listen; loopback. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// `CustomResourceDefinition` objects (JSON) installed or updated at start, `Established` when `open` returns.
    pub crds: Vec<serde_json::Value>,
    /// More DNS names or addresses for the serving certificate, beside localhost and the loopback addresses.
    pub server_names: Vec<String>,
}

/// An opened API server: bound, not yet serving over the socket. Dropping it closes the database.
pub struct ApiServer {
    running: Running,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    addr: SocketAddr,
    kubeconfig: PathBuf,
}

/// Ends watches, background work and the database when dropped, also while clients are still held.
struct Running(Arc<Api>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shutdown.cancel();
        self.0.store.close();
    }
}

impl ApiServer {
    /// Opens the database, the PKI and the tokens under `config.data_dir`, binds the listener, writes the kubeconfig
    /// (`data_dir/kubeconfig`) and installs the definitions.
    ///
    /// # Errors
    /// If a file cannot be read or written, the address cannot be bound, or a definition is refused.
    pub async fn open(config: Config) -> anyhow::Result<ApiServer> {
        anyhow::ensure!(
            config.listen.ip().is_loopback(),
            "the embedded API listens on loopback only, not on {}",
            config.listen
        );
        let dir = &config.data_dir;
        pki::private_dir(dir)?;
        let pki = pki::open(&dir.join("pki"), &config.server_names)?;
        let (admin, viewer) = (pki::token(dir, "admin.token")?, pki::token(dir, "viewer.token")?);
        let store_path = dir.join("objects.redb");
        let store = tokio::task::spawn_blocking(move || store::Store::open(&store_path)).await??;
        let api = Arc::new(Api::new(store, auth::Tokens::new(&admin, &viewer)));
        let running = Running(api.clone());
        install::all(&api, config.crds).await?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| format!("bind {}", config.listen))?;
        let addr = listener.local_addr()?;
        let kubeconfig = dir.join("kubeconfig");
        pki::write_private(&kubeconfig, &pki::kubeconfig(addr, &pki.ca_pem, &admin))?;
        tokio::spawn(janitor::run(api));
        Ok(ApiServer { running, listener, tls: pki.server_config()?, addr, kubeconfig })
    }

    /// A client with the admin identity that talks to this server in process, without a socket.
    pub fn client(&self) -> kube::Client {
        install::client(&self.running.0)
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The kubeconfig written at start (mode 0600, admin token).
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Serves over TLS until `shutdown` is cancelled; ends watches promptly then.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let ApiServer { running, listener, tls, .. } = self;
        serve::run(running.0.clone(), listener, tls, shutdown).await;
        // Closing waits for the last batch to be on disk.
        tokio::task::spawn_blocking(move || drop(running)).await?;
        Ok(())
    }
}
