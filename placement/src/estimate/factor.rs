//! In: logarithms of ratios → out: the factors that predictions are made with ([`Correction`], [`Percentile`]).
//! Invariant: integers only, the same everywhere; a larger logarithm never makes a smaller factor.

/// 256ths of an octave: one is a factor of 2^(1/256), 0.27 %.
pub(super) type Octaves = i16;
/// One octave: twice as much.
pub(super) const OCTAVE: Octaves = 256;

/// 2^(1/2), 2^(1/4) … 2^(1/256), in units of 2^-32.
const ROOTS: [u64; 8] = [
    6_074_000_999,
    5_107_605_667,
    4_683_695_047,
    4_485_121_743,
    4_389_014_833,
    4_341_736_423,
    4_318_288_543,
    4_306_612_133,
];

/// What observations make of a prior: it is multiplied by this. In 65,536ths, from 2^-16 to 2^16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Correction(u32);

impl Correction {
    /// The prior stands.
    pub const NONE: Self = Self(1 << 16);

    /// `numerator ÷ denominator`, as near as can be.
    pub fn ratio(numerator: u32, denominator: u32) -> Self {
        let parts = (u64::from(numerator) << 16) / u64::from(denominator.max(1));
        Self(parts.clamp(1, u32::MAX.into()) as u32)
    }

    pub(super) fn of(octaves: Octaves) -> Self {
        Self(exp2(octaves, 16).clamp(1, u32::MAX.into()) as u32)
    }

    /// In 65,536ths.
    pub fn parts(self) -> u32 {
        self.0
    }

    /// A time, corrected, rounded up; at most 2^63.
    pub fn apply(self, time: u64) -> u64 {
        let corrected = (u128::from(time) * u128::from(self.0)).div_ceil(1 << 16);
        u64::try_from(corrected).unwrap_or(u64::MAX).min(1 << 63)
    }

    /// A rate, corrected: what takes twice as long has half the rate. At least 1 if `rate` is.
    pub fn rate(self, rate: u64) -> u64 {
        let corrected = ((u128::from(rate) << 16) / u128::from(self.0)).max(rate.min(1).into());
        u64::try_from(corrected).unwrap_or(u64::MAX)
    }
}

impl Default for Correction {
    fn default() -> Self {
        Self::NONE
    }
}

/// The 95th percentile of a run as a factor of its expected time, in 256ths: from 1.02 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percentile(u16);

impl Percentile {
    /// One and a half times: what is assumed until enough runs were seen.
    pub const PRIOR: Self = Self(384);
    const LEAST: u64 = 261;
    const MOST: u64 = 4096;

    /// From 256ths.
    pub fn new(parts: u32) -> Self {
        Self(u64::from(parts).clamp(Self::LEAST, Self::MOST) as u16)
    }

    /// The least factor that is not below `octaves`.
    pub(super) fn of(octaves: Octaves) -> Self {
        Self::new(exp2(octaves, 24).div_ceil(1 << 16).min(Self::MOST) as u32)
    }

    /// In 256ths.
    pub fn parts(self) -> u32 {
        self.0.into()
    }

    /// 95th percentile of a run that should take `expected` nanoseconds, below 2^55, rounded down; a longer one is never
    /// sooner, and never as soon.
    pub fn of_expected(self, expected: u64) -> u64 {
        ((u128::from(expected) * u128::from(self.0)) >> 8) as u64
    }

    /// The longest expected time whose 95th percentile is within `nanos`.
    pub fn within(self, nanos: u128) -> u64 {
        // ⌊expected × parts ÷ 256⌋ ≤ nanos ⟺ expected × parts < 256 × (nanos + 1).
        u64::try_from(((nanos + 1) * 256 - 1) / u128::from(self.0)).unwrap_or(u64::MAX)
    }
}

impl Default for Percentile {
    fn default() -> Self {
        Self::PRIOR
    }
}

/// 2^(octaves ÷ 256), in units of 2^-`bits`, rounded down; saturates.
fn exp2(octaves: Octaves, bits: u32) -> u64 {
    let (whole, part) = (i32::from(octaves).div_euclid(256), i32::from(octaves).rem_euclid(256));
    let mut mantissa: u64 = 1 << 32;
    for (at, root) in ROOTS.iter().enumerate() {
        if part >> (7 - at) & 1 != 0 {
            mantissa = ((u128::from(mantissa) * u128::from(*root)) >> 32) as u64;
        }
    }
    let shift = whole + bits as i32 - 32;
    match shift {
        31.. => u64::MAX,
        0..=30 => mantissa << shift,
        _ => mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0),
    }
}

/// log2 of a whole number in 256ths of an octave, rounded down; of 0 as of 1.
fn log2(amount: u64) -> i32 {
    let amount = amount.max(1);
    let whole = amount.ilog2();
    // The mantissa, in units of 2^-31; squaring it shows the next digit of its logarithm.
    let mut mantissa = if whole > 31 { amount >> (whole - 31) } else { amount << (31 - whole) };
    let mut digits = whole as i32;
    for _ in 0..8 {
        mantissa = (mantissa * mantissa) >> 31;
        let digit = mantissa >> 32;
        mantissa >>= digit;
        digits = digits << 1 | digit as i32;
    }
    digits
}

/// log2 of `amount ÷ of`.
pub(super) fn octaves(amount: u64, of: u64) -> Octaves {
    clamp(log2(amount) - log2(of))
}

pub(super) fn clamp(octaves: i32) -> Octaves {
    octaves.clamp(Octaves::MIN.into(), Octaves::MAX.into()) as Octaves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_and_powers_agree_with_floats() {
        for amount in [1, 2, 3, 1_000, 123_456_789, u64::MAX / 3, u64::MAX] {
            let exact = (amount as f64).log2() * 256.0;
            assert!((exact - f64::from(log2(amount))).abs() < 1.01, "{amount}");
        }
        for octaves in [-4096, -257, -1, 0, 1, 100, 255, 256, 4095] {
            let exact = (f64::from(octaves) / 256.0).exp2();
            let found = f64::from(Correction::of(octaves).parts()) / 65_536.0;
            assert!((found - exact).abs() < exact * 1e-6 + 2e-5, "{octaves}: {found} is not {exact}");
        }
        assert_eq!((Correction::of(0), Correction::of(i16::MAX).parts()), (Correction::NONE, u32::MAX));
        assert_eq!(Correction::of(i16::MIN).parts(), 1);
    }

    #[test]
    fn times_grow_and_rates_fall_by_the_same() {
        let twice = Correction::of(OCTAVE);
        assert_eq!((twice.apply(7), twice.rate(7), twice.rate(1), twice.rate(0)), (14, 3, 1, 0));
        assert_eq!((Correction::NONE.apply(7), Correction::NONE.rate(7)), (7, 7));
        assert_eq!(Correction::of(i16::MAX).apply(u64::MAX), 1 << 63);
        assert_eq!(Correction::ratio(3, 2).apply(10), 15);
    }

    #[test]
    fn a_percentile_is_never_below_its_logarithm() {
        for octaves in 0..1_100 {
            let parts = f64::from(Percentile::of(octaves).parts());
            let exact = (f64::from(octaves) / 256.0).exp2() * 256.0;
            assert!(parts >= exact.min(4096.0) - 1e-3 && parts <= exact.max(261.0) + 1.01, "{octaves}");
        }
    }
}
