//! How well a record fits a row: label and name, meterset, time. Everything is a natural logarithm of a likelihood ratio against
//! "this record has nothing to do with this row", so that evidence adds up and margins mean something.
//!
//! The numbers are habits of clinics, not measurements of one; what they must get right is the order of magnitude. The
//! tests of `tests/src/clinic` show that results do not hang on them.

use std::collections::HashMap;

use super::clock;
use super::types::{AlignOptions, Log, Treatment};
use chrono::{DateTime, Utc};

/// Less was not delivered.
const NO_DOSE_MU: f64 = 0.1;
/// A record that has no row (service mode, a row that was deleted), and a row that might have been its own has no record.
pub(super) const WITHOUT_ROW: f64 = -5.9;
/// Rows of a group are created one after the other within this.
const GROUP_STEP_S: f64 = 1.0;
/// Rows of a group at most; longer runs are looked at up to here.
const MAX_RUN: usize = 24;
/// A row whose edit lies later than this after its creation was edited by a person afterwards.
const LATE_EDIT_S: f64 = 1800.0;
/// A field runs within this time after its row is made.
const SOON_S: f64 = 600.0;
/// Rounding of the header's time to 1 s, of the record's length, and the network between machine and server.
const SLACK_S: f64 = 2.0;
/// Scale beyond the slack.
const SLIP_S: f64 = 3.0;
/// Slips after which a row is out of the question.
const MAX_SLIPS: f64 = 4.0;
/// Usual distance of the row's last edit from the record's end.
const EDIT_SCALE_S: f64 = 6.0;
/// Usual time from the row's creation to the record's start.
const START_SCALE_S: f64 = 90.0;
/// Time over which an unrelated row may lie anywhere.
const WORKING_DAY_S: f64 = 36_000.0;
/// MU over which an unrelated meterset may lie anywhere.
const METERSETS_MU: f64 = 200.0;
/// The clock is asked for steps of this; what lies between matters to nobody.
pub(super) const GRID_S: f64 = 3.0;

/// A row as it may be matched; times in s since the base.
pub(super) struct Row {
    /// Index among the treatments.
    pub(super) index: usize,
    /// Creation and last edit; two pairs in the doubled hour.
    pub(super) spans: Vec<(f64, f64)>,
    /// Patient and field.
    pub(super) field: (i64, i64),
    planned_mu: Option<f64>,
    complete: bool,
    beam_on: bool,
    canceled: bool,
    key: String,
    /// Number of its group, and its place there.
    group: (usize, usize),
}

impl Row {
    /// Whether it comes before `other` beyond doubt: records of one field name follow that order.
    pub(super) fn precedes(&self, other: &Row) -> bool {
        let ([(create, edit)], [(other_create, other_edit)]) =
            (self.spans.as_slice(), other.spans.as_slice())
        else {
            return false;
        };
        let end = |create: f64, edit: f64| edit.min(create + LATE_EDIT_S);
        self.key == other.key
            && create < other_create
            && end(*create, *edit) <= end(*other_create, *other_edit)
    }
}

/// A way to match a log: one row, or several that were run as one record.
pub(super) struct Unit {
    /// Places among the rows, in the order of beams.
    pub(super) rows: Vec<usize>,
    /// MU of each.
    pub(super) rows_mu: Vec<f64>,
    /// What meterset says about the first row alone, and whether it is part of a delivery.
    first: Meterset,
    /// What everything but time and the first row's meterset says.
    others: f64,
    /// MU that are left to deliver of the last row after this record, if it is a part.
    pub(super) left_mu: Option<f64>,
    window: (f64, f64),
}

#[derive(Clone, Copy)]
struct Meterset {
    delivered_mu: f64,
    planned_mu: Option<f64>,
    score: f64,
}

/// Records and rows of a day with times as seconds.
pub(super) struct Evidence {
    pub(super) rows: Vec<Row>,
    /// Start and end of each log.
    pub(super) logs: Vec<(f64, f64)>,
    keys: Vec<String>,
    /// Rows that were created together, in that order.
    groups: Vec<Vec<usize>>,
    by_key: HashMap<String, Vec<usize>>,
}

