//! A site switches between PyMedPhys and us, in both directions, with PyMedPhys 0.41 itself.
//!
//! PyMedPhys's `index_logfiles` runs with a Mosaiq of its own making (its query's answers); its header's array, which it cannot write
//! as JSON, is made a list: without that it fails at the first record.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use chrono::Utc;
use tests::node::files_below;
use tests::peers::require;
use trf_core::index::{Entry, FileFacts, Filing, Index, Query, State, Treated};
use trf_core::writer::NewRecord;

/// Runs PyMedPhys's index over a root: argument 1. Patients whose names are hard: argument 2.
const THEIRS: &str = r#"
import json, sys
import pymedphys._trf.manage.index as index
import pymedphys._mosaiq.delivery as delivery

root, patients = sys.argv[1], json.loads(sys.argv[2])
Details = delivery.create_ois_delivery_details_class()

def details(connection, machine, time, label, name, buffer=0):
    return Details(**patients[label])

index.get_mosaiq_delivery_details = details
index._pp_mosaiq.connect = lambda *_: None
entry = index.create_index_entry

def without_array(path, details, header, time):
    made = entry(path, details, header, time)
    made["logfile_header"]["item_parts"] = made["logfile_header"]["item_parts"].tolist()
    return made

index.create_index_entry = without_array
centres = {"Site": {"timezone": "Australia/Sydney", "mosaiq_sql_server": "host:1433"}}
index.index_logfiles(centres, {"2694": {"centre": "Site"}}, root)
with open(root + "/index.json") as file:
    for name, known in json.load(file).items():
        assert index.hash_file(root + "/indexed/" + known["filepath"]) == name
        header = index.decode_header_from_file(root + "/indexed/" + known["filepath"])._asdict()
        header["item_parts"] = header["item_parts"].tolist()
        assert header == known["logfile_header"], (header, known["logfile_header"])
"#;

fn run_theirs(python: &str, root: &Path, patients: &serde_json::Value) {
    let output =
        Command::new(python).args(["-c", THEIRS]).arg(root).arg(patients.to_string()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

/// Patients and fields as Mosaiq has them; the label is the key.
fn patients() -> serde_json::Value {
    let person = |id: &str, last: &str, first: &str, field_id: i64, kind: &str| {
        serde_json::json!({"patient_id": id, "field_id": field_id, "last_name": last, "first_name": first,
            "qa_mode": field_id % 2 == 0, "field_type": kind, "beam_completed": true})
    };
    serde_json::json!({
        "1-1": person("QA0001", "Phantom", "Daily", 42, "VMAT"),
        "2-1": person("123 456", "O'Brien-Smith", "Zoë", 43, "StepNShoot"),
        "3-1": person("A/B\\C", "de la Cruz, Jr.", "Ann (Mary)", 44, "kV Setup"),
    })
}

fn write_records(root: &Path) {
    let directory = root.join("to_be_indexed");
    std::fs::create_dir_all(&directory).unwrap();
    // Both sides of the change of Sydney's clocks, and names that are hard.
    for (n, (field, utc)) in [
        ("1-1/AP G0", "24/04/06 15:30:00 Z"),
        ("2-1/LAO 45*?", "24/04/06 16:30:00 Z"),
        ("3-1/ÄP: x.", "24/01/31 23:59:59 Z"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut record = NewRecord::agility(trf_core::Version::V3);
        (record.machine_id, record.field, record.utc_text) = ("2694".into(), field.into(), utc.into());
        if !field.is_ascii() {
            // PyMedPhys's pattern takes ASCII only.
            record.field = "3-1/AP x.".into();
        }
        std::fs::write(directory.join(format!("{n}.trf")), record.to_bytes().unwrap()).unwrap();
    }
}

/// What we would enter for the same records and the same answers of Mosaiq.
fn ours(root: &Path) -> Index {
    let zone: chrono_tz::Tz = "Australia/Sydney".parse().unwrap();
    let patients = patients();
    let mut index = Index::open(root).unwrap();
    for source in files_below(&root.join("to_be_indexed"), ".trf") {
        let read = FileFacts::read(&source, |utc| Some(utc.with_timezone(&zone).naive_local())).unwrap();
        let mut entry = Entry::new(&read, Some("2694"), Some("Site"), Utc::now());
        let (facts, items) = read.record.unwrap();
        let known = &patients[&facts.field_label];
        let text = |key: &str| known[key].as_str().unwrap().to_owned();
        entry.state = State::Indexed;
        entry.next_try = None;
        entry.treatments = vec![Treated {
            patient_id: Some(text("patient_id")),
            last_name: text("last_name"),
            first_name: text("first_name"),
            field_id: known["field_id"].as_i64().unwrap(),
            field_type: text("field_type"),
            qa_mode: known["qa_mode"].as_bool().unwrap(),
            beam_completed: true,
            field_label: facts.field_label,
            field_name: facts.field_name,
            ..Treated::default()
        }];
        index.file(&[Filing { source, entry, items }]).unwrap().remove(0).unwrap();
    }
    index
}

fn relative(root: &Path) -> Vec<String> {
    let files = files_below(root, ".trf");
    let mut files: Vec<String> = files
        .iter()
        .map(|path| path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"))
        .collect();
    files.sort();
    files
}

fn json_of(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn our_directories_and_index_json_are_those_of_pymedphys_and_each_takes_over_the_others() {
    let Some(python) = require("PYMEDPHYS_PYTHON", std::env::var("PYMEDPHYS_PYTHON").ok()) else { return };
    let (their_dir, our_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (their_root, our_root) = (their_dir.path(), our_dir.path());
    write_records(their_root);
    write_records(our_root);
    run_theirs(&python, their_root, &patients());
    let index = ours(our_root);
    assert_eq!(relative(our_root), relative(their_root));
    assert_eq!(relative(our_root).len(), 3);

    // The same index.json, value for value.
    let json = our_root.join("index.json");
    assert_eq!(index.export_pymedphys(&json).unwrap().written, 3);
    assert_eq!(json_of(&json), json_of(&their_root.join("index.json")));

    // PyMedPhys goes on with ours: what it knows is dropped, a new record is added.
    write_records(our_root);
    let mut new = NewRecord::agility(trf_core::Version::V3);
    (new.machine_id, new.field, new.utc_text) =
        ("2694".into(), "1-1/AP G0".into(), "24/04/07 15:30:00 Z".into());
    std::fs::write(our_root.join("to_be_indexed/new.trf"), new.to_bytes().unwrap()).unwrap();
    run_theirs(&python, our_root, &patients());
    assert_eq!(relative(our_root).len(), 4);
    assert!(relative(our_root).iter().all(|path| path.starts_with("indexed/")));

    // And back: what PyMedPhys added is taken over, nothing twice.
    let mut index = index;
    let taken = index.import_pymedphys(&json, &|_| Some("2694".into()), Utc::now(), &|_, _| {}).unwrap();
    assert_eq!((taken.imported, taken.known, taken.refused.len()), (1, 3, 0));
    assert_eq!(
        index.find(&Query { patient_id: Some("QA0001".into()), ..Query::default() }).unwrap().len(),
        2
    );

    // A site that comes from PyMedPhys with an index of its own.
    let mut fresh = Index::open(their_root).unwrap();
    let json = their_root.join("index.json");
    let taken = fresh.import_pymedphys(&json, &|_| None, Utc::now(), &|_, _| {}).unwrap();
    assert_eq!((taken.imported, taken.refused.len()), (3, 0));
    assert_eq!(fresh.export_pymedphys(&json).unwrap().written, 3);
}
