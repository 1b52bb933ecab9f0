//! In: what a decision reads of devices ([`Row`]) → out: rows side by side, column by column ([`Columns`]), and what bounds them.
//! Invariant: a bound is in no column worse than any open row below it.
//!
//! Amounts are 32 bit floats, exact: the model of [`crate::latency`] and [`crate::score`] counts them with 24 bits. So four
//! rows are looked at in one instruction, and a bound has the very numbers of the rows that made it.

use crate::latency::Rates;
use nightshift_types::{DeviceClass, Reputation, TrustTier};

/// No device.
pub(super) const NOBODY: u32 = u32::MAX;
/// What a row that takes no work has free: less than any task needs.
pub(super) const CLOSED: f32 = -1.0;

/// One device, or the best of each column of many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    /// Bytes, rounded up; [`CLOSED`] where no work is taken.
    pub free: f32,
    /// Picopoints an hour.
    pub ask: f32,
    /// Round trip and wait, nanoseconds.
    pub base: f32,
    pub link: f32,
    pub load: f32,
    pub slowness: f32,
    /// Bits of class, tier, reputation, region and taints.
    pub facts: u32,
    /// In its low half.
    pub labels: u128,
    pub models: u128,
    /// MiB.
    pub size: u32,
    /// Which device; of many one whose node's id is not above that of any other, open or not.
    pub who: u32,
}

impl Row {
    /// Bounds nothing.
    pub const EMPTY: Self = Self {
        free: CLOSED,
        ask: f32::MAX,
        base: f32::MAX,
        link: f32::MAX,
        load: f32::MAX,
        slowness: f32::MAX,
        facts: 0,
        labels: 0,
        models: 0,
        size: u32::MAX,
        who: NOBODY,
    };

    pub fn open(&self) -> bool {
        self.free >= 0.0
    }

    pub fn rates(&self) -> Rates {
        Rates { link: self.link as u32, load: self.load as u32, slowness: self.slowness as u32 }
    }
}

/// The bit of a class among [`Row::facts`].
pub(super) fn class_bit(class: DeviceClass) -> u32 {
    match class {
        DeviceClass::Cpu => 1,
        DeviceClass::Cuda => 2,
        DeviceClass::Mps => 4,
    }
}

/// Bits of every class.
pub(super) const CLASSES: u32 = 0x7;

/// The bit that asks for at least a tier.
pub(super) fn tier_bit(tier: TrustTier) -> u32 {
    match tier {
        TrustTier::Public => 1 << 4,
        TrustTier::Vetted => 2 << 4,
        TrustTier::Operator => 4 << 4,
    }
}

/// The bits of a tier: its own and those below.
pub(super) fn tier_bits(tier: TrustTier) -> u32 {
    (tier_bit(tier) * 2 - 1) & (0x7 << 4)
}

/// From these reputations on a node has a bit more: what sets a good name apart from none, and a long one.
const REPUTATIONS: [(Reputation, u32); 2] = [(Reputation::new(600), 1 << 3), (Reputation::new(900), 1 << 7)];

/// The bits of a reputation.
pub(super) fn reputation_bits(has: Reputation) -> u32 {
    REPUTATIONS.iter().filter(|(least, _)| has >= *least).fold(0, |bits, (_, bit)| bits | bit)
}

/// Bits of every reputation.
pub(super) const ALL_REPUTATIONS: u32 = REPUTATIONS[0].1 | REPUTATIONS[1].1;

/// Whether the bits of a reputation tell whether it is enough.
pub(super) fn reputation_is_told(need: Option<Reputation>) -> bool {
    need.is_none_or(|need| need == Reputation::new(0) || REPUTATIONS.iter().any(|(least, _)| *least == need))
}

/// The bit of an interned region; of more than 16 some share one.
pub(super) fn region_bit(region: u32) -> u32 {
    1 << (8 + region % 16)
}

/// Bits of every region.
pub(super) const REGIONS: u32 = 0xFFFF << 8;

/// The bit of an interned set of taints; of more than 8 some share one.
pub(super) fn taints_bit(taints: u32) -> u32 {
    1 << (24 + taints % 8)
}

