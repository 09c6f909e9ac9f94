//! Peers that break the protocol, or ask for too much: each ends alone, with an answer where the standard has one.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dicom_dictionary_std::uids;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, UserVariableItem, write_pdu};
use scp_node::dimse::{Command, CommandField, Status, message};
use scp_node::images::{Catalog, SessionFilter};
use tests::node::{NODE_AE, Node, files_below};
use tests::peers::objects::{RtImage, uid};
use tests::peers::until;
use tests::sender::{Sender, read_status};

/// Long enough for a loaded machine; nothing here waits for it in the good case.
const PATIENCE: Duration = Duration::from_secs(30);

fn image(n: u32) -> (String, Vec<u8>) {
    let image = RtImage { sop_instance_uid: uid(&[9, n]), rows: 16, columns: 16, ..RtImage::default() };
    let mut bytes = Vec::new();
    image.data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    (image.sop_instance_uid, bytes)
}

fn node(settings: &[&str]) -> (tempfile::TempDir, Node) {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), settings);
    (root, node)
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Everything until the node closes; a reset counts as closed.
fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend(buffer.iter().take(n)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("the node neither answered nor closed: {error}"),
        }
    }
}

/// An honest peer is served: what every test here ends with.
fn is_well(node: &Node, n: u32) {
    let (uid, bytes) = image(n);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    assert_eq!(sender.store(&uid, &bytes).unwrap(), Status::SUCCESS);
    sender.release().unwrap();
}

fn no_partial_files(root: &tempfile::TempDir) {
    until("leftovers are removed", PATIENCE, || files_below(root.path(), ".part").is_empty());
}

/// Reason of an A-ABORT from the service provider. PS3.8 §9.3.8.
fn abort_reason(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [0x07, _, 0, 0, 0, 4, _, _, 2, reason] => Some(*reason),
        _ => None,
    }
}

#[test]
fn garbage_before_an_association_is_aborted_as_an_unrecognized_pdu() {
    let (_root, node) = node(&[]);
    let mut socket = connect(node.address());
    socket.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    assert_eq!(abort_reason(&rest(&mut socket)), Some(1));
    is_well(&node, 1);
}

#[test]
fn a_request_that_claims_four_gigabytes_is_refused_without_memory() {
    let (_root, node) = node(&[]);
    let mut socket = connect(node.address());
    socket.write_all(&[0x01, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1]).unwrap();
    assert_eq!(abort_reason(&rest(&mut socket)), Some(6));
    #[cfg(target_os = "linux")]
    assert!(peak_mb(node.id()) < 64, "{} MB", peak_mb(node.id()));
    is_well(&node, 1);
}

/// An A-ASSOCIATE-RQ for Verification in contexts with these ids.
fn request(ids: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let contexts = ids.into_iter().map(|id| PresentationContextProposed {
        id,
        abstract_syntax: uids::VERIFICATION.into(),
        transfer_syntaxes: vec![uids::IMPLICIT_VR_LITTLE_ENDIAN.into()],
    });
    let request = AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "SENDER".into(),
        called_ae_title: NODE_AE.into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: contexts.collect(),
        user_variables: vec![UserVariableItem::MaxLength(16384)],
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(request)).unwrap();
    bytes
}

#[test]
fn contexts_that_no_request_may_hold_are_aborted_before_an_association() {
    let (_root, node) = node(&[]);
    let odd = || (1..=255).step_by(2);
    for ids in [vec![1, 2], vec![1, 3, 1], odd().chain([1]).collect()] {
        let mut socket = connect(node.address());
        socket.write_all(&request(ids.iter().copied())).unwrap();
        assert_eq!(abort_reason(&rest(&mut socket)), Some(6), "{ids:?}");
    }
    let mut socket = connect(node.address());
    socket.write_all(&request(odd())).unwrap();
    let mut kind = [0];
    socket.read_exact(&mut kind).unwrap();
    assert_eq!(kind, [0x02], "128 contexts are legal");
}

#[cfg(target_os = "linux")]
#[test]
fn requests_that_are_claimed_and_never_sent_take_no_memory() {
    let (_root, node) = node(&["node.timeouts.association_s=3"]);
    let claim = |_| {
        let mut socket = connect(node.address());
        // An A-ASSOCIATE-RQ of 500,000 bytes.
        socket.write_all(&[0x01, 0, 0, 7, 0xA1, 0x20]).unwrap();
        socket
    };
    let mut claims: Vec<TcpStream> = (0..200).map(claim).collect();
    for socket in &mut claims {
        assert!(rest(socket).is_empty());
    }
    assert!(peak_mb(node.id()) < 64, "{} MB", peak_mb(node.id()));
    is_well(&node, 1);
}

