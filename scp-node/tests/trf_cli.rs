//! `scp-node trf …` as a person calls it: the real binary, its output and its exit code.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test whose files cannot be made fails")]

use std::path::Path;
use std::process::{Command, Output};

use trf_core::writer::{NewRecord, NewRow};
use trf_core::{ItemPart, Version, items};

/// A record of four rows: two of them with radiation, a state that nobody knows at the end, one unknown item.
fn record(version: Version) -> NewRecord {
    let mut new = NewRecord::agility(version);
    new.total_dose_tenth_mu = 2274.0;
    new.field = "2-2/DIR SCALP".to_owned();
    new.items.push(ItemPart::new(4004, 1));
    let index = |item| new.items.iter().position(|i| *i == item).unwrap();
    let (state, dose, step, gantry) =
        (index(items::LINAC_STATE), index(items::DOSE_RAW), index(items::STEP_DOSE), index(items::GANTRY));
    let row = |(n, code): (i32, i32)| {
        let mut values = vec![10; new.items.len()];
        for (at, value) in [(state, code), (dose, 64 * n), (step, 10 * n), (gantry, 5 * n - 1800)] {
            values[at] = value;
        }
        NewRow { timestamp_ms: 1_580_454_467_000 + 40 * i64::from(n), values }
    };
    new.rows = [(0, 41), (1, 42), (2, 42), (3, 99)].into_iter().map(row).collect();
    new
}

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(directory.join(name), bytes).unwrap();
}

fn trf(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    command.current_dir(directory).env_remove("SCP_NODE_CONFIG").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().replace('\\', "/")
}

#[test]
fn info_says_what_a_record_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = record(Version::V3).to_bytes().unwrap();
    bytes.extend_from_slice(&[0; 137]);
    write(directory.path(), "a.trf", &bytes);
    let output = trf(directory.path(), &["trf", "info", "a.trf"]);
    assert!(output.status.success());
    insta::assert_snapshot!(text(&output.stdout), @r#"
    a.trf
      machine       1234
      field         2-2/DIR SCALP
      start         2020-01-31T07:59:59+01:00 (2020-01-31T06:59:59Z)
      end           2020-01-31T08:00:00+01:00 (2020-01-31T07:00:00Z)
      duration      0.2 s, 4 rows
      format        version 3, 351 columns
      clocks        controller 467.1 s ahead of the host that wrote the times above
      dose, header  227.4 MU
      dose, counted 3.00 MU
      radiation on  0.1 s in 1 part
      gantry        -180.0 to -178.5 deg, bipolar
      energy code   10
      last state    99
      unknown items 4004/1
      warning       the last row is cut: 137 of 710 bytes were left over
    "#);
}

#[test]
fn info_in_brief_is_a_line_per_record() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.trf", &record(Version::V1).to_bytes().unwrap());
    let mut service = record(Version::V4);
    service.field = String::new();
    service.rows.clear();
    write(directory.path(), "b.trf", &service.to_bytes().unwrap());
    let output = trf(directory.path(), &["trf", "info", "--brief", "*.trf"]);
    assert!(output.status.success());
    insta::assert_snapshot!(text(&output.stdout), @r#"
    start                      machine  field          seconds  MU   ended  file
    2020-01-31T07:59:59+01:00  1234     2-2/DIR SCALP  0.2      3.0  99     a.trf
    2020-01-31T08:00:00+01:00  1234                    0.0      -    -      b.trf
    "#);
}

#[test]
fn info_lists_columns_with_true_units_and_provenance() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = record(Version::V1);
    few.items = vec![
        items::LINAC_STATE,
        ItemPart::new(2227, 129),
        ItemPart::new(2224, 220),
        items::MLC_STATUS,
        ItemPart::new(9, 9),
    ];
    few.rows.clear();
    write(directory.path(), "a.trf", &few.to_bytes().unwrap());
    let output = trf(directory.path(), &["trf", "info", "--columns", "a.trf"]);
    insta::assert_snapshot!(text(&output.stdout), @r#"
    a.trf
      machine       1234
      field         2-2/DIR SCALP
      start         2020-01-31T08:00:00+01:00 (2020-01-31T07:00:00Z)
      end           2020-01-31T08:00:00+01:00 (2020-01-31T07:00:00Z)
      duration      0.0 s, 0 rows
      format        version 1, 5 columns
      dose, header  227.4 MU
      radiation on  0.0 s in 0 parts
      unknown items 9/9
      item      column                                  unit  known from
      2543/111  Linac State/Actual Value (None)               Elekta's tool
      2227/129  Table Longitudinal/Scaled Actual (deg)  mm    Elekta's tool
      2224/220  Step Gantry/Positional Error (deg)      deg   Elekta's tool, only zeros seen
      2170/111  Mlc Status/Actual Value (None)                PyMedPhys
      9/9       Item 9/9                                      unknown, raw
    "#);
}

