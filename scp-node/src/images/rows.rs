//! What the catalog knows, as plain values, and how rows become values.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, NaiveDateTime};
use rusqlite::Row;

use super::head::Beam;
use crate::names::Uid;

/// How times are written: sortable as text, microseconds kept.
pub(crate) const TIME_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6f";

/// How much the catalog holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Objects.
    pub objects: u64,
    /// Sessions.
    pub sessions: u64,
    /// Sessions whose plan has no known label yet.
    pub unlabelled: u64,
    /// Instances that came again with other bytes.
    pub kept: u64,
}

/// A plan whose label is known.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlanRecord {
    /// SOP Instance UID of the plan.
    pub plan_uid: Uid,
    /// (0010,0020)
    pub patient_id: String,
    /// (300A,0002)
    pub label: String,
    /// (300A,0006) and (300A,0007).
    pub dated: Option<NaiveDateTime>,
}

/// Images of one plan, one series and one acquisition date.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Session {
    /// Row id; changes with a reindex.
    #[serde(skip)]
    pub id: i64,
    /// (0010,0020)
    pub patient_id: String,
    /// SOP Instance UID of the plan that the images name.
    pub plan_uid: Option<String>,
    /// The plan's label when the session was filed; `None` while it is unknown.
    pub plan_label: Option<String>,
    /// (0020,000E)
    pub series_uid: String,
    /// Acquisition date.
    pub date: Option<NaiveDate>,
    /// Acquisition of the first image.
    pub acquired: Option<NaiveDateTime>,
    /// Absolute path.
    pub directory: PathBuf,
    /// Images in the session.
    pub images: u64,
}

/// One object of a session.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Instance {
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// (0008,0016)
    pub sop_class_uid: String,
    /// (0002,0010)
    pub transfer_syntax_uid: String,
    /// (0020,000D)
    pub study_uid: Option<String>,
    /// (0020,0013)
    pub instance_number: Option<i64>,
    /// (0008,0008)
    pub image_type: Option<String>,
    /// Acquisition date and time.
    pub acquired: Option<NaiveDateTime>,
    /// MV or kV.
    pub beam: Option<Beam>,
    /// (300A,011E), IEC 61217, degrees.
    pub gantry_iec_deg: Option<f64>,
    /// (300A,0120), IEC 61217, degrees.
    pub collimator_iec_deg: Option<f64>,
    /// (300A,0122), IEC 61217, degrees.
    pub couch_iec_deg: Option<f64>,
    /// (3002,0026), mm.
    pub sid_mm: Option<f64>,
    /// (3002,0011), mm: between rows, between columns.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// (0028,0010)
    pub rows: Option<u16>,
    /// (0028,0011)
    pub columns: Option<u16>,
    /// (3002,0020)
    pub machine: Option<String>,
}

impl Instance {
    /// Whether its file is there as it was filed; one that cannot be looked for is not lost.
    pub fn is_there(&self) -> bool {
        is_there(&self.path, self.bytes).unwrap_or(true)
    }
}

/// What the catalog has of an instance's file.
#[derive(Debug)]
pub(super) struct Entered {
    /// Absolute.
    pub path: PathBuf,
    /// Size of the file when it was filed.
    pub bytes: u64,
    /// (0002,0010)
    pub transfer_syntax_uid: String,
}

impl Entered {
    /// Whether the file is there as it was filed.
    pub(super) fn is_there(&self) -> std::io::Result<bool> {
        is_there(&self.path, self.bytes)
    }
}

/// Whether the file is there with all its bytes: people remove files, and a power cut may leave a name without them.
fn is_there(path: &Path, bytes: u64) -> std::io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(file.len() == bytes),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which sessions are meant; `None` leaves a field open.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Exact patient ID.
    pub patient_id: Option<String>,
    /// Exact label at the time of filing.
    pub plan_label: Option<String>,
    /// Plan's SOP Instance UID.
    pub plan_uid: Option<String>,
    /// Series.
    pub series_uid: Option<String>,
    /// Acquisition date.
    pub date: Option<NaiveDate>,
    /// Only sessions acquired before this.
    pub before: Option<NaiveDateTime>,
    /// Only sessions with an image of this kind.
    pub beam: Option<Beam>,
    /// Only sessions with an image whose Image Type holds this value.
    pub image_type: Option<String>,
    /// At most so many, newest first; 0 is all.
    pub limit: u64,
}

pub(super) fn plan(row: &Row<'_>) -> rusqlite::Result<Option<PlanRecord>> {
    let Some(plan_uid) = Uid::new(&row.get::<_, String>(0)?) else { return Ok(None) };
    Ok(Some(PlanRecord { plan_uid, patient_id: row.get(1)?, label: row.get(2)?, dated: time(row.get(3)?) }))
}

pub(super) fn instance(row: &Row<'_>, directory: &Path) -> rusqlite::Result<Instance> {
    let spacing: (Option<f64>, Option<f64>) = (row.get(14)?, row.get(15)?);
    Ok(Instance {
        sop_instance_uid: row.get(0)?,
        path: directory.join(row.get::<_, String>(1)?),
        bytes: row.get::<_, i64>(2)?.max(0) as u64,
        sop_class_uid: row.get(3)?,
        transfer_syntax_uid: row.get(4)?,
        study_uid: row.get(5)?,
        instance_number: row.get(6)?,
        image_type: row.get(7)?,
        acquired: time(row.get(8)?),
        beam: row.get::<_, Option<String>>(9)?.and_then(|b| beam_from(&b)),
        gantry_iec_deg: row.get(10)?,
        collimator_iec_deg: row.get(11)?,
        couch_iec_deg: row.get(12)?,
        sid_mm: row.get(13)?,
        pixel_spacing_mm: spacing.0.zip(spacing.1).map(|(rows, columns)| [rows, columns]),
        rows: row.get(16)?,
        columns: row.get(17)?,
        machine: row.get(18)?,
    })
}

pub(crate) fn time(text: Option<String>) -> Option<NaiveDateTime> {
    text?.parse().ok()
}

/// How the catalog writes it.
pub(crate) fn beam_text(beam: Beam) -> &'static str {
    match beam {
        Beam::Mv => "MV",
        Beam::Kv => "kV",
    }
}

pub(crate) fn beam_from(text: &str) -> Option<Beam> {
    match text {
        "MV" => Some(Beam::Mv),
        "kV" => Some(Beam::Kv),
        _ => None,
    }
}
