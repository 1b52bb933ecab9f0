//! What this machine computes on, and how fast.
//!
//! *In*: the share of memory that the owner gives. *Out*: [`Device`]s, their free memory, one measurement. *Invariant*:
//! nothing of a GPU is touched in the agent's own process: what libtorch sees is asked of a worker process, names and
//! memory of the driver's management library, which makes no context.

use crate::sys::cuda;
use crate::worker::measure::Figures;
use crate::worker::sandbox::Sandbox;
use anyhow::{Context, bail};
use nightshift_types::{Bytes, Device, DeviceClass, Measured};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::process::Command;

/// Part of each device's memory, in percent, that Nightshift uses unless its owner says otherwise.
pub const DEFAULT_SHARE: u8 = 50;
/// How long a worker process may take to answer; the measurement itself takes less than one second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The processor, and on a Mac its GPU; what needs no other process to be known. `share` is the part of each device's
/// memory, in percent, that the owner lets Nightshift use. [`probe`] lists NVIDIA's GPUs too.
pub fn list(share: u8) -> Vec<Device> {
    let kinds =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds);
    let memory = part(system.total_memory(), share);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let model = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
    let mut attributes = BTreeMap::from([("cores".to_owned(), cores.to_string())]);
    if !model.is_empty() {
        attributes.insert("model".to_owned(), model);
    }
    let mut devices =
        vec![Device { name: "cpu0".into(), class: DeviceClass::Cpu, attributes: attributes.clone(), memory }];
    if cfg!(target_os = "macos") && tch::utils::has_mps() {
        // Apple's GPU uses main memory: the owner's share is halved between the two, not given twice.
        let half = Bytes(memory.0 / 2);
        devices[0].memory = half;
        devices.push(Device { name: "mps0".into(), class: DeviceClass::Mps, attributes, memory: half });
    }
    devices
}

/// Every device: [`list`], and the GPUs that libtorch can use, which a process of `worker_program` is asked for.
pub async fn probe(worker_program: &Path, share: u8) -> Vec<Device> {
    let mut devices = list(share);
    let gpus = cuda::gpus();
    if gpus.is_empty() {
        return devices;
    }
    match ask::<usize>(worker_program, &["worker", "--probe"]).await {
        Ok(usable) => devices.extend(gpus.into_iter().take(usable).enumerate().map(|(index, gpu)| Device {
            name: format!("cuda{index}"),
            class: DeviceClass::Cuda,
            attributes: BTreeMap::from([("model".to_owned(), gpu.name)]),
            memory: part(gpu.total, share),
        })),
        Err(error) => tracing::warn!(%error, "there are GPUs, but libtorch cannot be asked whether it can use them"),
    }
    devices
}

fn part(total: u64, share: u8) -> Bytes {
    Bytes((u128::from(total) * u128::from(share.min(100)) / 100) as u64)
}

/// Memory of a device that is free now, whoever uses the rest; at most the owner's share.
pub fn free_memory(device: &Device) -> Bytes {
    let free = match device.class {
        DeviceClass::Cpu | DeviceClass::Mps => {
            let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
            System::new_with_specifics(kinds).available_memory()
        }
        DeviceClass::Cuda => {
            let index = device.name.trim_start_matches("cuda").parse::<usize>().ok();
            index.and_then(|index| cuda::gpus().get(index).map(|gpu| gpu.free)).unwrap_or(0)
        }
    };
    Bytes(free).min(device.memory)
}

/// Measures this machine's processor, memory and disk once (at most a second, libtorch's start apart), in a process of
/// `worker_program`. The file it reads back lies in the system's temporary folder.
pub async fn measure(worker_program: &Path) -> anyhow::Result<Measured> {
    let figures: Figures = ask(worker_program, &["worker", "--measure"]).await?;
    let Figures { gigaflops, memory_bandwidth, load_bandwidth } = figures;
    Ok(Measured { gigaflops, memory_bandwidth, load_bandwidth })
}

/// What the walls around this machine's models consist of, from a process of `worker_program` that puts itself behind them.
///
/// # Errors
/// The kernel refuses what it offers, so that no model can be loaded here either; or the process cannot be started.
pub async fn sandbox(worker_program: &Path) -> anyhow::Result<Sandbox> {
    ask(worker_program, &["worker", "--sandbox"]).await
}

async fn ask<T: serde::de::DeserializeOwned>(program: &Path, args: &[&str]) -> anyhow::Result<T> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("a worker process does not answer")?;
    let output = output.context("a worker process cannot be started")?;
    if !output.status.success() {
        bail!("a worker process ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("a worker process answered nonsense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_processor_with_memory() {
        let all = list(100);
        let half = list(DEFAULT_SHARE);
        assert_eq!((half[0].name.as_str(), half[0].class), ("cpu0", DeviceClass::Cpu));
        assert!(half[0].memory > Bytes::mebi(100));
        assert_eq!(half[0].memory.0, all[0].memory.0 / 2);
        assert!(free_memory(&half[0]) <= half[0].memory);
        assert!(free_memory(&half[0]) > Bytes(0));
    }
}
