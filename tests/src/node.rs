//! The real `scp-node` program as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::peers::until;

/// The AE title of the nodes that [`Node::start`] starts.
pub const NODE_AE: &str = "SCP_NODE";
/// A node that still runs so long after it was asked to stop hangs: longer than any drain deadline of the tests.
const STOP: Duration = Duration::from_secs(60);

/// The program: `SCP_NODE` if set (by `tests/run`, which has built it), else built now in this profile.
///
/// # Panics
/// When it cannot be built.
pub fn node_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("SCP_NODE") {
            return path.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "scp-node", "--bin", "scp-node"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status().unwrap();
        assert!(status.success(), "scp-node could not be built");
        // Test programs lie in target/<profile>/deps.
        let here = std::env::current_exe().unwrap();
        here.ancestors().nth(2).unwrap().join("scp-node").with_extension(std::env::consts::EXE_EXTENSION)
    })
}

/// A running node; killed on drop.
#[derive(Debug)]
pub struct Node {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    /// Starts `serve` on a free port of the loopback interface, files below `root/images`, and waits until it listens.
    ///
    /// # Arguments
    /// * `settings` — further `key=value` for `--set`
    /// # Panics
    /// When it does not come up; with its log.
    pub fn start(root: &Path, settings: &[&str]) -> Self {
        Self::start_with(root, settings, "", &[])
    }

    /// As [`Node::start`], with the text of a settings file (lists such as `[[site]]` stand only there), and with variables.
    ///
    /// # Panics
    /// As [`Node::start`].
    pub fn start_with(root: &Path, settings: &[&str], file_text: &str, variables: &[(&str, &Path)]) -> Self {
        Self::launch(Command::new(node_binary()), root, settings, file_text, variables)
    }

    /// As [`Node::start`], under a limit that `sh` sets, such as `-n 256` for so many open files.
    ///
    /// # Panics
    /// As [`Node::start`].
    #[cfg(unix)]
    pub fn start_limited(root: &Path, settings: &[&str], ulimit: &str) -> Self {
        let mut shell = Command::new("sh");
        // Replaced by the node, whose process id this remains.
        shell.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")]).arg(node_binary());
        Self::launch(shell, root, settings, "", &[])
    }

    fn launch(
        mut command: Command,
        root: &Path,
        settings: &[&str],
        file_text: &str,
        variables: &[(&str, &Path)],
    ) -> Self {
        let log = root.join("node.log");
        let config = root.join("node.toml");
        std::fs::write(&config, file_text).unwrap();
        let images = root.join("images");
        let base = [
            "node.bind=127.0.0.1".to_owned(),
            "node.port=0".to_owned(),
            // A system of its own for tests: small disks are legitimate here.
            "images.keep_free_bytes=0".to_owned(),
            // The default port is one for the whole machine.
            "web.bind=".to_owned(),
            format!("images.root={}", images.display()),
        ];
        for setting in base.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.arg("serve").env("SCP_NODE_CONFIG", &config).envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        // `SCP_NODE receives on 127.0.0.1:40001, files into …`
        let address = line.split([' ', ',']).find_map(|word| word.parse().ok());
        let Some(address) = address else {
            let _ = child.wait();
            panic!(
                "the node did not come up: {line:?}\n{}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
        };
        Self { child, address, log, _stdout: stdout }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port, as an argument for peers' tools.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it logged, earlier runs in the same directory included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL, on Windows TerminateProcess: nothing is told to the process.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// Where there are no signals.
    pub fn terminate(self) -> ExitStatus {
        self.stop("TERM")
    }

    /// A signal that asks it to stop, and waits for its end.
    ///
    /// # Panics
    /// Where there are no signals.
    pub fn stop(mut self, signal: &str) -> ExitStatus {
        let status =
            Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let mut ended = None;
        until(&format!("the node ends after SIG{signal}"), STOP, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Every file below a directory whose name ends so.
pub fn files_below(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files
}

/// The data set's bytes of a DICOM file: what follows the file meta information. `None` when the head is not whole.
///
/// Source: PS3.10 §7.1: preamble, prefix, then (0002,0000) with the length of the group.
pub fn data_set_of(file: &[u8]) -> Option<&[u8]> {
    let (head, rest) = file.split_at_checked(144)?;
    if head.get(128..140)? != b"DICM\x02\x00\x00\x00UL\x04\x00" {
        return None;
    }
    let length = u32::from_le_bytes(head.get(140..144)?.try_into().ok()?);
    rest.get(length as usize..)
}
