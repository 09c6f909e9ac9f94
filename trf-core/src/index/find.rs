//! Asking the index: each question is served by one of its keys, newest first.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use serde::Serialize;

use super::entry::{Entry, State, unhex};
use super::{Index, filing, rows};
use crate::{Error, Result, RtPlan};

/// Shortest beginning of a SHA-256 that names a record.
const SHORTEST_NAME: usize = 6;
/// Digits of a SHA-256.
const NAME: usize = 64;

/// What to look for; `None` matches all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// IDA of the patient.
    pub patient_id: Option<String>,
    /// Field label, field name, `label/name` as the linac writes it, or Mosaiq's FLD_ID.
    pub field: Option<String>,
    /// Any of these is the field's name or label, such as a plan's beams.
    pub field_among: Vec<String>,
    /// Machine id of the header, or the linac's name in the settings.
    pub machine: Option<String>,
    /// Day of the record's end on the site's clock.
    pub day: Option<NaiveDate>,
    /// Where it stands.
    pub state: Option<State>,
    /// QA mode or clinical; records whose treatment is not known are neither.
    pub qa_mode: Option<bool>,
    /// The one nearest to this time on the site's clock: the result has one entry at most.
    pub near: Option<NaiveDateTime>,
    /// At most so many, newest first; 0 is all.
    pub limit: usize,
}

impl Query {
    /// Asks for the patient and the beams of a plan.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the plan names no patient or no beam.
    pub fn of_plan(&mut self, plan: &RtPlan) -> Result<()> {
        let data_set = plan.dataset();
        let text = |item: &InMemDicomObject, tag| {
            let text = item.get(tag)?.to_str().ok()?;
            let text = text.trim_matches([' ', '\0']);
            (!text.is_empty()).then(|| text.to_owned())
        };
        let lacks = |what| Error::malformed("RT Plan", 0, what, "none");
        self.patient_id =
            Some(text(data_set, tags::PATIENT_ID).ok_or_else(|| lacks("a Patient ID (0010,0020)"))?);
        // Monaco writes the field's label as Beam Name and its name as Beam Description; others the name alone.
        let beams =
            data_set.get(tags::BEAM_SEQUENCE).and_then(|sequence| sequence.items()).unwrap_or_default();
        let names = beams
            .iter()
            .flat_map(|beam| [tags::BEAM_NAME, tags::BEAM_DESCRIPTION].map(|tag| text(beam, tag)));
        self.field_among = names.flatten().collect();
        self.field_among.sort();
        self.field_among.dedup();
        if self.field_among.is_empty() { Err(lacks("a Beam Name (300A,00C2)")) } else { Ok(()) }
    }
}

/// How many records stand where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All.
    pub records: u64,
    /// Their treatment is known.
    pub indexed: u64,
    /// A person must decide.
    pub review: u64,
    /// No treatment was found.
    pub no_mosaiq_record_found: u64,
    /// Of these, those that are looked for again.
    pub tried_again: u64,
    /// No readable record.
    pub unknown_error_in_logfile: u64,
    /// Beams of service mode.
    pub no_field_label_in_logfile: u64,
}

