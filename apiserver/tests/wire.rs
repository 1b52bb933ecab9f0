//! The server as strangers meet it: tokens, limits, rubbish, many writers at once.

mod common;

use common::{Server, WIDGETS, config_map, widget};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use proptest::prelude::*;
use serde_json::{Value, json};

#[tokio::test]
async fn strict_warn_and_ignore() {
    let s = Server::start().await;
    let mut v = widget("a");
    v["spec"]["colour"] = "x".into();
    let (code, e) = s.json("POST", &format!("{WIDGETS}?fieldValidation=Strict"), v.clone()).await;
    assert_eq!((code, e["reason"].as_str()), (400, Some("BadRequest")));
    let text = "Widget in version \"v1alpha1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.colour\"";
    assert_eq!(e["message"], text);
    let request = http::Request::post(WIDGETS).body(kube::client::Body::from(v.to_string().into_bytes())).unwrap();
    let response = s.client.send(request).await.unwrap();
    assert_eq!(response.status(), 201, "no content type is no error");
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"spec.colour\\\"\"");
    let (_, stored) = s.json("GET", &format!("{WIDGETS}/a"), Value::Null).await;
    assert!(stored["spec"].get("colour").is_none(), "pruned");
    assert_eq!(stored["spec"]["size"], 3, "defaulted");
}

#[tokio::test]
async fn errors_are_statuses() {
    let s = Server::start().await;
    for (method, path, kind, body, code, reason) in [
        ("GET", "/api/v1/pods", "", "", 404, "NotFound"),
        ("GET", "/apis/none.dev/v1", "", "", 404, "NotFound"),
        ("POST", "/version", "", "", 405, "MethodNotAllowed"),
        ("POST", WIDGETS, "application/json", "{", 400, "BadRequest"),
        ("POST", WIDGETS, "application/json", "[]", 400, "BadRequest"),
        ("POST", WIDGETS, "application/json", "{\"apiVersion\":\"test.nightshift.dev/v1alpha1\"}", 400, "BadRequest"),
        ("POST", WIDGETS, "text/plain", "x", 415, "UnsupportedMediaType"),
        ("PATCH", &format!("{WIDGETS}/a"), "application/strategic-merge-patch+json", "{}", 415, "UnsupportedMediaType"),
        ("PATCH", &format!("{WIDGETS}/a"), "application/apply-patch+yaml", "{}", 415, "UnsupportedMediaType"),
        ("GET", "/api/v1/configmaps?labelSelector=a%20b", "", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?resourceVersion=999999", "", "", 504, "Timeout"),
        ("GET", "/api/v1/configmaps?continue=x", "", "", 400, "BadRequest"),
        ("DELETE", &format!("{WIDGETS}/none"), "", "", 404, "NotFound"),
    ] {
        let (got, v) = s.send(method, path, kind, body).await;
        assert_eq!(
            (got, v["kind"].as_str(), v["reason"].as_str()),
            (code, Some("Status"), Some(reason)),
            "{method} {path}: {v}"
        );
        assert_eq!(v["code"], code);
    }
    let (code, v) = s.send("POST", WIDGETS, "application/json", vec![b' '; 4 << 20]).await;
    assert_eq!((code, v["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
}

#[tokio::test]
async fn immutable_maps_and_wrong_secrets() {
    let s = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut v = config_map("fixed");
    v["immutable"] = true.into();
    assert_eq!(s.json("POST", maps, v).await.0, 201);
    let (code, e) = s.json("PATCH", &format!("{maps}/fixed"), json!({"data": {"k": "2"}})).await;
    assert_eq!(code, 422);
    assert_eq!(
        e["message"],
        "ConfigMap \"fixed\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
    );
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "!"}});
    assert_eq!(s.json("POST", "/api/v1/namespaces/default/secrets", secret).await.0, 400);
    let secret = json!({"metadata": {"generateName": "s-"}, "stringData": {"a": "b"}});
    let (_, v) = s.json("POST", "/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(v["data"]["a"], "Yg==");
    assert_eq!(v["metadata"]["name"].as_str().unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_one_order() {
    const WRITERS: usize = 16;
    const EACH: usize = 40;
    let s = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    let start = api.list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let (api, start) = (api.clone(), start.clone());
            tokio::spawn(async move {
                let mut stream = api.watch(&WatchParams::default(), &start).await.unwrap().boxed();
                let mut seen = Vec::new();
                while seen.len() < WRITERS * EACH {
                    match stream.try_next().await.unwrap().expect("not ended") {
                        WatchEvent::Added(o) => seen.push(o.metadata.resource_version.unwrap().parse::<u64>().unwrap()),
                        other => panic!("{other:?}"),
                    }
                }
                seen
            })
        })
        .collect();
    let writers = (0..WRITERS).map(|w| {
        let api = api.clone();
        tokio::spawn(async move {
            let mut made = Vec::new();
            for i in 0..EACH {
                let v = serde_json::from_value(config_map(&format!("w{w}-{i}"))).unwrap();
                let v = api.create(&PostParams::default(), &v).await.unwrap();
                made.push(v.metadata.resource_version.unwrap().parse::<u64>().unwrap());
            }
            made
        })
    });
    let mut made: Vec<u64> = futures::future::join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    made.sort_unstable();
    assert_eq!(made.last().unwrap() - made[0] + 1, made.len() as u64, "one counter without gaps");
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), made, "every revision once, in order");
    }
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let s = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    let mut stream = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let end = tokio::spawn(async move { while stream.next().await.is_some() {} });
    drop(s.stop().await);
    tokio::time::timeout(std::time::Duration::from_secs(5), end).await.unwrap().unwrap();
}

