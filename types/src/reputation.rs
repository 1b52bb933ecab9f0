//! How far a node's work has earned trust, by what became of its attempts (market.md): integers alone, so that it is the
//! same everywhere and whenever it is read.
//!
//! The Beta reputation system (A. Jøsang and R. Ismail, "The Beta Reputation System", 15th Bled Electronic Commerce
//! Conference, 2002): of r good and s bad outcomes, the posterior of the uniform prior Beta(1, 1) has the mean
//! (r + 1) ÷ (r + s + 2). Older outcomes count less by its forgetting factor, which acts **by outcome, not by time**: what a
//! node did last counts whole, what it did n outcomes before counts (127/128)ⁿ. So a rest neither mends nor harms a name, and
//! nothing changes while nothing happens.

use std::fmt;

/// Each outcome makes the ones before it count a 128th less: by half after 88, and all together never more than 128.
pub const MEMORY: u64 = 128;
/// An outcome that just came, in the unit of [`Evidence`].
const ONE: u64 = 1_000_000;

/// A reputation from 0 to 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reputation(u16);

impl Reputation {
    /// Of so many thousandths; more than 1,000 are 1,000.
    pub const fn new(permille: u16) -> Self {
        Self(if permille > 1_000 { 1_000 } else { permille })
    }

    /// In thousandths.
    pub const fn permille(self) -> u16 {
        self.0
    }

    /// The least reputation that is not below a decimal from 0 to 1, such as `0.9`. What stands after the third decimal is
    /// rounded up, so that nothing below the text passes for it. Errors say what is wrong with the text.
    pub fn at_least(text: &str) -> Result<Self, String> {
        let bad = || {
            let shown: String = text.chars().take(80).collect();
            format!("{shown:?} must be a decimal number from 0 to 1, such as \"0.9\"")
        };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(whole, "0" | "1") || !digits(decimals) {
            return Err(bad());
        }
        let (first, rest) = decimals.split_at(decimals.len().min(3));
        let mut permille: u16 = format!("{whole}{first:0<3}").parse().map_err(|_| bad())?;
        permille += u16::from(rest.bytes().any(|digit| digit != b'0'));
        if permille > 1_000 { Err(bad()) } else { Ok(Self(permille)) }
    }
}

/// Of a node that nothing is known of: as likely good as bad.
impl Default for Reputation {
    fn default() -> Self {
        Evidence::default().reputation()
    }
}

impl fmt::Display for Reputation {
    /// Exact: `0.5`, `0.872`, `1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1_000, self.0 % 1_000) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, part) => write!(f, "{whole}.{}", format!("{part:03}").trim_end_matches('0')),
        }
    }
}

/// What a reputation is of: good and bad outcomes, older ones counting less. In millionths of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Evidence {
    good: u64,
    bad: u64,
}

impl Evidence {
    /// One more outcome.
    pub fn add(&mut self, good: bool) {
        // Rounded up, so that nothing is remembered for ever.
        self.good -= self.good.div_ceil(MEMORY);
        self.bad -= self.bad.div_ceil(MEMORY);
        *(if good { &mut self.good } else { &mut self.bad }) += ONE;
    }

    /// The posterior's mean, rounded down.
    pub fn reputation(&self) -> Reputation {
        Reputation::new(((self.good + ONE) * 1_000 / (self.good + self.bad + 2 * ONE)) as u16)
    }

    /// Good and bad outcomes that still count, in millionths of one.
    pub fn millionths(&self) -> (u64, u64) {
        (self.good, self.bad)
    }

    /// The same again, from [`Evidence::millionths`].
    pub fn from_millionths(good: u64, bad: u64) -> Self {
        Self { good, bad }
    }

    /// Whether outcomes alone could have made it: all together never count more than [`MEMORY`].
    pub fn is_possible(&self) -> bool {
        self.good.saturating_add(self.bad) <= MEMORY * ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(outcomes: &[bool]) -> Evidence {
        let mut evidence = Evidence::default();
        outcomes.iter().for_each(|good| evidence.add(*good));
        evidence
    }

    #[test]
    fn by_hand() {
        assert_eq!(Reputation::default(), Reputation::new(500));
        // 2 ÷ 3, 1 ÷ 3; then (1 + 127/128) + 1 of that + 2, rounded down.
        assert_eq!(of(&[true]).reputation(), Reputation::new(666));
        assert_eq!(of(&[false]).reputation(), Reputation::new(333));
        assert_eq!(of(&[true, true]).reputation(), Reputation::new(749));
        // Ever since: 129 ÷ 130 and 1 ÷ 130.
        assert_eq!(of(&[true; 3_000]).reputation(), Reputation::new(992));
        assert_eq!(of(&[false; 3_000]).reputation(), Reputation::new(7));
        // Of a new node, 0.9 takes nine results, and 0.99 some two hundred.
        let needed = |least: u16| (1..).find(|n| of(&vec![true; *n]).reputation() >= Reputation::new(least)).unwrap();
        assert_eq!((needed(900), needed(990)), (9, 185));
    }

    #[test]
    fn texts() {
        for (text, permille) in [
            ("0", 0),
            ("1", 1_000),
            ("0.9", 900),
            ("0.05", 50),
            ("1.000", 1_000),
            ("0.9000000001", 901),
            ("0.99901", 1_000),
        ] {
            assert_eq!(Reputation::at_least(text), Ok(Reputation(permille)), "{text}");
        }
        for text in ["", ".", "0.", ".5", "1.1", "1.0001", "2", "-0.1", "+1", "0.5x", "0,5", "1e-1", "00.5", "0.+1"] {
            assert!(Reputation::at_least(text).unwrap_err().contains("from 0 to 1"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn good_outcomes_raise_it_and_bad_ones_lower_it(history in prop::collection::vec(any::<bool>(), 0..600)) {
            let evidence = of(&history);
            let (mut better, mut worse) = (evidence, evidence);
            better.add(true);
            worse.add(false);
            let now = evidence.reputation();
            prop_assert!(better.reputation() >= now && worse.reputation() <= now);
            prop_assert!(worse.reputation() < better.reputation(), "one outcome is always seen");
            prop_assert!(now.permille() > 0 && now.permille() < 1_000, "nothing is certain");
            prop_assert!(evidence.is_possible() && better.is_possible() && worse.is_possible());
        }

        #[test]
        fn what_was_long_ago_is_forgotten(
            before in prop::collection::vec(any::<bool>(), 0..600),
            since in prop::collection::vec(any::<bool>(), 1_500..1_600),
        ) {
            let long = of(&[before, since.clone()].concat()).reputation().permille();
            prop_assert!(long.abs_diff(of(&since).reputation().permille()) <= 1);
        }

        #[test]
        fn what_came_last_counts_most(mut history in prop::collection::vec(any::<bool>(), 1..600)) {
            history.sort_unstable();
            let mended = of(&history).reputation();
            history.reverse();
            prop_assert!(mended >= of(&history).reputation(), "the same outcomes, the good ones last");
        }

        #[test]
        fn texts_round_trip(permille in 0u16..=1_000, text in ".{0,40}") {
            let reputation = Reputation::new(permille);
            prop_assert_eq!(Reputation::at_least(&reputation.to_string()), Ok(reputation));
            let _ = Reputation::at_least(&text);
        }
    }
}
