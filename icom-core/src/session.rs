//! Sessions: which messages belong to one patient's use of the linac, and what was delivered in it.
//!
//! Input: frames with their snapshots in the order received, and what happened to the link. Output: for each frame where it
//! belongs ([`Place`]), and a [`Record`] when a session ends. Pure: times are arguments. Trust: none in order or content;
//! gaps and repeats of the counter are recorded, never fatal.
//!
//! A session begins with the first message that names a patient and ends with the first that names none or another one,
//! after a long silence, or at a size no treatment reaches. It goes on over a lost link and a restarted service.

mod meterset;
mod record;

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, TimeDelta, Utc};

pub use meterset::MetersetSum;
pub use record::{EndReason, FieldRecord, Gap, Record};

use crate::frame::Frame;
use crate::snapshot::Snapshot;

/// Messages whose bytes are remembered, to know those that are sent again after a reconnect. A linac can send again only what
/// its send buffer held (inferred from TCP, not seen on a linac): this many messages are 2 MB or more, four minutes at 4 Hz.
/// Equal bytes are the same message: they hold a counter that comes round only after 256 messages, and the second.
const REMEMBERED_MESSAGES: usize = 1024;

/// A session's messages, in bytes, after which a new record begins: nine hours at 32 kB/s.
pub const MAX_SESSION_BYTES: u64 = 1 << 30;

/// Gaps whose place is told one by one; beyond it only their number is.
const MAX_GAPS_LISTED: usize = 100;

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// First message of a new session.
    Opens,
    /// The session that is open.
    Continues,
    /// To no session: no patient is open.
    Idle,
    /// Nowhere: the same bytes came before.
    Repeat,
}

/// What a frame did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The session that ended before this frame.
    pub ended: Option<Record>,
    /// Where this frame belongs.
    pub place: Place,
    /// MU delivered since the message before.
    pub increase_mu: f64,
}

/// Sorts frames into sessions.
#[derive(Debug)]
pub struct Sessions {
    silence: TimeDelta,
    open: Option<Open>,
    remembered: Remembered,
    last: Option<Last>,
    link_lost: bool,
    bytes_lost: bool,
}

#[derive(Debug)]
struct Open {
    record: Record,
    meterset: MetersetSum,
    first_meterset_mu: Option<f64>,
}

#[derive(Debug, Clone)]
struct Last {
    counter: u8,
    meterset_mu: Option<f64>,
    field_id: Option<String>,
}

impl Sessions {
    /// `silence`: how long nothing may come before an open session ends.
    #[must_use]
    pub fn new(silence: TimeDelta) -> Self {
        let remembered = Remembered::new();
        Self { silence, open: None, remembered, last: None, link_lost: false, bytes_lost: false }
    }

    /// The open session so far.
    #[must_use]
    pub fn open(&self) -> Option<&Record> {
        self.open.as_ref().map(|open| &open.record)
    }

    /// Takes the next message.
    pub fn frame(&mut self, frame: &Frame, snapshot: &Snapshot, received: DateTime<Utc>) -> Outcome {
        let silent = self.tick(received);
        if !self.remembered.insert(&frame.bytes) {
            if let Some(open) = &mut self.open {
                open.record.repeats += 1;
            }
            return Outcome { ended: silent, place: Place::Repeat, increase_mu: 0.0 };
        }
        let gap = self.gap_before(frame, snapshot);
        let ended = self.end_before(snapshot).or(silent);
        let opens = snapshot.patient_id.is_some() && self.open.is_none();
        if let (true, Some(patient_id)) = (opens, &snapshot.patient_id) {
            // What the display showed before belongs to another use, if nothing is missing between.
            let before = self.last.as_ref().filter(|_| gap.is_none()).and_then(|last| last.meterset_mu);
            self.open = Some(Open::new(frame, snapshot, patient_id.clone(), received, before));
        }
        let increase_mu = match &mut self.open {
            Some(open) => open.add(frame, snapshot, received, gap.clone().filter(|_| !opens)),
            None => self.increase_outside(snapshot),
        };
        self.last = Some(Last {
            counter: frame.counter,
            meterset_mu: snapshot.meterset_mu.or_else(|| self.last.as_ref()?.meterset_mu),
            field_id: snapshot.field_id.clone(),
        });
        (self.link_lost, self.bytes_lost) = (false, false);
        let place = match (opens, &self.open) {
            (true, _) => Place::Opens,
            (false, Some(_)) => Place::Continues,
            (false, None) => Place::Idle,
        };
        Outcome { ended, place, increase_mu }
    }

    /// The link was lost.
    pub fn link_lost(&mut self) {
        self.link_lost = true;
        if let Some(open) = &mut self.open {
            open.record.link_losses += 1;
        }
    }

