//! What the agent counts, in Prometheus' text format.
//!
//! in → counts from the session, the fetcher and attempts · out → text for a scrape · invariant: labels come from enums;
//! names end in their unit.

use nightshift_types::{Bytes, FailureReason};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// The agent's metrics; cheap to clone, clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    /// Time in the model's method.
    pub compute: Histogram,
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
    /// When the certificate ends.
    pub certificate: Gauge,
}

impl Metrics {
    /// With a registry of its own.
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
        let compute = HistogramOpts::new("compute_seconds", "Time in the model's method").buckets(buckets);
        let compute = Histogram::with_opts(compute)?;
        registry.register(Box::new(compute.clone()))?;
        let certificate = Gauge::new("certificate_expiry_timestamp_seconds", "When this node's certificate ends")?;
        registry.register(Box::new(certificate.clone()))?;
        Ok(Self {
            attempts,
            compute,
            certificate,
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
            cache: gauge("model_cache_bytes", "Size of the model cache")?,
            registry,
        })
    }

    /// An attempt ended: `Succeeded`, or a failure's reason.
    pub fn attempt(&self, result: Result<(), FailureReason>) {
        let label = result.err().map_or("Succeeded", FailureReason::as_str);
        self.attempts.with_label_values(&[label]).inc();
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
        metrics.compute.observe(0.2);
        let text = metrics.text();
        for line in [
            "nightshift_agent_attempts_total{result=\"Succeeded\"} 1",
            "nightshift_agent_attempts_total{result=\"OutOfMemory\"} 1",
            "nightshift_agent_compute_seconds_count 1",
            "nightshift_agent_session_connected 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
