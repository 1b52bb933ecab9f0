//! Models on their way to the nodes of running attempts, as the agents tell: soft state, nothing of it is journaled.
//!
//! in → what a heartbeat says of a node's attempts, the time · out → [`Downloading`] of a job, and the jobs whose status should
//! follow · invariant: a job is told of at once when its downloads begin and end, and between that every [`TELL`] at most;
//! what a node no longer names is forgotten.

use nightshift_types::{AttemptId, JobId, Milliseconds, NodeId, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A job's object follows its downloads this often.
pub const TELL: Milliseconds = Milliseconds(5_000);

/// How far one is; an agent's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Bytes there.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// At its pace; `None`: unknown.
    pub seconds_left: Option<u64>,
}

impl Download {
    /// The part that is there.
    pub fn percent(&self) -> u64 {
        u64::try_from(u128::from(self.done.min(self.total)) * 100 / u128::from(self.total.max(1))).unwrap_or(100)
    }
}

impl fmt::Display for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "downloading {} %", self.percent())?;
        self.seconds_left.map_or(Ok(()), |seconds| write!(f, ", {seconds} s left"))
    }
}

/// Those of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downloading {
    /// Attempts that wait for their model.
    pub attempts: usize,
    /// The one of which least is there.
    pub last: Download,
}

impl fmt::Display for Downloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempts {
            1 => write!(f, "its model: {}", self.last),
            n => write!(f, "the model of {n} tasks: {}, of the last", self.last),
        }
    }
}

#[derive(Debug, Default)]
struct Job {
    attempts: BTreeMap<AttemptId, (NodeId, Download)>,
    told: Timestamp,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<JobId, Job>,
    nodes: BTreeMap<NodeId, Vec<AttemptId>>,
}

/// Of all jobs.
#[derive(Debug, Default)]
pub struct Downloads(Mutex<Inner>);

impl Downloads {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that a node downloads now, for attempts that are its own. Answers the jobs to be told of.
    pub fn report(&self, node: &NodeId, now: &[(AttemptId, Download)], at: Timestamp) -> Vec<JobId> {
        let mut inner = self.lock();
        let before = inner.nodes.remove(node).unwrap_or_default();
        if before.is_empty() && now.is_empty() {
            return Vec::new(); // nearly every heartbeat
        }
        let mut tell = Vec::new();
        for attempt in before.iter().filter(|attempt| !now.iter().any(|(other, _)| other == *attempt)) {
            let id = &attempt.task.job;
            let Some(job) = inner.jobs.get_mut(id) else { continue };
            job.attempts.remove(attempt);
            if job.attempts.is_empty() {
                inner.jobs.remove(id);
                tell.push(id.clone());
            }
        }
        for (attempt, download) in now {
            let new = !inner.jobs.contains_key(&attempt.task.job);
            let job = inner.jobs.entry(attempt.task.job.clone()).or_default();
            let moved = job.attempts.insert(attempt.clone(), (node.clone(), *download)).map(|(_, old)| old);
            if new || (moved != Some(*download) && at.since(job.told).0 >= TELL.0) {
                job.told = at;
                tell.push(attempt.task.job.clone());
            }
        }
        if !now.is_empty() {
            inner.nodes.insert(node.clone(), now.iter().map(|(attempt, _)| attempt.clone()).collect());
        }
        tell
    }

    /// Of one job, if its attempts wait for models.
    pub fn of(&self, job: &JobId) -> Option<Downloading> {
        let inner = self.lock();
        let attempts = &inner.jobs.get(job)?.attempts;
        let last = attempts.values().map(|(_, download)| *download).min_by_key(Download::percent)?;
        Some(Downloading { attempts: attempts.len(), last })
    }

    /// Of one attempt.
    pub fn of_attempt(&self, attempt: &AttemptId) -> Option<Download> {
        self.lock().jobs.get(&attempt.task.job)?.attempts.get(attempt).map(|(_, download)| *download)
    }

    /// Attempts that wait for their models.
    pub fn count(&self) -> usize {
        self.lock().nodes.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_told_at_once_of_what_begins_and_ends_and_else_now_and_then() {
        let downloads = Downloads::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let (one, two): (AttemptId, AttemptId) = ("c/job/0/1".parse().unwrap(), "c/job/1/1".parse().unwrap());
        let job = one.task.job.clone();
        let at = |done, seconds_left| Download { done, total: 1000, seconds_left };
        let report = |node: &NodeId, attempt: &AttemptId, download, now| {
            downloads.report(node, &[(attempt.clone(), download)], Timestamp(now))
        };
        assert_eq!(report(&a, &one, at(10, None), 100_000), std::slice::from_ref(&job));
        assert_eq!(downloads.of(&job).unwrap().to_string(), "its model: downloading 1 %");
        assert_eq!(report(&a, &one, at(340, Some(12)), 102_000), [], "two seconds later");
        assert_eq!(downloads.of(&job).unwrap().to_string(), "its model: downloading 34 %, 12 s left");
        assert_eq!(report(&b, &two, at(100, Some(90)), 103_000), [], "it is known to download");
        assert_eq!(report(&a, &one, at(340, Some(12)), 106_000), [], "nothing moved");
        assert_eq!(report(&a, &one, at(500, Some(9)), 106_000), std::slice::from_ref(&job));
        let text = "the model of 2 tasks: downloading 10 %, 90 s left, of the last";
        assert_eq!((downloads.of(&job).unwrap().to_string().as_str(), downloads.count()), (text, 2));
        assert_eq!(downloads.report(&b, &[], Timestamp(106_500)), [], "one of two is there");
        assert_eq!(downloads.of_attempt(&one).unwrap().percent(), 50);
        assert_eq!(downloads.report(&a, &[], Timestamp(106_600)), std::slice::from_ref(&job), "and now all");
        assert_eq!((downloads.of(&job), downloads.count()), (None, 0));
        assert_eq!(Download { done: 9, total: 0, seconds_left: None }.percent(), 0, "claims may be nonsense");
    }
}
