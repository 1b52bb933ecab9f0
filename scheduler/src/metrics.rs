//! The scheduler's metrics, injected where they are counted. Labels come from enums; names end in units.
//!
//! in → counts, durations · out → Prometheus' text · invariant: every series but a device class's exists from the start,
//! so that rates and alerts see the first increase. What is true now rather than counted is in [`facts`].

pub mod facts;

use crate::blobs::collect::Collected;
use nightshift_placement::estimate::Verdict;
use nightshift_types::{Bytes, FailureReason};
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::time::Duration;

/// Every metric of one scheduler.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Tasks by state: waiting, running.
    pub tasks: IntGaugeVec,
    /// Jobs that ended, by result.
    pub jobs_finished: IntCounterVec,
    /// Placements committed.
    pub placements: IntCounter,
    /// Attempts that ended, by `succeeded` or their failure reason.
    pub attempts: IntCounterVec,
    /// Reports that came too late to count.
    pub reports_dropped: IntCounter,
    /// From a cycle's start to its commit.
    pub cycle_seconds: Histogram,
    /// One durable append.
    append_seconds: Histogram,
    /// Batches appended.
    batches: IntCounter,
    /// Their bytes.
    batch_bytes: IntCounter,
    /// Appends that the store did not answer and that were tried again.
    pub append_errors: IntCounter,
    /// Bytes of batches that are in no snapshot.
    pub journal_tail_bytes: IntGauge,
    /// Snapshots of the journal, by whether all that follows one was done.
    pub snapshots: IntCounterVec,
    /// Bytes of the newest that this leader took.
    pub snapshot_bytes: IntGauge,
    /// How long turns stood still for one.
    pub snapshot_pause_seconds: Histogram,
    /// 1 while the journal's store takes nothing, by why.
    pub(crate) journal_trouble: IntGaugeVec,
    /// Commands that wait for the next batch.
    pub commands_waiting: IntGauge,
    /// Commands of people that were refused because too many waited.
    pub commands_refused: IntCounter,
    /// From a job's admission to the first placement of each of its tasks.
    pub placement_wait_seconds: Histogram,
    /// From placement to the accepted report.
    pub attempt_seconds: Histogram,
    /// What runs took ÷ their predicted 95th percentile.
    prediction_ratio: Histogram,
    /// Predictions of accepted runs, by whether the run was within the 95th percentile.
    predictions: IntCounterVec,
    /// Agents connected now.
    pub sessions: IntGauge,
    /// Jobs of which no node takes a task, as of the last cycle.
    pub unschedulable: IntGauge,
    /// Bytes sent to agents.
    pub blob_sent_bytes: IntCounter,
    /// Bytes received from agents and pushes.
    pub blob_received_bytes: IntCounter,
    /// Bytes in the blob store, by whether anything refers to them.
    blob_bytes: IntGaugeVec,
    /// Blobs in the blob store.
    blobs: IntGauge,
    /// Blobs removed because nothing referred to them.
    blobs_collected: IntCounter,
    /// Their bytes.
    blob_collected_bytes: IntCounter,
    /// Reconciliations that failed and will be tried again, by kind.
    pub reconcile_errors: IntCounterVec,
    /// Watches of the Kubernetes API that broke and were begun again, by kind.
    pub watch_errors: IntCounterVec,
    /// Scrapes of agents, by result: answered, failed.
    pub scrapes: IntCounterVec,
    /// Attempts that wait for their model's download.
    pub downloads: IntGauge,
    /// 1 while this process leads.
    pub leader: IntGauge,
}

/// Where a run ended against its prediction: 95 of 100 should be within.
const WITHIN: [&str; 2] = ["p95", "over"];

/// `tasks` label values.
pub const TASK_STATES: [&str; 2] = ["waiting", "running"];