#[test]
fn half_a_request_ends_at_the_artim_timeout_and_blocks_nobody() {
    let (_root, node) = node(&["node.timeouts.association_s=2.0"]);
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(node.address())).collect();
    for socket in &mut slow {
        socket.write_all(&[0x01, 0, 0, 0, 1, 0, 0, 1]).unwrap();
    }
    is_well(&node, 1);
    for socket in &mut slow {
        assert!(rest(socket).is_empty());
    }
}

#[test]
fn a_peer_that_sends_a_byte_at_a_time_cannot_stretch_the_artim_timer() {
    let (_root, node) = node(&["node.timeouts.association_s=2.0"]);
    let mut socket = connect(node.address());
    socket.set_nodelay(true).unwrap();
    let started = Instant::now();
    // Writes fail once the node has closed; a timer that starts anew with every byte would let this go on for 60 s.
    let mut sent = 0;
    while sent < 600 && socket.write_all(&[0x01]).is_ok() {
        sent += 1;
        let mut gone = [0];
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        if socket.read(&mut gone).is_ok() {
            break;
        }
    }
    assert!(sent < 600, "the node still read after {:?}", started.elapsed());
    is_well(&node, 1);
}

#[test]
fn five_hundred_connections_that_say_nothing_leave_room_for_an_honest_one() {
    let (_root, node) = node(&[]);
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(node.address())).collect();
    is_well(&node, 1);
    drop(idle);
}

#[cfg(unix)]
#[test]
fn more_silent_connections_than_descriptors_disturb_neither_a_running_nor_a_new_association() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start_limited(root.path(), &[], "-n 256");
    let mut running = Sender::open(node.address(), NODE_AE).unwrap();
    let silent: Vec<TcpStream> = (0..300).map(|_| connect(node.address())).collect();
    std::thread::scope(|scope| {
        // The node has come to the last silent one when it answers this one.
        let new = scope.spawn(|| is_well(&node, 1));
        let mut n = 2;
        while n == 2 || !new.is_finished() {
            let (uid, bytes) = image(n);
            assert_eq!(running.store(&uid, &bytes).unwrap(), Status::SUCCESS, "object {n}");
            n += 1;
        }
    });
    drop(silent);
}

#[cfg(target_os = "linux")]
#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start_limited(root.path(), &[], "-S -n 256");
    let text = std::fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
    let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let soft: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft > 256, "{line}");
}

#[test]
fn a_silent_peer_from_outside_the_networks_is_let_go_long_before_the_artim_timeout() {
    let (_root, node) = node(&["node.timeouts.association_s=3600", "node.access.networks=['10.0.0.0/8']"]);
    assert!(rest(&mut connect(node.address())).is_empty());
}

