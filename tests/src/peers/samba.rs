//! Samba as a linac's share: one share, one user, on a port of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::{Process, free_port, tool};

/// A running smbd with the share `Backup`; ended when dropped.
#[derive(Debug)]
pub struct Samba {
    _process: Process,
    port: u16,
    share: PathBuf,
    log: PathBuf,
}

/// Who may log in.
pub const USER: &str = "nobody";
/// Their password.
pub const PASSWORD: &str = "tr0ub4dor&3";

impl Samba {
    /// Starts it with everything below `directory`; `None` if it is not installed, or this account may not start it.
    pub fn start(directory: &Path) -> Option<Self> {
        let (smbd, smbpasswd) = (tool("smbd")?, tool("smbpasswd")?);
        let share = directory.join("Backup");
        std::fs::create_dir_all(share.join("TCS")).unwrap();
        for name in ["private", "state", "run"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        let port = free_port();
        let config = directory.join("smb.conf");
        let at = |name: &str| directory.join(name).display().to_string();
        // `force user` lets the share be read whoever runs the test; nobody but loopback gets in.
        let text = format!(
            "[global]\nserver role = standalone server\nsmb ports = {port}\nbind interfaces only = yes\ninterfaces = lo\n\
             private dir = {}\npassdb backend = tdbsam\nstate directory = {}\ncache directory = {}\nlock directory = {}\n\
             pid directory = {}\nncalrpc dir = {}\nlog file = {}\nlog level = 1\nload printers = no\ndisable spoolss = yes\n\
             map to guest = never\nserver min protocol = SMB2\n\
             [Backup]\npath = {}\nread only = yes\nforce user = root\n\
             [Private]\npath = {}\nvalid users = root\n\
             [Encrypted]\npath = {}\nread only = yes\nforce user = root\nsmb encrypt = required\n",
            at("private"),
            at("state"),
            at("state"),
            at("state"),
            at("run"),
            at("run"),
            at("samba.log"),
            share.display(),
            share.display(),
            share.display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(smbpasswd)
            .args(["-c", config.to_str().unwrap(), "-L", "-a", "-s", USER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        write!(child.stdin.take()?, "{PASSWORD}\n{PASSWORD}\n").ok()?;
        if !child.wait().ok()?.success() {
            return None;
        }
        let mut command = Command::new(smbd);
        command.args(["--foreground", "--no-process-group", "--configfile"]).arg(&config);
        let log = directory.join("smbd.out");
        let process = Process::start(command, &log, port);
        Some(Self { _process: process, port, share, log })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory `TCS` of the share.
    pub fn tcs(&self) -> PathBuf {
        self.share.join("TCS")
    }

    /// What it printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// A tunnel to a port that can be cut, or made to swallow everything.
#[derive(Debug)]
pub struct Tunnel {
    port: u16,
    left: Arc<AtomicI64>,
    black_hole: Arc<AtomicBool>,
}

impl Tunnel {
    /// A tunnel to `target` on this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tunnel = Self {
            port: listener.local_addr().unwrap().port(),
            left: Arc::new(AtomicI64::new(i64::MAX)),
            black_hole: Arc::default(),
        };
        let (left, hole) = (Arc::clone(&tunnel.left), Arc::clone(&tunnel.black_hole));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target))) else {
                    continue;
                };
                for (from, to, counts) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (left, hole) = (Arc::clone(&left), Arc::clone(&hole));
                    std::thread::spawn(move || pump(from, to, counts.then_some(left), &hole));
                }
            }
        });
        tunnel
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the connection that carries the byte so many bytes from now; those that follow live.
    pub fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Swallows everything from now on, or no more.
    pub fn swallow(&self, yes: bool) {
        self.black_hole.store(yes, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, left: Option<Arc<AtomicI64>>, hole: &AtomicBool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        if hole.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(left) = &left {
            let bytes = i64::try_from(got).unwrap();
            let before = left.fetch_sub(bytes, Ordering::SeqCst);
            if before < bytes {
                left.store(i64::MAX, Ordering::SeqCst);
                break;
            }
        }
        if to.write_all(buffer.get(..got).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
