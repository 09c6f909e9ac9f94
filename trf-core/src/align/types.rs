//! What alignment takes and what it gives: records, treatment rows, options, outcomes. Plain values, no I/O.

use chrono::{DateTime, NaiveDateTime, Utc};

use crate::Zone;

/// One record as alignment sees it. Times are those of the linac's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// SHA-256 of the file, hex: names the log in reports, takes no part in matching.
    pub id: String,
    /// Start of the record: its end less rows · 0.04 s.
    pub start_utc: DateTime<Utc>,
    /// End of the record: the header's time.
    pub end_utc: DateTime<Utc>,
    /// [`Header::field_label`](crate::Header::field_label): empty where the header has none.
    pub field_label: String,
    /// [`Header::field_name`](crate::Header::field_name).
    pub field_name: String,
    /// MU delivered in the record, from the raw counter ([`Record::meterset`](crate::Record::meterset)); not the header's total.
    pub meterset_mu: f64,
    /// MU of each beam, as the dose counter restarts; their sum is `meterset_mu`.
    pub beams_mu: Vec<f64>,
}

/// One row of Mosaiq's TrackTreatment, joined with Ident, Patient, TxField and Staff: all rows of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Treatment {
    /// TrackTreatment.TTX_ID.
    pub ttx_id: i64,
    /// TrackTreatment.DHS_ID.
    pub dhs_id: Option<i64>,
    /// Pat_ID1: Mosaiq's own number of the patient, the only one that is always there.
    pub pat_id1: i64,
    /// Ident.IDA: the patient ID that people use.
    pub patient_id: Option<String>,
    /// Patient.Last_Name.
    pub last_name: String,
    /// Patient.First_Name.
    pub first_name: String,
    /// TxField.FLD_ID.
    pub field_id: i64,
    /// TxField.Field_Label, such as `1-1`.
    pub field_label: String,
    /// TxField.Field_Name, such as `AP`.
    pub field_name: String,
    /// TxField.Type_Enum; see [`makes_no_record`](Treatment::makes_no_record).
    pub field_type: i32,
    /// TxField.Meterset in MU.
    pub meterset_mu: Option<f64>,
    /// TrackTreatment.Create_DtTm on the server's wall clock, rounded to 1 ms.
    pub created_local: NaiveDateTime,
    /// TrackTreatment.Edit_DtTm on the server's wall clock, rounded to 1 ms; may lie hours after the delivery.
    pub edited_local: NaiveDateTime,
    /// WasQAMode.
    pub qa_mode: bool,
    /// WasBeamComplete.
    pub beam_complete: bool,
    /// WasBeamOn.
    pub beam_on: bool,
    /// Canceled.
    pub canceled: bool,
}

impl Treatment {
    /// Whether no linac makes a record of this kind of field: setup, kV setup, CT.
    pub fn makes_no_record(&self) -> bool {
        /// Type_Enum of Setup, kV Setup, CT.
        const WITHOUT_RECORD: [i32; 3] = [3, 4, 5];
        WITHOUT_RECORD.contains(&self.field_type)
    }
}

/// How to align. `AlignOptions::new(zone)` has the usual values.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AlignOptions {
    /// The zone of the server's wall clock.
    pub time_zone: Zone,
    /// What the clocks differed by on the nearest earlier day, if that is known: see [`Drift::after_days`].
    pub drift_before: Option<Drift>,
    /// What they differed by on the nearest later day, for records that are aligned once more.
    pub drift_after: Option<Drift>,
    /// Largest difference between the clocks that is considered, in s.
    pub max_drift_s: f64,
    /// By how much the best assignment must be more likely than the next, as a natural logarithm; less is ambiguous.
    pub margin: f64,
    /// Buffer of [`like_pymedphys`](super::like_pymedphys), in s; PyMedPhys has 240.
    pub pymedphys_buffer_s: i64,
}

impl AlignOptions {
    /// The usual options for a server in `time_zone`.
    pub fn new(time_zone: Zone) -> Self {
        AlignOptions {
            time_zone,
            drift_before: None,
            drift_after: None,
            max_drift_s: 1200.0,
            margin: 7.0,
            pymedphys_buffer_s: 240,
        }
    }
}

impl Default for AlignOptions {
    fn default() -> Self {
        Self::new(Zone::UTC)
    }
}

/// What the linac's clock shows more than the server's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Linac minus server, in s: positive means that the linac's clock is fast.
    pub seconds: f64,
    /// Spread of the single values around it, in s.
    pub spread_s: f64,
    /// From how many matched records it comes.
    pub n_pairs: usize,
}

impl Drift {
    /// Widening of what is known about a clock, in s per day: quartz clocks of linac hosts lose or gain a few.
    const SPREAD_PER_DAY_S: f64 = 3.0;

    /// The same, `days` later or earlier: known less well.
    #[must_use]
    pub fn after_days(self, days: f64) -> Self {
        Drift { spread_s: self.spread_s + Self::SPREAD_PER_DAY_S * days.abs(), ..self }
    }
}

/// What came of a day.
#[derive(Clone, Debug, PartialEq)]
pub struct Day {
    /// The difference between the clocks at the end of the day, to be given to the next one; `None` where nothing matched.
    pub drift: Option<Drift>,
    /// Where the linac's clock was set during the day.
    pub steps: Vec<ClockStep>,
    /// One outcome per log, in the order of the logs.
    pub outcomes: Vec<Outcome>,
}

/// The linac's clock was set between two records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockStep {
    /// Index of the first log after it.
    pub before_log: usize,
    /// By how much the clock was put forward, in s.
    pub seconds: f64,
}

/// What came of one log. Numbers of treatments are indices into the slice that was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It belongs to these rows, and to no others.
    Matched {
        /// The rows; several where fields were run as one record, in the order of its beams.
        treatments: Vec<usize>,
        /// MU that this record delivered of each of them.
        meterset_mu: Vec<f64>,
        /// Which part of an interrupted and resumed delivery it is; `None` for a delivery in one record.
        part_of: Option<PartOf>,
        /// How much more likely this is than anything else, as a natural logarithm; at least the margin of the options.
        margin: f64,
    },
    /// Several rows may be meant, or one that is not certain enough: a person decides.
    Ambiguous {
        /// The most likely first; at least one.
        candidates: Vec<Candidate>,
    },
    /// No row can be meant.
    Unmatched {
        /// Why.
        reason: Unmatched,
    },
}

/// A place in a delivery that was interrupted and resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// Index of the delivery's first log: what its logs share.
    pub first_log: usize,
    /// Number of this part, from 0.
    pub part: usize,
    /// Number of parts.
    pub parts: usize,
}

/// Rows that a log may belong to.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The rows, as in [`Outcome::Matched`].
    pub treatments: Vec<usize>,
    /// How much less likely it is than the best, as a natural logarithm: 0 for the best.
    pub behind: f64,
    /// What the linac's clock would show more than the server's if this were the one, in s.
    pub drift_s: f64,
}

/// Why no row can be meant.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Unmatched {
    /// The header has no field label: a beam from service mode, or a name with other slashes that no row has.
    NoFieldLabel,
    /// No row of that span of time has this label and name.
    NoSuchField,
    /// Rows with this label and name there are, but none at that time.
    OtherTime {
        /// How far the nearest is, in s, once the clocks' difference is taken off.
        nearest_s: f64,
    },
    /// At that time there is a row, but of another meterset.
    OtherMeterset {
        /// Its meterset in MU.
        planned_mu: f64,
    },
    /// The rows that fit belong to other records.
    Taken,
}
