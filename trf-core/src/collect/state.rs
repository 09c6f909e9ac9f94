//! What is remembered of a linac between runs: which zips are known, and when a fetch last worked.
//!
//! One small JSON file per linac, replaced as a whole. If it is lost, the zips on disk say what was fetched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::share::Remote;

/// Zips that are remembered after the share has dropped them: a year of days, with room.
const REMEMBERED: usize = 500;
/// Times of a share may be rounded to this (FAT), or cut to whole seconds.
const TIME_STEP: TimeDelta = TimeDelta::seconds(2);

/// What is remembered of a linac.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// When a fetch was first tried.
    pub(super) first_tried_utc: Option<DateTime<Utc>>,
    /// When a fetch was last tried.
    pub(super) last_tried_utc: Option<DateTime<Utc>>,
    /// When a fetch last got everything that was new.
    pub(super) last_fetch_utc: Option<DateTime<Utc>>,
    /// When the newest zip on the share was written, by the share's clock.
    pub(super) newest_zip_utc: Option<DateTime<Utc>>,
    /// What went wrong at the last try.
    pub(super) last_error: Option<String>,
    /// The zips, by name.
    pub(super) zips: BTreeMap<String, Zip>,
}

/// A zip that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Zip {
    /// Size on the share.
    pub(super) bytes: u64,
    /// When it was written, by the share's clock.
    pub(super) modified_utc: Option<DateTime<Utc>>,
    /// SHA-256 of the copy; empty for a copy that is not ours.
    pub(super) sha256: String,
    /// When its copy was complete.
    pub(super) fetched_utc: DateTime<Utc>,
    /// How often it was copied.
    pub(super) attempts: u32,
    /// How far it got.
    pub(super) stage: Stage,
}

/// How far a zip got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// On the share, but not a whole zip: the linac may still be writing it.
    Unfinished,
    /// Copied and verified.
    Fetched,
    /// Its records were taken out.
    Extracted {
        /// How many.
        records: usize,
    },
    /// Refused, in part or as a whole.
    Refused {
        /// Why.
        reason: String,
    },
}

impl State {
    /// Reads it; a file that is absent or damaged is an empty state, the damaged one is kept beside it.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io(path, error)),
        };
        serde_json::from_slice(&text).or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what was remembered of a linac is damaged; starting anew from the zips on disk");
            std::fs::rename(path, path.with_extension("json.damaged")).map_err(|e| Error::io(path, e))?;
            Ok(Self::default())
        })
    }

    /// Replaces the file as a whole.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::io(path, e.into()))?;
        replace(path, &text)
    }

    /// Whether the zip needs no copy.
    pub(super) fn knows(&self, remote: &Remote) -> bool {
        let Some(zip) = self.zips.get(&remote.name).filter(|zip| zip.is(remote)) else { return false };
        match zip.stage {
            Stage::Unfinished => false,
            // Once more, in case the damage happened on the way.
            Stage::Refused { .. } => zip.attempts > 1,
            Stage::Fetched | Stage::Extracted { .. } => true,
        }
    }

    /// Forgets the oldest of those that the share no longer has.
    pub(super) fn forget(&mut self, listed: &[Remote]) {
        let gone: Vec<(DateTime<Utc>, String)> = (self.zips.iter())
            .filter(|(name, _)| !listed.iter().any(|remote| remote.name == **name))
            .map(|(name, zip)| (zip.fetched_utc, name.clone()))
            .collect();
        let mut gone = gone;
        gone.sort();
        for (_, name) in gone.iter().rev().skip(REMEMBERED) {
            self.zips.remove(name);
        }
    }
}

impl Zip {
    /// Whether it is still what the share has under this name.
    pub(super) fn is(&self, remote: &Remote) -> bool {
        self.bytes == remote.bytes && same_time(self.modified_utc, remote.modified)
    }
}

/// Whether two times of one file on a share are the same, as far as shares tell.
pub(super) fn same_time(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= TIME_STEP,
        _ => true,
    }
}

/// How much time a linac's zips leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Fetched lately.
    Fine,
    /// Not fetched for days: look after it now.
    Warning,
    /// Not fetched for so long that the linac has begun to remove what was never fetched.
    Losing,
}

/// When a linac was last fetched from, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Name of the linac.
    pub linac: String,
    /// When a fetch last got everything that was new.
    pub last_fetch_utc: Option<DateTime<Utc>>,
    /// When a fetch was last tried.
    pub last_tried_utc: Option<DateTime<Utc>>,
    /// Days since the last fetch, or since the first try; `None` if none was ever tried.
    pub days_without_fetch: Option<i64>,
    /// What that means.
    pub level: Level,
    /// The same in one sentence.
    pub text: String,
    /// What went wrong at the last try, if it did.
    pub last_error: Option<String>,
}

/// The linac keeps its zips for so many days. Source: vendor's practice, as the project's issue states it.
pub const LINAC_KEEPS_DAYS: i64 = 8;

