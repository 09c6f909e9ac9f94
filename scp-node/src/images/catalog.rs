//! What is known about the objects on disk: SQLite in WAL mode, read by any process at any time.
//!
//! Everything in it can be rebuilt from the files ([`super::reindex`]). Writers of several processes take turns at
//! SQLite's write lock, which is held across the renames that belong to a row, so that rows and files move together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::moves::Moves;
use super::rows::{
    Entered, Instance, PlanRecord, Session, SessionFilter, TIME_FORMAT, Totals, beam_text, instance, plan,
    time,
};
use super::{layout, schema};
use crate::error::{Error, Result};
use crate::names::Uid;

/// How long a writer waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(20);
/// Pause between two tries where SQLite itself does not wait.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// One connection to the catalog of one root.
#[derive(Debug)]
pub struct Catalog {
    connection: Connection,
    root: PathBuf,
    path: PathBuf,
}

impl Catalog {
    /// Opens for reading and writing; makes and migrates the database.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made; [`Error::Catalog`] when the file is damaged, held, or newer.
    pub fn open(root: &Path) -> Result<Self> {
        let path = Self::file(root);
        let directory = root.join(layout::CATALOG);
        let mut moves = Moves::default();
        moves.make(&directory)?;
        moves.sync()?;
        let connection = Connection::open(&path).map_err(catalog_error(&path))?;
        let mut catalog = Self { connection, root: root.into(), path };
        let deadline = Instant::now() + BUSY;
        loop {
            match catalog.prepare() {
                Ok(()) => return Ok(catalog),
                // Making a database a WAL one needs it alone, and SQLite does not wait for that: two that make it at once.
                Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(catalog_error(&catalog.path)(error)),
            }
        }
    }

