//! An entry as scripts read it, the same from `--json` and in Python: text, finite numbers, true, false and nothing.

use std::path::Path;

use serde::Serialize;

use super::entry::{Candidate, Entry, Part, State, Treated};

/// See the module. What is not known is `None`, never 0.
#[derive(Clone, Debug, Serialize)]
pub struct Plain {
    /// SHA-256 of the file: the record's name.
    pub sha256: String,
    /// The file.
    pub file: String,
    /// Where it stands.
    pub state: State,
    /// Why it stands there.
    pub reason: Option<String>,
    /// The linac's name in the settings.
    pub linac: Option<String>,
    /// The site's name in the settings.
    pub centre: Option<String>,
    /// Machine id of the header.
    pub machine: Option<String>,
    /// Field label of the header; empty for beams of service mode.
    pub field_label: Option<String>,
    /// Field name of the header.
    pub field_name: Option<String>,
    /// Start on the linac's clock, ISO 8601.
    pub start_utc: Option<String>,
    /// End on the linac's clock, ISO 8601.
    pub end_utc: Option<String>,
    /// End on the site's wall clock, ISO 8601 without offset.
    pub local_time: Option<String>,
    /// MU counted in the record.
    pub delivered_mu: Option<f64>,
    /// Whether it ran in QA mode; `None` while its treatment is not known.
    pub qa_mode: Option<bool>,
    /// The patient's ID; `None` while the treatment is not known.
    pub patient_id: Option<String>,
    /// Mosaiq's FLD_ID of its (first) field.
    pub field_id: Option<i64>,
    /// Its treatment; several where fields ran as one record.
    pub treatments: Vec<Treated>,
    /// What it could be, in review.
    pub candidates: Vec<Candidate>,
    /// Its place in an interrupted and resumed delivery.
    pub part_of: Option<Part>,
    /// Who decided, for a record that was in review.
    pub decided_by: Option<String>,
}

impl Entry {
    /// The entry as scripts read it.
    pub fn plain(&self, root: &Path) -> Plain {
        let facts = self.facts.as_ref();
        let first = self.treatments.first();
        let utc =
            |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        Plain {
            sha256: self.sha256.clone(),
            file: self.file(root).to_string_lossy().into_owned(),
            state: self.state,
            reason: self.reason.clone(),
            linac: self.linac.clone(),
            centre: self.centre.clone(),
            machine: facts.map(|f| f.machine.clone()),
            field_label: facts.map(|f| f.field_label.clone()),
            field_name: facts.map(|f| f.field_name.clone()),
            start_utc: facts.map(|f| utc(f.start_utc)),
            end_utc: facts.map(|f| utc(f.end_utc)),
            local_time: facts.map(|f| f.local_time.format("%Y-%m-%dT%H:%M:%S").to_string()),
            delivered_mu: facts.and_then(|f| f.delivered_mu).filter(|mu| mu.is_finite()),
            qa_mode: self.qa_mode(),
            patient_id: first.and_then(|treated| treated.patient_id.clone()),
            field_id: first.map(|treated| treated.field_id),
            treatments: self.treatments.clone(),
            candidates: self.candidates.clone(),
            part_of: self.part_of.clone(),
            decided_by: self.decided_by.clone(),
        }
    }

    /// How far a time of the site's clock is from the record, in s; 0 while it ran, `None` for what is no record.
    pub fn distance_s(&self, near: chrono::NaiveDateTime) -> Option<f64> {
        let facts = self.facts.as_ref()?;
        let start = facts.local_time - (facts.end_utc - facts.start_utc);
        let apart = (start - near).max(near - facts.local_time).max(chrono::TimeDelta::zero());
        Some(apart.as_seconds_f64())
    }
}
