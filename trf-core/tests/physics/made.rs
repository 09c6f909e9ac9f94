//! Plans and records made by the tests, for machines without the shared data.

use dicom_core::header::Tag;
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use trf_core::delivery::{Columns, iec_from_bipolar_deg};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Delivery, ItemPart, Version, items};

/// A beam of 80 leaf pairs over `n_cp` control points: a window that slides by 2 mm per point while the gantry turns by
/// `gantry_step_deg`. All numbers are whole tenths, metersets whole 64ths.
pub(crate) fn sliding_window(
    n_cp: usize,
    first_gantry_deg: f64,
    gantry_step_deg: f64,
    mu_per_cp: f64,
) -> Delivery {
    let mut columns = Columns::default();
    for at in 0..n_cp {
        let step = at as f64;
        columns.meterset_mu.push(mu_per_cp * step);
        columns.gantry_bipolar_deg.push(tenths(first_gantry_deg + gantry_step_deg * step));
        columns.collimator_bipolar_deg.push(10.0);
        columns.mlc_mm.extend(
            (0..80).flat_map(|pair| {
                [tenths(30.0 - step * 2.0 + f64::from(pair % 4)), tenths(20.0 + step * 2.0)]
            }),
        );
        columns.jaw_mm.extend([50.0, tenths(40.0 + step)]);
    }
    Delivery::new(columns, 80).unwrap()
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

fn strings(tag: Tag, values: impl IntoIterator<Item = f64>) -> DataElement<InMemDicomObject> {
    let texts: Vec<String> = values.into_iter().map(|value| format!("{value}")).collect();
    DataElement::new(tag, VR::DS, PrimitiveValue::Strs(texts.into()))
}

/// An RT Plan of one fraction group whose beams (number, delivery) are planned with `jaws` (`ASYMY` or `Y`, optionally with
/// X jaws open to 60 mm) and MLCX.
pub(crate) fn plan(beams: &[(i32, &Delivery)], jaws: &[&str]) -> Vec<u8> {
    let device = |kind: &str| {
        let mut item = InMemDicomObject::from_element_iter([DataElement::new(
            tags::RT_BEAM_LIMITING_DEVICE_TYPE,
            VR::CS,
            kind,
        )]);
        let pairs = if kind == "MLCX" { "80" } else { "1" };
        item.put(DataElement::new(tags::NUMBER_OF_LEAF_JAW_PAIRS, VR::IS, pairs));
        if kind == "MLCX" {
            item.put(strings(
                tags::LEAF_POSITION_BOUNDARIES,
                (0..=80).map(|leaf| f64::from(leaf) * 5.0 - 200.0),
            ));
        }
        item
    };
    let devices = || jaws.iter().copied().chain(["MLCX"]);
    let beam_items = beams.iter().map(|(number, delivery)| {
        let control_points = (0..delivery.n_cp()).map(|at| {
            let positions = devices().map(|kind| {
                let jaw = delivery.jaw_at(at).unwrap();
                let tips: Vec<[f64; 2]> =
                    delivery.mlc_at(at).unwrap().chunks_exact(2).map(|tips| [tips[0], tips[1]]).collect();
                let values: Vec<f64> = match kind {
                    "MLCX" => tips
                        .iter()
                        .rev()
                        .map(|tips| -tips[1])
                        .chain(tips.iter().rev().map(|tips| tips[0]))
                        .collect(),
                    "ASYMY" | "Y" => vec![-jaw[1], jaw[0]],
                    _ => vec![-60.0, 60.0],
                };
                let kind = DataElement::new(tags::RT_BEAM_LIMITING_DEVICE_TYPE, VR::CS, kind);
                InMemDicomObject::from_element_iter([kind, strings(tags::LEAF_JAW_POSITIONS, values)])
            });
            InMemDicomObject::from_element_iter([
                DataElement::new(tags::CONTROL_POINT_INDEX, VR::IS, at.to_string()),
                sequence(tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE, positions.collect()),
                strings(tags::GANTRY_ANGLE, [iec_from_bipolar_deg(delivery.gantry_bipolar_deg()[at])]),
                DataElement::new(tags::GANTRY_ROTATION_DIRECTION, VR::CS, "NONE"),
                strings(tags::BEAM_LIMITING_DEVICE_ANGLE, [delivery.collimator_bipolar_deg()[at]]),
                DataElement::new(tags::BEAM_LIMITING_DEVICE_ROTATION_DIRECTION, VR::CS, "NONE"),
                strings(tags::CUMULATIVE_METERSET_WEIGHT, [delivery.meterset_mu()[at] / delivery.total_mu()]),
            ])
        });
        InMemDicomObject::from_element_iter([
            DataElement::new(tags::BEAM_NUMBER, VR::IS, number.to_string()),
            DataElement::new(tags::BEAM_NAME, VR::LO, format!("field {number}")),
            DataElement::new(tags::BEAM_TYPE, VR::CS, "DYNAMIC"),
            DataElement::new(tags::NUMBER_OF_CONTROL_POINTS, VR::IS, delivery.n_cp().to_string()),
            strings(tags::FINAL_CUMULATIVE_METERSET_WEIGHT, [1.0]),
            sequence(tags::BEAM_LIMITING_DEVICE_SEQUENCE, devices().map(device).collect()),
            sequence(tags::CONTROL_POINT_SEQUENCE, control_points.collect()),
        ])
    });
    let referenced = beams.iter().map(|(number, delivery)| {
        InMemDicomObject::from_element_iter([
            strings(tags::BEAM_METERSET, [delivery.total_mu()]),
            DataElement::new(tags::REFERENCED_BEAM_NUMBER, VR::IS, number.to_string()),
        ])
    });
    let group = InMemDicomObject::from_element_iter([
        DataElement::new(tags::FRACTION_GROUP_NUMBER, VR::IS, "1"),
        DataElement::new(tags::NUMBER_OF_BEAMS, VR::IS, beams.len().to_string()),
        sequence(tags::REFERENCED_BEAM_SEQUENCE, referenced.collect()),
    ]);
    let plan = InMemDicomObject::from_element_iter([
        DataElement::new(tags::SOP_CLASS_UID, VR::UI, uids::RT_PLAN_STORAGE),
        DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4.5"),
        DataElement::new(tags::RT_PLAN_LABEL, VR::SH, "SLIDING"),
        sequence(tags::BEAM_SEQUENCE, beam_items.collect()),
        sequence(tags::FRACTION_GROUP_SEQUENCE, vec![group]),
    ]);
    let mut bytes = Vec::new();
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    plan.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

/// A record of beams one after the other: a row per control point, the dose counters restarting with each beam.
pub(crate) fn record(beams: &[&Delivery], version: Version) -> Vec<u8> {
    new_record(beams, version).to_bytes().unwrap()
}

/// The same before it is written.
pub(crate) fn new_record(beams: &[&Delivery], version: Version) -> NewRecord {
    let mut new = NewRecord::agility(version);
    let index = |item: ItemPart| new.items.iter().position(|known| *known == item).unwrap();
    let x10 = |value: f64| (value * 10.0).round() as i32;
    let mut rows = Vec::new();
    for beam in beams {
        for at in 0..beam.n_cp() {
            let mut values = vec![0; new.items.len()];
            let mut put = |item: ItemPart, value: i32| values[index(item)] = value;
            // The counters are 16 bits wide in versions 1 to 3.
            let wrapped = |count: i32| if version == Version::V4 { count } else { i32::from(count as i16) };
            put(items::DOSE_RAW, wrapped((beam.meterset_mu()[at] * 64.0).round() as i32));
            put(items::STEP_DOSE, wrapped((beam.meterset_mu()[at] * 10.0).floor() as i32));
            put(items::LINAC_STATE, if at == 0 { 41 } else { 42 });
            put(items::GANTRY, x10(beam.gantry_bipolar_deg()[at]));
            put(items::COLLIMATOR, x10(beam.collimator_bipolar_deg()[at]));
            put(items::X1_DIAPHRAGM, x10(beam.jaw_at(at).unwrap()[0]));
            put(items::X2_DIAPHRAGM, x10(beam.jaw_at(at).unwrap()[1]));
            for (pair, tips) in beam.mlc_at(at).unwrap().chunks_exact(2).enumerate() {
                put(items::y1_leaf(pair).unwrap(), x10(tips[0]));
                put(items::y2_leaf(pair).unwrap(), -x10(tips[1]));
            }
            rows.push(NewRow { timestamp_ms: 1_580_454_467_000 + 40 * rows.len() as i64, values });
        }
    }
    new.rows = rows;
    new
}
