//! The data set of a DICOM file.
//!
//! Input: the bytes of a DICOM file, of one without its preamble or without its file meta group. Output: the data set. Trust:
//! none. dicom-object's own reader allocates what an element claims to hold, calls itself once per nested sequence, and takes
//! the end of the file for the end of every open sequence: 40 kB would cost 3 GB, a deep nest the process, and a cut
//! plan would lose its last control points in silence. So the objects are built here, of dicom-parser's tokens. Not supported:
//! deflated, big-endian and compressed data sets.

use std::io::Read;

use dicom_core::header::{DataElementHeader, Length};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::uids;
use dicom_encoding::TransferSyntax;
use dicom_object::InMemDicomObject;
use dicom_parser::DataSetReader;
use dicom_parser::dataset::{DataToken, read};
use dicom_transfer_syntax_registry::entries::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

use super::{MAGIC, PREAMBLE_BYTES, cannot_decode, malformed};
use crate::{Error, Result};

const FILE_META_GROUP: &[u8] = &[2, 0];
/// Groups with which a bare data set may begin.
const FIRST_GROUPS: [&[u8]; 2] = [&[8, 0], &[4, 0]];
/// Groups of a data set (PS3.5 §7.1): not those of commands and file meta, nor the delimiters'.
const FIRST_TO_LAST_GROUP: std::ops::RangeInclusive<u16> = 0x0004..=0xfffd;
/// Sequences within sequences: an RT Plan has six at most, vendors' private ones not many more.
const MAX_NESTED_SEQUENCES: usize = 32;

/// Reads the data set of a file.
///
/// # Errors
/// [`Error::Malformed`] if it is no DICOM, or ends within an element or an item; [`Error::Unsupported`] for other encodings;
/// [`Error::Limit`] for sequences that are nested too deeply.
pub(super) fn dataset(bytes: &[u8]) -> Result<InMemDicomObject> {
    let starts_with =
        |at: usize, pattern: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(pattern));
    let start = if starts_with(PREAMBLE_BYTES, MAGIC) {
        PREAMBLE_BYTES + MAGIC.len()
    } else if starts_with(0, MAGIC) {
        MAGIC.len()
    } else if starts_with(0, FILE_META_GROUP) || FIRST_GROUPS.iter().any(|group| starts_with(0, group)) {
        0
    } else {
        return Err(Error::malformed("RT Plan", 0, "a DICOM file", "other bytes"));
    };
    let bytes = bytes.get(start..).unwrap_or_default();
    let (syntax, length) =
        file_meta(bytes).ok_or_else(|| malformed("a readable file meta group", "the end of the file"))?;
    let bytes = bytes.get(length..).unwrap_or_default();
    let syntax = match syntax {
        Some(uids::IMPLICIT_VR_LITTLE_ENDIAN) => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        Some(uids::EXPLICIT_VR_LITTLE_ENDIAN) => EXPLICIT_VR_LITTLE_ENDIAN.erased(),
        Some(other) => {
            return Err(Error::unsupported(format!(
                "an RT Plan in transfer syntax {}",
                other.escape_default()
            ))
            .with_hint("export the plan in Implicit or Explicit VR Little Endian"));
        }
        // Nothing says how it is encoded; a VR has two capital letters.
        None if bytes.get(4..6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase)) => {
            EXPLICIT_VR_LITTLE_ENDIAN.erased()
        }
        None => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
    };
    object(&mut Tokens::new(bytes, &syntax)?, 0)
}

/// Transfer syntax and length of a file meta group that need not begin with its length, as pydicom writes it without a
/// preamble. `None` if the bytes end within it.
fn file_meta(bytes: &[u8]) -> Option<(Option<&str>, usize)> {
    let mut at = 0_usize;
    let mut syntax = None;
    while bytes.get(at..at + 2)? == FILE_META_GROUP {
        let element = bytes.get(at + 2..at + 4)?;
        let (header, length) = match bytes.get(at + 4..at + 6)? {
            // VRs with a length of four bytes (PS3.5 §7.1.2).
            b"OB" | b"UN" | b"UT" => (12, u32::from_le_bytes(*bytes.get(at + 8..)?.first_chunk()?) as usize),
            _ => (8, usize::from(u16::from_le_bytes(*bytes.get(at + 6..)?.first_chunk()?))),
        };
        let start = at + header;
        let end = start.checked_add(length)?;
        let value = bytes.get(start..end)?;
        if element == [0x10, 0] {
            syntax = std::str::from_utf8(value).ok().map(|uid| uid.trim_end_matches(['\0', ' ']));
        }
        at = end;
    }
    Some((syntax, at))
}

