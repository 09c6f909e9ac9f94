//! The journal's thread: appends what the reader handed over, then feeds derivation.
//!
//! Input: bytes and link events in memory. Output: journal entries, and the same entries to derivation once they are written. While the disk
//! takes nothing, it tries again; memory takes the bytes up to its bound, and what is dropped then is told in the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

use crate::derive::Fed;
use crate::handover::{Handover, Taken};
use crate::journal::{Journal, Kind};
use crate::status::Shared;

/// What the reader hands over.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) kind: Kind,
    pub(crate) at: DateTime<Utc>,
    pub(crate) bytes: Arc<[u8]>,
}

/// The reader's end: never waits.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    pub(crate) queue: Arc<Handover<Arrival>>,
    pub(crate) lost: Arc<AtomicU64>,
    pub(crate) shared: Arc<Shared>,
}

impl Intake {
    pub(crate) fn give(&self, kind: Kind, at: DateTime<Utc>, bytes: &[u8]) {
        if kind == Kind::Data {
            self.shared.received_bytes.add_len(bytes.len());
        }
        let arrival = Arrival { kind, at, bytes: Arc::from(bytes) };
        for dropped in self.queue.give(arrival, bytes.len().saturating_add(OVERHEAD)) {
            // A dropped event counts as one byte, so that the break is told.
            let lost = u64::try_from(dropped.bytes.len()).unwrap_or(u64::MAX).max(1);
            self.lost.fetch_add(lost, Ordering::Relaxed);
            self.shared.lost_bytes.add(lost);
        }
    }
}

/// See the module.
pub(crate) struct Scribe {
    pub(crate) name: String,
    pub(crate) journal: Journal,
    pub(crate) intake: Intake,
    pub(crate) feed: Arc<Handover<Fed>>,
    pub(crate) keep: Duration,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) sequence: u64,
}

impl Scribe {
    pub(crate) fn run(mut self) {
        let mut pruned = Instant::now();
        loop {
            match self.intake.queue.take(PRUNE_INTERVAL) {
                Taken::Item(arrival) => {
                    let lost = self.intake.lost.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        let bytes = Arc::from(lost.to_string().into_bytes());
                        self.write(Arrival { kind: Kind::Lost, at: arrival.at, bytes });
                    }
                    self.write(arrival);
                }
                Taken::Nothing => {}
                Taken::Closed => break,
            }
            if pruned.elapsed() >= PRUNE_INTERVAL {
                self.prune(self.keep);
                pruned = Instant::now();
            }
        }
        self.feed.close();
        let _ = self.journal.note_done(self.intake.shared.committed.get());
        if let Err(error) = self.journal.close(Utc::now()) {
            tracing::error!(linac = self.name, %error, "iCom journal could not be closed; the next start will repair it");
        }
    }

    /// Appends until the disk takes it, or a stop comes first.
    fn write(&mut self, arrival: Arrival) {
        let shared = Arc::clone(&self.intake.shared);
        loop {
            match self.journal.append(arrival.kind, arrival.at, &arrival.bytes) {
                Ok(offset) => {
                    if shared.journal.ended() {
                        tracing::info!(linac = self.name, "iCom journal is written again");
                    }
                    return self.feed(arrival, offset);
                }
                Err(error) => {
                    shared.journal_failures.add(1);
                    if shared.journal.began(format_args!("the journal waits, bytes stay in memory: {error}"))
                    {
                        tracing::error!(linac = self.name, %error, hint = error.hint(), "iCom journal waits; bytes stay in memory");
                        // What is archived already makes room first.
                        self.prune(Duration::ZERO);
                    }
                    if self.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn feed(&mut self, arrival: Arrival, offset: u64) {
        let size = arrival.bytes.len().saturating_add(OVERHEAD);
        let sequence = self.sequence;
        self.sequence = sequence.saturating_add(1);
        let fed = Fed { sequence, kind: arrival.kind, at: arrival.at, offset, payload: arrival.bytes };
        // Dropped ones are read from the journal again.
        drop(self.feed.give(fed, size));
    }

    fn prune(&self, keep: Duration) {
        self.intake.shared.fsync_failures.set(self.journal.sync_failures());
        let done = self.intake.shared.committed.get();
        if let Err(error) = self.journal.note_done(done) {
            tracing::warn!(linac = self.name, %error, "the iCom journal's own mark of what is archived stays behind");
        }
        let older_than = SystemTime::now().checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
        if let Err(error) = self.journal.prune(done, older_than) {
            tracing::warn!(linac = self.name, %error, "old iCom journal files stay");
        }
    }
}

/// What a queued item costs besides its bytes.
const OVERHEAD: usize = 96;
const RETRY: Duration = Duration::from_millis(200);
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
