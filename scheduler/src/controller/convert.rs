//! Custom resource → domain: the one file that reads the API's types and writes ours.
//!
//! in → specs that passed the API server's schema · out → `JobSpec`, `ModelSpec`, `Variant` · invariant: what this
//! version cannot do is refused by its field's name, never ignored.

use crate::models::{ReadyModel, ReadyVariant};
use crate::tenants::Tenant;
use nightshift_crds as crds;
use nightshift_state::JobTerms;
use nightshift_types as types;
use nightshift_types::{
    Budget, Bytes, Codec, DeviceClass, Digest, Dtype, InputRef, JobSpec, Milliseconds, PicoPoints, Port,
};

/// A spec that cannot be run as it is; the text names the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

type Converted<T> = Result<T, Misconfigured>;

fn no(text: impl Into<String>) -> Misconfigured {
    Misconfigured(text.into())
}

/// What a batch may hold; its inputs' digests stand in one event of the journal.
pub const MAX_TASKS: usize = 10_000;
/// Weights and context are not known before a first run: memory assumed of a model that says nothing, above its file.
const DEFAULT_CONTEXT: Bytes = Bytes::mebi(256);

/// How a model is called.
pub fn model_spec(spec: &crds::ModelArtifactSpec) -> Converted<types::ModelSpec> {
    let ports = |list: &[crds::ModelTensor], field| -> Converted<Vec<Port>> {
        list.iter().map(|tensor| port(tensor, field)).collect()
    };
    let model = types::ModelSpec {
        method: spec.method.clone(),
        inputs: ports(&spec.inputs, "spec.inputs")?,
        outputs: ports(&spec.outputs, "spec.outputs")?,
        batching: batching(spec)?,
    };
    match serde_json::to_vec(&model) {
        Ok(bytes) if bytes.len() <= 64 << 10 => Ok(model),
        _ => Err(no("spec.inputs and spec.outputs are more than 64 KiB together: shorten their labels or constants")),
    }
}

/// How many inputs one call may have. Without a first size that is open, or 1, there is nothing to put them behind each
/// other in.
fn batching(spec: &crds::ModelArtifactSpec) -> Converted<types::Batching> {
    let Some(batching) = spec.batching.as_ref().filter(|batching| batching.max > 1) else {
        return Ok(types::Batching::default());
    };
    let first = |tensor: &crds::ModelTensor| tensor.shape.as_ref().and_then(|shape| shape.first()).copied();
    let fixed = spec.inputs.iter().filter(|input| input.constant.is_none());
    if let Some(input) = fixed.into_iter().find(|input| !matches!(first(input), Some(-1 | 1))) {
        return Err(no(format!(
            "spec.batching.max: the first size of input {:?} must be the batch's: begin its shape with -1 or 1, or remove \
             batching",
            input.name
        )));
    }
    Ok(types::Batching {
        max: u32::try_from(batching.max).unwrap_or(1),
        max_delay_ms: u64::try_from(batching.max_delay_milliseconds).unwrap_or(0),
    })
}

fn port(tensor: &crds::ModelTensor, field: &str) -> Converted<Port> {
    let codec: Codec = tensor.codec.as_str().parse().map_err(no)?;
    let dtype = match tensor.dtype {
        Some(dtype) => dtype.as_str().parse().map_err(no)?,
        None if codec == Codec::Text => Dtype::Int64,
        None => default_dtype(tensor.constant.as_deref()),
    };
    let made: &[Dtype] = match codec {
        Codec::Text => &[Dtype::Int64, Dtype::Int32],
        Codec::Audio => &[Dtype::Float32],
        _ => Dtype::ALL,
    };
    if !made.contains(&dtype) {
        let words: Vec<&str> = made.iter().map(|dtype| dtype.as_str()).collect();
        return Err(no(format!("{field} {}: codec {codec} makes dtype {}", tensor.name, words.join(" or "))));
    }
    if codec == Codec::Image {
        check_image(tensor, dtype, field)?;
    }
    Ok(Port {
        name: tensor.name.clone(),
        codec,
        dtype,
        shape: tensor.shape.clone().unwrap_or_default(),
        constant: tensor.constant.clone(),
        options: tensor.codec_options(),
    })
}

