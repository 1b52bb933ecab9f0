//! What keeps the journal from taking anything, for all who would otherwise wait for it without knowing why.
//!
//! in → errors of the store that are tried again, answers that take long · out → the trouble of now · invariant: only a
//! success ends a trouble; that a store is slow is no news where it said what is wrong.

use super::Shared;
use crate::metrics::Metrics;
use nightshift_state::JournalError;
use nightshift_types::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// An answer of the store that takes longer is trouble.
pub const SLOW: Duration = Duration::from_secs(1);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It does not answer, or says that it cannot now.
    Unavailable,
    /// It takes longer than [`SLOW`].
    Slow,
    /// It is full: etcd's NOSPACE alarm.
    NoSpace,
    /// Its members differ: etcd's CORRUPT alarm.
    Corrupt,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unavailable, Self::Slow, Self::NoSpace, Self::Corrupt];

    /// Of an error that is tried again.
    pub fn of(error: &JournalError) -> Self {
        match error {
            JournalError::NoSpace(_) => Self::NoSpace,
            JournalError::StoreCorrupt(_) => Self::Corrupt,
            _ => Self::Unavailable,
        }
    }

    /// The word in metrics; with `Journal` before it the reason of conditions and Events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "Unavailable",
            Self::Slow => "Slow",
            Self::NoSpace => "NoSpace",
            Self::Corrupt => "Corrupt",
        }
    }

    /// Between two tries. What waits for a person is not asked for as often: each try is written to etcd's own log.
    pub(super) fn retry(self) -> Duration {
        match self {
            Self::Unavailable | Self::Slow => Duration::from_millis(200),
            Self::NoSpace | Self::Corrupt => Duration::from_secs(1),
        }
    }
}

/// A trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong.
    pub reason: Reason,
    /// The store's words, and what helps.
    pub message: String,
    /// Since when nothing was taken.
    pub since: Timestamp,
}

/// The trouble of now.
#[derive(Debug)]
pub(super) struct Troubles {
    now: watch::Sender<Option<Arc<Trouble>>>,
    over: AtomicU64,
}

impl Default for Troubles {
    fn default() -> Self {
        Self { now: watch::Sender::new(None), over: AtomicU64::new(0) }
    }
}

impl Troubles {
    pub fn now(&self) -> Option<Arc<Trouble>> {
        self.now.borrow().clone()
    }

    pub fn is_in_trouble(&self) -> bool {
        self.now.borrow().is_some()
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<Trouble>>> {
        self.now.subscribe()
    }

    /// When the last one ended; 0 where there was none.
    pub fn over_since(&self) -> Timestamp {
        Timestamp(self.over.load(Ordering::Relaxed))
    }
}

impl Metrics {
    /// What is wrong with the journal, as far as this scheduler knows; a standby has troubles too.
    pub fn in_trouble(&self, reason: Option<Reason>) {
        for one in Reason::ALL {
            self.journal_trouble.with_label_values(&[one.as_str()]).set(i64::from(reason == Some(one)));
        }
    }
}

impl Shared {
    pub(super) fn in_trouble(&self, reason: Reason, message: &str) {
        let before = self.troubles.now();
        if before.as_ref().is_some_and(|before| before.reason == reason && before.message == message) {
            return;
        }
        tracing::warn!(
            reason = reason.as_str(),
            message,
            "the journal takes nothing; nothing new is placed until it does"
        );
        let since = before.map_or_else(|| self.clock.now(), |before| before.since);
        self.troubles.now.send_replace(Some(Arc::new(Trouble { reason, message: message.into(), since })));
        self.metrics.in_trouble(Some(reason));
    }

    pub(super) fn out_of_trouble(&self) {
        let Some(trouble) = self.troubles.now() else { return };
        let now = self.clock.now();
        let seconds = now.since(trouble.since).0 / 1000;
        tracing::info!(reason = trouble.reason.as_str(), seconds, "the journal takes everything again");
        self.troubles.over.store(now.0, Ordering::Relaxed);
        self.troubles.now.send_replace(None);
        self.metrics.in_trouble(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_from_silence() {
        let text = || "etcd: said so".to_string();
        for (error, reason, word) in [
            (JournalError::NoSpace(text()), Reason::NoSpace, "NoSpace"),
            (JournalError::StoreCorrupt(text()), Reason::Corrupt, "Corrupt"),
            (JournalError::Unavailable(text()), Reason::Unavailable, "Unavailable"),
        ] {
            assert!(error.retryable());
            assert_eq!((Reason::of(&error), reason.as_str()), (reason, word));
        }
        let metrics = Metrics::new();
        metrics.in_trouble(Some(Reason::NoSpace));
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("nightshift_scheduler_journal_trouble{reason=\"NoSpace\"} 1"), "{text}");
        assert!(text.contains("nightshift_scheduler_journal_trouble{reason=\"Slow\"} 0"), "{text}");
    }
}
