//! Items of an iCom message: the record grammar, tags, text and numbers.
//!
//! Input: the record bytes of one message. Output: borrowed [`Item`]s in the order sent.
//! Trust: none; every length is checked against the bytes that are there.
//! Unsupported: nothing is refused; unknown tags come out verbatim.
//!
//! # Source
//! No document of the vendor is public. The 12-byte record header and the tags of the `(3001,..)` and
//! `(300A,..)` groups are verified on captured bytes quoted in public notebooks; the remaining tags are
//! inferred from PyMedPhys's patterns, which work on real streams. [`tag`] is the only place that holds them.

use std::borrow::Cow;

/// Bytes before a value: group, element, VR, NUL, part, length.
pub const RECORD_HEADER_LEN: usize = 12;

/// Longest value accepted. The longest text DICOM has for these items is a UT of a few hundred bytes;
/// a longer one is a misread length.
pub const MAX_VALUE_LEN: usize = 4096;

/// "No value" on the wire, in numeric items.
pub const NO_VALUE: f64 = -32767.0;

/// A tag, `(group, element)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u16, pub u16);

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({:04X},{:04X})", self.0, self.1)
    }
}

/// The tags this crate gives a meaning to.
pub mod tag {
    use super::Tag;

    /// Patient's name as the record-and-verify system sent it. Inferred.
    pub const PATIENT_NAME: Tag = Tag(0x0010, 0x0010);
    /// Patient's ID; present while a patient is open. Inferred.
    pub const PATIENT_ID: Tag = Tag(0x0010, 0x0020);
    /// Prescription site. Inferred.
    pub const RX_SITE: Tag = Tag(0x3001, 0x1001);
    /// Field (beam) ID. Inferred.
    pub const FIELD_ID: Tag = Tag(0x3001, 0x1003);
    /// Control point index, in all three parts. Verified.
    pub const SEGMENT: Tag = Tag(0x3001, 0x1007);
    /// Monitor units of the whole field. Inferred.
    pub const TOTAL_MU: Tag = Tag(0x3001, 0x1009);
    /// Interlocks that are active; repeated. Inferred.
    pub const INTERLOCK: Tag = Tag(0x3001, 0x1016);
    /// Interlocks that were active; repeated. Inferred.
    pub const PREVIOUS_INTERLOCK: Tag = Tag(0x3001, 0x1018);
    /// Delivered monitor units, first channel, restarting with each field. Inferred.
    pub const METERSET: Tag = Tag(0x3008, 0x0032);
    /// Delivered monitor units, second channel. Inferred.
    pub const BACKUP_METERSET: Tag = Tag(0x3008, 0x0033);
    /// The linac's name. Verified.
    pub const MACHINE_ID: Tag = Tag(0x300A, 0x00B2);
    /// Label of a block of positions: `MLCX`, `ASYMX`, `ASYMY`. Verified.
    pub const DEVICE_LABEL: Tag = Tag(0x300A, 0x00B8);
    /// `XRAY` or `ELECTRON`. Inferred.
    pub const RADIATION_TYPE: Tag = Tag(0x300A, 0x00C6);
    /// Energy with its unit, such as `6 MV`. Inferred.
    pub const ENERGY: Tag = Tag(0x300A, 0x0114);
    /// `IN` or `OUT`. Inferred.
    pub const WEDGE: Tag = Tag(0x300A, 0x0118);
    /// One leaf or jaw position, in cm. Verified for two leaves.
    pub const POSITION: Tag = Tag(0x300A, 0x011C);
    /// Gantry, degrees, −180 to 180. Inferred.
    pub const GANTRY: Tag = Tag(0x300A, 0x011E);
    /// Collimator, degrees, −180 to 180. Inferred.
    pub const COLLIMATOR: Tag = Tag(0x300A, 0x0120);
    /// What PyMedPhys calls the table's column rotation; DICOM's Patient Support Angle. Inferred, perhaps swapped
    /// with [`TABLE_ISOCENTRIC`].
    pub const TABLE_COLUMN: Tag = Tag(0x300A, 0x0122);
    /// What PyMedPhys uses as the turntable. Inferred, see [`TABLE_COLUMN`].
    pub const TABLE_ISOCENTRIC: Tag = Tag(0x300A, 0x0125);
    /// Table height; the unit is not confirmed. Inferred.
    pub const TABLE_VERTICAL: Tag = Tag(0x300A, 0x0128);
    /// Table, along; the unit is not confirmed. Inferred.
    pub const TABLE_LONGITUDINAL: Tag = Tag(0x300A, 0x0129);
    /// Table, across; the unit is not confirmed. Inferred.
    pub const TABLE_LATERAL: Tag = Tag(0x300A, 0x012A);
    /// Description of the beam. Inferred.
    pub const BEAM_DESCRIPTION: Tag = Tag(0x7001, 0x000C);
    /// Beam timer; the unit is not confirmed. Inferred.
    pub const BEAM_TIMER: Tag = Tag(0x7001, 0x0038);
    /// Monitor units of the segment. Inferred.
    pub const SEGMENT_MU: Tag = Tag(0x7002, 0x000B);
}

