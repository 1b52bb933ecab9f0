use super::*;
use serde_json::json;

fn apply(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let mut document = document.clone();
    json_patch(&mut document, patch).map(|()| document)
}

#[test]
fn rfc_6902_appendix_a() {
    for (document, patch, result) in [
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            json!({"baz": "qux", "foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            json!({"foo": ["bar", "qux", "baz"]}),
        ),
        (json!({"baz": "qux", "foo": "bar"}), json!([{"op": "remove", "path": "/baz"}]), json!({"foo": "bar"})),
        (
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            json!({"foo": ["bar", "baz"]}),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            json!({"baz": "boo", "foo": "bar"}),
        ),
        (
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ),
        (
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            json!({"foo": ["all", "cows", "eat", "grass"]}),
        ),
        (
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            json!({"foo": "bar", "child": {"grandchild": {}}}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            json!({"foo": "bar", "baz": "qux"}),
        ),
        (json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": 10}]), json!({"/": 9, "~1": 10})),
        (
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            json!({"foo": ["bar", ["abc", "def"]]}),
        ),
    ] {
        assert_eq!(apply(&document, &patch), Ok(result), "{document} with {patch}");
    }
}

#[test]
fn refusals_leave_the_document() {
    for (document, patch) in [
        (json!({"baz": "qux"}), json!([{"op": "test", "path": "/baz", "value": "bar"}])),
        (json!({"foo": "bar"}), json!([{"op": "add", "path": "/baz/bat", "value": "qux"}])),
        (json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": "10"}])),
        (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/c"}])),
        (json!({"a": [1]}), json!([{"op": "add", "path": "/a/3", "value": 1}])),
        (json!({"a": [1]}), json!([{"op": "remove", "path": "/a/01"}])),
        (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}])),
    ] {
        let mut patched = document.clone();
        assert!(matches!(json_patch(&mut patched, &patch), Err(PatchError::Conflict(_))), "{patch}");
        assert_eq!(patched, document);
    }
    for patch in [
        json!({}),
        json!([1]),
        json!([{"op": "add", "path": "/a"}]),
        json!([{"op": "spam", "path": "/a"}]),
        json!([{"op": "add", "path": "a", "value": 1}]),
    ] {
        assert!(matches!(apply(&json!({}), &patch), Err(PatchError::Malformed(_))), "{patch}");
    }
}

/// kube-rs adds its first finalizer with this.
#[test]
fn a_test_for_null_holds_where_the_key_is_absent() {
    let patch = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]},
    ]);
    assert_eq!(apply(&json!({"metadata": {}}), &patch), Ok(json!({"metadata": {"finalizers": ["a/b"]}})));
    assert!(apply(&json!({"metadata": {"finalizers": ["x"]}}), &patch).is_err());
    assert!(apply(&json!({}), &patch).is_err());
}

#[test]
fn work_is_bounded() {
    let many = Value::Array(vec![json!({"op": "test", "path": "/a", "value": null}); MAX_OPERATIONS + 1]);
    assert!(matches!(apply(&json!({}), &many), Err(PatchError::TooLarge(_))));
    let doubling = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 100]);
    assert!(matches!(apply(&json!({"a": [1]}), &doubling), Err(PatchError::TooLarge(_))));
    let deepening: Vec<Value> = (0..1000)
        .flat_map(|_| {
            [
                json!({"op": "add", "path": "/b", "value": {}}),
                json!({"op": "move", "from": "/a", "path": "/b/a"}),
                json!({"op": "move", "from": "/b", "path": "/a"}),
            ]
        })
        .collect();
    assert!(matches!(apply(&json!({"a": {}}), &Value::Array(deepening)), Err(PatchError::TooLarge(_))));
}
