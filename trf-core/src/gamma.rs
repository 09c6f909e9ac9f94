//! Gamma: do two planes agree within a dose difference or a distance?
//!
//! Input: two planes on regular grids. Output: gamma at each point of the reference above a cutoff. Trust: sizes and spacing are
//! checked. Not supported: more than two dimensions.
//!
//! Around each reference point the evaluated plane is interpolated (bilinearly) on circles of growing radius, a tenth of the
//! distance criterion apart, until no larger circle can give a smaller gamma. The definition is Low's, Med. Phys. 25 (1998);
//! radii and angles are those of `pymedphys.gamma`, so that pass rates agree (tests/physics/gamma.rs).

use rayon::prelude::*;

use crate::{Error, MetersetMap, Result};

/// Largest number of points on all circles together.
const MAX_SEARCH_POINTS: usize = 1_000_000;
/// Relative difference of grid steps that still counts as regular.
const REGULAR_WITHIN: f64 = 1e-6;

/// Criteria of a gamma comparison.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Criteria {
    /// Dose difference, percent of the normalisation (global) or of the point's dose (local).
    pub dose_percent: f64,
    /// Distance to agreement, mm.
    pub distance_mm: f64,
    /// Reference points below this percentage of the normalisation are left out.
    pub lower_dose_cutoff_percent: f64,
    /// Dose difference relative to each point instead of the whole plane.
    pub local: bool,
    /// Gamma is not searched beyond this value; larger ones are given as this value.
    pub max_gamma: f64,
    /// Circles per distance criterion.
    pub interpolation_fraction: u32,
}

impl Default for Criteria {
    /// 3 %, 2 mm, global, cutoff 10 %, as AAPM TG-218 recommends for plan verification. Distances below the grid's spacing fail
    /// at sharp field edges for jitters of some hundredths of a millimetre.
    fn default() -> Self {
        Self {
            dose_percent: 3.0,
            distance_mm: 2.0,
            lower_dose_cutoff_percent: 10.0,
            local: false,
            max_gamma: 5.0,
            interpolation_fraction: 10,
        }
    }
}

impl Criteria {
    fn check(&self) -> Result<()> {
        let positive =
            [self.dose_percent, self.distance_mm, self.max_gamma].iter().all(|v| v.is_finite() && *v > 0.0);
        let cutoff = (0.0..=100.0).contains(&self.lower_dose_cutoff_percent);
        if positive && cutoff && (1..=100).contains(&self.interpolation_fraction) {
            return Ok(());
        }
        Err(Error::misuse(
            "gamma needs a positive dose and distance criterion, a cutoff of 0 to 100 %, a positive largest gamma and 1 to 100 circles per distance",
        ))
    }
}

/// Values on a regular grid, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// `[rows, columns]`.
    pub values: &'a [f64],
    /// Positions of the rows, mm, ascending in equal steps.
    pub rows_mm: &'a [f64],
    /// Positions of the columns, mm, ascending in equal steps.
    pub columns_mm: &'a [f64],
}

impl<'a> From<&'a MetersetMap> for Plane<'a> {
    fn from(map: &'a MetersetMap) -> Self {
        Self { values: map.mu(), rows_mm: map.jaw_axis_mm(), columns_mm: map.leaf_axis_mm() }
    }
}

/// Gamma at each reference point.
#[derive(Debug, Clone, PartialEq)]
pub struct Gamma {
    /// `[rows, columns]` of the reference; NaN where it is below the cutoff.
    values: Vec<f64>,
}

