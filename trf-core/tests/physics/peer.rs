//! Peers: Pythons that environment variables name, and dciodvfy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter that `variable` names. Without it the test is skipped, or fails if REQUIRE_PEERS=1.
pub(crate) fn python(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        absent(&format!("{variable}, which names a Python with the peer"));
    }
    path
}

fn absent(what: &str) {
    assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|value| value != "1"), "there is no {what}");
    println!("SKIPPED: there is no {what}");
}

/// What dciodvfy (Debian's dicom3tools) has against a file: each kind of error and warning once, without numbers and values.
/// Without the program the test is skipped, or fails if REQUIRE_PEERS=1.
pub(crate) fn dciodvfy(file: &Path) -> Option<BTreeSet<String>> {
    let Ok(output) = Command::new("dciodvfy").arg(file).output() else {
        absent("dciodvfy");
        return None;
    };
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("RTPlan"), "dciodvfy did not know the plan: {told}");
    let faults = told.lines().filter(|line| line.starts_with("Error") || line.starts_with("Warning"));
    Some(faults.map(without_values).collect())
}

/// A line without what stands in brackets: `[12]`, `<0.5>`.
fn without_values(line: &str) -> String {
    let mut depth = 0;
    let kept = line.chars().filter(|c| {
        depth += i32::from(matches!(c, '[' | '<'));
        let inside = depth > 0;
        depth -= i32::from(inside && matches!(c, ']' | '>'));
        !inside
    });
    kept.collect()
}

/// Runs a script with arguments and gives its standard output; fails with its standard error.
pub(crate) fn run(python: &PathBuf, script: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    let output = Command::new(python).arg("-c").arg(script).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}
