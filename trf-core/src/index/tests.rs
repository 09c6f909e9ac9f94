//! The index against files, crashes, and several processes at once.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use proptest::prelude::*;

use super::*;
use crate::Version;
use crate::writer::{NewRecord, NewRow};

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 21, 7, 0, 0).unwrap()
}

fn local(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
}

/// A small record of its own.
fn write_record(path: &Path, machine: &str, field: &str, utc: &str, mu: i32) {
    let mut record = NewRecord::agility(Version::V3);
    record.machine_id = machine.into();
    record.field = field.into();
    record.utc_text = utc.into();
    let raw = record.items.iter().position(|item| *item == crate::items::DOSE_RAW).unwrap();
    for dose in [0, mu * 64] {
        let mut values = vec![0; record.items.len()];
        values[raw] = dose;
        record.rows.push(NewRow { timestamp_ms: 0, values });
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, record.to_bytes().unwrap()).unwrap();
}

fn read(path: &Path) -> (Entry, Vec<crate::ItemPart>) {
    let read = FileFacts::read(path, |_| None).unwrap();
    let items = read.record.as_ref().map(|(_, items)| items.clone()).unwrap_or_default();
    (Entry::new(&read, Some("LA1"), Some("Site"), now()), items)
}

fn treated(ttx_id: i64, patient: &str, field_id: i64) -> Treated {
    Treated {
        ttx_id: Some(ttx_id),
        pat_id1: Some(1),
        patient_id: Some(patient.into()),
        last_name: "Phantom".into(),
        first_name: "Daily".into(),
        field_id,
        field_label: "1-1".into(),
        field_name: "AP G0".into(),
        field_type: "VMAT".into(),
        meterset_mu: Some(100.0),
        created_local: Some(local("2026-11-20 10:00:00")),
        edited_local: Some(local("2026-11-20 10:02:00")),
        qa_mode: true,
        beam_completed: true,
        ..Treated::default()
    }
}

/// A root with one record under `to_be_indexed`.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn incoming(&self, name: &str, field: &str, utc: &str) -> PathBuf {
        let path = self.root().join("to_be_indexed").join("LA1").join(name);
        write_record(&path, "2694", field, utc, 100);
        path
    }

    fn matched(&self, path: &Path) -> Filing {
        let (mut entry, items) = read(path);
        entry.state = State::Indexed;
        entry.reason = None;
        entry.next_try = None;
        entry.treatments = vec![treated(7, "QA0001", 42)];
        Filing { source: path.into(), entry, items }
    }

    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        walk(self.root(), self.root(), &mut files);
        files.sort();
        files
    }
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else if !path.to_string_lossy().contains("index.sqlite") {
            files.push(path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"));
        }
    }
}

const PLACE: &str = "indexed/Site/QA0001_Phantom_Daily/qa/42_1-1_AP-G0_VMAT/2026-11-20_110103_2694/a.trf";

#[test]
fn a_record_lies_where_pymedphys_would_put_it_and_is_found_by_everything() {
    let bench = Bench::new();
    let path = bench.incoming("a.trf", "1-1/AP G0", "26/11/20 10:01:03 Z");
    let mut index = Index::open(bench.root()).unwrap();
    let filing = bench.matched(&path);
    let filed = index.file(std::slice::from_ref(&filing)).unwrap().remove(0).unwrap();
    assert_eq!(filed, Filed::Moved { path: PLACE.into() });
    assert_eq!(bench.files(), [PLACE]);

    let entry = index.by_sha256(&filing.entry.sha256).unwrap().unwrap();
    let expected = Entry { path: PLACE.into(), ..filing.entry.clone() };
    assert_eq!(entry, expected);
    assert_eq!(entry.facts.as_ref().unwrap().delivered_mu, Some(100.0));

    let day = NaiveDate::from_ymd_opt(2026, 11, 20);
    let hits = [
        Query { patient_id: Some("QA0001".into()), ..Query::default() },
        Query { field: Some("AP G0".into()), ..Query::default() },
        Query { field: Some("1-1".into()), ..Query::default() },
        Query { field: Some("1-1/AP G0".into()), machine: Some("2694".into()), ..Query::default() },
        Query { field: Some("42".into()), machine: Some("LA1".into()), day, ..Query::default() },
        Query { field_among: vec!["other".into(), "AP G0".into()], qa_mode: Some(true), ..Query::default() },
        Query { state: Some(State::Indexed), near: Some(local("2026-11-19 00:00:00")), ..Query::default() },
    ];
    for query in hits {
        assert_eq!(index.find(&query).unwrap(), std::slice::from_ref(&expected), "{query:?}");
    }
    let misses = [
        Query { patient_id: Some("QA000".into()), ..Query::default() },
        Query { field: Some("AP".into()), ..Query::default() },
        Query { machine: Some("LA2".into()), ..Query::default() },
        Query { day: day.and_then(|d| d.succ_opt()), ..Query::default() },
        Query { qa_mode: Some(false), ..Query::default() },
        Query { state: Some(State::Review), ..Query::default() },
    ];
    for query in misses {
        assert!(index.find(&query).unwrap().is_empty(), "{query:?}");
    }
    assert_eq!(index.record(entry.short()).unwrap(), expected);
    assert!(
        index.record("zzzzzz").is_err() && index.record("12").is_err() && index.record("000000").is_err()
    );
    assert_eq!(index.claimed_by(7).unwrap().len(), 1);
    assert_eq!(Index::open_read_only(bench.root()).unwrap().counts().unwrap().indexed, 1);
}

