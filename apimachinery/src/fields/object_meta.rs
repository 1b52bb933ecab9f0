//! Validation of `metadata`.
//!
//! In: an object, on update with the stored one. Out: field errors under `metadata`. Invariant:
//! a name has already been generated where one was asked for; what has the wrong type is reported
//! and otherwise treated as absent.

use super::names::{validate_dns_label, validate_dns_subdomain, validate_label_key, validate_label_value};
use crate::schema::metadata_errors;
use crate::{CauseReason, FieldError};
use serde_json::{Map, Value};

/// The most that all annotations of an object may take, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 << 10;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Validates `object.metadata` on creation.
pub fn validate_object_meta(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let metadata = Metadata::of(object);
    let mut errors = metadata_errors(object);
    errors.extend(names(&metadata));
    errors.extend(namespace(&metadata, namespaced));
    if metadata.number("generation") < 0 {
        let value = Value::from(metadata.number("generation"));
        let detail = "must be greater than or equal to 0";
        let reason = CauseReason::FieldValueInvalid;
        errors.push(FieldError::with_value(reason, "metadata.generation", &value, detail));
    }
    errors.extend(common(&metadata));
    errors.extend(finalizers(&metadata));
    errors
}

/// Validates `object.metadata` on update: what may not change, and what may be changed only well.
/// Whether a `resourceVersion` is needed is the caller's business.
pub fn validate_object_meta_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (metadata, before) = (Metadata::of(object), Metadata::of(old));
    let mut errors = metadata_errors(object);
    if !before.get("deletionTimestamp").is_null() {
        errors.extend(no_new_finalizers(&metadata, &before));
    }
    if metadata.number("generation") < before.number("generation") {
        let value = Value::from(metadata.number("generation"));
        let reason = CauseReason::FieldValueInvalid;
        errors.push(FieldError::with_value(reason, "metadata.generation", &value, "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let value = metadata.get(name);
        if *value != *before.get(name) && (metadata.text(name), before.text(name)) != ("", "") {
            let field = format!("metadata.{name}");
            let shown =
                if value.is_null() && matches!(name, "name" | "namespace" | "uid") { "".into() } else { value.clone() };
            errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, field, &shown, "field is immutable"));
        }
    }
    errors.extend(common(&metadata));
    errors
}

/// `metadata`, with every way of being absent the same.
struct Metadata<'a>(Option<&'a Map<String, Value>>);

impl<'a> Metadata<'a> {
    fn of(object: &'a Value) -> Self {
        Self(object.get("metadata").and_then(Value::as_object))
    }

    fn get(&self, name: &str) -> &'a Value {
        self.0.and_then(|m| m.get(name)).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> &'a str {
        self.get(name).as_str().unwrap_or_default()
    }

    fn number(&self, name: &str) -> i64 {
        self.get(name).as_i64().unwrap_or_default()
    }

    fn map(&self, name: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
        let fields = self.get(name).as_object().into_iter().flatten();
        fields.filter_map(|(key, value)| Some((key, value.as_str()?)))
    }

    fn texts(&self, name: &str) -> Vec<&'a str> {
        self.get(name).as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn names(metadata: &Metadata<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let prefix = metadata.text("generateName");
    if !prefix.is_empty() {
        // A character will follow a trailing dash.
        let masked = match prefix.strip_suffix('-') {
            Some(rest) if rest.ends_with(|c: char| c.is_ascii()) => rest[..rest.len() - 1].to_owned() + "a",
            _ => prefix.to_owned(),
        };
        let details = validate_dns_subdomain(&masked);
        errors.extend(details.iter().map(|e| FieldError::invalid("metadata.generateName", prefix, e)));
    }
    let name = metadata.text("name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        errors.extend(validate_dns_subdomain(name).iter().map(|e| FieldError::invalid("metadata.name", name, e)));
    }
    errors
}

fn namespace(metadata: &Metadata<'_>, namespaced: bool) -> Vec<FieldError> {
    let field = "metadata.namespace";
    match (namespaced, metadata.text("namespace")) {
        (true, "") => vec![FieldError::required(field, "")],
        (true, name) => validate_dns_label(name).iter().map(|e| FieldError::invalid(field, name, e)).collect(),
        (false, "") => Vec::new(),
        (false, _) => vec![FieldError::new(CauseReason::FieldValueForbidden, field, "not allowed on this type")],
    }
}

