//! The store, the catalog and the reindex together, on real files.

use std::path::Path;

use super::*;
use crate::names::{AeTitle, Uid};
use crate::settings::{Durability, ImageSettings};

const IMPLICIT: &str = "1.2.840.10008.1.2";

fn element(tag: u32, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(b' ');
    }
    let mut bytes = Vec::new();
    bytes.extend(((tag >> 16) as u16).to_le_bytes());
    bytes.extend((tag as u16).to_le_bytes());
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value);
    bytes
}

fn sequence(tag: u32, item: &[u8]) -> Vec<u8> {
    let mut inner = vec![0xFE, 0xFF, 0x00, 0xE0];
    inner.extend((item.len() as u32).to_le_bytes());
    inner.extend(item);
    let mut bytes = element(tag, "");
    bytes.truncate(4);
    bytes.extend((inner.len() as u32).to_le_bytes());
    bytes.extend(inner);
    bytes
}

struct Image {
    uid: &'static str,
    patient: &'static str,
    plan: Option<&'static str>,
    series: &'static str,
    date: &'static str,
    time: &'static str,
    unit: &'static str,
    pixels: &'static str,
}

const IMAGE: Image = Image {
    uid: "1.2.3.1",
    patient: "QA_WL",
    plan: Some("1.2.9.1"),
    series: "1.2.5.1",
    date: "20261120",
    time: "070203",
    unit: "MU",
    pixels: "pixels",
};

impl Image {
    fn data_set(&self) -> Vec<u8> {
        let mut d = element(0x0008_0008, "ORIGINAL\\PRIMARY\\PORTAL");
        d.extend(element(0x0008_0016, head::RT_IMAGE));
        d.extend(element(0x0008_0018, self.uid));
        d.extend(element(0x0008_0022, self.date));
        d.extend(element(0x0008_0032, self.time));
        d.extend(element(0x0008_0060, "RTIMAGE"));
        d.extend(element(0x0010_0020, self.patient));
        d.extend(element(0x0020_000E, self.series));
        d.extend(element(0x300A_00B3, self.unit));
        d.extend(element(0x300A_011E, "90.0"));
        if let Some(plan) = self.plan {
            d.extend(sequence(0x300C_0002, &element(0x0008_1155, plan)));
        }
        d.extend(element(0x7FE0_0010, self.pixels));
        d
    }
}

fn plan(uid: &str, label: &str) -> Vec<u8> {
    let mut d = element(0x0008_0005, "ISO_IR 192");
    d.extend(element(0x0008_0016, head::RT_PLAN));
    d.extend(element(0x0008_0018, uid));
    d.extend(element(0x0008_0060, "RTPLAN"));
    d.extend(element(0x0010_0020, "QA_WL"));
    d.extend(element(0x0020_000E, "1.2.5.9"));
    d.extend(element(0x300A_0002, label));
    d.extend(element(0x300A_0006, "20260101"));
    d
}

fn settings(root: &Path) -> ImageSettings {
    ImageSettings {
        root: root.into(),
        durability: Durability::Rename,
        keep_free_bytes: 0,
        ..ImageSettings::default()
    }
}

fn open(root: &Path) -> Store {
    Store::open(&settings(root), &["QA*".into()], 1 << 30).unwrap()
}

fn store(store: &Store, class: &str, uid: &str, data_set: &[u8]) -> Result<Filed, Refusal> {
    let mut incoming = store.begin(Announced {
        sop_class_uid: class.into(),
        sop_instance_uid: uid.into(),
        transfer_syntax_uid: IMPLICIT.into(),
        calling_ae: AeTitle::new("SENDER").unwrap(),
    })?;
    incoming.write(data_set)?;
    incoming.finish()
}

fn store_image(s: &Store, image: &Image) -> Result<Filed, Refusal> {
    store(s, head::RT_IMAGE, image.uid, &image.data_set())
}

fn incoming_files(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join(layout::INCOMING)).unwrap();
    names
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".part"))
        .collect()
}