#[tokio::test]
async fn secrets_on_disk_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let s = Server::start().await;
    for name in ["kubeconfig", "admin.token", "viewer.token", "pki/ca.key", "pki/server.key"] {
        let mode = std::fs::metadata(s.dir.path().join("api").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn aggregated_discovery_has_its_type_and_etag() {
    let s = Server::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let get = |etag: Option<String>| {
        let mut request = http::Request::get("/apis").header("accept", accept);
        if let Some(etag) = etag {
            request = request.header("if-none-match", etag);
        }
        s.client.send(request.body(kube::client::Body::empty()).unwrap())
    };
    let first = get(None).await.unwrap();
    let header = |r: &http::Response<kube::client::Body>, name: &str| r.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(&first, "content-type"), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!(header(&first, "vary"), "Accept");
    let again = get(Some(header(&first, "etag"))).await.unwrap();
    assert_eq!(again.status(), 304);
    s.json(
        "DELETE",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.nightshift.dev",
        Value::Null,
    )
    .await;
    common::until("the group is gone", || async {
        (get(Some(header(&first, "etag"))).await.unwrap().status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn yaml_and_bodies_without_a_type() {
    let s = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: b}\n";
    assert_eq!(s.send("POST", maps, "application/yaml", yaml).await.0, 201);
    let (_, v) = s.json("GET", &format!("{maps}/y"), Value::Null).await;
    assert_eq!(v["data"]["a"], "b");
    let twice = "{\"metadata\":{\"name\":\"d\"},\"data\":{\"a\":\"1\",\"a\":\"2\"}}";
    let (code, e) = s.send("POST", &format!("{maps}?fieldValidation=Strict"), "application/json", twice).await;
    assert_eq!((code, e["message"].as_str().unwrap().contains("duplicate field \"data.a\"")), (400, true), "{e}");
}

/// Rubbish of every sort: what comes back is an answer below 500.
#[test]
fn rubbish_is_never_a_server_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let s = runtime.block_on(Server::start());
    let roots = prop::sample::select(vec![
        "/",
        "/api/v1/",
        "/apis/",
        "/openapi/v3/",
        WIDGETS,
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/default/secrets/x",
        "/apis/test.nightshift.dev/v1alpha1/namespaces/default/widgets/x/status",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    ]);
    let methods = prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
    let types = prop::sample::select(vec![
        "",
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
    ]);
    let bodies = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|b| [b"k8s\0".as_slice(), &b].concat()),
        json_value().prop_map(|v| v.to_string().into_bytes()),
        json_value().prop_map(|v| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": v, "data": v}).to_string().into_bytes()),
        json_value().prop_map(|v| {
            json!({"apiVersion": "test.nightshift.dev/v1alpha1", "kind": "Widget", "metadata": {"generateName": "w", "labels": v},
                "spec": v, "status": v}).to_string().into_bytes()
        }),
        json_value().prop_map(|v| {
            let mut crd = common::widget_crd();
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = v;
            crd.to_string().into_bytes()
        }),
    ];
    let case = (methods, roots, "[a-z0-9%/.]{0,12}", "[a-zA-Z0-9=&%,!()]{0,40}", types, bodies);
    proptest!(ProptestConfig { cases: 1500, ..ProptestConfig::default() }, |((method, root, tail, query, kind, body) in case)| {
        let path = format!("{root}{tail}?{query}&timeoutSeconds=1");
        if http::Uri::try_from(&path).is_ok() {
            let (code, v) = runtime.block_on(s.send(method, &path, kind, body));
            prop_assert!(code < 500 || v["reason"] == "Timeout", "{method} {path}: {code} {v}");
        }
    });
    drop(runtime.block_on(s.stop()));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\\PC]{0,8}".prop_map(Value::from),
    ];
    let keys = prop_oneof![
        "[a-z]{1,6}",
        prop::sample::select(vec![
            "metadata".to_owned(),
            "spec".into(),
            "name".into(),
            "labels".into(),
            "type".into(),
            "properties".into(),
            "items".into(),
            "default".into(),
            "finalizers".into(),
            "x-kubernetes-validations".into()
        ])
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Prints creates a second; not a check. `cargo test --release -- --ignored rate --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, does not check"]
async fn rate_of_creates() {
    let s = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    for (writers, each) in [(1, 1000), (32, 500), (256, 100)] {
        let begin = std::time::Instant::now();
        let tasks = (0..writers).map(|w| {
            let api = api.clone();
            tokio::spawn(async move {
                for i in 0..each {
                    let v = serde_json::from_value(config_map(&format!("c{writers}-{w}-{i}"))).unwrap();
                    api.create(&PostParams::default(), &v).await.unwrap();
                }
            })
        });
        futures::future::join_all(tasks).await;
        let rate = f64::from(writers * each) / begin.elapsed().as_secs_f64();
        println!("{writers} writers: {rate:.0} creates/s");
    }
}
