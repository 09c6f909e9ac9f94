//! From the linac's zips to the patient's directory, with the real program and a Mosaiq over the wire: killed at random moments, run twice
//! at once, with Mosaiq down, as a service; and nothing that is logged names a patient.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
use rusqlite::params;
use tests::node::{files_below, node_binary};
use tests::tds::{Login, TdsServer, mosaiq_tables};
use tests::zips;
use trf_core::items;
use trf_core::writer::{NewRecord, NewRow};

/// Linacs, their days, and the deliveries of each day.
const LINACS: usize = 2;
const DAYS: i64 = 3;
const PER_DAY: usize = 12;
/// Kills of the kill test.
const KILLS: u32 = 25;

/// A patient whose ID and names are words that no log could hold by chance.
struct Patient {
    id: String,
    last_name: String,
    first_name: String,
}

impl Patient {
    fn new(number: usize) -> Self {
        Self {
            id: format!("PatQX{number:04}"),
            last_name: format!("Lastnameqx{number}"),
            first_name: format!("Firstnameqx{number}"),
        }
    }
}

/// A hospital whose linacs' shares are directories and whose Mosaiq answers over TDS. The linacs' clocks are 3 minutes fast.
struct Hospital {
    dir: tempfile::TempDir,
    tds: TdsServer,
    patients: Vec<Patient>,
    /// SHA-256 to TTX_ID: which treatment each record is. Records that could be two treatments stand under none.
    truth: BTreeMap<String, Option<i64>>,
    config: PathBuf,
}

impl Hospital {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tables = mosaiq_tables();
        let mut patients = Vec::new();
        let mut truth = BTreeMap::new();
        let mut linacs = String::new();
        let mut ttx_id = 0;
        for linac in 0..LINACS {
            let name = format!("{}", 4000 + linac);
            tables
                .execute(
                    "INSERT INTO Staff VALUES (?1, ?2)",
                    params![800 + linac as i64, format!(" {name}  ")],
                )
                .unwrap();
            let share = dir.path().join("shares").join(&name);
            std::fs::create_dir_all(&share).unwrap();
            let mut before: Vec<(String, Vec<u8>)> = Vec::new();
            for day in 0..DAYS {
                let date = NaiveDate::from_ymd_opt(2026, 3, 27).unwrap() + TimeDelta::days(day);
                let mut of_day = Vec::new();
                for n in 0..PER_DAY {
                    let start = date.and_hms_opt(8, 0, 0).unwrap() + TimeDelta::minutes(10 * n as i64);
                    let (label, mu, seconds) = (format!("{}-1", n + 1), 40.0 + n as f64, 2 + n as i64 % 3);
                    // The last one of each day has a twin: the same field of another patient in the same second.
                    let twin = n + 1 == PER_DAY;
                    for _ in 0..1 + usize::from(twin) {
                        ttx_id += 1;
                        let patient = patients.len();
                        patients.push(Patient::new(patient));

                        fill(
                            &tables,
                            &patients[patient],
                            patient as i64,
                            linac,
                            ttx_id,
                            &label,
                            mu,
                            start,
                            seconds,
                        );
                    }
                    let bytes = record(&name, &label, mu, start + TimeDelta::seconds(seconds + 180), seconds);
                    truth.insert(zips::sha256(&bytes), (!twin).then_some(ttx_id));
                    of_day.push((format!("{date} {n}.trf"), bytes));
                }
                // A backup holds what the one before held, too.
                let held = before.iter().chain(&of_day).cloned().collect::<Vec<_>>();
                std::fs::write(share.join(format!("SDD+{date}.zip")), zips::zip_of(1000, held.into_iter()))
                    .unwrap();
                before = of_day;
            }
            linacs += &format!("[[site.linac]]\nname = '{name}'\nnss_path = '{}'\n", share.display());
        }
        let tds = TdsServer::start(tables, Login::new("reader", "secret of the reader"));
        let config = dir.path().join("config.toml");
        let text = format!(
            "[trf]\nroot = '{}'\nkeep_free_bytes = 0\n[log]\nlevel = 'trace'\n[[site]]\nname = 'Site'\n[site.mosaiq]\nhost = '127.0.0.1'\n\
             port = {}\ntime_zone = 'Europe/Berlin'\nencrypt = 'none'\nuser = 'reader'\npassword = 'secret of the reader'\n{linacs}",
            dir.path().join("trf").display(),
            tds.port(),
        );
        std::fs::write(&config, text).unwrap();
        Self { dir, tds, patients, truth, config }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("trf")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(node_binary());
        command.args(arguments).env("SCP_NODE_CONFIG", &self.config).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[&["--json"], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error}: {text}\n{}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Names and IDs of all patients.
    fn identities(&self) -> Vec<&str> {
        self.patients.iter().flat_map(|p| [p.id.as_str(), &p.last_name, &p.first_name]).collect()
    }

