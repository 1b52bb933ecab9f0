//! InferenceJob: one input or a batch, run to completion. Names and meanings are batch/v1 Job's wherever it has them.
//!
//! *In*: a manifest. *Out*: [`InferenceJobSpec`], defaults filled in by the API server. *Invariant*: what a job reads,
//! runs and publishes never changes after creation; how eagerly it runs may.

use crate::common::{DeviceClass, FractionString, PointsString, Quantity, SecretReference};
use crate::common::{SourceUri, TargetUri, Toleration, TrustTier, Verification, words};
use crate::inference_job_status::InferenceJobStatus;
use crate::schema;
use kube::CustomResource;
use nightshift_types as types;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to run, on which input, and on which terms.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "nightshift.dev",
    version = "v1alpha1",
    kind = "InferenceJob",
    doc = "An InferenceJob runs one input or a batch of inputs through a model, to completion, on the nodes that fit best.",
    namespaced,
    status = "InferenceJobStatus",
    shortname = "ij",
    category = "nightshift",
    category = "all",
    derive = "PartialEq",
    selectable = ".spec.modelRef.name",
    selectable = ".spec.queueName",
    selectable = ".status.state",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.modelRef.name"}"#,
    printcolumn = r#"{"name":"Done","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Cost","type":"string","jsonPath":".status.cost","description":"Points charged so far"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodes[0]"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason","priority":1}"#,
    printcolumn = r#"{"name":"Queue","type":"string","jsonPath":".spec.queueName","priority":1}"#,
    printcolumn = r#"{"name":"Started","type":"date","jsonPath":".status.startTime","priority":1}"#,
    printcolumn = r#"{"name":"Finished","type":"date","jsonPath":".status.completionTime","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.output) == has(oldSelf.output) && (!has(self.output) || self.output == oldSelf.output)",
     "message": "spec.output is immutable: create a new InferenceJob instead", "fieldPath": ".output"},
    {"rule": "(has(self.parameters) ? self.parameters : {}) == (has(oldSelf.parameters) ? oldSelf.parameters : {})",
     "message": "spec.parameters is immutable: create a new InferenceJob instead", "fieldPath": ".parameters"},
    {"rule": "has(self.backoffLimitPerIndex) == has(oldSelf.backoffLimitPerIndex) && (!has(self.backoffLimitPerIndex) || self.backoffLimitPerIndex == oldSelf.backoffLimitPerIndex)",
     "message": "spec.backoffLimitPerIndex is immutable: create a new InferenceJob instead", "fieldPath": ".backoffLimitPerIndex"},
    {"rule": "has(self.failurePolicy) == has(oldSelf.failurePolicy) && (!has(self.failurePolicy) || self.failurePolicy == oldSelf.failurePolicy)",
     "message": "spec.failurePolicy is immutable: create a new InferenceJob instead", "fieldPath": ".failurePolicy"},
    {"rule": "has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
     "message": "spec.managedBy is immutable: create a new InferenceJob instead", "fieldPath": ".managedBy"},
    {"rule": "self.queueName == oldSelf.queueName || oldSelf.suspend",
     "message": "spec.queueName can change only while the job is suspended: set spec.suspend to true first", "fieldPath": ".queueName"},
    {"rule": "!has(self.minParallelism) || self.minParallelism <= self.parallelism",
     "message": "spec.minParallelism must not exceed spec.parallelism: raise parallelism or lower minParallelism", "fieldPath": ".minParallelism"},
    {"rule": "!has(self.maxFailedIndexes) || has(self.backoffLimitPerIndex)",
     "message": "spec.maxFailedIndexes needs spec.backoffLimitPerIndex: set that too, such as to 1", "fieldPath": ".maxFailedIndexes"},
    {"rule": "!has(self.failurePolicy) || has(self.backoffLimitPerIndex) || !self.failurePolicy.rules.exists(r, r.action == 'FailIndex')",
     "message": "spec.failurePolicy: action FailIndex needs spec.backoffLimitPerIndex: set that too, or use FailJob", "fieldPath": ".failurePolicy"},
]))]
pub struct InferenceJobSpec {
    /// The model to run. Immutable.
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "spec.modelRef is immutable: create a new InferenceJob instead"},
    ]))]
    pub model_ref: ModelReference,

    /// What to run it on: exactly one of inline, items, configMapKeyRef and uri. Immutable.
    pub input: InferenceInput,

    /// Where results are published. Unset: they are fetched through the gateway and the CLI, and a small job's also
    /// stand in status.results. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<InferenceOutput>,

    /// Passed to the model's codecs: threshold, language, format and the like. Immutable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map::<32, 1024>")]
    pub parameters: BTreeMap<String, String>,

    /// What to prefer among the nodes that qualify: Cheapest, the least quote; Fastest, the least predicted latency;
    /// Balanced, both.
    #[serde(default = "default_objective")]
    pub objective: Objective,

    /// Longest predicted time from dispatch to result, in milliseconds, 95th percentile: transfer, wait, model fetch and
    /// load if cold, compute. Nodes that are predicted to take longer do not qualify.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub max_latency_milliseconds: Option<i64>,

    /// Highest price of a node, in points per hour. Dearer nodes do not qualify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price_per_hour: Option<PointsString>,

    /// Most the whole job may cost, in points. Its quotes never exceed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<PointsString>,

    /// What a task needs of a device. Unset: what the model's variant says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<InferenceResources>,

    /// Labels a node must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map::<32, 63>")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the job accepts, in Kubernetes' grammar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::tolerations")]
    pub tolerations: Vec<Toleration>,

    /// Devices the job accepts, best first: the first that is available is used. Unset: any the model runs on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub first_available: Vec<DeviceRequest>,

    /// Least reputation of a node, from 0 to 1, as a decimal in quotes; what stands after three decimals is rounded up. A new
    /// node has 0.5, and none has more than 0.992.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_reputation: Option<FractionString>,

    /// Least trusted nodes that may read the job's input: Public, anybody's; Vetted, owners the operator knows; Operator,
    /// the operator's own. Of job and model the stricter one wins.
    #[serde(default = "default_min_trust_tier")]
    pub min_trust_tier: TrustTier,

    /// How results are checked: None; Adaptive, by replicas on other owners' nodes, the rarer the longer a node has been
    /// right; Always. Unset: None where every node is the operator's, else Adaptive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,

    /// Regions the job may run in. Unset: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub regions: Vec<String>,

    /// Tasks that must be able to start together before any does. Unset: each starts when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_parallelism: Option<i32>,

    /// TenantQueue that pays. Can change only while the job is suspended.
    #[serde(default = "default_queue_name")]
    #[schemars(length(min = 1, max = 253))]
    pub queue_name: String,

    /// PriorityClass of the job, or where there is no cluster nightshift-low, nightshift-normal or nightshift-high. Unset:
    /// the queue's. Of two tasks of one queue the higher goes first. One that finds no place stops running tasks of lower
    /// priority: of its queue, and of others where its queue is below its fair share and theirs are above. A task is stopped
    /// after 10 seconds of run at least and 3 times at most, and waits again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Most tasks running at once. 0 pauses: what runs finishes, nothing starts.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 0, max = 100_000))]
    pub parallelism: i32,

    /// Counted failures of all tasks together before the job fails. Unset: 6, or no limit where backoffLimitPerIndex is
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub backoff_limit: Option<i32>,

    /// Counted failures of one input before that input fails; the others continue. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub backoff_limit_per_index: Option<i32>,

    /// Failed inputs before the whole job fails. Needs backoffLimitPerIndex. Unset: the others all run, then the job
    /// fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_failed_indexes: Option<i32>,

    /// Seconds from start after which the job fails (DeadlineExceeded). Suspending resets the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,

    /// Seconds the job may wait for a node that fits before it fails. Unset: it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pending_deadline_seconds: Option<i64>,

    /// Seconds after its end at which the job is deleted. Unset: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,

    /// While true nothing starts, and what runs is stopped and queued again.
    #[serde(default)]
    pub suspend: bool,

    /// Controller that reconciles the job, as DOMAIN/NAME. Unset: Nightshift's. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub managed_by: Option<String>,

    /// Which failures count, fail the job or fail their input. Failures that no rule names count, but for a lost node and
    /// an owner who came back. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
}

