//! In: a DELETE with its options → out: a `Status`, or the object while finalizers hold it → invariant: an object leaves the
//! store only when no finalizer is left; a collection's deletion is that of its members, one by one.

use super::RETRIES;
use crate::admit;
use crate::api::Call;
use crate::decode;
use crate::encode;
use crate::kinds::Core;
use crate::object::{FOREGROUND, meta_mut, str_at, strings};
use crate::request::dry_run;
use crate::status::{ApiError, ApiResult, json_response};
use crate::store::{Expect, Key, Stored, WriteError};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

struct Deletion {
    dry_run: bool,
    uid: String,
    resource_version: String,
    policy: String,
}

fn options(call: &Call, body: &[u8]) -> ApiResult<Deletion> {
    let given = if body.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        let v = decode::object(&call.headers, body, true)?.value;
        let kind = str_at(&v, &["kind"]);
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(ApiError::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind}")));
        }
        v
    };
    let listed = strings(given.get("dryRun"));
    let mut policy = call.options.propagation_policy.clone().unwrap_or_default();
    if policy.is_empty() {
        policy = str_at(&given, &["propagationPolicy"]).to_owned();
    }
    let orphan = given.get("orphanDependents").and_then(Value::as_bool).or(call.options.orphan_dependents);
    if policy.is_empty() && orphan == Some(true) {
        policy = "Orphan".into();
    }
    if !matches!(policy.as_str(), "" | "Background" | "Foreground" | "Orphan") {
        return Err(ApiError::unprocessable(format!(
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {policy:?}: supported values: \
             \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        )));
    }
    Ok(Deletion {
        dry_run: call.options.dry_run || dry_run(listed.first().map(String::as_str))?,
        uid: str_at(&given, &["preconditions", "uid"]).into(),
        resource_version: str_at(&given, &["preconditions", "resourceVersion"]).into(),
        policy,
    })
}

pub(crate) async fn delete(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let how = options(call, body)?;
    let key = call.key();
    let protected = matches!(key.name.as_str(), "default" | "kube-system" | "kube-public");
    if call.resource.core == Some(Core::Namespace) && protected {
        return Err(ApiError::forbidden("", "namespaces", &key.name, "this namespace may not be deleted"));
    }
    match remove(call, &key, &how).await? {
        Removed::Gone(uid) => {
            let r = &call.resource;
            let mut details = json!({"name": key.name});
            if !r.group.is_empty() {
                details["group"] = r.group.clone().into();
            }
            details["kind"] = r.plural.clone().into();
            details["uid"] = uid.into();
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(json_response(StatusCode::OK, status.to_string()))
        }
        Removed::Held(stored) => call.answer(StatusCode::OK, &stored, &[]),
        Removed::WouldHold(v) => call.answer_value(StatusCode::OK, v, &[]),
    }
}

pub(crate) enum Removed {
    Gone(String),
    Held(Arc<Stored>),
    WouldHold(Value),
}

async fn remove(call: &Call, key: &Key, how: &Deletion) -> ApiResult<Removed> {
    let r = &call.resource;
    let missing = || ApiError::not_found(&r.group, &r.plural, &key.name);
    let _guard = call.crd_guard().await;
    for _ in 0..RETRIES {
        let stored = call.api.store.get(&r.store_key, key).ok_or_else(missing)?;
        preconditions(call, &stored, how)?;
        let mut v = call.current(&stored)?;
        if how.policy == "Orphan" && !how.dry_run {
            call.api.orphan(&stored.meta.uid).await;
        }
        if how.policy == "Foreground" {
            hold(&mut v);
        }
        let gone = admit::may_go(r, &v);
        if !gone && stored.meta.deleting {
            return Ok(Removed::Held(stored));
        }
        if !gone {
            admit::mark_deleted(r, &mut v);
        }
        if how.dry_run {
            return Ok(if gone { Removed::Gone(stored.meta.uid.clone()) } else { Removed::WouldHold(v) });
        }
        match call.put(&v, Expect::Rev(stored.rev), gone).await {
            Ok(stored) if gone => return Ok(Removed::Gone(stored.meta.uid.clone())),
            Ok(stored) => return Ok(Removed::Held(stored)),
            Err(WriteError::Conflict) => {}
            Err(e) => return Err(call.refused(e, &key.name)),
        }
    }
    Err(ApiError::modified(&r.group, &r.plural, &key.name))
}

fn hold(v: &mut Value) {
    let list = meta_mut(v).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|f| f == FOREGROUND)
    {
        list.push(FOREGROUND.into());
    }
}

fn preconditions(call: &Call, stored: &Stored, how: &Deletion) -> ApiResult<()> {
    let r = &call.resource;
    let name = &stored.key.name;
    if !how.uid.is_empty() && how.uid != stored.meta.uid {
        let why =
            format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", how.uid, stored.meta.uid);
        return Err(ApiError::conflict(&r.group, &r.plural, name, &why));
    }
    let rev = stored.rev.to_string();
    if !how.resource_version.is_empty() && how.resource_version != rev {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {rev}",
            how.resource_version
        );
        return Err(ApiError::conflict(&r.group, &r.plural, name, &why));
    }
    Ok(())
}

pub(crate) async fn collection(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let how = options(call, body)?;
    let filter = call.filter()?;
    let all = call.api.store.read(|s| {
        let listed = s.list(&call.resource.store_key, &call.target.namespace, None);
        listed.filter(|o| filter.matches(&call.resource, o)).cloned().collect::<Vec<_>>()
    });
    for stored in &all {
        match remove(call, &stored.key, &how).await {
            Err(e) if e.code != 404 => return Err(e),
            _ => {}
        }
    }
    let rev = call.api.store.revision();
    let body =
        encode::list(&call.resource, &all, &json!({"resourceVersion": rev.to_string()})).map_err(ApiError::internal)?;
    Ok(json_response(StatusCode::OK, body))
}
