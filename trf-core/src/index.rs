//! The index of all records, in SQLite: which file is whose treatment, found by patient, field, machine, day or plan.
//!
//! Input: files that extraction left, treatments that alignment found; names in both are foreign. Output: files in
//! PyMedPhys's directories ([`layout`]) and [`Entry`]s. Any number of processes may read and write; a record is known by the
//! SHA-256 of its bytes, so that no file is entered twice. A row and the move of its file belong together ([`filing`](Index::file)).
//! Not supported: network file systems below the database (SQLite's WAL needs shared memory); the records may lie on one.

mod disk;
mod drift;
mod entry;
mod filing;
mod find;
pub mod layout;
mod plain;
mod pymedphys;
mod repair;
mod review;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

pub use drift::ClockDay;
pub use entry::{Candidate, Entry, FIELD_TYPES, Facts, FileFacts, Part, SHORT, State, Treated, field_type};
pub use filing::{Filed, Filing};
pub use find::{Counts, Query};
pub use plain::Plain;
pub use pymedphys::{Exported, Imported};
pub use repair::Repaired;

use crate::{Error, Result};

/// How long a writer waits for another process's transaction. Transactions of ours hold one rename.
const BUSY: Duration = Duration::from_secs(20);
/// Pause between two tries where SQLite itself does not wait.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Statements kept prepared: more than there are.
const STATEMENTS: usize = 64;

/// One connection to the index of one root.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
    root: PathBuf,
    path: PathBuf,
    repaired: Repaired,
}

impl Index {
    /// Opens for reading and writing; makes and migrates the database, and finishes what a crash interrupted.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made; [`Error::Index`] when the database is damaged, held, or newer.
    pub fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(|e| Error::io(root, e))?;
        let path = root.join(layout::DATABASE);
        let connection = Connection::open(&path).map_err(Error::index(&path))?;
        let mut index = Self { connection, root: root.to_owned(), path, repaired: Repaired::default() };
        let deadline = Instant::now() + BUSY;
        loop {
            match index.prepare() {
                Ok(()) => break,
                // Making a database a WAL one needs it alone, and SQLite does not wait for that: two that make it at once.
                Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(Error::index(&index.path)(error)),
            }
        }
        index.repaired = index.repair()?;
        Ok(index)
    }

    /// Opens for reading only, also when this account may not write there.
    ///
    /// # Errors
    /// [`Error::Misuse`] when nothing was ever indexed there; [`Error::Index`].
    pub fn open_read_only(root: &Path) -> Result<Self> {
        let path = root.join(layout::DATABASE);
        if !path.exists() {
            return Err(Error::misuse(format!("there is no index of records in {}", root.display()))
                .with_hint("check trf.root in the settings; `scp-node trf sync` makes the index"));
        }
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            ready(&connection)?;
            connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
            Ok(connection)
        });
        let connection = match opened {
            Ok(connection) => connection,
            // Without a writer there may be no WAL index, and an account without write permission cannot make one.
            Err(_) if !path.with_extension("sqlite-wal").exists() => {
                let uri = format!("file:{}?immutable=1", escape_uri(&path));
                Connection::open_with_flags(uri, flags).map_err(Error::index(&path))?
            }
            Err(error) => return Err(Error::index(&path)(error)),
        };
        ready(&connection).map_err(Error::index(&path))?;
        let index = Self { connection, root: root.to_owned(), path, repaired: Repaired::default() };
        let version = index.version().map_err(index.failed())?;
        if version != schema::MIGRATIONS.len() as i64 {
            return Err(Error::unsupported(format!("the index has schema {version}, this program another"))
                .with_hint("use the same version of scp-node and qatrack_ext"));
        }
        Ok(index)
    }

    /// The root that paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a crash had left, and opening put right.
    pub fn repaired(&self) -> &Repaired {
        &self.repaired
    }

    fn version(&self) -> rusqlite::Result<i64> {
        self.connection.pragma_query_value(None, "user_version", |row| row.get(0))
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        ready(&self.connection)?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        self.connection.pragma_update(None, "foreign_keys", true)?;
        if self.version()? == schema::MIGRATIONS.len() as i64 {
            return Ok(());
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let version = usize::try_from(version).unwrap_or_default();
        if version > schema::MIGRATIONS.len() {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
                Some(format!("made by a newer version of this program (schema {version})")),
            ));
        }
        for migration in schema::MIGRATIONS.iter().skip(version) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", schema::MIGRATIONS.len() as i64)?;
        transaction.commit()
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Index { path: path.clone(), source }
    }
}

/// What every connection needs.
fn ready(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // A table with a partial key has its plans made again for each value that is asked for, unless a plan may not hang on values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

/// A path inside an SQLite URI: `?`, `#` and `%` have a meaning there; Windows' separators do not.
fn escape_uri(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "/");
    let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    if cfg!(windows) { format!("/{text}") } else { text }
}
