//! What a linac delivered, or is planned to deliver, control point by control point.
//!
//! Input: columns of numbers from a TRF record, an iCom stream, an RT Plan or a Mosaiq field. Output: one checked value that
//! MetersetMap, RT Plan writing and the delivery check work on. Trust: none in the input's shapes, finiteness or order of
//! meterset (the constructor checks them); positions may lie anywhere. Not supported: couch, wedge and energy; they stay
//! with the source.

use std::ops::Range;

use crate::{Error, Result};

/// Positions and cumulative meterset of all control points, as flat arrays.
///
/// Frame: Elekta's bipolar machine scale, as PyMedPhys's `Delivery` has it, so that its results and ours can be compared.
///
/// | column | shape | meaning |
/// |---|---|---|
/// | `meterset_mu` | `[n_cp]` | cumulative meterset, MU, never decreasing |
/// | `gantry_bipolar_deg` | `[n_cp]` | (−180, 180] |
/// | `collimator_bipolar_deg` | `[n_cp]` | (−180, 180] |
/// | `mlc_mm` | `[n_cp, n_pairs, 2]` | distance of each leaf's tip from the axis, positive = open away from it. Bank 0 is Elekta's Y1 (IEC X2), bank 1 Elekta's Y2 (IEC X1). Pair k is Elekta's leaf k+1, which is leaf `n_pairs` − k of DICOM |
/// | `jaw_mm` | `[n_cp, 2]` | side 0 is Elekta's X1 diaphragm (IEC Y2), side 1 Elekta's X2 (IEC −Y1); positive = open away from the axis |
///
/// # Source
/// PyMedPhys's `Delivery`; frames checked against Elekta's decodes and 29 fraction groups of real plans.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delivery {
    meterset_mu: Vec<f64>,
    gantry_bipolar_deg: Vec<f64>,
    collimator_bipolar_deg: Vec<f64>,
    mlc_mm: Vec<f64>,
    jaw_mm: Vec<f64>,
    n_pairs: usize,
    beam_starts: Vec<usize>,
}

/// The columns of a [`Delivery`] before they are checked; see there for shapes and frames.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Cumulative meterset, `[n_cp]`, MU.
    pub meterset_mu: Vec<f64>,
    /// Gantry angle, `[n_cp]`, bipolar degrees.
    pub gantry_bipolar_deg: Vec<f64>,
    /// Collimator angle, `[n_cp]`, bipolar degrees.
    pub collimator_bipolar_deg: Vec<f64>,
    /// Leaf positions, `[n_cp, n_pairs, 2]`, mm.
    pub mlc_mm: Vec<f64>,
    /// Jaw positions, `[n_cp, 2]`, mm.
    pub jaw_mm: Vec<f64>,
}

