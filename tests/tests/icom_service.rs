//! `scp-node serve` with linacs: what it records, what its pages tell, what full and hanging disks do to it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use icom_core::archive;
use icom_core::emulate::{Behaviour, Emulator, Left, MessageHash};
use icom_core::encode::time;
use icom_core::frame::frames_of;
use icom_core::index::{Index, IndexedRecord, Query};
use icom_core::script::Script;
use icom_core::settings::index_path;
use sha2::{Digest, Sha256};
use tests::disk::{HangingDisk, Tmpfs};
use tests::node::Node;
use tests::peers::free_port;

/// A linac, and the service that listens to it.
struct Site {
    linac: Emulator,
    /// Hashes of the messages of patients, in order.
    expected: Vec<MessageHash>,
    page: SocketAddr,
    /// `[icom] dir`.
    dir: std::path::PathBuf,
}

impl Site {
    fn linac(root: &Path, messages: u32, rate_hz: f64) -> Self {
        let messages: Vec<_> = Script::new("4299", time(0), Script::day(2, messages))
            .messages()
            .map(|m| (m.patient.is_some(), m.encode()))
            .collect();
        let expected = messages.iter().filter(|m| m.0).map(|m| Sha256::digest(&m.1).into()).collect();
        let behaviour = Behaviour { rate_hz, ..Behaviour::default() };
        let linac = Emulator::start("127.0.0.1:0", messages.into_iter().map(|m| m.1), behaviour).unwrap();
        let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { linac, expected, page, dir: root.join("icom") }
    }

    fn node(&self, root: &Path, more: &str, variables: &[(&str, &Path)]) -> Node {
        let linac = self.linac.address();
        let file = format!(
            "[icom]\ndir = '{}'\nreconnect_first_ms = 20\nsilence_s = 600\nbeam_off_wait_s = 0\nfinish_on_stop = true\n{more}\n\
             [[site]]\nname = 'Main'\n[[site.linac]]\nname = '4299'\nip = '{}'\nicom_port = {}\n\
             [[site.linac]]\nname = 'no iCom'\n",
            self.dir.display(),
            linac.ip(),
            linac.port()
        );
        Node::start_with(root, &[&format!("web.bind={}", self.page)], &file, variables)
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(self.page, path)
    }

