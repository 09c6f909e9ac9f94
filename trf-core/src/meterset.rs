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

/// Smallest dose from which a fall to less than half is a new beam even if Step Dose does not say so; less is noise.
const MIN_RESTART_MU: f64 = 1.0;

/// The dose of a record, summed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meterset {
    /// Cumulative meterset since the first row in MU, one per row, never decreasing.
    pub meterset_mu: Vec<f64>,
    /// Rows at which the counter restarted and dose followed: there begins each beam but the first.
    pub beam_starts: Vec<usize>,
}

impl Record {
    /// Cumulative meterset in MU since the first row, from the raw counter (1/64 MU).
    ///
    /// A counter that wraps goes on; one that restarts, as each beam of a sequence does, adds what it shows then. Step
    /// Dose tells the two apart where the raw counter alone cannot, and stands in where a record has no raw counter. After
    /// a beam of less than a step of Step Dose (0.1 MU) a restart is taken for noise: of the next only what exceeds it counts.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the record has neither counter.
    pub fn meterset(&self) -> Result<Meterset> {
        let wraps = self.header().version != Version::V4;
        let step = self.column_of(STEP_DOSE).map(|column| column.raw());
        let (counts, per_mu, step) = match self.column_of(DOSE_RAW) {
            Some(raw) => (raw.raw(), COUNTS_PER_MU, step),
            None => (self.required(STEP_DOSE)?.raw(), STEPS_PER_MU, None),
        };
        let mut sum = Counter::new(wraps, per_mu);
        let restarts = restarts(step.as_deref(), wraps);
        let meterset_mu = counts.iter().enumerate();
        let meterset_mu = meterset_mu.map(|(row, &count)| {
            sum.add(row, i64::from(count), restarts(row));
            sum.total as f64 / per_mu
        });
        Ok(Meterset { meterset_mu: meterset_mu.collect(), beam_starts: sum.beam_starts })
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
    restarted_at: Option<usize>,
    beam_starts: Vec<usize>,
}

impl Counter {
    fn new(wraps: bool, per_mu: f64) -> Self {
        Counter { wraps, per_mu, last: None, total: 0, restarted_at: None, beam_starts: Vec::new() }
    }

    fn add(&mut self, row: usize, count: i64, step_restarted: bool) {
        let now = if self.wraps { count.rem_euclid(WRAP) } else { count.max(0) };
        let Some(before) = self.last.replace(now) else { return };
        let halved = before as f64 >= MIN_RESTART_MU * self.per_mu && 2 * now <= before;
        let increase = if now >= before {
            now - before
        } else if self.wraps && !step_restarted && is_wrap(before, now, self.per_mu) {
            now - before + WRAP
        } else if step_restarted || halved {
            // What a restarted counter shows was delivered since.
            self.restarted_at = Some(row);
            now
        } else {
            // A counter that steps back a little is noise: what it showed before stays counted, and only once.
            self.last = Some(before);
            0
        };
        self.total += increase;
        if increase > 0 {
            self.beam_starts.extend(self.restarted_at.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(counts: &[i64]) -> i64 {
        let mut counter = Counter::new(true, COUNTS_PER_MU);
        counts.iter().enumerate().for_each(|(row, &count)| counter.add(row, count, false));
        counter.total
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
    fn a_second_beam_of_less_than_a_step_of_either_counter_is_noise() {
        assert_eq!(sum(&[0, 6, 0, 6]), 6);
        assert_eq!(sum(&[0, 64, 0, 6]), 70, "after a whole MU a fall to nothing is a restart");
    }

    #[test]
    fn a_reset_after_the_last_dose_is_no_beam() {
        let mut counter = Counter::new(true, COUNTS_PER_MU);
        [0, 6400, 0, 640, 0].iter().enumerate().for_each(|(row, &count)| counter.add(row, count, false));
        assert_eq!((counter.total, counter.beam_starts), (7040, vec![2]));
    }

    #[test]
    fn step_dose_tells_a_restart_from_a_wrap() {
        let mut counter = Counter::new(true, COUNTS_PER_MU);
        counter.add(0, 0, false);
        counter.add(1, 65_000, false);
        counter.add(2, 10, true);
        assert_eq!((counter.total, counter.beam_starts), (65_010, vec![2]));
        assert!(restarts(Some(&[10_156, 1]), true)(1));
        assert!(!restarts(Some(&[32_767, -32_768]), true)(1));
    }
}
