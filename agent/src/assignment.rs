//! An assignment, checked.
//!
//! in → the scheduler's frame · out → [`Work`] · invariant: an attempt that starts has every field it needs.

use crate::admission::Demand;
use nightshift_types::{AttemptId, Bytes, Digest, Epoch, InputRef, ModelSpec};
use nightshift_wire::{WireError, convert, proto};
use std::collections::BTreeMap;
use std::time::Duration;

/// One attempt, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Whose outcome this will be.
    pub attempt: AttemptId,
    /// Who placed it.
    pub epoch: Epoch,
    /// What it takes of a device.
    pub demand: Demand,
    /// The model's file.
    pub model: InputRef,
    /// `namespace/name`, for the owner's log.
    pub model_name: String,
    /// How to decode, run and encode.
    pub spec: ModelSpec,
    /// The input.
    pub input: InputRef,
    /// The job's parameters.
    pub parameters: BTreeMap<String, String>,
    /// From the assignment's arrival to the attempt's end.
    pub deadline: Duration,
    /// Loaded models to evict first: the plan's, and after admission those the book adds.
    pub evict: Vec<Digest>,
}

impl Work {
    /// Checks every field. A deadline of zero, or one beyond `longest`, becomes `longest`.
    pub fn parse(frame: &proto::Assignment, longest: Duration) -> Result<Self, WireError> {
        let missing = || WireError { field: "model", problem: "missing".into() };
        let model = frame.model.as_ref().ok_or_else(missing)?;
        let file = convert::blob("model.file", &model.file)?;
        let warm = Bytes(model.weights_bytes) + Bytes(model.context_bytes);
        let memory =
            if frame.memory_bytes == 0 { warm + Bytes(model.per_item_bytes) } else { Bytes(frame.memory_bytes) };
        let deadline = Some(frame.deadline_ms).filter(|ms| *ms > 0).map_or(longest, Duration::from_millis);
        let evict: Result<Vec<Digest>, WireError> = frame.evict.iter().map(|text| convert::digest(text)).collect();
        Ok(Self {
            attempt: convert::attempt(&frame.attempt)?,
            epoch: convert::epoch(&frame.epoch)?,
            demand: Demand { device: frame.device.clone(), model: file.digest, memory, warm: warm.min(memory) },
            model: file,
            model_name: convert::clip(&model.name),
            spec: convert::model_spec(model)?,
            input: convert::blob("input", &frame.input)?,
            parameters: frame.parameters.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            deadline: deadline.min(longest),
            evict: evict?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named() {
        let digest = Digest([1; 32]).to_string();
        let good = proto::Assignment {
            attempt: "local/job/0/1".into(),
            epoch: Some(proto::Epoch { journal: "j".into(), revision: 1 }),
            model: Some(proto::Model {
                file: Some(proto::Blob { digest: digest.clone(), size_bytes: 4 }),
                format: "TorchScript".into(),
                weights_bytes: 10,
                per_item_bytes: 5,
                context_bytes: 1,
                ..proto::Model::default()
            }),
            input: Some(proto::Blob { digest, size_bytes: 4 }),
            ..proto::Assignment::default()
        };
        let longest = Duration::from_secs(60);
        let work = Work::parse(&good, longest).unwrap();
        assert_eq!((work.demand.memory, work.demand.warm, work.deadline), (Bytes(16), Bytes(11), longest));
        let field = |frame: proto::Assignment| Work::parse(&frame, longest).unwrap_err().field;
        assert_eq!(field(proto::Assignment { model: None, ..good.clone() }), "model");
        assert_eq!(field(proto::Assignment { input: None, ..good.clone() }), "input");
        assert_eq!(field(proto::Assignment { epoch: None, ..good.clone() }), "epoch");
        assert_eq!(field(proto::Assignment { evict: vec!["x".into()], ..good.clone() }), "digest");
        let model = proto::Model { format: "ONNX".into(), ..good.model.clone().unwrap() };
        assert_eq!(field(proto::Assignment { model: Some(model), ..good }), "model.format");
    }
}