    /// Opens for reading only, also when this account may not write there.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing was ever filed there; [`Error::Catalog`].
    pub fn open_readonly(root: &Path) -> Result<Self> {
        let path = Self::file(root);
        if !path.exists() {
            return Err(Error::NotFound {
                what: format!("no catalog in {}", root.display()),
                hint: "check images.root in the settings; the first image that is filed makes the catalog"
                    .into(),
            });
        }
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|c| {
            c.busy_timeout(BUSY)?;
            c.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
            Ok(c)
        });
        let connection = match opened {
            Ok(connection) => connection,
            // Without a writer there may be no WAL index, and an account without write permission cannot make one.
            Err(_) if !path.with_extension("sqlite-wal").exists() => {
                let uri = format!("file:{}?immutable=1", escape_uri(&path));
                Connection::open_with_flags(uri, flags).map_err(catalog_error(&path))?
            }
            Err(error) => return Err(catalog_error(&path)(error)),
        };
        Ok(Self { connection, root: root.into(), path })
    }

    /// The database's file.
    pub fn file(root: &Path) -> PathBuf {
        root.join(layout::CATALOG).join("catalog.sqlite")
    }

    /// The root that paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        let c = &mut self.connection;
        c.busy_timeout(BUSY)?;
        c.pragma_update(None, "journal_mode", "WAL")?;
        // A power cut may undo the last commits, never damage the file; the files are durable by themselves, and what
        // the catalog forgot of them is read again at the next start.
        c.pragma_update(None, "synchronous", "NORMAL")?;
        c.set_prepared_statement_cache_capacity(64);
        // Else SQLite compiles cached statements anew whose plan might depend on their values (`entered` was one, at every
        // use: a sixth of what a commit cost); the values tell it nothing here.
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        schema::migrate(c)
    }

    /// Turns an SQLite error into ours, with the path.
    pub(crate) fn error(&self, error: rusqlite::Error) -> Error {
        catalog_error(&self.path)(error)
    }

    /// Whether its tables are those of this program; a reader of another version's makes nothing of them.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn is_current(&self) -> Result<bool> {
        schema::is_current(&self.connection).map_err(|e| self.error(e))
    }

    /// Runs `work`, all of whose reads see one state and share one lock.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Catalog`].
    pub fn snapshot<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        // Ended by its drop: there is nothing to commit.
        let _snapshot = self.connection.unchecked_transaction().map_err(|e| self.error(e))?;
        work()
    }

    /// Which of these instances are on disk: in the catalog, and their files there as they were filed. A disk that cannot be
    /// looked into has not lost them.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn on_disk<'a>(&self, instances: impl IntoIterator<Item = &'a Uid>) -> Result<HashSet<Uid>> {
        let mut there = HashSet::new();
        for uid in instances {
            if self.entered(uid)?.is_some_and(|entered| entered.is_there().unwrap_or(true)) {
                there.insert(uid.clone());
            }
        }
        Ok(there)
    }

    /// What there is of the file of this instance.
    pub(super) fn entered(&self, uid: &Uid) -> Result<Option<Entered>> {
        let find = || {
            self.connection
                .prepare_cached(
                    "SELECT s.directory, i.file_name, i.bytes, i.transfer_syntax_uid
                     FROM instances i JOIN sessions s ON s.id = i.session_id WHERE i.sop_instance_uid = ?1",
                )?
                .query_row([uid.as_str()], |row| {
                    let (directory, file): (String, String) = (row.get(0)?, row.get(1)?);
                    Ok(Entered {
                        path: self.root.join(layout::native(&directory)).join(file),
                        bytes: row.get::<_, i64>(2)?.max(0) as u64,
                        transfer_syntax_uid: row.get(3)?,
                    })
                })
                .optional()
        };
        find().map_err(|e| self.error(e))
    }

    /// The newest session that passes the filter.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn newest_session(&self, filter: &SessionFilter) -> Result<Option<Session>> {
        Ok(self.sessions(&SessionFilter { limit: 1, ..filter.clone() })?.pop())
    }

    /// The sessions of images that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<Session>> {
        let mut sql = String::from(
            "SELECT id, patient_id, plan_uid, plan_label, series_uid, date, acquired, directory,
                    (SELECT count(*) FROM instances i WHERE i.session_id = s.id)
             FROM sessions s WHERE kind = 'images'",
        );
        let mut values: Vec<rusqlite::types::Value> = Vec::new();
        let mut add = |clause: &str, value: Option<String>| {
            if let Some(value) = value {
                values.push(value.into());
                sql.push_str(&clause.replace('?', &format!("?{}", values.len())));
            }
        };
        add(" AND patient_id = ?", filter.patient_id.clone());
        add(" AND plan_label = ?", filter.plan_label.clone());
        add(" AND plan_uid = ?", filter.plan_uid.clone());
        add(" AND series_uid = ?", filter.series_uid.clone());
        add(" AND date = ?", filter.date.map(|d| d.to_string()));
        add(" AND acquired < ?", filter.before.map(|b| b.format(TIME_FORMAT).to_string()));
        add(
            " AND EXISTS (SELECT 1 FROM instances i WHERE i.session_id = s.id AND i.beam = ?)",
            filter.beam.map(|b| beam_text(b).to_owned()),
        );
        add(
            " AND EXISTS (SELECT 1 FROM instances i WHERE i.session_id = s.id AND instr('\\' || i.image_type || '\\', ?) > 0)",
            filter.image_type.as_ref().map(|t| format!("\\{}\\", t.trim_matches('\\'))),
        );
        sql.push_str(" ORDER BY acquired DESC, id DESC");
        if filter.limit > 0 {
            sql.push_str(&format!(" LIMIT {}", filter.limit));
        }
        let find = || -> rusqlite::Result<Vec<Session>> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(rusqlite::params_from_iter(&values), |row| self.session(row))?;
            rows.collect()
        };
        find().map_err(|e| self.error(e))
    }

    /// The session of a row id, as [`super::Arrived`] names it; `None` when it is gone.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn session_by_id(&self, id: i64) -> Result<Option<Session>> {
        let find = self
            .connection
            .prepare_cached(
                "SELECT id, patient_id, plan_uid, plan_label, series_uid, date, acquired, directory,
                        (SELECT count(*) FROM instances i WHERE i.session_id = s.id)
                 FROM sessions s WHERE kind = 'images' AND id = ?1",
            )
            .and_then(|mut s| s.query_row([id], |row| self.session(row)).optional());
        find.map_err(|e| self.error(e))
    }

    fn session(&self, row: &Row<'_>) -> rusqlite::Result<Session> {
        let directory: String = row.get(7)?;
        let date: String = row.get(5)?;
        Ok(Session {
            id: row.get(0)?,
            patient_id: row.get(1)?,
            plan_uid: Some(row.get::<_, String>(2)?).filter(|u| !u.is_empty()),
            plan_label: row.get(3)?,
            series_uid: row.get(4)?,
            date: date.parse().ok(),
            acquired: time(row.get(6)?),
            directory: self.root.join(layout::native(&directory)),
            images: row.get::<_, i64>(8)?.max(0) as u64,
        })
    }

    /// The objects of one session, in order of acquisition, instance number and UID.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn instances(&self, session: &Session) -> Result<Vec<Instance>> {
        let find = || -> rusqlite::Result<Vec<Instance>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT sop_instance_uid, file_name, bytes, sop_class_uid, transfer_syntax_uid, study_uid,
                        instance_number, image_type, acquired, beam, gantry_iec_deg, collimator_iec_deg,
                        couch_iec_deg, sid_mm, row_spacing_mm, column_spacing_mm, rows, columns, machine
                 FROM instances WHERE session_id = ?1 ORDER BY acquired, instance_number, sop_instance_uid",
            )?;
            let rows = statement.query_map([session.id], |row| instance(row, &session.directory))?;
            rows.collect()
        };
        find().map_err(|e| self.error(e))
    }

    /// What is known of this plan.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn plan(&self, plan_uid: &Uid) -> Result<Option<PlanRecord>> {
        let find = self
            .connection
            .prepare_cached("SELECT plan_uid, patient_id, label, dated FROM plans WHERE plan_uid = ?1")
            .and_then(|mut s| s.query_row([plan_uid.as_str()], plan).optional());
        Ok(find.map_err(|e| self.error(e))?.flatten())
    }

    /// The known plans of a patient, all labels or one.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn plans(&self, patient_id: &str, label: Option<&str>) -> Result<Vec<PlanRecord>> {
        let find = || -> rusqlite::Result<Vec<PlanRecord>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT plan_uid, patient_id, label, dated FROM plans
                 WHERE patient_id = ?1 AND (?2 IS NULL OR label = ?2) ORDER BY dated DESC, plan_uid",
            )?;
            let rows = statement.query_map(params![patient_id, label], plan)?;
            rows.filter_map(Result::transpose).collect()
        };
        find().map_err(|e| self.error(e))
    }

    /// Plans that images name but whose label nobody has told yet, with how many sessions wait for each.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn unresolved_plans(&self) -> Result<Vec<(Uid, String, u64)>> {
        let find = || -> rusqlite::Result<Vec<(Uid, String, u64)>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT plan_uid, patient_id, count(*) FROM sessions
                 WHERE plan_label IS NULL AND plan_uid <> '' AND kind = 'images' GROUP BY plan_uid, patient_id",
            )?;
            let rows = statement.query_map([], |row| {
                let uid = Uid::new(&row.get::<_, String>(0)?);
                Ok(uid
                    .map(|u| Ok::<_, rusqlite::Error>((u, row.get(1)?, row.get::<_, i64>(2)?.max(0) as u64))))
            })?;
            rows.filter_map(|r| r.transpose().map(|r| r.and_then(|x| x))).collect()
        };
        find().map_err(|e| self.error(e))
    }

    /// Instances that came again with other bytes: UID and absolute path.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn kept(&self) -> Result<Vec<(String, PathBuf)>> {
        let find = || -> rusqlite::Result<Vec<(String, PathBuf)>> {
            let mut statement =
                self.connection.prepare_cached("SELECT sop_instance_uid, path FROM kept ORDER BY path")?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, self.root.join(layout::native(&row.get::<_, String>(1)?))))
            })?;
            rows.collect()
        };
        find().map_err(|e| self.error(e))
    }

    /// Bytes of all objects, of those that came again with other bytes too.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn total_bytes(&self) -> Result<u64> {
        let sum = self.connection.query_row(
            "SELECT (SELECT ifnull(sum(bytes), 0) FROM instances) + (SELECT ifnull(sum(bytes), 0) FROM kept)",
            [],
            |r| r.get::<_, i64>(0),
        );
        Ok(sum.map_err(|e| self.error(e))?.max(0) as u64)
    }

    /// As [`Catalog::total_bytes`], of the files that are there: asks the disk for each.
    pub(super) fn bytes_on_disk(&self) -> Result<u64> {
        let count = || -> rusqlite::Result<u64> {
            let mut statement = self.connection.prepare(
                "SELECT s.directory || '/' || i.file_name, i.bytes
                 FROM instances i JOIN sessions s ON s.id = i.session_id UNION ALL SELECT path, bytes FROM kept",
            )?;
            let mut rows = statement.query([])?;
            let mut total = 0;
            while let Some(row) = rows.next()? {
                let path = self.root.join(layout::native(&row.get::<_, String>(0)?));
                // What cannot be looked for is not gone.
                if path.try_exists().unwrap_or(true) {
                    total += row.get::<_, i64>(1)?.max(0) as u64;
                }
            }
            Ok(total)
        };
        count().map_err(|e| self.error(e))
    }

    /// Whether nothing was ever filed, or all that it knew is lost.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let empty = self.connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sessions)", [], |r| r.get(0));
        empty.map_err(|e| self.error(e))
    }

    /// Reads all of the database's pages.
    ///
    /// # Errors
    /// [`Error::Catalog`] with `SQLITE_CORRUPT` when one is damaged.
    pub(super) fn check(&self) -> Result<()> {
        let found: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
            .map_err(|e| self.error(e))?;
        if found == "ok" {
            return Ok(());
        }
        let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        Err(self.error(rusqlite::Error::SqliteFailure(corrupt, Some(found))))
    }

    /// How much there is of everything.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn totals(&self) -> Result<Totals> {
        let count = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let totals = || -> rusqlite::Result<Totals> {
            Ok(Totals {
                objects: count("SELECT count(*) FROM instances")?.max(0) as u64,
                sessions: count("SELECT count(*) FROM sessions")?.max(0) as u64,
                unlabelled: count(
                    "SELECT count(*) FROM sessions WHERE plan_label IS NULL AND plan_uid <> '' AND kind = 'images'",
                )?
                .max(0) as u64,
                kept: count("SELECT count(*) FROM kept")?.max(0) as u64,
            })
        };
        totals().map_err(|e| self.error(e))
    }

    /// A value of the `meta` table.
    pub(super) fn meta(&self, key: &str) -> rusqlite::Result<Option<String>> {
        self.connection
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
            .query_row([key], |r| r.get(0))
            .optional()
    }

    /// Runs `work`, whose commits would survive a power cut when it returns.
    pub(super) fn durably<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let set = |catalog: &Self, how: &str| {
            catalog.connection.pragma_update(None, "synchronous", how).map_err(|e| catalog.error(e))
        };
        set(self, "FULL")?;
        let done = work(self);
        set(self, "NORMAL")?;
        done
    }

    /// Sets or removes a value of the `meta` table.
    pub(super) fn set_meta(&self, key: &str, value: Option<&str>) -> rusqlite::Result<()> {
        match value {
            Some(value) => self.connection.execute("REPLACE INTO meta VALUES (?1, ?2)", [key, value])?,
            None => self.connection.execute("DELETE FROM meta WHERE key = ?1", [key])?,
        };
        Ok(())
    }

    /// The connection, for the statements of other files and rooms; all tables are in `schema.rs`.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

fn catalog_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Catalog { path, source }
}

/// Escapes what has a meaning in an SQLite URI. Source: sqlite.org/uri.html §3.1.
fn escape_uri(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "/");
    let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    if text.starts_with('/') { text } else { format!("/{text}") }
}
