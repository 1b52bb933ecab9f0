//! Another rate: band-limited, by a windowed sinc.
//!
//! *In*: mono samples and two rates. *Out*: as many samples as the other rate has in that time, shifted by less than one.
//! *Invariant*: bounded like every
//! decoded audio; what the lower rate cannot hold is filtered out, not folded back.

use super::super::wav::MAX_SAMPLES;
use rubato::audioadapter_buffers::owned::SequentialOwned;
use rubato::{Async, FixedAsync, Resampler, SincInterpolationParameters, SincInterpolationType, WindowFunction};

/// Frames at once.
const CHUNK: usize = 4096;
/// Length of the filter, at the lower of the two rates.
const LENGTH: usize = 128;

/// `samples` at `from` a second become as much at `to`.
pub fn to(samples: Vec<f32>, from: u32, to: u32) -> Result<Vec<f32>, String> {
    let frames = samples.len();
    let expected = (frames as u64 * u64::from(to)).div_ceil(u64::from(from));
    if frames == 0 {
        return Ok(samples);
    }
    if expected > MAX_SAMPLES as u64 {
        return Err(format!(
            "{expected} samples at {to} a second; at most {MAX_SAMPLES} are made: cut the audio into parts"
        ));
    }
    let failed = |error: &dyn std::fmt::Display| format!("from {from} to {to} samples a second: {error}");
    let parameters = SincInterpolationParameters::new(LENGTH, WindowFunction::BlackmanHarris2)
        .oversampling_factor(256)
        .interpolation(SincInterpolationType::Linear);
    let ratio = f64::from(to) / f64::from(from);
    let resampler = Async::<f32>::new_sinc(ratio, 1.0, &parameters, CHUNK, 1, FixedAsync::Input);
    let mut resampler = resampler.map_err(|error| failed(&error))?;
    let input = SequentialOwned::new_from(samples, 1, frames).map_err(|error| failed(&error))?;
    let output = resampler.process_all(&input, frames, None).map_err(|error| failed(&error))?;
    let mut output = output.take_data();
    output.resize(expected as usize, 0.0);
    Ok(output)
}
