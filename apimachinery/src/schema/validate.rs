//! Structural validation.
//!
//! In: a schema, an object and, on update, the stored one. Out: its errors in the words of
//! go-openapi. Invariant: an error on a part that the update left unchanged is not reported
//! (ratcheting), so a tightened schema does not freeze the objects stored before it.

use super::node::{Additional, ListType, Node, Type};
use super::outcome::{Outcome, field};
use super::{list_type, ratchet, scalars};
use crate::{CauseReason, FieldError, gotext};
use serde_json::{Map, Value};

/// Validates a whole resource against its schema, without CEL rules.
pub(crate) fn validate(node: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = ratcheted(node, object, &mut String::new(), old).errors;
    if old.is_none_or(|old| list_type::validate(node, old).is_empty()) {
        errors.extend(list_type::validate(node, object));
    }
    errors
}

/// Validates a part of a resource that stands at `path`.
pub(crate) fn at(node: &Node, value: &Value, path: &str) -> Vec<FieldError> {
    check(node, value, &mut path.to_owned(), None).errors
}

/// A node of the spine; `old` is the value it had, where there is a corresponding one.
fn ratcheted(node: &Node, value: &Value, path: &mut String, old: Option<&Value>) -> Outcome {
    let mut outcome = check(node, value, path, old);
    if !outcome.valid() && old.is_some_and(|old| ratchet::unchanged(node, value, old)) {
        outcome.errors.clear();
    }
    outcome
}

/// All checks of one node, in go-openapi's order.
fn check(node: &Node, value: &Value, path: &mut String, old: Option<&Value>) -> Outcome {
    let mut out = type_of(node, value, path);
    if value.is_null() {
        enumeration(node, value, path, &mut out);
        return out;
    }
    if node.type_.is_some() || node.int_or_string || node.format.is_some() {
        out.matches += 1;
    }
    out.merge(junctors(node, value, path, old));
    out.matches += 1;
    match value {
        Value::String(text) => {
            scalars::string(node, text, path, &mut out);
            out.matches += 1;
            if node.format.is_some() {
                scalars::format(node, text, path, &mut out);
                out.matches += 1;
            }
        }
        Value::Number(number) => {
            scalars::number(node, number, path, &mut out);
            out.matches += 1;
        }
        Value::Array(list) => {
            array(node, list, path, old, &mut out);
            out.matches += 2;
        }
        _ => {}
    }
    enumeration(node, value, path, &mut out);
    out.matches += 1;
    if let Value::Object(fields) = value {
        object(node, fields, path, old, &mut out);
        out.matches += 1;
    }
    out.matches += 1;
    out
}

fn type_of(node: &Node, value: &Value, path: &str) -> Outcome {
    let mut out = Outcome::default();
    let expected = match (node.int_or_string, node.type_) {
        (true, _) => "integer,string",
        (false, Some(type_)) => type_.name(),
        (false, None) => {
            out.matches += usize::from(node.format.is_some());
            return out;
        }
    };
    let actual = match value {
        Value::Null if node.nullable => return Outcome { matches: 1, ..out },
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
    };
    let fits = match (node.int_or_string, node.type_, value) {
        (true, _, Value::String(_)) => true,
        (true, _, Value::Number(n)) | (false, Some(Type::Integer), Value::Number(n)) => {
            n.is_i64() || n.as_f64().is_some_and(scalars::is_integer)
        }
        (false, Some(Type::Number), Value::Number(_)) => true,
        _ => expected == actual,
    };
    if fits {
        out.matches += 1;
        return out;
    }
    out.add(wrong_type(node, value, path, expected, actual));
    out
}

fn wrong_type(node: &Node, value: &Value, path: &str, expected: &str, actual: &str) -> FieldError {
    // Where the schema has a format, the real server names that instead of the type, except for
    // strings and lists.
    let (expected, actual) = match &node.format {
        Some(format) if !matches!(value, Value::String(_) | Value::Array(_) | Value::Null) => {
            let format_of_value = match value {
                Value::Number(n) if n.is_i64() => "int64",
                Value::Number(_) => "float64",
                _ => "",
            };
            (format.name.as_str(), format_of_value)
        }
        _ => (expected, actual),
    };
    let detail = format!("{path} in body must be of type {expected}: {}", gotext::quote(actual));
    FieldError::with_value(CauseReason::FieldValueTypeInvalid, field(path), &Value::from(actual), &detail)
}

fn enumeration(node: &Node, value: &Value, path: &str, out: &mut Outcome) {
    if node.enumeration.is_empty() || node.enumeration.iter().any(|allowed| same(allowed, value)) {
        return;
    }
    let text = |allowed: &Value| match allowed {
        Value::String(text) => gotext::quote(text),
        other => gotext::quote(&gotext::json(other)),
    };
    let supported: Vec<String> = node.enumeration.iter().map(text).collect();
    let detail = format!("supported values: {}", supported.join(", "));
    out.add(FieldError::with_value(CauseReason::FieldValueNotSupported, field(path), value, &detail));
}

fn same(allowed: &Value, value: &Value) -> bool {
    match (allowed, value) {
        // Go's comparison cannot find nil.
        (_, Value::Null) => false,
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => allowed == value,
    }
}