fn everything(catalog: &Catalog) -> Vec<(Session, Vec<Instance>)> {
    let sessions = catalog.sessions(&SessionFilter::default()).unwrap();
    let mut all: Vec<_> = sessions
        .into_iter()
        .map(|s| {
            let instances = catalog.instances(&s).unwrap();
            (Session { id: 0, ..s }, instances)
        })
        .collect();
    all.sort_by(|a, b| a.0.directory.cmp(&b.0.directory));
    all
}

#[test]
fn an_image_of_a_known_plan_lies_by_patient_label_and_date() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL_10MV")).unwrap();
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    let below = path.strip_prefix(root.path()).unwrap();
    let expected =
        format!("QA_WL/WL_10MV/2026-11-20/070203_{}/RI.1.2.3.1.dcm", layout::short_hash("1.2.5.1"));
    assert_eq!(below, Path::new(&expected));
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.ends_with(&IMAGE.data_set()), "the data set is kept as it came");
    assert_eq!(&bytes[128..132], b"DICM");
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    let session = catalog
        .newest_session(&SessionFilter { plan_label: Some("WL_10MV".into()), ..Default::default() })
        .unwrap()
        .unwrap();
    assert_eq!((session.images, session.plan_uid.as_deref()), (1, Some("1.2.9.1")));
    let instance = catalog.instances(&session).unwrap().remove(0);
    assert_eq!(
        (instance.beam, instance.gantry_iec_deg, instance.collimator_iec_deg),
        (Some(Beam::Mv), Some(90.0), None)
    );
    assert!(incoming_files(root.path()).is_empty());
}

#[test]
fn images_of_an_unknown_plan_wait_and_move_once_its_label_is_known() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    assert!(path.strip_prefix(root.path()).unwrap().starts_with(layout::UNRESOLVED));
    let mut catalog = Catalog::open(root.path()).unwrap();
    let uid = Uid::new("1.2.9.1").unwrap();
    assert_eq!(catalog.unresolved_plans().unwrap(), [(uid.clone(), "QA_WL".into(), 1)]);
    let record = PlanRecord { plan_uid: uid, patient_id: "QA_WL".into(), label: "WL 6X".into(), dated: None };
    catalog.remember_plan(&record).unwrap();
    assert!(!path.exists());
    let session = catalog
        .newest_session(&SessionFilter { plan_label: Some("WL 6X".into()), ..Default::default() })
        .unwrap()
        .unwrap();
    assert!(session.directory.starts_with(root.path().join("QA_WL/WL%206X")));
    assert!(catalog.instances(&session).unwrap()[0].path.exists());
    // The next image of the session joins the others.
    let Filed::New { path, .. } = store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap() else {
        panic!("not new")
    };
    assert_eq!(path.parent().unwrap(), session.directory);
}

#[test]
fn the_same_bytes_are_not_written_twice_and_other_bytes_are_kept_beside() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(store_image(&s, &IMAGE).unwrap(), Filed::Same);
    let other = Image { pixels: "others", ..IMAGE };
    let Filed::Kept { path: kept } = store_image(&s, &other).unwrap() else { panic!("not kept") };
    assert_eq!(store_image(&s, &other).unwrap(), Filed::Same, "these bytes are there by now");
    assert!(kept.starts_with(root.path().join(layout::KEPT)));
    assert!(std::fs::read(&kept).unwrap().ends_with(&other.data_set()));
    assert!(std::fs::read(&path).unwrap().ends_with(&IMAGE.data_set()));
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    assert_eq!(catalog.kept().unwrap(), [("1.2.3.1".to_owned(), kept)]);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "a session holds its images and nothing else"
    );
}

