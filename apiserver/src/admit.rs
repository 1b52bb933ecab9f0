//! In: a decoded object, and the stored one if there is one → out: the object to store, with warnings → invariant: what the
//! server owns (uid, times, generation, status) is never taken from a client; what leaves is pruned, defaulted and valid.

use crate::events;
use crate::kinds::{Core, Registry, Resource, crd, rules};
use crate::object::{as_map, at, child, finalizers, meta_mut, meta_str, now, put, str_at};
use crate::request::FieldValidation;
use crate::status::{ApiError, ApiResult, field_error};
use nightshift_apimachinery::{CauseReason, Decoded, strict_message, validate_object_meta};
use serde_json::{Map, Value};

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
}

/// Checks apiVersion and kind, and fields nobody knows. In the form of the request.
pub(crate) fn typed(r: &Resource, decoded: Decoded, mode: FieldValidation) -> ApiResult<(Value, Vec<String>)> {
    let Decoded { value: mut v, duplicate_fields } = decoded;
    type_meta(r, &mut v)?;
    let unknown = match (&r.schema, mode) {
        (Some(schema), FieldValidation::Strict | FieldValidation::Warn) => schema.unknown_fields(&v),
        _ => Vec::new(),
    };
    if mode == FieldValidation::Strict && !(unknown.is_empty() && duplicate_fields.is_empty()) {
        return Err(ApiError::bad_request(cannot_handle(r, &strict_message(&duplicate_fields, &unknown))));
    }
    let mut warnings = Vec::new();
    if mode == FieldValidation::Warn {
        warnings.extend(duplicate_fields.iter().map(|p| format!("duplicate field {p:?}")));
        warnings.extend(unknown.iter().map(|p| format!("unknown field {p:?}")));
    }
    Ok((v, warnings))
}

pub(crate) fn cannot_handle(r: &Resource, why: &str) -> String {
    format!("{0} in version {1:?} cannot be handled as a {0}: {why}", r.kind, r.version)
}

fn type_meta(r: &Resource, v: &mut Value) -> ApiResult<()> {
    let (api_version, kind) = (str_at(v, &["apiVersion"]).to_owned(), str_at(v, &["kind"]).to_owned());
    if r.core.is_none() && kind.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{v}'")));
    }
    if r.core.is_none() && api_version.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'apiVersion' is missing in '{v}'")));
    }
    if !api_version.is_empty() && api_version != r.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            r.api_version()
        )));
    }
    if !kind.is_empty() && kind != r.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {0:?} cannot be handled as a {1}: the kind in the data does not match the expected kind",
            r.version, r.kind
        )));
    }
    let m = as_map(v);
    m.insert("apiVersion".into(), r.api_version().into());
    m.insert("kind".into(), r.kind.clone().into());
    Ok(())
}

/// Prunes and defaults; of core kinds also drops what Go would not have decoded.
fn shape(r: &Resource, v: &mut Value, creating: bool) -> ApiResult<()> {
    for field in ["managedFields", "selfLink"] {
        meta_mut(v).shift_remove(field);
    }
    drop_nulls(meta_mut(v));
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let m = meta_mut(v);
        let empty = m
            .get(field)
            .is_some_and(|x| x.as_object().is_some_and(Map::is_empty) || x.as_array().is_some_and(Vec::is_empty));
        if empty {
            m.shift_remove(field);
        }
    }
    if let Some(core) = r.core {
        match core {
            // A schema's defaults and enums may hold nulls.
            Core::Crd => as_map(v).retain(|_, x| !x.is_null()),
            _ => drop_nulls(as_map(v)),
        }
        if let Some(schema) = &r.schema {
            let wrong = schema.validate(v, None).into_iter().find(|e| e.reason == CauseReason::FieldValueTypeInvalid);
            if let Some(e) = wrong {
                let why = format!("json: cannot unmarshal {} {}", e.field, e.message);
                return Err(ApiError::bad_request(cannot_handle(r, &why)));
            }
            schema.prune(v);
        }
        events::to_storage(r, v);
        return rules::default(core, v, creating).map_err(|e| ApiError::bad_request(cannot_handle(r, &e)));
    }
    if let Some(schema) = &r.schema {
        schema.prune(v);
        schema.default(v);
    }
    Ok(())
}