impl Evidence {
    pub(super) fn new(logs: &[Log], treatments: &[Treatment], options: &AlignOptions) -> Self {
        let base = logs.iter().map(|log| log.end_utc).min().unwrap_or_default();
        let seconds = |time: DateTime<Utc>| (time - base).as_seconds_f64();
        let mut rows: Vec<Row> = treatments
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.makes_no_record())
            .map(|(index, row)| Row {
                index,
                spans: clock::spans(&options.time_zone, row.created_local, row.edited_local)
                    .into_iter()
                    .map(|(create, edit)| (seconds(create), seconds(edit)))
                    .collect(),
                field: (row.pat_id1, row.field_id),
                planned_mu: row.meterset_mu.filter(|mu| mu.is_finite() && *mu > 0.0),
                complete: row.beam_complete,
                beam_on: row.beam_on,
                canceled: row.canceled,
                key: key(&row.field_label, &row.field_name),
                group: (0, 0),
            })
            .collect();
        let ttx = |row: &Row| treatments.get(row.index).map(|treatment| treatment.ttx_id);
        rows.sort_by(|a, b| create(a).total_cmp(&create(b)).then_with(|| ttx(a).cmp(&ttx(b))));
        let groups = group(&mut rows);
        let mut by_key: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, row) in rows.iter().enumerate() {
            by_key.entry(row.key.clone()).or_default().push(place);
        }
        Evidence {
            logs: logs
                .iter()
                .map(|log| (seconds(log.start_utc.min(log.end_utc)), seconds(log.end_utc)))
                .collect(),
            keys: logs.iter().map(|log| key(&log.field_label, &log.field_name)).collect(),
            rows,
            groups,
            by_key,
        }
    }

    /// Rows with the log's label and name, whatever their time and meterset.
    pub(super) fn namesakes(&self, log: usize) -> impl Iterator<Item = &Row> {
        let places = self.keys.get(log).and_then(|key| self.by_key.get(key));
        places.into_iter().flatten().filter_map(|&place| self.rows.get(place))
    }

    /// All ways to match a log at any difference of the clocks up to `max_drift_s`.
    pub(super) fn units(&self, index: usize, log: &Log, max_drift_s: f64) -> Vec<Unit> {
        let Some(places) = self.keys.get(index).and_then(|key| self.by_key.get(key)) else {
            return Vec::new();
        };
        let Some(&(start, end)) = self.logs.get(index) else { return Vec::new() };
        let reach = max_drift_s + SLACK_S + MAX_SLIPS * SLIP_S;
        let mut units = Vec::new();
        for &place in places {
            let Some(row) = self.rows.get(place) else { continue };
            for &(create, edit) in row.spans.iter().filter(|(c, f)| c - reach <= start && end <= f + reach) {
                units.extend(self.single(place, log, (create, edit)));
                units.extend(self.runs(place, log, create));
            }
        }
        units
    }

    fn single(&self, place: usize, log: &Log, window: (f64, f64)) -> Option<Unit> {
        let row = self.rows.get(place)?;
        let first = row.meterset(log.meterset_mu)?;
        Some(Unit {
            rows: vec![place],
            rows_mu: vec![log.meterset_mu],
            left_mu: row.left_mu(log.meterset_mu),
            first,
            others: 0.0,
            window,
        })
    }

    /// The record holds the row and more rows of its group, in their order and without a gap.
    fn runs(&self, place: usize, log: &Log, create: f64) -> Vec<Unit> {
        /// The record bears the name of a field that is not its first.
        const NAMED_AFTER_ANOTHER: f64 = -2.0;
        let Some((group, at)) =
            self.rows.get(place).and_then(|row| Some((self.groups.get(row.group.0)?, row.group.1)))
        else {
            return Vec::new();
        };
        let mut units = Vec::new();
        for first in at.saturating_sub(MAX_RUN)..=at {
            for last in at.max(first + 1)..group.len().min(first + MAX_RUN) {
                let Some(mut unit) = group.get(first..=last).and_then(|run| self.run(run, log, create))
                else {
                    continue;
                };
                unit.others += if first == at { 0.0 } else { NAMED_AFTER_ANOTHER };
                units.push(unit);
            }
        }
        units
    }

    fn run(&self, run: &[usize], log: &Log, create: f64) -> Option<Unit> {
        /// A record whose dose counter did not restart with each field: only the sum speaks.
        const ONLY_THE_SUM: f64 = -3.0;
        let rows: Vec<&Row> = run.iter().filter_map(|&place| self.rows.get(place)).collect();
        if rows.iter().any(|row| row.is_unused()) {
            return None;
        }
        let planned: Vec<f64> = rows.iter().map(|row| row.planned_mu).collect::<Option<_>>()?;
        let told = log.beams_mu.len() == rows.len();
        let rows_mu = if told { log.beams_mu.clone() } else { shared_out(log.meterset_mu, &planned)? };
        let scores: Vec<Meterset> =
            rows.iter().zip(&rows_mu).map(|(row, &mu)| row.meterset(mu)).collect::<Option<_>>()?;
        let (first, others) = scores.split_first()?;
        let last = rows.last()?;
        // The first field may be the rest of an interrupted one, the last may have been interrupted; what is left of a sum
        // is no field.
        let whole_fields = if told { scores.get(1..scores.len() - 1)? } else { scores.as_slice() };
        if whole_fields.iter().any(|field| field.is_part()) {
            return None;
        }
        let others: f64 = others.iter().map(|field| field.score).sum();
        // In the doubled hour, the reading of the last row that goes with that of the first.
        let apart = |span: &&(f64, f64)| (span.0 - create).abs();
        let edit = last.spans.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)))?.1;
        Some(Unit {
            rows: run.to_vec(),
            left_mu: last.left_mu(*rows_mu.last()?),
            rows_mu,
            first: *first,
            others: if told { others } else { ONLY_THE_SUM.min(others) },
            window: (create, edit),
        })
    }
}

