//! How long the newest session of a plan takes to find among very many images.

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};
use scp_node::images::{Beam, Catalog, SessionFilter};
use serde_json::{Value, json};

/// Images of a session: a Winston-Lutz series.
const PER_SESSION: usize = 16;
/// Patients and plans of a large department's QA: eight machines, five phantoms each, four plans per phantom.
const PATIENTS: usize = 40;
const PLANS: usize = 4;

/// Fills a catalog with so many images, and asks it.
pub(crate) fn run(root: &Path, images: usize) -> Value {
    std::fs::create_dir_all(root).unwrap();
    drop(Catalog::open(root).unwrap());
    fill(root, images / PER_SESSION);
    let filter = |n: usize| SessionFilter {
        patient_id: Some(format!("QA_{}", n % PATIENTS)),
        plan_label: Some(format!("WL_{}", n / PATIENTS % PLANS)),
        beam: Some(Beam::Mv),
        image_type: Some("PORTAL".into()),
        ..SessionFilter::default()
    };
    let find = |catalog: &Catalog, n: usize| {
        let session = catalog.newest_session(&filter(n)).unwrap().expect("a session");
        assert_eq!(catalog.instances(&session).unwrap().len(), PER_SESSION);
    };
    // What a composite test sees: a process that opens the catalog and asks once.
    let begin = Instant::now();
    find(&Catalog::open_readonly(root).unwrap(), 1);
    let first_ms = begin.elapsed().as_secs_f64() * 1e3;
    let catalog = Catalog::open_readonly(root).unwrap();
    let mut times_ms: Vec<f64> = (0..2000)
        .map(|n| {
            let begin = Instant::now();
            find(&catalog, n);
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| times_ms.get((share * (times_ms.len() - 1) as f64) as usize).copied();
    let bytes = Catalog::file(root).metadata().unwrap().len();
    json!({
        "images": images, "sessions": images / PER_SESSION, "catalog_mb": bytes / 1_000_000,
        "open_and_ask_ms": first_ms, "ask_p50_ms": at(0.5), "ask_p99_ms": at(0.99), "ask_max_ms": at(1.0),
    })
}

/// One transaction; rows as the receiver writes them.
fn fill(root: &Path, sessions: usize) {
    let mut connection = Connection::open(Catalog::file(root)).unwrap();
    let transaction = connection.transaction().unwrap();
    {
        let mut session = transaction
            .prepare("INSERT INTO sessions VALUES (?1, 'images', ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
            .unwrap();
        let mut instance = transaction
            .prepare(
                "INSERT INTO instances VALUES (?1, ?2, ?3, 3277000, '1.2.840.10008.5.1.4.1.1.481.1',
                 '1.2.840.10008.1.2', ?4, ?5, 'RTIMAGE', ?6, ?7, ?8, ?9, 0, 0, 1500, 0.336, 0.336, 1280, 1280, 'TB1')",
            )
            .unwrap();
        for n in 0..sessions {
            let (patient, plan) = (n % PATIENTS, n / PATIENTS % PLANS);
            let day = n / (PATIENTS * PLANS);
            let date = chrono::NaiveDate::from_ymd_opt(2024, 1, 1).unwrap() + chrono::Days::new(day as u64);
            let acquired = format!("{date}T06:{plan:02}:00.000000");
            let series = format!("2.25.900.5.{n}");
            let (patient_id, label) = (format!("QA_{patient}"), format!("WL_{plan}"));
            let plan_uid = format!("2.25.900.6.{patient}.{plan}");
            let directory = format!("{patient_id}/{label}/{date}/06{plan:02}00_{n:08x}");
            session
                .execute(params![
                    n as i64,
                    patient_id,
                    plan_uid,
                    label,
                    series,
                    date.to_string(),
                    acquired,
                    directory
                ])
                .unwrap();
            // Every third session is a kV series, so that the newest of all is not always the one that is wanted.
            let kv = (n / (PATIENTS * PLANS)).is_multiple_of(3);
            for image in 0..PER_SESSION {
                let uid = format!("2.25.900.7.{n}.{image}");
                instance
                    .execute(params![
                        uid,
                        n as i64,
                        format!("RI.{uid}.dcm"),
                        format!("2.25.900.8.{n}"),
                        image as i64 + 1,
                        "ORIGINAL\\PRIMARY\\PORTAL",
                        acquired,
                        if kv { "kV" } else { "MV" },
                        image as f64 * 22.5
                    ])
                    .unwrap();
            }
        }
    }
    transaction.commit().unwrap();
}
