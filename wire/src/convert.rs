//! Protocol ↔ domain. The only place where a frame's text becomes an id, an amount or a reason.
//!
//! in → decoded protobuf messages · out → domain values · invariant: every list and text is bounded here.

use crate::proto;
use nightshift_types::{
    AttemptId, Batching, Device, Digest, Epoch, FailureReason, InputRef, Measured, Milliseconds, ModelSpec, Offer,
    Port,
    units::{Bytes, PicoPoints},
};
use std::collections::BTreeMap;
use std::fmt::Display;
use thiserror::Error;

/// A frame with a field that cannot be what it should.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// The field's path in the frame.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Most devices of a node.
pub const MAX_DEVICES: usize = 16;
/// Most labels or attributes, and longest text of one.
pub const MAX_LABELS: usize = 64;
/// Attribute of a device: attempts that it may hold at once where a model's batches count as one slot each. Its agent books
/// a model's memory once for all of them.
pub const ATTEMPTS_ATTRIBUTE: &str = "attempts";
/// Longest free text kept of an agent's frame, in bytes; the rest is cut.
pub const MAX_TEXT: usize = 1024;
/// Most attempts or models one frame may list.
pub const MAX_LISTED: usize = 1024;

type Checked<T> = Result<T, WireError>;

fn wrong<E: Display>(field: &'static str) -> impl Fn(E) -> WireError {
    move |error| WireError { field, problem: error.to_string() }
}

fn bounded<T>(field: &'static str, list: &[T], most: usize) -> Checked<()> {
    if list.len() <= most {
        Ok(())
    } else {
        Err(WireError { field, problem: format!("{} entries, at most {most}", list.len()) })
    }
}

/// Cuts a text at [`MAX_TEXT`] bytes, on a character's edge.
pub fn clip(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

fn labels(field: &'static str, map: &std::collections::HashMap<String, String>) -> Checked<BTreeMap<String, String>> {
    let fits = |text: &str| text.len() <= 253;
    if map.len() > MAX_LABELS || !map.iter().all(|(k, v)| fits(k) && fits(v) && !k.is_empty()) {
        return Err(WireError { field, problem: format!("at most {MAX_LABELS} entries of at most 253 bytes") });
    }
    Ok(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// An attempt's id.
pub fn attempt(text: &str) -> Checked<AttemptId> {
    text.parse().map_err(wrong("attempt"))
}

/// A digest.
pub fn digest(text: &str) -> Checked<Digest> {
    text.parse().map_err(wrong("digest"))
}

/// An epoch; required.
pub fn epoch(epoch: &Option<proto::Epoch>) -> Checked<Epoch> {
    let epoch = epoch.as_ref().ok_or(WireError { field: "epoch", problem: "missing".into() })?;
    if epoch.journal.len() > 64 {
        return Err(WireError { field: "epoch.journal", problem: "longer than 64 bytes".into() });
    }
    Ok(Epoch { journal: epoch.journal.clone(), revision: epoch.revision })
}

impl From<&Epoch> for proto::Epoch {
    fn from(epoch: &Epoch) -> Self {
        Self { journal: epoch.journal.clone(), revision: epoch.revision }
    }
}

impl From<&InputRef> for proto::Blob {
    fn from(blob: &InputRef) -> Self {
        Self { digest: blob.digest.to_string(), size_bytes: blob.size.0 }
    }
}

/// A blob's reference; required.
pub fn blob(field: &'static str, blob: &Option<proto::Blob>) -> Checked<InputRef> {
    let blob = blob.as_ref().ok_or(WireError { field, problem: "missing".into() })?;
    Ok(InputRef { digest: blob.digest.parse().map_err(wrong(field))?, size: Bytes(blob.size_bytes) })
}

impl From<&Device> for proto::Device {
    fn from(device: &Device) -> Self {
        Self {
            name: device.name.clone(),
            class: device.class.to_string(),
            attributes: device.attributes.clone().into_iter().collect(),
            memory_bytes: device.memory.0,
        }
    }
}

/// A node's devices.
pub fn devices(list: &[proto::Device]) -> Checked<Vec<Device>> {
    bounded("devices", list, MAX_DEVICES)?;
    let device = |d: &proto::Device| {
        if d.name.is_empty() || d.name.len() > 63 {
            return Err(WireError { field: "devices.name", problem: "1 to 63 characters".into() });
        }
        Ok(Device {
            name: d.name.clone(),
            class: d.class.parse().map_err(wrong("devices.class"))?,
            attributes: labels("devices.attributes", &d.attributes)?,
            memory: Bytes(d.memory_bytes),
        })
    };
    list.iter().map(device).collect()
}

impl From<&Measured> for proto::Measured {
    fn from(m: &Measured) -> Self {
        Self { gigaflops: m.gigaflops, memory_bandwidth: m.memory_bandwidth, load_bandwidth: m.load_bandwidth }
    }
}

impl From<&proto::Measured> for Measured {
    fn from(m: &proto::Measured) -> Self {
        Self { gigaflops: m.gigaflops, memory_bandwidth: m.memory_bandwidth, load_bandwidth: m.load_bandwidth }
    }
}

impl From<&Offer> for proto::Offer {
    fn from(offer: &Offer) -> Self {
        Self {
            price_per_hour: offer.price_per_hour.to_string(),
            region: offer.region.clone(),
            labels: offer.labels.clone().into_iter().collect(),
        }
    }
}

/// What the owner offers; never below zero.
pub fn offer(offer: &proto::Offer) -> Checked<Offer> {
    let price: PicoPoints = offer.price_per_hour.parse().map_err(wrong("offer.price_per_hour"))?;
    if price < PicoPoints::ZERO {
        return Err(WireError { field: "offer.price_per_hour", problem: "must not be negative".into() });
    }
    if offer.region.len() > 63 {
        return Err(WireError { field: "offer.region", problem: "longer than 63 bytes".into() });
    }
    Ok(Offer { price_per_hour: price, region: offer.region.clone(), labels: labels("offer.labels", &offer.labels)? })
}

impl From<&Port> for proto::Port {
    fn from(port: &Port) -> Self {
        Self {
            name: port.name.clone(),
            codec: port.codec.to_string(),
            dtype: port.dtype.to_string(),
            shape: port.shape.clone(),
            constant: port.constant.clone(),
            options: port.options.clone().into_iter().collect(),
        }
    }
}

fn ports(field: &'static str, list: &[proto::Port]) -> Checked<Vec<Port>> {
    bounded(field, list, 64)?;
    let port = |p: &proto::Port| {
        bounded(field, &p.shape, 16)?;
        Ok(Port {
            name: clip(&p.name),
            codec: p.codec.parse().map_err(wrong(field))?,
            dtype: p.dtype.parse().map_err(wrong(field))?,
            shape: p.shape.clone(),
            constant: p.constant.clone(),
            options: p.options.clone().into_iter().collect(),
        })
    };
    list.iter().map(port).collect()
}

/// A model as an assignment carries it.
pub fn model_spec(model: &proto::Model) -> Checked<ModelSpec> {
    if model.format != "TorchScript" {
        return Err(WireError {
            field: "model.format",
            problem: format!("{:?} is not TorchScript: this agent is too old for it", clip(&model.format)),
        });
    }
    Ok(ModelSpec {
        method: clip(&model.method),
        inputs: ports("model.inputs", &model.inputs)?,
        outputs: ports("model.outputs", &model.outputs)?,
        batching: Batching { max: model.batch_max, max_delay_ms: model.batch_delay_ms },
    })
}

/// What an agent says an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The epoch that placed it, as the agent was told.
    pub epoch: Epoch,
    /// The result, or why there is none and the agent's words for it.
    pub result: Result<Output, (FailureReason, String)>,
    /// How long each part took, by the agent's clock.
    pub timings: Timings,
}

/// A result, in the frame or staged by `PutResult`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its MIME type.
    pub content_type: String,
    /// Where it is.
    pub place: OutputPlace,
}

/// Where a result is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPlace {
    /// Here, at most [`crate::MAX_INLINE_OUTPUT`] bytes.
    Inline(Vec<u8>),
    /// In the attempt's staging.
    Blob(InputRef),
}

