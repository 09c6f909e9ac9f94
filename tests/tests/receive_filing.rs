//! What was sent lies where it belongs, as the catalog says: every storage class, hostile names, and readers meanwhile.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use scp_node::dimse::Status;
use scp_node::images::{Catalog, SessionFilter};
use tests::node::{NODE_AE, Node, files_below, node_binary};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::peers::until;
use tests::sender::Sender;

const PATIENCE: Duration = Duration::from_secs(30);
/// Varian's RT Plan of its own, as Aria sends it for some machines.
const RT_PLAN_VARIAN: &str = "1.2.246.352.70.1.70";
/// A storage class that no standard knows.
const PRIVATE: &str = "1.2.840.113619.4.30";

fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    // As bytes, so that what is hostile is sent as it is.
    object.put(DataElement::new(tag, vr, PrimitiveValue::U8(value.as_bytes().into())));
}

fn bytes(object: &InMemDicomObject) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    bytes
}

fn open(node: &Node, class: &str) -> std::io::Result<Sender> {
    Sender::open_for(node.address(), NODE_AE, class, uids::IMPLICIT_VR_LITTLE_ENDIAN)
}

fn images(root: &Path) -> PathBuf {
    root.join("images")
}

fn text(value: rusqlite::types::ValueRef<'_>) -> String {
    value.as_str().map_or_else(|_| format!("{value:?}"), |text| format!("{text:?}"))
}

