//! The header of a record: four strings, the dose, the version, the list of items.
//!
//! Input: the first bytes of a record, foreign and bounded. Output: [`Header`]. Read by lengths, never by pattern: a
//! string is a length in 7-bit groups (low group first) and that many bytes of UTF-8, as .NET's `BinaryWriter` emits
//! them. Seen in real records for lengths below 128; the longer form is inferred.

use std::io::Read;
use std::path::Path;

use chrono::{DateTime, FixedOffset, NaiveDate, Utc};

use crate::error::{Error, Result};
use crate::items::ItemPart;

/// Longest string taken, in bytes. The longest real one has 36; treatment names are typed by people.
pub const MAX_STRING_BYTES: usize = 4096;
/// Most items taken. Real records have 350, Unity's about 390.
pub const MAX_ITEMS: usize = 8192;
/// No header is longer than this: four strings with their lengths, dose, version, item count, items.
pub const MAX_HEADER_BYTES: usize = 4 * (MAX_STRING_BYTES + MAX_LENGTH_GROUPS) + 16 + 4 * MAX_ITEMS;
/// A length is a 32-bit number, thus at most five groups of seven bits.
const MAX_LENGTH_GROUPS: usize = 5;

/// Layout of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// Rows of 16-bit values (Integrity 3; real records).
    V1,
    /// A timestamp, then 16-bit values (probably Unity; layout from PyMedPhys).
    V2,
    /// A timestamp, then 16-bit values (Integrity 4; real records).
    V3,
    /// A timestamp, then 32-bit values (newer Integrity; layout from PyMedPhys).
    V4,
}

impl Version {
    /// The version with this number, if it is known.
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Version::V1,
            2 => Version::V2,
            3 => Version::V3,
            4 => Version::V4,
            _ => return None,
        })
    }

    /// The number in the file.
    pub fn number(self) -> i32 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
            Version::V4 => 4,
        }
    }

    /// Whether each row starts with a timestamp.
    pub fn has_timestamps(self) -> bool {
        self != Version::V1
    }

    /// Bytes before the values of a row.
    pub fn prefix_bytes(self) -> usize {
        if self.has_timestamps() { 8 } else { 0 }
    }

    /// Bytes of one value.
    pub fn value_bytes(self) -> usize {
        if self == Version::V4 { 4 } else { 2 }
    }

    /// Bytes of a row of `n_items` values.
    pub fn row_bytes(self, n_items: usize) -> usize {
        self.value_bytes().saturating_mul(n_items).saturating_add(self.prefix_bytes())
    }
}

/// What the header says. Times are those of the host that wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The date and time as written, such as `17/04/19 21:59:24 Z`; separators depend on the host's culture.
    pub utc_text: String,
    /// End of the record in UTC, resolution 1 s. (In real records the header's time follows the last row by a constant.)
    pub end_utc: DateTime<Utc>,
    /// The site's offset from UTC as written, such as `+10:00`.
    pub utc_offset_text: String,
    /// The site's offset, `None` where the text is none.
    pub utc_offset: Option<FixedOffset>,
    /// Treatment name as written, such as `2-2/DIR SCALP`; empty for a service-mode beam.
    pub field: String,
    /// Machine id, such as `2694`.
    pub machine_id: String,
    /// Total dose as stored, in units of 0.1 MU; see [`Header::total_mu`].
    pub total_dose_tenth_mu: f64,
    /// Layout of the rows.
    pub version: Version,
    /// The columns, in the order of the rows' values.
    pub items: Vec<ItemPart>,
    /// Bytes of the header; the first row begins there.
    pub n_bytes: usize,
    /// Names of the strings that are not UTF-8; they were read as Latin-1, byte by byte, so that nothing is lost.
    pub not_utf8: Vec<&'static str>,
}

