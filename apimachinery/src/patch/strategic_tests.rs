use super::*;
use serde_json::json;

fn apply(kind: &str, object: Value, patch: &Value) -> Result<Value, PatchError> {
    let meta = PatchMeta::for_kind("v1", kind).expect("a core kind");
    let mut object = object;
    strategic_merge_patch(&meta, &mut object, patch).map(|()| object)
}

fn merged(kind: &str, object: Value, patch: Value, result: Value) {
    let text = format!("{object} with {patch}");
    assert_eq!(apply(kind, object, &patch), Ok(result), "{text}");
}

#[test]
fn maps() {
    merged(
        "ConfigMap",
        json!({"data": {"a": "1", "b": "2"}}),
        json!({"data": {"a": null, "c": "3"}}),
        json!({"data": {"b": "2", "c": "3"}}),
    );
    merged(
        "ConfigMap",
        json!({"data": {"a": "1"}}),
        json!({"data": {"$patch": "replace", "c": "3"}}),
        json!({"data": {"c": "3"}}),
    );
    merged("ConfigMap", json!({"data": {"a": "1"}}), json!({"data": {"$patch": "delete"}}), json!({"data": {}}));
    merged("ConfigMap", json!({}), json!({"data": {"a": null, "b": "x"}}), json!({"data": {"b": "x"}}));
    merged("ConfigMap", json!({}), json!({"data": {"$patch": "delete"}}), json!({}));
    merged(
        "ConfigMap",
        json!({"data": {"a": "1", "b": "2"}}),
        json!({"data": {"$retainKeys": ["b", "c"], "c": "3"}}),
        json!({"data": {"b": "2", "c": "3"}}),
    );
    assert!(apply("ConfigMap", json!({"data": {}}), &json!({"data": {"$retainKeys": ["b"], "c": "3"}})).is_err());
    assert!(apply("ConfigMap", json!({"data": {}}), &json!({"data": {"$patch": "spam"}})).is_err());
}

#[test]
fn finalizers_are_a_merging_set() {
    let object = || json!({"metadata": {"finalizers": ["a", "b"]}});
    let list = |names: Value| json!({"metadata": {"finalizers": names}});
    merged("Secret", object(), json!({"metadata": {"finalizers": ["c", "a"]}}), list(json!(["c", "a", "b"])));
    merged("Secret", object(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}), list(json!(["b"])));
    merged(
        "Secret",
        object(),
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
        list(json!(["c", "b"])),
    );
    merged("Secret", object(), json!({"metadata": {"finalizers": null}}), json!({"metadata": {}}));
}

#[test]
fn keyed_lists() {
    let object = || json!({"secrets": [{"name": "a", "kind": "x"}, {"name": "b"}]});
    merged(
        "ServiceAccount",
        object(),
        json!({"secrets": [{"name": "b", "uid": "1"}, {"name": "c"}]}),
        json!({"secrets": [{"name": "a", "kind": "x"}, {"name": "b", "uid": "1"}, {"name": "c"}]}),
    );
    merged(
        "ServiceAccount",
        object(),
        json!({"secrets": [{"name": "a", "$patch": "delete"}]}),
        json!({"secrets": [{"name": "b"}]}),
    );
    merged(
        "ServiceAccount",
        object(),
        json!({"secrets": [{"name": "z"}, {"$patch": "replace"}]}),
        json!({"secrets": [{"name": "z"}]}),
    );
    merged(
        "ServiceAccount",
        object(),
        json!({"$setElementOrder/secrets": [{"name": "b"}, {"name": "a"}]}),
        json!({"secrets": [{"name": "b"}, {"name": "a", "kind": "x"}]}),
    );
    assert!(apply("ServiceAccount", object(), &json!({"secrets": [{"kind": "y"}]})).is_err());
    // Not declared as merging: replaced.
    merged(
        "ServiceAccount",
        json!({"imagePullSecrets": [{"name": "a"}]}),
        json!({"imagePullSecrets": [{"name": "b"}]}),
        json!({"imagePullSecrets": [{"name": "b"}]}),
    );
}

#[test]
fn owners_by_uid() {
    merged(
        "ConfigMap",
        json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2"}]}}),
        json!({"metadata": {"ownerReferences": [{"uid": "2", "$patch": "delete"}, {"uid": "1", "controller": true}]}}),
        json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a", "controller": true}]}}),
    );
}

#[test]
fn custom_resources_have_no_merge_keys() {
    assert!(PatchMeta::for_kind("nightshift.dev/v1alpha1", "InferenceJob").is_none());
    assert!(PatchMeta::for_kind("coordination.k8s.io/v1", "Lease").is_some());
}