impl State {
    /// How fresh the linac's zips are on the day `today`; days begin at midnight of `offset`'s clock.
    pub(super) fn freshness(
        &self,
        linac: &str,
        warn_after_days: i64,
        today: NaiveDate,
        day_of: impl Fn(DateTime<Utc>) -> NaiveDate,
    ) -> Freshness {
        let since = self.last_fetch_utc.or(self.first_tried_utc);
        let days = since.map(|time| (today - day_of(time)).num_days().max(0));
        let level = match days {
            Some(days) if days >= LINAC_KEEPS_DAYS => Level::Losing,
            Some(days) if days >= warn_after_days => Level::Warning,
            _ => Level::Fine,
        };
        let since = match (self.last_fetch_utc, days) {
            (_, None) => "never tried to fetch".to_owned(),
            (None, Some(days)) => format!("never fetched, tried for {}", count(days)),
            (Some(_), Some(0)) => "fetched today".to_owned(),
            (Some(_), Some(days)) => format!("not fetched for {}", count(days)),
        };
        let left = LINAC_KEEPS_DAYS - days.unwrap_or(0);
        let text = match level {
            Level::Fine => since,
            Level::Warning => {
                format!("{since}: the linac keeps its zips {LINAC_KEEPS_DAYS} days, {} are left", count(left))
            }
            Level::Losing => {
                format!("{since}: the linac keeps its zips {LINAC_KEEPS_DAYS} days, records are being lost")
            }
        };
        Freshness {
            linac: linac.to_owned(),
            last_fetch_utc: self.last_fetch_utc,
            last_tried_utc: self.last_tried_utc,
            days_without_fetch: days,
            level,
            text,
            last_error: self.last_error.clone(),
        }
    }
}

fn count(days: i64) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

/// Writes a file so that it is there as a whole or as it was.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let failed = |error| Error::io(path, error);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&part, path)).map_err(|error| {
        let _ = std::fs::remove_file(&part);
        failed(error)
    })?;
    path.parent().map_or(Ok(()), super::sync_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: i64) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000 + n) + TimeDelta::hours(2)
    }

    fn freshness(state: &State, today: i64) -> Freshness {
        state.freshness("4299", 4, day(today).date_naive(), |time| time.date_naive())
    }

    #[test]
    fn warns_from_the_fourth_day_without_a_fetch_and_says_when_records_are_lost() {
        let state =
            State { last_fetch_utc: Some(day(0)), first_tried_utc: Some(day(-50)), ..State::default() };
        let levels: Vec<Level> = (0..10).map(|today| freshness(&state, today).level).collect();
        assert_eq!(levels.iter().filter(|l| **l == Level::Fine).count(), 4);
        assert_eq!(levels[4..8], [Level::Warning; 4]);
        assert_eq!(levels[8..], [Level::Losing; 2]);
        assert_eq!(
            freshness(&state, 5).text,
            "not fetched for 5 days: the linac keeps its zips 8 days, 3 days are left"
        );
        assert_eq!(freshness(&state, 0).text, "fetched today");
        let never = State { first_tried_utc: Some(day(0)), ..State::default() };
        assert_eq!((freshness(&never, 3).level, freshness(&never, 4).level), (Level::Fine, Level::Warning));
        assert!(freshness(&never, 9).text.starts_with("never fetched, tried for 9 days"));
        assert_eq!(freshness(&State::default(), 9).text, "never tried to fetch");
    }

    #[test]
    fn a_zip_is_known_by_name_size_and_time_and_a_refused_one_is_tried_once_more() {
        let remote = |bytes, seconds| Remote {
            name: "SDD+1.zip".into(),
            bytes,
            modified: Some(day(0) + TimeDelta::seconds(seconds)),
        };
        let mut state = State::default();
        assert!(!state.knows(&remote(7, 0)));
        let zip = Zip {
            bytes: 7,
            modified_utc: Some(day(0)),
            sha256: String::new(),
            fetched_utc: day(0),
            attempts: 1,
            stage: Stage::Fetched,
        };
        state.zips.insert("SDD+1.zip".into(), zip.clone());
        assert!(state.knows(&remote(7, 1)) && !state.knows(&remote(8, 0)) && !state.knows(&remote(7, 60)));
        let refused =
            |attempts| Zip { attempts, stage: Stage::Refused { reason: "cut".into() }, ..zip.clone() };
        state.zips.insert("SDD+1.zip".into(), refused(1));
        assert!(!state.knows(&remote(7, 0)));
        state.zips.insert("SDD+1.zip".into(), refused(2));
        assert!(state.knows(&remote(7, 0)));
    }

    #[test]
    fn survives_its_file_and_starts_anew_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("4299.json");
        assert_eq!(State::load(&path).unwrap(), State::default());
        let state = State { last_fetch_utc: Some(day(1)), ..State::default() };
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), state);
        std::fs::write(&path, b"{ \"zips\": ").unwrap();
        assert_eq!(State::load(&path).unwrap(), State::default());
        assert!(dir.path().join("4299.json.damaged").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
    }
}
