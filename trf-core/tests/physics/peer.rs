//! Python peers, named by environment variables.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// The interpreter that `variable` names. Without it the test is skipped, or fails if REQUIRE_PEERS=1.
pub(crate) fn python(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|value| value != "1"), "{variable} is not set");
        println!("SKIPPED: {variable} names no Python with the peer");
    }
    path
}

/// Runs a script with arguments and gives its standard output; fails with its standard error.
pub(crate) fn run(python: &PathBuf, script: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    let output = Command::new(python).arg("-c").arg(script).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}
