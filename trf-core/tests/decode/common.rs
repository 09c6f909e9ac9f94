//! Where the real records are, for the tests that need them.

use std::io::Read;
use std::path::{Path, PathBuf};

/// Directory of the TRF developer set beside the repository; says so and gives `None` where it is absent.
pub(crate) fn trf_data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/trf");
    if data.is_dir() {
        return Some(data);
    }
    say("skipped: no real records at <repository>/../shared/data/trf");
    None
}

/// Tells the reader of the test log what did not run.
#[expect(clippy::print_stdout, reason = "a skipped test must be seen")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// A JSON object of the set, as its members.
pub(crate) fn json_members(path: &Path) -> serde_json::Map<String, serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A gzipped text of the set.
pub(crate) fn gunzip(path: &Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

/// Checks header fields and counts against a member of `headers.json` or `cases.json`.
pub(crate) fn assert_header(name: &str, record: &trf_core::Record, expected: &serde_json::Value) {
    let header = record.header();
    assert_eq!(header.utc_text, expected["date"], "{name}");
    assert_eq!(header.utc_offset_text, expected["timezone"], "{name}");
    assert_eq!(header.field, expected["field"], "{name}");
    assert_eq!(header.field_label(), expected["field_label"], "{name}");
    assert_eq!(header.field_name(), expected["field_name"], "{name}");
    assert_eq!(header.machine_id, expected["machine"], "{name}");
    assert_eq!(header.total_mu(), expected["total_mu"].as_f64(), "{name}");
    assert_eq!(header.version.number(), expected["version"], "{name}");
    assert_eq!(record.n_columns() as u64, expected["items"], "{name}");
    assert_eq!(record.n_rows() as u64, expected["rows"], "{name}");
}

/// Compares CSV text cell by cell; PyMedPhys's couch angle is trunc((x / 10) / 0.1) where x is right.
pub(crate) fn assert_equal_but_couch_angle(name: &str, ours: &str, golden: &str) {
    if ours == golden {
        return;
    }
    let (ours, golden): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), golden.lines().collect());
    assert_eq!(ours.len(), golden.len(), "{name}: number of lines");
    let columns: Vec<&str> = golden[0].split(',').collect();
    for (row, (a, b)) in ours.iter().zip(&golden).enumerate() {
        let cells = a.split(',').zip(b.split(','));
        assert_eq!(a.split(',').count(), b.split(',').count(), "{name} line {row}");
        for ((a, b), column) in cells.zip(&columns).filter(|((a, b), _)| a != b) {
            assert_eq!(*column, "Table Isocentric/Scaled Actual (deg)", "{name} line {row}: {a} for {b}");
            let x: f64 = a.parse().unwrap();
            assert_eq!(((x / 10.0) / 0.1).trunc(), b.parse::<f64>().unwrap(), "{name} line {row}");
        }
    }
}
