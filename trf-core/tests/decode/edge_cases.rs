//! The 49 edge cases of the developer set, driven by their `cases.json`.

use crate::common::{gunzip, json_members, trf_data};
use trf_core::csv::{Dialect, write_table};
use trf_core::items;
use trf_core::{Error, ItemPart, Record, Warning};

/// Section that the error of each broken file names, and the offset.
const ERRORS: [(&str, &str, u64); 12] = [
    ("err_empty", "UTC date-time", 0),
    ("err_one_byte", "UTC date-time", 1),
    ("err_cut_in_items", "item list", 60),
    ("err_cut_in_mu", "total dose", 44),
    ("err_version_5", "format version", 52),
    ("err_version_0", "format version", 52),
    ("err_negative_items", "item count", 56),
    ("err_huge_items", "item count", 56),
    ("err_huge_string", "UTC date-time", 0),
    ("err_zero_items", "item count", 56),
    ("err_not_trf", "UTC date-time", 1),
    ("err_dicom", "UTC date-time", 1),
];

#[test]
fn every_case_ends_as_expected() {
    let Some(data) = trf_data() else { return };
    let cases = json_members(&data.join("edge/cases.json"));
    assert_eq!(cases.len(), 49);
    for (name, case) in &cases {
        let result = Record::open(data.join(format!("edge/{name}.trf")));
        match (case["expect"].as_str().unwrap(), result) {
            ("error", Err(error)) => assert_error(name, &error),
            ("error", Ok(_)) => panic!("{name}: decoded, but it is broken"),
            (expect, Ok(record)) => {
                crate::common::assert_header(name, &record, case);
                let warned = record.warnings().iter().any(|w| matches!(w, Warning::CutRow { .. }));
                assert_eq!(warned, expect == "ok_with_warning", "{name}: {:?}", record.warnings());
                assert_eq!(record.warnings().len(), usize::from(warned), "{name}: {:?}", record.warnings());
                assert_table(name, &record, case["golden"].as_str().map(|g| data.join("edge").join(g)));
                assert_stamps(name, &record, case);
            }
            (_, Err(error)) => panic!("{name}: {error}"),
        }
    }
}

fn assert_error(name: &str, error: &Error) {
    let Error::Malformed { section, offset, expected, found } = error else { panic!("{name}: {error:?}") };
    let (_, known_section, known_offset) = ERRORS.iter().find(|(n, ..)| *n == name).unwrap();
    assert_eq!((section, offset), (known_section, known_offset), "{name}: {error}");
    assert!(!expected.is_empty() && !found.is_empty() && !error.hint().is_empty(), "{name}");
    assert!(!error.to_string().contains('\n'), "{name}");
}

fn assert_table(name: &str, record: &Record, golden: Option<std::path::PathBuf>) {
    let mut text = Vec::new();
    write_table(record, Dialect::PyMedPhys, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), record.n_rows() + 1, "{name}");
    if let Some(golden) = golden {
        crate::common::assert_equal_but_couch_angle(name, &text, &gunzip(&golden));
    }
}

fn assert_stamps(name: &str, record: &Record, case: &serde_json::Value) {
    let stamps: Option<Vec<i64>> = record.timestamps_ms().map(Iterator::collect);
    for (key, stamp) in [
        ("first_ts", stamps.as_deref().and_then(<[i64]>::first)),
        ("last_ts", stamps.as_deref().and_then(<[i64]>::last)),
    ] {
        if let Some(expected) = case[key].as_i64() {
            assert_eq!(stamp.copied(), Some(expected), "{name} {key}");
        }
    }
}

fn edge(name: &str) -> Option<Record> {
    Some(Record::open(trf_data()?.join(format!("edge/{name}.trf"))).unwrap())
}

#[test]
fn left_over_bytes_of_a_cut_row_are_counted() {
    for (name, bytes, row) in [("v1_truncated_final_row", 697, 700), ("v3_truncated_final_row", 571, 708)] {
        let Some(record) = edge(name) else { return };
        assert_eq!(record.left_over_bytes(), bytes, "{name}");
        assert_eq!(record.warnings(), [Warning::CutRow { left_over_bytes: bytes, row_bytes: row }]);
    }
}