impl Header {
    /// Reads a header from the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the section and the offset where the bytes stop being a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { bytes, offset: 0, not_utf8: Vec::new() };
        let utc_text = cursor.string("UTC date-time")?;
        let end_utc = parse_date(&utc_text)?;
        let utc_offset_text = cursor.string("UTC offset")?;
        let field = cursor.string("field name")?;
        let machine_id = cursor.string("machine id")?;
        let total_dose_tenth_mu = f64::from_le_bytes(cursor.array("total dose")?);
        let version_offset = cursor.offset;
        let version_number = i32::from_le_bytes(cursor.array("format version")?);
        let version = Version::from_number(version_number).ok_or_else(|| {
            Error::malformed("format version", version_offset, "1, 2, 3 or 4", version_number.to_string())
        })?;
        let items = cursor.items()?;
        Ok(Header {
            utc_offset: parse_utc_offset(&utc_offset_text),
            utc_text,
            end_utc,
            utc_offset_text,
            field,
            machine_id,
            total_dose_tenth_mu,
            version,
            items,
            n_bytes: cursor.offset,
            not_utf8: cursor.not_utf8,
        })
    }

    /// Reads only the header of the file at `path`: one read of at most [`MAX_HEADER_BYTES`].
    ///
    /// # Errors
    /// As [`Header::parse`], and [`Error::Io`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        Self::read_from(file, path)
    }

    /// Reads only the header from a reader: at most [`MAX_HEADER_BYTES`]. `path` names it in errors.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read_from(reader: impl Read, path: impl AsRef<Path>) -> Result<Self> {
        /// Holds a usual header (1.5 kB) with room to spare; a longer one costs more reads.
        const FIRST_READ_BYTES: usize = 2048;
        let mut reader = reader.take(MAX_HEADER_BYTES as u64);
        let mut first = [0; FIRST_READ_BYTES];
        let n = fill(&mut reader, &mut first).map_err(|e| Error::io(path.as_ref(), e))?;
        let first = first.get(..n).unwrap_or_default();
        match Self::parse(first) {
            Err(Error::Malformed { .. }) if n == FIRST_READ_BYTES => {
                let mut bytes = first.to_vec();
                reader.read_to_end(&mut bytes).map_err(|e| Error::io(path.as_ref(), e))?;
                Self::parse(&bytes)
            }
            result => result,
        }
    }

    /// Total dose in MU over all beams that were run as this record; 0 in service mode, `None` if the file has no number.
    pub fn total_mu(&self) -> Option<f64> {
        /// Whole numbers below this are exact, and so is their division by 10, to the last bit.
        const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;
        let tenths = self.total_dose_tenth_mu;
        if tenths.abs() < MAX_WHOLE && tenths.fract() == 0.0 {
            return Some(tenths / 10.0);
        }
        // The decimal point is moved in the text: 1234.3 gives 123.43, where a division gives 123.42999999999999.
        if tenths.is_finite() { format!("{tenths}e-1").parse().ok() } else { None }
    }

    /// The part of the field before its slash, if it has exactly one, such as `2-2`; else empty.
    ///
    /// A field such as `[ICOM: 7/03/2018 15:16:23] D Abut.` has no label.
    pub fn field_label(&self) -> &str {
        self.split_field().0
    }

    /// The part of the field after its slash, if it has exactly one; else all of it.
    pub fn field_name(&self) -> &str {
        self.split_field().1
    }

    /// End of the record on the site's clock.
    pub fn end_local(&self) -> Option<DateTime<FixedOffset>> {
        self.utc_offset.map(|offset| self.end_utc.with_timezone(&offset))
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.version.row_bytes(self.items.len())
    }

    fn split_field(&self) -> (&str, &str) {
        match self.field.split_once('/') {
            Some((label, name)) if !name.contains('/') => (label, name),
            _ => ("", &self.field),
        }
    }
}

