//! `nightshift up`: everything on one machine in one terminal. *In*: flags. *Out*: a pool, until Ctrl-C.
//! *Invariant*: what was started last stops first; the data dir is ours alone while it runs; the second Ctrl-C is obeyed
//! at once.
//!
//! ```text
//! lock ─ logs ─ ports ─▶ plane (Kubernetes API ▸ journal ▸ scheduler) ─▶ agent (child) ─▶ Ready ─▶ what to type next
//! ```

pub mod agent;
pub mod listen;
pub mod lock;
mod logs;
mod plane;
mod tell;

use crate::exit::{self, Coded};
use crate::gateway::Gateway;
use crate::parse;
use crate::paths::DataDir;
use crate::signals::Signals;
use agent::News;
use anyhow::Context;
use kube::api::Api;
use nightshift_crds::ComputeNode;
use nightshift_scheduler::leader::Leader;
use nightshift_types::{Bytes, NodeId};
use plane::Plane;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tell::Teller;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  nightshift up
  nightshift up --seed .deps/models/silero_vad.jit  # a model that every namespace may use
  nightshift up --agents-listen 0.0.0.0:7444        # other machines may join
  nightshift up --agents 3                          # three nodes that share this machine
  nightshift up --data-dir /tmp/try --api-listen 127.0.0.1:0 \\
    --agents-listen 127.0.0.1:0 --http-listen 127.0.0.1:0

Ctrl-C stops it in order; the data dir keeps jobs, models and points for the next start.";

/// Between two looks whether the local node is ready.
const LOOK: Duration = Duration::from_millis(100);
/// After this long without a ready node a line says that we still wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the journal is kept small.
#[derive(clap::Args, Debug)]
pub struct KeepingArgs {
    /// Where the ledger's history goes when the journal is made smaller: a folder, or a URL such as s3://BUCKET/FOLDER;
    /// credentials as its own tools read them, AWS_…, GOOGLE_…, AZURE_… [default: archive/ in the data dir]
    #[arg(long, value_name = "FOLDER|URL", env = "NIGHTSHIFT_ARCHIVE")]
    pub archive: Option<String>,
    /// A snapshot is taken, and the journal made smaller, when it has grown by so much
    #[arg(long, value_name = "SIZE", env = "NIGHTSHIFT_SNAPSHOT_AFTER", default_value = "64Mi", value_parser = parse::size)]
    pub snapshot_after: Bytes,
}

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where everything is kept [default: nightshift/ in the user's application data]
    #[arg(long, value_name = "DIR", env = crate::paths::DATA_DIR_ENV, hide_env_values = true)]
    data_dir: Option<PathBuf>,
    /// Where the Kubernetes API listens: a loopback address; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443", value_parser = parse::listen)]
    api_listen: SocketAddr,
    /// Where agents are listened for, with TLS; 0.0.0.0:7444 lets other machines join
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7444", value_parser = parse::listen)]
    agents_listen: SocketAddr,
    /// Where gateway, metrics and health checks listen: a loopback address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7445", value_parser = parse::listen)]
    http_listen: SocketAddr,
    /// A file, or a folder of files, that every namespace may use as store:// blobs; may be repeated
    #[arg(long, value_name = "FILE|DIR")]
    seed: Vec<PathBuf>,
    /// Start no agent on this machine
    #[arg(long)]
    no_agent: bool,
    /// Start so many agents on this machine, each a node with its part of processor and memory: to try a pool of several
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16), conflicts_with = "no_agent")]
    agents: u16,
    /// What this machine asks for, in points an hour [default: the agent's]
    #[arg(long, value_name = "POINTS", value_parser = parse::price, allow_negative_numbers = true, conflicts_with = "no_agent")]
    price_per_hour: Option<String>,
    /// The agent's program [default: nightshift-agent beside this one]
    #[arg(long, value_name = "PATH")]
    agent_program: Option<PathBuf>,
    /// Models, inputs and results that no object refers to any more are removed after so long; pushed files too
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::blob_grace)]
    blob_grace: std::time::Duration,
    /// Let http(s) URIs in manifests lead to loopback and private addresses
    #[arg(long)]
    allow_private_uris: bool,
    /// Let file: URIs of a namespace's manifests read a folder of this machine; may be repeated
    #[arg(long, value_name = "NAMESPACE=DIR", value_parser = parse::allowed_folder)]
    allow_files: Vec<(String, PathBuf)>,
    #[command(flatten)]
    keeping: KeepingArgs,
    /// Say more, in the log and here
    #[arg(short, long)]
    verbose: bool,
}

/// Runs the pool until it is told to stop.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut teller = Teller::begin();
    let mut signals = Signals::take()?;
    let program = match (args.no_agent, &args.agent_program) {
        (true, None) => None,
        (_, given) => Some(agent::find(given.as_deref())?),
    };
    for seed in &args.seed {
        anyhow::ensure!(seed.exists(), "--seed {}: there is no such file or folder", seed.display());
    }
    let data_dir = DataDir::resolve(args.data_dir.as_deref())?;
    private_folder(&data_dir)?;
    let mut lock = lock::Lock::take(&data_dir)?;
    listen::check(&[
        ("--api-listen", args.api_listen),
        ("--agents-listen", args.agents_listen),
        ("--http-listen", args.http_listen),
    ])?;
    logs::begin(&data_dir, args.verbose)?;
    teller.begins(&data_dir);
    let settings = settings(&args, program.clone());
    let plane = tokio::select! {
        plane = Plane::start(settings, &data_dir, &mut teller) => plane?,
        () = signals.stop() => return Err(Coded::error(exit::INTERRUPTED, "interrupted before it was up")),
    };
    lock.tell(&plane.api.to_string(), &plane.agents.to_string(), &plane.http.to_string())?;
    let plan = |program: &PathBuf, number| agent::Plan {
        program: program.clone(),
        server: dialled(plane.agents),
        data_dir: data_dir.clone(),
        price_per_hour: args.price_per_hour.clone(),
        number,
        of: args.agents,
    };
    let program = program.filter(|_| !args.no_agent);
    let plans = program.iter().flat_map(|program| (1..=args.agents).map(|n| plan(program, n))).collect();
    let up = Up { plane, data_dir, plans, teller };
    up.until_stopped(&mut signals).await
}

