//! What a start makes of what a crash or a power cut left.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::*;

/// The catalog's view of the next start after a crash: what was set by hand is there, and the marker of a running receiver.
fn crash(s: Store, root: &Path, damage: impl FnOnce(&Catalog)) {
    let catalog = Catalog::open(root).unwrap();
    let since = catalog.meta("open_since").unwrap().unwrap();
    drop(s);
    catalog.set_meta("open_since", Some(&since)).unwrap();
    damage(&catalog);
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
    crash(s, root.path(), |catalog| {
        let delete = "DELETE FROM instances WHERE sop_instance_uid = '1.2.3.2'";
        assert_eq!(catalog.connection().execute(delete, []).unwrap(), 1);
    });
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
    crash(s, root.path(), |_| ());
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

#[test]
fn a_session_renamed_just_before_a_crash_is_found_again_when_its_directory_was_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    store_image(&s, &Image { uid: "1.2.3.2", ..IMAGE }).unwrap();
    crash(s, root.path(), |_| ());
    let session = format!("070203_{}", layout::short_hash("1.2.5.1"));
    let to = root.path().join("QA_WL/WL_10MV/2026-11-20").join(session);
    std::fs::create_dir_all(&to).unwrap();
    // The other one is still where it was, and something that is no image in its place.
    std::fs::rename(&path, to.join("RI.1.2.3.1.dcm")).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    let _s = open(root.path());
    assert_eq!(every_row_has_its_file(root.path()), 2);
    let kept = Catalog::open_readonly(root.path()).unwrap().kept().unwrap();
    assert_eq!(std::fs::read(&kept[0].1).unwrap(), b"damaged");
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
        std::fs::remove_file(notes::file(root.path())).unwrap();
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
fn what_cannot_be_removed_from_the_incoming_directory_keeps_no_receiver_from_starting() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()));
    // A directory is removed as little as a file that a scanner holds on Windows.
    std::fs::create_dir_all(root.path().join(layout::INCOMING).join("0.part")).unwrap();
    let s = open(root.path());
    assert!(matches!(store_image(&s, &IMAGE).unwrap(), Filed::New { .. }));
}

/// Does this as an account that may not read everything; not at all when there is none such.
#[cfg(unix)]
fn closed(directory: &Path, work: impl FnOnce()) {
    use std::os::unix::fs::PermissionsExt;
    let mode = |mode| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0);
    // Root reads everything.
    if std::fs::read_dir(directory).is_err() {
        work();
    }
    mode(0o700);
}

#[cfg(unix)]
#[test]
fn directories_that_cannot_be_read_keep_neither_receiver_nor_reindex_from_the_others() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    crash(s, root.path(), |catalog| {
        catalog.connection().execute_batch("DELETE FROM instances; DELETE FROM sessions").unwrap();
    });
    let other = root.path().join("DOE_JOHN");
    std::fs::create_dir(&other).unwrap();
    closed(&other, || {
        drop(open(root.path()));
        assert_eq!(every_row_has_its_file(root.path()), 1);
        let report = reindex::rebuild(root.path()).unwrap();
        assert_eq!((report.objects, report.unreadable.len()), (1, 1));
        assert_eq!(report.unreadable[0].0, Path::new("DOE_JOHN"));
    });
}

#[test]
fn what_file_systems_have_at_the_top_of_a_volume_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    let Filed::New { path, .. } = store_image(&s, &IMAGE).unwrap() else { panic!("not new") };
    drop(s);
    for name in ["lost+found", "System Volume Information", "$Recycle.Bin"] {
        let directory = root.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::copy(&path, directory.join("RI.1.2.3.9.dcm")).unwrap();
    }
    let report = reindex::rebuild(root.path()).unwrap();
    assert_eq!((report.objects, report.unreadable), (1, Vec::new()));
}

