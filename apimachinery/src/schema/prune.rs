//! Pruning.
//!
//! In: a schema and an object. Out: the object without the fields that the schema does not name,
//! and their paths. Invariant: pruning twice is pruning once; `apiVersion`, `kind` and `metadata`
//! of a resource stay.
//!
//! One walk serves both forms: over a mutable object it removes, over a shared one it only tells.

use super::metadata;
use super::node::{Additional, Node, Properties};
use serde_json::Value;

/// Removes unknown fields and returns their paths, those of `metadata` first, else sorted.
pub(crate) fn prune(node: &Node, object: &mut Value) -> Vec<String> {
    let found = unknown(node, object);
    if !found.is_empty() {
        remove(Some(node), object);
    }
    found
}

/// The paths that [`prune`] would remove.
pub(crate) fn unknown(node: &Node, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find(Some(node), object, &mut String::new(), &mut found);
    let (mut all, mut rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|p| p.starts_with("metadata."));
    rest.sort();
    all.append(&mut rest);
    all
}

/// What the schema says of a field.
enum Known<'a> {
    /// Kept as it is.
    Kept,
    /// Kept, and looked into with this schema; `None` keeps nothing below.
    Under(Option<&'a Node>),
    Unknown,
}

fn known<'a>(node: Option<&'a Node>, key: &str) -> Known<'a> {
    let Some(node) = node else { return Known::Unknown };
    if node.embedded_resource {
        match key {
            "apiVersion" | "kind" => return Known::Kept,
            "metadata" => return Known::Under(Some(metadata::schema())),
            _ => {}
        }
    }
    if let Some(property) = node.property(key) {
        return Known::Under(Some(property));
    }
    match &node.additional {
        Additional::Schema(schema) => Known::Under(Some(schema)),
        Additional::Any | Additional::Forbidden => Known::Under(None),
        Additional::Absent if node.preserve_unknown => Known::Kept,
        Additional::Absent => Known::Unknown,
    }
}

/// The schema of a list's items; `Err` where the list is kept as it is.
fn items(node: Option<&Node>) -> Result<Option<&Node>, ()> {
    match node {
        Some(node) if node.preserve_unknown && node.items.is_none() => Err(()),
        Some(node) => Ok(node.items.as_deref()),
        None => Ok(None),
    }
}

fn find(node: Option<&Node>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match known(node, key) {
                    Known::Kept => {}
                    Known::Under(node) => find(node, value, path, found),
                    Known::Unknown => found.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            let Ok(items) = items(node) else { return };
            for (i, value) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find(items, value, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn remove(node: Option<&Node>, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| match known(node, key) {
            Known::Kept => true,
            Known::Under(node) => {
                remove(node, value);
                true
            }
            Known::Unknown => false,
        }),
        Value::Array(list) => {
            let Ok(items) = items(node) else { return };
            for value in list {
                remove(items, value);
            }
        }
        _ => {}
    }
}

/// Prunes the defaults of a schema by that schema.
pub(crate) fn prune_defaults(node: &mut Node) {
    if let Some(mut default) = node.default.take() {
        remove(Some(node), &mut default);
        node.default = Some(default);
    }
    for (_, property) in node.properties.iter_mut().flat_map(Properties::iter_mut) {
        prune_defaults(property);
    }
    if let Additional::Schema(schema) = &mut node.additional {
        prune_defaults(schema);
    }
    if let Some(items) = &mut node.items {
        prune_defaults(items);
    }
}
