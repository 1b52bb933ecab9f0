//! A file's bytes to 8-bit pixels in the model's channel order. The bytes may be hostile.
//!
//! *Invariant*: nothing is allocated for pixels before the header's size is within the limits and the file is whole.

use super::options::{Channels, luma};
use super::{MAX_BYTES, MAX_PIXELS, MAX_SIDE, Problem};
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a decoder may take beside the pixels that we take for it: as much as the largest picture of 16 bits a channel.
const MAX_ALLOCATION: u64 = 8 * MAX_PIXELS as u64;

/// A decoded picture.
pub struct Pixels {
    /// Rows from the top, channels together: height × width × channels.
    pub bytes: Vec<u8>,
    /// As stored, before it is turned.
    pub width: i64,
    /// As stored, before it is turned.
    pub height: i64,
    /// How it must be turned to stand upright.
    pub orientation: Orientation,
}

/// Reads a file.
pub fn pixels(file: &[u8], channels: Channels, background: [u8; 3]) -> Result<Pixels, Problem> {
    let format = format_of(file)?;
    let broken = |error: &dyn std::fmt::Display| {
        Problem::Picture(format!("the {} file is broken: {error}", format.to_mime_type()))
    };
    // A decoder's panic is the file's fault, and ends nothing but this task.
    let decode = AssertUnwindSafe(|| decode(file, format, channels, background));
    match catch_unwind(decode) {
        Ok(Ok(pixels)) => Ok(pixels),
        Ok(Err(Failure::Problem(problem))) => Err(problem),
        Ok(Err(Failure::Image(ImageError::Limits(error)))) => {
            Err(Problem::Picture(format!("{error}: save the picture again, smaller and without metadata")))
        }
        Ok(Err(Failure::Image(ImageError::Unsupported(error)))) => {
            Err(Problem::Picture(format!("{error}: save the picture as a plain PNG or JPEG")))
        }
        Ok(Err(Failure::Image(error))) => Err(broken(&error)),
        Err(_) => Err(broken(&"its decoder failed")),
    }
}

enum Failure {
    Problem(Problem),
    Image(ImageError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

fn format_of(file: &[u8]) -> Result<ImageFormat, Problem> {
    if file.len() > MAX_BYTES {
        let problem = format!("the file has {} bytes; at most {MAX_BYTES} are read: save it smaller", file.len());
        return Err(Problem::Picture(problem));
    }
    match ::image::guess_format(file) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        _ => Err(Problem::Picture(format!(
            "expected a PNG, JPEG or WebP file; it begins with {:?}: convert it, for example with `magick FILE out.png`",
            String::from_utf8_lossy(&file[..file.len().min(8)])
        ))),
    }
}

fn decode(file: &[u8], format: ImageFormat, channels: Channels, background: [u8; 3]) -> Result<Pixels, Failure> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (i64::from(width), i64::from(height));
    if width < 1 || height < 1 || width.max(height) > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(Failure::Problem(Problem::Picture(format!(
            "the picture has {width} × {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read: \
             scale it down before you send it, for example with `magick FILE -resize 4096x4096 out.jpg`"
        ))));
    }
    whole(file, format)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut raw = zeroed(decoder.total_bytes())?;
    decoder.read_image(&mut raw)?;
    let bytes = converted(&raw, color, channels, background, (width * height) as u64)?;
    Ok(Pixels { bytes, width, height, orientation })
}

/// Memory that may not be there: an error then, where `vec!` would end the process.
fn zeroed(bytes: u64) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::new();
    let count = usize::try_from(bytes).map_err(|_| Problem::Memory(bytes))?;
    out.try_reserve_exact(count).map_err(|_| Problem::Memory(bytes))?;
    out.resize(count, 0);
    Ok(out)
}

/// The decoders forgive a JPEG or WebP that is cut off, and make the rest up.
fn whole(file: &[u8], format: ImageFormat) -> Result<(), Problem> {
    let whole = match format {
        ImageFormat::Jpeg => jpeg_ends(file),
        ImageFormat::WebP => webp_ends(file),
        _ => true,
    };
    if whole {
        return Ok(());
    }
    let name = format.to_mime_type();
    Err(Problem::Picture(format!("the {name} file of {} bytes is cut off before its end: send all of it", file.len())))
}

/// Whether the end marker follows the last scan. Segments are skipped by their length: a thumbnail has its own end.
fn jpeg_ends(file: &[u8]) -> bool {
    let mut at = 2;
    while let Some(rest) = file.get(at..) {
        let Some(next) = rest.iter().position(|byte| *byte == 0xff) else { return false };
        at += next + 1;
        match file.get(at) {
            None => return false,
            Some(0xd9) => return true,
            // Stuffing, fill bytes, restarts, TEM.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(0xff) => {}
            Some(_) => {
                let Some(length) = file.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
    false
}

/// Whether every chunk that the file claims is in it; else a decoder takes memory for what is not there.
fn webp_ends(file: &[u8]) -> bool {
    let size = |at: usize| file.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let Some(end) = size(4).map(|size| size.saturating_add(8)).filter(|end| *end <= file.len() + 1) else {
        return false;
    };
    let mut at = 12usize;
    while at + 8 <= end {
        let Some(next) = size(at + 4).map(|size| size.saturating_add(at + 8)) else { return false };
        if next > file.len() {
            return false;
        }
        at = next + next % 2;
    }
    true
}

/// Any of the decoders' layouts as 8 bits, opaque, in the model's channels.
fn converted(
    raw: &[u8],
    color: ColorType,
    channels: Channels,
    background: [u8; 3],
    pixels: u64,
) -> Result<Vec<u8>, Problem> {
    let from = usize::from(color.channel_count());
    let wide = usize::from(color.bytes_per_pixel()) / from == 2;
    if from > 4 || usize::from(color.bytes_per_pixel()) > 8 {
        return Err(Problem::Picture(format!("its pixels are {color:?}: save it with 8 bits a channel")));
    }
    let mut out = zeroed(pixels * channels.count() as u64)?;
    let to = channels.count() as usize;
    for (pixel, out) in raw.chunks_exact(usize::from(color.bytes_per_pixel())).zip(out.chunks_exact_mut(to)) {
        let mut values = [0u8; 4];
        for (index, value) in values.iter_mut().take(from).enumerate() {
            *value = if wide { eight(pixel[2 * index], pixel[2 * index + 1]) } else { pixel[index] };
        }
        let [first, second, third, fourth] = values;
        let (rgb, alpha) = match from {
            1 => ([first; 3], 255),
            2 => ([first; 3], second),
            3 => ([first, second, third], 255),
            _ => ([first, second, third], fourth),
        };
        let [red, green, blue] = if alpha == 255 { rgb } else { over(rgb, alpha, background) };
        match channels {
            Channels::Rgb => out.copy_from_slice(&[red, green, blue]),
            Channels::Bgr => out.copy_from_slice(&[blue, green, red]),
            Channels::Gray => out[0] = luma([red, green, blue]),
        }
    }
    Ok(out)
}

/// 16 bits, in this machine's order, rounded to 8: 65535 is 255.
fn eight(first: u8, second: u8) -> u8 {
    ((u32::from(u16::from_ne_bytes([first, second])) + 128) / 257) as u8
}

/// A colour seen over another, as PNG's `alpha` means it.
fn over(colour: [u8; 3], alpha: u8, background: [u8; 3]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    let mix = |front: u8, back: u8| ((u32::from(front) * alpha + u32::from(back) * (255 - alpha) + 127) / 255) as u8;
    [0, 1, 2].map(|index| mix(colour[index], background[index]))
}
