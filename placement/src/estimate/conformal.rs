//! In: how long runs took, each as a part of what was expected → out: the factor that 95 of 100 stay within.
//! Invariant: constant size; with too few runs there is no factor.
//!
//! Split conformal prediction: of n runs and one more, exchangeable with them, the last is within the ⌈(n + 1) × 0.95⌉-th
//! smallest of the n with a probability of at least 0.95, whatever their distribution (Papadopoulos et al.: "Inductive
//! Confidence Machines for Regression", 2002; Lei et al.: "Distribution-Free Predictive Inference for Regression", 2018).
//! Runs are not exchangeable where machines change, so only the last [`WINDOW`] count, and the level itself follows what
//! comes: a breach raises it, a run within lowers it (Gibbs and Candès: "Adaptive Conformal Inference Under Distribution
//! Shift", 2021: over T runs the share within is off by at most about 1 ÷ (step × T), as long as the level has room).

use super::factor::{Octaves, Percentile};

/// Runs that count.
const WINDOW: usize = 256;
/// With fewer no rank is high enough for 95 of 100.
pub(super) const LEAST: usize = 19;
/// Levels, in ten thousandths.
const GOAL: u32 = 9_500;
const LOWEST: u32 = 9_000;
const HIGHEST: u32 = 9_950;
/// How far a breach raises the level; a run within lowers it by a nineteenth.
const STEP: u32 = 95;

/// Runs of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calibration {
    ratios: Vec<Octaves>,
    next: usize,
    level: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { ratios: Vec::new(), next: 0, level: GOAL }
    }
}

impl Calibration {
    /// A run took `ratio` of what was expected, and was or was not within its predicted percentile.
    pub fn push(&mut self, ratio: Octaves, within: bool) {
        if self.ratios.len() < WINDOW {
            self.ratios.push(ratio);
        } else {
            self.ratios[self.next] = ratio;
        }
        self.next = (self.next + 1) % WINDOW;
        if self.ratios.len() >= LEAST {
            self.level = if within { self.level - STEP / 19 } else { self.level + STEP }.clamp(LOWEST, HIGHEST);
        }
    }

    /// Runs that count.
    pub fn len(&self) -> usize {
        self.ratios.len()
    }

    /// `None` with fewer than [`LEAST`] runs.
    pub fn percentile(&self) -> Option<Percentile> {
        let n = self.ratios.len();
        if n < LEAST {
            return None;
        }
        let rank = ((n + 1) * self.level as usize).div_ceil(10_000).min(n);
        let mut sorted = self.ratios.clone();
        let (_, ratio, _) = sorted.select_nth_unstable(rank - 1);
        // Logarithms are rounded down.
        Some(Percentile::of(ratio.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_has_its_finite_sample_correction() {
        let mut runs = Calibration::default();
        (0..18).for_each(|run| runs.push(run, true));
        assert_eq!(runs.percentile(), None);
        // Of 19 the largest: ⌈20 × 0.95⌉ = 19.
        runs.push(300, true);
        assert_eq!(runs.percentile(), Some(Percentile::of(301)));
    }

    #[test]
    fn the_level_makes_up_for_what_drifts() {
        let mut runs = Calibration::default();
        let mut within = 0;
        for run in 0..3_000i32 {
            // Runs get longer and longer: ranks of the past alone are too low.
            let ratio = (run / 8 + run * 7_919 % 161) as Octaves;
            let inside = runs.percentile().is_none_or(|p| Percentile::of(ratio) <= p);
            within += usize::from(inside);
            runs.push(ratio, inside);
        }
        assert!((2_820..=2_900).contains(&within), "{within} of 3,000");
    }
}
