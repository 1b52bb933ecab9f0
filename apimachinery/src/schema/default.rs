//! Defaulting.
//!
//! In: a schema and an object. Out: the object with its defaults filled in, and without the nulls
//! that the schema forbids. Invariant: defaulting twice is defaulting once, and a value that is
//! present stays.

use super::metadata;
use super::node::{Additional, Node};
use serde_json::Value;

/// Drops forbidden nulls, then fills in defaults.
pub(crate) fn default(node: &Node, object: &mut Value) {
    if let Some(value) = object.get_mut("metadata") {
        metadata::drop_empty(value);
    }
    drop_nulls(Some(node), object);
    fill(node, object);
}

/// Whether this null stands where the schema allows none.
fn forbidden_null(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

fn drop_nulls(node: Option<&Node>, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            let node = node.and_then(|n| n.field(key));
            if node.is_some_and(|n| forbidden_null(value, n) && n.default.is_none()) {
                return false;
            }
            drop_nulls(node, value);
            true
        }),
        Value::Array(list) => {
            let items = node.and_then(|n| n.items.as_deref());
            for value in list {
                drop_nulls(items, value);
            }
        }
        _ => {}
    }
}

fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in node.properties.iter().flat_map(|p| p.iter()) {
                let Some(default) = &property.default else { continue };
                if fields.get(name).is_none_or(|v| forbidden_null(v, property)) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (key, value) in fields.iter_mut() {
                if let Some(property) = node.property(key) {
                    fill(property, value);
                } else if let Additional::Schema(schema) = &node.additional {
                    fill_item(schema, value);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for value in list {
                    fill_item(items, value);
                }
            }
        }
        _ => {}
    }
}

fn fill_item(node: &Node, value: &mut Value) {
    if forbidden_null(value, node)
        && let Some(default) = &node.default
    {
        *value = default.clone();
    }
    fill(node, value);
}
