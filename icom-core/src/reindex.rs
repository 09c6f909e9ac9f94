//! The index made again from the files: after it was lost or damaged, after files were moved by hand, or to take in what PyMedPhys's listener
//! archived before.
//!
//! Input: the listener's directory. Output: one row for each `.xz` on the shelves, none for files that are gone. Trust in the files: none.
//! Rows that are right stay as they are, so the service may run meanwhile. What only the listener knew is not in the files: a row that is
//! made anew has the linac's name on the wire for its name, the linac's clock for times of receipt, and no lost links.

use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::archive::{hex, read, shelf_dir};
use crate::index::{Index, IndexedRecord, Shelf, written};
use crate::inspect::inspect;
use crate::settings::index_path;
use crate::{Error, Result};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Rows that were right.
    pub kept: u64,
    /// Rows made from files.
    pub added: u64,
    /// Rows whose file is gone, or has other bytes.
    pub removed: u64,
    /// Files that are no record, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Where the damaged index went.
    pub damaged: Option<PathBuf>,
}

/// Makes the index of a listener's directory right.
///
/// # Errors
/// [`Error::Io`] for a directory that cannot be read, [`Error::Index`] if the index cannot be written.
pub fn rebuild(root: &Path) -> Result<Report> {
    let (mut index, damaged) = open(&index_path(root), Index::check)?;
    let mut known = index.files()?;
    let mut report = Report { damaged, ..Report::default() };
    let mut added = Vec::new();
    for shelf in [Shelf::Patients, Shelf::Incomplete, Shelf::NoMu] {
        for path in records_below(&shelf_dir(root, shelf))? {
            let before = known.remove(&written(&path, root));
            let bytes = match read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    report.unreadable.push((path, error.to_string()));
                    continue;
                }
            };
            let sha256 = hex(&Sha256::digest(&bytes));
            if before.as_ref() == Some(&sha256) {
                report.kept += 1;
                continue;
            }
            report.removed += u64::from(before.is_some());
            match entry(shelf, &path, sha256, &bytes) {
                Ok(entry) => added.push(entry),
                Err(why) => report.unreadable.push((path, why)),
            }
        }
    }
    // What is left has no file, unless it came meanwhile.
    let gone: Vec<String> = known.into_keys().filter(|path| !root.join(path).exists()).collect();
    report.removed += u64::try_from(gone.len()).unwrap_or(u64::MAX);
    report.added = u64::try_from(added.len()).unwrap_or(u64::MAX);
    index.reconcile(&gone, &added, root)?;
    Ok(report)
}