    /// Fails if a text names a patient.
    fn names_nobody(&self, what: &str, text: &str) {
        let named: Vec<&str> = self.identities().into_iter().filter(|word| text.contains(word)).collect();
        let example = named.first().and_then(|word| text.lines().find(|line| line.contains(word)));
        assert!(named.is_empty(), "{what} names {} patients, such as in {example:?}", named.len());
    }

    /// Every record of the shares is in the index once, its file is where its row says, and there is no other.
    fn nothing_is_lost_or_doubled(&self) {
        let found = self.json(&["trf", "find", "--limit", "0"]);
        let entries = found.as_array().unwrap();
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry["sha256"].as_str().unwrap()).collect();
        assert_eq!(names.len(), entries.len(), "a record is in the index twice");
        assert_eq!(names, self.truth.keys().map(String::as_str).collect::<BTreeSet<_>>());
        let mut files = BTreeSet::new();
        for entry in entries {
            let file = Path::new(entry["file"].as_str().unwrap());
            let sha256 = zips::sha256(&std::fs::read(file).unwrap());
            assert_eq!(entry["sha256"], sha256.as_str(), "another file lies at a record's place");
            files.insert(file.to_owned());
        }
        let on_disk: BTreeSet<PathBuf> = files_below(&self.root(), ".trf").into_iter().collect();
        assert_eq!(on_disk, files, "a file lies around twice, or was left");
    }

    /// How many records have their treatment, and how many are in review; a wrong one fails.
    fn matches(&self) -> (usize, usize) {
        let found = self.json(&["trf", "find", "--limit", "0"]);
        let (mut right, mut review) = (0, 0);
        for entry in found.as_array().unwrap() {
            review += usize::from(entry["state"] == "review");
            if entry["state"] == "indexed" {
                let told: Vec<i64> = entry["treatments"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|row| row["ttx_id"].as_i64().unwrap())
                    .collect();
                let truth: Vec<i64> = self.truth[entry["sha256"].as_str().unwrap()].into_iter().collect();
                assert_eq!(told, truth, "record {}", entry["sha256"]);
                right += 1;
            }
        }
        (right, review)
    }

    /// What [`Hospital::matches`] gives when all is done.
    fn all_matches(&self) -> (usize, usize) {
        let twins = self.truth.values().filter(|ttx_id| ttx_id.is_none()).count();
        (self.truth.len() - twins, twins)
    }
}

/// A delivery as Mosaiq has it; its wall clock is Berlin's.
#[expect(clippy::too_many_arguments, reason = "columns of a row")]
fn fill(
    tables: &rusqlite::Connection,
    patient: &Patient,
    pat_id1: i64,
    linac: usize,
    ttx_id: i64,
    label: &str,
    mu: f64,
    start: NaiveDateTime,
    seconds: i64,
) {
    let insert = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        tables.execute(sql, values).unwrap();
    };
    insert(
        "INSERT INTO Patient VALUES (?1, ?2, ?3)",
        params![pat_id1, patient.last_name, patient.first_name],
    );
    insert("INSERT INTO Ident VALUES (?1, ?1, ?2)", params![pat_id1, patient.id]);
    insert(
        "INSERT INTO TxField VALUES (?1, ?1, ?2, ?3, 'AP', 13, ?4, 0)",
        params![1000 + ttx_id, pat_id1, label, mu],
    );
    let text = |time: NaiveDateTime| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    insert(
        "INSERT INTO TrackTreatment VALUES (?1, ?2, ?3, ?1, ?4, ?5, ?6, 0, 1, 1, 0, 1)",
        params![
            ttx_id,
            pat_id1,
            1000 + ttx_id,
            800 + linac as i64,
            text(start),
            text(start + TimeDelta::seconds(seconds + 1))
        ],
    );
}

