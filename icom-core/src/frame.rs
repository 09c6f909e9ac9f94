//! Framing: a stream of bytes, split anyhow, becomes messages.
//!
//! ```text
//! message = preamble(8) date(10) time(8) counter(1) header-rest(0..) record*
//! ```
//!
//! Input: bytes as they came from one connection, or from a file of concatenated messages.
//! Output: [`Frame`]s, verbatim. Trust in the input: none; a frame is bounded by [`MAX_FRAME_LEN`], whatever cannot be
//! framed is skipped and counted. The same bytes give the same frames however they are split.
//! Unsupported: nothing is known of bytes 27 up to the first record; they are kept and not interpreted.
//!
//! There is no trailer, so a message's end shows only when the next one begins. Two things say it earlier: the record
//! walk lands on the length that the first four bytes seem to declare. That field is a guess (`FACTS`: G), so it is
//! believed only after [`PROOFS_NEEDED`] messages in a row in which it equalled the distance to the next start, and
//! no longer once it fails. Where it never proves, frames end at the next start, as in PyMedPhys, and
//! [`Framer::peek`] gives the last one to whoever shows live state.
//!
//! # Source
//! Date, time, counter and the absence of a trailer: inferred from PyMedPhys's patterns, which work on real streams.

use chrono::{NaiveDate, NaiveDateTime};

use crate::item::{Items, RECORD_HEADER_LEN, record_header};

/// Bytes before the date.
pub const PREAMBLE_LEN: usize = 8;
/// Date and time, `YYYY-MM-DDHH:MM:SS`.
pub const DATE_TIME_LEN: usize = 18;
/// Offset of the counter.
pub const COUNTER_AT: usize = PREAMBLE_LEN + DATE_TIME_LEN;
/// Earliest offset of the first record.
pub const RECORDS_FROM: usize = COUNTER_AT + 1;
/// How far past the counter the first record is looked for; the unknown header rest would hold a few fields.
pub const MAX_HEADER_REST: usize = 64;
/// Longest message. An Agility's has 8 kB; eight times that leaves room for each leaf in all three parts.
pub const MAX_FRAME_LEN: usize = 64 * 1024;
/// Messages in a row whose length field must equal the distance to the next start before it is believed.
pub const PROOFS_NEEDED: u8 = 3;

/// What showed that a message is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The next message began.
    NextStart,
    /// The record walk landed on the proven length field.
    DeclaredLength,
    /// The bytes ended, and the record walk with them.
    EndOfBytes,
    /// No next message within [`MAX_FRAME_LEN`]; the frame ends with its last record.
    LastRecord,
}

/// One message, verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it began in the stream, in bytes.
    pub offset: u64,
    /// All its bytes, with whatever stood before the next message.
    pub bytes: Vec<u8>,
    /// Linac's local clock, one second resolution, no zone.
    pub linac_time: NaiveDateTime,
    /// Message counter, modulo 256.
    pub counter: u8,
    /// What showed its end.
    pub ended_by: EndedBy,
    first_record: usize,
    body_len: usize,
}

impl Frame {
    /// The message as far as the grammar reaches.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(..self.body_len).unwrap_or(&self.bytes)
    }

    /// Its records.
    #[must_use]
    pub fn items(&self) -> Items<'_> {
        Items::new(self.body().get(self.first_record..).unwrap_or_default())
    }

    /// Bytes at its end that are no records.
    #[must_use]
    pub fn unparsed_len(&self) -> usize {
        self.bytes.len().saturating_sub(self.body_len)
    }
}

/// A message that is probably whole, for live display only.
#[derive(Debug, Clone, Copy)]
pub struct Peek<'a> {
    /// Linac's local clock.
    pub linac_time: NaiveDateTime,
    /// Message counter, modulo 256.
    pub counter: u8,
    /// Its records.
    pub records: &'a [u8],
}

/// What has been framed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Messages.
    pub frames: u64,
    /// Bytes outside any message.
    pub skipped_bytes: u64,
    /// Bytes within messages that are no records; more than none says that the grammar is not the linac's.
    pub unparsed_bytes: u64,
    /// Bytes of messages that the end of their connection cut.
    pub cut_bytes: u64,
}

