//! The listener against the emulated linac: whatever happens on the wire, every message of a patient is archived once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(
    dead_code,
    unreachable_pub,
    reason = "ports and waits of the tests' peers; the peers are not used here"
)]
#[path = "../../tests/src/peers/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use icom_core::emulate::{Behaviour, Emulator, Fault, Left, MessageHash, Report};
use icom_core::encode::time;
use icom_core::frame::frames_of;
use icom_core::index::{Index, IndexedRecord, Query};
use icom_core::script::Script;
use icom_core::settings::index_path;
use icom_core::{LinacSettings, ListenerSettings, Service, archive, live};
use sha2::{Digest, Sha256};

/// What a scenario left behind.
struct Outcome {
    report: Report,
    records: Vec<IndexedRecord>,
    archived: Vec<MessageHash>,
    expected: Vec<MessageHash>,
    dir: tempfile::TempDir,
}

struct Scenario {
    script: Script,
    faults: Vec<(usize, Fault)>,
    settings: ListenerSettings,
    rate_hz: f64,
}

impl Scenario {
    fn new(patients: u32, messages: u32) -> Self {
        let script = Script::new("4299", time(0), Script::day(patients, messages));
        let settings = ListenerSettings {
            reconnect_first_ms: 20,
            silence_s: 60,
            fsync_interval_ms: 100,
            beam_off_wait_s: 0,
            finish_on_stop: true,
            ..Default::default()
        };
        Self { script, faults: Vec::new(), settings, rate_hz: 400.0 }
    }

    fn faults(mut self, faults: impl IntoIterator<Item = (usize, Fault)>) -> Self {
        self.faults = faults.into_iter().collect();
        self
    }

    fn run(self) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let n_faults = self.faults.len();
        let messages: Vec<_> = self.script.messages().collect();
        let encoded: Vec<Vec<u8>> = messages.iter().map(|message| message.encode()).collect();
        let skipped: Vec<usize> =
            self.faults.iter().filter(|(_, f)| *f == Fault::Skip).map(|(at, _)| *at).collect();
        let behaviour = Behaviour { rate_hz: self.rate_hz, faults: self.faults, wait_for_client: true };
        let emulator = Emulator::start("127.0.0.1:0", encoded.clone().into_iter(), behaviour).unwrap();
        let linac = LinacSettings {
            name: "linac 1".into(),
            ..LinacSettings::at(&emulator.address().to_string()).unwrap()
        };
        let settings = ListenerSettings { dir: dir.path().to_owned(), linacs: vec![linac], ..self.settings };
        let service = Service::start(&settings).unwrap();
        wait_for("all messages to be sent", || emulator.all_sent());
        service.stop();
        let report = emulator.stop();
        assert_eq!(report.faults_done, n_faults);
        let expected = messages
            .iter()
            .zip(&encoded)
            .enumerate()
            .filter(|(n, (message, _))| message.patient.is_some() && !skipped.contains(n))
            .map(|(_, (_, bytes))| Sha256::digest(bytes).into())
            .collect();
        let (records, archived) = archived(dir.path());
        Outcome { report, records, archived, expected, dir }
    }
}

impl Outcome {
    /// Nothing lost, nothing twice, nothing out of order.
    fn assert_complete(&self) {
        assert_eq!(self.archived.len(), self.expected.len(), "messages archived and sent");
        assert!(self.archived == self.expected, "hashes differ");
    }

    fn total<T: std::iter::Sum>(&self, of: impl Fn(&IndexedRecord) -> T) -> T {
        self.records.iter().map(of).sum()
    }
}

/// Whole records in a patient's directory.
fn n_files(patient: &Path) -> usize {
    let names = std::fs::read_dir(patient).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "xz")).count()
}

fn archived(dir: &Path) -> (Vec<IndexedRecord>, Vec<MessageHash>) {
    let index = Index::open_read_only(&index_path(dir)).unwrap();
    let query = Query { without_mu: true, ..Query::default() };
    let records = index.find(&query, dir).unwrap();
    let hashes = records
        .iter()
        .flat_map(|record| frames_of(&archive::read(&record.path).unwrap()).0)
        .map(|frame| Sha256::digest(frame.body()).into())
        .collect();
    (records, hashes)
}

fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    process::until(what, Duration::from_secs(60), condition);
}

