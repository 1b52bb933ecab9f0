//! Lists that are sets or maps.
//!
//! In: a schema and an object. Out: an error for each element or key that stands twice; also the
//! element of an old list that corresponds to a new one. Invariant: paths are those of
//! `field.Path`, with keys of maps in brackets.

use super::node::{ListType, Node};
use crate::{CauseReason, FieldError, gotext};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Checks the uniqueness of every set's elements and every map's keys.
pub(crate) fn validate(node: &Node, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(node, object, &mut String::new(), &mut errors);
    errors
}

fn walk(node: &Node, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let Some(child) = node.field(key) else { continue };
                push_field(path, key, node.property(key).is_some());
                walk(child, value, path, errors);
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            match node.list_type {
                ListType::Atomic => {}
                ListType::Set => set(list, path, errors),
                ListType::Map => map(&node.list_map_keys, list, path, errors),
            }
            let Some(items) = &node.items else { return };
            for (i, value) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(items, value, path, errors);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Appends a property as `.name` or a key as `[key]`.
pub(crate) fn push_field(path: &mut String, name: &str, property: bool) {
    if property {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    } else {
        path.push('[');
        path.push_str(name);
        path.push(']');
    }
}

/// The positions at which an element stands for the second time.
fn repeated(list: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for (i, text) in list.enumerate() {
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            found.push(i);
        }
    }
    found
}

fn duplicate(path: &str, i: usize, value: &Value) -> FieldError {
    FieldError::with_value(CauseReason::FieldValueDuplicate, format!("{path}[{i}]"), value, "")
}

fn set(list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for i in repeated(list.iter().map(gotext::json)) {
        errors.push(duplicate(path, i, &list[i]));
    }
}

fn map(keys: &[String], list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    if let Some((i, value)) = list.iter().enumerate().find(|(_, v)| !v.is_null() && !v.is_object()) {
        let detail = "must be an object for an array of list-type map";
        let field = format!("{path}[{i}]");
        errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, field, value, detail));
        return;
    }
    let keyed: Vec<Value> = list.iter().map(|item| key_of(keys, item)).collect();
    for i in repeated(keyed.iter().map(gotext::json)) {
        errors.push(duplicate(path, i, &keyed[i]));
    }
}

/// The keys that an item has, as an object.
fn key_of(keys: &[String], item: &Value) -> Value {
    let present = keys.iter().filter_map(|key| item.get(key).map(|v| (key.clone(), v.clone())));
    Value::Object(present.collect::<Map<_, _>>())
}

/// The element of an old map list with the same keys; keys must be scalars and all present.
pub(crate) fn corresponding<'a>(keys: &[String], item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let old = old?.as_array()?;
    let scalar = |v: &Value| matches!(v, Value::Bool(_) | Value::Number(_) | Value::String(_));
    if keys.is_empty() || !keys.iter().all(|key| item.get(key).is_some_and(scalar)) {
        return None;
    }
    old.iter().find(|o| keys.iter().all(|key| o.get(key) == item.get(key)))
}
