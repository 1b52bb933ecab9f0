//! In: what a run was predicted to take by part, what its agent claims, and what it took → out: what that says of one part.
//! Invariant: the edge's clock decides. A claim can account for time that the whole took; it never makes any part faster
//! than the whole allows, and it accounts for no more than [`TRUSTED`] times what was predicted of a part.
//!
//! A run speaks of the part that makes up at least half of what was expected, and of no other. What that part took lies
//! between the whole less what the claims account for, and the whole less the round trip, which is measured here. Where the
//! prediction lies between the two there was no surprise; else the nearer end is what was observed. So an agent that
//! claims to have waited, fetched or loaded for most of the time keeps its predicted speed at best.

use super::{Claims, Part};
use crate::latency::Prediction;

/// A claim of a part counts up to so many times its prediction: waits are predicted as shared by a device's slots, and
/// links vary.
const TRUSTED: u64 = 4;
/// What commits, frames and processes take: in a shorter run nothing else can be told from it. Nanoseconds.
const HANDLING: u64 = 10_000_000;

/// What one run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evidence {
    pub part: Part,
    /// Nanoseconds.
    pub observed: u64,
    /// Nanoseconds.
    pub predicted: u64,
}

/// `None`: no part makes up half of the run.
pub(super) fn evidence(predicted: &Prediction, claims: &Claims, total: u64) -> Option<Evidence> {
    let base = predicted.round_trip;
    let parts = [
        (Part::Base, base.max(HANDLING), base),
        (Part::Link, predicted.transfer, predicted.transfer),
        (Part::Load, predicted.load, predicted.load),
        (Part::Service, predicted.service, predicted.service),
    ];
    // Of equals the last.
    let (part, weight, amount) = parts.into_iter().max_by_key(|(_, weight, _)| *weight)?;
    if weight.saturating_mul(2) < predicted.expected() {
        return None;
    }
    let accounted = |claimed: u64, predicted: u64| claimed.min(predicted.saturating_mul(TRUSTED));
    let others = [
        (None, claims.wait, predicted.wait),
        (Some(Part::Link), claims.transfer, predicted.transfer),
        (Some(Part::Load), claims.load, predicted.load),
        (Some(Part::Service), claims.service, predicted.service),
    ];
    let others = others.into_iter().filter(|(other, ..)| *other != Some(part));
    let claimed = others.fold(0u64, |sum, (_, claimed, predicted)| sum + accounted(claimed, predicted));
    let most = if part == Part::Base { total } else { total.saturating_sub(base) };
    let observed = amount.clamp(most.saturating_sub(claimed), most);
    Some(Evidence { part, observed, predicted: amount })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn warm() -> Prediction {
        Prediction { round_trip: 20 * MS, transfer: 5 * MS, service: 1_000 * MS, ..Prediction::default() }
    }

    #[test]
    fn the_longest_part_has_the_surprise() {
        let claims = Claims { transfer: 5 * MS, service: 1_475 * MS, ..Claims::default() };
        let slow = evidence(&warm(), &claims, 1_500 * MS).unwrap();
        assert_eq!((slow.part, slow.observed), (Part::Service, 1_475 * MS));
        let fast = evidence(&warm(), &claims, 500 * MS).unwrap();
        assert_eq!((fast.part, fast.observed), (Part::Service, 480 * MS), "the whole, less what was measured here");
        let cold = Prediction { load: 5_000 * MS, ..warm() };
        assert_eq!(evidence(&cold, &claims, 9_000 * MS).unwrap().part, Part::Load);
        let mixed = Prediction { load: 900 * MS, wait: 900 * MS, ..warm() };
        assert_eq!(evidence(&mixed, &claims, 9_000 * MS), None);
    }

    #[test]
    fn claims_never_make_a_part_faster() {
        let busy = Prediction { wait: 300 * MS, ..warm() };
        for lie in [0, MS, 100 * MS, 1_000 * MS, u64::MAX] {
            let claims = Claims { wait: lie, transfer: lie, load: lie, service: 0 };
            // It took as long as was expected, or longer: never is it found faster than it was thought to be.
            for total in [1_325, 2_000, 60_000] {
                let found = evidence(&busy, &claims, total * MS).unwrap();
                assert!(found.observed >= found.predicted, "{lie}: {found:?}");
            }
            let found = evidence(&busy, &claims, 60_000 * MS).unwrap();
            assert!(found.observed >= 58_000 * MS, "at most 1.2 s of waiting and 20 ms on the link are believed");
            // Nor is it faster than the whole.
            assert!(evidence(&busy, &claims, 700 * MS).unwrap().observed == 680 * MS);
        }
    }

    #[test]
    fn short_runs_speak_of_handling_alone() {
        let tiny = Prediction { round_trip: 2 * MS, service: MS, ..Prediction::default() };
        let found = evidence(&tiny, &Claims { service: MS, ..Claims::default() }, 15 * MS).unwrap();
        assert_eq!((found.part, found.observed, found.predicted), (Part::Base, 14 * MS, 2 * MS));
    }
}