impl Gamma {
    /// Compares `evaluation` with `reference`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for criteria out of range, grids that are not regular, or a reference without dose;
    /// [`Error::Limit`] if the search is too fine.
    pub fn new(reference: Plane<'_>, evaluation: Plane<'_>, criteria: &Criteria) -> Result<Self> {
        criteria.check()?;
        check_plane(&reference)?;
        let grid = Interpolation::new(&evaluation)?;
        let normalisation = reference.values.iter().copied().fold(0.0, f64::max);
        if normalisation <= 0.0 {
            return Err(Error::misuse("gamma needs a reference with dose"));
        }
        let cutoff = normalisation * criteria.lower_dose_cutoff_percent / 100.0;
        let circles = circles(criteria)?;
        let columns = reference.columns_mm.len();
        let mut values = vec![f64::NAN; reference.values.len()];
        let rows =
            values.par_chunks_mut(columns).zip(reference.values.par_chunks(columns)).zip(reference.rows_mm);
        rows.for_each(|((gammas, doses), &y_mm)| {
            for ((gamma, &dose), &x_mm) in gammas.iter_mut().zip(doses).zip(reference.columns_mm) {
                if dose >= cutoff {
                    let scale = if criteria.local { dose } else { normalisation };
                    let scale = scale * criteria.dose_percent / 100.0;
                    *gamma = gamma_at(x_mm, y_mm, dose, scale, &grid, &circles).min(criteria.max_gamma);
                }
            }
        });
        Ok(Self { values })
    }

    /// `[rows, columns]` of the reference; NaN where it is below the cutoff.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Number of points compared.
    pub fn n_points(&self) -> usize {
        self.compared().count()
    }

    /// Percentage of points with gamma ≤ 1; `None` if none was compared.
    pub fn pass_rate_percent(&self) -> Option<f64> {
        let n = self.n_points();
        (n > 0).then(|| 100.0 * self.compared().filter(|&gamma| gamma <= 1.0).count() as f64 / n as f64)
    }

    /// Mean of gamma; `None` if no point was compared.
    pub fn mean(&self) -> Option<f64> {
        let n = self.n_points();
        (n > 0).then(|| self.compared().sum::<f64>() / n as f64)
    }

    /// Largest gamma, at most the criteria's `max_gamma`; `None` if no point was compared.
    pub fn max(&self) -> Option<f64> {
        self.compared().max_by(f64::total_cmp)
    }

    fn compared(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().copied().filter(|gamma| !gamma.is_nan())
    }
}

/// The points at one distance.
struct Circle {
    /// Distance in units of the distance criterion.
    distance: f64,
    /// Offsets in mm.
    offsets_mm: Vec<(f64, f64)>,
}

fn circles(criteria: &Criteria) -> Result<Vec<Circle>> {
    let per_distance = f64::from(criteria.interpolation_fraction);
    let n_circles = (criteria.max_gamma * per_distance).ceil();
    // 2π k points on the k-th circle.
    let n_points = std::f64::consts::PI * n_circles * (n_circles + 1.0);
    if n_points > MAX_SEARCH_POINTS as f64 {
        return Err(Error::Limit {
            what: "number of gamma search points",
            found: n_points as u64,
            limit: MAX_SEARCH_POINTS as u64,
        });
    }
    let circle = |k: u32| {
        let distance = f64::from(k) / per_distance;
        let radius_mm = distance * criteria.distance_mm;
        let n = (std::f64::consts::TAU * f64::from(k)).ceil() + 1.0;
        let offset = |at: u32| {
            let (sin, cos) = (std::f64::consts::TAU * f64::from(at) / n).sin_cos();
            (radius_mm * cos, radius_mm * sin)
        };
        Circle { distance, offsets_mm: (0..n as u32).map(offset).collect() }
    };
    Ok((0..=n_circles as u32).map(circle).collect())
}

fn gamma_at(
    x_mm: f64,
    y_mm: f64,
    dose: f64,
    scale: f64,
    grid: &Interpolation<'_>,
    circles: &[Circle],
) -> f64 {
    let mut least_squared = f64::INFINITY;
    for circle in circles {
        let distance_squared = circle.distance * circle.distance;
        if least_squared <= distance_squared {
            break;
        }
        let nearest = circle
            .offsets_mm
            .iter()
            .filter_map(|(dx, dy)| grid.at(y_mm + dy, x_mm + dx))
            .map(|evaluated| (evaluated - dose).abs())
            .fold(f64::INFINITY, f64::min);
        // At zero local dose only equality agrees.
        let difference = if nearest == 0.0 { 0.0 } else { nearest / scale };
        least_squared = least_squared.min(difference * difference + distance_squared);
    }
    least_squared.sqrt()
}

