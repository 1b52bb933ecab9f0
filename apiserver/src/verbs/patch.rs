//! In: a PATCH → out: the patched object → invariant: a patch that names no resourceVersion applies to the newest version, a
//! no-op patch writes nothing; custom resources take no strategic merge.

use super::write::{change, typed_again};
use crate::api::Call;
use crate::decode;
use crate::kinds::Scale;
use crate::object::{as_map, meta_mut, meta_str};
use crate::status::{ApiError, ApiResult, field_error, json_response};
use crate::{encode, events};
use axum::body::Body;
use http::{Response, StatusCode};
use nightshift_apimachinery::{
    CauseReason, PatchError, PatchMeta, decode_json, decode_yaml, json_patch, merge_patch, strategic_merge_patch,
};
use serde_json::{Map, Value, json};

enum Kind {
    Json,
    Merge,
    Strategic(PatchMeta),
}

const FOR_CUSTOM: &str = "application/json-patch+json, application/merge-patch+json";
const FOR_CORE: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

fn kind(call: &Call) -> ApiResult<Kind> {
    let r = &call.resource;
    let accepted = if r.core.is_some() { FOR_CORE } else { FOR_CUSTOM };
    match decode::content_type(&call.headers) {
        "application/json-patch+json" => Ok(Kind::Json),
        "application/merge-patch+json" => Ok(Kind::Merge),
        "application/strategic-merge-patch+json" if r.core.is_some() => PatchMeta::for_kind(&r.api_version(), &r.kind)
            .map(Kind::Strategic)
            .ok_or_else(|| ApiError::unsupported_media_type(accepted)),
        _ => Err(ApiError::unsupported_media_type(accepted)),
    }
}

impl Kind {
    fn apply(&self, target: &mut Value, patch: &Value) -> ApiResult<()> {
        let done = match self {
            Kind::Json => json_patch(target, patch),
            Kind::Merge => {
                merge_patch(target, patch);
                Ok(())
            }
            Kind::Strategic(meta) => strategic_merge_patch(meta, target, patch),
        };
        done.map_err(|e| match e {
            PatchError::Malformed(m) => ApiError::bad_request(m),
            PatchError::Conflict(m) => ApiError::unprocessable(m),
            PatchError::TooLarge(m) => ApiError { message: m, ..ApiError::too_large(decode::MAX_BODY) },
        })
    }
}

fn body(kind: &Kind, body: &[u8]) -> ApiResult<Value> {
    let decoded = decode_json(body).or_else(|e| decode_yaml(body).map_err(|_| e));
    let patch = decoded.map_err(|e| ApiError::bad_request(format!("error decoding patch: {}", e.message)))?.value;
    match kind {
        Kind::Merge | Kind::Strategic(_) if !patch.is_object() => {
            let why = "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}";
            Err(ApiError::bad_request(why))
        }
        _ => Ok(patch),
    }
}

pub(crate) async fn patch(call: &Call, raw: &[u8]) -> ApiResult<Response<Body>> {
    let kind = kind(call)?;
    let patch = body(&kind, raw)?;
    if call.target.subresource.as_deref() == Some("scale") {
        return patch_scale(call, &kind, &patch).await;
    }
    // Warnings depend on the object only through the patch, so those of the first try stand.
    let warnings = dry_warnings(call, &kind, &patch);
    change(call, &warnings, |stored, old| {
        let mut v = old.clone();
        events::to_served(&call.resource, &mut v);
        meta_mut(&mut v).insert("resourceVersion".into(), stored.rev.to_string().into());
        kind.apply(&mut v, &patch)?;
        if !v.is_object() {
            return Err(ApiError::bad_request("the patched object is not an object"));
        }
        let named =
            meta_str(&v, "resourceVersion") != stored.rev.to_string() && !meta_str(&v, "resourceVersion").is_empty();
        let (v, _) = typed_again(call, v)?;
        // Without a version of its own the patch applies to whatever is newest.
        Ok((v, !named))
    })
    .await
}

fn dry_warnings(call: &Call, kind: &Kind, patch: &Value) -> Vec<String> {
    if call.options.field_validation != crate::request::FieldValidation::Warn {
        return Vec::new();
    }
    let Ok(mut v) = call.stored().and_then(|s| call.current(&s)) else { return Vec::new() };
    events::to_served(&call.resource, &mut v);
    match kind.apply(&mut v, patch) {
        Ok(()) => typed_again(call, v).map(|(_, w)| w).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

fn number_at(v: &Value, path: &str) -> i64 {
    path.trim_start_matches('.').split('.').try_fold(v, |v, k| v.get(k)).and_then(Value::as_i64).unwrap_or(0)
}

/// The `autoscaling/v1` Scale of an object in stored form.
pub(crate) fn scale_of(scale: &Scale, v: &Value) -> Value {
    let meta = v.get("metadata");
    let keep = |k: &str| meta.and_then(|m| m.get(k)).map(|x| (k.to_owned(), x.clone()));
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"].into_iter().filter_map(keep);
    let mut out = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept.collect::<Map<_, _>>(),
        "spec": {"replicas": number_at(v, &scale.spec)}, "status": {"replicas": number_at(v, &scale.status)}});
    let selector = scale.selector.as_deref().map(|p| {
        p.trim_start_matches('.').split('.').try_fold(v, |v, k| v.get(k)).and_then(Value::as_str).unwrap_or("")
    });
    if let Some(s) = selector.filter(|s| !s.is_empty()) {
        out["status"]["selector"] = s.into();
    }
    out
}

async fn patch_scale(call: &Call, kind: &Kind, patch: &Value) -> ApiResult<Response<Body>> {
    let Some(scale) = &call.resource.scale else { return Err(ApiError::no_such_path()) };
    let mut v = scale_of(scale, &call.current(&*call.stored()?)?);
    meta_mut(&mut v).shift_remove("resourceVersion");
    kind.apply(&mut v, patch)?;
    set_scale(call, scale, &v).await
}

pub(super) async fn replace_scale(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let Some(scale) = &call.resource.scale else { return Err(ApiError::no_such_path()) };
    let v = decode::object(&call.headers, body, false)?.value;
    set_scale(call, scale, &v).await
}

async fn set_scale(call: &Call, scale: &Scale, v: &Value) -> ApiResult<Response<Body>> {
    let replicas = number_at(v, "spec.replicas");
    if replicas < 0 {
        let text = format!("Invalid value: {replicas}: should be a non-negative integer");
        let error = field_error(CauseReason::FieldValueInvalid, "spec.replicas", text);
        return Err(ApiError::invalid("autoscaling", "Scale", call.name(), &[error]));
    }
    let version = meta_str(v, "resourceVersion").to_owned();
    let whole = change(call, &[], |_, old| {
        let mut next = old.clone();
        events::to_served(&call.resource, &mut next);
        let mut spot = &mut next;
        for k in scale.spec.trim_start_matches('.').split('.') {
            spot = as_map(spot).entry(k).or_insert(Value::Null);
        }
        *spot = replicas.into();
        if !version.is_empty() {
            meta_mut(&mut next).insert("resourceVersion".into(), version.clone().into());
        }
        Ok((next, version.is_empty()))
    })
    .await?;
    if !whole.status().is_success() {
        return Ok(whole);
    }
    let now = encode::stored_value(&call.resource, &*call.stored()?).map_err(ApiError::internal)?;
    Ok(json_response(StatusCode::OK, scale_of(scale, &now).to_string()))
}
