//! PyMedPhys and we, on the same bytes: it reads our archive, we read its archive, and the numbers are equal.
//!
//! Needs `PYMEDPHYS_PYTHON`, a Python with PyMedPhys; without it these tests say so and pass, unless `REQUIRE_PEERS=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use icom_core::delivery::{Rules, from_icom};
use icom_core::emulate::{Behaviour, Emulator};
use icom_core::encode::time;
use icom_core::script::{Phase, Script};
use icom_core::snapshot::Snapshot;
use icom_core::{LinacSettings, ListenerSettings, Service, archive, frame};

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("PYMEDPHYS_PYTHON").map(PathBuf::from);
    if python.is_none() {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "PYMEDPHYS_PYTHON is not set");
        eprintln!("skipped: PYMEDPHYS_PYTHON is not set");
    }
    python
}

fn run(python: &Path, script: &str, args: &[&Path]) -> serde_json::Value {
    let output = Command::new(python).args(["-W", "ignore", "-c", script]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    match value {
        serde_json::Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// Two patients whose names PyMedPhys can read.
fn phases() -> Vec<Phase> {
    let mut phases = vec![Phase::Idle { messages: 3 }];
    for (id, name) in [("QA0001", "PHYSICS, MOCK"), ("QA0002", "OTHER, MOCK")] {
        phases.push(Phase::Load { patient_id: id.into(), patient_name: name.into(), messages: 4 });
        phases.push(Phase::Deliver { field_id: "1-1".into(), mu: 120.0, messages: 30 });
        phases.push(Phase::Deliver { field_id: "1-2".into(), mu: 77.7, messages: 25 });
        phases.push(Phase::Idle { messages: 5 });
    }
    phases
}

fn messages() -> Vec<Vec<u8>> {
    Script::new("4299", time(0), phases()).messages().map(|message| message.encode()).collect()
}

const DELIVERY: &str = "
import sys, json, pymedphys, pathlib, lzma
out = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob('*/*.xz')):
    d = pymedphys.Delivery.from_icom(lzma.open(path).read())
    import datetime
    datetime.datetime.strptime(path.stem, '%Y%m%d_%H%M%S')
    out[path.parent.name] = dict(file=str(path), mu=list(d.mu), gantry=list(d.gantry), collimator=list(d.collimator), mlc=d.mlc, jaw=d.jaw)
print(json.dumps(out))
";

fn assert_equal(peer: &serde_json::Value) {
    let bytes = archive::read(Path::new(peer["file"].as_str().unwrap())).unwrap();
    let ours = from_icom(&bytes, Rules::PyMedPhys).unwrap();
    assert!(ours.n_cp() > 40);
    assert_eq!(ours.meterset_mu(), numbers(&peer["mu"]));
    assert_eq!(ours.gantry_bipolar_deg(), numbers(&peer["gantry"]));
    assert_eq!(ours.collimator_bipolar_deg(), numbers(&peer["collimator"]));
    assert_eq!(ours.mlc_mm(), numbers(&peer["mlc"]));
    assert_eq!(ours.jaw_mm(), numbers(&peer["jaw"]));
}

#[test]
fn pymedphys_reads_our_archive_and_both_find_the_same_delivery() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let behaviour = Behaviour { rate_hz: 400.0, ..Behaviour::default() };
    let emulator = Emulator::start("127.0.0.1:0", messages().into_iter(), behaviour).unwrap();
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        beam_off_wait_s: 0,
        finish_on_stop: true,
        linacs: vec![LinacSettings::at(&emulator.address().to_string()).unwrap()],
        ..ListenerSettings::default()
    };
    let service = Service::start(&settings).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !emulator.all_sent() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    service.stop();
    let found = run(&python, DELIVERY, &[&dir.path().join("patients")]);
    let found = found.as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["QA0001_PHYSICS, MOCK", "QA0002_OTHER, MOCK"]);
    found.values().for_each(assert_equal);
}

