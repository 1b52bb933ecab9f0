//! In: JobSpec. Out: its protobuf message, and back. Invariant: equal specs have equal bytes (maps are ordered).

use crate::convert::{DecodeError, bad, hash, id, pb, points, points_to};
use crate::event::JobTerms;
use nightshift_types::{
    Batching, Bytes, Digest, InputRef, JobSpec, Milliseconds, ModelSpec, PicoPoints, Port, Reputation, TaintEffect,
    Toleration, TolerationOperator,
};

pub(crate) fn spec_to(spec: &JobSpec) -> pb::JobSpec {
    let millis = |length: Option<Milliseconds>| length.map(|length| length.0);
    pb::JobSpec {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        generation: spec.generation,
        model_name: spec.model_name.clone(),
        model_digest: spec.model_digest.0.to_vec(),
        model_size: spec.model_size.0,
        variant: spec.variant.clone(),
        model: Some(model_to(&spec.model)),
        memory: spec.memory.0,
        per_item: spec.per_item.0,
        reference_ms: spec.reference.0,
        inputs: spec.inputs.iter().map(|i| pb::Input { digest: i.digest.0.to_vec(), size: i.size.0 }).collect(),
        parameters: spec.parameters.clone(),
        objective: spec.objective.to_string(),
        max_latency_ms: millis(spec.max_latency),
        max_price_per_hour: spec.max_price_per_hour.map(points_to),
        max_cost: spec.max_cost.map(points_to),
        device_classes: spec.device_classes.iter().map(ToString::to_string).collect(),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.iter().map(toleration_to).collect(),
        min_trust_tier: spec.min_trust_tier.to_string(),
        min_reputation_permille: spec.min_reputation.map(reputation_to),
        regions: spec.regions.clone(),
        queue: spec.queue.clone(),
        priority: spec.priority,
        parallelism: spec.parallelism,
        min_parallelism: spec.min_parallelism,
        backoff_limit: spec.backoff_limit,
        backoff_limit_per_index: spec.backoff_limit_per_index,
        max_failed_indexes: spec.max_failed_indexes,
        suspend: spec.suspend,
        active_deadline_ms: millis(spec.active_deadline),
        pending_deadline_ms: millis(spec.pending_deadline),
    }
}

pub(crate) fn spec_from(m: pb::JobSpec) -> Result<JobSpec, DecodeError> {
    let optional = |field, bytes: Option<Vec<u8>>| -> Result<Option<PicoPoints>, DecodeError> {
        bytes.map(|bytes| points(field, &bytes)).transpose()
    };
    let input = |i: &pb::Input| -> Result<InputRef, DecodeError> {
        Ok(InputRef { digest: Digest(hash("spec.inputs.digest", &i.digest)?), size: Bytes(i.size) })
    };
    Ok(JobSpec {
        namespace: m.namespace,
        name: m.name,
        generation: m.generation,
        model_name: m.model_name,
        model_digest: Digest(hash("spec.model_digest", &m.model_digest)?),
        model_size: Bytes(m.model_size),
        variant: m.variant,
        model: model_from(m.model.ok_or_else(|| bad("spec.model", "missing"))?)?,
        memory: Bytes(m.memory),
        per_item: Bytes(m.per_item),
        reference: Milliseconds(m.reference_ms),
        inputs: m.inputs.iter().map(input).collect::<Result<_, _>>()?,
        parameters: m.parameters,
        objective: id("spec.objective", &m.objective)?,
        max_latency: m.max_latency_ms.map(Milliseconds),
        max_price_per_hour: optional("spec.max_price_per_hour", m.max_price_per_hour)?,
        max_cost: optional("spec.max_cost", m.max_cost)?,
        device_classes: m.device_classes.iter().map(|c| id("spec.device_classes", c)).collect::<Result<_, _>>()?,
        node_selector: m.node_selector,
        tolerations: m.tolerations.into_iter().map(toleration_from).collect::<Result<_, _>>()?,
        min_trust_tier: id("spec.min_trust_tier", &m.min_trust_tier)?,
        min_reputation: reputation("spec.min_reputation", m.min_reputation_permille)?,
        regions: m.regions,
        queue: m.queue,
        priority: m.priority,
        parallelism: m.parallelism,
        min_parallelism: m.min_parallelism,
        backoff_limit: m.backoff_limit,
        backoff_limit_per_index: m.backoff_limit_per_index,
        max_failed_indexes: m.max_failed_indexes,
        suspend: m.suspend,
        active_deadline: m.active_deadline_ms.map(Milliseconds),
        pending_deadline: m.pending_deadline_ms.map(Milliseconds),
    })
}

