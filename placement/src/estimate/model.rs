//! In: how long runs of one model took on its devices, against the prior → out: its own [`Correction`] and [`Percentile`].
//! Invariant: constant size; all nodes of an owner together weigh as much as those of any other.

use super::conformal::{Calibration, LEAST};
use super::factor::{Correction, OCTAVE, Octaves, Percentile, clamp};
use super::window::{Window, median, shrink};
use super::{ModelEstimate, settled};

/// Devices of which a model knows its own times: those it ran on last.
const DEVICES: usize = 32;
/// Last runs of the model on each.
const RUNS: usize = 8;
/// Of an owner's devices all together.
const WEIGHT: u32 = 1 << 20;
/// Octaves that a model may be off its prior, up and down.
const REACH: Octaves = 12 * OCTAVE;
/// More runs than this make its correction no surer.
const SURE: usize = 64;

/// One model.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    devices: Vec<Seen>,
    runs: usize,
    uses: u64,
    calibration: Calibration,
    service: Octaves,
    percentile: Option<Percentile>,
}

/// A device that ran it.
#[derive(Debug, Clone)]
struct Seen {
    device: u64,
    owner: u64,
    used: u64,
    /// log2 of what runs took ÷ the prior.
    runs: Window<RUNS>,
    /// Their median less the device's own correction: what the model has to answer for.
    level: Octaves,
}

impl Model {
    /// A run took `surprise` against the prior on `device`, which has its `own` correction. What the runs on other owners'
    /// devices say of the model, if there are any; on the other devices, where there is but one owner.
    pub fn observe(
        &mut self,
        device: u64,
        owner: u64,
        surprise: Octaves,
        own: Octaves,
        alone: bool,
    ) -> Option<Octaves> {
        let others = self.level(|seen| if alone { seen.device != device } else { seen.owner != owner });
        let at = self.devices.iter().position(|seen| seen.device == device).unwrap_or_else(|| self.make_room());
        self.uses += 1;
        let fresh = || Seen { device, owner, used: 0, runs: Window::default(), level: 0 };
        if at == self.devices.len() {
            self.devices.push(fresh());
        } else if self.devices[at].device != device {
            self.devices[at] = fresh();
        }
        let seen = &mut self.devices[at];
        (seen.owner, seen.used) = (owner, self.uses);
        seen.runs.push(surprise);
        seen.level = clamp(i32::from(seen.runs.median()) - i32::from(own));
        self.runs += 1;
        let level = self.level(|_| true).unwrap_or(0);
        self.service = settled(self.service, shrink(level, self.runs).clamp(-REACH, REACH));
        others
    }

    /// Nothing ran for a while: the older half is forgotten. False: nothing is left.
    pub fn forget(&mut self) -> bool {
        self.devices.retain_mut(|seen| {
            let own = i32::from(seen.runs.median()) - i32::from(seen.level);
            seen.runs.forget();
            seen.level = clamp(i32::from(seen.runs.median()) - own);
            seen.runs.len() > 0
        });
        self.runs = if self.devices.is_empty() { 0 } else { self.runs.min(SURE) / 2 };
        let level = self.level(|_| true).unwrap_or(0);
        self.service = settled(self.service, shrink(level, self.runs).clamp(-REACH, REACH));
        self.calibration.forget();
        self.percentile = self.calibration.percentile();
        !self.devices.is_empty() || self.calibration.len() > 0
    }

    /// Where a device of which nothing is known goes.
    fn make_room(&self) -> usize {
        if self.devices.len() < DEVICES {
            return self.devices.len();
        }
        let oldest = self.devices.iter().enumerate().min_by_key(|(_, seen)| seen.used);
        oldest.map_or(0, |(at, _)| at)
    }

    /// The median over devices; each owner's share their owner's weight.
    fn level(&self, counts: impl Fn(&Seen) -> bool) -> Option<Octaves> {
        let of = |owner: u64| self.devices.iter().filter(|seen| counts(seen) && seen.owner == owner).count();
        let counted = self.devices.iter().filter(|seen| counts(seen));
        let mut pairs: Vec<(Octaves, u32)> =
            counted.map(|seen| (seen.level, WEIGHT / of(seen.owner).max(1) as u32)).collect();
        median(&mut pairs)
    }

    /// A run's whole took `ratio` of what was expected.
    pub fn calibrate(&mut self, ratio: Octaves, within: bool, owner: u64) {
        self.calibration.push(ratio, within, owner);
        if let Some(percentile) = self.calibration.percentile() {
            let near =
                self.percentile.is_some_and(|known| known.parts().abs_diff(percentile.parts()) * 64 <= known.parts());
            if !near {
                self.percentile = Some(percentile);
            }
        }
    }

    /// Whether it has too few runs for a percentile of its own.
    pub fn is_new(&self) -> bool {
        self.calibration.len() < LEAST
    }

    /// What it is corrected by, in octaves.
    pub fn service(&self) -> Octaves {
        self.service
    }

    /// What decisions read; `else_p95` until it has a percentile of its own.
    pub fn estimate(&self, else_p95: Percentile) -> ModelEstimate {
        ModelEstimate { service: Correction::of(self.service), p95: self.percentile.unwrap_or(else_p95) }
    }

    /// Runs and devices it was seen in, for people.
    pub fn seen(&self) -> (usize, usize) {
        (self.runs, self.devices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_of_many_moves_little_and_one_owner_weighs_as_any_other() {
        let mut model = Model::default();
        for run in 0..400u64 {
            model.observe(run % 10, run % 10, 256, 0, false);
        }
        let honest = model.service();
        assert!((240..=256).contains(&honest));
        // One node, ten times as often as all others together, far off.
        for _ in 0..4_000 {
            model.observe(3, 3, -4_000, 0, false);
        }
        assert!((240..=256).contains(&model.service()));
        // Its owner joins with twenty more.
        for run in 0..4_000 {
            model.observe(100 + run % 20, 3, -4_000, 0, false);
        }
        assert!((240..=256).contains(&model.service()), "{}", model.service());
        assert_eq!(model.seen().1, 30);
    }

    #[test]
    fn a_device_is_measured_against_others_alone() {
        let mut model = Model::default();
        assert_eq!(model.observe(1, 1, 700, 0, false), None);
        assert_eq!(model.observe(2, 1, 100, 0, false), None, "its owner's other devices are no witnesses");
        assert_eq!(model.observe(2, 1, 100, 0, true), Some(700), "but where there are none but his");
        assert_eq!(model.observe(3, 2, 0, 0, false), Some(400));
    }

    #[test]
    fn devices_are_bounded() {
        let mut model = Model::default();
        for run in 0..1_000 {
            model.observe(run, run, 0, 0, false);
        }
        assert_eq!(model.seen(), (1_000, DEVICES));
    }
}
