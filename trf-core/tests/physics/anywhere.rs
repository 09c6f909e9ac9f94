//! The whole way on plans and records that the tests make: writer, reader, delivery, plan, check.

use proptest::prelude::*;
use trf_core::check::{CheckOptions, check_delivery};
use trf_core::rtplan::{RtPlan, Scope, WriteOptions};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Delivery, MetersetSource, Record, Version, items};

use crate::{made, rt_beams};

const VERSIONS: [Version; 4] = [Version::V1, Version::V2, Version::V3, Version::V4];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_written_record_delivers_what_was_written(
        version in 0_usize..4,
        n_cp in 2_usize..40,
        first_gantry_deg in -179_i32..100,
        counts in 1_u32..200,
    ) {
        // A beam of less than a step of Step Dose, which seven counts are: its restart is noise to either counter.
        prop_assume!(counts as usize * (n_cp - 1) >= 7);
        let mu_per_cp = f64::from(counts) / 64.0;
        let beam = made::sliding_window(n_cp, f64::from(first_gantry_deg), 0.5, mu_per_cp);
        let record = Record::from_bytes(made::record(&[&beam, &beam], VERSIONS[version])).unwrap();
        let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
        let expected = Delivery::merge([&beam, &beam]).unwrap();
        prop_assert_eq!(delivery.meterset_mu(), expected.meterset_mu());
        prop_assert_eq!(delivery.mlc_mm(), expected.mlc_mm());
        prop_assert_eq!(delivery.jaw_mm(), expected.jaw_mm());
        prop_assert_eq!(delivery.gantry_bipolar_deg(), expected.gantry_bipolar_deg());
    }
}

#[test]
fn the_counter_wraps_and_the_delivery_runs_on() {
    let beam = made::sliding_window(30, 0.0, 0.0, 50.0);
    let record = Record::from_bytes(made::record(&[&beam], Version::V1)).unwrap();
    let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    assert_eq!(delivery.meterset_mu(), beam.meterset_mu(), "1450 MU, where the counter wraps at 1024");
}

#[test]
fn plans_are_read_with_any_jaws() {
    let beam = made::sliding_window(6, -30.0, 4.0, 10.0);
    for jaws in [&["ASYMY"][..], &["Y"], &["ASYMX", "ASYMY"], &["X", "Y"], &["Y", "X"]] {
        let plan = RtPlan::from_bytes(&made::plan(&[(7, &beam)], jaws)).unwrap();
        let delivery = plan.delivery(None, Scope::Full).unwrap();
        assert_eq!((delivery.jaw_mm(), delivery.mlc_mm()), (beam.jaw_mm(), beam.mlc_mm()), "{jaws:?}");
        assert_eq!(plan.delivery(None, Scope::Compatible).is_ok(), jaws == ["ASYMY"], "{jaws:?}");
    }
    // Without Y jaws the field ends with the leaves.
    let plan = RtPlan::from_bytes(&made::plan(&[(7, &beam)], &["ASYMX"])).unwrap();
    assert_eq!(plan.delivery(None, Scope::Full).unwrap().jaw_at(0), Some([200.0, 200.0]));
}

#[test]
fn a_delivered_arc_passes_its_check_and_a_shifted_leaf_is_found() {
    let planned = made::sliding_window(40, -100.0, 2.0, 2.0);
    let plan = RtPlan::from_bytes(&made::plan(
        &[(1, &planned), (2, &made::sliding_window(5, 90.0, 0.0, 1.0))],
        &["ASYMY"],
    ))
    .unwrap();
    let record = Record::from_bytes(made::record(&[&planned], Version::V3)).unwrap();
    let check = check_delivery(&record, &plan, &CheckOptions::default()).unwrap();
    assert_eq!((check.beams[0].number, check.beams_not_in_record.as_slice()), (1, [2].as_slice()));
    assert_eq!(check.beams[0].gamma.pass_rate_percent, Some(100.0));
    assert!(check.beams[0].positions.leaves_mm.beam_on.unwrap().max < 1e-9);

    let mut columns = planned.clone().into_columns();
    for control_point in columns.mlc_mm.chunks_exact_mut(160) {
        control_point[2 * 41] += 5.0;
    }
    let shifted = Delivery::new(columns, 80).unwrap();
    let record = Record::from_bytes(made::record(&[&shifted], Version::V3)).unwrap();
    let check = check_delivery(&record, &plan, &CheckOptions::default()).unwrap();
    let beam = &check.beams[0];
    assert_eq!(beam.worst_leaves()[0].name, "Y1 Leaf 42");
    assert!((beam.worst_leaves()[0].max_mm() - 5.0).abs() < 1e-9);
    assert!(
        (beam.worst_leaves()[0].errors.beam_on.unwrap().mean - 5.0).abs() < 1e-9,
        "positive is open too far"
    );
    assert!(beam.worst_leaves()[1].max_mm() < 1e-9);
    assert!(beam.gamma.pass_rate_percent.unwrap() < 100.0);
    assert!(!check.to_png().unwrap().is_empty());
}

