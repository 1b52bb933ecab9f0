//! Strategic merge patch of the core kinds.
//!
//! In: an object, a patch with its directives and the kind's merge keys. Out: the merged object.
//! Invariant: as in Kubernetes' `strategicpatch`; no directive remains in the object.

use super::PatchError;
use super::order::{enforce, identity};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// Which lists of a kind are merged, and by which key; every other list is replaced.
#[derive(Clone, Copy, Debug)]
pub struct PatchMeta {
    lists: &'static [(&'static str, Option<&'static str>)],
}

/// A list that is merged, with its key; without one it is a set of scalars.
type MergedList = (&'static str, Option<&'static str>);

const FINALIZERS: MergedList = ("metadata.finalizers", None);
const OWNERS: MergedList = ("metadata.ownerReferences", Some("uid"));

impl PatchMeta {
    /// The merge keys of a core kind; `None` for every other, custom resources included, which do
    /// not support this kind of patch.
    pub fn for_kind(api_version: &str, kind: &str) -> Option<PatchMeta> {
        let lists: &[MergedList] = match (api_version, kind) {
            ("v1", "Namespace") => &[FINALIZERS, OWNERS, ("status.conditions", Some("type"))],
            ("v1", "ServiceAccount") => &[FINALIZERS, OWNERS, ("secrets", Some("name"))],
            ("v1", "ConfigMap" | "Secret" | "Event")
            | ("coordination.k8s.io/v1", "Lease")
            | ("events.k8s.io/v1", "Event")
            | ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => &[FINALIZERS, OWNERS],
            _ => return None,
        };
        Some(PatchMeta { lists })
    }

    /// Whether the list at a path is merged, and by which key.
    fn list(&self, path: &str) -> Option<Option<&'static str>> {
        self.lists.iter().find(|(known, _)| *known == path).map(|(_, key)| *key)
    }
}

/// Applies a strategic merge patch.
///
/// # Errors
/// `Malformed` where the patch, or a directive in it, has the wrong form; `Conflict` for lists of
/// lists, which cannot be merged.
pub fn strategic_merge_patch(kind: &PatchMeta, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (&*target, patch) else {
        return Err(PatchError::Malformed("invalid JSON document".into()));
    };
    *target = Value::Object(merge_map(kind, object.clone(), patch.clone(), "")?);
    Ok(())
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

type Fields = Map<String, Value>;

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn merge_map(kind: &PatchMeta, mut object: Fields, mut patch: Fields, path: &str) -> Result<Fields, PatchError> {
    match patch.shift_remove(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) if word == "replace" => return Ok(patch),
        Some(Value::String(word)) if word == "delete" => return Ok(Fields::new()),
        Some(other) => {
            return Err(malformed(format!("unknown patch type: {other} in map: {}", Value::Object(patch))));
        }
    }
    retain_keys(&mut object, &mut patch)?;
    ordered_lists(kind, &mut object, &mut patch, path)?;
    for (key, value) in patch {
        if let Some(name) = directive_key(&key, DELETE_FROM)? {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (object.get_mut(name), &value) {
                let gone: HashSet<String> = gone.iter().map(|v| identity(v, None)).collect();
                list.retain(|v| !gone.contains(&identity(v, None)));
            }
            continue;
        }
        merge_field(kind, &mut object, key, value, path)?;
    }
    Ok(object)
}

fn merge_field(kind: &PatchMeta, object: &mut Fields, key: String, value: Value, path: &str) -> Result<(), PatchError> {
    let here = child(path, &key);
    match (object.get_mut(&key), value) {
        (_, Value::Null) => {
            object.shift_remove(&key);
        }
        (Some(Value::Object(fields)), Value::Object(patch)) => {
            *fields = merge_map(kind, std::mem::take(fields), patch, &here)?;
        }
        (Some(Value::Array(list)), Value::Array(patch)) => {
            *list = match kind.list(&here) {
                Some(merge_key) => merge_list(kind, std::mem::take(list), patch, merge_key, &here)?,
                None => patch,
            };
        }
        (_, mut value) => {
            discard_nulls(&mut value);
            match without_directives(value) {
                Some(value) => {
                    object.insert(key, value);
                }
                None => {
                    object.shift_remove(&key);
                }
            }
        }
    }
    Ok(())
}

/// The field that a directive such as `$setElementOrder/secrets` is about.
fn directive_key<'k>(key: &'k str, directive: &str) -> Result<Option<&'k str>, PatchError> {
    let Some(rest) = key.strip_prefix(directive) else { return Ok(None) };
    match rest.strip_prefix('/') {
        Some(name) => Ok(Some(name)),
        None if directive == DELETE_FROM => Err(malformed("invalid patch format of primitive list")),
        None => Err(malformed("invalid patch format of setElementOrder list")),
    }
}

/// `$retainKeys`: only these fields stay.
fn retain_keys(object: &mut Fields, patch: &mut Fields) -> Result<(), PatchError> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || malformed("invalid patch format of retainKeys");
    let keys: HashSet<&str> = keys.as_array().ok_or_else(wrong)?.iter().filter_map(Value::as_str).collect();
    let directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !keys.contains(key.as_str())) {
        return Err(wrong());
    }
    object.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// Lists with a `$setElementOrder` are merged with that order, and taken out of the patch.