const ARCHIVE_BY_PYMEDPHYS: &str = "
import sys, json, pathlib
from pymedphys._icom import extract, patients
data = pathlib.Path(sys.argv[1]).read_bytes()
writer = patients.PatientIcomData(pathlib.Path(sys.argv[2]))
for message in extract.get_data_points(data):
    writer.update_data('192.168.30.2', message)
print(json.dumps(None))
";

#[test]
fn we_read_the_archive_that_pymedphys_writes_and_would_have_written_the_same() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (stream, theirs) = (dir.path().join("stream"), dir.path().join("patients"));
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(&stream, messages().concat()).unwrap();
    run(&python, ARCHIVE_BY_PYMEDPHYS, &[&stream, &theirs]);
    let found = run(&python, DELIVERY, &[&theirs]);
    assert_eq!(found.as_object().unwrap().len(), 2);
    found.as_object().unwrap().values().for_each(assert_equal);
    let inspection = icom_core::inspect::inspect(&archive::read(&stream).unwrap());
    for (record, (dir_name, peer)) in inspection.records.iter().zip(found.as_object().unwrap()) {
        let path = PathBuf::from(peer["file"].as_str().unwrap());
        assert_eq!(
            &icom_core::files::patient_dir(&record.patient_id, record.patient_name.as_deref()),
            dir_name
        );
        assert_eq!(
            path.file_stem().unwrap().to_str().unwrap(),
            record.start.format("%Y%m%d_%H%M%S").to_string()
        );
        let theirs = archive::read(&path).unwrap();
        assert_eq!(theirs.len() as u64, record.bytes);
    }
}

const ITEMS: &str = "
import sys, json, pathlib
from pymedphys._icom import extract, mappings
out = []
for message in extract.get_data_points(pathlib.Path(sys.argv[1]).read_bytes()):
    out.append({name: extract.extract(message, name)[1] for name in mappings.ICOM})
print(json.dumps(out))
";

#[test]
fn every_item_has_the_value_that_pymedphys_finds() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let stream = dir.path().join("stream");
    let bytes = messages().concat();
    std::fs::write(&stream, &bytes).unwrap();
    let peer = run(&python, ITEMS, &[&stream]);
    let (frames, _) = frame::frames_of(&bytes);
    assert_eq!(frames.len(), peer.as_array().unwrap().len());
    for (frame, peer) in frames.iter().zip(peer.as_array().unwrap()) {
        let ours = Snapshot::read(frame.linac_time, frame.counter, frame.items());
        let texts = [
            ("Patient ID", &ours.patient_id),
            ("Patient Name", &ours.patient_name),
            ("Field ID", &ours.field_id),
            ("Machine ID", &ours.machine_id),
            ("Radiation Type", &ours.radiation_type),
            ("Energy", &ours.energy),
            ("Wedge", &ours.wedge),
            ("Beam Description", &ours.beam_description),
        ];
        for (name, value) in texts {
            assert_eq!(peer[name].as_str(), value.as_deref(), "{name}");
        }
        #[expect(clippy::cast_precision_loss, reason = "segment numbers are small")]
        let segment = ours.segment.map(|segment| segment as f64);
        let values = [
            ("Segment", segment),
            ("Total MU", ours.total_mu),
            ("Delivery MU", ours.meterset_mu),
            ("Backup Delivery MU", ours.backup_meterset_mu),
            ("Beam Timer", ours.beam_timer_raw),
            ("Segment MU", ours.segment_mu),
            ("Gantry", ours.gantry_bipolar_deg),
            ("Collimator", ours.collimator_bipolar_deg),
            ("Table Column", ours.table_column_deg),
            ("Table Isocentric", ours.table_isocentric_deg),
            ("Table Vertical", ours.table_vertical_raw),
            ("Table Longitudinal", ours.table_longitudinal_raw),
            ("Table Lateral", ours.table_lateral_raw),
        ];
        for (name, value) in values {
            assert_eq!(peer[name].as_f64(), value, "{name}");
        }
    }
}
