//! In: an object's JSON → out: its metadata, read and written → invariant: never panics, whatever shape the JSON has; what is
//! absent or of another type reads as absent.

use crate::store::{Draft, Meta, Owner};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// The finalizer of foreground deletion.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// Stands where the writer puts the revision; random, so that no object contains it by accident or intent.
static MARK: LazyLock<String> = LazyLock::new(|| format!("@{}@", uuid::Uuid::new_v4()));

pub(crate) fn str_at<'a>(v: &'a Value, path: &[&str]) -> &'a str {
    at(v, path).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn at<'a>(v: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(v, |v, k| v.get(k))
}

pub(crate) fn meta_str<'a>(v: &'a Value, field: &str) -> &'a str {
    str_at(v, &["metadata", field])
}

/// `metadata`, made an object if it is not.
pub(crate) fn meta_mut(v: &mut Value) -> &mut Map<String, Value> {
    child(as_map(v), "metadata")
}

/// A field, made an object if it is not.
pub(crate) fn child<'a>(m: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    as_map(m.entry(field.to_owned()).or_insert(Value::Null))
}

/// The map of a value, which becomes an empty object if it is none.
pub(crate) fn as_map(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    match v {
        Value::Object(m) => m,
        _ => unreachable!("just made an object"),
    }
}

/// Sets or, with `None`, removes a field.
pub(crate) fn put(m: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(v) => drop(m.insert(field.into(), v)),
        None => drop(m.shift_remove(field)),
    }
}

pub(crate) fn revision(v: &Value) -> Option<u64> {
    meta_str(v, "resourceVersion").parse().ok()
}

pub(crate) fn finalizers(v: &Value) -> Vec<String> {
    strings(at(v, &["metadata", "finalizers"]))
}

pub(crate) fn strings(v: Option<&Value>) -> Vec<String> {
    v.and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

/// What the store indexes.
pub(crate) fn index_meta(v: &Value) -> Meta {
    let labels = at(v, &["metadata", "labels"]).and_then(Value::as_object);
    let owners = at(v, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    Meta {
        uid: meta_str(v, "uid").into(),
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| v.as_str().map(|v| (k.clone(), v.to_owned())))
            .collect(),
        deleting: at(v, &["metadata", "deletionTimestamp"]).is_some_and(Value::is_string),
        foreground: finalizers(v).iter().any(|f| f == FOREGROUND),
        owners: owners
            .into_iter()
            .flatten()
            .map(|o| Owner {
                uid: str_at(o, &["uid"]).into(),
                api_version: str_at(o, &["apiVersion"]).into(),
                kind: str_at(o, &["kind"]).into(),
            })
            .collect(),
    }
}

/// The JSON text with a gap for the revision. Fields stand as the real server's do: apiVersion, kind, metadata, the rest.
pub(crate) fn draft(v: &Value) -> Draft {
    let mut out = Map::new();
    for field in ["apiVersion", "kind", "metadata"] {
        if let Some(x) = v.get(field) {
            out.insert(field.into(), x.clone());
        }
    }
    for (k, x) in v.as_object().into_iter().flatten() {
        out.entry(k.clone()).or_insert_with(|| x.clone());
    }
    let mut v = Value::Object(out);
    meta_mut(&mut v).insert("resourceVersion".into(), MARK.as_str().into());
    let text = v.to_string();
    let pattern = format!("\"resourceVersion\":\"{}\"", *MARK);
    // The mark is inside `metadata`, which stands before anything a user could have put it into.
    let cut = text.find(&pattern).map_or(text.len(), |i| i + "\"resourceVersion\":\"".len());
    let after = (cut + MARK.len()).min(text.len());
    Draft { head: text[..cut].to_owned(), tail: text[after..].to_owned() }
}

/// Now, as `metadata.creationTimestamp` is written: seconds, UTC.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_draft_has_one_gap_in_metadata() {
        let v = json!({"spec": {"resourceVersion": "7"}, "kind": "A", "apiVersion": "v1",
            "metadata": {"annotations": {"x": "\"resourceVersion\":\"9\""}, "resourceVersion": "1"}});
        let d = draft(&v);
        let text = format!("{}42{}", d.head, d.tail);
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(revision(&back), Some(42));
        assert_eq!(str_at(&back, &["spec", "resourceVersion"]), "7");
        assert!(text.starts_with("{\"apiVersion\":\"v1\",\"kind\":\"A\",\"metadata\":"));
    }
}
