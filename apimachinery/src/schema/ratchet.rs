//! What an update left unchanged.
//!
//! In: a node with a new and an old value. Out: whether the two are equal as the real server
//! compares them. Invariant: a field without a schema makes its object count as changed; a map
//! list's order does not matter.

use super::list_type::corresponding;
use super::node::{ListType, Node};
use serde_json::Value;

/// Whether the value is the old one.
pub(crate) fn unchanged(node: &Node, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            let same = |(key, value): (&String, &Value)| match (node.field(key), old.get(key)) {
                (Some(child), Some(old)) => unchanged(child, value, old),
                _ => false,
            };
            new.len() == old.len() && new.iter().all(same)
        }
        (Value::Array(list), Value::Array(before)) => match (&node.items, node.list_type) {
            (Some(items), ListType::Map) => {
                let same = |value: &Value| {
                    let before = corresponding(&node.list_map_keys, value, Some(old));
                    before.is_some_and(|before| unchanged(items, value, before))
                };
                list.len() == before.len() && list.iter().all(same)
            }
            _ => new == old,
        },
        _ => new == old,
    }
}