/// Go drops nulls where the field has no pointer; Events keep their null times through defaulting.
fn drop_nulls(m: &mut Map<String, Value>) {
    m.retain(|_, v| !v.is_null());
    m.values_mut().filter_map(Value::as_object_mut).for_each(drop_nulls);
}

/// Repeats pruning and defaulting on an object stored under another schema.
pub(crate) fn reshape(r: &Resource, v: &mut Value) {
    if let (None, Some(schema)) = (r.core, &r.schema) {
        schema.prune(v);
        schema.default(v);
    }
}

fn check(r: &Resource, v: &Value, old: Option<&Value>) -> ApiResult<()> {
    let mut errors = validate_object_meta(v, r.namespaced);
    match (r.core, &r.schema) {
        (Some(core), _) => errors.extend(rules::validate(core, v, old)),
        (None, Some(schema)) => errors.extend(schema.validate(v, old)),
        _ => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&r.group, &r.kind, meta_str(v, "name"), &errors))
}

/// A name ending in five random characters, from the alphabet the real server uses.
fn generated(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let cut = prefix.char_indices().nth(58).map_or(prefix.len(), |(i, _)| i);
    let tail = (0..5).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char);
    prefix[..cut].chars().chain(tail).collect()
}

/// A new object, in stored form. `v` is in the form of the request.
pub(crate) fn create(r: &Resource, mut v: Value, namespace: &str, registry: &Registry) -> ApiResult<Value> {
    place(r, &mut v, namespace)?;
    let m = meta_mut(&mut v);
    if m.get("resourceVersion").and_then(Value::as_str).is_some_and(|s| !s.is_empty()) {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let prefix = m.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
    if m.get("name").and_then(Value::as_str).unwrap_or("").is_empty() {
        if prefix.is_empty() {
            let missing = field_error(
                CauseReason::FieldValueRequired,
                "metadata.name",
                "Required value: name or generateName is required",
            );
            return Err(ApiError::invalid(&r.group, &r.kind, "", &[missing]));
        }
        m.insert("name".into(), generated(&prefix).into());
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"] {
        m.shift_remove(field);
    }
    m.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    m.insert("creationTimestamp".into(), now().into());
    if r.core.is_none() || r.core == Some(Core::Crd) {
        m.insert("generation".into(), 1.into());
    }
    if r.status && r.core != Some(Core::Namespace) {
        as_map(&mut v).shift_remove("status");
    }
    shape(r, &mut v, true)?;
    if r.core == Some(Core::Crd) {
        add_cleanup(&mut v);
    }
    check(r, &v, None)?;
    if r.core == Some(Core::Crd) {
        crd::set_status(&mut v, registry);
    }
    to_storage_version(r, &mut v);
    Ok(v)
}

fn add_cleanup(v: &mut Value) {
    let list = meta_mut(v).entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|f| f == crd::CLEANUP)
    {
        list.push(crd::CLEANUP.into());
    }
}

fn to_storage_version(r: &Resource, v: &mut Value) {
    as_map(v).insert("apiVersion".into(), r.storage_api_version().into());
}

