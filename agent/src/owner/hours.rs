//! The hours in which a machine may work.
//!
//! in → windows such as `Mon-Fri 22:00-07:00`, a time zone, an instant · out → open or closed, and until when · invariant: a
//! window over midnight belongs to the day it begins on; the local clock counts, also where summer time moves it.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::fmt;
use std::str::FromStr;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

/// Some hours of some days of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// From Monday.
    days: [bool; 7],
    /// Minutes since midnight.
    start: u16,
    /// Minutes since midnight, at most 24 h; not after `start`: the window ends on the next day.
    end: u16,
}

impl Window {
    /// `day` from Monday, 0 to 6; `minute` since midnight.
    fn holds(&self, day: usize, minute: u16) -> bool {
        if self.start < self.end {
            return self.days[day] && (self.start..self.end).contains(&minute);
        }
        (self.days[day] && minute >= self.start) || (self.days[(day + 6) % 7] && minute < self.end)
    }
}

impl FromStr for Window {
    type Err = String;

    /// `22:00-07:00`, `Sat,Sun`, `Mon-Fri 22:00-07:00`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} must be days, hours, or both, such as \"Mon-Fri 22:00-07:00\" or \"Sat,Sun\"");
        let mut window = Self { days: [true; 7], start: 0, end: DAY };
        let mut words = text.split_whitespace().peekable();
        if words.peek().is_none() {
            return Err(bad());
        }
        if let Some(word) = words.next_if(|word| word.starts_with(char::is_alphabetic)) {
            window.days = days(word).ok_or_else(bad)?;
        }
        if let Some(word) = words.next() {
            let (start, end) = word.split_once('-').ok_or_else(bad)?;
            (window.start, window.end) = (minute(start).ok_or_else(bad)?, minute(end).ok_or_else(bad)?);
            if window.start == DAY || window.start == window.end {
                return Err(bad());
            }
        }
        if words.next().is_some() { Err(bad()) } else { Ok(window) }
    }
}

fn days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| name.to_lowercase() == *day);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Some(days)
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
    let sum = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && sum <= DAY).then_some(sum)
}

/// When a machine may work: within an allowed window (any time if there is none) and within no quiet one.
#[derive(Clone, PartialEq)]
pub struct Hours {
    zone: TimeZone,
    allowed: Vec<Window>,
    quiet: Vec<Window>,
}

impl Default for Hours {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, allowed: Vec::new(), quiet: Vec::new() }
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hours({:?}, {:?}, {:?})", self.zone.iana_name(), self.allowed, self.quiet)
    }
}

impl Hours {
    /// From parsed windows; `zone` is the owner's.
    pub fn new(zone: TimeZone, allowed: Vec<Window>, quiet: Vec<Window>) -> Self {
        Self { zone, allowed, quiet }
    }

    /// Whether the machine may work at that instant.
    pub fn open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        let day = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
        let within = |windows: &[Window]| windows.iter().any(|window| window.holds(day, minute));
        (self.allowed.is_empty() || within(&self.allowed)) && !within(&self.quiet)
    }

    /// When [`Self::open`] changes next, to the minute, in words such as `Mon 22:00`; `None`: not within eight days.
    pub fn next_change(&self, at: Timestamp) -> Option<String> {
        let now = self.open(at);
        let whole = Timestamp::from_second(at.as_second().div_euclid(60) * 60).ok()?;
        let later = (1..=8 * i64::from(DAY)).filter_map(|minutes| whole.checked_add(minutes.minutes()).ok());
        let change = later.into_iter().find(|at| self.open(*at) != now)?;
        Some(change.to_zoned(self.zone.clone()).strftime("%a %H:%M").to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hours(zone: &str, allowed: &[&str], quiet: &[&str]) -> Hours {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Hours::new(TimeZone::get(zone).unwrap(), parse(allowed), parse(quiet))
    }

    #[test]
    fn a_window_over_midnight_belongs_to_its_first_day() {
        let nights = hours("UTC", &["Mon-Fri 22:00-07:00", "Sat,Sun"], &["13:00-14:00"]);
        for (at, open) in [
            ("2026-11-23T21:59:59Z", false), // Monday
            ("2026-11-23T22:00:00Z", true),
            ("2026-11-24T06:59:00Z", true),
            ("2026-11-24T07:00:00Z", false),
            ("2026-11-23T06:00:00Z", false), // Monday morning: Sunday's window ended at midnight
            ("2026-11-28T06:00:00Z", true),  // Saturday
            ("2026-11-28T13:30:00Z", false), // quiet
        ] {
            assert_eq!(nights.open(at.parse().unwrap()), open, "{at}");
        }
        assert_eq!(nights.next_change("2026-11-23T12:00:00Z".parse().unwrap()).unwrap(), "Mon 22:00");
        assert_eq!(Hours::default().next_change(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn the_owners_clock_counts_in_summer_and_in_winter() {
        let evening = hours("Europe/Berlin", &["18:00-20:00"], &[]);
        assert!(evening.open("2026-07-01T17:30:00Z".parse().unwrap()), "19:30 there");
        assert!(!evening.open("2026-12-01T16:30:00Z".parse().unwrap()), "17:30 there");
        assert_eq!(evening.next_change("2026-12-01T16:30:00Z".parse().unwrap()).unwrap(), "Tue 18:00");
    }

    #[test]
    fn what_is_no_window_is_quoted() {
        for bad in
            ["", "Foo", "25:00-26:00", "22:00", "Mon 22:00-22:00", "Mon-Fri 1:0-2:60", "Mon 1:00-2:00 x", "24:00-1:00"]
        {
            let error = bad.parse::<Window>().unwrap_err();
            assert!(error.contains("such as \"Mon-Fri 22:00-07:00\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn quiet_is_the_opposite_of_allowed(start in 0u16..1440, length in 1u16..1440, day in 0usize..7, at in 0i64..2_000_000_000) {
            let end = (start + length) % DAY;
            prop_assume!(start != end);
            let text = format!("{} {:02}:{:02}-{:02}:{:02}", DAYS[day], start / 60, start % 60, end / 60, end % 60);
            let (allowed, quiet) = (hours("UTC", &[&text], &[]), hours("UTC", &[], &[&text]));
            let at = Timestamp::from_second(at).unwrap();
            prop_assert_ne!(allowed.open(at), quiet.open(at));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<Window>();
        }
    }
}