fn common(metadata: &Metadata<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in metadata.map("labels") {
        errors.extend(validate_label_key(key).iter().map(|e| FieldError::invalid("metadata.labels", key, e)));
        errors.extend(validate_label_value(value).iter().map(|e| FieldError::invalid("metadata.labels", value, e)));
    }
    let mut size = 0;
    for (key, value) in metadata.map("annotations") {
        // Case does not matter in the key of an annotation.
        let details = validate_label_key(&key.to_lowercase());
        errors.extend(details.iter().map(|e| FieldError::invalid("metadata.annotations", key, e)));
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_LIMIT {
        let detail = format!("may not be more than {ANNOTATIONS_LIMIT} bytes");
        errors.push(FieldError::new(CauseReason::FieldValueTooLong, "metadata.annotations", &detail));
    }
    errors.extend(owners(metadata.get("ownerReferences")));
    errors
}

fn owners(references: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    let at = "metadata.ownerReferences";
    for reference in references.as_array().into_iter().flatten() {
        let text = |name: &str| reference.get(name).and_then(Value::as_str).unwrap_or_default();
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() || text("apiVersion").matches('/').count() > 1 {
            let field = format!("{at}.apiVersion");
            errors.push(FieldError::invalid(field, text("apiVersion"), "version must not be empty"));
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                errors.push(FieldError::invalid(format!("{at}.{name}"), "", "must not be empty"));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, at, reference, detail));
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            let current = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {current}"
                    );
                    errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, at, references, &detail));
                }
                None => controller = Some(current),
            }
        }
    }
    errors
}

fn finalizers(metadata: &Metadata<'_>) -> Vec<FieldError> {
    let field = "metadata.finalizers";
    let names = metadata.texts("finalizers");
    let mut errors: Vec<FieldError> = names
        .iter()
        .flat_map(|name| validate_label_key(name).into_iter().map(|e| FieldError::invalid(field, name, &e)))
        .collect();
    if names.contains(&ORPHAN) && names.contains(&FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        let value = metadata.get("finalizers");
        errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, field, value, &detail));
    }
    errors
}

fn no_new_finalizers(metadata: &Metadata<'_>, before: &Metadata<'_>) -> Option<FieldError> {
    let known = before.texts("finalizers");
    let mut added = metadata.texts("finalizers");
    added.retain(|name| !known.contains(name));
    added.sort_unstable();
    added.dedup();
    if added.is_empty() {
        return None;
    }
    let list: Vec<String> = added.iter().map(|name| crate::gotext::quote(name)).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        list.join(", ")
    );
    Some(FieldError::new(CauseReason::FieldValueForbidden, "metadata.finalizers", &detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn creation() {
        let good = json!({"metadata": {
            "name": "a.b", "namespace": "ns", "labels": {"x/y": "z"}, "annotations": {"X": "any / text"},
            "finalizers": ["nightshift.dev/tasks"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}],
        }});
        assert_eq!(texts(&validate_object_meta(&good, true)), Vec::<String>::new());
        let found = texts(&validate_object_meta(&json!({"metadata": {"name": "Foo_", "namespace": "ns"}}), true));
        assert_eq!(
            found,
            ["metadata.name: Invalid value: \"Foo_\": a lowercase RFC 1123 subdomain must consist of lower case \
              alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
              'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
        assert_eq!(
            texts(&validate_object_meta(&json!({"metadata": {"namespace": "ns"}}), false)),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Forbidden: not allowed on this type",
            ]
        );
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2, "deletionTimestamp": "t"}});
        let new = json!({"metadata": {
            "name": "a", "uid": "2", "generation": 1, "deletionTimestamp": "t", "finalizers": ["b/c"],
        }});
        assert_eq!(
            texts(&validate_object_meta_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"b/c\"}",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }

    #[test]
    fn wrong_types_are_errors() {
        for metadata in [json!(3), json!({"name": 1}), json!({"name": "a", "labels": {"x": 1}}), json!(null)] {
            let object = json!({"metadata": metadata});
            assert!(!validate_object_meta(&object, false).is_empty(), "{object}");
        }
    }
}