/// batch/v1's default of `backoffLimit`. Not in the schema: it depends on `backoffLimitPerIndex`.
pub const DEFAULT_BACKOFF_LIMIT: i32 = 6;

impl InferenceJobSpec {
    /// Counted failures before the job fails, by batch/v1's rule: 6 unless said, no limit where there is one an index.
    pub fn backoff_limit(&self) -> i32 {
        let unset = if self.backoff_limit_per_index.is_some() { i32::MAX } else { DEFAULT_BACKOFF_LIMIT };
        self.backoff_limit.unwrap_or(unset)
    }

    /// A spec with every default, for code that writes jobs; the same defaults as the API server's.
    pub fn new(model: &str, input: InferenceInput) -> Self {
        Self {
            model_ref: ModelReference { name: model.into(), variant: None },
            input,
            output: None,
            parameters: BTreeMap::new(),
            objective: default_objective(),
            max_latency_milliseconds: None,
            max_price_per_hour: None,
            max_cost: None,
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            first_available: Vec::new(),
            min_reputation: None,
            min_trust_tier: default_min_trust_tier(),
            verification: None,
            regions: Vec::new(),
            min_parallelism: None,
            queue_name: default_queue_name(),
            priority_class_name: None,
            parallelism: default_parallelism(),
            backoff_limit: None,
            backoff_limit_per_index: None,
            max_failed_indexes: None,
            active_deadline_seconds: None,
            pending_deadline_seconds: None,
            ttl_seconds_after_finished: None,
            suspend: false,
            managed_by: None,
            failure_policy: None,
        }
    }
}

