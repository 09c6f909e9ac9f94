//! One beam of a plan as a [`Delivery`].

use dicom_core::header::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::angles::{self, Turn};
use super::{ReferencedBeam, Scope, field, malformed};
use crate::delivery::Columns;
use crate::{Delivery, Error, Result};

/// Leaf widths must add up to a field centred on the axis to within this, mm.
const CENTRED_WITHIN_MM: f64 = 0.01;

/// A treatment beam of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanBeam {
    /// Beam Number (300A,00C0).
    pub number: i32,
    /// Beam Name (300A,00C2).
    pub name: Option<String>,
    /// Beam Meterset, MU.
    pub meterset_mu: f64,
    /// One control point per item of the Control Point Sequence, meterset from 0 to `meterset_mu`.
    pub delivery: Delivery,
    /// Widths of the leaf pairs in the delivery's order, mm.
    pub leaf_widths_mm: Vec<f64>,
}

/// True for beams that only take images before the treatment.
pub(super) fn is_setup(beam: &InMemDicomObject) -> bool {
    field::text(beam, tags::TREATMENT_DELIVERY_TYPE).as_deref() == Some("SETUP")
}

impl PlanBeam {
    pub(super) fn read(beam: &InMemDicomObject, referenced: ReferencedBeam, scope: Scope) -> Result<Self> {
        let number = referenced.number;
        let meterset_mu = referenced.meterset_mu.ok_or_else(|| {
            Error::unsupported(format!("beam {number} without Beam Meterset"))
                .with_hint("calculate the dose in the planning system, then export the plan again")
        })?;
        let devices = Devices::read(beam, number, scope)?;
        let control_points = field::items(beam, tags::CONTROL_POINT_SEQUENCE, "Control Point Sequence")?;
        let final_weight = field::number(beam, tags::FINAL_CUMULATIVE_METERSET_WEIGHT)
            .filter(|&weight| weight > 0.0)
            .ok_or_else(|| {
                malformed(format!("a positive Final Cumulative Meterset Weight in beam {number}"), "none")
            })?;

        let mut columns = Columns::default();
        let mut positions = Positions::default();
        for (index, control_point) in control_points.iter().enumerate() {
            let weight = field::number(control_point, tags::CUMULATIVE_METERSET_WEIGHT).ok_or_else(|| {
                Error::unsupported(format!(
                    "beam {number}, control point {index} without Cumulative Meterset Weight"
                ))
                .with_hint("calculate the dose in the planning system, then export the plan again")
            })?;
            positions.inherit(control_point, &devices, number)?;
            columns.meterset_mu.push(meterset_mu * weight / final_weight);
            positions.append(&devices, number, &mut columns)?;
        }
        columns.gantry_bipolar_deg =
            angle_column(control_points, tags::GANTRY_ANGLE, tags::GANTRY_ROTATION_DIRECTION, number, scope)?;
        columns.collimator_bipolar_deg = angle_column(
            control_points,
            tags::BEAM_LIMITING_DEVICE_ANGLE,
            tags::BEAM_LIMITING_DEVICE_ROTATION_DIRECTION,
            number,
            scope,
        )?;
        let n_pairs = devices.leaf_widths_mm.len();
        Ok(Self {
            number,
            name: field::text(beam, tags::BEAM_NAME),
            meterset_mu,
            delivery: Delivery::new(columns, n_pairs)?,
            leaf_widths_mm: devices.leaf_widths_mm,
        })
    }

    /// True if the gantry moves by more than 0.1° while the beam is planned to run.
    pub fn is_arc(&self) -> bool {
        let angles = self.delivery.gantry_bipolar_deg();
        let (low, high) = angles
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &a| (low.min(a), high.max(a)));
        high - low > 0.1
    }
}

/// What the beam's limiting devices are.
struct Devices {
    x_jaws: Option<String>,
    y_jaws: Option<String>,
    leaf_widths_mm: Vec<f64>,
}

impl Devices {
    fn read(beam: &InMemDicomObject, number: i32, scope: Scope) -> Result<Self> {
        let items = field::items(beam, tags::BEAM_LIMITING_DEVICE_SEQUENCE, "Beam Limiting Device Sequence")?;
        let mut devices = Self { x_jaws: None, y_jaws: None, leaf_widths_mm: Vec::new() };
        for item in items {
            let kind = field::text(item, tags::RT_BEAM_LIMITING_DEVICE_TYPE).unwrap_or_default();
            let unsupported =
                || Error::unsupported(format!("beam limiting device {kind:?} in beam {number}"));
            match kind.as_str() {
                "MLCX" if devices.leaf_widths_mm.is_empty() => {
                    devices.leaf_widths_mm = leaf_widths_mm(item, number)?
                }
                "ASYMY" if devices.y_jaws.is_none() => devices.y_jaws = Some(kind),
                "Y" if scope == Scope::Full && devices.y_jaws.is_none() => devices.y_jaws = Some(kind),
                "X" | "ASYMX" if scope == Scope::Full && devices.x_jaws.is_none() => {
                    devices.x_jaws = Some(kind)
                }
                _ => return Err(unsupported()),
            }
        }
        if devices.leaf_widths_mm.is_empty() || (scope == Scope::Compatible && devices.y_jaws.is_none()) {
            return Err(Error::unsupported(format!("beam {number} without MLCX or without ASYMY")));
        }
        Ok(devices)
    }
}

