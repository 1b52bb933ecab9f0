//! TenantQueue: who may spend what. *Invariant*: spec is the operator's; status is what the journal says.

use crate::common::{Condition, FractionString, PointsString, Quantity, words};
use crate::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use nightshift_types as types;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator grants the jobs that name this queue.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "nightshift.dev",
    version = "v1alpha1",
    kind = "TenantQueue",
    doc = "A TenantQueue is an account: it says who may run jobs on it, how large its share of the pool is and what it may spend.",
    status = "TenantQueueStatus",
    shortname = "tq",
    category = "nightshift",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Weight","type":"integer","jsonPath":".spec.weight"}"#,
    printcolumn = r#"{"name":"Tier","type":"string","jsonPath":".spec.tier"}"#,
    printcolumn = r#"{"name":"Pending","type":"integer","jsonPath":".status.pendingTasks"}"#,
    printcolumn = r#"{"name":"Running","type":"integer","jsonPath":".status.runningTasks"}"#,
    printcolumn = r#"{"name":"Share","type":"string","jsonPath":".status.share","description":"Part of the pool's recent work, from 0 to 1"}"#,
    printcolumn = r#"{"name":"Spent","type":"string","jsonPath":".status.spent","description":"Points, all together"}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.conditions[?(@.type==\"Active\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Stop","type":"string","jsonPath":".spec.stopPolicy","priority":1}"#,
    printcolumn = r#"{"name":"Reserved","type":"string","jsonPath":".status.reserved","priority":1}"#,
    printcolumn = r#"{"name":"Balance","type":"string","jsonPath":".status.balance","priority":1}"#,
    printcolumn = r#"{"name":"Budget","type":"string","jsonPath":".spec.budget.points","priority":1}"#,
    printcolumn = r#"{"name":"Left","type":"string","jsonPath":".status.budgetLeft","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantQueueSpec {
    /// Namespaces whose jobs may name this queue, by their labels. Unset: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// Share of the pool among the queues of a tier that have tasks waiting: a queue of weight 3 gets three times the
    /// work of a queue of weight 1.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 10_000))]
    pub weight: i32,

    /// Paid queues go first. Free ones take what is left, and never wait longer than the ageing bound.
    #[serde(default = "default_tier")]
    pub tier: QueueTier,

    /// None: tasks start and run. Hold: nothing starts, what runs ends. HoldAndDrain: nothing starts, and what runs is
    /// stopped and waits again.
    #[serde(default = "default_stop")]
    pub stop_policy: StopPolicy,

    /// What its running tasks may hold together. A resource that is not named is not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["resource"]))]
    pub quotas: Vec<QueueQuota>,

    /// Highest price of a node, in points per hour, that its jobs may accept. A job's own limit may only be lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price_per_hour: Option<PointsString>,

    /// Priority of its jobs that name none: a PriorityClass, or where there is no cluster nightshift-low,
    /// nightshift-normal or nightshift-high. Unset: 0. Of two tasks of one queue the higher goes first. A higher one that finds
    /// no place stops running tasks of lower priority, as a job's own priorityClassName does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub default_priority_class_name: Option<String>,

    /// What the queue may spend in a period. Unset: all that was granted to it with `nightshift points grant`. The queue
    /// default needs no grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<QueueBudget>,
}

impl Default for TenantQueueSpec {
    fn default() -> Self {
        Self {
            namespace_selector: None,
            weight: default_weight(),
            tier: default_tier(),
            stop_policy: default_stop(),
            quotas: Vec::new(),
            max_price_per_hour: None,
            default_priority_class_name: None,
            budget: None,
        }
    }
}

fn default_weight() -> i32 {
    types::queue::DEFAULT_WEIGHT as i32
}

fn default_tier() -> QueueTier {
    QueueTier::Paid
}

fn default_stop() -> StopPolicy {
    StopPolicy::None
}

words! {
    /// What a queue's users pay with.
    QueueTier {
        /// Takes what paying queues leave.
        Free = "Free",
        /// Goes first.
        Paid = "Paid",
    }
}

words! {
    /// Whether a queue's tasks may start and go on.
    StopPolicy {
        /// They may.
        None = "None",
        /// Nothing starts; what runs ends.
        Hold = "Hold",
        /// Nothing starts, and what runs is stopped and waits again.
        HoldAndDrain = "HoldAndDrain",
    }
}

/// A limit on one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.resource != 'tasks' || !isQuantity(string(self.limit)) || quantity(string(self.limit)).isInteger()",
     "message": "spec.quotas: the limit of tasks must be a whole number, such as 10", "fieldPath": ".limit"},
]))]
pub struct QueueQuota {
    /// tasks: tasks running at once. deviceMemory: bytes of device memory that they hold at once.
    pub resource: QuotaResource,
    /// How much.
    #[schemars(schema_with = "schema::quantity")]
    pub limit: Quantity,
}

words! {
    /// What a quota limits.
    QuotaResource {
        /// Tasks running at once.
        Tasks = "tasks",
        /// Device memory that they hold at once.
        DeviceMemory = "deviceMemory",
    }
}

/// What a queue may spend in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueBudget {
    /// Points that may be settled and reserved together in one period. What was granted to the queue is a limit too.
    pub points: PointsString,
    /// Day, from midnight; Week, from Monday; Month, of the calendar. All in UTC.
    #[serde(default = "default_period")]
    pub period: BudgetPeriod,
    /// Hold: tasks wait for the next period. Downgrade is not supported yet.
    #[serde(default = "default_on_exhausted")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self != 'Downgrade'",
         "message": "{path}: Downgrade is not supported by this version: use Hold, or leave it out and set spec.tier to Free"},
    ]))]
    pub on_exhausted: OnExhausted,
}

fn default_period() -> BudgetPeriod {
    BudgetPeriod::Month
}

fn default_on_exhausted() -> OnExhausted {
    OnExhausted::Hold
}

words! {
    /// How long a budget lasts.
    BudgetPeriod {
        /// From midnight UTC.
        Day = "Day",
        /// From Monday, midnight UTC.
        Week = "Week",
        /// From the first of the month, midnight UTC.
        Month = "Month",
    }
}

words! {
    /// What happens to tasks that the budget does not allow.
    OnExhausted {
        /// They wait.
        Hold = "Hold",
        /// They go on as those of a Free queue.
        Downgrade = "Downgrade",
    }
}

/// What a queue does and spends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantQueueStatus {
    /// Tasks that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pending_tasks: Option<i64>,
    /// Tasks that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub running_tasks: Option<i64>,
    /// Points settled, all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<PointsString>,
    /// Quotes of the tasks that run, in points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<PointsString>,
    /// Points granted and not settled. Unset for the queue default, which needs no grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<PointsString>,
    /// Points of the budget that are neither settled nor reserved in this period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left: Option<PointsString>,
    /// Part of the pool's recent work that was this queue's, from 0 to 1; work counts half after 10 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<FractionString>,
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Active and BudgetAvailable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Types of a TenantQueue's conditions.
pub mod queue_condition {
    /// Its tasks may start.
    pub const ACTIVE: &str = "Active";
    /// Something is left to spend.
    pub const BUDGET_AVAILABLE: &str = "BudgetAvailable";
}
