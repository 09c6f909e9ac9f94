//! A delivery written as an RT Plan, on the template of the plan that was to be delivered.

use dicom_core::header::{Header, Tag};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use sha2::{Digest, Sha256};

use super::matching::match_beams;
use super::{FractionGroup, MatchedBeam, RtPlan, Scope, field, malformed};
use crate::delivery::{iec_from_bipolar_deg, round_decimals};
use crate::digits::push_tenths;
use crate::{Delivery, Error, Result};

/// Longest text of a DS value (PS3.5 §6.2).
const MAX_DS_CHARACTERS: usize = 16;
/// Longest text of an SH value.
const MAX_SH_CHARACTERS: usize = 16;
/// Decimals of Cumulative Meterset Weight and Beam Meterset, PyMedPhys's.
const METERSET_DECIMALS: usize = 6;

/// Whose name and identity the written plan has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// A plan of its own: new SOP Instance UID (the same for the same content), the label with a suffix, not approved, and a
    /// reference to the template as its predecessor.
    New {
        /// Appended to the RT Plan Label, which is cut so that both fit 16 characters.
        label_suffix: String,
    },
    /// The template's, approval included: for comparison only, since two different plans then share a UID.
    Keep,
}

/// How a delivery is written as a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Identity of the new plan.
    pub identity: Identity,
    /// Devices that the template may have.
    pub scope: Scope,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { identity: Identity::New { label_suffix: "_LOG".to_owned() }, scope: Scope::Full }
    }
}

impl RtPlan {
    /// The plan that would deliver what was delivered: one control point per point at which the meterset changes.
    ///
    /// Everything that a delivery does not know is the template's. X jaws stay as the template's first control point has them.
    ///
    /// # Errors
    /// As [`match_beams`]; [`Error::Misuse`] if a beam of the group was not delivered.
    ///
    /// # Source
    /// PyMedPhys's `Delivery.to_dicom`, whose goldens it equals exactly; arcs, one-beam plans and bare last control points ours.
    pub fn with_delivery(
        &self,
        delivery: &Delivery,
        group: Option<i32>,
        options: &WriteOptions,
    ) -> Result<Self> {
        let (group, beams) = match_beams(delivery, self, group, options.scope)?;
        let mut dataset = without(&self.dataset, &[tags::BEAM_SEQUENCE, tags::FRACTION_GROUP_SEQUENCE]);
        dataset.put(sequence(
            tags::BEAM_SEQUENCE,
            beams.iter().map(|beam| self.delivered_beam(beam, options)).collect::<Result<_>>()?,
        ));
        dataset.put(sequence(tags::FRACTION_GROUP_SEQUENCE, vec![self.delivered_group(&group, &beams)?]));
        let mut plan = Self { dataset };
        if let Identity::New { label_suffix } = &options.identity {
            plan.take_new_identity(self, label_suffix, &beams)?;
        }
        Ok(plan)
    }

    fn delivered_group(&self, group: &FractionGroup, beams: &[MatchedBeam]) -> Result<InMemDicomObject> {
        let groups = field::items(&self.dataset, tags::FRACTION_GROUP_SEQUENCE, "Fraction Group Sequence")?;
        let template = groups
            .iter()
            .find(|item| field::integer(item, tags::FRACTION_GROUP_NUMBER) == Some(group.number));
        let mut item = template.cloned().ok_or_else(|| malformed("the fraction group", "none"))?;
        let referenced = field::items(&item, tags::REFERENCED_BEAM_SEQUENCE, "Referenced Beam Sequence")?;
        let referenced = beams.iter().map(|beam| {
            let number = Some(beam.planned.number);
            let template =
                referenced.iter().find(|item| field::integer(item, tags::REFERENCED_BEAM_NUMBER) == number);
            let mut item = template.cloned().ok_or_else(|| malformed("the referenced beam", "none"))?;
            let meterset_mu = delivered(beam)?.total_mu();
            item.put(DataElement::new(
                tags::BEAM_METERSET,
                VR::DS,
                format!("{meterset_mu:.METERSET_DECIMALS$}"),
            ));
            Ok(item)
        });
        let referenced = referenced.collect::<Result<Vec<_>>>()?;
        item.put(DataElement::new(tags::NUMBER_OF_BEAMS, VR::IS, referenced.len().to_string()));
        item.put(sequence(tags::REFERENCED_BEAM_SEQUENCE, referenced));
        Ok(item)
    }

