//! In: a GET → out: an object, a list, or a watch → invariant: a list is of one revision, which it names; its later pages are of
//! that same revision or 410.

use crate::api::Call;
use crate::encode;
use crate::events;
use crate::kinds::{Core, Resource};
use crate::object::{at, str_at};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, ApiResult, json_response};
use crate::store::{Key, Stored};
use crate::watch;
use axum::body::Body;
use base64::Engine;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Which objects of a resource are meant.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.0.is_empty()
    }

    pub fn matches(&self, r: &Resource, o: &Stored) -> bool {
        if !self.labels.matches(&o.meta.labels) {
            return false;
        }
        if self.fields.0.is_empty() {
            return true;
        }
        let v = match self.fields.only_key() {
            true => Value::Null,
            false => serde_json::from_slice(&o.bytes).unwrap_or_default(),
        };
        self.fields.matches(|field| match field {
            "metadata.name" | "name" => o.key.name.clone(),
            "metadata.namespace" => o.key.ns.clone(),
            other => field_text(r, &v, other),
        })
    }
}

fn field_text(r: &Resource, v: &Value, field: &str) -> String {
    let field = events::stored_field(r, field);
    if matches!(r.core, Some(Core::Event | Core::EventsEvent)) && field == "source" {
        let source = str_at(v, &["source", "component"]);
        return if source.is_empty() { str_at(v, &["reportingComponent"]) } else { source }.to_owned();
    }
    match field.split('.').try_fold(v, |v, k| v.get(k)) {
        Some(Value::String(s)) => s.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

impl Call {
    pub(crate) fn filter(&self) -> ApiResult<Filter> {
        let r = &self.resource;
        let labels = LabelSelector::parse(&self.options.label_selector)?;
        let mut fields = FieldSelector::parse(&self.options.field_selector, |f| r.supports_field(f))?;
        if let Some(name) = &self.target.name {
            fields.0.push(("metadata.name".into(), name.clone(), true));
        }
        Ok(Filter { labels, fields })
    }
}

pub(crate) fn get(call: &Call) -> ApiResult<Response<Body>> {
    fresh_enough(call)?;
    let stored = call.stored()?;
    if let (Some("scale"), Some(scale)) = (call.target.subresource.as_deref(), &call.resource.scale) {
        let v = call.current(&stored)?;
        return Ok(json_response(StatusCode::OK, super::patch::scale_of(scale, &v).to_string()));
    }
    call.answer(StatusCode::OK, &stored, &[])
}

/// The revision asked for; an error if it lies in the future.
fn fresh_enough(call: &Call) -> ApiResult<Option<u64>> {
    let Some(text) = &call.options.resource_version else { return Ok(None) };
    let asked: u64 = text.parse().map_err(|_| {
        ApiError::bad_request(format!("invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"))
    })?;
    let current = call.api.store.revision();
    if asked > current {
        return Err(ApiError::too_large_revision(asked, current));
    }
    Ok(Some(asked))
}

/// Where the next page begins.
struct Page {
    rev: u64,
    after: Key,
}

fn page(token: &str) -> ApiResult<Page> {
    let bad = || ApiError::bad_request("continue key is not valid: the token cannot be read");
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    let v: Value = serde_json::from_slice(&raw).map_err(|_| bad())?;
    let rev = at(&v, &["rv"]).and_then(Value::as_u64).ok_or_else(bad)?;
    Ok(Page { rev, after: Key::new(str_at(&v, &["ns"]), str_at(&v, &["name"])) })
}

fn token(rev: u64, last: &Key) -> String {
    let v = json!({"v": "nightshift/v1", "rv": rev, "ns": last.ns, "name": last.name});
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v.to_string())
}

const EXPIRED_PAGE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a \
    new list without the continue parameter.";

pub(crate) fn list(call: &Call) -> ApiResult<Response<Body>> {
    let (r, o) = (&call.resource, &call.options);
    let filter = call.filter()?;
    let exact = o.resource_version_match.as_deref() == Some("Exact");
    let asked = if o.continue_token.is_empty() { fresh_enough(call)? } else { None };
    let from = if o.continue_token.is_empty() { None } else { Some(page(&o.continue_token)?) };
    let ns = &call.target.namespace;
    let (rev, mut items) = call.api.store.read(|s| -> ApiResult<(u64, Vec<Arc<Stored>>)> {
        let at_rev = match (&from, asked) {
            (Some(p), _) if p.rev > s.rev => return Err(ApiError::too_large_revision(p.rev, s.rev)),
            (Some(p), _) => Some(p.rev),
            (None, Some(asked)) if exact && asked > 0 => Some(asked),
            _ => None,
        };
        let after = from.as_ref().map(|p| &p.after);
        match at_rev.filter(|rev| *rev != s.rev) {
            None => {
                let one = filter.fields.name().filter(|_| !ns.is_empty() || !r.namespaced);
                let all = match one {
                    Some(name) => s.get(&r.store_key, &Key::new(ns, name)).into_iter().collect(),
                    None => s.list(&r.store_key, ns, after).cloned().collect(),
                };
                Ok((s.rev, all))
            }
            Some(rev) => {
                let all = s.list_at(&r.store_key, ns, after, rev).map_err(|e| match &from {
                    Some(_) => ApiError::expired(EXPIRED_PAGE),
                    None => ApiError::expired(format!("too old resource version: {rev} ({})", e.oldest)),
                })?;
                Ok((rev, all))
            }
        }
    })?;
    if !filter.is_empty() {
        items.retain(|i| filter.matches(r, i));
    }
    let mut meta = json!({"resourceVersion": rev.to_string()});
    if o.limit > 0 && items.len() > o.limit {
        let rest = items.len() - o.limit;
        items.truncate(o.limit);
        if let Some(last) = items.last() {
            meta["continue"] = token(rev, &last.key).into();
        }
        if filter.is_empty() {
            meta["remainingItemCount"] = rest.into();
        }
    }
    let body = encode::list_as(r, &items, meta, call.form, &o.include_object).map_err(ApiError::internal)?;
    Ok(json_response(StatusCode::OK, body))
}

pub(crate) fn watch(call: &Call) -> ApiResult<Response<Body>> {
    let o = &call.options;
    let filter = call.filter()?;
    let start = match o.resource_version.as_deref() {
        None | Some("0") => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?),
    };
    if let Some(initial) = o.send_initial_events {
        let not_older = o.resource_version_match.as_deref() == Some("NotOlderThan");
        if !not_older || (initial && !o.bookmarks) {
            let why = if not_older {
                "sendInitialEvents: Forbidden: sendInitialEvents requires allowWatchBookmarks"
            } else {
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            };
            return Err(ApiError::unprocessable(format!("ListOptions.meta.k8s.io \"\" is invalid: {why}")));
        }
    }
    watch::start(call, filter, start)
}
