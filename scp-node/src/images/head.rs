//! What the catalog needs to know of an object: the kept values of a data set, typed.
//!
//! Input: raw element values from [`super::walk`]; nothing in them is trusted, what does not parse is absent.
//! Conversion of DICOM's text and numbers happens here and nowhere else.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use dicom_encoding::text::{SpecificCharacterSet, TextCodec};

use super::walk::{Path, Syntax};
use crate::names::Uid;

/// RT Plan Storage. Source: PS3.4 §B.5.
pub const RT_PLAN: &str = "1.2.840.10008.5.1.4.1.1.481.5";
/// Varian's private RT Plan of Halcyon and Ethos.
pub const RT_PLAN_VARIAN: &str = "1.2.246.352.70.1.70";
/// RT Image Storage.
pub const RT_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.481.1";

/// Megavoltage or kilovoltage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Beam {
    /// The treatment beam.
    #[serde(rename = "MV")]
    Mv,
    /// The imager's.
    #[serde(rename = "kV")]
    Kv,
}

/// The head of one object. Everything but the class and the instance may be absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Head {
    /// (0008,0016)
    pub sop_class_uid: Option<String>,
    /// (0008,0018)
    pub sop_instance_uid: Option<String>,
    /// (0010,0020), decoded; empty when absent.
    pub patient_id: String,
    /// (0020,000D)
    pub study_uid: Option<String>,
    /// (0020,000E)
    pub series_uid: Option<String>,
    /// (0020,0013)
    pub instance_number: Option<i64>,
    /// (0008,0060)
    pub modality: Option<String>,
    /// (0008,0008), values joined by a backslash.
    pub image_type: Option<String>,
    /// Acquisition date, content date when that is absent.
    pub date: Option<NaiveDate>,
    /// Acquisition time; content time when that is absent and the date is content's too.
    pub time: Option<NaiveTime>,
    /// Acquisition date and time as such, nothing of content's; midnight when only the date is told.
    pub acquisition: Option<NaiveDateTime>,
    /// (300C,0002) first item > (0008,1155): the plan that an RT Image belongs to.
    pub plan_uid: Option<Uid>,
    /// (300A,0002), of an RT Plan.
    pub plan_label: Option<String>,
    /// (300A,0006) and (300A,0007), of an RT Plan.
    pub plan_date: Option<NaiveDateTime>,
    /// (300A,00B3): MU or MINUTE.
    pub dosimeter_unit: Option<String>,
    /// (0018,0060), kV, in the data set or in the first item of the Exposure Sequence.
    pub kvp: Option<f64>,
    /// (300A,011E), IEC 61217, degrees.
    pub gantry_iec_deg: Option<f64>,
    /// (300A,0120), IEC 61217, degrees.
    pub collimator_iec_deg: Option<f64>,
    /// (300A,0122), IEC 61217, degrees.
    pub couch_iec_deg: Option<f64>,
    /// (3002,0026), mm from the source.
    pub sid_mm: Option<f64>,
    /// (3002,0011), mm at the SID: between rows, between columns.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// (0028,0010)
    pub rows: Option<u16>,
    /// (0028,0011)
    pub columns: Option<u16>,
    /// (3002,0020)
    pub machine: Option<String>,
}

const PLAN_REFERENCE: u32 = 0x300C_0002;
const EXPOSURE: u32 = 0x3002_0030;
const CHARACTER_SET: u32 = 0x0008_0005;

/// The elements that [`Head::new`] reads.
pub fn wanted(path: Path) -> bool {
    match path.parent {
        0 => matches!(
            path.tag,
            CHARACTER_SET
                | 0x0008_0008
                | 0x0008_0016
                | 0x0008_0018
                | 0x0008_0022
                | 0x0008_0023
                | 0x0008_002A
                | 0x0008_0032
                | 0x0008_0033
                | 0x0008_0060
                | 0x0010_0020
                | 0x0018_0060
                | 0x0020_000D
                | 0x0020_000E
                | 0x0020_0013
                | 0x0028_0010
                | 0x0028_0011
                | 0x3002_0011
                | 0x3002_0020
                | 0x3002_0026
                | 0x300A_0002
                | 0x300A_0006
                | 0x300A_0007
                | 0x300A_00B3
                | 0x300A_011E
                | 0x300A_0120
                | 0x300A_0122
        ),
        PLAN_REFERENCE => matches!(path.tag, 0 | 0x0008_1155),
        EXPOSURE => matches!(path.tag, 0 | 0x0018_0060),
        _ => false,
    }
}

