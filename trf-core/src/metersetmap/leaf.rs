//! What one leaf pair lets through, summed over all control points.

use std::ops::Range;

use super::Grid;
use super::edge::{Edge, Side};
use super::span::Span;
use crate::Delivery;

/// Adds to `rows_mu` (`[rows, columns]`, MU) what passes between the two leaves of pair `leaf`.
pub(super) fn deliver(
    leaf: usize,
    rows: Range<usize>,
    rows_mu: &mut [f64],
    delivery: &Delivery,
    spans: &[Span],
    grid: &Grid,
) {
    let width = grid.n_columns();
    let first = rows.start as i64 + grid.first_row;
    let last = rows.end as i64 - 1 + grid.first_row;
    // What all rows of the leaf get alike is summed once and handed to each row at the end.
    let mut shared_mu = vec![0.0; width];
    let mut opening = vec![0.0; width];
    let mut jaw_samples = Vec::new();
    for span in spans.iter().filter(|span| span.rows.0 <= last && span.rows.1 >= first) {
        let Some(pair) = Pair::new(leaf, delivery, span, grid) else { continue };
        let Some((first_column, last_column)) = pair.columns(span) else { continue };
        let offset = (first_column + grid.half_columns) as usize;
        let Some(opening) = opening.get_mut(..=(last_column - first_column) as usize) else { continue };
        pair.opening(opening, first_column, |edge, pixel| edge.covered_mean(pixel, span.n_samples), 1.0);

        let all_rows_reach = span.rows.0 <= first && span.rows.1 >= last;
        if all_rows_reach && first > span.low_jaw.zone().1 && last < span.high_jaw.zone().0 {
            add(&mut shared_mu, offset, opening, span.mu);
            continue;
        }
        let mut any_varies = false;
        for (row_mu, row) in rows_mu.chunks_exact_mut(width).zip(first..=last) {
            if row < span.rows.0 || row > span.rows.1 {
                continue;
            }
            if pair.moves() && span.jaws_vary_at(row) {
                any_varies = true;
                continue;
            }
            let mean = span.jaw_opening_mean(row);
            if mean != 0.0 {
                add(row_mu, offset, opening, span.mu * mean);
            }
        }
        if !any_varies {
            continue;
        }
        // Moving jaw over moving leaf: the mean of the product is not the product of means.
        for (row_mu, row) in rows_mu.chunks_exact_mut(width).zip(first..=last) {
            if row < span.rows.0 || row > span.rows.1 || !span.jaws_vary_at(row) {
                continue;
            }
            span.jaw_opening_samples(row, &mut jaw_samples);
            let mean = jaw_samples.iter().sum::<f64>() / span.n_samples as f64;
            let covered = |edge: &Edge, pixel: f64| {
                let products = jaw_samples.iter().enumerate();
                let sum: f64 = products
                    .map(|(sample, open)| open * edge.covered_at(pixel, sample, span.n_samples))
                    .sum();
                sum / span.n_samples as f64
            };
            pair.opening(opening, first_column, covered, mean);
            add(row_mu, offset, opening, span.mu);
        }
    }
    for row_mu in rows_mu.chunks_exact_mut(width) {
        add(row_mu, 0, &shared_mu, 1.0);
    }
}

fn add(row_mu: &mut [f64], offset: usize, opening: &[f64], mu: f64) {
    for (pixel_mu, open) in row_mu.iter_mut().skip(offset).zip(opening) {
        *pixel_mu += mu * open;
    }
}

/// The two edges of a leaf pair between two control points, in columns.
struct Pair {
    left: Edge,
    right: Edge,
}

impl Pair {
    fn new(leaf: usize, delivery: &Delivery, span: &Span, grid: &Grid) -> Option<Self> {
        let tips = |control_point: usize| {
            let leaves = delivery.mlc_at(control_point)?;
            Some((
                -leaves.get(leaf * 2)? / grid.resolution_mm,
                leaves.get(leaf * 2 + 1)? / grid.resolution_mm,
            ))
        };
        let (left_start, right_start) = tips(span.control_point)?;
        let (left_end, right_end) = tips(span.control_point + 1)?;
        Some(Self {
            left: Edge { start: left_start, end: left_end, covers: Side::Low },
            right: Edge { start: right_start, end: right_end, covers: Side::High },
        })
    }

    fn moves(&self) -> bool {
        self.left.moves() || self.right.moves()
    }

    /// The columns outside of which the pair is closed all the time.
    fn columns(&self, span: &Span) -> Option<(i64, i64)> {
        let (left, right) = (self.left.zone(), self.right.zone());
        let first = left.0.min(right.0).max(span.columns.0);
        let last = left.1.max(right.1).min(span.columns.1);
        (first <= last).then_some((first, last))
    }

    /// `open` minus what each of the two leaves covers of it, per column from `first_column` on. `covered` says how much an
    /// edge covers of a pixel in its zone; where leaves overlap the result is negative.
    fn opening(
        &self,
        opening: &mut [f64],
        first_column: i64,
        covered: impl Fn(&Edge, f64) -> f64,
        open: f64,
    ) {
        opening.fill(open);
        for edge in [&self.left, &self.right] {
            let (zone_first, zone_last) = edge.zone();
            for (pixel, column) in opening.iter_mut().zip(first_column..) {
                if (zone_first..=zone_last).contains(&column) {
                    *pixel -= covered(edge, column as f64);
                } else if edge.covers_outside(column) {
                    *pixel -= open;
                }
            }
        }
    }
}
