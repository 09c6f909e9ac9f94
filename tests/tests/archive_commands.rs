//! `echo`, `find`, `fetch` and the log as a user meets them, beyond what `archive_cli` shows: options, stops, errors.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dicom_dictionary_std::tags;
use scp_node::demo::{Faults, PatientOptions};
use scp_node::dimse::Status;
use tests::node::files_below;
use tests::peers::until;
use tests::site::{Guarded, Site};

/// Longest wait for something that happens within a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);

/// Answers that no slow machine makes too late.
const TIMEOUT_S: f64 = 50.0;

async fn start(patient: PatientOptions, faults: Faults) -> Site {
    Site::start(&patient, faults, TIMEOUT_S).await
}

fn run(site: &Site, args: &[&str]) -> (Option<i32>, String, String) {
    texts(site.command(args).output().unwrap())
}

fn fetch(site: &Site, more: &[&str]) -> (Option<i32>, String, String) {
    run(site, &[&["fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV"], more].concat())
}

/// Fetches one session, and gives its directory's last two components but the time's seconds.
fn session(site: &Site, more: &[&str]) -> String {
    let (code, out, err) = fetch(site, more);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{more:?}: {err}");
    let directory = Path::new(out.trim());
    let date = directory.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    format!("{date} {}", files_below(directory, ".dcm").len())
}

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Interrupts the process, and gives what it said and how long it took to end.
fn interrupt(child: Child) -> ((Option<i32>, String, String), Duration) {
    let start = Instant::now();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    (texts(child.wait_with_output().unwrap()), start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_option_of_fetch_chooses_what_it_says() {
    let site = start(PatientOptions::small(), Faults::default()).await;
    assert_eq!(session(&site, &[]), "2026-03-16 4");
    assert_eq!(session(&site, &["--date", "2026-03-09"]), "2026-03-09 4");
    assert_eq!(session(&site, &["--kv"]), "2026-03-16 2");
    assert_eq!(session(&site, &["--image-type", "portal"]), "2026-03-16 4");
    assert_eq!(session(&site, &["--image-type", "ORIGINAL\\PRIMARY\\PORTAL"]), "2026-03-16 4");
    let (code, _, err) = fetch(&site, &["--image-type", "SIMULATOR"]);
    assert!(code == Some(1) && err.contains("check --image-type"), "{err}");
    let replaced = &site.patient.plans.get(2).unwrap().uid;
    assert_eq!(session(&site, &["--plan-uid", replaced]), "2026-03-02 4");
    let (code, out, err) = run(&site, &["fetch", "--patient", "QA_TB_WL", "--plan-uid", replaced]);
    assert!(code == Some(0) && out.contains("2026-03-02"), "a UID needs no label: {out}{err}");
    let finds = || site.aria.asked().iter().filter(|a| a.what == "C-FIND").count();
    let before = finds();
    assert_eq!((session(&site, &[]), finds()), ("2026-03-16 4".to_owned(), before), "nothing is asked again");
    assert_eq!(session(&site, &["--refresh"]), "2026-03-16 4");
    assert!(finds() > before, "asked although it was asked a moment ago");
    let (code, _, err) = fetch(&site, &["--date", "16.03.2026"]);
    assert_eq!(code, Some(2), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_gives_up_after_its_time() {
    let faults = Faults { stall_after_sub_operations: Some(2), ..Faults::default() };
    let site = start(PatientOptions::small(), faults).await;
    let (code, out, err) = fetch(&site, &["--timeout", "1.5"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("took longer than 1.5 s") && err.contains("goes on from there"), "{err}");
    for wrong in ["-1", "NaN", "x"] {
        let (code, out, err) = fetch(&site, &[&format!("--timeout={wrong}")]);
        assert!(matches!(code, Some(1 | 2)) && out.is_empty() && err.contains("error: "), "{wrong}: {err}");
    }
}

/// `script` (bsdutils, on every Debian) is the terminal.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn fetch_shows_its_progress_on_a_terminal_and_nowhere_else() {
    let mut probe = Command::new("script");
    if !probe.args(["-qec", "true", "/dev/null"]).stdin(Stdio::null()).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no terminal can be made here");
        return;
    }
    let faults = Faults { sub_operation_delay: Duration::from_millis(400), ..Faults::default() };
    let site = start(PatientOptions::small(), faults).await;
    let (code, out, err) = fetch(&site, &[]);
    assert_eq!(
        (code, out.lines().count(), err.lines().count()),
        (Some(0), 1, 2),
        "a notice, a summary: {err}"
    );
    assert!(err.contains("\n4 images of WL_10MV acquired") && !err.contains("moving"), "{err}");
    std::fs::remove_dir_all(out.trim()).unwrap();
    let words = [
        tests::node::node_binary().to_str().unwrap(),
        "--config",
        site.config.to_str().unwrap(),
        "fetch --patient QA_TB_WL --plan WL_10MV",
    ];
    let mut terminal = Command::new("script");
    let typescript = site.directory.path().join("typescript");
    terminal.args(["-qec", &words.join(" ")]).arg(typescript).stdin(Stdio::null());
    let (code, shown, _) = texts(terminal.output().unwrap());
    assert!(code == Some(0) && shown.contains("moving ") && shown.contains(" of 4 images, "), "{shown:?}");
    assert_eq!(shown.lines().last().map(str::trim), Some(out.trim()), "the directory comes last");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_image_is_named_to_scripts() {
    let options = PatientOptions { images_per_session: 16, ..PatientOptions::small() };
    let site = start(options, Faults::default()).await;
    let plan = site.patient.plans.first().unwrap();
    let session = site.patient.mv_session(plan, *plan.sessions.first().unwrap());
    let mut lost: Vec<String> = session.into_iter().map(|i| i.sop_instance_uid()).take(5).collect();
    lost.sort();
    site.aria.set_faults(Faults { fail_instances: lost.iter().cloned().collect(), ..Faults::default() });
    let (code, out, err) = fetch(&site, &["--json"]);
    let told = json(&out);
    assert_eq!((code, told["kind"].as_str()), (Some(1), Some("incomplete")), "{err}");
    let mut missing: Vec<&str> =
        told["missing"].as_array().unwrap().iter().map(|uid| uid.as_str().unwrap()).collect();
    missing.sort_unstable();
    assert_eq!(missing, lost);
    assert!(told["error"].as_str().unwrap().contains("5 of 16 objects are missing"), "{told}");
    let (_, out, _) = run(&site, &["fetch", "--patient", "NOBODY", "--plan", "WL_10MV", "--json"]);
    assert_eq!(json(&out).get("missing"), None, "only where something is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_tells_what_is_offered() {
    let site = start(PatientOptions::small(), Faults::default()).await;
    let (code, out, err) = run(&site, &["echo", "--json"]);
    let told = json(&out);
    assert_eq!((code, told["archive"].as_str()), (Some(0), Some("aria")), "{err}");
    assert_eq!((&told["echo"]["find"], &told["echo"]["move"]), (&true.into(), &true.into()), "{told}");
    assert!(
        told["echo"]["associate_s"].as_f64().unwrap() > 0.0 && told["echo"]["echo_s"].as_f64().unwrap() > 0.0
    );
    site.aria.set_faults(Faults { move_not_offered: true, ..Faults::default() });
    let (code, out, err) = run(&site, &["echo"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("(C-FIND) is offered, moving (C-MOVE) is NOT offered to us"), "{out}");
    assert!(err.contains("hint: give our AE title the right to query and retrieve"), "{err}");
    let (code, out, err) = run(&site, &["echo", "--json"]);
    assert_eq!((code, &json(&out)["echo"]["move"]), (Some(1), &false.into()), "{err}");
    let (code, _, err) = fetch(&site, &[]);
    assert!(code == Some(1) && err.contains("does not offer C-MOVE"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_interrupt_ends_echo_and_find_while_the_archive_is_silent() {
    let site = start(PatientOptions::small(), Faults::default()).await;
    let archive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = std::fs::read_to_string(&site.config).unwrap();
    let (ours, theirs) = (archive.local_addr().unwrap().port(), site.aria.address().port());
    std::fs::write(&site.config, text.replace(&format!("port = {theirs}\n"), &format!("port = {ours}\n")))
        .unwrap();
    let echo = site.command(&["echo"]).spawn().unwrap();
    let _connection = archive.accept().await.unwrap();
    let ((code, out, err), took) = interrupt(echo);
    assert_eq!((code, out.as_str(), err.lines().next()), (Some(1), "", Some("error: cancelled")));
    assert!(took < Duration::from_secs(10), "{took:?}");

    std::fs::write(&site.config, text).unwrap();
    site.aria.set_faults(Faults { answer_delay: Duration::from_secs(50), ..Faults::default() });
    let find = site.command(&["find", "plans", "--patient", "QA_TB_WL"]).spawn().unwrap();
    until("the archive is asked", LONG, || site.aria.begun() > 0);
    let ((code, out, err), took) = interrupt(find);
    assert_eq!((code, out.as_str(), err.lines().next()), (Some(1), "", Some("error: cancelled")));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let asked = site.aria.asked();
    assert!(asked.iter().any(|a| a.what == "C-CANCEL"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_remarks_is_told_to_the_user_and_not_to_the_log() {
    let site = start(PatientOptions::small(), Faults::default()).await;
    // Without a label the images are unresolved, and the service asks again.
    let unlabelled = Faults { missing_keys: vec![tags::RT_PLAN_LABEL], ..Faults::default() };
    site.aria.set_faults(unlabelled.clone());
    let plan = &site.patient.plans.get(1).unwrap().uid;
    let (code, _, err) = run(&site, &["fetch", "--patient", "QA_TB_WL", "--plan-uid", plan]);
    assert_eq!(code, Some(0), "{err}");
    let remark = Some("PATIENT^NAME".to_owned());
    let faults = Faults { move_status: Some(Status(0xC000)), comment: remark, ..unlabelled };
    site.aria.set_faults(faults.clone());
    let log = site.directory.path().join("log");
    let mut service = site.command(&["--set", "log.level=trace", "serve"]);
    let service = service.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let service = Guarded(service.spawn().unwrap());
    let text = || std::fs::read_to_string(&log).unwrap();
    until("the service has asked in vain", LONG, || text().contains("could not be asked for"));
    let (code, out, err) = fetch(&site, &["--json"]);
    assert_eq!((code, json(&out)["comment"].as_str()), (Some(1), Some("PATIENT^NAME")), "{out}{err}");
    assert!(err.contains("the archive remarks: PATIENT^NAME"), "{err}");
    let (_, _, err) =
        run(&site, &["--set", "log.level=trace", "fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV"]);
    let (told, logged): (Vec<_>, Vec<_>) = err.lines().partition(|l| l.starts_with("the archive remarks: "));
    assert_eq!(told.len(), 1, "{err}");
    assert!(!logged.is_empty() && !logged.join("\n").contains("PATIENT^NAME"), "{err}");
    site.aria.set_faults(Faults { find_status: Some(Status(0xC001)), ..faults });
    let (code, out, err) = fetch(&site, &["--json", "--refresh"]);
    assert_eq!((code, json(&out)["comment"].as_str()), (Some(1), Some("PATIENT^NAME")), "{out}{err}");
    drop(service);
    assert!(text().contains("status") && !text().contains("PATIENT^NAME"), "{}", text());
}
