//! The options of codec image that both directions know, and what a port's shape says.

use super::{MAX_SIDE, column};
use crate::codec::options::{CodecError, Options};
use nightshift_types::{Dtype, Port};
use std::fmt;
use tch::{Kind, TchError, Tensor};

/// What stands in a tensor's channels, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV has it.
    Bgr,
    /// One: the luma of ITU-R 601, as Pillow computes it.
    Gray,
}

impl Channels {
    /// How many.
    pub fn count(self) -> i64 {
        if self == Self::Gray { 1 } else { 3 }
    }

    /// A colour's values, in order.
    pub fn of(self, [red, green, blue]: [u8; 3]) -> Vec<u8> {
        match self {
            Self::Rgb => vec![red, green, blue],
            Self::Bgr => vec![blue, green, red],
            Self::Gray => vec![luma([red, green, blue])],
        }
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
            Self::Gray => "gray",
        })
    }
}

/// ITU-R 601's luma, in the fixed point that Pillow uses.
pub fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

/// One of a few words; `None` if it is not set.
pub fn word<T: Copy>(options: &Options<'_>, name: &str, words: &[(&str, T)]) -> Result<Option<T>, CodecError> {
    let Some((text, of_job)) = options.text(name) else { return Ok(None) };
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(options.bad(name, text, of_job, &format!("must be one of {}", names.join(", "))))
        }
    }
}

/// Option `channels`.
pub fn channels(options: &Options<'_>) -> Result<Option<Channels>, CodecError> {
    word(options, "channels", &[("rgb", Channels::Rgb), ("bgr", Channels::Bgr), ("gray", Channels::Gray)])
}

/// Option `background`: white if it is not set.
pub fn background(options: &Options<'_>) -> Result<[u8; 3], CodecError> {
    let Some((text, of_job)) = options.text("background") else { return Ok([255; 3]) };
    let mut colour = [0; 3];
    match text.strip_prefix('#').map(|digits| hex::decode_to_slice(digits, &mut colour)) {
        Some(Ok(())) => Ok(colour),
        _ => Err(options.bad("background", text, of_job, "must be a colour such as #ffffff")),
    }
}

/// Channels, height and width as the port's shape fixes them; -1 where it does not.
pub fn shape(port: &Port) -> Result<[i64; 3], CodecError> {
    match port.shape.as_slice() {
        [] => Ok([-1; 3]),
        [1 | -1, channels, height, width] | [channels, height, width] => Ok([*channels, *height, *width]),
        other => {
            let problem = "codec image takes [1, channels, height, width] or [channels, height, width]";
            Err(CodecError::model(format!("shape {other:?} of {:?}: {problem}", port.name)))
        }
    }
}

/// One side in pixels: the option's, else what the shape fixes.
pub fn side(options: &Options<'_>, name: &str, fixed: i64) -> Result<Option<i64>, CodecError> {
    let set = options.get(name, 1..=MAX_SIDE)?;
    if fixed == -1 {
        return Ok(set);
    }
    let port = options.port();
    if !(1..=MAX_SIDE).contains(&fixed) || set.is_some_and(|set| set != fixed) {
        let set = set.map_or_else(|| "not set".to_owned(), |set| set.to_string());
        let problem = format!("shape {:?} says {fixed}, {name} is {set}; at most {MAX_SIDE}", port.shape);
        return Err(CodecError::model(format!("{name} of {:?}: {problem}", port.name)));
    }
    Ok(Some(fixed))
}

/// What a pixel's value stands for: `value = pixel / 255 * scale`, less `mean`, over `std`.
#[derive(Debug, Clone)]
pub struct Values {
    scale: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Values {
    /// Reads `scale`, `mean` and `std`.
    pub fn new(options: &Options<'_>) -> Result<Self, CodecError> {
        let port = options.port();
        let names = ["scale", "mean", "std"];
        if port.dtype == Dtype::Uint8
            && let Some(name) = names.iter().find(|name| options.text(name).is_some())
        {
            let problem = "is for floating point; uint8 is 0 to 255 as it stands";
            return Err(CodecError::model(format!("option {name:?} of {:?} {problem}", port.name)));
        }
        let positive = |value: &f64| *value >= 1e-6;
        let std = numbers(options, "std")?;
        if let Some(bad) = std.iter().find(|value| !positive(value)) {
            return Err(CodecError::model(format!("option \"std\" of {:?}: {bad} cannot be divided by", port.name)));
        }
        let scale = options.get("scale", 1e-6..=1e6)?.unwrap_or(1.0);
        Ok(Self { scale, mean: numbers(options, "mean")?, std })
    }

    /// One number for all channels, or one for each.
    pub fn check(&self, port: &Port, channels: i64) -> Result<(), CodecError> {
        for (name, numbers) in [("mean", &self.mean), ("std", &self.std)] {
            if numbers.len() > 1 && numbers.len() as i64 != channels {
                let problem = format!("{} numbers for {channels} channels: give one, or one a channel", numbers.len());
                return Err(CodecError::model(format!("option {name:?} of {:?}: {problem}", port.name)));
            }
        }
        Ok(())
    }

    /// Pixels as the model takes them. With a scale of 1 it is torchvision's `ToTensor` and `Normalize`, to the bit.
    pub fn normalised(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let mut values = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0 / self.scale)?;
        if !self.mean.is_empty() {
            values = values.f_sub(&column(&self.mean)?)?;
        }
        if !self.std.is_empty() {
            values = values.f_div(&column(&self.std)?)?;
        }
        Ok(values)
    }

    /// The reverse, not yet clamped or rounded.
    pub fn pixels(&self, values: &Tensor) -> Result<Tensor, TchError> {
        let mut values = values.f_to_kind(Kind::Float)?;
        if !self.std.is_empty() {
            values = values.f_mul(&column(&self.std)?)?;
        }
        if !self.mean.is_empty() {
            values = values.f_add(&column(&self.mean)?)?;
        }
        values.f_mul_scalar(255.0 / self.scale)
    }
}

/// A JSON array of numbers, or of numbers in quotes as the API has them.
fn numbers(options: &Options<'_>, name: &str) -> Result<Vec<f64>, CodecError> {
    let Some((text, of_job)) = options.text(name) else { return Ok(Vec::new()) };
    let bad = || options.bad(name, text, of_job, "must be a JSON array of at most 4 numbers");
    let list: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| bad())?;
    if list.len() > 4 {
        return Err(bad());
    }
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    list.iter().map(|value| number(value).filter(|number| number.is_finite()).ok_or_else(bad)).collect()
}
