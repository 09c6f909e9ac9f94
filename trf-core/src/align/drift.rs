//! The difference between the clocks through the day, as a hidden state: it stays, creeps, or is set.
//!
//! Each record says at which differences it would fit a row, and how well. Forward and backward passes over a grid of
//! differences (as in any hidden Markov model, with maxima in place of sums) tell for each record and each of its rows the
//! best that the whole day allows. A clock that is minutes off, one that was set at noon, and a day with one record are
//! the same computation.

use super::evidence::{Evidence, GRID_S, Unit, WITHOUT_ROW};
use super::types::{AlignOptions, Drift};

/// The clock creeps by a step of the grid from one record to the next.
const CREEP: f64 = 1.2;
/// The clock is set between two records: seldom, and to anything.
const SET: f64 = 14.5;
/// The clock was set since the day that the known difference is of.
const SET_SINCE: f64 = 12.5;
/// Within this no clock surprises (PyMedPhys's buffer).
const USUAL_S: f64 = 240.0;
/// Beyond it, of a clock of which nothing is known.
const UNUSUAL: f64 = 3.0;
/// A difference is not known better than this.
const MIN_SPREAD_S: f64 = 4.0;

/// A record may seem to begin before the one before it has ended by this: rounding of both, in s.
const OVERLAP_S: f64 = 5.0;

/// What a log's units gain at each difference of the clocks.
pub(super) struct Gains {
    half: usize,
    /// Per log, by how many states the clock can have been put forward since the log before it.
    forward: Vec<isize>,
    /// Per log, per unit: first state and gains from there on.
    units: Vec<Vec<(usize, Vec<f64>)>>,
}

/// Scores of the states of all logs.
pub(super) struct Passes {
    /// Best score of the logs before, per log and state.
    forward: Vec<Vec<f64>>,
    /// Best score of the logs after.
    backward: Vec<Vec<f64>>,
    half: usize,
}

impl Gains {
    pub(super) fn new(evidence: &Evidence, units: &[Vec<Unit>], options: &AlignOptions) -> Self {
        let half = half(options.max_drift_s);
        let of = |(log, units): (&(f64, f64), &Vec<Unit>)| {
            units.iter().map(|unit| gains(unit, *log, half)).collect()
        };
        let units = evidence.logs.iter().zip(units).map(of).collect();
        Gains { half, forward: forward(&evidence.logs), units }
    }

    /// Best gain per state, of all units that `admitted` lets through.
    fn emission(&self, log: usize, admitted: &impl Fn(usize, usize) -> bool) -> Vec<f64> {
        let mut best = vec![WITHOUT_ROW; n_states(self.half)];
        for (unit, (first, gains)) in self.units.get(log).into_iter().flatten().enumerate() {
            if admitted(log, unit) {
                let states = best.iter_mut().skip(*first);
                states.zip(gains).for_each(|(state, gain)| *state = state.max(*gain));
            }
        }
        best
    }

    /// Passes over the day in which log `l` may have unit `u` if `admitted(l, u)`.
    pub(super) fn passes(&self, options: &AlignOptions, admitted: impl Fn(usize, usize) -> bool) -> Passes {
        let emissions: Vec<Vec<f64>> =
            (0..self.units.len()).map(|log| self.emission(log, &admitted)).collect();
        let mut forward = Vec::with_capacity(emissions.len());
        let mut state = known(options.drift_before, self.half);
        for (log, emission) in emissions.iter().enumerate() {
            forward.push(state.clone());
            state = self.step(&sum(&state, emission), log + 1, Way::Later);
        }
        let mut backward = Vec::with_capacity(emissions.len());
        let mut state = match options.drift_after {
            Some(drift) => known(Some(drift), self.half),
            None => vec![0.0; n_states(self.half)],
        };
        for (log, emission) in emissions.iter().enumerate().rev() {
            backward.push(state.clone());
            state = self.step(&sum(&state, emission), log, Way::Earlier);
        }
        backward.reverse();
        Passes { forward, backward, half: self.half }
    }

    /// From one record to its neighbour; `log` is the later of the two.
    ///
    /// Two records of one machine do not overlap: the clock is not put forward by more than the time that it shows between them.
    fn step(&self, state: &[f64], log: usize, way: Way) -> Vec<f64> {
        let most = self.forward.get(log).copied().unwrap_or(isize::MAX);
        let at = |place: usize| state.get(place).copied().unwrap_or(f64::NEG_INFINITY);
        // Best of all states from which, or to which, the clock can have been set.
        let mut reached = state.to_vec();
        let best = |best: &mut f64, score: &mut f64| {
            *best = best.max(*score);
            *score = *best;
            Some(())
        };
        match way {
            Way::Later => reached.iter_mut().rev().scan(f64::NEG_INFINITY, best).for_each(drop),
            Way::Earlier => reached.iter_mut().scan(f64::NEG_INFINITY, best).for_each(drop),
        }
        let set = |place: usize| match way {
            Way::Later => reached.get(place.saturating_add_signed(most.saturating_neg())),
            Way::Earlier => match place.checked_add_signed(most) {
                Some(last) => reached.get(last.min(state.len().saturating_sub(1))),
                None if most > 0 => reached.last(),
                None => None,
            },
        };
        let step = |place: usize| {
            let crept = at(place.wrapping_sub(1)).max(at(place + 1)) - CREEP;
            let set = set(place).copied().unwrap_or(f64::NEG_INFINITY) - SET;
            at(place).max(crept).max(set)
        };
        (0..state.len()).map(step).collect()
    }