#[test]
fn every_refusal_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let cut = &IMAGE.data_set()[..60];
    let cases: Vec<(&str, Result<Filed, Refusal>)> = vec![
        ("cut", store(&s, head::RT_IMAGE, IMAGE.uid, cut)),
        ("class", store(&s, head::RT_PLAN, IMAGE.uid, &IMAGE.data_set())),
        ("instance", store(&s, head::RT_IMAGE, "1.2.3.99", &IMAGE.data_set())),
        ("uid", store(&s, head::RT_IMAGE, "../../etc/passwd", &IMAGE.data_set())),
        ("patient", store_image(&s, &Image { patient: "CLINICAL", ..IMAGE })),
    ];
    for (name, outcome) in cases {
        let refusal = outcome.unwrap_err();
        let right = match name {
            "cut" => matches!(refusal, Refusal::CannotUnderstand(_)),
            "class" | "instance" => matches!(refusal, Refusal::Mismatch(_)),
            "uid" => matches!(refusal, Refusal::InvalidInstance),
            _ => matches!(refusal, Refusal::PatientNotAdmitted(_)),
        };
        assert!(right, "{name}: {refusal:?}");
        assert!(!refusal.to_string().contains("CLINICAL"), "no patient identity in messages");
    }
    assert!(incoming_files(root.path()).is_empty());
    assert!(everything(&Catalog::open_readonly(root.path()).unwrap()).is_empty());
}

#[test]
fn quota_and_free_space_refuse_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let full = ImageSettings { keep_free_bytes: u64::MAX, ..settings(root.path()) };
    let s = Store::open(&full, &["*".into()], 1 << 30).unwrap();
    assert!(matches!(store_image(&s, &IMAGE), Err(Refusal::OutOfResources(_))));
    drop(s);
    let quota = ImageSettings { quota_bytes: 700, ..settings(root.path()) };
    let s = Store::open(&quota, &["*".into()], 1 << 30).unwrap();
    store_image(&s, &IMAGE).unwrap();
    assert!(matches!(store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }), Err(Refusal::OutOfResources(_))));
    drop(s);
    let s = Store::open(&settings(root.path()), &["*".into()], 300).unwrap();
    assert!(matches!(store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }), Err(Refusal::OutOfResources(_))));
}

#[test]
fn a_quota_counts_what_is_on_its_way_and_what_is_kept_beside() {
    let root = tempfile::tempdir().unwrap();
    let size = IMAGE.data_set().len() as u64 + 400;
    let quota = ImageSettings { quota_bytes: 2 * size, ..settings(root.path()) };
    let open = || Store::open(&quota, &["*".into()], 1 << 30).unwrap();
    let announced = |uid: &str| Announced {
        sop_class_uid: head::RT_IMAGE.into(),
        sop_instance_uid: uid.into(),
        transfer_syntax_uid: IMPLICIT.into(),
        calling_ae: AeTitle::new("SENDER").unwrap(),
    };
    let s = open();
    let mut several: Vec<_> = ["1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"]
        .into_iter()
        .filter_map(|uid| s.begin(announced(uid)).ok().map(|incoming| (uid, incoming)))
        .collect();
    several.retain_mut(|(uid, incoming)| {
        !matches!(incoming.write(&Image { uid, ..IMAGE }.data_set()), Err(Refusal::OutOfResources(_)))
    });
    assert!((1..=2).contains(&several.len()), "{} at once", several.len());
    drop(several);
    store_image(&s, &IMAGE).expect("what was dropped is given back");
    for n in 0..20 {
        let pixels = ["first!", "second", "third!", "fourth"][n % 4];
        let _ = store_image(&s, &Image { pixels, ..IMAGE });
    }
    let kept = Catalog::open_readonly(root.path()).unwrap().kept().unwrap();
    assert!((1..=2).contains(&kept.len()), "{} kept", kept.len());
    drop(s);
    // Across a restart too.
    let s = open();
    assert!(matches!(store_image(&s, &Image { uid: "1.2.3.9", ..IMAGE }), Err(Refusal::OutOfResources(_))));
}

#[test]
fn one_root_has_one_receiver() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    assert!(matches!(
        Store::open(&settings(root.path()), &["*".into()], 1),
        Err(crate::Error::Misuse { .. })
    ));
    drop(s);
    open(root.path());
}

