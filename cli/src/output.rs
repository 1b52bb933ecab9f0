//! What people and programs read. *In*: rows, amounts, JSON. *Out*: text on stdout. *Invariant*: a reader that closes the
//! pipe early is no error, and nothing is coloured.

use anyhow::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::io::{ErrorKind, Write};

/// Writes to stdout; a closed pipe is the reader's wish.
pub fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Writes a line.
pub fn line(text: &str) -> anyhow::Result<()> {
    write(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
}

/// Pretty JSON.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Columns as kubectl prints them: as wide as needed, three spaces between them.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|text| text.to_string()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// `2.2Mi`: bytes for people.
pub fn bytes(count: u64) -> String {
    nightshift_types::Bytes(count).human()
}

/// A Kubernetes quantity of bytes for people: `11Gi`; as it is where it is none.
pub fn memory(quantity: &str) -> String {
    quantity.parse::<nightshift_types::Bytes>().map_or_else(|_| quantity.into(), nightshift_types::Bytes::human)
}

/// Time since, in kubectl's short form: `12s`, `3m4s`, `5h`, `2d`.
pub fn age(since: Option<&Time>, now: Timestamp) -> String {
    let Some(since) = since else { return "<unknown>".into() };
    let seconds = now.duration_since(since.0).as_secs().max(0);
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (_, _, 0..2) => format!("{seconds}s"),
        (_, 0, minutes @ 2..10) if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        (_, 0..3, minutes) => format!("{minutes}m"),
        (0..2, hours, _) => format!("{hours}h"),
        (days, _, _) => format!("{days}d"),
    }
}

/// `1.2s` or `3m4s`: how long something took.
pub fn took(time: std::time::Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_by_characters() {
        let rows = vec![vec!["ä".into(), "1".into()], vec!["longer".into(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME     N\nä        1\nlonger\n");
    }

    #[test]
    fn ages() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let ago = |seconds: i64| age(Some(&Time(Timestamp::from_second(1_000_000_000 - seconds).unwrap())), now);
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (184, "3m4s"),
            (3600, "60m"),
            (10_800, "3h"),
            (172_800, "2d"),
            (-5, "0s"),
        ] {
            assert_eq!(ago(seconds), text, "{seconds}");
        }
        assert_eq!(age(None, now), "<unknown>");
    }

    #[test]
    fn times() {
        assert_eq!(took(std::time::Duration::from_millis(1234)), "1.2s");
        assert_eq!(took(std::time::Duration::from_secs(184)), "3m4s");
    }
}
