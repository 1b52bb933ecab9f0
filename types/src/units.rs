//! Amounts. Money and memory are integers inside; text outside is Kubernetes' (Quantity) or decimal points.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;
use thiserror::Error;

/// A text that is not the amount it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a decimal number of points.
    #[error("{0:?} must be a decimal number of points with at most 12 decimals, such as \"0.25\"")]
    Points(String),
    /// Not a Kubernetes quantity of bytes.
    #[error("{0:?} must be a quantity of bytes, such as \"512Mi\" or \"6Gi\"")]
    Quantity(String),
}

/// Bytes of memory or storage. Text is a Kubernetes Quantity: `6Gi`, `512Mi`, `1500M`, `1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, u64); 6] = [
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl Bytes {
    /// From a count of MiB.
    pub const fn mebi(n: u64) -> Self {
        Self(n << 20)
    }
    /// From a count of GiB.
    pub const fn gibi(n: u64) -> Self {
        Self(n << 30)
    }
    /// Subtraction that stops at zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    /// Addition that stops at the maximum.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    /// For people: rounded down to at most three digits with a binary suffix (`"5.8Gi"`); exact values stay exact.
    pub fn human(self) -> String {
        for (suffix, shift) in BINARY.iter().rev() {
            let unit = 1u64 << shift;
            if self.0 >= unit {
                let whole = self.0 / unit;
                let tenth = (self.0 % unit) / (unit / 10).max(1);
                return if whole >= 10 || tenth == 0 {
                    format!("{whole}{suffix}")
                } else {
                    format!("{whole}.{}{suffix}", tenth.min(9))
                };
            }
        }
        self.0.to_string()
    }
}

impl fmt::Display for Bytes {
    /// Exact: the largest binary suffix that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, shift) in BINARY.iter().rev() {
            if self.0 != 0 && self.0.is_multiple_of(1u64 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Quantity(s.chars().take(80).collect());
        let split = s.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(s.len());
        let (number, suffix) = s.split_at(split);
        let scale: u128 = if suffix.is_empty() {
            1
        } else if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            1u128 << shift
        } else if let Some((_, scale)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            u128::from(*scale)
        } else {
            return Err(bad());
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || whole.len() > 20 || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
            return Err(bad());
        }
        let whole: u128 = whole.parse().map_err(|_| bad())?;
        let part = if fraction.is_empty() {
            0
        } else {
            let digits: u128 = fraction.parse().map_err(|_| bad())?;
            // Kubernetes rounds a fraction of the smallest unit up.
            (digits * scale).div_ceil(10u128.pow(fraction.len() as u32))
        };
        u64::try_from(whole * scale + part).map(Self).map_err(|_| bad())
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self(0), Self::saturating_add)
    }
}

/// Points in units of 10⁻¹² (market.md): never a float. Text is a decimal with at most 12 decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PicoPoints(pub i128);

const PICO: i128 = 1_000_000_000_000;
/// Largest number of digits before the point that a text may have; keeps every sum far from `i128`'s end.
const MAX_WHOLE_DIGITS: usize = 15;

impl PicoPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// What `self`, an ask in points per hour, costs for `reference` milliseconds: rounded **up**, once (market.md).
    /// Negative asks cost nothing.
    pub fn quote(self, reference: Milliseconds) -> Self {
        let product = self.0.max(0).saturating_mul(i128::from(reference.0));
        let hour = 3_600_000;
        Self(product / hour + i128::from(product % hour != 0))
    }
}

impl fmt::Display for PicoPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let (whole, part) = (magnitude / PICO as u128, magnitude % PICO as u128);
        if part == 0 {
            write!(f, "{sign}{whole}")
        } else {
            let digits = format!("{part:012}");
            write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
        }
    }
}

impl FromStr for PicoPoints {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Points(s.chars().take(80).collect());
        let (negative, digits) = s.strip_prefix('-').map_or((false, s), |rest| (true, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let shape = !whole.is_empty() && whole.len() <= MAX_WHOLE_DIGITS && part.len() <= 12;
        if !shape || !plain(whole) || !plain(part) || (digits.contains('.') && part.is_empty()) {
            return Err(bad());
        }
        let whole: i128 = whole.parse().map_err(|_| bad())?;
        let part: i128 = format!("{part:0<12}").parse().map_err(|_| bad())?;
        let value = whole * PICO + part;
        Ok(Self(if negative { -value } else { value }))
    }
}

impl Add for PicoPoints {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl AddAssign for PicoPoints {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for PicoPoints {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl SubAssign for PicoPoints {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl Neg for PicoPoints {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl Sum for PicoPoints {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a + b)
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Milliseconds(pub u64);

impl Milliseconds {
    /// As the standard library's duration.
    pub fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A moment: milliseconds since 1970-01-01 UTC by the leader's clock. Never compared with another machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Milliseconds {
        Milliseconds(self.0.saturating_sub(earlier.0))
    }
    /// `self` and some time.
    pub fn after(self, wait: Milliseconds) -> Self {
        Self(self.0.saturating_add(wait.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1Ki", 1024),
            ("1.5Gi", 1610612736),
            ("6Gi", 6 << 30),
            ("1500M", 1_500_000_000),
            ("0.1", 1),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
        }
        for bad in ["", "Gi", "-1Gi", "1.Gi", "1gi", "99999999999Ei", "1 Gi", "1e3"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        assert_eq!(Bytes::gibi(6).to_string(), "6Gi");
        assert_eq!(Bytes(6_228_000_000).human(), "5.8Gi");
    }

    #[test]
    fn points() {
        for (text, pico) in
            [("0", 0), ("0.25", PICO / 4), ("-1.5", -3 * PICO / 2), ("0.000000000001", 1), ("12", 12 * PICO)]
        {
            assert_eq!(text.parse::<PicoPoints>().unwrap().0, pico, "{text}");
            assert_eq!(PicoPoints(pico).to_string(), text);
        }
        for bad in ["", ".5", "1.", "1e3", "+1", "0.0000000000001", "1,5", "1234567890123456"] {
            assert!(bad.parse::<PicoPoints>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quote_rounds_up_once() {
        assert_eq!(PicoPoints(1).quote(Milliseconds(1)), PicoPoints(1));
        assert_eq!(PicoPoints(3_600_000).quote(Milliseconds(7)), PicoPoints(7));
        assert_eq!(PicoPoints(-5).quote(Milliseconds(1000)), PicoPoints::ZERO);
    }

    proptest! {
        #[test]
        fn points_round_trip(pico in -10i128.pow(26)..10i128.pow(26)) {
            prop_assert_eq!(PicoPoints(pico).to_string().parse::<PicoPoints>().unwrap(), PicoPoints(pico));
        }
        #[test]
        fn bytes_round_trip(bytes: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>().unwrap(), Bytes(bytes));
        }
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<PicoPoints>();
        }
    }
}
