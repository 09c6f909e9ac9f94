//! Which treatment a record belongs to: the records of a machine's day against the rows of Mosaiq's TrackTreatment.
//!
//! Input: [`Log`]s (times of the linac's clock) and [`Treatment`]s (times of the server's wall clock), both as they come.
//! Output: an [`Outcome`] per log. Pure: no clock, no database, no file. Nothing is trusted but that rows and logs are of
//! one machine.
//!
//! | file | knows | does not know |
//! |---|---|---|
//! | `clock` | the doubled and the skipped hour | what zones there are |
//! | `evidence` | how well a record fits a row, or several run as one | other records |
//! | `drift` | the difference between the clocks through the day | which row is taken |
//! | `assign` | that each row is had once; interrupted and resumed; margins | time |
//! | `pymedphys` | PyMedPhys's rule for one record | |

mod assign;
mod clock;
mod drift;
mod evidence;
mod pymedphys;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::Zone;
use crate::error::Result;
use crate::reader::Record;
use assign::{Choices, Entry};
use drift::{Gains, Passes};
use evidence::{Evidence, Unit};
pub use pymedphys::like_pymedphys;
pub use types::{AlignOptions, Candidate, ClockStep, Day, Drift, Log, Outcome, PartOf, Treatment, Unmatched};

/// Time of day at which one day of records ends and the next begins: nobody is treated then, and clocks change at two or three.
const DAY_BEGINS: TimeDelta = TimeDelta::hours(4);
/// Differences between the clocks at two records above this are a step, not a creep, in s.
const STEP_S: f64 = 20.0;

impl Log {
    /// A record as alignment sees it. `id` is the SHA-256 of the file, hex.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the record has no dose counter.
    pub fn of(id: impl Into<String>, record: &Record) -> Result<Log> {
        let meterset = record.meterset()?;
        let total = meterset.meterset_mu.last().copied().unwrap_or_default();
        // What was delivered before each beam's first row, and in the end.
        let before = |&row: &usize| meterset.meterset_mu.get(row.checked_sub(1)?).copied();
        let marks: Vec<f64> = std::iter::once(0.0)
            .chain(meterset.beam_starts.iter().filter_map(before))
            .chain(std::iter::once(total))
            .collect();
        let beams_mu = marks.windows(2).filter_map(|pair| match pair {
            [from, to] => Some(to - from),
            _ => None,
        });
        let header = record.header();
        Ok(Log {
            id: id.into(),
            start_utc: record.start_utc(),
            end_utc: record.end_utc(),
            field_label: header.field_label().to_owned(),
            field_name: header.field_name().to_owned(),
            meterset_mu: total,
            beams_mu: beams_mu.collect(),
        })
    }
}

/// Indices of the logs of each of the clinic's days, in the order of time.
///
/// A day ends at four in the morning, so that an evening that goes on after midnight stays together.
pub fn days(logs: &[Log], time_zone: &Zone) -> Vec<Vec<usize>> {
    let day = |log: &Log| -> NaiveDate {
        let local = time_zone.local(log.end_utc);
        local.checked_sub_signed(DAY_BEGINS).unwrap_or(local).date()
    };
    let order = in_order(logs);
    let days = order.chunk_by(|&a, &b| logs.get(a).map(day) == logs.get(b).map(day));
    days.map(<[usize]>::to_vec).collect()
}

/// The span of the server's wall clock whose rows [`align_day`] needs: last edit not before the first, creation not after the second.
pub fn local_span(logs: &[Log], options: &AlignOptions) -> Option<(NaiveDateTime, NaiveDateTime)> {
    /// An hour may occur twice in between.
    const CHANGE: TimeDelta = TimeDelta::hours(1);
    #[expect(clippy::cast_possible_truncation, reason = "seconds of a day; saturates")]
    let reach = TimeDelta::try_seconds(options.max_drift_s as i64)? + CHANGE;
    let local = |time: DateTime<Utc>| options.time_zone.local(time);
    let first = logs.iter().map(|log| log.start_utc).min()?;
    let last = logs.iter().map(|log| log.end_utc).max()?;
    Some((local(first).checked_sub_signed(reach)?, local(last).checked_add_signed(reach)?))
}

