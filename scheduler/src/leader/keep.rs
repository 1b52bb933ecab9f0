//! Keeps the journal small: snapshots when it has grown, and what they stand for archived and deleted.
//!
//! in → a core whose batches are all appended · out → a task of its own that writes, beside the leader's turns · invariant:
//! one such task runs at a time; a turn pays for a frozen state and no more; what fails is tried again, and the leader
//! goes on.

use crate::metrics::Metrics;
use nightshift_state::compact::{self, Step};
use nightshift_state::{Archive, Core, Frozen, JournalError, Manifest, Store};
use nightshift_types::{Bytes, Timestamp};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// After a failure.
const RETRY: Duration = Duration::from_secs(30);

/// How the journal is kept small.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Where the ledger's history goes.
    pub archive: Archive,
    /// A snapshot is due when so many bytes of batches, and as many as the last snapshot has, are in none.
    pub after: Bytes,
    /// Every scheduler that may lead reads this version's format: it may be written.
    pub raise_format: bool,
}

/// The leader's part of it.
pub(super) struct Keep<S> {
    keeping: Keeping,
    store: S,
    /// The journal's id.
    journal: String,
    metrics: Metrics,
    task: Option<JoinHandle<Result<(), JournalError>>>,
    taken: mpsc::UnboundedReceiver<Manifest>,
    tell: mpsc::UnboundedSender<Manifest>,
    /// The batch at the journal's end says that a snapshot begins there.
    begun: bool,
    not_before: Instant,
    warned: bool,
}

impl<S: Store> Keep<S> {
    /// Tidies up after an earlier leader at once.
    pub fn new(keeping: Keeping, store: S, journal: String, metrics: Metrics) -> Self {
        let (tell, taken) = mpsc::unbounded_channel();
        let not_before = Instant::now();
        let mut keep =
            Self { keeping, store, journal, metrics, task: None, taken, tell, begun: false, not_before, warned: false };
        keep.start(None);
        keep
    }

    /// Before a turn's batches are taken: journals what happened meanwhile, and begins a snapshot that is due.
    pub async fn before(&mut self, core: &mut Core, now: Timestamp) {
        if self.keeping.raise_format {
            core.raise_format(now);
        }
        while let Ok(manifest) = self.taken.try_recv() {
            self.metrics.snapshot_bytes.set(manifest.size as i64);
            core.snapshot_taken(&manifest, now);
        }
        if self.task.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(task) = self.task.take()
        {
            self.ended(task.await);
        }
        self.metrics.journal_tail_bytes.set(core.tail_bytes() as i64);
        let due = core.tail_bytes() >= self.keeping.after.0.max(core.snapshot_bytes());
        if self.task.is_some() || Instant::now() < self.not_before || !due {
            return;
        }
        self.begun = core.begin_snapshot(now);
        if !self.begun && !self.warned {
            self.warned = true;
            tracing::warn!(
                "the journal grows without end: once every scheduler is of this version, start them with --raise-format"
            );
        }
    }

    /// After a turn's batches are durable.
    pub fn after(&mut self, core: &Core) {
        if !std::mem::take(&mut self.begun) {
            return;
        }
        let started = Instant::now();
        let frozen = core.freeze();
        self.metrics.snapshot_pause_seconds.observe(started.elapsed().as_secs_f64());
        match frozen {
            Some(frozen) => self.start(Some(frozen)),
            None => tracing::error!("no snapshot: a batch was not appended"),
        }
    }

    fn start(&mut self, frozen: Option<Frozen>) {
        let (store, archive, journal) = (self.store.clone(), self.keeping.archive.clone(), self.journal.clone());
        let tell = self.tell.clone();
        self.task = Some(tokio::spawn(async move {
            let mut reached = |step: Step| {
                tracing::debug!(?step, "snapshot");
                Ok(())
            };
            if let Some(frozen) = frozen {
                let manifest = compact::snapshot(&store, frozen, &mut reached).await?;
                tracing::info!(batch = manifest.head.sequence, bytes = manifest.size, "the journal has a snapshot");
                let _ = tell.send(manifest);
            }
            compact::tidy(&store, &archive, &journal, &mut reached).await
        }));
    }

    fn ended(&mut self, end: Result<Result<(), JournalError>, tokio::task::JoinError>) {
        let error = match end {
            Ok(Ok(())) => return self.metrics.snapshots.with_label_values(&["done"]).inc(),
            // The leader's turn finds out by itself.
            Ok(Err(JournalError::LostFence(_))) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.metrics.snapshots.with_label_values(&["failed"]).inc();
        self.not_before = Instant::now() + RETRY;
        tracing::warn!(error, "the journal was not made smaller; trying again in {} s", RETRY.as_secs());
    }

    /// Ends what is under way: a later leader goes on with it.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}