/// Parts of an attempt's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Fetching model and input, microseconds.
    pub fetch_us: u64,
    /// Loading the model, microseconds.
    pub load_us: u64,
    /// Waiting for the worker, microseconds.
    pub queue_us: u64,
    /// In libtorch, microseconds.
    pub compute_us: u64,
    /// Decoding and encoding, microseconds.
    pub codec_us: u64,
}

impl Timings {
    /// The whole, rounded up to milliseconds.
    pub fn total(&self) -> Milliseconds {
        let all = [self.fetch_us, self.load_us, self.queue_us, self.compute_us, self.codec_us];
        Milliseconds(all.iter().fold(0u64, |a, b| a.saturating_add(*b)).div_ceil(1000))
    }
}

/// An outcome's frame.
pub fn report(outcome: &proto::Outcome) -> Checked<Report> {
    let result = match &outcome.result {
        None => return Err(WireError { field: "outcome.result", problem: "missing".into() }),
        Some(proto::outcome::Result::Failure(failure)) => {
            // A reason this version does not know comes from a newer agent: counted as the node's.
            let reason = failure.reason.parse().unwrap_or(FailureReason::Internal);
            Err((reason, clip(&failure.message)))
        }
        Some(proto::outcome::Result::Success(success)) => {
            let place = match &success.output {
                None => return Err(WireError { field: "outcome.success.output", problem: "missing".into() }),
                Some(proto::success::Output::Inline(bytes)) if bytes.len() <= crate::MAX_INLINE_OUTPUT => {
                    OutputPlace::Inline(bytes.clone())
                }
                Some(proto::success::Output::Inline(bytes)) => {
                    let problem =
                        format!("{} bytes inline, at most {}: use PutResult", bytes.len(), crate::MAX_INLINE_OUTPUT);
                    return Err(WireError { field: "outcome.success.inline", problem });
                }
                Some(proto::success::Output::Blob(b)) => {
                    OutputPlace::Blob(blob("outcome.success.blob", &Some(b.clone()))?)
                }
            };
            Ok(Output { content_type: clip(&success.content_type), place })
        }
    };
    let t = outcome.timings.unwrap_or_default();
    let timings = Timings {
        fetch_us: t.fetch_us,
        load_us: t.load_us,
        queue_us: t.queue_us,
        compute_us: t.compute_us,
        codec_us: t.codec_us,
    };
    Ok(Report { attempt: attempt(&outcome.attempt)?, epoch: epoch(&outcome.epoch)?, result, timings })
}

