//! Plan against record: was delivered what was planned?
//!
//! Input: a TRF record and the RT Plan that it belongs to. Output: [`Check`], plain values per beam, and the maps behind them.
//! Trust: a record of another plan is an error, a beam that the record does not hold is listed as such. Not supported: couch,
//! energy and wedge; X jaws, which the machine of the record does not have.
//!
//! A planned position is the plan's at the same cumulative meterset, linear between control points. Samples count while the
//! linac's state is Radiation On and, for leaves, where the leaf lies at least in part between the jaws: closed leaves behind
//! the jaws are parked by the machine wherever it likes. On a real record this error and the one that the machine logs itself
//! correlate with −0.97 (planned minus delivered there).

mod positions;
mod stats;

use serde::Serialize;

use crate::gamma::{Criteria, Gamma, Plane};
use crate::metersetmap::Options;
use crate::rtplan::{DeliveredBeam, MatchedBeam, PlanBeam, RtPlan, Scope, match_beams, match_planned};
use crate::{Delivery, Error, MetersetMap, MetersetSource, Record, Result, items};

pub use positions::{LeafErrors, PositionCheck, Speeds};
pub use stats::{AxisErrors, Errors, Histogram};

/// State of the linac in which it delivers dose.
const RADIATION_ON: i32 = 42;
/// States into which nobody plans to come: Pause, Interupted, Interupted Ready.
const INTERRUPTED: [i32; 3] = [40, 43, 44];

/// How a check is made.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckOptions {
    /// Fraction group; found by gantry and meterset if the plan has several.
    pub fraction_group: Option<i32>,
    /// Dose column.
    pub meterset: MetersetSource,
    /// Grid of the MetersetMaps, mm.
    pub resolution_mm: f64,
    /// Gamma criteria.
    pub gamma: Criteria,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            fraction_group: None,
            meterset: MetersetSource::RawCounter,
            resolution_mm: 1.0,
            gamma: Criteria::default(),
        }
    }
}

/// Result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Machine of the record.
    pub machine_id: String,
    /// Treatment name of the record.
    pub field: String,
    /// Start of the record, host's clock, UTC, RFC 3339.
    pub start_utc: String,
    /// RT Plan Label.
    pub plan_label: Option<String>,
    /// SOP Instance UID of the plan.
    pub plan_sop_instance_uid: Option<String>,
    /// Number of the fraction group that was delivered; `None` where the plan is a field of Mosaiq.
    pub fraction_group: Option<i32>,
    /// Planned meterset of the beams in this record, MU.
    pub planned_mu: f64,
    /// Delivered meterset, MU.
    pub delivered_mu: f64,
    /// The beams in this record, in the plan's order.
    pub beams: Vec<BeamCheck>,
    /// Numbers of the plan's beams that this record does not hold.
    pub beams_not_in_record: Vec<i32>,
    /// What the reader says about the record.
    pub warnings: Vec<String>,
}

impl Check {
    /// Which plan it was, in words.
    pub fn planned_by(&self) -> String {
        match self.fraction_group {
            Some(group) => {
                let label = self.plan_label.as_deref().unwrap_or("without a label");
                format!("plan {label}, fraction group {group}")
            }
            None => "planned in Mosaiq".into(),
        }
    }
}

/// Result for one beam.
#[derive(Debug, Clone, Serialize)]
pub struct BeamCheck {
    /// Beam Number.
    pub number: i32,
    /// Beam Name.
    pub name: Option<String>,
    /// Planned meterset, MU.
    pub planned_mu: f64,
    /// Delivered meterset, MU.
    pub delivered_mu: f64,
    /// Delivered minus planned, MU.
    pub difference_mu: f64,
    /// The same in percent of planned; `None` if nothing was planned.
    pub difference_percent: Option<f64>,
    /// Time in state Radiation On from the first dose to the last, s; `None` if the record has no states.
    pub beam_on_s: Option<f64>,
    /// Meterset per time of Radiation On, MU/min.
    pub mean_dose_rate_mu_per_min: Option<f64>,
    /// Times that the beam was held between its first dose and its last, for whatever reason (moves between segments too).
    pub beam_hold_count: Option<usize>,
    /// Time of all holds, s.
    pub beam_hold_s: Option<f64>,
    /// Holds in which the linac was paused or interrupted.
    pub interruption_count: Option<usize>,
    /// Gamma of the MetersetMaps, the plan's as reference.
    pub gamma: GammaCheck,
    /// Difference of the MetersetMaps.
    pub map_difference: MapDifference,
    /// Positions and speeds.
    #[serde(flatten)]
    pub positions: PositionCheck,
    /// Map of the plan.
    #[serde(skip)]
    pub planned_map: MetersetMap,
    /// Map of the record.
    #[serde(skip)]
    pub delivered_map: MetersetMap,
}

