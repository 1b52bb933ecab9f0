//! Codec `wav`: a WAV file to mono float32 samples in [-1, 1].
//!
//! *In*: PCM of 8, 16, 24 or 32 bits or 32-bit float, of any number of channels up to [`MAX_CHANNELS`], at the port's
//! `sampleRate`. *Out*: `[1, n]`, or `[n]` where the port's shape has one dimension. *Invariant*: a 16-bit mono sample is its
//! integer over 32768, exactly as Silero's reference reads it; channels are averaged; nothing is resampled here.

use super::dtype::shape_fits;
use super::options::{CodecError, Options};
use hound::{SampleFormat, WavReader, WavSpec};
use nightshift_types::{Dtype, Port};
use std::io::Cursor;
use tch::Tensor;

/// Options a port may set.
pub const OPTIONS: &[&str] = &["sampleRate"];
/// Longest audio: 67 minutes at 16 kHz, 256 MiB as float32.
pub const MAX_SAMPLES: usize = 64 << 20;
/// Most channels averaged into one.
pub const MAX_CHANNELS: u16 = 8;

/// The codec with its options.
#[derive(Debug)]
pub struct Wav {
    rate: Option<u32>,
    least: usize,
}

impl Wav {
    /// `least`: shorter audio is padded with silence to so many samples.
    pub fn new(options: &Options<'_>, least: usize) -> Result<Self, CodecError> {
        Ok(Self { rate: options.get("sampleRate", 1..=768_000)?, least })
    }

    /// The rate the model takes, if it says so.
    pub fn rate(&self) -> Option<u32> {
        self.rate
    }

    /// Reads a WAV file: how many samples it has, and the tensor, padded to at least one window.
    pub fn decode(&self, port: &Port, bytes: &[u8]) -> Result<(usize, Tensor), CodecError> {
        if port.dtype != Dtype::Float32 {
            return Err(CodecError::model(format!(
                "input {:?}: codec wav makes float32, not {}",
                port.name, port.dtype
            )));
        }
        let mut samples = self.samples(bytes).map_err(|problem| CodecError::input(port, problem))?;
        let found = samples.len();
        samples.resize(found.max(self.least), 0.0);
        let shape = if port.shape.len() == 1 { vec![samples.len() as i64] } else { vec![1, samples.len() as i64] };
        if !shape_fits(&port.shape, &shape) {
            let problem = format!("expected samples of shape {:?}, the file has {shape:?}", port.shape);
            return Err(CodecError::input(port, problem));
        }
        let tensor = Tensor::f_from_slice(&samples).and_then(|t| t.f_reshape(&shape));
        Ok((found, tensor.map_err(|error| CodecError::input(port, error))?))
    }

    fn samples(&self, bytes: &[u8]) -> Result<Vec<f32>, String> {
        self.read(bytes).map(|(samples, _)| samples)
    }

    /// The samples, and how many there are a second.
    fn read(&self, bytes: &[u8]) -> Result<(Vec<f32>, u32), String> {
        let reader = WavReader::new(Cursor::new(bytes)).map_err(|error| {
            format!(
                "expected a WAV file (RIFF, PCM or float); {error}. `ffmpeg -i FILE -ac 1 {}out.wav` makes one",
                self.flag()
            )
        })?;
        let spec = reader.spec();
        self.check(&spec)?;
        let channels = usize::from(spec.channels);
        let frames = reader.duration() as usize;
        if frames > MAX_SAMPLES {
            return Err(format!("{frames} samples; at most {MAX_SAMPLES} are read at once: cut the audio into parts"));
        }
        // The header's count is a claim: the file must be at least that long before memory is taken for it.
        let width = usize::from(spec.bits_per_sample).div_ceil(8);
        if frames.saturating_mul(channels).saturating_mul(width) > bytes.len() {
            return Err(format!("the header says {frames} samples, and the file of {} bytes ends before", bytes.len()));
        }
        if channels == 1 && spec.bits_per_sample == 16 && spec.sample_format == SampleFormat::Int {
            return Ok((sixteen_bit(reader.into_inner(), frames)?, spec.sample_rate));
        }
        let samples = match spec.sample_format {
            SampleFormat::Float => mix(floats(reader), channels, frames),
            SampleFormat::Int => mix(integers(reader, spec.bits_per_sample), channels, frames),
        };
        Ok((samples?, spec.sample_rate))
    }

    fn check(&self, spec: &WavSpec) -> Result<(), String> {
        if spec.channels == 0 || spec.channels > MAX_CHANNELS {
            return Err(format!("{} channels; 1 to {MAX_CHANNELS} are read", spec.channels));
        }
        match self.rate {
            Some(rate) if rate != spec.sample_rate => Err(format!(
                "expected {rate} samples a second, the file has {}: convert it with `ffmpeg -i FILE -ac 1 {}out.wav` or \
                 `sox FILE -r {rate} -c 1 out.wav`",
                spec.sample_rate,
                self.flag()
            )),
            _ => Ok(()),
        }
    }

    fn flag(&self) -> String {
        self.rate.map_or_else(String::new, |rate| format!("-ar {rate} "))
    }
}

/// A WAV file of any rate: its samples, and how many there are a second.
pub fn read(bytes: &[u8]) -> Result<(Vec<f32>, u32), String> {
    Wav { rate: None, least: 1 }.read(bytes)
}

/// 16-bit mono, the common case, straight from the bytes after the header.
fn sixteen_bit(file: Cursor<&[u8]>, frames: usize) -> Result<Vec<f32>, String> {
    let start = usize::try_from(file.position()).unwrap_or(usize::MAX);
    let data = start.checked_add(frames * 2).and_then(|end| file.into_inner().get(start..end));
    let data = data.ok_or_else(|| format!("the header says {frames} samples, and the file ends before"))?;
    Ok(data.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0).collect())
}

fn integers(reader: WavReader<Cursor<&[u8]>>, bits: u16) -> impl Iterator<Item = hound::Result<f64>> {
    let scale = 2f64.powi(i32::from(bits.clamp(1, 32)) - 1);
    reader.into_samples::<i32>().map(move |sample| sample.map(|value| f64::from(value) / scale))
}

fn floats(reader: WavReader<Cursor<&[u8]>>) -> impl Iterator<Item = hound::Result<f64>> {
    reader.into_samples::<f32>().map(|sample| sample.map(f64::from))
}

/// Averages the channels of each frame.
fn mix(samples: impl Iterator<Item = hound::Result<f64>>, channels: usize, frames: usize) -> Result<Vec<f32>, String> {
    let mut out = Vec::with_capacity(frames);
    let (mut sum, mut seen) = (0.0, 0);
    for sample in samples {
        let sample = sample.map_err(|error| format!("after {} samples: {error}", out.len()))?;
        if !sample.is_finite() {
            return Err(format!("sample {} is not a finite number", out.len()));
        }
        sum += sample;
        seen += 1;
        if seen == channels {
            out.push((sum / channels as f64) as f32);
            (sum, seen) = (0.0, 0);
        }
    }
    Ok(out)
}
