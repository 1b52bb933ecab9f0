//! What is true at the moment of a scrape, counted from the fold and the live nodes.
//!
//! in → committed state, live nodes, reasons of the last cycle · out → Prometheus' text · invariant: nothing is kept
//! between scrapes, so a figure here is never older than the scrape; totals come from the journal and survive restarts.

use super::Builder;
use crate::leader::Leader;
use crate::nodes::census::Census;
use nightshift_placement::ReasonKind;
use nightshift_placement::queue::Held;
use nightshift_state::{Job, State};
use nightshift_types::{PicoPoints, Timestamp};
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::BTreeMap;

/// Why tasks wait, beside the filters' reasons.
const SUSPENDED: &str = "Suspended";
const BACK_OFF: &str = "BackOff";
const PARALLELISM: &str = "Parallelism";
const NO_NODE: &str = "NoNode";
const NOT_CONSIDERED: &str = "NotConsidered";
const QUEUE_STOPPED: &str = "QueueStopped";
const QUOTA_EXCEEDED: &str = "QuotaExceeded";
const OWN_REASONS: [&str; 7] =
    [SUSPENDED, BACK_OFF, PARALLELISM, NO_NODE, NOT_CONSIDERED, QUEUE_STOPPED, QUOTA_EXCEEDED];
/// States of jobs that have no result yet.
const JOB_STATES: [&str; 3] = ["Pending", "Running", "Suspended"];

/// One look at everything.
#[derive(Debug, Default)]
pub struct Facts {
    pending: BTreeMap<&'static str, u64>,
    jobs: BTreeMap<&'static str, u64>,
    oldest_pending_seconds: f64,
    census: Census,
    charged: PicoPoints,
    reserved: PicoPoints,
    earned: PicoPoints,
    entries: u64,
}

impl Facts {
    /// Looks. Holds the state for as long as it takes to walk unfinished jobs and nodes once.
    pub async fn look(leader: &Leader) -> Self {
        let (now, lease) = (leader.now(), leader.lease());
        let state = leader.state().await;
        let mut facts = Self { census: leader.nodes().census(&state, now, lease), ..Self::default() };
        facts.count_jobs(&state, now, |job| {
            match leader.held(&job.id) {
                // Of those that are kept for people to read.
                Some(Held::QueueStopped(_)) => Some(QUEUE_STOPPED),
                Some(_) => Some(QUOTA_EXCEEDED),
                None => leader.why(&job.id).map(|why| why.counts.first().map_or(NO_NODE, |count| count.kind.as_str())),
            }
        });
        for (_, book) in state.ledger().queues() {
            facts.charged += book.spent;
            facts.reserved += book.reserved;
        }
        facts.earned = state.nodes().values().fold(PicoPoints::ZERO, |sum, node| sum + node.earned);
        facts.entries = state.ledger().entries() - state.ledger().grants();
        facts
    }

    /// Each waiting task has one reason: of a job that no node takes now, what keeps most nodes from it.
    fn count_jobs(&mut self, state: &State, now: Timestamp, why: impl Fn(&Job) -> Option<&'static str>) {
        let mut backing_off: BTreeMap<u64, u32> = BTreeMap::new();
        for waiting in state.waiting().filter(|waiting| waiting.not_before > now) {
            *backing_off.entry(waiting.job.number).or_default() += 1;
        }
        let mut pending = |reason, tasks: u32| *self.pending.entry(reason).or_default() += u64::from(tasks);
        for job in state.unfinished() {
            let word = if job.spec.suspend {
                "Suspended"
            } else if job.running > 0 {
                "Running"
            } else {
                "Pending"
            };
            *self.jobs.entry(word).or_default() += 1;
            let waiting = job.waiting();
            if job.spec.suspend {
                pending(SUSPENDED, waiting);
                continue;
            }
            let later = backing_off.get(&job.number).copied().unwrap_or(0).min(waiting);
            pending(BACK_OFF, later);
            let full = job.running >= job.spec.parallelism;
            let reason = if full { PARALLELISM } else { why(job).unwrap_or(NOT_CONSIDERED) };
            pending(reason, waiting - later);
            if let Some(since) = job.pending_since.filter(|_| word == "Pending") {
                let waits = now.since(since).as_duration().as_secs_f64();
                self.oldest_pending_seconds = self.oldest_pending_seconds.max(waits);
            }
        }
    }

