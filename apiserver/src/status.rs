//! In: what went wrong → out: a Kubernetes `Status` and its HTTP code → invariant: every error that leaves the server is a
//! `Status` with reason and details, worded as the real API server words it (kubectl prints the message as it is).

use axum::body::Body;
use http::{Response, StatusCode, header};
use nightshift_apimachinery::{CauseReason, FieldError};
use serde_json::{Map, Value, json};

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Value>,
}

/// A result whose error is a `Status`.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// `group` is empty for core resources; `resource` is the plural, `name` may be empty.
    fn resource_details(group: &str, resource: &str, name: &str) -> Value {
        let mut d = Map::new();
        for (k, v) in [("name", name), ("group", group), ("kind", resource)] {
            if !v.is_empty() {
                d.insert(k.into(), v.into());
            }
        }
        Value::Object(d)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = match name {
            "" => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).with(Self::resource_details(group, resource, name))
    }

    pub fn namespace_terminating(group: &str, resource: &str, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut e = Self::forbidden(group, resource, name, &why);
        let cause = json!({"reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated")});
        if let Some(Value::Object(d)) = &mut e.details {
            d.insert("causes".into(), json!([cause]));
        }
        e
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(404, "NotFound", message).with(Self::resource_details(group, resource, name))
    }

    /// A path that names no resource of this server.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with(json!({}))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with(json!({}))
    }

    pub fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::new(406, "NotAcceptable", message)
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(409, "AlreadyExists", message).with(Self::resource_details(group, resource, name))
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
        Self::new(409, "Conflict", message).with(Self::resource_details(group, resource, name))
    }

    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// `name` may be empty (a patch that cannot be read names no object).
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let joined: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match joined.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = qualified(group, kind);
        let message = format!("{what} {name:?} is invalid: {list}");
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.reason.as_str(), "message": e.message, "field": e.field}))
            .collect();
        let mut details = Self::resource_details(group, kind, name);
        if let Value::Object(d) = &mut details {
            d.insert("causes".into(), causes.into());
        }
        Self::new(422, "Invalid", message).with(details)
    }

    /// A patched object that cannot be decoded.
    pub fn invalid_patch(patched: &str, why: &str) -> Self {
        let message = format!("Invalid value: {patched:?}: {why}");
        Self::invalid("", "", "", &[field_error(CauseReason::FieldValueInvalid, "patch", message)])
    }

    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message).with(json!({}))
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with(json!({"causes": [{"message": message.to_string()}]}))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message).with(json!({"retryAfterSeconds": 1}))
    }

    pub fn too_many_requests() -> Self {
        Self::new(429, "TooManyRequests", "too many requests, please try again later")
            .with(json!({"retryAfterSeconds": 1}))
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message).with(json!({}))
    }

    pub fn too_large_revision(asked: u64, current: u64) -> Self {
        Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}")).with(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1
        }))
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut v = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason});
        if let Some(d) = &self.details {
            v["details"] = d.clone();
        }
        v["code"] = self.code.into();
        v
    }

    pub fn into_response(self) -> Response<Body> {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut r = json_response(code, self.to_value().to_string());
        if matches!(self.code, 429 | 503) {
            r.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        r
    }
}

/// `resource.group`, or `resource` alone for the core group.
pub(crate) fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.into() } else { format!("{resource}.{group}") }
}

/// A response with a JSON body.
pub(crate) fn json_response(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut r = Response::new(body.into());
    *r.status_mut() = code;
    let headers = r.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    r
}

/// A field error whose message is whole already.
pub(crate) fn field_error(reason: CauseReason, field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { reason, field: field.into(), message: message.into() }
}
