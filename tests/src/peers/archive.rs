//! Archives that play Aria's part: they take stores from a loader, answer finds, and move to named destinations.

use std::path::Path;

use tempfile::TempDir;

use super::{Process, run_tool};

/// Calling AE title under which tests fill archives.
pub const LOADER: &str = "LOADER";

/// Where an archive may move to.
#[derive(Debug, Clone)]
pub struct Destination {
    /// AE title.
    pub ae_title: String,
    /// Port on this machine.
    pub port: u16,
}

impl Destination {
    /// A destination on this machine.
    pub fn new(ae_title: &str, port: u16) -> Self {
        Self { ae_title: ae_title.into(), port }
    }
}

/// A running archive.
#[derive(Debug)]
pub struct PeerArchive {
    /// What it is.
    pub name: &'static str,
    /// Its AE title.
    pub ae_title: &'static str,
    /// Its port on this machine.
    pub port: u16,
    /// The process.
    pub process: Process,
    /// Its files; removed on drop.
    pub directory: TempDir,
}

impl PeerArchive {
    /// Stores every DICOM file below the directory, with DCMTK's storescu.
    ///
    /// # Panics
    /// When one is not taken.
    pub fn store(&self, directory: &Path) {
        let port = self.port.to_string();
        let directory = directory.to_str().unwrap();
        let args = ["-aet", LOADER, "-aec", self.ae_title, "+sd", "+r", "-nh", "-pdu", "131072"];
        let output = run_tool("storescu", &[&args[..], &["localhost", &port, directory]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("E: "), "storescu: {text}\n{}", self.process.log());
    }
}