impl Unit {
    /// What everything but time says.
    pub(super) fn score(&self) -> f64 {
        self.first.score + self.others
    }

    /// What is added if an earlier record left `left_mu` of the first row to deliver.
    pub(super) fn as_rest(&self, left_mu: f64) -> Option<f64> {
        let whole = whole(self.first.delivered_mu, left_mu, self.first.planned_mu?)?;
        Some(whole - self.first.score)
    }

    /// Whether the first row's meterset is delivered only partly.
    pub(super) fn begins_with_part(&self) -> bool {
        self.first.is_part()
    }

    /// What time says for clocks that differ by `drift_s` (linac minus server); `None` if it cannot be.
    pub(super) fn time(&self, (start, end): (f64, f64), drift_s: f64) -> Option<f64> {
        let (create, edit) = self.window;
        let (start, end) = (start - drift_s, end - drift_s);
        let slip = slips(create - start) + slips(end - edit);
        if slip > MAX_SLIPS {
            return None;
        }
        let room = (edit - create - (end - start)).max(0.0);
        let usual_room = room.min(LATE_EDIT_S);
        let waited = (start - create).max(0.0);
        let usually = if waited <= usual_room + SLACK_S { 0.25 / (usual_room + 10.0) } else { 0.0 };
        let at_edit = 0.45 / (2.0 * EDIT_SCALE_S) * (-(edit - end).abs() / EDIT_SCALE_S).exp();
        let at_create = 0.25 / START_SCALE_S * (-waited / START_SCALE_S).exp();
        let density = at_edit + at_create + usually + 0.05 / (room + 10.0);
        Some((density * WORKING_DAY_S).ln() - slip * slip)
    }

    /// Whether the record lies where a row is used: soon after it was made, or up to its last edit. A row that a person edited hours
    /// later covers all that ran in between.
    pub(super) fn is_used_at(&self, (start, end): (f64, f64), drift_s: f64) -> bool {
        let (create, edit) = self.window;
        let (start, end) = (start - drift_s, end - drift_s);
        let was_edited_late = edit - create - (end - start) > LATE_EDIT_S;
        !was_edited_late || start - create <= SOON_S || edit - end <= SLACK_S + MAX_SLIPS * SLIP_S
    }

    /// Differences of the clocks at which [`time`](Self::time) says anything.
    pub(super) fn drifts(&self, (start, end): (f64, f64)) -> (f64, f64) {
        let reach = SLACK_S + MAX_SLIPS * SLIP_S;
        (end - self.window.1 - reach, start - self.window.0 + reach)
    }
}

impl Meterset {
    fn is_part(&self) -> bool {
        self.planned_mu.is_some_and(|planned| self.delivered_mu < planned - tolerance_mu(planned))
    }
}

impl Row {
    /// What a delivered meterset says; `None` if the row cannot have it.
    fn meterset(&self, delivered_mu: f64) -> Option<Meterset> {
        /// A part, of a row that says that its beam was not completed.
        const PART: f64 = 0.8;
        /// A part, of a row that says it was.
        const PART_OF_COMPLETE: f64 = 0.06;
        /// All, of a row that says that its beam was not completed.
        const WHOLE_OF_INCOMPLETE: f64 = -2.3;
        /// Dose, of a row that says that the beam was never on.
        const DOSE_WITHOUT_BEAM: f64 = -5.0;
        if self.is_unused() {
            // What was loaded and canceled can have a record, but not one with dose.
            let no_dose = Meterset { delivered_mu, planned_mu: None, score: 0.0 };
            return (delivered_mu < NO_DOSE_MU).then_some(no_dose);
        }
        let Some(planned) = self.planned_mu else {
            return Some(Meterset { delivered_mu, planned_mu: None, score: -1.0 });
        };
        let score = match whole(delivered_mu, planned, planned) {
            Some(score) if self.complete => score,
            Some(score) => score + WHOLE_OF_INCOMPLETE,
            None if delivered_mu < planned => {
                let share = if self.complete { PART_OF_COMPLETE } else { PART };
                (share * METERSETS_MU / planned.max(1.0)).ln().min(0.0)
            }
            None => return None,
        };
        let off = if self.beam_on || delivered_mu < NO_DOSE_MU { 0.0 } else { DOSE_WITHOUT_BEAM };
        Some(Meterset { delivered_mu, planned_mu: self.planned_mu, score: score + off })
    }

