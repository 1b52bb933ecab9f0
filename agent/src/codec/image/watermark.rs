//! A visible text in the bottom right corner: white on a box that halves what is under it.

use embedded_graphics::Drawable;
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{DrawTarget, OriginDimensions, Pixel, Point, Size};
use embedded_graphics::text::{Baseline, Text};
use std::convert::Infallible;

/// Longest text.
pub const MAX_CHARACTERS: usize = 64;

/// Whether the fonts have all of it.
pub fn is_drawable(text: &str) -> bool {
    let count = text.chars().count();
    (1..=MAX_CHARACTERS).contains(&count) && text.chars().all(|c| matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}'))
}

/// A text in black and white, one byte a pixel.
struct Mask {
    width: usize,
    height: usize,
    lit: Vec<bool>,
}

impl OriginDimensions for Mask {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Mask {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { continue };
            if x < self.width && y < self.height {
                self.lit[y * self.width + x] = color.is_on();
            }
        }
        Ok(())
    }
}

fn mask(text: &str, font: &MonoFont<'_>) -> Mask {
    let size = font.character_size;
    let (width, height) = (size.width as usize * text.chars().count(), size.height as usize);
    let mut mask = Mask { width, height, lit: vec![false; width * height] };
    let style = MonoTextStyle::new(font, BinaryColor::On);
    let Ok(_) = Text::with_baseline(text, Point::zero(), style, Baseline::Top).draw(&mut mask);
    mask
}

/// Draws onto rows of `width` pixels of `channels` bytes. A sixteenth of the shorter side high, 10 pixels at least; smaller
/// where the text is longer than the picture, and cut where even that is not enough.
pub fn draw(text: &str, pixels: &mut [u8], width: usize, height: usize, channels: usize) {
    let letters = text.chars().count().max(1);
    let wanted = (width.min(height) / 16).max(10);
    let fits = width.saturating_sub(4) / (10 * letters);
    let zoom = (wanted / 20).min(fits);
    let (mask, zoom) = if zoom == 0 { (mask(text, &FONT_6X10), 1) } else { (mask(text, &FONT_10X20), zoom) };
    let border = 2 * zoom;
    let (box_width, box_height) = (mask.width * zoom + 2 * border, mask.height * zoom + 2 * border);
    let (left, top) = (width.saturating_sub(box_width), height.saturating_sub(box_height));
    for y in top..height.min(top + box_height) {
        for x in left..width.min(left + box_width) {
            let inside = |at: usize, start: usize| (at - start).checked_sub(border).map(|at| at / zoom);
            let lit = match (inside(x, left), inside(y, top)) {
                (Some(column), Some(row)) if column < mask.width && row < mask.height => {
                    mask.lit[row * mask.width + column]
                }
                _ => false,
            };
            let start = (y * width + x) * channels;
            for value in &mut pixels[start..start + channels] {
                *value = if lit { 255 } else { *value / 2 };
            }
        }
    }
}