/// What the agents' codec would refuse of a picture's description: told once, before any task fails of it.
fn check_image(tensor: &crds::ModelTensor, dtype: Dtype, field: &str) -> Converted<()> {
    let options = tensor.image.clone().unwrap_or_default();
    let problem = match field.ends_with("outputs") {
        true => output_problem(&options),
        false => input_problem(&options, tensor.shape.as_deref().unwrap_or_default()),
    };
    match problem.or_else(|| values_problem(&options, dtype, tensor.shape.as_deref().unwrap_or_default())) {
        None => Ok(()),
        Some(problem) => Err(no(format!("{field} {}: {problem}", tensor.name))),
    }
}

type Problem = Option<&'static str>;

fn first(cases: &[(bool, &'static str)]) -> Problem {
    cases.iter().find(|(wrong, _)| *wrong).map(|(_, problem)| *problem)
}

fn input_problem(options: &crds::ImageOptions, shape: &[i64]) -> Problem {
    let file = options.format.is_some() || options.quality.is_some();
    let of_output = file || options.max_side.is_some() || options.watermark.is_some();
    let fits = options.resize.is_some_and(|resize| resize != crds::ImageResize::Stretch);
    let fixed = |from_end: usize| shape.len().checked_sub(from_end).is_some_and(|index| shape[index] > 0);
    let below = |fraction: &crds::FractionString| fraction.parse().is_ok_and(|fraction: f64| fraction < 0.1);
    let crop = options.resize == Some(crds::ImageResize::Crop);
    first(&[
        (of_output, "image.format, quality, maxSide and watermark are for outputs: remove them"),
        (fits && options.width.is_none() && !fixed(1), "image.resize crop and pad need a width: set image.width"),
        (fits && options.height.is_none() && !fixed(2), "image.resize crop and pad need a height: set image.height"),
        (!crop && options.crop_fraction.is_some(), "image.cropFraction is for image.resize crop only"),
        (options.crop_fraction.as_ref().is_some_and(below), "image.cropFraction must be from 0.1 to 1"),
    ])
}

fn output_problem(options: &crds::ImageOptions) -> Problem {
    let size = options.width.is_some() || options.height.is_some() || options.crop_fraction.is_some();
    let of_input = size || options.resize.is_some() || options.filter.is_some() || options.background.is_some();
    let jpeg = options.format == Some(crds::ImageFormat::Jpeg);
    let latin = |text: &String| text.chars().all(|c| matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}'));
    first(&[
        (of_input, "image.width, height, resize, cropFraction, filter and background are for inputs: remove them"),
        (options.quality.is_some() && !jpeg, "image.quality is for image.format jpeg only"),
        (!options.watermark.as_ref().is_none_or(latin), "image.watermark must be Latin-1"),
    ])
}

fn values_problem(options: &crds::ImageOptions, dtype: Dtype, shape: &[i64]) -> Problem {
    let (channels, known) = match shape {
        [] => (-1, true),
        [1 | -1, channels, _, _] | [channels, _, _] => (*channels, true),
        _ => (-1, false),
    };
    let gray = matches!((options.channels, channels), (Some(crds::ImageChannels::Gray), _) | (None, 1));
    let count = if gray { 1 } else { 3 };
    let numbers = |list: usize| list > 1 && list != count;
    let zero = |text: &crds::DecimalString| text.parse().is_ok_and(|value: f64| value < 1e-6);
    let normalised = options.scale.is_some() || !options.mean.is_empty() || !options.std.is_empty();
    let made = matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Uint8);
    first(&[
        (!made, "dtype must be float32, float16, bfloat16 or uint8"),
        (!known, "shape must be [1, channels, height, width] or [channels, height, width]"),
        (
            channels != -1 && channels != count as i64,
            "of image.channels, gray is 1 and rgb or bgr 3; the shape differs",
        ),
        (dtype == Dtype::Uint8 && normalised, "image.scale, mean and std are for floating point, not uint8"),
        (numbers(options.mean.len()) || numbers(options.std.len()), "image.mean and std: one number, or one a channel"),
        (options.std.iter().chain(&options.scale).any(zero), "image.std and scale must not be zero"),
    ])
}

/// Of a constant, PyTorch's own default for that JSON value; else what the codecs make.
fn default_dtype(constant: Option<&str>) -> Dtype {
    match constant.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()) {
        Some(serde_json::Value::Bool(_)) => Dtype::Bool,
        Some(serde_json::Value::Number(number)) if number.is_i64() => Dtype::Int64,
        Some(serde_json::Value::Number(_)) => Dtype::Float64,
        _ => Dtype::Float32,
    }
}

