//! The domain form of an InferenceJob: what the controller admits and the journal keeps. Payloads are digests.

use crate::device::TrustTier;
use crate::ids::Digest;
use crate::reputation::Reputation;
use crate::units::{Bytes, Milliseconds, PicoPoints};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What to prefer among the nodes that qualify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Objective {
    /// Least quote.
    Cheapest,
    /// Least predicted latency.
    Fastest,
    /// A documented weighing of both.
    #[default]
    Balanced,
}

impl Objective {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cheapest => "Cheapest",
            Self::Fastest => "Fastest",
            Self::Balanced => "Balanced",
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Objective {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "Cheapest" => Ok(Self::Cheapest),
            "Fastest" => Ok(Self::Fastest),
            "Balanced" => Ok(Self::Balanced),
            other => Err(format!("objective {other:?} must be Cheapest, Fastest or Balanced")),
        }
    }
}

/// Bytes in the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InputRef {
    /// What they hash to.
    pub digest: Digest,
    /// How many.
    pub size: Bytes,
}

/// Label equality, all of them.
pub type NodeSelector = BTreeMap<String, String>;

/// Kubernetes' taint effects, as far as they mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// Not placed without a toleration.
    NoSchedule,
    /// Placed only if nothing else fits.
    PreferNoSchedule,
    /// As NoSchedule, and running work is moved away.
    NoExecute,
}

/// Kubernetes' taint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Name.
    pub key: String,
    /// May be empty.
    #[serde(default)]
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// Kubernetes' toleration operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TolerationOperator {
    /// Key and value equal.
    #[default]
    Equal,
    /// Key present; an empty key matches everything.
    Exists,
}

/// Kubernetes' toleration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Toleration {
    /// Empty with `Exists`: every taint.
    #[serde(default)]
    pub key: String,
    /// How to compare.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Compared with `Equal`.
    #[serde(default)]
    pub value: String,
    /// `None`: every effect.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Kubernetes' rule (core/v1 `Toleration.ToleratesTaint`).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_none_or(|effect| effect == taint.effect);
        let key = self.key == taint.key || (self.key.is_empty() && self.operator == TolerationOperator::Exists);
        let value = self.operator == TolerationOperator::Exists || self.value == taint.value;
        effect && key && value
    }
}

/// Everything of a job that scheduling needs; intent, so it changes only with the custom resource's generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
    /// Custom resource generation that was admitted.
    pub generation: i64,
    /// Name of the ModelArtifact, for people and for status.
    pub model_name: String,
    /// The model file.
    pub model_digest: Digest,
    /// Its size.
    pub model_size: Bytes,
    /// The variant chosen at admission.
    pub variant: String,
    /// How to decode the input, call the model and encode the output: journaled, so that a running job never depends on
    /// a ModelArtifact that was deleted meanwhile. At most 64 KiB as JSON.
    pub model: crate::model::ModelSpec,
    /// Device memory a task needs where its model is not loaded.
    pub memory: Bytes,
    /// What of `memory` each task has for itself, as the model says it; the rest is there once for all tasks of the model
    /// that are on one device.
    pub per_item: Bytes,
    /// Time one task should take on the reference machine, from the model's proving run (market.md): priced by it.
    pub reference: Milliseconds,
    /// One blob a task; the position is the completion index.
    pub inputs: Vec<InputRef>,
    /// Passed to the codecs.
    pub parameters: BTreeMap<String, String>,
    /// What to prefer.
    pub objective: Objective,
    /// Predicted p95 from dispatch to result.
    pub max_latency: Option<Milliseconds>,
    /// Highest ask accepted, points per hour.
    pub max_price_per_hour: Option<PicoPoints>,
    /// The whole job's bill: the quotes never exceed it.
    pub max_cost: Option<PicoPoints>,
    /// Device classes the chosen variant runs on; empty: any.
    pub device_classes: Vec<crate::device::DeviceClass>,
    /// Labels a node must have.
    pub node_selector: NodeSelector,
    /// Taints it accepts.
    pub tolerations: Vec<Toleration>,
    /// Least tier that may read the input.
    pub min_trust_tier: TrustTier,
    /// Least reputation of a node it may run on.
    pub min_reputation: Option<Reputation>,
    /// Regions it may run in; empty: any.
    pub regions: Vec<String>,
    /// The TenantQueue that pays.
    pub queue: String,
    /// Of two tasks of one queue the higher goes first; the PriorityClass's value.
    pub priority: i32,
    /// Tasks running at once.
    pub parallelism: u32,
    /// Tasks that must be able to start together before any does; 0 and 1: each starts when it can.
    pub min_parallelism: u32,
    /// Counted failures before the job fails.
    pub backoff_limit: u32,
    /// Counted failures of one task before that task fails for good and the others go on; `None`: its failures count for
    /// the job alone.
    pub backoff_limit_per_index: Option<u32>,
    /// Failed tasks that the job survives until the others are done; `None`: any number.
    pub max_failed_indexes: Option<u32>,
    /// Placed only while false.
    pub suspend: bool,
    /// Seconds from start to failure (DeadlineExceeded).
    pub active_deadline: Option<Milliseconds>,
    /// Fail rather than wait longer for a match.
    pub pending_deadline: Option<Milliseconds>,
}

impl JobSpec {
    /// Of `memory`, what stands on a device once for all of the model's tasks: weights and context.
    pub fn shared_memory(&self) -> Bytes {
        self.memory.saturating_sub(self.per_item)
    }

    /// Number of its tasks: one an input.
    pub fn completions(&self) -> u32 {
        self.inputs.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_kubernetes() {
        let taint = Taint { key: "gpu".into(), value: "a".into(), effect: TaintEffect::NoSchedule };
        let with = |key: &str, operator, value: &str, effect| Toleration {
            key: key.into(),
            operator,
            value: value.into(),
            effect,
        };
        use TolerationOperator::{Equal, Exists};
        assert!(with("gpu", Equal, "a", None).tolerates(&taint));
        assert!(with("gpu", Exists, "", Some(TaintEffect::NoSchedule)).tolerates(&taint));
        assert!(with("", Exists, "", None).tolerates(&taint));
        assert!(!with("", Equal, "a", None).tolerates(&taint));
        assert!(!with("gpu", Equal, "b", None).tolerates(&taint));
        assert!(!with("gpu", Exists, "", Some(TaintEffect::NoExecute)).tolerates(&taint));
    }
}
