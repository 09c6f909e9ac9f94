//! The node is killed at random moments while it is sent to: what it acknowledged is there, and nothing partial is.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dicom_dictionary_std::uids;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use scp_node::dimse::Status;
use scp_node::images::{Catalog, SessionFilter};
use scp_node::names::Uid;
use tests::node::{NODE_AE, Node, data_set_of, files_below};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::sender::Sender;

/// Kills while an object is under way, or its answer: fewer prove nothing.
const BUSY_KILLS: u32 = 200;
/// A kill may come before anything is sent, on a machine that is loaded most of all; more than so many in all show that the
/// moments are wrong.
const KILLS_MAX: u32 = 600;
/// Nodes at once, each with a directory of its own: the kills wait for the disk side by side.
const LANES: u32 = 4;
const SENDERS: u32 = 2;

/// The plan of a sender's images in one round.
fn plan_uid(round: u32, sender: u32) -> String {
    uid(&[9, round, sender])
}

/// That plan, one label for all of a sender's, as of a clinic that copies its plans.
fn plan(round: u32, sender: u32) -> (String, Vec<u8>) {
    let plan = RtPlan {
        sop_instance_uid: plan_uid(round, sender),
        label: Some(format!("WL {sender}")),
        ..RtPlan::default()
    };
    (plan.sop_instance_uid.clone(), encoded(&plan.data_set()))
}

fn encoded(object: &dicom_object::InMemDicomObject) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    bytes
}

/// Image `n` of a round: its UID and its data set; other rounds have other bytes.
fn image(round: u32, sender: u32, n: u32) -> (String, Vec<u8>) {
    let image = RtImage {
        plan_uid: Some(plan_uid(round, sender)),
        series_uid: uid(&[7, round % 20]),
        sop_instance_uid: uid(&[7, round, sender, n]),
        instance_number: n + 1,
        gantry_iec_deg: f64::from(round),
        // 64 kB: several PDUs, so that a kill often falls into the middle of one object.
        rows: 256,
        columns: 128,
        ..RtImage::default()
    };
    (image.sop_instance_uid.clone(), encoded(&image.data_set()))
}

/// What one sender of a round has done, seen from the thread that kills.
#[derive(Debug, Default)]
struct Sent {
    /// Stores that were begun.
    begun: AtomicUsize,
    acknowledged: Mutex<Vec<(String, Vec<u8>)>>,
}

/// Sends until the node dies.
fn send_until_dead(node: std::net::SocketAddr, round: u32, sender: u32, sent: &Sent) {
    let open = |class| Sender::open_for(node, NODE_AE, class, uids::IMPLICIT_VR_LITTLE_ENDIAN);
    let (Ok(mut images), Ok(mut plans)) = (open(uids::RT_IMAGE_STORAGE), open(uids::RT_PLAN_STORAGE)) else {
        return;
    };
    for n in 0.. {
        // Images wait for their label first, and are renamed by the plan; in every third round it never comes.
        let is_plan = n == 2 && !round.is_multiple_of(3);
        let (uid, data_set) = if is_plan { plan(round, sender) } else { image(round, sender, n) };
        let (association, class) =
            if is_plan { (&mut plans, uids::RT_PLAN_STORAGE) } else { (&mut images, uids::RT_IMAGE_STORAGE) };
        sent.begun.fetch_add(1, Ordering::SeqCst);
        match association.store_as(class, &uid, &data_set) {
            Ok(Status::SUCCESS) => sent.acknowledged.lock().unwrap().push((uid, data_set)),
            Ok(other) => panic!("a good object was answered with {other}"),
            Err(_) => return,
        }
    }
}

/// Every visible file is whole, and each acknowledged one is there with its bytes.
fn check_files(
    images: &Path,
    acknowledged: &[(String, Vec<u8>)],
    visible: &BTreeMap<String, std::path::PathBuf>,
) {
    for (uid, data_set) in acknowledged {
        let path = visible
            .get(uid)
            .unwrap_or_else(|| panic!("{uid} was acknowledged and is gone from {}", images.display()));
        let bytes = std::fs::read(path).unwrap();
        assert!(data_set_of(&bytes) == Some(data_set.as_slice()), "{} changed", path.display());
    }
}

fn visible(images: &Path) -> BTreeMap<String, std::path::PathBuf> {
    let uid = |p: &std::path::PathBuf| {
        let name = p.file_name().unwrap().to_string_lossy().into_owned();
        name.trim_start_matches("RI.").trim_start_matches("RP.").trim_end_matches(".dcm").to_owned()
    };
    files_below(images, ".dcm").into_iter().map(|p| (uid(&p), p)).collect()
}

fn uid_of_round(round: u32) -> String {
    uid(&[7, round])
}

/// Round, sender and number of an image.
fn number_of(uid: &str) -> (u32, u32, u32) {
    let mut parts = uid.rsplit('.').map(|part| part.parse().unwrap());
    let (n, sender, round) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    (round, sender, n)
}

