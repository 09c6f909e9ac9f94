//! MetersetMap: how much meterset passed through each point of the isocentre plane.
//!
//! Input: a checked [`Delivery`] and a grid. Output: a map in MU. Trust: shapes are checked by the delivery, travel beyond the
//! grid is an error. Not supported: transmission, penumbra, tongue and groove, collimator rotation (the frame turns with the
//! collimator).
//!
//! Between two neighbouring control points all edges move linearly; the map takes the mean of N samples of "is this pixel
//! open", N growing with the longest travel. The product of leaf and jaw openings separates: rows that share a leaf share its
//! opening, and a clamped ramp sampled at equal steps has a closed sum (`edge`). Only pixels that both a moving jaw and a
//! moving leaf cross need their samples one by one. Pairs of control points between which nothing is delivered add nothing
//! and are skipped.

mod edge;
mod leaf;
mod span;

use rayon::prelude::*;

use crate::{Delivery, Error, Result};

/// Largest map we are ready to allocate, in pixels: a 400 mm field at 0.05 mm.
const MAX_PIXELS: usize = 64_000_000;

/// Grid, leaf geometry and sampling of a [`MetersetMap`].
///
/// Defaults are PyMedPhys's: 1 mm, an Agility head (80 pairs of 5 mm, 400 mm field), ten samples per pixel travelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Grid spacing, mm. It must divide half of `max_leaf_gap_mm` and each leaf width exactly.
    pub resolution_mm: f64,
    /// Field length in leaf direction, mm; leaves must stay within half of it on their side.
    pub max_leaf_gap_mm: f64,
    /// Widths of the leaf pairs at the isocentre, `[n_pairs]`, mm, in the order of the delivery's pairs.
    pub leaf_widths_mm: Vec<f64>,
    /// Samples per pixel of travel; ten samples are the least.
    pub steps_per_pixel: u32,
    /// Leaves or jaws that overlap count as closed where they meet, instead of as negative openings as in PyMedPhys.
    pub close_overlaps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolution_mm: 1.0,
            max_leaf_gap_mm: 400.0,
            leaf_widths_mm: vec![5.0; 80],
            steps_per_pixel: 10,
            close_overlaps: false,
        }
    }
}

impl Options {
    /// The defaults at another grid spacing, mm.
    #[must_use]
    pub fn with_resolution(resolution_mm: f64) -> Self {
        Self { resolution_mm, ..Self::default() }
    }
}

/// Meterset per pixel, `[jaw_axis, leaf_axis]`, MU.
///
/// Frame: IEC beam limiting device at the isocentre plane, both axes reversed: `leaf_axis_mm` = −IEC X, `jaw_axis_mm` = −IEC Y,
/// as PyMedPhys has them.
#[derive(Debug, Clone, PartialEq)]
pub struct MetersetMap {
    mu: Vec<f64>,
    leaf_axis_mm: Vec<f64>,
    jaw_axis_mm: Vec<f64>,
}

impl MetersetMap {
    /// Sums the meterset delivered through each pixel.
    ///
    /// The delivery is filtered, its meterset counted from 0 and rounded to 7 decimals first, as PyMedPhys does.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the grid does not fit the leaves, the number of leaf pairs differs, or a leaf or jaw of a
    /// delivering control point lies beyond the grid; [`Error::Limit`] for a map beyond memory.
    ///
    /// # Source
    /// PyMedPhys 0.41 `metersetmap.calculate`; equal to 1e-9 MU on all goldens (tests/physics_goldens.rs).
    pub fn new(delivery: &Delivery, options: &Options) -> Result<Self> {
        let grid = Grid::new(options)?;
        if delivery.n_pairs() != grid.n_leaves() && !delivery.is_empty() {
            return Err(Error::misuse(format!(
                "the delivery has {} leaf pairs, leaf_widths_mm {}",
                delivery.n_pairs(),
                grid.n_leaves()
            )));
        }
        let delivery = delivery.filter();
        let delivery = delivery.slice_from_zero(0..delivery.n_cp());
        check_travel(&delivery, options)?;
        let delivery = if options.close_overlaps { delivery.close_overlaps() } else { delivery };

        let spans = span::spans(&delivery, &grid);
        let width = grid.n_columns();
        let mut mu = vec![0.0; width * grid.n_rows()];
        let mut rest = mu.as_mut_slice();
        let mut tasks = Vec::with_capacity(grid.n_leaves());
        for leaf in 0..grid.n_leaves() {
            let rows = grid.rows_of_leaf(leaf);
            let (rows_mu, after) = rest.split_at_mut(rows.len() * width);
            rest = after;
            if !rows.is_empty() {
                tasks.push((leaf, rows, rows_mu));
            }
        }
        // One task per leaf: its rows fit the cache, nothing is reduced, and the order of sums never depends on the threads.
        tasks.into_par_iter().for_each(|(leaf, rows, rows_mu)| {
            leaf::deliver(leaf, rows, rows_mu, &delivery, &spans, &grid);
        });
        Ok(Self { mu, leaf_axis_mm: grid.leaf_axis_mm(), jaw_axis_mm: grid.jaw_axis_mm() })
    }