/// Aligns the records of one machine's day with its rows of that day.
///
/// The difference between the clocks is unknown, and may change during the day. A row is had by one delivery; a log that
/// may belong to several, or whose row is not certain enough, is ambiguous and never guessed.
pub fn align_day(logs: &[Log], treatments: &[Treatment], options: &AlignOptions) -> Day {
    let order = in_order(logs);
    let sorted: Vec<Log> = order.iter().filter_map(|&log| logs.get(log).cloned()).collect();
    let mut day = Alignment::new(&sorted, treatments, options).day();
    // Back to the order and the numbers of the caller.
    let original = |log: usize| order.get(log).copied().unwrap_or(log);
    let mut outcomes: Vec<(usize, Outcome)> = day.outcomes.drain(..).enumerate().collect();
    for (log, outcome) in &mut outcomes {
        *log = original(*log);
        if let Outcome::Matched { part_of: Some(part), .. } = outcome {
            part.first_log = original(part.first_log);
        }
    }
    outcomes.sort_by_key(|(log, _)| *log);
    day.outcomes = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    day.steps.iter_mut().for_each(|step| step.before_log = original(step.before_log));
    day
}

fn in_order(logs: &[Log]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logs.len()).collect();
    order.sort_by_key(|&log| logs.get(log).map(|log| (log.start_utc, log.end_utc)));
    order
}

/// A day on its way; logs in the order of their start.
struct Alignment<'a> {
    logs: &'a [Log],
    options: &'a AlignOptions,
    evidence: Evidence,
    units: Vec<Vec<Unit>>,
    gains: Gains,
}

impl<'a> Alignment<'a> {
    fn new(logs: &'a [Log], treatments: &[Treatment], options: &'a AlignOptions) -> Self {
        let evidence = Evidence::new(logs, treatments, options);
        let units: Vec<Vec<Unit>> = logs
            .iter()
            .enumerate()
            .map(|(index, log)| evidence.units(index, log, options.max_drift_s))
            .collect();
        let gains = Gains::new(&evidence, &units, options);
        Alignment { logs, options, evidence, units, gains }
    }

    fn day(&self) -> Day {
        let passes = self.gains.passes(self.options, |_, _| true);
        let choices = self.choices(&passes);
        let owners = self.owners(&choices);
        // Once more, now that each row has its owner: two logs that wanted the same row must not bear each other out.
        let admitted = |log: usize, unit: usize| self.admitted(&owners, &choices, log, unit);
        let passes = self.gains.passes(self.options, admitted);
        let path = self.gains.path(&passes, admitted);
        let drift = |log: usize| path.get(log).map_or(0.0, |at| at.0);
        let clocks = self.other_clocks(&choices, &path);
        let near = |log: usize| clocks.get(log).map_or(&[][..], Vec::as_slice);
        let mut outcomes: Vec<Outcome> = choices
            .iter()
            .map(|own| {
                self.outcome(own, credit(own, &choices), &passes, admitted, near(own.log), drift(own.log))
            })
            .collect();
        self.doubt_strangers(&mut outcomes, drift);
        join_parts(&mut outcomes, &choices);
        let steps = self.steps(&outcomes, &path);
        Day { drift: last_drift(&outcomes, &path, &steps), steps, outcomes }
    }

    /// What each log can have; in the order of logs.
    fn choices(&self, passes: &Passes) -> Vec<Choices> {
        let entries = (0..self.logs.len()).map(|log| {
            let units = self.units.get(log).into_iter().flatten().enumerate();
            let worth = |(number, unit)| Some((number, unit, self.gains.worth(passes, log, number)?.0));
            // What is so far behind having no row is in nobody's way.
            let units = units.filter_map(worth).filter(|(.., worth)| *worth > -2.0 * self.options.margin);
            Entry { log, units: units.collect() }
        });
        let mut choices: Vec<Choices> = connected(entries.collect(), &self.evidence)
            .iter()
            .flat_map(|entries| assign::assign(entries, &self.evidence.rows))
            .collect();
        choices.sort_by_key(|choices| choices.log);
        choices
    }

    /// The logs that have each row.
    fn owners(&self, choices: &[Choices]) -> HashMap<usize, Vec<usize>> {
        let mut owners: HashMap<usize, Vec<usize>> = HashMap::new();
        for choices in choices {
            let best = choices.choices.first().and_then(|choice| self.unit(choices.log, choice.0));
            for &row in best.into_iter().flat_map(|unit| &unit.rows) {
                owners.entry(row).or_default().push(choices.log);
            }
        }
        owners
    }

