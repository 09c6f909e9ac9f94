//! What the index knows of a record: plain values, the same for rows, `--json`, Python and the journal of moves.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::items::ItemPart;
use crate::{Error, Record, Result};

/// Where a record stands, and thus in which directory its file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its treatment is known; `indexed/…`.
    Indexed,
    /// More than one treatment could be it, a person decides; `to_be_reviewed/`.
    Review,
    /// No treatment was found yet; `no_mosaiq_record_found/`.
    NoMosaiqRecordFound,
    /// The file is no readable record; `unknown_error_in_logfile/`.
    UnknownErrorInLogfile,
    /// A service-mode beam, which no treatment can be; `no_field_label_in_logfile/`.
    NoFieldLabelInLogfile,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Indexed,
        Self::Review,
        Self::NoMosaiqRecordFound,
        Self::UnknownErrorInLogfile,
        Self::NoFieldLabelInLogfile,
    ];

    /// The word in the database, in JSON and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Indexed => "indexed",
            Self::Review => "review",
            Self::NoMosaiqRecordFound => "no_mosaiq_record_found",
            Self::UnknownErrorInLogfile => "unknown_error_in_logfile",
            Self::NoFieldLabelInLogfile => "no_field_label_in_logfile",
        }
    }

    /// The state with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// What the file itself says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Machine id of the header.
    pub machine: String,
    /// Part of the treatment name before its only slash; empty for service-mode beams.
    pub field_label: String,
    /// Part of the treatment name after its only slash, else all of it.
    pub field_name: String,
    /// Date and time as written: the END of the record in UTC.
    pub utc_text: String,
    /// The site's offset from UTC as written.
    pub utc_offset_text: String,
    /// Start of the record, linac's clock.
    pub start_utc: DateTime<Utc>,
    /// End of the record, linac's clock.
    pub end_utc: DateTime<Utc>,
    /// End of the record on the site's wall clock: what PyMedPhys names directories by.
    pub local_time: NaiveDateTime,
    /// Total dose of the header as stored, in 0.1 MU; `None` if it is no number.
    pub total_dose_tenth_mu: Option<f64>,
    /// MU counted in the rows, from the raw counter; `None` where the record has no counter.
    pub delivered_mu: Option<f64>,
    /// The same per beam, as the counter restarts.
    pub beams_mu: Vec<f64>,
    /// Format version, 1 to 4.
    pub version: i32,
    /// Complete rows of 40 ms.
    pub rows: u64,
}

/// One row of Mosaiq's TrackTreatment with the field and the patient it belongs to.
///
/// What an index of PyMedPhys does not hold is `None` after an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Treated {
    /// TTX_ID.
    pub ttx_id: Option<i64>,
    /// DHS_ID.
    pub dhs_id: Option<i64>,
    /// Pat_ID1.
    pub pat_id1: Option<i64>,
    /// IDA: the patient ID that people use.
    pub patient_id: Option<String>,
    /// Last name.
    pub last_name: String,
    /// First name.
    pub first_name: String,
    /// FLD_ID.
    pub field_id: i64,
    /// Field_Label.
    pub field_label: String,
    /// Field_Name.
    pub field_name: String,
    /// Type_Enum in PyMedPhys's words, see [`field_type`].
    pub field_type: String,
    /// Meterset of the field in MU, as planned.
    pub meterset_mu: Option<f64>,
    /// MU that this record delivered of it, as alignment found.
    pub delivered_mu: Option<f64>,
    /// Create_DtTm, server's wall clock.
    pub created_local: Option<NaiveDateTime>,
    /// Edit_DtTm, server's wall clock.
    pub edited_local: Option<NaiveDateTime>,
    /// WasQAMode.
    pub qa_mode: bool,
    /// WasBeamComplete.
    pub beam_completed: bool,
}

/// A record's place in a delivery that was interrupted and resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// SHA-256 of the delivery's first record: what its records share.
    pub first: String,
    /// Number of this part, from 0.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
}

