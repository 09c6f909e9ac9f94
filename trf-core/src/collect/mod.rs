//! From the linacs' shares to records on disk: fetches diagnostics zips and takes their records out.
//!
//! Input: the linacs with their [`Share`]s, and [`Options`]. Output: records under `to_be_indexed/<linac>/`, zips under
//! `diagnostics/`, as [`Layout`] says, and a [`Collected`] that tells what happened. Trust: none in shares and zips.
//!
//! Each linac has a thread and a turn (`turn`) of its own, so that one that hangs, lies or is off delays no other. Nothing is removed
//! before what takes its place is verified: a copy is compared with the bytes that came, records with the zip's checksums, and
//! all are on the disk (fsync) under their final names before the zip is moved. Killed anywhere, the next run goes on.

mod extract;
mod fetch;
mod layout;
mod state;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use chrono::{DateTime, Local, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::share::Share;
pub use layout::{Layout, check_name};
pub use state::{Freshness, LINAC_KEEPS_DAYS, Level};
use state::{State, replace};
use turn::Turn;

/// How often the threads are looked after.
const LOOK: Duration = Duration::from_millis(200);
/// How long a thread may take to stop when asked; a read from a dead mount never does.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A linac to collect from.
#[derive(Debug, Clone)]
pub struct Linac {
    /// Its name, which names its directories; see [`check_name`].
    pub name: String,
    /// Where its zips are; `None`: they are put into the directory by others; an error: what its settings lack.
    pub share: Option<Result<Share, Trouble>>,
}

/// What becomes of a zip whose records were taken out and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// Moved to `already_indexed`, as PyMedPhys does.
    #[default]
    Move,
    /// Left where it is.
    Keep,
    /// Removed: records are a fifth of a zip, and some sites have no use for the rest.
    Remove,
}

/// How to collect.
#[derive(Debug, Clone)]
pub struct Options {
    /// The root of all directories; PyMedPhys's `trf_logfiles.root_directory`.
    pub root: PathBuf,
    /// Which files of a share are diagnostics zips, `*` and `?`.
    pub pattern: String,
    /// What becomes of zips.
    pub after: After,
    /// Bytes that stay free on the disk.
    pub keep_free_bytes: u64,
    /// Day without a fetch from which it is a warning.
    pub warn_after_days: i64,
    /// Linacs at the same time.
    pub at_once: usize,
    /// No sign of life for so long, and a linac is given up.
    pub stall: Duration,
    /// Whether each zip is read a second time from the share, and compared.
    pub read_twice: bool,
}

impl Options {
    /// The defaults, for a root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            pattern: "SDD*.zip".into(),
            after: After::default(),
            keep_free_bytes: 1 << 30,
            warn_after_days: 4,
            at_once: 4,
            stall: Duration::from_secs(120),
            read_twice: false,
        }
    }
}

/// Which part of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// Copying new zips.
    Fetch,
    /// Taking records out of zips that are here.
    Extract,
    /// One after the other.
    Both,
}

/// What happens at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process has the turn.
    Waiting,
    /// Connecting to the share.
    Connecting,
    /// The share was listed.
    Listed {
        /// Zips on it.
        zips: usize,
        /// Those that are copied now.
        new: usize,
        /// Their bytes, less what an earlier run has copied.
        new_bytes: u64,
    },
    /// So many more bytes were copied.
    Copied {
        /// Bytes since the last time.
        bytes: u64,
    },
    /// The connection was lost; connecting again.
    Reconnecting,
    /// Reading back what was written.
    Checking,
    /// A zip is opened.
    Extracting {
        /// Its records.
        records: usize,
    },
    /// So many more records were taken out.
    Records {
        /// Records since the last time.
        records: usize,
    },
    /// Nothing more to do for this linac.
    Finished,
}

/// Is told what happens, and where.
pub type Watch = Arc<dyn Fn(&str, &Progress) + Send + Sync>;

