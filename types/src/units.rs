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

/// Bytes of memory or storage. Text is a Kubernetes Quantity: `6Gi`, `512Mi`, `1500M`, `64e9`, `1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
/// Powers of ten.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Longest number; the API takes quantities of at most 32 letters. With it a number times its binary suffix seldom is
/// beyond what we count in, and where it is the quantity is refused.
const MAX_DIGITS: usize = 32;

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
        let unsigned = s.strip_prefix('+').unwrap_or(s);
        let split = unsigned.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(split);
        // A number is digits × 2^shift × 10^exponent.
        let (shift, mut exponent) = scale(suffix).ok_or_else(bad)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > MAX_DIGITS || fraction.contains('.') {
            return Err(bad());
        }
        exponent -= fraction.len() as i32;
        let value = digits.parse::<u128>().ok().and_then(|digits| {
            let power = 10u128.checked_pow(exponent.unsigned_abs());
            match power {
                _ if digits == 0 => Some(0),
                Some(power) if exponent >= 0 => digits.checked_mul(1 << shift)?.checked_mul(power),
                // Kubernetes rounds a fraction of the smallest unit up.
                Some(power) => Some(digits.checked_mul(1 << shift)?.div_ceil(power)),
                None => (exponent < 0).then_some(1),
            }
        });
        value.and_then(|value| u64::try_from(value).ok()).map(Self).ok_or_else(bad)
    }
}

/// What a quantity's suffix stands for, as powers of 2 and of 10; `None`: it is none.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*shift, 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((0, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let plain = !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| exponent.parse().ok().map(|power| (0, power)))?
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
            ("64e9", 64_000_000_000),
            ("1E3", 1_000),
            ("1.5e+3", 1_500),
            ("1500e-2", 15),
            ("1E", 1_000_000_000_000_000_000),
            ("500m", 1),
            ("2500m", 3),
            ("1n", 1),
            ("+5", 5),
            (".5Gi", 512 << 20),
            ("1.Gi", 1 << 30),
            ("1e-999", 1),
            ("0e999", 0),
            ("0.0000000001Gi", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
        }
        for bad in [
            "",
            "Gi",
            "-1Gi",
            "1gi",
            "99999999999Ei",
            "1 Gi",
            "e3",
            "1e",
            "1e+",
            "1e1234",
            "1ee3",
            "64e18",
            "1.2.3",
            ".",
            "+",
            "++1",
        ] {
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