fn array(node: &Node, list: &[Value], path: &mut String, old: Option<&Value>, out: &mut Outcome) {
    if let Some(items) = &node.items {
        let length = path.len();
        for (i, item) in list.iter().enumerate() {
            path.push_str(&format!("[{i}]"));
            let old = match node.list_type {
                ListType::Map => list_type::corresponding(&node.list_map_keys, item, old),
                _ => None,
            };
            out.merge(ratcheted(items, item, path, old));
            path.truncate(length);
        }
    }
    let size = i64::try_from(list.len()).unwrap_or(i64::MAX);
    if let Some(min) = node.bounds.min_items.filter(|min| size < *min) {
        out.invalid(path, &Value::from(size), &format!("should have at least {min} items"));
    }
    if let Some(max) = node.bounds.max_items.filter(|max| size > *max) {
        out.add(too_many(path, size, max));
    }
}

fn too_many(path: &str, size: i64, max: i64) -> FieldError {
    let items = if max == 1 { "item" } else { "items" };
    let detail = format!("must have at most {max} {items}");
    FieldError::with_value(CauseReason::FieldValueTooMany, field(path), &Value::from(size), &detail)
}

fn object(node: &Node, fields: &Map<String, Value>, path: &mut String, old: Option<&Value>, out: &mut Outcome) {
    let size = i64::try_from(fields.len()).unwrap_or(i64::MAX);
    if let Some(min) = node.bounds.min_properties.filter(|min| size < *min) {
        out.invalid(path, &Value::from(size), &format!("should have at least {min} properties"));
    }
    if let Some(max) = node.bounds.max_properties.filter(|max| size > *max) {
        out.add(too_many(path, size, max));
    }
    let length = path.len();
    for (key, value) in fields {
        match &node.additional {
            _ if node.property(key).is_some() => {}
            Additional::Schema(schema) => {
                path.push('.');
                path.push_str(key);
                out.merge(ratcheted(schema, value, path, old.and_then(|o| o.get(key))));
                path.truncate(length);
            }
            Additional::Forbidden => {
                let detail = format!("{path}.{key} in body is a forbidden property");
                let reason = CauseReason::FieldValueInvalid;
                out.add(FieldError::with_value(reason, field(path), &Value::from(key.as_str()), &detail));
            }
            Additional::Any | Additional::Absent => {}
        }
    }
    for (name, property) in node.properties.iter().flat_map(|p| p.iter()) {
        let Some(value) = fields.get(name) else { continue };
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        // Old and new were read as the same kind, so these two are never "unchanged".
        let fixed = length == 0 && matches!(name.as_str(), "apiVersion" | "kind");
        let old = old.and_then(|o| o.get(name)).filter(|_| !fixed);
        out.merge(ratcheted(property, value, path, old));
        path.truncate(length);
    }
    for name in node.required.iter().filter(|name| !fields.contains_key(*name)) {
        out.add(FieldError::required(field(&format!("{path}.{name}")), ""));
    }
}

/// `anyOf`, `oneOf`, `allOf` and `not`.
fn junctors(node: &Node, value: &Value, path: &mut String, old: Option<&Value>) -> Outcome {
    let mut out = Outcome::default();
    let quoted = |path: &str| gotext::quote(path);
    if !node.any_of.is_empty() {
        let (valid, best) = branches(&node.any_of, value, path, old, true);
        if valid == 0 {
            out.whole(&format!("{} must validate at least one schema (anyOf)", quoted(path)));
        }
        out.merge(best);
    }
    if !node.one_of.is_empty() {
        let (valid, best) = branches(&node.one_of, value, path, old, false);
        if valid != 1 {
            let found = if valid == 0 { "none valid".to_owned() } else { format!("{valid} valid alternatives") };
            out.whole(&format!("{} must validate one and only one schema (oneOf). Found {found}", quoted(path)));
        }
        if valid <= 1 {
            out.merge(best);
        }
    }
    if !node.all_of.is_empty() {
        let results: Vec<Outcome> = node.all_of.iter().map(|n| check(n, value, path, old)).collect();
        let valid = results.iter().filter(|r| r.valid()).count();
        for result in results {
            out.merge(result);
        }
        if valid != node.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            out.whole(&format!("{} must validate all the schemas (allOf){none}", quoted(path)));
        }
    }
    if let Some(not) = &node.not
        && check(not, value, path, old).valid()
    {
        out.whole(&format!("{} must not validate the schema (not)", quoted(path)));
    }
    out.matches += 1;
    out
}

/// How many branches hold, and the first that does, or else the one that came closest.
fn branches(
    nodes: &[Node],
    value: &Value,
    path: &mut String,
    old: Option<&Value>,
    stop_at_first: bool,
) -> (usize, Outcome) {
    let mut valid = 0;
    let mut best: Option<Outcome> = None;
    for node in nodes {
        let result = check(node, value, path, old);
        if result.valid() {
            valid += 1;
            if valid == 1 {
                best = Some(result);
            }
            if stop_at_first {
                break;
            }
        } else if valid == 0 && best.as_ref().is_none_or(|b| result.matches > b.matches) {
            best = Some(result);
        }
    }
    (valid, best.unwrap_or_default())
}
