//! Custom resources in, status out. The custom resource owns intent, the journal facts.
//!
//! * [`job`]: InferenceJob → admitted job; facts → status
//! * [`model`]: ModelArtifact → a proved file in the blob store
//! * [`node`]: joined nodes → ComputeNodes; the operator's wishes → placement
//! * [`queue`]: TenantQueues → who may spend what; facts → their status
//! * [`priority`]: names of priorities → numbers
//! * [`collect`]: which blobs are needed; the others go
//! * [`convert`]: the one file that reads the API's types and writes ours
//! * [`status`]: facts → an InferenceJob's status; pure

pub mod collect;
pub mod conditions;
pub mod convert;
pub mod inputs;
pub mod job;
pub mod model;
pub mod node;
pub mod priority;
pub mod queue;
pub mod status;

use self::priority::Priorities;
use crate::leader::Leader;
use crate::prove::Prover;
use crate::uri::FetchPolicy;
use kube::runtime::events::Recorder;
use serde_json::{Map, Value};

/// What every controller needs.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The leader.
    pub leader: Leader,
    /// What URIs may be fetched.
    pub policy: FetchPolicy,
    /// The proving run.
    pub prover: Prover,
    /// Publishes Events.
    pub recorder: Recorder,
    /// What `priorityClassName` stands for.
    pub priorities: Priorities,
    /// Jobs whose terms wait, and what was said of them.
    pub warned: job::Warned,
    /// Which blobs stay, whoever refers to them.
    pub keep: collect::Keep,
    /// Where people fetch results.
    pub gateway_url: String,
}

/// The merge patch (RFC 7386) that makes `old` into `new`; `None` if they are equal. A merge patch written from `new`
/// alone would leave every field in place that `new` no longer has.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        if let Some(change) = merge_diff(old.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), change);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_patch_removes_what_is_gone() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2]});
        let new = json!({"a": 1, "b": {"c": 3}, "e": [1]});
        assert_eq!(merge_diff(&old, &new), Some(json!({"b": {"c": 3, "d": null}, "e": [1]})));
        assert_eq!(merge_diff(&new, &new), None);
        assert_eq!(merge_diff(&Value::Null, &new), Some(new));
    }
}