#[test]
fn the_nearest_record_is_the_one_that_ran_then_or_ended_closest() {
    let bench = Bench::new();
    let mut index = Index::open(bench.root()).unwrap();
    for (name, utc) in [("a.trf", "26/11/20 10:00:00 Z"), ("b.trf", "26/11/20 12:00:00 Z")] {
        let path = bench.incoming(name, "1-1/AP G0", utc);
        let (entry, items) = read(&path);
        index.file(&[Filing { source: path, entry, items }]).unwrap().remove(0).unwrap();
    }
    let nearest = |text: &str| {
        let near = Some(local(text));
        let found = index.find(&Query { machine: Some("LA1".into()), near, ..Query::default() }).unwrap();
        assert_eq!(found.len(), 1);
        found[0].path.clone()
    };
    // Local is UTC+1 in these records.
    assert!(nearest("2026-11-20 11:59:00").ends_with("a.trf"));
    assert!(nearest("2026-11-20 12:01:00").ends_with("b.trf"));
    assert!(nearest("2027-01-01 00:00:00").ends_with("b.trf"));
    assert!(nearest("2020-01-01 00:00:00").ends_with("a.trf"));
}

#[test]
fn records_of_one_name_are_both_kept_and_one_record_twice_is_kept_once() {
    let bench = Bench::new();
    let mut index = Index::open(bench.root()).unwrap();
    let first = bench.incoming("a.trf", "1-1/AP G0", "26/11/20 10:01:03 Z");
    let bytes = std::fs::read(&first).unwrap();
    let second = bench.root().join("to_be_indexed/LA2/a.trf");
    write_record(&second, "2694", "1-1/AP G0", "26/11/20 10:01:03 Z", 101);
    let again = bench.root().join("to_be_indexed/LA1/copy.trf");
    std::fs::write(&again, &bytes).unwrap();
    let filings: Vec<Filing> = [&first, &second, &again].map(|path| bench.matched(path)).into();
    let results: Vec<Filed> = index.file(&filings).unwrap().into_iter().map(|r| r.unwrap()).collect();
    let other = PLACE.replace("a.trf", &format!("a_{}.trf", &filings[1].entry.sha256[..8]));
    assert_eq!(
        results,
        [
            Filed::Moved { path: PLACE.into() },
            Filed::Moved { path: other.clone() },
            Filed::Known { path: PLACE.into() }
        ]
    );
    assert_eq!(bench.files(), [PLACE.to_owned(), other]);

    // A file that is damaged is set aside, and the good one takes its place.
    std::fs::write(bench.root().join(PLACE), b"damaged").unwrap();
    std::fs::write(&again, &bytes).unwrap();
    let filed = index.file(&[bench.matched(&again)]).unwrap().remove(0).unwrap();
    assert_eq!(filed, Filed::Restored { path: PLACE.into() });
    assert_eq!(std::fs::read(bench.root().join(PLACE)).unwrap(), bytes);
    assert!(bench.root().join(PLACE).with_extension("damaged").exists());
}

