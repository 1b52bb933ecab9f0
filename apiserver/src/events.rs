//! In: an Event in one of its two forms → out: the other → invariant: lossless for what both forms have; the stored form is
//! core/v1, and both groups read and write the same store.

use crate::kinds::{Core, Resource};
use crate::object::{as_map, put};
use serde_json::{Map, Value};

/// events.k8s.io name ↔ core name.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(m: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(v) = m.shift_remove(from) {
        m.insert(to.into(), v);
    }
}

/// From the form of a request to the stored form.
pub(crate) fn to_storage(resource: &Resource, v: &mut Value) {
    let m = as_map(v);
    if resource.core == Some(Core::EventsEvent) {
        NAMES.iter().for_each(|(new, old)| rename(m, new, old));
    }
    m.insert("apiVersion".into(), resource.storage_api_version().into());
}

/// From the stored form to the form a resource is served in.
pub(crate) fn to_served(resource: &Resource, v: &mut Value) {
    let m = as_map(v);
    if resource.core == Some(Core::EventsEvent) {
        NAMES.iter().for_each(|(new, old)| rename(m, old, new));
        for absent in ["deprecatedSource", "regarding"] {
            let empty = m.get(absent).and_then(Value::as_object).is_some_and(Map::is_empty);
            if empty {
                put(m, absent, None);
            }
        }
    }
    m.insert("apiVersion".into(), resource.api_version().into());
}

/// A field selector's name in the stored form.
pub(crate) fn stored_field(resource: &Resource, field: &str) -> String {
    if resource.core != Some(Core::EventsEvent) {
        return field.to_owned();
    }
    let (head, rest) = field.split_once('.').map_or((field, None), |(h, r)| (h, Some(r)));
    let head = NAMES.iter().find(|(new, _)| *new == head).map_or(head, |(_, old)| old);
    rest.map_or_else(|| head.to_owned(), |r| format!("{head}.{r}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::core;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let new = core::resources().iter().find(|r| r.core == Some(Core::EventsEvent)).unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"},
            "regarding": {"name": "x"}, "note": "n", "reportingController": "c", "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z", "deprecatedCount": 2});
        let mut v = event.clone();
        to_storage(new, &mut v);
        assert_eq!(
            (&v["apiVersion"], &v["involvedObject"]["name"], &v["message"]),
            (&json!("v1"), &json!("x"), &json!("n"))
        );
        to_served(new, &mut v);
        assert_eq!(v, event);
        assert_eq!(stored_field(new, "regarding.name"), "involvedObject.name");
    }
}