#[test]
fn a_new_receiver_clears_leftovers_and_enters_files_that_a_crash_left_without_a_row() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL_10MV")).unwrap();
    store_image(&s, &IMAGE).unwrap();
    let Filed::New { path, .. } = store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap() else {
        panic!("not new")
    };
    let before = everything(&Catalog::open_readonly(root.path()).unwrap());
    // What SIGKILL between rename and commit leaves: the file without its row, the database not closed in order.
    let catalog = Catalog::open(root.path()).unwrap();
    let since = catalog.meta("open_since").unwrap().unwrap();
    drop(s);
    catalog.set_meta("open_since", Some(&since)).unwrap();
    catalog.connection().execute("DELETE FROM instances WHERE sop_instance_uid = '1.2.3.2'", []).unwrap();
    drop(catalog);
    std::fs::write(root.path().join(layout::INCOMING).join("7.part"), b"half").unwrap();
    let s = open(root.path());
    assert!(incoming_files(root.path()).is_empty());
    assert!(path.exists());
    assert_eq!(everything(&Catalog::open_readonly(root.path()).unwrap()), before);
    drop(s);
}

/// To set its time.
#[cfg(windows)]
fn open_directory(path: &Path) -> std::fs::File {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_WRITE_ATTRIBUTES: u32 = 0x0100;
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    let mut options = std::fs::File::options();
    options.access_mode(FILE_WRITE_ATTRIBUTES).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path).unwrap()
}

#[cfg(not(windows))]
fn open_directory(path: &Path) -> std::fs::File {
    std::fs::File::open(path).unwrap()
}

#[test]
fn a_session_renamed_just_before_a_crash_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    let catalog = Catalog::open(root.path()).unwrap();
    let since = catalog.meta("open_since").unwrap().unwrap();
    drop(s);
    catalog.set_meta("open_since", Some(&since)).unwrap();
    drop(catalog);
    let from = path.parent().unwrap();
    // The images were filed in an earlier run: renaming a directory does not change its own time.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(10 * 86_400);
    open_directory(from).set_modified(long_ago).unwrap();
    let session = format!("070203_{}", layout::short_hash("1.2.5.1"));
    let to = root.path().join("QA_WL/WL_10MV/2026-11-20").join(session);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(from, &to).unwrap();
    let _s = open(root.path());
    let all = everything(&Catalog::open_readonly(root.path()).unwrap());
    assert_eq!((all.len(), all[0].0.plan_label.as_deref()), (1, Some("WL_10MV")));
    assert!(all[0].1[0].path.exists());
}

/// The catalog's view of the next start after a crash: what was set by hand is there, and the marker of a running receiver.
fn crash(s: Store, root: &Path, damage: impl FnOnce(&Catalog)) {
    let catalog = Catalog::open(root).unwrap();
    let since = catalog.meta("open_since").unwrap().unwrap();
    drop(s);
    catalog.set_meta("open_since", Some(&since)).unwrap();
    damage(&catalog);
}

fn every_row_has_its_file(root: &Path) -> usize {
    let all = everything(&Catalog::open_readonly(root).unwrap());
    for (_, instances) in &all {
        assert!(!instances.is_empty(), "a session without images");
        for instance in instances {
            assert!(instance.path.exists(), "{}", instance.path.display());
        }
    }
    all.iter().map(|(_, instances)| instances.len()).sum()
}

#[test]
fn a_plan_whose_images_still_wait_after_a_crash_tells_its_label_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    // Killed when the plan had its name, but neither row nor note.
    let Filed::New { path, .. } = store(&s, head::RT_PLAN, "1.2.9.2", &plan("1.2.9.2", "WL")).unwrap() else {
        panic!("not new")
    };
    let bytes = std::fs::read(&path).unwrap();
    let own = String::from_utf8_lossy(&bytes).find("1.2.9.2").unwrap();
    crash(s, root.path(), |catalog| {
        let mut bytes = bytes.clone();
        let places: Vec<_> = (own..bytes.len() - 7).filter(|n| &bytes[*n..*n + 7] == b"1.2.9.2").collect();
        for at in places {
            bytes[at..at + 7].copy_from_slice(b"1.2.9.1");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path.with_file_name("RP.1.2.9.1.dcm"), bytes).unwrap();
        catalog.connection().execute_batch("DELETE FROM instances WHERE sop_instance_uid = '1.2.9.2'; DELETE FROM plans; DELETE FROM sessions WHERE kind = 'plan'").unwrap();
        std::fs::remove_file(filing::plan_notes(root.path())).unwrap();
    });
    let s = open(root.path());
    let all = everything(&Catalog::open_readonly(root.path()).unwrap());
    assert_eq!(all[0].0.plan_label.as_deref(), Some("WL"));
    every_row_has_its_file(root.path());
    drop(s);
}

