//! Values as people write them.

use std::time::Duration;

/// A duration such as `500ms`, `30s`, `3m` or `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} must be a duration such as 500ms, 30s, 3m or 2h");
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(bad()),
    };
    let seconds = number.parse::<f64>().map_err(|_| bad())? * unit;
    if seconds > 366.0 * 86400.0 {
        return Err(format!("{text:?} is longer than a year"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// A part such as `25%`, from 1 to 100.
pub fn percent(text: &str) -> Result<u8, String> {
    let share = text.trim().strip_suffix('%').and_then(|share| share.trim_end().parse().ok());
    share.filter(|share| (1..=100).contains(share)).ok_or_else(|| format!("{text:?} must be 1% to 100%"))
}

/// Whether `text` is `pattern`, in which `*` stands for any characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_percents() {
        for (text, seconds) in
            [("500ms", 0.5), ("30s", 30.0), ("3m", 180.0), ("1.5h", 5400.0), ("2d", 172_800.0), ("0s", 0.0)]
        {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds);
        }
        for bad in ["", "3", "m", "3 minutes", "-3m", "1e9h", "400d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(percent("25%"), Ok(25));
        assert!(percent("0%").is_err() && percent("101%").is_err() && percent("25").is_err());
    }

    #[test]
    fn patterns() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("a/*", "a/b", true),
            ("a/*", "b/a/", false),
            ("*/silero-*", "x/silero-vad", true),
            ("a*b", "ab", true),
            ("a*a", "a", false),
            ("", "a", false),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_star_takes_anything(before in "[ab]{0,4}", middle in "[ab]{0,4}", after in "[ab]{0,4}") {
            let star = format!("{before}*{after}");
            let text = format!("{before}{middle}{after}");
            prop_assert!(matches(&star, &text));
        }
    }
}
