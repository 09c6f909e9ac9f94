//! Records to their treatments, with made-up treatments in Mosaiq's place: what is filed where, what waits, what a person decides.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{NaiveDateTime, TimeDelta};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use scp_node::settings::{LinacSettings, MosaiqSettings, Settings, SiteSettings};
use scp_node::trf::indexing::{IndexOptions, IndexRun, index};
use scp_node::trf::treatments::Treatments;
use scp_node::{Error, Result};
use tokio_util::sync::CancellationToken;
use trf_core::align::Treatment;
use trf_core::index::{Index, Query, State};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Version, items};

/// Rows of TrackTreatment, or a server that does not answer.
#[derive(Default)]
struct Rows {
    rows: Vec<Treatment>,
    down: bool,
    asked: usize,
}

impl Treatments for Rows {
    fn of(
        &mut self,
        _: &SiteSettings,
        _: &LinacSettings,
        from_local: NaiveDateTime,
        until_local: NaiveDateTime,
    ) -> Result<Vec<Treatment>> {
        self.asked += 1;
        if self.down {
            return Err(Error::Unreachable {
                peer: "mosaiq".into(),
                what: "does not answer".into(),
                hint: "check the server".into(),
            });
        }
        let within = |row: &&Treatment| row.edited_local >= from_local && row.created_local <= until_local;
        Ok(self.rows.iter().filter(within).cloned().collect())
    }
}

fn at(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
}

/// A treatment of so many seconds and MU, in Berlin's winter: UTC+1.
fn treatment(ttx_id: i64, patient: i64, label: &str, start: &str, seconds: i64, mu: f64) -> Treatment {
    let created_local = at(start);
    Treatment {
        ttx_id,
        dhs_id: Some(ttx_id + 1000),
        pat_id1: patient,
        patient_id: Some(format!("QA{patient:04}")),
        last_name: "Phantom".into(),
        first_name: format!("No{patient}"),
        field_id: patient * 10,
        field_label: label.into(),
        field_name: "AP".into(),
        field_type: 13,
        meterset_mu: Some(mu),
        created_local,
        edited_local: created_local + TimeDelta::seconds(seconds),
        qa_mode: true,
        beam_complete: true,
        beam_on: true,
        canceled: false,
    }
}

struct Site {
    root: tempfile::TempDir,
    settings: Settings,
    source: Rows,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.trf.root = root.path().to_owned();
        settings.sites = vec![SiteSettings {
            name: "Site".into(),
            mosaiq: Some(MosaiqSettings::new("mosaiq.example", "Europe/Berlin")),
            linacs: vec![LinacSettings {
                name: "LA1".into(),
                mosaiq_name: "2694".into(),
                ..LinacSettings::default()
            }],
        }];
        Self { root, settings, source: Rows::default() }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    /// A record that ended then (Berlin's clock) after so many seconds with so many MU.
    fn record(&self, name: &str, field: &str, end: &str, seconds: i64, mu: f64) -> PathBuf {
        self.write(name, NewRecord::agility(Version::V3), field, end, seconds, mu)
    }

    fn write(
        &self,
        name: &str,
        mut record: NewRecord,
        field: &str,
        end: &str,
        seconds: i64,
        mu: f64,
    ) -> PathBuf {
        record.machine_id = "2694".into();
        record.field = field.into();
        record.utc_text = (at(end) - TimeDelta::hours(1)).format("%y/%m/%d %H:%M:%S Z").to_string();
        let raw = record.items.iter().position(|item| *item == items::DOSE_RAW);
        let rows = seconds * 25;
        for row in 0..rows {
            let mut values = vec![0; record.items.len()];
            if let Some(raw) = raw {
                values[raw] = (mu * 64.0 * row as f64 / (rows - 1) as f64).round() as i32;
            }
            record.rows.push(NewRow { timestamp_ms: 0, values });
        }
        let path = self.root().join("to_be_indexed/LA1").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, record.to_bytes().unwrap()).unwrap();
        path
    }

    fn run_with(&mut self, options: &IndexOptions) -> IndexRun {
        index(&self.settings, options, &mut self.source, &|_, _, _| {}, &CancellationToken::new()).unwrap()
    }

    fn run(&mut self) -> IndexRun {
        self.run_with(&IndexOptions::default())
    }

    fn index(&self) -> Index {
        Index::open_read_only(self.root()).unwrap()
    }

    /// All records below the root, relative.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut left = vec![self.root().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|ending| ending == "trf") {
                    let relative = path.strip_prefix(self.root()).unwrap();
                    files.push(relative.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        files.sort();
        files
    }
}