/// Bilinear interpolation on a regular grid.
struct Interpolation<'a> {
    values: &'a [f64],
    n_rows: usize,
    n_columns: usize,
    first_mm: (f64, f64),
    step_mm: (f64, f64),
}

impl<'a> Interpolation<'a> {
    fn new(plane: &Plane<'a>) -> Result<Self> {
        check_plane(plane)?;
        let (first_row, row_step) = axis(plane.rows_mm)?;
        let (first_column, column_step) = axis(plane.columns_mm)?;
        Ok(Self {
            values: plane.values,
            n_rows: plane.rows_mm.len(),
            n_columns: plane.columns_mm.len(),
            first_mm: (first_row, first_column),
            step_mm: (row_step, column_step),
        })
    }

    /// The value at a position; `None` outside of the grid.
    fn at(&self, y_mm: f64, x_mm: f64) -> Option<f64> {
        let (row, row_part) = cell((y_mm - self.first_mm.0) / self.step_mm.0, self.n_rows)?;
        let (column, column_part) = cell((x_mm - self.first_mm.1) / self.step_mm.1, self.n_columns)?;
        let along = |row: usize| {
            let start = row * self.n_columns + column;
            let (low, high) = (*self.values.get(start)?, *self.values.get(start + 1)?);
            Some(low + (high - low) * column_part)
        };
        let (low, high) = (along(row)?, along(row + 1)?);
        Some(low + (high - low) * row_part)
    }
}

/// The cell in which a coordinate lies and how far into it; `None` outside.
fn cell(coordinate: f64, n: usize) -> Option<(usize, f64)> {
    let last = n.checked_sub(1)? as f64;
    // The rounding of positions must not put the outermost point outside.
    if !(-REGULAR_WITHIN..=last + REGULAR_WITHIN).contains(&coordinate) {
        return None;
    }
    let cell = coordinate.floor().clamp(0.0, last - 1.0);
    Some((cell as usize, coordinate - cell))
}

fn axis(positions_mm: &[f64]) -> Result<(f64, f64)> {
    let irregular = || Error::misuse("gamma needs at least two ascending, equally spaced rows and columns");
    let (&first, &second) = positions_mm.first().zip(positions_mm.get(1)).ok_or_else(irregular)?;
    let step = second - first;
    let regular = positions_mm.iter().enumerate().all(|(at, &position)| {
        (position - (first + at as f64 * step)).abs() <= REGULAR_WITHIN * step * positions_mm.len() as f64
    });
    if step > 0.0 && step.is_finite() && regular { Ok((first, step)) } else { Err(irregular()) }
}