#[test]
fn what_was_delivered_becomes_a_valid_plan() {
    let beams = [made::sliding_window(12, -50.0, 3.0, 4.0), made::sliding_window(9, 120.0, 0.0, 2.5)];
    let plan =
        RtPlan::from_bytes(&made::plan(&[(3, &beams[0]), (1, &beams[1])], &["ASYMX", "ASYMY"])).unwrap();
    let record = Record::from_bytes(made::record(&[&beams[0], &beams[1]], Version::V4)).unwrap();
    let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    let written = plan.with_delivery(&delivery, None, &WriteOptions::default()).unwrap();
    let reread = RtPlan::from_bytes(&written.to_bytes().unwrap()).unwrap();
    rt_beams::assert_valid(reread.dataset(), "made");
    assert_eq!(reread.label().as_deref(), Some("SLIDING_LOG"));
    let delivered = reread.delivery(None, Scope::Full).unwrap();
    assert_eq!(delivered.mlc_mm(), Delivery::merge(&beams).unwrap().mlc_mm());
    assert!((delivered.total_mu() - delivery.total_mu()).abs() < 1e-4);
}

#[test]
fn beam_holds_and_interruptions_are_counted_from_the_first_dose_to_the_last() {
    let beam = made::sliding_window(30, 0.0, 0.0, 2.0);
    let plan = RtPlan::from_bytes(&made::plan(&[(1, &beam)], &["ASYMY"])).unwrap();
    let mut new = made::new_record(&[&beam], Version::V3);
    let state = new.items.iter().position(|item| *item == items::LINAC_STATE).unwrap();
    // After the 11th row three rows between segments; after the 21st a pause of five, begun by an interruption.
    let held = |new: &NewRecord, row: usize, states: &[i32]| -> Vec<NewRow> {
        let rows = states.iter().map(|code| {
            let mut row = new.rows[row].clone();
            row.values[state] = *code;
            row
        });
        rows.collect()
    };
    let (pause, move_only) = (held(&new, 20, &[43, 40, 40, 44, 41]), held(&new, 10, &[41, 39, 41]));
    new.rows.splice(21..21, pause);
    new.rows.splice(11..11, move_only);
    // What is before the first dose and after the last is no hold.
    let (before, after) = (held(&new, 0, &[41, 40]), held(&new, new.rows.len() - 1, &[45, 46]));
    new.rows.splice(0..0, before);
    new.rows.extend(after);
    for (row, at) in new.rows.iter_mut().zip(0..) {
        row.timestamp_ms = 1_580_454_467_000 + 40 * at;
    }
    let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
    let check = check_delivery(&record, &plan, &CheckOptions::default()).unwrap();
    let beam = &check.beams[0];
    assert_eq!((beam.beam_hold_count, beam.interruption_count), (Some(2), Some(1)));
    assert!((beam.beam_hold_s.unwrap() - 8.0 * 0.04).abs() < 1e-9, "{:?}", beam.beam_hold_s);
    assert!((beam.beam_on_s.unwrap() - 29.0 * 0.04).abs() < 1e-9, "{:?}", beam.beam_on_s);
    // Leaves slide by 2 mm in 40 ms.
    assert!(
        (beam.positions.speeds.leaf_max_mm_per_s.unwrap() - 50.0).abs() < 1e-6,
        "{:?}",
        beam.positions.speeds
    );
}

#[test]
fn no_cut_of_a_plan_loses_control_points_in_silence() {
    let beam = made::sliding_window(3, 0.0, 0.0, 1.0);
    let bytes = made::plan(&[(1, &beam), (2, &beam)], &["ASYMY"]);
    let whole = RtPlan::from_bytes(&bytes).unwrap().delivery(None, Scope::Full).unwrap();
    for length in 0..bytes.len() {
        let cut = RtPlan::from_bytes(&bytes[..length]).and_then(|plan| plan.delivery(None, Scope::Full));
        assert!(cut.is_err() || cut.unwrap() == whole, "a plan cut after {length} of {} bytes", bytes.len());
    }
}

#[test]
fn a_delimiter_that_ends_nothing_is_no_element() {
    let beam = made::sliding_window(2, 0.0, 0.0, 1.0);
    let mut bytes = made::plan(&[(1, &beam)], &["ASYMY"]);
    // (FFFE,E0DD) with a value behind the last sequence.
    bytes.extend([0xfe, 0xff, 0xdd, 0xe0, 4, 0, 0, 0, 1, 2, 3, 4]);
    let error = RtPlan::from_bytes(&bytes).unwrap_err();
    assert!(matches!(error, trf_core::Error::Malformed { .. }), "{error}");
}
