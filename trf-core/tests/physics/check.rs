//! Plan against record, on the real pair and on simulated deliveries.

use trf_core::check::{CheckOptions, check_delivery};
use trf_core::gamma::Criteria;
use trf_core::{Record, RtPlan};

use crate::data;

fn plan(root: &std::path::Path, name: &str) -> RtPlan {
    RtPlan::open(root.join("plans").join(format!("{name}.dcm"))).unwrap()
}

#[test]
fn real_pair_is_found_by_its_fraction_group_and_passes() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "v1_imrt_3field_pair");
    let check =
        check_delivery(&record, &plan(&root, "ltbreast_2groups_pair"), &CheckOptions::default()).unwrap();
    assert_eq!((check.fraction_group, check.plan_label.as_deref()), (Some(2), Some("LTBREAST")));
    assert_eq!(check.beams.iter().map(|beam| beam.number).collect::<Vec<_>>(), [4, 5, 6]);
    assert!(check.beams_not_in_record.is_empty());
    assert!((check.delivered_mu - 475.625).abs() < 1e-9 && (check.planned_mu - 475.579).abs() < 1e-3);
    for beam in &check.beams {
        let name = format!("beam {}", beam.number);
        // The raw counter shows 1/64 MU; PyMedPhys's Step Dose is up to 0.1 MU short.
        assert!(beam.difference_mu.abs() < 0.05, "{name}: {}", beam.difference_mu);
        assert!(beam.gamma.pass_rate_percent.unwrap() > 99.0, "{name}: {:?}", beam.gamma);
        assert!(beam.gamma.n_points > 2000, "{name}");
        // The plan at the same meterset and the machine's own error are two ways to the same number.
        let (found, logged) =
            (beam.positions.leaves_mm.beam_on.unwrap(), beam.positions.logged_leaves_mm.unwrap());
        assert_eq!(found.n, logged.n, "{name}");
        assert!((found.rms - logged.rms).abs() < 0.03, "{name}: {} {}", found.rms, logged.rms);
        assert!((found.max - logged.max).abs() < 0.5, "{name}: {} {}", found.max, logged.max);
        let moving = beam.positions.leaves_mm.moving.unwrap();
        assert!(moving.n < found.n && moving.rms > found.rms, "{name}: moving leaves lag");
        assert!(beam.positions.gantry_deg.beam_on.unwrap().max <= 0.11, "{name}: a static gantry");
        let fastest = beam.positions.speeds.leaf_max_mm_per_s.unwrap();
        // An Agility leaf runs 35 mm/s, its carriage 30 mm/s.
        assert!((5.0..=65.0).contains(&fastest), "{name}: {fastest} mm/s is no speed of an Agility leaf");
        assert_eq!(beam.interruption_count, Some(0), "{name}");
        // Dynamic beams: the radiation stays on from the first dose to the last.
        assert_eq!((beam.beam_hold_count, beam.beam_hold_s), (Some(0), Some(0.0)), "{name}");
        let rate = beam.mean_dose_rate_mu_per_min.unwrap();
        assert!((200.0..700.0).contains(&rate), "{name}: {rate}");
        assert!(beam.positions.per_leaf_mm.iter().all(|leaf| leaf.errors.beam_on.is_some()), "{name}");
        let histogram = &beam.positions.leaf_error_histogram_mm;
        assert_eq!(histogram.counts.iter().sum::<u64>(), found.n as u64, "{name}");
    }
}

#[test]
fn an_arc_is_checked_with_its_gantry() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "sim_tinyvmat_v1");
    let options = CheckOptions { resolution_mm: 2.5, ..CheckOptions::default() };
    let check = check_delivery(&record, &plan(&root, "tiny_vmat"), &options).unwrap();
    let beam = &check.beams[0];
    assert_eq!(beam.gamma.pass_rate_percent, Some(100.0));
    let gantry = beam.positions.gantry_deg.moving.unwrap();
    assert!(gantry.n > 1000 && gantry.max < 0.3, "{gantry:?}");
    // The simulated gantry follows the plan at constant dose rate, however fast.
    assert!(beam.positions.speeds.gantry_max_deg_per_s.unwrap() > 1.0);
    assert!(beam.positions.leaves_mm.beam_on.unwrap().p95 < 0.2);
}

