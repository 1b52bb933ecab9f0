//! What this machine computes on, and how fast.

use nightshift_types::{Bytes, Device, Measured};
use std::path::Path;

/// This machine's devices; `share` is the part of each device's memory, in percent, that the owner lets Nightshift use.
pub fn list(share: u8) -> Vec<Device> {
    let _ = share;
    Vec::new()
}

/// Memory of a device that is free now, whoever uses the rest; at most the owner's share.
pub fn free_memory(device: &Device) -> Bytes {
    device.memory
}

/// Measures this machine once (at most a second), in a worker process of `worker_program`.
pub async fn measure(worker_program: &Path) -> anyhow::Result<Measured> {
    let _ = worker_program;
    anyhow::bail!("not yet")
}
