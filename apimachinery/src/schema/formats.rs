//! The formats that schemas may name.
//!
//! In: a format's name and type, later a text. Out: whether the text has that format. Invariant: a
//! format that Kubernetes does not know, or not for that type, is ignored, as the real server does.

use super::node::Type;
use super::regexes;
use crate::fields::{is_dns_label, is_dns_subdomain};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use regex::Regex;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// What a format means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Int32,
    Int64,
    Float,
    Double,
    Byte,
    Date,
    DateTime,
    Duration,
    /// A check of the text without a meaning for rules.
    Text(fn(&str) -> bool),
}

/// A supported format, with its name as the schema spells it.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

impl Format {
    /// The format of that name for that type, if there is one.
    pub(crate) fn supported(name: &str, type_: Option<Type>, int_or_string: bool) -> Option<Format> {
        let kind = match (type_, name) {
            _ if int_or_string => return None,
            (Some(Type::Integer), "int32") => Kind::Int32,
            (Some(Type::Integer), "int64") => Kind::Int64,
            (Some(Type::Number), "float") => Kind::Float,
            (Some(Type::Number), "double") => Kind::Double,
            (Some(Type::String) | None, _) => text_kind(&name.replace('-', ""))?,
            _ => return None,
        };
        Some(Format { name: name.to_owned(), kind })
    }

    /// Whether `text` has this format; numbers' formats accept every text.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        match self.kind {
            Kind::Int32 | Kind::Int64 | Kind::Float | Kind::Double => true,
            Kind::Byte => STANDARD.decode(text).is_ok() && !text.is_empty(),
            Kind::Date => is_date(text),
            Kind::DateTime => is_date_time(text),
            Kind::Duration => duration(text).is_some(),
            Kind::Text(check) => check(text),
        }
    }
}

fn text_kind(name: &str) -> Option<Kind> {
    Some(match name {
        "byte" => Kind::Byte,
        "date" => Kind::Date,
        "datetime" => Kind::DateTime,
        "duration" => Kind::Duration,
        "password" => Kind::Text(|_| true),
        "uri" => Kind::Text(is_uri),
        "email" => Kind::Text(is_email),
        "hostname" => Kind::Text(is_hostname),
        "ipv4" => Kind::Text(|s| s.parse::<Ipv4Addr>().is_ok()),
        "ipv6" => Kind::Text(|s| s.parse::<Ipv6Addr>().is_ok()),
        "cidr" => Kind::Text(is_cidr),
        "mac" => Kind::Text(|s| MAC.is_match(s)),
        "uuid" => Kind::Text(|s| UUID.is_match(s)),
        "uuid3" => Kind::Text(|s| UUID.is_match(s) && uuid_digit(s, 12) == Some('3')),
        "uuid4" => Kind::Text(|s| uuid_variant(s, '4')),
        "uuid5" => Kind::Text(|s| uuid_variant(s, '5')),
        "bsonobjectid" => Kind::Text(|s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit())),
        "isbn" => Kind::Text(|s| is_isbn10(s) || is_isbn13(s)),
        "isbn10" => Kind::Text(is_isbn10),
        "isbn13" => Kind::Text(is_isbn13),
        "creditcard" => Kind::Text(is_credit_card),
        "ssn" => Kind::Text(|s| SSN.is_match(s)),
        "hexcolor" => Kind::Text(|s| HEX_COLOR.is_match(s)),
        "rgbcolor" => Kind::Text(|s| RGB_COLOR.is_match(s)),
        "k8sshortname" => Kind::Text(is_dns_label),
        "k8slongname" => Kind::Text(is_dns_subdomain),
        _ => return None,
    })
}

/// A constant pattern; the tests below use every one.
fn constant(pattern: &str) -> Regex {
    regexes::compile(pattern).unwrap_or_else(|e| unreachable!("constant pattern {pattern}: {e}"))
}

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => { $(static $name: LazyLock<Regex> = LazyLock::new(|| constant($pattern));)* };
}

patterns! {
    UUID = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    MAC = "^(?i:([0-9a-f]{2}:){5}[0-9a-f]{2}|([0-9a-f]{2}-){5}[0-9a-f]{2}|([0-9a-f]{4}\\.){2}[0-9a-f]{4}|([0-9a-f]{2}[:-]){7}[0-9a-f]{2})$";
    SSN = "^\\d{3}[- ]?\\d{2}[- ]?\\d{4}$";
    HEX_COLOR = "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = "^rgb\\(\\s*(0|[1-9]\\d?|1\\d\\d?|2[0-4]\\d|25[0-5])\\s*,\\s*(0|[1-9]\\d?|1\\d\\d?|2[0-4]\\d|25[0-5])\\s*,\\s*(0|[1-9]\\d?|1\\d\\d?|2[0-4]\\d|25[0-5])\\s*\\)$";
    EMAIL = "^(?:[^<>@]*<)?[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\\.[A-Za-z0-9-]+)*>?$";
    TIME = "^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
    LOOSE_DURATION = "(\\d+)\\s*([A-Za-zµ]+)";
    GO_DURATION = "^[+-]?(?:0|(?:(?:\\d+\\.?\\d*|\\.\\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$";
    GO_DURATION_PART = "(\\d+\\.?\\d*|\\.\\d+)(ns|us|µs|μs|ms|s|m|h)";
    SCHEME = "^[A-Za-z][A-Za-z0-9+.-]*:";
}

fn uuid_digit(text: &str, at: usize) -> Option<char> {
    text.chars().filter(|c| *c != '-').nth(at)
}

