//! `[trf]`: where the linacs' log files are collected, and how.

use std::path::PathBuf;

use chrono::NaiveTime;
use serde::{Deserialize, Serialize};

use super::{home, seconds, wrong};
use crate::error::Result;

/// `[trf]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrfSettings {
    /// Directory of all zips and records; PyMedPhys's `trf_logfiles.root_directory`, with its layout.
    pub root: PathBuf,
    /// Which files on the linacs' shares are diagnostics zips, `*` and `?`.
    pub zips: String,
    /// What becomes of a zip whose records were taken out and verified.
    pub after_extract: AfterExtract,
    /// Times of day, on this computer's clock, at which the service fetches and indexes, such as `["05:30", "13:00"]`; empty: never.
    pub sync_at: Vec<String>,
    /// Bytes that must stay free on the disk.
    pub keep_free_bytes: u64,
    /// Day without a fetch from which it is a warning; the linac keeps its zips for eight.
    pub warn_after_days: u8,
    /// Linacs that are collected from at the same time.
    pub at_once: u8,
    /// Seconds without a sign of life after which a linac is given up for this run.
    pub stall_s: f64,
    /// Reads every zip a second time from the share and compares: for networks that are not trusted.
    pub read_twice: bool,
}

/// What becomes of a zip whose records were taken out and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterExtract {
    /// It is moved to `diagnostics/already_indexed`, as PyMedPhys does.
    Move,
    /// It stays in `diagnostics/to_be_indexed`.
    Keep,
    /// It is removed.
    Remove,
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text.trim(), "%H:%M").ok()
}

impl Default for TrfSettings {
    fn default() -> Self {
        Self {
            root: home().join("trf"),
            zips: "SDD*.zip".into(),
            after_extract: AfterExtract::Move,
            sync_at: vec!["05:30".into()],
            keep_free_bytes: 1 << 30,
            warn_after_days: 4,
            at_once: 4,
            stall_s: 120.0,
            read_twice: false,
        }
    }
}

impl TrfSettings {
    /// [`TrfSettings::sync_at`] as times; what is none was refused by the check.
    pub fn sync_times(&self) -> Vec<NaiveTime> {
        self.sync_at.iter().filter_map(|text| time_of_day(text)).collect()
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.root.is_absolute() {
            return Err(wrong("trf.root", format!("`{}` is not an absolute path", self.root.display())));
        }
        if self.zips.trim().is_empty() || self.zips.contains(['/', '\\']) {
            let what = format!("`{}` is no pattern of file names: give one such as SDD*.zip", self.zips);
            return Err(wrong("trf.zips", what));
        }
        if let Some(text) = self.sync_at.iter().find(|text| time_of_day(text).is_none()) {
            return Err(wrong("trf.sync_at", format!("`{text}` is no time of day such as 05:30")));
        }
        if !(1..=7).contains(&self.warn_after_days) {
            let what = format!(
                "{} is not between 1 and 7: the linac keeps its zips for 8 days",
                self.warn_after_days
            );
            return Err(wrong("trf.warn_after_days", what));
        }
        if !(1..=32).contains(&self.at_once) {
            return Err(wrong("trf.at_once", format!("{} is not between 1 and 32", self.at_once)));
        }
        seconds("trf.stall_s", self.stall_s)
    }
}