pub(crate) fn terms_to(terms: &JobTerms) -> pb::JobTerms {
    pb::JobTerms {
        objective: terms.objective.to_string(),
        max_latency_ms: terms.max_latency.map(|length| length.0),
        max_price_per_hour: terms.max_price_per_hour.map(points_to),
        max_cost: terms.max_cost.map(points_to),
        memory: terms.memory.0,
        node_selector: terms.node_selector.clone(),
        tolerations: terms.tolerations.iter().map(toleration_to).collect(),
        min_trust_tier: terms.min_trust_tier.to_string(),
        min_reputation_permille: terms.min_reputation.map(reputation_to),
        regions: terms.regions.clone(),
        queue: terms.queue.clone(),
        priority: terms.priority,
        min_parallelism: terms.min_parallelism,
    }
}

pub(crate) fn terms_from(m: pb::JobTerms) -> Result<JobTerms, DecodeError> {
    let optional = |field, bytes: Option<Vec<u8>>| bytes.map(|bytes| points(field, &bytes)).transpose();
    Ok(JobTerms {
        objective: id("terms.objective", &m.objective)?,
        max_latency: m.max_latency_ms.map(Milliseconds),
        max_price_per_hour: optional("terms.max_price_per_hour", m.max_price_per_hour)?,
        max_cost: optional("terms.max_cost", m.max_cost)?,
        memory: Bytes(m.memory),
        node_selector: m.node_selector,
        tolerations: m.tolerations.into_iter().map(toleration_from).collect::<Result<_, _>>()?,
        min_trust_tier: id("terms.min_trust_tier", &m.min_trust_tier)?,
        min_reputation: reputation("terms.min_reputation", m.min_reputation_permille)?,
        regions: m.regions,
        queue: m.queue,
        priority: m.priority,
        min_parallelism: m.min_parallelism,
    })
}

fn reputation_to(reputation: Reputation) -> u32 {
    reputation.permille().into()
}

fn reputation(field: &'static str, permille: Option<u32>) -> Result<Option<Reputation>, DecodeError> {
    let known = |permille| match u16::try_from(permille) {
        Ok(permille) if permille <= 1_000 => Ok(Reputation::new(permille)),
        _ => Err(bad(field, format!("{permille} thousandths"))),
    };
    permille.map(known).transpose()
}

fn model_to(model: &ModelSpec) -> pb::Model {
    let port = |p: &Port| pb::Port {
        name: p.name.clone(),
        codec: p.codec.to_string(),
        dtype: p.dtype.to_string(),
        shape: p.shape.clone(),
        constant: p.constant.clone(),
        options: p.options.clone(),
    };
    let ports = |ports: &[Port]| ports.iter().map(port).collect();
    pb::Model {
        method: model.method.clone(),
        inputs: ports(&model.inputs),
        outputs: ports(&model.outputs),
        batch_max: model.batching.max,
        batch_delay_ms: model.batching.max_delay_ms,
    }
}

fn model_from(m: pb::Model) -> Result<ModelSpec, DecodeError> {
    let port = |p: pb::Port| -> Result<Port, DecodeError> {
        Ok(Port {
            name: p.name,
            codec: id("spec.model.codec", &p.codec)?,
            dtype: id("spec.model.dtype", &p.dtype)?,
            shape: p.shape,
            constant: p.constant,
            options: p.options,
        })
    };
    let ports = |ports: Vec<pb::Port>| ports.into_iter().map(port).collect::<Result<Vec<_>, _>>();
    let batching = Batching { max: m.batch_max, max_delay_ms: m.batch_delay_ms };
    Ok(ModelSpec { method: m.method, inputs: ports(m.inputs)?, outputs: ports(m.outputs)?, batching })
}

const EFFECTS: [(TaintEffect, &str); 3] = [
    (TaintEffect::NoSchedule, "NoSchedule"),
    (TaintEffect::PreferNoSchedule, "PreferNoSchedule"),
    (TaintEffect::NoExecute, "NoExecute"),
];
const OPERATORS: [(TolerationOperator, &str); 2] =
    [(TolerationOperator::Equal, "Equal"), (TolerationOperator::Exists, "Exists")];

fn word<T: Copy + PartialEq>(words: &[(T, &'static str)], value: T) -> String {
    words.iter().find(|(v, _)| *v == value).map(|(_, word)| (*word).to_owned()).expect("every value has a word")
}

fn value<T: Copy>(words: &[(T, &'static str)], field: &'static str, text: &str) -> Result<T, DecodeError> {
    words.iter().find(|(_, w)| *w == text).map(|(v, _)| *v).ok_or_else(|| bad(field, format!("unknown word {text:?}")))
}

fn toleration_to(t: &Toleration) -> pb::Toleration {
    pb::Toleration {
        key: t.key.clone(),
        operator: word(&OPERATORS, t.operator),
        value: t.value.clone(),
        effect: t.effect.map(|effect| word(&EFFECTS, effect)),
    }
}

fn toleration_from(t: pb::Toleration) -> Result<Toleration, DecodeError> {
    Ok(Toleration {
        key: t.key,
        operator: value(&OPERATORS, "spec.tolerations.operator", &t.operator)?,
        value: t.value,
        effect: t.effect.map(|effect| value(&EFFECTS, "spec.tolerations.effect", &effect)).transpose()?,
    })
}