    /// Bytes were lost here, whatever the next message's counter says: it comes round after 256. Told twice is told once.
    pub fn bytes_lost(&mut self) {
        if !self.bytes_lost {
            self.link_lost();
            self.bytes_lost = true;
        }
    }

    /// The service begins anew while a session may be open.
    pub fn restarted(&mut self) {
        self.link_lost = true;
        if let Some(open) = &mut self.open {
            open.record.restarts += 1;
        }
    }

    /// Ends the open session if nothing came for too long.
    pub fn tick(&mut self, now: DateTime<Utc>) -> Option<Record> {
        let open = self.open.as_ref()?;
        if now.signed_duration_since(open.record.received_to) < self.silence {
            return None;
        }
        self.end(EndReason::Silence)
    }

    /// Ends the open session.
    pub fn end(&mut self, reason: EndReason) -> Option<Record> {
        self.open.take().map(|open| open.end(reason))
    }

    fn end_before(&mut self, snapshot: &Snapshot) -> Option<Record> {
        let record = &self.open.as_ref()?.record;
        let reason = match &snapshot.patient_id {
            None => EndReason::PatientClosed,
            Some(id) if *id != record.patient_id => EndReason::NextPatient,
            Some(_) if other_name(record.patient_name.as_ref(), snapshot.patient_name.as_ref()) => {
                EndReason::NextPatient
            }
            Some(_) if record.bytes >= MAX_SESSION_BYTES => EndReason::Size,
            Some(_) => return None,
        };
        self.end(reason)
    }

    fn gap_before(&mut self, frame: &Frame, snapshot: &Snapshot) -> Option<Gap> {
        let last = self.last.as_ref()?;
        let is_repeated = last.counter == frame.counter && !self.bytes_lost;
        if is_repeated && let Some(open) = &mut self.open {
            open.record.counter_repeats += 1;
        }
        let missing = frame.counter.wrapping_sub(last.counter).wrapping_sub(1);
        // A repeated counter would count as 255 missing; it is told apart above.
        ((missing != 0 || self.bytes_lost) && !is_repeated).then(|| {
            if let Some(open) = &mut self.open {
                let restarted =
                    matches!((last.meterset_mu, snapshot.meterset_mu), (Some(b), Some(a)) if a < b);
                open.record.mu_uncertain |= restarted || last.field_id != snapshot.field_id;
            }
            Gap { linac_time: frame.linac_time, missing, link_lost: self.link_lost }
        })
    }

    /// Beam may be on without a patient (service mode); nothing is recorded, but a planned stop waits for its end.
    fn increase_outside(&self, snapshot: &Snapshot) -> f64 {
        match (self.last.as_ref().and_then(|last| last.meterset_mu), snapshot.meterset_mu) {
            (Some(before), Some(now)) => (now - before).max(0.0),
            _ => 0.0,
        }
    }
}

impl Open {
    fn new(
        frame: &Frame,
        snapshot: &Snapshot,
        patient_id: String,
        received: DateTime<Utc>,
        before: Option<f64>,
    ) -> Self {
        let record = Record {
            machine_id: None,
            patient_id,
            patient_name: None,
            start: frame.linac_time,
            end: frame.linac_time,
            received_from: received,
            received_to: received,
            mu: 0.0,
            mu_before_first_message: 0.0,
            mu_uncertain: false,
            messages: 0,
            bytes: 0,
            gaps: 0,
            gap_list: Vec::new(),
            repeats: 0,
            counter_repeats: 0,
            link_losses: 0,
            restarts: 0,
            unparsed_bytes: 0,
            pymedphys_readable: true,
            fields: Vec::new(),
            ended_by: EndReason::PatientClosed,
            stream_start: frame.offset,
            stream_end: frame.offset,
        };
        let first_meterset_mu = snapshot.meterset_mu.filter(|_| before.is_none());
        Self { record, meterset: MetersetSum::after(before), first_meterset_mu }
    }

    fn add(&mut self, frame: &Frame, snapshot: &Snapshot, received: DateTime<Utc>, gap: Option<Gap>) -> f64 {
        let increase_mu = snapshot.meterset_mu.map_or(0.0, |mu| self.meterset.add(mu));
        let record = &mut self.record;
        if let (Some(first), true) = (self.first_meterset_mu, increase_mu > 0.0) {
            // The first increase after an unknown beginning holds the first reading, unless the field restarted.
            let kept = increase_mu >= first && snapshot.meterset_mu >= Some(first);
            record.mu_before_first_message = if kept { first } else { 0.0 };
            self.first_meterset_mu = None;
        }
        record.end = frame.linac_time;
        record.received_to = received;
        record.mu = rounded(self.meterset.total_mu());
        record.messages += 1;
        record.bytes = record.bytes.saturating_add(len(frame.bytes.len()));
        record.unparsed_bytes = record.unparsed_bytes.saturating_add(len(frame.unparsed_len()));
        record.stream_end = frame.offset.saturating_add(len(frame.bytes.len()));
        record.pymedphys_readable &= snapshot.has_delivery();
        fill(&mut record.machine_id, snapshot.machine_id.as_ref());
        fill(&mut record.patient_name, snapshot.patient_name.as_ref());
        if let Some(gap) = gap {
            record.gaps += 1;
            if record.gap_list.len() < MAX_GAPS_LISTED {
                record.gap_list.push(gap);
            }
        }
        self.add_to_field(frame, snapshot, increase_mu);
        increase_mu
    }

