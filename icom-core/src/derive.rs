//! Derivation: what one linac's journal entries mean, in order, on a thread of its own.
//!
//! Input: entries from memory, or from the journal itself at the start and wherever memory had to drop some. Output: live state, spools
//! of open records, finished records for the archive, messages for pass-through clients. Waits for the local disk only,
//! and nothing that reads a socket waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::broadcast;

use crate::Result;
use crate::archive::Finished;
use crate::archivist::Job;
use crate::frame::{Frame, FrameCounts, Framer};
use crate::handover::{Handover, Taken};
use crate::journal::{Entry, JournalReader, Kind};
use crate::live::{Live, LiveHandle};
use crate::session::{EndReason, Place, Record, Sessions};
use crate::settings::{LinacSettings, ListenerSettings};
use crate::snapshot::Snapshot;
use crate::spool::Spool;
use crate::status::Shared;

/// A journal entry on its way to derivation.
#[derive(Debug)]
pub(crate) struct Fed {
    /// Counts entries; a jump says that memory had to drop some.
    pub(crate) sequence: u64,
    pub(crate) kind: Kind,
    pub(crate) at: DateTime<Utc>,
    pub(crate) offset: u64,
    pub(crate) payload: Arc<[u8]>,
}

/// Everything derivation needs.
pub(crate) struct Deriver {
    pub(crate) linac: LinacSettings,
    pub(crate) dir: PathBuf,
    pub(crate) journal_dir: PathBuf,
    pub(crate) finish_on_stop: bool,
    pub(crate) pymedphys_live: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) feed: Arc<Handover<Fed>>,
    pub(crate) archive: Arc<Handover<Job>>,
    pub(crate) live: LiveHandle,
    pub(crate) clients: broadcast::Sender<Arc<[u8]>>,
    pub(crate) stopping: Arc<AtomicBool>,
    framer: Framer,
    counted: FrameCounts,
    sessions: Sessions,
    spool: Option<Spool>,
    /// A message that the end of its link may have cut, until the next one tells.
    held: Option<(Frame, DateTime<Utc>)>,
    expected: u64,
    replaying: bool,
    peeked: bool,
    shown: Option<(DateTime<Utc>, Snapshot)>,
    last_cursor: Option<(Instant, u64)>,
}

impl Deriver {
    #[expect(clippy::too_many_arguments, reason = "the stages that derivation stands between")]
    pub(crate) fn new(
        settings: &ListenerSettings,
        linac: LinacSettings,
        cursor: u64,
        shared: Arc<Shared>,
        feed: Arc<Handover<Fed>>,
        archive: Arc<Handover<Job>>,
        live: LiveHandle,
        clients: broadcast::Sender<Arc<[u8]>>,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        Self {
            dir: settings.dir.clone(),
            journal_dir: settings.journal_of(&linac),
            finish_on_stop: settings.finish_on_stop,
            pymedphys_live: settings.pymedphys_live,
            linac,
            shared,
            feed,
            archive,
            live,
            clients,
            stopping,
            framer: Framer::new(cursor),
            counted: FrameCounts::default(),
            sessions: Sessions::new(TimeDelta::minutes(i64::from(settings.record_silence_min))),
            spool: None,
            held: None,
            expected: cursor,
            replaying: true,
            peeked: false,
            shown: None,
            last_cursor: None,
        }
    }

    /// Replays the journal up to `opened_at`, where this run's entries begin, then follows the feed until it closes.
    pub(crate) fn run(mut self, opened_at: u64) {
        if let Err(error) = self.catch_up(opened_at) {
            tracing::error!(linac = self.linac.name, %error, "iCom journal cannot be replayed; its bytes stay where they are");
        }
        self.replaying = false;
        self.show_link();
        let mut next_sequence = 0;
        loop {
            match self.feed.take(self.patience()) {
                Taken::Item(fed) => {
                    if fed.sequence != next_sequence {
                        self.catch_up_dropped(fed.sequence.saturating_sub(next_sequence), fed.offset);
                    }
                    next_sequence = fed.sequence.saturating_add(1);
                    self.entry(fed.kind, fed.at, fed.offset, &fed.payload);
                }
                Taken::Nothing => self.quiet(),
                Taken::Closed => break,
            }
        }
        self.stop();
    }

    /// How long to wait for bytes: a message that looks whole is shown when the line has been quiet for a moment.
    const fn patience(&self) -> Duration {
        if self.peeked { TICK } else { QUIET }
    }