#[test]
fn what_a_person_decides_moves_the_record() {
    let bench = Bench::new();
    let mut index = Index::open(bench.root()).unwrap();
    for (name, mu) in [("a.trf", 100), ("b.trf", 90)] {
        let path = bench.root().join("to_be_indexed/LA1").join(name);
        write_record(&path, "2694", "1-1/AP G0", "26/11/20 10:01:03 Z", mu);
        let mut filing = bench.matched(&path);
        filing.entry.state = State::Review;
        filing.entry.treatments.clear();
        filing.entry.candidates = vec![
            Candidate {
                treatments: vec![treated(1, "QA0009", 1), treated(2, "QA0009", 2)],
                behind: Some(0.0),
                drift_s: Some(3.5),
            },
            Candidate { treatments: vec![treated(3, "QA0001", 42)], behind: None, drift_s: None },
        ];
        index.file(&[filing]).unwrap().remove(0).unwrap();
    }
    let reviews = index.reviews().unwrap();
    assert_eq!(reviews.iter().map(|e| e.candidates.len()).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(reviews[0].candidates[0].treatments.len(), 2);
    assert!(index.find(&Query { patient_id: Some("QA0001".into()), ..Query::default() }).unwrap().is_empty());

    let a = reviews.iter().find(|e| e.path.ends_with("a.trf")).unwrap();
    let b = reviews.iter().find(|e| e.path.ends_with("b.trf")).unwrap();
    assert!(index.decide(a.short(), Some(3), "physicist").is_err());
    let decided = index.decide(a.short(), Some(2), "physicist").unwrap();
    assert_eq!((decided.path.as_str(), decided.decided_by.as_deref()), (PLACE, Some("physicist")));
    assert!(decided.candidates.is_empty() && decided.treatments == [treated(3, "QA0001", 42)]);
    let none = index.decide(b.short(), None, "physicist").unwrap();
    assert_eq!((none.state, none.next_try), (State::NoMosaiqRecordFound, None));
    assert_eq!(bench.files(), [PLACE, "no_mosaiq_record_found/b.trf"]);
    assert!(index.decide(a.short(), Some(1), "physicist").is_err());
}

#[test]
fn a_damaged_file_a_service_beam_and_a_waiting_record_each_have_their_place() {
    let bench = Bench::new();
    let mut index = Index::open(bench.root()).unwrap();
    let damaged = bench.root().join("to_be_indexed/LA1/bad.trf");
    std::fs::create_dir_all(damaged.parent().unwrap()).unwrap();
    std::fs::write(&damaged, b"PK not a record of QA0001").unwrap();
    let paths = [
        damaged,
        bench.incoming("service.trf", "QUICK BEAM", "26/11/20 10:01:03 Z"),
        bench.incoming("waiting.trf", "1-1/AP G0", "26/11/20 10:01:03 Z"),
    ];
    let filings: Vec<Filing> = paths
        .iter()
        .map(|path| {
            let (entry, items) = read(path);
            Filing { source: path.clone(), entry, items }
        })
        .collect();
    assert!(!filings[0].entry.reason.as_ref().unwrap().contains("QA0001"));
    index.file(&filings).unwrap().into_iter().for_each(|r| drop(r.unwrap()));
    assert_eq!(
        bench.files(),
        [
            "no_field_label_in_logfile/service.trf",
            "no_mosaiq_record_found/waiting.trf",
            "unknown_error_in_logfile/bad.trf"
        ]
    );
    let due = index.due(now()).unwrap();
    assert_eq!(due.len(), 1);
    assert!(due[0].path.ends_with("waiting.trf"));
    assert_eq!(index.waiting().unwrap(), due);
    let span = |from: &str, until: &str| index.around("LA1", local(from), local(until)).unwrap();
    assert_eq!(span("2026-11-20 11:01:03", "2026-11-20 11:01:04"), due);
    assert!(span("2026-11-20 11:00:00", "2026-11-20 11:01:03").is_empty());
    let counts = index.counts().unwrap();
    let expected = Counts {
        records: 3,
        no_mosaiq_record_found: 1,
        tried_again: 1,
        unknown_error_in_logfile: 1,
        no_field_label_in_logfile: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn the_clock_of_a_day_is_asked_from_both_sides() {
    let index = Index::open(Bench::new().root()).unwrap();
    let day = |d| NaiveDate::from_ymd_opt(2026, 11, d).unwrap();
    for (d, seconds) in [(1, 5.0), (3, 7.0), (9, 20.0), (3, 8.0)] {
        index.set_drift("2694", &ClockDay { day: day(d), seconds, spread_s: 0.5, n_pairs: 12 }).unwrap();
    }
    let (before, after) = index.drifts_around("2694", day(5)).unwrap();
    assert_eq!((before.map(|d| d.seconds), after.map(|d| d.seconds)), (Some(8.0), Some(20.0)));
    let (before, after) = index.drifts_around("2694", day(1)).unwrap();
    assert_eq!((before, after.map(|d| d.day)), (None, Some(day(3))));
    assert_eq!(index.drifts_around("other", day(5)).unwrap(), (None, None));
}

#[test]
fn two_processes_that_enter_the_same_files_lose_and_double_nothing() {
    let bench = Bench::new();
    let paths: Vec<PathBuf> = (0..40)
        .map(|n| {
            let path = bench.root().join(format!("to_be_indexed/LA1/{n}.trf"));
            write_record(&path, "2694", "1-1/AP G0", "26/11/20 10:01:03 Z", n + 1);
            path
        })
        .collect();
    let filings: Vec<Filing> = paths.iter().map(|path| bench.matched(path)).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut index = Index::open(bench.root()).unwrap();
                for filing in &filings {
                    // Another thread may have moved the file away in the same moment: told, never harmful.
                    let _ = index.file(std::slice::from_ref(filing)).unwrap();
                }
            });
        }
    });
    let index = Index::open(bench.root()).unwrap();
    assert_eq!(index.counts().unwrap().indexed, 40);
    assert_eq!(bench.files().len(), 40);
    for entry in index.find(&Query::default()).unwrap() {
        assert!(disk::holds(&entry.file(bench.root()), &entry.sha256, entry.bytes).unwrap());
    }
}

