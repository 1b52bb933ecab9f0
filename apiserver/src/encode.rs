//! In: stored objects and a form → out: JSON text → invariant: objects stored under the current schema and version are answered
//! byte for byte as stored, without being read.

use crate::admit;
use crate::events;
use crate::kinds::Resource;
use crate::negotiate::Form;
use crate::object::meta_str;
use crate::store::Stored;
use crate::table::{self, Include};
use axum::body::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

type Encoded<T> = Result<T, serde_json::Error>;

/// The stored form, pruned and defaulted by the current schema.
pub(crate) fn stored_value(r: &Resource, stored: &Stored) -> Encoded<Value> {
    let mut v: Value = serde_json::from_slice(&stored.bytes)?;
    if stored.tag != r.schema_tag {
        admit::reshape(r, &mut v);
    }
    Ok(v)
}

/// The JSON of the served form.
pub(crate) fn served_bytes(r: &Resource, stored: &Stored) -> Encoded<Bytes> {
    if r.serves_raw(stored.tag) {
        return Ok(stored.bytes.clone());
    }
    let mut v = stored_value(r, stored)?;
    events::to_served(r, &mut v);
    Ok(Bytes::from(v.to_string()))
}

/// `includeObject`, as the real server reads it.
pub(crate) fn include(text: &str) -> Include {
    match text {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    }
}

/// A table's row of one object.
pub(crate) fn row(r: &Resource, stored: &Stored, include: Include) -> Encoded<Value> {
    Ok(row_of(r, stored_value(r, stored)?, include))
}

fn row_of(r: &Resource, v: Value, include: Include) -> Value {
    let mut served = v.clone();
    events::to_served(r, &mut served);
    table::row(r, &v, &served, include)
}

/// One stored object in the form asked for.
pub(crate) fn one(r: &Resource, stored: &Stored, form: Form, include_object: &str) -> Encoded<Bytes> {
    match form {
        Form::Json => served_bytes(r, stored),
        _ => Ok(one_value(r, stored_value(r, stored)?, form, include_object).into()),
    }
}

/// One object in stored form that need not be stored.
pub(crate) fn one_value(r: &Resource, v: Value, form: Form, include_object: &str) -> String {
    let mut served = v.clone();
    events::to_served(r, &mut served);
    match form {
        Form::Json => served.to_string(),
        Form::Partial => table::partial(&served).to_string(),
        Form::Table => {
            let meta = json!({"resourceVersion": meta_str(&v, "resourceVersion")});
            let row = table::row(r, &v, &served, include(include_object));
            table::table(r, vec![row], meta, true).to_string()
        }
    }
}

/// A list in plain JSON.
pub(crate) fn list(r: &Resource, items: &[Arc<Stored>], meta: &Value) -> Encoded<String> {
    let head = json!({"kind": r.list_kind, "apiVersion": r.api_version(), "metadata": meta}).to_string();
    let mut out = String::with_capacity(head.len() + items.iter().map(|i| i.bytes.len() + 1).sum::<usize>() + 16);
    out.push_str(&head[..head.len() - 1]);
    out.push_str(",\"items\":[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&String::from_utf8_lossy(&served_bytes(r, item)?));
    }
    out.push_str("]}");
    Ok(out)
}

/// A list in any form.
pub(crate) fn list_as(
    r: &Resource,
    items: &[Arc<Stored>],
    meta: Value,
    form: Form,
    include_object: &str,
) -> Encoded<String> {
    match form {
        Form::Json => list(r, items, &meta),
        Form::Table => {
            let include = include(include_object);
            let rows: Vec<Value> = items.iter().map(|i| row(r, i, include)).collect::<Encoded<_>>()?;
            Ok(table::table(r, rows, meta, true).to_string())
        }
        Form::Partial => {
            let rows: Vec<Value> =
                items.iter().map(|i| Ok(table::partial(&stored_value(r, i)?))).collect::<Encoded<_>>()?;
            Ok(json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                "items": rows})
            .to_string())
        }
    }
}