fn check_plane(plane: &Plane<'_>) -> Result<()> {
    if plane.rows_mm.len().checked_mul(plane.columns_mm.len()) != Some(plane.values.len())
        || plane.values.is_empty()
    {
        return Err(Error::misuse(format!(
            "a plane of {} values does not have {} rows and {} columns",
            plane.values.len(),
            plane.rows_mm.len(),
            plane.columns_mm.len()
        )));
    }
    if plane.values.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(Error::misuse("gamma needs finite values"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shift_mm: f64, factor: f64) -> (Vec<f64>, Vec<f64>) {
        let axis: Vec<f64> = (0..41).map(|at| f64::from(at) - 20.0).collect();
        let values = axis
            .iter()
            .flat_map(|_| axis.iter().map(move |x| factor * (100.0 + 2.0 * (x - shift_mm))))
            .collect();
        (values, axis)
    }

    fn plane((values, axis): &(Vec<f64>, Vec<f64>)) -> Plane<'_> {
        Plane { values, rows_mm: axis, columns_mm: axis }
    }

    fn compare(
        reference: &(Vec<f64>, Vec<f64>),
        evaluation: &(Vec<f64>, Vec<f64>),
        criteria: &Criteria,
    ) -> Gamma {
        Gamma::new(plane(reference), plane(evaluation), criteria).unwrap()
    }

    #[test]
    fn equal_planes_have_gamma_zero() {
        let gamma = compare(&ramp(0.0, 1.0), &ramp(0.0, 1.0), &Criteria::default());
        assert_eq!((gamma.pass_rate_percent(), gamma.max()), (Some(100.0), Some(0.0)));
        assert_eq!(gamma.n_points(), 41 * 41);
    }

    #[test]
    fn a_dose_difference_and_a_shift_have_their_known_gamma() {
        let criteria = Criteria { dose_percent: 3.0, distance_mm: 2.0, ..Criteria::default() };
        // A flat plane 3 % higher: only the dose counts.
        let flat = |dose: f64| (vec![dose; 41 * 41], ramp(0.0, 1.0).1);
        let gamma = compare(&flat(100.0), &flat(103.0), &criteria);
        assert!((gamma.max().unwrap() - 1.0).abs() < 1e-12);
        // A ramp of 2 per mm, shifted by 1 mm, maximum 140: dose 2/4.2, distance 1/2, together 1/sqrt((4.2/2)² + 2²)
        // anywhere but at the border; the search is a tenth of the distance fine.
        let gamma = compare(&ramp(0.0, 1.0), &ramp(1.0, 1.0), &criteria);
        let expected = 1.0 / (2.1_f64 * 2.1 + 4.0).sqrt();
        let centre = gamma.values()[20 * 41 + 20];
        assert!((centre - expected).abs() < 0.02 * expected, "{centre} {expected}");
    }

    #[test]
    fn local_gamma_is_stricter_where_the_dose_is_low() {
        let global = Criteria { dose_percent: 3.0, distance_mm: 0.01, ..Criteria::default() };
        let local = Criteria { local: true, ..global };
        let (reference, evaluation) = (ramp(0.0, 1.0), ramp(1.0, 1.0));
        let rate =
            |criteria: &Criteria| compare(&reference, &evaluation, criteria).pass_rate_percent().unwrap();
        assert!(rate(&local) < rate(&global), "{} {}", rate(&local), rate(&global));
    }

    #[test]
    fn points_below_the_cutoff_are_not_compared() {
        let criteria = Criteria { lower_dose_cutoff_percent: 75.0, ..Criteria::default() };
        // 75 % of 140 is 105, reached at x = 2.5.
        let gamma = compare(&ramp(0.0, 1.0), &ramp(0.0, 1.0), &criteria);
        assert_eq!(gamma.n_points(), 41 * 18);
    }

    #[test]
    fn refuses_criteria_and_planes_that_make_no_sense() {
        let axis = [0.0, 1.0];
        let plane = Plane { values: &[1.0; 4], rows_mm: &axis, columns_mm: &axis };
        let refused = |reference, criteria: &Criteria| Gamma::new(reference, plane, criteria).is_err();
        assert!(refused(plane, &Criteria { distance_mm: 0.0, ..Criteria::default() }));
        assert!(refused(plane, &Criteria { max_gamma: 1e9, ..Criteria::default() }));
        assert!(refused(Plane { values: &[0.0; 4], ..plane }, &Criteria::default()));
        assert!(refused(Plane { values: &[1.0; 3], ..plane }, &Criteria::default()));
        assert!(refused(Plane { values: &[f64::NAN; 4], ..plane }, &Criteria::default()));
        let uneven = Plane { values: &[1.0; 6], rows_mm: &[0.0, 1.0, 3.0], columns_mm: &axis };
        assert!(Gamma::new(plane, uneven, &Criteria::default()).is_err());
        assert!(!refused(plane, &Criteria::default()));
    }
}