/// A morning of three deliveries that nothing can confuse.
fn morning(site: &mut Site) {
    for (n, (patient, label, start, end, mu)) in [
        (1, "1-1", "2026-03-02 08:00:00", "2026-03-02 08:00:31", 50.0),
        (2, "2-1", "2026-03-02 08:10:00", "2026-03-02 08:10:31", 60.0),
        (3, "3-1", "2026-03-02 08:20:00", "2026-03-02 08:20:31", 70.0),
    ]
    .into_iter()
    .enumerate()
    {
        site.record(&format!("{n}.trf"), &format!("{label}/AP"), end, 30, mu);
        site.source.rows.push(treatment(n as i64 + 1, patient, label, start, 31, mu));
    }
}

#[test]
fn a_morning_is_filed_by_patient_and_what_is_no_treatment_has_its_own_place() {
    let mut site = Site::new();
    morning(&mut site);
    site.record("service.trf", "QUICK BEAM", "2026-03-02 07:00:00", 4, 10.0);
    site.record("unknown.trf", "9-9/OTHER", "2026-03-02 09:00:00", 4, 10.0);
    std::fs::write(site.root().join("to_be_indexed/LA1/bad.trf"), b"no record").unwrap();
    let run = site.run();
    assert!(run.is_clean(), "{run:?}");
    let linac = &run.linacs["LA1"];
    assert_eq!((linac.new, linac.matched, linac.without_treatment), (6, 3, 1), "{run:?}");
    assert_eq!((linac.service_mode, linac.unreadable, linac.review), (1, 1, 0));
    assert_eq!(
        site.files(),
        [
            "indexed/Site/QA0001_Phantom_No1/qa/10_1-1_AP_VMAT/2026-03-02_080031_2694/0.trf",
            "indexed/Site/QA0002_Phantom_No2/qa/20_2-1_AP_VMAT/2026-03-02_081031_2694/1.trf",
            "indexed/Site/QA0003_Phantom_No3/qa/30_3-1_AP_VMAT/2026-03-02_082031_2694/2.trf",
            "no_field_label_in_logfile/service.trf",
            "no_mosaiq_record_found/unknown.trf",
            "unknown_error_in_logfile/bad.trf",
        ]
    );
    let again = site.run();
    assert!(again.linacs.is_empty() && again.is_clean(), "{again:?}");
    assert_eq!(again.counts.records, 6);
}

#[test]
fn a_record_without_a_dose_counter_is_no_record_of_0_mu_and_keeps_no_other_from_its_treatment() {
    let mut site = Site::new();
    let mut without = NewRecord::agility(Version::V3);
    without.items.retain(|item| ![items::DOSE_RAW, items::STEP_DOSE].contains(item));
    site.write("a.trf", without, "1-1/AP", "2026-03-02 09:00:30", 30, 0.0);
    site.record("b.trf", "1-2/AP", "2026-03-02 09:05:30", 30, 50.0);
    let canceled = Treatment {
        canceled: true,
        beam_on: false,
        beam_complete: false,
        ..treatment(1, 1, "1-1", "2026-03-02 08:59:55", 37, 50.0)
    };
    site.source.rows = vec![canceled, treatment(2, 1, "1-2", "2026-03-02 09:04:55", 37, 50.0)];
    let run = site.run();
    assert_eq!((run.counts.indexed, run.counts.no_mosaiq_record_found), (1, 1), "{run:?}");
    let all = site.index().find(&Query::default()).unwrap();
    let waits = all.iter().find(|entry| entry.state == State::NoMosaiqRecordFound).unwrap();
    assert!(waits.reason.as_deref().is_some_and(|reason| reason.contains("dose counter")), "{waits:?}");
}