/// Reads until `buffer` is full or the input ends; gives the number of bytes read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A position in foreign bytes that cannot leave them.
struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
    not_utf8: Vec<&'static str>,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n_bytes: usize, section: &'static str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..n_bytes).ok_or_else(|| {
            Error::malformed(
                section,
                self.offset,
                format!("{n_bytes} bytes"),
                format!("the end of the file after {} bytes", rest.len()),
            )
        })?;
        self.offset = self.offset.saturating_add(n_bytes);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, section: &'static str) -> Result<[u8; N]> {
        let offset = self.offset;
        let bytes = self.take(N, section)?;
        bytes.try_into().map_err(|_| Error::malformed(section, offset, format!("{N} bytes"), "fewer"))
    }

    fn length(&mut self, section: &'static str) -> Result<usize> {
        let start = self.offset;
        let mut length = 0_u64;
        for group in 0..MAX_LENGTH_GROUPS {
            let [byte] = self.array(section)?;
            length |= u64::from(byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return match usize::try_from(length) {
                    Ok(length) if length <= MAX_STRING_BYTES => Ok(length),
                    _ => Err(Error::malformed(
                        section,
                        start,
                        format!("a length of at most {MAX_STRING_BYTES} bytes"),
                        format!("a length of {length}"),
                    )),
                };
            }
        }
        Err(Error::malformed(section, start, "a length of at most five 7-bit groups", "a sixth group"))
    }

    fn string(&mut self, section: &'static str) -> Result<String> {
        let length = self.length(section)?;
        let bytes = self.take(length, section)?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.not_utf8.push(section);
                bytes.iter().copied().map(char::from).collect()
            }
        })
    }

    fn items(&mut self) -> Result<Vec<ItemPart>> {
        const SECTION: &str = "item list";
        let offset = self.offset;
        let count = i32::from_le_bytes(self.array("item count")?);
        let count = match usize::try_from(count) {
            Ok(count @ 1..=MAX_ITEMS) => count,
            _ => {
                return Err(Error::malformed(
                    "item count",
                    offset,
                    format!("1 to {MAX_ITEMS} items"),
                    count.to_string(),
                ));
            }
        };
        let bytes = self.take(count.saturating_mul(4), SECTION)?;
        let (pairs, _) = bytes.as_chunks::<4>();
        Ok(pairs
            .iter()
            .map(|&[i0, i1, p0, p1]| {
                ItemPart::new(i16::from_le_bytes([i0, i1]), i16::from_le_bytes([p0, p1]))
            })
            .collect())
    }
}

/// Six pairs of digits, whatever is between them: the separators are those of the host's culture. Years are 2000 to 2099.
fn parse_date(text: &str) -> Result<DateTime<Utc>> {
    const SECTION: &str = "UTC date-time";
    /// The text follows its length, which takes one byte.
    const OFFSET: usize = 1;
    let malformed =
        || Error::malformed(SECTION, OFFSET, "a date and time such as `17/04/19 21:59:24 Z`", excerpt(text));
    let groups: Vec<&str> = text.split(|c: char| !c.is_ascii_digit()).filter(|g| !g.is_empty()).collect();
    let [year, month, day, hour, minute, second] = groups.as_slice() else { return Err(malformed()) };
    let number = |digits: &str| match digits.len() {
        2 => digits.parse::<u32>().map_err(|_| malformed()),
        _ => Err(malformed()),
    };
    let year = i32::try_from(number(year)?).map_err(|_| malformed())?;
    NaiveDate::from_ymd_opt(2000 + year, number(month)?, number(day)?)
        .and_then(|date| date.and_hms_opt(number(hour).ok()?, number(minute).ok()?, number(second).ok()?))
        .map(|naive| naive.and_utc())
        .ok_or_else(malformed)
}

fn parse_utc_offset(text: &str) -> Option<FixedOffset> {
    let text = text.trim();
    let mut characters = text.chars();
    let sign = match characters.next()? {
        '+' => 1,
        '-' | '\u{2212}' => -1,
        _ => return None,
    };
    let mut parts = characters.as_str().split(|c: char| !c.is_ascii_digit());
    let hours: i32 = parts.next()?.parse().ok().filter(|h| (0..=14).contains(h))?;
    let minutes: i32 = parts.next()?.parse().ok().filter(|m| (0..60).contains(m))?;
    if parts.next().is_some() {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

/// Foreign text for a message, if it looks like a date; else only its length: it could be anything, also a patient's name.
fn excerpt(text: &str) -> String {
    const LONGEST_DATE: usize = 32;
    let plain = |c: char| c.is_ascii_digit() || c.is_ascii_punctuation() || matches!(c, ' ' | 'Z');
    if text.is_empty() {
        "an empty text".to_owned()
    } else if text.len() <= LONGEST_DATE && text.chars().all(plain) {
        format!("`{text}`")
    } else {
        format!("other text ({} bytes)", text.len())
    }
}