/// Widths of the leaf pairs, in the delivery's order (DICOM's reversed).
fn leaf_widths_mm(mlc: &InMemDicomObject, number: i32) -> Result<Vec<f64>> {
    let boundaries_mm = field::numbers(mlc, tags::LEAF_POSITION_BOUNDARIES, "Leaf Position Boundaries")?;
    let widths_mm: Vec<f64> =
        boundaries_mm.iter().zip(boundaries_mm.iter().skip(1)).rev().map(|(low, high)| high - low).collect();
    let n_pairs = field::integer(mlc, tags::NUMBER_OF_LEAF_JAW_PAIRS);
    if widths_mm.is_empty() || n_pairs != i32::try_from(widths_mm.len()).ok() {
        return Err(malformed(
            format!(
                "as many leaf pairs as Leaf Position Boundaries enclose in beam {number} ({})",
                widths_mm.len()
            ),
            n_pairs.map_or("none".to_owned(), |n| n.to_string()),
        ));
    }
    let centre_mm =
        boundaries_mm.first().zip(boundaries_mm.last()).map_or(0.0, |(first, last)| (first + last) / 2.0);
    if widths_mm.iter().any(|&width| width <= 0.0) || centre_mm.abs() > CENTRED_WITHIN_MM {
        return Err(Error::unsupported(format!(
            "leaf boundaries of beam {number} that are not centred on the axis"
        )));
    }
    Ok(widths_mm)
}

/// Positions at a control point; what it does not name stays as it was.
#[derive(Default)]
struct Positions {
    mlc: Vec<f64>,
    x_jaws: Option<[f64; 2]>,
    y_jaws: Option<[f64; 2]>,
}

impl Positions {
    fn inherit(&mut self, control_point: &InMemDicomObject, devices: &Devices, number: i32) -> Result<()> {
        let items = control_point
            .get(tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE)
            .and_then(|element| element.items());
        for item in items.unwrap_or_default() {
            let kind = field::text(item, tags::RT_BEAM_LIMITING_DEVICE_TYPE);
            let positions = || field::numbers(item, tags::LEAF_JAW_POSITIONS, "Leaf/Jaw Positions");
            let pair = || match positions()?.as_slice() {
                &[low, high] => Ok(Some([low, high])),
                other => {
                    Err(malformed(format!("two jaw positions in beam {number}"), other.len().to_string()))
                }
            };
            if kind.as_deref() == Some("MLCX") {
                let mlc = positions()?;
                let expected = devices.leaf_widths_mm.len() * 2;
                if mlc.len() != expected {
                    return Err(malformed(
                        format!("{expected} leaf positions in beam {number}"),
                        mlc.len().to_string(),
                    ));
                }
                self.mlc = mlc;
            } else if kind.is_some() && kind == devices.x_jaws {
                self.x_jaws = pair()?;
            } else if kind.is_some() && kind == devices.y_jaws {
                self.y_jaws = pair()?;
            }
        }
        Ok(())
    }

    /// Adds this control point's positions to the columns, in the delivery's frame.
    fn append(&self, devices: &Devices, number: i32, columns: &mut Columns) -> Result<()> {
        let missing = |kind: &str| {
            malformed(format!("positions of {kind} at the first control point of beam {number}"), "none")
        };
        let n_pairs = devices.leaf_widths_mm.len();
        if self.mlc.is_empty() {
            return Err(missing("MLCX"));
        }
        let [x1, x2] = match (self.x_jaws, &devices.x_jaws) {
            (Some(jaws), _) => jaws,
            (None, None) => [f64::NEG_INFINITY, f64::INFINITY],
            (None, Some(kind)) => return Err(missing(kind)),
        };
        let [y1, y2] = match (self.y_jaws, &devices.y_jaws) {
            (Some(jaws), _) => jaws,
            // Without Y jaws the leaf bank's end is the field's.
            (None, None) => {
                let half_mm = devices.leaf_widths_mm.iter().sum::<f64>() / 2.0;
                [-half_mm, half_mm]
            }
            (None, Some(kind)) => return Err(missing(kind)),
        };
        if x1 > x2 {
            return Err(malformed(
                format!("X jaws of beam {number} in ascending order"),
                format!("{x1}, {x2}"),
            ));
        }
        let (bank_x1, bank_x2) = self.mlc.split_at(n_pairs);
        for (low, high) in bank_x1.iter().zip(bank_x2).rev() {
            columns.mlc_mm.extend([high.clamp(x1, x2), -low.clamp(x1, x2)]);
        }
        columns.jaw_mm.extend([y2, -y1]);
        Ok(())
    }
}

fn angle_column(
    control_points: &[InMemDicomObject],
    angle: Tag,
    direction: Tag,
    number: i32,
    scope: Scope,
) -> Result<Vec<f64>> {
    let mut angles = Vec::with_capacity(control_points.len());
    let mut turns = Vec::with_capacity(control_points.len());
    for control_point in control_points {
        let inherited = angles.last().copied();
        let angle_deg = field::number(control_point, angle).or(inherited).ok_or_else(|| {
            malformed(
                format!("gantry and collimator angles at the first control point of beam {number}"),
                "none",
            )
        })?;
        angles.push(angle_deg);
        let code = field::text(control_point, direction);
        let inherited = turns.last().copied().unwrap_or(Turn::None);
        turns.push(code.map_or(inherited, |code| Turn::from_code(Some(&code))));
    }
    angles::bipolar_deg(&angles, &turns, scope)
}