impl Delivery {
    /// Checks the columns and makes a delivery of them.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a column's length does not fit `meterset_mu` and `n_pairs`, a number is not finite, or the
    /// meterset decreases.
    pub fn new(columns: Columns, n_pairs: usize) -> Result<Self> {
        let n_cp = columns.meterset_mu.len();
        let mlc_len = n_cp
            .checked_mul(n_pairs)
            .and_then(|n| n.checked_mul(2))
            .ok_or_else(|| misuse("mlc_mm is longer than memory"))?;
        let lengths = [
            ("gantry_bipolar_deg", columns.gantry_bipolar_deg.len(), n_cp),
            ("collimator_bipolar_deg", columns.collimator_bipolar_deg.len(), n_cp),
            ("mlc_mm", columns.mlc_mm.len(), mlc_len),
            ("jaw_mm", columns.jaw_mm.len(), n_cp * 2),
        ];
        for (name, found, expected) in lengths {
            if found != expected {
                return Err(misuse(format!(
                    "{name} has {found} values, expected {expected} for {n_cp} control points and {n_pairs} leaf pairs"
                )));
            }
        }
        let values = [
            ("meterset_mu", &columns.meterset_mu),
            ("gantry_bipolar_deg", &columns.gantry_bipolar_deg),
            ("collimator_bipolar_deg", &columns.collimator_bipolar_deg),
            ("mlc_mm", &columns.mlc_mm),
            ("jaw_mm", &columns.jaw_mm),
        ];
        for (name, values) in values {
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(misuse(format!("{name} holds a value that is not finite at index {at}")));
            }
        }
        if let Some(at) = columns
            .meterset_mu
            .iter()
            .zip(columns.meterset_mu.iter().skip(1))
            .position(|(before, after)| after < before)
        {
            return Err(misuse(format!("meterset_mu decreases after control point {at}")));
        }
        Ok(Self {
            meterset_mu: columns.meterset_mu,
            gantry_bipolar_deg: columns.gantry_bipolar_deg,
            collimator_bipolar_deg: columns.collimator_bipolar_deg,
            mlc_mm: columns.mlc_mm,
            jaw_mm: columns.jaw_mm,
            n_pairs,
            beam_starts: if n_cp == 0 { Vec::new() } else { vec![0] },
        })
    }

    /// Says at which control points a new beam begins; the first always does.
    ///
    /// # Errors
    /// [`Error::Misuse`] unless the starts increase and lie within the delivery.
    pub fn with_beam_starts(mut self, starts: impl IntoIterator<Item = usize>) -> Result<Self> {
        let starts: Vec<usize> = starts.into_iter().filter(|&start| start != 0).collect();
        let increases = starts.iter().zip(starts.iter().skip(1)).all(|(before, after)| before < after);
        if !increases || starts.last().is_some_and(|&last| last >= self.n_cp()) {
            return Err(misuse(format!("beam starts do not increase within {} control points", self.n_cp())));
        }
        self.beam_starts.truncate(1);
        self.beam_starts.extend(starts);
        Ok(self)
    }

    /// Control points at which a beam begins, the first included; empty for an empty delivery.
    ///
    /// Known from the dose counter's restarts (TRF), from the beams of a plan, or from the parts of a merge. Gantry masks know
    /// nothing of it.
    pub fn beam_starts(&self) -> &[usize] {
        &self.beam_starts
    }

    /// The control points of each beam that delivered something, from its first point before dose to its last with dose.
    pub fn beam_ranges(&self) -> Vec<Range<usize>> {
        let ends = self.beam_starts.iter().skip(1).copied().chain(std::iter::once(self.n_cp()));
        let ranges = self.beam_starts.iter().zip(ends).filter_map(|(&start, end)| {
            let keep = relevant_control_points(self.meterset_mu.get(start..end)?);
            let (first, last) = (keep.iter().position(|&keep| keep)?, keep.iter().rposition(|&keep| keep)?);
            (last > first).then_some(start + first..start + last + 1)
        });
        ranges.collect()
    }

    /// The beams that delivered something, filtered, each with its meterset from 0 (rounded to 7 decimals).
    pub fn beams(&self) -> Vec<Self> {
        let beams = self.beam_ranges().into_iter().map(|range| self.slice(range).filter());
        beams.map(|beam| beam.slice_from_zero(0..beam.n_cp())).collect()
    }

    /// Number of control points.
    pub fn n_cp(&self) -> usize {
        self.meterset_mu.len()
    }

    /// Number of leaf pairs.
    pub fn n_pairs(&self) -> usize {
        self.n_pairs
    }

    /// True if there is no control point.
    pub fn is_empty(&self) -> bool {
        self.meterset_mu.is_empty()
    }

    /// Cumulative meterset, `[n_cp]`, MU.
    pub fn meterset_mu(&self) -> &[f64] {
        &self.meterset_mu
    }

    /// Gantry angles, `[n_cp]`, (−180, 180]°.
    pub fn gantry_bipolar_deg(&self) -> &[f64] {
        &self.gantry_bipolar_deg
    }

    /// Collimator angles, `[n_cp]`, (−180, 180]°.
    pub fn collimator_bipolar_deg(&self) -> &[f64] {
        &self.collimator_bipolar_deg
    }

    /// Leaf positions, `[n_cp, n_pairs, 2]`, mm.
    pub fn mlc_mm(&self) -> &[f64] {
        &self.mlc_mm
    }

    /// Jaw positions, `[n_cp, 2]`, mm.
    pub fn jaw_mm(&self) -> &[f64] {
        &self.jaw_mm
    }

    /// Leaf positions of one control point, `[n_pairs, 2]`, mm; `None` beyond the last.
    pub fn mlc_at(&self, control_point: usize) -> Option<&[f64]> {
        let width = self.n_pairs * 2;
        let start = control_point.checked_mul(width)?;
        (control_point < self.n_cp()).then(|| self.mlc_mm.get(start..start + width)).flatten()
    }

    /// Jaw positions of one control point, `[2]`, mm; `None` beyond the last.
    pub fn jaw_at(&self, control_point: usize) -> Option<[f64; 2]> {
        let start = control_point.checked_mul(2)?;
        Some([*self.jaw_mm.get(start)?, *self.jaw_mm.get(start + 1)?])
    }

    /// Meterset from the first to the last control point, MU; 0 of an empty delivery.
    pub fn total_mu(&self) -> f64 {
        match (self.meterset_mu.first(), self.meterset_mu.last()) {
            (Some(first), Some(last)) => last - first,
            _ => 0.0,
        }
    }

    /// The columns, given away.
    pub fn into_columns(self) -> Columns {
        Columns {
            meterset_mu: self.meterset_mu,
            gantry_bipolar_deg: self.gantry_bipolar_deg,
            collimator_bipolar_deg: self.collimator_bipolar_deg,
            mlc_mm: self.mlc_mm,
            jaw_mm: self.jaw_mm,
        }
    }

    /// One delivery after the other; the meterset runs on, restarts between the parts count for nothing.
    ///
    /// The meterset is the running sum of differences clamped at 0, the first difference being 0, in PyMedPhys's order of
    /// operations: the result is equal to its `Delivery.merge` bit by bit.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the parts have different numbers of leaf pairs (empty parts are left out).
    pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Delivery>) -> Result<Self> {
        let mut merged = Columns::default();
        let mut n_pairs = 0;
        let mut beam_starts = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            if merged.meterset_mu.is_empty() {
                n_pairs = part.n_pairs;
            } else if n_pairs != part.n_pairs {
                return Err(misuse(format!(
                    "deliveries with {n_pairs} and {} leaf pairs do not merge",
                    part.n_pairs
                )));
            }
            beam_starts.extend(part.beam_starts.iter().map(|start| start + merged.meterset_mu.len()));
            merged.meterset_mu.extend_from_slice(&part.meterset_mu);
            merged.gantry_bipolar_deg.extend_from_slice(&part.gantry_bipolar_deg);
            merged.collimator_bipolar_deg.extend_from_slice(&part.collimator_bipolar_deg);
            merged.mlc_mm.extend_from_slice(&part.mlc_mm);
            merged.jaw_mm.extend_from_slice(&part.jaw_mm);
        }
        merged.meterset_mu = accumulate_increases(&merged.meterset_mu);
        Self::new(merged, n_pairs)?.with_beam_starts(beam_starts)
    }

    /// Only the control points at which the meterset changes before or after.
    ///
    /// Equality is exact on floats, as PyMedPhys's `_filter_cps` has it. Deliveries of fewer than two points stay as they are.
    #[must_use]
    pub fn filter(&self) -> Self {
        let keep = relevant_control_points(&self.meterset_mu);
        self.select(|control_point| keep.get(control_point).copied().unwrap_or(false))
    }

    /// The control points whose gantry angle lies within `tolerance_deg` of `angle_deg` (both bipolar), if any.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if they are not one run: two beams at one angle are not told apart by angle.
    pub fn gantry_range(&self, angle_deg: f64, tolerance_deg: f64) -> Result<Option<Range<usize>>> {
        let near = |gantry_deg: &f64| (gantry_deg - angle_deg).abs() <= tolerance_deg;
        let Some(first) = self.gantry_bipolar_deg.iter().position(near) else { return Ok(None) };
        let last = self.gantry_bipolar_deg.iter().rposition(near).unwrap_or(first);
        let count = self.gantry_bipolar_deg.iter().filter(|gantry_deg| near(gantry_deg)).count();
        if count != last + 1 - first {
            return Err(Error::unsupported(format!(
                "the gantry is near {angle_deg}° (within {tolerance_deg}°) more than once; beams at the same angle are not told apart by angle"
            )));
        }
        Ok(Some(first..last + 1))
    }

    /// Splits by gantry angle: one delivery for each of `angles_deg` (bipolar), empty where nothing was near it.
    ///
    /// The meterset of each starts at 0 and is rounded to 7 decimals, as PyMedPhys's `_mask_by_gantry` does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an angle that occurs in two runs; [`Error::Misuse`] if a control point belongs to no
    /// angle, or to two, unless `allow_missing`.
    pub fn split_by_gantry(
        &self,
        angles_deg: &[f64],
        tolerance_deg: f64,
        allow_missing: bool,
    ) -> Result<Vec<Self>> {
        let ranges = self.gantry_ranges(angles_deg, tolerance_deg, allow_missing)?;
        Ok(ranges.into_iter().map(|range| self.slice_from_zero(range.unwrap_or(0..0))).collect())
    }

    /// The control points of each gantry angle; see [`Delivery::split_by_gantry`].
    pub(crate) fn gantry_ranges(
        &self,
        angles_deg: &[f64],
        tolerance_deg: f64,
        allow_missing: bool,
    ) -> Result<Vec<Option<Range<usize>>>> {
        let ranges = angles_deg
            .iter()
            .map(|&angle| self.gantry_range(angle, tolerance_deg))
            .collect::<Result<Vec<_>>>()?;
        if !allow_missing {
            let mut owners = vec![0_u32; self.n_cp()];
            for range in ranges.iter().flatten() {
                owners.iter_mut().skip(range.start).take(range.len()).for_each(|n| *n += 1);
            }
            if let Some(at) = owners.iter().position(|&n| n != 1) {
                let gantry_deg = self.gantry_bipolar_deg.get(at).copied().unwrap_or_default();
                let fault = if owners.get(at) == Some(&0) { "no beam" } else { "more than one beam" };
                return Err(misuse(format!(
                    "control point {at} at gantry {gantry_deg}° belongs to {fault} within {tolerance_deg}°"
                )));
            }
        }
        Ok(ranges)
    }

    /// A run of control points, its meterset unchanged; cut to what there is.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        self.select(|control_point| range.contains(&control_point))
    }

    /// A run of control points, its meterset starting at 0 and rounded to 7 decimals (half to even).
    #[must_use]
    pub fn slice_from_zero(&self, range: Range<usize>) -> Self {
        let mut part = self.slice(range);
        if let Some(&first) = part.meterset_mu.first() {
            part.meterset_mu.iter_mut().for_each(|mu| *mu = round_decimals(*mu - first, 7));
        }
        part
    }

    /// Leaves of a pair and jaws that overlap meet at the middle of their overlap instead.
    #[must_use]
    pub fn close_overlaps(&self) -> Self {
        let mut closed = self.clone();
        for tips in closed.mlc_mm.chunks_exact_mut(2).chain(closed.jaw_mm.chunks_exact_mut(2)) {
            if let [low, high] = tips
                && *low + *high < 0.0
            {
                let middle = (*high - *low) / 2.0;
                (*low, *high) = (-middle, middle);
            }
        }
        closed
    }

    fn select(&self, keep: impl Fn(usize) -> bool) -> Self {
        let n_kept = (0..self.n_cp()).filter(|&control_point| keep(control_point)).count();
        let mut kept = Self {
            meterset_mu: Vec::with_capacity(n_kept),
            gantry_bipolar_deg: Vec::with_capacity(n_kept),
            collimator_bipolar_deg: Vec::with_capacity(n_kept),
            mlc_mm: Vec::with_capacity(n_kept * self.n_pairs * 2),
            jaw_mm: Vec::with_capacity(n_kept * 2),
            n_pairs: self.n_pairs,
            beam_starts: Vec::with_capacity(self.beam_starts.len()),
        };
        let mut starts = self.beam_starts.iter().peekable();
        let angles = self.gantry_bipolar_deg.iter().zip(&self.collimator_bipolar_deg);
        for (control_point, (&mu, (&gantry, &collimator))) in self.meterset_mu.iter().zip(angles).enumerate()
        {
            if keep(control_point) {
                // A beam begins at its first point that is kept; a beam of which nothing is kept is gone.
                let mut begins = kept.meterset_mu.is_empty();
                while starts.next_if(|&&start| start <= control_point).is_some() {
                    begins = true;
                }
                if begins {
                    kept.beam_starts.push(kept.meterset_mu.len());
                }
                kept.meterset_mu.push(mu);
                kept.gantry_bipolar_deg.push(gantry);
                kept.collimator_bipolar_deg.push(collimator);
                kept.mlc_mm.extend_from_slice(self.mlc_at(control_point).unwrap_or_default());
                kept.jaw_mm
                    .extend_from_slice(self.jaw_at(control_point).as_ref().map_or(&[], |jaw| jaw.as_slice()));
            }
        }
        kept
    }
}