#[test]
fn half_a_file_that_a_power_cut_left_gives_way_to_the_whole_object() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    crash(s, root.path(), |catalog| {
        catalog.connection().execute("DELETE FROM instances", []).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    });
    let s = open(root.path());
    assert!(everything(&Catalog::open_readonly(root.path()).unwrap()).iter().all(|(_, i)| i.is_empty()));
    assert!(matches!(store_image(&s, &IMAGE).unwrap(), Filed::New { .. }));
    assert!(std::fs::read(&path).unwrap().ends_with(&IMAGE.data_set()));
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    assert_eq!((every_row_has_its_file(root.path()), catalog.kept().unwrap().len()), (1, 1));
}

#[test]
fn a_file_that_is_not_as_long_as_it_was_is_not_on_disk_and_gives_way_to_the_object_that_comes_again() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    // The row survived the power cut, the bytes did not.
    std::fs::write(&path, b"").unwrap();
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    let uid = Uid::new(IMAGE.uid).unwrap();
    assert!(catalog.on_disk([&uid]).unwrap().is_empty());
    assert!(matches!(store_image(&s, &IMAGE).unwrap(), Filed::New { .. }));
    assert!(std::fs::read(&path).unwrap().ends_with(&IMAGE.data_set()));
    assert_eq!(catalog.on_disk([&uid]).unwrap().len(), 1);
    assert_eq!((every_row_has_its_file(root.path()), catalog.kept().unwrap().len()), (1, 1));
}

#[test]
fn rows_of_files_that_a_power_cut_left_short_are_gone_after_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    store_image(&s, &Image { uid: "1.2.3.2", series: "1.2.5.2", ..IMAGE }).unwrap();
    crash(s, root.path(), |_| {
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    });
    let s = open(root.path());
    assert_eq!(every_row_has_its_file(root.path()), 1);
    assert!(matches!(store_image(&s, &IMAGE).unwrap(), Filed::New { .. }));
    assert_eq!(every_row_has_its_file(root.path()), 2);
}

#[test]
fn another_object_without_a_row_is_entered_and_the_new_one_kept_beside() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    let catalog = Catalog::open(root.path()).unwrap();
    catalog.connection().execute("DELETE FROM instances", []).unwrap();
    let other = Image { pixels: "others", ..IMAGE };
    assert!(matches!(store_image(&s, &other).unwrap(), Filed::Kept { .. }));
    assert_eq!(every_row_has_its_file(root.path()), 1);
}

#[test]
fn a_catalog_that_was_lost_is_made_again_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL_10MV")).unwrap();
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { pixels: "others", ..IMAGE }).unwrap();
    drop(s);
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    let (before, kept) = (everything(&catalog), catalog.kept().unwrap());
    drop(catalog);
    std::fs::remove_dir_all(root.path().join(layout::CATALOG)).unwrap();
    let _s = open(root.path());
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    assert_eq!((everything(&catalog), catalog.kept().unwrap()), (before, kept));
}

#[test]
fn kept_objects_of_a_catalog_that_did_not_know_their_length_count_after_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { pixels: "others", ..IMAGE }).unwrap();
    drop(s);
    let catalog = Catalog::open(root.path()).unwrap();
    let before = catalog.total_bytes().unwrap();
    catalog.connection().execute("UPDATE kept SET bytes = 0", []).unwrap();
    assert!(catalog.total_bytes().unwrap() < before);
    drop(open(root.path()));
    assert_eq!(catalog.total_bytes().unwrap(), before);
}