impl Head {
    /// Types the values that the walker kept.
    pub fn new(values: &BTreeMap<Path, Vec<u8>>, syntax: Syntax) -> Self {
        let values = Values { values, syntax };
        let at_acquisition = [values.date_time(0x0008_0022, 0x0008_0032), values.combined(0x0008_002A)];
        let acquisition = first_told(&at_acquisition);
        let content = values.date_time(0x0008_0023, 0x0008_0033);
        let (date, time) = first_told(&[acquisition, content]).unzip();
        let spacing = values.numbers(0x3002_0011);
        Self {
            sop_class_uid: values.ascii(0x0008_0016),
            sop_instance_uid: values.ascii(0x0008_0018),
            patient_id: values.text(0x0010_0020).unwrap_or_default(),
            study_uid: values.ascii(0x0020_000D),
            series_uid: values.ascii(0x0020_000E),
            instance_number: values.ascii(0x0020_0013).and_then(|t| t.trim().parse().ok()),
            modality: values.ascii(0x0008_0060),
            image_type: values.ascii(0x0008_0008),
            date,
            time: time.flatten(),
            acquisition: acquisition.map(|(date, time)| date.and_time(time.unwrap_or_default())),
            plan_uid: values.at(PLAN_REFERENCE, 0x0008_1155).and_then(|v| Uid::new(&ascii(v)?)),
            plan_label: values.text(0x300A_0002),
            plan_date: values
                .date_time(0x300A_0006, 0x300A_0007)
                .map(|(date, time)| date.and_time(time.unwrap_or_default())),
            dosimeter_unit: values.ascii(0x300A_00B3),
            kvp: values.number(0x0018_0060).or_else(|| values.at(EXPOSURE, 0x0018_0060).and_then(number)),
            gantry_iec_deg: values.number(0x300A_011E),
            collimator_iec_deg: values.number(0x300A_0120),
            couch_iec_deg: values.number(0x300A_0122),
            sid_mm: values.number(0x3002_0026),
            pixel_spacing_mm: match spacing.as_slice() {
                [rows, columns] => Some([*rows, *columns]),
                _ => None,
            },
            rows: values.word(0x0028_0010),
            columns: values.word(0x0028_0011),
            machine: values.text(0x3002_0020),
        }
    }

    /// MV or kV: by Primary Dosimeter Unit (MU or MINUTE); when that is absent, by KVP, which portal images give in the
    /// thousands. `None` when the image does not say.
    ///
    /// Source: Aria's images carry MINUTE for kV and MU for MV; KVP: PS3.3 §C.8.8.2, (0018,0060) in kV.
    pub fn beam(&self) -> Option<Beam> {
        match self.dosimeter_unit.as_deref() {
            Some("MU") => Some(Beam::Mv),
            Some("MINUTE") => Some(Beam::Kv),
            _ => match self.kvp {
                Some(kvp) if kvp >= 1000.0 => Some(Beam::Mv),
                Some(kvp) if kvp > 0.0 => Some(Beam::Kv),
                _ => None,
            },
        }
    }

    /// Whether this is an RT Plan, Varian's private one included.
    pub fn is_plan(&self) -> bool {
        matches!(self.sop_class_uid.as_deref(), Some(RT_PLAN | RT_PLAN_VARIAN))
    }

    /// When it was acquired; midnight when only the date is known.
    pub fn acquired(&self) -> Option<NaiveDateTime> {
        self.date.map(|d| d.and_time(self.time.unwrap_or_default()))
    }
}

