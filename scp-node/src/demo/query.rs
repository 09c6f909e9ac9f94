//! C-FIND on Study Root: which objects match, and what is answered. No I/O. Source: PS3.4 §C.2.2.2, §C.4.1.
//!
//! Input: identifiers as peers send them. Unsupported: fuzzy matching, time zones, extended negotiation.

use std::collections::BTreeMap;

use dicom_core::header::Header;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::faults::Faults;
use super::patient::Instance;
use crate::dimse::Status;
use crate::names::fits;

/// Query/retrieve level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Study,
    Series,
    Image,
}

impl Level {
    fn unique_key(self) -> Tag {
        match self {
            Self::Study => tags::STUDY_INSTANCE_UID,
            Self::Series => tags::SERIES_INSTANCE_UID,
            Self::Image => tags::SOP_INSTANCE_UID,
        }
    }
}

/// The level that an identifier asks for; `None` when it names none of Study Root.
pub(super) fn level_of(identifier: &InMemDicomObject) -> Option<Level> {
    match text(identifier.get(tags::QUERY_RETRIEVE_LEVEL)).as_str() {
        "STUDY" => Some(Level::Study),
        "SERIES" => Some(Level::Series),
        "IMAGE" => Some(Level::Image),
        _ => None,
    }
}

/// The objects that match all keys of an identifier.
pub(super) fn matching<'a>(instances: &'a [Instance], identifier: &InMemDicomObject) -> Vec<&'a Instance> {
    instances.iter().filter(|i| matches_all(&i.header, identifier)).collect()
}

/// The answers to a query.
///
/// # Errors
/// The status that ends the query: no level, or unique keys missing where the faults demand them.
pub(super) fn answers(
    instances: &[Instance],
    identifier: &InMemDicomObject,
    faults: &Faults,
    ae_title: &str,
) -> Result<Vec<InMemDicomObject>, Status> {
    let level = level_of(identifier).ok_or(Status::DATA_SET_MISMATCH)?;
    if let Some(status) = faults.hierarchical_only {
        let above = [Level::Study, Level::Series].into_iter().filter(|l| *l < level);
        if above.into_iter().any(|l| text(identifier.get(l.unique_key())).is_empty()) {
            return Err(status);
        }
    }
    // One answer per value of the level's unique key, in the archive's order.
    let mut seen = BTreeMap::new();
    let mut answers = Vec::new();
    for instance in matching(instances, identifier) {
        if seen.insert(instance.text(level.unique_key()), ()).is_none() {
            answers.push(answer(instance, instances, identifier, level, faults, ae_title));
        }
    }
    Ok(answers)
}

fn answer(
    instance: &Instance,
    all: &[Instance],
    query: &InMemDicomObject,
    level: Level,
    faults: &Faults,
    ae: &str,
) -> InMemDicomObject {
    let mut answer = InMemDicomObject::new_empty();
    let untold = faults.empty_keys_of.get(&instance.sop_instance_uid()).filter(|_| level == Level::Image);
    for key in query.iter() {
        let tag = key.tag();
        if faults.missing_keys.contains(&tag) || tag == tags::SPECIFIC_CHARACTER_SET {
            continue;
        }
        let is_emptied = faults.empty_keys.contains(&tag) || untold.is_some_and(|keys| keys.contains(&tag));
        if tag == tags::NUMBER_OF_SERIES_RELATED_INSTANCES && level == Level::Series && !is_emptied {
            let count = count(all, instance) + usize::from(faults.wrong_counts);
            answer.put(InMemElement::new(tag, VR::IS, PrimitiveValue::from(count.to_string())));
            continue;
        }
        let known = belongs_to(tag, level) && !is_emptied;
        let value = known.then(|| instance.header.get(tag)).flatten();
        answer.put(match value {
            Some(value) => value.clone(),
            None if key.vr() == VR::SQ => {
                DataElement::new(tag, VR::SQ, dicom_core::value::DataSetSequence::from(Vec::new()))
            }
            None => InMemElement::new(tag, key.vr(), PrimitiveValue::Empty),
        });
    }
    let words = match level {
        Level::Study => "STUDY",
        Level::Series => "SERIES",
        Level::Image => "IMAGE",
    };
    answer.put(InMemElement::new(tags::SPECIFIC_CHARACTER_SET, VR::CS, PrimitiveValue::from("ISO_IR 192")));
    answer.put(InMemElement::new(tags::QUERY_RETRIEVE_LEVEL, VR::CS, PrimitiveValue::from(words)));
    answer.put(InMemElement::new(tags::RETRIEVE_AE_TITLE, VR::AE, PrimitiveValue::from(ae)));
    answer
}

