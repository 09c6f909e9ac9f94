//! Walks a data set while it streams by, and keeps the few values that we want.
//!
//! Input: the bytes of one data set in pieces of any size, in a transfer syntax that PS3.5 §10 knows; nothing is trusted.
//! Output: the raw bytes of the wanted elements, and at the end the proof that the data set ended where it should.
//! Memory: constant, whatever the object's size. Unsupported: nothing that PS3.5 allows; pixel data is passed over.
//! No I/O.

use std::collections::BTreeMap;

use dicom_dictionary_std::uids;
use flate2::{Decompress, FlushDecompress, Status as Inflate};

use crate::error::{Error, Result};

/// Longest value that is kept. Justification: the longest wanted one is an Image Type of a few hundred bytes.
const VALUE_MAX: u64 = 16 * 1024;
/// Deepest nesting. Justification: real RT objects stay below 8; a limit keeps hostile ones from growing the stack of frames.
const DEPTH_MAX: usize = 64;
/// Most bytes that a deflated data set may become. Justification: no object of ours is larger; stops a deflate bomb.
const INFLATED_MAX: u64 = 8 << 30;
/// Undefined length. Source: PS3.5 §7.1.1.
const UNDEFINED: u32 = 0xFFFF_FFFF;

const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
const PIXEL_DATA: u32 = 0x7FE0_0010;

/// An element, or an element of the first item of a sequence at the top level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The sequence, 0 at the top level.
    pub parent: u32,
    /// Group and element.
    pub tag: u32,
}

/// How elements are written. Source: PS3.5 §10 and annex A.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syntax {
    explicit_vr: bool,
    big_endian: bool,
    deflated: bool,
}

impl Syntax {
    /// From the transfer syntax UID. Every one but those named here is explicit VR little endian: PS3.5 §A.4.
    pub fn from_uid(uid: &str) -> Self {
        let little = Self { explicit_vr: true, big_endian: false, deflated: false };
        match uid {
            // Papyrus 3 (retired, PS3.6 annex A), and GE's private one, of whose pixel data alone the bytes are swapped (inferred, from
            // what GDCM and dcm4che do).
            uids::IMPLICIT_VR_LITTLE_ENDIAN | "1.2.840.10008.1.20" | "1.2.840.113619.5.2" => {
                Self { explicit_vr: false, ..little }
            }
            "1.2.840.10008.1.2.2" => Self { big_endian: true, ..little },
            // Deflated explicit VR, and JPIP referenced deflate.
            uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
            | "1.2.840.10008.1.2.4.95"
            | "1.2.840.10008.1.2.4.205" => Self { deflated: true, ..little },
            _ => little,
        }
    }

    fn coding(self) -> Coding {
        Coding { explicit_vr: self.explicit_vr, big_endian: self.big_endian }
    }

    /// Whether numbers are big endian.
    pub fn is_big_endian(self) -> bool {
        self.big_endian
    }
}

/// The walker; feed it with [`Walker::push`], close it with [`Walker::finish`].
#[derive(Debug)]
pub struct Walker {
    elements: Elements,
    inflate: Option<Box<Inflater>>,
}

#[derive(Debug)]
struct Inflater {
    state: Decompress,
    out: Vec<u8>,
    done: bool,
    /// Bytes after the end.
    more: usize,
}

impl Walker {
    /// A walker that keeps the elements for which `wanted` is true.
    pub fn new(syntax: Syntax, wanted: fn(Path) -> bool) -> Self {
        let inflate = syntax.deflated.then(|| {
            Box::new(Inflater {
                state: Decompress::new(false),
                out: vec![0; 32 * 1024],
                done: false,
                more: 0,
            })
        });
        Self { elements: Elements::new(syntax, wanted), inflate }
    }