/// What dicom-parser reads, and how much is left to read.
struct Tokens<'a> {
    reader: DataSetReader<dicom_parser::DynStatefulDecoder<Rest<'a>>>,
    rest: Rest<'a>,
}

/// The bytes that are not read yet; its copies share the place.
#[derive(Clone)]
struct Rest<'a> {
    bytes: &'a [u8],
    read: std::rc::Rc<std::cell::Cell<usize>>,
}

impl Rest<'_> {
    fn left(&self) -> &[u8] {
        self.bytes.get(self.read.get()..).unwrap_or_default()
    }
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.left().read(buffer)?;
        self.read.set(self.read.get().saturating_add(n));
        Ok(n)
    }
}

impl<'a> Tokens<'a> {
    fn new(bytes: &'a [u8], syntax: &TransferSyntax) -> Result<Self> {
        let rest = Rest { bytes, read: std::rc::Rc::default() };
        let reader = DataSetReader::new_with_ts(rest.clone(), syntax).map_err(cannot_decode)?;
        Ok(Self { reader, rest })
    }

    fn next(&mut self) -> Result<Option<DataToken>> {
        self.reader.next().transpose().map_err(|error: read::Error| cannot_decode(error))
    }

    /// The value of an element whose header came last, if the bytes for it are there.
    fn value(&mut self, header: DataElementHeader) -> Result<DataElement<InMemDicomObject>> {
        // Delimiters and items are no elements; written as such they would end what they stand in.
        if !FIRST_TO_LAST_GROUP.contains(&header.tag.group()) {
            return Err(self.malformed("an element of a data set", header.tag.to_string()));
        }
        let left = self.rest.left().len();
        match header.len.get() {
            Some(length) if length as usize <= left => {}
            length => {
                let expected = length.map_or("a length".to_owned(), |length| format!("{length} bytes"));
                return Err(self.malformed(format!("{expected} for {}", header.tag), format!("{left} bytes")));
            }
        }
        match self.next()? {
            Some(DataToken::PrimitiveValue(value)) => {
                Ok(DataElement::new_with_len(header.tag, header.vr, header.len, value))
            }
            _ => Err(self.malformed(format!("a value of {}", header.tag), "none")),
        }
    }

    fn malformed(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed("RT Plan's data set", self.rest.read.get(), expected, found)
    }
}

/// The data set or item that begins here, within `depth` sequences.
fn object(tokens: &mut Tokens<'_>, depth: usize) -> Result<InMemDicomObject> {
    let mut object = InMemDicomObject::new_empty();
    loop {
        match tokens.next()? {
            None if depth == 0 => return Ok(object),
            Some(DataToken::ItemEnd) if depth > 0 => return Ok(object),
            Some(DataToken::ElementHeader(header)) => {
                object.put(tokens.value(header)?);
            }
            Some(DataToken::SequenceStart { tag, .. }) => {
                let items = sequence(tokens, depth + 1)?;
                object.put(DataElement::new(tag, VR::SQ, DataSetSequence::new(items, Length::UNDEFINED)));
            }
            Some(DataToken::PixelSequenceStart) => {
                return Err(Error::unsupported("compressed pixel data in an RT Plan"));
            }
            None => return Err(tokens.malformed("the end of an item", "the end of the file")),
            Some(_) => return Err(tokens.malformed("an element", "an item without a sequence")),
        }
    }
}

fn sequence(tokens: &mut Tokens<'_>, depth: usize) -> Result<Vec<InMemDicomObject>> {
    if depth > MAX_NESTED_SEQUENCES {
        return Err(Error::Limit {
            what: "depth of nested sequences in the RT Plan",
            found: depth as u64,
            limit: MAX_NESTED_SEQUENCES as u64,
        });
    }
    let mut items = Vec::new();
    loop {
        match tokens.next()? {
            Some(DataToken::ItemStart { .. }) => items.push(object(tokens, depth)?),
            Some(DataToken::SequenceEnd) => return Ok(items),
            None => return Err(tokens.malformed("the end of a sequence", "the end of the file")),
            Some(_) => return Err(tokens.malformed("an item of a sequence", "something else")),
        }
    }
}