/// Gamma in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct GammaCheck {
    /// Criteria.
    pub criteria: Criteria,
    /// Percentage of points with gamma ≤ 1.
    pub pass_rate_percent: Option<f64>,
    /// Mean gamma.
    pub mean: Option<f64>,
    /// Largest gamma, at most the criteria's largest.
    pub max: Option<f64>,
    /// Number of points above the cutoff.
    pub n_points: usize,
}

/// How far two MetersetMaps are apart.
#[derive(Debug, Clone, Serialize)]
pub struct MapDifference {
    /// Grid, mm.
    pub resolution_mm: f64,
    /// Largest pixel of the plan, MU.
    pub planned_max_mu: f64,
    /// Largest absolute difference, MU.
    pub max_abs_mu: f64,
    /// Root mean square of the difference over pixels where either map has meterset, MU; `None` if none has.
    pub rms_mu: Option<f64>,
}

/// Checks a record against a plan.
///
/// # Errors
/// As [`match_beams`], [`Delivery::from_record`] and [`MetersetMap::new`]: a record that does not belong to the plan, or columns
/// that the record does not have.
pub fn check_delivery(record: &Record, plan: &RtPlan, options: &CheckOptions) -> Result<Check> {
    let delivery = Delivery::from_record(record, options.meterset)?;
    let (group, beams) = match_beams(&delivery, plan, options.fraction_group, Scope::Full)?;
    let check = check_matched(record, &delivery, &beams, options)?;
    Ok(Check {
        plan_label: plan.label(),
        plan_sop_instance_uid: plan.sop_instance_uid(),
        fraction_group: Some(group.number),
        ..check
    })
}

/// Checks a record against planned beams from elsewhere, such as the fields of Mosaiq.
///
/// # Errors
/// As [`match_planned`], [`Delivery::from_record`] and [`MetersetMap::new`].
pub fn check_planned(record: &Record, planned: Vec<PlanBeam>, options: &CheckOptions) -> Result<Check> {
    let delivery = Delivery::from_record(record, options.meterset)?;
    let beams = match_planned(&delivery, planned)?;
    check_matched(record, &delivery, &beams, options)
}

