//! Errors in numbers.

use serde::Serialize;

/// Errors of one axis over samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    /// Number of samples.
    pub n: usize,
    /// Mean, with its sign (delivered minus planned).
    pub mean: f64,
    /// Root mean square.
    pub rms: f64,
    /// 95th percentile of the absolute error.
    pub p95: f64,
    /// Largest absolute error.
    pub max: f64,
}

impl Errors {
    /// The statistics of `errors`; `None` without samples.
    pub fn of(errors: &[f64]) -> Option<Self> {
        if errors.is_empty() {
            return None;
        }
        let n = errors.len() as f64;
        let mut absolute: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        absolute.sort_by(f64::total_cmp);
        Some(Self {
            n: errors.len(),
            mean: errors.iter().sum::<f64>() / n,
            rms: (errors.iter().map(|error| error * error).sum::<f64>() / n).sqrt(),
            p95: percentile(&absolute, 0.95)?,
            max: absolute.last().copied()?,
        })
    }
}

/// A percentile of ascending values, linear between them, as numpy's default.
pub(super) fn percentile(ascending: &[f64], fraction: f64) -> Option<f64> {
    let position = fraction * ascending.len().checked_sub(1)? as f64;
    let below = ascending.get(position.floor() as usize)?;
    let above = ascending.get(position.ceil() as usize)?;
    Some(below + (above - below) * position.fract())
}

/// Errors with the beam on, and of those the ones while the plan moves the axis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AxisErrors {
    /// All samples with the beam on.
    pub beam_on: Option<Errors>,
    /// Samples with the beam on while the axis should move.
    pub moving: Option<Errors>,
}

/// Errors of an axis as they are collected.
#[derive(Debug, Clone, Default)]
pub(super) struct Collected {
    pub(super) beam_on: Vec<f64>,
    pub(super) moving: Vec<f64>,
}

impl Collected {
    pub(super) fn push(&mut self, error: f64, moves: bool) {
        self.beam_on.push(error);
        if moves {
            self.moving.push(error);
        }
    }

    pub(super) fn errors(&self) -> AxisErrors {
        AxisErrors { beam_on: Errors::of(&self.beam_on), moving: Errors::of(&self.moving) }
    }
}

/// Counts of errors in equal bins; what lies beyond counts in the outermost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// Width of a bin in hundredths of the errors' unit.
    pub bin_width_hundredths: u32,
    /// Counts; the middle bin is centred on 0.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Bins of 0.1, from −2 to 2.
    const HALF_BINS: i64 = 20;
    const BINS_PER_UNIT: f64 = 10.0;

    pub(super) fn of<'a>(errors: impl Iterator<Item = &'a f64>) -> Self {
        let mut counts = vec![0; Self::HALF_BINS as usize * 2 + 1];
        for error in errors {
            let bin = ((error * Self::BINS_PER_UNIT).round() as i64).clamp(-Self::HALF_BINS, Self::HALF_BINS);
            if let Some(count) = counts.get_mut((bin + Self::HALF_BINS) as usize) {
                *count += 1;
            }
        }
        Self { bin_width_hundredths: 10, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_numpy() {
        let errors = Errors::of(&[1.0, -2.0, 3.0, 0.0]).unwrap();
        assert_eq!((errors.n, errors.mean, errors.max), (4, 0.5, 3.0));
        assert!((errors.rms - 3.5_f64.sqrt()).abs() < 1e-12);
        assert!((errors.p95 - 2.85).abs() < 1e-12);
        assert_eq!(Errors::of(&[]), None);
    }

    #[test]
    fn histogram_centres_its_middle_bin_on_zero_and_keeps_what_lies_beyond() {
        let histogram = Histogram::of([0.04, -0.04, 0.06, -9.0, 9.0].iter());
        assert_eq!((histogram.counts[20], histogram.counts[21]), (2, 1));
        assert_eq!((histogram.counts[0], histogram.counts[40]), (1, 1));
    }
}