    /// One map per gantry angle (bipolar degrees), for plans with one angle per beam.
    ///
    /// # Errors
    /// As [`MetersetMap::new`] and [`Delivery::split_by_gantry`] without missing angles.
    pub fn by_gantry(
        delivery: &Delivery,
        angles_deg: &[f64],
        tolerance_deg: f64,
        options: &Options,
    ) -> Result<Vec<Self>> {
        let parts = delivery.filter().split_by_gantry(angles_deg, tolerance_deg, false)?;
        parts.iter().map(|part| Self::new(part, options)).collect()
    }

    /// Rows (jaw axis) and columns (leaf axis).
    pub fn shape(&self) -> [usize; 2] {
        [self.jaw_axis_mm.len(), self.leaf_axis_mm.len()]
    }

    /// All pixels, row by row, MU.
    pub fn mu(&self) -> &[f64] {
        &self.mu
    }

    /// Pixel centres in leaf direction, mm (−IEC X).
    pub fn leaf_axis_mm(&self) -> &[f64] {
        &self.leaf_axis_mm
    }

    /// Pixel centres in jaw direction, mm (−IEC Y).
    pub fn jaw_axis_mm(&self) -> &[f64] {
        &self.jaw_axis_mm
    }

    /// Largest pixel, MU; 0 of a map without pixels.
    pub fn max_mu(&self) -> f64 {
        self.mu.iter().copied().fold(0.0, f64::max)
    }

    /// Pixels and both axes, given away: (`mu`, `jaw_axis_mm`, `leaf_axis_mm`).
    pub fn into_parts(self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        (self.mu, self.jaw_axis_mm, self.leaf_axis_mm)
    }
}

/// Where rows, columns and leaves lie. Rows count from `y_ref_mm`, columns from the axis; both may be negative.
pub(crate) struct Grid {
    pub(crate) resolution_mm: f64,
    pub(crate) steps_per_pixel: f64,
    pub(crate) y_ref_mm: f64,
    pub(crate) first_row: i64,
    pub(crate) half_columns: i64,
    n_rows: usize,
    leaf_centres_mm: Vec<f64>,
    first_row_of_leaf: Vec<usize>,
}

impl Grid {
    fn new(options: &Options) -> Result<Self> {
        let resolution_mm = options.resolution_mm;
        let widths = &options.leaf_widths_mm;
        if !(resolution_mm.is_finite() && resolution_mm > 0.0) || options.steps_per_pixel == 0 {
            return Err(Error::misuse("resolution_mm and steps_per_pixel must be positive"));
        }
        if widths.is_empty() || !widths.iter().all(|width| width.is_finite() && *width > 0.0) {
            return Err(Error::misuse("leaf_widths_mm must be positive numbers, one per leaf pair"));
        }
        let half_columns = whole_number(options.max_leaf_gap_mm / 2.0 / resolution_mm).ok_or_else(|| {
            Error::misuse(format!(
                "a grid of {resolution_mm} mm does not divide half of max_leaf_gap_mm ({} mm)",
                options.max_leaf_gap_mm
            ))
        })?;
        if let Some(width) = widths.iter().find(|&&width| whole_number(width / resolution_mm).is_none()) {
            return Err(Error::misuse(format!(
                "a grid of {resolution_mm} mm does not divide a leaf width of {width} mm"
            )));
        }
        let total_mm: f64 = widths.iter().sum();
        let mut reached_mm = 0.0;
        let leaf_centres_mm: Vec<f64> = widths
            .iter()
            .map(|width| {
                reached_mm += width;
                reached_mm - width / 2.0 - total_mm / 2.0
            })
            .collect();
        let middle = widths.len() / 2;
        let middle_top_mm =
            leaf_centres_mm.get(middle).zip(widths.get(middle)).map_or(0.0, |(c, w)| c + w / 2.0);
        let y_ref_mm = middle_top_mm - resolution_mm / 2.0;
        let first_row = -((total_mm / 2.0 + y_ref_mm) / resolution_mm).ceil();
        let last_row = ((total_mm / 2.0 - y_ref_mm) / resolution_mm).ceil();
        let n_pixels = (last_row - first_row + 1.0) * (2.0 * half_columns as f64 + 1.0);
        if n_pixels > MAX_PIXELS as f64 {
            return Err(Error::Limit {
                what: "number of pixels",
                found: n_pixels as u64,
                limit: MAX_PIXELS as u64,
            });
        }
        let mut grid = Self {
            resolution_mm,
            steps_per_pixel: f64::from(options.steps_per_pixel),
            y_ref_mm,
            first_row: first_row as i64,
            half_columns,
            n_rows: (last_row - first_row) as usize + 1,
            leaf_centres_mm,
            first_row_of_leaf: Vec::new(),
        };
        let leaves: Vec<usize> =
            (0..grid.n_rows).map(|row| grid.leaf_of_row(row as i64 + grid.first_row)).collect();
        grid.first_row_of_leaf =
            (0..=grid.n_leaves()).map(|leaf| leaves.partition_point(|&of_row| of_row < leaf)).collect();
        Ok(grid)
    }