/// Bits of every set of taints.
pub(super) const TAINTS: u32 = 0xFF << 24;

/// `N` rows; a column of a block is a line of the cache, those that every search reads first.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Columns<const N: usize> {
    pub free: [f32; N],
    pub ask: [f32; N],
    pub base: [f32; N],
    pub link: [f32; N],
    pub load: [f32; N],
    pub slowness: [f32; N],
    pub facts: [u32; N],
    /// Parts of 32 bits, the lowest first.
    pub labels: [[u32; N]; 2],
    pub models: [[u32; N]; 4],
    pub size: [u32; N],
    pub who: [u32; N],
}

/// A word from its parts.
fn whole<const P: usize>(part: impl Fn(usize) -> u32) -> u128 {
    (0..P).fold(0, |word, at| word | u128::from(part(at)) << (32 * at))
}

impl<const N: usize> Columns<N> {
    pub const EMPTY: Self = Self {
        free: [CLOSED; N],
        ask: [f32::MAX; N],
        base: [f32::MAX; N],
        link: [f32::MAX; N],
        load: [f32::MAX; N],
        slowness: [f32::MAX; N],
        facts: [0; N],
        labels: [[0; N]; 2],
        models: [[0; N]; 4],
        size: [u32::MAX; N],
        who: [NOBODY; N],
    };

    pub fn get(&self, lane: usize) -> Row {
        Row {
            free: self.free[lane],
            ask: self.ask[lane],
            base: self.base[lane],
            link: self.link[lane],
            load: self.load[lane],
            slowness: self.slowness[lane],
            facts: self.facts[lane],
            labels: whole::<2>(|at| self.labels[at][lane]),
            models: whole::<4>(|at| self.models[at][lane]),
            size: self.size[lane],
            who: self.who[lane],
        }
    }

    pub fn set(&mut self, lane: usize, row: &Row) {
        self.free[lane] = row.free;
        self.ask[lane] = row.ask;
        self.base[lane] = row.base;
        self.link[lane] = row.link;
        self.load[lane] = row.load;
        self.slowness[lane] = row.slowness;
        self.facts[lane] = row.facts;
        for (at, part) in self.labels.iter_mut().enumerate() {
            part[lane] = (row.labels >> (32 * at)) as u32;
        }
        for (at, part) in self.models.iter_mut().enumerate() {
            part[lane] = (row.models >> (32 * at)) as u32;
        }
        self.size[lane] = row.size;
        self.who[lane] = row.who;
    }

    /// What bounds the open rows; `who` is left to the tree.
    pub fn bound(&self) -> Row {
        let open = self.free.map(|free| if free >= 0.0 { u32::MAX } else { 0 });
        let least = |column: &[f32; N]| {
            let mut best = [f32::MAX; N];
            for i in 0..N {
                best[i] = if open[i] != 0 { column[i] } else { f32::MAX };
            }
            fold(best, |a, b| if a < b { a } else { b })
        };
        let all = |column: &[u32; N]| {
            let mut bits = [0; N];
            for i in 0..N {
                bits[i] = column[i] & open[i];
            }
            fold(bits, |a, b| a | b)
        };
        let mut size = [u32::MAX; N];
        for i in 0..N {
            size[i] = self.size[i] | !open[i];
        }
        Row {
            free: fold(self.free, |a, b| if a > b { a } else { b }),
            ask: least(&self.ask),
            base: least(&self.base),
            link: least(&self.link),
            load: least(&self.load),
            slowness: least(&self.slowness),
            facts: all(&self.facts),
            labels: whole::<2>(|at| all(&self.labels[at])),
            models: whole::<4>(|at| all(&self.models[at])),
            size: fold(size, u32::min),
            who: NOBODY,
        }
    }

    /// Lanes that have a device, open or not.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..N).filter(|&lane| self.who[lane] != NOBODY)
    }
}

/// All of them by halves, which the compiler does with vectors; `N` is a power of two.
fn fold<T: Copy, const N: usize>(mut values: [T; N], join: impl Fn(T, T) -> T) -> T {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            values[i] = join(values[i], values[i + half]);
        }
        half /= 2;
    }
    values[0]
}
