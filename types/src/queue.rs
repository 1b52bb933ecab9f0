//! Who may spend what: the domain form of a TenantQueue.

use crate::units::{Bytes, PicoPoints};
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

#[cfg(test)]
mod tests {
    use super::*;

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
