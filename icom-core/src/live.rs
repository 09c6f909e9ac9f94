//! The live state of a linac: one small JSON file, replaced atomically, for any number of readers.
//!
//! Input: the newest snapshot and the state of the link. Output: `live/<linac>.json`. A thread writes it, so that a slow
//! directory delays nothing; it writes the newest state and skips those it had no time for. Reading touches no socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::files::replace;
use crate::journal::THREAD_STACK;
use crate::settings::live_path;
use crate::snapshot::Snapshot;
use crate::{Error, Result};

/// How far the clock of whoever reads may be behind that of the service.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

/// What a link to a linac is doing.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// The service has not tried yet, or has stopped.
    Stopped,
    /// Trying to connect, or waiting before the next try.
    Connecting,
    /// Connected, and bytes come.
    Connected,
}

/// Why a link ended, or was not made.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkEnd {
    /// The linac closed in order.
    Fin,
    /// The linac, or something between, reset it.
    Rst,
    /// Nothing listens on the port.
    Refused,
    /// No bytes for too long.
    Silence,
    /// No route, or nobody answers.
    Unreachable,
    /// The host's name is not known.
    UnknownHost,
    /// We closed in order, at a stop.
    Stopped,
    /// Anything else.
    Other,
}

impl LinkEnd {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Fin => "closed by the linac",
            Self::Rst => "reset by the linac",
            Self::Refused => "connection refused",
            Self::Silence => "the linac fell silent",
            Self::Unreachable => "host unreachable",
            Self::UnknownHost => "host name unknown",
            Self::Stopped => "listener stopped",
            Self::Other => "network error",
        }
    }
}

/// The state of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is doing.
    pub state: LinkState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// How the last one ended.
    pub last_end: Option<LinkEnd>,
}

/// What the live file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// The linac's name in the settings.
    pub linac: String,
    /// The link.
    pub link: Link,
    /// When the snapshot's message came; absent if none ever did.
    pub received: Option<DateTime<Utc>>,
    /// Whether MU was counted within the last two seconds.
    pub beam_on: bool,
    /// The newest message.
    pub snapshot: Option<Snapshot>,
}

impl Live {
    /// Age of the snapshot.
    #[must_use]
    pub fn age(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        self.received.map(|received| now.signed_duration_since(received))
    }
}

/// Reads a linac's live state, which must be younger than `max_age`.
///
/// # Errors
/// [`Error::Stale`] if it was never seen or is too old, with since when and why; [`Error::Malformed`], [`Error::Io`].
pub fn read(dir: &Path, linac: &str, max_age: Duration, now: DateTime<Utc>) -> Result<Live> {
    let live = read_any_age(dir, linac)?;
    let link = format!(
        "{}{} since {}",
        link_word(live.link),
        live.link
            .last_end
            .filter(|_| live.link.state != LinkState::Connected)
            .map_or_else(String::new, |end| format!(" ({})", end.text())),
        utc(live.link.since)
    );
    let (Some(received), Some(age)) = (live.received, live.age(now)) else {
        return Err(Error::Stale {
            reason: format!("linac {linac} has sent no message yet; the link is {link}"),
        });
    };
    if age < -CLOCK_TOLERANCE {
        return Err(Error::Stale {
            reason: format!(
                "the state of linac {linac} is {:.1} s ahead of this computer's clock: set the clocks of both computers",
                -seconds(age)
            ),
        });
    }
    if age > TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX) {
        return Err(Error::Stale {
            reason: format!(
                "the state of linac {linac} is {:.1} s old, last message at {}; the link is {link}",
                seconds(age),
                utc(received)
            ),
        });
    }
    Ok(live)
}

/// Reads a linac's live state however old it is.
///
/// # Errors
/// As [`read`].
pub fn read_any_age(dir: &Path, linac: &str) -> Result<Live> {
    let path = live_path(dir, linac);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Stale { reason: never_seen(dir, linac) });
        }
        Err(source) => return Err(Error::Io { path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::Malformed {
        section: "live state",
        offset: u64::try_from(error.column()).unwrap_or_default(),
        expected: "the JSON that this version writes",
        found: error.to_string(),
    })
}

