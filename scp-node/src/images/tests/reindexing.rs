//! The same rows from the files alone.

use super::*;

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