    fn catch_up(&mut self, until: u64) -> Result<()> {
        let mut reader = JournalReader::open(&self.journal_dir, self.expected)?;
        while let Some(Entry { kind, at, offset, payload }) = reader.next_entry()? {
            if offset > until || (kind == Kind::Data && offset >= until) {
                break;
            }
            self.entry(kind, at, offset, &payload);
        }
        Ok(())
    }

    fn catch_up_dropped(&mut self, dropped: u64, until: u64) {
        self.shared.derived_dropped.add(dropped);
        self.replaying = true;
        if let Err(error) = self.catch_up(until) {
            tracing::error!(linac = self.linac.name, %error, "iCom journal cannot be read");
        }
        self.replaying = false;
    }

    fn entry(&mut self, kind: Kind, at: DateTime<Utc>, offset: u64, payload: &[u8]) {
        match kind {
            Kind::Data => self.data(at, offset, payload),
            Kind::Disconnected => {
                self.hold_last(at);
                self.sessions.link_lost();
            }
            Kind::Lost => {
                // No message after a loss is the held one sent again.
                self.hold_last(at);
                self.release_held();
                self.sessions.bytes_lost();
            }
            Kind::OpenedUnclean | Kind::OpenedClean => {
                self.hold_last(at);
                self.sessions.restarted();
            }
            Kind::Connected | Kind::Closed | Kind::Link => {}
        }
        if kind != Kind::Data && !self.replaying {
            self.show_link();
        }
    }

    fn data(&mut self, at: DateTime<Utc>, offset: u64, payload: &[u8]) {
        if offset < self.expected {
            // Read from the journal already, unless a replay begins in the middle of an entry.
            let known = usize::try_from(self.expected - offset).unwrap_or(usize::MAX);
            match payload.get(known..) {
                Some(rest) if !rest.is_empty() => self.data(at, self.expected, rest),
                _ => {}
            }
            return;
        }
        if offset > self.expected {
            self.hold_last(at);
            self.release_held();
            self.sessions.bytes_lost();
            self.framer.resume_at(offset);
        }
        self.expected = offset.saturating_add(u64::try_from(payload.len()).unwrap_or(0));
        self.framer.push(payload);
        while let Some(frame) = self.framer.next_frame() {
            self.frame_after_held(frame, at);
        }
        self.peeked = self.framer.peek().is_none();
        self.count();
        self.commit_cursor();
    }

    /// The link ended: its last message waits for the next one, which may be the same sent again whole.
    fn hold_last(&mut self, at: DateTime<Utc>) {
        let last = self.framer.finish();
        self.count();
        if let Some(frame) = last {
            self.release_held();
            self.held = Some((frame, at));
        }
    }

    fn frame_after_held(&mut self, frame: Frame, at: DateTime<Utc>) {
        match self.held.take() {
            Some((held, _))
                if frame.bytes.starts_with(&held.bytes) && frame.bytes.len() > held.bytes.len() => {}
            Some((held, held_at)) => self.frame(&held, held_at),
            None => {}
        }
        self.frame(&frame, at);
    }

    fn release_held(&mut self) {
        if let Some((held, at)) = self.held.take() {
            self.frame(&held, at);
        }
    }

    fn frame(&mut self, frame: &Frame, at: DateTime<Utc>) {
        self.shared.message_seen(at);
        let snapshot = Snapshot::read(frame.linac_time, frame.counter, frame.items());
        let gaps_before = self.sessions.open().map_or(0, |open| open.gaps);
        let outcome = self.sessions.frame(frame, &snapshot, at);
        if let Some(record) = outcome.ended {
            self.finish(record, frame.offset);
        }
        if outcome.place == Place::Repeat {
            self.shared.repeats.add(1);
            return;
        }
        if outcome.place == Place::Opens {
            self.spool = self.until_done(|dir| Spool::create(dir, frame.offset));
        }
        if outcome.place != Place::Idle
            && let Some(mut spool) = self.spool.take()
        {
            self.until_done(|_| spool.append(&frame.bytes));
            self.spool = Some(spool);
        }
        let gaps = self.sessions.open().map_or(0, |open| open.gaps);
        self.shared.gaps.add(gaps.saturating_sub(gaps_before));
        if outcome.increase_mu > 0.0 {
            self.shared.beam_seen(at);
        }
        self.publish(frame, snapshot, at);
    }