    fn left_mu(&self, delivered_mu: f64) -> Option<f64> {
        let planned = self.planned_mu.filter(|_| !self.is_unused())?;
        (delivered_mu < planned - tolerance_mu(planned)).then_some(planned - delivered_mu)
    }

    /// Loaded and canceled before the beam was on.
    fn is_unused(&self) -> bool {
        self.canceled && !self.beam_on
    }

    /// Its meterset, for whom it does not fit.
    pub(super) fn planned_mu(&self) -> Option<f64> {
        self.planned_mu
    }
}

/// What time is missing for a record between `start` and `end` to lie in the row, in s.
pub(super) fn distance_s(row: &Row, (start, end): (f64, f64), drift_s: f64) -> f64 {
    let of = |&(create, edit): &(f64, f64)| (create - (start - drift_s)).max(end - drift_s - edit).max(0.0);
    row.spans.iter().map(of).fold(f64::INFINITY, f64::min)
}

/// The score of a meterset that is delivered as planned, `None` if it is not.
fn whole(delivered_mu: f64, wanted_mu: f64, planned_mu: f64) -> Option<f64> {
    let sigma = sigma_mu(planned_mu);
    let off = (delivered_mu - wanted_mu) / sigma;
    if !off.is_finite() || off.abs() > MAX_SIGMAS {
        return None;
    }
    let density = (-0.5 * off * off).exp() / (sigma * (2.0 * std::f64::consts::PI).sqrt());
    Some((density * METERSETS_MU).ln())
}

/// Real records hold their plan's metersets to 0.1 MU; sites that round to whole MU are 0.5 off.
fn sigma_mu(planned_mu: f64) -> f64 {
    0.15 + 0.002 * planned_mu
}

/// Metersets further off than this are others.
const MAX_SIGMAS: f64 = 4.0;

fn tolerance_mu(planned_mu: f64) -> f64 {
    MAX_SIGMAS * sigma_mu(planned_mu)
}

/// A sum shared out over planned metersets in order; `None` if it does not reach the last one, or is more than all.
fn shared_out(sum_mu: f64, planned: &[f64]) -> Option<Vec<f64>> {
    let mut rest = sum_mu;
    let n_inner = planned.len().checked_sub(1)?;
    let mut shares = Vec::with_capacity(planned.len());
    for mu in planned.get(..n_inner)? {
        rest -= mu;
        shares.push(*mu);
    }
    (rest > 0.0).then(|| shares.push(rest))?;
    Some(shares)
}

fn slips(beyond_s: f64) -> f64 {
    ((beyond_s - SLACK_S) / SLIP_S).max(0.0)
}

fn create(row: &Row) -> f64 {
    row.spans.first().map_or(0.0, |span| span.0)
}

/// Joins rows of one patient that were created together. Rows must be in the order of creation.
fn group(rows: &mut [Row]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The patient's latest group, and when its last row was created.
    let mut latest: HashMap<i64, (usize, f64)> = HashMap::new();
    for (place, row) in rows.iter_mut().enumerate() {
        let created = create(row);
        let joined = latest.get(&row.field.0).filter(|(_, last)| created - last <= GROUP_STEP_S);
        let number = joined.map_or(groups.len(), |joined| joined.0);
        if number == groups.len() {
            groups.push(Vec::new());
        }
        if let Some(group) = groups.get_mut(number) {
            row.group = (number, group.len());
            group.push(place);
        }
        latest.insert(row.field.0, (number, created));
    }
    groups
}

/// Label and name as the database compares them: without regard to case and blanks around them.
fn key(label: &str, name: &str) -> String {
    let (label, name) = (label.trim(), name.trim());
    // A name with a slash of its own cannot be split in the record's header; it stands there whole.
    let both = if label.is_empty() { name.to_owned() } else { format!("{label}/{name}") };
    both.to_lowercase()
}
