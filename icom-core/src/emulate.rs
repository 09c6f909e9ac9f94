//! An emulated linac: serves messages on a port as a linac does, with faults on demand, and reports what it saw.
//!
//! Input: a [`Script`](crate::script::Script)'s messages, or those of a recording. Output: bytes to one client, and a [`Report`]: hash of each message sent,
//! longest blocked send, how each client left. Trust: its client may do anything. It queues for an absent or stalled
//! client and bursts later, as linacs are reported to do; a message that a lost link cut is sent again whole.
//!
//! # Source
//! Behaviour: PyMedPhys's change log 0.28.0 (burst after reconnect) and issue 849 (what a vanished client causes).

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// SHA-256 of one message.
pub type MessageHash = [u8; 32];

/// Messages kept for an absent client; more are dropped from the oldest, and counted.
const MAX_BACKLOG: usize = 100_000;

/// How long one send may block before the client is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(180);

/// How often an idle emulator looks for clients that come or go.
const POLL: Duration = Duration::from_millis(5);

/// A fault, done at one message.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The message is sent in pieces of so many bytes, with a pause between.
    Split {
        /// Bytes of each piece.
        bytes: usize,
        /// Pause between pieces.
        pause: Duration,
    },
    /// This message and those after it are sent in one write.
    Join {
        /// How many.
        messages: usize,
    },
    /// The link is closed after so many bytes of the message.
    Fin {
        /// Bytes sent before.
        after: usize,
    },
    /// The link is reset after so many bytes of the message.
    Rst {
        /// Bytes sent before.
        after: usize,
    },
    /// Nothing more comes after so many bytes of the message until the client leaves.
    Silence {
        /// Bytes sent before.
        after: usize,
    },
    /// The link is closed and no client is let in for a while.
    Absent {
        /// How long.
        duration: Duration,
    },
    /// The message is sent twice.
    Duplicate,
    /// The message is not sent; its counter is missing.
    Skip,
    /// These bytes come before the message.
    Garbage {
        /// What.
        bytes: Vec<u8>,
    },
    /// A pause before the message, after which the linac sends what it has queued.
    Stall {
        /// How long.
        duration: Duration,
    },
}

/// How the emulator shall behave.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Messages per second; infinite sends as fast as the client reads.
    pub rate_hz: f64,
    /// Faults and the number of the message they happen at.
    pub faults: Vec<(usize, Fault)>,
    /// Whether to begin only when a client is there.
    pub wait_for_client: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { rate_hz: 4.0, faults: Vec::new(), wait_for_client: true }
    }
}

/// How a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// The client closed in order.
    Fin,
    /// The client reset the link, or died with unread data.
    Rst,
    /// The client did not read for `SEND_TIMEOUT`.
    Stalled,
    /// The emulator closed it, by a fault or at its end.
    Emulator,
}

/// One message that was sent whole.
#[derive(Debug, Clone, Serialize)]
pub struct Sent {
    /// Its number in the script.
    pub number: usize,
    /// Hash of its bytes.
    #[serde(skip)]
    pub hash: MessageHash,
    /// When its last byte was handed to the system.
    pub at: SystemTime,
    /// Which link.
    pub link: usize,
}

/// What the emulator saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Messages sent whole, in order; a duplicate once.
    #[serde(skip)]
    pub sent: Vec<Sent>,
    /// How each link ended.
    pub links: Vec<Left>,
    /// Longest time one send was blocked, seconds.
    pub longest_blocked_s: f64,
    /// Messages dropped because no client came for too long.
    pub dropped: u64,
    /// Connections refused because a client was there.
    pub second_clients: u64,
    /// Faults that were done.
    pub faults_done: usize,
}

