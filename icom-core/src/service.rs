//! The listener service: all linacs, each with its own stages.
//!
//! ```text
//! per linac: reader task -> memory -> scribe thread (journal) -> memory -> derivation thread
//! shared:    one runtime thread for the sockets, one thread for the archive, one for live state
//! ```
//!
//! Nothing on a left side waits for anything on its right.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archivist::{Archivist, Job};
use crate::derive::{Deriver, Fed};
use crate::handover::Handover;
use crate::journal::{self, Journal, JournalSettings, Recovery, THREAD_STACK};
use crate::listener::{Reader, Timing};
use crate::live::LiveWriter;
use crate::pass_through;
use crate::reindex;
use crate::scribe::{Intake, Scribe};
use crate::settings::{LinacSettings, ListenerSettings, index_path};
use crate::spool::Spool;
use crate::status::{Busy, Counter, Failing, LinacStatus, Shared, Trouble};
use crate::{Error, Result};

/// Memory for derivation per linac; what it drops is read again from the journal.
const FEED_BYTES: usize = 16 << 20;

/// Records and cursors that wait for the archive; at some 2 kB each no memory to speak of.
const MAX_JOBS: usize = 1 << 20;

/// How long a stop waits for the archive; the rest is made again from the journal.
const ARCHIVE_STOP_WAIT: Duration = Duration::from_secs(20);

/// How long a stop waits for derivation and for pass-through clients to take what is left.
const CLIENT_DRAIN: Duration = Duration::from_secs(10);

/// What the whole service is doing.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    /// One for each linac.
    pub linacs: Vec<LinacStatus>,
    /// Records that wait for the archive.
    pub archive_waiting: u64,
    /// Failed tries of the archive.
    pub archive_failures: u64,
    /// What the archive waits for.
    pub archive_trouble: Option<Trouble>,
    /// Since when one record is being written; a minute says that the disk hangs.
    pub archive_busy_since: Option<DateTime<Utc>>,
    /// Failed writes of live state.
    pub live_failures: u64,
}

/// A running listener.
#[derive(Debug)]
pub struct Service {
    linacs: Vec<Stages>,
    stop: CancellationToken,
    stopping: Arc<AtomicBool>,
    readers: TaskTracker,
    sockets: Option<JoinHandle<()>>,
    archivist: Option<JoinHandle<()>>,
    jobs: Arc<Handover<Job>>,
    archive_failures: Arc<Counter>,
    archive_failing: Arc<Failing>,
    archive_busy: Arc<Busy>,
    live: LiveWriter,
}

#[derive(Debug)]
struct Stages {
    name: String,
    intake: Intake,
    feed: Arc<Handover<Fed>>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Replays the journals, then listens to all linacs.
    ///
    /// # Errors
    /// [`Error::Misuse`] for wrong settings or a directory in use, [`Error::Io`], [`Error::Index`].
    pub fn start(settings: &ListenerSettings) -> Result<Self> {
        settings.check()?;
        let (index, damaged) = reindex::open(&index_path(&settings.dir), |index| index.cursor(""))?;
        if let Some(aside) = damaged {
            tracing::error!(aside = %aside.display(), "the iCom index was damaged; a new one begins, `scp-node icom reindex` enters the records");
        }
        let live = LiveWriter::start(&settings.dir)?;
        let stop = CancellationToken::new();
        let stopping = Arc::new(AtomicBool::new(false));
        let jobs = Arc::new(Handover::new(MAX_JOBS));
        let mut linacs = Vec::new();
        let mut tasks = Vec::new();
        for linac in &settings.linacs {
            // An index that was lost and made anew knows no cursor.
            let cursor = index.cursor(&linac.name)?.max(journal::done(&settings.journal_of(linac)));
            let (stages, task) = Stages::start(settings, linac, cursor, &jobs, &live, &stop, &stopping)?;
            linacs.push(stages);
            tasks.push(task);
        }
        let archive_failures = Arc::new(Counter::default());
        let archive_failing = Arc::new(Failing::default());
        let archive_busy = Arc::new(Busy::default());
        let archivist = Archivist {
            dir: settings.dir.clone(),
            index,
            no_mu_keep: TimeDelta::days(settings.no_mu_keep_days.into()),
            jobs: Arc::clone(&jobs),
            stopping: Arc::clone(&stopping),
            failures: Arc::clone(&archive_failures),
            failing: Arc::clone(&archive_failing),
            busy: Arc::clone(&archive_busy),
        };
        let archivist = spawn("icom-archive", 4 << 20, move || archivist.run())?;
        let readers = TaskTracker::new();
        let sockets = start_sockets(tasks, readers.clone())?;
        let (archivist, sockets) = (Some(archivist), Some(sockets));
        Ok(Self {
            linacs,
            stop,
            stopping,
            readers,
            sockets,
            archivist,
            jobs,
            archive_failures,
            archive_failing,
            archive_busy,
            live,
        })
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let linacs = self.linacs.iter().map(|stages| {
            let waiting = (stages.intake.queue.waiting_bytes(), stages.feed.waiting_bytes());
            stages.intake.shared.status(&stages.name, waiting.0, waiting.1)
        });
        Status {
            linacs: linacs.collect(),
            archive_waiting: u64::try_from(self.jobs.len()).unwrap_or(u64::MAX),
            archive_failures: self.archive_failures.get(),
            archive_trouble: self.archive_failing.trouble(),
            archive_busy_since: self.archive_busy.since(),
            live_failures: self.live.handle().failures(),
        }
    }