#[test]
fn what_found_no_treatment_is_looked_for_again_later_and_then_filed() {
    let mut site = Site::new();
    morning(&mut site);
    let late = site.source.rows.pop().unwrap();
    assert_eq!(site.run().linacs["LA1"].without_treatment, 1);
    let waiting = |site: &Site| {
        let query = Query { state: Some(State::NoMosaiqRecordFound), ..Query::default() };
        site.index().find(&query).unwrap()
    };
    let first = waiting(&site);
    assert_eq!((first.len(), first[0].tries), (1, 1));
    assert!(first[0].next_try.is_some() && !first[0].reason.as_ref().unwrap().is_empty());
    let asked = site.source.asked;
    site.run();
    assert_eq!(site.source.asked, asked, "it is not due yet");
    let retry = IndexOptions { retry: true, ..IndexOptions::default() };
    site.run_with(&retry);
    let second = waiting(&site);
    assert_eq!(second[0].tries, 2);
    assert!(second[0].next_try > first[0].next_try, "the pause grows");
    site.source.rows.push(late);
    assert_eq!(site.run_with(&retry).linacs["LA1"].matched, 1);
    assert!(waiting(&site).is_empty());
    assert!(site.files().iter().all(|path| path.starts_with("indexed/")));
}

#[test]
fn with_mosaiq_down_records_are_found_by_what_they_say_and_filed_when_it_is_up() {
    let mut site = Site::new();
    morning(&mut site);
    site.source.down = true;
    let run = site.run();
    assert_eq!((run.troubles.len(), run.troubles[0].about.as_str()), (1, "Site"), "{run:?}");
    assert!(!run.is_clean());
    let by_field = Query { machine: Some("LA1".into()), field: Some("2-1".into()), ..Query::default() };
    assert_eq!(site.index().find(&by_field).unwrap().len(), 1);
    site.source.down = false;
    let run = site.run();
    assert_eq!(run.linacs["LA1"].matched, 3, "{run:?}");
}