/// PyMedPhys's name for a tag, for people who read a listing.
#[must_use]
pub fn name(tag: Tag) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == tag).map(|(_, name)| *name)
}

/// Whose value an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `P`: what the plan prescribes.
    Prescribed,
    /// `S`: what the control system has set.
    Set,
    /// `R`: what runs, the actual value.
    Run,
}

impl Part {
    /// The part's letter on the wire.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Prescribed => 'P',
            Self::Set => 'S',
            Self::Run => 'R',
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'P' => Some(Self::Prescribed),
            b'S' => Some(Self::Set),
            b'R' => Some(Self::Run),
            _ => None,
        }
    }
}

/// One record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Tag.
    pub tag: Tag,
    /// Value representation as sent; not always DICOM's for the tag.
    pub vr: [u8; 2],
    /// Whose value.
    pub part: Part,
    /// The value's bytes, exactly as long as the record says.
    pub value: &'a [u8],
}

impl<'a> Item<'a> {
    /// The value as text: UTF-8, else Latin-1; surrounding spaces and NULs are dropped.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        text(self.value)
    }

    /// The value as a finite number; "no value" and anything that is not a number are `None`.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        number(self.value)
    }
}

/// Text as UTF-8, else Latin-1, without the padding some senders add.
#[must_use]
pub fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text.trim_matches(PADDING)),
        Err(_) => {
            let latin1: String = value.iter().map(|byte| char::from(*byte)).collect();
            Cow::Owned(latin1.trim_matches(PADDING).to_owned())
        }
    }
}

/// A finite number, `None` for ±32767 ("no value") and for what is no number.
#[must_use]
pub fn number(value: &[u8]) -> Option<f64> {
    let number = match plain_decimal(value) {
        Some(number) => number,
        None => std::str::from_utf8(value).ok()?.trim_matches(PADDING).parse().ok()?,
    };
    (number.is_finite() && number.abs() != NO_VALUE.abs()).then_some(number)
}

/// Digits with at most one sign and one point, as nearly every position is written; `None`: look closer. A quotient of two integers that
/// doubles hold exactly is rounded once, so it is the very double that the general parser finds.
fn plain_decimal(value: &[u8]) -> Option<f64> {
    let (negative, digits) = match value.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, value),
    };
    if !(1..=MAX_PLAIN_LEN).contains(&digits.len()) {
        return None;
    }
    let (mut mantissa, mut scale, mut point) = (0_u64, 1_u64, false);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                scale *= if point { 10 } else { 1 };
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 15 digits: below 2^53")]
    let number = mantissa as f64 / scale as f64;
    // A point alone is no number.
    (digits != b".").then_some(if negative { -number } else { number })
}

/// Length up to which every digit string is an integer below 2^53.
const MAX_PLAIN_LEN: usize = 15;

/// The header of a record, before its value is known to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) tag: Tag,
    pub(crate) vr: [u8; 2],
    pub(crate) part: Part,
    pub(crate) value_len: usize,
}

/// Reads a record header; `None` if these bytes are not one.
pub(crate) fn record_header(bytes: &[u8]) -> Option<RecordHeader> {
    let (&[g0, g1, e0, e1, v0, v1, nul, part, l0, l1, l2, l3], _) =
        bytes.split_first_chunk::<RECORD_HEADER_LEN>()?;
    let value_len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    if !v0.is_ascii_uppercase() || !v1.is_ascii_uppercase() || nul != 0 || value_len > MAX_VALUE_LEN {
        return None;
    }
    Some(RecordHeader {
        tag: Tag(u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1])),
        vr: [v0, v1],
        part: Part::from_byte(part)?,
        value_len,
    })
}

/// Walks records; ends at the first byte that does not begin one.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Items<'a> {
    /// Walks `records`, which must begin with a record.
    #[must_use]
    pub const fn new(records: &'a [u8]) -> Self {
        Self { rest: records }
    }

    /// What has not been walked; empty once a well-formed message has been.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let header = record_header(self.rest)?;
        let (_, after_header) = self.rest.split_at_checked(RECORD_HEADER_LEN)?;
        let (value, rest) = after_header.split_at_checked(header.value_len)?;
        self.rest = rest;
        Some(Item { tag: header.tag, vr: header.vr, part: header.part, value })
    }
}

