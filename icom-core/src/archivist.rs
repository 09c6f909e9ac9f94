//! The archive's thread: one record after the other, tried until the disk takes it.
//!
//! Input: finished records and cursors of all linacs. Output: files and index rows. What a stop leaves undone is made again
//! from the journal at the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};

use crate::Result;
use crate::archive::{Finished, store};
use crate::handover::{Handover, Taken};
use crate::index::Index;
use crate::status::{Busy, Counter, Failing, Shared};

/// What there is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Archive a record.
    Store { finished: Box<Finished>, shared: Arc<Shared> },
    /// Note that everything before the offset is done.
    Cursor { linac: String, offset: u64, shared: Arc<Shared> },
}

/// See the module.
pub(crate) struct Archivist {
    pub(crate) dir: PathBuf,
    pub(crate) index: Index,
    pub(crate) no_mu_keep: TimeDelta,
    pub(crate) jobs: Arc<Handover<Job>>,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) failures: Arc<Counter>,
    pub(crate) failing: Arc<Failing>,
    pub(crate) busy: Arc<Busy>,
}

impl Archivist {
    pub(crate) fn run(mut self) {
        let mut cleaned: Option<Instant> = None;
        loop {
            if cleaned.is_none_or(|at| at.elapsed() > CLEANING_INTERVAL) {
                self.clean();
                cleaned = Some(Instant::now());
            }
            match self.jobs.take(Duration::from_secs(60)) {
                Taken::Item(job) => {
                    if !self.until_done(&job) {
                        // Later ones must not move the cursor past it.
                        return;
                    }
                }
                Taken::Nothing => {}
                Taken::Closed => return,
            }
        }
    }

    fn until_done(&mut self, job: &Job) -> bool {
        let mut wait = FIRST_RETRY;
        loop {
            self.busy.begin();
            let tried = self.try_once(job);
            self.busy.end();
            match tried {
                Ok(()) => {
                    if self.failing.ended() {
                        tracing::info!("iCom archive is written again");
                    }
                    return true;
                }
                Err(error) => {
                    self.failures.add(1);
                    if self.failing.began(format_args!("{error}; {}", error.hint())) {
                        tracing::error!(%error, hint = error.hint(), "iCom archive waits; records stay in the journal");
                    }
                }
            }
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.stopping.load(Ordering::Relaxed) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    fn try_once(&mut self, job: &Job) -> Result<()> {
        match job {
            Job::Store { finished, shared } => {
                store(&self.dir, &mut self.index, finished)?;
                shared.committed.set(finished.cursor);
            }
            Job::Cursor { linac, offset, shared } => {
                self.index.set_cursor(linac, *offset)?;
                shared.committed.set(*offset);
            }
        }
        Ok(())
    }

    fn clean(&self) {
        match self.index.forget_without_mu(Utc::now() - self.no_mu_keep, &self.dir) {
            Ok(paths) => {
                for path in paths {
                    // One that is gone already is what was wanted.
                    let _ = std::fs::remove_file(&path);
                    if let Some(dir) = path.parent() {
                        // Fails unless empty, as it should.
                        let _ = std::fs::remove_dir(dir);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "old iCom records without MU stay"),
        }
    }
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const CLEANING_INTERVAL: Duration = Duration::from_secs(3600);