    /// The next bytes of the data set.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset in the (inflated) data set; [`Error::Limit`] on nesting or inflated size.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.inflate {
            None => self.elements.push(bytes),
            Some(inflater) => inflater.push(bytes, &mut self.elements),
        }
    }

    /// How many bytes of the value that has begun are still to come, by its length; 0 between values, and in a deflated data set.
    pub fn ahead(&self) -> u64 {
        match self.elements.state {
            State::Value { remaining, .. } if self.inflate.is_none() => remaining,
            _ => 0,
        }
    }

    /// The kept values, once the pixel data began: what comes after is not kept. Source: PS3.5 §7.1, elements ascend.
    pub fn before_pixel_data(&self) -> Option<&BTreeMap<Path, Vec<u8>>> {
        self.elements.pixel_data.then_some(&self.elements.values)
    }

    /// The kept values, once the data set ended at an element's end.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it ended inside an element, sequence or item.
    pub fn finish(self) -> Result<BTreeMap<Path, Vec<u8>>> {
        if self.inflate.is_some_and(|i| !i.done) {
            return Err(self.elements.malformed("the end of the deflated stream", "a cut stream"));
        }
        self.elements.finish()
    }
}

impl Inflater {
    fn push(&mut self, mut bytes: &[u8], elements: &mut Elements) -> Result<()> {
        while !self.done {
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(bytes, &mut self.out, FlushDecompress::None)
                .map_err(|_| elements.malformed("a deflated data set", "bytes that do not inflate"))?;
            let read = (self.state.total_in() - read) as usize;
            let written = (self.state.total_out() - written) as usize;
            bytes = bytes.get(read..).unwrap_or_default();
            elements.push(self.out.get(..written).unwrap_or_default())?;
            if elements.offset > INFLATED_MAX {
                return Err(Error::Limit {
                    what: "inflated data set",
                    limit: INFLATED_MAX,
                    found: elements.offset,
                });
            }
            self.done = status == Inflate::StreamEnd;
            if !self.done && read == 0 && written == 0 {
                return Ok(());
            }
        }
        // One padding byte may follow the deflated stream: PS3.5 §A.5.
        self.more = self.more.saturating_add(bytes.len());
        if self.more > 1 {
            return Err(elements.malformed("the end of the data set after the deflated stream", "more bytes"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Elements {
    syntax: Syntax,
    wanted: fn(Path) -> bool,
    /// Consumed bytes, all in all.
    offset: u64,
    state: State,
    frames: Vec<Frame>,
    values: BTreeMap<Path, Vec<u8>>,
    /// Whether that of the top level began.
    pixel_data: bool,
}

#[derive(Debug)]
enum State {
    /// Collecting an element's header: tag, VR, length.
    Header { bytes: [u8; 12], filled: usize },
    /// Inside a value.
    Value { path: Option<Path>, remaining: u64 },
}

const NEXT: State = State::Header { bytes: [0; 12], filled: 0 };

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: FrameKind,
    /// Absolute offset of the end; `None` when a delimiter ends it.
    end: Option<u64>,
    tag: u32,
    /// Items seen, to keep the first one's values only.
    items: u32,
    coding: Coding,
}

/// How headers are written.
#[derive(Debug, Clone, Copy)]
struct Coding {
    explicit_vr: bool,
    big_endian: bool,
}

/// What is inside a sequence of unknown VR, whatever is around it: PS3.5 §6.2.2.
const IMPLICIT_LITTLE: Coding = Coding { explicit_vr: false, big_endian: false };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Sequence,
    Item,
    /// Encapsulated pixel data: PS3.5 §A.4.
    Fragments,
}

impl Elements {
    fn new(syntax: Syntax, wanted: fn(Path) -> bool) -> Self {
        let values = BTreeMap::new();
        Self { syntax, wanted, offset: 0, state: NEXT, frames: Vec::new(), values, pixel_data: false }
    }

    fn malformed(&self, expected: &str, found: &str) -> Error {
        Error::Malformed {
            section: "data set",
            offset: Some(self.offset),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Value { path, remaining } => {
                    let take = (*remaining).min(bytes.len() as u64) as usize;
                    let (value, rest) = bytes.split_at(take);
                    if let Some(path) = *path {
                        self.values.entry(path).or_default().extend_from_slice(value);
                    }
                    *remaining -= take as u64;
                    let done = *remaining == 0;
                    self.offset += take as u64;
                    bytes = rest;
                    if done {
                        self.element_done()?;
                    }
                }
                State::Header { bytes: header, filled } => {
                    let coding = self.frames.last().map_or(self.syntax.coding(), |f| f.coding);
                    let need = header_length(header, *filled, coding);
                    let take = (need - *filled).min(bytes.len());
                    let (piece, rest) = bytes.split_at(take);
                    if let Some(slot) = header.get_mut(*filled..*filled + take) {
                        slot.copy_from_slice(piece);
                    }
                    *filled += take;
                    self.offset += take as u64;
                    bytes = rest;
                    // With the VR known, a longer header may be needed.
                    if *filled == header_length(header, *filled, coding) {
                        let header = *header;
                        self.element(Header::read(&header, coding))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A whole header was read.
    fn element(&mut self, header: Header) -> Result<()> {
        self.state = NEXT;
        match self.frames.last().copied() {
            Some(Frame { kind: FrameKind::Sequence, coding, .. }) => self.in_sequence(header, coding),
            Some(Frame { kind: FrameKind::Fragments, .. }) => self.in_fragments(header),
            Some(Frame { kind: FrameKind::Item, end: None, .. }) if header.tag == ITEM_END => {
                self.frames.pop();
                self.element_done()
            }
            _ => self.in_data_set(header),
        }
    }

    fn in_sequence(&mut self, header: Header, coding: Coding) -> Result<()> {
        match header.tag {
            ITEM => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.items = frame.items.saturating_add(1);
                }
                self.enter(FrameKind::Item, header, coding)
            }
            SEQUENCE_END if self.frames.last().is_some_and(|f| f.end.is_none()) => {
                self.frames.pop();
                self.element_done()
            }
            tag => Err(self.malformed("an item or the end of the sequence", &name(tag))),
        }
    }

    fn in_fragments(&mut self, header: Header) -> Result<()> {
        match header.tag {
            ITEM if header.length != UNDEFINED => self.value(None, header.length),
            SEQUENCE_END => {
                self.frames.pop();
                self.element_done()
            }
            tag => Err(self.malformed("a fragment or the end of the pixel data", &name(tag))),
        }
    }

    fn in_data_set(&mut self, header: Header) -> Result<()> {
        if !header.vr_is_legal {
            return Err(self.malformed("a value representation of two capital letters", &name(header.tag)));
        }
        match header.tag >> 16 {
            0x0000 | 0x0002 if self.frames.is_empty() => {
                return Err(
                    self.malformed("a data set without command or file meta elements", &name(header.tag))
                );
            }
            0xFFFE => return Err(self.malformed("an element", &name(header.tag))),
            _ => {}
        }
        self.pixel_data |= self.frames.is_empty() && header.tag == PIXEL_DATA;
        let path = self.path(header.tag);
        let around = self.frames.last().map_or(self.syntax.coding(), |f| f.coding);
        let inside = if header.is_un { IMPLICIT_LITTLE } else { around };
        if header.length == UNDEFINED {
            return match header.tag {
                PIXEL_DATA => self.enter(FrameKind::Fragments, header, around),
                _ => self.enter(FrameKind::Sequence, header, inside),
            };
        }
        let is_parent = self.frames.is_empty() && (self.wanted)(Path { parent: header.tag, tag: 0 });
        if is_parent {
            return self.enter(FrameKind::Sequence, header, inside);
        }
        let wanted = path.filter(|p| (self.wanted)(*p) && u64::from(header.length) <= VALUE_MAX);
        if let Some(path) = wanted {
            self.values.insert(path, Vec::new());
        }
        self.value(wanted, header.length)
    }

    /// Where an element of this tag lies now, if it is a place that can be wanted.
    fn path(&self, tag: u32) -> Option<Path> {
        match self.frames.as_slice() {
            _ if self.pixel_data => None,
            [] => Some(Path { parent: 0, tag }),
            [sequence, _item] if sequence.items == 1 => Some(Path { parent: sequence.tag, tag }),
            _ => None,
        }
    }

    fn value(&mut self, path: Option<Path>, length: u32) -> Result<()> {
        if let Some(end) = self.frames.iter().rev().find_map(|f| f.end)
            && self.offset + u64::from(length) > end
        {
            return Err(self.malformed("a value inside its item", "one that is longer"));
        }
        if length == 0 {
            return self.element_done();
        }
        self.state = State::Value { path, remaining: u64::from(length) };
        Ok(())
    }

    fn enter(&mut self, kind: FrameKind, header: Header, coding: Coding) -> Result<()> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(Error::Limit {
                what: "nesting of sequences",
                limit: DEPTH_MAX as u64,
                found: DEPTH_MAX as u64 + 1,
            });
        }
        let end = (header.length != UNDEFINED).then(|| self.offset + u64::from(header.length));
        if let (Some(end), Some(outer)) = (end, self.frames.iter().rev().find_map(|f| f.end))
            && end > outer
        {
            return Err(self.malformed("a sequence or item inside the one around it", "one that is longer"));
        }
        self.frames.push(Frame { kind, end, tag: header.tag, items: 0, coding });
        self.element_done()
    }

    /// Leaves the frames that end here.
    fn element_done(&mut self) -> Result<()> {
        self.state = NEXT;
        while let Some(end) = self.frames.last().and_then(|f| f.end) {
            match self.offset.cmp(&end) {
                std::cmp::Ordering::Less => break,
                std::cmp::Ordering::Equal => {
                    self.frames.pop();
                }
                std::cmp::Ordering::Greater => {
                    return Err(self.malformed("the end of a sequence or item", "a value across it"));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<Path, Vec<u8>>> {
        match (&self.state, self.frames.is_empty()) {
            (State::Header { filled: 0, .. }, true) => Ok(self.values),
            (State::Header { filled: 0, .. }, false) => {
                Err(self.malformed("the end of a sequence", "the end of the data set"))
            }
            (State::Header { .. }, _) => {
                Err(self.malformed("an element's header", "the end of the data set"))
            }
            (State::Value { remaining, .. }, _) => {
                Err(self.malformed(&format!("{remaining} more bytes of value"), "the end of the data set"))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    tag: u32,
    length: u32,
    is_un: bool,
    vr_is_legal: bool,
}

/// Bytes of this header, as far as the ones that are filled tell. Source: PS3.5 §7.1.2, §7.1.3, §7.5.
fn header_length(bytes: &[u8; 12], filled: usize, coding: Coding) -> usize {
    let Coding { explicit_vr, big_endian } = coding;
    let [g0, g1, _, _, v0, v1, ..] = *bytes;
    let group = if big_endian { u16::from_be_bytes([g0, g1]) } else { u16::from_le_bytes([g0, g1]) };
    if !explicit_vr || filled < 6 || group == 0xFFFE {
        return if explicit_vr && filled < 6 { 6 } else { 8 };
    }
    if is_short_vr([v0, v1]) { 8 } else { 12 }
}

/// Whether the length has two bytes; VRs that are not known here are taken for later additions, which have four.
fn is_short_vr(vr: [u8; 2]) -> bool {
    matches!(
        &vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FL"
            | b"FD"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    )
}

impl Header {
    fn read(bytes: &[u8; 12], coding: Coding) -> Self {
        let Coding { explicit_vr, big_endian } = coding;
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11] = *bytes;
        let word = |a, b| if big_endian { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) };
        let long = |v: [u8; 4]| if big_endian { u32::from_be_bytes(v) } else { u32::from_le_bytes(v) };
        let tag = u32::from(word(b0, b1)) << 16 | u32::from(word(b2, b3));
        let has_vr = explicit_vr && tag >> 16 != 0xFFFE;
        let length = match (has_vr, is_short_vr([b4, b5])) {
            (false, _) => long([b4, b5, b6, b7]),
            (true, true) => u32::from(word(b6, b7)),
            (true, false) => long([b8, b9, b10, b11]),
        };
        let vr_is_legal = !has_vr || (b4.is_ascii_uppercase() && b5.is_ascii_uppercase());
        Self { tag, length, is_un: has_vr && [b4, b5] == *b"UN", vr_is_legal }
    }
}

fn name(tag: u32) -> String {
    format!("({:04X},{:04X})", tag >> 16, tag & 0xFFFF)
}

#[cfg(test)]
pub(super) mod tests;
