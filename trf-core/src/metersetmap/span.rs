//! What happens between two neighbouring control points, as far as all leaves share it.

use rayon::prelude::*;

use super::Grid;
use super::edge::{Edge, Side};
use crate::Delivery;

/// Least number of samples between two control points.
const MIN_SAMPLES: f64 = 10.0;

/// One pair of neighbouring control points that delivers something.
pub(super) struct Span {
    /// Index of its first control point in the filtered delivery.
    pub(super) control_point: usize,
    /// Meterset delivered between the two, MU.
    pub(super) mu: f64,
    /// Samples of the travel, both ends included.
    pub(super) n_samples: usize,
    /// First and last row that take part, counted from the grid's reference row.
    pub(super) rows: (i64, i64),
    /// First and last column that take part, counted from the axis.
    pub(super) columns: (i64, i64),
    /// Jaw that covers rows below it, in rows.
    pub(super) low_jaw: Edge,
    /// Jaw that covers rows above it.
    pub(super) high_jaw: Edge,
}

impl Span {
    /// Mean opening of the jaws over a row.
    pub(super) fn jaw_opening_mean(&self, row: i64) -> f64 {
        let covered = |jaw: &Edge| jaw.covered_mean(row as f64, self.n_samples);
        1.0 - covered(&self.low_jaw) - covered(&self.high_jaw)
    }

    /// True if the opening of the jaws over a row is not the same at all samples.
    pub(super) fn jaws_vary_at(&self, row: i64) -> bool {
        let varies = |jaw: &Edge| jaw.moves() && (jaw.zone().0..=jaw.zone().1).contains(&row);
        varies(&self.low_jaw) || varies(&self.high_jaw)
    }

    /// Opening of the jaws over a row at each sample.
    pub(super) fn jaw_opening_samples(&self, row: i64, samples: &mut Vec<f64>) {
        let covered = |jaw: &Edge, sample| jaw.covered_at(row as f64, sample, self.n_samples);
        samples.clear();
        samples.extend(
            (0..self.n_samples).map(|at| 1.0 - covered(&self.low_jaw, at) - covered(&self.high_jaw, at)),
        );
    }
}

/// All pairs that deliver something and have rows and columns in reach.
pub(super) fn spans(delivery: &Delivery, grid: &Grid) -> Vec<Span> {
    (0..delivery.n_cp().saturating_sub(1)).into_par_iter().filter_map(|at| span(delivery, grid, at)).collect()
}

fn span(delivery: &Delivery, grid: &Grid, control_point: usize) -> Option<Span> {
    let mu = delivery.meterset_mu().get(control_point + 1)? - delivery.meterset_mu().get(control_point)?;
    if mu == 0.0 {
        return None;
    }
    let [jaw_0, jaw_1] = [delivery.jaw_at(control_point)?, delivery.jaw_at(control_point + 1)?];
    let [leaves_0, leaves_1] = [delivery.mlc_at(control_point)?, delivery.mlc_at(control_point + 1)?];
    let (low, high) = ([-jaw_0[0], -jaw_1[0]], [jaw_0[1], jaw_1[1]]);

    let nearest = |mm: f64| (mm / grid.resolution_mm).round_ties_even();
    let rows = (
        nearest(low[0].min(low[1]) - grid.y_ref_mm) as i64,
        nearest(high[0].max(high[1]) - grid.y_ref_mm) as i64,
    );
    if rows.1 < rows.0 {
        return None;
    }
    let first_leaf = grid.leaf_of_row(rows.0);
    let n_leaves = grid.leaf_of_row(rows.1) + 1 - first_leaf;
    let pairs = |leaves: &'_ [f64]| {
        leaves
            .chunks_exact(2)
            .skip(first_leaf)
            .take(n_leaves)
            .map(|pair| (-pair.first().copied().unwrap_or(0.0), pair.last().copied().unwrap_or(0.0)))
            .collect::<Vec<_>>()
    };
    let mut travel_mm = (low[1] - low[0]).abs().max((high[1] - high[0]).abs());
    let mut left_mm = f64::INFINITY;
    let mut right_mm = f64::NEG_INFINITY;
    for ((a_0, b_0), (a_1, b_1)) in pairs(leaves_0).into_iter().zip(pairs(leaves_1)) {
        travel_mm = travel_mm.max((a_1 - a_0).abs()).max((b_1 - b_0).abs());
        left_mm = left_mm.min(a_0).min(a_1);
        right_mm = right_mm.max(b_0).max(b_1);
    }
    let columns = (
        (nearest(left_mm) as i64).max(-grid.half_columns),
        (nearest(right_mm) as i64).min(grid.half_columns),
    );
    if columns.1 < columns.0 {
        return None;
    }
    let n_samples =
        ((travel_mm / grid.resolution_mm).ceil() * grid.steps_per_pixel).max(MIN_SAMPLES) as usize;
    let row_edge = |mm: [f64; 2], covers| {
        let row = |mm: f64| (mm - grid.y_ref_mm) / grid.resolution_mm;
        Edge { start: row(mm[0]), end: row(mm[1]), covers }
    };
    Some(Span {
        control_point,
        mu,
        n_samples,
        rows,
        columns,
        low_jaw: row_edge(low, Side::Low),
        high_jaw: row_edge(high, Side::High),
    })
}