    fn add_to_field(&mut self, frame: &Frame, snapshot: &Snapshot, increase_mu: f64) {
        let field_id = snapshot.field_id.as_deref().unwrap_or_default();
        let fields = &mut self.record.fields;
        if fields.last().is_none_or(|field| field.field_id != field_id) {
            fields.push(FieldRecord {
                field_id: field_id.to_owned(),
                rx_site: None,
                energy: None,
                start: frame.linac_time,
                end: frame.linac_time,
                mu: 0.0,
            });
        }
        if let Some(field) = fields.last_mut() {
            field.end = frame.linac_time;
            field.mu = rounded(field.mu + increase_mu);
            fill(&mut field.rx_site, snapshot.rx_site.as_ref());
            fill(&mut field.energy, snapshot.energy.as_ref());
        }
    }

    fn end(self, reason: EndReason) -> Record {
        Record { ended_by: reason, ..self.record }
    }
}

/// Two names that are both there and differ are two patients, whatever their ID says.
fn other_name(record: Option<&String>, message: Option<&String>) -> bool {
    matches!((record, message), (Some(record), Some(message)) if record != message)
}

/// To 1e-6 MU: sums of differences else end in noise.
fn rounded(mu: f64) -> f64 {
    (mu * 1e6).round() / 1e6
}

fn fill(place: &mut Option<String>, value: Option<&String>) {
    if place.is_none() {
        *place = value.cloned();
    }
}

