//! What this machine is, measured once.
//!
//! in → the devices and the owner's limits · out → what Hello says of them · invariant: the measuring is repeated only when
//! the hardware changes.

use crate::config::Config;
use crate::engine::Sandbox;
use crate::{device, files};
use nightshift_types::{Bytes, Device, Measured};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use tracing::{info, warn};

/// Devices and speed.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// With the memory that the owner lets us use.
    pub devices: Vec<Device>,
    /// How fast.
    pub measured: Measured,
    /// What a device has free now.
    pub free_memory: fn(&Device) -> Bytes,
    /// The walls around models.
    pub sandbox: Sandbox,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    hardware: String,
    gigaflops: u64,
    memory_bandwidth: u64,
    load_bandwidth: u64,
}

impl Hardware {
    /// Lists the devices and measures them, or remembers what was measured.
    pub async fn detect(config: &Config, worker_program: &Path, sandbox: Sandbox) -> Self {
        let devices = devices(worker_program, config.memory_share, config.memory).await;
        for device in &devices {
            info!(name = device.name, class = %device.class, memory = %device.memory.human(), "offers a device");
        }
        let file = config.data_dir.join("measured.json");
        let fingerprint = fingerprint(&devices);
        let measured = match remembered(&file, &fingerprint) {
            Some(measured) => measured,
            None => measure(&file, &fingerprint, worker_program).await,
        };
        Self { devices, measured, free_memory: device::free_memory, sandbox }
    }
}

/// The devices, with what the owner lets us use of their memory: a part in percent, and at most so much.
pub async fn devices(worker_program: &Path, share: u8, most: Option<Bytes>) -> Vec<Device> {
    let mut devices = device::probe(worker_program, share).await;
    for device in &mut devices {
        device.memory = device.memory.min(most.unwrap_or(device.memory));
    }
    devices
}

/// Changes with the hardware, not with the owner's limits.
fn fingerprint(devices: &[Device]) -> String {
    let mut hasher = Sha256::new();
    for device in devices {
        hasher.update(format!("{}\0{}\0{:?}\0", device.name, device.class, device.attributes));
    }
    hex::encode(hasher.finalize())
}

fn remembered(file: &Path, fingerprint: &str) -> Option<Measured> {
    let text = files::read_optional(file).ok()??;
    let stored: Stored = serde_json::from_str(&text).ok()?;
    let Stored { hardware, gigaflops, memory_bandwidth, load_bandwidth } = stored;
    (hardware == fingerprint).then_some(Measured { gigaflops, memory_bandwidth, load_bandwidth })
}

async fn measure(file: &Path, fingerprint: &str, worker_program: &Path) -> Measured {
    let measured = match device::measure(worker_program).await {
        Ok(measured) => measured,
        Err(error) => {
            warn!(
                error = format!("{error:#}"),
                "this machine could not be measured; it is tried again at the next start"
            );
            return Measured::default();
        }
    };
    let Measured { gigaflops, memory_bandwidth, load_bandwidth } = measured;
    info!(gigaflops, memory_bandwidth, load_bandwidth, "measured this machine");
    let stored = Stored { hardware: fingerprint.into(), gigaflops, memory_bandwidth, load_bandwidth };
    let text = serde_json::to_vec(&stored).unwrap_or_default();
    if let Err(error) = files::write_atomic(file, &[&text]) {
        warn!(%error, file = %file.display(), "the measurement could not be kept");
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_the_hardware_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("measured.json");
        let mut devices = vec![Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() }];
        let before = fingerprint(&devices);
        devices[0].memory = Bytes::gibi(2);
        assert_eq!(fingerprint(&devices), before);
        std::fs::write(
            &file,
            format!(r#"{{"hardware":"{before}","gigaflops":5,"memory_bandwidth":1,"load_bandwidth":2}}"#),
        )
        .unwrap();
        assert_eq!(remembered(&file, &before).unwrap().gigaflops, 5);
        devices[0].attributes.insert("model".into(), "other".into());
        assert_eq!(remembered(&file, &fingerprint(&devices)), None);
    }
}
