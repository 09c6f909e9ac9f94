//! A made-up clinic: three linacs, sixty days, their clocks, their patients, what Mosaiq knows of it, and the truth.
//!
//! Everything follows from a seed. Nothing in it is of a real clinic: names, numbers and metersets are invented, habits
//! (how rows are created and edited, how clocks go wrong) are as published test data of PyMedPhys show them.
//!
//! [`Clinic::treatments`] and [`Clinic::log`] are what alignment sees; [`tables`] fills a database with the same rows as
//! Mosaiq has them, [`records`] writes the same records as TRF files. [`score`] compares outcomes with the truth.

pub mod clocks;
mod patients;
mod random;
pub mod records;
pub mod score;
mod shift;
pub mod tables;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use trf_core::Zone;
use trf_core::align::{AlignOptions, Log, Treatment};

use clocks::Clock;
use patients::Register;
pub use patients::{Field, Patient};
use random::Random;
use shift::{Shift, after};

/// What kind of clinic.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything follows from it.
    pub seed: u64,
    /// The clinic's zone.
    pub zone: Tz,
    /// Its first day; daylight saving should begin or end within the days.
    pub first_day: NaiveDate,
    /// How many days.
    pub n_days: u64,
    /// Patients that a linac treats a day.
    pub patients_a_day: usize,
    /// All clocks off by this and never set; `None`: constants, drifts and steps as they come.
    pub steady_offset_s: Option<f64>,
}

impl Settings {
    /// Three linacs over sixty days, in Berlin or Sydney, over a doubled or a skipped hour, by turns.
    pub fn of_seed(seed: u64) -> Self {
        let (zone, first_day) = match seed % 4 {
            0 => (chrono_tz::Australia::Sydney, (2024, 3, 7)),
            1 => (chrono_tz::Europe::Berlin, (2024, 3, 1)),
            2 => (chrono_tz::Europe::Berlin, (2024, 9, 27)),
            _ => (chrono_tz::Australia::Sydney, (2024, 9, 6)),
        };
        let first_day = NaiveDate::from_ymd_opt(first_day.0, first_day.1, first_day.2).expect("a date");
        Settings { seed, zone, first_day, n_days: 60, patients_a_day: 18, steady_offset_s: None }
    }
}

/// A row of TrackTreatment; true time.
#[derive(Clone, Debug)]
pub struct Row {
    /// Index of the linac.
    pub linac: usize,
    /// Index of the field.
    pub field: usize,
    /// Create_DtTm.
    pub created: DateTime<Utc>,
    /// Edit_DtTm.
    pub edited: DateTime<Utc>,
    /// WasQAMode.
    pub qa_mode: bool,
    /// WasBeamComplete.
    pub beam_complete: bool,
    /// WasBeamOn.
    pub beam_on: bool,
    /// WasCanceled.
    pub canceled: bool,
    /// TTX_ID.
    pub ttx_id: i64,
    /// Somebody deleted it: it is not in the database.
    pub deleted: bool,
}

/// A record, and what it really was.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Index of the linac.
    pub linac: usize,
    /// Its start, true time.
    pub start: DateTime<Utc>,
    /// Its end, true time.
    pub end: DateTime<Utc>,
    /// Field label in the header.
    pub label: String,
    /// Field name in the header.
    pub name: String,
    /// MU of each beam.
    pub beams_mu: Vec<f64>,
    /// The rows that it belongs to; none for service mode, and where they were deleted.
    pub rows: Vec<usize>,
    /// Records of one delivery share it.
    pub delivery: Option<usize>,
    /// It never came to the share.
    pub lost: bool,
    /// Why not even who knows the true time can tell which row it is.
    pub doubt: Option<Doubt>,
}

/// Why a record is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Another row of the same label, name and meterset lies around the record's true time.
    RivalRow,
    /// The record of another delivery, whose own row was deleted, lies within its row, or within reach of it where the clock
    /// was set since the day before.
    RivalRecord,
    /// Its row says that all was delivered, it holds a part, and the record of the rest was lost.
    PartAlone,
    /// Its clock was set, or was never seen, and fewer than three records of the day show where it is now; or it was set since
    /// the day before, and there is another row of the same label, name and meterset within reach of the clock.
    UnknownClock,
}