fn never_seen(dir: &Path, linac: &str) -> String {
    let mut known: Vec<String> = std::fs::read_dir(dir.join("live"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    known.sort_unstable();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("linac {linac} was never seen by the listener in {}; known linacs: {known}", dir.display())
}

const fn link_word(link: Link) -> &'static str {
    match link.state {
        LinkState::Connected => "up",
        LinkState::Connecting => "down",
        LinkState::Stopped => "stopped",
    }
}

fn utc(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of an age, for people")]
fn seconds(time: TimeDelta) -> f64 {
    time.num_milliseconds() as f64 / 1000.0
}

/// Something to write: the live state, or one message of PyMedPhys's ring.
#[derive(Debug)]
enum Due {
    State(Box<Live>),
    Ring(Vec<u8>),
}

/// Writes live states on a thread of its own.
#[derive(Debug)]
pub(crate) struct LiveWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    due: Mutex<DueWrites>,
    wake: Condvar,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct DueWrites {
    by_path: BTreeMap<PathBuf, Due>,
    stop: bool,
}

impl LiveWriter {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let live = dir.join("live");
        std::fs::create_dir_all(&live).map_err(Error::io(&live))?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("icom-live".into())
            .stack_size(THREAD_STACK)
            .spawn(move || of_thread.run())
            .map_err(Error::io(&live))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A handle that derivation threads hold.
    pub(crate) fn handle(&self) -> LiveHandle {
        LiveHandle { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for LiveWriter {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ = thread.join();
        }
    }
}

/// See [`LiveWriter::handle`].
#[derive(Debug, Clone)]
pub(crate) struct LiveHandle {
    shared: Arc<Shared>,
}

impl LiveHandle {
    /// Has the state written soon; a newer one takes its place.
    pub(crate) fn show(&self, dir: &Path, live: Live) {
        let path = live_path(dir, &live.linac);
        self.shared.lock().by_path.insert(path, Due::State(Box::new(live)));
        self.shared.wake.notify_one();
    }

    /// Has one message of PyMedPhys's ring written soon.
    pub(crate) fn ring(&self, dir: &Path, host: &str, counter: u8, message: &[u8]) {
        let path = dir.join("live").join(crate::files::safe_part(host)).join(format!("{counter:03}.txt"));
        self.shared.lock().by_path.insert(path, Due::Ring(message.to_vec()));
        self.shared.wake.notify_one();
    }

    pub(crate) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let due = self.lock();
            let mut due = self
                .wake
                .wait_while(due, |due| due.by_path.is_empty() && !due.stop)
                .unwrap_or_else(PoisonError::into_inner);
            let stop = due.stop;
            let writes = std::mem::take(&mut due.by_path);
            drop(due);
            for (path, due) in writes {
                if write(&path, &due).is_err() {
                    // Counted and told in the status; the next state is tried anew.
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
            if stop {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, DueWrites> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(path: &Path, due: &Due) -> Result<()> {
    match due {
        Due::State(live) => {
            let json = serde_json::to_vec(live).map_err(|error| Error::Misuse { what: error.to_string() })?;
            replace(path, &json)
        }
        Due::Ring(bytes) => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
            }
            std::fs::write(path, bytes).map_err(Error::io(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::time;

    fn live(received: Option<DateTime<Utc>>, state: LinkState) -> Live {
        let link = Link { state, since: DateTime::UNIX_EPOCH, last_end: Some(LinkEnd::Refused) };
        let snapshot = received.map(|_| Snapshot::empty(time(0), 1));
        Live { linac: "4299".into(), link, received, beam_on: false, snapshot }
    }

    #[test]
    fn too_old_or_never_seen_is_an_error_that_says_since_when() {
        let dir = tempfile::tempdir().unwrap();
        let now = Utc::now();
        let max_age = Duration::from_secs(5);
        let error = read(dir.path(), "4299", max_age, now).unwrap_err().to_string();
        assert!(error.contains("never seen") && error.contains("known linacs: none"), "{error}");
        let writer = LiveWriter::start(dir.path()).unwrap();
        writer.handle().show(dir.path(), live(None, LinkState::Connecting));
        drop(writer);
        let error = read(dir.path(), "4299", max_age, now).unwrap_err().to_string();
        assert!(
            error.contains("no message yet") && error.contains("down (connection refused) since 1970"),
            "{error}"
        );
        let writer = LiveWriter::start(dir.path()).unwrap();
        writer.handle().show(dir.path(), live(Some(now - TimeDelta::seconds(8)), LinkState::Connected));
        drop(writer);
        let error = read(dir.path(), "4299", max_age, now).unwrap_err().to_string();
        assert!(error.contains("8.0 s old") && error.contains("the link is up"), "{error}");
        assert!(read(dir.path(), "4299", Duration::from_secs(10), now).is_ok());
        let error = read(dir.path(), "4300", max_age, now).unwrap_err().to_string();
        assert!(error.contains("known linacs: 4299"), "{error}");
        let ahead = read(dir.path(), "4299", max_age, now - TimeDelta::seconds(60)).unwrap_err().to_string();
        assert!(ahead.contains("clock"), "{ahead}");
    }
}
