//! What is known of one session.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

/// Why a record ended.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The patient was closed.
    PatientClosed,
    /// Another patient was opened without a message between.
    NextPatient,
    /// Nothing came for too long.
    Silence,
    /// The service stopped and was told to finish.
    Stopped,
    /// It reached [`MAX_SESSION_BYTES`](super::MAX_SESSION_BYTES); the next record goes on.
    Size,
}

/// Messages that are missing at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Linac's clock at the message after the gap.
    pub linac_time: NaiveDateTime,
    /// How many are missing, less whole rounds of the counter, which are 256: 0 when that many bytes are known to be lost.
    pub missing: u8,
    /// Whether the link was lost meanwhile.
    pub link_lost: bool,
}

/// What one field delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldRecord {
    /// Field ID, empty if none was sent.
    pub field_id: String,
    /// Prescription site.
    pub rx_site: Option<String>,
    /// Energy.
    pub energy: Option<String>,
    /// Linac's clock at its first and last message.
    pub start: NaiveDateTime,
    /// See `start`.
    pub end: NaiveDateTime,
    /// Delivered MU.
    pub mu: f64,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The linac's name on the wire.
    pub machine_id: Option<String>,
    /// Patient's ID.
    pub patient_id: String,
    /// Patient's name, from the first message that has one.
    pub patient_name: Option<String>,
    /// Linac's clock at the first message.
    pub start: NaiveDateTime,
    /// Linac's clock at the last message.
    pub end: NaiveDateTime,
    /// When the first message came.
    pub received_from: DateTime<Utc>,
    /// When the last message came.
    pub received_to: DateTime<Utc>,
    /// Delivered MU, with what was delivered before a beginning in mid-beam.
    pub mu: f64,
    /// MU delivered before the first message, as it showed them.
    pub mu_before_first_message: f64,
    /// Whether `mu` may be too small: messages are missing and the field changed or restarted meanwhile.
    pub mu_uncertain: bool,
    /// Messages kept.
    pub messages: u64,
    /// Bytes kept.
    pub bytes: u64,
    /// Places where messages are missing.
    pub gaps: u64,
    /// The first hundred of them.
    pub gap_list: Vec<Gap>,
    /// Messages that came again with the same bytes, and are kept once.
    pub repeats: u64,
    /// Messages with the counter of the one before, but other bytes; both are kept.
    pub counter_repeats: u64,
    /// How often the link was lost.
    pub link_losses: u64,
    /// How often this service was stopped or killed; up to one fsync interval may be missing at each.
    pub restarts: u64,
    /// Bytes in the messages that are no records.
    pub unparsed_bytes: u64,
    /// Whether every message has what PyMedPhys's `Delivery.from_icom` needs.
    pub pymedphys_readable: bool,
    /// Fields in the order delivered.
    pub fields: Vec<FieldRecord>,
    /// Why it ended.
    pub ended_by: EndReason,
    /// Offset of its first byte in the linac's stream.
    pub stream_start: u64,
    /// Offset behind its last byte.
    pub stream_end: u64,
}

impl Record {
    /// Whether radiation was delivered.
    #[must_use]
    pub fn delivered(&self) -> bool {
        self.mu > 0.0
    }
}
