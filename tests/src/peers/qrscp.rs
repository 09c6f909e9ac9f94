//! pynetdicom's qrscp: hierarchical queries only, and no RT attributes in its answers.

use std::process::Command;

use super::{Destination, PeerArchive, Process, free_port, peer_python, require};

impl PeerArchive {
    /// Starts qrscp; `None` when `PEER_PYTHON` names no Python that has it.
    pub fn qrscp(destinations: &[Destination]) -> Option<Self> {
        let python = require("PEER_PYTHON with pynetdicom", peer_python())?;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let port = free_port();
        let nodes: String = destinations
            .iter()
            .map(|d| format!("[{}]\naddress: 127.0.0.1\nport: {}\n", d.ae_title, d.port))
            .collect();
        let text = format!(
            "[DEFAULT]\nae_title: QRSCP\nport: {port}\nmax_pdu: 131072\nacse_timeout: 30\ndimse_timeout: 30\n\
             network_timeout: 30\nbind_address: 127.0.0.1\ninstance_location: {}\ndatabase_location: {}\n\
             log_identifier: False\n{nodes}",
            at("instances").display(),
            at("instances.sqlite").display()
        );
        std::fs::write(at("qrscp.ini"), text).unwrap();
        let mut command = Command::new(python);
        command.args(["-m", "pynetdicom", "qrscp", "-c"]).arg(at("qrscp.ini")).current_dir(directory.path());
        let process = Process::start(command, &at("log"), port);
        Some(Self { name: "qrscp", ae_title: "QRSCP", port, process, directory })
    }
}
