//! In: an opened store → out: the namespaces every cluster has, and the definitions asked for → invariant: idempotent; it goes
//! the way of any request, so what is installed is as valid as what a client creates.

use crate::api::Api;
use crate::auth::Caller;
use anyhow::{Context, bail};
use axum::body::Body;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// A client whose transport is the server itself.
pub(crate) fn client(api: &Arc<Api>) -> kube::Client {
    let api = api.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let api = api.clone();
        async move {
            let request = request.map(Body::new);
            Ok::<Response<Body>, std::convert::Infallible>(api.handle(request, Some(Caller::admin())).await)
        }
    });
    kube::Client::new(service, "default")
}

/// Installs namespaces and definitions.
pub(crate) async fn all(api: &Arc<Api>, crds: Vec<Value>) -> anyhow::Result<()> {
    for name in NAMESPACES {
        let v = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let (code, answer) = send(api, "POST", "/api/v1/namespaces", &v).await?;
        if code >= 400 && code != 409 {
            bail!("namespace {name}: {answer}");
        }
    }
    for crd in crds {
        let name = crate::object::meta_str(&crd, "name").to_owned();
        definition(api, &name, crd).await.with_context(|| format!("install the definition {name:?}"))?;
    }
    Ok(())
}

async fn definition(api: &Arc<Api>, name: &str, mut crd: Value) -> anyhow::Result<()> {
    const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, answer) = send(api, "POST", PATH, &crd).await?;
    let (code, answer) = match code {
        409 => {
            // An existing one keeps its finalizers, labels and annotations: only the spec is ours.
            let spec = crd.get_mut("spec").map(Value::take).unwrap_or_default();
            let path = format!("{PATH}/{name}");
            let (_, mut old) = send(api, "GET", &path, &Value::Null).await?;
            old["spec"] = spec;
            send(api, "PUT", &path, &old).await?
        }
        _ => (code, answer),
    };
    if code >= 400 {
        bail!("{}", answer["message"].as_str().unwrap_or("refused"));
    }
    let established = answer["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Established" && c["status"] == "True");
    if !established {
        bail!("its names are not accepted: {}", answer["status"]["conditions"]);
    }
    Ok(())
}

async fn send(api: &Arc<Api>, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request =
        Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json").body(body)?;
    let response = api.clone().handle(request, Some(Caller::admin())).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&bytes)?))
}
