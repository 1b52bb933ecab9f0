//! What the agent counts, in Prometheus' text format.
//!
//! in → counts from the session, the fetcher and attempts · out → text for a scrape · invariant: labels come from enums;
//! names end in their unit.

use crate::engine::Sandbox;
use crate::owner::Cause;
use crate::progress::Download;
use nightshift_types::{Bytes, FailureReason};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::time::Duration;

/// Where an attempt's time goes, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Model and input on their way here.
    Fetch,
    /// Waiting for the model's worker.
    Queue,
    /// Starting a worker and loading the model; only where that was needed.
    Load,
    /// The model's method.
    Compute,
    /// Decoding the input and encoding the output.
    Codec,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Fetch, Self::Queue, Self::Load, Self::Compute, Self::Codec];

    fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Queue => "queue",
            Self::Load => "load",
            Self::Compute => "compute",
            Self::Codec => "codec",
        }
    }
}

/// The agent's metrics; cheap to clone, clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    stages: HistogramVec,
    /// From an assignment's arrival to its outcome.
    pub attempt: Histogram,
    cache_requests: IntCounterVec,
    /// Worker processes that started and loaded their model.
    pub workers: IntCounter,
    device_free: IntGaugeVec,
    sandbox: IntGaugeVec,
    /// 1 while the owner lets us work.
    pub available: IntGauge,
    pauses: IntCounterVec,
    paused: IntGaugeVec,
    /// From a pause to the end of the last worker.
    pub release: Histogram,
    /// Memory that was not free after the last pause.
    pub unreleased: IntGauge,
    /// Bytes of models and inputs fetched.
    pub fetched: IntCounter,
    /// Bytes of results put.
    pub put: IntCounter,
    /// Assignments refused.
    pub refusals: IntCounter,
    /// Sessions begun.
    pub sessions: IntCounter,
    /// Outcomes lost to a torn file.
    pub torn: IntCounter,
    /// Outcomes not acknowledged.
    pub outbox_entries: IntGauge,
    /// Their size.
    pub outbox_bytes: IntGauge,
    /// 1 while there is a session.
    pub connected: IntGauge,
    /// Attempts running.
    pub running: IntGauge,
    /// Memory that running attempts reserve.
    pub reserved: IntGauge,
    /// Memory that the owner lets us use.
    pub capacity: IntGauge,
    /// Models loaded.
    pub loaded: IntGauge,
    /// Size of the model cache.
    pub cache: IntGauge,
    /// The most it may have.
    pub cache_cap: IntGauge,
    downloads: IntGauge,
    downloads_done: IntGauge,
    downloads_total: IntGauge,
    /// When the certificate ends.
    pub certificate: Gauge,
}

