//! In: a node, one of its devices and a task → out: what its run there should take ([`Prediction`]).
//! Invariant: integers only, and no step overflows; more load, more bytes or a slower machine never make a prediction
//! shorter.
//!
//! Model, version 3; every part in nanoseconds. Rates are kept as what a unit of work costs ([`Rates`]), so that a
//! prediction is three products and a sum: that is what lets an index bound it for many nodes at once.
//!
//! ```text
//! round trip   measured, control plane ↔ agent; and what handling takes beyond it
//! wait         queued_ms ÷ slots: work already promised to the device
//! transfer     KiB × Rates::link: the input, and the model if the node has it neither in memory nor on disk
//! load         KiB × Rates::load: the model, if the device has it not resident
//! service      reference time × correction of the model × Rates::slowness, at least 1 ms
//! p95          the sum × percentile of the model
//! ```
//!
//! Corrections and percentiles come from runs that were observed ([`crate::estimate`]). A correction of the device is in
//! [`Rates::slowness`], those of a node's link, disk and handling in its view, those of a model in [`Work`]. What a task
//! costs follows from its reference time as it stands: no correction changes a price.
//!
//! Costs, and round trip and wait together, count with 24 significant bits, rounded up ([`round24`]): an index can hold
//! them as 32 bit floats, exactly, and one part in 16 million decides nothing.
//!
//! What nobody measured is assumed, never taken as free: an unmeasured node must not win by being unknown. Beyond these
//! bounds a prediction stops growing: 512 GiB of input or of model, 19 hours of reference time, 245 KB/s on the slow end
//! of a link, 49 days of round trip and of queue.

use crate::estimate::Percentile;
use crate::filter::Ask;
use crate::view::{DeviceView, NodeView};
use nightshift_types::{Bytes, Milliseconds};

/// Single precision speed of the machine that reference times are told for, GFLOP/s: a few cores of a desktop.
pub const REFERENCE_GIGAFLOPS: u64 = 100;
/// Link assumed where none is measured: 1 Gbit/s, bytes a second.
pub const ASSUMED_LINK_BANDWIDTH: u64 = 125_000_000;
/// Reading of model files assumed where it is not measured, bytes a second.
pub const ASSUMED_LOAD_BANDWIDTH: u64 = 500_000_000;
/// No task is predicted to compute for less, in nanoseconds.
pub const LEAST_SERVICE_NANOS: u64 = 1_000_000;

/// Bits that costs a unit are shifted up by: prices of a unit of work stay exact to a thousandth on fast machines.
const SHIFT: u32 = 10;
/// The largest 32 bit number of 24 significant bits.
const COST_MOST: u64 = (u32::MAX - 255) as u64;
const KIB_MOST: u64 = 1 << 29;
const REFERENCE_MICROS_MOST: u64 = 1 << 36;
const MS_MOST: u64 = u32::MAX as u64;
/// So that the product with a reference time has 64 bits.
const SLOWNESS_MOST: u64 = 1 << 27;

/// What a unit of work costs on a device: the measurements, turned over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Nanoseconds a MiB over the node's link, rounded up.
    pub link: u32,
    /// Nanoseconds a MiB from disk into the device, rounded up.
    pub load: u32,
    /// Nanoseconds of computing a microsecond of reference time, in 1,024ths, rounded up; corrected.
    pub slowness: u32,
}

impl Rates {
    /// Of a device, with what is assumed where nothing was measured.
    pub fn new(node: &NodeView, device: &DeviceView) -> Self {
        let known = |rate: u64, assumed: u64| if rate > 0 { rate } else { assumed };
        let measured = known(device.gigaflops.unwrap_or(node.measured.gigaflops), REFERENCE_GIGAFLOPS);
        let slowness = ((REFERENCE_GIGAFLOPS * 1_000) << SHIFT).div_ceil(measured);
        Self {
            link: per_mebi(known(node.link_bandwidth.unwrap_or(0), ASSUMED_LINK_BANDWIDTH)),
            load: per_mebi(known(node.measured.load_bandwidth, ASSUMED_LOAD_BANDWIDTH)),
            slowness: round24(device.correction.apply(slowness).min(SLOWNESS_MOST)) as u32,
        }
    }
}

fn per_mebi(bytes_per_second: u64) -> u32 {
    let nanos = (1_000_000_000u64 << 20).div_ceil(bytes_per_second);
    round24(nanos.min(COST_MOST)) as u32
}

/// The next number with at most 24 significant bits: what a 32 bit float holds exactly. Rises with its argument.
pub fn round24(amount: u64) -> u64 {
    let spare = (64 - amount.leading_zeros()).saturating_sub(24);
    // Saturates only next to the largest number of all.
    amount.div_ceil(1 << spare).saturating_mul(1 << spare)
}

/// Where a model is, as a device sees it; the later the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Model {
    /// To be fetched and loaded.
    Absent,
    /// On the node's disk, to be loaded.
    Cached,
    /// In the device's memory.
    Resident,
}

/// How much a task is, in the units of [`Rates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    input: u64,
    model: u64,
    reference: u64,
    corrected: u64,
    percentile: Percentile,
}