    pub(crate) fn n_leaves(&self) -> usize {
        self.leaf_centres_mm.len()
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn n_columns(&self) -> usize {
        self.half_columns as usize * 2 + 1
    }

    /// Position of a row, counted from `y_ref_mm`.
    pub(crate) fn y_mm(&self, row: i64) -> f64 {
        self.y_ref_mm + row as f64 * self.resolution_mm
    }

    /// The leaf whose centre is nearest to a row; the lower one of two at equal distance.
    pub(crate) fn leaf_of_row(&self, row: i64) -> usize {
        let y_mm = self.y_mm(row);
        let above = self.leaf_centres_mm.partition_point(|&centre| centre < y_mm);
        let distance = |leaf: usize| {
            self.leaf_centres_mm.get(leaf).map_or(f64::INFINITY, |centre| (centre - y_mm).abs())
        };
        match above.checked_sub(1) {
            Some(below) if distance(below) <= distance(above) => below,
            _ => above.min(self.n_leaves().saturating_sub(1)),
        }
    }

    /// Rows of the map that belong to a leaf, counted from the map's first row.
    fn rows_of_leaf(&self, leaf: usize) -> std::ops::Range<usize> {
        let first = self.first_row_of_leaf.get(leaf).copied().unwrap_or(self.n_rows);
        let end = self.first_row_of_leaf.get(leaf + 1).copied().unwrap_or(self.n_rows);
        first..end
    }

    fn leaf_axis_mm(&self) -> Vec<f64> {
        (-self.half_columns..=self.half_columns).map(|column| column as f64 * self.resolution_mm).collect()
    }

    fn jaw_axis_mm(&self) -> Vec<f64> {
        (0..self.n_rows).map(|row| self.y_mm(row as i64 + self.first_row)).collect()
    }
}

/// `value` as an integer if it is one, but for the last bits of a division.
fn whole_number(value: f64) -> Option<i64> {
    let nearest = value.round();
    let is_whole = (value - nearest).abs() <= 1e-9 * nearest.abs().max(1.0);
    (is_whole && (1.0..=1e9).contains(&nearest)).then_some(nearest as i64)
}

fn check_travel(delivery: &Delivery, options: &Options) -> Result<()> {
    let leaf_limit_mm = options.max_leaf_gap_mm / 2.0;
    let jaw_limit_mm = options.leaf_widths_mm.iter().sum::<f64>() / 2.0;
    let per_point = (delivery.n_pairs() * 2).max(1);
    if let Some(at) = delivery.mlc_mm().iter().position(|mm| mm.abs() > leaf_limit_mm) {
        return Err(Error::misuse(format!(
            "leaf pair {} of delivering control point {} lies beyond {leaf_limit_mm} mm, half of max_leaf_gap_mm",
            at % per_point / 2 + 1,
            at / per_point
        )));
    }
    if let Some(at) = delivery.jaw_mm().iter().position(|mm| mm.abs() > jaw_limit_mm) {
        return Err(Error::misuse(format!(
            "a jaw of delivering control point {} lies beyond {jaw_limit_mm} mm, the outermost leaf",
            at / 2
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Columns;

    /// PyMedPhys's documented example: three pairs of 5 mm, 10 mm field, with its documented result to one decimal.
    #[test]
    fn gives_the_map_of_the_documented_three_leaf_example() {
        let delivery = Delivery::new(
            Columns {
                meterset_mu: vec![0.0, 2.0, 5.0, 10.0],
                gantry_bipolar_deg: vec![0.0; 4],
                collimator_bipolar_deg: vec![0.0; 4],
                mlc_mm: vec![
                    1., 1., 2., 2., 3., 3., 2., 2., 3., 3., 4., 4., -2., 3., -2., 4., -2., 5., 0., 0., 0.,
                    0., 0., 0.,
                ],
                jaw_mm: vec![7.5, 7.5, 7.5, 7.5, -2.0, 7.5, 0.0, 0.0],
            },
            3,
        )
        .unwrap();
        let options = Options { max_leaf_gap_mm: 10.0, leaf_widths_mm: vec![5.0; 3], ..Options::default() };
        let map = MetersetMap::new(&delivery, &options).unwrap();
        assert_eq!(map.shape(), [17, 11]);
        let row = |index: usize| -> Vec<f64> {
            map.mu()[index * 11..(index + 1) * 11].iter().map(|mu| (mu * 10.0).round() / 10.0).collect()
        };
        assert_eq!(row(0), [0.0; 11]);
        assert_eq!(row(1), [0., 0., 0., 0.3, 1.9, 2.2, 1.9, 0.4, 0., 0., 0.]);
        assert_eq!(row(10), [0., 0., 0.4, 2.3, 3.2, 3.8, 5.4, 6.6, 3.8, 0.5, 0.]);
        assert_eq!(row(11), [0., 0.3, 2.2, 3., 3.5, 4., 5.1, 7.5, 6.7, 3.9, 0.5]);
    }

    fn static_field(mlc: [f64; 2], jaw: [f64; 2]) -> Delivery {
        let columns = Columns {
            meterset_mu: vec![3.0, 103.0],
            gantry_bipolar_deg: vec![0.0; 2],
            collimator_bipolar_deg: vec![0.0; 2],
            mlc_mm: mlc.repeat(160),
            jaw_mm: jaw.repeat(2),
        };
        Delivery::new(columns, 80).unwrap()
    }

    #[test]
    fn an_open_static_field_is_its_meterset_inside_and_zero_outside() {
        let map = MetersetMap::new(&static_field([10.0, 20.0], [30.0, 40.0]), &Options::default()).unwrap();
        let columns = map.leaf_axis_mm().to_vec();
        for (index, &mu) in map.mu().iter().enumerate() {
            let (y, x) = (map.jaw_axis_mm()[index / columns.len()], columns[index % columns.len()]);
            let open = |position: f64, low: f64, high: f64| {
                (0.5 + (position - low).min(high - position)).clamp(0.0, 1.0)
            };
            assert!(
                (mu - 100.0 * open(x, -10.0, 20.0) * open(y, -30.0, 40.0)).abs() < 1e-12,
                "at {x}, {y}: {mu}"
            );
        }
    }

    #[test]
    fn overlapping_leaves_are_negative_in_compatible_mode_and_closed_on_demand() {
        let field = static_field([-10.0, 5.0], [30.0, 30.0]);
        let least = |options: &Options| {
            MetersetMap::new(&field, options).unwrap().mu().iter().copied().fold(f64::INFINITY, f64::min)
        };
        assert_eq!(least(&Options::default()), 0.0, "columns right of the right tip are out of reach");
        let closed =
            MetersetMap::new(&field, &Options { close_overlaps: true, ..Options::default() }).unwrap();
        assert!(closed.mu().iter().all(|&mu| mu == 0.0));
    }

    #[test]
    fn refuses_grids_and_travel_that_do_not_fit() {
        let field = static_field([10.0, 10.0], [10.0, 10.0]);
        let error = |options: Options| MetersetMap::new(&field, &options).unwrap_err().to_string();
        assert!(error(Options::with_resolution(3.0)).contains("does not divide"));
        assert!(error(Options { max_leaf_gap_mm: 10.0, ..Options::default() }).contains("leaf pair 1"));
        assert!(
            error(Options { leaf_widths_mm: vec![5.0; 40], ..Options::default() }).contains("80 leaf pairs")
        );
        assert!(error(Options::with_resolution(f64::NAN)).contains("positive"));
        assert!(matches!(
            MetersetMap::new(&field, &Options::with_resolution(0.01)).unwrap_err(),
            Error::Limit { .. }
        ));
    }

    #[test]
    fn an_empty_delivery_gives_an_empty_map_of_the_full_grid() {
        let map = MetersetMap::new(&Delivery::default(), &Options::default()).unwrap();
        assert_eq!(map.shape(), [402, 401]);
        assert_eq!(map.max_mu(), 0.0);
    }
}
