//! In: a node, one of its devices and a task → out: what its run there should take ([`Prediction`]).
//! Invariant: integers only; more load, more bytes or a slower machine never make a prediction shorter.
//!
//! Model, version 1; every part in microseconds, rounded up:
//!
//! ```text
//! round trip   measured, control plane ↔ agent
//! wait         queued_ms ÷ slots: work already promised to the device
//! input        input bytes ÷ link bandwidth
//! fetch        model bytes ÷ link bandwidth, if the node has the file neither in memory nor on disk
//! load         model bytes ÷ load bandwidth, if the device has it not resident
//! service      reference time × REFERENCE_GIGAFLOPS ÷ the device's measured GFLOP/s, at least 1 ms
//! p95          P95_PERCENT % of the sum
//! ```
//!
//! What nobody measured is assumed, never taken as free: an unmeasured node must not win by being unknown.

use crate::filter::Ask;
use crate::view::{DeviceView, NodeView};
use nightshift_types::Bytes;

/// Single precision speed of the machine that reference times are told for, GFLOP/s: a few cores of a desktop.
pub const REFERENCE_GIGAFLOPS: u64 = 100;
/// The 95th percentile in percent of the expected time, until each node's own spread is measured.
pub const P95_PERCENT: u64 = 150;
/// Link assumed where none is measured: 1 Gbit/s, bytes a second.
pub const ASSUMED_LINK_BANDWIDTH: u64 = 125_000_000;
/// Reading of model files assumed where it is not measured, bytes a second.
pub const ASSUMED_LOAD_BANDWIDTH: u64 = 500_000_000;
/// No task is predicted to compute for less, in microseconds.
pub const LEAST_SERVICE_MICROS: u64 = 1_000;

/// What one run should take, by part. Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Prediction {
    /// Assignment down and outcome up.
    pub round_trip: u64,
    /// Until the device gets to it.
    pub wait: u64,
    /// The input's bytes.
    pub input: u64,
    /// The model's bytes, if they are not on the node.
    pub fetch: u64,
    /// The model into the device's memory, if it is not there.
    pub load: u64,
    /// Computing.
    pub service: u64,
}

impl Prediction {
    /// Expected time from dispatch to result, microseconds.
    pub fn expected(&self) -> u64 {
        [self.wait, self.input, self.fetch, self.load, self.service]
            .into_iter()
            .fold(self.round_trip, u64::saturating_add)
    }

    /// Its 95th percentile, microseconds.
    pub fn p95(&self) -> u64 {
        scale(self.expected(), P95_PERCENT, 100)
    }

    /// The same on a device with nothing to do before.
    pub fn idle(self) -> Self {
        Self { wait: 0, ..self }
    }
}

/// What `ask` on `device` of `node` should take.
pub fn predict(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Prediction {
    let spec = ask.spec;
    let link = node.link_bandwidth.filter(|&rate| rate > 0).unwrap_or(ASSUMED_LINK_BANDWIDTH);
    let read = if node.measured.load_bandwidth > 0 { node.measured.load_bandwidth } else { ASSUMED_LOAD_BANDWIDTH };
    let resident = device.warm.contains(&spec.model_digest);
    let cached = resident || node.cached.contains(&spec.model_digest);
    Prediction {
        round_trip: node.round_trip.0.saturating_mul(1_000),
        wait: scale(device.queued_ms, 1_000, u64::from(device.slots.max(1))),
        input: transfer(ask.input, link),
        fetch: if cached { 0 } else { transfer(spec.model_size, link) },
        load: if resident { 0 } else { transfer(spec.model_size, read) },
        service: service(node, device, ask),
    }
}

/// Computing time of `ask` on `device`, microseconds.
pub fn service(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> u64 {
    let measured = device.gigaflops.unwrap_or(node.measured.gigaflops);
    let speed = if measured > 0 { measured } else { REFERENCE_GIGAFLOPS };
    scale(ask.spec.reference.0, 1_000 * REFERENCE_GIGAFLOPS, speed).max(LEAST_SERVICE_MICROS)
}

fn transfer(size: Bytes, bytes_per_second: u64) -> u64 {
    scale(size.0, 1_000_000, bytes_per_second)
}

/// `amount × numerator ÷ denominator`, rounded up, stopping at the maximum.
fn scale(amount: u64, numerator: u64, denominator: u64) -> u64 {
    match amount.checked_mul(numerator) {
        Some(product) => product.div_ceil(denominator),
        None => {
            let product = u128::from(amount) * u128::from(numerator);
            u64::try_from(product.div_ceil(u128::from(denominator))).unwrap_or(u64::MAX)
        }
    }
}
