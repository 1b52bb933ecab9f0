//! In: the registry → out: the discovery documents, aggregated and legacy → invariant: every group advertised answers; the
//! aggregated form has its exact content type, an ETag and `Vary: Accept`.

use crate::kinds::{Core, Registry, Resource, group_version};
use crate::negotiate;
use crate::status::json_response;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The aggregated documents, made once a registry: (path, version) → (text, ETag).
#[derive(Debug)]
pub(crate) struct Documents(HashMap<(&'static str, &'static str), (String, String)>);

/// `/version`: the Kubernetes version whose behaviour is followed.
pub(crate) fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": concat!("v1.36.2+nightshift.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch())})
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/`: the paths there are.
pub(crate) fn paths(registry: &Registry) -> Value {
    let mut all = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for g in registry.groups() {
        all.push(format!("/apis/{g}"));
        all.extend(registry.group_versions(g).into_iter().map(|v| format!("/apis/{g}/{v}")));
    }
    all.extend(["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({ "paths": all })
}

/// Paths under `/api` and `/apis`.
pub(crate) fn answer(registry: &Registry, path: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
    if let ["api"] | ["apis"] = path
        && let Some(version) = negotiate::aggregated(headers)
    {
        return aggregated(registry, path[0], version, headers);
    }
    let v = match path {
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
        ["api", version] => resource_list(registry, "", version)?,
        ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1",
            "groups": registry.groups().iter().filter_map(|g| group(registry, g)).collect::<Vec<_>>()}),
        ["apis", g] => {
            let mut v = json!({"kind": "APIGroup", "apiVersion": "v1"});
            v.as_object_mut()?.extend(group(registry, g)?.as_object()?.clone());
            v
        }
        ["apis", g, version] => resource_list(registry, g, version)?,
        _ => return None,
    };
    let mut response = json_response(StatusCode::OK, v.to_string());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn group(registry: &Registry, name: &str) -> Option<Value> {
    let versions: Vec<Value> = registry
        .group_versions(name)
        .iter()
        .map(|v| json!({"groupVersion": group_version(name, v), "version": v}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources = registry.versions.get(&(group.to_owned(), version.to_owned()))?;
    let mut all = Vec::new();
    for r in resources {
        let mut v = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
            "verbs": r.verbs});
        if !r.short_names.is_empty() {
            v["shortNames"] = r.short_names.clone().into();
        }
        if !r.categories.is_empty() {
            v["categories"] = r.categories.clone().into();
        }
        if !r.is_review() {
            v["storageVersionHash"] = storage_hash(r).into();
        }
        all.push(v);
        for (name, kind, verbs) in subresources(r) {
            let mut sub = json!({"name": format!("{}/{name}", r.plural), "singularName": "", "namespaced": r.namespaced,
                "kind": kind, "verbs": verbs});
            if name == "scale" {
                sub["group"] = "autoscaling".into();
                sub["version"] = "v1".into();
            }
            all.push(sub);
        }
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": all}))
}

fn storage_hash(r: &Resource) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", r.group, r.storage_version, r.kind);
    base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text)[..8])
}

/// Subresources: name, kind, verbs.
fn subresources(r: &Resource) -> Vec<(&'static str, String, &'static [&'static str])> {
    const CHANGE: &[&str] = &["get", "patch", "update"];
    let mut all = Vec::new();
    if r.core == Some(Core::Namespace) {
        all.push(("finalize", r.kind.clone(), &["update"][..]));
    }
    if r.scale.is_some() {
        all.push(("scale", "Scale".to_owned(), CHANGE));
    }
    if r.status {
        all.push(("status", r.kind.clone(), CHANGE));
    }
    all
}

fn aggregated(registry: &Registry, path: &str, version: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let documents = registry.documents.get_or_init(|| build(registry));
    let (text, etag) = documents.0.iter().find(|((p, v), _)| *p == path && *v == version).map(|(_, d)| d)?;
    let same = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let unchanged = same.is_some_and(|s| s.split(',').any(|t| t.trim() == etag));
    let mut response = match unchanged {
        true => {
            let mut r = Response::new(Body::empty());
            *r.status_mut() = StatusCode::NOT_MODIFIED;
            r
        }
        false => json_response(StatusCode::OK, text.clone()),
    };
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let h = response.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_str(&kind).ok()?);
    h.insert(header::ETAG, HeaderValue::from_str(etag).ok()?);
    h.insert(header::VARY, HeaderValue::from_static("Accept"));
    h.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Some(response)
}

fn build(registry: &Registry) -> Documents {
    let mut all = HashMap::new();
    for version in ["v2", "v2beta1"] {
        for path in ["api", "apis"] {
            let groups: Vec<&str> = if path == "api" { vec![""] } else { registry.groups() };
            let items: Vec<Value> = groups.iter().map(|g| discovery_group(registry, g)).collect();
            let v = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                "metadata": {}, "items": items});
            let text = v.to_string();
            let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&text)));
            all.insert((path, version), (text, etag));
        }
    }
    Documents(all)
}

fn discovery_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = registry
        .group_versions(group)
        .iter()
        .map(|v| {
            let resources = registry.versions.get(&(group.to_owned(), (*v).to_owned())).into_iter().flatten();
            json!({"version": v, "resources": resources.map(|r| discovery_resource(r)).collect::<Vec<_>>(),
                "freshness": "Current"})
        })
        .collect();
    let meta = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": meta, "versions": versions})
}

fn discovery_resource(r: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut v = json!({"resource": r.plural, "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": r.singular, "verbs": r.verbs});
    if !r.short_names.is_empty() {
        v["shortNames"] = r.short_names.clone().into();
    }
    if !r.categories.is_empty() {
        v["categories"] = r.categories.clone().into();
    }
    let subs: Vec<Value> = subresources(r)
        .into_iter()
        .map(|(name, k, verbs)| {
            let response = if name == "scale" { kind("autoscaling", "v1", &k) } else { kind(&r.group, &r.version, &k) };
            json!({"subresource": name, "responseKind": response, "verbs": verbs})
        })
        .collect();
    if !subs.is_empty() {
        v["subresources"] = subs.into();
    }
    v
}
