//! Custom resources → domain types: defaults, the strictest tier, and refusals by field name.

use nightshift_crds::{InferenceJobSpec, ModelArtifactSpec};
use nightshift_scheduler::controller::convert::{self, Identity};
use nightshift_scheduler::models::{ReadyModel, ReadyVariant};
use nightshift_types::{
    Batching, Bytes, DeviceClass, Digest, Dtype, InputRef, Milliseconds, Reputation, TaintEffect, TrustTier,
};
use serde_json::{Value, json};

fn manifest(more: Value) -> ModelArtifactSpec {
    let mut spec = json!({
        "source": { "uri": "data:,x" },
        "digest": format!("sha256:{}", "a".repeat(64)),
        "inputs": [
            { "name": "audio", "codec": "wav", "wav": { "sampleRate": 16000 } },
            { "name": "rate", "codec": "tensor", "constant": "16000" },
            { "name": "gain", "codec": "tensor", "constant": "0.5" },
            { "name": "flag", "codec": "tensor", "constant": "true" },
        ],
        "outputs": [{ "name": "y", "codec": "segments", "segments": { "threshold": "0.4" } }],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn job(more: Value) -> InferenceJobSpec {
    let mut spec = json!({ "modelRef": { "name": "m" }, "input": { "inline": "1" } });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn ready(manifest: &ModelArtifactSpec, tier: TrustTier) -> ReadyModel {
    let file = InputRef { digest: Digest([0xaa; 32]), size: Bytes::mebi(100) };
    let sources = convert::variant_sources(manifest).unwrap();
    let variants = sources
        .iter()
        .map(|source| ReadyVariant { variant: source.variant(&file, None), file, reference: Milliseconds(7) })
        .collect();
    ReadyModel { spec: convert::model_spec(manifest).unwrap(), variants, min_trust_tier: tier, public: false }
}

#[test]
fn constants_get_pytorchs_types_and_options_their_names() {
    let spec = convert::model_spec(&manifest(json!({}))).unwrap();
    let types: Vec<Dtype> = spec.inputs.iter().map(|port| port.dtype).collect();
    assert_eq!(types, [Dtype::Float32, Dtype::Int64, Dtype::Float64, Dtype::Bool]);
    assert_eq!(spec.method, "forward");
    assert_eq!(spec.inputs[0].options["sampleRate"], "16000");
    assert_eq!(spec.outputs[0].options["threshold"], "0.4");
    let text = manifest(json!({ "inputs": [{ "name": "x", "codec": "text" }] }));
    assert_eq!(convert::model_spec(&text).unwrap().inputs[0].dtype, Dtype::Int64);
    let text = json!({ "tensor": "attentionMask", "maxTokens": 128, "padding": "max" });
    let mask = json!({ "name": "m", "codec": "text", "dtype": "int32", "text": text });
    let mask = convert::model_spec(&manifest(json!({ "inputs": [mask] }))).unwrap().inputs[0].clone();
    assert_eq!((&*mask.options["tensor"], &*mask.options["maxTokens"]), ("attentionMask", "128"));
    let floats = manifest(json!({ "inputs": [{ "name": "x", "codec": "text", "dtype": "float32" }] }));
    assert!(convert::model_spec(&floats).unwrap_err().0.contains("codec text makes dtype int64 or int32"));
    let audio = manifest(json!({ "inputs": [{ "name": "x", "codec": "audio", "audio": { "sampleRate": 8000 } }] }));
    assert_eq!(convert::model_spec(&audio).unwrap().inputs[0].options["sampleRate"], "8000");
    assert_eq!(convert::model_spec(&audio).unwrap().inputs[0].options["maxSeconds"], "3600");
}

#[test]
fn pictures_are_taken_and_what_their_codec_would_refuse_is_named() {
    let imagenet = json!({ "name": "x", "codec": "image", "shape": [1, 3, 224, 224], "image": {
        "resize": "crop", "cropFraction": "0.875", "mean": ["0.485", "0.456", "0.406"], "std": ["0.229", "0.224", "0.225"],
    } });
    let picture = json!({ "name": "y", "codec": "image", "image": {
        "format": "jpeg", "quality": 80, "maxSide": 512, "watermark": "preview",
    } });
    let spec = convert::model_spec(&manifest(json!({ "inputs": [imagenet], "outputs": [picture] }))).unwrap();
    let logits = json!({ "name": "y", "codec": "labels", "labels": { "softmax": true } });
    let labelled = convert::model_spec(&manifest(json!({ "outputs": [logits] }))).unwrap();
    assert_eq!(labelled.outputs[0].options["softmax"], "true");
    let (input, output) = (&spec.inputs[0], &spec.outputs[0]);
    assert_eq!(input.dtype, Dtype::Float32);
    assert_eq!((&*input.options["resize"], &*input.options["cropFraction"]), ("crop", "0.875"));
    assert_eq!(input.options["mean"], r#"["0.485","0.456","0.406"]"#);
    assert_eq!((&*output.options["format"], &*output.options["maxSide"]), ("jpeg", "512"));

    let refused = |side: &str, port: Value, expected: &str| {
        let mut port = port;
        port["name"] = json!("p");
        port["codec"] = json!("image");
        let error = convert::model_spec(&manifest(json!({ side: [port] }))).unwrap_err().0;
        assert!(error.starts_with(&format!("spec.{side} p: ")) && error.contains(expected), "{error}");
    };
    let input = |port, expected: &str| refused("inputs", port, expected);
    input(json!({ "dtype": "int64" }), "dtype must be float32");
    input(json!({ "shape": [3, 3] }), "[channels, height, width]");
    input(json!({ "image": { "watermark": "mine" } }), "are for outputs: remove them");
    input(json!({ "shape": [1, 1, 28, 28], "image": { "channels": "bgr" } }), "gray is 1 and rgb or bgr 3");
    input(json!({ "shape": [1, 3, 28, -1], "image": { "resize": "pad" } }), "set image.width");
    input(json!({ "image": { "resize": "pad", "width": 8 } }), "set image.height");
    input(json!({ "image": { "cropFraction": "0.5" } }), "for image.resize crop only");
    input(json!({ "dtype": "uint8", "image": { "mean": ["0.5"] } }), "for floating point");
    input(json!({ "image": { "mean": ["0.5", "0.5"] } }), "one a channel");
    input(json!({ "image": { "std": ["0"] } }), "must not be zero");
    let output = |port, expected: &str| refused("outputs", port, expected);
    output(json!({ "image": { "width": 8 } }), "are for inputs: remove them");
    output(json!({ "image": { "quality": 8 } }), "for image.format jpeg only");
    output(json!({ "image": { "watermark": "\u{65e5}" } }), "Latin-1");
}

#[test]
fn batching_needs_a_size_to_put_inputs_behind_each_other_in() {
    let batching = |shape: Value, max: i32| {
        let input = json!({ "name": "x", "codec": "tensor", "shape": shape });
        let constant = json!({ "name": "rate", "codec": "json", "constant": "7" });
        let batching = json!({ "max": max, "maxDelayMilliseconds": 5 });
        convert::model_spec(&manifest(json!({ "inputs": [input, constant], "batching": batching })))
    };
    for shape in [json!([-1, 4]), json!([1, 3, 224, 224])] {
        assert_eq!(batching(shape, 8).unwrap().batching, Batching { max: 8, max_delay_ms: 5 });
    }
    let error = batching(json!([512]), 8).unwrap_err().0;
    assert!(error.contains("spec.batching.max") && error.contains("\"x\"") && error.contains("-1 or 1"), "{error}");
    assert_eq!(batching(json!([512]), 1).unwrap().batching, Batching::default(), "one by one is no batch");
}

#[test]
fn a_model_that_says_nothing_of_memory_gets_its_file_and_a_context() {
    let file = InputRef { digest: Digest([0xaa; 32]), size: Bytes::mebi(100) };
    let source = &convert::variant_sources(&manifest(json!({}))).unwrap()[0];
    assert_eq!(source.name, "default");
    assert_eq!(source.variant(&file, None).memory_for_one(), Bytes::mebi(100 + 256));
    assert_eq!(source.variant(&file, Some(Bytes::mebi(500))).memory_for_one(), Bytes::mebi(500));
    let variants = json!({ "variants": [
        { "name": "gpu", "deviceClasses": ["cuda"], "memory": { "weights": "1Gi", "perItem": "1Gi", "context": "1Gi" } },
        { "name": "any", "memory": { "weights": "2Gi", "perItem": "0", "context": "0" } },
    ] });
    let model = ready(&manifest(variants), TrustTier::Public);
    let choose =
        |wanted, classes: &[DeviceClass]| convert::choose_variant(&model, wanted, classes).map(|v| &*v.variant.name);
    assert_eq!(choose(None, &[DeviceClass::Cpu]).unwrap(), "any");
    assert_eq!(choose(None, &[DeviceClass::Cpu, DeviceClass::Cuda]).unwrap(), "gpu");
    assert_eq!(choose(Some("any"), &[]).unwrap(), "any");
    assert!(choose(Some("none"), &[]).unwrap_err().0.contains("gpu, any"));
    assert_eq!(model.variants[0].variant.memory_for_one(), Bytes::gibi(3));
}

#[test]
fn a_job_takes_the_stricter_tier_and_its_own_memory() {
    let model = ready(&manifest(json!({})), TrustTier::Operator);
    let spec = job(json!({
        "resources": { "deviceMemory": "6Gi" }, "maxPricePerHour": "0.25", "maxLatencyMilliseconds": 3000, "minReputation": "0.80001",
        "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }], "activeDeadlineSeconds": 9,
    }));
    let identity = Identity { namespace: "ns", name: "j", generation: 4 };
    let job = convert::job_spec(identity, &spec, &model, &model.variants[0], vec![], 7).unwrap();
    assert_eq!(job.memory, Bytes::gibi(6));
    assert_eq!(job.min_trust_tier, TrustTier::Operator, "the model's is stricter than the default, Vetted");
    assert_eq!(job.min_reputation, Some(Reputation::new(801)), "nothing below what it asks for passes");
    assert_eq!(job.max_price_per_hour.unwrap().to_string(), "0.25");
    assert_eq!((job.max_latency, job.active_deadline), (Some(Milliseconds(3000)), Some(Milliseconds(9000))));
    assert_eq!(job.tolerations[0].effect, Some(TaintEffect::NoSchedule));
    assert_eq!((job.parallelism, job.backoff_limit, job.queue.as_str()), (10, 6, "default"));
    assert_eq!((job.namespace.as_str(), job.generation, job.priority), ("ns", 4, 7));
    let gang = crate::job(json!({ "minParallelism": 2 }));
    let error = convert::job_spec(identity, &gang, &model, &model.variants[0], vec![], 0).unwrap_err().0;
    assert!(error.contains("spec.minParallelism is 2 and the job has 0 tasks"), "{error}");
}

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    let cases = [
        (json!({ "firstAvailable": [{ "deviceClass": "cpu" }] }), "spec.firstAvailable"),
        (json!({ "output": { "uri": "s3://b/k" } }), "spec.output"),
        (json!({ "failurePolicy": { "rules": [] } }), "spec.failurePolicy"),
        (json!({ "verification": "Always" }), "spec.verification"),
    ];
    for (more, field) in cases {
        let error = convert::check_supported(&job(more)).unwrap_err().0;
        assert!(error.starts_with(field) && error.contains(": "), "{error}");
    }
    let gang = json!({ "minParallelism": 2, "priorityClassName": "high", "verification": "None" });
    convert::check_supported(&job(gang)).unwrap();
}