/// A running emulated linac.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    all_sent: AtomicBool,
    n_sent: AtomicU64,
    report: Mutex<Report>,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Emulator {
    /// Begins to serve `messages` at `address` (port 0: any).
    ///
    /// # Errors
    /// [`Error::Io`] if the address cannot be bound.
    pub fn start(
        address: impl ToSocketAddrs + std::fmt::Debug,
        messages: impl Iterator<Item = Vec<u8>> + Send + 'static,
        behaviour: Behaviour,
    ) -> Result<Self> {
        let path = PathBuf::from(format!("{address:?}"));
        let listener = TcpListener::bind(&address).map_err(Error::io(&path))?;
        listener.set_nonblocking(true).map_err(Error::io(&path))?;
        let address = listener.local_addr().map_err(Error::io(&path))?;
        let shared = Arc::new(Shared::default());
        let linac = Linac {
            listener,
            messages: Box::new(messages.enumerate()),
            behaviour,
            shared: Arc::clone(&shared),
            queue: VecDeque::new(),
            client: None,
            n_links: 0,
            next_due: None,
            closed_until: None,
        };
        let thread = std::thread::Builder::new()
            .name(format!("linac-{}", address.port()))
            .spawn(move || linac.run())
            .map_err(Error::io(&path))?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages sent whole so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.n_sent.load(Ordering::Relaxed)
    }

    /// True once every message was sent.
    #[must_use]
    pub fn all_sent(&self) -> bool {
        self.shared.all_sent.load(Ordering::Relaxed)
    }

    /// What it has seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Ends: closes the link if a client is still there, and tells all.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.join();
        self.report()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the emulator's thread shows as missing messages.
            let _ = thread.join();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.join();
    }
}

struct Queued {
    number: usize,
    bytes: Vec<u8>,
}

struct Linac {
    listener: TcpListener,
    messages: Box<dyn Iterator<Item = (usize, Vec<u8>)> + Send>,
    behaviour: Behaviour,
    shared: Arc<Shared>,
    queue: VecDeque<Queued>,
    client: Option<TcpStream>,
    n_links: usize,
    next_due: Option<Instant>,
    closed_until: Option<Instant>,
}

