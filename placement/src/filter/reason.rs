//! In: a failed filter → out: its reason, with the numbers of the miss.
//! Invariant: the order of [`ReasonKind`] is the order of the filters, and never changes a variant's word.

use crate::view::Unavailable;
use nightshift_types::{Bytes, Milliseconds, PicoPoints, Reputation, TrustTier};
use std::fmt;

/// Why a device does not fit; a node's reason is that of its device which came furthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The operator wants nothing new on the node.
    Unschedulable,
    /// Not connected, or not yet announced to this leader.
    NotReady,
    /// Connected, but takes no work just now.
    Unavailable(Unavailable),
    /// Trusted less than the job demands.
    TrustTier {
        /// The job's least tier.
        need: TrustTier,
        /// The node's.
        has: TrustTier,
    },
    /// Its work has earned less trust than the job demands.
    Reputation {
        /// The job's least reputation.
        need: Reputation,
        /// The node's.
        has: Reputation,
    },
    /// No device of a class that the model runs on.
    DeviceClass,
    /// A label of `nodeSelector` is missing or different.
    NodeSelector,
    /// Tainted, and not tolerated.
    Taint {
        /// How many taints the job does not tolerate.
        untolerated: usize,
    },
    /// Outside the job's regions.
    Region,
    /// The device is too small, even empty.
    MemoryTotal {
        /// What the task needs.
        need: Bytes,
        /// What the device has.
        largest: Bytes,
        /// What of it is free.
        free: Bytes,
    },
    /// The device is large enough, but not now.
    MemoryFree {
        /// What the task needs.
        need: Bytes,
        /// What is free.
        free: Bytes,
    },
    /// As many attempts as it may hold.
    Slots {
        /// Attempts on it.
        running: u32,
        /// Attempts it may hold.
        slots: u32,
    },
    /// Asks more than `maxPricePerHour`.
    Price {
        /// The job's limit.
        limit: PicoPoints,
        /// The node's ask.
        ask: PicoPoints,
    },
    /// Its quote is more than what is left of `maxCost`.
    Cost {
        /// What is left.
        left: PicoPoints,
        /// The quote.
        quote: PicoPoints,
    },
    /// Later than `maxLatencyMilliseconds` even with nothing else to do.
    TooSlow {
        /// The job's limit.
        limit: Milliseconds,
        /// Predicted 95th percentile as of now.
        p95: Milliseconds,
    },
    /// In time when idle, but not now.
    TooBusy {
        /// The job's limit.
        limit: Milliseconds,
        /// Predicted 95th percentile as of now.
        p95: Milliseconds,
    },
}

impl Reason {
    /// Its kind, without the numbers.
    pub fn kind(&self) -> ReasonKind {
        use ReasonKind as K;
        match self {
            Self::Unschedulable => K::Unschedulable,
            Self::NotReady => K::NotReady,
            Self::Unavailable(Unavailable::OwnerActive) => K::OwnerActive,
            Self::Unavailable(Unavailable::OutsideWindow) => K::OutsideWindow,
            Self::Unavailable(Unavailable::OnBattery) => K::OnBattery,
            Self::Unavailable(Unavailable::Hot) => K::Hot,
            Self::Unavailable(Unavailable::Draining) => K::Draining,
            Self::Unavailable(Unavailable::Parked) => K::Parked,
            Self::TrustTier { .. } => K::TrustTier,
            Self::Reputation { .. } => K::Reputation,
            Self::DeviceClass => K::DeviceClass,
            Self::NodeSelector => K::NodeSelector,
            Self::Taint { .. } => K::Taint,
            Self::Region => K::Region,
            Self::MemoryTotal { .. } => K::MemoryTotal,
            Self::MemoryFree { .. } => K::MemoryFree,
            Self::Slots { .. } => K::Slots,
            Self::Price { .. } => K::Price,
            Self::Cost { .. } => K::Cost,
            Self::TooSlow { .. } => K::TooSlow,
            Self::TooBusy { .. } => K::TooBusy,
        }
    }

    /// Of two devices' reasons the one that came further; of one kind, the smaller miss.
    pub fn nearer(self, other: Self) -> Self {
        let order = self.kind().cmp(&other.kind()).then_with(|| match (self, other) {
            (Self::MemoryTotal { largest: a, .. }, Self::MemoryTotal { largest: b, .. }) => a.cmp(&b),
            (Self::MemoryFree { free: a, .. }, Self::MemoryFree { free: b, .. }) => a.cmp(&b),
            (Self::TooSlow { p95: a, .. }, Self::TooSlow { p95: b, .. }) => b.cmp(&a),
            (Self::TooBusy { p95: a, .. }, Self::TooBusy { p95: b, .. }) => b.cmp(&a),
            _ => std::cmp::Ordering::Equal,
        });
        if order.is_lt() { other } else { self }
    }
}

/// What a failed filter says of the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Passes by itself: work ends, an owner leaves.
    Passing,
    /// The job's own limit on money.
    Money,
    /// A static fact: waiting does not help.
    Lasting,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $class:ident;)*) => {
        /// Kinds of [`Reason`] in the filters' fixed order; the words stand in statuses and metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ReasonKind { $($(#[$doc])* $name,)* }
        impl ReasonKind {
            /// Every kind, in order.
            pub const ALL: &[ReasonKind] = &[$(Self::$name,)*];
            /// The CamelCase word.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
            /// Whether waiting helps.
            pub fn class(self) -> Class { match self { $(Self::$name => Class::$class,)* } }
        }
    };
}

kinds! {
    /// The operator wants nothing new on the node.
    Unschedulable => Passing;
    /// Not connected, or not yet announced.
    NotReady => Passing;
    /// Its owner uses it.
    OwnerActive => Passing;
    /// Outside the hours its owner offers.
    OutsideWindow => Passing;
    /// On battery.
    OnBattery => Passing;
    /// Too hot.
    Hot => Passing;
    /// Leaving.
    Draining => Passing;
    /// Set aside after failures or a refusal.
    Parked => Passing;
    /// Trusted too little.
    TrustTier => Lasting;
    /// Its work has earned too little trust.
    Reputation => Lasting;
    /// No device of an accepted class.
    DeviceClass => Lasting;
    /// Labels differ.
    NodeSelector => Lasting;
    /// Tainted.
    Taint => Lasting;
    /// Elsewhere.
    Region => Lasting;
    /// Too small.
    MemoryTotal => Lasting;
    /// Too full.
    MemoryFree => Passing;
    /// Too many attempts.
    Slots => Passing;
    /// Too dear an hour.
    Price => Money;
    /// Too dear for what is left.
    Cost => Money;
    /// Too slow, even idle.
    TooSlow => Lasting;
    /// Too slow for now.
    TooBusy => Passing;
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