/// Running sum of the increases of `values`, beginning at 0: how a counter that restarts at 0 becomes a total.
pub(crate) fn accumulate_increases(values: &[f64]) -> Vec<f64> {
    let mut total = 0.0;
    let mut before = values.first().copied().unwrap_or_default();
    values
        .iter()
        .map(|&value| {
            total += (value - before).max(0.0);
            before = value;
            total
        })
        .collect()
}

/// Which control points have a change of meterset on either side.
pub(crate) fn relevant_control_points(meterset_mu: &[f64]) -> Vec<bool> {
    if meterset_mu.len() < 2 {
        return vec![true; meterset_mu.len()];
    }
    let changes: Vec<bool> =
        meterset_mu.iter().zip(meterset_mu.iter().skip(1)).map(|(before, after)| before != after).collect();
    let before = std::iter::once(false).chain(changes.iter().copied());
    let after = changes.iter().copied().chain(std::iter::once(false));
    before.zip(after).map(|(before, after)| before || after).collect()
}

/// Rounds half to even at `decimals`, as numpy does.
pub(crate) fn round_decimals(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round_ties_even() / scale
}

/// Bipolar angle to IEC 61217, [0, 360)°.
pub fn iec_from_bipolar_deg(bipolar_deg: f64) -> f64 {
    if bipolar_deg < 0.0 { bipolar_deg + 360.0 } else { bipolar_deg }
}

