//! The node is killed at random moments while it is sent to: what it acknowledged is there, and nothing partial is.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dicom_dictionary_std::uids;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use scp_node::dimse::Status;
use scp_node::images::{Catalog, SessionFilter};
use scp_node::names::Uid;
use tests::node::{NODE_AE, Node, data_set_of, files_below};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::sender::Sender;

const KILLS: u32 = 200;
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

/// Sends until the node dies; what was acknowledged.
fn send_until_dead(
    node: std::net::SocketAddr,
    round: u32,
    sender: u32,
    acknowledged: &Mutex<Vec<(String, Vec<u8>)>>,
) {
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
        match association.store_as(class, &uid, &data_set) {
            Ok(Status::SUCCESS) => acknowledged.lock().unwrap().push((uid, data_set)),
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

/// What a lane saw: acknowledged UIDs, and how many kills fell while something was being acknowledged.
struct Lane {
    acknowledged: Vec<String>,
    killed_busy: u32,
}

/// Starts, is sent to, and is killed, again and again.
fn kill_again_and_again(root: &Path, lane: u32) -> Lane {
    let images = root.join("images");
    let mut all: Vec<String> = Vec::new();
    let mut killed_busy = 0;
    // A fixed sequence of moments: a failure can be run again.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(lane);
    for round in (lane..KILLS).step_by(LANES as usize) {
        let mut node = Node::start(root, &["log.level=warn"]);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(10_000 + random % 120_000);
        let acknowledged = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let address = node.address();
            for sender in 0..SENDERS {
                let acknowledged = &acknowledged;
                scope.spawn(move || send_until_dead(address, round, sender, acknowledged));
            }
            // Not a wait for a condition: the moment of the kill is the test's input.
            std::thread::sleep(life);
            node.kill();
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        killed_busy += u32::from(!acknowledged.is_empty());
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
        all.extend(acknowledged.into_iter().map(|(uid, _)| uid));
    }
    Lane { acknowledged: all, killed_busy }
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
    let killed_busy: u32 = lanes.iter().map(|l| l.killed_busy).sum();
    let acknowledged: usize = lanes.iter().map(|l| l.acknowledged.len()).sum();
    eprintln!(
        "{KILLS} kills in {:?}, {killed_busy} while storing, {acknowledged} images acknowledged",
        begin.elapsed()
    );
    // Else the kills came too early to prove anything.
    assert!(killed_busy > KILLS / 4 && acknowledged > KILLS as usize, "{killed_busy} {acknowledged}");
}