    fn delivered_beam(&self, beam: &MatchedBeam, options: &WriteOptions) -> Result<InMemDicomObject> {
        let delivery = delivered(beam)?;
        let template = self.beam_item(beam.planned.number)?;
        let mut item = without(template, &[tags::CONTROL_POINT_SEQUENCE]);
        let control_points = control_points(template, delivery)?;
        item.put(DataElement::new(tags::NUMBER_OF_CONTROL_POINTS, VR::IS, control_points.len().to_string()));
        item.put(sequence(tags::CONTROL_POINT_SEQUENCE, control_points));
        // The weights end at 1; a template that counts otherwise would give them another meaning.
        if field::number(&item, tags::FINAL_CUMULATIVE_METERSET_WEIGHT) != Some(1.0) {
            item.put(DataElement::new(tags::FINAL_CUMULATIVE_METERSET_WEIGHT, VR::DS, "1.0"));
        }
        // Control points that differ make a beam dynamic (PS3.3 C.8.8.14).
        if options.identity != Identity::Keep {
            item.put(DataElement::new(tags::BEAM_TYPE, VR::CS, "DYNAMIC"));
        }
        Ok(item)
    }

    fn take_new_identity(
        &mut self,
        template: &Self,
        label_suffix: &str,
        beams: &[MatchedBeam],
    ) -> Result<()> {
        if label_suffix.chars().count() > MAX_SH_CHARACTERS || label_suffix.contains(['\\', '\n', '\r']) {
            return Err(Error::misuse(format!(
                "a label suffix of more than {MAX_SH_CHARACTERS} characters, or with a backslash"
            )));
        }
        let kept = MAX_SH_CHARACTERS - label_suffix.chars().count();
        let label: String = template.label().unwrap_or_default().chars().take(kept).collect();
        self.dataset.put(DataElement::new(tags::RT_PLAN_LABEL, VR::SH, format!("{label}{label_suffix}")));
        self.dataset.put(DataElement::new(tags::APPROVAL_STATUS, VR::CS, "UNAPPROVED"));
        for of_approval in [tags::REVIEW_DATE, tags::REVIEW_TIME, tags::REVIEWER_NAME] {
            self.dataset.remove_element(of_approval);
        }
        if let Some(uid) = template.sop_instance_uid() {
            let predecessor = InMemDicomObject::from_element_iter([
                DataElement::new(tags::REFERENCED_SOP_CLASS_UID, VR::UI, uids::RT_PLAN_STORAGE),
                DataElement::new(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, uid),
                DataElement::new(tags::RT_PLAN_RELATIONSHIP, VR::CS, "PREDECESSOR"),
            ]);
            self.dataset.put(sequence(tags::REFERENCED_RT_PLAN_SEQUENCE, vec![predecessor]));
        }
        let uid = content_uid(template, label_suffix, beams)?;
        self.dataset.put(DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, uid));
        Ok(())
    }
}