#[test]
fn two_runs_at_once_take_turns() {
    let mut site = Site::new();
    morning(&mut site);
    let (settings, rows) = (&site.settings, &site.source.rows);
    let runs: Vec<IndexRun> = std::thread::scope(|scope| {
        let spawn = |_| {
            scope.spawn(|| {
                let mut source = Rows { rows: rows.clone(), ..Rows::default() };
                let cancel = CancellationToken::new();
                index(settings, &IndexOptions::default(), &mut source, &|_, _, _| {}, &cancel).unwrap()
            })
        };
        let threads: Vec<_> = (0..3).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(runs.iter().all(IndexRun::is_clean), "{runs:?}");
    let matched: usize = runs.iter().flat_map(|run| run.linacs.values()).map(|linac| linac.matched).sum();
    assert_eq!((matched, site.files().len()), (3, 3));
}

#[test]
fn a_record_extracted_again_is_dropped_and_one_that_lost_its_file_gets_it_back() {
    let mut site = Site::new();
    morning(&mut site);
    site.run();
    let before = site.files();
    morning(&mut site);
    std::fs::remove_file(site.root().join(&before[0])).unwrap();
    let run = site.run();
    assert_eq!((run.linacs["LA1"].new, run.linacs["LA1"].known), (0, 3), "{run:?}");
    assert_eq!(site.files(), before);
}

/// A record that may be one patient's or the other's.
fn ambiguous(site: &mut Site) {
    site.record("0.trf", "1-1/AP", "2026-03-02 08:00:31", 30, 50.0);
    site.source.rows = vec![
        treatment(1, 1, "1-1", "2026-03-02 08:00:00", 31, 50.0),
        treatment(2, 2, "1-1", "2026-03-02 08:00:01", 31, 50.0),
    ];
}

#[test]
fn two_patients_with_the_same_field_at_the_same_time_are_for_a_person() {
    let mut site = Site::new();
    ambiguous(&mut site);
    let run = site.run();
    assert_eq!((run.linacs["LA1"].matched, run.linacs["LA1"].review), (0, 1), "{run:?}");
    assert_eq!(site.files(), ["to_be_reviewed/0.trf"]);
    let review = site.index().reviews().unwrap().remove(0);
    let second =
        review.candidates.iter().position(|candidate| candidate.treatments[0].ttx_id == Some(2)).unwrap();
    let entry = Index::open(site.root()).unwrap().decide(review.short(), Some(second + 1), "me").unwrap();
    assert_eq!(entry.treatments[0].patient_id.as_deref(), Some("QA0002"));
    // What a person decided is not asked again.
    site.run_with(&IndexOptions { retry: true, ..IndexOptions::default() });
    assert_eq!(
        site.files(),
        ["indexed/Site/QA0002_Phantom_No2/qa/20_1-1_AP_VMAT/2026-03-02_080031_2694/0.trf"]
    );
}

/// The real program on this site's root; its standard output when it succeeds, else its standard error.
fn trf(site: &Site, arguments: &[&str]) -> std::result::Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    command.env_remove("SCP_NODE_CONFIG").arg("--set").arg(format!("trf.root={}", site.root().display()));
    let output = command.arg("trf").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A plan of a patient with a beam as Monaco writes it: the label as Beam Name, the name as Beam Description.
fn plan(site: &Site, patient_id: &str, label: &str) -> String {
    let beam = InMemDicomObject::from_element_iter([
        DataElement::new(tags::BEAM_NAME, VR::LO, label),
        DataElement::new(tags::BEAM_DESCRIPTION, VR::ST, "AP"),
    ]);
    let plan = InMemDicomObject::from_element_iter([
        DataElement::new(tags::SOP_CLASS_UID, VR::UI, uids::RT_PLAN_STORAGE),
        DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4.5"),
        DataElement::new(tags::PATIENT_ID, VR::LO, patient_id),
        DataElement::new(tags::BEAM_SEQUENCE, VR::SQ, DataSetSequence::from(vec![beam])),
    ]);
    let path = site.root().join(format!("{patient_id}_{label}.dcm"));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    plan.with_meta(meta).unwrap().write_to_file(&path).unwrap();
    path.display().to_string()
}

#[test]
fn records_are_found_by_patient_field_machine_day_and_by_the_beams_of_a_plan() {
    let mut site = Site::new();
    morning(&mut site);
    site.run();
    let names = |arguments: &[&str]| -> Vec<String> {
        let found = trf(&site, &[&["find", "--paths"], arguments].concat()).unwrap_or_default();
        let mut names: Vec<_> = found
            .lines()
            .map(|line| Path::new(line).file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&["--patient", "QA0002"]), ["1.trf"]);
    assert_eq!(names(&["--field", "3-1/AP"]), ["2.trf"]);
    assert_eq!(names(&["--machine", "LA1", "--day", "2026-03-02"]), ["0.trf", "1.trf", "2.trf"]);
    assert_eq!(names(&["--machine", "2694", "--field", "AP", "--near", "2026-03-02T08:11"]), ["1.trf"]);
    assert_eq!(names(&["--plan", &plan(&site, "QA0003", "3-1")]), ["2.trf"]);
    assert_eq!(names(&["--patient", "QA0009"]), [""; 0]);
    // Another patient's record is never found by a beam's name alone.
    let nobody = plan(&site, "QA0009", "3-1");
    assert!(trf(&site, &["find", "--plan", &nobody]).is_err());
    let no_plan = trf(&site, &["find", "--plan", &site.root().join(&site.files()[0]).display().to_string()]);
    assert!(no_plan.unwrap_err().contains("hint:"));
}

#[test]
fn a_person_sees_the_candidates_and_decides_on_the_command_line() {
    let mut site = Site::new();
    ambiguous(&mut site);
    site.run();
    let list = trf(&site, &["review"]).unwrap();
    assert!(list.contains("QA0001") && list.contains("QA0002") && list.contains("review decide"), "{list}");
    let record = list.split_whitespace().next().unwrap();
    let wrong = trf(&site, &["review", "decide", record, "7"]).unwrap_err();
    assert!(wrong.contains("hint:"), "{wrong}");
    assert!(trf(&site, &["review", "decide", record, "first"]).unwrap_err().contains("hint:"));
    assert_eq!(site.files(), ["to_be_reviewed/0.trf"], "nothing was decided");
    let before = site.index().reviews().unwrap().remove(0);
    let second = before.candidates.iter().position(|c| c.treatments[0].ttx_id == Some(2)).unwrap() + 1;
    trf(&site, &["review", "decide", record, &second.to_string(), "--by", "me"]).unwrap();
    assert_eq!(
        site.files(),
        ["indexed/Site/QA0002_Phantom_No2/qa/20_1-1_AP_VMAT/2026-03-02_080031_2694/0.trf"]
    );
    assert_eq!(trf(&site, &["review"]).unwrap(), "nothing to decide\n");
    assert_eq!(site.index().record(record).unwrap().decided_by.as_deref(), Some("me"));
}

#[test]
fn a_lost_database_is_made_again_from_the_files() {
    let mut site = Site::new();
    morning(&mut site);
    site.run();
    let before = site.files();
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(site.root().join(format!("index.sqlite{ending}")));
    }
    let run = site.run_with(&IndexOptions { rescan: true, ..IndexOptions::default() });
    assert_eq!(run.linacs["LA1"].matched, 3, "{run:?}");
    assert_eq!(site.files(), before);
}

#[test]
fn a_machine_of_no_linac_and_a_site_without_mosaiq_are_told_in_the_record() {
    let mut site = Site::new();
    site.settings.sites[0].mosaiq = None;
    let here = site.record("here.trf", "1-1/AP", "2026-03-02 08:00:31", 4, 50.0);
    let flat = site.root().join("to_be_indexed/flat.trf");
    std::fs::copy(&here, &flat).unwrap();
    let mut bytes = std::fs::read(&flat).unwrap();
    let at = bytes.windows(4).position(|four| four == b"2694").unwrap();
    bytes[at] = b'9';
    std::fs::write(&flat, bytes).unwrap();
    let run = site.run();
    assert!(run.is_clean(), "{run:?}");
    let mut reasons: Vec<_> =
        site.index().find(&Query::default()).unwrap().into_iter().filter_map(|entry| entry.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["its machine is in no [[site.linac]]", "site Site has no [site.mosaiq]"]);
}

#[test]
fn pymedphys_rule_matches_one_record_by_its_end_and_no_further_than_its_buffer() {
    let mut site = Site::new();
    morning(&mut site);
    // The clock of the linac is 10 minutes fast: PyMedPhys finds nothing, the whole day does.
    for row in &mut site.source.rows {
        row.created_local -= TimeDelta::minutes(10);
        row.edited_local -= TimeDelta::minutes(10);
    }
    let run = site.run_with(&IndexOptions { like_pymedphys: true, ..IndexOptions::default() });
    assert_eq!((run.linacs["LA1"].matched, run.linacs["LA1"].without_treatment), (0, 3), "{run:?}");
    let run = site.run_with(&IndexOptions { retry: true, ..IndexOptions::default() });
    assert_eq!(run.linacs["LA1"].matched, 3, "{run:?}");
    assert!((run.linacs["LA1"].drift_s.unwrap() - 600.0).abs() < 5.0, "{run:?}");
}