    fn admitted(
        &self,
        owners: &HashMap<usize, Vec<usize>>,
        choices: &[Choices],
        log: usize,
        unit: usize,
    ) -> bool {
        let free = |row: &usize| owners.get(row).is_none_or(|logs| logs.contains(&log));
        let chosen = choices.get(log).and_then(|choices| choices.choices.first()?.0);
        chosen == Some(unit) || self.unit(log, Some(unit)).is_some_and(|unit| unit.rows.iter().all(free))
    }

    /// Per log, the differences between the clocks on the other side of a step that lies near it: when exactly the clock was set,
    /// only the records around tell.
    fn other_clocks(&self, choices: &[Choices], path: &[(f64, f64)]) -> Vec<Vec<f64>> {
        /// So many records on one side of a step show where the clock was.
        const NEAR: usize = 3;
        let with_row = choices.iter().filter(|own| own.choices.first().is_some_and(|best| best.0.is_some()));
        let with_row = with_row.filter_map(|own| Some((Some(own.log), path.get(own.log)?.0)));
        let known = |drift: Option<Drift>| drift.map(|drift| (None, drift.seconds));
        let day: Vec<(Option<usize>, f64)> = known(self.options.drift_before)
            .into_iter()
            .chain(with_row)
            .chain(known(self.options.drift_after))
            .collect();
        let mut clocks = vec![Vec::new(); self.logs.len()];
        for (place, &(log, drift_s)) in day.iter().enumerate() {
            let near = day.get(place.saturating_sub(NEAR)..day.len().min(place + NEAR + 1));
            let near = near.into_iter().flatten().map(|near| near.1);
            if let Some(clocks) = log.and_then(|log| clocks.get_mut(log)) {
                clocks.extend(near.filter(|clock| (clock - drift_s).abs() > STEP_S));
            }
        }
        clocks
    }

    /// Whether the records and rows would go together otherwise if the clock had been set at another time: the log fits
    /// other rows at one of these differences between the clocks, or another log fits its rows.
    fn is_contested(&self, log: usize, unit: &Unit, clocks: &[f64]) -> bool {
        let fits = |log: usize, other: &Unit, clock: f64| {
            self.evidence.logs.get(log).is_some_and(|&times| {
                other.is_used_at(times, clock)
                    && other.time(times, clock).is_some_and(|time| time + other.score() > 0.0)
            })
        };
        clocks.iter().any(|&clock| {
            self.units.iter().enumerate().any(|(of, units)| {
                let rivals = units.iter().filter(|other| match of == log {
                    true => other.rows != unit.rows,
                    false => other.rows.iter().any(|row| unit.rows.contains(row)),
                });
                rivals.into_iter().any(|other| fits(of, other, clock))
            })
        })
    }

    /// One patient at a time lies on the couch: of a record between two of another patient, and those two, the least certain is a
    /// matter for a person.
    fn doubt_strangers(&self, outcomes: &mut [Outcome], drift: impl Fn(usize) -> f64) {
        while let Some(log) = self.stranger(outcomes) {
            let Some(stranger) = outcomes.get_mut(log) else { return };
            let Outcome::Matched { treatments, .. } = stranger else { return };
            let treatments = std::mem::take(treatments);
            *stranger = Outcome::Ambiguous {
                candidates: vec![Candidate { treatments, behind: 0.0, drift_s: drift(log) }],
            };
        }
    }

    /// The least certain record of those that cannot all be right.
    fn stranger(&self, outcomes: &[Outcome]) -> Option<usize> {
        /// Longer than this apart, two records of one patient may be of two visits.
        const ONE_VISIT_S: f64 = 3600.0;
        let matched = outcomes.iter().enumerate().filter_map(|(log, outcome)| match outcome {
            Outcome::Matched { treatments, margin, .. } => {
                let row = self.evidence.rows.iter().find(|row| treatments.first() == Some(&row.index))?;
                Some((log, row.field.0, *margin))
            }
            _ => None,
        });
        let matched: Vec<(usize, i64, f64)> = matched.collect();
        let contradicts = |three: &&[(usize, i64, f64)]| {
            let &[(before, patient, _), (_, stranger, _), (after, same, _)] = *three else { return false };
            let apart_s = match (self.evidence.logs.get(before), self.evidence.logs.get(after)) {
                (Some(before), Some(after)) => after.0 - before.1,
                _ => return false,
            };
            patient == same && stranger != patient && apart_s < ONE_VISIT_S
        };
        let doubtful = matched.windows(3).filter(contradicts).flatten();
        doubtful.min_by(|a, b| a.2.total_cmp(&b.2)).map(|(log, ..)| *log)
    }

