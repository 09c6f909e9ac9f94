//! The index of records, in SQLite; any number of readers, one writer.
//!
//! Input: records that the archive has written. Output: [`IndexedRecord`]s by linac, patient and day, and each linac's
//! cursor: the stream offset up to which everything is archived. A record and its cursor are committed together, so
//! that a replay after a crash neither loses nor repeats one. The index can be rebuilt from the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::Serialize;

use crate::session::Record;
use crate::{Error, Result};

/// Which directory a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shelf {
    /// `patients/`: MU was delivered, and PyMedPhys reads it.
    Patients,
    /// `patients/unknown_error_in_record/`, as PyMedPhys has it: MU was delivered, but not every message has all positions.
    Incomplete,
    /// `no_mu/`: kept for a set time.
    NoMu,
}

impl Shelf {
    const fn word(self) -> &'static str {
        match self {
            Self::Patients => "patients",
            Self::Incomplete => "incomplete",
            Self::NoMu => "no_mu",
        }
    }

    fn from_word(word: &str) -> Self {
        match word {
            "patients" => Self::Patients,
            "incomplete" => Self::Incomplete,
            _ => Self::NoMu,
        }
    }
}

/// A record as the index knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexedRecord {
    /// The linac's name in the settings.
    pub linac: String,
    /// Where it is.
    pub shelf: Shelf,
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of its messages, in hexadecimal.
    pub sha256: String,
    /// What is in it.
    pub record: Record,
}

/// What to look for; `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// The linac's name in the settings, or its machine ID on the wire.
    pub linac: Option<String>,
    /// Patient's ID.
    pub patient_id: Option<String>,
    /// Day of the first message, on the linac's clock.
    pub day: Option<NaiveDate>,
    /// Whether records without MU count.
    pub without_mu: bool,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
    path: PathBuf,
}

impl Index {
    /// Opens the index for writing, making it if it is not there.
    ///
    /// # Errors
    /// [`Error::Index`]; [`Error::Unsupported`] if a later version wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        }
        let connection = Connection::open(path).map_err(Error::index(path))?;
        let index = Self { connection, path: path.to_owned() };
        index.prepare()?;
        Ok(index)
    }

    /// Opens the index for reading only.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there is none, [`Error::Index`].
    pub fn open_read_only(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::Misuse {
                what: format!("there is no iCom index at {}: has the listener run yet?", path.display()),
            });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(Error::index(path))?;
        connection.busy_timeout(BUSY).map_err(Error::index(path))?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Stream offset up to which everything of this linac is archived.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn cursor(&self, linac: &str) -> Result<u64> {
        self.connection
            .query_row("SELECT stream_offset FROM cursor WHERE linac = ?1", [linac], |row| row.get(0))
            .optional()
            .map(|offset: Option<i64>| offset.map_or(0, unsigned))
            .map_err(self.failed())
    }

    /// Moves a linac's cursor.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn set_cursor(&self, linac: &str, offset: u64) -> Result<()> {
        self.connection.execute(SET_CURSOR, params![linac, signed(offset)]).map(drop).map_err(self.failed())
    }

    /// Adds a record and moves its linac's cursor, both or neither. The same record again changes nothing.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn insert(&mut self, entry: &IndexedRecord, root: &Path, cursor: u64) -> Result<()> {
        let failed = self.failed();
        let transaction = self.connection.transaction().map_err(Error::index(&self.path))?;
        insert_row(&transaction, entry, root)
            .and_then(|()| transaction.execute(SET_CURSOR, params![entry.linac, signed(cursor)]))
            .and_then(|_| transaction.commit())
            .map_err(failed)
    }

    /// Hash of the messages of the record that has this path, if one has.
    pub(crate) fn sha256_at(&self, path: &Path, root: &Path) -> Result<Option<String>> {
        self.connection
            .prepare_cached("SELECT sha256 FROM record WHERE path = ?1")
            .and_then(|mut known| known.query_row([written(path, root)], |row| row.get(0)).optional())
            .map_err(self.failed())
    }

    /// Records that match, oldest first; `root` is the listener's directory.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn find(&self, query: &Query, root: &Path) -> Result<Vec<IndexedRecord>> {
        let day = query.day.map(|day| day.to_string());
        let mut statement = self.connection.prepare(FIND).map_err(self.failed())?;
        let rows = statement
            .query_map(params![query.linac, query.patient_id, day, query.without_mu], |row| {
                read_row(row, root)
            })
            .map_err(self.failed())?;
        rows.collect::<std::result::Result<_, _>>().map_err(self.failed())
    }

    /// Takes records without MU that ended before `before` out of the index, gives their files for deletion.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn forget_without_mu(&self, before: DateTime<Utc>, root: &Path) -> Result<Vec<PathBuf>> {
        let mut statement = self.connection.prepare(FORGET).map_err(self.failed())?;
        let rows = statement
            .query_map([before.timestamp_micros()], |row| row.get::<_, String>(0))
            .map_err(self.failed())?;
        rows.map(|path| path.map(|path| root.join(path)))
            .collect::<std::result::Result<_, _>>()
            .map_err(self.failed())
    }

    /// Looks whether the database is whole.
    ///
    /// # Errors
    /// [`Error::Index`] with SQLite's code for damage if it is not.
    pub(crate) fn check(&self) -> Result<()> {
        let found: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(self.failed())?;
        if found == "ok" {
            return Ok(());
        }
        let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        Err(self.failed()(rusqlite::Error::SqliteFailure(damaged, Some(found))))
    }

    /// Hash of each file in it, by the path as it is written there.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, String>> {
        let mut statement =
            self.connection.prepare("SELECT path, sha256 FROM record").map_err(self.failed())?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(self.failed())?;
        rows.collect::<std::result::Result<_, _>>().map_err(self.failed())
    }

    /// Takes rows out and puts others in, all or nothing. Of one path the new row stays.
    pub(crate) fn reconcile(&mut self, gone: &[String], new: &[IndexedRecord], root: &Path) -> Result<()> {
        let failed = self.failed();
        let transaction = self.connection.transaction().map_err(Error::index(&self.path))?;
        let work = || -> rusqlite::Result<()> {
            for path in gone {
                transaction.execute("DELETE FROM record WHERE path = ?1", [path])?;
            }
            new.iter().try_for_each(|entry| insert_row(&transaction, entry, root))
        };
        work().and_then(|()| transaction.commit()).map_err(failed)
    }

    fn prepare(&self) -> Result<()> {
        self.connection.busy_timeout(BUSY).map_err(self.failed())?;
        self.connection.pragma_update(None, "journal_mode", "WAL").map_err(self.failed())?;
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(self.failed())?;
        let version: i64 =
            self.connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(self.failed())?;
        match version {
            0 => self.connection.execute_batch(SCHEMA).map_err(self.failed()),
            VERSION => Ok(()),
            other => Err(Error::Unsupported {
                what: format!("{} has schema {other}, this version knows {VERSION}", self.path.display()),
            }),
        }
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Index { path: path.clone(), source }
    }
}