/// A UID that is the same for the same template and delivery, so that a repeated conversion makes no second plan.
fn content_uid(template: &RtPlan, label_suffix: &str, beams: &[MatchedBeam]) -> Result<String> {
    let mut hash = Sha256::new();
    for text in [template.sop_instance_uid(), template.label(), Some(label_suffix.to_owned())] {
        hash.update(text.unwrap_or_default());
        hash.update([0]);
    }
    for beam in beams {
        let delivery = delivered(beam)?;
        hash.update(beam.planned.number.to_le_bytes());
        for column in [
            delivery.meterset_mu(),
            delivery.gantry_bipolar_deg(),
            delivery.collimator_bipolar_deg(),
            delivery.mlc_mm(),
            delivery.jaw_mm(),
        ] {
            hash.update((column.len() as u64).to_le_bytes());
            column.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
    }
    Ok(uid_of_hash(&hash.finalize()))
}

/// A UID under 2.25 (PS3.5 §B.2) with an RFC 9562 UUID of version 8, made of a hash's first 16 bytes.
fn uid_of_hash(digest: &[u8]) -> String {
    let mut uuid = [0; 16];
    uuid.iter_mut().zip(digest).for_each(|(byte, &hashed)| *byte = hashed);
    let uuid = u128::from_be_bytes(uuid);
    let version = 0xF_u128 << 76;
    let variant = 0b11_u128 << 62;
    format!("2.25.{}", (uuid & !version & !variant) | (8 << 76) | (0b10 << 62))
}

fn delivered(beam: &MatchedBeam) -> Result<&Delivery> {
    beam.delivered
        .as_ref()
        .map(|delivered| &delivered.delivery)
        .filter(|delivery| delivery.total_mu() > 0.0)
        .ok_or_else(|| {
            Error::misuse(format!(
                "beam {} of the plan was not delivered in this record",
                beam.planned.number
            ))
            .with_hint("choose the record of all beams, or a plan of this beam alone")
        })
}

fn control_points(beam: &InMemDicomObject, delivery: &Delivery) -> Result<Vec<InMemDicomObject>> {
    let templates = field::items(beam, tags::CONTROL_POINT_SEQUENCE, "Control Point Sequence")?;
    let (Some(first), Some(last)) = (templates.first(), templates.last()) else {
        return Err(malformed("control points", "none"));
    };
    // Later control points may name only what changes, or nothing; the first names all devices.
    let devices = field::items(
        first,
        tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE,
        "Beam Limiting Device Position Sequence",
    )?;
    let gantry = delivery.gantry_bipolar_deg();
    let collimator = delivery.collimator_bipolar_deg();
    let total_mu = delivery.total_mu();
    let devices: Vec<Device> = devices.iter().map(Device::of).collect();
    let written_anew = [tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE];
    let (first, last) = (without(first, &written_anew), without(last, &written_anew));
    (0..delivery.n_cp())
        .map(|index| {
            let mut item = if index == 0 { first.clone() } else { last.clone() };
            item.put(DataElement::new(tags::CONTROL_POINT_INDEX, VR::IS, index.to_string()));
            put_angle(&mut item, gantry, index, tags::GANTRY_ANGLE, tags::GANTRY_ROTATION_DIRECTION);
            put_angle(
                &mut item,
                collimator,
                index,
                tags::BEAM_LIMITING_DEVICE_ANGLE,
                tags::BEAM_LIMITING_DEVICE_ROTATION_DIRECTION,
            );
            let positions = devices.iter().map(|device| device.at(delivery, index)).collect();
            item.put(sequence(tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE, positions));
            let meterset_mu = delivery.meterset_mu().get(index).copied().unwrap_or_default();
            let weight = round_decimals(meterset_mu / total_mu, METERSET_DECIMALS as i32);
            item.put(DataElement::new(
                tags::CUMULATIVE_METERSET_WEIGHT,
                VR::DS,
                format!("{weight:.METERSET_DECIMALS$}"),
            ));
            Ok(item)
        })
        .collect()
}

/// A copy without some of its attributes, which are written anew; they are not copied in vain.
fn without(item: &InMemDicomObject, attributes: &[Tag]) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(item.iter().filter(|e| !attributes.contains(&e.tag())).cloned())
}

fn put_angle(item: &mut InMemDicomObject, bipolar_deg: &[f64], index: usize, angle: Tag, direction: Tag) {
    let now = bipolar_deg.get(index).copied().unwrap_or_default();
    let next = bipolar_deg.get(index + 1).copied().unwrap_or(now);
    let turn = if next > now {
        "CW"
    } else if next < now {
        "CC"
    } else {
        "NONE"
    };
    item.put(DataElement::new(angle, VR::DS, decimal_string(iec_from_bipolar_deg(now))));
    item.put(DataElement::new(direction, VR::CS, turn));
}

/// A beam limiting device at a control point, as the template has it.
enum Device {
    /// Leaves; the item lacks its positions.
    Leaves(InMemDicomObject),
    /// Y jaws; the item lacks its positions.
    YJaws(InMemDicomObject),
    /// A device that a delivery does not know.
    Other(InMemDicomObject),
}