/// An error, as reports and scripts show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// One line.
    pub text: String,
    /// A stable word: `unreachable`, `io`, `malformed`, `unsupported`, `limit`, `misuse`, `settings`, `internal`.
    pub kind: &'static str,
    /// What to do about it.
    pub hint: String,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self { text: error.text(), kind: error.kind(), hint: error.hint().to_owned() }
    }
}

/// What one run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// When it began.
    pub started_utc: DateTime<Utc>,
    /// When it ended.
    pub finished_utc: DateTime<Utc>,
    /// Per linac, in the order of the settings.
    pub linacs: Vec<LinacRun>,
}

impl Collected {
    /// Whether nothing needs a person.
    pub fn is_clean(&self) -> bool {
        self.linacs.iter().all(|run| run.errors.is_empty() && run.refused.is_empty())
    }
}

/// What one run did with one linac.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LinacRun {
    /// Its name.
    pub linac: String,
    /// Zips on its share; `None` if that was not asked or not told.
    pub zips_on_share: Option<usize>,
    /// Zips that were copied and verified.
    pub fetched: Vec<FetchedZip>,
    /// Zips whose records were taken out.
    pub extracted: Vec<ExtractedZip>,
    /// Zips that were refused, as a whole or in part.
    pub refused: Vec<RefusedZip>,
    /// What ended it before its end.
    pub errors: Vec<Trouble>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// When it was last fetched from; `None` where nothing is fetched.
    pub freshness: Option<Freshness>,
}

/// A zip that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchedZip {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the bytes that came and of the file that is here.
    pub sha256: String,
    /// Bytes that an earlier run had copied already.
    pub resumed_bytes: u64,
}

/// A zip whose records were taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtractedZip {
    /// Its name.
    pub name: String,
    /// Records that are new on this disk.
    pub records: usize,
    /// Records that lay here already, byte for byte.
    pub known: usize,
    /// Bytes of all its records.
    pub bytes: u64,
    /// Where it is now; `None` once removed.
    pub kept_at: Option<PathBuf>,
}

/// A zip that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedZip {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Records that were sound and were taken out all the same.
    pub records: usize,
    /// Where it is now.
    pub kept_at: PathBuf,
}

/// What all work on one linac needs.
struct Job<'a> {
    linac: &'a str,
    options: &'a Options,
    layout: Layout,
    cancel: &'a CancellationToken,
    tell: &'a dyn Fn(Progress),
}

/// Collects from all linacs, several at once, each by itself.
///
/// Blocking; `cancel` stops it in order. What goes wrong with a linac is in its [`LinacRun`].
pub fn collect(
    linacs: Vec<Linac>,
    options: &Options,
    steps: Steps,
    watch: &Watch,
    cancel: &CancellationToken,
) -> Collected {
    let started_utc = Utc::now();
    let order: Vec<String> = linacs.iter().map(|linac| linac.name.clone()).collect();
    let mut queue: VecDeque<Linac> = linacs.into();
    let mut running: Vec<Running> = Vec::new();
    let mut done: Vec<LinacRun> = Vec::new();
    let (finished, results) = mpsc::channel();
    while !queue.is_empty() || !running.is_empty() {
        while running.len() < options.at_once.max(1) {
            let Some(linac) = queue.pop_front() else { break };
            running.push(Running::start(linac, options, steps, watch, cancel, &finished));
        }
        if let Ok(run) = results.recv_timeout(LOOK) {
            let run: LinacRun = run;
            // One that was given up and comes back late has been told of already.
            if let Some(at) = running.iter().position(|r| r.linac == run.linac) {
                running.swap_remove(at);
                done.push(run);
            }
        }
        running.retain(|linac| match linac.given_up(options, cancel) {
            Some(run) => {
                done.push(run);
                false
            }
            None => true,
        });
    }
    done.sort_by_key(|run| order.iter().position(|name| *name == run.linac));
    done.iter().for_each(log);
    Collected { started_utc, finished_utc: Utc::now(), linacs: done }
}

