//! `nightshift scheduler`: one scheduler of a cluster. *In*: flags or `NIGHTSHIFT_…` variables. *Out*: a standby that
//! becomes the leader when there is none, until SIGTERM. *Invariant*: losing the lead ends the process, with exit code 1:
//! what it decided since is void, and whoever supervises it starts a standby anew.

use super::etcd::EtcdArgs;
use crate::connect;
use crate::parse;
use crate::signals::Signals;
use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nightshift_scheduler::credentials::{Credentials, SECRET};
use nightshift_scheduler::leader::Timing;
use nightshift_scheduler::role::PodRef;
use nightshift_scheduler::run::{SchedulerConfig, Standby};
use nightshift_scheduler::uri::FetchPolicy;
use nightshift_state::Folded;
use nightshift_types::CellId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  # In a pod: the service account's own credentials; the Helm chart starts it like this
  nightshift scheduler --etcd https://etcd-0.etcd:2379,https://etcd-1.etcd:2379 \\
    --etcd-ca-file /etcd/ca.crt --etcd-cert-file /etcd/tls.crt --etcd-key-file /etcd/tls.key \\
    --data-dir /data --agents-address pool.example.org:7444

  # By hand beside a cluster; a second one, on other ports, stands by
  export NIGHTSHIFT_ETCD=http://127.0.0.1:2379
  nightshift scheduler -n default --kubeconfig ~/.kube/config --data-dir /srv/nightshift \\
    --agents-listen 127.0.0.1:7444 --http-listen 127.0.0.1:7445

Every scheduler of a cluster needs the same --etcd, --etcd-prefix, --cell, --namespace and
--data-dir (a shared folder).";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Kubeconfig of the cluster [default: the pod's service account, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_KUBECONFIG", hide_env_values = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", env = "NIGHTSHIFT_CONTEXT")]
    context: Option<String>,
    /// Namespace of the Secret that all schedulers share [default: the pod's, else the kubeconfig's]
    #[arg(short, long, value_name = "NAME", env = "NIGHTSHIFT_NAMESPACE", value_parser = parse::object_name)]
    namespace: Option<String>,
    /// Secret with the agents' CA and the gateway's token; the first scheduler makes it
    #[arg(long, value_name = "NAME", env = "NIGHTSHIFT_SECRET", default_value = SECRET, value_parser = parse::object_name)]
    secret: String,
    /// Label selector of this pool's scheduler pods: the leader takes nightshift.dev/role from the others
    #[arg(
        long,
        value_name = "SELECTOR",
        env = "NIGHTSHIFT_POD_SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    pod_selector: String,
    /// Part of every attempt's id; never change it
    #[arg(long, value_name = "NAME", env = "NIGHTSHIFT_CELL", default_value = "default")]
    cell: String,
    /// Folder of models, inputs and large results, shared by every scheduler
    #[arg(long, value_name = "DIR", env = crate::paths::DATA_DIR_ENV, hide_env_values = true)]
    data_dir: PathBuf,
    /// Where agents are listened for while this scheduler leads, with TLS
    #[arg(long, value_name = "ADDRESS:PORT", env = "NIGHTSHIFT_AGENTS_LISTEN", default_value = "0.0.0.0:7444", value_parser = parse::listen)]
    agents_listen: SocketAddr,
    /// What agents dial: join tokens name it [default: where agents are listened for]
    #[arg(long, value_name = "HOST:PORT", env = "NIGHTSHIFT_AGENTS_ADDRESS", value_parser = parse::host_port)]
    agents_address: Option<String>,
    /// Where gateway, metrics and health checks listen: TLS and a bearer token, unless on loopback
    #[arg(long, value_name = "ADDRESS:PORT", env = "NIGHTSHIFT_HTTP_LISTEN", default_value = "0.0.0.0:7445", value_parser = parse::listen)]
    http_listen: SocketAddr,
    /// Where people and Prometheus reach the gateway [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", env = "NIGHTSHIFT_HTTP_ADDRESS", value_parser = parse::host_port)]
    http_address: Option<String>,
    /// A further name or address for the gateway's certificate; repeat it, or separate several with commas
    #[arg(long = "server-name", value_name = "NAME", env = "NIGHTSHIFT_SERVER_NAMES", value_delimiter = ',')]
    server_names: Vec<String>,
    /// Silence after which an agent's work is placed elsewhere
    #[arg(long, value_name = "TIME", env = "NIGHTSHIFT_AGENT_LEASE", default_value = "12s", value_parser = parse::duration)]
    agent_lease: Duration,
    /// How often agents say that they live
    #[arg(long, value_name = "TIME", env = "NIGHTSHIFT_HEARTBEAT", default_value = "2s", value_parser = parse::duration)]
    heartbeat: Duration,
    /// The agent's program, which proves models before any node runs them [default: nightshift-agent beside this one]
    #[arg(long, value_name = "PATH", env = "NIGHTSHIFT_AGENT_PROGRAM", hide_env_values = true)]
    agent_program: Option<PathBuf>,
    /// A file, or a folder of files, that every namespace may use as store:// blobs; may be repeated
    #[arg(long, value_name = "FILE|DIR", env = "NIGHTSHIFT_SEED", value_delimiter = ',')]
    seed: Vec<PathBuf>,
    /// Models, inputs and results that no object refers to any more are removed after so long; pushed files too
    #[arg(long, value_name = "TIME", env = "NIGHTSHIFT_BLOB_GRACE", default_value = "24h", value_parser = parse::blob_grace)]
    blob_grace: Duration,
    /// Let http(s) URIs in manifests lead to loopback and private addresses
    #[arg(long, env = "NIGHTSHIFT_ALLOW_PRIVATE_URIS")]
    allow_private_uris: bool,
    /// Let file: URIs of a namespace's manifests read a folder of this machine; may be repeated
    #[arg(long, value_name = "NAMESPACE=DIR", value_parser = parse::allowed_folder)]
    allow_files: Vec<(String, PathBuf)>,
    #[command(flatten)]
    keeping: crate::up::KeepingArgs,
    /// Every scheduler of this cluster is of this version: the journal may be written in its format. Versions before it can
    /// no longer lead; without it a journal of an older format is not made smaller
    #[arg(long, env = "NIGHTSHIFT_RAISE_FORMAT")]
    raise_format: bool,
    /// How the log on stderr is written; RUST_LOG says how much
    #[arg(long, value_enum, env = "NIGHTSHIFT_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    // The last: what follows would stand under its heading.
    #[command(flatten)]
    etcd: EtcdArgs,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Stands by, leads, and ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    begin_log(args.log_format)?;
    let mut signals = Signals::take()?;
    anyhow::ensure!(
        args.heartbeat * 2 <= args.agent_lease,
        "--agent-lease must be at least twice --heartbeat, so that one lost heartbeat loses no work"
    );
    let stop = CancellationToken::new();
    let serving = serve(args, stop.clone());
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = signals.stop() => tracing::info!("asked to stop; once more to stop at once"),
    }
    stop.cancel();
    tokio::select! {
        ended = serving => ended,
        () = signals.stop() => Err(crate::exit::Coded::error(crate::exit::INTERRUPTED, "stopped at once")),
    }
}