/// The instances that have a row, as the kill left the catalog: a copy is read, so that the next start finds it untouched.
fn rows(images: &Path) -> BTreeSet<String> {
    let copy = tempfile::tempdir().unwrap();
    let catalog = Catalog::file(images);
    let read = copy.path().join(catalog.file_name().unwrap());
    std::fs::copy(&catalog, &read).unwrap();
    let log = catalog.with_extension("sqlite-wal");
    if log.exists() {
        std::fs::copy(log, read.with_extension("sqlite-wal")).unwrap();
    }
    let catalog = rusqlite::Connection::open(read).unwrap();
    let mut statement = catalog.prepare("SELECT sop_instance_uid FROM instances").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// What a lane saw: acknowledged UIDs, how many kills there were, and how many of them fell while an object was under way or
/// its answer was.
#[derive(Debug, Default)]
struct Lane {
    acknowledged: Vec<String>,
    kills: u32,
    busy_kills: u32,
}

/// Starts, is sent to, and is killed, again and again.
fn kill_again_and_again(root: &Path, lane: u32) -> Lane {
    let images = root.join("images");
    let mut seen = Lane::default();
    // A fixed sequence of moments: a failure can be run again.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(lane);
    for round in (lane..KILLS_MAX).step_by(LANES as usize) {
        if seen.busy_kills >= BUSY_KILLS.div_ceil(LANES) {
            break;
        }
        let mut node = Node::start(root, &["log.level=warn"]);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(10_000 + random % 120_000);
        let sent: [Sent; SENDERS as usize] = Default::default();
        let begun = std::thread::scope(|scope| {
            let address = node.address();
            for (sender, sent) in (0..).zip(&sent) {
                scope.spawn(move || send_until_dead(address, round, sender, sent));
            }
            // Not a wait for a condition: the moment of the kill is the test's input.
            std::thread::sleep(life);
            let begun = sent.each_ref().map(|sent| sent.begun.load(Ordering::SeqCst));
            node.kill();
            begun
        });
        let acknowledged = sent.map(|sent| sent.acknowledged.into_inner().unwrap());
        // What was begun before the kill and never answered.
        let is_busy = begun.iter().zip(&acknowledged).any(|(begun, answered)| *begun > answered.len());
        seen.kills += 1;
        seen.busy_kills += u32::from(is_busy);
        let acknowledged = acknowledged.concat();
        // As the kill left it, before any start could repair it.
        let now = visible(&images);
        check_files(&images, &acknowledged, &now);
        for (uid, path) in &now {
            let data_set = match (0..SENDERS).find(|sender| *uid == plan_uid(round, *sender)) {
                Some(sender) => plan(round, sender).1,
                None if !uid.starts_with(&format!("{}.", uid_of_round(round))) => continue,
                None => {
                    let (round, sender, n) = number_of(uid);
                    image(round, sender, n).1
                }
            };
            let bytes = std::fs::read(path).unwrap();
            assert!(data_set_of(&bytes) == Some(data_set.as_slice()), "{} is partial", path.display());
        }
        seen.acknowledged.extend(acknowledged.into_iter().map(|(uid, _)| uid));
        let rows = rows(&images);
        for uid in &seen.acknowledged {
            assert!(
                rows.contains(uid),
                "{uid} was acknowledged, and the kill of round {round} left no row of it"
            );
        }
    }
    seen
}

/// After one more start: leftovers are cleared, and the catalog holds what the disk holds.
fn check_after_start(root: &Path, acknowledged: &[String]) {
    let images = root.join("images");
    let _node = Node::start(root, &[]);
    assert_eq!(files_below(&images.join("_incoming"), ".part"), Vec::<std::path::PathBuf>::new());
    let catalog = Catalog::open_readonly(&images).unwrap();
    let acknowledged_set: BTreeSet<&str> = acknowledged.iter().map(String::as_str).collect();
    let mut listed = BTreeMap::new();
    for session in catalog.sessions(&SessionFilter::default()).unwrap() {
        assert!(session.images > 0, "a session without images: {}", session.directory.display());
        let plan = session.plan_uid.as_deref().unwrap();
        assert!(
            session.plan_label.is_some() || !acknowledged_set.contains(plan),
            "images still wait for plan {plan}, which was acknowledged"
        );
        for instance in catalog.instances(&session).unwrap() {
            assert_eq!(
                instance.path.metadata().unwrap().len(),
                instance.bytes,
                "{}",
                instance.path.display()
            );
            listed.insert(instance.sop_instance_uid, instance.path);
        }
    }
    // Sessions hold images; that a plan is there is told by its instance.
    let visible = visible(&images);
    let is_plan = |path: &Path| path.parent().is_some_and(|p| p.ends_with("_plan"));
    let seen: Vec<_> = visible.iter().filter(|(_, path)| !is_plan(path)).map(|(uid, _)| uid).collect();
    assert_eq!(listed.keys().collect::<Vec<_>>(), seen);
    let uids: Vec<Uid> = acknowledged.iter().map(|uid| Uid::new(uid).unwrap()).collect();
    let present = catalog.on_disk(&uids).unwrap();
    for uid in &uids {
        assert!(present.contains(uid), "{uid} was acknowledged and is not in the catalog");
    }
    assert!(catalog.kept().unwrap().is_empty(), "an image came to lie beside itself");
}

#[test]
fn every_acknowledged_image_survives_two_hundred_kills_and_nothing_partial_is_visible() {
    let begin = Instant::now();
    let lanes: Vec<Lane> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                scope.spawn(move || {
                    let root = tempfile::tempdir().unwrap();
                    let seen = kill_again_and_again(root.path(), lane);
                    check_after_start(root.path(), &seen.acknowledged);
                    seen
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let kills: u32 = lanes.iter().map(|lane| lane.kills).sum();
    let busy_kills: u32 = lanes.iter().map(|lane| lane.busy_kills).sum();
    let acknowledged: usize = lanes.iter().map(|lane| lane.acknowledged.len()).sum();
    eprintln!(
        "{kills} kills in {:?}, {busy_kills} while storing, {acknowledged} objects acknowledged",
        begin.elapsed()
    );
    // Else the kills came too early to prove anything.
    assert!(busy_kills >= BUSY_KILLS, "{kills} kills, only {busy_kills} of them while storing");
    assert!(acknowledged > BUSY_KILLS as usize, "only {acknowledged} objects were acknowledged");
}
