//! What a person asks first of a record: which machine, when, how long, how much, did it end well.
//!
//! Output: [`Summary`], plain values for `scp-node trf info`, for the JSON beside a clean CSV, and for Parquet metadata.

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
use serde::Serialize;

use crate::items::{self, ItemPart, Provenance};
use crate::reader::{ROW_INTERVAL_MS, Record};

/// Plain values that describe a record. What the record does not say is `None`, never 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Machine id.
    pub machine_id: String,
    /// Treatment name as written.
    pub field: String,
    /// Part of the field before its only slash.
    pub field_label: String,
    /// Part of the field after its only slash, else all of it.
    pub field_name: String,
    /// Format version, 1 to 4.
    pub version: i32,
    /// Number of complete rows.
    pub rows: usize,
    /// Number of columns, timestamps not counted.
    pub columns: usize,
    /// rows · 0.04 s.
    pub duration_s: f64,
    /// Start of the record, host's clock, UTC.
    pub start_utc: String,
    /// End of the record, host's clock, UTC: what the header says.
    pub end_utc: String,
    /// Start in the site's offset.
    pub start_local: Option<String>,
    /// End in the site's offset.
    pub end_local: Option<String>,
    /// The site's offset from UTC as written.
    pub utc_offset: String,
    /// First timestamp, controller's clock.
    pub controller_start_utc: Option<String>,
    /// Last timestamp, controller's clock.
    pub controller_end_utc: Option<String>,
    /// What the controller's clock shows more than the host's.
    pub controller_minus_host_s: Option<f64>,
    /// Total dose of the header, over all beams of the record; 0 in service mode.
    pub header_total_mu: Option<f64>,
    /// Meterset counted in the rows.
    pub delivered_mu: Option<f64>,
    /// Time in the state Radiation On.
    pub radiation_on_s: Option<f64>,
    /// Times that the radiation was switched on, segments and beams alike.
    pub radiation_on_count: Option<usize>,
    /// Last linac state, such as `Terminated Ok`; the code where it is not known.
    pub last_state: Option<String>,
    /// Energy codes, in order of appearance.
    pub energy_codes: Option<Vec<i32>>,
    /// Smallest and largest gantry angle, bipolar.
    pub gantry_bipolar_deg: Option<[f64; 2]>,
    /// Items whose meaning is not known, as `item/part`.
    pub unknown_items: Vec<String>,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// State of the linac in which dose rises.
const RADIATION_ON: i32 = 42;

impl Record {
    /// What a person asks first.
    pub fn summary(&self) -> Summary {
        let header = self.header();
        let local = |time: DateTime<Utc>| {
            header.utc_offset.map(|o| iso(&time.with_timezone(&o), SecondsFormat::Secs))
        };
        let controller = |time: Option<DateTime<Utc>>| time.map(|t| iso(&t, SecondsFormat::Millis));
        let states = self.column_of(items::LINAC_STATE).map(|column| column.raw());
        let on = |state: &&i32| **state == RADIATION_ON;
        Summary {
            machine_id: header.machine_id.clone(),
            field: header.field.clone(),
            field_label: header.field_label().to_owned(),
            field_name: header.field_name().to_owned(),
            version: header.version.number(),
            rows: self.n_rows(),
            columns: self.n_columns(),
            duration_s: rows_to_s(self.n_rows()),
            start_utc: iso(&self.start_utc(), SecondsFormat::Secs),
            end_utc: iso(&self.end_utc(), SecondsFormat::Secs),
            start_local: local(self.start_utc()),
            end_local: local(self.end_utc()),
            utc_offset: header.utc_offset_text.clone(),
            controller_start_utc: controller(self.controller_start_utc()),
            controller_end_utc: controller(self.controller_end_utc()),
            controller_minus_host_s: self.controller_minus_host_s(),
            header_total_mu: header.total_mu(),
            delivered_mu: self.meterset().ok().and_then(|m| m.meterset_mu.last().copied()),
            radiation_on_s: states.as_ref().map(|s| rows_to_s(s.iter().filter(on).count())),
            radiation_on_count: states
                .as_ref()
                .map(|s| s.chunk_by(|a, b| a == b).filter_map(|c| c.first()).filter(on).count()),
            last_state: states
                .as_ref()
                .and_then(|s| s.last())
                .map(|code| items::Rule::LinacState.text(*code).into_owned()),
            energy_codes: self.column_of(items::ENERGY).map(|column| in_order_of_appearance(&column.raw())),
            gantry_bipolar_deg: self.column_of(items::GANTRY).and_then(|column| extremes(&column.values())),
            unknown_items: header.items.iter().filter(|i| is_unknown(**i)).map(ItemPart::to_string).collect(),
            warnings: self.warnings().iter().map(ToString::to_string).collect(),
        }
    }
}

fn is_unknown(item: ItemPart) -> bool {
    items::meaning(item).provenance == Provenance::Unknown
}

fn rows_to_s(rows: usize) -> f64 {
    rows as f64 * ROW_INTERVAL_MS as f64 / 1000.0
}

fn iso<Z: TimeZone>(time: &DateTime<Z>, precision: SecondsFormat) -> String
where
    Z::Offset: std::fmt::Display,
{
    time.to_rfc3339_opts(precision, true)
}

fn in_order_of_appearance(codes: &[i32]) -> Vec<i32> {
    let mut seen = std::collections::HashSet::new();
    codes.iter().copied().filter(|code| seen.insert(*code)).collect()
}

fn extremes(values: &[f64]) -> Option<[f64; 2]> {
    let smallest = values.iter().copied().reduce(f64::min)?;
    let largest = values.iter().copied().reduce(f64::max)?;
    Some([smallest, largest])
}
