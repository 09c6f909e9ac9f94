//! DCMTK's dcmqrscp: hierarchical queries only, and no RT attributes in its answers.

use std::process::Command;

use super::{Destination, LOADER, PeerArchive, Process, free_port, require, tool};

impl PeerArchive {
    /// Starts dcmqrscp; `None` when it is not installed.
    pub fn dcmqrscp(destinations: &[Destination]) -> Option<Self> {
        let program = require("DCMTK's dcmqrscp", tool("dcmqrscp"))?;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("db")).unwrap();
        let port = free_port();
        // `localhost`, not an address: dcmqrscp compares names after a reverse lookup.
        let hosts: String = destinations
            .iter()
            .enumerate()
            .map(|(n, d)| format!("node{n} = ({}, localhost, {})\n", d.ae_title, d.port))
            .collect();
        let text = format!(
            "NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\nHostTable BEGIN\n\
             loader = ({LOADER}, localhost, 1)\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n\
             AETable BEGIN\nDCMQRSCP {} RW (2000, 1024mb) ANY\nAETable END\n",
            at("db").display()
        );
        std::fs::write(at("dcmqrscp.cfg"), text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(at("dcmqrscp.cfg"));
        let process = Process::start(command, &at("log"), port);
        Some(Self { name: "dcmqrscp", ae_title: "DCMQRSCP", port, process, directory })
    }
}
