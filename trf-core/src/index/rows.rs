//! Entries to rows and back.

use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::entry::{Candidate, Entry, Facts, Part, State, Treated, from_seconds, hex, unhex};
use crate::items::ItemPart;

/// How times of the wall clock are written: sortable as text.
const LOCAL: &str = "%Y-%m-%dT%H:%M:%S%.3f";

pub(super) fn local_text(time: NaiveDateTime) -> String {
    time.format(LOCAL).to_string()
}

fn local(text: Option<String>) -> Option<NaiveDateTime> {
    NaiveDateTime::parse_from_str(&text?, "%Y-%m-%dT%H:%M:%S%.f").ok()
}

fn seconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp())
}

/// A blob for hexadecimal text; what is no hexadecimal text matches nothing.
pub(super) fn blob(text: &str) -> Value {
    unhex(text).map_or(Value::Null, Value::Blob)
}

/// The id of this list of items; made if it is new.
pub(super) fn item_list(connection: &Connection, items: &[ItemPart]) -> rusqlite::Result<i64> {
    let bytes: Vec<u8> =
        items.iter().flat_map(|i| [i.item.to_le_bytes(), i.part.to_le_bytes()]).flatten().collect();
    let find = "SELECT id FROM item_lists WHERE items = ?1";
    let known = connection.prepare_cached(find)?.query_row([&bytes], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    // Another process may have entered it meanwhile.
    connection.execute("INSERT OR IGNORE INTO item_lists (items) VALUES (?1)", [&bytes])?;
    connection.query_row(find, [&bytes], |row| row.get(0))
}

const UPSERT: &str = "INSERT INTO entries (sha256, sha1, bytes, path, state, reason, linac, centre, machine, field_label, field_name,
        utc_text, utc_offset_text, start_ms, end_ms, local_time, total_dose_tenth_mu, delivered_mu, beams_mu, version, rows,
        item_list, part_of, part, parts, drift_s, tries, next_try_s, decided_by, added_s)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
        ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30)
    ON CONFLICT (sha256) DO UPDATE SET path = excluded.path, state = excluded.state, reason = excluded.reason,
        linac = coalesce(excluded.linac, linac), centre = coalesce(excluded.centre, centre), part_of = excluded.part_of,
        part = excluded.part, parts = excluded.parts,
        drift_s = excluded.drift_s, tries = excluded.tries, next_try_s = excluded.next_try_s,
        decided_by = excluded.decided_by, local_time = excluded.local_time
    RETURNING id";

const ADD_TREATMENT: &str = "INSERT INTO treatments VALUES
    (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)";

