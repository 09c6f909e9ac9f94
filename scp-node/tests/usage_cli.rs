//! What the command line says when it is used wrongly, and what it leaves alone.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

#[expect(
    dead_code,
    unreachable_pub,
    reason = "ports and waits of the tests' peers; the peers are not used here"
)]
#[path = "../../tests/src/peers/process.rs"]
mod process;

use std::path::Path;
use std::process::{Command, Output};
#[cfg(unix)]
use std::time::Duration;

fn scp_node(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scp-node"));
    command.current_dir(directory).args(arguments).env_remove("SCP_NODE_CONFIG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_is_one_line_and_a_hint_and_an_object_for_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str, &str); 6] = [
        (&["fetch", "--patient", "QA"], "--plan <LABEL>", "fetch --help"),
        (
            &["fetch", "--patient", "QA", "--plan", "W", "--date", "26.11.2026"],
            "write it as 2026-11-26",
            "--help",
        ),
        (
            &["fetch", "--patient", "QA", "--plan", "W", "--date", "2026-02-30"],
            "there is no such day",
            "--help",
        ),
        (&["find", "series", "--patient", "QA", "--date", "x"], "write it as", "--help"),
        (&["sessions", "--limit", "0"], "0", "--help"),
        (&["fetchh"], "fetchh", "'fetch'"),
    ];
    for (arguments, what, hint) in cases {
        let plain = scp_node(directory.path(), arguments);
        let said = text(&plain.stderr);
        assert_eq!((plain.status.code(), said.lines().count()), (Some(2), 2), "{arguments:?}: {said}");
        let (first, second) = said.split_once('\n').unwrap();
        assert!(first.starts_with("error: ") && first.contains(what), "{arguments:?}: {said}");
        assert!(second.starts_with("hint: ") && second.contains(hint), "{arguments:?}: {said}");
        let json = scp_node(directory.path(), &[&["--json"], arguments].concat());
        let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((json.status.code(), object["kind"].as_str()), (Some(2), Some("usage")), "{object}");
        assert!(object["error"].as_str().unwrap().contains(what), "{object}");
    }
    let help = scp_node(directory.path(), &["fetch", "--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--patient <ID>"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let run = |to: &str| {
        let script = format!("\"$0\" config show {to}");
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", &script, env!("CARGO_BIN_EXE_scp-node")]);
        shell.current_dir(directory.path()).output().unwrap()
    };
    let full = run("> /dev/full");
    let said = text(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("error: standard output: ") && said.contains("hint: "), "{said}");
    let closed = run("| head -1");
    assert!(closed.status.success() && closed.stderr.is_empty(), "{}", text(&closed.stderr));
}

#[test]
fn the_settings_file_is_written_where_it_was_asked_for_and_a_check_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let written = scp_node(directory.path(), &["--config", "mine.toml", "config", "init"]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    assert!(directory.path().join("mine.toml").is_file());
    let refused =
        scp_node(directory.path(), &["--set", "node.port=1", "config", "init", "--output", "b.toml"]);
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("--set changes nothing"));
    assert!(!directory.path().join("b.toml").exists());
    let check = |root: &str| {
        let root = format!("images.root={}", directory.path().join(root).display());
        scp_node(directory.path(), &["--config", "mine.toml", "--set", &root, "config", "check"])
    };
    let absent = check("not/yet");
    assert!(absent.status.success(), "{}", text(&absent.stderr));
    assert!(text(&absent.stderr).contains("does not exist yet"), "{}", text(&absent.stderr));
    assert!(!directory.path().join("not").exists());
    let file = check("mine.toml");
    assert!(file.status.code() == Some(1) && text(&file.stderr).contains("mine.toml is no directory"));
}

#[test]
fn the_demo_leaves_the_users_settings_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mine = directory.path().join("config.toml");
    std::fs::write(&mine, "# mine").unwrap();
    let demo = scp_node(directory.path(), &["demo", "--once", "--directory", "."]);
    assert!(demo.status.success(), "{}", text(&demo.stderr));
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "# mine");
    let refused = scp_node(directory.path(), &["--config", "config.toml", "demo", "--once"]);
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("settings of its own"));
}

#[cfg(unix)]
#[test]
fn a_log_that_cannot_be_written_keeps_nothing_from_stopping_and_a_closed_terminal_stops_in_order() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    for signal in ["TERM", "HUP"] {
        let directory = tempfile::tempdir().unwrap();
        let root = format!("images.root={}", directory.path().join("images").display());
        let mut service = Command::new(env!("CARGO_BIN_EXE_scp-node"));
        service.args(["--set", "node.port=0", "--set", "node.bind=127.0.0.1", "--set", "web.bind="]);
        service.args(["--set", "images.keep_free_bytes=0", "--set", &root, "serve"]);
        let mut service = service.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut up = String::new();
        let mut stdout = BufReader::new(service.stdout.take().unwrap());
        stdout.read_line(&mut up).unwrap();
        assert!(up.contains("receives on"), "{up}");
        // From here on every line of the log fails.
        drop(service.stderr.take());
        let told = Command::new("kill").args(["-s", signal, &service.id().to_string()]).status().unwrap();
        assert!(told.success());
        let mut ended = None;
        process::until(&format!("it ends after SIG{signal}"), Duration::from_secs(30), || {
            ended = service.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "SIG{signal}: {ended:?}");
    }
}