#[test]
fn a_pdu_over_the_announced_length_is_aborted() {
    let (root, node) = node(&["node.limits.pdu_length=16384"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    sender.write(&[0x04, 0, 0, 0, 0x40, 0x01, 0, 0, 0, 0]).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(6));
    no_partial_files(&root);
    is_well(&node, 1);
}

#[test]
fn a_fragment_that_claims_more_than_its_pdu_is_aborted() {
    let (_root, node) = node(&[]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    sender.write(&[0x04, 0, 0, 0, 0, 8, 0, 0, 0xFF, 0xFF, 1, 3, 0, 0]).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(6));
    is_well(&node, 1);
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_an_object_leaves_nothing() {
    let (root, node) = node(&[]);
    let (uid, bytes) = image(1);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let whole = sender.message(uids::RT_IMAGE_STORAGE, &uid, &bytes);
    sender.write(&whole[..whole.len() - 100]).unwrap();
    until("the object is under way", PATIENCE, || !files_below(root.path(), ".part").is_empty());
    drop(sender);
    no_partial_files(&root);
    let catalog = Catalog::open_readonly(&root.path().join("images")).unwrap();
    assert!(catalog.sessions(&SessionFilter::default()).unwrap().is_empty());
    is_well(&node, 1);
}

#[test]
fn a_peer_that_stalls_in_the_middle_of_an_object_ends_at_the_pdu_timeout() {
    let (root, node) = node(&["node.timeouts.pdu_s=0.5"]);
    let (uid, bytes) = image(1);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let whole = sender.message(uids::RT_IMAGE_STORAGE, &uid, &bytes);
    sender.write(&whole[..whole.len() - 100]).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(0));
    no_partial_files(&root);
}

#[test]
fn a_peer_that_does_not_read_its_answers_ends_at_the_pdu_timeout() {
    let (_root, node) = node(&["node.timeouts.pdu_s=0.5", "node.limits.associations=1"]);
    let mut deaf = connect(node.address());
    deaf.write_all(&request([1])).unwrap();
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let echo = Command::request(CommandField::CEchoRq, 1, uids::VERIFICATION);
    let echoes = message::encode(1, &echo, &[], 0).repeat(1000);
    // Its answers fill all buffers, then the node waits for room, reads no more, and ends; a write fails then.
    let started = Instant::now();
    while deaf.write_all(&echoes).is_ok() {
        assert!(started.elapsed() < PATIENCE, "the node still reads");
    }
    until("its place is free", PATIENCE, || associate(node.address(), "SENDER", NODE_AE).is_ok());
}

/// How a peer that dribbles sends: above nothing, below any rate that could be meant.
const DRIBBLE: Duration = Duration::from_millis(20);

/// The node ends an association in which this is dribbled after `early` was sent at once.
fn is_ended_when_dribbled(early: &[u8], dribbled: &[u8], piece: usize) {
    let (root, node) = node(&["node.timeouts.pdu_s=0.5"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    sender.write(early).unwrap();
    let sent = sender.write_slowly(dribbled, piece, DRIBBLE).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(0));
    assert!(sent < dribbled.len(), "only ended once all was sent");
    no_partial_files(&root);
    assert!(files_below(root.path(), ".dcm").is_empty());
    is_well(&node, 2);
}

/// A C-STORE-RQ and its data set, as PDUs of one fragment each.
fn command_and_data_set(fragment: usize) -> (Vec<u8>, Vec<u8>) {
    let (uid, data_set) = image(1);
    let mut command = Command::request(CommandField::CStoreRq, 1, uids::RT_IMAGE_STORAGE);
    command.sop_instance_uid = Some(uid);
    command.has_data_set = true;
    let mut data = Vec::new();
    let mut pieces = data_set.chunks(fragment).peekable();
    while let Some(piece) = pieces.next() {
        let length = piece.len() as u32 + 2;
        data.extend([0x04, 0]);
        data.extend((length + 4).to_be_bytes());
        data.extend(length.to_be_bytes());
        data.extend([1, if pieces.peek().is_none() { 2 } else { 0 }]);
        data.extend(piece);
    }
    (message::encode(1, &command, &[], 0), data)
}

#[test]
fn a_command_a_byte_at_a_time_ends_with_an_abort() {
    let (command, _) = command_and_data_set(4096);
    is_ended_when_dribbled(&[], &command, 1);
}

#[test]
fn a_data_set_a_byte_at_a_time_ends_with_an_abort_and_leaves_no_file() {
    let (mut early, data) = command_and_data_set(4096);
    // In the middle of a fragment, where the file is there already.
    let (begun, rest) = data.split_at(100);
    early.extend(begun);
    is_ended_when_dribbled(&early, rest, 1);
}

#[test]
fn a_data_set_in_whole_pdus_of_a_byte_each_ends_with_an_abort_and_leaves_no_file() {
    let (command, data) = command_and_data_set(1);
    is_ended_when_dribbled(&command, &data, 13);
}

#[test]
fn a_slow_and_steady_peer_is_served_however_long_it_takes() {
    let (root, node) = node(&["node.timeouts.pdu_s=4"]);
    let image = RtImage { rows: 256, columns: 64, ..RtImage::default() };
    let mut data_set = Vec::new();
    image.data_set().write_dataset_with_ts(&mut data_set, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let whole = sender.message(uids::RT_IMAGE_STORAGE, &image.sop_instance_uid, &data_set);
    let started = Instant::now();
    // 33 kB in one PDU, at 6 kB/s.
    assert_eq!(sender.write_slowly(&whole, 64, Duration::from_millis(10)).unwrap(), whole.len());
    assert!(started.elapsed() > Duration::from_secs(4), "too fast to show anything");
    assert_eq!(sender.status().unwrap(), Status::SUCCESS);
    assert_eq!(files_below(root.path(), ".dcm").len(), 1);
}

#[test]
fn an_idle_association_ends_at_the_idle_timeout() {
    let (_root, node) = node(&["node.timeouts.idle_s=0.5"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(0));
}

#[test]
fn statuses_tell_cut_mismatched_and_unadmitted_objects_apart_and_the_association_goes_on() {
    let (root, node) = node(&["node.access.patients=['QA*', 'SIM*']"]);
    let (uid, bytes) = image(1);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let stranger = RtImage { patient_id: "CLINICAL".into(), rows: 16, columns: 16, ..RtImage::default() };
    let mut strange = Vec::new();
    stranger.data_set().write_dataset_with_ts(&mut strange, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    assert_eq!(sender.store(&uid, &bytes[..bytes.len() - 3]).unwrap(), Status::CANNOT_UNDERSTAND);
    assert_eq!(sender.store("1.2.3", &bytes).unwrap(), Status::DATA_SET_MISMATCH);
    assert_eq!(sender.store("../../../etc/cron.d/x", &bytes).unwrap(), Status::INVALID_INSTANCE);
    assert_eq!(sender.store_as(uids::RT_PLAN_STORAGE, &uid, &bytes).unwrap(), Status::CLASS_NOT_SUPPORTED);
    assert_eq!(sender.store(&stranger.sop_instance_uid, &strange).unwrap(), Status::NOT_AUTHORIZED);
    sender.release().unwrap();
    no_partial_files(&root);
    assert!(!node.log().contains("CLINICAL"), "no patient identity in the log");
    assert!(files_below(root.path(), ".dcm").is_empty());
}

#[test]
fn nothing_is_stored_as_a_verification_and_foreign_text_forges_no_line_of_the_log() {
    let (root, node) = node(&["images.storage=all"]);
    let (uid, bytes) = image(1);
    let implicit = uids::IMPLICIT_VR_LITTLE_ENDIAN;
    let mut sender = Sender::open_for(node.address(), NODE_AE, uids::VERIFICATION, implicit).unwrap();
    assert_eq!(sender.store_as(uids::VERIFICATION, &uid, &bytes).unwrap(), Status::CLASS_NOT_SUPPORTED);
    sender.release().unwrap();
    // (0008,0016) of the data set, and the class of a command, hold a line end and a line.
    let class = bytes.windows(4).position(|w| w == [0x08, 0x00, 0x16, 0x00]).unwrap();
    let mut forged = bytes.clone();
    forged[class + 8..class + 20].copy_from_slice(b"1.2.3\nFORGED");
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    assert_eq!(sender.store(&uid, &forged).unwrap(), Status::DATA_SET_MISMATCH);
    assert_eq!(sender.store_as("1.2.3\nFORGED", &uid, &bytes).unwrap(), Status::CLASS_NOT_SUPPORTED);
    sender.release().unwrap();
    let log = node.log();
    assert!(!log.contains("FORGED") && log.contains("that is no UID"), "{log}");
    assert!(files_below(root.path(), ".dcm").is_empty());
}

#[test]
fn a_response_to_nothing_that_was_asked_ends_the_association() {
    let (_root, node) = node(&[]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let response = Command::request(CommandField::CStoreRsp, 1, uids::RT_IMAGE_STORAGE);
    sender.write(&message::encode(1, &response, &[], 0)).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(5));
    is_well(&node, 1);
}

#[test]
fn a_full_quota_is_out_of_resources_and_harms_nothing_that_is_there() {
    let (root, node) = node(&["images.quota_bytes=2500"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let statuses: Vec<Status> = (1..=4)
        .map(|n| {
            let (uid, bytes) = image(n);
            sender.store(&uid, &bytes).unwrap()
        })
        .collect();
    assert_eq!(statuses.first(), Some(&Status::SUCCESS));
    assert_eq!(statuses.last(), Some(&Status::OUT_OF_RESOURCES));
    let stored = statuses.iter().filter(|s| **s == Status::SUCCESS).count();
    assert_eq!(files_below(root.path(), ".dcm").len(), stored);
    no_partial_files(&root);
}

#[test]
fn an_operation_that_we_do_not_know_is_answered_and_an_unknown_context_aborted() {
    let (_root, node) = node(&[]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let get = Command::request(CommandField::Unknown(0x0010), 1, uids::RT_IMAGE_STORAGE);
    sender.write(&message::encode(1, &get, &[], 0)).unwrap();
    assert_eq!(sender.status().unwrap(), Status::UNRECOGNIZED_OPERATION);
    let echo = Command::request(CommandField::CEchoRq, 2, uids::VERIFICATION);
    sender.write(&message::encode(99, &echo, &[], 0)).unwrap();
    assert_eq!(abort_reason(&rest(sender.stream())), Some(5));
}

fn associate(address: SocketAddr, calling: &str, called: &str) -> Result<(), String> {
    ClientAssociationOptions::new()
        .calling_ae_title(calling)
        .called_ae_title(called)
        .read_timeout(PATIENCE)
        .with_abstract_syntax(uids::VERIFICATION)
        .establish(address)
        .map(|_| ())
        .map_err(|e| format!("{e:?}"))
}

#[test]
fn admission_follows_the_settings() {
    let (_root, closed) = node(&["node.access.calling_ae=['ARIA*']"]);
    associate(closed.address(), "ARIA_DB", NODE_AE).unwrap();
    assert!(
        associate(closed.address(), "STRANGER", NODE_AE).unwrap_err().contains("CallingAETitleNotRecognized")
    );
    assert!(
        associate(closed.address(), "ARIA_DB", "OTHER").unwrap_err().contains("CalledAETitleNotRecognized")
    );
    let (_root, elsewhere) = node(&["node.access.networks=['10.0.0.0/8']"]);
    assert!(associate(elsewhere.address(), "ARIA_DB", NODE_AE).unwrap_err().contains("NoReasonGiven"));
    let (_root, here) = node(&["node.access.networks=['127.0.0.0/8']", "node.access.check_called_ae=false"]);
    associate(here.address(), "ANY", "ANY").unwrap();
    let (_root, mapped) = node(&["node.access.networks=['::ffff:127.0.0.0/104']"]);
    associate(mapped.address(), "ARIA_DB", NODE_AE).unwrap();
}

#[test]
fn associations_over_the_limits_are_rejected_as_transient_and_come_in_when_others_leave() {
    for limit in ["node.limits.associations=2", "node.limits.associations_per_peer=2"] {
        let (_root, node) = node(&[limit]);
        let first = Sender::open(node.address(), NODE_AE).unwrap();
        let _second = Sender::open(node.address(), NODE_AE).unwrap();
        let refused = associate(node.address(), "THIRD", NODE_AE).unwrap_err();
        assert!(refused.contains("Transient") && refused.contains("LocalLimitExceeded"), "{refused}");
        first.release().unwrap();
        until("a place is free", PATIENCE, || associate(node.address(), "THIRD", NODE_AE).is_ok());
    }
}

/// Ctrl-C sends SIGINT, systemd SIGTERM.
#[cfg(unix)]
#[test]
fn either_stop_lets_the_running_transfer_finish_and_ends_idle_peers_at_once() {
    for signal in ["INT", "TERM"] {
        let (root, node) = node(&["node.timeouts.drain_s=20"]);
        let (uid, bytes) = image(1);
        let mut busy = Sender::open(node.address(), NODE_AE).unwrap();
        let mut idle = Sender::open(node.address(), NODE_AE).unwrap();
        let whole = busy.message(uids::RT_IMAGE_STORAGE, &uid, &bytes);
        let (early, late) = whole.split_at(whole.len() - 50);
        busy.write(early).unwrap();
        until("the object is under way", PATIENCE, || !files_below(root.path(), ".part").is_empty());
        let stopping = std::thread::spawn(move || node.stop(signal));
        assert_eq!(abort_reason(&rest(idle.stream())), Some(0), "the idle peer is told");
        drop(idle);
        busy.write(late).unwrap();
        assert_eq!(busy.status().unwrap(), Status::SUCCESS);
        drop(busy);
        assert!(stopping.join().unwrap().success(), "{signal}");
        assert_eq!(files_below(root.path(), ".dcm").len(), 1);
        // Closed in order: the next start has nothing to look for.
        let next = Node::start(root.path(), &[]);
        is_well(&next, 2);
        assert!(!next.log().contains("did not end in order"), "{signal}: {}", next.log());
    }
}

#[cfg(unix)]
#[test]
fn a_stop_does_not_wait_longer_than_the_drain_deadline() {
    let (root, node) = node(&["node.timeouts.drain_s=0.5"]);
    let (uid, bytes) = image(1);
    let mut stuck = Sender::open(node.address(), NODE_AE).unwrap();
    let whole = stuck.message(uids::RT_IMAGE_STORAGE, &uid, &bytes);
    stuck.write(&whole[..whole.len() - 50]).unwrap();
    until("the object is under way", PATIENCE, || !files_below(root.path(), ".part").is_empty());
    assert!(node.terminate().success());
    assert_eq!(abort_reason(&rest(stuck.stream())), Some(0), "the peer is told");
    assert!(files_below(root.path(), ".part").is_empty());
}

/// A sender that is faster than we are: it never makes us wait, which is when the deadline is looked at.
#[cfg(unix)]
#[test]
fn a_stop_ends_a_transfer_that_never_pauses_at_the_drain_deadline() {
    let (root, node) = node(&["node.timeouts.drain_s=0.5", "images.durability=rename"]);
    let (uid, data_set) = image(1);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let mut command = Command::request(CommandField::CStoreRq, 1, uids::RT_IMAGE_STORAGE);
    command.sop_instance_uid = Some(uid);
    command.has_data_set = true;
    sender.write(&message::encode(1, &command, &[], 0)).unwrap();
    let fragment = |bytes: &[u8]| {
        let length = bytes.len() as u32 + 2;
        let head = [&[0x04, 0][..], &(length + 4).to_be_bytes(), &length.to_be_bytes(), &[1, 0]].concat();
        [&head, bytes].concat()
    };
    // Its pixel data seem to have no end, and come in fragments of a byte, which cost us more than the sender.
    let at = data_set.windows(4).rposition(|w| w == [0xE0, 0x7F, 0x10, 0x00]).unwrap();
    let head = [&data_set[..at + 4], &0xF000_0000_u32.to_le_bytes()].concat();
    sender.write(&fragment(&head)).unwrap();
    let bytes = fragment(&[0]).repeat(50_000);
    let sending = std::thread::spawn(move || while sender.write(&bytes).is_ok() {});
    until("the object is under way", PATIENCE, || !files_below(root.path(), ".part").is_empty());
    assert!(node.terminate().success());
    sending.join().unwrap();
    assert!(files_below(root.path(), ".part").is_empty());
}

#[test]
fn an_object_of_any_size_needs_the_same_memory() {
    let (root, node) = node(&["images.durability=rename"]);
    let (uid, _) = image(1);
    let mut head = Vec::new();
    let image = RtImage { sop_instance_uid: uid.clone(), rows: 1, columns: 1, ..RtImage::default() };
    image.data_set().write_dataset_with_ts(&mut head, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    // The pixel data comes last: its length is rewritten to 500 MB, and as many bytes follow.
    let at = head.windows(4).rposition(|w| w == [0xE0, 0x7F, 0x10, 0x00]).unwrap();
    head.truncate(at + 4);
    const PIXELS: u32 = 500 << 20;
    head.extend(PIXELS.to_le_bytes());
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let mut command = Command::request(CommandField::CStoreRq, 1, uids::RT_IMAGE_STORAGE);
    command.sop_instance_uid = Some(uid);
    command.has_data_set = true;
    sender.write(&message::encode(1, &command, &[], 0)).unwrap();
    let mut fragment = |bytes: &[u8], last: bool| {
        let length = bytes.len() as u32 + 2;
        let mut pdu = vec![0x04, 0];
        pdu.extend((length + 4).to_be_bytes());
        pdu.extend(length.to_be_bytes());
        pdu.extend([1, if last { 2 } else { 0 }]);
        pdu.extend(bytes);
        sender.write(&pdu).unwrap();
    };
    fragment(&head, false);
    let block = vec![0u8; 100 << 10];
    let blocks = PIXELS as usize / block.len();
    for n in 0..blocks {
        fragment(&block, n + 1 == blocks);
    }
    assert_eq!(sender.status().unwrap(), Status::SUCCESS);
    #[cfg(target_os = "linux")]
    assert!(peak_mb(node.id()) < 64, "{} MB", peak_mb(node.id()));
    let files = files_below(root.path(), ".dcm");
    assert!(std::fs::metadata(&files[0]).unwrap().len() > u64::from(PIXELS));
}

#[test]
fn an_echo_is_answered() {
    let (_root, node) = node(&[]);
    let mut association = ClientAssociationOptions::new()
        .calling_ae_title("ANY")
        .called_ae_title(NODE_AE)
        .with_abstract_syntax(uids::VERIFICATION)
        .establish(node.address())
        .unwrap();
    let echo = Command::request(CommandField::CEchoRq, 1, uids::VERIFICATION);
    association.inner_stream().write_all(&message::encode(1, &echo, &[], 0)).unwrap();
    assert_eq!(read_status(association.inner_stream()).unwrap(), Status::SUCCESS);
}

/// The most memory that a process ever held.
#[cfg(target_os = "linux")]
fn peak_mb(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