#[test]
fn a_day_of_patients_is_archived_one_record_each() {
    let outcome = Scenario::new(4, 24).run();
    outcome.assert_complete();
    assert_eq!(outcome.records.len(), 4);
    for record in &outcome.records {
        assert!((record.record.mu - 207.5).abs() < 1e-9, "{}", record.record.mu);
        assert_eq!((record.record.gaps, record.record.fields.len()), (0, 2));
    }
    let mut paths = BTreeMap::new();
    for record in &outcome.records {
        let relative = record.path.strip_prefix(outcome.dir.path()).unwrap().to_str().unwrap().to_owned();
        paths.insert(record.record.patient_id.clone(), relative);
    }
    assert_eq!(paths["9434765910"], "patients/9434765910_PHYSICS, MOCK/20251121_070001.xz");
    assert!(paths["9434765912"].starts_with("patients/9434765912_O'NEIL%5F%22SEAN%22, A%2FB/"));
    assert_eq!(outcome.report.links, [Left::Fin], "the listener closes in order");
}

#[test]
fn split_and_joined_writes_change_nothing() {
    let pause = Duration::from_millis(1);
    let split = |bytes| Fault::Split { bytes, pause };
    let outcome = Scenario::new(2, 24)
        .faults([(3, split(700)), (9, split(4096)), (20, Fault::Join { messages: 7 }), (40, split(1500))])
        .run();
    outcome.assert_complete();
    assert_eq!(outcome.total(|r| r.record.gaps), 0);
}

#[test]
fn links_dropped_in_the_middle_of_a_message_cost_none() {
    let mut scenario = Scenario::new(3, 24);
    scenario.settings.silence_s = 3;
    let outcome = scenario
        .faults([
            (10, Fault::Fin { after: 1000 }),
            (25, Fault::Rst { after: 3000 }),
            (40, Fault::Silence { after: 27 }),
            (60, Fault::Fin { after: 0 }),
            (70, Fault::Rst { after: 8 }),
        ])
        .run();
    outcome.assert_complete();
    assert_eq!(outcome.records.len(), 3, "a record goes on over lost links");
    assert_eq!(outcome.total(|r| r.record.link_losses), 5);
    assert_eq!(outcome.total(|r| r.record.gaps), 0);
    use Left::{Emulator, Fin};
    assert_eq!(outcome.report.links, [Emulator, Emulator, Fin, Emulator, Emulator, Fin]);
}

#[test]
fn a_burst_after_absence_is_taken_as_what_it_is() {
    let outcome =
        Scenario::new(2, 40).faults([(30, Fault::Absent { duration: Duration::from_millis(300) })]).run();
    outcome.assert_complete();
    assert_eq!(outcome.total(|r| r.record.gaps), 0);
}

#[test]
fn duplicates_are_kept_once_and_skips_are_recorded() {
    let outcome = Scenario::new(1, 40)
        .faults([(20, Fault::Duplicate), (30, Fault::Skip), (31, Fault::Skip), (50, Fault::Duplicate)])
        .run();
    outcome.assert_complete();
    let record = &outcome.records[0].record;
    assert_eq!((record.repeats, record.gaps, record.gap_list[0].missing), (2, 1, 2));
}

#[test]
fn garbage_is_counted_and_costs_no_message() {
    let garbage = |byte, len| Fault::Garbage { bytes: vec![byte; len] };
    let outcome = Scenario::new(2, 24)
        .faults([(2, garbage(0xFF, 33)), (15, garbage(b'0', 5000)), (50, garbage(0, 1))])
        .run();
    outcome.assert_complete();
}

#[test]
fn a_stall_shorter_than_silence_keeps_the_link_and_a_longer_one_renews_it() {
    let stall = |ms| Fault::Stall { duration: Duration::from_millis(ms) };
    let mut scenario = Scenario::new(1, 24).faults([(10, stall(300)), (20, stall(1500))]);
    scenario.settings.silence_s = 1;
    let outcome = scenario.run();
    outcome.assert_complete();
    assert!(outcome.report.links.len() >= 2, "{:?}", outcome.report.links);
    assert!(outcome.report.links.iter().all(|left| *left == Left::Fin));
}

