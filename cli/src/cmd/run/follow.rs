//! A job's way to its end, told on stderr. *In*: the watched object. *Out*: how it ended. *Invariant*: a line is printed
//! only when it says something new.

use crate::output;
use anyhow::Context;
use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use nightshift_crds::{InferenceJob, JobState, job_condition};
use std::time::Instant;

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// Every task succeeded.
    Complete(Box<InferenceJob>),
    /// It failed; reason and message.
    Failed(String),
}

/// Tells a job's story until it ends.
pub struct Follower {
    started: Instant,
    quiet: bool,
    said: String,
    state: String,
    lost: bool,
}

impl Follower {
    /// Silent if `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { started: Instant::now(), quiet, said: String::new(), state: String::new(), lost: false }
    }

    /// A line on stderr, with the time since the start.
    pub fn say(&mut self, text: &str) {
        if !self.quiet && self.said != text {
            eprintln!("{:>6}  {text}", output::took(self.started.elapsed()));
            self.said = text.into();
        }
    }

    /// The job's state when it was last seen; empty if it was not.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Follows the job until it is complete, failed or gone.
    pub async fn follow(
        &mut self,
        watch: impl Stream<Item = Result<Option<InferenceJob>, watcher::Error>>,
    ) -> anyhow::Result<End> {
        let mut watch = std::pin::pin!(watch);
        loop {
            match watch.next().await.context("the watch ended")? {
                Ok(Some(job)) => {
                    self.lost = false;
                    if let Some(end) = ended(&job) {
                        return Ok(end);
                    }
                    self.state = progress(&job);
                    self.say(&self.state.clone());
                }
                Ok(None) => anyhow::bail!("somebody deleted the job"),
                Err(error) if !self.lost => {
                    self.lost = true;
                    self.say(&format!("lost sight of the pool, looking again ({error})"));
                }
                Err(_) => {}
            }
        }
    }
}

fn condition<'a>(job: &'a InferenceJob, kind: &str) -> Option<&'a nightshift_crds::Condition> {
    job.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

fn ended(job: &InferenceJob) -> Option<End> {
    let holds = |kind| condition(job, kind).filter(|condition| condition.status == "True");
    if let Some(failed) = holds(job_condition::FAILED) {
        return Some(End::Failed(reason_and_message(&failed.reason, &failed.message)));
    }
    holds(job_condition::COMPLETE).map(|_| End::Complete(Box::new(job.clone())))
}

/// Neither twice where the one has the other.
pub fn reason_and_message(reason: &str, message: &str) -> String {
    match (reason.is_empty(), message.is_empty() || message == reason) {
        (_, true) => reason.to_string(),
        (true, false) => message.to_string(),
        (false, false) if message.starts_with(reason) => message.to_string(),
        (false, false) => format!("{reason}: {message}"),
    }
}

fn progress(job: &InferenceJob) -> String {
    let Some(status) = &job.status else { return "Pending".into() };
    let state = status.state.unwrap_or(JobState::Pending);
    // Between two attempts: the reason why there is a second one.
    if let Some(retry) =
        condition(job, job_condition::SCHEDULED).filter(|c| c.status == "False" && c.reason.starts_with("Retrying"))
    {
        return format!("{state}: {}", retry.message);
    }
    if state == JobState::Running {
        let nodes = status.nodes.join(", ");
        return if nodes.is_empty() { "Running".into() } else { format!("Running on {nodes}") };
    }
    match condition(job, job_condition::ADMITTED).filter(|admitted| admitted.status == "False") {
        Some(admitted) => format!("{state}: {}", reason_and_message(&admitted.reason, &admitted.message)),
        None => state.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(status: serde_json::Value) -> InferenceJob {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "nightshift.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "j"},
            "spec": {"modelRef": {"name": "m"}, "input": {"inline": "1"}}, "status": status,
        }))
        .unwrap()
    }

    fn with(kind: &str, status: &str, reason: &str, message: &str, state: &str) -> InferenceJob {
        let time = "2026-01-01T00:00:00Z";
        job(serde_json::json!({"state": state, "nodes": ["attic"], "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time},
        ]}))
    }

    #[test]
    fn stories() {
        assert_eq!(progress(&with("Admitted", "True", "Admitted", "", "Running")), "Running on attic");
        let waits = with("Admitted", "False", "NoMatchingNode", "0/1 nodes fit", "Pending");
        assert_eq!(progress(&waits), "Pending: NoMatchingNode: 0/1 nodes fit");
        assert!(ended(&waits).is_none());
        let again =
            with("Scheduled", "False", "RetryingAfterFailure", "attempt 1 on attic failed: WorkerCrashed", "Pending");
        assert_eq!(progress(&again), "Pending: attempt 1 on attic failed: WorkerCrashed");
        assert!(matches!(ended(&with("Complete", "True", "x", "", "Complete")), Some(End::Complete(_))));
        let failed = with("Failed", "True", "BackoffLimitExceeded", "InputInvalid: not a WAV", "Failed");
        assert!(
            matches!(ended(&failed), Some(End::Failed(text)) if text == "BackoffLimitExceeded: InputInvalid: not a WAV")
        );
        assert!(ended(&with("Failed", "False", "x", "", "Running")).is_none());
    }

    #[tokio::test]
    async fn follows_to_the_end() {
        let story = vec![
            Ok(Some(with("Admitted", "False", "ModelNotReady", "no such model", "Pending"))),
            Err(watcher::Error::NoResourceVersion),
            Ok(Some(with("Complete", "True", "Done", "", "Complete"))),
        ];
        let mut follower = Follower::new(true);
        let end = follower.follow(futures::stream::iter(story)).await.unwrap();
        assert!(matches!(end, End::Complete(_)));
        let gone = follower.follow(futures::stream::iter([Ok(None)])).await.unwrap_err();
        assert!(gone.to_string().contains("deleted"), "{gone}");
    }
}
