//! `echo`, `find` and `fetch` as a user runs them: output, exit codes, several processes at once.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[expect(
    dead_code,
    unreachable_pub,
    reason = "ports and waits of the tests' peers; the peers are not used here"
)]
#[path = "../../tests/src/peers/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use dicom_dictionary_std::tags;
use scp_node::demo::{AriaOptions, Faults, GeneratedPatient, PatientOptions, SimulatedAria};

struct Site {
    aria: SimulatedAria,
    config: PathBuf,
    port: u16,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Site {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let port = process::free_port();
        let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
        let options = AriaOptions::new(patient.instances, "SCP_NODE", ([127, 0, 0, 1], port).into()).unwrap();
        let aria = runtime.block_on(SimulatedAria::start(options)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        let text = format!(
            "[node]\nbind = '127.0.0.1'\nport = {port}\n[web]\nbind = ''\n[images]\nroot = '{}'\n\
             [[archive]]\nname = 'aria'\nae_title = 'ARIA_DB'\nhost = '127.0.0.1'\nport = {}\n",
            directory.path().join("images").display(),
            aria.address().port()
        );
        std::fs::write(&config, text).unwrap();
        Self { aria, config, port, directory, _runtime: runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
        command.arg("--config").arg(&self.config).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        texts(self.command(args).output().unwrap())
    }

    fn fetch(&self, more: &[&str]) -> (Option<i32>, String, String) {
        self.run(&[&["fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV"], more].concat())
    }

    fn moves(&self) -> usize {
        self.aria.asked().iter().filter(|a| a.what == "C-MOVE").count()
    }
}

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn files(directory: &str) -> usize {
    let entries = std::fs::read_dir(Path::new(directory)).unwrap();
    entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "dcm")).count()
}

