//! The clinic's records as TRF files: dose counters, state and control point only, so that a whole clinic fits a disk.

use std::io;
use std::path::{Path, PathBuf};

use trf_core::Version;
use trf_core::items;
use trf_core::writer::{NewRecord, NewRow};

use super::Clinic;

/// State of a row in which dose is delivered, between segments, and at the end (FORMAT: Linac state).
const RADIATION_ON: i32 = 42;
const INTERSEGMENT: i32 = 41;
const TERMINATED_OK: i32 = 46;

impl Clinic {
    /// The bytes of a record.
    pub fn trf(&self, record: usize) -> Vec<u8> {
        let delivered = &self.records[record];
        let log = self.log(record);
        let n_rows = (log.end_utc - log.start_utc).num_milliseconds() / 40;
        let mut file = NewRecord::agility(Version::V1);
        file.utc_text = log.end_utc.format("%y/%m/%d %H:%M:%S Z").to_string();
        file.utc_offset_text = log.end_utc.with_timezone(&self.settings.zone).format("%:z").to_string();
        file.field = self.header_field(record);
        file.machine_id = self.linacs[delivered.linac].name.clone();
        file.total_dose_tenth_mu = (log.meterset_mu * 10.0).round();
        file.items = vec![items::CONTROL_POINT, items::LINAC_STATE, items::STEP_DOSE, items::DOSE_RAW];
        file.rows = rows(&delivered.beams_mu, n_rows as usize);
        file.to_bytes().expect("counters fit 16 bits")
    }

    /// The record's name on the linac: end and field, with what no file name may hold as `_`.
    pub fn file_name(&self, record: usize) -> String {
        let end = self.log(record).end_utc.format("%y_%m_%d %H_%M_%S Z");
        let field = self.header_field(record).replace(['/', ':', '\\'], "_");
        format!("{end} {field}.trf")
    }

    /// Writes a record into a directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_record(&self, record: usize, directory: &Path) -> io::Result<PathBuf> {
        let path = directory.join(self.file_name(record));
        std::fs::write(&path, self.trf(record))?;
        Ok(path)
    }
}

/// Each beam counts from zero, steadily; a row between beams, and a second at either end, deliver nothing.
fn rows(beams_mu: &[f64], n_rows: usize) -> Vec<NewRow> {
    const QUIET: usize = 25;
    let per_beam = n_rows.saturating_sub(2 * QUIET) / beams_mu.len().max(1);
    let row = |beam: usize, state: i32, counts: i64| {
        // The counter has 16 bits and no sign; rows store it as a signed number.
        let raw = i32::from((counts % 65_536) as u16 as i16);
        NewRow { timestamp_ms: 0, values: vec![beam as i32 + 1, state, (counts * 10 / 64) as i32, raw] }
    };
    let mut rows = vec![row(0, INTERSEGMENT, 0); QUIET];
    let mut last = 0;
    for (beam, mu) in beams_mu.iter().enumerate() {
        last = (mu * 64.0).round() as i64;
        rows.push(row(beam, INTERSEGMENT, 0));
        let steps = per_beam.saturating_sub(1).max(1) as i64;
        rows.extend((1..=steps).map(|step| row(beam, RADIATION_ON, last * step / steps)));
    }
    rows.resize(n_rows, row(beams_mu.len().saturating_sub(1), TERMINATED_OK, last));
    rows
}
