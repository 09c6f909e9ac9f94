//! Checks of the RT Beams and RT Fraction Scheme modules (PS3.3 C.8.8.13, C.8.8.14), as dciodvfy makes them.

use std::collections::BTreeSet;

use dicom_core::header::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

fn items(item: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    item.element(tag).unwrap().items().unwrap()
}

fn integer(item: &InMemDicomObject, tag: Tag) -> i64 {
    item.element(tag).unwrap().to_int().unwrap()
}

fn number(item: &InMemDicomObject, tag: Tag) -> f64 {
    item.element(tag).unwrap().to_float64().unwrap()
}

fn text(item: &InMemDicomObject, tag: Tag) -> String {
    item.element(tag).unwrap().to_str().unwrap().trim().to_owned()
}

/// Panics at the first rule that the plan breaks.
pub(crate) fn assert_valid(plan: &InMemDicomObject, name: &str) {
    let beams = items(plan, tags::BEAM_SEQUENCE);
    let numbers: BTreeSet<i64> = beams.iter().map(|beam| integer(beam, tags::BEAM_NUMBER)).collect();
    assert_eq!(numbers.len(), beams.len(), "{name}: beam numbers are unique");
    beams.iter().for_each(|beam| assert_beam(beam, name));
    for group in items(plan, tags::FRACTION_GROUP_SEQUENCE) {
        let referenced = items(group, tags::REFERENCED_BEAM_SEQUENCE);
        assert_eq!(integer(group, tags::NUMBER_OF_BEAMS), referenced.len() as i64, "{name}");
        for beam in referenced {
            assert!(numbers.contains(&integer(beam, tags::REFERENCED_BEAM_NUMBER)), "{name}");
            assert!(number(beam, tags::BEAM_METERSET) > 0.0, "{name}");
            assert_decimal_strings(beam, &[tags::BEAM_METERSET], name);
        }
    }
}

fn assert_beam(beam: &InMemDicomObject, name: &str) {
    let control_points = items(beam, tags::CONTROL_POINT_SEQUENCE);
    assert!(control_points.len() >= 2, "{name}");
    assert_eq!(integer(beam, tags::NUMBER_OF_CONTROL_POINTS), control_points.len() as i64, "{name}");
    let devices: Vec<(String, i64)> = items(beam, tags::BEAM_LIMITING_DEVICE_SEQUENCE)
        .iter()
        .map(|item| {
            (text(item, tags::RT_BEAM_LIMITING_DEVICE_TYPE), integer(item, tags::NUMBER_OF_LEAF_JAW_PAIRS))
        })
        .collect();
    let mut weight = 0.0;
    for (index, item) in control_points.iter().enumerate() {
        assert_eq!(integer(item, tags::CONTROL_POINT_INDEX), index as i64, "{name}: indices count from 0");
        let now = number(item, tags::CUMULATIVE_METERSET_WEIGHT);
        assert!(now >= weight, "{name}: weights never decrease");
        assert!(index > 0 || now == 0.0, "{name}: weights begin at 0");
        weight = now;
        for (angle, direction) in [
            (tags::GANTRY_ANGLE, tags::GANTRY_ROTATION_DIRECTION),
            (tags::BEAM_LIMITING_DEVICE_ANGLE, tags::BEAM_LIMITING_DEVICE_ROTATION_DIRECTION),
        ] {
            assert!((0.0..360.0).contains(&number(item, angle)), "{name}: IEC angles");
            assert!(["CW", "CC", "NONE"].contains(&text(item, direction).as_str()), "{name}");
            assert_decimal_strings(item, &[angle], name);
        }
        let positions = items(item, tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE);
        assert_eq!(positions.len(), devices.len(), "{name}: each device has its positions");
        for position in positions {
            let kind = text(position, tags::RT_BEAM_LIMITING_DEVICE_TYPE);
            let pairs = devices.iter().find(|(device, _)| *device == kind).map(|(_, pairs)| *pairs);
            let values = position.element(tags::LEAF_JAW_POSITIONS).unwrap().to_multi_float64().unwrap();
            assert_eq!(Some(values.len() as i64), pairs.map(|pairs| pairs * 2), "{name}: {kind}");
            assert_decimal_strings(position, &[tags::LEAF_JAW_POSITIONS], name);
        }
        assert_decimal_strings(item, &[tags::CUMULATIVE_METERSET_WEIGHT], name);
    }
    assert_eq!(
        weight,
        number(beam, tags::FINAL_CUMULATIVE_METERSET_WEIGHT),
        "{name}: weights end at the final weight"
    );
    let last = control_points.last().unwrap();
    assert_eq!(text(last, tags::GANTRY_ROTATION_DIRECTION), "NONE", "{name}: nothing turns after the end");
    assert_eq!(text(beam, tags::BEAM_TYPE), "DYNAMIC", "{name}");
}

/// PS3.5: a DS value has at most 16 characters.
fn assert_decimal_strings(item: &InMemDicomObject, attributes: &[Tag], name: &str) {
    for tag in attributes {
        let values = item.element(*tag).unwrap().to_multi_str().unwrap().to_vec();
        assert!(values.iter().all(|value| value.len() <= 16), "{name}: {values:?}");
    }
}