fn check_matched(
    record: &Record,
    delivery: &Delivery,
    beams: &[MatchedBeam],
    options: &CheckOptions,
) -> Result<Check> {
    let beams_not_in_record =
        beams.iter().filter(|beam| beam.delivered.is_none()).map(|beam| beam.planned.number).collect();
    let beams = beams
        .iter()
        .filter_map(|beam| {
            Some(check_beam(record, delivery, &beam.planned, beam.delivered.as_ref()?, options))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Check {
        machine_id: record.header().machine_id.clone(),
        field: record.header().field.clone(),
        start_utc: record.start_utc().to_rfc3339(),
        plan_label: None,
        plan_sop_instance_uid: None,
        fraction_group: None,
        planned_mu: beams.iter().map(|beam| beam.planned_mu).sum(),
        delivered_mu: beams.iter().map(|beam| beam.delivered_mu).sum(),
        beams,
        beams_not_in_record,
        warnings: record.warnings().iter().map(ToString::to_string).collect(),
    })
}

fn check_beam(
    record: &Record,
    delivery: &Delivery,
    planned: &PlanBeam,
    delivered: &DeliveredBeam,
    options: &CheckOptions,
) -> Result<BeamCheck> {
    if planned.delivery.n_pairs() != delivery.n_pairs() {
        return Err(Error::unsupported(format!(
            "beam {} is planned for {} leaf pairs, the record has {}",
            planned.number,
            planned.delivery.n_pairs(),
            delivery.n_pairs()
        ))
        .with_hint("choose the plan for the machine of the record"));
    }
    let grid = Options {
        resolution_mm: options.resolution_mm,
        leaf_widths_mm: planned.leaf_widths_mm.clone(),
        close_overlaps: true,
        ..Options::default()
    };
    let planned_map = MetersetMap::new(&planned.delivery, &grid)?;
    let delivered_map = MetersetMap::new(&delivered.delivery, &grid)?;
    let gamma = Gamma::new(Plane::from(&planned_map), Plane::from(&delivered_map), &options.gamma)?;

    let states = record.column_of(items::LINAC_STATE).map(|column| column.raw());
    let time_s = record.time_s();
    let beam_on = BeamOn::new(delivery, &time_s, states.as_deref(), delivered);
    let delivered_mu = delivered.delivery.total_mu();
    let difference_mu = delivered_mu - planned.meterset_mu;
    Ok(BeamCheck {
        number: planned.number,
        name: planned.name.clone(),
        planned_mu: planned.meterset_mu,
        delivered_mu,
        difference_mu,
        difference_percent: (planned.meterset_mu > 0.0).then(|| 100.0 * difference_mu / planned.meterset_mu),
        beam_on_s: beam_on.on_s,
        mean_dose_rate_mu_per_min: beam_on.on_s.filter(|s| *s > 0.0).map(|s| delivered_mu / s * 60.0),
        beam_hold_count: beam_on.holds,
        beam_hold_s: beam_on.hold_s,
        interruption_count: beam_on.interruptions,
        gamma: GammaCheck {
            criteria: options.gamma,
            pass_rate_percent: gamma.pass_rate_percent(),
            mean: gamma.mean(),
            max: gamma.max(),
            n_points: gamma.n_points(),
        },
        map_difference: map_difference(&planned_map, &delivered_map, options.resolution_mm),
        positions: positions::check(record, delivery, planned, &beam_on, &time_s),
        planned_map,
        delivered_map,
    })
}

fn map_difference(planned: &MetersetMap, delivered: &MetersetMap, resolution_mm: f64) -> MapDifference {
    let pairs = || planned.mu().iter().zip(delivered.mu());
    let squares: Vec<f64> =
        pairs().filter(|(p, d)| **p > 0.0 || **d > 0.0).map(|(p, d)| (d - p) * (d - p)).collect();
    MapDifference {
        resolution_mm,
        planned_max_mu: planned.max_mu(),
        max_abs_mu: pairs().map(|(p, d)| (d - p).abs()).fold(0.0, f64::max),
        rms_mu: (!squares.is_empty()).then(|| (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()),
    }
}

/// When a beam was on.
struct BeamOn {
    /// The record's meterset before the beam's first dose, MU.
    start_mu: f64,
    /// Rows with radiation on, from the first with dose to the last.
    rows: Vec<usize>,
    on_s: Option<f64>,
    holds: Option<usize>,
    hold_s: Option<f64>,
    interruptions: Option<usize>,
}

impl BeamOn {
    fn new(delivery: &Delivery, time_s: &[f64], states: Option<&[i32]>, delivered: &DeliveredBeam) -> Self {
        let mu = delivery.meterset_mu();
        let start = delivered.control_points.start;
        let mut beam_on = Self {
            start_mu: mu.get(start).copied().unwrap_or_default(),
            rows: Vec::new(),
            on_s: None,
            holds: None,
            hold_s: None,
            interruptions: None,
        };
        // The first control point is the one before the first dose.
        let rows = start + 1..delivered.control_points.end;
        let Some(states) = states else {
            let rises = |row: &usize| row.checked_sub(1).and_then(|before| mu.get(before)) < mu.get(*row);
            beam_on.rows = rows.filter(rises).collect();
            return beam_on;
        };
        let (mut on_s, mut hold_s, mut holds, mut interruptions) = (0.0, 0.0, 0, 0);
        let (mut held, mut interrupted) = (false, false);
        for row in rows {
            let Some(&state) = states.get(row) else { break };
            let length_s = row
                .checked_sub(1)
                .and_then(|before| Some(time_s.get(row)? - time_s.get(before)?))
                .unwrap_or_default();
            let on = state == RADIATION_ON;
            if on {
                beam_on.rows.push(row);
                on_s += length_s;
            } else {
                hold_s += length_s;
                holds += usize::from(!held);
                interrupted |= INTERRUPTED.contains(&state);
            }
            if on && interrupted {
                interruptions += 1;
                interrupted = false;
            }
            held = !on;
        }
        Self {
            on_s: Some(on_s),
            holds: Some(holds),
            hold_s: Some(hold_s),
            interruptions: Some(interruptions + usize::from(interrupted)),
            ..beam_on
        }
    }
}