#[test]
fn the_counter_may_wrap() {
    let mut scenario = Scenario::new(1, 300);
    scenario.script = scenario.script.first_counter(200);
    scenario.rate_hz = 2000.0;
    let outcome = scenario.run();
    outcome.assert_complete();
    assert_eq!(outcome.total(|r| r.record.gaps), 0);
}

#[test]
fn a_linac_without_a_length_field_is_understood_and_shown_without_waiting() {
    let mut scenario = Scenario::new(2, 24).faults([(12, Fault::Fin { after: 500 })]);
    scenario.script = scenario.script.without_length_field();
    let outcome = scenario.run();
    outcome.assert_complete();
    let last =
        live::read(outcome.dir.path(), "linac 1", Duration::from_secs(60), chrono::Utc::now()).unwrap();
    let sent = outcome.report.sent.len();
    assert_eq!(usize::from(last.snapshot.unwrap().counter), (sent - 1) % 256);
}

#[test]
fn a_stop_leaves_an_open_record_to_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    // Long enough that it is not over when the third service begins.
    let script = Script::new("4299", time(0), Script::day(1, 400));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 200.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        reconnect_first_ms: 20,
        beam_off_wait_s: 0,
        linacs: vec![LinacSettings::at(&emulator.address().to_string()).unwrap()],
        ..Default::default()
    };
    for part in 1..=3 {
        let service = Service::start(&settings).unwrap();
        wait_for("a part of the day", || emulator.sent() > 40 * part);
        service.stop();
        assert!(archived(dir.path()).0.is_empty(), "the record is still open");
    }
    let service = Service::start(&settings).unwrap();
    wait_for("the end of the day", || emulator.all_sent());
    wait_for("the record", || !archived(dir.path()).0.is_empty());
    service.stop();
    let (records, hashes) = archived(dir.path());
    let sent = emulator.stop().sent;
    let idle_before = 4;
    assert_eq!(
        hashes,
        sent[idle_before..idle_before + hashes.len()].iter().map(|s| s.hash).collect::<Vec<_>>()
    );
    assert_eq!((records.len(), records[0].record.restarts, records[0].record.gaps), (1, 3, 0));
    assert!((records[0].record.mu - 207.5).abs() < 1e-9);
}

#[test]
fn a_planned_stop_waits_for_beam_off() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new("4299", time(0), Script::day(1, 400));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 100.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        linacs: vec![LinacSettings::at(&emulator.address().to_string()).unwrap()],
        ..Default::default()
    };
    let service = Service::start(&settings).unwrap();
    wait_for("beam on", || service.status().linacs[0].beam_on);
    service.stop();
    let report = emulator.stop();
    // Idle, load and the first field are 454 messages; beam-off is two seconds after its last MU.
    assert!(report.sent.len() > 454, "left after {} messages", report.sent.len());
    assert_eq!(report.links, [Left::Fin]);
}

#[test]
fn a_planned_stop_waits_no_longer_than_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new("4299", time(0), Script::day(1, 3000));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 100.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        beam_off_wait_s: 1,
        linacs: vec![LinacSettings::at(&emulator.address().to_string()).unwrap()],
        ..Default::default()
    };
    let service = Service::start(&settings).unwrap();
    wait_for("beam on", || service.status().linacs[0].beam_on);
    let (before, told) = (emulator.sent(), Instant::now());
    service.stop();
    assert!(!emulator.all_sent(), "the field takes half a minute");
    assert!(told.elapsed() >= Duration::from_secs(1), "it did not wait");
    assert!(emulator.sent() >= before + 10, "and did not read");
    assert_eq!(emulator.stop().links, [Left::Fin]);
}

#[test]
fn a_damaged_or_lost_index_does_not_stop_the_listening_and_nothing_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new("4299", time(0), Script::day(8, 40));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 200.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        reconnect_first_ms: 20,
        beam_off_wait_s: 0,
        linacs: vec![LinacSettings::at(&emulator.address().to_string()).unwrap()],
        ..Default::default()
    };
    let service = Service::start(&settings).unwrap();
    wait_for("a record", || !archived(dir.path()).0.is_empty());
    service.stop();
    let before = archived(dir.path());
    std::fs::write(index_path(dir.path()), b"this was a database").unwrap();
    let service = Service::start(&settings).unwrap();
    let files =
        || std::fs::read_dir(dir.path().join("patients")).unwrap().map(|d| n_files(&d.unwrap().path()));
    wait_for("the records of the day", || files().sum::<usize>() == 8);
    service.stop();
    let report = icom_core::reindex::rebuild(dir.path()).unwrap();
    assert_eq!(report.unreadable, []);
    let (records, hashes) = archived(dir.path());
    assert_eq!(records.len(), 8);
    assert_eq!(hashes[..before.1.len()], before.1);
    let different: std::collections::BTreeSet<_> = hashes.iter().collect();
    assert_eq!(different.len(), hashes.len(), "no message is archived twice");
}