    fn unit(&self, log: usize, unit: Option<usize>) -> Option<&Unit> {
        self.units.get(log)?.get(unit?)
    }

    fn outcome(
        &self,
        choices: &Choices,
        credit: f64,
        passes: &Passes,
        admitted: impl Fn(usize, usize) -> bool,
        clocks: &[f64],
        drift_s: f64,
    ) -> Outcome {
        /// When the clock was set is not known well; what hangs on it must be more certain than anything else.
        const CONTESTED: f64 = 2.0;
        let log = choices.log;
        let worth = |unit: usize| self.gains.worth(passes, log, unit);
        let best = choices.choices.first().and_then(|choice| self.unit(log, choice.0).zip(choice.0));
        if let Some((unit, number)) = best {
            let second = choices.choices.get(1).map_or(f64::INFINITY, |choice| choice.1);
            let mine = worth(number).map_or(f64::NEG_INFINITY, |worth| worth.0) + credit;
            let others = self.units.get(log).into_iter().flatten().enumerate();
            let others = others.filter(|(other, its)| its.rows != unit.rows && admitted(log, *other));
            let other = others.filter_map(|(other, _)| Some(worth(other)?.0)).fold(0.0, f64::max);
            let margin = second.min(mine - other);
            // A row that a person edited hours later lies around everything; it takes more than that to be at its time.
            let times = self.evidence.logs.get(log).copied().unwrap_or_default();
            let at_its_time =
                worth(number).and_then(|worth| unit.time(times, worth.1)).is_some_and(|time| time > 0.0);
            let is_used = choices.continues.is_some()
                || worth(number).is_some_and(|worth| unit.is_used_at(times, worth.1));
            let contested = self.is_contested(log, unit, clocks);
            let enough = if contested { CONTESTED * self.options.margin } else { self.options.margin };
            if choices.exact && at_its_time && is_used && margin >= enough {
                let treatments = self.treatments(unit);
                return Outcome::Matched {
                    treatments,
                    meterset_mu: unit.rows_mu.clone(),
                    part_of: None,
                    margin,
                };
            }
        }
        let near = |choice: &&(Option<usize>, f64)| choice.1 < CONTESTED * self.options.margin;
        let candidates = choices.choices.iter().filter(near).filter_map(|&(number, behind)| {
            let treatments = self.treatments(self.unit(log, number)?);
            let drift_s = worth(number?).map_or(drift_s, |worth| worth.1);
            Some(Candidate { treatments, behind, drift_s })
        });
        let mut candidates: Vec<Candidate> = candidates.collect();
        let least = candidates.first().map_or(0.0, |candidate| candidate.behind);
        candidates.iter_mut().for_each(|candidate| candidate.behind -= least);
        if candidates.is_empty() {
            return Outcome::Unmatched { reason: self.reason(log, drift_s) };
        }
        Outcome::Ambiguous { candidates }
    }

    fn treatments(&self, unit: &Unit) -> Vec<usize> {
        unit.rows.iter().filter_map(|&row| self.evidence.rows.get(row)).map(|row| row.index).collect()
    }

    /// Why a log has no row.
    fn reason(&self, log: usize, drift_s: f64) -> Unmatched {
        /// A row this near is at that time.
        const NEAR_S: f64 = 15.0;
        let Some(&times) = self.evidence.logs.get(log) else { return Unmatched::NoSuchField };
        let distance = |row: &evidence::Row| evidence::distance_s(row, times, drift_s);
        let nearest = self.evidence.namesakes(log).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let Some(row) = nearest else {
            let no_label = self.logs.get(log).is_some_and(|log| log.field_label.is_empty());
            return if no_label { Unmatched::NoFieldLabel } else { Unmatched::NoSuchField };
        };
        let fits =
            self.units.get(log).into_iter().flatten().any(|unit| self.treatments(unit).contains(&row.index));
        match row.planned_mu() {
            _ if distance(row) > NEAR_S => Unmatched::OtherTime { nearest_s: distance(row) },
            Some(planned_mu) if !fits => Unmatched::OtherMeterset { planned_mu },
            _ => Unmatched::Taken,
        }
    }