impl Work {
    /// Of a task: its input's and its model's bytes, its reference time, and what is known of its model.
    pub fn new(ask: &Ask<'_>) -> Self {
        let reference = reference_micros(ask.spec.reference);
        Self {
            input: kibi(ask.input),
            model: kibi(ask.spec.model_size),
            reference,
            corrected: ask.estimate.service.apply(reference).min(REFERENCE_MICROS_MOST),
            percentile: ask.estimate.p95,
        }
    }

    /// KiB over the link.
    fn sent(&self, model: Model) -> u64 {
        if model == Model::Absent { self.input + self.model } else { self.input }
    }

    /// KiB from disk to device.
    fn loaded(&self, model: Model) -> u64 {
        if model == Model::Resident { 0 } else { self.model }
    }

    /// KiB over the link, and from disk to device, by where the model is: absent, cached, resident.
    pub fn kibis(&self) -> [(u64, u64); 3] {
        [Model::Absent, Model::Cached, Model::Resident].map(|model| (self.sent(model), self.loaded(model)))
    }

    /// Transfer, load and service on a device with `rates`, nanoseconds: below 2^54.
    pub fn nanos(&self, rates: Rates, model: Model) -> u64 {
        self.transfer(rates, model) + self.load(rates, model) + self.service(rates)
    }

    fn transfer(&self, rates: Rates, model: Model) -> u64 {
        (self.sent(model) * u64::from(rates.link)) >> SHIFT
    }

    fn load(&self, rates: Rates, model: Model) -> u64 {
        (self.loaded(model) * u64::from(rates.load)) >> SHIFT
    }

    /// Computing time, nanoseconds.
    pub fn service(&self, rates: Rates) -> u64 {
        ((self.corrected * u64::from(rates.slowness)) >> SHIFT).max(LEAST_SERVICE_NANOS)
    }

    /// Reference time in microseconds, at most 19 hours: what prices are made of.
    pub fn reference_micros(&self) -> u64 {
        self.reference
    }

    /// The same with the model's correction, as long at most: what times are made of.
    pub fn corrected_micros(&self) -> u64 {
        self.corrected
    }

    /// The 95th percentile of its runs as a factor of the expected time.
    pub fn percentile(&self) -> Percentile {
        self.percentile
    }

    /// Every part, on a device that answers after `round_trip` and is busy for `wait` nanoseconds.
    pub fn predict(&self, round_trip: u64, wait: u64, rates: Rates, model: Model) -> Prediction {
        let (transfer, load) = (self.transfer(rates, model), self.load(rates, model));
        Prediction { round_trip, wait, transfer, load, service: self.service(rates), percentile: self.percentile }
    }
}

fn kibi(size: Bytes) -> u64 {
    size.0.div_ceil(1 << 10).min(KIB_MOST)
}

fn reference_micros(reference: Milliseconds) -> u64 {
    reference.0.saturating_mul(1_000).min(REFERENCE_MICROS_MOST)
}

/// What one run should take, by part. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Prediction {
    /// Assignment down and outcome up.
    pub round_trip: u64,
    /// Until the device gets to it.
    pub wait: u64,
    /// The input's bytes, and the model's if they are not on the node.
    pub transfer: u64,
    /// The model into the device's memory, if it is not there.
    pub load: u64,
    /// Computing.
    pub service: u64,
    /// Its 95th percentile as a factor of the whole.
    pub percentile: Percentile,
}

impl Prediction {
    /// Expected time from dispatch to result, nanoseconds; below 2^55.
    pub fn expected(&self) -> u64 {
        round24(self.round_trip + self.wait) + self.transfer + self.load + self.service
    }

    /// Its 95th percentile, nanoseconds.
    pub fn p95(&self) -> u64 {
        self.percentile.of_expected(self.expected())
    }

    /// The same on a device with nothing to do before.
    pub fn idle(self) -> Self {
        Self { wait: 0, ..self }
    }
}

/// What `ask` on `device` of `node` should take.
pub fn predict(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Prediction {
    let model = if device.warm.contains(&ask.spec.model_digest) {
        Model::Resident
    } else if node.cached.contains(&ask.spec.model_digest) {
        Model::Cached
    } else {
        Model::Absent
    };
    let wait = wait_nanos(device.queued_ms, device.slots);
    Work::new(ask).predict(round_trip_nanos(node.round_trip), wait, Rates::new(node, device), model)
}

/// There and back, nanoseconds.
pub fn round_trip_nanos(round_trip: Milliseconds) -> u64 {
    round_trip.0.min(MS_MOST) * 1_000_000
}

/// How long a device with so much promised work has before it gets to more, nanoseconds, rounded up.
pub fn wait_nanos(queued_ms: u64, slots: u32) -> u64 {
    (queued_ms.min(MS_MOST) * 1_000_000).div_ceil(u64::from(slots.max(1)))
}

/// Milliseconds of a device's own time that `ask` keeps it, rounded up.
pub fn busy_ms(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> u64 {
    Work::new(ask).service(Rates::new(node, device)).div_ceil(1_000_000)
}