fn len(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Hashes of the last messages; takes no more memory once made.
#[derive(Debug)]
struct Remembered {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Remembered {
    fn new() -> Self {
        let most = REMEMBERED_MESSAGES + 1;
        Self { order: VecDeque::with_capacity(most), known: HashSet::with_capacity(most) }
    }

    /// False if the same bytes are known.
    fn insert(&mut self, bytes: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        if !self.known.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > REMEMBERED_MESSAGES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Message, time};
    use crate::frame::frames_of;

    struct Run {
        sessions: Sessions,
        counter: u8,
        records: Vec<Record>,
        places: Vec<Place>,
    }

    impl Run {
        fn new() -> Self {
            let sessions = Sessions::new(TimeDelta::minutes(15));
            Self { sessions, counter: 0, records: Vec::new(), places: Vec::new() }
        }

        fn send(&mut self, patient: Option<(&str, &str)>, field: &str, mu: f64) -> &mut Self {
            self.counter = self.counter.wrapping_add(1);
            let message = Message {
                counter: self.counter,
                linac_time: time(self.places.len() as i64),
                patient: patient.map(|(id, name)| (id.into(), name.into())),
                field_id: field.into(),
                meterset_mu: Some(mu),
                ..Message::example()
            };
            let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(self.places.len() as i64);
            self.send_bytes(&message.encode(), at)
        }

        fn send_bytes(&mut self, bytes: &[u8], at: DateTime<Utc>) -> &mut Self {
            let (frames, _) = frames_of(bytes);
            let snapshot = Snapshot::read(frames[0].linac_time, frames[0].counter, frames[0].items());
            let outcome = self.sessions.frame(&frames[0], &snapshot, at);
            self.records.extend(outcome.ended);
            self.places.push(outcome.place);
            self
        }
    }

    const A: Option<(&str, &str)> = Some(("A1", "ALPHA, ANN"));
    const B: Option<(&str, &str)> = Some(("B2", "BETA, BOB"));

    #[test]
    fn a_session_lasts_from_the_first_to_the_last_message_of_its_patient() {
        let mut run = Run::new();
        run.send(None, "", 0.0).send(A, "1", 0.0).send(A, "1", 60.0).send(A, "2", 0.0).send(A, "2", 40.0);
        run.send(None, "", 40.0);
        let record = &run.records[0];
        assert_eq!((record.messages, record.mu, record.ended_by), (4, 100.0, EndReason::PatientClosed));
        assert_eq!((record.start, record.end), (time(1), time(4)));
        let fields: Vec<_> = record.fields.iter().map(|f| (f.field_id.as_str(), f.mu)).collect();
        assert_eq!(fields, [("1", 60.0), ("2", 40.0)]);
        assert_eq!(run.places.first(), Some(&Place::Idle));
        assert_eq!(run.places.last(), Some(&Place::Idle));
    }

    #[test]
    fn another_patient_without_an_idle_message_begins_a_new_session() {
        let mut run = Run::new();
        run.send(A, "1", 0.0).send(A, "1", 50.0).send(B, "1", 50.0).send(B, "1", 0.0).send(B, "1", 30.0);
        run.send(None, "", 30.0);
        let told: Vec<_> = run.records.iter().map(|r| (r.patient_id.as_str(), r.mu, r.ended_by)).collect();
        assert_eq!(told, [("A1", 50.0, EndReason::NextPatient), ("B2", 30.0, EndReason::PatientClosed)]);
    }

    #[test]
    fn a_record_that_begins_in_mid_beam_keeps_its_first_mu() {
        let mut run = Run::new();
        run.send(A, "1", 98.0).send(A, "1", 120.0).send(A, "1", 200.0).send(None, "", 200.0);
        assert_eq!(run.records[0].mu, 200.0);
        assert_eq!(run.records[0].mu_before_first_message, 98.0);
    }

    #[test]
    fn the_display_of_a_finished_beam_is_nobodys_dose() {
        let mut fresh = Run::new();
        fresh.send(A, "1", 98.0).send(A, "1", 98.0).send(A, "1", 0.0).send(A, "1", 10.0).send(None, "", 0.0);
        assert_eq!(fresh.records[0].mu, 10.0);
        assert_eq!(fresh.records[0].mu_before_first_message, 0.0);
        let mut known = Run::new();
        known.send(None, "", 98.0).send(A, "1", 98.0).send(A, "1", 99.0).send(None, "", 0.0);
        assert_eq!(known.records[0].mu, 1.0);
    }

    #[test]
    fn gaps_and_repeats_are_recorded_and_not_fatal() {
        let mut run = Run::new();
        run.send(A, "1", 0.0).send(A, "1", 10.0);
        run.counter = run.counter.wrapping_add(3);
        run.send(A, "1", 20.0);
        run.counter = run.counter.wrapping_sub(1);
        run.send(A, "1", 21.0);
        run.send(None, "", 21.0);
        let record = &run.records[0];
        assert_eq!((record.gaps, record.gap_list[0].missing, record.counter_repeats), (1, 3, 1));
        assert_eq!((record.messages, record.mu, record.mu_uncertain), (4, 21.0, false));
    }

    #[test]
    fn lost_bytes_are_a_gap_also_after_whole_rounds_of_the_counter() {
        for (rounds, missing) in [(256_u16, 0), (255, 255)] {
            let mut run = Run::new();
            run.send(A, "1", 0.0).send(A, "1", 60.0);
            (0..2).for_each(|_| run.sessions.bytes_lost());
            run.counter = run.counter.wrapping_add(rounds as u8);
            run.send(A, "2", 5.0).send(A, "2", 6.0).send(None, "", 6.0);
            let record = &run.records[0];
            assert_eq!((record.gaps, record.gap_list[0].missing, record.counter_repeats), (1, missing, 0));
            assert_eq!((record.link_losses, record.mu_uncertain), (1, true));
        }
    }

    #[test]
    fn a_message_sent_twice_is_kept_once() {
        let mut run = Run::new();
        let bytes = Message::example().encode();
        run.send_bytes(&bytes, DateTime::UNIX_EPOCH).send_bytes(&bytes, DateTime::UNIX_EPOCH);
        assert_eq!(run.places, [Place::Opens, Place::Repeat]);
        assert_eq!(run.sessions.open().unwrap().repeats, 1);
    }

    #[test]
    fn counter_wrap_is_no_gap() {
        let mut run = Run::new();
        for n in 0..600 {
            run.send(A, "1", f64::from(n));
        }
        assert_eq!(run.sessions.open().unwrap().gaps, 0);
    }

    #[test]
    fn a_session_goes_on_over_a_lost_link_and_ends_after_silence() {
        let mut run = Run::new();
        run.send(A, "1", 0.0);
        run.sessions.link_lost();
        run.counter = run.counter.wrapping_add(40);
        run.send(A, "1", 80.0);
        let open = run.sessions.open().unwrap();
        assert_eq!((open.link_losses, open.gap_list[0].link_lost, open.mu), (1, true, 80.0));
        assert_eq!(run.sessions.tick(DateTime::UNIX_EPOCH + TimeDelta::minutes(10)), None);
        let record = run.sessions.tick(DateTime::UNIX_EPOCH + TimeDelta::minutes(16)).unwrap();
        assert_eq!(record.ended_by, EndReason::Silence);
    }
}
