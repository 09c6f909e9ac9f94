//! A hospital's corner: a node's settings in a directory of its own, and the simulated Aria that may move to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use scp_node::demo::{AriaOptions, Faults, GeneratedPatient, PatientOptions, SimulatedAria};
use scp_node::fetch::{FetchRequest, Fetched, fetch};
use scp_node::settings::{ArchiveSettings, Settings};
use tokio_util::sync::CancellationToken;

use crate::node::node_binary;
use crate::peers::free_port;

/// Settings of a node on the loopback interface, with files below `directory/images` and no archive.
pub fn node_settings(directory: &Path, port: u16) -> Settings {
    let mut settings = Settings::default();
    settings.node.bind = std::net::Ipv4Addr::LOCALHOST.into();
    settings.node.port = port;
    settings.images.root = directory.join("images");
    settings
}

/// Both, for fetches in this process and for those of the program.
pub struct Site {
    /// The archive.
    pub aria: SimulatedAria,
    /// What it has.
    pub patient: GeneratedPatient,
    /// The node's.
    pub settings: Settings,
    /// The same, as a file.
    pub config: PathBuf,
    /// Goes with the site.
    pub directory: tempfile::TempDir,
}

impl Site {
    /// # Arguments
    /// * `timeout_s` — how long a connection and an answer of the archive are waited for
    ///
    /// # Panics
    /// When the archive cannot be started.
    pub async fn start(patient: &PatientOptions, faults: Faults, timeout_s: f64) -> Self {
        let port = free_port();
        let patient = GeneratedPatient::winston_lutz(patient);
        let node = ([127, 0, 0, 1], port).into();
        let options = AriaOptions::new(patient.instances.clone(), "SCP_NODE", node).unwrap();
        let aria = SimulatedAria::start(options).await.unwrap();
        aria.set_faults(faults);
        let directory = tempfile::tempdir().unwrap();
        let mut settings = node_settings(directory.path(), port);
        let (ae_title, aria_port) = (aria.ae_title().clone(), aria.address().port());
        settings.archives.push(ArchiveSettings {
            connect_timeout_s: timeout_s,
            response_timeout_s: timeout_s,
            ..ArchiveSettings::new("aria", ae_title.clone(), "127.0.0.1", aria_port)
        });
        let text = format!(
            "[node]\nbind = '127.0.0.1'\nport = {port}\n[images]\nroot = '{}'\nkeep_free_bytes = 0\n[web]\nbind = ''\n\
             [[archive]]\nname = 'aria'\nae_title = '{ae_title}'\nhost = '127.0.0.1'\nport = {aria_port}\n\
             connect_timeout_s = {timeout_s:?}\nresponse_timeout_s = {timeout_s:?}\n",
            settings.images.root.display(),
        );
        let config = directory.path().join("config.toml");
        std::fs::write(&config, text).unwrap();
        Self { aria, patient, settings, config, directory }
    }

    /// Fetches in this process.
    ///
    /// # Errors
    /// As [`fetch`].
    pub async fn fetch(&self, request: &FetchRequest) -> scp_node::Result<Fetched> {
        fetch(request, &self.settings, &CancellationToken::new(), &mut |_| {}).await
    }

    /// The program with the site's settings, its outputs piped.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(node_binary());
        command.arg("--config").arg(&self.config).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A process that ends with its test, also when that fails.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