/// A condition with the values it needs.
type Condition = (&'static str, Vec<Value>);

impl Index {
    /// Records that match, newest first.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn find(&self, query: &Query) -> Result<Vec<Entry>> {
        // One moment of the index for all that is asked, and one lock.
        let moment = self.connection.unchecked_transaction().map_err(self.failed())?;
        let mut found: Vec<(i64, Entry)> = Vec::new();
        // One key per question: each alternative is asked by its own, and the answers are put together.
        for machine in machine_conditions(query) {
            for field in field_conditions(query) {
                let conditions: Vec<&Condition> = machine.iter().chain(&field).collect();
                found.extend(self.ask(query, &conditions).map_err(self.failed())?);
            }
        }
        if let Some(near) = query.near {
            let distance = |entry: &Entry| entry.distance_s(near).unwrap_or(f64::INFINITY);
            found.sort_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
            found.truncate(1);
        }
        found.sort_by(|(a_id, a), (b_id, b)| (local(b), b_id).cmp(&(local(a), a_id)));
        found.dedup_by_key(|(id, _)| *id);
        if query.limit > 0 {
            found.truncate(query.limit);
        }
        let mut entries = Vec::with_capacity(found.len());
        for (id, mut entry) in found {
            rows::fill(&self.connection, id, &mut entry).map_err(self.failed())?;
            entries.push(entry);
        }
        moment.commit().map_err(self.failed())?;
        Ok(entries)
    }

    /// The record with this SHA-256, or the only one that begins so.
    ///
    /// # Errors
    /// [`Error::Misuse`] when there is none or more than one; [`Error::Index`].
    pub fn record(&self, name: &str) -> Result<Entry> {
        let name = name.trim().to_ascii_lowercase();
        let pad = |digit: &str| unhex(&format!("{name}{}", digit.repeat(NAME.saturating_sub(name.len()))));
        let (Some(low), Some(high)) = (pad("0"), pad("f")) else {
            return Err(Error::misuse(
                "a record is named by the beginning of its SHA-256: hexadecimal digits",
            )
            .with_hint("`scp-node trf find` and `trf review` show the names"));
        };
        if name.len() < SHORTEST_NAME || name.len() > NAME {
            return Err(Error::misuse(format!("a record's name has {SHORTEST_NAME} to {NAME} digits"))
                .with_hint("`scp-node trf find` and `trf review` show the names"));
        }
        let sql = format!("SELECT {} FROM entries e WHERE e.sha256 BETWEEN ?1 AND ?2 LIMIT 2", rows::COLUMNS);
        let found = (|| -> rusqlite::Result<Vec<(i64, Entry)>> {
            self.connection.prepare_cached(&sql)?.query_map([low, high], rows::entry)?.collect()
        })();
        let mut found = found.map_err(self.failed())?;
        match (found.pop(), found.is_empty()) {
            (Some((id, mut entry)), true) => {
                rows::fill(&self.connection, id, &mut entry).map_err(self.failed())?;
                Ok(entry)
            }
            (Some(_), false) => Err(Error::misuse(format!("more than one record begins with {name}"))
                .with_hint("give more digits of its SHA-256")),
            (None, _) => Err(Error::misuse(format!("no record {name} in the index"))
                .with_hint("`scp-node trf find` shows what there is")),
        }
    }

    /// The record of exactly these bytes.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn by_sha256(&self, sha256: &str) -> Result<Option<Entry>> {
        filing::find_one(&self.connection, sha256).map_err(self.failed())
    }

    /// Records whose treatment is to be looked for now, oldest first.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn due(&self, now: DateTime<Utc>) -> Result<Vec<Entry>> {
        let tail = "WHERE e.next_try_s IS NOT NULL AND e.next_try_s <= ?1 ORDER BY e.local_time, e.id";
        self.all(tail, vec![now.timestamp().into()])
    }

    /// All records without treatment that no person settled, whenever they are due, oldest first.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn waiting(&self) -> Result<Vec<Entry>> {
        let tail = "WHERE e.state <> 'indexed' AND e.state IN ('review', 'no_mosaiq_record_found')
                    AND e.decided_by IS NULL ORDER BY e.local_time, e.id";
        self.all(tail, Vec::new())
    }

    /// Labelled records of a linac that ended in this span of the site's clock, its end not included; oldest first.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn around(&self, linac: &str, from: NaiveDateTime, until: NaiveDateTime) -> Result<Vec<Entry>> {
        let tail = "WHERE e.linac = ?1 AND e.local_time >= ?2 AND e.local_time < ?3 AND e.field_label <> ''
                    ORDER BY e.local_time, e.id";
        let (from, until) = (rows::local_text(from), rows::local_text(until));
        self.all(tail, vec![linac.to_owned().into(), from.into(), until.into()])
    }

    /// Records that have this entry of TrackTreatment already.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn claimed_by(&self, ttx_id: i64) -> Result<Vec<Entry>> {
        let tail = "WHERE e.id IN (SELECT entry FROM treatments WHERE ttx_id = ?1 AND candidate = 0)";
        self.all(tail, vec![ttx_id.into()])
    }

    /// How many records stand where.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn counts(&self) -> Result<Counts> {
        let count = |sql: &str| -> rusqlite::Result<u64> {
            let n: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(n).unwrap_or_default())
        };
        let counts = || -> rusqlite::Result<Counts> {
            let mut counts = Counts { records: count("SELECT count(*) FROM entries")?, ..Counts::default() };
            let sql = "SELECT state, count(*) FROM entries WHERE state <> 'indexed' GROUP BY state";
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            let mut others = 0;
            while let Some(row) = rows.next()? {
                let n = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
                others += n;
                match State::from_word(&row.get::<_, String>(0)?) {
                    Some(State::Review) => counts.review = n,
                    Some(State::NoMosaiqRecordFound) => counts.no_mosaiq_record_found = n,
                    Some(State::UnknownErrorInLogfile) => counts.unknown_error_in_logfile = n,
                    Some(State::NoFieldLabelInLogfile) => counts.no_field_label_in_logfile = n,
                    Some(State::Indexed) | None => {}
                }
            }
            counts.indexed = counts.records.saturating_sub(others);
            counts.tried_again = count(
                "SELECT count(*) FROM entries WHERE next_try_s IS NOT NULL AND state = 'no_mosaiq_record_found'",
            )?;
            Ok(counts)
        };
        counts().map_err(self.failed())
    }

    /// Entries with their treatments; `tail` is a constant of ours.
    pub(super) fn all(&self, tail: &str, values: Vec<Value>) -> Result<Vec<Entry>> {
        let found = (|| -> rusqlite::Result<Vec<Entry>> {
            let mut statement =
                self.connection.prepare_cached(&format!("SELECT {} FROM entries e {tail}", rows::COLUMNS))?;
            let found: Vec<(i64, Entry)> = statement
                .query_map(params_from_iter(values), rows::entry)?
                .collect::<rusqlite::Result<_>>()?;
            found
                .into_iter()
                .map(|(id, mut entry)| rows::fill(&self.connection, id, &mut entry).map(|()| entry))
                .collect()
        })();
        found.map_err(self.failed())
    }

    fn ask(&self, query: &Query, conditions: &[&Condition]) -> rusqlite::Result<Vec<(i64, Entry)>> {
        let own = own_conditions(query);
        let conditions: Vec<&Condition> = conditions.iter().copied().chain(&own).collect();
        let Some(near) = query.near else {
            return ask(&self.connection, &conditions, "DESC", query.limit);
        };
        let near = Value::from(rows::local_text(near));
        let before: Condition = ("e.local_time <= ?", vec![near.clone()]);
        let after: Condition = ("e.local_time > ?", vec![near]);
        let with = |condition| conditions.iter().copied().chain([condition]).collect::<Vec<_>>();
        let mut found = ask(&self.connection, &with(&before), "DESC", 1)?;
        found.extend(ask(&self.connection, &with(&after), "ASC", 1)?);
        Ok(found)
    }
}