const PADDING: [char; 2] = [' ', '\0'];

const NAMES: [(Tag, &str); 27] = [
    (tag::PATIENT_NAME, "Patient Name"),
    (tag::PATIENT_ID, "Patient ID"),
    (tag::RX_SITE, "Rx Site"),
    (tag::FIELD_ID, "Field ID"),
    (tag::SEGMENT, "Segment"),
    (tag::TOTAL_MU, "Total MU"),
    (tag::INTERLOCK, "Interlocks"),
    (tag::PREVIOUS_INTERLOCK, "Previous Interlocks"),
    (tag::METERSET, "Delivery MU"),
    (tag::BACKUP_METERSET, "Backup Delivery MU"),
    (tag::MACHINE_ID, "Machine ID"),
    (tag::DEVICE_LABEL, "Device"),
    (tag::RADIATION_TYPE, "Radiation Type"),
    (tag::ENERGY, "Energy"),
    (tag::WEDGE, "Wedge"),
    (tag::POSITION, "Position"),
    (tag::GANTRY, "Gantry"),
    (tag::COLLIMATOR, "Collimator"),
    (tag::TABLE_COLUMN, "Table Column"),
    (tag::TABLE_ISOCENTRIC, "Table Isocentric"),
    (tag::TABLE_VERTICAL, "Table Vertical"),
    (tag::TABLE_LONGITUDINAL, "Table Longitudinal"),
    (tag::TABLE_LATERAL, "Table Lateral"),
    (tag::BEAM_DESCRIPTION, "Beam Description"),
    (tag::BEAM_TIMER, "Beam Timer"),
    (tag::SEGMENT_MU, "Segment MU"),
    (Tag(0x3001, 0x1006), "Prescribed Machine"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_records_quoted_in_public_notebooks() {
        let mut bytes = vec![0x01, 0x30, 0x07, 0x10, b'D', b'S', 0, b'P', 1, 0, 0, 0, b'1'];
        bytes.extend_from_slice(b"\x0A\x30\xB8\x00DS\0R\x05\0\0\0ASYMX");
        bytes.extend_from_slice(b"\x0A\x30\x1C\x01DS\0R\x06\0\0\0-10.00");
        let mut items = Items::new(&bytes);
        let first = items.next().unwrap();
        assert_eq!((first.tag, first.part, first.number()), (tag::SEGMENT, Part::Prescribed, Some(1.0)));
        let second = items.next().unwrap();
        assert_eq!(
            (second.tag, second.part, second.text().as_ref()),
            (tag::DEVICE_LABEL, Part::Run, "ASYMX")
        );
        assert_eq!(items.next().unwrap().number(), Some(-10.0));
        assert_eq!(items.next(), None);
        assert!(items.rest().is_empty());
    }

    #[test]
    fn a_value_of_ten_bytes_is_a_value_like_any_other() {
        let bytes = b"\x10\x00\x20\x00LO\0P\x0A\0\0\09434765919";
        assert_eq!(Items::new(bytes).next().unwrap().text(), "9434765919");
    }

    #[test]
    fn text_is_utf8_else_latin1() {
        assert_eq!(text("M\u{fc}ller^J".as_bytes()), "Müller^J");
        assert_eq!(text(b"M\xFCller^J "), "Müller^J");
    }

    #[test]
    fn no_value_is_none_not_a_number() {
        for absent in [&b"-32767"[..], b"32767", b"-32767.00", b"nan", b"inf", b"", b"IN"] {
            assert_eq!(number(absent), None);
        }
        assert_eq!(number(b"-0.5"), Some(-0.5));
    }

    proptest::proptest! {
        #[test]
        fn a_plain_decimal_is_the_double_that_the_general_parser_finds(text in "-?[0-9.]{0,17}") {
            let general: Option<f64> = text.parse().ok().filter(|number: &f64| number.abs() != 32767.0);
            proptest::prop_assert_eq!(number(text.as_bytes()).map(f64::to_bits), general.map(f64::to_bits));
        }
    }

    #[test]
    fn stops_at_a_length_that_runs_past_the_bytes() {
        let bytes = b"\x10\x00\x20\x00LO\0P\x0A\0\0\0943";
        let mut items = Items::new(bytes);
        assert_eq!(items.next(), None);
        assert_eq!(items.rest().len(), bytes.len());
    }
}
