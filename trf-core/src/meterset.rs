//! Cumulative meterset from the record's dose counters, across wraps and restarts.
//!
//! Input: the raw counter (1/64 MU) and Step Dose (0.1 MU) of each row. Output: MU since the first row. PyMedPhys sums
//! Step Dose and loses what was delivered at a wrap, or before the first row of a new beam; that mode is
//! [`Delivery`](crate::Delivery)'s compatible one.

use crate::error::Result;
use crate::header::Version;
use crate::items::{DOSE_RAW, STEP_DOSE};
use crate::reader::Record;

/// Counts of the raw counter in one MU.
const COUNTS_PER_MU: f64 = 64.0;
/// Steps of Step Dose in one MU.
const STEPS_PER_MU: f64 = 10.0;
/// Values of a 16-bit counter.
const WRAP: i64 = 1 << 16;
/// No beam delivers more between two rows (40 ms); the fastest real one delivers 1.6 MU.
const MAX_MU_PER_ROW: f64 = 100.0;

impl Record {
    /// Cumulative meterset in MU since the first row, from the raw counter (1/64 MU); never decreasing.
    ///
    /// A counter that wraps goes on; one that restarts, as each beam of a sequence does, adds what it shows then. Step
    /// Dose tells the two apart where the raw counter alone cannot, and stands in where a record has no raw counter.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the record has neither counter.
    pub fn meterset_mu(&self) -> Result<Vec<f64>> {
        let wraps = self.header().version != Version::V4;
        let step = self.column_of(STEP_DOSE).map(|column| column.raw());
        let (counts, per_mu, step) = match self.column_of(DOSE_RAW) {
            Some(raw) => (raw.raw(), COUNTS_PER_MU, step),
            None => (self.required(STEP_DOSE)?.raw(), STEPS_PER_MU, None),
        };
        let mut sum = Counter::new(wraps, per_mu);
        let restarts = restarts(step.as_deref(), wraps);
        Ok(counts
            .iter()
            .enumerate()
            .map(|(row, &count)| sum.add(i64::from(count), restarts(row)) as f64 / per_mu)
            .collect())
    }
}

/// Whether Step Dose says that a new beam began in a row.
fn restarts(step: Option<&[i32]>, wraps: bool) -> impl Fn(usize) -> bool + '_ {
    move |row| {
        let step = step.unwrap_or_default();
        let (Some(&before), Some(&now)) = (row.checked_sub(1).and_then(|r| step.get(r)), step.get(row))
        else {
            return false;
        };
        let (before, now) = (i64::from(before), i64::from(now));
        now < before && !(wraps && is_wrap(before, now, STEPS_PER_MU))
    }
}

fn is_wrap(before: i64, now: i64, per_mu: f64) -> bool {
    (now - before).rem_euclid(WRAP) as f64 <= MAX_MU_PER_ROW * per_mu
}

/// Sums a counter.
struct Counter {
    wraps: bool,
    per_mu: f64,
    last: Option<i64>,
    total: i64,
}

impl Counter {
    fn new(wraps: bool, per_mu: f64) -> Self {
        Counter { wraps, per_mu, last: None, total: 0 }
    }

    fn add(&mut self, count: i64, restarted: bool) -> i64 {
        let now = if self.wraps { count.rem_euclid(WRAP) } else { count.max(0) };
        let Some(before) = self.last.replace(now) else { return 0 };
        self.total += if now >= before && !restarted {
            now - before
        } else if self.wraps && !restarted && is_wrap(before, now, self.per_mu) {
            now - before + WRAP
        } else if 2 * now <= before || restarted && now <= before {
            now
        } else {
            // A counter that steps back a little is noise: what it showed before stays counted, and only once.
            self.last = Some(before);
            0
        };
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(counts: &[i64]) -> i64 {
        let mut counter = Counter::new(true, COUNTS_PER_MU);
        counts.iter().map(|&count| counter.add(count, false)).last().unwrap_or_default()
    }

    #[test]
    fn goes_on_across_a_wrap() {
        assert_eq!(sum(&[65_500, -20, 10, 40]), 76);
    }

    #[test]
    fn counts_what_a_restarted_counter_shows() {
        assert_eq!(sum(&[0, 300, 6400, 20, 50]), 6450);
    }

    #[test]
    fn counts_no_dose_twice_when_a_counter_steps_back() {
        assert_eq!(sum(&[0, 1000, 999, 1000, 1001]), 1001);
    }

    #[test]
    fn step_dose_tells_a_restart_from_a_wrap() {
        let mut counter = Counter::new(true, COUNTS_PER_MU);
        counter.add(0, false);
        counter.add(65_000, false);
        assert_eq!(counter.add(10, true), 65_010);
        assert!(restarts(Some(&[10_156, 1]), true)(1));
        assert!(!restarts(Some(&[32_767, -32_768]), true)(1));
    }
}