/// Turns bytes into [`Frame`]s.
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done with; they go when new ones come, so that a message costs no copy of the rest.
    done: usize,
    offset: u64,
    state: State,
    proofs: u8,
    counts: FrameCounts,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Looking for a start; the buffer's first byte is outside any message.
    Hunting { search: usize },
    /// A message begins with the buffer; its first record is looked for.
    FirstRecord { scan: usize },
    /// Records up to `walk` have been walked.
    Walking { first: usize, walk: usize, last_value: usize },
    /// No record follows `body`; the next start is looked for.
    Ended { first: usize, body: usize, search: usize },
}

impl Default for Framer {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Framer {
    /// Begins at `offset` of the stream.
    #[must_use]
    pub const fn new(offset: u64) -> Self {
        Self {
            buffer: Vec::new(),
            done: 0,
            offset,
            state: State::Hunting { search: 0 },
            proofs: 0,
            counts: FrameCounts { frames: 0, skipped_bytes: 0, unparsed_bytes: 0, cut_bytes: 0 },
        }
    }

    /// Appends bytes; take the messages with [`Framer::next_frame`].
    pub fn push(&mut self, bytes: &[u8]) {
        if self.done > 0 {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What has been framed so far.
    #[must_use]
    pub const fn counts(&self) -> FrameCounts {
        self.counts
    }

    /// Stream offset of the first byte not yet given out in a frame or skipped.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next message whose end is certain.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let step = match self.state {
                State::Hunting { search } => self.hunt(search),
                State::FirstRecord { scan } => self.find_first_record(scan),
                State::Walking { first, walk, last_value } => self.walk(first, walk, last_value),
                State::Ended { first, body, search } => self.find_next_start(first, body, search),
            };
            match step {
                Step::NeedMore => return None,
                Step::Go(state) => self.state = state,
                Step::Emit(frame) => {
                    if let Some(frame) = frame {
                        return Some(frame);
                    }
                }
            }
        }
    }