fn settings(args: &Args, prover: Option<PathBuf>) -> plane::Settings {
    plane::Settings {
        api_listen: args.api_listen,
        agents_listen: args.agents_listen,
        http_listen: args.http_listen,
        prover,
        archive: args.keeping.archive.clone(),
        snapshot_after: args.keeping.snapshot_after,
        seeds: args.seed.clone(),
        blob_grace: args.blob_grace,
        allow_private: args.allow_private_uris,
        files: args.allow_files.iter().cloned().collect(),
    }
}

/// How this machine itself dials a listener.
fn dialled(listens: SocketAddr) -> String {
    let mut address = listens;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address.to_string()
}

fn private_folder(data_dir: &DataDir) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let made = builder.create(data_dir.logs());
    made.with_context(|| format!("cannot use {}: choose another folder with --data-dir", data_dir.path().display()))
}

/// A pool that is up.
struct Up {
    plane: Plane,
    data_dir: DataDir,
    plans: Vec<agent::Plan>,
    teller: Teller,
}

impl Up {
    async fn until_stopped(mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let (sender, mut news) = mpsc::channel(8);
        let stop_agents = CancellationToken::new();
        let mut agents = JoinSet::new();
        for plan in &self.plans {
            let gateway = Gateway::from_file(&self.data_dir.gateway())?;
            agents.spawn(plan.clone().supervise(gateway, sender.clone(), stop_agents.clone()));
        }
        if self.plans.is_empty() {
            self.teller.ready(&[], &self.plane, &self.data_dir);
        }
        let broken = self.watch(&mut news, signals).await;
        self.teller.stops(agents.len());
        stop_agents.cancel();
        let stopped = async {
            while agents.join_next().await.is_some() {}
            self.plane.stop().await
        };
        let stopped = tokio::select! {
            stopped = stopped => stopped,
            () = signals.stop() => {
                // Dropping the children kills them; what they started ends with them.
                agents.abort_all();
                return Err(Coded::error(exit::INTERRUPTED, "stopped at once: what was under way is lost or done again"));
            }
        };
        broken.and(stopped)?;
        self.teller.stopped();
        Ok(())
    }

    /// Tells what happens until somebody wants to stop, or a part breaks, which is an error.
    async fn watch(&mut self, news: &mut mpsc::Receiver<News>, signals: &mut Signals) -> anyhow::Result<()> {
        let plans = self.plans.clone();
        let all = plans.iter().map(|plan| ready(plan, self.plane.client.clone(), self.plane.leader.clone()));
        let mut ready = std::pin::pin!(futures::future::join_all(all));
        let mut impatient = std::pin::pin!(tokio::time::sleep(PATIENCE));
        let (mut is_ready, mut waits) = (self.plans.is_empty(), !self.plans.is_empty());
        loop {
            tokio::select! {
                () = signals.stop() => return Ok(()),
                broken = self.plane.ended() => return broken,
                Some(news) = news.recv() => self.teller.agent(news, &self.data_dir),
                nodes = &mut ready, if !is_ready => {
                    (is_ready, waits) = (true, false);
                    self.plans.iter().for_each(agent::Plan::forget_token);
                    self.teller.ready(&nodes, &self.plane, &self.data_dir);
                }
                () = &mut impatient, if waits => {
                    waits = false;
                    let missing = self.plans.iter().find(|plan| !connected(plan, &self.plane.leader));
                    self.teller.still_waits(&self.data_dir, missing.map_or(1, |plan| plan.number));
                }
            }
        }
    }
}

/// Whether the agent of a plan has joined and has a session.
fn connected(plan: &agent::Plan, leader: &Leader) -> bool {
    let id = plan.node().and_then(|name| NodeId::new(name).ok());
    id.is_some_and(|id| leader.nodes().read(&id, |node| node.is_some_and(|node| node.connected())))
}

/// A local node, once its agent is connected and the API says so too: what the API says alone may be of a former life.
async fn ready(plan: &agent::Plan, client: kube::Client, leader: Leader) -> ComputeNode {
    let api: Api<ComputeNode> = Api::all(client);
    loop {
        if connected(plan, &leader)
            && let Some(name) = plan.node()
            && let Ok(node) = api.get(&name).await
            && crate::cmd::nodes::is_ready(&node)
        {
            return node;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_dial_ourselves() {
        for (listens, dials) in [
            ("0.0.0.0:7444", "127.0.0.1:7444"),
            ("[::]:7444", "[::1]:7444"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.0.0.1:2", "10.0.0.1:2"),
        ] {
            assert_eq!(dialled(listens.parse().unwrap()), dials);
        }
    }
}