impl From<&Report> for proto::Outcome {
    fn from(report: &Report) -> Self {
        let result = match &report.result {
            Err((reason, message)) => {
                proto::outcome::Result::Failure(proto::Failure { reason: reason.to_string(), message: clip(message) })
            }
            Ok(output) => proto::outcome::Result::Success(proto::Success {
                content_type: output.content_type.clone(),
                output: Some(match &output.place {
                    OutputPlace::Inline(bytes) => proto::success::Output::Inline(bytes.clone()),
                    OutputPlace::Blob(blob) => proto::success::Output::Blob(blob.into()),
                }),
            }),
        };
        let t = &report.timings;
        Self {
            attempt: report.attempt.to_string(),
            epoch: Some((&report.epoch).into()),
            result: Some(result),
            timings: Some(proto::Timings {
                fetch_us: t.fetch_us,
                load_us: t.load_us,
                queue_us: t.queue_us,
                compute_us: t.compute_us,
                codec_us: t.codec_us,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(result: Result<Output, (FailureReason, String)>) -> Report {
        Report {
            attempt: "local/job/0/1".parse().unwrap(),
            epoch: Epoch { journal: "j".into(), revision: 3 },
            result,
            timings: Timings { compute_us: 1500, ..Timings::default() },
        }
    }

    #[test]
    fn reports_round_trip() {
        let inline = Output { content_type: "application/json".into(), place: OutputPlace::Inline(b"[]".to_vec()) };
        let blob = InputRef { digest: Digest([1; 32]), size: Bytes(70_000) };
        let staged = Output { content_type: "application/json".into(), place: OutputPlace::Blob(blob) };
        for result in [Ok(inline), Ok(staged), Err((FailureReason::InputInvalid, "not a WAV".into()))] {
            let original = sample(result);
            assert_eq!(report(&proto::Outcome::from(&original)).unwrap(), original);
        }
        assert_eq!(sample(Err((FailureReason::Internal, String::new()))).timings.total(), Milliseconds(2));
    }

    #[test]
    fn bad_frames_name_their_field() {
        let good = proto::Outcome::from(&sample(Err((FailureReason::Internal, String::new()))));
        let cases = [
            (proto::Outcome { attempt: "x".into(), ..good.clone() }, "attempt"),
            (proto::Outcome { epoch: None, ..good.clone() }, "epoch"),
            (proto::Outcome { result: None, ..good.clone() }, "outcome.result"),
        ];
        for (frame, field) in cases {
            assert_eq!(report(&frame).unwrap_err().field, field);
        }
        let large = proto::success::Output::Inline(vec![0; crate::MAX_INLINE_OUTPUT + 1]);
        let large = proto::Success { output: Some(large), content_type: String::new() };
        let frame = proto::Outcome { result: Some(proto::outcome::Result::Success(large)), ..good };
        assert_eq!(report(&frame).unwrap_err().field, "outcome.success.inline");
        assert_eq!(
            offer(&proto::Offer { price_per_hour: "-1".into(), ..Default::default() }).unwrap_err().field,
            "offer.price_per_hour"
        );
        assert_eq!(devices(&vec![proto::Device::default(); 17]).unwrap_err().field, "devices");
    }

    /// A running attempt as the version before knew it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Before {
        #[prost(string, tag = "1")]
        attempt: String,
        #[prost(string, tag = "2")]
        phase: String,
        #[prost(uint32, tag = "3")]
        percent: u32,
    }

    #[test]
    fn downloads_are_news_to_the_version_before_and_missed_from_it() {
        use prost::Message;
        let download = Some(proto::Download { done_bytes: 34, total_bytes: 100, seconds_left: Some(12) });
        let now =
            proto::RunningAttempt { attempt: "local/job/0/1".into(), phase: "Fetching".into(), percent: 34, download };
        let before = Before { attempt: now.attempt.clone(), phase: now.phase.clone(), percent: 34 };
        assert_eq!(Before::decode(&*now.encode_to_vec()).unwrap(), before);
        let old = proto::RunningAttempt::decode(&*before.encode_to_vec()).unwrap();
        assert_eq!(old, proto::RunningAttempt { download: None, ..now });
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = "é".repeat(MAX_TEXT);
        assert!(clip(&text).len() <= MAX_TEXT);
    }
}