    /// The message in the buffer, if the record walk ends exactly with the bytes there are. Call it when the line has
    /// been quiet for a while; a later byte may still belong to it, so nothing is to be kept from it.
    #[must_use]
    pub fn peek(&self) -> Option<Peek<'_>> {
        let State::Walking { first, walk, .. } = self.state else { return None };
        if walk != self.bytes().len() {
            return None;
        }
        Some(Peek {
            linac_time: date_time(self.bytes().get(PREAMBLE_LEN..)?)?,
            counter: *self.bytes().get(COUNTER_AT)?,
            records: self.bytes().get(first..walk)?,
        })
    }

    /// Ends the bytes of this connection, after `next_frame` gave all it could. Gives the last message if it is whole; what is
    /// cut is counted. The framer then begins anew.
    pub fn finish(&mut self) -> Option<Frame> {
        let whole = match self.state {
            State::Walking { first, walk, .. } if walk == self.bytes().len() => Some((first, walk)),
            State::Ended { first, body, .. } => Some((first, body)),
            _ => None,
        };
        let believed = |end: usize| !self.trusts_length() || self.declared_len() == Some(end);
        let in_message = !matches!(self.state, State::Hunting { .. });
        let frame = match whole {
            Some((first, body)) if believed(body) => self.emit(first, body, body, EndedBy::EndOfBytes),
            _ => None,
        };
        let rest = len_u64(self.bytes().len());
        if frame.is_none() && in_message {
            self.counts.cut_bytes = self.counts.cut_bytes.saturating_add(rest);
        } else {
            self.counts.skipped_bytes = self.counts.skipped_bytes.saturating_add(rest);
        }
        self.offset = self.offset.saturating_add(rest);
        self.buffer.clear();
        self.done = 0;
        self.state = State::Hunting { search: 0 };
        frame
    }

    /// Goes on at another place of the stream, after [`Framer::finish`], when bytes between are lost.
    pub const fn resume_at(&mut self, offset: u64) {
        self.offset = offset;
    }

    fn hunt(&mut self, search: usize) -> Step {
        let mut from = search;
        while let Some(found) = find_date_time(self.bytes(), from) {
            if let Some(start) = found.checked_sub(PREAMBLE_LEN) {
                self.skip(start);
                return Step::Go(State::FirstRecord { scan: RECORDS_FROM });
            }
            from = found.saturating_add(1);
        }
        // A start may still lie in what an unfinished date and its preamble can occupy.
        let keep = PREAMBLE_LEN + DATE_TIME_LEN - 1;
        self.skip(self.bytes().len().saturating_sub(keep));
        self.state = State::Hunting { search: 0 };
        Step::NeedMore
    }

    fn find_first_record(&self, scan: usize) -> Step {
        for at in scan..=RECORDS_FROM + MAX_HEADER_REST {
            let Some(rest) = self.bytes().get(at..).filter(|rest| rest.len() >= RECORD_HEADER_LEN) else {
                return if at == scan { Step::NeedMore } else { Step::Go(State::FirstRecord { scan: at }) };
            };
            if record_header(rest).is_some() {
                let headers = self.bytes().get(..at).unwrap_or_default();
                return match find_date_time(headers, COUNTER_AT) {
                    // A message without records, and this record is the next one's.
                    Some(_) => Step::Go(self.without_records()),
                    None => Step::Go(State::Walking { first: at, walk: at, last_value: at }),
                };
            }
        }
        Step::Go(self.without_records())
    }

    const fn without_records(&self) -> State {
        State::Ended { first: RECORDS_FROM, body: RECORDS_FROM, search: COUNTER_AT }
    }

    fn walk(&mut self, first: usize, mut walk: usize, mut last_value: usize) -> Step {
        let declared = self.declared_len().filter(|_| self.trusts_length());
        loop {
            if declared == Some(walk) {
                return Step::Emit(self.emit(first, walk, walk, EndedBy::DeclaredLength));
            }
            self.state = State::Walking { first, walk, last_value };
            let Some(rest) = self.bytes().get(walk..).filter(|rest| rest.len() >= RECORD_HEADER_LEN) else {
                return Step::NeedMore;
            };
            let Some(header) = record_header(rest) else {
                return Step::Go(State::Ended { first, body: walk, search: last_value });
            };
            let value = walk.saturating_add(RECORD_HEADER_LEN);
            let end = value.saturating_add(header.value_len);
            let there = self.bytes().get(value..end.min(self.bytes().len())).unwrap_or_default();
            // No item holds a date and a time without a separator: such a length is damaged and leads into the next message.
            if end > MAX_FRAME_LEN || find_date_time(there, 0).is_some() {
                return Step::Go(State::Ended { first, body: walk, search: walk });
            }
            if end > self.bytes().len() {
                return Step::NeedMore;
            }
            last_value = value;
            walk = end;
        }
    }

    fn find_next_start(&mut self, first: usize, body: usize, search: usize) -> Step {
        let window = self.bytes().get(..self.bytes().len().min(MAX_FRAME_LEN)).unwrap_or_default();
        let earliest = RECORDS_FROM + PREAMBLE_LEN;
        if let Some(found) = find_date_time(window, search.max(earliest)) {
            let end = found.saturating_sub(PREAMBLE_LEN);
            self.proofs = if self.declared_len() == Some(end) { self.proofs.saturating_add(1) } else { 0 };
            let frame = self.emit(first, body.min(end), end, EndedBy::NextStart);
            self.state = State::FirstRecord { scan: RECORDS_FROM };
            return Step::Emit(frame);
        }
        if self.bytes().len() >= MAX_FRAME_LEN {
            self.proofs = 0;
            return Step::Emit(self.emit(first, body, body, EndedBy::LastRecord));
        }
        let search = search.max(self.bytes().len().saturating_sub(DATE_TIME_LEN - 1));
        self.state = State::Ended { first, body, search };
        Step::NeedMore
    }

    /// Takes `end` bytes off as a frame and hunts on.
    fn emit(&mut self, first: usize, body: usize, end: usize, ended_by: EndedBy) -> Option<Frame> {
        let bytes = self.bytes().get(..end).unwrap_or(self.bytes()).to_vec();
        self.done = self.done.saturating_add(bytes.len());
        let offset = self.offset;
        self.offset = offset.saturating_add(len_u64(bytes.len()));
        self.state = State::Hunting { search: 0 };
        let frame = Frame {
            offset,
            linac_time: date_time(bytes.get(PREAMBLE_LEN..)?)?,
            counter: *bytes.get(COUNTER_AT)?,
            ended_by,
            first_record: first,
            body_len: body,
            bytes,
        };
        self.counts.frames = self.counts.frames.saturating_add(1);
        self.counts.unparsed_bytes = self.counts.unparsed_bytes.saturating_add(len_u64(frame.unparsed_len()));
        Some(frame)
    }

    /// What is not done with.
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.done..).unwrap_or_default()
    }

    fn skip(&mut self, count: usize) {
        if count > 0 {
            self.proofs = 0;
        }
        self.done = self.done.saturating_add(count).min(self.buffer.len());
        self.counts.skipped_bytes = self.counts.skipped_bytes.saturating_add(len_u64(count));
        self.offset = self.offset.saturating_add(len_u64(count));
    }

    const fn trusts_length(&self) -> bool {
        self.proofs >= PROOFS_NEEDED
    }

    fn declared_len(&self) -> Option<usize> {
        let (bytes, _) = self.bytes().split_first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    }
}

