//! A codec's options: the port's own, overridden by the job's parameters where the codec allows it.
//!
//! *In*: texts by the API's camelCase names. *Out*: checked numbers. *Invariant*: an unknown name is an error, never
//! ignored: a typing error in `threshold` must not give other segments.

use nightshift_types::{Codec, FailureReason, ModelSpec, Port};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Whether a port is an input or an output of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Of the method's arguments.
    Input,
    /// Of what it returns.
    Output,
}

/// What a codec cannot do, for the job's owner to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CodecError {
    /// Whose fault it is.
    pub reason: FailureReason,
    /// Names the port, what was expected and what came instead.
    pub message: String,
}

impl CodecError {
    /// The task's bytes are not what this input port reads.
    pub fn input(port: &Port, problem: impl fmt::Display) -> Self {
        Self {
            reason: FailureReason::InputInvalid,
            message: format!("input {:?} (codec {}): {problem}", port.name, port.codec),
        }
    }

    /// What the model returned is not what this output port writes.
    pub fn output(port: &Port, problem: impl fmt::Display) -> Self {
        Self {
            reason: FailureReason::OutputInvalid,
            message: format!("output {:?} (codec {}): {problem}", port.name, port.codec),
        }
    }

    /// One of several ports that JSON cannot hold.
    pub fn several(port: &Port) -> Self {
        let problem = "one of several inputs or outputs is a field of a JSON object, which this codec has no form in; use codec json";
        Self { message: format!("{:?} (codec {}): {problem}", port.name, port.codec), ..Self::model("") }
    }

    /// The model's own description does not work.
    pub fn model(problem: impl fmt::Display) -> Self {
        Self { reason: FailureReason::ModelExecutionFailed, message: problem.to_string() }
    }
}

/// Names a port may set, and those of them a job may set.
fn known(codec: Codec, side: Side) -> (&'static [&'static str], &'static [&'static str]) {
    match (codec, side) {
        (Codec::Wav, Side::Input) => (super::wav::OPTIONS, &[]),
        (Codec::Audio, Side::Input) => (super::audio::OPTIONS, &[]),
        (Codec::Text, Side::Input) => (super::text::OPTIONS, &[]),
        (Codec::Image, Side::Input) => (super::image::INPUT_OPTIONS, &[]),
        (Codec::Image, Side::Output) => (super::image::OUTPUT_OPTIONS, super::image::OUTPUT_PARAMETERS),
        (Codec::Labels, Side::Output) => (super::labels::OPTIONS, super::labels::PARAMETERS),
        (Codec::Segments, Side::Output) => (super::segments::OPTIONS, super::segments::PARAMETERS),
        _ => (&[], &[]),
    }
}

/// Every parameter of the job must mean something to one of the model's codecs.
pub fn check_parameters(spec: &ModelSpec, parameters: &BTreeMap<String, String>) -> Result<(), CodecError> {
    let inputs = spec.inputs.iter().map(|port| known(port.codec, Side::Input).1);
    let outputs = spec.outputs.iter().map(|port| known(port.codec, Side::Output).1);
    let names: Vec<&str> = inputs.chain(outputs).flatten().copied().collect();
    match parameters.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(CodecError {
            reason: FailureReason::InputInvalid,
            message: if names.is_empty() {
                format!("parameter {unknown:?}: this model takes no parameters")
            } else {
                format!("parameter {unknown:?} is not one of this model's: {}", names.join(", "))
            },
        }),
    }
}

/// The options of one port.
#[derive(Debug)]
pub struct Options<'a> {
    port: &'a Port,
    side: Side,
    parameters: &'a BTreeMap<String, String>,
}

impl<'a> Options<'a> {
    /// Checks that the port's options are the codec's.
    pub fn new(port: &'a Port, side: Side, parameters: &'a BTreeMap<String, String>) -> Result<Self, CodecError> {
        let (names, _) = known(port.codec, side);
        match port.options.keys().find(|name| !names.contains(&name.as_str())) {
            Some(unknown) => Err(CodecError::model(format!(
                "option {unknown:?} of {side} {:?} is unknown to codec {} of this agent",
                port.name,
                port.codec,
                side = if side == Side::Input { "input" } else { "output" },
            ))),
            None => Ok(Self { port, side, parameters }),
        }
    }

    /// Whose options these are.
    pub fn port(&self) -> &'a Port {
        self.port
    }

    /// The codec works in the other direction alone.
    pub fn wrong_side(&self, side: &str) -> CodecError {
        self.fault(format!("codec {} is for {side} only", self.port.codec))
    }

    fn fault(&self, problem: String) -> CodecError {
        match self.side {
            Side::Input => CodecError::input(self.port, problem),
            Side::Output => CodecError::output(self.port, problem),
        }
    }

    /// The text of an option, the job's before the port's, and whether it is the job's.
    pub fn text(&self, name: &str) -> Option<(&'a str, bool)> {
        let (_, overridable) = known(self.port.codec, self.side);
        let parameter = self.parameters.get(name).filter(|_| overridable.contains(&name));
        let text = parameter.or_else(|| self.port.options.get(name))?;
        Some((text.as_str(), parameter.is_some()))
    }

    /// A number or truth value within `range`; `None` if it is not set.
    pub fn get<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, CodecError>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let Some((text, of_job)) = self.text(name) else { return Ok(None) };
        match text.parse::<T>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(self.bad(name, text, of_job, &format!("must be from {} to {}", range.start(), range.end()))),
        }
    }

    /// An error about one option's text.
    pub fn bad(&self, name: &str, text: &str, of_job: bool, expected: &str) -> CodecError {
        let shown: String = text.chars().take(40).collect();
        if of_job {
            let message = format!("parameter {name:?} is {shown:?}: it {expected}");
            CodecError { reason: FailureReason::InputInvalid, message }
        } else {
            CodecError::model(format!("option {name:?} of {:?} is {shown:?}: it {expected}", self.port.name))
        }
    }
}