impl Metrics {
    /// With a registry of its own. Long, because each metric stands with its help once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("nightshift_agent".into()), None)?;
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let attempts = IntCounterVec::new(Opts::new("attempts_total", "Attempts ended, by result"), &["result"])?;
        registry.register(Box::new(attempts.clone()))?;
        let buckets = prometheus::exponential_buckets(0.001, 2.5, 14)?;
        let stages = HistogramOpts::new("stage_seconds", "Time of succeeded attempts, by stage");
        let stages = HistogramVec::new(stages.buckets(buckets.clone()), &["stage"])?;
        registry.register(Box::new(stages.clone()))?;
        let attempt = HistogramOpts::new("attempt_seconds", "From an assignment's arrival to its outcome");
        let attempt = Histogram::with_opts(attempt.buckets(buckets))?;
        registry.register(Box::new(attempt.clone()))?;
        let cache_requests = Opts::new("model_cache_requests_total", "Models asked of the cache, by result");
        let cache_requests = IntCounterVec::new(cache_requests, &["result"])?;
        registry.register(Box::new(cache_requests.clone()))?;
        let device_free = Opts::new("device_memory_free_bytes", "Free in the machine now, at most the owner's share");
        let device_free = IntGaugeVec::new(device_free, &["device"])?;
        registry.register(Box::new(device_free.clone()))?;
        let sandbox = Opts::new("sandbox_enforced", "1 where models are confined by this part of the kernel");
        let sandbox = IntGaugeVec::new(sandbox, &["part"])?;
        registry.register(Box::new(sandbox.clone()))?;
        let pauses = IntCounterVec::new(Opts::new("pauses_total", "Pauses for the owner, by reason"), &["reason"])?;
        registry.register(Box::new(pauses.clone()))?;
        let paused = IntGaugeVec::new(Opts::new("paused", "1 while the agent pauses for this reason"), &["reason"])?;
        registry.register(Box::new(paused.clone()))?;
        for cause in Cause::ALL {
            pauses.with_label_values(&[cause.as_str()]);
            paused.with_label_values(&[cause.as_str()]);
        }
        let release = HistogramOpts::new("pause_release_seconds", "From a pause to the end of the last worker");
        let release = Histogram::with_opts(release.buckets(prometheus::exponential_buckets(0.002, 2.0, 12)?))?;
        registry.register(Box::new(release.clone()))?;
        let version = IntGaugeVec::new(Opts::new("build_info", "1; the label has the version"), &["version"])?;
        registry.register(Box::new(version.clone()))?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for stage in Stage::ALL {
            stages.with_label_values(&[stage.as_str()]);
        }
        for result in ["hit", "miss"] {
            cache_requests.with_label_values(&[result]);
        }
        attempts.with_label_values(&["Succeeded"]);
        for reason in FailureReason::ALL {
            attempts.with_label_values(&[reason.as_str()]);
        }
        let certificate = Gauge::new("certificate_expiry_timestamp_seconds", "When this node's certificate ends")?;
        registry.register(Box::new(certificate.clone()))?;
        Ok(Self {
            attempts,
            stages,
            attempt,
            cache_requests,
            device_free,
            sandbox,
            certificate,
            pauses,
            paused,
            release,
            unreleased: gauge("pause_unreleased_bytes", "Memory that was not free after the last pause")?,
            workers: counter("workers_started_total", "Worker processes that started and loaded their model")?,
            available: gauge("available", "1 while the owner lets Nightshift work")?,
            fetched: counter("fetch_bytes_total", "Bytes of models and inputs fetched")?,
            put: counter("put_bytes_total", "Bytes of results put")?,
            refusals: counter("refusals_total", "Assignments refused")?,
            sessions: counter("sessions_total", "Sessions begun")?,
            torn: counter("outbox_torn_total", "Outcomes lost to a torn file")?,
            outbox_entries: gauge("outbox_entries", "Outcomes not acknowledged yet")?,
            outbox_bytes: gauge("outbox_bytes", "Size of the outcomes not acknowledged yet")?,
            connected: gauge("session_connected", "1 while there is a session with the scheduler")?,
            running: gauge("attempts_running", "Attempts running")?,
            reserved: gauge("memory_reserved_bytes", "Device memory that running attempts reserve")?,
            capacity: gauge("memory_capacity_bytes", "Device memory that the owner lets Nightshift use")?,
            loaded: gauge("models_loaded", "Models loaded in workers")?,
            cache: gauge("model_cache_bytes", "Size of the model cache, with what downloads under way will take")?,
            cache_cap: gauge("model_cache_cap_bytes", "Disk that the owner lets cached models use")?,
            downloads: gauge("model_downloads", "Models under way to this node")?,
            downloads_done: gauge("model_downloads_done_bytes", "Of the models under way, what is here")?,
            downloads_total: gauge("model_downloads_total_bytes", "Size of the models under way")?,
            registry,
        })
    }

    /// An attempt ended: `Succeeded`, or a failure's reason.
    pub fn attempt(&self, result: Result<(), FailureReason>) {
        let label = result.err().map_or("Succeeded", FailureReason::as_str);
        self.attempts.with_label_values(&[label]).inc();
    }

    /// A stage of an attempt that succeeded took so long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.with_label_values(&[stage.as_str()]).observe(took.as_secs_f64());
    }

    /// A model was in the cache, or had to be fetched.
    pub fn cache_request(&self, hit: bool) {
        self.cache_requests.with_label_values(&[if hit { "hit" } else { "miss" }]).inc();
    }

    /// What a device has free; its name is `cpu0`, `cuda0` …
    pub fn device_free(&self, device: &str, free: Bytes) {
        Self::bytes(&self.device_free.with_label_values(&[device]), free);
    }

    /// What the walls around models consist of.
    pub fn sandbox(&self, sandbox: &Sandbox) {
        for (part, enforced) in [("landlock", sandbox.landlock > 0), ("seccomp", sandbox.seccomp)] {
            self.sandbox.with_label_values(&[part]).set(enforced.into());
        }
    }

    /// The owner pauses us, for this reason, or lets us work.
    pub fn pause(&self, reason: Option<Cause>) {
        for cause in Cause::ALL {
            self.paused.with_label_values(&[cause.as_str()]).set((Some(*cause) == reason).into());
        }
        if let Some(cause) = reason {
            self.pauses.with_label_values(&[cause.as_str()]).inc();
        }
    }

    /// How far the models under way are.
    pub fn downloads<'a>(&self, all: impl Iterator<Item = &'a Download>) {
        let (mut count, mut done, mut total) = (0, 0u64, 0u64);
        for one in all {
            (count, done, total) =
                (count + 1, done.saturating_add(one.done_bytes), total.saturating_add(one.total_bytes));
        }
        self.downloads.set(count);
        Self::bytes(&self.downloads_done, Bytes(done));
        Self::bytes(&self.downloads_total, Bytes(total));
    }

    /// Sets a gauge of bytes.
    pub fn bytes(gauge: &IntGauge, bytes: Bytes) {
        gauge.set(i64::try_from(bytes.0).unwrap_or(i64::MAX));
    }

    /// All of it, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut buffer = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut buffer) {
            Ok(()) => String::from_utf8_lossy(&buffer).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_units() {
        let metrics = Metrics::new().unwrap();
        metrics.attempt(Ok(()));
        metrics.attempt(Err(FailureReason::OutOfMemory));
        metrics.stage(Stage::Compute, Duration::from_millis(200));
        let text = metrics.text();
        for line in [
            "nightshift_agent_attempts_total{result=\"Succeeded\"} 1",
            "nightshift_agent_attempts_total{result=\"OutOfMemory\"} 1",
            "nightshift_agent_attempts_total{result=\"NodeLost\"} 0",
            "nightshift_agent_stage_seconds_count{stage=\"compute\"} 1",
            "nightshift_agent_stage_seconds_count{stage=\"load\"} 0",
            "nightshift_agent_session_connected 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
