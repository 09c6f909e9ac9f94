//! A picture of pixels with rectangles and text, written as PNG.
//!
//! Drawing beyond the edge is cut, never an error: a page is better with a clipped label than not at all.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::{Error, Result};

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

pub(super) const BLACK: Colour = [20, 20, 20];
pub(super) const GREY: Colour = [140, 140, 140];
pub(super) const PALE: Colour = [225, 225, 225];
pub(super) const WHITE: Colour = [255, 255, 255];

/// Size and weight of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Font {
    Small,
    Title,
}

impl Font {
    fn style(self) -> (FontWeight, RasterHeight) {
        match self {
            Self::Small => (FontWeight::Regular, RasterHeight::Size16),
            Self::Title => (FontWeight::Bold, RasterHeight::Size20),
        }
    }

    /// Width of a text, pixels.
    pub(super) fn width(self, text: &str) -> i64 {
        let (weight, height) = self.style();
        (get_raster_width(weight, height) * text.chars().count()) as i64
    }
}

/// A white picture to draw on; the origin is at the top left.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![255; width * height * 3] }
    }

    pub(super) fn pixel(&mut self, x: i64, y: i64, colour: Colour) {
        self.blend(x, y, colour, 255);
    }

    pub(super) fn fill(&mut self, x: i64, y: i64, width: i64, height: i64, colour: Colour) {
        for row in y..y + height {
            for column in x..x + width {
                self.pixel(column, row, colour);
            }
        }
    }

    pub(super) fn frame(&mut self, x: i64, y: i64, width: i64, height: i64, colour: Colour) {
        self.fill(x, y, width, 1, colour);
        self.fill(x, y + height - 1, width, 1, colour);
        self.fill(x, y, 1, height, colour);
        self.fill(x + width - 1, y, 1, height, colour);
    }

    /// Draws text with its top left corner at a point; characters that the font does not have become "?".
    pub(super) fn text(&mut self, x: i64, y: i64, text: &str, font: Font, colour: Colour) {
        let (weight, height) = font.style();
        let mut left = x;
        for character in text.chars() {
            let Some(raster) =
                get_raster(character, weight, height).or_else(|| get_raster('?', weight, height))
            else {
                continue;
            };
            for (row, pixels) in (y..).zip(raster.rows()) {
                for (column, &cover) in (left..).zip(pixels) {
                    self.blend(column, row, colour, cover);
                }
            }
            left += raster.width() as i64;
        }
    }

    /// Text whose middle (horizontally) is at `x`.
    pub(super) fn text_centred(&mut self, x: i64, y: i64, text: &str, font: Font, colour: Colour) {
        self.text(x - font.width(text) / 2, y, text, font, colour);
    }

    /// Text that ends at `x`.
    pub(super) fn text_right(&mut self, x: i64, y: i64, text: &str, font: Font, colour: Colour) {
        self.text(x - font.width(text), y, text, font, colour);
    }

    /// The picture as a PNG file.
    pub(super) fn to_png(&self) -> Result<Vec<u8>> {
        let cannot =
            |error: png::EncodingError| Error::misuse(format!("the page cannot be encoded: {error}"));
        let size = |length: usize| u32::try_from(length).map_err(|_| Error::misuse("the page is too large"));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size(self.width)?, size(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(cannot)?;
        writer.write_image_data(&self.pixels).map_err(cannot)?;
        writer.finish().map_err(cannot)?;
        Ok(bytes)
    }

    fn blend(&mut self, x: i64, y: i64, colour: Colour, cover: u8) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let start = (y * self.width + x) * 3;
        let cover = u16::from(cover);
        for (pixel, colour) in self.pixels.iter_mut().skip(start).zip(colour) {
            *pixel = ((u16::from(*pixel) * (255 - cover) + u16::from(colour) * cover) / 255) as u8;
        }
    }
}

/// Blue over green to yellow for 0 to 1 (matplotlib's viridis at nine points); white for 0 itself.
pub(super) fn viridis(part: f64) -> Colour {
    const POINTS: [Colour; 9] = [
        [68, 1, 84],
        [71, 44, 122],
        [59, 81, 139],
        [44, 113, 142],
        [33, 144, 141],
        [39, 173, 129],
        [92, 200, 99],
        [170, 220, 50],
        [253, 231, 37],
    ];
    if part <= 0.0 { WHITE } else { between(&POINTS, part) }
}

/// Blue for −1, white for 0, red for 1.
pub(super) fn diverging(part: f64) -> Colour {
    const POINTS: [Colour; 5] = [[33, 74, 155], [146, 180, 220], WHITE, [240, 160, 130], [170, 20, 30]];
    between(&POINTS, (part + 1.0) / 2.0)
}

fn between(points: &[Colour], part: f64) -> Colour {
    let position = part.clamp(0.0, 1.0) * (points.len() - 1) as f64;
    let below = points.get(position.floor() as usize).copied().unwrap_or(WHITE);
    let above = points.get(position.ceil() as usize).copied().unwrap_or(WHITE);
    let mix = |below: u8, above: u8| {
        (f64::from(below) + (f64::from(above) - f64::from(below)) * position.fract()).round() as u8
    };
    std::array::from_fn(|channel| match (below.get(channel), above.get(channel)) {
        (Some(&below), Some(&above)) => mix(below, above),
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_beyond_the_edge_is_cut() {
        let mut canvas = Canvas::new(10, 10);
        canvas.fill(-5, 8, 30, 30, BLACK);
        canvas.text(8, -3, "°×?\u{3b3}", Font::Title, BLACK);
        assert_eq!(canvas.pixels.len(), 300);
        assert_eq!(canvas.pixels[..3], WHITE);
        assert_eq!(canvas.pixels[297..], BLACK);
    }

    #[test]
    fn colours_end_where_the_scale_ends() {
        assert_eq!((viridis(0.0), viridis(1.0), viridis(2.0)), (WHITE, [253, 231, 37], [253, 231, 37]));
        assert_eq!((diverging(-1.0), diverging(0.0), diverging(1.0)), ([33, 74, 155], WHITE, [170, 20, 30]));
    }
}
