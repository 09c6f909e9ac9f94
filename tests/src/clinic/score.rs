//! Outcomes against the truth.

use std::fmt;

use trf_core::align::{self, Day, Drift, Log, Outcome, Treatment};

use super::{Clinic, Delivered};

/// What became of the records of a clinic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Records in all.
    pub records: usize,
    /// Unambiguous ones whose rows were named, all of them and no other.
    pub right: usize,
    /// Unambiguous ones that went to review.
    pub to_review: usize,
    /// Unambiguous ones for which no row was found.
    pub missed: usize,
    /// Records without a row for which none was found.
    pub none_right: usize,
    /// Records without a row that went to review.
    pub none_to_review: usize,
    /// Ambiguous ones that went to review.
    pub doubt_to_review: usize,
    /// Ambiguous ones whose row was named all the same.
    pub doubt_right: usize,
    /// Ambiguous ones for which no row was found.
    pub doubt_missed: usize,
    /// The right patient, but another row, or not all rows.
    pub wrong_row: usize,
    /// Another patient, or a patient where there is none.
    pub wrong_patient: usize,
    /// Parts of resumed deliveries that were joined.
    pub joined: usize,
    /// Those that should have been.
    pub to_join: usize,
    /// What went wrong, to look into.
    pub complaints: Vec<String>,
}

impl Score {
    /// Whether every unambiguous record has its rows and none has another's.
    pub fn is_perfect(&self) -> bool {
        self.to_review + self.missed + self.wrong_row + self.wrong_patient == 0
    }

    /// Records that a row belongs to, without doubt.
    pub fn unambiguous(&self) -> usize {
        self.right + self.to_review + self.missed + self.wrong_row + self.wrong_patient
    }

    /// Adds those of another clinic.
    pub fn add(&mut self, other: Score) {
        let Score { records, right, to_review, missed, none_right, none_to_review, .. } = other;
        self.records += records;
        self.right += right;
        self.to_review += to_review;
        self.missed += missed;
        self.none_right += none_right;
        self.none_to_review += none_to_review;
        self.doubt_to_review += other.doubt_to_review;
        self.doubt_right += other.doubt_right;
        self.doubt_missed += other.doubt_missed;
        self.wrong_row += other.wrong_row;
        self.wrong_patient += other.wrong_patient;
        self.joined += other.joined;
        self.to_join += other.to_join;
        self.complaints.extend(other.complaints);
    }

    fn count(
        &mut self,
        clinic: &Clinic,
        record: usize,
        outcome: &Outcome,
        treatments: &[Treatment],
        whole_rows: bool,
    ) {
        let truth = &clinic.records[record];
        self.records += 1;
        let has_row = truth.rows.iter().any(|&row| !clinic.rows[row].deleted);
        let complain = |score: &mut Score, what: &str| {
            let (start, linac) = (truth.start, truth.linac);
            let rows: Vec<_> = truth.rows.iter().map(|&row| clinic.treatment(&clinic.rows[row])).collect();
            let rows: Vec<_> = rows
                .iter()
                .map(|row| (row.created_local, row.edited_local, row.meterset_mu, row.beam_complete))
                .collect();
            let (label, name, mu) = (&truth.label, &truth.name, &truth.beams_mu);
            score.complaints.push(format!(
                "{what}: seed {}, linac {linac}, {start} to {}, {label}/{name}, {mu:?} MU, {:?}, {outcome:?}, true rows {rows:?}",
                clinic.settings.seed, truth.end, truth.doubt,
            ));
        };
        match outcome {
            Outcome::Matched { treatments: named, .. } => {
                let named: Vec<&Treatment> = named.iter().map(|&row| &treatments[row]).collect();
                match verdict(clinic, truth, &named, whole_rows) {
                    Verdict::Right if truth.doubt.is_some() || !has_row => self.doubt_right += 1,
                    Verdict::Right => self.right += 1,
                    Verdict::OtherRow => {
                        self.wrong_row += 1;
                        complain(self, "wrong row");
                    }
                    Verdict::OtherPatient => {
                        self.wrong_patient += 1;
                        complain(self, "wrong patient");
                    }
                }
            }
            Outcome::Ambiguous { .. } if !has_row => self.none_to_review += 1,
            Outcome::Ambiguous { .. } if truth.doubt.is_some() => self.doubt_to_review += 1,
            Outcome::Ambiguous { .. } => {
                self.to_review += 1;
                complain(self, "to review");
            }
            Outcome::Unmatched { .. } if !has_row => self.none_right += 1,
            Outcome::Unmatched { .. } if truth.doubt.is_some() => self.doubt_missed += 1,
            Outcome::Unmatched { .. } => {
                self.missed += 1;
                complain(self, "missed");
            }
        }
    }

