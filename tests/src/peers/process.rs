//! Child processes that die with their test.

use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a peer to listen; pynetdicom needs seconds on a loaded machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A child process with its log; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with both outputs in `log` and waits until something listens on the port.
    ///
    /// # Panics
    /// When it ends before, or does not listen in time; with its log.
    pub fn start(mut command: Command, log: &Path, port: u16) -> Self {
        let file = std::fs::File::create(log).unwrap();
        let twin = file.try_clone().unwrap();
        // DCMTK and Orthanc leave Nagle on unless this is set: 44 ms a message, which would hide what is measured.
        command.env("TCP_NODELAY", "1").stdin(Stdio::null()).stdout(file).stderr(twin);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut process = Self { child, log: log.to_path_buf() };
        until("the peer listens", START_DEADLINE, || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("the peer ended with {status}:\n{}", process.log());
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        process
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports for peers lie below those that systems give to outgoing connections, which would take a free one
/// between this look and the peer's.
const PEER_PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port that nobody listens on at this moment, for programs that cannot choose one themselves.
///
/// # Panics
/// When a thousand random ones are all taken.
#[expect(clippy::expect_used, reason = "a test that has no port must end")]
pub fn free_port() -> u16 {
    let random = std::hash::RandomState::new();
    let free = (0_u64..1000).find_map(|n| {
        let port = PEER_PORTS.start + (random.hash_one(n) % PEER_PORTS.len() as u64) as u16;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    });
    free.expect("a free port")
}

/// Polls until the condition holds.
///
/// # Panics
/// When the deadline passes.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program on PATH, or in the directories of daemons that PATH often lacks.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// The Python that has pynetdicom and pydicom, from `PEER_PYTHON`.
pub fn peer_python() -> Option<PathBuf> {
    std::env::var_os("PEER_PYTHON").map(PathBuf::from).filter(|p| p.is_file())
}

/// Runs a tool to its end, without Nagle.
///
/// # Panics
/// When it is not installed.
pub fn run_tool(name: &str, args: &[&str]) -> Output {
    let path = tool(name).unwrap_or_else(|| panic!("{name} is not installed"));
    Command::new(path).args(args).env("TCP_NODELAY", "1").output().unwrap()
}
