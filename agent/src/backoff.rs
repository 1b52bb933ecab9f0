//! When to try again.
//!
//! in → how often it failed, a random number · out → a delay · invariant: never shorter than the least, never longer than
//! the most; agents that failed together do not come back together (full jitter).

use std::time::Duration;

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Shortest delay, and the first window.
    pub least: Duration,
    /// Longest delay.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { least: Duration::from_millis(200), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The delay after `failures` in a row; `random` is uniform in 0..1.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let window = self.least.saturating_mul(1u32 << failures.min(20)).min(self.most.max(self.least));
        self.least + (window - self.least).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_between_its_ends(failures: u32, random in 0.0f64..1.0) {
            let backoff = Backoff::default();
            let delay = backoff.delay(failures, random);
            prop_assert!(delay >= backoff.least && delay <= backoff.most);
        }
    }

    #[test]
    fn windows_double() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(400));
        assert_eq!(backoff.delay(9, 1.0), Duration::from_secs(30));
    }
}
