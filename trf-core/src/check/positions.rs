//! Where leaves, jaws, gantry and collimator were, against where the plan has them at the same meterset.

use serde::Serialize;

use super::BeamOn;
use super::stats::{AxisErrors, Collected, Errors, Histogram, percentile};
use crate::rtplan::PlanBeam;
use crate::{Delivery, Record, items};

/// Planned speed from which a leaf or jaw counts as moving, mm/s.
const MOVING_MM_PER_S: f64 = 1.0;
/// Planned speed from which gantry or collimator count as moving, °/s.
const MOVING_DEG_PER_S: f64 = 0.1;
/// Rows over which a speed is taken: 0.2 s, so that the log's 0.1 mm are 0.5 mm/s.
const SPEED_ROWS: usize = 5;

/// Positions of a beam, checked.
#[derive(Debug, Clone, Serialize)]
pub struct PositionCheck {
    /// All leaves between the jaws, mm.
    pub leaves_mm: AxisErrors,
    /// Each leaf that was between the jaws, mm.
    pub per_leaf_mm: Vec<LeafErrors>,
    /// All leaf errors with the beam on, mm.
    pub leaf_error_histogram_mm: Histogram,
    /// The same leaves' errors as the machine logged them itself (planned minus delivered), mm; `None` if it did not.
    pub logged_leaves_mm: Option<Errors>,
    /// Elekta's X1 diaphragm, the IEC Y2 jaw, mm.
    pub jaw_y2_mm: AxisErrors,
    /// Elekta's X2 diaphragm, the IEC Y1 jaw (in Elekta's sign: positive = open away from the axis), mm.
    pub jaw_y1_mm: AxisErrors,
    /// Gantry, degrees.
    pub gantry_deg: AxisErrors,
    /// Collimator, degrees.
    pub collimator_deg: AxisErrors,
    /// Speeds with the beam on.
    pub speeds: Speeds,
}

/// Errors of one leaf.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeafErrors {
    /// Elekta's name, such as `Y1 Leaf 40`.
    pub name: String,
    /// IEC bank and DICOM number, such as `X2 leaf 41`.
    pub iec_name: String,
    /// Errors, mm, positive = open too far.
    #[serde(flatten)]
    pub errors: AxisErrors,
}

impl LeafErrors {
    /// Largest absolute error with the beam on, mm.
    pub fn max_mm(&self) -> f64 {
        self.errors.beam_on.map_or(0.0, |errors| errors.max)
    }
}

/// Speeds with the beam on, over 0.2 s; `None` where no sample counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speeds {
    /// Fastest leaf between the jaws, mm/s.
    pub leaf_max_mm_per_s: Option<f64>,
    /// 95th percentile of leaves that move, mm/s.
    pub leaf_p95_mm_per_s: Option<f64>,
    /// Fastest jaw, mm/s.
    pub jaw_max_mm_per_s: Option<f64>,
    /// Gantry, °/s.
    pub gantry_max_deg_per_s: Option<f64>,
    /// Collimator, °/s.
    pub collimator_max_deg_per_s: Option<f64>,
}