/// How many objects are in this one's series.
fn count(all: &[Instance], one: &Instance) -> usize {
    let series = one.text(tags::SERIES_INSTANCE_UID);
    all.iter().filter(|i| i.text(tags::SERIES_INSTANCE_UID) == series).count()
}

/// Whether an attribute is answered at a level. SeriesDate is empty at SERIES level, as Aria's is: dates need IMAGE level.
fn belongs_to(tag: Tag, level: Level) -> bool {
    const PATIENT_AND_STUDY: [Tag; 10] = [
        tags::STUDY_DATE,
        tags::STUDY_TIME,
        tags::ACCESSION_NUMBER,
        tags::STUDY_DESCRIPTION,
        tags::PATIENT_NAME,
        tags::PATIENT_ID,
        tags::PATIENT_BIRTH_DATE,
        tags::PATIENT_SEX,
        tags::STUDY_INSTANCE_UID,
        tags::STUDY_ID,
    ];
    const SERIES: [Tag; 4] =
        [tags::MODALITY, tags::SERIES_INSTANCE_UID, tags::SERIES_NUMBER, tags::SERIES_DESCRIPTION];
    match level {
        Level::Study => PATIENT_AND_STUDY.contains(&tag),
        Level::Series => PATIENT_AND_STUDY.contains(&tag) || SERIES.contains(&tag),
        Level::Image => true,
    }
}

fn matches_all(object: &InMemDicomObject, keys: &InMemDicomObject) -> bool {
    keys.iter().all(|key| {
        let tag = key.tag();
        let is_control = [tags::QUERY_RETRIEVE_LEVEL, tags::SPECIFIC_CHARACTER_SET, tags::RETRIEVE_AE_TITLE]
            .contains(&tag);
        is_control || matches(object.get(tag), key)
    })
}

fn matches(value: Option<&InMemElement>, key: &InMemElement) -> bool {
    if let Some(items) = key.items() {
        let wanted = items.first().filter(|item| item.iter().any(|e| !text(Some(e)).is_empty()));
        return wanted.is_none_or(|wanted| {
            value
                .and_then(|v| v.items())
                .is_some_and(|items| items.iter().any(|item| matches_all(item, wanted)))
        });
    }
    let wanted = text(Some(key));
    if wanted.is_empty() || wanted == "*" {
        return true;
    }
    let value = text(value);
    match key.vr() {
        VR::UI => wanted.split('\\').any(|uid| uid.trim_end_matches(['\0', ' ']) == value),
        VR::DA | VR::TM | VR::DT => in_range(&value, &wanted),
        // Wildcards: PS3.4 §C.2.2.2.4. Aria takes a multi-valued key such as ImageType as one value.
        _ => fits(&wanted, &value),
    }
}

/// Range matching of dates and times, both ends included. Source: PS3.4 §C.2.2.2.5.
fn in_range(value: &str, wanted: &str) -> bool {
    match wanted.split_once('-') {
        None => value == wanted,
        Some((from, to)) => {
            !value.is_empty() && (from.is_empty() || value >= from) && (to.is_empty() || value <= to)
        }
    }
}

/// A text value, values joined by a backslash, padding cut off; empty when absent.
pub(super) fn text(element: Option<&InMemElement>) -> String {
    let text =
        element.and_then(|e| e.value().primitive()).map(|v| v.to_str().into_owned()).unwrap_or_default();
    text.split('\\').map(|part| part.trim_matches([' ', '\0'])).collect::<Vec<_>>().join("\\")
}

#[cfg(test)]
mod tests {
    use super::super::patient::{GeneratedPatient, PatientOptions};
    use super::*;

