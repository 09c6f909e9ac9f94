//! Where zips, records and what is remembered of them lie: PyMedPhys's directories, and ours beside them. Pure but for names.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The directories of one root; PyMedPhys's `trf_logfiles.root_directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Zips that were fetched and wait for their records to be taken out; PyMedPhys's.
    pub fn zips_waiting(&self, linac: &str) -> PathBuf {
        self.root.join("diagnostics").join("to_be_indexed").join(linac)
    }

    /// Zips whose records were taken out; PyMedPhys's.
    pub fn zips_done(&self, linac: &str) -> PathBuf {
        self.root.join("diagnostics").join("already_indexed").join(linac)
    }

    /// Zips that were refused, as a whole or in part.
    pub fn zips_refused(&self, linac: &str) -> PathBuf {
        self.root.join("diagnostics").join("refused").join(linac)
    }

    /// Records that wait to be indexed. PyMedPhys searches below `to_be_indexed`, too.
    pub fn records(&self, linac: &str) -> PathBuf {
        self.root.join("to_be_indexed").join(linac)
    }

    /// What is remembered of a linac.
    pub fn state(&self, linac: &str) -> PathBuf {
        self.states().join(format!("{linac}.json"))
    }

    /// The lock that gives a process its turn with a linac.
    pub fn lock(&self, linac: &str) -> PathBuf {
        self.states().join(format!("{linac}.lock"))
    }

    fn states(&self) -> PathBuf {
        self.root.join("diagnostics").join("state")
    }

    /// Linacs that have zips waiting, in the settings or not: zips may be put there by hand.
    pub fn linacs_waiting(&self) -> Vec<String> {
        let directory = self.root.join("diagnostics").join("to_be_indexed");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_name("linac", name).is_ok())
            .collect();
        names.sort();
        names
    }
}

/// Checks that `name` can be a file or directory on every system, and leads nowhere else.
///
/// # Errors
/// [`Error::Misuse`].
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let base = name.split('.').next().unwrap_or_default().trim().to_uppercase();
    let device = matches!(base.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || base.len() == 4 && (base.starts_with("COM") || base.starts_with("LPT"));
    let legal = !name.is_empty()
        && name.len() <= 200
        && !name.contains(|c: char| c.is_control() || r#"<>:"/\|?*"#.contains(c))
        && !name.ends_with(['.', ' '])
        && !name.starts_with(['.', ' '])
        && !device;
    if legal {
        return Ok(());
    }
    Err(Error::misuse(format!(
        "`{}` cannot be the name of a {what}: it becomes the name of a file",
        name.escape_debug()
    ))
    .with_hint("use letters, digits, spaces, `-`, `_`, `+` and `.`"))
}

/// `name` with `addition` before its ending.
pub(super) fn with_addition(path: &Path, addition: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
    path.with_file_name(format!("{stem}~{addition}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_where_they_are_put() {
        for good in ["4299", "Linac 1", "SDD+2026-11-20 031500.zip", "Süd"] {
            check_name("linac", good).unwrap();
        }
        for bad in
            ["", ".", "..", "../x", "a/b", r"a\b", "C:", "nul", "COM1.zip", "x.", " x", "a\0b", ".hidden"]
        {
            assert!(check_name("linac", bad).is_err(), "{bad:?}");
        }
        assert_eq!(with_addition(Path::new("a/b.c.trf"), "12"), Path::new("a/b.c~12.trf"));
    }
}