fn insert_row(connection: &Connection, entry: &IndexedRecord, root: &Path) -> rusqlite::Result<()> {
    let record = &entry.record;
    let fields: Vec<&str> = record.fields.iter().map(|field| field.field_id.as_str()).collect();
    let details = serde_json::to_string(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    connection.execute(
        INSERT,
        params![
            entry.linac,
            entry.shelf.word(),
            written(&entry.path, root),
            entry.sha256,
            record.machine_id,
            record.patient_id,
            record.patient_name,
            fields.join("\n"),
            stamp(record.start),
            stamp(record.end),
            record.received_to.timestamp_micros(),
            record.mu,
            signed(record.gaps),
            signed(record.stream_start),
            details,
        ],
    )?;
    Ok(())
}

/// A path as it is written in the index: with forward slashes and relative, since the directory may move and a Windows index be
/// read elsewhere.
pub(crate) fn written(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn read_row(row: &Row<'_>, root: &Path) -> rusqlite::Result<IndexedRecord> {
    let details: String = row.get("details")?;
    let record = serde_json::from_str(&details).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(IndexedRecord {
        linac: row.get("linac")?,
        shelf: Shelf::from_word(&row.get::<_, String>("shelf")?),
        path: root.join(row.get::<_, String>("path")?),
        sha256: row.get("sha256")?,
        record,
    })
}

fn stamp(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

/// SQLite's integers are signed; offsets of 2^63 bytes take a linac nine million years.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

const VERSION: i64 = 1;
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
BEGIN;
CREATE TABLE record (
    linac TEXT NOT NULL, shelf TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    machine_id TEXT, patient_id TEXT NOT NULL, patient_name TEXT, fields TEXT NOT NULL,
    start TEXT NOT NULL, \"end\" TEXT NOT NULL, received_to_us INTEGER NOT NULL, mu REAL NOT NULL,
    gaps INTEGER NOT NULL, stream_start INTEGER NOT NULL, details TEXT NOT NULL,
    PRIMARY KEY (path)
) STRICT;
CREATE INDEX record_patient ON record (patient_id, start);
CREATE INDEX record_start ON record (start);
CREATE TABLE cursor (linac TEXT PRIMARY KEY, stream_offset INTEGER NOT NULL) STRICT;
PRAGMA user_version = 1;
COMMIT;
";

const SET_CURSOR: &str = "INSERT INTO cursor VALUES (?1, ?2)
    ON CONFLICT (linac) DO UPDATE SET stream_offset = max(stream_offset, excluded.stream_offset)";

const INSERT: &str = "INSERT OR REPLACE INTO record VALUES
    (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

const FIND: &str = "SELECT * FROM record
    WHERE (?1 IS NULL OR linac = ?1 COLLATE NOCASE OR machine_id = ?1 COLLATE NOCASE)
      AND (?2 IS NULL OR patient_id = ?2)
      AND (?3 IS NULL OR substr(start, 1, 10) = ?3)
      AND (?4 OR shelf <> 'no_mu')
    ORDER BY start, received_to_us";

const FORGET: &str = "DELETE FROM record WHERE shelf = 'no_mu' AND received_to_us < ?1 RETURNING path";
