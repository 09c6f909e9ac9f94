//! One map with axes and a colour scale.

use super::canvas::{BLACK, Canvas, Colour, Font, GREY, diverging, viridis};
use super::{LINE, MAP};
use crate::MetersetMap;

/// Space around the field, mm.
const BORDER_MM: f64 = 15.0;
/// Distance from the frame to the colour scale and its width, pixels.
const SCALE_GAP: i64 = 10;
const SCALE_WIDTH: i64 = 12;
/// Place for the labels of the Y axis, pixels.
const LABELS: i64 = 42;
/// Wanted number of labels on an axis.
const N_LABELS: f64 = 5.0;

/// What the colours stand for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// 0 to a value, MU.
    FromZero(f64),
    /// Minus to plus a value, MU.
    Around(f64),
}

impl Scale {
    fn colour(self, value: f64) -> Colour {
        match self {
            Self::FromZero(end) if end > 0.0 => viridis(value / end),
            Self::Around(end) if end > 0.0 => diverging(value / end),
            _ => diverging(0.0),
        }
    }

    fn ends(self) -> (f64, f64) {
        match self {
            Self::FromZero(end) => (0.0, end),
            Self::Around(end) => (-end, end),
        }
    }
}

/// The square part of the grid that is shown, in IEC coordinates.
pub(super) struct Window {
    centre_mm: [f64; 2],
    half_mm: f64,
    first_mm: [f64; 2],
    step_mm: f64,
    n_rows: usize,
    n_columns: usize,
}

impl Window {
    /// A square around all pixels of both maps with more than a hundredth of the largest.
    pub(super) fn around(planned: &MetersetMap, delivered: &MetersetMap) -> Self {
        let (rows, columns) = (planned.jaw_axis_mm(), planned.leaf_axis_mm());
        let step_mm =
            columns.iter().zip(columns.iter().skip(1)).map(|(low, high)| high - low).next().unwrap_or(1.0);
        let limit = planned.max_mu().max(delivered.max_mu()) / 100.0;
        let mut extent: Option<[f64; 4]> = None;
        for (index, (p, d)) in planned.mu().iter().zip(delivered.mu()).enumerate() {
            let position =
                rows.get(index / columns.len().max(1)).zip(columns.get(index % columns.len().max(1)));
            if let Some((y, x)) = position.filter(|_| p.max(*d) > limit) {
                let [x0, x1, y0, y1] = extent.unwrap_or([*x, *x, *y, *y]);
                extent = Some([x0.min(*x), x1.max(*x), y0.min(*y), y1.max(*y)]);
            }
        }
        let [x0, x1, y0, y1] = extent.unwrap_or([-50.0, 50.0, -50.0, 50.0]);
        Self {
            // The map's axes are minus IEC's.
            centre_mm: [-(x0 + x1) / 2.0, -(y0 + y1) / 2.0],
            half_mm: (x1 - x0).max(y1 - y0) / 2.0 + BORDER_MM,
            first_mm: [
                columns.first().copied().unwrap_or_default(),
                rows.first().copied().unwrap_or_default(),
            ],
            step_mm,
            n_rows: rows.len(),
            n_columns: columns.len(),
        }
    }

    pub(super) fn draw(
        &self,
        canvas: &mut Canvas,
        left: i64,
        top: i64,
        title: &str,
        mu: &[f64],
        scale: Scale,
    ) {
        let left = left + LABELS;
        canvas.text_centred(left + MAP / 2, top, &format!("{title}, MU"), Font::Small, BLACK);
        let top = top + LINE + 2;
        for y in 0..MAP {
            for x in 0..MAP {
                let value = self.value(mu, self.iec_mm(x, y)).unwrap_or_default();
                canvas.pixel(left + x, top + y, scale.colour(value));
            }
        }
        canvas.frame(left, top, MAP, MAP, BLACK);
        self.axes(canvas, left, top);
        colour_bar(canvas, left + MAP + SCALE_GAP, top, scale);
    }

    /// IEC X and Y at a pixel of the picture.
    fn iec_mm(&self, x: i64, y: i64) -> [f64; 2] {
        let part = |pixel: i64| (pixel as f64 + 0.5) / MAP as f64 * 2.0 - 1.0;
        let [centre_x, centre_y] = self.centre_mm;
        [centre_x + part(x) * self.half_mm, centre_y - part(y) * self.half_mm]
    }

    /// The map's nearest value; `None` outside of its grid.
    fn value(&self, mu: &[f64], [x_mm, y_mm]: [f64; 2]) -> Option<f64> {
        let [first_x, first_y] = self.first_mm;
        let index = |position_mm: f64, first_mm: f64, n: usize| {
            let index = ((-position_mm - first_mm) / self.step_mm).round();
            (index >= 0.0 && index < n as f64).then_some(index as usize)
        };
        let (row, column) = (index(y_mm, first_y, self.n_rows)?, index(x_mm, first_x, self.n_columns)?);
        mu.get(row * self.n_columns + column).copied()
    }

    fn axes(&self, canvas: &mut Canvas, left: i64, top: i64) {
        let step = label_step(self.half_mm * 2.0);
        let [centre_x, centre_y] = self.centre_mm;
        let pixel = |offset_mm: f64| ((offset_mm / self.half_mm + 1.0) / 2.0 * MAP as f64).round() as i64;
        for label in labels(centre_x, self.half_mm, step) {
            let x = left + pixel(label - centre_x);
            canvas.fill(x, top + MAP, 1, 5, BLACK);
            canvas.text_centred(x, top + MAP + 6, &format!("{label}"), Font::Small, BLACK);
        }
        for label in labels(centre_y, self.half_mm, step) {
            let y = top + pixel(centre_y - label);
            canvas.fill(left - 5, y, 5, 1, BLACK);
            canvas.text_right(left - 8, y - 9, &format!("{label}"), Font::Small, BLACK);
        }
        canvas.text_centred(left + MAP / 2, top + MAP + 24, "X right, Y up (IEC), mm", Font::Small, GREY);
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives about [`N_LABELS`] labels.
fn label_step(range: f64) -> f64 {
    let rough = (range / N_LABELS).max(1e-6);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

fn labels(centre: f64, half: f64, step: f64) -> impl Iterator<Item = f64> {
    let first = ((centre - half) / step).ceil() as i64;
    let last = ((centre + half) / step).floor() as i64;
    // 0.0 and not -0.0.
    (first..=last).map(move |index| index as f64 * step + 0.0)
}

fn colour_bar(canvas: &mut Canvas, left: i64, top: i64, scale: Scale) {
    let (low, high) = scale.ends();
    for y in 0..MAP {
        let value = high - (high - low) * y as f64 / (MAP - 1) as f64;
        canvas.fill(left, top + y, SCALE_WIDTH, 1, scale.colour(value));
    }
    canvas.frame(left, top, SCALE_WIDTH, MAP, BLACK);
    for (y, value) in [(top, high), (top + MAP / 2 - 9, (low + high) / 2.0), (top + MAP - 18, low)] {
        let text = if high.abs() >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        canvas.text(left + SCALE_WIDTH + 3, y, &text, Font::Small, BLACK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_and_lie_within_the_window() {
        assert_eq!(label_step(130.0), 50.0);
        assert_eq!(label_step(4.0), 1.0);
        assert_eq!(labels(3.0, 60.0, 20.0).collect::<Vec<_>>(), [-40.0, -20.0, 0.0, 20.0, 40.0, 60.0]);
    }
}
