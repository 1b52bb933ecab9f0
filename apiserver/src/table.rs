//! In: objects and columns → out: `meta.k8s.io/v1` Table → invariant: as many cells a row as there are columns; a cell that
//! cannot be computed is null, never an error.

use crate::kinds::{Core, Resource};
use crate::object::{at, meta_str, str_at};
use serde_json::{Value, json};
use serde_json_path::JsonPath;

/// One printer column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    cell: Cell,
}

#[derive(Debug, Clone)]
enum Cell {
    Path(Box<Option<JsonPath>>),
    Compute(fn(&Value) -> Value),
}

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
    resources may allow a client to request the generation of an appropriate name automatically.";

impl Column {
    pub fn name() -> Column {
        let mut c = Column::compute("Name", |v| meta_str(v, "name").into());
        c.format = "name".into();
        c.description = NAME_TEXT.into();
        c
    }

    pub fn age() -> Column {
        let mut c = Column::compute("Age", age);
        c.description =
            "CreationTimestamp is a timestamp representing the server time when this object was created.".into();
        c
    }

    pub fn path(name: &str, kind: &str, format: &str, description: &str, priority: i64, path: &str) -> Column {
        Column {
            name: name.into(),
            kind: kind.into(),
            format: format.into(),
            description: if description.is_empty() {
                format!("Custom resource definition column (in JSONPath format): {path}")
            } else {
                description.into()
            },
            priority,
            cell: Cell::Path(Box::new(json_path(path))),
        }
    }

    fn compute(name: &str, f: fn(&Value) -> Value) -> Column {
        Column {
            name: name.into(),
            kind: "string".into(),
            format: String::new(),
            description: name.into(),
            priority: 0,
            cell: Cell::Compute(f),
        }
    }

    fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description,
            "priority": self.priority})
    }

    fn cell(&self, object: &Value) -> Value {
        match &self.cell {
            Cell::Compute(f) => f(object),
            Cell::Path(path) => match path.as_ref() {
                Some(p) => p.query(object).first().map_or(Value::Null, |found| self.typed(found)),
                None => Value::Null,
            },
        }
    }

    /// As the real server: of several matches the first; a value of another type than the column's is nothing.
    fn typed(&self, found: &Value) -> Value {
        match (self.kind.as_str(), found) {
            ("date", Value::String(s)) => human_since(s).map_or("<invalid>".into(), Value::from),
            ("integer", Value::Number(n)) => {
                n.as_i64().map_or_else(|| n.as_f64().map_or(Value::Null, |f| (f as i64).into()), Value::from)
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => found.clone(),
            ("string", Value::String(_)) => found.clone(),
            ("string", Value::Null) => Value::Null,
            ("string", other) => other.to_string().into(),
            _ => Value::Null,
        }
    }
}

/// A CRD's JSON path (`.a.b[?(@.c=="d")].e`), also in braces.
pub(crate) fn json_path(path: &str) -> Option<JsonPath> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    if path.is_empty() {
        return None;
    }
    // Kubernetes writes `\.` for a dot inside a key; RFC 9535 has brackets for that.
    let mut out = String::from("$");
    let mut rest = path;
    while let Some(i) = rest.find("\\.") {
        let start = rest[..i].rfind('.').map_or(0, |d| d + 1);
        let mut key = rest[start..i].to_owned();
        out.push_str(rest[..start].trim_end_matches('.'));
        rest = &rest[i..];
        while let Some(more) = rest.strip_prefix("\\.") {
            let end = more.find(['.', '[', '\\']).unwrap_or(more.len());
            key.push('.');
            key.push_str(&more[..end]);
            rest = &more[end..];
        }
        out.push_str(&format!("['{}']", key.replace('\'', "\\'")));
    }
    out.push_str(rest);
    JsonPath::parse(&out).ok()
}

/// How long ago a time was, as kubectl's AGE.
fn human_since(time: &str) -> Option<String> {
    let then: jiff::Timestamp = time.parse().ok()?;
    Some(human_duration(jiff::Timestamp::now().duration_since(then).as_secs()))
}

