//! In: a core object in stored form → out: its defaults and its own errors → invariant: pure; the generic
//! rules (metadata, schemas) are elsewhere.

use super::{Core, crd};
use crate::object::{as_map, at, child, meta_str, str_at};
use crate::status::field_error;
use base64::Engine;
use nightshift_apimachinery::{CauseReason, FieldError};
use serde_json::{Value, json};

/// The largest sum of a ConfigMap's or Secret's data, in bytes.
const MAX_DATA: usize = 1 << 20;

/// Fills in defaults; an error is a body that the real server could not decode.
pub(crate) fn default(core: Core, v: &mut Value, creating: bool) -> Result<(), String> {
    match core {
        Core::Secret => {
            let m = as_map(v);
            if let Some(Value::Object(plain)) = m.shift_remove("stringData") {
                let data = child(m, "data");
                for (k, s) in plain {
                    let s = s.as_str().unwrap_or_default();
                    data.insert(k, base64::engine::general_purpose::STANDARD.encode(s).into());
                }
            }
            if m.get("type").and_then(Value::as_str).unwrap_or("").is_empty() {
                m.insert("type".into(), "Opaque".into());
            }
        }
        Core::Namespace => {
            let name = meta_str(v, "name").to_owned();
            let m = as_map(v);
            if creating {
                m.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
                m.insert("status".into(), json!({"phase": "Active"}));
            }
            if !name.is_empty() {
                child(child(m, "metadata"), "labels").insert("kubernetes.io/metadata.name".into(), name.into());
            }
        }
        Core::Event | Core::EventsEvent => {
            let m = as_map(v);
            for (k, empty) in [("source", json!({})), ("involvedObject", json!({}))] {
                m.entry(k).or_insert(empty);
            }
            for k in ["firstTimestamp", "lastTimestamp", "eventTime"] {
                m.entry(k).or_insert(Value::Null);
            }
            for k in ["reportingComponent", "reportingInstance"] {
                m.entry(k).or_insert("".into());
            }
        }
        Core::Crd => crd::default(v),
        _ => {}
    }
    let encoded = match core {
        Core::Secret => "data",
        Core::ConfigMap => "binaryData",
        _ => return Ok(()),
    };
    for s in v.get(encoded).and_then(Value::as_object).into_iter().flat_map(|m| m.values()) {
        if let Err(e) = base64::engine::general_purpose::STANDARD.decode(s.as_str().unwrap_or_default()) {
            let at = match e {
                base64::DecodeError::InvalidByte(i, _) | base64::DecodeError::InvalidLastSymbol(i, _) => i,
                _ => s.as_str().map_or(0, str::len),
            };
            return Err(format!("illegal base64 data at input byte {at}"));
        }
    }
    Ok(())
}

/// The kind's own errors.
pub(crate) fn validate(core: Core, v: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match core {
        Core::ConfigMap => {
            data(v, &["data", "binaryData"], &mut errors);
            for k in v.get("binaryData").and_then(Value::as_object).into_iter().flat_map(|m| m.keys()) {
                if at(v, &["data", k]).is_some() {
                    let text = format!("Invalid value: {k:?}: duplicate of key present in data");
                    errors.push(field_error(CauseReason::FieldValueInvalid, format!("binaryData[{k}]"), text));
                }
            }
            old.inspect(|old| immutable(v, old, &["data", "binaryData"], &mut errors));
        }
        Core::Secret => {
            data(v, &["data"], &mut errors);
            secret_type(v, &mut errors);
            if let Some(old) = old {
                let kind = str_at(v, &["type"]);
                if kind != str_at(old, &["type"]) {
                    let text = format!("Invalid value: {kind:?}: field is immutable");
                    errors.push(field_error(CauseReason::FieldValueInvalid, "type", text));
                }
                immutable(v, old, &["data"], &mut errors);
            }
        }
        Core::Event | Core::EventsEvent => event(v, &mut errors),
        Core::Lease => lease(v, &mut errors),
        Core::Crd => errors.extend(crd::validate(v, old)),
        _ => {}
    }
    errors
}

fn data(v: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    let mut total = 0;
    for field in fields {
        for (k, value) in v.get(*field).and_then(Value::as_object).into_iter().flatten() {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if k.is_empty() || k.len() > 253 || !k.chars().all(good) {
                let text = format!(
                    "Invalid value: {k:?}: a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
                     (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                );
                errors.push(field_error(CauseReason::FieldValueInvalid, format!("{field}[{k}]"), text));
            }
            total += value.as_str().map_or(0, str::len);
        }
    }
    if total > MAX_DATA {
        let text = format!("Too long: may not be more than {MAX_DATA} bytes");
        let field = if fields.len() == 1 { fields[0] } else { "" };
        errors.push(field_error(CauseReason::FieldValueTooLong, field, text));
    }
}

fn immutable(v: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&true.into()) {
        return;
    }
    let text = "Forbidden: field is immutable when `immutable` is set";
    if v.get("immutable") != Some(&true.into()) {
        errors.push(field_error(CauseReason::FieldValueForbidden, "immutable", text));
    }
    for field in fields {
        if v.get(*field) != old.get(*field) {
            errors.push(field_error(CauseReason::FieldValueForbidden, *field, text));
        }
    }
}

/// Keys that the well-known Secret types must have.
fn secret_type(v: &Value, errors: &mut Vec<FieldError>) {
    let keys: &[&str] = match str_at(v, &["type"]) {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => return,
    };
    for key in keys {
        if at(v, &["data", key]).is_none() {
            errors.push(field_error(CauseReason::FieldValueRequired, format!("data[{key}]"), "Required value"));
        }
    }
}

fn event(v: &Value, errors: &mut Vec<FieldError>) {
    let involved = str_at(v, &["involvedObject", "namespace"]);
    let own = meta_str(v, "namespace");
    let fits = if involved.is_empty() {
        own == "default" || str_at(v, &["involvedObject", "kind"]).is_empty() || own == "kube-system"
    } else {
        involved == own
    };
    if !fits {
        let text = format!("Invalid value: {involved:?}: does not match event.namespace");
        errors.push(field_error(CauseReason::FieldValueInvalid, "involvedObject.namespace", text));
    }
}

fn lease(v: &Value, errors: &mut Vec<FieldError>) {
    let positive = |f: &str| at(v, &["spec", f]).and_then(Value::as_i64);
    if let Some(n) = positive("leaseDurationSeconds").filter(|n| *n <= 0) {
        let text = format!("Invalid value: {n}: must be greater than 0");
        errors.push(field_error(CauseReason::FieldValueInvalid, "spec.leaseDurationSeconds", text));
    }
    if let Some(n) = positive("leaseTransitions").filter(|n| *n < 0) {
        let text = format!("Invalid value: {n}: must be greater than or equal to 0");
        errors.push(field_error(CauseReason::FieldValueInvalid, "spec.leaseTransitions", text));
    }
}
