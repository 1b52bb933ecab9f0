//! In: the registry → out: `/openapi/v3` and its per-version documents → invariant: every `$ref` is defined in its own document;
//! each kind's PATCH names its group-version-kind and the `fieldValidation` parameter (kubectl validates only then).

use crate::kinds::schemas::{self, LIST_META, OBJECT_META};
use crate::kinds::{Registry, Resource, group_version};
use crate::status::json_response;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One group-version's document.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
    hash: String,
}

/// `/openapi/v3` and what is below it.
pub(crate) fn answer(registry: &Registry, rest: &[&str], headers: &HeaderMap, query: &str) -> Option<Response<Body>> {
    let documents = registry.open_api.get_or_init(|| build(registry));
    if rest.is_empty() {
        let paths: Map<String, Value> = documents
            .iter()
            .map(|(p, d)| (p.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{p}?hash={}", d.hash)})))
            .collect();
        return Some(json_response(StatusCode::OK, json!({ "paths": paths }).to_string()));
    }
    let document = documents.get(&rest.join("/"))?;
    let etag = format!("\"{}\"", document.hash);
    let unchanged = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == etag.as_bytes());
    let mut response = match unchanged {
        true => {
            let mut r = Response::new(Body::empty());
            *r.status_mut() = StatusCode::NOT_MODIFIED;
            r
        }
        false => json_response(StatusCode::OK, document.text.clone()),
    };
    let h = response.headers_mut();
    h.insert(header::ETAG, HeaderValue::from_str(&etag).ok()?);
    h.insert(header::VARY, HeaderValue::from_static("Accept"));
    if query.contains(&document.hash) {
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Some(response)
}

fn build(registry: &Registry) -> BTreeMap<String, Document> {
    let mut all = BTreeMap::new();
    for ((group, version), resources) in &registry.versions {
        let (path, text) = document(group, version, resources.iter().map(|r| &**r));
        let hash = hex::encode_upper(Sha256::digest(&text));
        all.insert(path, Document { text, hash });
    }
    all
}

fn document<'a>(group: &str, version: &str, resources: impl Iterator<Item = &'a Resource>) -> (String, String) {
    let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
    let mut paths = Map::new();
    let mut components = Map::new();
    for r in resources {
        add_paths(&path, r, &mut paths);
        add_schemas(r, &mut components);
    }
    close(&mut components);
    let v = json!({"openapi": "3.0.0", "info": {"title": "Nightshift", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths, "components": {"schemas": components}});
    (path, v.to_string())
}

fn gvk(r: &Resource) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schemas of a kind and its list.
fn add_schemas(r: &Resource, components: &mut Map<String, Value>) {
    let name = r.definition();
    let mut schema = match r.core {
        Some(_) => schemas::definitions().get(&name).cloned().unwrap_or_else(|| json!({"type": "object"})),
        None => custom(r),
    };
    schema["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    components.insert(name.clone(), schema);
    if r.is_review() {
        return;
    }
    let text = |t: &str| json!({"type": "string", "description": t});
    let list = json!({"type": "object", "description": format!("{} is a list of {}", r.list_kind, r.kind), "required": ["items"],
        "properties": {"apiVersion": text(API_VERSION), "kind": text(KIND),
            "items": {"type": "array", "description": format!("List of {}.", r.plural), "items": reference(&name)},
            "metadata": {"allOf": [reference(LIST_META)], "description": "Standard list metadata."}},
        "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": r.list_kind}]});
    components.insert(format!("{name}List"), list);
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
    convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// A CRD's schema with the three fields every object has.
fn custom(r: &Resource) -> Value {
    let mut schema = if r.open_api.is_object() { r.open_api.clone() } else { json!({"type": "object"}) };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    schema["properties"]["kind"] = json!({"type": "string", "description": KIND});
    let about = "Standard object's metadata. More info: \
        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    schema["properties"]["metadata"] = json!({"description": about, "allOf": [reference(OBJECT_META)]});
    schema
}

/// Adds every definition that is referred to.
fn close(components: &mut Map<String, Value>) {
    let mut todo: Vec<String> = Vec::new();
    components.values().for_each(|v| references(v, &mut todo));
    while let Some(name) = todo.pop() {
        if components.contains_key(&name) {
            continue;
        }
        let found = schemas::definitions().get(&name).cloned().unwrap_or_else(|| json!({"type": "object"}));
        references(&found, &mut todo);
        components.insert(name, found);
    }
}

fn references(v: &Value, out: &mut Vec<String>) {
    match v {
        Value::Object(m) => {
            if let Some(name) =
                m.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/components/schemas/"))
            {
                out.push(name.to_owned());
            }
            m.values().for_each(|v| references(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

fn query(names: &[&str]) -> Vec<Value> {
    names.iter().map(|n| json!({"name": n, "in": "query", "schema": {"type": "string", "uniqueItems": true}})).collect()
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

fn add_paths(base: &str, r: &Resource, paths: &mut Map<String, Value>) {
    let scope = if r.namespaced { "namespaces/{namespace}/" } else { "" };
    let all = format!("/{base}/{scope}{}", r.plural);
    let shared: Vec<Value> = if r.namespaced { vec![in_path("namespace")] } else { Vec::new() };
    let mut collection = json!({ "parameters": shared });
    if r.verbs.contains(&"list") {
        collection["get"] = operation(r, "list", LIST, &[]);
    }
    collection["post"] = operation(r, "post", WRITE, &["*/*"]);
    if r.verbs.contains(&"deletecollection") {
        collection["delete"] = operation(r, "deletecollection", DELETE, &["*/*"]);
    }
    paths.insert(all.clone(), collection);
    if r.is_review() {
        return;
    }
    if r.namespaced {
        paths.insert(format!("/{base}/{}", r.plural), json!({"get": operation(r, "list", LIST, &[])}));
    }
    let mut shared = shared;
    shared.push(in_path("name"));
    let mut one = json!({ "parameters": shared });
    one["get"] = operation(r, "get", &[], &[]);
    one["put"] = operation(r, "put", WRITE, &["*/*"]);
    one["delete"] = operation(r, "delete", DELETE, &["*/*"]);
    one["patch"] = operation(r, "patch", WRITE, patches(r));
    paths.insert(format!("{all}/{{name}}"), one.clone());
    if r.status {
        if let Some(m) = one.as_object_mut() {
            m.shift_remove("delete");
        }
        paths.insert(format!("{all}/{{name}}/status"), one);
    }
}

fn patches(r: &Resource) -> &'static [&'static str] {
    const ALL: &[&str] =
        &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];
    if r.core.is_some() { ALL } else { &ALL[..2] }
}

fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn operation(r: &Resource, action: &str, parameters: &[&str], consumes: &[&str]) -> Value {
    let name = r.definition();
    let answer = if action == "list" { format!("{name}List") } else { name.clone() };
    let scope = if r.namespaced { "Namespaced" } else { "" };
    let mut v = json!({
        "description": format!("{action} {}", r.kind),
        "operationId": format!("{action}{}{scope}{}", group_version(&r.group, &r.version).replace(['.', '/'], ""), r.kind),
        "parameters": query(parameters),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(&answer)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(r)
    });
    if !consumes.is_empty() {
        let schema = match action {
            "patch" => {
                json!({"type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body."})
            }
            "delete" | "deletecollection" => reference("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
            _ => reference(&name),
        };
        let content: Map<String, Value> =
            consumes.iter().map(|c| ((*c).to_owned(), json!({ "schema": schema }))).collect();
        v["requestBody"] = json!({ "content": content });
    }
    v
}
