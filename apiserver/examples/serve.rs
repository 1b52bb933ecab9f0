//! Serves the API from a directory until interrupted: `cargo run -p nightshift-apiserver --example serve -- DIR [CRD.json …]`.

use nightshift_apiserver::{ApiServer, Config};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let data_dir = args.next().unwrap_or_else(|| "nightshift-api".into()).into();
    let crds = args.map(|f| Ok(serde_json::from_slice(&std::fs::read(f)?)?)).collect::<anyhow::Result<_>>()?;
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = ApiServer::open(Config { data_dir, listen, crds, server_names: Vec::new() }).await?;
    println!("export KUBECONFIG={}", server.kubeconfig().display());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    serving.await?
}