    /// The value of one line of /metrics.
    fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }

    fn records(&self) -> Vec<IndexedRecord> {
        let query = Query { without_mu: true, ..Query::default() };
        Index::open_read_only(&index_path(&self.dir))
            .and_then(|index| index.find(&query, &self.dir))
            .unwrap_or_default()
    }

    /// Nothing lost, nothing twice, nothing out of order.
    fn assert_complete(&self) {
        let archived: Vec<MessageHash> = self
            .records()
            .iter()
            .flat_map(|record| frames_of(&archive::read(&record.path).unwrap()).0)
            .map(|frame| Sha256::digest(frame.body()).into())
            .collect();
        assert_eq!(archived.len(), self.expected.len(), "messages archived and sent");
        assert!(archived == self.expected, "hashes differ");
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = None;
    // The page comes up after the receivers.
    wait_for("the status page", || {
        stream = TcpStream::connect(address).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    (code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap())
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_service_listens_records_and_tells_without_naming_a_patient() {
    let root = tempfile::tempdir().unwrap();
    let site = Site::linac(root.path(), 60, 200.0);
    let node = site.node(root.path(), "", &[]);
    wait_for("two records", || site.records().len() == 2);
    wait_for("all messages", || site.linac.all_sent());
    let sent = f64::from(u32::try_from(site.linac.sent()).unwrap());
    wait_for("all messages to be derived", || {
        site.metric("scp_node_icom_messages_total{linac=\"4299\"}") == Some(sent)
    });
    site.assert_complete();
    wait_for("a first look", || {
        site.get("/metrics").1.contains("scp_node_part_level{part=\"iCom\",linac=\"4299\"}")
    });
    // The first look may have found work that waited.
    wait_for("a look at what works", || site.get("/").1.contains("Everything works."));
    assert_eq!(site.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(site.metric("scp_node_icom_records_total{linac=\"4299\"}"), Some(2.0));
    assert_eq!(site.metric("scp_node_icom_connected{linac=\"4299\"}"), Some(1.0));
    assert!(site.metric("scp_node_disk_free_bytes{part=\"disk of the images\"}").unwrap() > 0.0);
    let (code, page) = site.get("/");
    assert_eq!(code, 200);
    for shown in [
        "Everything works.",
        "<th>4299",
        "connected</span>",
        "not listened to",
        "SCP_NODE",
        "http-equiv=refresh",
    ] {
        assert!(page.contains(shown), "no {shown:?} in {page}");
    }
    let everything = [page, site.get("/metrics").1, node.log()].concat();
    for record in site.records() {
        assert!(!everything.contains(&record.record.patient_id), "a patient is named");
        let name = record.record.patient_name.unwrap();
        assert!(!everything.contains(name.split(',').next().unwrap()), "a patient is named");
    }
    assert_eq!(site.get("/nothing").0, 404);
    assert!(node.terminate().success());
    assert_eq!(site.linac.stop().links, [Left::Fin], "the service leaves in order");
}

#[test]
fn metrics_follow_prometheus_s_text_format() {
    let root = tempfile::tempdir().unwrap();
    let site = Site::linac(root.path(), 10, 200.0);
    let _node = site.node(root.path(), "", &[]);
    wait_for("messages", || site.metric("scp_node_icom_messages_total{linac=\"4299\"}") > Some(0.0));
    let (_, text) = site.get("/metrics");
    let mut family = String::new();
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(families.insert(family.clone()), "{family} comes twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert_eq!(name.split('{').next().unwrap(), family, "{line}");
        }
    }
    assert!(families.len() > 30, "{families:?}");
}

#[test]
fn a_linac_that_does_not_answer_is_a_warning_and_a_broken_listener_is_unhealthy() {
    let root = tempfile::tempdir().unwrap();
    let mut site = Site::linac(root.path(), 10, 200.0);
    // Nobody listens there any more.
    let gone = Emulator::start("127.0.0.1:0", std::iter::empty(), Behaviour::default()).unwrap();
    let linac = std::mem::replace(&mut site.linac, gone);
    let stopped = site.linac.address();
    let node = {
        let file = format!(
            "[icom]\ndir = '{}'\n[[site]]\nname = 'M'\n[[site.linac]]\nname = '4299'\nip = '{}'\nicom_port = {}\n",
            site.dir.display(),
            stopped.ip(),
            free_port()
        );
        Node::start_with(root.path(), &[&format!("web.bind={}", site.page)], &file, &[])
    };
    wait_for("the warning", || site.get("/").1.contains("connection refused"));
    assert_eq!(site.get("/healthz").0, 200, "a linac that is switched off is no fault of the service");
    // A second service on the same journal cannot listen.
    let second = tempfile::tempdir().unwrap();
    let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let other = Site { linac, expected: Vec::new(), page, dir: site.dir.clone() };
    let other_node = other.node(second.path(), "", &[]);
    wait_for("the reason", || {
        let (code, reason) = other.get("/healthz");
        code == 503
            && reason.contains("iCom: not listened to")
            && reason.contains("in use by another listener")
    });
    assert!(other.get("/").1.contains("Something does not work."));
    drop((node, other_node));
}

#[test]
fn a_full_disk_costs_no_message_and_is_told() {
    // Room for journal, open record and archive of 17 MB of messages, all at once.
    let Some(disk) = Tmpfs::mount(96) else { return };
    let root = tempfile::tempdir().unwrap();
    let mut site = Site::linac(root.path(), 400, 400.0);
    site.dir = disk.path().join("icom");
    let node = site.node(root.path(), "journal_keep_hours = 0", &[]);
    wait_for("the first messages", || {
        site.metric("scp_node_icom_messages_total{linac=\"4299\"}") > Some(20.0)
    });
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    wait_for("the reason", || {
        let (code, reason) = site.get("/healthz");
        code == 503
            && reason.contains("iCom of linac 4299")
            && reason.contains("the journal waits, bytes stay in memory")
    });
    wait_for("all messages to be taken", || site.linac.all_sent());
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    wait_for("two records", || site.records().len() == 2);
    site.assert_complete();
    wait_for("health", || site.get("/healthz").0 == 200);
    assert!(node.terminate().success());
    assert_eq!(site.linac.stop().links, [Left::Fin]);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_told_and_takes_nothing_else_down() {
    let Some(disk) = Tmpfs::mount(2) else { return };
    let root = tempfile::tempdir().unwrap();
    let mut site = Site::linac(root.path(), 10, 200.0);
    site.dir = disk.path().join("icom");
    let mut file = std::fs::File::create(disk.path().join("ballast")).unwrap();
    while file.write_all(&[0; 1 << 12]).is_ok() {}
    let node = site.node(root.path(), "", &[]);
    wait_for("the reason", || {
        let (code, reason) = site.get("/healthz");
        code == 503 && reason.contains("iCom: not listened to") && reason.contains("free")
    });
    assert!(node.terminate().success());
}

#[test]
fn an_archive_disk_that_hangs_delays_no_send_and_costs_no_message() {
    let root = tempfile::tempdir().unwrap();
    // Slow enough that the disk hangs before the first record is whole.
    let site = Site::linac(root.path(), 100, 100.0);
    let Some(disk) = HangingDisk::new(root.path(), &site.dir) else { return };
    let journal = format!("journal_dir = '{}'", root.path().join("journal").display());
    let node = site.node(root.path(), &journal, &disk.variables());
    wait_for("the first messages", || {
        site.metric("scp_node_icom_messages_total{linac=\"4299\"}") > Some(5.0)
    });
    disk.hang();
    wait_for("all messages to be taken while it hangs", || site.linac.all_sent());
    let all = f64::from(u32::try_from(site.linac.sent()).unwrap());
    wait_for("all messages to be derived", || {
        site.metric("scp_node_icom_messages_total{linac=\"4299\"}") == Some(all)
    });
    assert!(site.records().is_empty());
    disk.work();
    wait_for("two records", || site.records().len() == 2);
    site.assert_complete();
    assert!(node.terminate().success());
    assert_eq!(site.linac.stop().links, [Left::Fin]);
}

#[test]
fn derivation_that_stalls_is_dropped_from_memory_told_and_read_again_from_the_journal() {
    let root = tempfile::tempdir().unwrap();
    // Three times what memory holds for derivation.
    let site = Site::linac(root.path(), 1500, 4000.0);
    let Some(disk) = HangingDisk::new(root.path(), &site.dir.join("journal/4299/spool-")) else { return };
    disk.hang();
    let node = site.node(root.path(), "", &disk.variables());
    wait_for("all messages to be taken while it hangs", || site.linac.all_sent());
    wait_for("all messages to be in the journal", || {
        site.metric("scp_node_icom_waiting_journal_bytes{linac=\"4299\"}") == Some(0.0)
    });
    assert!(site.records().is_empty());
    disk.work();
    wait_for("two records", || site.records().len() == 2);
    site.assert_complete();
    assert!(site.metric("scp_node_icom_derived_dropped_total{linac=\"4299\"}") > Some(0.0));
    assert_eq!(site.metric("scp_node_icom_lost_bytes_total{linac=\"4299\"}"), Some(0.0));
    assert!(node.terminate().success());
}

#[test]
fn a_journal_that_hangs_for_too_long_costs_its_oldest_bytes_and_never_the_reading() {
    let root = tempfile::tempdir().unwrap();
    // Slow enough that more than the memory holds comes after the disk hangs.
    let site = Site::linac(root.path(), 300, 300.0);
    let Some(disk) = HangingDisk::new(root.path(), &site.dir.join("journal/4299/0")) else { return };
    let node = site.node(root.path(), "memory_mb = 1", &disk.variables());
    wait_for("the first messages", || {
        site.metric("scp_node_icom_messages_total{linac=\"4299\"}") > Some(5.0)
    });
    disk.hang();
    wait_for("all messages to be taken while it hangs", || site.linac.all_sent());
    wait_for("the reason", || {
        let (code, reason) = site.get("/healthz");
        code == 503 && reason.contains("wait in memory for the journal's disk")
    });
    disk.work();
    wait_for("the last record", || {
        site.metric("scp_node_icom_waiting_journal_bytes{linac=\"4299\"}") == Some(0.0)
    });
    assert!(site.metric("scp_node_icom_lost_bytes_total{linac=\"4299\"}") > Some(0.0));
    assert!(node.terminate().success());
    let gaps: u64 =
        site.records().iter().map(|record| record.record.gaps + u64::from(record.record.mu_uncertain)).sum();
    assert!(gaps > 0, "what is missing is marked: {:?}", site.records());
    assert_eq!(site.linac.stop().links, [Left::Fin]);
}