    /// Where the clock was set, seen between records that are matched; against the day before as well.
    fn steps(&self, outcomes: &[Outcome], path: &[(f64, f64)]) -> Vec<ClockStep> {
        let mut before = self.options.drift_before.map(|drift| drift.seconds);
        let mut steps = Vec::new();
        for (log, (outcome, &(drift_s, _))) in outcomes.iter().zip(path).enumerate() {
            if !matches!(outcome, Outcome::Matched { .. }) {
                continue;
            }
            let seconds = drift_s - before.unwrap_or(drift_s);
            if seconds.abs() > STEP_S {
                steps.push(ClockStep { before_log: log, seconds });
            }
            before = Some(drift_s);
        }
        steps
    }
}

/// The difference between the clocks at the last matched log, and how many logs since the clock was set bear it out.
fn last_drift(outcomes: &[Outcome], path: &[(f64, f64)], steps: &[ClockStep]) -> Option<Drift> {
    let since = steps.last().map_or(0, |step| step.before_log);
    let matched = outcomes.iter().zip(path).skip(since);
    let matched: Vec<_> = matched.filter(|(outcome, _)| matches!(outcome, Outcome::Matched { .. })).collect();
    let &(seconds, spread_s) = matched.last()?.1;
    Some(Drift { seconds, spread_s: spread_s.max(evidence::GRID_S), n_pairs: matched.len() })
}

/// Logs that touch each other, and what they touch.
struct Part<'a> {
    rows: HashSet<usize>,
    fields: HashSet<(i64, i64)>,
    entries: Vec<Entry<'a>>,
}

/// Logs that want the same rows, or rows of the same field, belong together; those that do not are decided apart.
fn connected<'a>(entries: Vec<Entry<'a>>, evidence: &Evidence) -> Vec<Vec<Entry<'a>>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for entry in entries {
        let rows: HashSet<usize> =
            entry.units.iter().flat_map(|(_, unit, _)| unit.rows.iter().copied()).collect();
        let fields = rows.iter().filter_map(|&row| evidence.rows.get(row)).map(|row| row.field).collect();
        let mut whole = Part { rows, fields, entries: vec![entry] };
        let touches =
            |part: &Part<'_>| !part.rows.is_disjoint(&whole.rows) || !part.fields.is_disjoint(&whole.fields);
        let (touching, apart): (Vec<_>, Vec<_>) = parts.into_iter().partition(touches);
        parts = apart;
        for part in touching {
            whole.rows.extend(part.rows);
            whole.fields.extend(part.fields);
            whole.entries.extend(part.entries);
        }
        parts.push(whole);
    }
    let in_order = |mut part: Part<'a>| {
        part.entries.sort_by_key(|entry| entry.log);
        part.entries
    };
    parts.into_iter().map(in_order).collect()
}

/// What a log gains by being a part of a delivery whose parts add up: the last part bears out those before it.
fn credit(own: &Choices, choices: &[Choices]) -> f64 {
    let continued_by = choices.iter().filter(|choices| choices.continues == Some(own.log));
    own.bonus + continued_by.map(|choices| choices.bonus).sum::<f64>()
}

/// Names the parts of deliveries that were interrupted and resumed, as far as they are matched.
fn join_parts(outcomes: &mut [Outcome], choices: &[Choices]) {
    let mut deliveries: Vec<Vec<usize>> = Vec::new();
    for choices in choices {
        if !matches!(outcomes.get(choices.log), Some(Outcome::Matched { .. })) {
            continue;
        }
        let before =
            choices.continues.and_then(|from| deliveries.iter_mut().find(|logs| logs.contains(&from)));
        match before {
            Some(logs) => logs.push(choices.log),
            None => deliveries.push(vec![choices.log]),
        }
    }
    for logs in deliveries.iter().filter(|logs| logs.len() > 1) {
        let (Some(&first_log), parts) = (logs.first(), logs.len()) else { continue };
        for (part, &log) in logs.iter().enumerate() {
            if let Some(Outcome::Matched { part_of, .. }) = outcomes.get_mut(log) {
                *part_of = Some(PartOf { first_log, part, parts });
            }
        }
    }
}
