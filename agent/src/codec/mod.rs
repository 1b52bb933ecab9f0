//! Codecs: a task's bytes to the model's arguments, and what the model returns to a result's bytes.
//!
//! *In*: bytes that may be hostile, the model's ports, the job's parameters. *Out*: [`Decoded`] and [`Encoded`].
//! *Invariant*: no input panics or takes memory beyond a small multiple of its own size, or of a picture's pixels, which are
//! limited; an error names the port and what was expected, and says whose fault it is. All of it runs in the worker's process.
//!
//! * One variable input: the task's bytes are that input's. Several: a JSON object by the ports' names, each `json`; or each
//!   `text`: they are made of one text.
//! * One output: its bytes are the result. Several: a JSON object by the ports' names; all must write JSON.
//! * `constant` inputs never stand in the task's bytes (see [`constant`]).
//! * Job parameters override a port's options of the same name, where the codec says so; an unknown one is an error.

pub mod audio;
pub mod constant;
mod dtype;
pub mod image;
pub mod json;
pub mod labels;
pub mod options;
pub mod segments;
pub mod tensor;
pub mod text;
mod value;
pub mod wav;

pub use dtype::kind_of;
pub use options::CodecError;

use nightshift_types::{Codec, ModelSpec, Port};
use options::{Options, Side};
use std::collections::BTreeMap;
use tch::IValue;

/// The arguments of the model's method, and what the output codecs must know of the input.
#[derive(Debug)]
pub struct Decoded {
    /// In the method's order, on the CPU.
    pub values: Vec<IValue>,
    /// Samples of the audio as it came, before padding to a window.
    pub samples: Option<usize>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What the client gets.
    pub bytes: Vec<u8>,
    /// Media type of the bytes.
    pub content_type: &'static str,
}

/// Media type of JSON results.
pub const JSON: &str = "application/json";
/// Media type of raw tensors.
pub const OCTETS: &str = "application/octet-stream";

/// The codecs of one model for one job: every option parsed and checked.
#[derive(Debug)]
pub struct Plan {
    inputs: Vec<(Port, Reader)>,
    text: Option<text::Reader>,
    outputs: Vec<(Port, Writer)>,
}

#[derive(Debug)]
enum Reader {
    Constant,
    Tensor,
    Json,
    Wav(wav::Wav),
    Audio(audio::Audio),
    Text(text::Part),
    Image(image::PictureReader),
}

#[derive(Debug)]
enum Writer {
    Tensor,
    Json,
    Labels(labels::Labels),
    Segments(segments::Segments),
    Image(image::PictureWriter),
}

impl Plan {
    /// Checks the ports' options and the job's parameters.
    pub fn new(spec: &ModelSpec, parameters: &BTreeMap<String, String>) -> Result<Self, CodecError> {
        Self::of(spec, parameters, None)
    }

    /// The same, with the model's file for what codecs take from it.
    pub fn of(
        spec: &ModelSpec,
        parameters: &BTreeMap<String, String>,
        archive: Option<&text::Archive>,
    ) -> Result<Self, CodecError> {
        options::check_parameters(spec, parameters)?;
        let mut outputs = Vec::with_capacity(spec.outputs.len());
        for port in &spec.outputs {
            outputs.push((port.clone(), writer(&Options::new(port, Side::Output, parameters)?)?));
        }
        // Audio shorter than one window of the segments codec is padded to one, as Silero does.
        let window = outputs.iter().find_map(|(_, writer)| match writer {
            Writer::Segments(segments) => Some(segments.window()),
            _ => None,
        });
        let texts: Vec<&Port> =
            spec.inputs.iter().filter(|port| port.codec == Codec::Text && port.constant.is_none()).collect();
        let (text, parts) = match texts.is_empty() {
            true => (None, Vec::new()),
            false => text::Reader::new(&texts, archive).map(|(reader, parts)| (Some(reader), parts))?,
        };
        let mut parts = parts.into_iter();
        let mut inputs = Vec::with_capacity(spec.inputs.len());
        for port in &spec.inputs {
            let options = Options::new(port, Side::Input, parameters)?;
            let reader = match port.codec {
                Codec::Text if port.constant.is_none() => parts.next().map(Reader::Text).unwrap_or(Reader::Constant),
                _ => reader(&options, window.unwrap_or(1))?,
            };
            inputs.push((port.clone(), reader));
        }
        Ok(Self { inputs, text, outputs })
    }