/// Puts the URL's namespace into the object, or refuses another one.
fn place(r: &Resource, v: &mut Value, namespace: &str) -> ApiResult<()> {
    let own = meta_str(v, "namespace").to_owned();
    let m = meta_mut(v);
    if !r.namespaced {
        m.shift_remove("namespace");
    } else if own.is_empty() {
        m.insert("namespace".into(), namespace.into());
    } else if own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// A changed object, in stored form, not yet compared with `old` (stored form). `v` is in the form of the request.
pub(crate) fn update(r: &Resource, mut v: Value, old: &Value, part: Part, registry: &Registry) -> ApiResult<Value> {
    let name = meta_str(old, "name").to_owned();
    place(r, &mut v, meta_str(old, "namespace"))?;
    if meta_str(&v, "name").is_empty() {
        meta_mut(&mut v).insert("name".into(), name.clone().into());
    }
    if meta_str(&v, "name") != name {
        let text =
            format!("the name of the object ({}) does not match the name on the URL ({name})", meta_str(&v, "name"));
        return Err(ApiError::bad_request(text));
    }
    let (uid, old_uid) = (meta_str(&v, "uid"), meta_str(old, "uid"));
    if !uid.is_empty() && uid != old_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
        return Err(ApiError::conflict(&r.group, &r.plural, &name, &why));
    }
    shape(r, &mut v, false)?;
    keep_server_fields(&mut v, old);
    match part {
        Part::Status => {
            let status = v.get("status").cloned();
            let mut next = old.clone();
            put(as_map(&mut next), "status", status);
            // As the real server: managed fields aside, `/status` takes nothing else.
            v = next;
        }
        Part::Main => {
            if r.status || r.core == Some(Core::Crd) {
                put(as_map(&mut v), "status", old.get("status").cloned());
            }
            if r.core == Some(Core::Namespace) {
                put(as_map(&mut v), "spec", old.get("spec").cloned());
            }
            no_new_finalizers(r, &v, old)?;
        }
    }
    to_storage_version(r, &mut v);
    if r.core.is_none() || r.core == Some(Core::Crd) {
        raise_generation(r, &mut v, old);
    }
    check(r, &v, Some(old))?;
    if r.core == Some(Core::Crd) && part == Part::Main && at(&v, &["metadata", "deletionTimestamp"]).is_none() {
        crd::set_status(&mut v, registry);
    }
    Ok(v)
}

fn keep_server_fields(v: &mut Value, old: &Value) {
    let old_meta = old.get("metadata");
    let m = meta_mut(v);
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"]
    {
        put(m, field, old_meta.and_then(|o| o.get(field)).cloned());
    }
}

fn no_new_finalizers(r: &Resource, v: &Value, old: &Value) -> ApiResult<()> {
    if at(old, &["metadata", "deletionTimestamp"]).is_none() {
        return Ok(());
    }
    let before = finalizers(old);
    let added: Vec<String> = finalizers(v).into_iter().filter(|f| !before.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
    let text = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        list.join(", ")
    );
    let error = field_error(CauseReason::FieldValueForbidden, "metadata.finalizers", text);
    Err(ApiError::invalid(&r.group, &r.kind, meta_str(v, "name"), &[error]))
}

/// Any change outside metadata (and outside status, where that is a subresource) is a new generation.
fn raise_generation(r: &Resource, v: &mut Value, old: &Value) {
    let ours = |k: &str| k != "metadata" && k != "apiVersion" && !(k == "status" && r.status);
    let part = |o: &Value| -> Map<String, Value> {
        o.as_object().into_iter().flatten().filter(|(k, _)| ours(k)).map(|(k, x)| (k.clone(), x.clone())).collect()
    };
    if part(v) != part(old) {
        let n = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        meta_mut(v).insert("generation".into(), (n + 1).into());
    }
}

/// Whether storing `v` over `old` would change nothing.
pub(crate) fn same(v: &Value, old: &Value) -> bool {
    let strip = |o: &Value| {
        let mut o = o.clone();
        meta_mut(&mut o).shift_remove("resourceVersion");
        o
    };
    strip(v) == strip(old)
}

/// Marks an object as being deleted.
pub(crate) fn mark_deleted(r: &Resource, v: &mut Value) {
    let m = meta_mut(v);
    if m.contains_key("deletionTimestamp") {
        return;
    }
    m.insert("deletionTimestamp".into(), now().into());
    m.insert("deletionGracePeriodSeconds".into(), 0.into());
    if let Some(n) = m.get("generation").and_then(Value::as_i64) {
        m.insert("generation".into(), (n + 1).into());
    }
    if r.core == Some(Core::Namespace) {
        m.shift_remove("deletionGracePeriodSeconds");
        child(as_map(v), "status").insert("phase".into(), "Terminating".into());
    }
}

/// Whether a deleted object may go now.
pub(crate) fn may_go(r: &Resource, v: &Value) -> bool {
    let spec = at(v, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    finalizers(v).is_empty() && !(r.core == Some(Core::Namespace) && spec)
}
