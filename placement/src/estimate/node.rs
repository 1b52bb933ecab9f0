//! In: how long parts of runs took on one node, against the prior → out: what it is corrected by.
//! Invariant: constant size; a device stands in for the model's surprise only as far as other nodes do not share it.

use super::factor::{Correction, OCTAVE, Octaves, clamp, octaves};
use super::window::Window;
use super::{NodeEstimate, settled};
use crate::view::MAX_DEVICES;
use nightshift_types::Milliseconds;

const RUNS: usize = 32;
/// A device is forgotten by half after so many runs on the node's others.
const PASSED_OVER: u32 = 128;
/// Octaves that a benchmark may be off the truth: it can be a lie as large as it likes, but hardly too modest.
const FASTER: Octaves = -4 * OCTAVE;
const SLOWER: Octaves = 16 * OCTAVE;
/// Deviations smaller than this are left alone, and others lessened by it: between model and device it is the model that
/// explains what both could (the soft threshold of the lasso: Tibshirani, 1996).
const THRESHOLD: i32 = 8;

/// One node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    devices: Vec<Device>,
    link: Rate,
    load: Rate,
    /// Milliseconds beyond the round trip.
    handling: Window<RUNS>,
    handled: Octaves,
}

#[derive(Debug, Clone)]
struct Device {
    name: String,
    serial: u64,
    service: Rate,
    /// Runs on the node's other devices since its last.
    passed_over: u32,
}

/// What some rate is corrected by.
#[derive(Debug, Clone, Default)]
struct Rate {
    runs: Window<RUNS>,
    now: Octaves,
}

impl Rate {
    fn observe(&mut self, surprise: Octaves) {
        self.runs.push(surprise.clamp(FASTER * 2, SLOWER));
        self.settle();
    }

    fn forget(&mut self) {
        self.runs.forget();
        self.settle();
    }

    fn settle(&mut self) {
        let found = i32::from(self.runs.shrunk());
        let lessened = found.signum() * (found.abs() - THRESHOLD).max(0);
        self.now = settled(self.now, clamp(lessened).clamp(FASTER, SLOWER));
    }
}

impl Node {
    /// The number and the correction of a device; a new number if it was not seen before. `None`: it has too many.
    pub fn device(&mut self, name: &str, next: &mut u64) -> Option<(u64, Octaves)> {
        if let Some(device) = self.devices.iter().find(|device| device.name == name) {
            return Some((device.serial, device.service.now));
        }
        if self.devices.len() >= MAX_DEVICES {
            return None;
        }
        *next += 1;
        self.devices.push(Device { name: name.to_owned(), serial: *next, service: Rate::default(), passed_over: 0 });
        Some((*next, 0))
    }

    /// A run took this against the prior, beyond what the model has to answer for.
    pub fn served(&mut self, serial: u64, surprise: Octaves) {
        for device in &mut self.devices {
            if device.serial == serial {
                device.service.observe(surprise);
                device.passed_over = 0;
            } else {
                device.passed_over += 1;
                if device.passed_over >= PASSED_OVER {
                    device.service.forget();
                    device.passed_over = 0;
                }
            }
        }
    }

    /// Bytes over the link took `observed` where `predicted` was thought, with the correction `then`.
    pub fn sent(&mut self, observed: u64, predicted: u64, then: Octaves) {
        self.link.observe(clamp(i32::from(octaves(observed, predicted)) + i32::from(then)));
    }

    /// The same of loading a model.
    pub fn loaded(&mut self, observed: u64, predicted: u64, then: Octaves) {
        self.load.observe(clamp(i32::from(octaves(observed, predicted)) + i32::from(then)));
    }

    /// A run was there and back in `observed` nanoseconds, of which the measured round trip is `measured`.
    pub fn handled(&mut self, observed: u64, measured: u64) {
        let beyond = observed.saturating_sub(measured) / 1_000_000;
        self.handling.push(Octaves::try_from(beyond).unwrap_or(Octaves::MAX));
        self.settle_handling();
    }

    /// Nothing ran for a while: the older half is forgotten. False: nothing is left.
    pub fn forget(&mut self) -> bool {
        for rate in self.devices.iter_mut().map(|device| &mut device.service).chain([&mut self.link, &mut self.load]) {
            rate.forget();
        }
        self.handling.forget();
        self.settle_handling();
        let rates = self.devices.iter().map(|device| &device.service).chain([&self.link, &self.load]);
        self.handling.len() > 0 || rates.into_iter().any(|rate| rate.runs.len() > 0)
    }

    fn settle_handling(&mut self) {
        let found = self.handling.shrunk();
        // A millisecond, or an eighth, is no news.
        if (found - self.handled).abs() > 1.max(self.handled / 8) {
            self.handled = found;
        }
    }

    /// In octaves: link and load; and milliseconds of handling.
    pub fn rates(&self) -> (Octaves, Octaves, Milliseconds) {
        (self.link.now, self.load.now, Milliseconds(self.handled.unsigned_abs().into()))
    }

    pub fn estimate(&self) -> NodeEstimate {
        let (link, load, handling) = self.rates();
        NodeEstimate { link: Correction::of(link), load: Correction::of(load), handling }
    }

    /// Of a device, in octaves.
    pub fn service(&self, name: &str) -> Octaves {
        self.devices.iter().find(|device| device.name == name).map_or(0, |device| device.service.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boastful_benchmark_is_found_out_in_a_few_runs() {
        let (mut node, mut next) = (Node::default(), 0);
        let (serial, before) = node.device("cuda0", &mut next).unwrap();
        assert_eq!((serial, before), (1, 0));
        (0..8).for_each(|_| node.served(serial, 10 * OCTAVE));
        assert!(node.service("cuda0") >= 7 * OCTAVE);
        (0..100).for_each(|_| node.served(serial, -100 * OCTAVE));
        assert_eq!((node.service("cuda0"), node.service("cpu0")), (FASTER, 0));
    }

    #[test]
    fn noise_changes_nothing_that_an_index_would_have_to_follow() {
        let (mut node, mut next) = (Node::default(), 0);
        let (serial, _) = node.device("cpu0", &mut next).unwrap();
        for run in 0..200i16 {
            node.served(serial, (run * 37 % 9) - 4);
            assert_eq!(node.service("cpu0"), 0);
        }
    }

    #[test]
    fn links_disks_and_handling() {
        let mut node = Node::default();
        for _ in 0..32 {
            node.sent(4_000, 1_000, 0);
            node.loaded(1_000, 2_000, 0);
            node.handled(30_000_000, 10_000_000);
        }
        let (link, load, handling) = node.rates();
        assert!((440..=512).contains(&link) && (-256..=-200).contains(&load), "{link} {load}");
        assert!((16..=20).contains(&handling.0), "{handling}");
        assert!((1_700..=2_000).contains(&node.estimate().load.rate(1_000)));
    }
}