    /// Reads a task's bytes.
    pub fn decode(&self, bytes: &[u8]) -> Result<Decoded, CodecError> {
        let variable: Vec<&(Port, Reader)> =
            self.inputs.iter().filter(|(_, reader)| !matches!(reader, Reader::Constant)).collect();
        let mut samples = None;
        let read = match variable.as_slice() {
            [] => Vec::new(),
            [(port, Reader::Tensor)] => vec![tensor::decode(port, bytes)?],
            [(port, Reader::Image(picture))] => vec![picture.decode(port, bytes)?],
            [(port, Reader::Wav(wav))] => {
                let (count, tensor) = wav.decode(port, bytes)?;
                samples = Some(count);
                vec![tensor]
            }
            [(port, Reader::Audio(audio))] => {
                let (count, tensor) = audio.decode(port, bytes)?;
                samples = Some(count);
                vec![tensor]
            }
            texts if texts.iter().all(|(_, reader)| matches!(reader, Reader::Text(_))) => self.texts(texts, bytes)?,
            [(port, _)] => vec![json::decode(port, bytes)?],
            several => {
                if let Some((port, _)) = several.iter().find(|(_, reader)| !matches!(reader, Reader::Json)) {
                    return Err(CodecError::several(port));
                }
                json::decode_object(&several.iter().map(|(port, _)| port).collect::<Vec<_>>(), bytes)?
            }
        };
        let mut read = read.into_iter();
        let mut values = Vec::with_capacity(self.inputs.len());
        for (port, reader) in &self.inputs {
            match reader {
                Reader::Constant => values.push(constant::value(port)?),
                _ => values.extend(read.next().map(IValue::Tensor)),
            }
        }
        Ok(Decoded { values, samples })
    }

    fn texts(&self, ports: &[&(Port, Reader)], bytes: &[u8]) -> Result<Vec<tch::Tensor>, CodecError> {
        let mut parts = Vec::with_capacity(ports.len());
        for (port, reader) in ports.iter().copied() {
            if let Reader::Text(part) = reader {
                parts.push((port, *part));
            }
        }
        self.text.as_ref().map_or(Ok(Vec::new()), |reader| reader.decode(&parts, bytes))
    }

    /// Writes what the model returned; at most `limit` bytes. `samples` is the decoded input's.
    pub fn encode(&self, returned: IValue, samples: Option<usize>, limit: usize) -> Result<Encoded, CodecError> {
        let ports: Vec<&Port> = self.outputs.iter().map(|(port, _)| port).collect();
        let tensors = value::tensors(returned, &ports)?;
        let mut out = Encoded { bytes: Vec::new(), content_type: JSON };
        let several = self.outputs.len() > 1;
        for (index, ((port, writer), tensor)) in self.outputs.iter().zip(&tensors).enumerate() {
            // A picture's file may have fewer bytes than pixels; its own limits hold.
            if !matches!(writer, Writer::Image(_)) {
                value::check(port, tensor, limit)?;
            }
            if several {
                out.bytes.extend_from_slice(if index == 0 { b"{" } else { b"," });
                json::write_text(&port.name, &mut out.bytes);
                out.bytes.push(b':');
            }
            match writer {
                Writer::Tensor | Writer::Image(_) if several => return Err(CodecError::several(port)),
                Writer::Tensor => {
                    tensor::encode(port, tensor, &mut out.bytes)?;
                    out.content_type = OCTETS;
                }
                Writer::Image(picture) => out.content_type = picture.encode(port, tensor, &mut out.bytes)?,
                Writer::Json => json::encode(port, tensor, &mut out.bytes)?,
                Writer::Labels(labels) => labels.encode(port, tensor, &mut out.bytes)?,
                Writer::Segments(segments) => segments.encode(port, tensor, samples, &mut out.bytes)?,
            }
            value::check_size(port, out.bytes.len(), limit)?;
        }
        if several {
            out.bytes.push(b'}');
        }
        Ok(out)
    }
}

fn reader(options: &Options<'_>, window: usize) -> Result<Reader, CodecError> {
    if options.port().constant.is_some() {
        return Ok(Reader::Constant);
    }
    match options.port().codec {
        Codec::Tensor => Ok(Reader::Tensor),
        Codec::Json => Ok(Reader::Json),
        Codec::Wav => Ok(Reader::Wav(wav::Wav::new(options, window)?)),
        Codec::Audio => Ok(Reader::Audio(audio::Audio::new(options, window)?)),
        Codec::Image => Ok(Reader::Image(image::PictureReader::new(options)?)),
        // Those of a model are read together: see `Plan::of`.
        Codec::Text => Ok(Reader::Constant),
        Codec::Labels | Codec::Segments => Err(options.wrong_side("outputs")),
    }
}

fn writer(options: &Options<'_>) -> Result<Writer, CodecError> {
    match options.port().codec {
        Codec::Tensor => Ok(Writer::Tensor),
        Codec::Json => Ok(Writer::Json),
        Codec::Labels => Ok(Writer::Labels(labels::Labels::new(options)?)),
        Codec::Segments => Ok(Writer::Segments(segments::Segments::new(options)?)),
        Codec::Image => Ok(Writer::Image(image::PictureWriter::new(options)?)),
        Codec::Wav | Codec::Audio | Codec::Text => Err(options.wrong_side("inputs")),
    }
}

#[cfg(test)]
mod tests;