    fn count_parts(&mut self, clinic: &Clinic, records: &[usize], day: &Day) {
        for (log, &record) in records.iter().enumerate() {
            let Outcome::Matched { part_of, .. } = &day.outcomes[log] else { continue };
            let delivery = clinic.records[record].delivery;
            let resumes = |&other: &usize| {
                let before = &clinic.records[records[other]];
                let matched = matches!(day.outcomes[other], Outcome::Matched { .. });
                matched && delivery.is_some() && before.delivery == delivery
            };
            if let Some(first) = (0..log).find(resumes) {
                self.to_join += 1;
                self.joined +=
                    usize::from(part_of.is_some_and(|part| part.first_log == first && part.part > 0));
            }
        }
    }
}

enum Verdict {
    Right,
    OtherRow,
    OtherPatient,
}

fn verdict(clinic: &Clinic, truth: &Delivered, named: &[&Treatment], whole_rows: bool) -> Verdict {
    let rows: Vec<_> = truth.rows.iter().map(|&row| &clinic.rows[row]).filter(|row| !row.deleted).collect();
    let right = if whole_rows {
        rows.iter().map(|row| row.ttx_id).eq(named.iter().map(|row| row.ttx_id))
    } else {
        // PyMedPhys names one field of one patient, and whether it was in QA mode.
        let details = |row: &&super::Row| (clinic.fields[row.field].field_id, row.qa_mode);
        named
            .first()
            .is_some_and(|named| rows.iter().any(|row| details(row) == (named.field_id, named.qa_mode)))
    };
    let fields: Vec<_> = truth.rows.iter().map(|&row| &clinic.fields[clinic.rows[row].field]).collect();
    let patients: Vec<i64> = fields.iter().map(|field| field.pat_id1).collect();
    // Its own row was deleted, and it is taken for another of the very same field.
    let sibling = rows.is_empty()
        && named.iter().all(|named| fields.iter().any(|field| field.field_id == named.field_id));
    match right || sibling {
        true => Verdict::Right,
        false if named.iter().all(|named| patients.contains(&named.pat_id1)) => Verdict::OtherRow,
        false => Verdict::OtherPatient,
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Score { records, right, to_review, missed, wrong_row, wrong_patient, .. } = self;
        let (none, doubt) = (self.none_right, self.doubt_to_review);
        write!(
            f,
            "{records} records: {right} right, {to_review} to review, {missed} missed, {wrong_row} wrong row, \
             {wrong_patient} wrong patient; without row {none} + {} to review; ambiguous {doubt} to review, {} right, {} missed; \
             joined {}/{}",
            self.none_to_review, self.doubt_right, self.doubt_missed, self.joined, self.to_join,
        )
    }
}

/// A clinic's days, one linac after the other, each with the clock that the day before left.
pub fn for_each_day(
    clinic: &Clinic,
    mut day: impl FnMut(usize, &[usize], &[Log], &[Treatment], Option<Drift>) -> Option<Drift>,
) {
    for linac in 0..clinic.linacs.len() {
        let records = clinic.records_of(linac);
        let logs: Vec<Log> = records.iter().map(|&record| clinic.log(record)).collect();
        let mut known: Option<(Drift, chrono::DateTime<chrono::Utc>)> = None;
        for of_day in align::days(&logs, &clinic.options().time_zone) {
            let of_records: Vec<usize> = of_day.iter().map(|&log| records[log]).collect();
            let of_logs: Vec<Log> = of_day.iter().map(|&log| logs[log].clone()).collect();
            let (from, to) = align::local_span(&of_logs, &clinic.options()).expect("a day has records");
            let treatments = clinic.treatments(linac, from, to);
            let end = of_logs.iter().map(|log| log.end_utc).max().expect("a day has records");
            let before = known.map(|(drift, at)| drift.after_days((end - at).as_seconds_f64() / 86_400.0));
            if let Some(drift) = day(linac, &of_records, &of_logs, &treatments, before) {
                known = Some((drift, end));
            }
        }
    }
}

/// Whole days, as the index aligns them.
pub fn whole_days(clinic: &Clinic) -> Score {
    let mut score = Score::default();
    for_each_day(clinic, |_, records, logs, treatments, before| {
        let mut options = clinic.options();
        options.drift_before = before;
        let day = align::align_day(logs, treatments, &options);
        for (&record, outcome) in records.iter().zip(&day.outcomes) {
            score.count(clinic, record, outcome, treatments, true);
        }
        score.count_parts(clinic, records, &day);
        day.drift
    });
    score
}

/// One record at a time, as PyMedPhys does.
pub fn like_pymedphys(clinic: &Clinic) -> Score {
    let mut score = Score::default();
    for_each_day(clinic, |_, records, logs, treatments, _| {
        for (&record, log) in records.iter().zip(logs) {
            let outcome = align::like_pymedphys(log, treatments, &clinic.options());
            score.count(clinic, record, &outcome, treatments, false);
        }
        None
    });
    score
}
