//! What the control plane says of a job: facts from the journal, made short for people and printer columns.

use crate::common::{Condition, PointsString, Time, words};
use crate::schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceJobStatus {
    /// One word for the job as a whole: Pending, Running, Complete, Failed or Suspended. Derived from conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Reason of the condition that decides state, such as WaitingForCapacity or DeadlineExceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// When the first task started; reset when the job is resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job ended, complete or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Tasks that run now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub active: Option<i32>,
    /// Tasks that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub succeeded: Option<i32>,
    /// Attempts that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub failed: Option<i32>,
    /// Tasks the job has: one an input. Known once the input was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub completions: Option<i32>,
    /// Indexes of the tasks that succeeded, such as `1,3-5`; shortened with `…` where it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub completed_indexes: Option<String>,
    /// Indexes of the tasks that failed for good, such as `1,3-5`; shortened with `…` where it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub failed_indexes: Option<String>,
    /// Tasks that succeeded of all, such as `3/10`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// Nodes that run its tasks now, or ran the last ones; at most 16 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub nodes: Vec<String>,
    /// Variant of the model that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub variant: Option<String>,
    /// Points charged so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<PointsString>,
    /// Points quoted so far; what cost never exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quoted_cost: Option<PointsString>,
    /// Results of a small job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["index"]))]
    pub results: Vec<InferenceResult>,
    /// Where the gateway serves all results.
    #[serde(rename = "resultsURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub results_url: Option<String>,
    /// Why nodes do not qualify, most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reason"]))]
    pub unschedulable: Vec<UnschedulableReason>,
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Admitted, Scheduled, Suspended, Complete and Failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

words! {
    /// A job in one word.
    JobState {
        /// Nothing runs yet.
        Pending = "Pending",
        /// A task runs, or has run and others wait.
        Running = "Running",
        /// Every task succeeded.
        Complete = "Complete",
        /// It will not be completed.
        Failed = "Failed",
        /// `spec.suspend` is true.
        Suspended = "Suspended",
    }
}

/// Result of one task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceResult {
    /// Position of the input in the batch, from 0.
    #[schemars(range(min = 0))]
    pub index: i32,
    /// The output as JSON text, at most 4 KiB.
    #[schemars(length(max = 4096))]
    pub output: String,
}

/// One reason why nodes do not qualify.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnschedulableReason {
    /// The filter's reason, in CamelCase.
    #[schemars(length(min = 1, max = 64))]
    pub reason: String,
    /// Nodes it keeps out.
    #[schemars(range(min = 0))]
    pub count: i32,
    /// The same in words, with the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// Types of an InferenceJob's conditions.
pub mod job_condition {
    /// The job may run: model, queue, budget and nodes are there. False: one [`super::NotAdmittedReason`].
    pub const ADMITTED: &str = "Admitted";
    /// Every task that may run has a node.
    pub const SCHEDULED: &str = "Scheduled";
    /// `spec.suspend` is true and nothing runs.
    pub const SUSPENDED: &str = "Suspended";
    /// Every task succeeded.
    pub const COMPLETE: &str = "Complete";
    /// The job ended without all of them.
    pub const FAILED: &str = "Failed";
}

words! {
    /// Why a job is not admitted. Ordered by precedence: of several the least is told.
    NotAdmittedReason {
        /// `spec.suspend` is true.
        Suspended = "Suspended",
        /// The spec asks for what cannot be: an unreadable input, an unknown variant.
        Misconfigured = "Misconfigured",
        /// The ModelArtifact is missing or not ready.
        ModelNotReady = "ModelNotReady",
        /// No node would fit, even if it were idle.
        NoMatchingNode = "NoMatchingNode",
        /// The queue is missing or stopped.
        QueueStopped = "QueueStopped",
        /// The queue's budget or balance is spent.
        BudgetExhausted = "BudgetExhausted",
        /// Nodes would fit at a higher price.
        PriceAboveLimit = "PriceAboveLimit",
        /// The queue's quota is in use.
        QuotaExceeded = "QuotaExceeded",
        /// Nodes would fit but are busy or away.
        WaitingForCapacity = "WaitingForCapacity",
    }
}

words! {
    /// Why a job failed: batch/v1's terminal reasons, and our own after them.
    JobFailedReason {
        /// More counted failures than `backoffLimit`.
        BackoffLimitExceeded = "BackoffLimitExceeded",
        /// Longer than `activeDeadlineSeconds`.
        DeadlineExceeded = "DeadlineExceeded",
        /// Some input failed for good.
        FailedIndexes = "FailedIndexes",
        /// More of them than `maxFailedIndexes`.
        MaxFailedIndexesExceeded = "MaxFailedIndexesExceeded",
        /// A failure that `failurePolicy` answers with FailJob.
        FailurePolicy = "FailurePolicy",
        /// Waited longer than `pendingDeadlineSeconds`.
        PendingDeadlineExceeded = "PendingDeadlineExceeded",
        /// The journal no longer knows a job that had been admitted.
        JournalLost = "JournalLost",
        /// A task that three nodes were lost on.
        PoisonTask = "PoisonTask",
    }
}
