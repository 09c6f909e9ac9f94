//! Deliveries of records equal PyMedPhys's; the raw counter gives what Step Dose loses.

use trf_core::{Delivery, Error, MetersetSource, Record};

use crate::{data, npz};

/// Largest difference of a record's delivery from its golden: none, both do the same operations on the same numbers.
fn assert_same(found: &Delivery, expected: &Delivery, name: &str) {
    assert_eq!(found.meterset_mu(), expected.meterset_mu(), "{name}");
    assert_eq!(found.gantry_bipolar_deg(), expected.gantry_bipolar_deg(), "{name}");
    assert_eq!(found.collimator_bipolar_deg(), expected.collimator_bipolar_deg(), "{name}");
    assert_eq!(found.mlc_mm(), expected.mlc_mm(), "{name}");
    assert_eq!(found.jaw_mm(), expected.jaw_mm(), "{name}");
}

#[test]
fn compatible_deliveries_equal_the_goldens_exactly() {
    let Some(root) = data::root() else { return };
    for golden in data::files(&root.join("golden/delivery"), ".npz") {
        let name = data::stem(&golden);
        let delivery = Delivery::from_record(&data::record(&root, &name), MetersetSource::StepDose).unwrap();
        assert_same(&delivery, &npz::delivery(&golden), &name);
        let filtered = root.join("golden/filtered").join(format!("{name}.npz"));
        assert_same(&delivery.filter(), &npz::delivery(&filtered), &name);
    }
}

#[test]
fn raw_counter_agrees_with_step_dose_within_its_resolution() {
    let Some(root) = data::root() else { return };
    for golden in data::files(&root.join("golden/delivery"), ".npz") {
        let name = data::stem(&golden);
        let record = data::record(&root, &name);
        let fine = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
        let coarse = Delivery::from_record(&record, MetersetSource::StepDose).unwrap();
        assert_eq!(fine.beam_starts(), coarse.beam_starts(), "{name}");
        // Step Dose is cut to 0.1 MU once per beam.
        let bound_mu = 0.11 * fine.beam_starts().len() as f64;
        for (fine, coarse) in fine.meterset_mu().iter().zip(coarse.meterset_mu()) {
            assert!((fine - coarse).abs() < bound_mu, "{name}: {fine} {coarse}");
            assert_eq!((fine * 64.0).fract(), 0.0, "{name}: {fine} is not a multiple of 1/64 MU");
        }
    }
}

#[test]
fn beams_of_a_record_are_told_apart_by_the_dose_counter() {
    let Some(root) = data::root() else { return };
    let beams = |name: &str| {
        let delivery = Delivery::from_record(&data::record(&root, name), MetersetSource::RawCounter).unwrap();
        delivery.beams().iter().map(|beam| (beam.total_mu() * 10.0).round() / 10.0).collect::<Vec<_>>()
    };
    assert_eq!(beams("v1_imrt_3field_pair"), [185.3, 170.6, 119.7]);
    // Two beams at one gantry angle, which a gantry mask cannot tell apart.
    assert_eq!(beams("v1_int3_d_abut"), [20.0, 20.0]);
    // The counter goes back to 0 in the last rows of this record; nothing is delivered after.
    assert_eq!(beams("v1_service_20170419_2118"), [100.0]);
    assert_eq!(beams("v1_vmat_1arc"), [773.9]);
}

#[test]
fn edge_records_deliver_what_their_counters_say() {
    let Some(root) = data::root() else { return };
    let total = |name: &str, source| {
        let record = Record::open(root.join("edge").join(format!("{name}.trf"))).unwrap();
        Delivery::from_record(&record, source).map(|delivery| delivery.total_mu())
    };
    // 877 counts per row over 250 rows with wraps of both counters; PyMedPhys loses one row's dose at the wrap of Step Dose.
    let wrapped = total("v1_dose_wrap", MetersetSource::RawCounter).unwrap();
    let compatible = total("v1_dose_wrap", MetersetSource::StepDose).unwrap();
    assert!(wrapped - compatible > 10.0, "{wrapped} {compatible}");
    // The counter restarts at 19 counts in one row.
    let restarted = total("v1_step_reset_nonzero", MetersetSource::RawCounter).unwrap();
    let compatible = total("v1_step_reset_nonzero", MetersetSource::StepDose).unwrap();
    assert!((restarted - compatible - 19.0 / 64.0).abs() < 0.11, "{restarted} {compatible}");
    for name in ["v1_zero_rows", "v3_zero_rows"] {
        assert_eq!(total(name, MetersetSource::RawCounter).unwrap(), 0.0, "{name}");
        assert_eq!(total(name, MetersetSource::StepDose).unwrap(), 0.0, "{name}");
    }
    let error = total("v1_no_leaf_items", MetersetSource::RawCounter).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("Leaf 1"), "{error}");
}