fn uuid_variant(text: &str, version: char) -> bool {
    UUID.is_match(text)
        && uuid_digit(text, 12) == Some(version)
        && uuid_digit(text, 16).is_some_and(|c| "89abAB".contains(c))
}

fn is_uri(text: &str) -> bool {
    let clean = !text.chars().any(|c| c.is_control() || c == ' ');
    clean && (text.starts_with('/') || SCHEME.is_match(text))
}

fn is_email(text: &str) -> bool {
    EMAIL.is_match(text) && text.contains('<') == text.ends_with('>') && !text.contains("..")
}

/// Labels of letters, digits and inner dashes, ending in two letters.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        let allowed =
            |c: char| c.is_alphanumeric() || c == '-' || !c.is_ascii() && !c.is_whitespace() && !c.is_control();
        let dashes = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && label.len() <= 63 && !dashes && label.chars().all(allowed)
    };
    let letters = text.chars().rev().take_while(|c| c.is_alphabetic()).count();
    text.len() <= 255 && text.split('.').all(label) && letters >= 2
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let digits = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
    let Some(length) = length.parse::<u32>().ok().filter(|_| digits) else { return false };
    address.parse::<Ipv4Addr>().is_ok() && length <= 32 || address.parse::<Ipv6Addr>().is_ok() && length <= 128
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let mut digits = digits(text);
    if let Some(last) = digits.last_mut()
        && text.ends_with(['X', 'x'])
    {
        *last = 10;
    }
    let valid = digits.len() == 10 && digits.iter().enumerate().all(|(i, d)| *d < 10 || i == 9 && *d == 10);
    valid && (1..).zip(&digits).map(|(i, d)| i * d).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits(text);
    let valid = digits.len() == 13 && digits.iter().all(|d| *d < 10);
    valid && [1, 3].iter().cycle().zip(&digits).map(|(i, d)| i * d).sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits = digits(text);
    let luhn = |(i, d): (usize, &u32)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d };
    let valid = (13..=16).contains(&digits.len()) && digits.iter().all(|d| *d < 10);
    valid && digits.iter().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

pub(crate) fn is_date(text: &str) -> bool {
    let shape = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    shape && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((date, time)) = lower.split_once('t') else { return false };
    let Some(parts) = TIME.captures(time) else { return false };
    let part = |i| parts.get(i).map_or("99", |m| m.as_str());
    is_date(date) && part(1) <= "23" && part(2) <= "59" && part(3) <= "59"
}

/// A duration in nanoseconds: Go's `1h30m`, or the looser `22 ns` and `3 days`.
pub(crate) fn duration(text: &str) -> Option<i64> {
    if GO_DURATION.is_match(text) {
        let mut total = 0f64;
        for part in GO_DURATION_PART.captures_iter(text) {
            total += part[1].parse::<f64>().ok()? * unit(&part[2])? as f64;
        }
        let total = if text.starts_with('-') { -total } else { total };
        return (total.abs() < i64::MAX as f64).then_some(total as i64);
    }
    let mut total = None;
    for part in LOOSE_DURATION.captures_iter(text) {
        let count: i64 = part[1].parse().ok()?;
        if let Some(unit) = unit(&part[2].to_lowercase()) {
            total = Some(count.checked_mul(unit)?.checked_add(total.unwrap_or(0))?);
        }
    }
    total
}

/// Nanoseconds of a unit; the longest name of a unit may also begin the word.
fn unit(name: &str) -> Option<i64> {
    const SECOND: i64 = 1_000_000_000;
    let units: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "μs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], SECOND),
        (&["m", "min"], 60 * SECOND),
        (&["h", "hr", "hour"], 3_600 * SECOND),
        (&["d", "day"], 86_400 * SECOND),
        (&["w", "wk", "week"], 604_800 * SECOND),
    ];
    let named = |names: &&[&str]| names.contains(&name) || names.last().is_some_and(|last| name.starts_with(last));
    units.iter().find(|(names, _)| named(names)).map(|(_, nanoseconds)| *nanoseconds)
}

/// The bytes of a text of format `byte`, as rules see them.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02 03:04:05Z"),
            ("date-time", "2026-01-02T03:04:05.123+02:00", "2026-13-02T03:04:05Z"),
            ("date", "2024-02-29", "2026-02-29"),
            ("duration", "1h30m", "abc"),
            ("duration", "3 days", "1"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uri", "https://example.org/a", "no spaces allowed"),
            ("email", "a@example.org", "a.example.org"),
            ("hostname", "example.org", "-example"),
            ("byte", "aGVsbG8=", "a"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("hexcolor", "#FFFFFF", "#FFFFF"),
            ("rgbcolor", "rgb(255,255,255)", "rgb(255,255,2559)"),
            ("k8s-short-name", "abc-1", "Abc"),
            ("mac", "01:23:45:67:89:ab", "01:23:45"),
            ("ssn", "123-45-6789", "12-345-6789"),
        ] {
            let format = Format::supported(format, Some(Type::String), false).expect(format);
            assert!(format.accepts(good), "{format:?} {good}");
            assert!(!format.accepts(bad), "{format:?} {bad}");
        }
        assert!(Format::supported("quantity", Some(Type::String), false).is_none());
        assert!(Format::supported("date", Some(Type::Integer), false).is_none());
    }

    #[test]
    fn durations() {
        for (text, nanoseconds) in
            [("1.5s", Some(1_500_000_000)), ("-2m", Some(-120_000_000_000)), ("22 ns", Some(22)), ("x", None)]
        {
            assert_eq!(duration(text), nanoseconds, "{text}");
        }
    }
}