/// Puts an intent into the database as a process that dies would leave it.
fn leave_intent(index: &Index, filing: &Filing, done: bool) -> Entry {
    let entry = Entry { path: PLACE.into(), ..filing.entry.clone() };
    let from = filing.source.strip_prefix(index.root()).unwrap().to_string_lossy().into_owned();
    index
        .connection
        .execute(
            "INSERT INTO moves (sha256, from_path, to_path, entry, done) VALUES (?1, ?2, ?3, ?4, ?5)",
            rusqlite::params![
                rows::blob(&entry.sha256),
                from,
                entry.path,
                serde_json::to_string(&entry).unwrap(),
                done
            ],
        )
        .unwrap();
    if done {
        rows::upsert(&index.connection, &entry, None).unwrap();
    }
    entry
}

#[test]
fn each_state_in_which_a_crash_leaves_a_move_is_put_right() {
    // (the row was committed, the file was moved) -> (rows, files after)
    let waiting = "to_be_indexed/LA1/a.trf";
    let cases = [
        (false, false, Repaired { undone: 1, ..Repaired::default() }, 0, waiting),
        (false, true, Repaired { finished: 1, ..Repaired::default() }, 1, PLACE),
        (true, true, Repaired::default(), 1, PLACE),
        (true, false, Repaired { moved_again: 1, ..Repaired::default() }, 1, PLACE),
    ];
    for (done, moved, expected, rows, file) in cases {
        let bench = Bench::new();
        let path = bench.incoming("a.trf", "1-1/AP G0", "26/11/20 10:01:03 Z");
        let filing = bench.matched(&path);
        let index = Index::open(bench.root()).unwrap();
        let entry = leave_intent(&index, &filing, done);
        if moved {
            let to = bench.root().join(PLACE);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::rename(&path, to).unwrap();
        }
        drop(index);
        let index = Index::open(bench.root()).unwrap();
        assert_eq!(*index.repaired(), expected, "done {done}, moved {moved}");
        assert_eq!(bench.files(), [file]);
        let found = index.by_sha256(&filing.entry.sha256).unwrap();
        assert_eq!(found, (rows == 1).then_some(entry));
        assert!(Index::open(bench.root()).unwrap().repaired().is_nothing());
    }
}

#[test]
fn a_file_that_someone_took_away_is_told_and_stops_nothing() {
    let bench = Bench::new();
    let path = bench.incoming("a.trf", "1-1/AP G0", "26/11/20 10:01:03 Z");
    let filing = bench.matched(&path);
    let mut index = Index::open(bench.root()).unwrap();
    leave_intent(&index, &filing, false);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Index::open(bench.root()).unwrap().repaired().vanished, [filing.entry.short()]);
    let other = bench.incoming("b.trf", "1-1/AP G0", "26/11/20 11:01:03 Z");
    let results = index.file(&[filing, bench.matched(&other)]).unwrap();
    assert!(matches!(&results[0], Err(Error::Io { .. })), "{:?}", results[0]);
    assert!(results[1].is_ok());
    assert_eq!(index.counts().unwrap().records, 1);
}

