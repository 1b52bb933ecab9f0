//! In: a job whose turn did not come → out: why, as a word for its condition and a sentence for people.

use nightshift_types::{Bytes, JobId, StopPolicy, Timestamp};
use std::fmt;

/// Why none of a job's waiting tasks is looked at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// `suspend: true`.
    Suspended,
    /// Its queue's stop policy.
    QueueStopped(StopPolicy),
    /// As many of its tasks run as may, or too many for its gang to start.
    OverParallelism {
        /// Tasks running.
        running: u32,
        /// Tasks that would have to start together.
        together: u32,
        /// Tasks that may run at once.
        parallelism: u32,
    },
    /// Its tasks are in back-off after a failure.
    NotReady {
        /// The first of them is ready then, if it was shown.
        until: Option<Timestamp>,
    },
    /// No node took its task, nothing changed since, and it is too soon to look again.
    BackOff {
        /// Looks in a row that found none.
        refusals: u32,
        /// The next look, unless something changes before.
        until: Timestamp,
    },
    /// Some of those that start together are in back-off.
    GangNotReady {
        /// Tasks that are ready.
        ready: u32,
        /// Tasks that start together.
        together: u32,
    },
    /// Its queue runs as many tasks as it may.
    TaskQuota {
        /// Tasks it runs, with those handed out before.
        used: u64,
        /// Tasks that would start.
        need: u32,
        /// Tasks it may run at once.
        limit: u32,
    },
    /// Its queue holds as much device memory as it may.
    MemoryQuota {
        /// What it holds, with what was handed out before.
        used: Bytes,
        /// What would be added.
        need: Bytes,
        /// What it may hold at once.
        limit: Bytes,
    },
    /// What is left of its queue's quota is kept for a job that is overdue.
    KeptFor(JobId),
    /// So many others are looked at first: its turn comes with a later order.
    Later {
        /// Requests of this order.
        looked_at: usize,
    },
}

impl Held {
    /// CamelCase, for conditions and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Suspended => "Suspended",
            Self::QueueStopped(_) => "QueueStopped",
            Self::OverParallelism { .. } => "OverParallelism",
            Self::NotReady { .. } | Self::BackOff { .. } => "BackOff",
            Self::GangNotReady { .. } => "GangNotReady",
            Self::TaskQuota { .. } | Self::MemoryQuota { .. } | Self::KeptFor(_) => "QuotaExceeded",
            Self::Later { .. } => "WaitingForTurn",
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended => f.write_str("the job is suspended"),
            Self::QueueStopped(policy) => write!(f, "the queue is stopped: stopPolicy {policy}"),
            Self::OverParallelism { running, together: 0 | 1, parallelism } => {
                write!(f, "{running} of its tasks run, parallelism is {parallelism}")
            }
            Self::OverParallelism { running, together, parallelism } => {
                write!(f, "{together} tasks start together and {running} run, parallelism is {parallelism}")
            }
            Self::NotReady { until: Some(_) } => f.write_str("its tasks are in back-off after failures"),
            Self::NotReady { until: None } => f.write_str("its waiting tasks are in back-off after failures"),
            Self::BackOff { refusals, .. } => {
                write!(f, "no node took it {refusals} times in a row, and nothing changed since")
            }
            Self::GangNotReady { ready, together } => {
                write!(f, "{together} tasks start together and {ready} of them are ready, the others are in back-off")
            }
            Self::TaskQuota { used, need, limit } => {
                write!(f, "the queue runs {used} of {limit} tasks, {need} more would start")
            }
            Self::MemoryQuota { used, need, limit } => {
                let (used, need, limit) = (used.human(), need.human(), limit.human());
                write!(f, "the queue holds {used} of {limit} device memory, {need} more would be held")
            }
            Self::KeptFor(job) => {
                write!(f, "what is left of the queue's quota is kept for job {job}, which waits longest")
            }
            Self::Later { looked_at } => write!(f, "{looked_at} others are looked at first"),
        }
    }
}