    /// By how much the day is more likely if the log has this unit than if it has no row, and the clocks' difference then.
    pub(super) fn worth(&self, passes: &Passes, log: usize, unit: usize) -> Option<(f64, f64)> {
        let around = passes.around(log)?;
        let without = maximum(&around) + WITHOUT_ROW;
        let (first, gains) = self.units.get(log)?.get(unit)?;
        let (state, best) = around
            .iter()
            .enumerate()
            .skip(*first)
            .zip(gains)
            .map(|((state, around), gain)| (state, around + gain))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((best - without, seconds(state, self.half)))
    }

    /// The most likely difference of the clocks at each log, and how far it may be off.
    pub(super) fn path(&self, passes: &Passes, admitted: impl Fn(usize, usize) -> bool) -> Vec<(f64, f64)> {
        /// Differences that are less likely than the best by less than this are not ruled out.
        const NOT_RULED_OUT: f64 = 2.0;
        let at = |log: usize| {
            let total = sum(&passes.around(log)?, &self.emission(log, &admitted));
            let best = maximum(&total);
            let possible = total.iter().enumerate().filter(|(_, score)| **score >= best - NOT_RULED_OUT);
            let possible: Vec<f64> = possible.map(|(state, _)| seconds(state, passes.half)).collect();
            let (low, high) = (possible.first()?, possible.last()?);
            let best = total.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?.0;
            Some((seconds(best, passes.half), (high - low) / 2.0))
        };
        (0..self.units.len()).map(|log| at(log).unwrap_or((0.0, f64::INFINITY))).collect()
    }
}

impl Passes {
    /// Best score of all other logs, per state of this one.
    fn around(&self, log: usize) -> Option<Vec<f64>> {
        Some(sum(self.forward.get(log)?, self.backward.get(log)?))
    }
}

/// Whether states are carried on to the next log or back to the one before.
#[derive(Clone, Copy)]
enum Way {
    Later,
    Earlier,
}

/// Per log, by how many states the clock can have been put forward since the log before it.
fn forward(logs: &[(f64, f64)]) -> Vec<isize> {
    let mut ended = f64::NEG_INFINITY;
    let room = |&(start, end): &(f64, f64)| {
        let since_s = start - ended + OVERLAP_S;
        ended = ended.max(end);
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let states = (since_s / GRID_S).floor() as isize;
        states
    };
    logs.iter().map(room).collect()
}

fn gains(unit: &Unit, log: (f64, f64), half: usize) -> (usize, Vec<f64>) {
    let (low, high) = unit.drifts(log);
    let first = ((low / GRID_S).floor() + half as f64).max(0.0);
    let last = ((high / GRID_S).ceil() + half as f64).min((n_states(half) - 1) as f64);
    if first > last {
        return (0, Vec::new());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of states"
    )]
    let (first, last) = (first as usize, last as usize);
    let gain =
        |state| unit.time(log, seconds(state, half)).map_or(f64::NEG_INFINITY, |time| time + unit.score());
    (first, (first..=last).map(gain).collect())
}

/// Scores of the differences before the first record of the day, or after its last.
fn known(drift: Option<Drift>, half: usize) -> Vec<f64> {
    let score = |state| {
        let here = seconds(state, half);
        match drift {
            Some(drift) => {
                let off = (here - drift.seconds) / drift.spread_s.max(MIN_SPREAD_S);
                -(0.5 * off * off).min(SET_SINCE)
            }
            None if here.abs() <= USUAL_S => 0.0,
            None => -UNUSUAL,
        }
    };
    (0..n_states(half)).map(score).collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded, and not negative")]
fn half(max_drift_s: f64) -> usize {
    /// A day: no clock that is further off can be aligned by the day's order.
    const MOST_S: f64 = 86_400.0;
    (max_drift_s.clamp(GRID_S, MOST_S) / GRID_S).ceil() as usize
}

fn n_states(half: usize) -> usize {
    2 * half + 1
}

fn seconds(state: usize, half: usize) -> f64 {
    (state as f64 - half as f64) * GRID_S
}
