//! DCMTK's storescp: a move destination that is not ours.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{Process, free_port, require, tool};

/// A running storescp.
#[derive(Debug)]
pub struct Storescp {
    /// Its port on this machine.
    pub port: u16,
    /// The process.
    pub process: Process,
    directory: TempDir,
}

impl Storescp {
    /// Starts it, keeping data sets bit by bit, with one of its `+x` options for the transfer syntax that it prefers (`+xa` takes
    /// every one); `None` when it is not installed.
    pub fn start_preferring(option: &str) -> Option<Self> {
        let program = require("DCMTK's storescp", tool("storescp"))?;
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command
            .args(["--fork", "+B", option, "-pdu", "131072", "-od"])
            .arg(directory.path())
            .arg(port.to_string());
        let log = std::env::temp_dir().join(format!("storescp-{}-{port}.log", std::process::id()));
        let process = Process::start(command, &log, port);
        let _ = std::fs::remove_file(log);
        Some(Self { port, process, directory })
    }

    /// What it has stored.
    pub fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.directory.path()).unwrap().map(|e| e.unwrap().path()).collect()
    }
}
