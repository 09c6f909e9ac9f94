//! One record at a time, as PyMedPhys 0.41 does it (`_mosaiq/delivery.py`, `get_mosaiq_delivery_details`).
//!
//! Rows of the record's label and name whose creation is at most a buffer after, and whose last edit is at most a buffer
//! before, the header's time on the server's wall clock. Rows that say different things: once more without a buffer, then
//! none. Its faults are kept: the header's time is the record's end, and a difference of the clocks above the buffer finds
//! nothing, or another patient.

use chrono::TimeDelta;

use super::types::{AlignOptions, Candidate, Log, Outcome, Treatment, Unmatched};

/// What PyMedPhys would say of a log; `Ambiguous` where it raises `MultipleMosaiqEntries`.
///
/// Of rows that agree it takes the first; the margin is 0, since it knows none.
pub fn like_pymedphys(log: &Log, treatments: &[Treatment], options: &AlignOptions) -> Outcome {
    if log.field_label.is_empty() {
        return Outcome::Unmatched { reason: Unmatched::NoFieldLabel };
    }
    let buffer = TimeDelta::try_seconds(options.pymedphys_buffer_s).unwrap_or_default();
    let mut found = rows(log, treatments, options, buffer);
    if !agree(&found, treatments) && options.pymedphys_buffer_s != 0 {
        found = rows(log, treatments, options, TimeDelta::zero());
    }
    let Some(&first) = found.first() else {
        return Outcome::Unmatched { reason: Unmatched::NoSuchField };
    };
    if agree(&found, treatments) {
        let meterset_mu = vec![log.meterset_mu];
        return Outcome::Matched { treatments: vec![first], meterset_mu, part_of: None, margin: 0.0 };
    }
    let candidate = |row| Candidate { treatments: vec![row], behind: 0.0, drift_s: 0.0 };
    Outcome::Ambiguous { candidates: found.into_iter().map(candidate).collect() }
}

fn rows(log: &Log, treatments: &[Treatment], options: &AlignOptions, buffer: TimeDelta) -> Vec<usize> {
    let time = options.time_zone.local(log.end_utc);
    let fits = |row: &Treatment| {
        same(&row.field_label, &log.field_label)
            && same(&row.field_name, &log.field_name)
            && row.created_local.signed_duration_since(time) <= buffer
            && time.signed_duration_since(row.edited_local) <= buffer
    };
    treatments.iter().enumerate().filter(|(_, row)| fits(row)).map(|(index, _)| index).collect()
}

/// Equality of texts as SQL Server's usual collation has it: without case, trailing blanks do not count.
fn same(a: &str, b: &str) -> bool {
    a.trim_end().to_lowercase() == b.trim_end().to_lowercase()
}

/// Whether all rows say the same in the columns that PyMedPhys reads.
fn agree(found: &[usize], treatments: &[Treatment]) -> bool {
    let columns = |&row: &usize| {
        treatments.get(row).map(|row| {
            let names = (&row.patient_id, &row.last_name, &row.first_name);
            (names, row.field_id, row.qa_mode, row.field_type, row.beam_complete)
        })
    };
    found.windows(2).all(|pair| matches!(pair, [a, b] if columns(a) == columns(b)))
}
