//! The product's own CRDs.
//!
//! In: `crds/yaml`, good manifests and bad ones. Out: none. Invariant: every CRD compiles; a bad
//! manifest is refused with a message that names the field and, where it is a rule, the remedy.

use nightshift_apimachinery::{Schema, decode_yaml, strict_message};
use serde_json::{Value, json};
use std::path::Path;

fn definitions() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the CRDs").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| decode_yaml(&std::fs::read(file).expect("a file")).expect("YAML").value).collect()
}

fn schema(kind: &str) -> Schema {
    let definition = definitions().into_iter().find(|d| d["spec"]["names"]["kind"] == kind).expect(kind);
    Schema::compile(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).expect(kind)
}

fn job(spec: &Value) -> Value {
    json!({
        "apiVersion": "nightshift.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "transcribe", "namespace": "default"},
        "spec": spec,
    })
}

fn good() -> Value {
    json!({
        "modelRef": {"name": "silero-vad"},
        "input": {"items": ["one", "two"]},
        "maxCost": "0.25",
        "parameters": {"threshold": "0.5"},
        "resources": {"deviceMemory": "6Gi"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
    })
}

fn with(changes: &Value) -> Value {
    let mut spec = good();
    nightshift_apimachinery::merge_patch(&mut spec, changes);
    job(&spec)
}

fn errors(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<String> {
    let admitted = |object: &Value| {
        let mut object = object.clone();
        schema.default(&mut object);
        object
    };
    schema.validate(&admitted(object), old.map(admitted).as_ref()).iter().map(ToString::to_string).collect()
}

#[test]
fn every_definition_compiles() {
    let definitions = definitions();
    assert!(!definitions.is_empty());
    for definition in definitions {
        for version in definition["spec"]["versions"].as_array().expect("versions") {
            let schema = Schema::compile(&version["schema"]["openAPIV3Schema"]);
            assert!(schema.is_ok(), "{}: {:?}", definition["metadata"]["name"], schema.err());
        }
    }
}

#[test]
fn a_good_job_is_admitted_with_its_defaults() {
    let schema = schema("InferenceJob");
    let mut object = job(&good());
    assert_eq!(schema.prune(&mut object), Vec::<String>::new());
    schema.default(&mut object);
    assert_eq!(object["spec"]["objective"], "Balanced");
    assert_eq!(object["spec"]["parallelism"], 10);
    assert_eq!(errors(&schema, &object, None), Vec::<String>::new());
    assert_eq!(errors(&schema, &object, Some(&object)), Vec::<String>::new());
}

#[test]
fn a_typo_is_named() {
    let schema = schema("InferenceJob");
    let object = with(&json!({"modelref": {"name": "silero-vad"}, "modelRef": null}));
    let unknown = schema.unknown_fields(&object);
    assert_eq!(strict_message(&[], &unknown), r#"strict decoding error: unknown field "spec.modelref""#);
    let found = errors(&schema, &object, None);
    assert_eq!(found[0], "spec.modelRef: Required value");
}

#[test]
fn mistakes_name_field_and_remedy() {
    let schema = schema("InferenceJob");
    for (changes, field, words) in [
        (json!({"maxCost": "-1"}), "spec.maxCost: Invalid value: \"-1\"", "non-negative decimal"),
        (json!({"maxPricePerHour": "cheap"}), "spec.maxPricePerHour: Invalid value: \"cheap\"", "such as"),
        (json!({"input": {"inline": "text"}}), "spec.input: Invalid value", "exactly one of"),
        (json!({"input": {"items": null}}), "spec.input: Invalid value", "exactly one of"),
        (json!({"input": {"items": null, "uri": "ftp://x"}}), "spec.input.uri: Invalid value", "must begin with"),
        (
            json!({"objective": "Cheap"}),
            "spec.objective: Unsupported value: \"Cheap\"",
            "\"Cheapest\", \"Fastest\", \"Balanced\"",
        ),
        (json!({"parallelism": -1}), "spec.parallelism: Invalid value: -1", "should be greater than or equal to 0"),
        (json!({"parallelism": "many"}), "spec.parallelism: Invalid value: \"string\"", "must be of type integer"),
        (json!({"minParallelism": 20}), "spec.minParallelism: Invalid value", "raise parallelism"),
        (
            json!({"resources": {"deviceMemory": "6 GB"}}),
            "spec.resources.deviceMemory: Invalid value: \"6 GB\"",
            "such as",
        ),
        (json!({"tolerations": [{"operator": "Equal"}]}), "spec.tolerations[0]: Invalid value", "add a key"),
        (json!({"modelRef": {"name": null}}), "spec.modelRef.name: Required value", ""),
    ] {
        let found = errors(&schema, &with(&changes), None);
        let named = found.iter().any(|e| e.starts_with(field) && e.contains(words));
        assert!(named, "{changes} gives {found:#?}");
    }
}

#[test]
fn what_is_immutable_stays() {
    let schema = schema("InferenceJob");
    for (changes, field) in [
        (json!({"modelRef": {"name": "other"}}), "spec.modelRef"),
        (json!({"modelRef": {"variant": "int8"}}), "spec.modelRef"),
        (json!({"input": {"items": ["one"]}}), "spec.input"),
        (json!({"output": {"uri": "s3://bucket/out"}}), "spec.output"),
        (json!({"parameters": {"threshold": "0.6"}}), "spec.parameters"),
    ] {
        let found = errors(&schema, &with(&changes), Some(&job(&good())));
        assert_eq!(found.len(), 1, "{changes} gives {found:#?}");
        assert!(found[0].starts_with(&format!("{field}: Invalid value")), "{found:#?}");
        assert!(found[0].contains("immutable: create a new InferenceJob"), "{found:#?}");
        assert_eq!(errors(&schema, &with(&changes), None), Vec::<String>::new(), "fine when created so");
    }
    let changes = json!({"suspend": true, "parallelism": 3, "maxCost": "9"});
    assert_eq!(errors(&schema, &with(&changes), Some(&job(&good()))), Vec::<String>::new());
}

/// Prints how long admission takes; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let schema = schema("InferenceJob");
    let mut object = job(&good());
    schema.default(&mut object);
    let big = {
        let items: Vec<String> = (0..1000).map(|i| format!("item {i} {}", "x".repeat(200))).collect();
        let mut big = object.clone();
        big["spec"]["input"]["items"] = json!(items);
        big
    };
    for (name, object, old) in [
        ("create", &object, None),
        ("update", &object, Some(&object)),
        ("1000 items", &big, None),
        ("its update", &big, Some(&big)),
    ] {
        let rounds = 200;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert!(schema.validate(object, old).is_empty());
        }
        println!("{name}: {} bytes, {:?} each", object.to_string().len(), start.elapsed() / rounds);
    }
    let definition = definitions().into_iter().find(|d| d["spec"]["names"]["kind"] == "InferenceJob").expect("a CRD");
    let start = std::time::Instant::now();
    let compiled = Schema::compile(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    println!("compile: {:?}, {}", start.elapsed(), compiled.is_ok());
}