#[test]
fn a_newer_or_damaged_database_is_refused_with_a_remedy() {
    let bench = Bench::new();
    assert!(Index::open_read_only(bench.root()).unwrap_err().hint().contains("trf sync"));
    drop(Index::open(bench.root()).unwrap());
    let database = bench.root().join(layout::DATABASE);
    Connection::open(&database).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(Index::open(bench.root()).unwrap_err().to_string().contains("newer version"));
    std::fs::write(&database, b"this is no database, and never was one").unwrap();
    let error = Index::open(bench.root()).unwrap_err();
    assert!(error.hint().contains("--rescan"), "{error}: {}", error.hint());
}

#[test]
fn an_index_of_pymedphys_is_taken_over_file_by_file_and_written_as_it_was() {
    let bench = Bench::new();
    let file = bench.root().join("indexed/Site/P1_A_B/clinical/5_1-1_AP-G0_Arc/2026-11-20_110103_2694/x.trf");
    write_record(&file, "2694", "1-1/AP G0", "26/11/20 10:01:03 Z", 7);
    let sha1 = FileFacts::read(&file, |_| None).unwrap().sha1;
    let entry = |path: &str| {
        serde_json::json!({"filepath": path, "local_time": "2026-11-20 11:01:03", "logfile_header": {"machine": "2694"},
            "delivery_details": {"patient_id": "P1", "field_id": 5, "last_name": "A", "first_name": "B",
                "qa_mode": false, "field_type": "Arc", "beam_completed": true}})
    };
    let theirs = serde_json::json!({
        sha1.clone(): entry("Site\\P1_A_B\\clinical\\5_1-1_AP-G0_Arc\\2026-11-20_110103_2694\\x.trf"),
        "00".repeat(20): entry("Site/gone.trf"),
        "11".repeat(20): entry("../../etc/passwd"),
        "22".repeat(20): entry("Site/P1_A_B/clinical/5_1-1_AP-G0_Arc/2026-11-20_110103_2694/x.trf"),
    });
    let json = bench.root().join("index.json");
    std::fs::write(&json, theirs.to_string()).unwrap();
    let mut index = Index::open(bench.root()).unwrap();
    let done = index.import_pymedphys(&json, &|_| None, now(), &|_, _| {}).unwrap();
    assert_eq!((done.imported, done.known, done.refused.len()), (1, 0, 3), "{done:?}");
    let again = index.import_pymedphys(&json, &|_| None, now(), &|_, _| {}).unwrap();
    assert_eq!((again.imported, again.known), (0, 1));
    let found = index.find(&Query { patient_id: Some("P1".into()), ..Query::default() }).unwrap();
    assert_eq!(found[0].file(bench.root()), file);

    // What we do not know is not overwritten.
    assert!(index.export_pymedphys(&json).unwrap_err().to_string().contains("3 entries"));
    let out = bench.root().join("ours.json");
    assert_eq!(index.export_pymedphys(&out).unwrap(), Exported { written: 1, left_out: 0 });
    let ours: serde_json::Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(ours[&sha1]["delivery_details"], theirs[&sha1]["delivery_details"]);
    assert_eq!(ours[&sha1]["filepath"], "Site/P1_A_B/clinical/5_1-1_AP-G0_Arc/2026-11-20_110103_2694/x.trf");
    assert_eq!(
        ours[&sha1]["logfile_header"]["item_parts_number"],
        ours[&sha1]["logfile_header"]["item_parts_length"].as_i64().unwrap() / 2
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn entries_survive_the_database(last in "\\PC{0,12}", reason in proptest::option::of("\\PC{0,12}"), mu in proptest::option::of(0.0..1e6f64)) {
        let bench = Bench::new();
        let path = bench.incoming("a.trf", "1-1/AP G0", "26/11/20 10:01:03 Z");
        let mut filing = bench.matched(&path);
        filing.entry.reason = reason;
        filing.entry.drift_s = mu;
        filing.entry.part_of = mu.map(|_| Part { first: "ab".into(), part: 1, parts: 2 });
        filing.entry.treatments[0].last_name = last;
        filing.entry.treatments[0].meterset_mu = mu;
        filing.entry.treatments[0].patient_id = None;
        let mut index = Index::open(bench.root()).unwrap();
        index.file(std::slice::from_ref(&filing)).unwrap().remove(0).unwrap();
        let found = index.by_sha256(&filing.entry.sha256).unwrap().unwrap();
        prop_assert!(found.file(bench.root()).is_file());
        filing.entry.path = found.path.clone();
        prop_assert_eq!(found, filing.entry);
    }
}