impl Delivered {
    fn new(
        linac: usize,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        label: &str,
        name: &str,
        beams_mu: Vec<f64>,
    ) -> Self {
        let (label, name) = (label.to_owned(), name.to_owned());
        Delivered {
            linac,
            start,
            end,
            label,
            name,
            beams_mu,
            rows: Vec::new(),
            delivery: None,
            lost: false,
            doubt: None,
        }
    }

    fn meterset_mu(&self) -> f64 {
        self.beams_mu.iter().sum()
    }
}

/// A linac.
#[derive(Clone, Debug)]
pub struct Linac {
    /// Its name, in records and in Staff.
    pub name: String,
    /// Staff.Staff_ID.
    pub staff_id: i64,
    /// Its clock.
    pub clock: Clock,
}

/// All that happened.
#[derive(Clone, Debug)]
pub struct Clinic {
    /// What was asked for.
    pub settings: Settings,
    /// The linacs.
    pub linacs: Vec<Linac>,
    /// The patients.
    pub patients: Vec<Patient>,
    /// Their fields.
    pub fields: Vec<Field>,
    /// The rows, the deleted ones too.
    pub rows: Vec<Row>,
    /// The records, the lost ones too, in the order of linac and time.
    pub records: Vec<Delivered>,
}

impl Clinic {
    /// Lets sixty days pass.
    pub fn new(settings: Settings) -> Self {
        let mut register = Register::new(settings.seed);
        let (mut linacs, mut rows, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for (linac, name) in ["4299", "2619", "5112"].into_iter().enumerate() {
            let mut random = Random::new(settings.seed, 10 + linac as u64);
            let clock = clock(&settings, &mut random);
            linacs.push(Linac { name: name.to_owned(), staff_id: 85 + 16 * linac as i64, clock });
            let shift = Shift {
                linac,
                register: &mut register,
                random: &mut random,
                rows: &mut rows,
                records: &mut records,
            };
            run(&settings, shift);
        }
        let Register { patients, fields, .. } = register;
        let mut clinic = Clinic { settings, linacs, patients, fields, rows, records };
        clinic.number_rows();
        clinic.mark_doubts();
        clinic
    }

    /// The records of a linac that came to the share, by index, in the order of true time.
    pub fn records_of(&self, linac: usize) -> Vec<usize> {
        let mut own: Vec<usize> = (0..self.records.len())
            .filter(|&record| self.records[record].linac == linac && !self.records[record].lost)
            .collect();
        own.sort_by_key(|&record| self.records[record].start);
        own
    }

    /// A record as alignment sees it.
    pub fn log(&self, record: usize) -> Log {
        let delivered = &self.records[record];
        let clock = &self.linacs[delivered.linac].clock;
        let shown = |time| after(time, clock.off_s(time));
        let end = shown(delivered.end);
        // The header has whole seconds; the length has steps of 40 ms.
        let end_utc = end - TimeDelta::nanoseconds(i64::from(end.timestamp_subsec_nanos()));
        let rows = (delivered.end - delivered.start).num_milliseconds() / 40;
        Log {
            id: format!("{record:064x}"),
            start_utc: end_utc - TimeDelta::milliseconds(rows * 40),
            end_utc,
            field_label: if delivered.name.contains('/') { String::new() } else { delivered.label.clone() },
            field_name: if delivered.name.contains('/') {
                self.header_field(record)
            } else {
                delivered.name.clone()
            },
            meterset_mu: delivered.meterset_mu(),
            beams_mu: delivered.beams_mu.clone(),
        }
    }

    /// The field as it stands in the header.
    pub fn header_field(&self, record: usize) -> String {
        let Delivered { label, name, .. } = &self.records[record];
        if label.is_empty() { name.clone() } else { format!("{label}/{name}") }
    }

    /// The rows of a linac as the query gives them: all whose last edit is not before `from` and whose creation is not after `to`.
    pub fn treatments(&self, linac: usize, from: NaiveDateTime, to: NaiveDateTime) -> Vec<Treatment> {
        // No zone is further than this from UTC.
        let far = TimeDelta::hours(15);
        let near = |row: &&Row| row.edited + far >= from.and_utc() && row.created <= to.and_utc() + far;
        let rows = self.rows.iter().filter(|row| row.linac == linac && !row.deleted).filter(near);
        rows.map(|row| self.treatment(row))
            .filter(|row| row.edited_local >= from && row.created_local <= to)
            .collect()
    }

    /// A row on the server's wall clock.
    pub fn treatment(&self, row: &Row) -> Treatment {
        let field = &self.fields[row.field];
        let patient = self
            .patients
            .iter()
            .find(|patient| patient.pat_id1 == field.pat_id1)
            .expect("a patient per field");
        Treatment {
            ttx_id: row.ttx_id,
            dhs_id: row.beam_on.then_some(row.ttx_id + 400_000),
            pat_id1: patient.pat_id1,
            patient_id: patient.ida.clone(),
            last_name: patient.last_name.clone(),
            first_name: patient.first_name.clone(),
            field_id: field.field_id,
            field_label: field.label.clone(),
            field_name: field.name.clone(),
            field_type: field.type_enum,
            meterset_mu: field.meterset_mu,
            created_local: self.local(row.created),
            edited_local: self.local(row.edited),
            qa_mode: row.qa_mode,
            beam_complete: row.beam_complete,
            beam_on: row.beam_on,
            canceled: row.canceled,
        }
    }

    /// Options for this clinic.
    pub fn options(&self) -> AlignOptions {
        AlignOptions::new(Zone::named(self.settings.zone.name()).expect("both databases are IANA's"))
    }
    fn local(&self, time: DateTime<Utc>) -> NaiveDateTime {
        time.with_timezone(&self.settings.zone).naive_local()
    }

    /// TTX_ID counts up in the order of creation.
    fn number_rows(&mut self) {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&row| self.rows[row].created);
        for (n, row) in order.into_iter().enumerate() {
            self.rows[row].ttx_id = 600_001 + 2 * n as i64;
        }
    }

