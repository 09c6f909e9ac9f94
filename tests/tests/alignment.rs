//! A day's records against a day's rows, in a made-up clinic that knows the truth; PyMedPhys's rule beside it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Value, json};
use tests::clinic::score::{self, Score};
use tests::clinic::{Clinic, Settings};
use tests::peers::require;
use tests::tds::{Login, TdsServer, mosaiq_tables};
use trf_core::Record;
use trf_core::align::{self, Log, Outcome};
use trf_core::mosaiq::{self, Mosaiq, Server};

/// Seeds of the run: `ALIGN_SEEDS=100..400` for another range.
fn seeds() -> std::ops::Range<u64> {
    let range = std::env::var("ALIGN_SEEDS").unwrap_or_else(|_| "0..30".to_owned());
    let (from, to) = range.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

fn assert_perfect(what: &str, score: &Score) {
    assert!(score.unambiguous() > 0, "{what}: nothing was asked");
    assert!(score.is_perfect(), "{what}: {score}\n{}", score.complaints.join("\n"));
}

#[test]
fn every_unambiguous_record_finds_its_rows_and_none_finds_anothers() {
    let mut all = Score::default();
    for seed in seeds() {
        all.add(score::whole_days(&Clinic::new(Settings::of_seed(seed))));
    }
    eprintln!("seeds {:?}: {all}", seeds());
    // To the end, so that a sweep of many seeds tells all that is not right.
    assert_perfect(&format!("seeds {:?}", seeds()), &all);
    assert_eq!(all.joined, all.to_join, "parts of resumed deliveries are joined");
    // The clinic asks hard questions: there are ambiguous records, and records without a row.
    assert!(all.doubt_to_review > 0 && all.none_right > 0 && all.to_join > 0, "{all}");
}

#[test]
fn a_clock_that_is_off_by_any_amount_up_to_ten_minutes_changes_nothing() {
    for offset_s in [0.0, 30.0, -60.0, 120.0, -180.0, 240.0, -300.0, 420.0, -480.0, 600.0, -600.0] {
        for seed in 200..203 {
            let settings =
                Settings { n_days: 12, steady_offset_s: Some(offset_s), ..Settings::of_seed(seed) };
            let score = score::whole_days(&Clinic::new(settings));
            assert_perfect(&format!("seed {seed}, clock off by {offset_s} s"), &score);
        }
    }
}

#[test]
fn the_clinics_files_are_the_records_that_are_aligned() {
    let clinic = Clinic::new(Settings { n_days: 3, ..Settings::of_seed(1) });
    for linac in 0..3 {
        for record in clinic.records_of(linac) {
            let expected = clinic.log(record);
            let read =
                Log::of(expected.id.clone(), &Record::from_bytes(clinic.trf(record)).unwrap()).unwrap();
            assert_eq!(read, expected, "{}", clinic.file_name(record));
        }
    }
}

const PASSWORD: &str = "made up";

/// The clinic's tables behind a server, as Mosaiq's would be.
fn serve(clinic: &Clinic) -> TdsServer {
    let tables = mosaiq_tables();
    clinic.fill(&tables).unwrap();
    TdsServer::start(tables, Login::new("reader", PASSWORD))
}

#[tokio::test]
async fn rows_that_come_over_the_wire_are_the_clinics() {
    let clinic = Clinic::new(Settings { n_days: 4, ..Settings::of_seed(2) });
    let tds = serve(&clinic);
    let login = mosaiq::Login::Password { user: "reader".into(), password: PASSWORD.into() };
    let server =
        Server { port: tds.port(), encryption: mosaiq::Encryption::None, ..Server::new("127.0.0.1", login) };
    let mut mosaiq = Mosaiq::new(server);
    let from = clinic.settings.first_day.and_time(chrono::NaiveTime::MIN);
    let to = from + TimeDelta::days(4);
    for (linac, machine) in clinic.linacs.iter().enumerate() {
        let mut theirs = mosaiq.treatments(&machine.name, from, to).await.unwrap();
        let mut ours = clinic.treatments(linac, from, to);
        theirs.sort_by_key(|row| row.ttx_id);
        ours.sort_by_key(|row| row.ttx_id);
        assert!(!ours.is_empty());
        assert_eq!(theirs.len(), ours.len(), "{}", machine.name);
        for (theirs, ours) in theirs.iter().zip(&ours) {
            // The wire's datetime counts in 1/300 s.
            let close = |a: NaiveDateTime, b: NaiveDateTime| (a - b).abs() <= TimeDelta::milliseconds(2);
            assert!(close(theirs.created_local, ours.created_local), "{theirs:?} {ours:?}");
            assert!(close(theirs.edited_local, ours.edited_local), "{theirs:?} {ours:?}");
            let mut theirs = theirs.clone();
            (theirs.created_local, theirs.edited_local) = (ours.created_local, ours.edited_local);
            assert_eq!(&theirs, ours);
        }
    }
}

/// PyMedPhys's own matching, asked for many records; an exception is told by its name.
const PYMEDPHYS: &str = r#"
import json, sys
import pymedphys.mosaiq
from pymedphys._mosaiq.delivery import get_mosaiq_delivery_details, NoMosaiqEntries, MultipleMosaiqEntries
from pymedphys._trf.manage.identify import date_convert
port, password, zone = sys.argv[1:4]
found = []
with pymedphys.mosaiq.connect("127.0.0.1", port=int(port), username="reader", password=password) as connection:
    for machine, utc, label, name in json.load(sys.stdin):
        try:
            time, _ = date_convert(utc, zone)
            d = get_mosaiq_delivery_details(connection, machine, time, label, name, buffer=240)
            found.append([d.patient_id, d.field_id, bool(d.qa_mode), bool(d.beam_completed)])
        except NoMosaiqEntries:
            found.append("none")
        except MultipleMosaiqEntries:
            found.append("several")
print(json.dumps(found))
"#;

#[test]
fn like_pymedphys_says_what_pymedphys_says() {
    let python = std::env::var_os("PYMEDPHYS_PYTHON").map(PathBuf::from);
    let Some(python) = require("PyMedPhys (PYMEDPHYS_PYTHON)", python) else { return };
    let (mut asked, mut ours) = (Vec::new(), Vec::new());
    // Clocks within and beyond the buffer, so that each of its answers occurs.
    let clinic = Clinic::new(Settings { n_days: 6, steady_offset_s: Some(150.0), ..Settings::of_seed(5) });
    let tds = serve(&clinic);
    score::for_each_day(&clinic, |linac, records, logs, treatments, _| {
        for (&record, log) in records.iter().zip(logs).filter(|(_, log)| !log.field_label.is_empty()) {
            let utc = log.end_utc.format("%y/%m/%d %H:%M:%S Z").to_string();
            asked.push(json!([clinic.linacs[linac].name, utc, log.field_label, log.field_name]));
            let outcome = align::like_pymedphys(log, treatments, &clinic.options());
            ours.push(match outcome {
                Outcome::Matched { treatments: rows, .. } => {
                    let row = &treatments[rows[0]];
                    json!([row.patient_id, row.field_id, row.qa_mode, row.beam_complete])
                }
                Outcome::Ambiguous { .. } => json!("several"),
                Outcome::Unmatched { .. } => json!("none"),
            });
            assert!(clinic.records[record].linac == linac);
        }
        None
    });
    let zone = clinic.settings.zone.name();
    let mut process = Command::new(python)
        .args(["-c", PYMEDPHYS, &tds.port().to_string(), PASSWORD, zone])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(process.stdin.take().unwrap(), &asked).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    let theirs: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let differ: Vec<_> = asked.iter().zip(theirs.iter().zip(&ours)).filter(|(_, (a, b))| a != b).collect();
    assert!(differ.is_empty(), "{} of {} differ: {:?}", differ.len(), asked.len(), differ.first());
    let count = |answer: &str| theirs.iter().filter(|their| *their == answer).count();
    let (none, several) = (count("none"), count("several"));
    eprintln!(
        "{} records: PyMedPhys names a row for {}, none for {none}, raises for {several}",
        asked.len(),
        asked.len() - none - several
    );
    assert!(none > 0 && several > 0 && none + several < asked.len());
}

#[test]
fn a_span_of_rows_covers_the_doubled_hour() {
    let clinic = Clinic::new(Settings::of_seed(2));
    let record =
        clinic.records_of(0).into_iter().find(|&record| !clinic.records[record].rows.is_empty()).unwrap();
    let (from, to): (NaiveDateTime, NaiveDateTime) =
        align::local_span(&[clinic.log(record)], &clinic.options()).unwrap();
    let row = clinic.treatment(&clinic.rows[clinic.records[record].rows[0]]);
    assert!(from <= row.edited_local && row.created_local <= to);
}
