//! In: an order and what it was made from → out: whether it keeps what it promises. Slow: for tests, and a doubt in
//! production.

use super::entry::waiting;
use super::{Order, QueuedJob, Tenant};
use nightshift_types::{Bytes, JobId, StopPolicy, TaskId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// A promise that an order broke.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OrderError {
    /// Ranks and requests do not match.
    #[error("{requests} requests have {ranks} ranks")]
    Ranks {
        /// Requests.
        requests: usize,
        /// Ranks.
        ranks: usize,
    },
    /// Beyond the limit by more than a gang.
    #[error("{requests} requests are beyond the limit of {limit}")]
    Limit {
        /// Requests.
        requests: usize,
        /// The limit.
        limit: usize,
    },
    /// A request for a task that does not wait, is not ready, or stands twice.
    #[error("task {0} may not start, or stands twice")]
    Task(TaskId),
    /// A job that is suspended, stopped, or beyond its parallelism.
    #[error("job {0} may not start so many tasks")]
    Job(JobId),
    /// A gang that is not whole, or not together.
    #[error("the gang of job {0} is not whole")]
    Gang(JobId),
    /// A queue beyond its quota.
    #[error("queue {0} would exceed its quota")]
    Quota(String),
    /// A request that may pay more than its queue.
    #[error("job {0} may pay more than its queue")]
    Price(JobId),
    /// A job that waits with neither a request nor a reason, or with both.
    #[error("job {0} must have either a request or a reason")]
    Unexplained(JobId),
    /// More than one reservation in a queue.
    #[error("queue {0} has more than one job with a reservation")]
    Reservations(String),
}

impl Order {
    /// Checks everything an order promises that does not depend on the past.
    pub fn check_invariants(
        &self,
        tenants: &BTreeMap<String, Tenant>,
        jobs: &[QueuedJob],
        now: Timestamp,
        limit: usize,
    ) -> Result<(), OrderError> {
        let (requests, ranks) = (self.requests.len(), self.ranks.len());
        if requests != ranks {
            return Err(OrderError::Ranks { requests, ranks });
        }
        let last_gang = self.requests.last().map_or(0, |request| request.gang.saturating_sub(1) as usize);
        if requests > limit + last_gang {
            return Err(OrderError::Limit { requests, limit });
        }
        let held: BTreeSet<&JobId> = self.held.iter().map(|(id, _)| id).collect();
        for queued in jobs {
            let handed = self.of_job(queued, tenants, now)?;
            let explained = (handed > 0) != held.contains(&queued.job.id);
            if waiting(queued) > 0 && !explained {
                return Err(OrderError::Unexplained(queued.job.id.clone()));
            }
        }
        self.quotas(tenants, jobs)?;
        self.reservations()
    }

    /// How many tasks of a job it hands out.
    fn of_job(
        &self,
        queued: &QueuedJob,
        tenants: &BTreeMap<String, Tenant>,
        now: Timestamp,
    ) -> Result<usize, OrderError> {
        let job = &queued.job;
        let mut able: BTreeSet<u32> =
            job.waiting.iter().filter(|task| task.not_before <= now).map(|task| task.index).collect();
        let own: Vec<_> = self.requests.iter().enumerate().filter(|(_, request)| request.task.job == job.id).collect();
        let tenant = tenants.get(&job.spec.queue);
        let limit = tenant.and_then(|tenant| tenant.queue.max_price_per_hour);
        for (_, request) in &own {
            if !able.remove(&request.task.index) {
                return Err(OrderError::Task(request.task.clone()));
            }
            let pays = request.spec.max_price_per_hour;
            if limit.is_some_and(|limit| pays.is_none_or(|pays| pays > limit)) {
                return Err(OrderError::Price(job.id.clone()));
            }
        }
        let stopped = tenant.is_some_and(|tenant| tenant.queue.stop != StopPolicy::None) || job.spec.suspend;
        let room = job.spec.parallelism.saturating_sub(job.running) as usize;
        if own.len() > room || (stopped && !own.is_empty()) {
            return Err(OrderError::Job(job.id.clone()));
        }
        let together = job.spec.min_parallelism.saturating_sub(job.running).min(waiting(queued)) as usize;
        let adjacent = own.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
        let whole = own.len() == together && adjacent && own.iter().all(|(_, r)| r.gang as usize == together);
        if together > 1 && !own.is_empty() && !whole {
            return Err(OrderError::Gang(job.id.clone()));
        }
        Ok(own.len())
    }

    fn quotas(&self, tenants: &BTreeMap<String, Tenant>, jobs: &[QueuedJob]) -> Result<(), OrderError> {
        let memory: BTreeMap<&JobId, Bytes> = jobs.iter().map(|q| (&q.job.id, q.job.spec.memory)).collect();
        for (name, tenant) in tenants {
            let own = self.requests.iter().filter(|request| &request.spec.queue == name);
            let (mut tasks, mut held, mut some) = (u64::from(tenant.running), tenant.memory, false);
            for request in own {
                tasks += 1;
                held = held + memory[&request.task.job];
                some = true;
            }
            let quota = tenant.queue.quota;
            let over = quota.tasks.is_some_and(|limit| tasks > u64::from(limit))
                || quota.device_memory.is_some_and(|limit| held > limit);
            if some && over {
                return Err(OrderError::Quota(name.clone()));
            }
        }
        Ok(())
    }

    fn reservations(&self) -> Result<(), OrderError> {
        let mut jobs: BTreeMap<&str, &JobId> = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.overdue) {
            if *jobs.entry(&request.spec.queue).or_insert(&request.task.job) != &request.task.job {
                return Err(OrderError::Reservations(request.spec.queue.clone()));
            }
        }
        Ok(())
    }
}