/// One file of a model: where it comes from, and what it needs once its size is known.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantSource {
    /// Its name; `default` for a model without variants.
    pub name: String,
    /// Where the bytes are.
    pub uri: String,
    /// What they hash to.
    pub digest: Digest,
    memory: Option<crds::ModelMemory>,
    classes: Vec<DeviceClass>,
}

impl VariantSource {
    /// With sizes; memory that the manifest leaves out is taken from the file's size and the proving run's peak.
    pub fn variant(&self, file: &InputRef, proved_peak: Option<Bytes>) -> types::Variant {
        let memory = self.memory.clone().unwrap_or_default();
        let of = |quantity: &Option<crds::Quantity>| quantity.as_ref().and_then(|q| q.0.parse().ok());
        let weights = of(&memory.weights).unwrap_or(file.size);
        let context = of(&memory.context).unwrap_or_else(|| match proved_peak {
            Some(peak) => peak.saturating_sub(weights),
            None => DEFAULT_CONTEXT,
        });
        let per_item = of(&memory.per_item).unwrap_or(Bytes(0));
        let classes = self.classes.clone();
        types::Variant {
            name: self.name.clone(),
            digest: self.digest,
            weights,
            per_item,
            context,
            device_classes: classes,
        }
    }
}

/// A model's files, in the manifest's order.
pub fn variant_sources(spec: &crds::ModelArtifactSpec) -> Converted<Vec<VariantSource>> {
    if spec.source.credentials_secret_ref.is_some() {
        return Err(no(
            "spec.source.credentialsSecretRef is not supported by this version: `nightshift push FILE` and use the store: URI it prints",
        ));
    }
    let digest = |text: &str| text.parse::<Digest>().map_err(|e| no(format!("spec.digest: {e}")));
    if spec.variants.is_empty() {
        return Ok(vec![VariantSource {
            name: "default".into(),
            uri: spec.source.uri.to_string(),
            digest: digest(&spec.digest)?,
            memory: None,
            classes: Vec::new(),
        }]);
    }
    let source = |variant: &crds::ModelVariant| {
        Ok(VariantSource {
            name: variant.name.clone(),
            uri: variant.uri.as_ref().unwrap_or(&spec.source.uri).to_string(),
            digest: digest(variant.digest.as_ref().unwrap_or(&spec.digest))?,
            memory: variant.memory.clone(),
            classes: variant.device_classes.iter().map(|class| (*class).into()).collect(),
        })
    };
    spec.variants.iter().map(source).collect()
}

/// The variant a job runs: the one it names, else the first that runs on a class some node has, else the first.
pub fn choose_variant<'a>(
    model: &'a ReadyModel,
    wanted: Option<&str>,
    classes: &[DeviceClass],
) -> Converted<&'a ReadyVariant> {
    if let Some(wanted) = wanted {
        let names = || model.variants.iter().map(|v| v.variant.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = model.variants.iter().find(|v| v.variant.name == wanted);
        return found.ok_or_else(|| {
            no(format!("spec.modelRef.variant: the model has no variant {wanted:?}, but {}: name one of them", names()))
        });
    }
    let runs = |v: &&ReadyVariant| {
        v.variant.device_classes.is_empty() || v.variant.device_classes.iter().any(|class| classes.contains(class))
    };
    let chosen = model.variants.iter().find(runs).or(model.variants.first());
    chosen.ok_or_else(|| no("the model has no variants"))
}