fn ask(
    connection: &Connection,
    conditions: &[&Condition],
    order: &str,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Entry)>> {
    let (sql, values) = question(conditions, order, limit);
    connection.prepare_cached(&sql)?.query_map(params_from_iter(values), rows::entry)?.collect()
}

fn question(conditions: &[&Condition], order: &str, limit: usize) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {} FROM entries e WHERE TRUE", rows::COLUMNS);
    let mut values = Vec::new();
    for (condition, needed) in conditions {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.extend(needed.iter().cloned());
    }
    sql.push_str(&format!(" ORDER BY e.local_time {order}, e.id {order}"));
    if limit > 0 {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    (sql, values)
}

/// The alternatives of `machine`, each a list of conditions.
fn machine_conditions(query: &Query) -> Vec<Vec<Condition>> {
    let Some(machine) = &query.machine else { return vec![Vec::new()] };
    ["e.machine = ?", "e.linac = ?"].map(|sql| vec![(sql, vec![machine.clone().into()])]).into()
}

/// The alternatives of `field`.
fn field_conditions(query: &Query) -> Vec<Vec<Condition>> {
    let by_name = |name: &str| {
        ["e.field_name = ?", "e.field_label = ?"].map(|sql| vec![(sql, vec![name.to_owned().into()])])
    };
    if !query.field_among.is_empty() {
        return query.field_among.iter().flat_map(|name| by_name(name)).collect();
    }
    let Some(field) = &query.field else { return vec![Vec::new()] };
    let mut alternatives: Vec<Vec<Condition>> = by_name(field).into();
    if let Some((label, name)) = field.split_once('/') {
        alternatives.push(vec![
            ("e.field_name = ?", vec![name.to_owned().into()]),
            ("e.field_label = ?", vec![label.to_owned().into()]),
        ]);
    }
    if let Ok(id) = field.parse::<i64>() {
        let sql = "e.id IN (SELECT entry FROM treatments WHERE field_id = ? AND candidate = 0)";
        alternatives.push(vec![(sql, vec![id.into()])]);
    }
    alternatives
}

