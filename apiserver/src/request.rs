//! In: method, path and query → out: which resource is meant and with which options → invariant: pure; a path or query that
//! cannot be read is an error answer, never a panic, and unknown query parameters are ignored, as the real server does.

use crate::status::{ApiError, ApiResult};
use std::collections::HashMap;
use std::time::Duration;

/// A path under `/api/v1` or `/apis/GROUP/VERSION` that names a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub group: String,
    pub version: String,
    /// Empty for cluster-wide requests.
    pub namespace: String,
    pub resource: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// Splits a path into decoded segments; empty ones (doubled or trailing slashes) are dropped.
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|s| !s.is_empty()).map(percent_decode).collect()
}

fn percent_decode(s: &str) -> String {
    let mut out = Vec::with_capacity(s.len());
    let bytes = s.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(h), Some(l)) => {
                out.push((h * 16 + l) as u8);
                i += 3;
            }
            (b, _, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads the segments of a resource path; `None` where the path is none.
pub(crate) fn parse_path(segments: &[String]) -> Option<ResourcePath> {
    let (group, version, rest) = match segments {
        [api, version, rest @ ..] if api == "api" => (String::new(), version, rest),
        [apis, group, version, rest @ ..] if apis == "apis" => (group.clone(), version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        [n, ns, r, more @ ..] if n == "namespaces" && !(group.is_empty() && is_ns_subresource(r)) => {
            let _ = more;
            (ns.clone(), &rest[2..])
        }
        _ => (String::new(), rest),
    };
    let mut rest = rest.iter().cloned();
    let resource = rest.next()?;
    let path = ResourcePath {
        group,
        version: version.clone(),
        namespace,
        resource,
        name: rest.next(),
        subresource: rest.next(),
    };
    rest.next().is_none().then_some(path)
}

fn is_ns_subresource(s: &str) -> bool {
    s == "status" || s == "finalize"
}

/// `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

/// The query parameters of all verbs.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub watch: bool,
    pub label_selector: String,
    pub field_selector: String,
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub timeout: Option<Duration>,
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    pub include_object: String,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
}

impl Options {
    /// Reads a query string; a leading `&` is accepted (kube-rs sends one).
    pub fn parse(query: &str) -> ApiResult<Options> {
        let q: HashMap<String, String> =
            url::form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let text = |k: &str| q.get(k).cloned().unwrap_or_default();
        let some = |k: &str| q.get(k).filter(|v| !v.is_empty()).cloned();
        Ok(Options {
            watch: boolean(&q, "watch")?.unwrap_or(false),
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            limit: number(&q, "limit")?.unwrap_or(0).max(0) as usize,
            continue_token: text("continue"),
            resource_version: some("resourceVersion"),
            resource_version_match: some("resourceVersionMatch"),
            bookmarks: boolean(&q, "allowWatchBookmarks")?.unwrap_or(false),
            send_initial_events: boolean(&q, "sendInitialEvents")?,
            timeout: number(&q, "timeoutSeconds")?.filter(|s| *s > 0).map(|s| Duration::from_secs(s as u64)),
            dry_run: dry_run(q.get("dryRun").map(String::as_str))?,
            field_validation: field_validation(q.get("fieldValidation").map(String::as_str))?,
            include_object: text("includeObject"),
            propagation_policy: some("propagationPolicy"),
            orphan_dependents: boolean(&q, "orphanDependents")?,
        })
    }
}

fn boolean(q: &HashMap<String, String>, key: &str) -> ApiResult<Option<bool>> {
    // As the real conversion: absent is unset, "false" and "0" are false, all else (even the empty string) is true.
    Ok(q.get(key).map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0")))
}

fn number(q: &HashMap<String, String>, key: &str) -> ApiResult<Option<i64>> {
    match q.get(key).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(v) => v
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))),
    }
}

/// `dryRun=All` or nothing.
pub(crate) fn dry_run(value: Option<&str>) -> ApiResult<bool> {
    match value {
        None | Some("") => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(ApiError::unprocessable(format!(
            " \"\" is invalid: dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

fn field_validation(value: Option<&str>) -> ApiResult<FieldValidation> {
    match value {
        None | Some("") | Some("Warn") => Ok(FieldValidation::Warn),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some(other) => Err(ApiError::unprocessable(format!(
            " \"\" is invalid: fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \
             \"Strict\", \"Warn\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(p: &str) -> Option<ResourcePath> {
        parse_path(&segments(p))
    }

    #[test]
    fn namespaces_are_a_resource_and_a_scope() {
        let p = path("/api/v1/namespaces/a").unwrap();
        assert_eq!((p.resource.as_str(), p.name.as_deref(), p.namespace.as_str()), ("namespaces", Some("a"), ""));
        let p = path("/api/v1/namespaces/a/status").unwrap();
        assert_eq!((p.name.as_deref(), p.subresource.as_deref()), (Some("a"), Some("status")));
        let p = path("/api/v1/namespaces/a/configmaps/b").unwrap();
        assert_eq!((p.resource.as_str(), p.namespace.as_str()), ("configmaps", "a"));
        let p = path("/apis/g.io/v1/namespaces/a/things/b/status").unwrap();
        assert_eq!((p.group.as_str(), p.subresource.as_deref()), ("g.io", Some("status")));
        assert!(path("/api/v1/configmaps/b/c/d").is_none());
        assert!(path("/api/v1").is_none());
    }

    #[test]
    fn a_query_may_start_with_an_ampersand() {
        let o = Options::parse("&limit=5&labelSelector=a%3Db&watch").unwrap();
        assert_eq!((o.limit, o.label_selector.as_str(), o.watch), (5, "a=b", true));
        assert_eq!(Options::parse("limit=x").unwrap_err().code, 400);
        assert_eq!(Options::parse("dryRun=Some").unwrap_err().code, 422);
    }
}