    fn query(level: &str, keys: &[(Tag, VR, &str)]) -> InMemDicomObject {
        let mut q = InMemDicomObject::new_empty();
        q.put(InMemElement::new(tags::QUERY_RETRIEVE_LEVEL, VR::CS, PrimitiveValue::from(level)));
        for (tag, vr, value) in keys {
            q.put(InMemElement::new(*tag, *vr, PrimitiveValue::from(*value)));
        }
        q
    }

    fn ask(q: &InMemDicomObject) -> Vec<InMemDicomObject> {
        let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
        answers(&patient.instances, q, &Faults::default(), "ARIA").unwrap()
    }

    #[test]
    fn a_relational_query_finds_both_plans_of_one_label() {
        let keys = [
            (tags::MODALITY, VR::CS, "RTPLAN"),
            (tags::PATIENT_ID, VR::LO, "QA_TB_WL"),
            (tags::RT_PLAN_LABEL, VR::SH, "WL_10MV"),
            (tags::SOP_INSTANCE_UID, VR::UI, ""),
        ];
        let found = ask(&query("IMAGE", &keys));
        assert_eq!(found.len(), 2);
        assert_ne!(text(found[0].get(tags::SOP_INSTANCE_UID)), text(found[1].get(tags::SOP_INSTANCE_UID)));
    }

    #[test]
    fn dates_are_answered_at_image_level_only() {
        let keys = [
            (tags::MODALITY, VR::CS, "RTIMAGE"),
            (tags::SERIES_DATE, VR::DA, ""),
            (tags::ACQUISITION_DATE, VR::DA, ""),
        ];
        for series in ask(&query("SERIES", &keys)) {
            assert_eq!(text(series.get(tags::SERIES_DATE)), "");
            assert_eq!(text(series.get(tags::ACQUISITION_DATE)), "");
        }
        let keys =
            [(tags::ACQUISITION_DATE, VR::DA, "20260309-"), (tags::PRIMARY_DOSIMETER_UNIT, VR::CS, "MU")];
        let images = ask(&query("IMAGE", &keys));
        // Two plans, two dates, four images.
        assert_eq!(images.len(), 16);
        assert!(images.iter().all(|i| text(i.get(tags::ACQUISITION_DATE)).as_str() >= "20260309"));
    }

    #[test]
    fn the_instances_of_a_series_are_counted() {
        let keys = [
            (tags::MODALITY, VR::CS, "RTIMAGE"),
            (tags::SERIES_INSTANCE_UID, VR::UI, ""),
            (tags::NUMBER_OF_SERIES_RELATED_INSTANCES, VR::IS, ""),
        ];
        let counts: Vec<_> = ask(&query("SERIES", &keys))
            .iter()
            .map(|s| text(s.get(tags::NUMBER_OF_SERIES_RELATED_INSTANCES)))
            .collect();
        // Six sessions of four MV and two kV images, and a DRR of each of three plans.
        let of = |n: &str| counts.iter().filter(|c| *c == n).count();
        assert_eq!((of("4"), of("2"), of("1"), counts.len()), (6, 6, 3, 15));
    }

    #[test]
    fn a_multi_valued_key_is_one_value() {
        let of_type = |t: &str| ask(&query("IMAGE", &[(tags::IMAGE_TYPE, VR::CS, t)])).len();
        assert_eq!(of_type("DERIVED\\SECONDARY\\DRR"), 3);
        assert_eq!(of_type("*PORTAL"), 6 * 6);
        assert_eq!(of_type("PORTAL"), 0);
    }

    #[test]
    fn wildcards_and_lists_match_as_the_standard_says() {
        let of_label = |label: &str| ask(&query("IMAGE", &[(tags::RT_PLAN_LABEL, VR::SH, label)])).len();
        for (pattern, plans) in [("WL*", 3), ("*MV", 2), ("W?_6*", 1), ("WL", 0)] {
            assert_eq!(of_label(pattern), plans, "{pattern}");
        }
        let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
        let two = format!(
            "{}\\{}",
            patient.instances[0].sop_instance_uid(),
            patient.instances[3].sop_instance_uid()
        );
        assert_eq!(
            matching(&patient.instances, &query("IMAGE", &[(tags::SOP_INSTANCE_UID, VR::UI, &two)])).len(),
            2
        );
    }
}