fn default_objective() -> Objective {
    Objective::Balanced
}

fn default_min_trust_tier() -> TrustTier {
    TrustTier::Vetted
}

fn default_queue_name() -> String {
    crate::DEFAULT_QUEUE.into()
}

fn default_parallelism() -> i32 {
    10
}

words! {
    /// What to prefer among the nodes that qualify.
    Objective {
        /// The least quote.
        Cheapest = "Cheapest",
        /// The least predicted latency.
        Fastest = "Fastest",
        /// Both.
        Balanced = "Balanced",
    }
}

impl From<Objective> for types::Objective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Cheapest => Self::Cheapest,
            Objective::Fastest => Self::Fastest,
            Objective::Balanced => Self::Balanced,
        }
    }
}

/// A ModelArtifact, and possibly one of its variants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelReference {
    /// Name of a ModelArtifact in this namespace, or of one elsewhere whose visibility is Public.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one of its variants. Unset: the best one that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub variant: Option<String>,
}

/// Exactly one of four ways to give the input.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.inline), has(self.items), has(self.configMapKeyRef), has(self.uri)].exists_one(x, x)",
     "message": "spec.input must have exactly one of inline, items, configMapKeyRef and uri: keep one and remove the others"},
    {"rule": "!has(self.credentialsSecretRef) || has(self.uri)",
     "message": "spec.input.credentialsSecretRef is for spec.input.uri alone: remove it, or give the input by uri"},
    {"rule": "self == oldSelf",
     "message": "spec.input is immutable: create a new InferenceJob instead"},
]))]
pub struct InferenceInput {
    /// The input itself as text, at most 32 KiB: JSON or plain text, as the model's codec reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub inline: Option<String>,
    /// A batch: one task an item, each as inline would have it but at most 16 KiB long; at most 1000 items and
    /// 512 KiB together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 1000),
        inner(length(max = 16_384)),
        extend("x-kubernetes-validations" = [
            {"rule": "self.map(item, size(bytes(item))).sum() <= 524288",
             "message": "{path} must be at most 512 KiB together: put them into a .jsonl file, one item a line, upload it with `nightshift push FILE` and set spec.input.uri to the store: URI it prints"},
        ])
    )]
    pub items: Vec<String>,
    /// A key of a ConfigMap in this namespace, in data or binaryData. A key that ends in .jsonl is a batch, one task a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyReference>,
    /// Where the input is read from, once, by the control plane: store:, http(s):, s3:, data: or, where the operator
    /// allows it, file:. A .jsonl file is a batch, one task a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<SourceUri>,
    /// Secret in this namespace with the credentials for uri. The control plane's own are never used for a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
}

