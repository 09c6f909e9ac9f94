//! `demo` as somebody tries it who has just got the program: it stays up, what it says to try works, Ctrl-C ends it in order.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tests::node::{files_below, node_binary};
use tests::peers::until;
use tests::site::Guarded;

const PATIENCE: Duration = Duration::from_secs(60);

/// The words of a line that is a command to try: its first word is a program.
fn command(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.first().filter(|first| Path::new(first).is_file())?;
    Some(words)
}

#[test]
fn the_demo_stays_up_for_the_commands_that_it_prints_and_ends_in_order_at_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Command::new(node_binary());
    demo.args(["demo", "--directory"]).arg(directory.path());
    demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = Guarded(demo.spawn().unwrap());
    let out = BufReader::new(demo.0.stdout.take().unwrap());
    let (line_read, lines) = mpsc::channel();
    std::thread::spawn(move || out.lines().try_for_each(|line| line_read.send(line.unwrap())));

    let images = || files_below(&directory.path().join("images"), ".dcm").len();
    let mut tried = 0;
    // The first command is waited for; when it has run, all the others are printed, and read in no time.
    let wait = |tried| if tried == 0 { PATIENCE } else { Duration::from_secs(2) };
    while let Ok(line) = lines.recv_timeout(wait(tried)) {
        let Some(words) = command(&line) else { continue };
        let (program, arguments) = words.split_first().unwrap();
        let before = images();
        let output = Command::new(program).args(arguments).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !out.trim().is_empty(), "{line}\n{out}\n{err}");
        assert!(before >= 16 && images() >= before, "{line}: {before} images before, {} after", images());
        tried += 1;
    }
    assert!(tried > 1, "only {tried} commands were printed");
    assert!(images() > 16, "a command that fetches has fetched into the demo's directory");

    assert!(demo.0.try_wait().unwrap().is_none(), "it stays up");
    let id = demo.0.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let mut ended = None;
    until("the demo ends", PATIENCE, || {
        ended = demo.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
    let rest: Vec<String> = lines.iter().collect();
    assert!(!rest.iter().any(|line| command(line).is_some()), "not tried: {rest:?}");
    assert!(images() > 16, "`--directory` keeps them");
}
