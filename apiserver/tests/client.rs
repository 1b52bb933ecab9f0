//! kube-rs against the server in process: what the scheduler's controllers do.

mod common;

use common::{Server, WIDGETS, config_map, until, widget};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::{Value, json};

fn resource() -> ApiResource {
    ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("test.nightshift.dev", "v1alpha1", "Widget"))
}

fn widgets(s: &Server) -> Api<DynamicObject> {
    Api::namespaced_with(s.client.clone(), "default", &resource())
}

async fn make(s: &Server, name: &str) -> Value {
    let (code, v) = s.json("POST", WIDGETS, widget(name)).await;
    assert_eq!(code, 201, "{v}");
    v
}

#[tokio::test]
async fn a_reflector_follows_changes_with_both_list_strategies() {
    let s = Server::start().await;
    make(&s, "before").await;
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let writer = reflector::store::Writer::new(resource());
        let reader = writer.as_reader();
        let stream = watcher(widgets(&s), config).default_backoff().reflect(writer).applied_objects();
        let run = tokio::spawn(stream.for_each(|o| async move { drop(o.unwrap()) }));
        let has = |name: &'static str| {
            let reader = reader.clone();
            until(name, move || {
                let found = reader.state().iter().any(|o| o.metadata.name.as_deref() == Some(name));
                async move { found.then_some(()) }
            })
        };
        has("before").await;
        make(&s, "after").await;
        has("after").await;
        widgets(&s).delete("after", &DeleteParams::default()).await.unwrap();
        until("gone", || {
            let gone = reader.state().len() == 1;
            async move { gone.then_some(()) }
        })
        .await;
        run.abort();
    }
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_cleared() {
    let s = Server::start().await;
    make(&s, "held").await;
    // As kube-rs' `finalizer` does: the test of a missing key against null.
    let add = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["nightshift.dev/tasks"]}]);
    let path = format!("{WIDGETS}/held");
    let (code, v) = s.send("PATCH", &path, "application/json-patch+json", add.to_string()).await;
    assert_eq!(code, 200, "{v}");
    let api = widgets(&s);
    let held = api.delete("held", &DeleteParams::default()).await.unwrap().left().expect("the object");
    assert!(held.metadata.deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["nightshift.dev/tasks", "another.dev/x"]}});
    let err = api.patch("held", &PatchParams::default(), &Patch::Merge(more)).await.unwrap_err();
    let kube::Error::Api(status) = err else { panic!("{err}") };
    assert_eq!(status.code, 422, "{}", status.message);
    assert!(
        status.message.contains("no new finalizers can be added if the object is being deleted"),
        "{}",
        status.message
    );
    let clear = json!({"metadata": {"finalizers": null}});
    api.patch("held", &PatchParams::default(), &Patch::Merge(clear)).await.unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