    fn publish(&mut self, frame: &Frame, snapshot: Snapshot, at: DateTime<Utc>) {
        let clients = self.clients.receiver_count();
        if self.replaying {
            self.shared.pass_through_skipped.add_len(clients);
        } else {
            if clients > 0 {
                // No receiver is no fault: clients come and go.
                let _ = self.clients.send(Arc::from(frame.bytes.as_slice()));
            }
            if self.pymedphys_live {
                self.live.ring(&self.dir, &self.linac.host, frame.counter, &frame.bytes);
            }
        }
        self.shown = Some((at, snapshot));
        self.show_link();
    }

    /// Nothing came for a moment: show a message that looks whole, and see to what time brings.
    fn quiet(&mut self) {
        if !self.peeked {
            self.peeked = true;
            if let Some(peek) = self.framer.peek() {
                let snapshot =
                    Snapshot::read(peek.linac_time, peek.counter, crate::item::Items::new(peek.records));
                self.shown = Some((Utc::now(), snapshot));
                self.show_link();
            }
            return;
        }
        let now = Utc::now();
        if let Some(record) = self.sessions.tick(now) {
            let cursor = self.cursor();
            self.finish(record, cursor);
        }
        self.commit_cursor();
    }

    fn show_link(&self) {
        if self.replaying {
            return;
        }
        let (received, snapshot) = self.shown.clone().unzip();
        let live = Live {
            linac: self.linac.name.clone(),
            link: self.shared.link(),
            received,
            beam_on: self.shared.beam_on(Utc::now()),
            snapshot,
        };
        self.live.show(&self.dir, live);
    }

    /// Where a replay would have to begin, no session being open.
    fn cursor(&self) -> u64 {
        self.held.as_ref().map_or_else(|| self.framer.offset(), |(held, _)| held.offset)
    }

    fn commit_cursor(&mut self) {
        let due = self.last_cursor.is_none_or(|(at, _)| at.elapsed() > CURSOR_INTERVAL);
        if self.sessions.open().is_some() || !due || self.replaying {
            return;
        }
        let offset = self.cursor();
        if self.last_cursor.is_none_or(|(_, before)| before != offset) {
            self.archive.give(
                Job::Cursor { linac: self.linac.name.clone(), offset, shared: Arc::clone(&self.shared) },
                1,
            );
        }
        self.last_cursor = Some((Instant::now(), offset));
    }

    fn finish(&mut self, record: Record, cursor: u64) {
        let Some(spool) = self.spool.take() else {
            // Only a stop that a full disk held up leaves none; the next start makes the record from the journal.
            return;
        };
        self.shared.records.add(1);
        tracing::info!(
            linac = self.linac.name,
            messages = record.messages,
            mu = record.mu,
            gaps = record.gaps,
            ended_by = ?record.ended_by,
            "iCom record finished"
        );
        let finished = Finished { linac: self.linac.name.clone(), record, spool: spool.path.clone(), cursor };
        self.archive.give(Job::Store { finished: Box::new(finished), shared: Arc::clone(&self.shared) }, 1);
    }

    fn stop(&mut self) {
        if let Some(frame) = self.framer.finish() {
            self.frame_after_held(frame, Utc::now());
        }
        self.count();
        if self.finish_on_stop {
            self.release_held();
            if let Some(record) = self.sessions.end(EndReason::Stopped) {
                let cursor = self.cursor();
                self.finish(record, cursor);
            }
        }
        self.last_cursor = None;
        if self.held.is_none() {
            self.commit_cursor();
        }
        self.show_link();
    }

    /// Tries until the local disk takes it; `None` only when a stop comes first.
    fn until_done<T>(&self, mut work: impl FnMut(&std::path::Path) -> Result<T>) -> Option<T> {
        loop {
            match work(&self.journal_dir) {
                Ok(value) => {
                    self.shared.spool.ended();
                    return Some(value);
                }
                Err(error) => {
                    self.shared.spool_failures.add(1);
                    if self.shared.spool.began(format_args!("the open record waits: {error}")) {
                        tracing::error!(linac = self.linac.name, %error, "iCom record waits for the disk");
                    }
                    if self.stopping.load(Ordering::Relaxed) {
                        return None;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn count(&mut self) {
        let now = self.framer.counts();
        let before = std::mem::replace(&mut self.counted, now);
        self.shared.messages.add(now.frames.saturating_sub(before.frames));
        self.shared.skipped_bytes.add(now.skipped_bytes.saturating_sub(before.skipped_bytes));
        self.shared.unparsed_bytes.add(now.unparsed_bytes.saturating_sub(before.unparsed_bytes));
        self.shared.cut_bytes.add(now.cut_bytes.saturating_sub(before.cut_bytes));
    }
}

const QUIET: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
const CURSOR_INTERVAL: Duration = Duration::from_secs(60);