/// `duration.HumanDuration` of the real server.
fn human_duration(seconds: i64) -> String {
    let (s, m, h) = (seconds, seconds / 60, seconds / 3600);
    let two = |big: i64, unit: &str, small: i64, name: &str| match small {
        0 => format!("{big}{unit}"),
        n => format!("{big}{unit}{n}{name}"),
    };
    match s {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{s}s"),
        120..600 => two(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(h / 24, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{}d", h / 24),
        63_072_000..252_288_000 => two(h / 8760, "y", (h / 24) % 365, "d"),
        _ => format!("{}y", h / 8760),
    }
}

fn age(v: &Value) -> Value {
    human_since(meta_str(v, "creationTimestamp")).map_or("<unknown>".into(), Value::from)
}

fn entries(v: &Value, fields: &[&str]) -> Value {
    let count = |f: &&str| v.get(*f).and_then(Value::as_object).map_or(0, |m| m.len());
    fields.iter().map(count).sum::<usize>().into()
}

/// The columns of the core kinds, as kubectl shows them.
pub(crate) fn core_columns(core: Core) -> Vec<Column> {
    let text = Column::compute;
    let number = |name: &str, f| Column { kind: "integer".into(), ..Column::compute(name, f) };
    let wide = |c: Column| Column { priority: 1, ..c };
    let mut all = vec![Column::name()];
    match core {
        Core::Namespace => all.push(text("Status", |v| str_at(v, &["status", "phase"]).into())),
        Core::ConfigMap => all.push(number("Data", |v| entries(v, &["data", "binaryData"]))),
        Core::Secret => {
            all.extend([text("Type", |v| str_at(v, &["type"]).into()), number("Data", |v| entries(v, &["data"]))])
        }
        Core::ServiceAccount => {
            all.push(number("Secrets", |v| v.get("secrets").and_then(Value::as_array).map_or(0, Vec::len).into()))
        }
        Core::Lease => all.push(text("Holder", |v| str_at(v, &["spec", "holderIdentity"]).into())),
        Core::Crd => {
            all.push(Column { kind: "date".into(), ..text("Created At", |v| meta_str(v, "creationTimestamp").into()) });
            return all;
        }
        Core::Event | Core::EventsEvent => {
            return vec![
                text("Last Seen", |v| human_since(event_time(v)).map_or("<unknown>".into(), Value::from)),
                text("Type", |v| str_at(v, &["type"]).into()),
                text("Reason", |v| str_at(v, &["reason"]).into()),
                text("Object", |v| {
                    let kind = str_at(v, &["involvedObject", "kind"]).to_lowercase();
                    format!("{kind}/{}", str_at(v, &["involvedObject", "name"])).into()
                }),
                wide(text("Subobject", |v| str_at(v, &["involvedObject", "fieldPath"]).into())),
                wide(text("Source", |v| event_source(v).into())),
                text("Message", |v| str_at(v, &["message"]).trim().into()),
                wide(text("First Seen", |v| human_since(first_time(v)).map_or("<unknown>".into(), Value::from))),
                wide(number("Count", |v| event_count(v).into())),
                wide(Column::name()),
            ];
        }
        _ => {}
    }
    all.push(Column::age());
    all
}

fn first_of<'a>(candidates: &[&'a str]) -> &'a str {
    candidates.iter().find(|s| !s.is_empty()).copied().unwrap_or("")
}

fn first_time(v: &Value) -> &str {
    first_of(&[str_at(v, &["firstTimestamp"]), str_at(v, &["eventTime"])])
}

fn event_time(v: &Value) -> &str {
    first_of(&[str_at(v, &["series", "lastObservedTime"]), str_at(v, &["lastTimestamp"]), first_time(v)])
}

fn event_count(v: &Value) -> i64 {
    let n = at(v, &["series", "count"]).or_else(|| v.get("count")).and_then(Value::as_i64);
    n.unwrap_or(1).max(1)
}

fn event_source(v: &Value) -> String {
    let component = first_of(&[str_at(v, &["source", "component"]), str_at(v, &["reportingComponent"])]);
    match first_of(&[str_at(v, &["source", "host"]), str_at(v, &["reportingInstance"])]) {
        "" => component.into(),
        host => format!("{component}, {host}"),
    }
}

/// Which object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// One row. `stored` is the storage form (columns read it), `served` the form of the request.
pub(crate) fn row(resource: &Resource, stored: &Value, served: &Value, include: Include) -> Value {
    let cells: Vec<Value> = resource.columns.iter().map(|c| c.cell(stored)).collect();
    let mut row = json!({ "cells": cells });
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(served),
        Include::Object => row["object"] = served.clone(),
    }
    row
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default()})
}

/// The table around rows; headers can be left out (all but the first event of a watch).
pub(crate) fn table(resource: &Resource, rows: Vec<Value>, list_meta: Value, headers: bool) -> Value {
    let definitions: Value =
        if headers { resource.columns.iter().map(Column::definition).collect::<Vec<_>>().into() } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "columnDefinitions": definitions,
        "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (s, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (300_000_000, "9y"),
        ] {
            assert_eq!(human_duration(s), want, "{s}");
        }
    }

    #[test]
    fn columns_follow_kubernetes_json_paths() {
        let v = json!({"metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "A", "status": "1"}, {"type": "Ready", "status": "True"}]}});
        let c = |p: &str| Column::path("C", "string", "", "", 0, p).cell(&v);
        assert_eq!(c(".status.conditions[?(@.type==\"Ready\")].status"), "True");
        assert_eq!(c(".status.conditions[?(@.type=='Ready')].status"), "True");
        assert_eq!(c(".metadata.annotations.a\\.b/c"), "x");
        assert_eq!(c(".spec.none"), Value::Null);
    }
}
