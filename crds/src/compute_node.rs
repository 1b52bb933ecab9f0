//! ComputeNode: one machine, as its owner offers it. *Invariant*: spec is the operator's; status.offer is the owner's
//! claim; the rest of status is what the control plane measured.

use crate::common::{
    ClockTime, Condition, DeviceClass, FractionString, PointsString, Quantity, Taint, TrustTier, words,
};
use crate::schema;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the operator decides of a node.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "nightshift.dev",
    version = "v1alpha1",
    kind = "ComputeNode",
    doc = "A ComputeNode is one machine, as its owner offers it. It is created when its agent joins.",
    status = "ComputeNodeStatus",
    shortname = "cnode",
    category = "nightshift",
    derive = "PartialEq",
    selectable = ".spec.trustTier",
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".status.devices[0].class"}"#,
    printcolumn = r#"{"name":"Memory","type":"string","jsonPath":".status.allocatable.deviceMemory"}"#,
    printcolumn = r#"{"name":"Price","type":"string","jsonPath":".status.offer.pricePerHour","description":"Points per hour"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Available","type":"string","jsonPath":".status.conditions[?(@.type==\"Available\")].status"}"#,
    printcolumn = r#"{"name":"Reputation","type":"string","jsonPath":".status.reputation"}"#,
    printcolumn = r#"{"name":"Earned","type":"string","jsonPath":".status.earned","description":"Points, all together"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ComputeNodeSpec {
    /// While true nothing new is placed on the node; what runs there finishes.
    #[serde(default)]
    pub unschedulable: bool,
    /// Keep jobs away that do not tolerate them, in Kubernetes' grammar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::taints")]
    pub taints: Vec<Taint>,
    /// The owner, whose account earns the node's points. Unset: nobody's yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_ref: Option<OwnerReference>,
    /// How far the operator trusts the node with jobs' inputs: Public, anybody's machine; Vetted, the operator knows its
    /// owner; Operator, the operator's own.
    #[serde(default = "default_trust_tier")]
    pub trust_tier: TrustTier,
}

impl Default for ComputeNodeSpec {
    fn default() -> Self {
        Self { unschedulable: false, taints: Vec::new(), owner_ref: None, trust_tier: default_trust_tier() }
    }
}

fn default_trust_tier() -> TrustTier {
    TrustTier::Public
}

/// A node's owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Name of the owner's account.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComputeNodeStatus {
    /// What the owner asks for and declares, from the owner's own file: claims, not facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer: Option<NodeOffer>,
    /// Devices that models can run on, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub devices: Vec<NodeDevice>,
    /// What the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NodeResources>,
    /// What of it the owner lets Nightshift use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<NodeResources>,
    /// How fast the machine is, as measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<NodeMeasured>,
    /// Round trip between control plane and node, in milliseconds, rounded up to a bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub network_milliseconds: Option<i64>,
    /// How far the node's work has earned trust, from 0 to 1: a new node has 0.5, accepted results raise it, failures by its
    /// own fault lower it, and older ones count less. Results are accepted without being verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reputation: Option<FractionString>,
    /// Points earned, all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earned: Option<PointsString>,
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, Available and Verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What a node's owner asks for and declares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeOffer {
    /// The price, in points per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<PointsString>,
    /// When the machine may work. Unset: whenever it is idle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 14))]
    pub availability: Vec<AvailabilityWindow>,
    /// Where the machine stands, in the owner's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub region: Option<String>,
}

/// Some hours of some days.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AvailabilityWindow {
    /// Days on which the window starts. Unset: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub days: Vec<Weekday>,
    /// When it starts, as HH:MM.
    pub start: ClockTime,
    /// When it ends, as HH:MM; on the next day if that is not after start.
    pub end: ClockTime,
    /// Time zone of both, by its IANA name such as Europe/Berlin. Unset: UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

words! {
    /// A day of the week.
    Weekday {
        /// Monday.
        Monday = "Monday",
        /// Tuesday.
        Tuesday = "Tuesday",
        /// Wednesday.
        Wednesday = "Wednesday",
        /// Thursday.
        Thursday = "Thursday",
        /// Friday.
        Friday = "Friday",
        /// Saturday.
        Saturday = "Saturday",
        /// Sunday.
        Sunday = "Sunday",
    }
}

/// One device of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDevice {
    /// Name of the device, unique in the node: cpu0, cuda0.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Kind of device: cpu, cuda (NVIDIA) or mps (Apple).
    pub class: DeviceClass,
    /// What jobs' device selectors see: model, cores and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map::<32, 128>")]
    pub attributes: BTreeMap<String, String>,
    /// Bytes of its memory that Nightshift may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub memory: Option<Quantity>,
}

/// Amounts of a machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeResources {
    /// Bytes of device memory, of all devices together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub device_memory: Option<Quantity>,
    /// Bytes of main memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub memory: Option<Quantity>,
    /// Processor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub cpu: Option<Quantity>,
    /// Bytes of disk for models, inputs and results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub storage: Option<Quantity>,
}

/// How fast a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeMeasured {
    /// Single precision matrix product, in 10^9 floating point operations a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub gigaflops: Option<i64>,
    /// Copying in device memory, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub memory_bandwidth: Option<i64>,
    /// Reading a model's file into device memory, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub load_bandwidth: Option<i64>,
}

/// Types of a ComputeNode's conditions.
pub mod node_condition {
    /// The agent is connected and has announced itself.
    pub const READY: &str = "Ready";
    /// The owner lets it work now. False: one [`super::NotAvailableReason`].
    pub const AVAILABLE: &str = "Available";
    /// Its results have been verified often enough.
    pub const VERIFIED: &str = "Verified";
}

words! {
    /// Why a node may not work now.
    NotAvailableReason {
        /// The owner uses the machine.
        OwnerActive = "OwnerActive",
        /// Outside the hours that the owner offers.
        OutsideWindow = "OutsideWindow",
        /// On battery.
        OnBattery = "OnBattery",
        /// Above the owner's temperature limit.
        Hot = "Hot",
    }
}
