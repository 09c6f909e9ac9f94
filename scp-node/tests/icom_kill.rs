//! A hundred SIGKILLs at random moments of deliveries: records stay complete but for what was in flight.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use icom_core::archive;
use icom_core::emulate::{Behaviour, Emulator, MessageHash, Report};
use icom_core::encode::time;
use icom_core::frame::frames_of;
use icom_core::index::{Index, Query};
use icom_core::script::Script;
use icom_core::settings::index_path;
use sha2::{Digest, Sha256};

/// Linacs whose listeners are killed side by side, and kills of each.
const LANES: u64 = 5;
const KILLS: u32 = 20;

/// What a kill may cost: the listener's fsync interval.
const FSYNC_INTERVAL: Duration = Duration::from_secs(1);

#[test]
fn a_hundred_kills_cost_no_message_that_was_received_before_the_last_fsync() {
    let lanes: Vec<_> = (0..LANES).map(|lane| std::thread::spawn(move || kill_lane(lane))).collect();
    let lost: usize = lanes.into_iter().map(|lane| lane.join().unwrap()).sum();
    eprintln!("{} kills, {lost} messages lost in flight", u64::from(KILLS) * LANES);
}

/// Kills one linac's listener again and again; gives the number of messages lost.
fn kill_lane(lane: u64) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&enough);
    let script = Script::new("4299", time(0), Script::day(1000, 40));
    let messages: Vec<Vec<u8>> = script.messages().take(20_000).map(|m| m.encode()).collect();
    let idle: HashMap<MessageHash, bool> =
        script.messages().zip(&messages).map(|(m, bytes)| (hash(bytes), m.patient.is_none())).collect();
    let messages = messages.into_iter().take_while(move |_| !until.load(Ordering::Relaxed));
    let behaviour = Behaviour { rate_hz: 100.0, ..Behaviour::default() };
    let emulator = Emulator::start("127.0.0.1:0", messages, behaviour).unwrap();
    let mut random = lane.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        let mut listener = listen(dir.path(), &emulator);
        let before = emulator.sent();
        wait_for("the listener to connect", || emulator.sent() > before);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Instant::now() + Duration::from_millis(random % 400);
        wait_for("the moment", || Instant::now() >= moment);
        kills.push(SystemTime::now());
        listener.kill().unwrap();
        listener.wait().unwrap();
    }
    let mut listener = listen(dir.path(), &emulator);
    // A stop before it is up would be one more kill, which the emulator may not notice before all is sent.
    wait_until_up(&mut listener);
    enough.store(true, Ordering::Relaxed);
    wait_for("all messages to be sent", || emulator.all_sent());
    terminate(&mut listener);
    check(dir.path(), &emulator.stop(), &idle, &kills)
}

fn check(dir: &Path, report: &Report, idle: &HashMap<MessageHash, bool>, kills: &[SystemTime]) -> usize {
    let index = Index::open_read_only(&index_path(dir)).unwrap();
    let mut records = index.find(&Query { without_mu: true, ..Query::default() }, dir).unwrap();
    records.sort_by_key(|record| record.record.stream_start);
    let mut archived = Vec::new();
    for record in &records {
        let (frames, _) = frames_of(&archive::read(&record.path).unwrap());
        assert_eq!(frames.len() as u64, record.record.messages);
        archived.extend(frames.iter().map(|frame| hash(frame.body())));
    }
    let in_order: HashMap<MessageHash, usize> =
        report.sent.iter().enumerate().map(|(n, sent)| (sent.hash, n)).collect();
    let places: Vec<usize> = archived.iter().map(|hash| in_order[hash]).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "something is archived twice or out of order");
    let known: std::collections::HashSet<_> = archived.iter().collect();
    let lost: Vec<_> =
        report.sent.iter().filter(|sent| !idle[&sent.hash] && !known.contains(&sent.hash)).collect();
    for sent in &lost {
        let near = |kill: &SystemTime| sent.at + FSYNC_INTERVAL >= *kill && sent.at <= *kill + FSYNC_INTERVAL;
        assert!(kills.iter().any(near), "message {} was lost with no kill near", sent.number);
    }
    assert!(archived.len() > 200, "only {} messages in {} records", archived.len(), records.len());
    let starts: Vec<u64> = records.iter().map(|record| record.record.stream_start).collect();
    assert!(find_partial(dir).is_none(), "half a file: {:?}; records begin at {starts:?}", find_partial(dir));
    lost.len()
}

fn find_partial(dir: &Path) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            find_partial(&path)
        } else {
            Some(path).filter(|p| p.extension().is_some_and(|e| e == "partial"))
        }
    })
}

fn listen(dir: &Path, emulator: &Emulator) -> Child {
    Command::new(env!("CARGO_BIN_EXE_scp-node"))
        .args(["icom", "listen", "--no-ring", "--beam-off-wait", "0", "--linac"])
        .arg(format!("lane={}", emulator.address()))
        .arg("--out")
        .arg(dir)
        .env("SCP_NODE_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the listener says so, and reads on, so that it never waits for us.
fn wait_until_up(listener: &mut Child) {
    let mut lines = BufReader::new(listener.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("listening to")), "the listener does not start");
    std::thread::spawn(move || lines.for_each(drop));
}

fn terminate(child: &mut Child) {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the listener does not stop");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hash(bytes: &[u8]) -> MessageHash {
    Sha256::digest(bytes).into()
}