#[test]
fn a_record_of_one_beam_leaves_the_others_open() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "sim_static_single_v3");
    let check = check_delivery(&record, &plan(&root, "static_single"), &CheckOptions::default()).unwrap();
    assert_eq!(check.beams.len(), 1);
    assert_eq!(check.beams[0].gamma.pass_rate_percent, Some(100.0));
    // The third beam's rows of the real pair alone.
    let options = CheckOptions { fraction_group: Some(2), ..CheckOptions::default() };
    let pair = data::record(&root, "v1_imrt_3field_pair");
    let row_bytes = pair.header().row_bytes();
    let first_row = pair.meterset().unwrap().beam_starts[1];
    let header = pair.bytes().len() - pair.n_rows() * row_bytes;
    let mut bytes = pair.bytes()[..header].to_vec();
    bytes.extend(&pair.bytes()[header + first_row * row_bytes..]);
    let third = Record::from_bytes(bytes).unwrap();
    let check = check_delivery(&third, &plan(&root, "ltbreast_2groups_pair"), &options).unwrap();
    assert_eq!(check.beams_not_in_record, [4, 5]);
    assert_eq!(check.beams[0].number, 6);
    assert!(check.beams[0].gamma.pass_rate_percent.unwrap() > 99.0);
}

#[test]
fn a_wrong_plan_is_seen_or_refused() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "v1_imrt_3field_pair");
    let error = check_delivery(&record, &plan(&root, "tiny_vmat"), &CheckOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no beam of the plan"), "{error}");
    // The same angle, another field: nothing refuses it, the numbers do.
    let record = data::record(&root, "v1_int3_pf_g0");
    let options =
        CheckOptions { gamma: Criteria { max_gamma: 2.0, ..Criteria::default() }, ..CheckOptions::default() };
    let check = check_delivery(&record, &plan(&root, "static_single"), &options).unwrap();
    assert!(check.beams[0].gamma.pass_rate_percent.unwrap() < 20.0);
    assert!(check.beams[0].difference_percent.unwrap().abs() > 5.0);
}

#[test]
fn a_check_is_finite_numbers_in_json() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "sim_single_beam_v1");
    let options = CheckOptions { resolution_mm: 5.0, ..CheckOptions::default() };
    let check = check_delivery(&record, &plan(&root, "single_beam_rpo240"), &options).unwrap();
    let json = serde_json::to_value(&check).unwrap();
    let beam = &json["beams"][0];
    assert!(beam["gamma"]["pass_rate_percent"].as_f64().unwrap() > 99.0, "{beam}");
    assert!(beam["leaves_mm"]["beam_on"]["rms"].as_f64().is_some());
    assert!(beam["per_leaf_mm"][0]["name"].as_str().unwrap().starts_with('Y'));
    assert!(beam.get("planned_map").is_none(), "maps are not for JSON");
}

#[test]
fn a_check_is_a_page() {
    let Some(root) = data::root() else { return };
    let record = data::record(&root, "v1_imrt_3field_pair");
    let check =
        check_delivery(&record, &plan(&root, "ltbreast_2groups_pair"), &CheckOptions::default()).unwrap();
    let page = check.to_png().unwrap();
    if let Some(path) = std::env::var_os("PAGE_TO") {
        std::fs::write(path, &page).unwrap();
    }
    let mut reader = png::Decoder::new(std::io::Cursor::new(&page)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let mut colours: Vec<&[u8]> = pixels.chunks_exact(3).collect();
    colours.sort_unstable();
    colours.dedup();
    assert!(colours.len() > 300, "maps have many colours: {}", colours.len());
    assert!(reader.info().height > 2 * reader.info().width / 3);
}