#[test]
fn linacs_do_not_touch_each_other_and_each_state_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new("4299", time(0), Script::day(1, 40));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 200.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let named =
        |name: &str, at: String| LinacSettings { name: name.into(), ..LinacSettings::at(&at).unwrap() };
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        reconnect_first_ms: 20,
        silence_s: 1,
        beam_off_wait_s: 0,
        finish_on_stop: true,
        linacs: vec![
            named("refused", format!("127.0.0.1:{}", process::free_port())),
            named("mute", mute.local_addr().unwrap().to_string()),
            named("unknown", "no-such-host.invalid".into()),
            named("works", emulator.address().to_string()),
        ],
        ..Default::default()
    };
    let service = Service::start(&settings).unwrap();
    let end_of = |n: usize| service.status().linacs[n].link.last_end;
    use icom_core::live::LinkEnd::{Refused, Silence, UnknownHost};
    wait_for("three faults", || {
        [end_of(0), end_of(1), end_of(2)] == [Some(Refused), Some(Silence), Some(UnknownHost)]
    });
    wait_for("all messages", || emulator.all_sent());
    let error = || live::read(dir.path(), "refused", Duration::from_secs(5), chrono::Utc::now()).unwrap_err();
    // What the listener knows is written a moment later.
    wait_for("the refusal to be written", || error().to_string().contains("connection refused"));
    service.stop();
    assert_eq!(archived(dir.path()).0.len(), 1);
}

#[test]
fn pass_through_clients_get_whole_messages() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new("4299", time(0), Script::day(1, 200));
    let encoded: Vec<Vec<u8>> = script.messages().map(|m| m.encode()).collect();
    let behaviour = Behaviour { rate_hz: 200.0, ..Default::default() };
    let emulator = Emulator::start("127.0.0.1:0", encoded.into_iter(), behaviour).unwrap();
    let port = std::net::SocketAddr::from(([127, 0, 0, 1], process::free_port()));
    let linac = LinacSettings {
        pass_through: Some(port),
        ..LinacSettings::at(&emulator.address().to_string()).unwrap()
    };
    let settings = ListenerSettings {
        dir: dir.path().to_owned(),
        beam_off_wait_s: 0,
        linacs: vec![linac],
        ..Default::default()
    };
    let service = Service::start(&settings).unwrap();
    let client = std::net::TcpStream::connect(port).unwrap();
    // A client that writes must not be reset for it at the end.
    std::io::Write::write_all(&mut &client, b"not expected").unwrap();
    wait_for("the client to be let in", || service.status().linacs[0].pass_through_clients == 1);
    let before = emulator.sent();
    wait_for("messages for it", || emulator.sent() > before + 20);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &client, &mut bytes).unwrap();
        bytes
    });
    wait_for("the beam", || service.status().linacs[0].beam_on);
    service.stop();
    let sent: Vec<MessageHash> = emulator.stop().sent.iter().map(|s| s.hash).collect();
    let (frames, counts) = frames_of(&reader.join().unwrap());
    assert_eq!((counts.skipped_bytes, counts.unparsed_bytes), (0, 0));
    let last = <MessageHash>::from(Sha256::digest(&frames[frames.len() - 1].bytes));
    assert_eq!(last, sent[sent.len() - 1], "a stop lets clients have the last message");
    let first =
        sent.iter().position(|hash| *hash == <MessageHash>::from(Sha256::digest(&frames[0].bytes))).unwrap();
    assert!(frames.len() > 5);
    for (frame, hash) in frames.iter().zip(&sent[first..]) {
        assert_eq!(<MessageHash>::from(Sha256::digest(&frame.bytes)), *hash);
    }
}
