//! `scp-node trf check` and `trf to-dicom` as a person calls them: the real binary, its output and its exit code.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test whose files cannot be made fails")]

#[path = "../../trf-core/tests/physics/made.rs"]
mod made;

use std::path::Path;
use std::process::{Command, Output};

use trf_core::rtplan::{RtPlan, Scope};
use trf_core::{Delivery, Version};

/// A plan of two beams, the record of both, the record of the first delivered with a leaf 5 mm off, and a file that is none.
fn files(directory: &Path) {
    let beams = [made::sliding_window(30, -100.0, 2.0, 2.0), made::sliding_window(12, 90.0, 0.0, 5.0)];
    let mut columns = beams[0].clone().into_columns();
    columns.mlc_mm.chunks_exact_mut(160).for_each(|tips| tips[82] += 5.0);
    let off = Delivery::new(columns, 80).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.join(name), bytes).unwrap();
    write("RP.dcm", &made::plan(&[(1, &beams[0]), (2, &beams[1])], &["ASYMY"]));
    write("both.trf", &made::record(&[&beams[0], &beams[1]], Version::V3));
    write("off.trf", &made::record(&[&off], Version::V1));
    write("bad.trf", b"no record");
}

fn trf(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    command.current_dir(directory).env_remove("SCP_NODE_CONFIG").arg("trf").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_says_how_a_record_fits_its_plan() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let output =
        trf(directory.path(), &["check", "--plan", "RP.dcm", "both.trf", "--grid", "5", "--png", "page.png"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    insta::assert_snapshot!(text(&output.stdout));
    let page = std::fs::read(directory.path().join("page.png")).unwrap();
    assert!(page.starts_with(b"\x89PNG") && page.len() > 10_000);
}

#[test]
fn check_as_json_goes_on_after_a_bad_file_and_fails_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let arguments = [
        "--json",
        "check",
        "--plan",
        "RP.dcm",
        "--grid",
        "5",
        "--png",
        "pages.png",
        "both.trf",
        "bad.trf",
        "off.trf",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    let output = command.current_dir(directory.path()).arg("trf").args(arguments).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("bad.trf"), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[0]["result"]["beams"].as_array().unwrap().len(), 2);
    assert!(json[1]["error"].as_str().is_some());
    let off = &json[2]["result"];
    assert_eq!(off["beams_not_in_record"], serde_json::json!([2]));
    assert_eq!(
        off["beams"][0]["leaves_mm"]["beam_on"]["max"].as_f64().map(|mm| (mm * 10.0).round()),
        Some(50.0)
    );
    for page in ["both.png", "off.png"] {
        assert!(directory.path().join("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn check_fails_below_the_demanded_pass_rate() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let with = |least: &str| {
        trf(
            directory.path(),
            &["check", "--plan", "RP.dcm", "off.trf", "--min-pass", least, "--gamma-distance", "1"],
        )
    };
    assert!(with("50").status.success());
    let strict = with("99.99");
    assert!(!strict.status.success());
    assert!(text(&strict.stderr).contains("beam 1: less than 99.99 %"), "{}", text(&strict.stderr));
}

#[test]
fn check_names_what_is_no_plan() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let output = trf(directory.path(), &["check", "--plan", "both.trf", "both.trf"]);
    assert!(!output.status.success());
    let stderr = text(&output.stderr);
    assert!(stderr.contains("both.trf") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn to_dicom_writes_a_plan_of_its_own_or_keeps_the_templates_name() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let output = trf(directory.path(), &["to-dicom", "--plan", "RP.dcm", "both.trf", "--out", "plans"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = || RtPlan::open(directory.path().join("plans/both_RP.dcm")).unwrap();
    let own = read();
    assert_eq!(own.label().as_deref(), Some("SLIDING_LOG"));
    assert!(own.sop_instance_uid().unwrap().starts_with("2.25."));
    assert!((own.delivery(None, Scope::Full).unwrap().total_mu() - 113.0).abs() < 1e-6);
    let output =
        trf(directory.path(), &["to-dicom", "--plan", "RP.dcm", "both.trf", "--out", "plans", "--keep-uid"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        (read().label().as_deref(), read().sop_instance_uid().as_deref()),
        (Some("SLIDING"), Some("1.2.3.4.5"))
    );
    // The second beam is not in this record.
    let output = trf(directory.path(), &["to-dicom", "--plan", "RP.dcm", "off.trf"]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("beam 2 of the plan was not delivered"),
        "{}",
        text(&output.stderr)
    );
}