fn misuse(message: impl Into<String>) -> Error {
    Error::misuse(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(meterset_mu: &[f64], gantry_deg: &[f64]) -> Delivery {
        let n_cp = meterset_mu.len();
        let columns = Columns {
            meterset_mu: meterset_mu.to_vec(),
            gantry_bipolar_deg: gantry_deg.to_vec(),
            collimator_bipolar_deg: vec![0.0; n_cp],
            mlc_mm: (0..n_cp * 4).map(|i| i as f64).collect(),
            jaw_mm: (0..n_cp * 2).map(|i| i as f64).collect(),
        };
        Delivery::new(columns, 2).unwrap()
    }

    #[test]
    fn refuses_columns_of_the_wrong_length() {
        let columns = Columns {
            meterset_mu: vec![0.0],
            gantry_bipolar_deg: vec![0.0],
            collimator_bipolar_deg: vec![0.0],
            mlc_mm: vec![0.0; 3],
            jaw_mm: vec![0.0; 2],
        };
        let error = Delivery::new(columns, 2).unwrap_err();
        assert!(error.to_string().contains("mlc_mm has 3 values, expected 4"), "{error}");
    }

    #[test]
    fn refuses_nan_and_decreasing_meterset() {
        let base = delivery(&[0.0, 1.0], &[0.0, 0.0]).into_columns();
        let nan = Columns { jaw_mm: vec![0.0, f64::NAN, 0.0, 0.0], ..base.clone() };
        assert!(Delivery::new(nan, 2).unwrap_err().to_string().contains("jaw_mm"));
        let back = Columns { meterset_mu: vec![1.0, 0.0], ..base };
        assert!(Delivery::new(back, 2).unwrap_err().to_string().contains("decreases after control point 0"));
    }

    #[test]
    fn merge_runs_the_meterset_on_across_a_restart() {
        let first = delivery(&[0.0, 2.0], &[0.0, 0.0]);
        let second = delivery(&[0.0, 3.0], &[90.0, 90.0]);
        let merged = Delivery::merge([&first, &Delivery::default(), &second]).unwrap();
        assert_eq!(merged.meterset_mu(), [0.0, 2.0, 2.0, 5.0]);
        assert_eq!(merged.mlc_at(2), second.mlc_at(0));
        assert_eq!(merged.jaw_at(3), second.jaw_at(1));
    }

    #[test]
    fn filter_drops_points_between_which_nothing_is_delivered() {
        let filtered =
            delivery(&[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0], &[0., 1., 2., 3., 4., 5., 6., 7.]).filter();
        assert_eq!(filtered.gantry_bipolar_deg(), [2., 3., 5., 6.]);
        assert_eq!(delivery(&[5.0], &[1.0]).filter().n_cp(), 1);
        assert_eq!(delivery(&[1.0, 1.0], &[1.0, 2.0]).filter().n_cp(), 0);
    }

    #[test]
    fn splits_by_gantry_from_zero_and_refuses_a_second_run() {
        let all = delivery(&[0.0, 1.0, 1.0, 3.0], &[-90., -89., 90., 91.]);
        let parts = all.split_by_gantry(&[-90., 90., 0.0], 3.0, false).unwrap();
        assert_eq!(
            parts.iter().map(|part| part.meterset_mu().to_vec()).collect::<Vec<_>>(),
            [vec![0.0, 1.0], vec![0.0, 2.0], vec![]]
        );
        let error = all.split_by_gantry(&[-90.], 3.0, false).unwrap_err();
        assert!(error.to_string().contains("control point 2 at gantry 90° belongs to no beam"), "{error}");
        assert_eq!(all.split_by_gantry(&[-90.], 3.0, true).unwrap().len(), 1);
        let twice = delivery(&[0.0, 1.0, 2.0], &[0., 90., 0.]);
        assert!(twice.gantry_range(0.0, 3.0).is_err());
    }

    #[test]
    fn beams_are_those_of_the_merged_parts_that_deliver() {
        let parts = [
            delivery(&[0.0, 2.0, 2.0], &[0., 1., 2.]),
            delivery(&[0.0, 0.0], &[50., 50.]),
            delivery(&[0.0, 0.0, 3.0], &[88., 89., 90.]),
        ];
        let merged = Delivery::merge(&parts).unwrap();
        assert_eq!(merged.beam_starts(), [0, 3, 5]);
        let beams = merged.beams();
        let seen: Vec<_> = beams
            .iter()
            .map(|beam| (beam.meterset_mu().to_vec(), beam.gantry_bipolar_deg().to_vec()))
            .collect();
        assert_eq!(seen, [(vec![0.0, 2.0], vec![0., 1.]), (vec![0.0, 3.0], vec![89., 90.])]);
        assert_eq!(merged.filter().beam_starts(), [0, 2]);
        assert!(merged.clone().with_beam_starts([3, 3]).is_err());
        assert!(merged.with_beam_starts([8]).is_err());
    }

    #[test]
    fn rounds_half_to_even_at_decimals() {
        assert_eq!(
            [round_decimals(0.5, 0), round_decimals(1.5, 0), round_decimals(-0.25, 1)],
            [0.0, 2.0, -0.2]
        );
    }
}