#[test]
fn an_object_that_cannot_be_filed_leaves_no_session_behind() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    std::fs::write(root.path().join("QA_WL"), "in the way of the patient's directory").unwrap();
    let image = Image { plan: None, ..IMAGE };
    let Err(Refusal::Fault(error)) = store_image(&s, &image) else { panic!("not a fault") };
    assert!(!error.to_string().contains("QA_WL"), "for the log: {error}");
    assert!(everything(&Catalog::open_readonly(root.path()).unwrap()).is_empty());
    std::fs::remove_file(root.path().join("QA_WL")).unwrap();
    store_image(&s, &image).unwrap();
    assert_eq!(every_row_has_its_file(root.path()), 1);
}

#[cfg(unix)]
#[test]
fn a_session_that_cannot_be_renamed_holds_up_neither_its_plan_nor_others() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { uid: "1.2.3.2", series: "1.2.5.2", date: "20261119", ..IMAGE }).unwrap();
    // As an open file in it is on Windows: the directory of one of the two dates cannot be made.
    let blocked = root.path().join("QA_WL/WL/2026-11-19");
    std::fs::create_dir_all(blocked.parent().unwrap()).unwrap();
    std::fs::write(&blocked, "").unwrap();
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap();
    let labels = || {
        let all = everything(&Catalog::open_readonly(root.path()).unwrap());
        all.into_iter().filter(|(session, _)| session.plan_label.is_some()).count()
    };
    assert_eq!((every_row_has_its_file(root.path()), labels()), (2, 1));
    std::fs::remove_file(&blocked).unwrap();
    // The same plan once more, or a start.
    assert_eq!(store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap(), Filed::Same);
    assert_eq!((every_row_has_its_file(root.path()), labels()), (2, 2));
}

#[test]
fn two_plans_of_one_label_in_one_series_lie_apart() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap();
    store(&s, head::RT_PLAN, "1.2.9.2", &plan("1.2.9.2", "WL")).unwrap();
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { uid: "1.2.3.2", plan: Some("1.2.9.2"), ..IMAGE }).unwrap();
    let all = everything(&Catalog::open_readonly(root.path()).unwrap());
    assert_eq!(all.len(), 2);
    assert_ne!(all[0].0.directory, all[1].0.directory);
}

#[test]
fn a_reindex_from_the_files_alone_yields_the_same_rows() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL a/b")).unwrap();
    let images = [
        IMAGE,
        Image { uid: "1.2.3.2", time: "070201", ..IMAGE },
        Image { uid: "1.2.3.3", plan: Some("1.2.9.7"), ..IMAGE },
        Image { uid: "1.2.3.4", plan: None, unit: "MINUTE", ..IMAGE },
        Image { uid: "1.2.3.5", date: "20261119", series: "1.2.5.2", ..IMAGE },
        Image { uid: "1.2.3.6", plan: Some("1.2.9.8"), date: "", ..IMAGE },
    ];
    for image in &images {
        store_image(&s, image).unwrap();
    }
    store_image(&s, &Image { pixels: "others", ..IMAGE }).unwrap();
    let mut catalog = Catalog::open(root.path()).unwrap();
    let learned = PlanRecord {
        plan_uid: Uid::new("1.2.9.8").unwrap(),
        patient_id: "QA_WL".into(),
        label: "Told".into(),
        dated: None,
    };
    catalog.remember_plan(&learned).unwrap();
    drop(s);
    let (before, kept, plans) =
        (everything(&catalog), catalog.kept().unwrap(), catalog.plans("QA_WL", None).unwrap());
    assert_eq!((before.len(), kept.len(), plans.len()), (5, 1, 2));
    drop(catalog);
    for damage in [false, true] {
        if damage {
            std::fs::write(Catalog::file(root.path()), b"this is no database at all, only text").unwrap();
        }
        let report = reindex::rebuild(root.path()).unwrap();
        assert_eq!((report.objects, report.unreadable.len()), (7, 0));
        let catalog = Catalog::open_readonly(root.path()).unwrap();
        assert_eq!(everything(&catalog), before);
        assert_eq!(catalog.kept().unwrap(), kept);
        assert_eq!(catalog.plans("QA_WL", None).unwrap(), plans);
    }
}