    fn mark_doubts(&mut self) {
        for linac in 0..self.linacs.len() {
            let records = self.records_of(linac);
            let rows: Vec<usize> =
                (0..self.rows.len()).filter(|&row| self.rows[row].linac == linac).collect();
            for (place, &record) in records.iter().enumerate() {
                let newly_set = self.is_newly_set(linac, &records, place);
                let rows_of = &self.records[record].rows;
                let homeless =
                    |&&other: &&usize| self.records[other].rows.iter().any(|&row| self.rows[row].deleted);
                if rows.iter().any(|&row| self.is_rival(record, row, newly_set)) {
                    self.records[record].doubt = Some(Doubt::RivalRow);
                } else if records
                    .iter()
                    .filter(homeless)
                    .any(|&other| rows_of.iter().any(|&row| self.is_rival(other, row, newly_set)))
                {
                    self.records[record].doubt = Some(Doubt::RivalRecord);
                } else if self.is_part_alone(record, &records) {
                    self.records[record].doubt = Some(Doubt::PartAlone);
                } else if self.clock_is_unknown(linac, &records, place) {
                    self.records[record].doubt = Some(Doubt::UnknownClock);
                }
            }
        }
    }

    /// Whether a row that is not the record's could be, even for who knows the true time.
    fn is_rival(&self, record: usize, row: usize, newly_set: bool) -> bool {
        /// Rounding and slips that nobody would swear by.
        const SLACK: TimeDelta = TimeDelta::seconds(20);
        let (delivered, rival) = (&self.records[record], &self.rows[row]);
        // The day around it, before names are compared and time zones are asked.
        let far = TimeDelta::hours(3);
        if rival.created > delivered.end + far || rival.edited < delivered.start - far {
            return false;
        }
        let field = &self.fields[rival.field];
        let no_dose = delivered.meterset_mu() == 0.0;
        let possible = !rival.deleted
            && (rival.beam_on || no_dose)
            && (&field.label, &field.name) == (&delivered.label, &delivered.name);
        if !possible || delivered.rows.contains(&row) {
            return false;
        }
        let Some(planned) = field.meterset_mu else { return false };
        let reach = if newly_set { TimeDelta::minutes(20) } else { SLACK };
        let own = delivered.rows.first().and_then(|&row| self.fields[self.rows[row].field].meterset_mu);
        let (mu, tolerance) = (delivered.beams_mu[0], 1.0 + 0.01 * planned);
        let is_part = own.is_some_and(|own| mu < own - tolerance);
        if (mu - planned).abs() > tolerance && !(is_part && mu < planned) {
            return false;
        }
        let instants = |time| match self.settings.zone.from_local_datetime(&self.local(time)) {
            chrono::MappedLocalTime::Ambiguous(first, second) => vec![first.to_utc(), second.to_utc()],
            _ => vec![time],
        };
        let creates = instants(rival.created);
        let edits = instants(rival.edited);
        // The rows of a group end one after the other; the record ends with the last.
        let group = TimeDelta::minutes(if delivered.beams_mu.len() > 1 { 10 } else { 0 });
        creates.iter().any(|&create| {
            edits
                .iter()
                .map(|&edit| edit + group)
                .any(|edit| create <= delivered.start + reach && delivered.end <= edit + reach)
        })
    }

