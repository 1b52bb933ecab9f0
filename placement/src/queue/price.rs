//! In: a job's intent and its queue's price limit → out: the intent with the lower limit of the two.
//! Invariant: a job whose own limit is as low is handed out as it is; of the others one copy is kept, so that a later
//! order hands out the very same one.

use super::{QueuedJob, WaitingJob};
use nightshift_types::{JobId, JobSpec, PicoPoints};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Jobs forgotten in one go, so that it costs little a job.
const PRUNE: usize = 1_024;

#[derive(Debug, Clone)]
struct Copy {
    of: Arc<JobSpec>,
    lowered: Arc<JobSpec>,
}

/// Copies with a lower limit.
#[derive(Debug, Clone, Default)]
pub(super) struct Lowered(HashMap<JobId, Copy>);

impl Lowered {
    /// The intent to place `job` by.
    pub fn of(&mut self, job: &WaitingJob, limit: Option<PicoPoints>) -> Arc<JobSpec> {
        let Some(limit) = limit.filter(|&limit| job.spec.max_price_per_hour.is_none_or(|own| own > limit)) else {
            return Arc::clone(&job.spec);
        };
        let known = self.0.get(&job.id);
        let known = known.filter(|copy| Arc::ptr_eq(&copy.of, &job.spec));
        if let Some(copy) = known.filter(|copy| copy.lowered.max_price_per_hour == Some(limit)) {
            return Arc::clone(&copy.lowered);
        }
        let mut lowered = JobSpec::clone(&job.spec);
        lowered.max_price_per_hour = Some(limit);
        let lowered = Arc::new(lowered);
        self.0.insert(job.id.clone(), Copy { of: Arc::clone(&job.spec), lowered: Arc::clone(&lowered) });
        lowered
    }

    /// Forgets jobs that are gone.
    pub fn prune(&mut self, jobs: &[QueuedJob]) {
        if self.0.len() > 2 * jobs.len() + PRUNE {
            let known: HashSet<&JobId> = jobs.iter().map(|queued| &queued.job.id).collect();
            self.0.retain(|id, _| known.contains(id));
        }
    }
}