#[test]
fn fetch_prints_the_directory_and_nothing_else_on_stdout() {
    let site = Site::start();
    let (code, out, err) = site.fetch(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert_eq!(files(out.trim()), 4);
    assert!(
        err.contains("note: 2 plans are called `WL_10MV`") && err.contains("4 images of WL_10MV"),
        "{err}"
    );
    let (code, again, err) = site.fetch(&[]);
    assert_eq!((code, &again), (Some(0), &out), "{err}");
    assert!(err.contains("all were on disk"), "{err}");
    let (code, all, err) = site.fetch(&["--all-dates"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(all.lines().last(), out.lines().last(), "the newest session stands last");
    assert!(all.lines().count() > 1 && all.lines().all(|d| files(d) == 4), "{all}");
    let (code, json, err) = site.fetch(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["moved"].as_u64(), err.contains("error")), (Some(0), Some(0), false));
    assert_eq!(json["sessions"][0]["session"]["directory"].as_str(), out.lines().last());
}

#[test]
fn a_fetch_that_is_not_whole_prints_no_directory_and_fails() {
    let site = Site::start();
    site.aria.set_faults(Faults { fail_next: usize::MAX, ..Faults::default() });
    let (code, out, err) = site.fetch(&[]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let lines: Vec<_> = err.lines().collect();
    assert!(
        matches!(lines.as_slice(), [e, h] if e.starts_with("error: ") && h.starts_with("hint: ")),
        "{err}"
    );
    let (code, out, err) = site.run(&["fetch", "--patient", "QA_TB_WL", "--plan", "NOT_THERE", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["kind"].as_str()), (Some(1), Some("not_found")), "{err}");
    let (code, _, err) = site.run(&["fetch", "--patient", "QA_TB_WL"]);
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = site.fetch(&["--plan-uid", "../1"]);
    assert!(code == Some(1) && err.contains("is not a UID"), "{err}");
}

#[test]
fn processes_that_want_the_same_session_share_one_move() {
    let site = Site::start();
    let start = |args: &[&str]| -> Child {
        let mut command = site.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let same = ["fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV"];
    let other = ["fetch", "--patient", "QA_TB_WL", "--plan", "WL_6FFF"];
    let running: Vec<Child> = [&same, &same, &other, &same].map(|args| start(args)).into();
    let ended: Vec<_> = running.into_iter().map(|c| texts(c.wait_with_output().unwrap())).collect();
    assert!(ended.iter().all(|(code, ..)| *code == Some(0)), "{ended:?}");
    assert_eq!(site.moves(), 2, "one move for each plan");
}

#[test]
fn fetch_uses_the_service_when_it_runs() {
    let site = Site::start();
    let mut service = site.command(&["serve"]);
    let mut service = service.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    process::until("the service listens", Duration::from_secs(30), || {
        assert!(service.try_wait().unwrap().is_none(), "the service ended");
        std::net::TcpStream::connect(("127.0.0.1", site.port)).is_ok()
    });
    let (code, out, err) = site.fetch(&[]);
    let still_there = service.try_wait().unwrap().is_none();
    service.kill().unwrap();
    service.wait().unwrap();
    assert_eq!(code, Some(0), "{err}");
    assert!(still_there && files(out.trim()) == 4);
}

#[test]
fn echo_and_find_show_what_the_archive_has() {
    let site = Site::start();
    let (code, out, err) = site.run(&["echo", "aria"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ARIA_DB at 127.0.0.1") && out.contains("C-MOVE) is offered"), "{out}");
    let (code, out, err) = site.run(&["find", "plans", "--patient", "QA_TB_WL", "--plan", "WL_10*"]);
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}{err}");
    let (code, out, err) = site.run(&["find", "series", "--patient", "QA_TB_WL", "--json"]);
    let sessions: serde_json::Value = serde_json::from_str(&out).unwrap();
    let images: u64 = sessions.as_array().unwrap().iter().map(|s| s["mv"].as_u64().unwrap()).sum();
    assert_eq!((code, images), (Some(0), 6 * 4), "{err}");
    let (code, _, err) = site.run(&["find", "plans", "--patient", "NOBODY"]);
    assert!(code == Some(1) && err.contains("hint: "), "{err}");
    let (code, _, err) = site.run(&["echo", "other"]);
    assert!(code == Some(1) && err.contains("no archive is called `other`"), "{err}");
    assert!(site.directory.path().join("images").is_dir());
}

#[test]
fn find_plans_shows_a_plan_that_cannot_be_exported_without_its_label() {
    let site = Site::start();
    let uid = GeneratedPatient::winston_lutz(&PatientOptions::small()).plans[1].uid.clone();
    site.aria.set_faults(Faults {
        empty_keys: vec![tags::RT_PLAN_LABEL],
        fail_instances: [uid.clone()].into(),
        ..Faults::default()
    });
    let (code, out, err) = site.run(&["find", "plans", "--patient", "QA_TB_WL"]);
    assert_eq!((code, out.lines().count()), (Some(0), 4), "{out}{err}");
    let row = out.lines().find(|l| l.ends_with(&uid)).unwrap();
    assert!(row.starts_with("- "), "{out}");
    let note = format!("note: no label is known of plan {uid}");
    assert!(err.contains(&note), "{err}");
    let (code, out, err) = site.run(&["find", "plans", "--patient", "QA_TB_WL", "--plan", "WL_10*"]);
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}{err}");
    assert!(err.contains(&note), "{err}");
    let (code, json, err) = site.run(&["find", "plans", "--patient", "QA_TB_WL", "--json"]);
    let plans: serde_json::Value = serde_json::from_str(&json).unwrap();
    let unlabelled = plans.as_array().unwrap().iter().filter(|p| p["label"].is_null()).count();
    assert_eq!((code, unlabelled), (Some(0), 1), "{err}");
}

#[test]
fn find_series_keeps_those_of_which_the_archive_does_not_tell_plan_or_date() {
    let site = Site::start();
    let dates = [tags::ACQUISITION_DATE, tags::CONTENT_DATE];
    let find = |more: &[&str]| site.run(&[&["find", "series", "--patient", "QA_TB_WL"], more].concat());
    // Six sessions of kV and six of MV images, three pictures that were computed.
    for (keys, filter, what) in [
        (vec![tags::REFERENCED_RT_PLAN_SEQUENCE], ["--plan", "WL_10MV"], "plan"),
        (dates.to_vec(), ["--date", "2026-03-16"], "date"),
    ] {
        site.aria.set_faults(Faults { empty_keys: keys, ..Faults::default() });
        // Listed while it was not told: a catalog of its own.
        std::fs::remove_dir_all(site.directory.path().join("images")).ok();
        let (code, out, err) = find(&filter);
        assert_eq!((code, out.lines().count()), (Some(0), 1 + 15), "{out}{err}");
        assert!(
            err.contains(&format!("note: of 15 of these series the archive does not tell the {what}")),
            "{err}"
        );
        let (_, json, _) = find(&[&filter[..], &["--json"]].concat());
        let sessions: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(sessions.as_array().unwrap().iter().all(|s| s["untold"][0] == what), "{json}");
        let (code, _, err) = site.fetch(&["--date", "2026-03-16"]);
        assert_eq!(code, Some(0), "{err}");
        // What was looked into is known now, and sorted out.
        let (code, out, err) = find(&filter);
        assert!(code == Some(0) && out.lines().count() < 16, "{out}{err}");
    }
}

#[test]
fn how_an_archive_is_asked_is_logged_once() {
    let site = Site::start();
    let log = |more: &[&str]| {
        let fetch =
            ["--set", "log.level=info", "fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV", "--refresh"];
        let (code, _, err) = site.run(&[&fetch, more].concat());
        assert_eq!(code, Some(0), "{err}");
        err.matches("found out how this archive is asked").count()
    };
    assert_eq!((log(&[]), log(&[])), (1, 0));
}
