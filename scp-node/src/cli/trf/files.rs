//! The files that a command works on: patterns, many at once, one bad one among good ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;
use trf_core::{Error, Result};

use crate::cli::Printer;

/// Records to work on.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// Records, directories of records, or patterns such as "logs/*.trf".
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

impl Files {
    /// Whether more than one file is meant.
    pub(super) fn is_several(&self) -> bool {
        self.files.iter().map(|pattern| expand(pattern).len()).sum::<usize>() > 1
    }

    /// Does `work` with every file, several at a time; what fails does not stop the rest.
    pub(super) fn each<T: Send>(
        &self,
        printer: Printer,
        work: impl Fn(&Path) -> Result<T> + Sync,
    ) -> Done<T> {
        let found: Vec<(PathBuf, Result<()>)> = self.files.iter().flat_map(|p| expand(p)).collect();
        let bar = progress_bar(found.len(), printer);
        let results = found
            .into_par_iter()
            .map(|(path, found)| {
                let result = found.and_then(|()| work(&path));
                bar.inc(1);
                (path, result)
            })
            .collect();
        bar.finish_and_clear();
        Done { results }
    }
}

/// What came out, in the order of the files.
pub(super) struct Done<T> {
    results: Vec<(PathBuf, Result<T>)>,
}

impl<T: Serialize> Done<T> {
    /// The files that worked.
    pub(super) fn successes(&self) -> impl Iterator<Item = (&Path, &T)> {
        self.results.iter().filter_map(|(path, result)| Some((path.as_path(), result.as_ref().ok()?)))
    }

    /// Prints the errors, or everything as JSON, and gives the exit code: 1 if any file failed.
    pub(super) fn finish(self, printer: Printer) -> ExitCode {
        let mut failed = 0;
        let mut last_hint = "";
        let mut values = Vec::new();
        for (path, result) in &self.results {
            let file = path.display().to_string();
            match result {
                Ok(value) => values.push(json!({"file": file, "result": value})),
                Err(error) => {
                    failed += 1;
                    let (text, hint) = (error_line(path, error), error.hint());
                    printer.note(format!("error: {text}"));
                    if last_hint != hint {
                        printer.note(format!("hint: {hint}"));
                    }
                    last_hint = hint;
                    values.push(json!({"file": file, "error": text, "hint": hint}));
                }
            }
        }
        printer.json(&values);
        if failed > 0 && self.results.len() > 1 {
            printer.note(format!("{failed} of {} files failed", self.results.len()));
        }
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// The error in one line, with its file and its cause.
pub(super) fn error_line(path: &Path, error: &Error) -> String {
    match error {
        Error::Io { source, .. } => format!("{error}: {source}"),
        _ => format!("{}: {error}", path.display()),
    }
}

/// The files that `pattern` means. A name that exists is taken as it is: names of records may have brackets.
fn expand(pattern: &str) -> Vec<(PathBuf, Result<()>)> {
    let path = Path::new(pattern);
    if path.is_dir() {
        return glob_in(&format!("{}/*.trf", glob::Pattern::escape(pattern)), path);
    }
    if path.exists() || !pattern.contains(['*', '?']) {
        return vec![(path.to_path_buf(), Ok(()))];
    }
    // Brackets are part of real names (`[ICOM_ 7_03_2018 15_16_23] D Abut.trf`), here as in PyMedPhys.
    glob_in(&pattern.replace('[', "[[]"), path)
}

fn glob_in(pattern: &str, named: &Path) -> Vec<(PathBuf, Result<()>)> {
    let nothing = |what: String| {
        let error = Error::misuse(what).with_hint("check the pattern and the directory; records end in .trf");
        vec![(named.to_path_buf(), Err(error))]
    };
    // The linac writes `.trf`, but a copy through DOS names may have `.TRF`.
    let options = glob::MatchOptions { case_sensitive: false, ..glob::MatchOptions::default() };
    let paths = match glob::glob_with(pattern, options) {
        Ok(paths) => paths,
        Err(error) => return nothing(format!("not a pattern: {error}")),
    };
    let found: Vec<(PathBuf, Result<()>)> = paths
        .map(|path| match path {
            Ok(path) => (path, Ok(())),
            Err(error) => {
                let path = error.path().to_path_buf();
                let found = Err(Error::io(&path, error.into()));
                (path, found)
            }
        })
        .collect();
    if found.is_empty() { nothing("no file matches".to_owned()) } else { found }
}

fn progress_bar(n_files: usize, printer: Printer) -> ProgressBar {
    if n_files < 2 || !printer.is_watched() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(n_files as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} records, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Where outputs go; keeps two records from writing the same file.
#[derive(Debug, Default)]
pub(super) struct Targets {
    taken: Mutex<HashMap<String, PathBuf>>,
}

impl Targets {
    /// The output of `record` without its ending: in `out`, which is made, or beside the record.
    pub(super) fn stem(&self, record: &Path, out: Option<&Path>) -> Result<PathBuf> {
        let directory = out.or_else(|| record.parent()).unwrap_or(Path::new(""));
        if let Some(out) = out {
            std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
        }
        let name = record.file_stem().ok_or_else(|| Error::misuse("a file without a name"))?;
        let stem = directory.join(name);
        // Folded, for file systems that ignore case.
        let key = stem.to_string_lossy().to_lowercase();
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match taken.insert(key, record.to_path_buf()) {
            Some(other) if other != record => {
                Err(Error::misuse(format!("its output would overwrite that of {}", other.display()))
                    .with_hint("convert records of the same name into different directories with --out"))
            }
            _ => Ok(stem),
        }
    }
}