#[test]
fn a_reindex_keeps_labels_that_names_of_directories_cut() {
    for label in ["Винстон-Лутц 6МВ", "WL w/ 64 characters, as many as a long label of some sites may have"]
    {
        let root = tempfile::tempdir().unwrap();
        let s = open(root.path());
        store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", label)).unwrap();
        store_image(&s, &IMAGE).unwrap();
        drop(s);
        let before = everything(&Catalog::open_readonly(root.path()).unwrap());
        assert_eq!(before[0].0.plan_label.as_deref(), Some(label));
        assert!(before[0].0.directory.to_string_lossy().contains("~~"), "it was cut");
        reindex::rebuild(root.path()).unwrap();
        assert_eq!(everything(&Catalog::open_readonly(root.path()).unwrap()), before);
        // Told once more, the session stays where it is.
        let record = PlanRecord {
            plan_uid: Uid::new("1.2.9.1").unwrap(),
            patient_id: "QA_WL".into(),
            label: label.into(),
            dated: None,
        };
        Catalog::open(root.path()).unwrap().remember_plan(&record).unwrap();
        assert_eq!(everything(&Catalog::open_readonly(root.path()).unwrap()), before);
    }
}

#[test]
fn a_reindex_replaces_a_catalog_with_a_damaged_page_and_leaves_a_newer_one_alone() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    for n in 0..300 {
        let uid: &'static str = Box::leak(format!("1.2.3.{n}").into_boxed_str());
        store_image(&s, &Image { uid, ..IMAGE }).unwrap();
    }
    drop(s);
    let before = everything(&Catalog::open_readonly(root.path()).unwrap());
    let page = {
        let catalog = Catalog::open(root.path()).unwrap();
        let root_page = "SELECT rootpage FROM sqlite_master WHERE name = 'instances'";
        catalog.connection().query_row(root_page, [], |r| r.get::<_, i64>(0)).unwrap() as usize
    };
    let file = Catalog::file(root.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    bytes[(page - 1) * size..page * size].fill(0x5A);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(reindex::rebuild(root.path()).unwrap().objects, 300);
    assert_eq!(everything(&Catalog::open_readonly(root.path()).unwrap()), before);
    let catalog = Catalog::open(root.path()).unwrap();
    catalog.connection().pragma_update(None, "user_version", 99).unwrap();
    drop(catalog);
    assert!(matches!(reindex::rebuild(root.path()), Err(crate::Error::Catalog { .. })));
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    assert_eq!(everything(&catalog), before);
}

#[test]
fn sessions_are_found_by_date_kind_and_image_type_newest_first() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { uid: "1.2.3.2", date: "20261121", series: "1.2.5.2", unit: "MINUTE", ..IMAGE })
        .unwrap();
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    let find = |f: SessionFilter| {
        catalog.sessions(&f).unwrap().into_iter().map(|s| s.series_uid).collect::<Vec<_>>()
    };
    assert_eq!(find(SessionFilter::default()), ["1.2.5.2", "1.2.5.1"]);
    assert_eq!(find(SessionFilter { beam: Some(Beam::Mv), ..Default::default() }), ["1.2.5.1"]);
    assert_eq!(find(SessionFilter { date: "2026-11-21".parse().ok(), ..Default::default() }), ["1.2.5.2"]);
    assert_eq!(
        find(SessionFilter { before: "2026-11-21T00:00:00".parse().ok(), ..Default::default() }),
        ["1.2.5.1"]
    );
    assert_eq!(
        find(SessionFilter { image_type: Some("PORTAL".into()), limit: 1, ..Default::default() }),
        ["1.2.5.2"]
    );
    assert!(find(SessionFilter { image_type: Some("DRR".into()), ..Default::default() }).is_empty());
}

#[test]
fn many_may_open_a_new_catalog_at_once() {
    let root = tempfile::tempdir().unwrap();
    let start = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    Catalog::open(root.path()).map(|c| c.total_bytes().unwrap())
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), 0);
        }
    });
}