/// What a record in review could be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its treatments: several where fields ran as one record.
    pub treatments: Vec<Treated>,
    /// How much less likely it is than the best, as a natural logarithm; `None` where that was not computed.
    pub behind: Option<f64>,
    /// What the linac's clock would show more than the server's if this were the one, in s.
    pub drift_s: Option<f64>,
}

/// A record of the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of the file, hexadecimal: the record's name.
    pub sha256: String,
    /// SHA-1 of the file, hexadecimal: its name in PyMedPhys's index.
    pub sha1: String,
    /// Size of the file.
    pub bytes: u64,
    /// Where the file lies, relative to the root, with forward slashes.
    pub path: String,
    /// Where it stands.
    pub state: State,
    /// Why it stands there, for people; without identities.
    pub reason: Option<String>,
    /// The linac's name in the settings: the directory it came in.
    pub linac: Option<String>,
    /// The site's name in the settings.
    pub centre: Option<String>,
    /// What the file says; `None` if it is no readable record.
    pub facts: Option<Facts>,
    /// Its treatment, several where fields ran as one record.
    pub treatments: Vec<Treated>,
    /// What it could be, in review.
    pub candidates: Vec<Candidate>,
    /// Its place in a delivery that was interrupted and resumed; `None` for one in one record.
    pub part_of: Option<Part>,
    /// Linac's clock minus the server's, in seconds, as the day's alignment found.
    pub drift_s: Option<f64>,
    /// How often no treatment was found.
    pub tries: u32,
    /// When a treatment is looked for again; `None`: not any more.
    pub next_try: Option<DateTime<Utc>>,
    /// Who decided, for a record that was in review.
    pub decided_by: Option<String>,
    /// When it was entered.
    pub added: DateTime<Utc>,
}

impl Entry {
    /// The first 12 digits of the SHA-256: what logs and people call a record.
    pub fn short(&self) -> &str {
        self.sha256.get(..SHORT).unwrap_or(&self.sha256)
    }

    /// The file below `root`.
    pub fn file(&self, root: &Path) -> PathBuf {
        self.path.split('/').fold(root.to_owned(), |path, part| path.join(part))
    }

    /// Whether it ran in QA mode; `None` while its treatment is not known.
    pub fn qa_mode(&self) -> Option<bool> {
        self.treatments.first().map(|treated| treated.qa_mode)
    }
}

/// Digits of a record's short name: enough for 2^24 records with a chance of 1 % that two share one, which is refused then.
pub const SHORT: usize = 12;

/// A file that was read for the index.
#[derive(Clone, Debug, PartialEq)]
pub struct FileFacts {
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// SHA-1, hexadecimal.
    pub sha1: String,
    /// Size.
    pub bytes: u64,
    /// What the record says, or why it is none.
    pub record: std::result::Result<(Facts, Vec<ItemPart>), String>,
}

