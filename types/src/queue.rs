//! Who may spend what: the domain form of a TenantQueue.

use crate::units::{Bytes, Milliseconds, PicoPoints, Timestamp};
use std::fmt;
use std::str::FromStr;

/// Weight of a queue that says none, and of a queue without an object.
pub const DEFAULT_WEIGHT: u32 = 1;
/// The heaviest: a queue never gets more than this many times another's share.
pub const MOST_WEIGHT: u32 = 10_000;

/// Whether a queue's tasks may start and go on. Kueue's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum StopPolicy {
    /// They may.
    #[default]
    None,
    /// Nothing starts; what runs ends.
    Hold,
    /// Nothing starts, and what runs is stopped and waits again.
    HoldAndDrain,
}

/// What a queue's users pay with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum QueueTier {
    /// Takes what paying queues leave, and never less than the ageing bound promises.
    Free,
    /// Goes first.
    #[default]
    Paid,
}

macro_rules! words {
    ($name:ident: $($word:ident),*) => {
        impl $name {
            /// The CamelCase word of the API.
            pub fn as_str(self) -> &'static str { match self { $(Self::$word => stringify!($word),)* } }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                let known = [$(stringify!($word)),*].join(", ");
                match s { $(stringify!($word) => Ok(Self::$word),)* other => Err(format!("{other:?} is none of {known}")) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words!(StopPolicy: None, Hold, HoldAndDrain);
words!(QueueTier: Free, Paid);

/// What a queue's running tasks may hold together; unset: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Tasks running at once.
    pub tasks: Option<u32>,
    /// Device memory they hold at once.
    pub device_memory: Option<Bytes>,
}

/// What the operator grants a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantQueue {
    /// Share among the queues that have tasks waiting, 1 to [`MOST_WEIGHT`].
    pub weight: u32,
    /// Who goes first.
    pub tier: QueueTier,
    /// Whether anything may start.
    pub stop: StopPolicy,
    /// What it may hold at once.
    pub quota: Quota,
    /// Highest ask its jobs may accept, points an hour; a job's own limit may only be lower.
    pub max_price_per_hour: Option<PicoPoints>,
    /// Priority of its jobs that name none.
    pub default_priority: i32,
}

impl Default for TenantQueue {
    fn default() -> Self {
        Self {
            weight: DEFAULT_WEIGHT,
            tier: QueueTier::default(),
            stop: StopPolicy::default(),
            quota: Quota::default(),
            max_price_per_hour: None,
            default_priority: 0,
        }
    }
}

/// What a queue used counts half after this long: ten minutes, long beside a task and short beside a working day.
pub const USAGE_HALF_LIFE: Milliseconds = Milliseconds(600_000);
/// Usage shrinks once a second, by the 866th part of it, rounded up: by half in 599.9 s.
const DECAY_STEP_MS: u64 = 1_000;
const DECAY_PART: u64 = 866;

/// What is left of `usage` after `elapsed`: exponential decay with a half-life of [`USAGE_HALF_LIFE`], in whole
/// seconds. Integers alone, so that it is the same everywhere; everything is gone after at most 40,000 s.
pub fn decayed(usage: u64, elapsed: Milliseconds) -> u64 {
    let mut left = usage;
    for _ in 0..elapsed.0 / DECAY_STEP_MS {
        if left == 0 {
            break;
        }
        left -= left.div_ceil(DECAY_PART);
    }
    left
}

/// Work a queue had placed, in milliseconds of reference time, older work counting less. It is the same whenever and
/// however often it is read between two additions: the seconds of the leader's clock are what it decays by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    amount: u64,
    as_of: Timestamp,
}

impl Usage {
    /// What counts of it at `now`, milliseconds; a `now` before the last addition counts as that.
    pub fn at(self, now: Timestamp) -> u64 {
        let step = |moment: Timestamp| Timestamp(moment.0 - moment.0 % DECAY_STEP_MS);
        decayed(self.amount, step(now).since(step(self.as_of)))
    }

    /// What it is made of: an amount, and as of when.
    pub fn parts(self) -> (u64, Timestamp) {
        (self.amount, self.as_of)
    }

    /// The same again.
    pub fn from_parts(amount: u64, as_of: Timestamp) -> Self {
        Self { amount, as_of }
    }

    /// A task was placed: its reference time, at least a millisecond.
    pub fn add(&mut self, reference: Milliseconds, now: Timestamp) {
        self.amount = self.at(now).saturating_add(reference.0.max(1));
        self.as_of = self.as_of.max(now);
    }

    /// A task ended before its time: that much of its reference time counts as never placed.
    pub fn take_back(&mut self, reference: Milliseconds, now: Timestamp) {
        self.amount = self.at(now).saturating_sub(reference.0);
        self.as_of = self.as_of.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_is_left_after_a_half_life() {
        let left = decayed(1_000_000_000, USAGE_HALF_LIFE);
        assert!((499_000_000..=500_000_000).contains(&left), "{left}");
        assert_eq!(decayed(u64::MAX, Milliseconds(40_000_000)), 0);
        assert_eq!(decayed(7, Milliseconds(999)), 7);
        assert_eq!(decayed(7, Milliseconds(3_000)), 4);
    }

    proptest! {
        /// Usage is a fact of the clock, not of who looked at it when.
        #[test]
        fn looking_does_not_change_usage(
            additions in prop::collection::vec((0u64..5_000, 0u64..100_000), 1..20), later in 0u64..2_000_000,
        ) {
            let (mut once, mut often, mut now) = (Usage::default(), Usage::default(), Timestamp(12_345));
            for (gap, reference) in additions {
                let between = Timestamp(now.0 + gap / 2);
                often = Usage { amount: often.at(between), as_of: between };
                now = Timestamp(now.0 + gap);
                once.add(Milliseconds(reference), now);
                often.add(Milliseconds(reference), now);
            }
            let end = Timestamp(now.0 + later);
            prop_assert_eq!(once.at(end), often.at(end));
            prop_assert!(once.at(Timestamp(end.0 + 1_000)) < once.at(end).max(1));
        }

        #[test]
        fn more_usage_stays_more(a: u64, more: u64, elapsed in 0u64..3_000_000) {
            let b = a.saturating_add(more);
            prop_assert!(decayed(a, Milliseconds(elapsed)) <= decayed(b, Milliseconds(elapsed)));
        }
    }

    #[test]
    fn words_round_trip() {
        for word in [StopPolicy::None, StopPolicy::Hold, StopPolicy::HoldAndDrain] {
            assert_eq!(word.as_str().parse(), Ok(word));
        }
        for word in [QueueTier::Free, QueueTier::Paid] {
            assert_eq!(word.as_str().parse(), Ok(word));
        }
        assert_eq!("Nope".parse::<QueueTier>(), Err("\"Nope\" is none of Free, Paid".into()));
    }
}