#[test]
fn unknown_items_keep_their_integers_and_leave_the_others_alone() {
    let (Some(record), Some(plain)) = (edge("v3_unknown_items_in_middle"), edge("v3_plain")) else { return };
    for (item, part) in [(4004, 1), (4300, 4), (9999, 111)] {
        let column = record.column_of(ItemPart::new(item, part)).unwrap();
        assert_eq!(column.name(), format!("Item {item}/{part}"));
        let raw: Vec<f64> = column.raw().into_iter().map(f64::from).collect();
        assert_eq!(column.values(), raw);
    }
    for column in plain.columns() {
        assert_eq!(record.column_of(column.item()).unwrap().values(), column.values(), "{}", column.name());
    }
}

#[test]
fn order_of_the_items_does_not_matter() {
    let (Some(permuted), Some(plain)) = (edge("v1_permuted_items"), edge("v1_plain")) else { return };
    assert_ne!(permuted.header().items, plain.header().items);
    for column in plain.columns() {
        assert_eq!(permuted.column_of(column.item()).unwrap().values(), column.values(), "{}", column.name());
    }
}

#[test]
fn unknown_state_and_wedge_codes_stay_numbers() {
    let Some(record) = edge("v1_all_state_codes") else { return };
    let states = record.column_of(items::LINAC_STATE).unwrap();
    let case = json_members(&trf_data().unwrap().join("edge/cases.json"))["v1_all_state_codes"].clone();
    let codes: Vec<i32> = serde_json::from_value(case["state_codes"].clone()).unwrap();
    assert_eq!(states.raw().get(..codes.len()), Some(codes.as_slice()));
    let position = |code| codes.iter().position(|c| *c == code).unwrap();
    assert_eq!(states.labels()[position(99)], None);
    assert_eq!(states.labels()[position(16)], Some("Closed"));
    let wedge = edge("v1_unknown_wedge_code").unwrap();
    assert_eq!(wedge.column_of(items::WEDGE).unwrap().raw().first(), Some(&7));
    let mut text = Vec::new();
    write_table(&record, Dialect::Elekta, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains(",99,"));
}

#[test]
fn couch_angles_are_whole_degrees_unchanged() {
    let Some(record) = edge("v1_couch_angles") else { return };
    let angles = record.column_of(items::TABLE_ISOCENTRIC).unwrap().values();
    let expected = [3.0, 6.0, 7.0, 12.0, 14.0, 17.0, 19.0, -3.0, -6.0, -252.0, 90.0, -90.0, 30.0];
    assert_eq!(angles.get(..expected.len()), Some(expected.as_slice()));
}

#[test]
fn dose_is_whole_across_wraps_and_restarts() {
    let Some(data) = trf_data() else { return };
    let cases = json_members(&data.join("edge/cases.json"));
    for (name, key) in [("v1_dose_wrap", "true_delta_mu"), ("v1_step_reset_nonzero", "true_total")] {
        let delivered = edge(name).unwrap().meterset().unwrap().meterset_mu;
        let expected = cases[name][key].as_f64().unwrap();
        let total = *delivered.last().unwrap();
        assert!((total - expected).abs() < 0.11, "{name}: {total} MU for {expected}");
    }
}

#[test]
fn a_last_row_without_control_point_or_dose_adds_nothing() {
    let (Some(record), Some(plain)) = (edge("v1_final_row_sentinel"), edge("v1_plain")) else { return };
    let control_points = record.column_of(items::CONTROL_POINT).unwrap().raw();
    assert_eq!(control_points.last(), Some(&-32767));
    let (with, without) = (record.meterset().unwrap().meterset_mu, plain.meterset().unwrap().meterset_mu);
    assert_eq!(with[with.len() - 2..], [without[without.len() - 2]; 2]);
}

#[test]
fn a_record_without_leaves_says_so_when_they_are_needed() {
    let Some(record) = edge("v1_no_leaf_items") else { return };
    let error = record.required(items::y1_leaf(0).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("Y1 Leaf 1/Scaled Actual (mm)"), "{error}");
}

#[test]
fn an_empty_record_gives_empty_columns() {
    for name in ["v1_zero_rows", "v3_zero_rows"] {
        let Some(record) = edge(name) else { return };
        assert_eq!(record.meterset().unwrap().meterset_mu, Vec::<f64>::new());
        assert_eq!(record.table().column(349), Some([].as_slice()));
        assert_eq!(record.table().column(350), None);
        assert_eq!(record.time_s(), Vec::<f64>::new());
        assert_eq!(record.controller_end_utc(), None);
        assert_eq!(record.start_utc(), record.end_utc());
        assert_eq!(record.summary().gantry_bipolar_deg, None);
    }
}
