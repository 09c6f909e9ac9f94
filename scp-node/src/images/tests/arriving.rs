//! What arrives gets its place, or is refused and leaves nothing behind.

use std::time::{Duration, Instant};

use super::*;

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

/// What a file that is written anew, or replaced by another, does not keep: when it was written, and its inode where it has one.
fn written(path: &Path) -> (std::time::SystemTime, u64) {
    let file = path.metadata().unwrap();
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&file);
    #[cfg(not(unix))]
    let inode = 0;
    (file.modified().unwrap(), inode)
}

#[test]
fn the_same_bytes_are_not_written_twice_and_other_bytes_are_kept_beside() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    let before = written(&path);
    assert_eq!(store_image(&s, &IMAGE).unwrap(), Filed::Same);
    let other = Image { pixels: "others", ..IMAGE };
    let Filed::Kept { path: kept } = store_image(&s, &other).unwrap() else { panic!("not kept") };
    assert_eq!(store_image(&s, &other).unwrap(), Filed::Same, "these bytes are there by now");
    assert!(kept.starts_with(root.path().join(layout::KEPT)));
    assert!(std::fs::read(&kept).unwrap().ends_with(&other.data_set()));
    assert!(std::fs::read(&path).unwrap().ends_with(&IMAGE.data_set()));
    assert_eq!(written(&path), before);
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
fn an_object_that_is_not_admitted_is_refused_when_its_pixel_data_begin() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let refusal = |uid: &str, patient: &'static str| {
        let data_set = Image { patient, ..IMAGE }.data_set();
        let mut incoming = begin(&s, head::RT_IMAGE, uid).unwrap();
        incoming.write(&data_set[..data_set.len() - IMAGE.pixels.len()]).err()
    };
    assert!(matches!(refusal(IMAGE.uid, "CLINICAL"), Some(Refusal::PatientNotAdmitted(_))));
    assert!(matches!(refusal("1.2.3.99", IMAGE.patient), Some(Refusal::Mismatch(_))));
    assert!(refusal(IMAGE.uid, IMAGE.patient).is_none());
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
fn a_quota_is_free_again_after_a_start_when_files_were_removed_by_hand() {
    let root = tempfile::tempdir().unwrap();
    let size = IMAGE.data_set().len() as u64 + 400;
    let quota = ImageSettings { quota_bytes: 2 * size, ..settings(root.path()) };
    let open = || Store::open(&quota, &["*".into()], 1 << 30).unwrap();
    let s = open();
    let mut paths = Vec::new();
    for uid in ["1.2.3.1", "1.2.3.2", "1.2.3.3"] {
        match store_image(&s, &Image { uid, ..IMAGE }) {
            Ok(Filed::New { path, .. }) => paths.push(path),
            other => assert!(matches!(other, Err(Refusal::OutOfResources(_))), "{other:?}"),
        }
    }
    drop(s);
    let third = Image { uid: "1.2.3.9", ..IMAGE };
    assert!(store_image(&open(), &third).is_err());
    std::fs::remove_file(paths.remove(0)).unwrap();
    store_image(&open(), &third).unwrap();
    assert!(store_image(&open(), &Image { uid: "1.2.3.10", ..IMAGE }).is_err());
}

#[test]
fn a_quota_is_free_again_while_the_store_runs_when_files_were_removed_by_hand() {
    let root = tempfile::tempdir().unwrap();
    let size = IMAGE.data_set().len() as u64 + 400;
    let quota = ImageSettings { quota_bytes: 2 * size, ..settings(root.path()) };
    let s = Store::open(&quota, &["*".into()], 1 << 30).unwrap();
    let place = |uid| match store_image(&s, &Image { uid, ..IMAGE }) {
        Ok(Filed::New { path, .. }) => Some(path),
        Ok(other) => panic!("{other:?}"),
        Err(Refusal::OutOfResources(_)) => None,
        Err(other) => panic!("{other:?}"),
    };
    let filed: Vec<_> = ["1.2.3.1", "1.2.3.2", "1.2.3.3"].into_iter().map_while(place).collect();
    assert!((1..=2).contains(&filed.len()), "{} at once", filed.len());
    std::fs::remove_file(&filed[0]).unwrap();
    // The refusal has counted; the next count comes a little later.
    let deadline = Instant::now() + Duration::from_secs(60);
    while place("1.2.3.8").is_none() {
        assert!(Instant::now() < deadline, "what was removed still counts");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(place("1.2.3.9").is_none(), "more than was removed");
}

#[test]
fn other_bytes_are_kept_once_though_their_session_moves() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    let other = Image { pixels: "others", ..IMAGE };
    assert!(matches!(store_image(&s, &other).unwrap(), Filed::Kept { .. }));
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap();
    assert_eq!(store_image(&s, &other).unwrap(), Filed::Same);
    assert_eq!(Catalog::open_readonly(root.path()).unwrap().kept().unwrap().len(), 1);
    let third = Image { pixels: "thirds", ..IMAGE };
    assert!(matches!(store_image(&s, &third).unwrap(), Filed::Kept { .. }));
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
fn a_session_begins_with_its_first_image_whichever_comes_first() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    for (uid, time) in [("1.2.3.1", "070203"), ("1.2.3.2", "070159"), ("1.2.3.3", "070210")] {
        store_image(&s, &Image { uid, time, ..IMAGE }).unwrap();
    }
    let session = Catalog::open_readonly(root.path())
        .unwrap()
        .newest_session(&SessionFilter::default())
        .unwrap()
        .unwrap();
    assert_eq!((session.images, session.acquired), (3, "2026-11-20T07:01:59".parse().ok()));
}
