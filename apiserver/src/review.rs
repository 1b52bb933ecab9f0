//! In: one of the three self reviews → out: the same with its status → invariant: nothing is stored; the answers are those the
//! authorizer would give.

use crate::admit;
use crate::api::Call;
use crate::auth::Role;
use crate::decode;
use crate::kinds::Core;
use crate::object::{as_map, at, meta_mut, now, str_at};
use crate::status::{ApiResult, json_response};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

pub(crate) fn answer(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let decoded = decode::object(&call.headers, body, true)?;
    let (mut v, _) = admit::typed(&call.resource, decoded, call.options.field_validation)?;
    meta_mut(&mut v).insert("creationTimestamp".into(), Value::Null);
    let status = match call.resource.core {
        Some(Core::SelfSubjectReview) => {
            meta_mut(&mut v).insert("creationTimestamp".into(), now().into());
            json!({"userInfo": {"username": call.caller.name, "groups": call.caller.groups}})
        }
        Some(Core::SelfSubjectAccessReview) => access(call, &v),
        _ => rules(call),
    };
    as_map(&mut v).insert("status".into(), status);
    Ok(json_response(StatusCode::CREATED, v.to_string()))
}

fn access(call: &Call, v: &Value) -> Value {
    let allowed = match at(v, &["spec", "resourceAttributes"]) {
        Some(a) => {
            let text = |f: &str| str_at(a, &[f]);
            call.caller.may(text("verb"), text("group"), text("resource"))
        }
        None => call.caller.role == Role::Admin || str_at(v, &["spec", "nonResourceAttributes", "verb"]) == "get",
    };
    match allowed {
        true => json!({"allowed": true, "reason": format!("the token of {} allows it", call.caller.name)}),
        false => json!({"allowed": false}),
    }
}

fn rules(call: &Call) -> Value {
    let (resources, paths) = match call.caller.role {
        Role::Admin => (
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
            json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]),
        ),
        Role::Viewer => {
            let verbs = ["get", "list", "watch"];
            let mut rules: Vec<Value> = call
                .registry
                .all()
                .filter(|r| !r.is_review() && call.caller.may("get", &r.group, &r.plural))
                .map(|r| json!({"verbs": verbs, "apiGroups": [r.group], "resources": [r.plural]}))
                .collect();
            rules.push(json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
                "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]}));
            (rules.into(), json!([{"verbs": ["get"], "nonResourceURLs": ["*"]}]))
        }
    };
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