impl Metrics {
    /// Registers all of them in a registry of their own.
    pub fn new() -> Self {
        let registry = Registry::new_custom(Some("nightshift".into()), None).unwrap_or_default();
        let build = Builder { registry: &registry };
        let fast = vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
        let slow = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
        let version = build.gauges("scheduler_build_info", "1; the label has the version.", &["version"]);
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            tasks: build.gauges("scheduler_tasks", "Tasks now, by state.", &["state"]),
            jobs_finished: build.counters("scheduler_jobs_finished_total", "Jobs that ended, by result.", &["result"]),
            placements: build.counter("scheduler_placements_total", "Placements committed to the journal."),
            attempts: build.counters(
                "scheduler_attempts_finished_total",
                "Attempts that ended, by result.",
                &["result"],
            ),
            reports_dropped: build.counter("scheduler_reports_dropped_total", "Reports of attempts no longer current."),
            cycle_seconds: build.histogram("scheduler_cycle_seconds", "A cycle, from its start to its commit.", &fast),
            append_seconds: build.histogram("scheduler_journal_append_seconds", "One durable append.", &fast),
            attempt_seconds: build.histogram("scheduler_attempt_seconds", "From placement to accepted report.", &slow),
            batches: build.counter("scheduler_journal_batches_total", "Batches appended to the journal."),
            batch_bytes: build.counter("scheduler_journal_bytes_total", "Bytes appended to the journal."),
            append_errors: build
                .counter("scheduler_journal_append_errors_total", "Appends that had to be tried again."),
            journal_tail_bytes: build
                .gauge("scheduler_journal_tail_bytes", "Bytes of the journal's batches that are in no snapshot."),
            snapshots: build.counters(
                "scheduler_journal_snapshots_total",
                "Snapshots of the journal, by whether it was made smaller by them.",
                &["result"],
            ),
            snapshot_bytes: build.gauge("scheduler_journal_snapshot_bytes", "Bytes of the newest snapshot taken."),
            snapshot_pause_seconds: build.histogram(
                "scheduler_journal_snapshot_pause_seconds",
                "How long a turn stood still to freeze the state for a snapshot.",
                &fast,
            ),
            journal_trouble: build.gauges(
                "scheduler_journal_trouble",
                "1 while the journal's store takes nothing, by why.",
                &["reason"],
            ),
            commands_waiting: build.gauge("scheduler_commands_waiting", "Commands that wait for the next batch."),
            commands_refused: build.counter(
                "scheduler_commands_refused_total",
                "Commands of people that were refused because too many waited.",
            ),
            placement_wait_seconds: build.histogram(
                "scheduler_placement_wait_seconds",
                "From a job's admission to the first placement of each of its tasks.",
                &slow,
            ),
            prediction_ratio: build.histogram(
                "placement_prediction_ratio",
                "What runs took, from dispatch to accepted result, divided by their predicted 95th percentile.",
                &[0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0],
            ),
            predictions: build.counters(
                "placement_predictions_total",
                "Accepted runs, by whether they were within their predicted 95th percentile.",
                &["within"],
            ),
            sessions: build.gauge("scheduler_sessions", "Agents connected now."),
            unschedulable: build
                .gauge("scheduler_unschedulable_jobs", "Jobs of which no node takes a task, as of the last cycle."),
            blob_sent_bytes: build.counter("edge_blob_sent_bytes_total", "Bytes of blobs sent to agents."),
            blob_received_bytes: build.counter("edge_blob_received_bytes_total", "Bytes of blobs received."),
            blob_bytes: build.gauges("blobs_bytes", "Bytes in the blob store, by use: live, unused.", &["use"]),
            blobs: build.gauge("blobs_held", "Blobs in the blob store."),
            blobs_collected: build.counter("blobs_collected_total", "Blobs removed that nothing referred to."),
            blob_collected_bytes: build.counter("blobs_collected_bytes_total", "Bytes of removed blobs."),
            reconcile_errors: build.counters("controller_reconcile_errors_total", "Failed reconciliations.", &["kind"]),
            watch_errors: build.counters(
                "controller_watch_errors_total",
                "Watches of the Kubernetes API that broke.",
                &["kind"],
            ),
            scrapes: build.counters("edge_scrapes_total", "Scrapes of agents, by result.", &["result"]),
            downloads: build.gauge("scheduler_attempts_downloading", "Attempts that wait for their model's download."),
            leader: build.gauge("scheduler_leader", "1 while this process leads."),
            registry,
        };
        metrics.pre_create();
        metrics.in_trouble(None);
        metrics
    }

    /// A batch became durable.
    pub fn appended(&self, bytes: Bytes, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
        self.batches.inc();
        self.batch_bytes.inc_by(bytes.0);
    }

    /// The blob store was looked through.
    pub fn collected(&self, collected: &Collected) {
        let Collected { blobs, bytes, live_bytes, unused_bytes, held } = *collected;
        self.blobs_collected.inc_by(blobs);
        self.blob_collected_bytes.inc_by(bytes);
        self.blobs.set(held as i64);
        self.blob_bytes.with_label_values(&["live"]).set(live_bytes as i64);
        self.blob_bytes.with_label_values(&["unused"]).set(unused_bytes as i64);
    }

    /// A run ended that was predicted.
    pub fn predicted(&self, verdict: &Verdict) {
        self.prediction_ratio.observe(verdict.took as f64 / verdict.p95.max(1) as f64);
        self.predictions.with_label_values(&[WITHIN[usize::from(!verdict.within)]]).inc();
    }

    /// Series exist from the start, so that rates and alerts see their first increase.
    fn pre_create(&self) {
        self.attempts.with_label_values(&["Succeeded"]);
        for reason in FailureReason::ALL {
            self.attempts.with_label_values(&[reason.as_str()]);
        }
        for result in ["Complete", "Failed", "Cancelled"] {
            self.jobs_finished.with_label_values(&[result]);
        }
        for state in TASK_STATES {
            self.tasks.with_label_values(&[state]);
        }
        for kind in ["InferenceJob", "ModelArtifact", "ComputeNode"] {
            self.reconcile_errors.with_label_values(&[kind]);
            self.watch_errors.with_label_values(&[kind]);
        }
        for result in ["done", "failed"] {
            self.snapshots.with_label_values(&[result]);
        }
        for used in ["live", "unused"] {
            self.blob_bytes.with_label_values(&[used]);
        }
        for within in WITHIN {
            self.predictions.with_label_values(&[within]);
        }
        for result in ["answered", "failed"] {
            self.scrapes.with_label_values(&[result]);
        }
    }

    /// Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics could not be rendered");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

struct Builder<'a> {
    registry: &'a Registry,
}

/// Names are constants of this file, so making and registering can only fail by a typo a test finds at once.
impl Builder<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("metric names in this file are valid");
        self.registry.register(Box::new(collector.clone())).expect("metric names in this file are unique");
        collector
    }
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }
    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }
    fn float(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }
    fn total(&self, name: &str, help: &str, value: f64) {
        self.register(Counter::new(name, help)).inc_by(value.max(0.0));
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }
    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_every_series() {
        let text = String::from_utf8(Metrics::new().render()).unwrap();
        for name in ["nightshift_scheduler_placements_total 0", "result=\"InputInvalid\"", "state=\"running\""] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
