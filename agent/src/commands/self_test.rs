//! `nightshift-agent self-test`: what this machine would be as a node, without joining and without earning.
//!
//! in → the machine, the owner's file · out → its devices, its speed, a model run behind the same walls as a stranger's ·
//! invariant: nothing is sent anywhere, and nothing stays on the disk.

use super::Common;
use crate::config::file::{Settings, Share};
use crate::engine::{Engine, EngineConfig, Sandbox, Task};
use crate::{device, hardware};
use anyhow::Context;
use nightshift_types::{Bytes, Codec, Digest, Dtype, ModelSpec, Port};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::{CModule, Kind, Tensor};
use tokio_util::sync::CancellationToken;

/// Side of the square matrices that the model multiplies, and how often.
const SIDE: i64 = 512;
const LAYERS: usize = 8;
/// Tasks after the first, which loads the model.
const TASKS: usize = 10;

/// The result.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `cpu0 16Gi`.
    pub devices: Vec<Offered>,
    /// What confines models.
    pub sandbox: Sandbox,
    /// 10⁹ operations a second.
    pub gigaflops: u64,
    /// Bytes a second.
    pub memory_bandwidth: u64,
    /// Bytes a second from the disk.
    pub load_bandwidth: u64,
    /// From nothing to the first result of a small model.
    pub cold_milliseconds: f64,
    /// The median of later ones.
    pub warm_milliseconds: f64,
    /// 10⁹ operations a second of a model in its worker.
    pub model_gigaflops: f64,
    /// Points for an hour of reference time, as the owner asks.
    pub price_per_hour: String,
    /// What that means.
    pub note: &'static str,
}

/// A device and what the owner's share of it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
    /// Memory that Nightshift may use.
    pub memory_bytes: u64,
}

const NOTE: &str = "The pool pays the price for each hour of its reference time: a machine as fast as the reference earns it in \
                    an hour of work, a faster one sooner, an idle one nothing. What work there is, only the pool knows.";

/// Runs it.
pub async fn run(common: &Common) -> anyhow::Result<()> {
    let (path, named) = common.places.config();
    let settings = Settings::read(path.as_deref(), named, &[]).map_err(anyhow::Error::msg)?;
    let report = report(&settings).await?;
    common.print(&report, |report| {
        let devices: Vec<String> = report
            .devices
            .iter()
            .map(|d| format!("{} ({}, {})", d.name, d.class, Bytes(d.memory_bytes).human()))
            .collect();
        format!(
            "devices   {}\nsandbox   {}\nspeed     {} GFLOP/s, {} GiB/s of memory, {} MiB/s from the disk\n\
             model     first result in {:.0} ms, later ones in {:.1} ms ({:.0} GFLOP/s in its worker)\n\
             price     {} points for an hour of reference time\n{}",
            devices.join(", "),
            report.sandbox,
            report.gigaflops,
            report.memory_bandwidth >> 30,
            report.load_bandwidth >> 20,
            report.cold_milliseconds,
            report.warm_milliseconds,
            report.model_gigaflops,
            report.price_per_hour,
            report.note
        )
    });
    Ok(())
}

async fn report(settings: &Settings) -> anyhow::Result<Report> {
    let program = std::env::current_exe()?;
    let sandbox = device::sandbox(&program).await.context("no model can be confined here, so none would run")?;
    let (share, most) = match settings.memory().map_err(anyhow::Error::msg)? {
        Share::Percent(share) => (share, None),
        Share::Most(most) => (100, Some(most)),
    };
    let devices = hardware::devices(&program, share, most).await;
    let measured = device::measure(&program).await.context("libtorch does not compute here")?;
    let folder = std::env::temp_dir().join(format!("nightshift-self-test-{}", std::process::id()));
    crate::files::private_dir(&folder)?;
    let ran = model(&program, &folder, settings).await;
    std::fs::remove_dir_all(&folder)?;
    let (cold, warm) = ran?;
    let operations = 2.0 * (SIDE as f64).powi(3) * LAYERS as f64;
    let offered = |d: &nightshift_types::Device| Offered {
        name: d.name.clone(),
        class: d.class.to_string(),
        memory_bytes: d.memory.0,
    };
    Ok(Report {
        devices: devices.iter().map(offered).collect(),
        sandbox,
        gigaflops: measured.gigaflops,
        memory_bandwidth: measured.memory_bandwidth,
        load_bandwidth: measured.load_bandwidth,
        cold_milliseconds: cold.as_secs_f64() * 1e3,
        warm_milliseconds: warm.as_secs_f64() * 1e3,
        model_gigaflops: operations / warm.as_secs_f64().max(1e-9) / 1e9,
        price_per_hour: settings.price_per_hour.clone(),
        note: NOTE,
    })
}

/// Makes a model, and runs it as a stranger's is run; the first time, and the median of the others.
async fn model(program: &Path, folder: &Path, settings: &Settings) -> anyhow::Result<(Duration, Duration)> {
    let path = folder.join("model.pt");
    let small = Tensor::f_zeros([2, 2], (Kind::Float, tch::Device::Cpu))?;
    let mut body = |inputs: &[Tensor]| {
        let product = (0..LAYERS).fold(inputs[0].shallow_clone(), |product, _| product.matmul(&inputs[0]));
        vec![product.sum(Kind::Float)]
    };
    CModule::create_by_tracing("self_test", "forward", &[small], &mut body)?.save(&path)?;
    let digest = Digest(Sha256::digest(std::fs::read(&path)?).into());
    let port = |name: &str, codec, shape: &[i64]| Port {
        name: name.into(),
        codec,
        dtype: Dtype::Float32,
        shape: shape.to_vec(),
        constant: None,
        options: BTreeMap::new(),
    };
    let task = Task {
        model_digest: digest,
        model_path: path,
        spec: ModelSpec {
            method: "forward".into(),
            inputs: vec![port("x", Codec::Tensor, &[SIDE, SIDE])],
            outputs: vec![port("y", Codec::Json, &[])],
            batching: Default::default(),
        },
        input: vec![0; (SIDE * SIDE * 4) as usize],
        parameters: BTreeMap::new(),
        device: "cpu0".into(),
        memory_limit: Bytes::gibi(1),
        memory_shared: Bytes(0),
        deadline: Duration::from_secs(60),
        label: "self-test".into(),
    };
    let mut config = EngineConfig::new(program, folder.join("run"));
    config.threads =
        Some(usize::from(settings.limits.threads)).filter(|threads| *threads > 0).unwrap_or(config.threads);
    let engine = Engine::new(config);
    let mut times = Vec::new();
    for _ in 0..=TASKS {
        let began = Instant::now();
        engine.run(task.clone(), CancellationToken::new()).await.context("the model did not run behind the walls")?;
        times.push(began.elapsed());
    }
    engine.shutdown().await;
    let cold = times.remove(0);
    times.sort_unstable();
    Ok((cold, times[TASKS / 2]))
}
