//! A linac's clock against true time: a constant, a slow drift, and steps when somebody sets it.

use chrono::{DateTime, Utc};

use super::random::Random;

/// The clock of a linac.
#[derive(Clone, Debug)]
pub struct Clock {
    /// From when on: what the clock shows more than true time then, in s, and what it gains per day.
    pieces: Vec<(DateTime<Utc>, f64, f64)>,
}

impl Clock {
    /// Most that a clock is ever off, in s.
    pub const MOST_S: f64 = 600.0;

    /// A clock that is off by `offset_s` and gains or loses up to 3 s a day; it is set at the given times to anything.
    pub fn random(random: &mut Random, begin: DateTime<Utc>, offset_s: f64, steps: &[DateTime<Utc>]) -> Self {
        let rate = random.between(-3.0, 3.0);
        let mut pieces = vec![(begin, offset_s, rate)];
        for &step in steps {
            let off = random.between(-Self::MOST_S, Self::MOST_S);
            pieces.push((step, off, random.between(-3.0, 3.0)));
        }
        Clock { pieces }
    }

    /// A clock that stays where it is.
    pub fn steady(begin: DateTime<Utc>, offset_s: f64) -> Self {
        Clock { pieces: vec![(begin, offset_s, 0.0)] }
    }

    /// What it shows more than true time, in s.
    pub fn off_s(&self, time: DateTime<Utc>) -> f64 {
        let piece = self.pieces.iter().rev().find(|piece| piece.0 <= time).unwrap_or(&self.pieces[0]);
        let days = (time - piece.0).as_seconds_f64() / 86_400.0;
        (piece.1 + piece.2 * days).clamp(-Self::MOST_S, Self::MOST_S)
    }

    /// When it was last set before `time`.
    pub fn set_before(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        self.pieces.iter().rev().find(|piece| piece.0 <= time).unwrap_or(&self.pieces[0]).0
    }
}