/// Everything of a beam over the rows of `delivery` with the beam on.
pub(super) fn check(
    record: &Record,
    delivery: &Delivery,
    planned: &PlanBeam,
    beam_on: &BeamOn,
    time_s: &[f64],
) -> PositionCheck {
    let rows = &beam_on.rows;
    let n_pairs = delivery.n_pairs();
    let mut leaves = vec![Collected::default(); n_pairs * 2];
    let mut jaws = [Collected::default(), Collected::default()];
    let (mut gantry, mut collimator) = (Collected::default(), Collected::default());
    let mut in_field = Vec::with_capacity(rows.len());
    let mut plan = Cursor::new(&planned.delivery);
    let mut before = Sample::default();
    let mut last_row = None;
    for &row in rows {
        let Some(delivered) = Sample::of(delivery, row) else { continue };
        let expected = plan.at(delivered.meterset_mu - beam_on.start_mu);
        let length_s = row
            .checked_sub(1)
            .and_then(|before| Some(time_s.get(row)? - time_s.get(before)?))
            .unwrap_or_default();
        // A plan that jumps while the beam is held does not move the axis with the beam on.
        let continues = last_row.is_some_and(|last| last + 1 == row) && length_s > 0.0;
        let moves = |now: f64, then: f64, per_s: f64| continues && ((now - then) / length_s).abs() >= per_s;

        let ([y2, y1], [y2_planned, y1_planned]) = (delivered.jaw_mm, expected.jaw_mm);
        let open = pairs_between(&planned.leaf_widths_mm, -y2.min(y2_planned), y1.min(y1_planned));
        for pair in open.clone() {
            for bank in 0..2 {
                let tip = pair * 2 + bank;
                let value = |sample: &Sample| sample.mlc_mm.get(tip).copied();
                if let (Some(collected), Some(was), Some(should)) =
                    (leaves.get_mut(tip), value(&delivered), value(&expected))
                {
                    collected
                        .push(was - should, moves(should, value(&before).unwrap_or(should), MOVING_MM_PER_S));
                }
            }
        }
        in_field.push((row, open));
        for ((jaw, was), (should, then)) in
            jaws.iter_mut().zip(delivered.jaw_mm).zip(expected.jaw_mm.into_iter().zip(before.jaw_mm))
        {
            jaw.push(was - should, moves(should, then, MOVING_MM_PER_S));
        }
        gantry.push(
            turned_deg(expected.gantry_deg, delivered.gantry_deg),
            moves(expected.gantry_deg, before.gantry_deg, MOVING_DEG_PER_S),
        );
        collimator.push(
            turned_deg(expected.collimator_deg, delivered.collimator_deg),
            moves(expected.collimator_deg, before.collimator_deg, MOVING_DEG_PER_S),
        );
        before = expected;
        last_row = Some(row);
    }
    let all = Collected {
        beam_on: leaves.iter().flat_map(|leaf| leaf.beam_on.iter().copied()).collect(),
        moving: leaves.iter().flat_map(|leaf| leaf.moving.iter().copied()).collect(),
    };
    let [jaw_y2, jaw_y1] = jaws;
    PositionCheck {
        leaves_mm: all.errors(),
        leaf_error_histogram_mm: Histogram::of(all.beam_on.iter()),
        per_leaf_mm: per_leaf(&leaves, n_pairs),
        logged_leaves_mm: logged(record, &in_field),
        jaw_y2_mm: jaw_y2.errors(),
        jaw_y1_mm: jaw_y1.errors(),
        gantry_deg: gantry.errors(),
        collimator_deg: collimator.errors(),
        speeds: speeds(delivery, &in_field, time_s),
    }
}

/// Leaf pairs of which at least a part lies between two positions in jaw direction (both in the delivery's frame, mm).
fn pairs_between(widths_mm: &[f64], low_mm: f64, high_mm: f64) -> std::ops::Range<usize> {
    let mut edge_mm = -widths_mm.iter().sum::<f64>() / 2.0;
    let (mut first, mut end) = (0, 0);
    for (pair, width_mm) in widths_mm.iter().enumerate() {
        if edge_mm + width_mm <= low_mm {
            first = pair + 1;
        }
        if edge_mm < high_mm {
            end = pair + 1;
        }
        edge_mm += width_mm;
    }
    first..end.max(first)
}

/// Difference of two directions, delivered minus planned, within ±180°.
fn turned_deg(planned_deg: f64, delivered_deg: f64) -> f64 {
    (delivered_deg - planned_deg + 180.0).rem_euclid(360.0) - 180.0
}

fn per_leaf(leaves: &[Collected], n_pairs: usize) -> Vec<LeafErrors> {
    let named = leaves.iter().enumerate().filter(|(_, leaf)| !leaf.beam_on.is_empty());
    named
        .map(|(tip, leaf)| {
            let (pair, bank) = (tip / 2, tip % 2);
            let (elekta, iec) = if bank == 0 { ("Y1", "X2") } else { ("Y2", "X1") };
            LeafErrors {
                name: format!("{elekta} Leaf {}", pair + 1),
                iec_name: format!("{iec} leaf {}", n_pairs - pair),
                errors: leaf.errors(),
            }
        })
        .collect()
}

/// The machine's own leaf errors for the same samples.
fn logged(record: &Record, in_field: &[(usize, std::ops::Range<usize>)]) -> Option<Errors> {
    let mut errors = Vec::new();
    for pair in 0..items::N_LEAF_PAIRS {
        for item in [items::y1_leaf_error(pair), items::y2_leaf_error(pair)] {
            let column = record.column_of(item?)?.values();
            let rows = in_field.iter().filter(|(_, open)| open.contains(&pair));
            errors.extend(rows.filter_map(|(row, _)| column.get(*row)));
        }
    }
    Errors::of(&errors)
}

