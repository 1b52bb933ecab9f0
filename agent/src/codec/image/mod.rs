//! Codec `image`: a PNG, JPEG or WebP file to a tensor `[1, C, H, W]` or `[C, H, W]`, and such a tensor to a file.
//!
//! *In*: a file of at most [`MAX_BYTES`], [`MAX_SIDE`] a side and [`MAX_PIXELS`], told from its header before memory is taken.
//! Turned as its EXIF orientation says; of an animation the first frame; 16 bits a channel are rounded to 8; transparent
//! pixels are composited on `background`; CMYK becomes RGB; colour profiles are not applied. A file that is cut off is an
//! error, never half a picture.
//! *Out*: a PNG, JPEG or lossless WebP file, clamped to what 8 bits hold.
//! *Invariant*: values are 0 to `scale` (1), less `mean`, over `std`, in the order of `channels`; resizing is libtorch's own
//! antialiased kernel on 8-bit pixels, which is what `torchvision.transforms.Resize` and Pillow compute.
//!
//! Why the `image` crate: it is the ecosystem's, its decoders of these three formats are Rust alone, so a hostile file meets
//! no C code, and it is built without its thread pool.

mod fit;
mod options;
mod read;
mod watermark;
mod write;

use super::dtype::{kind_of, shape_fits};
use super::options::{CodecError, Options};
use crate::worker::message::{blame, essence};
use nightshift_types::{Dtype, FailureReason, Port};
use options::{Channels, Values};
use tch::{Device, Kind, TchError, Tensor};

pub use write::PictureWriter;

/// Options an input port may set.
pub const INPUT_OPTIONS: &[&str] =
    &["background", "channels", "cropFraction", "filter", "height", "mean", "resize", "scale", "std", "width"];
/// Options an output port may set.
pub const OUTPUT_OPTIONS: &[&str] = &["channels", "format", "maxSide", "mean", "quality", "scale", "std", "watermark"];
/// Options of an output that a job may set.
pub const OUTPUT_PARAMETERS: &[&str] = &["format", "quality"];

/// Largest file read.
pub const MAX_BYTES: usize = 64 << 20;
/// Longest side, of pictures and of what they are resized to.
pub const MAX_SIDE: i64 = 16_384;
/// Most pixels, of pictures and of what they are resized to: a frame of 8K video.
pub const MAX_PIXELS: i64 = 32 << 20;

/// What went wrong with a picture.
#[derive(Debug)]
enum Problem {
    /// The picture's fault; says what was expected and what to do.
    Picture(String),
    /// No memory for this many bytes.
    Memory(u64),
    /// What libtorch says of it.
    Torch(String),
}

impl From<TchError> for Problem {
    fn from(error: TchError) -> Self {
        Self::Torch(error.to_string())
    }
}

/// The codec of an input.
#[derive(Debug)]
pub struct PictureReader {
    values: Values,
    channels: Channels,
    fit: fit::Fit,
    background: [u8; 3],
    kind: Kind,
    batched: bool,
}

impl PictureReader {
    /// Reads the options; what the port's shape fixes need not be said again.
    pub fn new(options: &Options<'_>) -> Result<Self, CodecError> {
        let port = options.port();
        if !matches!(port.dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Uint8) {
            let problem = "codec image makes float32, float16, bfloat16 or uint8";
            return Err(CodecError::model(format!("input {:?}: {problem}, not {}", port.name, port.dtype)));
        }
        let shape = options::shape(port)?;
        let channels =
            options::channels(options)?.unwrap_or(if shape[0] == 1 { Channels::Gray } else { Channels::Rgb });
        let count = channels.count();
        if shape[0] != -1 && shape[0] != count {
            let problem = format!("channels {channels} makes {count}, its shape {:?} says {}", port.shape, shape[0]);
            return Err(CodecError::model(format!("input {:?}: {problem}", port.name)));
        }
        let values = Values::new(options)?;
        values.check(port, count)?;
        Ok(Self {
            values,
            channels,
            fit: fit::Fit::new(options, shape[1], shape[2])?,
            background: options::background(options)?,
            kind: kind_of(port.dtype),
            batched: port.shape.len() != 3,
        })
    }

    /// Reads a file.
    pub fn decode(&self, port: &Port, bytes: &[u8]) -> Result<Tensor, CodecError> {
        let tensor = self.tensor(bytes).map_err(|problem| match problem {
            Problem::Picture(text) => CodecError::input(port, text),
            Problem::Memory(bytes) => {
                let error = CodecError::input(port, format!("no memory for a picture of {bytes} bytes"));
                CodecError { reason: FailureReason::OutOfMemory, ..error }
            }
            Problem::Torch(text) => {
                let error = CodecError::input(port, essence(&text));
                CodecError { reason: blame(&text, error.reason), ..error }
            }
        })?;
        if !shape_fits(&port.shape, &tensor.size()) {
            let problem = format!(
                "expected a picture of shape {:?}, this one has {:?}: set image.width and image.height to resize it",
                port.shape,
                tensor.size()
            );
            return Err(CodecError::input(port, problem));
        }
        Ok(tensor)
    }

    fn tensor(&self, bytes: &[u8]) -> Result<Tensor, Problem> {
        let read::Pixels { bytes, width, height, orientation } = read::pixels(bytes, self.channels, self.background)?;
        let size = [height, width, self.channels.count()];
        // libtorch reads as many elements as the sizes say: `pixels` made that exactly what is there.
        let pixels = Tensor::f_from_data_size(&bytes, &size, Kind::Uint8)?;
        drop(bytes);
        let pixels = fit::turned(&pixels, orientation)?.f_permute([2, 0, 1])?.f_unsqueeze(0)?;
        let pixels = self.fit.apply(pixels, &self.channels.of(self.background))?;
        let values = if self.kind == Kind::Uint8 { pixels } else { self.values.normalised(&pixels)? };
        let values = if self.batched { values } else { values.f_squeeze_dim(0)? };
        Ok(values.f_to_kind(self.kind)?.f_contiguous()?)
    }
}

/// A tensor of one number a channel, that stretches over a picture.
fn column(numbers: &[f64]) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(numbers)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_reshape([-1, 1, 1])
}

#[cfg(test)]
mod tests;
