//! The real kubectl against a served API: what people type.

mod common;

use common::{Server, until};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

const WIDGET: &str =
    "apiVersion: test.nightshift.dev/v1alpha1\nkind: Widget\nmetadata:\n  name: one\nspec:\n  color: red\n";
const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cm\ndata:\n  a: \"1\"\n  b: \"2\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn apply_get_and_delete_a_custom_resource() {
    let s = Server::start().await;
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], WIDGET).await, "widget.test.nightshift.dev/one created\n");
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], WIDGET).await, "widget.test.nightshift.dev/one unchanged\n");
    let bigger = WIDGET.replace("red", "blue");
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], &bigger).await, "widget.test.nightshift.dev/one configured\n");
    let v: Value = serde_json::from_str(&s.kubectl("get wd one -o json").await).unwrap();
    assert_eq!((&v["spec"]["color"], &v["metadata"]["generation"]), (&json!("blue"), &json!(2)));
    assert!(s.kubectl("get widgets -o yaml").await.contains("color: blue"));
    let table = s.kubectl("get widgets").await;
    let words: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(words, ["NAME", "COLOR", "READY", "AGE"]);
    assert!(s.kubectl("get widgets -o wide").await.contains("SIZE"));
    assert!(s.kubectl("get all -o name").await.contains("widget.test.nightshift.dev/one"));
    assert!(s.kubectl("get widgets -A").await.starts_with("NAMESPACE"));
    let text = s.kubectl("describe widget one").await;
    assert!(text.contains("Color:") && text.contains("Events:"), "{text}");
    assert_eq!(s.kubectl("delete widget one").await, "widget.test.nightshift.dev \"one\" deleted\n");
    let err = s.kubectl_fails("get widget one", "").await;
    assert_eq!(err, "Error from server (NotFound): widgets.test.nightshift.dev \"one\" not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_diff_edit_replace_a_config_map() {
    let s = Server::start().await;
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], MAP).await, "configmap/cm created\n");
    let changed = MAP.replace("  b: \"2\"", "  c: \"3\"");
    let (differs, out, _) = s.try_kubectl_in(&["diff", "-f", "-"], &changed, &[]).await;
    assert!(!differs && out.contains("-  b: \"2\"") && out.contains("+  c: \"3\""), "{out}");
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], &changed).await, "configmap/cm configured\n");
    let v: Value = serde_json::from_str(&s.kubectl("get cm cm -o json").await).unwrap();
    assert_eq!(v["data"], json!({"a": "1", "c": "3"}));
    s.kubectl("label cm cm team=x").await;
    s.kubectl("annotate cm cm note=y").await;
    assert!(s.kubectl("get cm -l team=x").await.contains("cm "));
    assert!(s.kubectl("get cm -l team!=x -o name").await.is_empty());
    s.kubectl("label cm cm team-").await;
    let patch = |kind: &'static str, p: &'static str| ["patch", "cm", "cm", "--type", kind, "-p", p];
    assert_eq!(s.kubectl_in(&patch("merge", r#"{"data":{"a":"5"}}"#), "").await, "configmap/cm patched\n");
    assert_eq!(s.kubectl_in(&patch("strategic", r#"{"data":{"a":"6"}}"#), "").await, "configmap/cm patched\n");
    let json_patch = r#"[{"op":"replace","path":"/data/a","value":"7"}]"#;
    assert_eq!(s.kubectl_in(&patch("json", json_patch), "").await, "configmap/cm patched\n");
    let again = s.kubectl_in(&patch("json", json_patch), "").await;
    assert_eq!(again, "configmap/cm patched (no change)\n");
    let script = s.dir.path().join("edit.sh");
    std::fs::write(&script, "#!/bin/sh\nsed -i 's/\"7\"/\"8\"/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let editor = [("KUBE_EDITOR", script.to_str().unwrap())];
    let (ok, out, err) = s.try_kubectl_in(&["edit", "cm", "cm"], "", &editor).await;
    assert!(ok && out == "configmap/cm edited\n", "{out}{err}");
    let whole = s.kubectl("get cm cm -o yaml").await;
    assert!(whole.contains("a: \"8\""), "{whole}");
    let next = whole.replace("a: \"8\"", "a: \"9\"");
    assert_eq!(s.kubectl_in(&["replace", "-f", "-"], &next).await, "configmap/cm replaced\n");
    let err = s.kubectl_fails("replace -f -", &next.replace("\"9\"", "\"10\"")).await;
    assert!(err.starts_with("Error from server (Conflict): error when replacing \"STDIN\": Operation cannot be fulfilled on configmaps \"cm\": the object has been modified"), "{err}");
    assert!(s.kubectl("describe cm cm").await.contains("BinaryData"));
}

#[tokio::test(flavor = "multi_thread")]
async fn create_core_kinds_by_their_generators() {
    let s = Server::start().await;
    assert_eq!(s.kubectl("create cm one --from-literal=k=v").await, "configmap/one created\n");
    assert_eq!(s.kubectl("create secret generic two --from-literal=p=q").await, "secret/two created\n");
    assert_eq!(s.kubectl("create ns three").await, "namespace/three created\n");
    assert_eq!(s.kubectl("create sa four").await, "serviceaccount/four created\n");
    let secret: Value = serde_json::from_str(&s.kubectl("get secret two -o json").await).unwrap();
    assert_eq!((&secret["data"]["p"], &secret["type"]), (&json!("cQ=="), &json!("Opaque")));
    let head = |t: String| t.lines().next().unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(head(s.kubectl("get cm").await), ["NAME", "DATA", "AGE"]);
    assert_eq!(head(s.kubectl("get secrets").await), ["NAME", "TYPE", "DATA", "AGE"]);
    assert_eq!(head(s.kubectl("get ns").await), ["NAME", "STATUS", "AGE"]);
    assert_eq!(head(s.kubectl("get crd").await), ["NAME", "CREATED", "AT"]);
    assert!(s.kubectl("get leases").await.is_empty());
    let err = s.kubectl_fails("create ns three", "").await;
    assert_eq!(err, "Error from server (AlreadyExists): namespaces \"three\" already exists\n");
    let err = s.kubectl_fails("create cm x -n nowhere --from-literal=a=b", "").await;
    assert!(err.contains("namespaces \"nowhere\" not found"), "{err}");
    assert!(s.kubectl("describe ns three").await.contains("Active"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what() {
    let s = Server::start().await;
    assert_eq!(s.kubectl("auth can-i create widgets").await, "yes\n");
    assert!(s.kubectl("auth whoami").await.contains("nightshift-admin"));
    assert!(s.kubectl("auth can-i --list").await.contains("*.*"));
    let viewer = s.token("viewer.token");
    let token = format!("--token={viewer}");
    let (_, out, _) = s.try_kubectl_in(&["auth", "can-i", "create", "cm", &token], "", &[]).await;
    assert_eq!(out, "no\n");
    let (ok, _, err) = s.try_kubectl_in(&["create", "cm", "x", &token], "", &[]).await;
    assert!(!ok);
    assert_eq!(
        err,
        "error: failed to create configmap: configmaps is forbidden: User \"nightshift-viewer\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"\n"
    );
    let (ok, _, err) = s.try_kubectl_in(&["get", "cm", "--token=wrong"], "", &[]).await;
    assert!(!ok && err.contains("must be logged in"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_explain() {
    let s = Server::start().await;
    let all = s.kubectl("api-resources").await;
    for line in ["widgets", "configmaps", "customresourcedefinitions", "events.k8s.io/v1", "leases"] {
        assert!(all.contains(line), "{line} in {all}");
    }
    assert!(s.kubectl("api-versions").await.contains("test.nightshift.dev/v1alpha1"));
    let text = s.kubectl("explain widget.spec.color").await;
    assert!(text.contains("The color.") && text.contains("<string>"), "{text}");
    let text = s.kubectl("explain widget").await;
    assert!(text.contains("Widget is a thing to test with.") && text.contains("<ObjectMeta>"), "{text}");
    assert!(s.kubectl("explain cm.data").await.contains("Data contains the configuration data"));
    assert!(s.kubectl("explain ns --recursive").await.contains("finalizers"));
    assert!(s.kubectl("version").await.contains("Server Version"));
    assert_eq!(s.kubectl("get --raw /readyz").await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_by_name() {
    let s = Server::start().await;
    let err = s.kubectl_fails("apply -f -", &WIDGET.replace("spec:", "spec:\n  colour: red")).await;
    assert!(err.contains("strict decoding error: unknown field \"spec.colour\""), "{err}");
    let err = s.kubectl_fails("apply -f -", &WIDGET.replace("red", "green")).await;
    assert!(err.contains("The Widget \"one\" is invalid"), "{err}");
    assert!(err.contains("spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""), "{err}");
    let err = s.kubectl_fails("apply -f -", &format!("{WIDGET}  size: 200\n")).await;
    assert!(err.contains("a widget is smaller than 100"), "{err}");
    let err = s.kubectl_fails("apply -f -", &MAP.replace("name: cm", "name: CM_")).await;
    assert!(
        err.contains("metadata.name: Invalid value: \"CM_\": a lowercase RFC 1123 subdomain must consist of"),
        "{err}"
    );
    let err = s.kubectl_fails("apply -f -", &MAP.replace("\ndata:", "\ndatum:\n  x: y\ndata:")).await;
    assert!(err.contains("unknown field \"datum\""), "{err}");
    let err = s.kubectl_fails("apply --server-side -f -", WIDGET).await;
    assert!(err.contains("accepted media types include"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_a_condition_and_watch() {
    let s = Server::start().await;
    s.kubectl_in(&["create", "-f", "-"], WIDGET).await;
    let mut watch = s.spawn_kubectl("get widgets -w");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("NAME"));
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("one "));
    let waits = async { s.kubectl("wait widget/one --for=condition=Ready --timeout=30s").await };
    let sets = async {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let path = format!("{}/one/status", common::WIDGETS);
        assert_eq!(s.json("PATCH", &path, status).await.0, 200);
    };
    let (out, ()) = tokio::join!(waits, sets);
    assert_eq!(out, "widget.test.nightshift.dev/one condition met\n");
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.split_whitespace().nth(2) == Some("True"), "{line}");
    s.kubectl("wait crd/widgets.test.nightshift.dev --for=condition=Established --timeout=10s").await;
    s.kubectl("wait widget/one --for=jsonpath={.spec.color}=red --timeout=10s").await;
    let gone = async { s.kubectl("wait widget/one --for=delete --timeout=30s").await };
    let delete = async { s.kubectl("delete widget one --wait=false").await };
    tokio::join!(gone, delete);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_namespace_empties_it() {
    let s = Server::start().await;
    s.kubectl("create ns big").await;
    s.kubectl("create cm a -n big --from-literal=x=y").await;
    s.kubectl_in(&["create", "-n", "big", "-f", "-"], WIDGET).await;
    assert_eq!(s.kubectl("delete ns big").await, "namespace \"big\" deleted\n");
    assert!(s.kubectl_fails("get ns big", "").await.contains("not found"));
    assert!(!s.kubectl("get cm -A").await.contains("big"));
    let err = s.kubectl_fails("delete ns default", "").await;
    assert!(err.contains("this namespace may not be deleted"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_events_and_deleted_definitions() {
    let s = Server::start().await;
    s.kubectl_in(&["create", "-f", "-"], WIDGET).await;
    assert_eq!(s.kubectl("scale widget one --replicas=4").await, "widget.test.nightshift.dev/one scaled\n");
    assert_eq!(s.kubectl("get wd one -o jsonpath={.spec.replicas}").await, "4");
    let uid = s.kubectl("get wd one -o jsonpath={.metadata.uid}").await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e1", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "test", "reportingInstance": "t-1",
        "action": "Look", "reason": "Seen", "type": "Normal", "note": "it was seen",
        "regarding": {"apiVersion": "test.nightshift.dev/v1alpha1", "kind": "Widget", "name": "one", "namespace": "default", "uid": uid}});
    let (code, v) = s.json("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{v}");
    assert!(s.kubectl("describe widget one").await.contains("it was seen"));
    let out = s.kubectl("get events").await;
    assert!(out.contains("widget/one") && out.contains("Seen"), "{out}");
    assert!(s.kubectl("events --for widget/one").await.contains("it was seen"));
    s.kubectl("delete crd widgets.test.nightshift.dev").await;
    until("the kind is gone", || async { s.json("GET", common::WIDGETS, Value::Null).await.0.eq(&404).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_applied_and_changed() {
    let s = Server::start().await;
    let mut crd = common::widget_crd();
    crd["metadata"]["name"] = "gadgets.test.nightshift.dev".into();
    crd["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget"});
    let name = "customresourcedefinition.apiextensions.k8s.io/gadgets.test.nightshift.dev";
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], &crd.to_string()).await, format!("{name} created\n"));
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], &crd.to_string()).await, format!("{name} unchanged\n"));
    let gadget = WIDGET.replace("Widget", "Gadget");
    s.kubectl_in(&["apply", "-f", "-"], &gadget).await;
    let properties = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["weight"] = json!({"type": "integer", "default": 7});
    assert_eq!(s.kubectl_in(&["apply", "-f", "-"], &crd.to_string()).await, format!("{name} configured\n"));
    assert_eq!(s.kubectl("get gadget one -o jsonpath={.spec.weight}").await, "7", "defaulted when read");
    let status =
        "get crd gadgets.test.nightshift.dev -o jsonpath={.status.acceptedNames.listKind},{.metadata.generation}";
    assert_eq!(s.kubectl(status).await, "GadgetList,2");
    crd["spec"]["names"]["kind"] = "Widget".into();
    crd["metadata"]["name"] = "things.test.nightshift.dev".into();
    crd["spec"]["names"]["plural"] = "things".into();
    crd["spec"]["names"]["singular"] = "thing".into();
    s.kubectl_in(&["create", "-f", "-"], &crd.to_string()).await;
    let refused =
        "get crd things.test.nightshift.dev -o jsonpath={.status.conditions[?(@.type==\"NamesAccepted\")].reason}";
    assert_eq!(s.kubectl(refused).await, "KindConflict");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] = "thing".into();
    crd["metadata"]["name"] = "bads.test.nightshift.dev".into();
    crd["spec"]["names"]["plural"] = "bads".into();
    let err = s.kubectl_fails("create -f -", &crd.to_string()).await;
    assert!(err.contains("is invalid: spec.versions[0].schema.openAPIV3Schema"), "{err}");
    s.kubectl("delete crd gadgets.test.nightshift.dev").await;
    // With its discovery cache kubectl asks for the path, without it it knows the kind is gone.
    let err = s.kubectl_fails("get gadgets", "").await;
    assert!(
        err.contains("doesn't have a resource type") || err.contains("could not find the requested resource"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nightshifts_own_kinds_are_served_and_explained() {
    let crds: Vec<Value> = nightshift_crds::all().into_iter().map(|c| serde_json::to_value(c).unwrap()).collect();
    let s = Server::start_with(crds.clone()).await;
    for crd in crds {
        let names = &crd["spec"]["names"];
        let plural = names["plural"].as_str().unwrap();
        let fields: Vec<String> = ["", ".spec", ".status"].iter().map(|f| format!("{plural}{f}")).collect();
        for field in fields {
            assert!(s.kubectl(&format!("explain {field}")).await.contains("DESCRIPTION"), "{field}");
        }
        assert!(s.kubectl(&format!("get {plural} -A")).await.is_empty());
        let unknown = json!({"apiVersion": "nightshift.dev/v1alpha1", "kind": names["kind"], "metadata": {"name": "x"}, "sepc": {}});
        let err = s.kubectl_fails("create -f -", &unknown.to_string()).await;
        assert!(err.contains("unknown field \"sepc\""), "{err}");
    }
}