/// What a job's spec asks for that this version does not do.
pub fn check_supported(spec: &crds::InferenceJobSpec) -> Converted<()> {
    let cases = [
        (!spec.first_available.is_empty(), "spec.firstAvailable", "use spec.modelRef.variant"),
        (spec.output.is_some(), "spec.output", "leave it out and fetch results with `nightshift results`"),
        (spec.input.credentials_secret_ref.is_some(), "spec.input.credentialsSecretRef", "use `nightshift push FILE`"),
        (spec.failure_policy.is_some(), "spec.failurePolicy", "leave it out"),
        (
            spec.verification.is_some_and(|v| v != crds::Verification::None),
            "spec.verification",
            "leave it out or set None",
        ),
    ];
    match cases.iter().find(|(asked, _, _)| *asked) {
        None => Ok(()),
        Some((_, field, remedy)) => Err(no(format!("{field} is not supported by this version: {remedy}"))),
    }
}

fn points(field: &str, text: &Option<crds::PointsString>) -> Converted<Option<PicoPoints>> {
    let parsed = text.as_ref().map(crds::PointsString::pico).transpose();
    parsed.map_err(|e| no(format!("{field}: {e}")))
}

fn seconds(value: Option<i64>) -> Option<Milliseconds> {
    value.map(|s| Milliseconds((s.max(0) as u64).saturating_mul(1000)))
}

/// A custom resource as an object: its names and generation.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Kubernetes name.
    pub name: &'a str,
    /// `metadata.generation`.
    pub generation: i64,
}

/// What of a job decides where it runs and who pays: it may change while the job does.
///
/// `memory` is what the model needs unless the job says otherwise, `model_tier` the least tier that the model asks for.
/// `priority` is that of its PriorityClass, or of its queue.
pub fn terms(
    spec: &crds::InferenceJobSpec,
    memory: Bytes,
    model_tier: types::TrustTier,
    priority: i32,
) -> Converted<JobTerms> {
    let memory = match spec.resources.as_ref().and_then(|r| r.device_memory.as_ref()) {
        Some(quantity) => quantity.0.parse().map_err(|e| no(format!("spec.resources.deviceMemory: {e}")))?,
        None => memory,
    };
    let job_tier: types::TrustTier = spec.min_trust_tier.into();
    let least = spec.min_reputation.as_ref().map(|text| types::Reputation::at_least(&text.0)).transpose();
    Ok(JobTerms {
        objective: spec.objective.as_str().parse().map_err(no)?,
        max_latency: spec.max_latency_milliseconds.map(|ms| Milliseconds(ms.max(0) as u64)),
        max_price_per_hour: points("spec.maxPricePerHour", &spec.max_price_per_hour)?,
        max_cost: points("spec.maxCost", &spec.max_cost)?,
        memory,
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.iter().map(toleration).collect::<Converted<_>>()?,
        min_trust_tier: job_tier.max(model_tier),
        min_reputation: least.map_err(|e| no(format!("spec.minReputation: {e}")))?,
        regions: spec.regions.clone(),
        queue: spec.queue_name.clone(),
        priority,
        min_parallelism: spec.min_parallelism.unwrap_or(0).max(0) as u32,
    })
}

/// The job as the journal keeps it.
pub fn job_spec(
    identity: Identity<'_>,
    spec: &crds::InferenceJobSpec,
    model: &ReadyModel,
    chosen: &ReadyVariant,
    inputs: Vec<InputRef>,
    priority: i32,
) -> Converted<JobSpec> {
    let terms = terms(spec, chosen.variant.memory_for_one(), model.min_trust_tier, priority)?;
    let (least, tasks) = (terms.min_parallelism as usize, inputs.len());
    if least > tasks && least > 1 {
        return Err(no(format!("spec.minParallelism is {least} and the job has {tasks} tasks: lower it")));
    }
    Ok(JobSpec {
        namespace: identity.namespace.into(),
        name: identity.name.into(),
        generation: identity.generation,
        model_name: spec.model_ref.name.clone(),
        model_digest: chosen.file.digest,
        model_size: chosen.file.size,
        variant: chosen.variant.name.clone(),
        model: model.spec.clone(),
        memory: terms.memory,
        per_item: chosen.variant.per_item.min(terms.memory),
        reference: chosen.reference,
        inputs,
        parameters: spec.parameters.clone(),
        objective: terms.objective,
        max_latency: terms.max_latency,
        max_price_per_hour: terms.max_price_per_hour,
        max_cost: terms.max_cost,
        device_classes: chosen.variant.device_classes.clone(),
        node_selector: terms.node_selector,
        tolerations: terms.tolerations,
        min_trust_tier: terms.min_trust_tier,
        min_reputation: terms.min_reputation,
        regions: terms.regions,
        queue: terms.queue,
        priority: terms.priority,
        parallelism: spec.parallelism.max(0) as u32,
        min_parallelism: terms.min_parallelism,
        backoff_limit: spec.backoff_limit().max(0) as u32,
        backoff_limit_per_index: spec.backoff_limit_per_index.map(|limit| limit.max(0) as u32),
        max_failed_indexes: spec.max_failed_indexes.map(|limit| limit.max(0) as u32),
        suspend: spec.suspend,
        active_deadline: seconds(spec.active_deadline_seconds),
        pending_deadline: seconds(spec.pending_deadline_seconds),
    })
}

