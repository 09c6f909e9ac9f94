//! What the stages of one linac tell each other and the outside: counters, the link, the beam.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::live::{Link, LinkEnd, LinkState};

/// MU counted within this time means beam on. Messages come every 250 ms; a step-and-shoot pause is longer.
const BEAM_MEMORY: TimeDelta = TimeDelta::seconds(2);

/// Something that goes on failing, and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Since when.
    pub since: DateTime<Utc>,
    /// What, in one line without a patient.
    pub what: String,
}

/// Whether something goes on failing.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<Option<Trouble>>);

impl Failing {
    /// It failed; true if it did not fail before.
    pub(crate) fn began(&self, what: impl std::fmt::Display) -> bool {
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = trouble.is_none();
        let since = trouble.as_ref().map_or_else(Utc::now, |trouble| trouble.since);
        *trouble = Some(Trouble { since, what: what.to_string() });
        news
    }

    /// It worked; true if it failed before.
    pub(crate) fn ended(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Since when something is being done; a disk that hangs gives no error.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicI64);

impl Busy {
    pub(crate) fn begin(&self) {
        self.0.store(Utc::now().timestamp_micros(), Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn since(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0.load(Ordering::Relaxed))
            .filter(|at| *at != DateTime::UNIX_EPOCH)
    }
}

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_len(&self, len: usize) {
        self.add(u64::try_from(len).unwrap_or(u64::MAX));
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shared by the stages of one linac.
#[derive(Debug)]
pub(crate) struct Shared {
    link: Mutex<Link>,
    beam_seen_us: AtomicI64,
    last_message_us: AtomicI64,
    pub(crate) journal: Failing,
    pub(crate) spool: Failing,
    pub(crate) received_bytes: Counter,
    pub(crate) messages: Counter,
    pub(crate) repeats: Counter,
    pub(crate) gaps: Counter,
    pub(crate) skipped_bytes: Counter,
    pub(crate) unparsed_bytes: Counter,
    pub(crate) cut_bytes: Counter,
    pub(crate) records: Counter,
    pub(crate) links: Counter,
    pub(crate) lost_bytes: Counter,
    pub(crate) derived_dropped: Counter,
    pub(crate) journal_failures: Counter,
    pub(crate) fsync_failures: Counter,
    pub(crate) spool_failures: Counter,
    pub(crate) pass_through_skipped: Counter,
    pub(crate) pass_through_clients: AtomicU64,
    /// Stream offset up to which the index knows everything to be archived.
    pub(crate) committed: Counter,
}

/// What a linac's listener is doing, for status page and metrics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinacStatus {
    /// The linac's name in the settings.
    pub linac: String,
    /// The link.
    pub link: Link,
    /// When the last message came; `None`: none yet.
    pub last_message: Option<DateTime<Utc>>,
    /// What its journal or its open record waits for.
    pub trouble: Option<Trouble>,
    /// Whether MU was counted within the last two seconds.
    pub beam_on: bool,
    /// Bytes received.
    pub received_bytes: u64,
    /// Messages derived.
    pub messages: u64,
    /// Messages that came again.
    pub repeats: u64,
    /// Places where messages are missing.
    pub gaps: u64,
    /// Bytes outside any message.
    pub skipped_bytes: u64,
    /// Bytes in messages that are no records.
    pub unparsed_bytes: u64,
    /// Bytes of messages cut by a lost link.
    pub cut_bytes: u64,
    /// Records finished.
    pub records: u64,
    /// Links made.
    pub links: u64,
    /// Bytes received and dropped, because the journal's disk took none for too long.
    pub lost_bytes: u64,
    /// Pieces of derived work dropped from memory and read again from the journal.
    pub derived_dropped: u64,
    /// Failed appends to the journal.
    pub journal_failures: u64,
    /// Failed fsyncs of the journal.
    pub fsync_failures: u64,
    /// Failed writes of an open record.
    pub spool_failures: u64,
    /// Messages that pass-through clients were too slow for.
    pub pass_through_skipped: u64,
    /// Clients of the pass-through port.
    pub pass_through_clients: u64,
    /// Bytes that wait for the journal.
    pub waiting_journal_bytes: u64,
    /// Bytes that wait for derivation.
    pub waiting_derived_bytes: u64,
}

impl LinacStatus {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(linac: &str, link: Link) -> Self {
        Self { link, ..Shared::new(link.since).status(linac, 0, 0) }
    }
}

impl Shared {
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        Self {
            link: Mutex::new(Link { state: LinkState::Stopped, since: now, last_end: None }),
            beam_seen_us: AtomicI64::new(i64::MIN),
            last_message_us: AtomicI64::new(i64::MIN),
            journal: Failing::default(),
            spool: Failing::default(),
            received_bytes: Counter::default(),
            messages: Counter::default(),
            repeats: Counter::default(),
            gaps: Counter::default(),
            skipped_bytes: Counter::default(),
            unparsed_bytes: Counter::default(),
            cut_bytes: Counter::default(),
            records: Counter::default(),
            links: Counter::default(),
            lost_bytes: Counter::default(),
            derived_dropped: Counter::default(),
            journal_failures: Counter::default(),
            fsync_failures: Counter::default(),
            spool_failures: Counter::default(),
            pass_through_skipped: Counter::default(),
            pass_through_clients: AtomicU64::new(0),
            committed: Counter::default(),
        }
    }