#[test]
fn a_clock_that_was_ahead_when_the_last_receiver_started_hides_no_files() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &Image { uid: "1.2.3.2", series: "1.2.5.2", ..IMAGE }).unwrap();
    store_image(&s, &IMAGE).unwrap();
    crash(s, root.path(), |catalog| {
        let ahead = chrono::Utc::now().timestamp() + 2 * 3600;
        catalog.set_meta("open_since", Some(&ahead.to_string())).unwrap();
        let delete = "DELETE FROM instances WHERE sop_instance_uid = '1.2.3.1'";
        assert_eq!(catalog.connection().execute(delete, []).unwrap(), 1);
    });
    let _s = open(root.path());
    assert_eq!(every_row_has_its_file(root.path()), 2);
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
fn a_catalog_of_each_older_version_keeps_all_that_it_knew() {
    for version in 1..schema::MIGRATIONS.len() {
        let root = tempfile::tempdir().unwrap();
        let s = open(root.path());
        store(&s, head::RT_PLAN, "1.2.9.1", &plan("1.2.9.1", "WL_10MV")).unwrap();
        store_image(&s, &IMAGE).unwrap();
        store_image(&s, &Image { uid: "1.2.3.2", plan: Some("1.2.9.7"), ..IMAGE }).unwrap();
        store_image(&s, &Image { pixels: "others, and more", ..IMAGE }).unwrap();
        an_archive_told(root.path());
        drop(s);
        let before = all_rows(root.path());
        let known = replace_with_older(root.path(), version);
        drop(open(root.path()));
        for (table, rows) in all_rows(root.path()) {
            let expected = if known.contains(&table) { before[&table].clone() } else { Vec::new() };
            assert_eq!(rows, expected, "{table}, from version {version}");
            assert!(table == "meta" || !known.contains(&table) || !rows.is_empty(), "{table} shows nothing");
        }
    }
}

/// What an archive told, as `fetch` keeps it.
fn an_archive_told(root: &Path) {
    let catalog = Catalog::open(root).unwrap();
    let told = "
        INSERT INTO archives VALUES ('aria', 'relational');
        INSERT INTO asked VALUES ('aria', 'QA_WL', 1790000000000, 1780000000000);
        INSERT INTO listed_series VALUES ('aria', 'QA_WL', '1.2.5.1', '1.2.4.1', 'RTIMAGE', 2);
        INSERT INTO listed_images VALUES
            ('aria', 'QA_WL', '1.2.5.1', '1.2.3.1', '1.2.4.1', '1.2.9.1', '2026-11-20T07:02:03.000000', 'PORTAL', 'MV');
        INSERT INTO listed_plans VALUES ('aria', 'QA_WL', '1.2.5.9', '1.2.9.1', '1.2.4.1', 'WL_10MV', NULL);";
    catalog.connection().execute_batch(told).unwrap();
}

fn names_of(connection: &Connection, sql: &str, of: &[&str]) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap();
    let names = statement.query_map(rusqlite::params_from_iter(of), |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

const TABLES: &str = "SELECT name FROM main.sqlite_master WHERE type = 'table'";
const COLUMNS: &str = "SELECT name FROM pragma_table_info(?1, ?2)";

/// The rows of each table of the catalog, as text.
fn all_rows(root: &Path) -> BTreeMap<String, Vec<String>> {
    let connection = Connection::open(Catalog::file(root)).unwrap();
    let rows = |table: &str| {
        let values = names_of(&connection, COLUMNS, &[table, "main"]).join("), quote(");
        let rows = format!("SELECT concat_ws(' ', quote({values})) FROM {table} ORDER BY 1");
        names_of(&connection, &rows, &[])
    };
    names_of(&connection, TABLES, &[]).into_iter().map(|table| (table.clone(), rows(&table))).collect()
}

/// Puts a catalog of an older version in the catalog's place, with all that its tables can hold; their names.
fn replace_with_older(root: &Path, version: usize) -> Vec<String> {
    let (path, older) = (Catalog::file(root), root.join("older.sqlite"));
    let connection = Connection::open(&older).unwrap();
    for migration in &schema::MIGRATIONS[..version] {
        connection.execute_batch(migration).unwrap();
    }
    connection.pragma_update(None, "user_version", version as i64).unwrap();
    connection.execute("ATTACH ?1 AS now", [path.to_str()]).unwrap();
    let tables = names_of(&connection, TABLES, &[]);
    for table in &tables {
        let columns = names_of(&connection, COLUMNS, &[table, "main"]);
        let now = names_of(&connection, COLUMNS, &[table, "now"]);
        // What has no column any more is a number.
        let values: Vec<_> = columns.iter().map(|c| if now.contains(c) { c.as_str() } else { "7" }).collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {values} FROM now.{table}");
        connection.execute(&copy, []).unwrap();
    }
    drop(connection);
    std::fs::rename(older, path).unwrap();
    tables
}