enum Step {
    NeedMore,
    Go(State),
    Emit(Option<Frame>),
}

const PIECE_LEN: usize = 16 * 1024;

/// Cuts a whole file of concatenated messages.
#[must_use]
pub fn frames_of(bytes: &[u8]) -> (Vec<Frame>, FrameCounts) {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    // In pieces as a socket gives them, so that the buffer stays in the cache.
    for piece in bytes.chunks(PIECE_LEN) {
        framer.push(piece);
        frames.extend(std::iter::from_fn(|| framer.next_frame()));
    }
    frames.extend(framer.finish());
    (frames, framer.counts())
}

/// First date and time at or after `from`.
fn find_date_time(bytes: &[u8], from: usize) -> Option<usize> {
    let window = bytes.get(from..)?;
    window
        .windows(DATE_TIME_LEN)
        .position(|at| {
            matches!(at, [_, _, _, _, b'-', _, _, b'-', _, _, _, _, b':', _, _, b':', _, _])
                && date_time(at).is_some()
        })
        .and_then(|found| found.checked_add(from))
}

/// Reads `YYYY-MM-DDHH:MM:SS`.
fn date_time(bytes: &[u8]) -> Option<NaiveDateTime> {
    let number = |from: usize, len: usize| -> Option<u32> {
        let digits = bytes.get(from..from.checked_add(len)?)?;
        digits
            .iter()
            .try_fold(0_u32, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    let year = i32::try_from(number(0, 4)?).ok()?;
    NaiveDate::from_ymd_opt(year, number(5, 2)?, number(8, 2)?)?.and_hms_opt(
        number(10, 2)?,
        number(13, 2)?,
        number(16, 2)?,
    )
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::{Message, time};

    fn message(n: usize, length_field: bool, rest: &[u8]) -> Vec<u8> {
        Message {
            linac_time: time(n as i64 / 4),
            counter: (n % 256) as u8,
            meterset_mu: Some(n as f64 / 10.0),
            length_field,
            header_rest: rest.to_vec(),
            ..Message::example()
        }
        .encode()
    }

    fn frames_split(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, FrameCounts) {
        let mut framer = Framer::default();
        let mut frames = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let cut = cut.clamp(from, stream.len());
            framer.push(&stream[from..cut]);
            frames.extend(std::iter::from_fn(|| framer.next_frame()));
            from = cut;
        }
        frames.extend(framer.finish());
        (frames, framer.counts())
    }

    #[test]
    fn every_message_comes_out_verbatim_with_and_without_a_length_field() {
        for length_field in [true, false] {
            for rest in [&b""[..], b"\0", b"\x0a\x0b\x05\0\0\0"] {
                let sent: Vec<_> = (0..300).map(|n| message(n, length_field, rest)).collect();
                let (frames, counts) = frames_split(&sent.concat(), &[]);
                assert_eq!(frames.iter().map(|f| f.bytes.clone()).collect::<Vec<_>>(), sent);
                assert_eq!(counts, FrameCounts { frames: 300, ..FrameCounts::default() });
                assert!(frames.iter().all(|frame| frame.items().count() > 480 && frame.unparsed_len() == 0));
            }
        }
    }

    #[test]
    fn a_proven_length_ends_a_message_without_waiting_for_the_next() {
        let mut framer = Framer::default();
        let mut ended = Vec::new();
        for n in 0..6 {
            framer.push(&message(n, true, b"\0"));
            ended.extend(std::iter::from_fn(|| framer.next_frame()).map(|frame| frame.ended_by));
        }
        use EndedBy::{DeclaredLength, NextStart};
        assert_eq!(ended, [NextStart, NextStart, NextStart, DeclaredLength, DeclaredLength, DeclaredLength]);
    }

    #[test]
    fn a_length_that_does_not_prove_is_never_believed() {
        let mut framer = Framer::default();
        for n in 0..20 {
            let mut bytes = message(n, false, b"\0");
            bytes[0] = 60;
            framer.push(&bytes);
            assert!(
                std::iter::from_fn(|| framer.next_frame()).all(|frame| frame.ended_by == EndedBy::NextStart)
            );
        }
        assert_eq!(framer.counts().frames, 19);
        assert_eq!(framer.peek().unwrap().counter, 19);
    }

    #[test]
    fn garbage_between_messages_is_counted_and_costs_no_message() {
        let sent: Vec<_> = (0..10).map(|n| message(n, true, b"\0")).collect();
        let mut stream = b"garbage".to_vec();
        for message in &sent {
            stream.extend_from_slice(message);
            stream.extend_from_slice(&[0xFF; 13]);
        }
        let (frames, counts) = frames_split(&stream, &[]);
        assert_eq!(frames.iter().map(|f| f.body().to_vec()).collect::<Vec<_>>(), sent);
        assert_eq!(counts.skipped_bytes + counts.unparsed_bytes, 7 + 10 * 13);
    }

    #[test]
    fn a_damaged_length_does_not_swallow_the_next_message() {
        let first = message(0, false, b"\0");
        let second = message(1, false, b"\0");
        let mut stream = first.clone();
        let at = stream.len() - 8;
        stream[at] = 200; // the last record's length, which is 6
        stream.extend_from_slice(&second);
        stream.extend_from_slice(&message(2, false, b"\0"));
        let (frames, _) = frames_split(&stream, &[]);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1].bytes, second);
    }

    #[test]
    fn a_cut_message_is_counted_and_not_given_out() {
        let mut framer = Framer::default();
        for n in 0..5 {
            framer.push(&message(n, true, b"\0"));
        }
        let cut = message(5, true, b"\0");
        framer.push(&cut[..cut.len() / 2]);
        assert_eq!(std::iter::from_fn(|| framer.next_frame()).count(), 5);
        assert_eq!(framer.finish(), None);
        assert_eq!(framer.counts().cut_bytes, cut.len() as u64 / 2);
        framer.push(&cut);
        assert_eq!(framer.next_frame().unwrap().bytes, cut);
    }

    #[test]
    fn endless_bytes_without_a_start_do_not_grow_memory() {
        let mut framer = Framer::default();
        framer.push(&message(0, false, b"\0"));
        for _ in 0..100 {
            framer.push(&[0xFF; 64 * 1024]);
            while framer.next_frame().is_some() {}
            assert!(framer.buffer.len() <= MAX_FRAME_LEN + 64 * 1024);
        }
        assert_eq!(framer.counts().frames, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_of_the_same_bytes_gives_the_same_frames(
            pieces in prop::collection::vec((any::<bool>(), 0usize..40, any::<bool>(), 0usize..9000), 1..12),
            cuts in prop::collection::vec(0usize..60_000, 0..30),
        ) {
            let mut stream = Vec::new();
            for (n, (length_field, garbage, cut, keep)) in pieces.into_iter().enumerate() {
                let bytes = message(n, length_field, &vec![3; garbage % 5]);
                stream.extend_from_slice(if cut { &bytes[..keep.min(bytes.len())] } else { &bytes });
                stream.extend(std::iter::repeat_n(b'0', garbage / 10));
            }
            let mut cuts = cuts;
            cuts.sort_unstable();
            let together = frames_split(&stream, &[]);
            prop_assert_eq!(&frames_split(&stream, &cuts), &together);
        }

        #[test]
        fn any_bytes_are_accounted_for(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0usize..2000) {
            let mut stream = message(0, true, b"");
            stream.splice(at.min(stream.len()).., bytes);
            let (frames, counts) = frames_split(&stream, &[]);
            let framed: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
            prop_assert_eq!(framed as u64 + counts.skipped_bytes + counts.cut_bytes, stream.len() as u64);
        }
    }

    #[test]
    fn byte_by_byte_gives_the_same_frames() {
        let stream: Vec<u8> = (0..8).flat_map(|n| message(n, n > 2, b"\0\x01")).collect();
        let cuts: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(frames_split(&stream, &cuts), frames_split(&stream, &[]));
    }
}
