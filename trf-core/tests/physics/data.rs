//! Where the shared TRF data lies; it is not part of the repository.

use std::path::{Path, PathBuf};

/// The data's directory, or `None` with a printed line if it is absent.
pub(crate) fn root() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/trf");
    if root.is_dir() {
        return Some(root);
    }
    println!("SKIPPED: the shared TRF data is absent ({})", root.display());
    None
}

/// Files of a directory whose name ends with `suffix`, sorted; never empty.
pub(crate) fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no *{suffix} in {}", directory.display());
    files
}

/// File name up to its first dot.
pub(crate) fn stem(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().split('.').next().unwrap().to_owned()
}

/// The record of a golden's name: real ones lie in `trf`, simulated ones in `sim`.
pub(crate) fn record(root: &Path, name: &str) -> trf_core::Record {
    let directory = if name.starts_with("sim_") { "sim" } else { "trf" };
    trf_core::Record::open(root.join(directory).join(format!("{name}.trf"))).unwrap()
}