/// The record of a delivery that ended then on the linac's clock.
fn record(machine: &str, label: &str, mu: f64, end_berlin: NaiveDateTime, seconds: i64) -> Vec<u8> {
    let mut record = NewRecord::agility(trf_core::Version::V3);
    record.machine_id = machine.into();
    record.field = format!("{label}/AP");
    // The clocks change in the night to 29 March.
    let summer = end_berlin.date() >= NaiveDate::from_ymd_opt(2026, 3, 29).unwrap();
    let utc = end_berlin - TimeDelta::hours(if summer { 2 } else { 1 });
    record.utc_text = utc.format("%y/%m/%d %H:%M:%S Z").to_string();
    let raw = record.items.iter().position(|item| *item == items::DOSE_RAW).unwrap();
    let rows = seconds * 25;
    for row in 0..rows {
        let mut values = vec![0; record.items.len()];
        values[raw] = (mu * 64.0 * row as f64 / (rows - 1) as f64).round() as i32;
        record.rows.push(NewRow { timestamp_ms: 40 * row, values });
    }
    record.to_bytes().unwrap()
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_at_random_moments_and_run_twice_at_once_sync_loses_and_doubles_nothing() {
    let hospital = Hospital::new();
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    for kill in 0..KILLS {
        let mut children = vec![spawn(hospital.command(&["trf", "sync"]))];
        if kill % 3 == 0 {
            children.push(spawn(hospital.command(&["trf", "sync"])));
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Later kills come later, so that every step is reached.
        let moment = Instant::now() + Duration::from_millis(20 + random % (60 + 40 * u64::from(kill)));
        tests::peers::until("the moment to kill", Duration::from_secs(30), || Instant::now() >= moment);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let at_once = [spawn(hospital.command(&["trf", "sync"])), spawn(hospital.command(&["trf", "sync"]))];
    for mut child in at_once {
        assert!(child.wait().unwrap().success());
    }
    hospital.nothing_is_lost_or_doubled();
    let (right, review) = hospital.matches();
    eprintln!("{KILLS} kills; {} records, {right} matched, {review} in review", hospital.truth.len());
    assert_eq!((right, review), hospital.all_matches());
}

#[test]
fn nothing_that_any_command_logs_names_a_patient() {
    let hospital = Hospital::new();
    let mut logs = String::new();
    let mut log = |output: Output| logs.push_str(&String::from_utf8_lossy(&output.stderr));
    log(hospital.run(&["trf", "sync"]));
    // Once more, with a record that is damaged in its field's name.
    let damaged = hospital.root().join("to_be_indexed/4000");
    std::fs::create_dir_all(&damaged).unwrap();
    let mut bytes = record(
        "4000",
        &hospital.patients[0].id,
        1.0,
        NaiveDate::from_ymd_opt(2026, 3, 27).unwrap().and_hms_opt(7, 0, 0).unwrap(),
        1,
    );
    bytes.truncate(60);
    std::fs::write(damaged.join("damaged.trf"), bytes).unwrap();
    log(hospital.run(&["trf", "index", "--retry"]));
    log(hospital.run(&["trf", "review"]));
    let reviews = hospital.json(&["trf", "review"]);
    let record = reviews[0]["sha256"].as_str().unwrap_or_else(|| panic!("{reviews}"));
    log(hospital.run(&["trf", "review", "decide", record, "9", "--by", "test"]));
    log(hospital.run(&["trf", "review", "decide", record, "1", "--by", "test"]));
    log(hospital.run(&["trf", "review", "decide", record, "1", "--by", "test"]));
    // PyMedPhys's rule knows no review, so it comes after the decisions.
    log(hospital.run(&["trf", "index", "--like-pymedphys", "--retry"]));
    log(hospital.run(&["trf", "index", "--rescan"]));
    log(hospital.run(&["trf", "index", "--export-pymedphys"]));
    log(hospital.run(&["trf", "index", "--import-pymedphys"]));
    log(hospital.run(&["trf", "find", "--machine", "4000"]));
    log(hospital.run(&["trf", "find", "--patient", &hospital.patients[0].id]));
    log(hospital.run(&["mosaiq", "check"]));
    // A patient's directory that nobody can write into.
    let mut file = PathBuf::from(
        hospital.json(&["trf", "find", "--state", "indexed", "--limit", "1"])[0]["file"].as_str().unwrap(),
    );
    let away = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    file.pop();
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, b"a file in the directory's place").unwrap();
    std::fs::write(damaged.join("again.trf"), away).unwrap();
    let in_the_way = hospital.run(&["trf", "index"]);
    assert!(!in_the_way.status.success());
    log(in_the_way);

    hospital.names_nobody("the log", &logs);
    // Reports are read by others than those who treat.
    for report in files_below(&hospital.root().join("reports"), ".json") {
        hospital.names_nobody("a report", &std::fs::read_to_string(report).unwrap());
    }
    assert!(logs.contains("INFO"), "nothing was logged:\n{logs}");
    // The words are there to be found, where they should be.
    let found = String::from_utf8(hospital.run(&["trf", "find", "--limit", "0"]).stdout).unwrap();
    assert!(found.contains(&hospital.patients[0].id), "{found}");
}

#[test]
fn the_service_syncs_by_itself_and_a_mosaiq_that_is_down_keeps_neither_dicom_nor_records() {
    let hospital = Hospital::new();
    let port_of_nobody = tests::peers::free_port();
    let text = std::fs::read_to_string(&hospital.config).unwrap();
    let down = text.replace(&format!("port = {}", hospital.tds.port()), &format!("port = {port_of_nobody}"));
    std::fs::write(&hospital.config, down).unwrap();
    let log = hospital.dir.path().join("serve.log");
    let serve = || {
        let mut command = hospital.command(&[
            "--set",
            "node.bind=127.0.0.1",
            "--set",
            "node.port=0",
            "--set",
            "images.keep_free_bytes=0",
            "--set",
            "web.bind=",
        ]);
        command.args([
            "--set",
            &format!("images.root={}", hospital.dir.path().join("images").display()),
            "serve",
        ]);
        command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap());
        command.spawn().unwrap()
    };
    let report = |n: usize| {
        let reports = hospital.root().join("reports");
        tests::peers::until("the service to sync", Duration::from_secs(60), || {
            files_below(&reports, ".json").len() >= n
        });
    };
    let mut service = serve();
    report(1);
    let by_machine = hospital.json(&["trf", "find", "--machine", "4000"]);
    assert!(!by_machine.as_array().unwrap().is_empty(), "records are found without Mosaiq");
    assert_eq!(hospital.matches(), (0, 0));
    assert!(service.try_wait().unwrap().is_none(), "the service runs");
    service.kill().unwrap();
    service.wait().unwrap();

    // Mosaiq is up again; the service starts in the morning after and catches up.
    std::fs::write(&hospital.config, text).unwrap();
    for old in files_below(&hospital.root().join("reports"), ".json") {
        std::fs::remove_file(old).unwrap();
    }
    let mut service = serve();
    report(1);
    assert!(Command::new("kill").arg(service.id().to_string()).status().unwrap().success());
    assert!(service.wait().unwrap().success(), "a stop is orderly");
    hospital.nothing_is_lost_or_doubled();
    assert_eq!(hospital.matches(), hospital.all_matches());
    let logged = std::fs::read_to_string(&log).unwrap();
    hospital.names_nobody("the service's log", &logged);
    assert!(logged.contains("treatments cannot be read"), "{logged}");
}