fn speeds(delivery: &Delivery, in_field: &[(usize, std::ops::Range<usize>)], time_s: &[f64]) -> Speeds {
    let mut leaf = Vec::new();
    let mut jaw: Option<f64> = None;
    let mut gantry: Option<f64> = None;
    let mut collimator: Option<f64> = None;
    let faster =
        |fastest: &mut Option<f64>, speed: f64| *fastest = Some(fastest.map_or(speed, |f| f.max(speed)));
    for ((row, open), (later, open_later)) in in_field.iter().zip(in_field.iter().skip(SPEED_ROWS)) {
        if row + SPEED_ROWS != *later {
            continue;
        }
        let length_s = time_s.get(*later).zip(time_s.get(*row)).map_or(0.0, |(later, row)| later - row);
        let (Some(from), Some(to)) = (Sample::of(delivery, *row), Sample::of(delivery, *later)) else {
            continue;
        };
        if length_s <= 0.0 {
            continue;
        }
        let tips = from.mlc_mm.iter().zip(&to.mlc_mm).enumerate();
        leaf.extend(
            tips.filter(|(tip, _)| open.contains(&(tip / 2)) && open_later.contains(&(tip / 2)))
                .map(|(_, (from, to))| (to - from).abs() / length_s),
        );
        for (from, to) in from.jaw_mm.iter().zip(to.jaw_mm) {
            faster(&mut jaw, (to - from).abs() / length_s);
        }
        faster(&mut gantry, turned_deg(from.gantry_deg, to.gantry_deg).abs() / length_s);
        faster(&mut collimator, turned_deg(from.collimator_deg, to.collimator_deg).abs() / length_s);
    }
    leaf.sort_by(f64::total_cmp);
    let moving = leaf.get(leaf.partition_point(|speed| *speed < MOVING_MM_PER_S)..).unwrap_or_default();
    Speeds {
        leaf_max_mm_per_s: leaf.last().copied(),
        leaf_p95_mm_per_s: percentile(moving, 0.95),
        jaw_max_mm_per_s: jaw,
        gantry_max_deg_per_s: gantry,
        collimator_max_deg_per_s: collimator,
    }
}

/// Positions at one moment.
#[derive(Debug, Clone, Default)]
struct Sample {
    meterset_mu: f64,
    gantry_deg: f64,
    collimator_deg: f64,
    jaw_mm: [f64; 2],
    mlc_mm: Vec<f64>,
}

impl Sample {
    fn of(delivery: &Delivery, control_point: usize) -> Option<Self> {
        Some(Self {
            meterset_mu: *delivery.meterset_mu().get(control_point)?,
            gantry_deg: *delivery.gantry_bipolar_deg().get(control_point)?,
            collimator_deg: *delivery.collimator_bipolar_deg().get(control_point)?,
            jaw_mm: delivery.jaw_at(control_point)?,
            mlc_mm: delivery.mlc_at(control_point)?.to_vec(),
        })
    }

    fn between(from: &Self, to: &Self, part: f64) -> Self {
        let mix = |from: f64, to: f64| from + (to - from) * part;
        Self {
            meterset_mu: mix(from.meterset_mu, to.meterset_mu),
            gantry_deg: mix(from.gantry_deg, to.gantry_deg),
            collimator_deg: mix(from.collimator_deg, to.collimator_deg),
            jaw_mm: [mix(from.jaw_mm[0], to.jaw_mm[0]), mix(from.jaw_mm[1], to.jaw_mm[1])],
            mlc_mm: from.mlc_mm.iter().zip(&to.mlc_mm).map(|(from, to)| mix(*from, *to)).collect(),
        }
    }
}

/// A plan's positions at growing meterset.
struct Cursor {
    samples: Vec<Sample>,
    at: usize,
}

impl Cursor {
    fn new(planned: &Delivery) -> Self {
        Self { samples: (0..planned.n_cp()).filter_map(|cp| Sample::of(planned, cp)).collect(), at: 0 }
    }

    /// Positions at a meterset not smaller than the one before; the last ones beyond the end.
    fn at(&mut self, meterset_mu: f64) -> Sample {
        while self.samples.get(self.at + 1).is_some_and(|next| next.meterset_mu <= meterset_mu) {
            self.at += 1;
        }
        match (self.samples.get(self.at), self.samples.get(self.at + 1)) {
            (Some(from), Some(to)) => {
                let part = (meterset_mu - from.meterset_mu) / (to.meterset_mu - from.meterset_mu);
                Sample::between(from, to, part.clamp(0.0, 1.0))
            }
            (Some(last), None) => last.clone(),
            _ => Sample::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_between_the_jaws_are_those_with_a_part_in_the_opening() {
        let widths = [5.0; 8];
        assert_eq!(pairs_between(&widths, -10.0, 10.0), 2..6);
        assert_eq!(pairs_between(&widths, -10.1, 10.1), 1..7);
        assert_eq!(pairs_between(&widths, 3.0, 3.0), 4..5);
        assert!(pairs_between(&widths, 10.0, -10.0).is_empty());
        assert_eq!(pairs_between(&widths, -100.0, 100.0), 0..8);
    }

    #[test]
    fn turns_are_taken_the_short_way() {
        assert!((turned_deg(-179.9, 179.9) + 0.2).abs() < 1e-9);
        assert_eq!(turned_deg(10.0, 12.0), 2.0);
    }
}