/// What holds in every alternative.
fn own_conditions(query: &Query) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = Vec::new();
    if let Some(patient) = &query.patient_id {
        let sql = "e.id IN (SELECT entry FROM treatments WHERE patient_id = ? AND candidate = 0)";
        conditions.push((sql, vec![patient.clone().into()]));
    }
    if let Some(day) = query.day {
        let next = day.succ_opt().unwrap_or(day);
        conditions.push((
            "e.local_time >= ? AND e.local_time < ?",
            vec![day.to_string().into(), next.to_string().into()],
        ));
    }
    match query.state {
        // Both terms, so that the partial key serves.
        Some(state) if state != State::Indexed => {
            conditions.push(("e.state <> 'indexed' AND e.state = ?", vec![state.word().to_owned().into()]));
        }
        Some(state) => conditions.push(("e.state = ?", vec![state.word().to_owned().into()])),
        None => {}
    }
    if let Some(qa_mode) = query.qa_mode {
        let sql =
            "EXISTS (SELECT 1 FROM treatments t WHERE t.entry = e.id AND t.candidate = 0 AND t.qa_mode = ?)";
        conditions.push((sql, vec![qa_mode.into()]));
    }
    conditions
}

fn local(entry: &Entry) -> Option<NaiveDateTime> {
    entry.facts.as_ref().map(|facts| facts.local_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How SQLite answers the question, a line per step.
    fn plan(connection: &Connection, conditions: &[&Condition]) -> String {
        let (sql, values) = question(conditions, "DESC", 1);
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
        steps.collect::<rusqlite::Result<Vec<_>>>().unwrap().join("\n")
    }

    #[test]
    fn a_field_of_a_machine_near_a_time_is_found_by_one_key_and_never_sorted() {
        let root = tempfile::tempdir().unwrap();
        let index = Index::open(root.path()).unwrap();
        let query = Query { machine: Some("4000".into()), field: Some("1-1/AP".into()), ..Query::default() };
        let before: Condition = ("e.local_time <= ?", vec!["2026-11-21".to_owned().into()]);
        for machine in machine_conditions(&query) {
            for field in field_conditions(&query) {
                let conditions: Vec<&Condition> = machine.iter().chain(&field).chain([&before]).collect();
                let plan = plan(&index.connection, &conditions);
                let equal = conditions.len() - 1;
                assert_eq!(plan.matches("=? AND").count(), equal, "{conditions:?}: {plan}");
                assert!(plan.contains("local_time<?") && !plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }
}