/// When linacs were last fetched from, out of what is remembered; no network.
///
/// A linac whose memory cannot be read counts as never tried.
pub fn freshness<'a>(options: &Options, linacs: impl Iterator<Item = &'a str>) -> Vec<Freshness> {
    let layout = Layout::new(&options.root);
    linacs
        .map(|linac| fresh(linac, &State::load(&layout.state(linac)).unwrap_or_default(), options))
        .collect()
}

fn fresh(linac: &str, state: &State, options: &Options) -> Freshness {
    let day_of = |time: DateTime<Utc>| time.with_timezone(&Local).date_naive();
    state.freshness(linac, options.warn_after_days, day_of(Utc::now()), day_of)
}

/// A linac that a thread works on.
struct Running {
    linac: String,
    alive: Arc<Beat>,
    cancel: CancellationToken,
    asked_to_stop: std::cell::Cell<Option<Instant>>,
}

impl Running {
    fn start(
        linac: Linac,
        options: &Options,
        steps: Steps,
        watch: &Watch,
        cancel: &CancellationToken,
        finished: &mpsc::Sender<LinacRun>,
    ) -> Self {
        let alive = Arc::new(Beat::new());
        let cancel = cancel.child_token();
        let running = Self {
            linac: linac.name.clone(),
            alive: Arc::clone(&alive),
            cancel: cancel.clone(),
            asked_to_stop: std::cell::Cell::default(),
        };
        let (options, watch, finished) = (options.clone(), Arc::clone(watch), finished.clone());
        // Not scoped: a read from a dead mount can hang for ever, and must not take the others with it.
        std::thread::spawn(move || {
            let name = linac.name.clone();
            let tell = |progress: Progress| {
                alive.beat();
                watch(&name, &progress);
            };
            let run = catch_unwind(AssertUnwindSafe(|| one(&linac, &options, steps, &cancel, &tell)));
            let run = run.unwrap_or_else(|_| {
                let text = "the program failed while it worked on this linac".to_owned();
                let hint = "please report this with the log".to_owned();
                failed(&linac.name, Trouble { text, kind: "internal", hint })
            });
            tell(Progress::Finished);
            let _ = finished.send(run);
        });
        running
    }

    /// The report of a linac that shows no sign of life, or does not stop; its thread is left to itself.
    fn given_up(&self, options: &Options, cancel: &CancellationToken) -> Option<LinacRun> {
        if cancel.is_cancelled() {
            let asked = self.asked_to_stop.get().unwrap_or_else(Instant::now);
            self.asked_to_stop.set(Some(asked));
            return (asked.elapsed() > STOP_WITHIN).then(|| failed(&self.linac, (&stopped()).into()));
        }
        if self.alive.silent_for() < options.stall {
            return None;
        }
        self.cancel.cancel();
        let error = Error::Unreachable {
            peer: self.linac.clone(),
            what: format!("no sign of life for {} s; given up", options.stall.as_secs()),
            hint: "a mounted share whose server is gone hangs: check the mount, or let this program read the share (nss_host)",
        };
        Some(failed(&self.linac, (&error).into()))
    }
}

/// When something last happened.
struct Beat {
    started: Instant,
    last_ms: AtomicU64,
}