/// A key of a ConfigMap in the object's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data or binaryData.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceOutput {
    /// Folder that results are published under, one object a task, after each success: s3:, http(s): or, where the
    /// operator allows it, file:.
    pub uri: TargetUri,
    /// Secret in this namespace with the credentials for uri. The control plane's own are never used for a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
}

/// What one task needs of a device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceResources {
    /// Memory of the device, in bytes as a quantity such as 6Gi. Unset: what the model's variant says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub device_memory: Option<Quantity>,
}

/// One acceptable kind of device, in the grammar of Kubernetes' dynamic resource allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRequest {
    /// Kind of device: cpu, cuda (NVIDIA) or mps (Apple).
    pub device_class: DeviceClass,
    /// Further conditions, all of which must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub selectors: Vec<DeviceSelector>,
}

/// One condition on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSelector {
    /// The condition in CEL.
    pub cel: CelSelector,
}

/// A condition in CEL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CelSelector {
    /// A CEL expression over `device` that must be true, such as `device.attributes["model"].startsWith("RTX")`.
    #[schemars(length(min = 1, max = 1024))]
    pub expression: String,
}

/// Which failures count.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// Tried in order; the first that matches decides.
    #[schemars(length(max = 20))]
    pub rules: Vec<FailurePolicyRule>,
}

/// What to do on some reasons of failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicyRule {
    /// What to do: FailJob; FailIndex, fail this input without another attempt; Ignore, try again without counting;
    /// Count, towards backoffLimit.
    pub action: FailureAction,
    /// Which failures.
    pub on_reasons: FailureReasons,
}

words! {
    /// What a failure does, as in batch/v1.
    FailureAction {
        /// The whole job fails.
        FailJob = "FailJob",
        /// This input fails, without another attempt.
        FailIndex = "FailIndex",
        /// Another attempt, not counted.
        Ignore = "Ignore",
        /// Another attempt, counted.
        Count = "Count",
    }
}

/// Some reasons of failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureReasons {
    /// In: any of values. NotIn: any other.
    pub operator: FailureReasonsOperator,
    /// Reasons, as status and Events name them.
    #[schemars(schema_with = "schema::failure_reasons")]
    pub values: Vec<String>,
}

words! {
    /// How `values` are meant.
    FailureReasonsOperator {
        /// Any of them.
        In = "In",
        /// Any but them.
        NotIn = "NotIn",
    }
}

impl FailurePolicy {
    /// What a failure does: the first rule that matches; else a lost node and an owner who came back are not counted.
    pub fn action(policy: Option<&Self>, reason: types::FailureReason) -> FailureAction {
        let matches = |rule: &&FailurePolicyRule| {
            let named = rule.on_reasons.values.iter().any(|value| value == reason.as_str());
            named == (rule.on_reasons.operator == FailureReasonsOperator::In)
        };
        let rule = policy.and_then(|policy| policy.rules.iter().find(matches));
        match (rule, reason) {
            (Some(rule), _) => rule.action,
            (None, types::FailureReason::NodeLost | types::FailureReason::OwnerActive) => FailureAction::Ignore,
            (None, _) => FailureAction::Count,
        }
    }
}