fn effect(text: &str) -> Converted<types::TaintEffect> {
    match text {
        "NoSchedule" => Ok(types::TaintEffect::NoSchedule),
        "PreferNoSchedule" => Ok(types::TaintEffect::PreferNoSchedule),
        "NoExecute" => Ok(types::TaintEffect::NoExecute),
        other => Err(no(format!("effect {other:?} must be NoSchedule, PreferNoSchedule or NoExecute"))),
    }
}

fn toleration(t: &crds::Toleration) -> Converted<types::Toleration> {
    let operator = match t.operator.as_deref() {
        None | Some("" | "Equal") => types::TolerationOperator::Equal,
        Some("Exists") => types::TolerationOperator::Exists,
        Some(other) => return Err(no(format!("spec.tolerations: operator {other:?} must be Equal or Exists"))),
    };
    Ok(types::Toleration {
        key: t.key.clone().unwrap_or_default(),
        operator,
        value: t.value.clone().unwrap_or_default(),
        effect: t.effect.as_deref().filter(|e| !e.is_empty()).map(effect).transpose()?,
    })
}

/// A queue as the cycle and the ledger know it. `default_priority` is what `spec.defaultPriorityClassName` stands for.
pub fn tenant(spec: &crds::TenantQueueSpec, default_priority: i32) -> Converted<(Tenant, Option<Budget>)> {
    let mut quota = types::Quota::default();
    for limit in &spec.quotas {
        let amount: Bytes = limit.limit.0.parse().map_err(|e| no(format!("spec.quotas: {e}")))?;
        match limit.resource {
            crds::QuotaResource::Tasks => quota.tasks = Some(u32::try_from(amount.0).unwrap_or(u32::MAX)),
            crds::QuotaResource::DeviceMemory => quota.device_memory = Some(amount),
        }
    }
    let queue = types::TenantQueue {
        weight: u32::try_from(spec.weight).unwrap_or(1).clamp(1, types::queue::MOST_WEIGHT),
        tier: spec.tier.as_str().parse().map_err(no)?,
        stop: spec.stop_policy.as_str().parse().map_err(no)?,
        quota,
        max_price_per_hour: points("spec.maxPricePerHour", &spec.max_price_per_hour)?,
        default_priority,
    };
    let namespaces = spec.namespace_selector.clone().unwrap_or_default();
    let namespaces = namespaces.try_into().map_err(|e| no(format!("spec.namespaceSelector: {e}")))?;
    let budget = spec.budget.as_ref().map(|budget| {
        let points = budget.points.pico().map_err(|e| no(format!("spec.budget.points: {e}")))?;
        Ok(Budget { points, period: budget.period.as_str().parse().map_err(no)? })
    });
    Ok((Tenant { queue, namespaces, broken: None }, budget.transpose()?))
}

/// A node's taints, as its operator set them; one with an unknown effect keeps everything away.
pub fn taints(list: &[crds::Taint]) -> Vec<types::Taint> {
    let taint = |t: &crds::Taint| types::Taint {
        key: t.key.clone(),
        value: t.value.clone().unwrap_or_default(),
        effect: effect(&t.effect).unwrap_or(types::TaintEffect::NoSchedule),
    };
    list.iter().map(taint).collect()
}
