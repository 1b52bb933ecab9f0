//! Properties that hold of arbitrary input.
//!
//! In: generated JSON, patches, schemas' objects and texts. Out: none. Invariant: nothing panics,
//! a refused patch changes nothing, pruning, defaulting and merging are idempotent.

use nightshift_apimachinery::{
    PatchMeta, Schema, decode_json, decode_yaml, json_patch, merge_patch, strategic_merge_patch, validate_object_meta,
    validate_object_meta_update,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a",
        "b",
        "c",
        "name",
        "uid",
        "kind",
        "metadata",
        "finalizers",
        "ownerReferences",
        "secrets",
        "labels",
        "annotations",
        "namespace",
        "$patch",
        "$retainKeys",
        "$setElementOrder/secrets",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
        "spec",
        "é",
        "",
    ])
    .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "a",
            "b",
            "replace",
            "delete",
            "merge",
            "1Gi",
            "x\u{0}é",
            "2026-01-02T03:04:05Z"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn operation() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "spam"]);
    let path = prop::sample::select(vec![
        "",
        "/",
        "/a",
        "/a/b",
        "/a/0",
        "/a/-",
        "/a/-1",
        "/b/c",
        "/metadata/finalizers",
        "/~0/~1",
        "a",
        "/é",
    ]);
    (op, path.clone(), path, value())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
}

fn schema() -> Schema {
    Schema::compile(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {"a": 1}, "properties": {
            "a": {"type": "integer", "default": 3, "minimum": 0},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
            "c": {"type": "array", "items": {
                "type": "object",
                "properties": {"a": {"type": "number", "default": 1.5}, "name": {"type": "string", "nullable": true}},
            }},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "default": "d"}},
            "kind": {"x-kubernetes-int-or-string": true},
            "é": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "secrets": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
        }, "x-kubernetes-validations": [
            {"rule": "self == oldSelf"},
            {"rule": "!has(self.c) || self.c.all(x, x.a / 0.0 > 1.0 || x.?name.orValue('') != '')"},
            {"rule": "self.kind == 1 || self.kind.startsWith('a')"},
            {"rule": "quantity(self.b.c).isGreaterThan(quantity('1'))"},
        ]},
    }}))
    .expect("a schema")
}

proptest! {
    #[test]
    fn merge_is_idempotent(target in value(), patch in value()) {
        let mut once = target;
        merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        merge_patch(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_refused_json_patch_changes_nothing(target in value(), patch in prop::collection::vec(operation(), 0..5)) {
        let mut patched = target.clone();
        if json_patch(&mut patched, &Value::from(patch)).is_err() {
            prop_assert_eq!(patched, target);
        }
    }

    #[test]
    fn json_patch_takes_anything(target in value(), patch in value()) {
        let _ = json_patch(&mut target.clone(), &patch);
    }

    #[test]
    fn a_refused_strategic_patch_changes_nothing(target in value(), patch in value()) {
        for kind in ["Namespace", "ConfigMap", "ServiceAccount"] {
            let meta = PatchMeta::for_kind("v1", kind).expect("a core kind");
            let mut patched = target.clone();
            if strategic_merge_patch(&meta, &mut patched, &patch).is_err() {
                prop_assert_eq!(&patched, &target);
            }
        }
    }

    #[test]
    fn pruning_and_defaulting_are_idempotent(spec in value(), metadata in value()) {
        let schema = schema();
        let mut object = json!({"apiVersion": "x/v1", "kind": "K", "metadata": metadata, "spec": spec, "extra": 1});
        let unknown = schema.unknown_fields(&object);
        prop_assert!(unknown.contains(&"extra".to_owned()));
        prop_assert_eq!(schema.prune(&mut object), unknown);
        let pruned = object.clone();
        prop_assert_eq!(schema.prune(&mut object), Vec::<String>::new());
        prop_assert_eq!(&object, &pruned);
        schema.default(&mut object);
        let defaulted = object.clone();
        schema.default(&mut object);
        prop_assert_eq!(&object, &defaulted);
        prop_assert_eq!(schema.unknown_fields(&object), Vec::<String>::new());
    }

    #[test]
    fn validation_takes_anything(object in value(), old in value()) {
        let schema = schema();
        let wrapped = json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "x"}, "spec": object});
        let before = json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "x"}, "spec": old});
        schema.validate(&object, None);
        schema.validate(&object, Some(&old));
        schema.validate(&wrapped, Some(&before));
        validate_object_meta(&object, true);
        validate_object_meta_update(&object, &old);
        validate_object_meta(&json!({"metadata": object}), false);
    }

    #[test]
    fn a_schema_may_be_anything(schema in value(), rule in ".{0,40}") {
        let _ = Schema::compile(&schema);
        let _ = Schema::compile(&json!({"type": "object", "properties": {"spec": schema}}));
        let rules = json!([{"rule": rule, "messageExpression": rule, "fieldPath": rule}]);
        let _ = Schema::compile(&json!({"type": "object", "x-kubernetes-validations": rules}));
    }

    #[test]
    fn decoding_takes_anything(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[ -~\n]{0,80}") {
        let _ = decode_json(&bytes);
        let _ = decode_yaml(&bytes);
        let _ = decode_yaml(text.as_bytes());
    }

    #[test]
    fn json_comes_back(value in value()) {
        let text = value.to_string();
        let decoded = decode_json(text.as_bytes()).expect("JSON");
        prop_assert_eq!(decoded.value.to_string(), text);
    }
}
