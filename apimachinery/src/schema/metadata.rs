//! `metadata`, which every resource has and no schema describes.
//!
//! In: nothing. Out: the schema of `ObjectMeta`, for pruning, and of what rules may read of
//! it.
//! Invariant: the same for every kind.

use super::compile;
use super::node::Node;
use serde_json::{Value, json};
use std::sync::LazyLock;

static SCHEMA: LazyLock<Node> = LazyLock::new(|| node(&object_meta()));
static NAMES: LazyLock<Node> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    node(&json!({"type": "object", "properties": {"name": text, "generateName": text}}))
});
static TEXT: LazyLock<Node> = LazyLock::new(|| node(&json!({"type": "string"})));

/// The whole of `ObjectMeta`.
pub(crate) fn schema() -> &'static Node {
    &SCHEMA
}

/// What rules at the root of a resource see under `name`, whatever the schema says.
pub(crate) fn visible(name: &str) -> Option<&'static Node> {
    match name {
        "apiVersion" | "kind" => Some(&TEXT),
        "metadata" => Some(&NAMES),
        _ => None,
    }
}

/// Drops what a decoded `ObjectMeta` would not write again: nulls and empty values.
pub(crate) fn drop_empty(metadata: &mut Value) {
    let Value::Object(fields) = metadata else { return };
    fields.retain(|name, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => name != "generation" || number.as_i64() != Some(0),
        Value::Bool(_) => true,
    });
}

/// The schemas below are constants; a test proves that they compile.
fn node(schema: &Value) -> Node {
    compile::spine(schema).unwrap_or_default()
}

fn object_meta() -> Value {
    // Nulls are dropped later.
    let text = json!({"type": "string", "nullable": true});
    let number = json!({"type": "integer", "nullable": true});
    let flag = json!({"type": "boolean", "nullable": true});
    let texts = json!({"type": "object", "additionalProperties": text});
    let owner = json!({"type": "object", "properties": {
        "apiVersion": text, "kind": text, "name": text, "uid": text,
        "controller": flag, "blockOwnerDeletion": flag,
    }});
    let managed = json!({"type": "object", "properties": {
        "manager": text, "operation": text, "apiVersion": text, "time": text, "fieldsType": text,
        "fieldsV1": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "subresource": text,
    }});
    json!({"type": "object", "properties": {
        "name": text, "generateName": text, "namespace": text, "selfLink": text, "uid": text,
        "resourceVersion": text, "generation": number, "creationTimestamp": text,
        "deletionTimestamp": text, "deletionGracePeriodSeconds": number,
        "labels": texts, "annotations": texts,
        "ownerReferences": {"type": "array", "items": owner},
        "finalizers": {"type": "array", "items": text},
        "managedFields": {"type": "array", "items": managed},
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_compile() {
        assert!(schema().property("managedFields").is_some());
        assert!(visible("metadata").is_some_and(|n| n.property("name").is_some()));
        assert!(visible("kind").is_some_and(|n| n.type_.is_some()));
    }
}
