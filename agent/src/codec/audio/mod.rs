//! Codec `audio`: a WAV, FLAC, Ogg Vorbis or MP3 file to mono float32 samples at the model's rate.
//!
//! *In*: a file, told by its first bytes, of up to [`wav::MAX_CHANNELS`] channels and any usual rate. *Out*: `[1, n]`, or `[n]`
//! where the port's shape has one dimension, in [-1, 1] but for what resampling overshoots. *Invariant*: at most `maxSeconds`
//! are decoded, whatever the file says or hides: a few bytes of FLAC or Vorbis can stand for hours of silence. Channels are
//! averaged; a decoder that panics is a file that cannot be read.

mod read;
mod resample;
#[cfg(test)]
mod tests;

use super::dtype::shape_fits;
use super::options::{CodecError, Options};
use super::wav;
use nightshift_types::{Dtype, Port};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;

/// Options a port may set.
pub const OPTIONS: &[&str] = &["sampleRate", "maxSeconds"];
/// Where the port names none.
const DEFAULT_RATE: u32 = 16_000;
const DEFAULT_SECONDS: u32 = 3600;
/// Rates that are read and made.
const RATES: std::ops::RangeInclusive<u32> = 1000..=384_000;

/// The codec with its options.
#[derive(Debug)]
pub struct Audio {
    rate: u32,
    seconds: u32,
    least: usize,
}

/// Mono samples, as they came.
#[derive(Debug)]
struct Sound {
    samples: Vec<f32>,
    rate: u32,
}

/// What a decoder may give: so many frames at its rate.
#[derive(Debug, Clone, Copy)]
struct Most {
    seconds: u32,
}

impl Most {
    /// Frames at a rate; or what is wrong with the rate.
    fn frames(self, rate: u32) -> Result<usize, String> {
        if !RATES.contains(&rate) {
            return Err(format!("{rate} samples a second; {} to {} are read", RATES.start(), RATES.end()));
        }
        Ok((self.seconds as usize).saturating_mul(rate as usize).min(wav::MAX_SAMPLES))
    }

    fn exceeded(self) -> String {
        format!("more than {} s of audio, the most this model takes at once: cut it into parts", self.seconds)
    }
}

impl Audio {
    /// `least`: shorter audio is padded with silence to so many samples.
    pub fn new(options: &Options<'_>, least: usize) -> Result<Self, CodecError> {
        let rate = options.get("sampleRate", RATES)?.unwrap_or(DEFAULT_RATE);
        let seconds = options.get("maxSeconds", 1..=86_400)?.unwrap_or(DEFAULT_SECONDS);
        Ok(Self { rate, seconds, least })
    }

    /// The rate the model takes.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Reads a file: how many samples it has at the model's rate, and the tensor, padded to at least one window.
    pub fn decode(&self, port: &Port, bytes: &[u8]) -> Result<(usize, Tensor), CodecError> {
        if port.dtype != Dtype::Float32 {
            let (name, dtype) = (&port.name, port.dtype);
            return Err(CodecError::model(format!("input {name:?}: codec audio makes float32, not {dtype}")));
        }
        let most = Most { seconds: self.seconds };
        let read = catch_unwind(AssertUnwindSafe(|| {
            let Sound { samples, rate } = read::sound(bytes, most)?;
            if rate == self.rate { Ok(samples) } else { resample::to(samples, rate, self.rate) }
        }));
        let read = read.unwrap_or_else(|_| Err("the file is damaged: its decoder gave up".into()));
        let mut samples = read.map_err(|problem| CodecError::input(port, problem))?;
        let found = samples.len();
        samples.resize(found.max(self.least), 0.0);
        let shape = if port.shape.len() == 1 { vec![samples.len() as i64] } else { vec![1, samples.len() as i64] };
        if !shape_fits(&port.shape, &shape) {
            let problem =
                format!("expected samples of shape {:?}, the file has {shape:?} at {} Hz", port.shape, self.rate);
            return Err(CodecError::input(port, problem));
        }
        let tensor = Tensor::f_from_slice(&samples).and_then(|t| t.f_reshape(&shape));
        Ok((found, tensor.map_err(|error| CodecError::input(port, error))?))
    }
}
