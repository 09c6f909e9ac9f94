//! How fast the index of records takes one more, and answers, among very many: run by `tests/bench/index`. Prints JSON.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be set up has no result"
)]
#![expect(clippy::print_stdout, reason = "the result")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, NaiveDate, Utc};
use trf_core::Version;
use trf_core::index::{Entry, FileFacts, Filing, Index, Query, State, Treated, layout};
use trf_core::writer::NewRecord;

/// Records that are added one by one, and together.
const ADDED: usize = 512;
/// Questions of each kind.
const ASKED: usize = 2000;
/// Fields of one patient's fraction.
const FIELDS: usize = 8;
/// Linacs of a large group of clinics.
const MACHINES: usize = 12;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, entries] = args.as_slice() else { panic!("usage: index_pace DIRECTORY ENTRIES") };
    let (root, entries) = (PathBuf::from(root), entries.parse::<usize>().expect("a number"));
    let mut index = Index::open(&root).unwrap();
    let begin = Instant::now();
    fill(&root, entries);
    let fill_s = begin.elapsed().as_secs_f64();
    let one_by_one = filings(&root, "a");
    let begin = Instant::now();
    for filing in &one_by_one {
        index.file(std::slice::from_ref(filing)).unwrap().remove(0).unwrap();
    }
    let alone_ms = begin.elapsed().as_secs_f64() * 1e3 / ADDED as f64;
    let together = filings(&root, "b");
    let begin = Instant::now();
    index.file(&together).unwrap().into_iter().for_each(|result| drop(result.unwrap()));
    let together_ms = begin.elapsed().as_secs_f64() * 1e3 / ADDED as f64;
    let sha256s: Vec<String> = one_by_one.iter().map(|filing| filing.entry.sha256.clone()).collect();
    drop(index);

    let begin = Instant::now();
    let index = Index::open_read_only(&root).unwrap();
    assert!(index.by_sha256(sha256s.first().unwrap()).unwrap().is_some());
    let open_ms = begin.elapsed().as_secs_f64() * 1e3;
    let day = |n: usize| NaiveDate::from_ymd_opt(2020, 1, 1).unwrap() + chrono::Days::new(n as u64 % 1500);
    let machine = |n: usize| Some(format!("{}", 4000 + n % MACHINES));
    let near = |n: usize| Some(day(n).and_hms_opt(12, 0, 0).unwrap());
    let ask = |query: &Query| index.find(query).unwrap().len();
    let answers = serde_json::json!({
        "by_hash": times(|n| usize::from(index.by_sha256(sha256s.get(n % ADDED).unwrap()).unwrap().is_some())),
        "patient": times(|n| ask(&Query { patient_id: Some(format!("P{:06}", n % 20_000)), limit: 100, ..Query::default() })),
        "machine_and_day": times(|n| ask(&Query { machine: machine(n), day: Some(day(n)), limit: 100, ..Query::default() })),
        "machine_field_near": times(|n| ask(&Query {
            machine: machine(n), field: Some(format!("{}-1/AP", 1 + n % 9)), near: near(n), ..Query::default()
        })),
        "newest_of_machine_and_field": times(|n| ask(&Query {
            machine: machine(n), field: Some(format!("Field {}", n % 40)), limit: 1, ..Query::default()
        })),
    });
    let bytes = std::fs::metadata(root.join(layout::DATABASE)).unwrap().len();
    let result = serde_json::json!({
        "entries": entries, "database_mb": bytes / 1_000_000, "fill_s": fill_s, "add_one_by_one_ms": alone_ms,
        "add_together_ms": together_ms, "open_and_ask_ms": open_ms, "ask_ms": answers,
    });
    println!("{result}");
}

fn times(ask: impl Fn(usize) -> usize) -> serde_json::Value {
    let mut answers = 0;
    let mut times_ms: Vec<f64> = (0..ASKED)
        .map(|n| {
            let begin = Instant::now();
            // No two questions in a row are neighbours in the database.
            answers += ask(n * 7919);
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| times_ms.get((share * (times_ms.len() - 1) as f64) as usize).copied();
    assert!(answers > 0, "nothing was found");
    serde_json::json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0), "rows": answers as f64 / ASKED as f64})
}

fn treated(n: usize) -> Treated {
    Treated {
        ttx_id: Some(n as i64),
        pat_id1: Some(n as i64 % 20_000),
        patient_id: Some(format!("P{:06}", n % 20_000)),
        last_name: "Last".into(),
        first_name: "First".into(),
        field_id: n as i64 % 60_000,
        field_label: "1-1".into(),
        field_name: "AP".into(),
        field_type: "VMAT".into(),
        ..Treated::default()
    }
}

/// Small files, each with what its row will be.
fn filings(root: &Path, prefix: &str) -> Vec<Filing> {
    let directory = root.join("to_be_indexed");
    std::fs::create_dir_all(&directory).unwrap();
    (0..ADDED)
        .map(|n| {
            let mut record = NewRecord::agility(Version::V3);
            record.machine_id = format!("{}", 4000 + n % MACHINES);
            record.field = format!("{}-1/AP", 1 + n % 9);
            record.total_dose_tenth_mu =
                n as f64 + f64::from(prefix.as_bytes().first().copied().unwrap_or(0)) / 512.0;
            let source = directory.join(format!("{prefix}{n}.trf"));
            std::fs::write(&source, record.to_bytes().unwrap()).unwrap();
            let read = FileFacts::read(&source, |_| None).unwrap();
            let now: DateTime<Utc> = DateTime::UNIX_EPOCH;
            let mut entry = Entry::new(&read, Some("LA"), Some("Site"), now);
            entry.state = State::Indexed;
            entry.treatments = vec![treated(n / FIELDS)];
            Filing { source, entry, items: read.record.unwrap().1 }
        })
        .collect()
}

/// Rows as the index writes them, without their files: a hundred a day and machine.
fn fill(root: &Path, entries: usize) {
    let mut connection = rusqlite::Connection::open(root.join(layout::DATABASE)).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction
        .execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO entries (sha256, sha1, bytes, path, state, linac, centre, machine, field_label, field_name, utc_text,
                utc_offset_text, start_ms, end_ms, local_time, delivered_mu, beams_mu, version, rows, tries, added_s)
             SELECT randomblob(32), randomblob(20), 1000000, 'indexed/Site/P/qa/F/' || n || '.trf',
                CASE WHEN n % 50 = 0 THEN 'no_mosaiq_record_found' ELSE 'indexed' END, 'LA' || (n % 12), 'Site', '' || (4000 + n % 12),
                (1 + n % 9) || '-1', CASE WHEN n % 3 = 0 THEN 'AP' ELSE 'Field ' || (n % 40) END, '20/01/01 00:00:00 Z', '+00:00',
                1577836800000 + n * 72000, 1577836860000 + n * 72000,
                strftime('%Y-%m-%dT%H:%M:%S.000', 1577836860 + n * 72, 'unixepoch'), 100.0, '100', 3, 1500, 0, 0
             FROM n",
            [entries as i64],
        )
        .unwrap();
    transaction
        .execute_batch(
            "INSERT INTO treatments (entry, candidate, position, ttx_id, patient_id, last_name, first_name, field_id,
                field_label, field_name, field_type, qa_mode, beam_completed)
             SELECT id, 0, 0, id, printf('P%06d', id % 20000), 'Last', 'First', id % 60000, field_label, field_name, 'VMAT', 0, 1
             FROM entries WHERE state = 'indexed'",
        )
        .unwrap();
    transaction.commit().unwrap();
    // As after years of nights, not as after one transaction of a million rows.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}