/// Every row of the catalog as text, without the row ids, which a reindex gives anew.
fn rows(root: &Path) -> BTreeSet<String> {
    let catalog = rusqlite::Connection::open(Catalog::file(&images(root))).unwrap();
    let mut rows = BTreeSet::new();
    for table in [
        "SELECT * FROM instances i JOIN sessions s ON s.id = i.session_id",
        "SELECT * FROM plans",
        "SELECT * FROM kept",
    ] {
        let mut statement = catalog.prepare(table).unwrap();
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values =
                columns.iter().enumerate().filter(|(_, c)| !["id", "session_id"].contains(&c.as_str()));
            let values = values.map(|(n, c)| format!("{c}={}", text(row.get_ref(n).unwrap())));
            rows.insert(values.collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

/// A command of the program about the images below this root; its standard output.
fn ask(root: &Path, command: &str) -> String {
    let output = Command::new(node_binary())
        .env("SCP_NODE_CONFIG", root.join("node.toml"))
        .args(["--json", "--set", &format!("images.root={}", images(root).display()), command])
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Stops the node; the catalog made anew from the files must say the same.
fn says_the_same_after_a_reindex(node: Node, root: &Path) {
    assert!(node.terminate().success());
    let (before, listed) = (rows(root), ask(root, "sessions"));
    ask(root, "reindex");
    let after = rows(root);
    let lost: Vec<_> = before.difference(&after).collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(lost.is_empty() && new.is_empty(), "a reindex lost {lost:#?}\nand made {new:#?}");
    let sorted = |text: &str| {
        let sessions: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        sessions.iter().map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    assert_eq!(sorted(&listed), sorted(&ask(root, "sessions")));
}

/// One object of each class that is neither RT Image nor RT Plan: class, modality, and the prefix of its file.
const OTHERS: [(&str, &str, &str); 6] = [
    (uids::RT_DOSE_STORAGE, "RTDOSE", "RD"),
    (uids::RT_STRUCTURE_SET_STORAGE, "RTSTRUCT", "RS"),
    (uids::CT_IMAGE_STORAGE, "CT", "CT"),
    (uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE, "CR", "DCM"),
    (uids::SECONDARY_CAPTURE_IMAGE_STORAGE, "OT", "DCM"),
    (PRIVATE, "OT", "DCM"),
];

/// An object of such a class; RT Dose names its plan, the others none.
fn other(n: u32, class: &str, modality: &str) -> (String, Vec<u8>) {
    let plan = RtPlan::default().sop_instance_uid;
    let image = RtImage {
        series_uid: uid(&[6, n]),
        sop_instance_uid: uid(&[6, n, 1]),
        plan_uid: (class == uids::RT_DOSE_STORAGE).then_some(plan),
        ..RtImage::default()
    };
    let mut object = image.data_set();
    put(&mut object, tags::SOP_CLASS_UID, VR::UI, class);
    put(&mut object, tags::MODALITY, VR::CS, modality);
    (image.sop_instance_uid, bytes(&object))
}

#[test]
fn other_classes_are_filed_with_their_prefix_where_the_settings_take_them() {
    for setting in ["qa", "all"] {
        let root = tempfile::tempdir().unwrap();
        let node = Node::start(root.path(), &[&format!("images.storage={setting}")]);
        let plan = RtPlan::default();
        let mut plans = open(&node, uids::RT_PLAN_STORAGE).unwrap();
        let stored = plans.store_as(uids::RT_PLAN_STORAGE, &plan.sop_instance_uid, &bytes(&plan.data_set()));
        assert_eq!(stored.unwrap(), Status::SUCCESS);
        plans.release().unwrap();
        let mut expected = BTreeMap::new();
        for (n, (class, modality, prefix)) in (1..).zip(OTHERS) {
            if class == PRIVATE && setting == "qa" {
                is_refused_at_negotiation(&node, class);
                continue;
            }
            let (instance, data_set) = other(n, class, modality);
            let mut sender = open(&node, class).unwrap();
            assert_eq!(sender.store_as(class, &instance, &data_set).unwrap(), Status::SUCCESS, "{class}");
            sender.release().unwrap();
            let label = if class == uids::RT_DOSE_STORAGE { "WL_10MV" } else { "_no_plan" };
            expected.insert(instance.clone(), (class.to_owned(), label, format!("{prefix}.{instance}.dcm")));
        }
        let catalog = Catalog::open_readonly(&images(root.path())).unwrap();
        let mut found = BTreeMap::new();
        for session in catalog.sessions(&SessionFilter::default()).unwrap() {
            for instance in catalog.instances(&session).unwrap() {
                assert_eq!(instance.path.metadata().unwrap().len(), instance.bytes);
                let label = session.directory.iter().rev().nth(2).unwrap().to_str().unwrap().to_owned();
                let name = instance.path.file_name().unwrap().to_str().unwrap().to_owned();
                found.insert(instance.sop_instance_uid, (instance.sop_class_uid, label, name));
            }
        }
        let expected: BTreeMap<_, _> = expected
            .into_iter()
            .map(|(i, (class, label, name))| (i, (class, label.to_owned(), name)))
            .collect();
        assert_eq!(found, expected, "{setting}");
        says_the_same_after_a_reindex(node, root.path());
    }
}

#[test]
fn other_classes_are_refused_at_negotiation_by_default() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    for (class, ..) in OTHERS {
        is_refused_at_negotiation(&node, class);
    }
}

fn is_refused_at_negotiation(node: &Node, class: &str) {
    let refused = open(node, class).unwrap_err().to_string();
    assert!(refused.contains("presentation context"), "{class}: {refused}");
}

#[test]
fn varians_own_plan_class_tells_its_label_to_the_images_that_wait() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let image = RtImage::default();
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    assert_eq!(sender.store(&image.sop_instance_uid, &bytes(&image.data_set())).unwrap(), Status::SUCCESS);
    sender.release().unwrap();
    let images = images(root.path());
    assert_eq!(files_below(&images.join("_unresolved"), ".dcm").len(), 1);
    let plan = RtPlan::default();
    let mut object = plan.data_set();
    put(&mut object, tags::SOP_CLASS_UID, VR::UI, RT_PLAN_VARIAN);
    let mut sender = open(&node, RT_PLAN_VARIAN).unwrap();
    let stored = sender.store_as(RT_PLAN_VARIAN, &plan.sop_instance_uid, &bytes(&object));
    assert_eq!(stored.unwrap(), Status::SUCCESS);
    sender.release().unwrap();
    let plan_file = images.join(format!("QA_TB_WL/WL_10MV/_plan/RP.{}.dcm", plan.sop_instance_uid));
    assert!(plan_file.is_file(), "{:?}", files_below(&images, ".dcm"));
    let catalog = Catalog::open_readonly(&images).unwrap();
    let sessions = catalog.sessions(&SessionFilter::default()).unwrap();
    assert_eq!(sessions.iter().map(|s| s.plan_label.as_deref()).collect::<Vec<_>>(), [Some("WL_10MV")]);
    let moved = files_below(&images.join("QA_TB_WL/WL_10MV/2026-01-05"), ".dcm");
    assert_eq!(moved.len(), 1);
    assert!(files_below(&images.join("_unresolved"), ".dcm").is_empty());
    drop(catalog);
    says_the_same_after_a_reindex(node, root.path());
}

/// Values that are dangerous as names of directories; as DICOM trims them, all different.
fn hostile() -> Vec<String> {
    let plain = [
        "../..",
        "..",
        ".",
        "/",
        "/etc",
        "A/B",
        "A\\B",
        "A\0B",
        "A",
        "B",
        "CON",
        "con",
        "Con",
        "NUL.TXT",
        "COM1",
        "DOT.",
        "DOT",
        "DOT..",
        "wl",
        "WL",
        "Wl",
        "_incoming",
        "_catalog",
        "_unresolved",
        "_plan",
        "%",
        "%2E%2E",
        "~",
        "C:",
        "A:B",
        "*?",
        "\u{1b}[31m",
        "A B",
    ];
    plain.map(str::to_owned).into()
}

/// 64 characters, which are 128 bytes and more: some differ in the last one, some in case only. And 16, which is what a
/// label may have, that are too long once they are escaped.
fn long() -> Vec<String> {
    let long = ["ä".repeat(64), "Ä".repeat(64), "ä".repeat(63) + "ö", "漢".repeat(64), "😀".repeat(64)];
    long.into_iter().chain(["Лучевая терапия1".into()]).collect()
}

/// Plan and image of one patient, whose ID and label are sent as they are.
fn store_hostile(plans: &mut Sender, images: &mut Sender, n: u32, patient: &str, label: &str) {
    let plan = RtPlan { sop_instance_uid: uid(&[8, n]), ..RtPlan::default() };
    let image = RtImage {
        series_uid: uid(&[8, n, 1]),
        sop_instance_uid: uid(&[8, n, 1, 1]),
        plan_uid: Some(plan.sop_instance_uid.clone()),
        ..RtImage::default()
    };
    for (object, instance, class, sender) in [
        (plan.data_set(), &plan.sop_instance_uid, uids::RT_PLAN_STORAGE, plans),
        (image.data_set(), &image.sop_instance_uid, uids::RT_IMAGE_STORAGE, images),
    ] {
        let mut object = object;
        put(&mut object, tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
        put(&mut object, tags::PATIENT_ID, VR::LO, patient);
        if class == uids::RT_PLAN_STORAGE {
            put(&mut object, tags::RT_PLAN_LABEL, VR::SH, label);
        }
        let status = sender.store_as(class, instance, &bytes(&object)).unwrap();
        assert_eq!(status, Status::SUCCESS, "{patient:?} {label:?}");
    }
}

/// Stores below a root deep in the directory, and checks that nothing leaves it and no two values share a directory.
fn file_hostile(outer: &Path, patients: &[String], labels: &[String]) -> (Node, PathBuf) {
    let root = outer.join("a/b/c");
    std::fs::create_dir_all(&root).unwrap();
    let node = Node::start(&root, &[]);
    let mut plans = open(&node, uids::RT_PLAN_STORAGE).unwrap();
    let mut senders = Sender::open(node.address(), NODE_AE).unwrap();
    let pairs: BTreeSet<(&str, &str)> = patients
        .iter()
        .map(|p| (p.as_str(), "WL"))
        .chain(labels.iter().map(|l| ("PATIENT", l.as_str())))
        .collect();
    for (n, (patient, label)) in (0..).zip(&pairs) {
        store_hostile(&mut plans, &mut senders, n, patient, label);
    }
    plans.release().unwrap();
    senders.release().unwrap();
    let images = images(&root);
    let files = files_below(outer, ".dcm");
    assert_eq!(files.len(), 2 * pairs.len());
    for file in &files {
        assert!(file.starts_with(&images), "{}", file.display());
    }
    let catalog = Catalog::open_readonly(&images).unwrap();
    let (mut filed, mut by_patient, mut by_label) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for session in catalog.sessions(&SessionFilter::default()).unwrap() {
        for instance in catalog.instances(&session).unwrap() {
            assert!(instance.path.is_file(), "{}", instance.path.display());
        }
        // In lower case: on a file system that ignores case, they must not meet either.
        let below = session.directory.strip_prefix(&images).unwrap().to_str().unwrap().to_lowercase();
        let mut parts = below.split(std::path::MAIN_SEPARATOR);
        let (patient, label) = (parts.next().unwrap().to_owned(), parts.next().unwrap());
        let pair = (session.patient_id.clone(), session.plan_label.unwrap());
        let other = by_label.insert(format!("{patient}/{label}"), pair.clone());
        assert_eq!(other, None, "two labels share a directory");
        let other = by_patient.insert(patient, session.patient_id.clone());
        assert!(other.is_none_or(|other| other == session.patient_id), "two patients share a directory");
        filed.insert(pair);
    }
    let sent: BTreeSet<_> = pairs.iter().map(|(p, l)| ((*p).to_owned(), (*l).to_owned())).collect();
    assert_eq!(filed, sent);
    (node, root)
}

#[test]
fn hostile_patients_and_labels_stay_below_the_root_never_meet_and_survive_a_reindex() {
    let outer = tempfile::tempdir().unwrap();
    let (node, root) = file_hostile(outer.path(), &hostile(), &hostile());
    says_the_same_after_a_reindex(node, &root);
}

#[test]
fn patients_too_long_for_a_directory_stay_below_the_root_never_meet_and_survive_a_reindex() {
    let outer = tempfile::tempdir().unwrap();
    let (node, root) = file_hostile(outer.path(), &long(), &[]);
    says_the_same_after_a_reindex(node, &root);
}

#[test]
fn labels_too_long_for_a_directory_stay_below_the_root_and_never_meet() {
    let outer = tempfile::tempdir().unwrap();
    drop(file_hostile(outer.path(), &[], &long()));
}

#[test]
fn labels_too_long_for_a_directory_survive_a_reindex() {
    let outer = tempfile::tempdir().unwrap();
    let (node, root) = file_hostile(outer.path(), &[], &long());
    says_the_same_after_a_reindex(node, &root);
}

/// Where the catalog says that each image lies, all of one moment.
fn paths(catalog: &Catalog) -> BTreeMap<String, PathBuf> {
    let read = || {
        let mut paths = BTreeMap::new();
        for session in catalog.sessions(&SessionFilter::default())? {
            paths.extend(catalog.instances(&session)?.into_iter().map(|i| (i.sop_instance_uid, i.path)));
        }
        Ok(paths)
    };
    catalog.snapshot(read).unwrap()
}

/// What a reader may rely on, in any process, while the service writes:
/// * a row is there only after its file is, so a new row's file exists;
/// * a row never goes away again;
/// * a file moves once, when its plan's label becomes known, and just before the commit that says so. So a row whose file is
///   gone is out of date, or will be in a moment: the catalog, asked again, names the place where the file is.
#[test]
fn a_reader_beside_the_writer_finds_the_file_of_every_row_or_is_told_another_place_when_it_asks_again() {
    const PLANS: u32 = 20;
    const IMAGES: u32 = 8;
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let (reads, mut asked_again) = (AtomicU32::new(0), 0);
    // Each plan has a read of its own at least, however fast the node is.
    let read_beside = |plan: u32| {
        until("the reader comes round", PATIENCE, || reads.load(Ordering::SeqCst) >= plan);
    };
    std::thread::scope(|scope| {
        let node = &node;
        let sender = scope.spawn(|| send_plans_after_their_images(node, PLANS, IMAGES, read_beside));
        until("the catalog is there", PATIENCE, || Catalog::open_readonly(&images(root.path())).is_ok());
        let catalog = Catalog::open_readonly(&images(root.path())).unwrap();
        let mut before = BTreeMap::new();
        while !sender.is_finished() {
            let now = paths(&catalog);
            assert!(before.keys().all(|uid| now.contains_key(uid)), "a row went away");
            for (uid, path) in now.iter().filter(|(_, path)| !path.is_file()) {
                asked_again += 1;
                assert!(path.starts_with(images(root.path()).join("_unresolved")), "{}", path.display());
                let elsewhere = |p: &PathBuf| p != path && p.is_file();
                until("the row follows its file", PATIENCE, || {
                    paths(&catalog).get(uid).is_some_and(elsewhere)
                });
            }
            before = now;
            reads.fetch_add(1, Ordering::SeqCst);
        }
        sender.join().unwrap();
        let last = paths(&catalog);
        assert_eq!(last.len(), (PLANS * IMAGES) as usize);
        for path in last.values() {
            assert!(
                path.is_file() && path.starts_with(images(root.path()).join("QA_TB_WL")),
                "{}",
                path.display()
            );
        }
    });
    eprintln!("{} reads, {asked_again} rows whose file had moved", reads.into_inner());
}

/// # Arguments
/// * `before` — is called with the number of each plan before its images are sent
fn send_plans_after_their_images(node: &Node, plans: u32, images: u32, before: impl Fn(u32)) {
    let mut plan_sender = open(node, uids::RT_PLAN_STORAGE).unwrap();
    let mut image_sender = Sender::open(node.address(), NODE_AE).unwrap();
    for p in 0..plans {
        before(p);
        let plan =
            RtPlan { sop_instance_uid: uid(&[5, p]), label: Some(format!("PLAN_{p}")), ..RtPlan::default() };
        for n in 0..images {
            let image = RtImage {
                series_uid: uid(&[5, p, 1]),
                sop_instance_uid: uid(&[5, p, 1, n]),
                plan_uid: Some(plan.sop_instance_uid.clone()),
                ..RtImage::default()
            };
            let stored = image_sender.store(&image.sop_instance_uid, &bytes(&image.data_set()));
            assert_eq!(stored.unwrap(), Status::SUCCESS);
        }
        let data_set = bytes(&plan.data_set());
        let stored = plan_sender.store_as(uids::RT_PLAN_STORAGE, &plan.sop_instance_uid, &data_set);
        assert_eq!(stored.unwrap(), Status::SUCCESS);
    }
    plan_sender.release().unwrap();
    image_sender.release().unwrap();
}
