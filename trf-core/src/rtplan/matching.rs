//! Which part of a delivery is which beam of a plan.

use std::ops::Range;

use super::{FractionGroup, PlanBeam, RtPlan, Scope};
use crate::delivery::relevant_control_points;
use crate::{Delivery, Error, Result};

/// Largest tolerance of a gantry angle, degrees (PyMedPhys's).
const MAX_GANTRY_TOLERANCE_DEG: f64 = 3.0;
/// How far two neighbouring beams' gantry masks stay apart, degrees (PyMedPhys's).
const MASK_GAP_DEG: f64 = 0.1;
/// Largest difference of meterset by which a fraction group is recognised, MU (PyMedPhys's).
const METERSET_TOLERANCE_MU: f64 = 0.5;

/// A beam of a plan with what was delivered of it.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchedBeam {
    /// The beam.
    pub planned: PlanBeam,
    /// What was delivered of it; `None` if the delivery has nothing.
    pub delivered: Option<DeliveredBeam>,
}

/// The part of a delivery that is one beam.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveredBeam {
    /// Its filtered control points, meterset from 0 and rounded to 7 decimals.
    pub delivery: Delivery,
    /// From its first to after its last control point in the delivery that was matched (rows, for a record).
    pub control_points: Range<usize>,
}

impl MatchedBeam {
    fn difference_mu(&self) -> Option<f64> {
        Some((self.delivered.as_ref()?.delivery.total_mu() - self.planned.meterset_mu).abs())
    }
}

/// Finds the fraction group that was delivered and each beam's part.
///
/// The only group, the one that `group` names, or the one to which all that was delivered belongs within 0.5 MU per beam.
///
/// # Errors
/// [`Error::Misuse`] if no group or several fit, or a control point belongs to no beam.
pub fn match_beams(
    delivery: &Delivery,
    plan: &RtPlan,
    group: Option<i32>,
    scope: Scope,
) -> Result<(FractionGroup, Vec<MatchedBeam>)> {
    let delivered = Filtered::not_empty(delivery)?;
    let groups = match group {
        Some(_) => vec![plan.fraction_group(group)?],
        None => plan.fraction_groups()?,
    };
    if let [only] = groups.as_slice() {
        let beams = assign(&delivered, plan.beams(only, scope)?)?;
        return Ok((only.clone(), beams));
    }
    let mut fitting = Vec::new();
    for candidate in groups {
        let Ok(beams) = plan.beams(&candidate, scope).and_then(|beams| assign(&delivered, beams)) else {
            continue;
        };
        let differences: Vec<f64> = beams.iter().filter_map(MatchedBeam::difference_mu).collect();
        if differences.iter().all(|&mu| mu <= METERSET_TOLERANCE_MU) {
            fitting.push((candidate, beams));
        }
    }
    let numbers: Vec<i32> = fitting.iter().map(|(group, _)| group.number).collect();
    match (fitting.pop(), numbers.as_slice()) {
        (Some(found), [_]) => Ok(found),
        (None, _) => {
            Err(Error::misuse("no fraction group of the plan has the delivered metersets and gantry angles")
                .with_hint("check that plan and record belong together, or name the fraction group"))
        }
        (Some(_), _) => Err(Error::misuse(format!("fraction groups {numbers:?} all fit what was delivered"))
            .with_hint("name the fraction group")),
    }
}

/// Finds each beam's part of a delivery, where it is known which beams were to be delivered.
///
/// # Errors
/// [`Error::Misuse`] if nothing was delivered, or a control point belongs to no beam.
pub fn match_planned(delivery: &Delivery, beams: Vec<PlanBeam>) -> Result<Vec<MatchedBeam>> {
    assign(&Filtered::not_empty(delivery)?, beams)
}

/// A filtered delivery and where its control points stood before.
struct Filtered {
    delivery: Delivery,
    origins: Vec<usize>,
}

impl Filtered {
    fn new(delivery: &Delivery) -> Self {
        let keep = relevant_control_points(delivery.meterset_mu());
        let origins = keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(origin, _)| origin).collect();
        Self { delivery: delivery.filter(), origins }
    }

    fn not_empty(delivery: &Delivery) -> Result<Self> {
        let delivered = Self::new(delivery);
        if delivered.delivery.is_empty() {
            return Err(Error::misuse("the record delivered nothing")
                .with_hint("choose the record of a delivered beam"));
        }
        Ok(delivered)
    }

    fn part(&self, range: Range<usize>) -> Option<DeliveredBeam> {
        let last = self.origins.get(range.end.checked_sub(1)?)?;
        let control_points = *self.origins.get(range.start)?..last + 1;
        Some(DeliveredBeam { delivery: self.delivery.slice_from_zero(range), control_points })
    }
}

