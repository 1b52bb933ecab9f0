//! The embedded Kubernetes API for one machine: `kubectl` works on Nightshift's kinds without a cluster.
//!
//! In → out → invariant: HTTP requests (TLS, bearer token) or in-process calls → Kubernetes objects, tables, watches and
//! `Status` errors → where it answers, it answers as the real API server does, and every answered write is durable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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

/// An opened API server: bound, not yet serving over the socket.
pub struct ApiServer {}

impl ApiServer {
    /// Opens the database, the PKI and the tokens under `config.data_dir`, binds the listener and writes the kubeconfig.
    pub async fn open(_config: Config) -> anyhow::Result<ApiServer> {
        anyhow::bail!("not written yet")
    }

    /// A client with the admin identity that talks to this server in process, without a socket.
    pub fn client(&self) -> kube::Client {
        unimplemented!()
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// The kubeconfig written at start (mode 0600, admin token).
    pub fn kubeconfig(&self) -> &Path {
        unimplemented!()
    }

    /// Serves over TLS until `shutdown` is cancelled; ends watches promptly then.
    pub async fn serve(self, _shutdown: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
        anyhow::bail!("not written yet")
    }
}
