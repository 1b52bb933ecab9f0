//! A committed placement → the frame that its agent gets.
//!
//! in → a running attempt of the fold · out → `Assignment` · invariant: made from the journal alone, so that the same
//! attempt can be sent again after any crash, word for word.

use nightshift_state::{Running, State};
use nightshift_types::{Epoch, InputRef, JobSpec, Milliseconds};
use nightshift_wire::proto;

/// An attempt stops at this many times its prediction (market.md) …
const DEADLINE_FACTOR: u64 = 3;
/// … but never before this: a cold node fetches and loads first, at a speed nobody has measured yet.
const LEAST_DEADLINE: Milliseconds = Milliseconds(300_000);

/// How long an attempt of this job may take, from its arrival.
pub fn deadline(spec: &JobSpec) -> Milliseconds {
    Milliseconds(spec.reference.0.saturating_mul(DEADLINE_FACTOR).max(LEAST_DEADLINE.0))
}

/// The frame of a running attempt; `None` if its job is gone.
pub fn assignment(state: &State, running: &Running, epoch: &Epoch) -> Option<proto::Assignment> {
    let job = state.job(&running.attempt.task.job)?;
    let input = job.spec.inputs.get(running.attempt.task.index as usize)?;
    let spec = &job.spec;
    let file = InputRef { digest: spec.model_digest, size: spec.model_size };
    // What was reserved when it was placed; the spec's memory may have changed since.
    let shared = running.memory.saturating_sub(spec.per_item);
    let weights = spec.model_size.min(shared);
    let model = proto::Model {
        file: Some((&file).into()),
        format: "TorchScript".into(),
        method: spec.model.method.clone(),
        inputs: spec.model.inputs.iter().map(Into::into).collect(),
        outputs: spec.model.outputs.iter().map(Into::into).collect(),
        name: format!("{}/{}", spec.namespace, spec.model_name),
        weights_bytes: weights.0,
        per_item_bytes: running.memory.saturating_sub(shared).0,
        context_bytes: shared.saturating_sub(weights).0,
        batch_max: spec.model.batching.max,
        batch_delay_ms: spec.model.batching.max_delay_ms,
    };
    Some(proto::Assignment {
        attempt: running.attempt.to_string(),
        epoch: Some(epoch.into()),
        model: Some(model),
        input: Some(input.into()),
        parameters: spec.parameters.clone().into_iter().collect(),
        device: running.device.clone(),
        memory_bytes: running.memory.0,
        deadline_ms: deadline(spec).0,
        evict: Vec::new(),
    })
}
