//! Creates a second, over TLS and in process, one writer and 32: `make bench WHAT=api`. The clients run in this process
//! too, so its CPU time and memory are those of both sides. Every answered create is durable.

#[path = "../../bench/measure.rs"]
mod measure;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use measure::{Clock, Peer, Runs, TURNS, quantile, resident, row};
use nightshift_apiserver::{ApiServer, Config};
use redb::{Database, TableDefinition};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 32;
const SERIAL: usize = 500;
const EACH: usize = 100;
const COMMITS: u64 = 500;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("objects");

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { data_dir: folder.path().join("api"), listen, crds: Vec::new(), server_names: Vec::new() };
    let server = ApiServer::open(config).await?;
    let inside = server.client();
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    let options = KubeConfigOptions::default();
    let tls: kube::Client = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?.try_into()?;
    let store = Database::create(folder.path().join("plain.redb"))?;

    let [mut commits, mut tls_one, mut in_one, mut tls_many, mut in_many, mut p50] = [(); 6].map(|()| Runs::default());
    for turn in 0..TURNS {
        commit(&store, &mut commits)?;
        create(&tls, &format!("t{turn}"), 1, SERIAL, &mut tls_one).await?;
        create(&inside, &format!("i{turn}"), 1, SERIAL, &mut in_one).await?;
        let mut times = create(&tls, &format!("t{turn}"), WRITERS, EACH, &mut tls_many).await?;
        p50.push(quantile(&mut times, 0.5) / 1e3);
        create(&inside, &format!("i{turn}"), WRITERS, EACH, &mut in_many).await?;
    }
    let count = TURNS * 2 * (SERIAL + WRITERS * EACH);
    let published = |value| Peer::Published("kube-apiserver (published figure, not measured in this run)", value);
    let own = Peer::Measured("redb: commits of one key, 1 writer", &commits);
    row("creates over TLS, 1 writer", "1/s", "ratio >= 10", &tls_one, &published(83.0));
    row("creates over TLS, 32 writers", "1/s", "ratio >= 20", &tls_many, &published(544.0));
    row("a create over TLS, 32 writers, p50", "ms", "", &p50, &published(55.0));
    row("creates over TLS, 1 writer, against the store", "1/s", "", &tls_one, &own);
    row("creates in process, 1 writer, against the store", "1/s", "", &in_one, &own);
    row("creates in process, 32 writers, against the store", "1/s", "", &in_many, &own);
    if let Some(bytes) = resident() {
        let mut memory = Runs::default();
        memory.push(bytes / f64::from(1 << 20));
        let name = format!("resident memory with {count} objects, clients included, once");
        row(&name, "MiB", "ratio <= 0.2", &memory, &published(304.0));
    }
    shutdown.cancel();
    serving.await?
}

/// Each writer creates its objects one after another; gives back how long each took.
async fn create(
    client: &kube::Client,
    name: &str,
    writers: usize,
    each: usize,
    rate: &mut Runs,
) -> anyhow::Result<Vec<Duration>> {
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let clock = Clock::start();
    let tasks = (0..writers).map(|writer| {
        let (api, name) = (api.clone(), format!("{name}-{writers}-{writer}"));
        tokio::spawn(async move {
            let mut times = Vec::with_capacity(each);
            for i in 0..each {
                let mut object = ConfigMap::default();
                object.metadata.name = Some(format!("{name}-{i}"));
                object.data = Some([("k".to_owned(), "v".to_owned())].into());
                let start = Instant::now();
                api.create(&PostParams::default(), &object).await?;
                times.push(start.elapsed());
            }
            Ok::<_, kube::Error>(times)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    rate.rate(writers * each, &clock);
    Ok(times)
}

/// What the storage gives one writer that waits for each of its commits.
fn commit(store: &Database, rate: &mut Runs) -> anyhow::Result<()> {
    let clock = Clock::start();
    for key in 0..COMMITS {
        let write = store.begin_write()?;
        write.open_table(TABLE)?.insert(key, &[7; 256][..])?;
        write.commit()?;
    }
    rate.rate(COMMITS as usize, &clock);
    Ok(())
}