/// Enters a record with its treatments, or replaces what was known of it.
pub(super) fn upsert(connection: &Connection, entry: &Entry, item_list: Option<i64>) -> rusqlite::Result<()> {
    let facts = entry.facts.as_ref();
    let beams = facts.map(|f| f.beams_mu.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    let known = connection
        .prepare_cached("SELECT id FROM entries WHERE sha256 = ?1")?
        .query_row([blob(&entry.sha256)], |row| row.get::<_, i64>(0))
        .optional()?;
    let id: i64 = connection.prepare_cached(UPSERT)?.query_row(
        params![
            blob(&entry.sha256),
            blob(&entry.sha1),
            as_i64(entry.bytes),
            entry.path,
            entry.state.word(),
            entry.reason,
            entry.linac,
            entry.centre,
            facts.map(|f| &f.machine),
            facts.map(|f| &f.field_label),
            facts.map(|f| &f.field_name),
            facts.map(|f| &f.utc_text),
            facts.map(|f| &f.utc_offset_text),
            facts.map(|f| f.start_utc.timestamp_millis()),
            facts.map(|f| f.end_utc.timestamp_millis()),
            facts.map(|f| local_text(f.local_time)),
            facts.and_then(|f| f.total_dose_tenth_mu),
            facts.and_then(|f| f.delivered_mu),
            beams,
            facts.map(|f| f.version),
            facts.map(|f| as_i64(f.rows)),
            item_list,
            entry.part_of.as_ref().map(|part| &part.first),
            entry.part_of.as_ref().map(|part| part.part),
            entry.part_of.as_ref().map(|part| part.parts),
            entry.drift_s,
            entry.tries,
            seconds(entry.next_try),
            entry.decided_by,
            entry.added.timestamp(),
        ],
        |row| row.get(0),
    )?;
    if known.is_some() {
        connection.prepare_cached("DELETE FROM treatments WHERE entry = ?1")?.execute([id])?;
    }
    let chosen = entry.treatments.iter().enumerate().map(|(position, t)| (0, position, (None, None), t));
    let candidates = entry.candidates.iter().enumerate().flat_map(|(n, candidate)| {
        candidate
            .treatments
            .iter()
            .enumerate()
            .map(move |(position, t)| (n + 1, position, (candidate.behind, candidate.drift_s), t))
    });
    let mut add = connection.prepare_cached(ADD_TREATMENT)?;
    for (candidate, position, (behind, drift_s), t) in chosen.chain(candidates) {
        add.execute(params![
            id,
            as_i64(candidate as u64),
            as_i64(position as u64),
            behind,
            drift_s,
            t.ttx_id,
            t.dhs_id,
            t.pat_id1,
            t.patient_id,
            t.last_name,
            t.first_name,
            t.field_id,
            t.field_label,
            t.field_name,
            t.field_type,
            t.meterset_mu,
            t.delivered_mu,
            t.created_local.map(local_text),
            t.edited_local.map(local_text),
            t.qa_mode,
            t.beam_completed,
        ])?;
    }
    Ok(())
}

/// SQLite's integers are signed; no file has 2^63 bytes.
fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Columns that [`entry`] reads, to be followed by `FROM entries e`.
pub(super) const COLUMNS: &str = "e.id, e.sha256, e.sha1, e.bytes, e.path, e.state, e.reason, e.linac, e.centre, e.machine,
    e.field_label, e.field_name, e.utc_text, e.utc_offset_text, e.start_ms, e.end_ms, e.local_time, e.total_dose_tenth_mu,
    e.delivered_mu, e.beams_mu, e.version, e.rows, e.drift_s, e.tries, e.next_try_s, e.decided_by, e.added_s, e.part_of, e.part, e.parts";

/// A row without its treatments, and its id.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<(i64, Entry)> {
    let state: String = row.get(5)?;
    let beams: Option<String> = row.get(19)?;
    let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.and_then(from_seconds));
    let moment = |column| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.and_then(DateTime::from_timestamp_millis))
    };
    let facts = match (row.get::<_, Option<String>>(9)?, moment(14)?, moment(15)?, local(row.get(16)?)) {
        (Some(machine), Some(start_utc), Some(end_utc), Some(local_time)) => Some(Facts {
            machine,
            field_label: row.get::<_, Option<String>>(10)?.unwrap_or_default(),
            field_name: row.get::<_, Option<String>>(11)?.unwrap_or_default(),
            utc_text: row.get::<_, Option<String>>(12)?.unwrap_or_default(),
            utc_offset_text: row.get::<_, Option<String>>(13)?.unwrap_or_default(),
            start_utc,
            end_utc,
            local_time,
            total_dose_tenth_mu: row.get(17)?,
            delivered_mu: row.get(18)?,
            beams_mu: beams
                .iter()
                .flat_map(|text| text.split_whitespace())
                .filter_map(|n| n.parse().ok())
                .collect(),
            version: row.get::<_, Option<i32>>(20)?.unwrap_or_default(),
            rows: row.get::<_, Option<i64>>(21)?.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        }),
        _ => None,
    };
    let entry = Entry {
        sha256: hex(&row.get::<_, Vec<u8>>(1)?),
        sha1: hex(&row.get::<_, Vec<u8>>(2)?),
        bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
        path: row.get(4)?,
        state: State::from_word(&state).unwrap_or(State::UnknownErrorInLogfile),
        reason: row.get(6)?,
        linac: row.get(7)?,
        centre: row.get(8)?,
        facts,
        treatments: Vec::new(),
        candidates: Vec::new(),
        part_of: part(row)?,
        drift_s: row.get(22)?,
        tries: row.get(23)?,
        next_try: time(24)?,
        decided_by: row.get(25)?,
        added: time(26)?.unwrap_or_default(),
    };
    Ok((row.get(0)?, entry))
}

fn part(row: &Row<'_>) -> rusqlite::Result<Option<Part>> {
    let Some(first) = row.get(27)? else { return Ok(None) };
    Ok(Some(Part { first, part: row.get(28)?, parts: row.get(29)? }))
}

/// Fills in the treatments and candidates of an entry.
pub(super) fn fill(connection: &Connection, id: i64, entry: &mut Entry) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT candidate, behind, ttx_id, dhs_id, pat_id1, patient_id, last_name, first_name, field_id, field_label,
                field_name, field_type, meterset_mu, created_local, edited_local, qa_mode, beam_completed,
                delivered_mu, drift_s
         FROM treatments WHERE entry = ?1 ORDER BY candidate, position",
    )?;
    let mut rows = statement.query([id])?;
    let mut last = 0;
    while let Some(row) = rows.next()? {
        let candidate: i64 = row.get(0)?;
        let treated = Treated {
            ttx_id: row.get(2)?,
            dhs_id: row.get(3)?,
            pat_id1: row.get(4)?,
            patient_id: row.get(5)?,
            last_name: row.get(6)?,
            first_name: row.get(7)?,
            field_id: row.get(8)?,
            field_label: row.get(9)?,
            field_name: row.get(10)?,
            field_type: row.get(11)?,
            meterset_mu: row.get(12)?,
            created_local: local(row.get(13)?),
            edited_local: local(row.get(14)?),
            qa_mode: row.get(15)?,
            beam_completed: row.get(16)?,
            delivered_mu: row.get(17)?,
        };
        if candidate == 0 {
            entry.treatments.push(treated);
            continue;
        }
        if candidate != last {
            entry.candidates.push(Candidate {
                treatments: Vec::new(),
                behind: row.get(1)?,
                drift_s: row.get(18)?,
            });
            last = candidate;
        }
        if let Some(candidate) = entry.candidates.last_mut() {
            candidate.treatments.push(treated);
        }
    }
    Ok(())
}