    /// Whether the clock was set since the last record of an earlier day.
    fn is_newly_set(&self, linac: usize, records: &[usize], place: usize) -> bool {
        let clock = &self.linacs[linac].clock;
        let day = |record: usize| (self.local(self.records[record].start) - TimeDelta::hours(4)).date();
        let set = |record: usize| clock.set_before(self.records[record].start);
        let today = day(records[place]);
        let earlier = records[..place].iter().rev().find(|&&record| day(record) != today);
        self.settings.steady_offset_s.is_none()
            && earlier.is_none_or(|&earlier| set(earlier) != set(records[place]))
    }

    /// Whether a record is a part, of a row that is complete, and no other part is left.
    fn is_part_alone(&self, record: usize, left: &[usize]) -> bool {
        let delivered = &self.records[record];
        let complete = |row: usize| self.rows[row].beam_complete && !self.rows[row].deleted;
        let planned = |row: usize| self.fields[self.rows[row].field].meterset_mu.unwrap_or_default();
        let parts = delivered.rows.iter().zip(&delivered.beams_mu);
        let is_part = parts.filter(|(row, mu)| complete(**row) && **mu < planned(**row) - 1.0).count() > 0;
        let goes_on = |&other: &usize| other != record && self.records[other].delivery == delivered.delivery;
        is_part && !left.iter().any(goes_on)
    }

    /// Whether too few records of the day show where the clock is since it was set.
    fn clock_is_unknown(&self, linac: usize, records: &[usize], place: usize) -> bool {
        let clock = &self.linacs[linac].clock;
        let at = |record: &usize| self.records[*record].start;
        let set = clock.set_before(at(&records[place]));
        let day = |record: &usize| (self.local(at(record)) - TimeDelta::hours(4)).date();
        let same_clock = |record: &&usize| clock.set_before(at(record)) == set;
        let shows = |record: &&usize| {
            let delivered = &self.records[**record];
            delivered.rows.iter().any(|&row| !self.rows[row].deleted) && delivered.meterset_mu() > 0.0
        };
        let today = day(&records[place]);
        let of_today = |record: &&usize| day(record) == today;
        let (earlier, later) = records.split_at(place);
        let here = later.iter().take_while(of_today).filter(same_clock).filter(shows).count()
            + earlier.iter().rev().take_while(of_today).filter(same_clock).filter(shows).count();
        let before = earlier.iter().rev().take_while(same_clock).filter(|record| !of_today(record));
        here < 3 && before.filter(shows).take(3).count() < 3
    }
}

fn midnight(settings: &Settings, day: NaiveDate, hours: f64) -> DateTime<Utc> {
    let local = day.and_time(NaiveTime::MIN) + TimeDelta::seconds((hours * 3600.0) as i64);
    let utc = settings.zone.from_local_datetime(&local).earliest();
    // A time that is skipped is an hour later.
    utc.or_else(|| settings.zone.from_local_datetime(&(local + TimeDelta::hours(1))).earliest())
        .expect("some time")
        .to_utc()
}

fn clock(settings: &Settings, random: &mut Random) -> Clock {
    let begin = midnight(settings, settings.first_day, 0.0);
    if let Some(offset_s) = settings.steady_offset_s {
        return Clock::steady(begin, offset_s);
    }
    // Most clocks are set in the small hours by the network; one in three by hand at noon.
    let mut days: Vec<u64> =
        (0..random.below(4)).map(|_| 3 + random.below(settings.n_days as usize - 3) as u64).collect();
    days.sort_unstable();
    days.dedup();
    let steps: Vec<_> = days
        .into_iter()
        .map(|day| {
            let hours = if random.chance(0.33) { NOON + 0.45 } else { 4.5 };
            midnight(settings, settings.first_day + TimeDelta::days(day as i64), hours)
        })
        .collect();
    let offset_s = random.between(-500.0, 500.0);
    Clock::random(random, begin, offset_s, &steps)
}