fn assign(delivered: &Filtered, beams: Vec<PlanBeam>) -> Result<Vec<MatchedBeam>> {
    let ranges = match by_gantry(&delivered.delivery, &beams) {
        Some(ranges) => ranges,
        None => by_beam(&delivered.delivery, &beams)?,
    };
    let parts = ranges.into_iter().map(|range| delivered.part(range?));
    Ok(beams.into_iter().zip(parts).map(|(planned, delivered)| MatchedBeam { planned, delivered }).collect())
}

/// Masks around the beams' angles, if each beam has one of its own and no control point is left over.
fn by_gantry(filtered: &Delivery, beams: &[PlanBeam]) -> Option<Vec<Option<Range<usize>>>> {
    let mut angles_deg = Vec::with_capacity(beams.len());
    for beam in beams {
        let angles = beam.delivery.gantry_bipolar_deg();
        let first = *angles.first()?;
        angles_deg.push(angles.iter().all(|&angle| angle == first).then_some(first)?);
    }
    filtered.gantry_ranges(&angles_deg, gantry_tolerance_deg(&angles_deg), false).ok()
}

/// Half of the smallest difference between the angles less 0.1°, at most 3°.
fn gantry_tolerance_deg(angles_deg: &[f64]) -> f64 {
    let mut sorted = angles_deg.to_vec();
    sorted.sort_by(f64::total_cmp);
    let differences =
        sorted.iter().zip(sorted.iter().skip(1)).map(|(low, high)| (high - low) / 2.0 - MASK_GAP_DEG);
    differences.fold(MAX_GANTRY_TOLERANCE_DEG, f64::min)
}

/// Beams as the dose counter tells them apart: arcs, several beams at one angle, angles on both sides of 180°.
fn by_beam(filtered: &Delivery, beams: &[PlanBeam]) -> Result<Vec<Option<Range<usize>>>> {
    let ranges = filtered.beam_ranges();
    let runs: Vec<Delivery> = ranges.iter().map(|range| filtered.slice_from_zero(range.clone())).collect();
    if runs.len() == beams.len() && runs.iter().zip(beams).all(|(run, beam)| follows(run, beam)) {
        return Ok(ranges.into_iter().map(Some).collect());
    }
    let mut parts = vec![None; beams.len()];
    for (number, (run, range)) in runs.iter().zip(ranges).enumerate() {
        let free = beams
            .iter()
            .zip(&parts)
            .enumerate()
            .filter(|(_, (beam, part))| part.is_none() && follows(run, beam));
        let difference = |beam: &PlanBeam| (beam.meterset_mu - run.total_mu()).abs();
        let nearest = free
            .min_by(|(_, (a, _)), (_, (b, _))| difference(a).total_cmp(&difference(b)))
            .map(|(index, _)| index);
        let Some(part) = nearest.and_then(|index| parts.get_mut(index)) else {
            return Err(Error::misuse(format!(
                "beam {} of the record ({:.1} MU, gantry {:.1}° to {:.1}°) is no beam of the plan's fraction group",
                number + 1,
                run.total_mu(),
                run.gantry_bipolar_deg().first().copied().unwrap_or_default(),
                run.gantry_bipolar_deg().last().copied().unwrap_or_default(),
            ))
            .with_hint("check that plan and record belong together, or name the fraction group"));
        };
        *part = Some(range);
    }
    Ok(parts)
}

/// True if a run of control points begins where the beam does and stays within its gantry angles.
fn follows(run: &Delivery, beam: &PlanBeam) -> bool {
    let planned = beam.delivery.gantry_bipolar_deg();
    let Some((first, start)) = run.gantry_bipolar_deg().first().zip(planned.first()) else { return false };
    let low = planned.iter().copied().fold(f64::INFINITY, f64::min) - MAX_GANTRY_TOLERANCE_DEG;
    let high = planned.iter().copied().fold(f64::NEG_INFINITY, f64::max) + MAX_GANTRY_TOLERANCE_DEG;
    let within =
        |angle: f64| [angle, angle - 360.0, angle + 360.0].iter().any(|angle| (low..=high).contains(angle));
    angle_between_deg(*first, *start) <= MAX_GANTRY_TOLERANCE_DEG
        && run.gantry_bipolar_deg().iter().copied().all(within)
}

/// Smallest angle between two directions, degrees.
pub(super) fn angle_between_deg(a: f64, b: f64) -> f64 {
    let difference = (a - b).rem_euclid(360.0);
    difference.min(360.0 - difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gantry_tolerance_keeps_masks_apart_and_is_defined_for_one_beam() {
        assert_eq!(gantry_tolerance_deg(&[-120.0]), 3.0);
        assert_eq!(gantry_tolerance_deg(&[90.0, 0.0, 4.0]), 1.9);
        assert!(gantry_tolerance_deg(&[10.0, 10.0]) < 0.0);
    }

    #[test]
    fn directions_are_compared_around_the_circle() {
        assert!((angle_between_deg(-179.9, 179.9) - 0.2).abs() < 1e-9);
        assert_eq!(angle_between_deg(10.0, 350.0), 20.0);
    }
}