impl Linac {
    fn run(mut self) {
        let mut exhausted = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.accept();
            self.notice_departure();
            let began = self.client.is_some() || self.next_due.is_some() || !self.behaviour.wait_for_client;
            if began && !exhausted {
                exhausted = !self.produce();
            }
            self.send_queue();
            self.shared.all_sent.store(exhausted && self.queue.is_empty(), Ordering::Relaxed);
            let wait =
                self.next_due.map_or(POLL, |due| due.saturating_duration_since(Instant::now()).min(POLL));
            if !wait.is_zero() || exhausted {
                std::thread::sleep(wait.max(Duration::from_micros(50)));
            }
        }
        // One that has left already is not one that was sent away.
        self.notice_departure();
        if self.client.is_some() {
            // FIN: everything sent stays readable.
            self.leave(Left::Emulator);
        }
    }

    /// Queues what is due; false once there is no more.
    fn produce(&mut self) -> bool {
        let now = Instant::now();
        let due = *self.next_due.get_or_insert(now);
        if due > now || (self.behaviour.rate_hz.is_infinite() && self.queue.len() > 64) {
            return true;
        }
        let Some((number, bytes)) = self.messages.next() else { return false };
        if self.take_fault(number, |fault| matches!(fault, Fault::Skip)).is_none() {
            self.queue.push_back(Queued { number, bytes });
        }
        if self.queue.len() > MAX_BACKLOG {
            self.queue.pop_front();
            self.shared.report().dropped += 1;
        }
        self.next_due =
            Some(due + Duration::try_from_secs_f64(1.0 / self.behaviour.rate_hz).unwrap_or_default());
        true
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.closed_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        if self.client.is_some() {
            self.shared.report().second_clients += 1;
            return;
        }
        // Blocking, so that a send that blocks is one call that takes long.
        let ready = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(SEND_TIMEOUT)));
        if ready.and_then(|()| stream.set_nodelay(true)).is_ok() {
            self.client = Some(stream);
        }
    }

    fn notice_departure(&mut self) {
        let Some(client) = &self.client else { return };
        let looked = client.set_nonblocking(true).and_then(|()| {
            let looked = client.peek(&mut [0; 1]);
            client.set_nonblocking(false)?;
            looked
        });
        match looked {
            Ok(0) => self.leave(Left::Fin),
            Ok(_) => {
                // A listener sends nothing; take it, so that it does not hide the FIN.
                let mut sink = [0; 64];
                let _ = std::io::Read::read(&mut &*client, &mut sink);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.leave(Left::Rst),
        }
    }

    fn send_queue(&mut self) {
        while self.client.is_some() && !self.shared.stop.load(Ordering::Relaxed) {
            let Some(message) = self.queue.pop_front() else { return };
            match self.take_fault(message.number, |fault| !matches!(fault, Fault::Skip)) {
                None => self.send_whole(message),
                Some(fault) => self.send_with(message, fault),
            }
        }
    }

    fn send_with(&mut self, message: Queued, fault: Fault) {
        match fault {
            Fault::Split { bytes, pause } => {
                for piece in message.bytes.chunks(bytes.max(1)) {
                    if !self.write(piece) {
                        self.queue.push_front(message);
                        return;
                    }
                    std::thread::sleep(pause);
                }
                self.note_sent(&message);
            }
            Fault::Join { messages } => self.send_joined(message, messages),
            Fault::Fin { after } => self.cut(message, after, drop),
            Fault::Rst { after } => self.cut(message, after, |stream| {
                // Let the client take what was sent; a reset discards the rest on the sender's side.
                std::thread::sleep(Duration::from_millis(30));
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }),
            Fault::Silence { after } => {
                self.write(message.bytes.get(..after).unwrap_or(&message.bytes));
                while self.client.is_some() && !self.shared.stop.load(Ordering::Relaxed) {
                    self.notice_departure();
                    std::thread::sleep(POLL);
                }
                self.queue.push_front(message);
            }
            Fault::Absent { duration } => {
                self.closed_until = Some(Instant::now() + duration);
                self.cut(message, 0, drop);
            }
            Fault::Duplicate => {
                let again = message.bytes.clone();
                self.send_whole(message);
                self.write(&again);
            }
            Fault::Garbage { bytes } => {
                self.write(&bytes);
                self.send_whole(message);
            }
            Fault::Stall { duration } => {
                std::thread::sleep(duration);
                self.send_whole(message);
            }
            Fault::Skip => {}
        }
    }

    fn send_joined(&mut self, message: Queued, messages: usize) {
        let mut joined = vec![message];
        while joined.len() < messages {
            match self.queue.pop_front() {
                Some(queued) => joined.push(queued),
                None => match self.messages.next() {
                    Some((number, bytes)) => joined.push(Queued { number, bytes }),
                    None => break,
                },
            }
        }
        let bytes: Vec<u8> = joined.iter().flat_map(|queued| queued.bytes.iter().copied()).collect();
        if self.write(&bytes) {
            joined.iter().for_each(|queued| self.note_sent(queued));
        } else {
            joined.into_iter().rev().for_each(|queued| self.queue.push_front(queued));
        }
    }

    fn cut(&mut self, message: Queued, after: usize, close: impl FnOnce(TcpStream)) {
        self.write(message.bytes.get(..after).unwrap_or(&message.bytes));
        if let Some(client) = self.client.take() {
            close(client);
            self.left(Left::Emulator);
        }
        self.queue.push_front(message);
    }

    fn send_whole(&mut self, message: Queued) {
        if self.write(&message.bytes) {
            self.note_sent(&message);
        } else {
            self.queue.push_front(message);
        }
    }

    /// Sends bytes, false if the client left meanwhile.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let Some(client) = &mut self.client else { return false };
        let began = Instant::now();
        let written = client.write_all(bytes);
        let blocked_s = began.elapsed().as_secs_f64();
        let mut report = self.shared.report();
        report.longest_blocked_s = report.longest_blocked_s.max(blocked_s);
        drop(report);
        match written {
            Ok(()) => true,
            Err(error) => {
                use std::io::ErrorKind::{TimedOut, WouldBlock};
                let stalled = matches!(error.kind(), TimedOut | WouldBlock);
                self.leave(if stalled { Left::Stalled } else { Left::Rst });
                false
            }
        }
    }

    fn note_sent(&self, message: &Queued) {
        let hash = Sha256::digest(&message.bytes).into();
        let sent = Sent { number: message.number, hash, at: SystemTime::now(), link: self.n_links };
        self.shared.report().sent.push(sent);
        self.shared.n_sent.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&mut self, how: Left) {
        self.client = None;
        self.left(how);
    }

    fn left(&mut self, how: Left) {
        self.n_links += 1;
        self.shared.report().links.push(how);
    }

    fn take_fault(&mut self, number: usize, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let faults = &mut self.behaviour.faults;
        let at = faults.iter().position(|(when, fault)| *when == number && wanted(fault))?;
        self.shared.report().faults_done += 1;
        Some(faults.remove(at).1)
    }
}

impl std::fmt::Debug for Linac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linac").field("queue", &self.queue.len()).finish_non_exhaustive()
    }
}