impl Device {
    fn of(item: &InMemDicomObject) -> Self {
        match field::text(item, tags::RT_BEAM_LIMITING_DEVICE_TYPE).as_deref() {
            Some("MLCX") => Self::Leaves(without(item, &[tags::LEAF_JAW_POSITIONS])),
            Some("ASYMY" | "Y") => Self::YJaws(without(item, &[tags::LEAF_JAW_POSITIONS])),
            _ => Self::Other(item.clone()),
        }
    }

    fn at(&self, delivery: &Delivery, control_point: usize) -> InMemDicomObject {
        match self {
            Self::Leaves(item) => {
                let tips = delivery.mlc_at(control_point).unwrap_or_default().as_chunks::<2>().0;
                let bank_x1 = tips.iter().rev().map(|[_, tip]| -tip);
                with_positions(item, bank_x1.chain(tips.iter().rev().map(|[tip, _]| *tip)))
            }
            Self::YJaws(item) => {
                let jaws = delivery.jaw_at(control_point).into_iter();
                with_positions(item, jaws.flat_map(|[y2, minus_y1]| [-minus_y1, y2]))
            }
            Self::Other(item) => item.clone(),
        }
    }
}

/// A copy with positions, as one text: a string of its own for each would be most of the work of writing a plan.
fn with_positions(item: &InMemDicomObject, positions_mm: impl Iterator<Item = f64>) -> InMemDicomObject {
    let mut text = Vec::with_capacity(MAX_DS_CHARACTERS * positions_mm.size_hint().0);
    for position_mm in positions_mm {
        if !text.is_empty() {
            text.push(b'\\');
        }
        push_decimal(&mut text, position_mm);
    }
    let mut item = item.clone();
    item.put(DataElement::new(tags::LEAF_JAW_POSITIONS, VR::DS, String::from_utf8_lossy(&text).into_owned()));
    item
}

fn decimal_string(value: f64) -> String {
    let mut text = Vec::new();
    push_decimal(&mut text, value);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends the shortest text that reads back equal, as far as 16 characters hold it.
fn push_decimal(out: &mut Vec<u8>, value: f64) {
    /// Tenths below this have fewer than 16 characters.
    const MAX_TENTHS: f64 = 1e9;
    // Not −0: the axis is on neither side.
    let value = value + 0.0;
    // What a record logs is in tenths.
    let tenths = (value * 10.0).round();
    if tenths.abs() < MAX_TENTHS && tenths / 10.0 == value {
        return push_tenths(out, tenths as i64);
    }
    let shortest = format!("{value:?}");
    if shortest.len() <= MAX_DS_CHARACTERS {
        return out.extend_from_slice(shortest.as_bytes());
    }
    let whole = format!("{:.0}", value.trunc()).len();
    let decimals = MAX_DS_CHARACTERS.saturating_sub(whole + 1);
    let text = format!("{value:.decimals$}");
    // Rounding up to a whole number leaves zeros only; one of them stays behind the point.
    let text = text.trim_end_matches('0');
    out.extend_from_slice(text.as_bytes());
    if text.ends_with('.') {
        out.push(b'0');
    }
}

fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_strings_are_short_and_fit_16_characters() {
        assert_eq!(decimal_string(306.0), "306.0");
        assert_eq!(decimal_string(-0.0), "0.0");
        assert_eq!(decimal_string(359.9), "359.9");
        assert_eq!(decimal_string(306.099_999_999_999_97), "306.1");
        let long = decimal_string(-100.0 / 3.0);
        assert_eq!(long, "-33.333333333333");
        assert!(long.len() <= 16);
        assert_eq!(decimal_string(9.999_999_999_999_999_9_f64.next_down()), "10.0");
    }

    #[test]
    fn uids_of_hashes_are_valid_and_follow_the_hash() {
        let uid = uid_of_hash(&[7; 32]);
        assert!(uid.starts_with("2.25.") && uid.len() <= 64, "{uid}");
        assert_eq!(uid, uid_of_hash(&[7; 32]));
        assert_ne!(uid, uid_of_hash(&[8; 32]));
    }
}
