//! A tensor to a PNG, JPEG or WebP file.

use super::fit::{self, Filter};
use super::options::{self, Channels, Values, word};
use super::{MAX_PIXELS, MAX_SIDE, Problem, watermark};
use crate::codec::options::{CodecError, Options};
use ::image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use ::image::{ExtendedColorType, ImageEncoder, ImageResult};
use nightshift_types::{Dtype, Port};
use tch::{Kind, TchError, Tensor};

/// JPEG's quality if nobody says.
const DEFAULT_QUALITY: u8 = 90;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    Webp,
}

/// The codec of an output.
#[derive(Debug)]
pub struct PictureWriter {
    values: Values,
    channels: Option<Channels>,
    format: Format,
    quality: u8,
    max_side: Option<i64>,
    watermark: Option<String>,
}

impl PictureWriter {
    /// Reads the options.
    pub fn new(options: &Options<'_>) -> Result<Self, CodecError> {
        let formats = [("png", Format::Png), ("jpeg", Format::Jpeg), ("webp", Format::Webp)];
        let format = word(options, "format", &formats)?.unwrap_or(Format::Png);
        let quality = options.get("quality", 1..=100)?;
        // A model that writes JPEG may say how well; a job that chooses another format need not know.
        let of_job = |name| options.text(name).is_some_and(|(_, of_job)| of_job);
        if let Some((text, job)) = options.text("quality")
            && format != Format::Jpeg
            && (job || !of_job("format"))
        {
            return Err(options.bad("quality", text, job, "is for format jpeg only: png and webp are lossless here"));
        }
        let watermark = match options.text("watermark") {
            Some((text, of_job)) if !watermark::is_drawable(text) => {
                let problem = format!("must be 1 to {} characters of Latin-1", watermark::MAX_CHARACTERS);
                return Err(options.bad("watermark", text, of_job, &problem));
            }
            text => text.map(|(text, _)| text.to_owned()),
        };
        let port = options.port();
        options::shape(port)?;
        let channels = options::channels(options)?;
        let values = Values::new(options)?;
        if let Some(channels) = channels {
            values.check(port, channels.count())?;
        }
        let max_side = options.get("maxSide", 16..=MAX_SIDE)?;
        Ok(Self { values, channels, format, quality: quality.unwrap_or(DEFAULT_QUALITY), max_side, watermark })
    }

    /// Writes a picture; answers with its media type.
    pub fn encode(&self, port: &Port, tensor: &Tensor, out: &mut Vec<u8>) -> Result<&'static str, CodecError> {
        let fail = |error: TchError| CodecError::output(port, error);
        let size = tensor.size();
        let (channels, height, width) = match size.as_slice() {
            [1, channels, height, width] | [channels, height, width] => (*channels, *height, *width),
            other => {
                let problem = "expected [1, channels, height, width] or [channels, height, width], the model returned";
                return Err(CodecError::output(port, format!("{problem} {other:?}")));
            }
        };
        let order = match (self.channels, channels) {
            (None, 1) => Channels::Gray,
            (None, 3) => Channels::Rgb,
            (Some(order), found) if order.count() == found => order,
            _ => {
                let problem =
                    format!("expected 1 channel (gray) or 3 (rgb, bgr) as image.channels says, found {size:?}");
                return Err(CodecError::output(port, problem));
            }
        };
        if height < 1 || width < 1 || height.max(width) > MAX_SIDE || height.saturating_mul(width) > MAX_PIXELS {
            let problem =
                format!("{width} × {height} pixels; 1 to {MAX_SIDE} a side and {MAX_PIXELS} in all are written");
            return Err(CodecError::output(port, problem));
        }
        self.values.check(port, channels)?;
        let pixels = self.pixels(port, tensor)?.f_reshape([1, channels, height, width]).map_err(fail)?;
        let pixels = self.shared(pixels).map_err(|problem| match problem {
            Problem::Picture(text) => CodecError::output(port, text),
            Problem::Memory(bytes) => CodecError::output(port, format!("no memory for {bytes} bytes")),
            Problem::Torch(text) => CodecError::output(port, text),
        })?;
        let (height, width) = (pixels.size()[2], pixels.size()[3]);
        let mut bytes = interleaved(&pixels, order).map_err(fail)?;
        if let Some(text) = &self.watermark {
            watermark::draw(text, &mut bytes, width as usize, height as usize, channels as usize);
        }
        self.file(&bytes, width as u32, height as u32, order, out).map_err(|error| CodecError::output(port, error))?;
        Ok(match self.format {
            Format::Png => "image/png",
            Format::Jpeg => "image/jpeg",
            Format::Webp => "image/webp",
        })
    }

    /// 8-bit pixels of what the model returned.
    fn pixels(&self, port: &Port, tensor: &Tensor) -> Result<Tensor, CodecError> {
        let fail = |error: TchError| CodecError::output(port, error);
        let kind = tensor.f_kind().map_err(fail)?;
        match (kind, port.dtype) {
            (Kind::Uint8, Dtype::Uint8) => Ok(tensor.shallow_clone()),
            (Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16, dtype) if dtype != Dtype::Uint8 => {
                let finite =
                    tensor.f_isfinite().and_then(|t| t.f_all()).and_then(|t| t.f_int64_value(&[])).map_err(fail)?;
                if finite == 0 {
                    return Err(CodecError::output(port, "a value is not a finite number"));
                }
                let pixels = self.values.pixels(tensor).and_then(|t| t.f_round()).and_then(|t| t.f_clamp(0, 255));
                pixels.and_then(|t| t.f_to_kind(Kind::Uint8)).map_err(fail)
            }
            (found, wanted) => {
                let problem = format!("expected {wanted}, uint8 or floating point, the model returned {found:?}");
                Err(CodecError::output(port, problem))
            }
        }
    }

    /// No side longer than `maxSide`.
    fn shared(&self, pixels: Tensor) -> Result<Tensor, Problem> {
        let (height, width) = (pixels.size()[2], pixels.size()[3]);
        match self.max_side {
            Some(most) if width.max(height) > most => {
                let long = width.max(height);
                let side = |side: i64| fit::rounded(side * most, long);
                fit::resized(pixels, side(height), side(width), Filter::Bilinear)
            }
            _ => Ok(pixels),
        }
    }

    fn file(&self, bytes: &[u8], width: u32, height: u32, order: Channels, out: &mut Vec<u8>) -> ImageResult<()> {
        let color = if order == Channels::Gray { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        match self.format {
            Format::Png => PngEncoder::new(out).write_image(bytes, width, height, color),
            Format::Jpeg => JpegEncoder::new_with_quality(out, self.quality).write_image(bytes, width, height, color),
            Format::Webp => WebPEncoder::new_lossless(out).write_image(bytes, width, height, color),
        }
    }
}

/// Rows from the top, channels together, red first.
fn interleaved(pixels: &Tensor, order: Channels) -> Result<Vec<u8>, TchError> {
    let pixels = if order == Channels::Bgr { pixels.f_flip([1])? } else { pixels.shallow_clone() };
    let flat = pixels.f_squeeze_dim(0)?.f_permute([1, 2, 0])?.f_contiguous()?;
    let mut bytes = vec![0; flat.numel()];
    flat.f_copy_data_u8(&mut bytes, flat.numel())?;
    Ok(bytes)
}
