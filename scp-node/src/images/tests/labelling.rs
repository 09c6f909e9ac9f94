//! Plans' labels that become known while no receiver runs, or while something is in the way.

use super::*;

fn told(label: &str) -> PlanRecord {
    PlanRecord {
        plan_uid: Uid::new("1.2.9.1").unwrap(),
        patient_id: "QA_WL".into(),
        label: label.into(),
        dated: None,
    }
}

/// What the catalog knows after a process that told a label was killed between the rename and its commit.
fn rename_without_commit(root: &Path) {
    let mut catalog = Catalog::open(root).unwrap();
    let (id, directory): (i64, String) = catalog
        .connection()
        .query_row("SELECT id, directory FROM sessions", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap();
    catalog.remember_plan(&told("WL")).unwrap();
    let back = "UPDATE sessions SET directory = ?2, plan_label = NULL WHERE id = ?1";
    catalog.connection().execute(back, rusqlite::params![id, directory]).unwrap();
}

fn labels(root: &Path) -> Vec<Option<String>> {
    let all = everything(&Catalog::open_readonly(root).unwrap());
    all.into_iter().map(|(session, _)| session.plan_label).collect()
}

#[test]
fn a_label_is_durable_before_the_first_directory_is_renamed_for_it() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    drop(s);
    let mut catalog = Catalog::open(root.path()).unwrap();
    let fails = "CREATE TRIGGER t BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'as if killed'); END";
    catalog.connection().execute_batch(fails).unwrap();
    catalog.remember_plan(&told("WL")).unwrap_err();
    assert!(path.exists(), "taken back");
    assert_eq!(catalog.plan(&told("WL").plan_uid).unwrap(), Some(told("WL")));
    catalog.connection().execute_batch("DROP TRIGGER t").unwrap();
    drop(open(root.path()));
    assert_eq!((every_row_has_its_file(root.path()), labels(root.path())), (1, vec![Some("WL".into())]));
}

#[test]
fn a_session_that_a_killed_fetch_renamed_is_found_at_the_next_start_after_an_orderly_end() {
    for label_is_known in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let s = open(root.path());
        store_image(&s, &IMAGE).unwrap();
        drop(s);
        rename_without_commit(root.path());
        if !label_is_known {
            let catalog = Catalog::open(root.path()).unwrap();
            catalog.connection().execute("DELETE FROM plans", []).unwrap();
        }
        let s = open(root.path());
        assert_eq!((every_row_has_its_file(root.path()), labels(root.path())), (1, vec![Some("WL".into())]));
        store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap();
        assert_eq!((every_row_has_its_file(root.path()), labels(root.path()).len()), (2, 1));
    }
}

#[test]
fn the_next_image_of_a_session_that_a_killed_fetch_renamed_finds_the_others() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    rename_without_commit(root.path());
    // Earlier than the others: the directory is called by the time that the session had when it was renamed.
    store_image(&s, &Image { uid: "1.2.3.2", time: "070100", ..IMAGE }).unwrap();
    assert_eq!((every_row_has_its_file(root.path()), labels(root.path())), (2, vec![Some("WL".into())]));
    assert!(!root.path().join(layout::UNRESOLVED).read_dir().unwrap().any(|_| true));
}

#[test]
fn a_session_that_could_not_be_renamed_is_so_with_its_next_image() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    let blocked = root.path().join("QA_WL/WL/2026-11-20");
    std::fs::create_dir_all(blocked.parent().unwrap()).unwrap();
    std::fs::write(&blocked, "as an open file in the session is on Windows").unwrap();
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap();
    store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap();
    assert_eq!((every_row_has_its_file(root.path()), labels(root.path())), (2, vec![None]));
    std::fs::remove_file(&blocked).unwrap();
    let third = store_image(&s, &Image { uid: "1.2.3.3", ..IMAGE }).unwrap();
    assert!(matches!(third, Filed::New { labelled: true, .. }), "{third:?}");
    assert_eq!((every_row_has_its_file(root.path()), labels(root.path())), (3, vec![Some("WL".into())]));
}

#[test]
fn a_session_that_waits_and_whose_files_somebody_removed_takes_new_images() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    std::fs::remove_dir_all(root.path().join(layout::UNRESOLVED)).unwrap();
    store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL")).unwrap();
    let Filed::New { path, .. } = store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap() else {
        panic!("not new")
    };
    assert!(path.starts_with(root.path().join("QA_WL/WL")), "{}", path.display());
}