    pub(crate) fn link(&self) -> Link {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the link's state; true if it is news.
    pub(crate) fn set_link(&self, state: LinkState, end: Option<LinkEnd>, now: DateTime<Utc>) -> bool {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let last_end = end.or(link.last_end);
        let news = link.state != state || link.last_end != last_end;
        if link.state != state {
            link.since = now;
        }
        link.state = state;
        link.last_end = last_end;
        news
    }

    pub(crate) fn message_seen(&self, at: DateTime<Utc>) {
        self.last_message_us.fetch_max(at.timestamp_micros(), Ordering::Relaxed);
    }

    pub(crate) fn beam_seen(&self, at: DateTime<Utc>) {
        self.beam_seen_us.fetch_max(at.timestamp_micros(), Ordering::Relaxed);
    }

    pub(crate) fn beam_on(&self, now: DateTime<Utc>) -> bool {
        DateTime::from_timestamp_micros(self.beam_seen_us.load(Ordering::Relaxed))
            .is_some_and(|seen| now.signed_duration_since(seen) < BEAM_MEMORY)
    }

    pub(crate) fn status(&self, linac: &str, waiting_journal: usize, waiting_derived: usize) -> LinacStatus {
        LinacStatus {
            linac: linac.to_owned(),
            link: self.link(),
            last_message: DateTime::from_timestamp_micros(self.last_message_us.load(Ordering::Relaxed)),
            trouble: self.journal.trouble().or_else(|| self.spool.trouble()),
            beam_on: self.beam_on(Utc::now()),
            received_bytes: self.received_bytes.get(),
            messages: self.messages.get(),
            repeats: self.repeats.get(),
            gaps: self.gaps.get(),
            skipped_bytes: self.skipped_bytes.get(),
            unparsed_bytes: self.unparsed_bytes.get(),
            cut_bytes: self.cut_bytes.get(),
            records: self.records.get(),
            links: self.links.get(),
            lost_bytes: self.lost_bytes.get(),
            derived_dropped: self.derived_dropped.get(),
            journal_failures: self.journal_failures.get(),
            fsync_failures: self.fsync_failures.get(),
            spool_failures: self.spool_failures.get(),
            pass_through_skipped: self.pass_through_skipped.get(),
            pass_through_clients: self.pass_through_clients.load(Ordering::Relaxed),
            waiting_journal_bytes: u64::try_from(waiting_journal).unwrap_or(u64::MAX),
            waiting_derived_bytes: u64::try_from(waiting_derived).unwrap_or(u64::MAX),
        }
    }
}