fn ordered_lists(kind: &PatchMeta, object: &mut Fields, patch: &mut Fields, path: &str) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.shift_remove(&directive).unwrap_or_default();
        let wrong = || malformed("invalid patch format of setElementOrder list");
        let name = directive_key(&directive, ELEMENT_ORDER)?.ok_or_else(wrong)?;
        let Value::Array(order) = order else { return Err(wrong()) };
        let (stored, patched) = (array(object.get(name))?, array(patch.get(name))?);
        if stored.is_none() && patched.is_none() {
            continue;
        }
        let merge_key = kind.list(&child(path, name));
        let key = merge_key.flatten();
        let patched_items = patched.cloned();
        let stored_items = stored.cloned().unwrap_or_default();
        let untouched = patched_items.is_none();
        check_order(patched_items.as_deref().unwrap_or_default(), &order, key)?;
        let merged = match (stored.is_some(), patched_items) {
            (_, None) => stored_items.clone(),
            (false, Some(items)) => items.into_iter().filter_map(without_directives).collect(),
            (true, Some(items)) => match merge_key {
                Some(key) => merge_list(kind, stored_items.clone(), items, key, &child(path, name))?,
                None => items,
            },
        };
        object.insert(name.to_owned(), Value::Array(enforce(merged, &order, &stored_items, key)));
        if !untouched {
            patch.shift_remove(name);
        }
    }
    Ok(())
}

fn array(value: Option<&Value>) -> Result<Option<&Vec<Value>>, PatchError> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(malformed("invalid patch format of setElementOrder list: the field is not a list")),
    }
}

/// The elements of the patch stand in the order list, in the same order.
fn check_order(items: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut left = order.iter().map(|item| identity(item, merge_key));
    for item in items.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, merge_key);
        if !left.any(|known| known == wanted) {
            return Err(malformed(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                Value::from(items),
                Value::from(order)
            )));
        }
    }
    Ok(())
}

fn merge_list(
    kind: &PatchMeta,
    stored: Vec<Value>,
    patch: Vec<Value>,
    merge_key: Option<&'static str>,
    path: &str,
) -> Result<Vec<Value>, PatchError> {
    let Some(first) = stored.first().or(patch.first()) else { return Ok(stored) };
    let shape = |value: &Value| std::mem::discriminant(value);
    if first.is_array() {
        return Err(PatchError::Conflict("lists of lists are not supported".into()));
    }
    if stored.iter().chain(&patch).any(|item| shape(item) != shape(first)) {
        return Err(malformed(format!("list element types are not identical in {path}")));
    }
    if !first.is_object() {
        return Ok(merge_set(stored, patch));
    }
    let Some(key) = merge_key else {
        return Err(malformed(format!("cannot merge lists without merge key for {path}")));
    };
    merge_keyed(kind, stored, patch, key, path)
}

fn merge_set(stored: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let all = stored.iter().chain(&patch).filter(|item| seen.insert(identity(item, None)));
    let merged: Vec<Value> = all.cloned().collect();
    enforce(merged, &patch, &stored, None)
}

fn merge_keyed(
    kind: &PatchMeta,
    mut stored: Vec<Value>,
    patch: Vec<Value>,
    key: &'static str,
    path: &str,
) -> Result<Vec<Value>, PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        if item.get(key).is_none() && item.get(DIRECTIVE) != Some(&Value::from("replace")) {
            return Err(malformed(format!("map: {item} does not contain declared merge key: {key}")));
        }
        match item.get(DIRECTIVE).map(Value::as_str) {
            None => plain.push(item),
            Some(Some("delete")) => stored.retain(|known| known.get(key) != item.get(key)),
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(_) => return Err(malformed(format!("unknown patch type in map: {item}"))),
        }
    }
    if replace {
        return Ok(plain);
    }
    let mut merged = stored.clone();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (i, item) in merged.iter().enumerate() {
        places.entry(identity(item, Some(key))).or_insert(i);
    }
    for item in &plain {
        let known = places.get(&identity(item, Some(key))).and_then(|i| merged.get_mut(*i));
        match (known, item) {
            (Some(Value::Object(known)), Value::Object(fields)) => {
                *known = merge_map(kind, std::mem::take(known), fields.clone(), &format!("{path}[]"))?;
            }
            _ => {
                places.insert(identity(item, Some(key)), merged.len());
                merged.push(item.clone());
            }
        }
    }
    Ok(enforce(merged, &plain, &stored, Some(key)))
}

/// Drops nulls from maps, also from those inside lists.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(discard_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A value of the patch as it may be stored; `None` for a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let plain = |key: &String| ![RETAIN_KEYS, DELETE_FROM, ELEMENT_ORDER].iter().any(|d| key.starts_with(d));
            let plain = fields.into_iter().filter(|(key, _)| plain(key));
            let kept = plain.filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
