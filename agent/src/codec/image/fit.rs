//! Turning and resizing, on tensors of 8-bit pixels.

use super::options::{side, word};
use super::{MAX_PIXELS, Problem, column};
use crate::codec::options::{CodecError, Options};
use ::image::metadata::Orientation;
use tch::{Kind, TchError, Tensor};

/// Between pixels. All but `Nearest` are antialiased when a picture shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel's centre.
    Nearest,
    /// A triangle.
    Bilinear,
    /// A cubic with a = -0.5, Catmull-Rom's.
    Bicubic,
}

/// What happens to a picture of other proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    Stretch,
    Crop,
    Pad,
}

/// How a picture gets its size.
#[derive(Debug)]
pub struct Fit {
    width: Option<i64>,
    height: Option<i64>,
    resize: Resize,
    filter: Filter,
    crop_fraction: f64,
}

impl Fit {
    /// Reads the options; `height` and `width` are what the port's shape fixes, or -1.
    pub fn new(options: &Options<'_>, height: i64, width: i64) -> Result<Self, CodecError> {
        let modes = [("stretch", Resize::Stretch), ("crop", Resize::Crop), ("pad", Resize::Pad)];
        let filters = [("nearest", Filter::Nearest), ("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)];
        let fit = Self {
            width: side(options, "width", width)?,
            height: side(options, "height", height)?,
            resize: word(options, "resize", &modes)?.unwrap_or(Resize::Stretch),
            filter: word(options, "filter", &filters)?.unwrap_or(Filter::Bilinear),
            crop_fraction: options.get("cropFraction", 0.1..=1.0)?.unwrap_or(1.0),
        };
        let name = &options.port().name;
        if fit.resize != Resize::Stretch && (fit.width.is_none() || fit.height.is_none()) {
            return Err(CodecError::model(format!("{name:?}: resize crop and pad need both width and height")));
        }
        if fit.resize != Resize::Crop && options.text("cropFraction").is_some() {
            return Err(CodecError::model(format!("{name:?}: cropFraction is for resize crop only")));
        }
        if fit.width.unwrap_or(1) * fit.height.unwrap_or(1) > MAX_PIXELS {
            return Err(CodecError::model(format!("{name:?}: width times height is over {MAX_PIXELS} pixels")));
        }
        Ok(fit)
    }

    /// Gives `[1, C, H, W]` its size; `background` fills what padding adds.
    pub fn apply(&self, pixels: Tensor, background: &[u8]) -> Result<Tensor, Problem> {
        let size = pixels.size();
        let (from_height, from_width) = (size[2], size[3]);
        let (width, height) = (self.width.unwrap_or(from_width), self.height.unwrap_or(from_height));
        match self.resize {
            Resize::Stretch => resized(pixels, height, width, self.filter),
            Resize::Crop => {
                let least = |side: i64| ((side as f64 / self.crop_fraction) as i64).max(side);
                let (least_width, least_height) = (least(width), least(height));
                let (to_width, to_height) = if least_width * from_height >= least_height * from_width {
                    (least_width, (least_width * from_height / from_width).max(least_height))
                } else {
                    ((least_height * from_width / from_height).max(least_width), least_height)
                };
                let pixels = resized(pixels, to_height, to_width, self.filter)?;
                let (top, left) = (middle(to_height - height), middle(to_width - width));
                Ok(pixels.f_narrow(2, top, height)?.f_narrow(3, left, width)?)
            }
            Resize::Pad => {
                let (to_width, to_height) = if width * from_height <= height * from_width {
                    (width, rounded(width * from_height, from_width))
                } else {
                    (rounded(height * from_width, from_height), height)
                };
                let pixels = resized(pixels, to_height, to_width, self.filter)?;
                let (top, left) = ((height - to_height) / 2, (width - to_width) / 2);
                let colour: Vec<f64> = background.iter().map(|value| f64::from(*value)).collect();
                let canvas = column(&colour)?.f_to_kind(Kind::Uint8)?;
                let canvas = canvas.f_expand([1, colour.len() as i64, height, width], false)?.f_contiguous()?;
                canvas.f_narrow(2, top, to_height)?.f_narrow(3, left, to_width)?.f_copy_(&pixels)?;
                Ok(canvas)
            }
        }
    }
}

/// Half of it; a half goes to the even neighbour, as Python's `round` has it in torchvision's `CenterCrop`.
fn middle(extra: i64) -> i64 {
    (extra as f64 / 2.0).round_ties_even() as i64
}

/// A quotient, rounded, at least 1.
pub fn rounded(dividend: i64, divisor: i64) -> i64 {
    ((dividend + divisor / 2) / divisor).max(1)
}

/// `[1, C, H, W]` of 8-bit pixels at another size.
pub fn resized(pixels: Tensor, height: i64, width: i64, filter: Filter) -> Result<Tensor, Problem> {
    let size = pixels.size();
    if size[2..] == [height, width] {
        return Ok(pixels);
    }
    // Rows first, then columns: between them stands a picture as high as the old one and as wide as the new.
    if width * height > MAX_PIXELS || width * size[2] > MAX_PIXELS {
        return Err(Problem::Picture(format!(
            "a picture of {} × {} would be resized to {width} × {height} pixels on the way, over {MAX_PIXELS}: cut it to \
             proportions nearer to the model's before you send it",
            size[3], size[2]
        )));
    }
    let to = [height, width];
    Ok(match filter {
        Filter::Nearest => pixels.f_internal_upsample_nearest_exact2d(to, None, None)?,
        Filter::Bilinear => pixels.f_internal_upsample_bilinear2d_aa(to, false, None, None)?,
        Filter::Bicubic => pixels.f_internal_upsample_bicubic2d_aa(to, false, None, None)?,
    })
}

/// `[H, W, C]` turned upright: views, no copies, but for the mirrored.
pub fn turned(pixels: &Tensor, orientation: Orientation) -> Result<Tensor, TchError> {
    let (down, across) = ([0i64].as_slice(), [1i64].as_slice());
    match orientation {
        Orientation::NoTransforms => Ok(pixels.shallow_clone()),
        Orientation::FlipHorizontal => pixels.f_flip(across),
        Orientation::FlipVertical => pixels.f_flip(down),
        Orientation::Rotate180 => pixels.f_flip([0, 1]),
        Orientation::Rotate90 => pixels.f_transpose(0, 1)?.f_flip(across),
        Orientation::Rotate270 => pixels.f_transpose(0, 1)?.f_flip(down),
        Orientation::Rotate90FlipH => pixels.f_transpose(0, 1),
        Orientation::Rotate270FlipH => pixels.f_transpose(0, 1)?.f_flip([0, 1]),
    }
}
