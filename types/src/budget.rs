//! What a TenantQueue may spend in a day, a week or a month: calendar periods in UTC.

use crate::units::{PicoPoints, Timestamp};
use std::fmt;
use std::str::FromStr;

/// The queue of a job that names none. It is made at first start and draws on the mint: one machine needs no accounting.
pub const DEFAULT_QUEUE: &str = "default";

const DAY_MS: u64 = 24 * 3600 * 1000;
/// 1970-01-01 was a Thursday: the Monday before it is three days earlier.
const MONDAY_BEFORE: u64 = 3;

/// How long a budget lasts. Periods begin at midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BudgetPeriod {
    /// A day.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
}

impl BudgetPeriod {
    /// Every period, shortest first.
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "Day",
            Self::Week => "Week",
            Self::Month => "Month",
        }
    }

    /// When the period that holds `at` began. Of the days before the first Monday of 1970 the week began in 1970.
    pub fn start(self, at: Timestamp) -> Timestamp {
        let day = at.0 / DAY_MS;
        let first = match self {
            Self::Day => day,
            Self::Week => (day + MONDAY_BEFORE) / 7 * 7,
            Self::Month => day - (day_of_month(day) - 1),
        };
        let first = if self == Self::Week { first.saturating_sub(MONDAY_BEFORE) } else { first };
        Timestamp(first * DAY_MS)
    }

    /// When the next period begins.
    pub fn end(self, at: Timestamp) -> Timestamp {
        let first = self.start(at).0 / DAY_MS;
        let days = match self {
            Self::Day => 1,
            Self::Week => 7 - (first + MONDAY_BEFORE) % 7,
            // 31 days after the first of a month is in the next one.
            Self::Month => 32 - day_of_month(first + 31),
        };
        Timestamp((first + days).saturating_mul(DAY_MS))
    }
}

/// Day of the month, from 1, of a day counted from 1970-01-01. Gregorian calendar.
fn day_of_month(day: u64) -> u64 {
    // Years that begin with March end with the leap day; 1970-01-01 is day 719,468 since 0000-03-01.
    let day_of_era = (day + 719_468) % 146_097;
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    // Months from March alternate 31, 30, 31, 30, 31 days: 153 for five.
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

impl fmt::Display for BudgetPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BudgetPeriod {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|period| period.as_str() == s);
        known.ok_or_else(|| format!("period {s:?} must be Day, Week or Month"))
    }
}

/// What a queue may spend in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Settled and reserved together.
    pub points: PicoPoints,
    /// When it begins anew.
    pub period: BudgetPeriod,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Midnight of a day, counted from 1970-01-01.
    fn day(number: u64) -> Timestamp {
        Timestamp(number * DAY_MS)
    }

    #[test]
    fn periods_of_the_calendar() {
        // 2024-02-29 is day 19,782, a Thursday; `date -d 2024-02-29 +%s` / 86,400.
        let at = Timestamp(19_782 * DAY_MS + 12_345_678);
        assert_eq!((BudgetPeriod::Day.start(at), BudgetPeriod::Day.end(at)), (day(19_782), day(19_783)));
        assert_eq!((BudgetPeriod::Week.start(at), BudgetPeriod::Week.end(at)), (day(19_779), day(19_786)));
        assert_eq!((BudgetPeriod::Month.start(at), BudgetPeriod::Month.end(at)), (day(19_754), day(19_783)));
        // 1970-01-01: a Thursday.
        assert_eq!((BudgetPeriod::Week.start(day(0)), BudgetPeriod::Week.end(day(0))), (day(0), day(4)));
        assert_eq!((BudgetPeriod::Month.start(day(30)), BudgetPeriod::Month.end(day(30))), (day(0), day(31)));
    }

    #[test]
    fn words_round_trip() {
        for period in BudgetPeriod::ALL {
            assert_eq!(period.as_str().parse(), Ok(period));
        }
        assert!("Year".parse::<BudgetPeriod>().is_err());
    }

    proptest! {
        #[test]
        fn every_moment_is_in_one_period(ms in 0..8_000_000_000_000u64) {
            for period in BudgetPeriod::ALL {
                let (start, end) = (period.start(Timestamp(ms)), period.end(Timestamp(ms)));
                prop_assert!(start.0 <= ms && ms < end.0, "{period} {start:?} {end:?}");
                prop_assert_eq!(period.start(end), end);
                prop_assert_eq!(period.start(Timestamp(end.0 - 1)), start);
                prop_assert!(end.since(start).0 <= 31 * DAY_MS);
            }
        }
    }
}
