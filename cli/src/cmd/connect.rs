//! `nightshift connect`: learns a cluster's gateway, once. *In*: a kubeconfig that may read the scheduler's Secret. *Out*:
//! `gateway.json` in the data dir. *Invariant*: nothing is written before the gateway has answered.

use crate::connect::Connection;
use crate::gateway::{File, Gateway};
use crate::parse;
use crate::paths::{DataDir, shell_quoted};
use anyhow::Context;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use nightshift_scheduler::credentials::{self, CA_CERTIFICATE, GATEWAY_TOKEN};

const EXAMPLES: &str = "\
Examples:
  kubectl -n nightshift port-forward service/nightshift-gateway 7445 &
  nightshift connect -n nightshift   # once; then explain, results, push and token work here
  nightshift connect -n nightshift --url https://pool.example.org:7445

It reads the scheduler's Secret, so your own account must be allowed to.";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the gateway is reached from here
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:7445")]
    url: String,
    /// The scheduler's Secret, in the namespace of --namespace
    #[arg(long, value_name = "NAME", default_value = credentials::SECRET, value_parser = parse::object_name)]
    secret: String,
    #[command(flatten)]
    connection: Connection,
}

/// Reads, asks, writes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.url.starts_with("https://") || args.url.starts_with("http://127.0.0.1:"),
        "--url {}: write it as https://HOST:PORT",
        args.url
    );
    let data_dir = DataDir::resolve(args.connection.data_dir.as_deref())?;
    anyhow::ensure!(
        !data_dir.journal().exists(),
        "{} is a pool of this machine's own, whose gateway.json would be overwritten: choose another folder with --data-dir",
        shell_quoted(data_dir.path())
    );
    let pool = args.connection.pool().await?;
    let (namespace, name) = (&pool.namespace, &args.secret);
    let api: Api<Secret> = Api::namespaced(pool.client.clone(), namespace);
    let secret = api.get(name).await.map_err(|error| pool.explain(error));
    let secret = secret.with_context(|| {
        format!(
            "cannot read Secret {namespace}/{name}: name the release's namespace with -n, and the Secret with --secret"
        )
    })?;
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| {
        let bytes = data.get(key).with_context(|| format!("Secret {namespace}/{name} has no key {key}"))?;
        String::from_utf8(bytes.0.clone()).with_context(|| format!("{key} of Secret {namespace}/{name} is no text"))
    };
    let ca = args.url.starts_with("https://").then(|| text(CA_CERTIFICATE)).transpose()?;
    let file = File { url: args.url, token: text(GATEWAY_TOKEN)?.trim().to_string(), ca };
    let written = serde_json::to_string(&file)?;
    Gateway::new(file)?.check().await?;
    std::fs::create_dir_all(data_dir.path()).with_context(|| data_dir.path().display().to_string())?;
    credentials::write_private(&data_dir.gateway(), &written)?;
    crate::output::line(&format!("connected: {} names the gateway", shell_quoted(&data_dir.gateway())))
}
