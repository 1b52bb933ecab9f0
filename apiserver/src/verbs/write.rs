//! In: a POST or PUT with an object → out: the stored object → invariant: an update applies to the version it names, or to the
//! newest if it names none; storing what is already stored writes nothing.

use super::RETRIES;
use crate::admit::{self, Part};
use crate::api::Call;
use crate::decode;
use crate::kinds::Core;
use crate::object::{as_map, meta_str, put, revision};
use crate::status::{ApiError, ApiResult, field_error};
use crate::store::{Expect, Stored, WriteError};
use axum::body::Body;
use http::{Response, StatusCode};
use nightshift_apimachinery::{CauseReason, Decoded};
use serde_json::Value;

pub(crate) async fn create(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let r = &call.resource;
    let decoded = decode::object(&call.headers, body, r.core.is_some())?;
    let (v, warnings) = admit::typed(r, decoded, call.options.field_validation)?;
    let _guard = call.crd_guard().await;
    namespace_is_open(call, meta_str(&v, "name"))?;
    let generate = meta_str(&v, "name").is_empty();
    let mut tries = if generate { 8 } else { 1 };
    loop {
        let object = admit::create(r, v.clone(), &call.target.namespace, &call.api.registry())?;
        let name = meta_str(&object, "name").to_owned();
        if call.options.dry_run {
            if call
                .api
                .store
                .get(&r.store_key, &crate::store::Key::new(meta_str(&object, "namespace"), &name))
                .is_some()
            {
                return Err(call.refused(WriteError::Exists, &name));
            }
            return call.answer_value(StatusCode::CREATED, object, &warnings);
        }
        match call.put(&object, Expect::Absent, false).await {
            Ok(stored) => return call.answer(StatusCode::CREATED, &stored, &warnings),
            Err(WriteError::Exists) if tries > 1 => tries -= 1,
            Err(e) => return Err(call.refused(e, &name)),
        }
    }
}

/// As the real server: the namespace is looked at before the object is validated.
fn namespace_is_open(call: &Call, name: &str) -> ApiResult<()> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let key = crate::store::Key::new("", &call.target.namespace);
    match call.api.store.get(crate::store::NAMESPACES, &key) {
        None => Err(call.refused(WriteError::NamespaceMissing, name)),
        Some(ns) if ns.meta.deleting => Err(call.refused(WriteError::NamespaceTerminating, name)),
        Some(_) => Ok(()),
    }
}

pub(crate) async fn update(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let r = &call.resource;
    if call.target.subresource.as_deref() == Some("scale") {
        return super::patch::replace_scale(call, body).await;
    }
    let decoded = decode::object(&call.headers, body, r.core.is_some())?;
    let (v, warnings) = admit::typed(r, decoded, call.options.field_validation)?;
    if meta_str(&v, "name") != call.name() && !meta_str(&v, "name").is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta_str(&v, "name"),
            call.name()
        )));
    }
    let unconditional = meta_str(&v, "resourceVersion").is_empty();
    let missing = call.stored().err();
    if let Some(e) = missing {
        return Err(e);
    }
    if unconditional && r.core.is_none() {
        let error = field_error(
            CauseReason::FieldValueInvalid,
            "metadata.resourceVersion",
            "Invalid value: 0: must be specified for an update",
        );
        return Err(ApiError::invalid(&r.group, &r.kind, call.name(), &[error]));
    }
    change(call, &warnings, |_, _| Ok((v.clone(), unconditional))).await
}

/// Reads, lets `make` produce the new object (in the form of the request; `true`: whatever the version), admits, stores; tries
/// again where another write came between and the request named no version.
pub(super) async fn change(
    call: &Call,
    warnings: &[String],
    mut make: impl FnMut(&Stored, &Value) -> ApiResult<(Value, bool)>,
) -> ApiResult<Response<Body>> {
    let r = &call.resource;
    let part = if call.target.subresource.as_deref() == Some("status") { Part::Status } else { Part::Main };
    let _guard = call.crd_guard().await;
    for _ in 0..RETRIES {
        let stored = call.stored()?;
        let old = call.current(&stored)?;
        let (v, unconditional) = make(&stored, &old)?;
        if !unconditional && revision(&v) != Some(stored.rev) {
            return Err(ApiError::modified(&r.group, &r.plural, call.name()));
        }
        let next = if call.target.subresource.as_deref() == Some("finalize") {
            finalize(&old, &v)
        } else {
            admit::update(r, v, &old, part, &call.registry)?
        };
        if admit::same(&next, &old) {
            return call.answer(StatusCode::OK, &stored, warnings);
        }
        if call.options.dry_run {
            return call.answer_value(StatusCode::OK, next, warnings);
        }
        // Clearing the last finalizer of a deleted object deletes it.
        let gone = stored.meta.deleting && admit::may_go(r, &next);
        match call.put(&next, Expect::Rev(stored.rev), gone).await {
            Ok(stored) => return call.answer(StatusCode::OK, &stored, warnings),
            Err(WriteError::Conflict) if unconditional => {}
            Err(e) => return Err(call.refused(e, call.name())),
        }
    }
    Err(ApiError::modified(&r.group, &r.plural, call.name()))
}

/// `namespaces/finalize` changes `spec.finalizers` and nothing else.
fn finalize(old: &Value, v: &Value) -> Value {
    let mut next = old.clone();
    put(as_map(&mut next), "spec", v.get("spec").cloned());
    next
}

impl Call {
    /// Definitions change one at a time: each is checked against the registry the one before left.
    pub(super) async fn crd_guard(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.resource.core {
            Some(Core::Crd) => Some(self.api.crd_lock.lock().await),
            _ => None,
        }
    }
}

/// The object in the form of the request, decoded again from a patched value.
pub(super) fn typed_again(call: &Call, v: Value) -> ApiResult<(Value, Vec<String>)> {
    let text = v.to_string();
    let decoded = Decoded { value: v, duplicate_fields: Vec::new() };
    admit::typed(&call.resource, decoded, call.options.field_validation).map_err(|e| {
        let why = e.message.split_once("cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
        match why {
            Some((_, why)) => ApiError::invalid_patch(&text, why),
            None => e,
        }
    })
}
