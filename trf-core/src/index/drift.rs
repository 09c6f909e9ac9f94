//! What each linac's clock showed more than Mosaiq's server, day by day: the next day's alignment begins there.

use chrono::NaiveDate;
use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::Index;
use crate::Result;

/// The clocks of one day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClockDay {
    /// Which day, on the site's clock.
    pub day: NaiveDate,
    /// Linac minus server, in s.
    pub seconds: f64,
    /// Spread of the single values around it, in s.
    pub spread_s: f64,
    /// From how many matched records it comes.
    pub n_pairs: u32,
}

impl Index {
    /// Remembers the clocks of a machine's day.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index)
    pub fn set_drift(&self, machine: &str, clocks: &ClockDay) -> Result<()> {
        let values =
            params![machine, clocks.day.to_string(), clocks.seconds, clocks.spread_s, clocks.n_pairs];
        self.connection
            .execute("INSERT OR REPLACE INTO drifts VALUES (?1, ?2, ?3, ?4, ?5)", values)
            .map(drop)
            .map_err(self.failed())
    }

    /// The clocks of the nearest day before, and of the nearest day after.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index)
    pub fn drifts_around(
        &self,
        machine: &str,
        day: NaiveDate,
    ) -> Result<(Option<ClockDay>, Option<ClockDay>)> {
        let ask = |condition: &str| {
            let sql = format!(
                "SELECT day, seconds, spread_s, n_pairs FROM drifts WHERE machine = ?1 AND {condition} LIMIT 1"
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            statement.query_row(params![machine, day.to_string()], clock_day).optional()
        };
        let before = ask("day < ?2 ORDER BY day DESC").map_err(self.failed())?;
        let after = ask("day > ?2 ORDER BY day").map_err(self.failed())?;
        Ok((before.flatten(), after.flatten()))
    }

    /// The newest known clocks of a machine.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index)
    pub fn newest_drift(&self, machine: &str) -> Result<Option<ClockDay>> {
        let sql =
            "SELECT day, seconds, spread_s, n_pairs FROM drifts WHERE machine = ?1 ORDER BY day DESC LIMIT 1";
        let found = self.connection.query_row(sql, [machine], clock_day).optional();
        found.map(Option::flatten).map_err(self.failed())
    }
}

fn clock_day(row: &Row<'_>) -> rusqlite::Result<Option<ClockDay>> {
    let day: String = row.get(0)?;
    let Ok(day) = day.parse() else { return Ok(None) };
    Ok(Some(ClockDay { day, seconds: row.get(1)?, spread_s: row.get(2)?, n_pairs: row.get(3)? }))
}