/// Opens the index; one that is damaged, as far as `look` sees, is put aside, never deleted. Listening must not wait for its repair.
pub(crate) fn open<T>(path: &Path, look: impl Fn(&Index) -> Result<T>) -> Result<(Index, Option<PathBuf>)> {
    match Index::open(path).and_then(|index| look(&index).map(|_| index)) {
        Ok(index) => Ok((index, None)),
        Err(Error::Index { source, .. }) if is_damaged(&source) => {
            let aside = path.with_extension(format!("damaged-{}", Utc::now().format("%Y%m%dT%H%M%S")));
            std::fs::rename(path, &aside).map_err(Error::io(path))?;
            for rest in ["sqlite-wal", "sqlite-shm"] {
                // They belong to the damaged one; that they are not there is as well.
                let _ = std::fs::remove_file(path.with_extension(rest));
            }
            Ok((Index::open(path)?, Some(aside)))
        }
        Err(error) => Err(error),
    }
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn entry(
    shelf: Shelf,
    path: &Path,
    sha256: String,
    bytes: &[u8],
) -> std::result::Result<IndexedRecord, String> {
    let mut records = inspect(bytes).records.into_iter();
    match (records.next(), records.next()) {
        (Some(record), None) => {
            let linac = record.machine_id.clone().unwrap_or_else(|| "unknown".into());
            Ok(IndexedRecord { linac, shelf, path: path.to_owned(), sha256, record })
        }
        (None, _) => Err("no iCom message of a patient is in it".into()),
        (Some(_), Some(_)) => {
            Err("messages of more than one patient are in it, as PyMedPhys mixes them".into())
        }
    }
}

/// `<shelf>/<patient>/*.xz`, in order.
fn records_below(shelf: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for patient in entries(shelf)?.into_iter().filter(|path| path.is_dir()) {
        // Directories below are shelves of their own.
        found.extend(
            entries(&patient)?
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "xz") && path.is_file()),
        );
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { path: dir.to_owned(), source }),
    };
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .map_err(Error::io(dir))?;
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Finished, store};
    use crate::encode::{Message, time};
    use crate::index::Query;

    fn message(n: i64, patient: &str, mu: f64) -> Vec<u8> {
        Message {
            linac_time: time(n),
            counter: u8::try_from(n).unwrap(),
            patient: Some((patient.into(), "PHYSICS, MOCK".into())),
            meterset_mu: Some(mu),
            ..Message::example()
        }
        .encode()
    }

    fn archived(root: &Path, index: &mut Index, patient: &str) -> IndexedRecord {
        let bytes = [message(1, patient, 0.0), message(2, patient, 5.0)].concat();
        let spool = root.join("spool");
        std::fs::write(&spool, &bytes).unwrap();
        let record = inspect(&bytes).records.remove(0);
        let finished = Finished { linac: "linac 1".into(), record, spool, cursor: 77 };
        store(root, index, &finished).unwrap()
    }

    fn all(root: &Path) -> Vec<IndexedRecord> {
        let query = Query { without_mu: true, ..Query::default() };
        Index::open_read_only(&index_path(root)).unwrap().find(&query, root).unwrap()
    }

    #[test]
    fn a_lost_or_damaged_index_is_made_again_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut index = Index::open(&index_path(root)).unwrap();
        let first = archived(root, &mut index, "QA1");
        archived(root, &mut index, "QA2");
        drop(index);
        let before = all(root);
        for damage in [true, false] {
            if damage {
                std::fs::write(index_path(root), b"no database, of some length").unwrap();
            } else {
                std::fs::remove_file(index_path(root)).unwrap();
            }
            let report = rebuild(root).unwrap();
            assert_eq!((report.added, report.kept, report.removed), (2, 0, 0));
            assert_eq!(report.damaged.is_some(), damage);
            let rebuilt = all(root);
            assert_eq!(rebuilt.len(), before.len());
            for (rebuilt, before) in rebuilt.iter().zip(&before) {
                assert_eq!(
                    (&rebuilt.path, &rebuilt.sha256, rebuilt.shelf),
                    (&before.path, &before.sha256, before.shelf)
                );
                assert_eq!(
                    (rebuilt.record.mu, rebuilt.record.start),
                    (before.record.mu, before.record.start)
                );
            }
        }
        assert_eq!(rebuild(root).unwrap(), Report { kept: 2, ..Report::default() });
        assert!(first.path.exists());
    }

    #[test]
    fn rows_follow_the_files_and_what_is_right_keeps_what_only_the_listener_knew() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut index = Index::open(&index_path(root)).unwrap();
        let gone = archived(root, &mut index, "QA1");
        archived(root, &mut index, "QA2");
        std::fs::remove_file(&gone.path).unwrap();
        let foreign = root.join("patients").join("QA3_PHYSICS, MOCK");
        std::fs::create_dir_all(&foreign).unwrap();
        std::fs::write(foreign.join("20250101_000000.xz"), message(9, "QA3", 3.0)).unwrap();
        std::fs::write(foreign.join("20250101_000001.xz"), b"garbage").unwrap();
        let two = [message(1, "QA3", 0.0), message(2, "QA4", 5.0)].concat();
        std::fs::write(foreign.join("20250101_000002.xz"), two).unwrap();
        let report = rebuild(root).unwrap();
        assert_eq!((report.added, report.kept, report.removed, report.unreadable.len()), (1, 1, 1, 2));
        let rows: Vec<(String, String)> =
            all(root).into_iter().map(|r| (r.linac, r.record.patient_id)).collect();
        assert!(rows.contains(&("linac 1".into(), "QA2".into())) && rows.len() == 2, "{rows:?}");
        assert_eq!(Index::open(&index_path(root)).unwrap().cursor("linac 1").unwrap(), 77);
    }
}
