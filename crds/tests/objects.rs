//! Objects through the types and through the CEL rules, as an API server would have them.

use nightshift_crds::{
    Codec, ComputeNode, FailureAction, FailurePolicy, InferenceInput, InferenceJob, InferenceJobSpec, ModelArtifact,
    PointsString, TenantQueue, all,
};
use nightshift_types::{FailureReason, PicoPoints};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)).unwrap()
}

fn schema(kind: &str) -> Value {
    let crd = all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// What is written is read, all of it: a field that the types do not know would be missing afterwards.
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(name: &str) -> T {
    let text = file(name);
    let before: Value = serde_yaml::from_str(&text).unwrap();
    let object: T = serde_yaml::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), before);
    object
}

#[test]
fn examples_round_trip() {
    let job: InferenceJob = round_trip("examples/job.yaml");
    assert_eq!(job.spec.max_cost.unwrap().pico().unwrap(), "0.01".parse::<PicoPoints>().unwrap());
    round_trip::<ComputeNode>("examples/node.yaml");
    round_trip::<TenantQueue>("examples/queue.yaml");
    let model: ModelArtifact = round_trip("examples/silero-vad.yaml");
    let options = model.spec.outputs[0].codec_options();
    assert_eq!(model.spec.outputs[0].codec, Codec::Segments);
    assert_eq!((options["threshold"].as_str(), options["windowSamples"].as_str()), ("0.5", "512"));
}

#[test]
fn defaults_are_the_schemas() {
    let written = InferenceJobSpec::new("m", InferenceInput { inline: Some("1".into()), ..InferenceInput::default() });
    let applied = json!({"spec": {"modelRef": {"name": "m"}, "input": {"inline": "1"}}});
    let applied = kube_cel::apply_defaults(&schema("InferenceJob"), &applied);
    assert_eq!(serde_json::to_value(&written).unwrap(), applied["spec"]);
    assert_eq!((written.parallelism, written.queue_name.as_str(), written.backoff_limit()), (10, "default", 6));
    assert_eq!(InferenceJobSpec { backoff_limit_per_index: Some(1), ..written }.backoff_limit(), i32::MAX);

    let node = kube_cel::apply_defaults(&schema("ComputeNode"), &json!({"spec": {}}));
    assert_eq!(serde_json::to_value(nightshift_crds::ComputeNodeSpec::default()).unwrap(), node["spec"]);

    let queue = kube_cel::apply_defaults(&schema("TenantQueue"), &json!({"spec": {}}));
    assert_eq!(serde_json::to_value(nightshift_crds::TenantQueueSpec::default()).unwrap(), queue["spec"]);
}

#[test]
fn a_memory_may_be_a_number() {
    let spec =
        json!({"modelRef": {"name": "m"}, "input": {"inline": "1"}, "resources": {"deviceMemory": 8000000000_i64}});
    let spec: InferenceJobSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.resources.unwrap().device_memory.unwrap().0, "8000000000");
}

#[test]
fn items_are_bounded_together_in_bytes() {
    let schema = schema("InferenceJob");
    let validate = |item: &str, count: usize| {
        let spec = json!({"modelRef": {"name": "m"}, "input": {"items": vec![item; count]}});
        kube_cel::Validator::new().validate_with_defaults(&schema, &json!({"spec": spec}), None)
    };
    // 'ü' is two bytes: 32 such items of 8192 letters are 512 KiB.
    let item = "ü".repeat(8192);
    assert!(validate(&item, 32).is_ok());
    let errors = validate(&item, 33).unwrap_err();
    assert!(errors[0].message.contains("spec.input.items must be at most 512 KiB together"), "{errors:?}");
}

#[test]
fn points_are_never_negative_outside() {
    assert_eq!(PointsString::from(PicoPoints(-1)).0, "0");
    assert_eq!(PointsString::from(PicoPoints(1)).0, "0.000000000001");
}

#[test]
fn failures_count_unless_said() {
    let action = |policy: Option<&FailurePolicy>, reason| FailurePolicy::action(policy, reason);
    assert_eq!(action(None, FailureReason::NodeLost), FailureAction::Ignore);
    assert_eq!(action(None, FailureReason::OutOfMemory), FailureAction::Count);
    let policy = |operator: &str| -> FailurePolicy {
        let on = json!({"operator": operator, "values": ["NodeLost"]});
        serde_json::from_value(json!({"rules": [{"action": "FailJob", "onReasons": on}]})).unwrap()
    };
    assert_eq!(action(Some(&policy("In")), FailureReason::NodeLost), FailureAction::FailJob);
    assert_eq!(action(Some(&policy("NotIn")), FailureReason::NodeLost), FailureAction::Ignore);
    assert_eq!(action(Some(&policy("NotIn")), FailureReason::OutOfMemory), FailureAction::FailJob);
}

#[test]
fn every_rule_compiles() {
    for crd in all() {
        let kind = &crd.spec.names.kind;
        let mut pending = vec![schema(kind)];
        while let Some(schema) = pending.pop() {
            let errors: Vec<_> =
                kube_cel::compile_schema(&schema).compilation_errors().iter().map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{kind}: {errors:?}");
            pending.extend(schema["properties"].as_object().into_iter().flatten().map(|(_, below)| below.clone()));
            pending.extend(
                ["items", "additionalProperties"]
                    .map(|below| schema[below].clone())
                    .into_iter()
                    .filter(Value::is_object),
            );
        }
    }
}

#[derive(Deserialize)]
struct Case {
    name: String,
    old: Option<Value>,
    spec: Value,
    #[serde(default)]
    status: Value,
    want: Option<String>,
}

#[test]
fn rules_say_what_the_cases_want() {
    let mut wrong = Vec::new();
    for kind in ["InferenceJob", "ModelArtifact", "ComputeNode", "TenantQueue"] {
        let schema = schema(kind);
        let cases: Vec<Case> = serde_yaml::from_str(&file(&format!("cases/{}.yaml", kind.to_lowercase()))).unwrap();
        for case in cases {
            let object = |spec: &Value| {
                let mut object = json!({"spec": spec});
                if !case.status.is_null() {
                    object["status"] = case.status.clone();
                }
                kube_cel::apply_defaults(&schema, &object)
            };
            let old = case.old.as_ref().map(object);
            let said = match kube_cel::Validator::new().validate(&schema, &object(&case.spec), old.as_ref()) {
                Ok(()) => String::new(),
                Err(errors) => errors.iter().map(|error| format!("{error}; ")).collect(),
            };
            let right = case.want.as_ref().map_or(said.is_empty(), |want| said.contains(want));
            if !right {
                wrong.push(format!("{kind} {}: {said:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
