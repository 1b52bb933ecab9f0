//! In: how long runs took, each as a part of what was expected → out: the factor that 95 of 100 stay within.
//! Invariant: constant size; with too few runs there is no factor.
//!
//! Split conformal prediction: of n runs and one more, exchangeable with them, the last is within the ⌈(n + 1) × 0.95⌉-th
//! smallest of the n with a probability of at least 0.95, whatever their distribution (Papadopoulos et al.: "Inductive
//! Confidence Machines for Regression", 2002; Lei et al.: "Distribution-Free Predictive Inference for Regression", 2018).
//! Runs are not exchangeable where machines change, so only the last [`WINDOW`] count, and the level itself follows what
//! comes: a breach raises it, a run within lowers it (Gibbs and Candès: "Adaptive Conformal Inference Under Distribution
//! Shift", 2021: over T runs the share within is off by at most about 1 ÷ (step × T), as long as the level has room).
//!
//! Of several owners none has more breaches in the window than [`BREACHES`], or than a tenth of its own runs. So one whose
//! nodes dawdle now and then does not make a model look slow on everybody's; what slows down all of them does.

use super::factor::{Octaves, Percentile};
use std::collections::VecDeque;

/// Runs that count.
const WINDOW: usize = 256;
/// Breaches of one owner among them: 2 of 100, well below the 5 that decide.
const BREACHES: usize = 5;
/// With fewer no rank is high enough for 95 of 100.
pub(super) const LEAST: usize = 19;
/// Levels, in ten thousandths.
const GOAL: u32 = 9_500;
const LOWEST: u32 = 9_000;
const HIGHEST: u32 = 9_950;
/// How far a breach raises the level; a run within lowers it by a nineteenth.
const STEP: u32 = 95;

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// What it took of what was expected.
    ratio: Octaves,
    within: bool,
    /// Whose node it was.
    owner: u32,
}

/// Runs of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calibration {
    /// By age, the oldest first.
    runs: VecDeque<Run>,
    level: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { runs: VecDeque::new(), level: GOAL }
    }
}

impl Calibration {
    /// A run on a node of `owner` took `ratio` of what was expected, and was or was not within its predicted percentile.
    pub fn push(&mut self, ratio: Octaves, within: bool, owner: u64) {
        let owner = owner as u32;
        if !within && self.is_beyond(owner) {
            // It raises the owner's least breach, which keeps its age: so what lasts is learned all the same.
            let own = self.runs.iter_mut().filter(|run| run.owner == owner && !run.within);
            if let Some(least) = own.min_by_key(|run| run.ratio) {
                least.ratio = least.ratio.max(ratio);
            }
            return;
        }
        if self.runs.len() >= WINDOW {
            self.runs.pop_front();
        }
        self.runs.push_back(Run { ratio, within, owner });
        if self.runs.len() >= LEAST {
            self.level = if within { self.level - STEP / 19 } else { self.level + STEP }.clamp(LOWEST, HIGHEST);
        }
    }

    /// The older half is forgotten, and half of what the level learned.
    pub fn forget(&mut self) {
        self.runs.drain(..self.runs.len().div_ceil(2));
        self.level = (self.level + GOAL) / 2;
    }

    /// Whether one more breach of this owner is too many.
    fn is_beyond(&self, owner: u32) -> bool {
        let own = || self.runs.iter().filter(|run| run.owner == owner);
        let (runs, breaches) = (own().count(), own().filter(|run| !run.within).count());
        self.runs.len() >= LEAST && runs < self.runs.len() && breaches >= BREACHES.max(runs / 10)
    }

    /// Runs that count.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// `None` with fewer than [`LEAST`] runs.
    pub fn percentile(&self) -> Option<Percentile> {
        let n = self.runs.len();
        if n < LEAST {
            return None;
        }
        let rank = ((n + 1) * self.level as usize).div_ceil(10_000).min(n);
        let mut sorted: Vec<Octaves> = self.runs.iter().map(|run| run.ratio).collect();
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
        (0..18).for_each(|run| runs.push(run, true, 1));
        assert_eq!(runs.percentile(), None);
        // Of 19 the largest: ⌈20 × 0.95⌉ = 19.
        runs.push(300, true, 1);
        assert_eq!(runs.percentile(), Some(Percentile::of(301)));
    }

    #[test]
    fn an_owner_of_many_decides_little() {
        let mut runs = Calibration::default();
        for run in 0..4_000u64 {
            // Half of the runs are one owner's, and twenty times too long; the others' spread over a fifth of an octave.
            let (ratio, owner) = if run % 2 == 0 { (1_100, 0) } else { ((run * 7_919 % 50) as Octaves, 1 + run % 60) };
            runs.push(ratio, ratio < 100, owner);
            assert!(runs.len() <= WINDOW);
        }
        assert_eq!(runs.runs.iter().filter(|run| run.owner == 0).count(), BREACHES);
        assert!(runs.percentile().is_some_and(|found| found <= Percentile::of(51)), "{}", runs.level);
        // What slows down everybody is seen.
        (0..100).for_each(|run| runs.push(512, false, run));
        assert!(runs.percentile() >= Some(Percentile::of(512)));
    }

    #[test]
    fn what_slows_down_everybody_is_learned_however_few_owners_there_are() {
        for owners in [1, 2, 3, 12] {
            for before in [0, 30, 400] {
                let mut runs = Calibration::default();
                (0..before).for_each(|run| runs.push(0, true, run % owners));
                let slow = (0..200).filter(|run| {
                    let within = runs.percentile().is_some_and(|found| found >= Percentile::of(600));
                    runs.push(600, within, run % owners);
                    !within
                });
                let breaches = slow.count();
                assert!(breaches <= 40, "{breaches} of 200 with {owners} owners after {before} runs");
            }
        }
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
            runs.push(ratio, inside, 1);
        }
        assert!((2_820..=2_900).contains(&within), "{within} of 3,000");
    }
}
