//! What happens at a linac: patients come, fields are loaded, delivered, interrupted, resumed, canceled, and rows are written
//! about it by a server that is never quite on time.

use chrono::{DateTime, TimeDelta, Utc};

use super::patients::{Field, Register};
use super::random::Random;
use super::{Delivered, Row};

/// How often things happen, per field or visit. As often as they make matching hard, not as often as they do.
const INTERRUPTED_ONE_ROW: f64 = 0.012;
const INTERRUPTED_TWO_ROWS: f64 = 0.015;
const INTERRUPTED_FOR_TODAY: f64 = 0.008;
const STOPPED_BEFORE_DOSE: f64 = 0.006;
const GROUP_INTERRUPTED: f64 = 0.06;
const CANCELED_BEFORE: f64 = 0.05;
const SETUP_BEFORE: f64 = 0.3;
const CREATED_TOGETHER: f64 = 0.5;
const EDITED_LATE: f64 = 0.04;
const RECORD_LOST: f64 = 0.02;
const ROW_DELETED: f64 = 0.007;
const ROW_DOUBLED: f64 = 0.003;

/// A linac at work; time is true time.
pub(super) struct Shift<'a> {
    pub(super) linac: usize,
    pub(super) register: &'a mut Register,
    pub(super) random: &'a mut Random,
    pub(super) rows: &'a mut Vec<Row>,
    pub(super) records: &'a mut Vec<Delivered>,
}

/// `seconds` after `time`.
pub(super) fn after(time: DateTime<Utc>, seconds: f64) -> DateTime<Utc> {
    time + TimeDelta::milliseconds((seconds * 1000.0).round() as i64)
}

