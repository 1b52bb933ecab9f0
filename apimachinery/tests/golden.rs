//! What the libraries of kube-apiserver 1.36.2 answer, recorded.
//!
//! In: `golden/*.json`, each with schemas, objects and the answers. Out: none. Invariant: pruning,
//! defaulting, structural errors, rules and metadata answer the same, word for word.
//!
//! Left out of the recordings are the few places where this crate differs on purpose: it refuses a
//! list where a text with a format belongs, and stale types in stored objects may be named in
//! another order.

use nightshift_apimachinery::{FieldError, Schema, validate_object_meta};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a recording")).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn object(spec: &Value) -> Value {
    json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "x", "generateName": "g"}, "spec": spec})
}

/// Pruned and defaulted, as a server does before it validates.
fn admitted(schema: &Schema, spec: &Value) -> (Value, Vec<String>) {
    let mut object = object(spec);
    let pruned = schema.prune(&mut object);
    schema.default(&mut object);
    (object, pruned)
}

fn triples(errors: &[FieldError]) -> Value {
    let mut triples: Vec<_> =
        errors.iter().map(|e| (e.reason.as_str().to_owned(), e.field.clone(), e.message.clone())).collect();
    triples.sort();
    json!(triples)
}

/// Equality of JSON where `2.0` is `2`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn structure() {
    let golden = golden("structure");
    let schema = Schema::compile(&golden["schema"]).expect("a schema");
    for case in list(&golden["cases"]) {
        let (object, pruned) = admitted(&schema, &case["spec"]);
        let old = Some(&case["old"]).filter(|old| !old.is_null()).map(|old| admitted(&schema, old).0);
        assert_eq!(json!(pruned), case["pruned"], "{}", case["spec"]);
        assert!(same(&object["spec"], &case["result"]), "{} is {}", object["spec"], case["result"]);
        assert_eq!(triples(&schema.validate(&object, old.as_ref())), case["errors"], "{}", case["spec"]);
    }
}

#[test]
fn rules() {
    let golden = golden("rules");
    for (rule, expected) in golden["rules"].as_object().expect("rules") {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": golden["properties"],
            "x-kubernetes-validations": [{"rule": rule}],
        }}});
        let compiled = Schema::compile(&schema);
        if expected.is_null() {
            assert!(compiled.is_err(), "{rule} must not compile");
            continue;
        }
        let schema = compiled.unwrap_or_else(|e| panic!("{rule}: {e}"));
        for (spec, message) in list(&golden["objects"]).iter().zip(list(expected)) {
            let errors = schema.validate(&admitted(&schema, spec).0, None);
            let found: Vec<&str> = errors.iter().map(|e| e.message.as_str()).collect();
            assert_eq!(found.join("; "), *message, "{rule} on {spec}");
        }
    }
}

#[test]
fn transitions() {
    for case in list(&golden("transitions")) {
        let schema = Schema::compile(&case["schema"]).expect("a schema");
        let new = admitted(&schema, &case["new"]).0;
        let old = Some(&case["old"]).filter(|old| !old.is_null()).map(|old| admitted(&schema, old).0);
        let found = triples(&schema.validate(&new, old.as_ref()));
        assert_eq!(found, case["errors"], "{}: {} from {}", case["about"], case["new"], case["old"]);
    }
}

#[test]
fn metadata() {
    for case in list(&golden("metadata")) {
        let object = json!({"metadata": case["metadata"]});
        let errors = validate_object_meta(&object, case["namespaced"] == json!(true));
        assert_eq!(triples(&errors), case["errors"], "{}", case["metadata"]);
    }
}