    /// As Prometheus reads it.
    pub fn render(&self) -> Vec<u8> {
        let registry = Registry::new_custom(Some("nightshift".into()), None).unwrap_or_default();
        let build = Builder { registry: &registry };
        self.fill(&build);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics could not be rendered");
        }
        text
    }

    fn fill(&self, build: &Builder<'_>) {
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let pending = build.gauges("scheduler_pending_tasks", "Waiting tasks, by what they wait for.", &["reason"]);
        let kinds = ReasonKind::ALL.iter().map(|kind| kind.as_str());
        for reason in OWN_REASONS.into_iter().chain(kinds) {
            pending.with_label_values(&[reason]).set(whole(self.pending.get(reason).copied().unwrap_or(0)));
        }
        let jobs = build.gauges("scheduler_jobs", "Jobs without a result, by state.", &["state"]);
        for state in JOB_STATES {
            jobs.with_label_values(&[state]).set(whole(self.jobs.get(state).copied().unwrap_or(0)));
        }
        let oldest = "For how long nothing has run of the job that has waited longest; 0: none waits.";
        build.float("scheduler_oldest_pending_job_seconds", oldest).set(self.oldest_pending_seconds);
        let nodes = build.gauges("scheduler_nodes", "Nodes that joined, by state.", &["state"]);
        for (state, count) in &self.census.states {
            nodes.with_label_values(&[state.as_str()]).set(whole(*count));
        }
        let class = &["device_class"];
        let devices = build.gauges("scheduler_devices", "Devices of connected nodes.", class);
        let capacity = "Device memory that owners let us use, on connected nodes.";
        let capacity = build.gauges("scheduler_device_memory_capacity_bytes", capacity, class);
        let allocated = "Device memory that running attempts hold.";
        let allocated = build.gauges("scheduler_device_memory_allocated_bytes", allocated, class);
        for (class, held) in &self.census.devices {
            devices.with_label_values(&[class.as_str()]).set(whole(held.devices));
            capacity.with_label_values(&[class.as_str()]).set(whole(held.capacity.0));
            allocated.with_label_values(&[class.as_str()]).set(whole(held.allocated.0));
        }
        let points = |sum: PicoPoints| sum.0 as f64 / 1e12;
        let charged = "Points charged for accepted results, over the journal's life.";
        build.total("ledger_charged_points_total", charged, points(self.charged));
        let earned = "Points paid to nodes' owners, over the journal's life.";
        build.total("ledger_earned_points_total", earned, points(self.earned));
        build.float("ledger_reserved_points", "Quotes of running tasks.").set(points(self.reserved));
        build.total("ledger_entries_total", "Settlements, over the journal's life.", self.entries as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_series_and_points_are_decimal() {
        let mut facts = Facts { charged: "1.25".parse().unwrap(), entries: 3, ..Facts::default() };
        facts.pending.insert(ReasonKind::MemoryTotal.as_str(), 7);
        let text = String::from_utf8(facts.render()).unwrap();
        for line in [
            "nightshift_scheduler_pending_tasks{reason=\"MemoryTotal\"} 7",
            "nightshift_scheduler_pending_tasks{reason=\"BackOff\"} 0",
            "nightshift_scheduler_jobs{state=\"Pending\"} 0",
            "nightshift_ledger_charged_points_total 1.25",
            "nightshift_ledger_entries_total 3",
            "nightshift_scheduler_oldest_pending_job_seconds 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