impl FileFacts {
    /// Reads a file once: hashes, header, meterset.
    ///
    /// # Arguments
    /// * `local` — the site's wall clock for a time in UTC; where it gives `None` the header's own offset counts
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Limit`] if it is larger than a record may be. A file that is no record is no error.
    pub fn read(path: &Path, local: impl Fn(DateTime<Utc>) -> Option<NaiveDateTime>) -> Result<Self> {
        let limit = crate::reader::MAX_RECORD_BYTES;
        let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if size > limit {
            return Err(Error::Limit { what: "size of the record in bytes", found: size, limit });
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let (sha256, sha1) = (hex(&Sha256::digest(&bytes)), hex(&Sha1::digest(&bytes)));
        let n_bytes = bytes.len() as u64;
        let record = match Record::from_bytes(bytes) {
            Ok(record) => Ok((facts(&record, local), record.header().items.clone())),
            Err(error) => Err(without_identity(&error)),
        };
        Ok(Self { sha256, sha1, bytes: n_bytes, record })
    }
}

/// An error that says what was found may say a name: sections and offsets are enough.
fn without_identity(error: &Error) -> String {
    match error {
        Error::Malformed { section, offset, expected, .. } => {
            format!("malformed {section} at byte {offset}: expected {expected}")
        }
        other => other.to_string(),
    }
}

fn facts(record: &Record, local: impl Fn(DateTime<Utc>) -> Option<NaiveDateTime>) -> Facts {
    let header = record.header();
    let end_utc = record.end_utc();
    let meterset = record.meterset().ok();
    let own_offset = || header.end_local().map(|time| time.naive_local());
    Facts {
        machine: header.machine_id.clone(),
        field_label: header.field_label().to_owned(),
        field_name: header.field_name().to_owned(),
        utc_text: header.utc_text.clone(),
        utc_offset_text: header.utc_offset_text.clone(),
        start_utc: record.start_utc(),
        end_utc,
        local_time: local(end_utc).or_else(own_offset).unwrap_or(end_utc.naive_utc()),
        total_dose_tenth_mu: Some(header.total_dose_tenth_mu).filter(|dose| dose.is_finite()),
        delivered_mu: meterset.as_ref().and_then(|m| m.meterset_mu.last().copied()),
        beams_mu: meterset.map(|m| per_beam(&m.meterset_mu, &m.beam_starts)).unwrap_or_default(),
        version: header.version.number(),
        rows: record.n_rows() as u64,
    }
}

/// What each beam delivered, from the running meterset and where beams but the first begin.
fn per_beam(meterset_mu: &[f64], beam_starts: &[usize]) -> Vec<f64> {
    let mut before = 0.0;
    let ends =
        beam_starts.iter().map(|&start| start.saturating_sub(1)).chain(meterset_mu.len().checked_sub(1));
    ends.filter_map(|end| meterset_mu.get(end).copied())
        .map(|total| {
            let beam = total - before;
            before = total;
            beam
        })
        .collect()
}

/// PyMedPhys's words for Mosaiq's Type_Enum.
///
/// Source: `pymedphys/_mosaiq/constants.py`; the same list in the schema that Elekta gives to sites.
pub const FIELD_TYPES: [(i32, &str); 20] = [
    (0, "Unspecified"),
    (1, "Static"),
    (2, "StepNShoot"),
    (3, "Setup"),
    (4, "kV Setup"),
    (5, "CT"),
    (6, "Port"),
    (7, "Fixed"),
    (8, "Dynamic"),
    (9, "MV CT"),
    (11, "Arc"),
    (12, "Skip Arcs"),
    (13, "VMAT"),
    (14, "DMLC"),
    (15, "Helical"),
    (16, "Fixed Angle"),
    (17, "Path"),
    (18, "Shot"),
    (20, "User Defined"),
    (21, "PDR"),
];

/// The word for a Type_Enum; the number itself where it has none.
pub fn field_type(type_enum: i32) -> String {
    let known = FIELD_TYPES.iter().find(|(number, _)| *number == type_enum);
    known.map_or_else(|| type_enum.to_string(), |(_, word)| (*word).to_owned())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes of hexadecimal text; `None` if it is none.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Seconds since 1970 as a time; `None` beyond what a date can be.
pub(super) fn from_seconds(seconds: i64) -> Option<DateTime<Utc>> {
    Utc.timestamp_opt(seconds, 0).single()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_beam_has_its_own_share_of_the_meterset() {
        assert_eq!(per_beam(&[0.0, 1.0, 3.0, 3.5, 10.0], &[3]), [3.0, 7.0]);
        assert_eq!(per_beam(&[2.0], &[]), [2.0]);
        assert!(per_beam(&[], &[]).is_empty());
    }

    #[test]
    fn an_unknown_field_type_stays_a_number() {
        assert_eq!((field_type(13).as_str(), field_type(99).as_str()), ("VMAT", "99"));
    }

    #[test]
    fn hexadecimal_text_survives_and_other_text_is_none() {
        assert_eq!(unhex(&hex(&[0, 255, 16])).unwrap(), [0, 255, 16]);
        assert!(unhex("0g").is_none() && unhex("abc").is_none() && unhex("ä").is_none());
    }
}