#[tokio::test]
async fn discovery_finds_every_kind() {
    let s = Server::start().await;
    let found = kube::discovery::Discovery::new(s.client.clone()).run().await.unwrap();
    assert!(found.groups().any(|g| g.name() == "test.nightshift.dev"));
    let found = kube::discovery::Discovery::new(s.client.clone()).run_aggregated().await.unwrap();
    let group = found.get("test.nightshift.dev").unwrap();
    assert!(group.recommended_kind("Widget").is_some());
    assert!(s.client.apiserver_version().await.unwrap().git_version.starts_with("v1."));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let s = Server::start().await;
    let mut with_status = widget("a");
    with_status["status"] = json!({"replicas": 9});
    let (_, v) = s.json("POST", WIDGETS, with_status).await;
    assert!(v.get("status").is_none(), "create drops status");
    let path = format!("{WIDGETS}/a");
    let change = json!({"spec": {"color": "blue"}, "metadata": {"labels": {"x": "y"}}, "status": {"replicas": 2}});
    let (_, v) = s.json("PATCH", &format!("{path}/status"), change.clone()).await;
    assert_eq!(
        (&v["spec"]["color"], &v["status"]["replicas"], &v["metadata"]["generation"]),
        (&json!("red"), &json!(2), &json!(1))
    );
    assert!(v["metadata"].get("labels").is_none());
    let (_, v) = s.json("PATCH", &path, json!({"spec": {"color": "blue"}, "status": {"replicas": 7}})).await;
    assert_eq!((&v["status"]["replicas"], &v["metadata"]["generation"]), (&json!(2), &json!(2)));
    let (_, again) = s.json("PATCH", &path, json!({"spec": {"color": "blue"}})).await;
    assert_eq!(again["metadata"]["resourceVersion"], v["metadata"]["resourceVersion"], "a no-op writes nothing");
    let mut stale = v.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(s.json("PUT", &path, stale).await.0, 409);
    let mut none = v.clone();
    none["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, v) = s.json("PUT", &path, none).await;
    assert_eq!((code, v["details"]["causes"][0]["field"].as_str()), (422, Some("metadata.resourceVersion")));
    let mut dry = widget("dry");
    dry["metadata"]["generateName"] = "dry-".into();
    assert_eq!(s.json("POST", &format!("{WIDGETS}?dryRun=All"), dry).await.0, 201);
    assert_eq!(s.json("GET", &format!("{WIDGETS}/dry"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn pages_are_of_one_revision_and_selectors_select() {
    let s = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    for i in 0..25 {
        let mut v = config_map(&format!("cm-{i:02}"));
        v["metadata"]["labels"] = json!({"odd": (i % 2).to_string()});
        api.create(&PostParams::default(), &serde_json::from_value(v).unwrap()).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (10, Some(15)));
    api.delete("cm-20", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let second = api.list(&ListParams::default().limit(100).continue_token(&token)).await.unwrap();
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(second.items.len(), 15, "as it was when the first page was read");
    assert_eq!(api.list(&ListParams::default().labels("odd in (1)")).await.unwrap().items.len(), 12);
    assert_eq!(api.list(&ListParams::default().fields("metadata.name=cm-03")).await.unwrap().items.len(), 1);
    let err = api.list(&ListParams::default().fields("data.k=v")).await.unwrap_err();
    assert!(err.to_string().contains("field label not supported: data.k"), "{err}");
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("odd=0")).await.unwrap();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 12);
}

#[tokio::test]
async fn leaving_a_selector_is_a_deletion_and_an_old_watch_expires_in_the_stream() {
    let s = Server::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    let mut v = config_map("a");
    v["metadata"]["labels"] = json!({"on": "1"});
    let made = api.create(&PostParams::default(), &serde_json::from_value(v).unwrap()).await.unwrap();
    let version = made.metadata.resource_version.unwrap();
    let mut stream = api.watch(&WatchParams::default().labels("on=1"), &version).await.unwrap().boxed();
    let off = api
        .patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"on": "0"}}})))
        .await
        .unwrap();
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Deleted(o) => {
            assert_eq!(o.metadata.labels.unwrap()["on"], "1", "the old object");
            assert_eq!(o.metadata.resource_version, off.metadata.resource_version, "the new revision");
        }
        other => panic!("{other:?}"),
    }
    let dir = s.stop().await;
    let s = Server::start_in(dir).await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.client.clone());
    let mut stream = api.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(e) => assert_eq!((e.code, e.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restart_keeps_revision_and_data() {
    let s = Server::start().await;
    let made = make(&s, "kept").await;
    let list = s.json("GET", WIDGETS, Value::Null).await.1;
    let token = s.token("admin.token");
    let dir = s.stop().await;
    let s = Server::start_in(dir).await;
    let again = s.json("GET", WIDGETS, Value::Null).await.1;
    assert_eq!(list, again);
    assert_eq!(s.token("admin.token"), token);
    let next = make(&s, "next").await;
    let rev = |v: &Value| v["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(rev(&next) > rev(&made));
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let s = Server::start().await;
    let owner = |v: &Value| json!({"apiVersion": v["apiVersion"], "kind": v["kind"], "name": v["metadata"]["name"], "uid": v["metadata"]["uid"]});
    let (a, b) = (make(&s, "a").await, make(&s, "b").await);
    for (name, owners) in [("of-a", json!([owner(&a)])), ("of-both", json!([owner(&a), owner(&b)]))] {
        let mut v = config_map(name);
        v["metadata"]["ownerReferences"] = owners;
        assert_eq!(s.json("POST", "/api/v1/namespaces/default/configmaps", v).await.0, 201);
    }
    let get = |name: &str| {
        let path = format!("/api/v1/namespaces/default/configmaps/{name}");
        let s = &s;
        async move { s.json("GET", &path, Value::Null).await.0 }
    };
    s.json("DELETE", &format!("{WIDGETS}/a"), Value::Null).await;
    until("of-a goes", || async { (get("of-a").await == 404).then_some(()) }).await;
    assert_eq!(get("of-both").await, 200);
    let foreground = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    assert_eq!(s.json("DELETE", &format!("{WIDGETS}/b"), foreground).await.0, 200);
    until("of-both goes", || async { (get("of-both").await == 404).then_some(()) }).await;
    until("b goes", || async { (s.json("GET", &format!("{WIDGETS}/b"), Value::Null).await.0 == 404).then_some(()) })
        .await;
}

#[tokio::test]
async fn events_have_one_store_and_two_forms() {
    let s = Server::start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "hello", "reason": "R",
        "type": "Normal", "count": 2, "involvedObject": {"kind": "Widget", "name": "w", "namespace": "default"}});
    assert_eq!(s.json("POST", "/api/v1/namespaces/default/events", event).await.0, 201);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events/e";
    let (_, v) = s.json("GET", path, Value::Null).await;
    assert_eq!(
        (&v["apiVersion"], &v["note"], &v["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("hello"), &json!("w"))
    );
    let (code, v) =
        s.json("PATCH", path, json!({"series": {"count": 3, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}})).await;
    assert_eq!((code, &v["series"]["count"]), (200, &json!(3)));
    let (_, list) = s.json("GET", "/api/v1/events?fieldSelector=involvedObject.name%3Dw,reason%3DR", Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}