struct Values<'a> {
    values: &'a BTreeMap<Path, Vec<u8>>,
    syntax: Syntax,
}

impl Values<'_> {
    fn at(&self, parent: u32, tag: u32) -> Option<&[u8]> {
        self.values.get(&Path { parent, tag }).map(Vec::as_slice)
    }

    fn ascii(&self, tag: u32) -> Option<String> {
        self.at(0, tag).and_then(ascii)
    }

    fn text(&self, tag: u32) -> Option<String> {
        let bytes = self.at(0, tag)?;
        let codec = self
            .ascii(CHARACTER_SET)
            .and_then(|code| {
                SpecificCharacterSet::from_code(code.rsplit('\\').next().unwrap_or_default().trim())
            })
            .unwrap_or_default();
        // What is not in the announced set is kept as Latin-1, so that two values never become one.
        let text = codec.decode(bytes).unwrap_or_else(|_| bytes.iter().map(|&b| char::from(b)).collect());
        let text = text.trim_matches(['\0', ' ']);
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn number(&self, tag: u32) -> Option<f64> {
        self.at(0, tag).and_then(number)
    }

    fn numbers(&self, tag: u32) -> Vec<f64> {
        let text = self.ascii(tag).unwrap_or_default();
        text.split('\\').map_while(|t| t.trim().parse().ok()).collect()
    }

    fn word(&self, tag: u32) -> Option<u16> {
        let bytes: [u8; 2] = self.at(0, tag)?.try_into().ok()?;
        Some(if self.syntax.is_big_endian() { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn date_time(&self, date: u32, time: u32) -> Option<Moment> {
        let date = parse_date(&self.ascii(date)?)?;
        Some((date, self.ascii(time).and_then(|t| parse_time(&t))))
    }

    /// A DT value. Source: PS3.5 §6.2.
    fn combined(&self, tag: u32) -> Option<Moment> {
        let text = self.ascii(tag)?;
        let date = parse_date(text.get(..8)?)?;
        let time = text.get(8..)?.split(['+', '-']).next().and_then(parse_time);
        Some((date, time))
    }
}

type Moment = (NaiveDate, Option<NaiveTime>);

/// The first that is told; a time that it lacks is that of the next one of the same day.
fn first_told(moments: &[Option<Moment>]) -> Option<Moment> {
    let mut told = moments.iter().flatten();
    let (date, time) = *told.next()?;
    let of_same_day = || told.filter(|(d, _)| *d == date).find_map(|(_, time)| *time);
    Some((date, time.or_else(of_same_day)))
}

fn ascii(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(['\0', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(bytes: &[u8]) -> Option<f64> {
    ascii(bytes)?.split('\\').next()?.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

/// A DA value; ACR-NEMA's dots are let through. Source: PS3.5 §6.2.
pub fn parse_date(text: &str) -> Option<NaiveDate> {
    let digits: String = text.trim().chars().filter(|c| *c != '.' && *c != '-').collect();
    NaiveDate::parse_from_str(&digits, "%Y%m%d").ok().filter(|_| digits.len() == 8)
}

/// A TM value, minutes and seconds optional; colons are let through. Source: PS3.5 §6.2.
pub fn parse_time(text: &str) -> Option<NaiveTime> {
    let text: String = text.trim().chars().filter(|c| *c != ':').collect();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if !whole.bytes().all(|b| b.is_ascii_digit()) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let field = |at: usize| whole.get(at..at + 2).map_or(Some(0), |t| t.parse::<u32>().ok());
    if !matches!(whole.len(), 2 | 4 | 6) {
        return None;
    }
    let micros: u32 = format!("{:0<6}", fraction.get(..6.min(fraction.len()))?).parse().ok()?;
    NaiveTime::from_hms_micro_opt(field(0)?, field(2)?, field(4)?.min(59), micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(values: &[(u32, u32, &[u8])]) -> Head {
        let values =
            values.iter().map(|(parent, tag, v)| (Path { parent: *parent, tag: *tag }, v.to_vec())).collect();
        Head::new(&values, Syntax::from_uid("1.2.840.10008.1.2"))
    }

    #[test]
    fn the_date_is_acquisitions_and_contents_when_that_is_absent() {
        let both = [
            (0, 0x0008_0022, b"20261120".as_slice()),
            (0, 0x0008_0032, b"070203.5 "),
            (0, 0x0008_0023, b"20261121"),
        ];
        let acquired = head(&both).acquired().unwrap();
        assert_eq!(acquired.to_string(), "2026-11-20 07:02:03.500");
        assert_eq!(head(&both[2..]).acquired().unwrap().to_string(), "2026-11-21 00:00:00");
        assert_eq!(
            head(&[(0, 0x0008_002A, b"20261120070203+0100")]).acquired().unwrap().to_string(),
            "2026-11-20 07:02:03"
        );
        assert_eq!(head(&[]).acquired(), None);
    }

    #[test]
    fn a_time_that_is_absent_is_that_of_the_same_day_told_otherwise() {
        let date = (0, 0x0008_0022, b"20261120".as_slice());
        let content = [(0, 0x0008_0023, b"20261120".as_slice()), (0, 0x0008_0033, b"1800")];
        let told = head(&[date, content[0], content[1]]);
        assert_eq!(told.acquired().unwrap().to_string(), "2026-11-20 18:00:00");
        assert_eq!(told.acquisition.unwrap().to_string(), "2026-11-20 00:00:00", "of content nothing");
        let other_day = head(&[date, (0, 0x0008_0023, b"20261121"), content[1]]);
        assert_eq!(other_day.time, None);
        let combined = head(&[date, (0, 0x0008_002A, b"20261120070203")]);
        assert_eq!(combined.acquisition.unwrap().to_string(), "2026-11-20 07:02:03");
        assert_eq!(head(&content).acquisition, None);
    }

    #[test]
    fn mv_and_kv_are_told_by_unit_then_by_kvp_and_never_guessed() {
        let unit = |u: &'static [u8]| head(&[(0, 0x300A_00B3, u)]).beam();
        assert_eq!(unit(b"MU"), Some(Beam::Mv));
        assert_eq!(unit(b"MINUTE"), Some(Beam::Kv));
        assert_eq!(head(&[(0, 0x0018_0060, b"6000")]).beam(), Some(Beam::Mv));
        assert_eq!(head(&[(EXPOSURE, 0x0018_0060, b"75.0")]).beam(), Some(Beam::Kv));
        assert_eq!(head(&[(0, 0x0018_0060, b"0")]).beam(), None);
        assert_eq!(head(&[]).beam(), None);
    }

    #[test]
    fn text_is_decoded_by_its_character_set() {
        let latin = head(&[(0, CHARACTER_SET, b"ISO_IR 100"), (0, 0x300A_0002, b"M\xFCll ")]);
        assert_eq!(latin.plan_label.as_deref(), Some("Müll"));
        let utf8 = head(&[(0, CHARACTER_SET, b"ISO_IR 192"), (0, 0x0010_0020, "Ä1".as_bytes())]);
        assert_eq!(utf8.patient_id, "Ä1");
    }

    #[test]
    fn values_that_do_not_parse_are_absent() {
        let h = head(&[
            (0, 0x300A_011E, b"north"),
            (0, 0x3002_0011, b"0.336"),
            (0, 0x0028_0010, b"\x01"),
            (0, 0x0008_0022, b"20261399"),
            (PLAN_REFERENCE, 0x0008_1155, b"../../etc"),
        ]);
        assert_eq!(h, Head::default());
    }

    #[test]
    fn times_may_be_short_but_not_wrong() {
        assert_eq!(parse_time("07"), NaiveTime::from_hms_opt(7, 0, 0));
        assert_eq!(parse_time("07:02:03.25"), NaiveTime::from_hms_milli_opt(7, 2, 3, 250));
        for bad in ["", "7", "25", "0761", "07020", "ab"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