impl Beat {
    fn new() -> Self {
        Self { started: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }
}

fn failed(linac: &str, trouble: Trouble) -> LinacRun {
    LinacRun { linac: linac.to_owned(), errors: vec![trouble], ..LinacRun::default() }
}

/// All work on one linac.
fn one(
    linac: &Linac,
    options: &Options,
    steps: Steps,
    cancel: &CancellationToken,
    tell: &dyn Fn(Progress),
) -> LinacRun {
    let mut run = LinacRun { linac: linac.name.clone(), ..LinacRun::default() };
    let layout = Layout::new(&options.root);
    let job = Job { linac: &linac.name, options, layout, cancel, tell };
    if let Err(error) = job.run(linac, steps, &mut run) {
        run.errors.push((&error).into());
    }
    run
}

impl Job<'_> {
    fn run(&self, linac: &Linac, steps: Steps, run: &mut LinacRun) -> Result<()> {
        check_name("linac", self.linac)?;
        let _turn =
            Turn::wait(&self.layout.lock(self.linac), self.cancel, || (self.tell)(Progress::Waiting))?;
        let state_file = self.layout.state(self.linac);
        let mut state = State::load(&state_file)?;
        if let (Some(share), Steps::Fetch | Steps::Both) = (&linac.share, steps) {
            let fetched = match share {
                Ok(share) => self.fetch(share, &mut state, run).map_err(|error| (&error).into()),
                Err(trouble) => Err(trouble.clone()),
            };
            let now = Utc::now();
            state.first_tried_utc.get_or_insert(now);
            state.last_tried_utc = Some(now);
            state.last_error = fetched.as_ref().err().map(|trouble| trouble.text.clone());
            match fetched {
                Ok(()) => state.last_fetch_utc = Some(now),
                Err(trouble) => run.errors.push(trouble),
            }
            state.save(&state_file)?;
            self.look_at_age(&state, run);
        }
        if self.cancel.is_cancelled() || steps == Steps::Fetch {
            return Ok(());
        }
        // What was fetched before is worth its records, whatever went wrong today.
        self.extract(&mut state, run)
    }

    fn look_at_age(&self, state: &State, run: &mut LinacRun) {
        let freshness = fresh(self.linac, state, self.options);
        if freshness.level > Level::Fine {
            run.warnings.push(freshness.text.clone());
        }
        if let Some(days) = state.newest_zip_utc.map(|newest| (Utc::now() - newest).num_days())
            && days >= self.options.warn_after_days
            && freshness.level == Level::Fine
        {
            run.warnings.push(format!(
                "the newest zip on the share is {days} days old: the linac may have stopped writing them"
            ));
        }
        run.freshness = Some(freshness);
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }

    /// Refuses to begin what would fill the disk.
    fn check_room(&self, directory: &Path, needed: u64, what: &str) -> Result<()> {
        let free = fs4::available_space(directory).map_err(|e| Error::io(directory, e))?;
        let keep = self.options.keep_free_bytes;
        if free >= needed.saturating_add(keep) {
            return Ok(());
        }
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        let text = format!(
            "the disk is full: {what} needs {} MB, {} MB are free, of which {} MB are kept free",
            mb(needed),
            mb(free),
            mb(keep)
        );
        Err(Error::io(directory, std::io::Error::new(std::io::ErrorKind::StorageFull, text)))
    }

    /// SHA-256 of a file, hex; with signs of life.
    fn hash_file(&self, path: &Path) -> Result<String> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.check_cancelled()?;
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hex(hasher)),
                Ok(got) => hasher.update(buffer.get(..got).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(path, error)),
            }
            (self.tell)(Progress::Checking);
        }
    }
}

/// What ends a run that was asked to stop.
fn stopped() -> Error {
    Error::misuse("stopped before its end").with_hint("run it again: it goes on where it stopped")
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes names in a directory survive a power cut, where the system can.
fn sync_directory(directory: &Path) -> Result<()> {
    // Windows journals names by itself and opens no directories as files.
    if cfg!(unix) {
        File::open(directory).and_then(|file| file.sync_all()).map_err(|e| Error::io(directory, e))?;
    }
    Ok(())
}

fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))
}

/// What a service's log keeps of a run: no names of records, which hold names of fields.
fn log(run: &LinacRun) {
    let linac = run.linac.as_str();
    for zip in &run.fetched {
        tracing::info!(
            linac,
            zip = zip.name,
            bytes = zip.bytes,
            sha256 = zip.sha256,
            "diagnostics zip fetched"
        );
    }
    for zip in &run.extracted {
        tracing::info!(linac, zip = zip.name, records = zip.records, known = zip.known, "records taken out");
    }
    for zip in &run.refused {
        tracing::warn!(
            linac,
            zip = zip.name,
            reason = zip.reason,
            records = zip.records,
            "diagnostics zip refused"
        );
    }
    for warning in &run.warnings {
        tracing::warn!(linac, "{warning}");
    }
    for trouble in &run.errors {
        tracing::error!(linac, hint = trouble.hint, "{}", trouble.text);
    }
}
