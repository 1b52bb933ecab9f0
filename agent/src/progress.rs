//! How far a download is, and how long it still takes.
//!
//! in → bytes there, by the time · out → a [`Download`] · invariant: bounded; the pace is that of the last seconds, so that
//! it follows a line that slows down or stalls; without a pace nothing is promised.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The pace is that of so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Least time between two points of it.
const STEP: Duration = Duration::from_millis(250);
/// A pace of less time than that is none.
const LEAST: Duration = Duration::from_millis(500);

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Download {
    /// What is here.
    pub done_bytes: u64,
    /// What it comes to.
    pub total_bytes: u64,
    /// How long the rest takes at this pace; `None`: nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

impl Download {
    /// The part that is here; 100 only when all is.
    pub fn percent(&self) -> u32 {
        let (done, total) = (u128::from(self.done_bytes.min(self.total_bytes)), u128::from(self.total_bytes.max(1)));
        u32::try_from(done * 100 / total).unwrap_or(100)
    }
}

impl fmt::Display for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "downloading {} %", self.percent())?;
        self.seconds_left.map_or(Ok(()), |seconds| write!(f, ", {seconds} s left"))
    }
}

/// A download under way.
#[derive(Debug, Clone)]
pub struct Progress {
    total: u64,
    done: u64,
    points: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// Of which `done` bytes are there from before.
    pub fn new(total: u64, done: u64, now: Duration) -> Self {
        Self { total, done, points: [(now, done)].into() }
    }

    /// So many bytes are there now; fewer than before: it began anew.
    pub fn add(&mut self, done: u64, now: Duration) {
        if done < self.done {
            self.points.clear();
        }
        self.done = done;
        if self.points.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= STEP) {
            self.points.push_back((now, done));
        }
        while self.points.len() > 1 && self.points.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            self.points.pop_front();
        }
    }

    /// As it stands.
    pub fn at(&self, now: Duration) -> Download {
        // The last point before the window too: a line that stalled for longer has the pace of its last bytes and falling.
        let seconds_left = self.points.front().and_then(|(since, before)| {
            let (took, came) = (now.saturating_sub(*since), self.done.saturating_sub(*before));
            let left = self.total.saturating_sub(self.done) as f64;
            (took >= LEAST && came > 0).then(|| (left * took.as_secs_f64() / came as f64).ceil() as u64)
        });
        Download { done_bytes: self.done, total_bytes: self.total, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: f64) -> Duration {
        Duration::from_secs_f64(text)
    }

    #[test]
    fn it_knows_how_long_it_takes_by_what_came_lately() {
        let mut progress = Progress::new(1000, 100, seconds(0.0));
        assert_eq!(progress.at(seconds(0.1)).to_string(), "downloading 10 %");
        progress.add(240, seconds(1.0));
        progress.add(340, seconds(2.0));
        // What was there from before is no pace: 240 bytes in 2 s.
        assert_eq!(progress.at(seconds(2.0)).to_string(), "downloading 34 %, 6 s left");
        // It stalls: the promise recedes.
        assert_eq!(progress.at(seconds(8.0)).seconds_left, Some(22));
        // Twenty slow seconds later the fast ones are forgotten.
        for step in 0..20 {
            progress.add(341 + step, seconds(10.0 + step as f64));
        }
        assert_eq!(progress.at(seconds(29.0)).seconds_left, Some(640));
        // Damaged: from the start again.
        progress.add(0, seconds(30.0));
        assert_eq!(progress.at(seconds(31.0)).to_string(), "downloading 0 %");
    }

    #[test]
    fn it_stays_small_and_promises_nothing_it_cannot_know() {
        let mut progress = Progress::new(u64::MAX, 0, seconds(0.0));
        for step in 1..10_000u64 {
            progress.add(step, seconds(step as f64 / 100.0));
        }
        assert!(progress.points.len() <= 42, "{}", progress.points.len());
        assert_eq!(Progress::new(0, 0, seconds(0.0)).at(seconds(5.0)).percent(), 0);
        assert_eq!(Progress::new(7, 7, seconds(0.0)).at(seconds(5.0)).to_string(), "downloading 100 %");
    }
}