async fn serve(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.etcd.is_given(),
        "--etcd is missing: name every member's client URL, such as --etcd https://etcd-0.etcd:2379 (or set NIGHTSHIFT_ETCD)"
    );
    let (client, namespace) = cluster(&args).await?;
    let pod = pod(&namespace, &args.pod_selector);
    let identity = pod.as_ref().map_or_else(|| format!("process {}", std::process::id()), |pod| pod.name.clone());
    let etcd = args.etcd.options(identity)?;
    let credentials = Credentials::in_secret(client.clone(), &namespace, &args.secret).await?;
    let standby = Standby::open(config(args, pod)?, credentials).await?;
    tracing::info!(etcd = ?etcd, namespace, http = %standby.http_addr(), "standing by");
    let mut folded = Folded::default();
    let journal = tokio::select! {
        journal = standby.wait_for_lead(&etcd, &mut folded) => journal.context("the journal in etcd")?,
        () = stop.cancelled() => return Ok(()),
    };
    let started = std::time::Instant::now();
    let scheduler = standby.lead(client, journal, folded).await?;
    tracing::info!(agents = %scheduler.agents_addr(), http = %scheduler.http_addr(), took = ?started.elapsed(), "leading");
    scheduler.serve(stop).await
}

fn config(args: Args, pod: Option<PodRef>) -> anyhow::Result<SchedulerConfig> {
    let prover = crate::up::agent::find(args.agent_program.as_deref());
    Ok(SchedulerConfig {
        data_dir: args.data_dir,
        cell: CellId::new(args.cell.as_str()).with_context(|| format!("--cell {}", args.cell))?,
        agents_listen: args.agents_listen,
        agents_address: args.agents_address,
        server_names: args.server_names,
        http_listen: args.http_listen,
        http_address: args.http_address,
        pod,
        prover: Some(prover?),
        fetch: FetchPolicy {
            allow_private: args.allow_private_uris,
            files: args.allow_files.into_iter().collect(),
            ..FetchPolicy::default()
        },
        timing: Timing { heartbeat: args.heartbeat, lease: args.agent_lease },
        archive: args.keeping.archive,
        snapshot_after: args.keeping.snapshot_after,
        raise_format: args.raise_format,
        seeds: args.seed,
        blob_grace: args.blob_grace,
    })
}

/// The chart names it through the downward API.
fn pod(namespace: &str, selector: &str) -> Option<PodRef> {
    let name = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty())?;
    Some(PodRef { namespace: namespace.into(), name, selector: selector.into() })
}

/// A client of the cluster, and our namespace in it.
async fn cluster(args: &Args) -> anyhow::Result<(kube::Client, String)> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let read = |path: &Path| {
        Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}: cannot be read", path.display()))
    };
    let config = match &args.kubeconfig {
        Some(path) => kube::Config::from_custom_kubeconfig(read(path)?, &options).await.context("--kubeconfig")?,
        None => match kube::Config::incluster() {
            Ok(config) => config,
            Err(_) => kube::Config::from_kubeconfig(&options)
                .await
                .context("this is no pod, and there is no kubeconfig: name one with --kubeconfig FILE")?,
        },
    };
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((connect::client(config)?, namespace))
}

fn begin_log(format: LogFormat) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "info,kube_client=warn,kube_runtime=warn".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("logging began twice: {error}"))
}