/// The staff eats: longer than any clock is set back.
const NOON: f64 = 12.2;
const AFTER_NOON: f64 = 13.0;

/// Lets the days of a linac pass.
fn run(settings: &Settings, mut shift: Shift<'_>) {
    let phantom = shift.register.phantom();
    let mut courses: Vec<(usize, u32)> = Vec::new();
    for day in settings.first_day.iter_days().take(settings.n_days as usize) {
        let weekend = matches!(day.weekday(), Weekday::Sat | Weekday::Sun);
        if changes_clocks(settings, day) {
            night_of_the_change(settings, &mut shift, day);
        }
        if weekend {
            if shift.random.chance(0.3) {
                let mut now = midnight(settings, day, 10.0);
                for _ in 0..=shift.random.below(3) {
                    let patient = shift.register.patient();
                    now = shift.visit(now, patient, false);
                    now = after(now, shift.random.between(200.0, 900.0));
                }
            }
            continue;
        }
        working_day(settings, &mut shift, day, phantom, &mut courses);
    }
}

fn working_day(
    settings: &Settings,
    shift: &mut Shift<'_>,
    day: NaiveDate,
    phantom: usize,
    courses: &mut Vec<(usize, u32)>,
) {
    let mut now = midnight(settings, day, 7.3);
    for _ in 0..shift.random.below(3) {
        now = shift.service(now);
    }
    for _ in 0..3 {
        now = shift.visit(after(now, 20.0), phantom, true);
    }
    courses.retain(|course| course.1 > 0);
    let mut new = Vec::new();
    while courses.len() < settings.patients_a_day {
        let patient = shift.register.patient();
        new.push(patient);
        let at = shift.random.below(courses.len() + 1);
        let fractions = 5 + shift.random.below(26) as u32;
        courses.insert(at, (patient, fractions));
    }
    now = now.max(midnight(settings, day, 8.0));
    let (noon, after_noon) = (midnight(settings, day, NOON - 0.25), midnight(settings, day, AFTER_NOON));
    for course in courses.iter_mut() {
        if shift.random.chance(0.04) {
            continue;
        }
        course.1 -= 1;
        if now > noon && now < after_noon {
            now = after_noon;
        }
        let (patient, _) = *course;
        now = shift.visit(now, patient, false);
        now = after(now, shift.random.between(90.0, 600.0));
    }
    // Plans of new patients are measured in the evening, in QA mode, by the very fields they are treated with.
    now = now.max(midnight(settings, day, 17.5));
    for patient in new.into_iter().take(2) {
        now = shift.visit(now, patient, true);
        now = after(now, shift.random.between(60.0, 400.0));
    }
    if shift.random.chance(0.05) {
        let mut now = midnight(settings, day, 23.85);
        for _ in 0..=shift.random.below(3) {
            let patient = shift.register.patient();
            now = shift.visit(now, patient, false);
            now = after(now, shift.random.between(100.0, 400.0));
        }
    }
}

fn changes_clocks(settings: &Settings, day: NaiveDate) -> bool {
    midnight(settings, day + TimeDelta::days(1), 0.0) - midnight(settings, day, 0.0) != TimeDelta::hours(24)
}

/// Emergencies before, in and after the hour that is skipped or doubled; the last comes an hour after its twin.
fn night_of_the_change(settings: &Settings, shift: &mut Shift<'_>, day: NaiveDate) {
    let begin = midnight(settings, day, 0.8);
    let mut now = begin;
    let mut patients = Vec::new();
    for minutes in [0.0, 25.0, 50.0, 75.0, 95.0, 115.0] {
        patients.push(shift.register.patient());
        now = shift.visit(now.max(after(begin, 60.0 * minutes)), patients[patients.len() - 1], false);
    }
    let twin = shift.register.twin(patients[3]);
    shift.visit(now.max(after(begin, 60.0 * 135.0)), twin, false);
}