#[test]
fn info_as_json_has_plain_values_and_no_zero_for_what_is_absent() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = record(Version::V1);
    few.items = vec![ItemPart::new(9, 9)];
    few.rows.clear();
    write(directory.path(), "a.trf", &few.to_bytes().unwrap());
    let output = trf(directory.path(), &["--json", "trf", "info", "a.trf"]);
    #[derive(serde::Deserialize)]
    struct Entry {
        file: String,
        result: std::collections::BTreeMap<String, serde_json::Value>,
    }
    let entries: Vec<Entry> = serde_json::from_slice(&output.stdout).unwrap();
    let [entry] = entries.as_slice() else { panic!("{} entries", entries.len()) };
    assert_eq!(entry.file, "a.trf");
    insta::assert_snapshot!(serde_json::to_string_pretty(&entry.result).unwrap(), @r#"
    {
      "columns": 1,
      "controller_end_utc": null,
      "controller_minus_host_s": null,
      "controller_start_utc": null,
      "delivered_mu": null,
      "duration_s": 0.0,
      "end_local": "2020-01-31T08:00:00+01:00",
      "end_utc": "2020-01-31T07:00:00Z",
      "energy_codes": null,
      "field": "2-2/DIR SCALP",
      "field_label": "2-2",
      "field_name": "DIR SCALP",
      "gantry_bipolar_deg": null,
      "header_total_mu": 227.4,
      "last_state": null,
      "machine_id": "1234",
      "radiation_on_count": null,
      "radiation_on_s": null,
      "rows": 0,
      "start_local": "2020-01-31T08:00:00+01:00",
      "start_utc": "2020-01-31T07:00:00Z",
      "unknown_items": [
        "9/9"
      ],
      "utc_offset": "+01:00",
      "version": 1,
      "warnings": []
    }
    "#);
}

#[test]
fn one_bad_file_does_not_stop_the_rest_and_sets_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let good = record(Version::V1).to_bytes().unwrap();
    write(directory.path(), "a.trf", &good);
    write(directory.path(), "b.trf", b"PK\x03\x04 a zip");
    write(directory.path(), "c.trf", &good);
    let output = trf(directory.path(), &["trf", "to-csv", "*.trf", "missing.trf"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(text(&output.stdout), @r#"
    a.trf: 4 rows -> a_clean.csv, a_clean.json
    c.trf: 4 rows -> c_clean.csv, c_clean.json
    "#);
    // The operating system's own words differ between systems.
    let stderr = text(&output.stderr)
        .replace("The system cannot find the file specified.", "No such file or directory");
    insta::assert_snapshot!(stderr, @r#"
    error: b.trf: malformed UTC date-time at byte 1: expected 80 bytes, found the end of the file after 9 bytes
    hint: check that the file is complete and of the kind expected; copy it again from its source
    error: cannot access missing.trf: No such file or directory (os error 2)
    hint: check the path; on a share, check that the share is mounted
    2 of 4 files failed
    "#);
    let json = trf(directory.path(), &["--json", "trf", "info", "b.trf"]);
    assert_eq!(json.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(value.pointer("/0/error").is_some() && value.pointer("/0/hint").is_some(), "{value}");
}

#[test]
fn each_dialect_writes_its_files_whole_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "D Abut..trf", &record(Version::V3).to_bytes().unwrap());
    for (dialect, names) in [
        ("pymedphys", vec!["D Abut._header.csv", "D Abut._table.csv"]),
        ("elekta", vec!["D Abut..csv"]),
        ("clean", vec!["D Abut._clean.csv", "D Abut._clean.json"]),
    ] {
        let out = directory.path().join(dialect).join("deep");
        let arguments =
            ["trf", "to-csv", "D Abut..trf", "--dialect", dialect, "--out", out.to_str().unwrap()];
        assert!(trf(directory.path(), &arguments).status.success());
        let mut written: Vec<_> =
            std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        written.sort();
        assert_eq!(written, names);
        assert!(names.iter().all(|name| out.join(name).metadata().unwrap().len() > 100));
    }
}

#[test]
fn parquet_is_written_beside_the_record() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.trf", &record(Version::V4).to_bytes().unwrap());
    assert!(trf(directory.path(), &["trf", "to-parquet", "a.trf"]).status.success());
    let bytes = std::fs::read(directory.path().join("a.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[test]
fn names_with_brackets_are_names_and_patterns_go_on_working_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = record(Version::V1).to_bytes().unwrap();
    write(directory.path(), "[ICOM_ 7_03] D.trf", &bytes);
    write(directory.path(), "[ICOM_ 8_03] E.TRF", &bytes);
    for (pattern, n) in [("[ICOM_ 7_03] D.trf", 1), ("[ICOM_*.trf", 2), (".", 2)] {
        let output = trf(directory.path(), &["trf", "info", "--brief", pattern]);
        assert!(output.status.success(), "{pattern}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout).lines().count(), 1 + n, "{pattern}");
    }
}

#[test]
fn two_records_of_one_name_do_not_overwrite_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = record(Version::V1).to_bytes().unwrap();
    for sub in ["x", "y"] {
        std::fs::create_dir(directory.path().join(sub)).unwrap();
        write(&directory.path().join(sub), "a.trf", &bytes);
    }
    let output = trf(directory.path(), &["trf", "to-csv", "x/a.trf", "y/a.trf", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("would overwrite"), "{}", text(&output.stderr));
    assert!(directory.path().join("out/a_clean.csv").exists());
}

#[test]
fn an_unwritable_target_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.trf", &record(Version::V1).to_bytes().unwrap());
    write(directory.path(), "out", b"a file, no directory");
    let output = trf(directory.path(), &["trf", "to-csv", "a.trf", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot access out"), "{}", text(&output.stderr));
}

/// On a terminal, which only `script` can make for a test.
#[cfg(unix)]
#[test]
fn a_terminal_shows_progress_and_a_script_does_not() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..40 {
        write(directory.path(), &format!("{n}.trf"), &record(Version::V1).to_bytes().unwrap());
    }
    let command = format!("{} trf info --brief .", env!("CARGO_BIN_EXE_scp-node"));
    let watched = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(watched.status.success());
    assert!(text(&watched.stdout).contains("/40 records"), "{}", text(&watched.stdout));
    let alone = trf(directory.path(), &["trf", "info", "--brief", "."]);
    assert!(alone.stderr.is_empty() && !text(&alone.stdout).contains("/40 records"));
}