impl Shift<'_> {
    /// Treats a patient from `time` on; returns when the room is empty again.
    pub(super) fn visit(&mut self, time: DateTime<Utc>, patient: usize, qa_mode: bool) -> DateTime<Utc> {
        let patient = self.register.patients[patient].clone();
        let mut now = time;
        if !qa_mode && self.random.chance(SETUP_BEFORE) {
            now = self.setup(now, &patient.setup);
        }
        if self.random.chance(CANCELED_BEFORE) {
            now = self.canceled(now, &patient.fields, qa_mode);
        }
        if patient.as_one {
            self.as_one(now, &patient.fields, qa_mode)
        } else {
            self.one_by_one(now, &patient.fields, qa_mode)
        }
    }

    /// A beam in service mode: a record without a field name, and no row.
    pub(super) fn service(&mut self, time: DateTime<Utc>) -> DateTime<Utc> {
        let begin = after(time, self.random.between(5.0, 60.0));
        let mu = self.random.between(10.0, 200.0).round();
        let end = after(begin, mu / 8.0 + 10.0);
        self.records.push(Delivered::new(self.linac, begin, end, "", "", vec![mu]));
        end
    }

    fn setup(&mut self, now: DateTime<Utc>, fields: &[usize]) -> DateTime<Utc> {
        let mut now = now;
        for &field in fields {
            let end = after(now, self.random.between(10.0, 60.0));
            let row = self.row(field, now, end, false);
            row.beam_on = true;
            row.beam_complete = true;
            now = after(end, 5.0);
        }
        now
    }

    fn canceled(&mut self, now: DateTime<Utc>, fields: &[usize], qa_mode: bool) -> DateTime<Utc> {
        let end = after(now, self.random.between(4.0, 60.0));
        for (n, &field) in fields.iter().enumerate() {
            let row = self.row(field, after(now, 0.05 * n as f64), end, qa_mode);
            row.canceled = true;
        }
        after(end, self.random.between(5.0, 30.0))
    }

    fn one_by_one(&mut self, now: DateTime<Utc>, fields: &[usize], qa_mode: bool) -> DateTime<Utc> {
        let together = self.random.chance(CREATED_TOGETHER).then_some(now);
        let mut now = now;
        for (n, &field) in fields.iter().enumerate() {
            let created = together.map_or(now, |together| after(together, 0.03 * n as f64));
            let ready = after(now, self.random.between(6.0, if n == 0 { 120.0 } else { 45.0 }));
            let end = self.field(field, created, ready, qa_mode);
            // The next field is loaded while this one is still being recorded.
            now = after(end, self.random.between(-2.0, 5.0));
        }
        now
    }

    /// One field in one record, or in what an interruption makes of it.
    fn field(
        &mut self,
        field: usize,
        created: DateTime<Utc>,
        ready: DateTime<Utc>,
        qa_mode: bool,
    ) -> DateTime<Utc> {
        let Some(planned) = self.register.fields[field].meterset_mu else { return ready };
        let part = self.random.between(0.12, 0.88);
        let story = self.random.between(0.0, 1.0);
        let delivery = self.records.len();
        if story < INTERRUPTED_ONE_ROW {
            let (_, stopped) = self.beam(field, ready, planned * part, delivery);
            let again = after(stopped, self.random.between(10.0, 90.0));
            let (_, end) = self.beam(field, again, planned * (1.0 - part), delivery);
            let row = self.written(field, created, end, qa_mode, true);
            self.records_of(delivery, row);
            return end;
        }
        if story < INTERRUPTED_ONE_ROW + INTERRUPTED_TWO_ROWS {
            let (first, stopped) = self.beam(field, ready, planned * part, delivery);
            let row = self.written(field, created, stopped, qa_mode, false);
            self.records[first].rows = vec![row];
            let created = after(stopped, self.random.between(8.0, 60.0));
            let again = after(created, self.random.between(5.0, 60.0));
            let (second, end) = self.beam(field, again, planned * (1.0 - part), delivery);
            let row = self.written(field, created, end, qa_mode, true);
            self.records[second].rows = vec![row];
            return end;
        }
        let rest = story - INTERRUPTED_ONE_ROW - INTERRUPTED_TWO_ROWS;
        if rest < INTERRUPTED_FOR_TODAY {
            let (record, end) = self.beam(field, ready, planned * part, delivery);
            let row = self.written(field, created, end, qa_mode, false);
            self.records[record].rows = vec![row];
            return end;
        }
        if rest < INTERRUPTED_FOR_TODAY + STOPPED_BEFORE_DOSE {
            let (record, stopped) = self.beam(field, ready, 0.0, delivery);
            let row = self.row(field, created, after(stopped, 3.0), qa_mode);
            row.canceled = true;
            self.records[record].rows = vec![self.rows.len() - 1];
            self.records[record].delivery = None;
            let created = after(stopped, self.random.between(8.0, 40.0));
            let again = after(created, self.random.between(6.0, 40.0));
            return self.whole(field, created, again, planned, qa_mode);
        }
        self.whole(field, created, ready, planned, qa_mode)
    }

    fn whole(
        &mut self,
        field: usize,
        created: DateTime<Utc>,
        ready: DateTime<Utc>,
        planned: f64,
        qa_mode: bool,
    ) -> DateTime<Utc> {
        let delivery = self.records.len();
        let (record, end) = self.beam(field, ready, planned, delivery);
        let row = self.written(field, created, end, qa_mode, true);
        self.records[record].rows = vec![row];
        if self.random.chance(ROW_DOUBLED) && !self.rows[row].deleted {
            self.double(field, row);
        }
        end
    }

    /// Fields of a group in one record, perhaps interrupted and then resumed as another.
    fn as_one(&mut self, now: DateTime<Utc>, fields: &[usize], qa_mode: bool) -> DateTime<Utc> {
        let delivery = self.records.len();
        let planned =
            |shift: &Self, field: usize| shift.register.fields[field].meterset_mu.unwrap_or_default();
        let stop = self
            .random
            .chance(GROUP_INTERRUPTED)
            .then(|| (self.random.below(fields.len()), self.random.between(0.15, 0.85)));
        let whole: Vec<(usize, f64)> = fields.iter().map(|&field| (field, planned(self, field))).collect();
        let Some((at, share)) = stop else { return self.group(now, &whole, qa_mode, true, delivery) };
        let mut first = whole[..=at].to_vec();
        first[at].1 *= share;
        let stopped = self.group(now, &first, qa_mode, false, delivery);
        for &field in &fields[at + 1..] {
            let row = self.row(field, after(now, 0.03 * 9.0), stopped, qa_mode);
            row.canceled = true;
        }
        let mut rest = whole[at..].to_vec();
        rest[0].1 *= 1.0 - share;
        let again = after(stopped, self.random.between(15.0, 120.0));
        self.group(again, &rest, qa_mode, true, delivery)
    }

    fn group(
        &mut self,
        now: DateTime<Utc>,
        fields: &[(usize, f64)],
        qa_mode: bool,
        complete: bool,
        delivery: usize,
    ) -> DateTime<Utc> {
        let ready = after(now, self.random.between(10.0, 120.0));
        let (mut end, mut rows, mut beams) = (ready, Vec::new(), Vec::new());
        for (n, &(field, mu)) in fields.iter().enumerate() {
            end = after(end, mu / self.random.between(5.0, 9.0) + self.random.between(8.0, 30.0));
            let whole = complete || n + 1 < fields.len();
            rows.push(self.written(field, after(now, 0.03 * n as f64), end, qa_mode, whole));
            // A group is deleted as a whole or not at all.
            let (first, last) = (rows[0], rows[rows.len() - 1]);
            self.rows[last].deleted = self.rows[first].deleted;
            beams.push(self.measured(mu));
        }
        let name = self.register.fields[fields[0].0].clone();
        let mut record = Delivered::new(
            self.linac,
            ready,
            after(end, self.random.between(1.0, 5.0)),
            &name.label,
            &name.name,
            beams,
        );
        record.rows = rows;
        record.delivery = Some(delivery);
        record.lost = self.random.chance(RECORD_LOST);
        let end = record.end;
        self.records.push(record);
        end
    }

    /// A record of one field; its index and its end.
    fn beam(
        &mut self,
        field: usize,
        ready: DateTime<Utc>,
        mu: f64,
        delivery: usize,
    ) -> (usize, DateTime<Utc>) {
        let Field { label, name, .. } = self.register.fields[field].clone();
        let beam_s = mu / self.random.between(5.0, 9.5) + self.random.between(4.0, 40.0);
        let end = after(ready, beam_s + self.random.between(3.0, 8.0));
        let mu = if mu > 0.0 { self.measured(mu) } else { 0.0 };
        let mut record = Delivered::new(self.linac, ready, end, &label, &name, vec![mu]);
        record.delivery = Some(delivery);
        record.lost = self.random.chance(RECORD_LOST);
        self.records.push(record);
        (self.records.len() - 1, end)
    }

    /// What the dose counter shows of a planned meterset.
    fn measured(&mut self, mu: f64) -> f64 {
        ((mu + self.random.between(-0.08, 0.08)) * 64.0).round().max(0.0) / 64.0
    }

    /// The row of a delivery that ended at `end`.
    fn written(
        &mut self,
        field: usize,
        created: DateTime<Utc>,
        end: DateTime<Utc>,
        qa_mode: bool,
        complete: bool,
    ) -> usize {
        let late = self.random.chance(EDITED_LATE);
        let wait =
            if late { self.random.between(1800.0, 6.0 * 3600.0) } else { self.random.between(-0.5, 7.0) };
        let deleted = self.random.chance(ROW_DELETED);
        let row = self.row(field, created, after(end, wait), qa_mode);
        row.beam_on = true;
        row.beam_complete = complete;
        row.deleted = deleted;
        self.rows.len() - 1
    }

    fn row(
        &mut self,
        field: usize,
        created: DateTime<Utc>,
        edited: DateTime<Utc>,
        qa_mode: bool,
    ) -> &mut Row {
        self.rows.push(Row {
            linac: self.linac,
            field,
            created,
            edited,
            qa_mode,
            beam_complete: false,
            beam_on: false,
            canceled: false,
            ttx_id: 0,
            deleted: false,
        });
        self.rows.last_mut().expect("one was pushed")
    }

    fn records_of(&mut self, delivery: usize, row: usize) {
        self.records[delivery..].iter_mut().for_each(|record| record.rows = vec![row]);
    }

    /// The same was entered for another patient with the same field: nobody can tell which of the two rows is meant.
    fn double(&mut self, field: usize, row: usize) {
        let pat_id1 = self.register.fields[field].pat_id1;
        let Some(patient) = self.register.patients.iter().position(|patient| patient.pat_id1 == pat_id1)
        else {
            return;
        };
        let place = self.register.patients[patient].fields.iter().position(|&other| other == field);
        let twin = self.register.twin(patient);
        let Some(field) = place.map(|place| self.register.patients[twin].fields[place]) else { return };
        let mut twin = self.rows[row].clone();
        twin.field = field;
        twin.created = after(twin.created, self.random.between(-0.8, 0.8));
        twin.edited = after(twin.edited, self.random.between(-0.8, 0.8));
        twin.deleted = false;
        self.rows.push(twin);
    }
}
