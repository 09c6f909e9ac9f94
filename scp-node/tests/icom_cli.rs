//! `scp-node icom …` as an admin runs it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn icom(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    command.arg("icom").args(args).env("SCP_NODE_CONFIG", "/dev/null").stdin(Stdio::null());
    command
}

/// Starts an emulated linac on a free port, gives it and its address.
fn emulated(args: &[&str]) -> (Child, String) {
    let mut child = icom(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("emulated linac at ").unwrap().split(',').next().unwrap().to_owned();
    (child, address)
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn records(dir: &Path) -> Vec<PathBuf> {
    let patients = std::fs::read_dir(dir.join("patients")).into_iter().flatten();
    let mut all: Vec<PathBuf> = patients
        .flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).into_iter().flatten())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xz"))
        .collect();
    all.sort();
    all
}

fn stop(mut child: Child) -> Output {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    wait_for("the end of the process", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

#[test]
fn what_is_emulated_is_recorded_shown_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let (linac, address) = emulated(&[
        "emulate",
        "--port",
        "0",
        "--rate",
        "400",
        "--patients",
        "2",
        "--messages",
        "40",
        "--linger",
        "--fault",
        "split@20:700",
        "--fault",
        "duplicate@30",
    ]);
    let out = dir.path().join("out");
    let listener = icom(&["listen", "--linac", &address, "--beam-off-wait", "0", "--out"])
        .arg(&out)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("two records", || records(&out).len() == 2);
    let stopped = stop(listener);
    assert!(stopped.status.success(), "{:?}", text(&stopped));
    assert!(!text(&stopped).1.contains("PHYSICS"), "no patient in the log");
    // The listener may have left before the last messages, after the records: the linac would wait for the next one.
    let served = stop(linac);
    let (report, _) = text(&served);
    assert!(served.status.success(), "{:?}", text(&served));
    assert!(report.contains("link ended by its client, in order (FIN)"), "{report}");
    assert!(out.join("live/127.0.0.1/003.txt").exists(), "PyMedPhys's ring");

    let record = records(&out).swap_remove(0);
    let info = icom(&["info", "--items"]).arg(&record).output().unwrap();
    let (shown, _) = text(&info);
    for part in
        ["9434765910 PHYSICS, MOCK", "delivered 207.50 MU", "0 gaps, 0 repeats", "(300A,011E) DS R Gantry"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }

    let pattern = out.join("patients/*/*.xz");
    let all = icom(&["info"]).arg(&pattern).output().unwrap();
    assert_eq!(text(&all).0.matches("delivered 207.50 MU").count(), 2, "{:?}", text(&all));
    std::fs::remove_file(out.join("index.sqlite")).unwrap();
    let reindexed = icom(&["reindex", "--out"]).arg(&out).output().unwrap();
    assert!(text(&reindexed).0.contains("2 were added from files"), "{:?}", text(&reindexed));

    let (mut replay, address) = emulated(&["replay", record.to_str().unwrap(), "--to", "0", "--rate", "0"]);
    let again = dir.path().join("again");
    let listener = icom(&["listen", "--linac", &address, "--beam-off-wait", "0", "--out"])
        .arg(&again)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // All is sent, and a stop costs nothing of what is.
    assert!(replay.wait().unwrap().success());
    wait_for("all of it to be shown", || {
        let live = icom_core::live::read_any_age(&again, "127.0.0.1");
        live.is_ok_and(|live| live.snapshot.is_some_and(|s| s.meterset_mu == Some(87.5)))
    });
    assert!(stop(listener).status.success());
    let replayed = records(&again).swap_remove(0);
    assert_eq!(replayed.file_name(), record.file_name());
    assert_eq!(icom_core::archive::read(&replayed).unwrap(), icom_core::archive::read(&record).unwrap());
}

#[test]
fn an_emulated_linac_that_lingers_ends_when_all_is_sent_and_its_client_has_left() {
    let args = ["emulate", "--port", "0", "--rate", "0", "--patients", "1", "--messages", "5", "--linger"];
    let (mut linac, address) = emulated(&args);
    let n_messages = icom_core::script::Script::new(
        "4299",
        icom_core::encode::time(0),
        icom_core::script::Script::day(1, 5),
    )
    .messages()
    .count();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while icom_core::frame::frames_of(&bytes).0.len() < n_messages {
        let got = client.read(&mut piece).unwrap();
        assert!(got > 0, "it left before its client");
        bytes.extend_from_slice(&piece[..got]);
    }
    assert!(linac.try_wait().unwrap().is_none(), "it lingers");
    drop(client);
    wait_for("the end of the linac", || linac.try_wait().unwrap().is_some());
    let (report, _) = text(&linac.wait_with_output().unwrap());
    assert!(report.contains(&format!("sent {n_messages} of {n_messages} messages")), "{report}");
    assert!(report.contains("link ended by its client, in order (FIN)"), "{report}");
}

#[test]
fn errors_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note.txt");
    std::fs::write(&note, "no record").unwrap();
    let info = icom(&["info"]).arg(&note).output().unwrap();
    assert_eq!(info.status.code(), Some(1));
    let (_, error) = text(&info);
    assert!(error.contains("expected a message with date and time") && error.contains("hint:"), "{error}");
    let none = icom(&["info"]).arg(dir.path().join("*.xz")).output().unwrap();
    assert!(text(&none).1.contains("no file matches"), "{:?}", text(&none));
    let listen = icom(&["listen", "--linac", "host:icom", "--out"]).arg(dir.path()).output().unwrap();
    let (_, error) = text(&listen);
    assert!(listen.status.code() == Some(1) && error.contains("HOST:PORT"), "{error}");
    let fault = icom(&["emulate", "--fault", "melt@3"]).output().unwrap();
    assert_eq!(fault.status.code(), Some(2));
}