    /// Stops in order: links are closed once the beam is off, what was received is journalled and derived, finished
    /// records are archived. Blocks meanwhile.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.stop.cancel();
        let sockets = self.sockets.take();
        while sockets.as_ref().is_some_and(|thread| !thread.is_finished()) && !self.readers_ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.stopping.store(true, Ordering::Relaxed);
        for stages in &mut self.linacs {
            // Closed by its reader; once more for one that never ran.
            stages.intake.queue.close();
            stages.threads.drain(..).for_each(|thread| join(Some(thread)));
        }
        // Derivation has given its last message: pass-through clients get it, and are closed.
        join(sockets);
        self.jobs.close();
        if let Some(archivist) = self.archivist.take() {
            let until = Instant::now() + ARCHIVE_STOP_WAIT;
            while !archivist.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            // One that hangs in a dead share is left behind; the process ends.
            if archivist.is_finished() {
                join(Some(archivist));
            }
        }
    }
}

impl Service {
    fn readers_ended(&self) -> bool {
        self.readers.is_closed() && self.readers.is_empty()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// What runs on the socket thread for one linac.
struct SocketTask {
    reader: Reader,
    pass_through: Option<(std::net::TcpListener, broadcast::Sender<Arc<[u8]>>)>,
}

impl Stages {
    fn start(
        settings: &ListenerSettings,
        linac: &LinacSettings,
        cursor: u64,
        jobs: &Arc<Handover<Job>>,
        live: &LiveWriter,
        stop: &CancellationToken,
        stopping: &Arc<AtomicBool>,
    ) -> Result<(Self, SocketTask)> {
        let now = Utc::now();
        let dir = settings.journal_of(linac);
        let journal_settings =
            JournalSettings { fsync_interval: settings.fsync_interval(), ..JournalSettings::default() };
        let (journal, recovery) = Journal::open(&dir, journal_settings, cursor, now)?;
        tell_recovery(linac, recovery);
        Spool::clear(&dir)?;
        let shared = Arc::new(Shared::new(now));
        shared.committed.set(cursor);
        let memory = usize::try_from(settings.memory_mb).unwrap_or(64) << 20;
        let intake = Intake {
            queue: Arc::new(Handover::new(memory)),
            lost: Arc::new(AtomicU64::new(0)),
            shared: Arc::clone(&shared),
        };
        let feed = Arc::new(Handover::new(FEED_BYTES));
        let (clients, _) = broadcast::channel(pass_through::CLIENT_BACKLOG);
        let opened_at = journal.offset();
        let deriver = Deriver::new(
            settings,
            linac.clone(),
            cursor,
            Arc::clone(&shared),
            Arc::clone(&feed),
            Arc::clone(jobs),
            live.handle(),
            clients.clone(),
            Arc::clone(stopping),
        );
        let scribe = Scribe {
            name: linac.name.clone(),
            journal,
            intake: intake.clone(),
            feed: Arc::clone(&feed),
            keep: Duration::from_secs(u64::from(settings.journal_keep_hours) * 3600),
            stopping: Arc::clone(stopping),
            sequence: 0,
        };
        let threads = vec![
            spawn("icom-journal", THREAD_STACK, move || scribe.run())?,
            spawn("icom-derive", THREAD_STACK, move || deriver.run(opened_at))?,
        ];
        let reader = Reader {
            linac: linac.clone(),
            timing: Timing::new(settings),
            intake: intake.clone(),
            shared,
            stop: stop.clone(),
        };
        let pass_through = linac.pass_through.map(bind).transpose()?.map(|listener| (listener, clients));
        let stages = Self { name: linac.name.clone(), intake, feed, threads };
        Ok((stages, SocketTask { reader, pass_through }))
    }
}

fn bind(address: std::net::SocketAddr) -> Result<std::net::TcpListener> {
    let failed = || PathBuf::from(format!("pass-through port {address}"));
    let listener = std::net::TcpListener::bind(address).map_err(Error::io(failed()))?;
    listener.set_nonblocking(true).map_err(Error::io(failed()))?;
    Ok(listener)
}

/// All sockets live on one thread with a runtime of its own: nothing else in the process can delay their reading.
fn start_sockets(tasks: Vec<SocketTask>, readers: TaskTracker) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("tokio runtime"))?;
    spawn("icom-sockets", 2 << 20, move || {
        runtime.block_on(async {
            let clients = TaskTracker::new();
            for SocketTask { reader, pass_through } in tasks {
                if let Some((listener, messages)) = pass_through
                    && let Ok(listener) = tokio::net::TcpListener::from_std(listener)
                {
                    tokio::spawn(pass_through::serve(
                        listener,
                        messages,
                        Arc::clone(&reader.shared),
                        clients.clone(),
                        reader.stop.clone(),
                    ));
                }
                readers.spawn(reader.run());
            }
            readers.close();
            readers.wait().await;
            clients.close();
            // Derivation still works off what was read.
            let _ = tokio::time::timeout(CLIENT_DRAIN, clients.wait()).await;
        });
    })
}

fn tell_recovery(linac: &LinacSettings, recovery: Recovery) {
    if recovery.unclean {
        tracing::warn!(
            linac = linac.name,
            torn_bytes = recovery.torn_bytes,
            "iCom journal was not closed in order; it is replayed, and up to one fsync interval may be missing"
        );
    }
}

fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(work).map_err(Error::io(name))
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the iCom listener panicked; the journal holds what it received");
    }
}
