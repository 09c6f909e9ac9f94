//! What each run did, as a file that is there afterwards: `<trf.root>/reports/<time>_<what>.json`.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Result};

/// Runs of half a year, twice a day; each takes a few kB.
const KEPT: usize = 400;

/// Keeps the report of a run, and removes the oldest beyond `KEPT`.
///
/// # Arguments
/// * `what` — the command: `fetch`, `extract`, `sync`
/// # Errors
/// [`Error::Io`]: a run whose report cannot be kept has done its work all the same.
pub fn keep(root: &Path, what: &str, started: DateTime<Utc>, report: &impl Serialize) -> Result<PathBuf> {
    let directory = root.join("reports");
    std::fs::create_dir_all(&directory).map_err(Error::io(&directory))?;
    // Names sort by time; the process keeps two runs of one second apart.
    let name = format!("{}_{what}-{}.json", started.format("%Y-%m-%dT%H%M%SZ"), std::process::id());
    let (path, part) = (directory.join(&name), directory.join(format!("{name}.part")));
    let text = serde_json::to_vec_pretty(report).map_err(|error| Error::io(&path)(error.into()))?;
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).map_err(Error::io(&path))?;
    let mut kept: Vec<PathBuf> = std::fs::read_dir(&directory)
        .map_err(Error::io(&directory))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    kept.sort();
    for old in kept.iter().rev().skip(KEPT) {
        // Another run may have removed it first.
        let _ = std::fs::remove_file(old);
    }
    Ok(path)
}

/// When the newest run of this command began, as its report's name says.
pub fn newest(root: &Path, what: &str) -> Option<DateTime<Utc>> {
    let ending = format!("_{what}-");
    let names = std::fs::read_dir(root.join("reports")).ok()?.flatten();
    let started = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (time, _) = name.strip_suffix(".json")?.split_once(&ending)?;
        Some(NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H%M%SZ").ok()?.and_utc())
    });
    started.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEPT + 3 {
            let started = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::seconds(n as i64);
            keep(dir.path(), "fetch", started, &n).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("reports"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let last = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::seconds(KEPT as i64 + 2);
        assert_eq!((newest(dir.path(), "fetch"), newest(dir.path(), "sync")), (Some(last), None));
        assert_eq!(names.len(), KEPT);
        assert!(names[0].starts_with("1970-01-01T000003Z_fetch-"), "{}", names[0]);
    }
}
