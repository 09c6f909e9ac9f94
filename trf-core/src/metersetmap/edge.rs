//! How much of a pixel one edge covers, on average over the samples of its travel.

/// The edge of a leaf or jaw that travels from one control point to the next in equal steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    /// Position at the first sample, in pixels from the grid's origin.
    pub(super) start: f64,
    /// Position at the last sample.
    pub(super) end: f64,
    /// Which side it covers.
    pub(super) covers: Side,
}

/// The side of an edge that is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// All pixels below the edge.
    Low,
    /// All pixels above it.
    High,
}

impl Edge {
    pub(super) fn moves(&self) -> bool {
        self.start != self.end
    }

    /// First and last pixel that the edge may cover in part.
    pub(super) fn zone(&self) -> (i64, i64) {
        let low = self.start.min(self.end);
        let high = self.start.max(self.end);
        ((low - 0.5).floor() as i64, (high + 0.5).ceil() as i64)
    }

    /// True if the edge covers a pixel outside of its zone.
    pub(super) fn covers_outside(&self, pixel: i64) -> bool {
        let (first, last) = self.zone();
        match self.covers {
            Side::Low => pixel < first,
            Side::High => pixel > last,
        }
    }

    /// Covered part of `pixel` at a sample, in [0, 1].
    pub(super) fn covered_at(&self, pixel: f64, sample: usize, n_samples: usize) -> f64 {
        let travelled = sample as f64 * (self.end - self.start) / (n_samples - 1) as f64;
        self.depth(pixel, self.start + travelled).clamp(0.0, 1.0)
    }

    /// Mean covered part of `pixel` over `n_samples` (at least 2) equal steps, both ends included.
    ///
    /// The depth is linear in the sample number, so the sum of its clamped values is the sum of an arithmetic series between
    /// the samples where it leaves 0 and where it reaches 1.
    pub(super) fn covered_mean(&self, pixel: f64, n_samples: usize) -> f64 {
        let (a, b) = (self.depth(pixel, self.start), self.depth(pixel, self.end));
        // The mean does not depend on the direction of travel.
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        if high <= 0.0 {
            return 0.0;
        }
        if low >= 1.0 {
            return 1.0;
        }
        if low == high {
            return low;
        }
        let n = n_samples as f64;
        let step = (high - low) / (n - 1.0);
        let first_open = if low >= 0.0 { 0.0 } else { (-low / step).ceil().min(n) };
        let first_full = if high < 1.0 { n } else { ((1.0 - low) / step).ceil().clamp(first_open, n) };
        let count = first_full - first_open;
        let ramp = count * low + step * (first_open + first_full - 1.0) * count / 2.0;
        (ramp + (n - first_full)) / n
    }

    /// How far the edge reaches over the pixel, in pixels: 0 and less not at all, 1 and more completely.
    fn depth(&self, pixel: f64, position: f64) -> f64 {
        match self.covers {
            Side::Low => 0.5 - (pixel - position),
            Side::High => 0.5 - (position - pixel),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn closed_sum_equals_the_sum_of_samples(
            start in -30.0..30.0_f64,
            end in -30.0..30.0_f64,
            pixel in -32_i64..32,
            n_samples in 2_usize..700,
            high in any::<bool>(),
        ) {
            let edge = Edge { start, end, covers: if high { Side::High } else { Side::Low } };
            let sum: f64 = (0..n_samples).map(|sample| edge.covered_at(pixel as f64, sample, n_samples)).sum();
            let mean = edge.covered_mean(pixel as f64, n_samples);
            prop_assert!((mean - sum / n_samples as f64).abs() < 1e-12, "{mean} {}", sum / n_samples as f64);
            let (first, last) = edge.zone();
            if pixel < first || pixel > last {
                prop_assert_eq!(mean, f64::from(u8::from(edge.covers_outside(pixel))));
            }
        }
    }
}
