//! A file and its row, moved together.
//!
//! 1. The intents of a batch are committed and synced: which file goes where, and the row it will have.
//! 2. Per record one transaction, under SQLite's write lock: the file is renamed, the row written, the intent marked.
//! 3. The directories of the batch are synced, then its intents removed.
//!
//! However the process or the machine ends, [`super::repair`] finds an intent for each move that is not finished and durable, and
//! the intent says what remains to be done. Before step 2 nothing was moved; in it, file and row are put together again.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::entry::{Entry, State};
use super::{Index, disk, layout, rows};
use crate::items::ItemPart;
use crate::{Error, Result};

/// Intents that share one sync of the disk.
const BATCH: usize = 64;
/// How often an intent is written again that another process took for a crash's before its move began.
const TRIES: usize = 5;

/// A file to be entered, or one of the index to be moved to where it belongs now.
#[derive(Clone, Debug, PartialEq)]
pub struct Filing {
    /// Where the file is.
    pub source: PathBuf,
    /// What its row shall be; `path` is decided here.
    pub entry: Entry,
    /// The columns of the record, for an export to PyMedPhys; empty leaves what is known.
    pub items: Vec<ItemPart>,
}

/// What became of a filing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filed {
    /// The file is where its row says.
    Moved {
        /// Relative to the root.
        path: String,
    },
    /// The record was there already, whole; the second file of the same bytes was removed.
    Known {
        /// Relative to the root.
        path: String,
    },
    /// The record was known, but its file was gone or damaged: this file took its place, the row is as it was.
    Restored {
        /// Relative to the root.
        path: String,
    },
}

/// An intent that is committed.
struct Intent {
    id: i64,
    filing: usize,
    entry: Entry,
    from: PathBuf,
    restores: bool,
}

impl Index {
    /// Enters files, moves them where they belong, and moves those of the index that belong elsewhere now.
    ///
    /// A filing whose source is the entry's own file changes the entry; one of another file with the same bytes is a repetition.
    ///
    /// # Returns
    /// One result per filing, in order; a file that cannot be moved does not keep the others.
    /// # Errors
    /// [`Error::Index`] where the database cannot be written: then nothing more was done.
    pub fn file(&mut self, filings: &[Filing]) -> Result<Vec<Result<Filed>>> {
        let mut results = Vec::with_capacity(filings.len());
        for batch in filings.chunks(BATCH) {
            results.extend(self.file_batch(batch)?);
        }
        Ok(results)
    }

    fn file_batch(&mut self, filings: &[Filing]) -> Result<Vec<Result<Filed>>> {
        let mut results: Vec<Option<Result<Filed>>> = filings.iter().map(|_| None).collect();
        let mut todo: Vec<usize> = (0..filings.len()).collect();
        for _ in 0..TRIES {
            let (intents, mut again) = self.intend(filings, &todo, &mut results)?;
            let mut finished = Vec::new();
            for intent in intents {
                let result = match self.carry_out(&intent) {
                    Ok(true) => {
                        finished.push((intent.id, intent.entry.file(&self.root), intent.from.clone()));
                        let path = intent.entry.path.clone();
                        Ok(if intent.restores { Filed::Restored { path } } else { Filed::Moved { path } })
                    }
                    Ok(false) => {
                        again.push(intent.filing);
                        continue;
                    }
                    Err(error @ Error::Index { .. }) => return Err(error),
                    Err(error) => {
                        // A copy that is whole but whose original could not be removed is left to the repair.
                        if intent.entry.file(&self.root) == intent.from
                            || !intent.entry.file(&self.root).exists()
                        {
                            self.forget(intent.id)?;
                        }
                        Err(error)
                    }
                };
                if let Some(slot) = results.get_mut(intent.filing) {
                    *slot = Some(result);
                }
            }
            self.settle(&finished)?;
            if again.is_empty() {
                break;
            }
            todo = again;
        }
        let busy =
            || Err(Error::misuse("another process keeps taking over this move").with_hint("try again later"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(busy)).collect())
    }

    /// Step 1: decides where each file goes, and writes it down durably. Also gives the filings that repeat one of this batch: their
    /// turn is next.
    fn intend(
        &mut self,
        filings: &[Filing],
        todo: &[usize],
        results: &mut [Option<Result<Filed>>],
    ) -> Result<(Vec<Intent>, Vec<usize>)> {
        let failed = self.failed();
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(&failed)?;
        let root = self.root.clone();
        let written = (|| {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
            let (mut intents, mut repeated) = (Vec::<Intent>::new(), Vec::new());
            for &n in todo {
                let Some(filing) = filings.get(n) else { continue };
                if intents.iter().any(|intent| intent.entry.sha256 == filing.entry.sha256) {
                    repeated.push(n);
                    continue;
                }
                match decide(&transaction, &root, filing) {
                    Ok(Decision::Move { entry, restores }) => {
                        let id = intend_one(&transaction, &root, filing, &entry).map_err(&failed)?;
                        let from = filing.source.clone();
                        intents.push(Intent { id, filing: n, entry: *entry, from, restores });
                    }
                    Ok(Decision::Done(filed)) => set(results, n, Ok(filed)),
                    Err(error @ Error::Index { .. }) => return Err(error),
                    Err(error) => set(results, n, Err(error)),
                }
            }
            transaction.commit().map_err(&failed)?;
            Ok((intents, repeated))
        })();
        self.connection.pragma_update(None, "synchronous", "NORMAL").map_err(&failed)?;
        written
    }

    /// Step 2: `false` if another process took the intent away before anything was moved.
    fn carry_out(&mut self, intent: &Intent) -> Result<bool> {
        let failed = self.failed();
        let root = self.root.clone();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        let item_list: Option<Option<i64>> = transaction
            .prepare_cached("UPDATE moves SET done = 1 WHERE id = ?1 AND done = 0 RETURNING item_list")
            .and_then(|mut statement| statement.query_row([intent.id], |row| row.get(0)).optional())
            .map_err(&failed)?;
        let Some(item_list) = item_list else { return Ok(false) };
        let to = intent.entry.file(&root);
        if to != intent.from {
            disk::move_file(&intent.from, &to, &intent.entry.sha256)?;
        }
        rows::upsert(&transaction, &intent.entry, item_list).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        Ok(true)
    }

    /// Step 3.
    fn settle(&mut self, finished: &[(i64, PathBuf, PathBuf)]) -> Result<()> {
        let mut synced = std::collections::HashSet::new();
        for (_, to, from) in finished {
            let above = to.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.root));
            for directory in above.chain(from.parent()) {
                if synced.insert(directory.to_owned()) {
                    disk::sync_directory(directory)?;
                }
            }
        }
        let failed = self.failed();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        for (id, ..) in finished {
            transaction
                .prepare_cached("DELETE FROM moves WHERE id = ?1")
                .and_then(|mut statement| statement.execute([id]))
                .map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)?;
        for (_, to, from) in finished {
            if to != from && from.starts_with(self.root.join(layout::INDEXED)) {
                disk::remove_empty_directories(from.parent(), &self.root.join(layout::INDEXED));
            }
        }
        Ok(())
    }

    fn forget(&self, id: i64) -> Result<()> {
        self.connection
            .execute("DELETE FROM moves WHERE id = ?1 AND done = 0", [id])
            .map(drop)
            .map_err(self.failed())
    }
}

fn set(results: &mut [Option<Result<Filed>>], n: usize, result: Result<Filed>) {
    if let Some(slot) = results.get_mut(n) {
        *slot = Some(result);
    }
}

enum Decision {
    Move { entry: Box<Entry>, restores: bool },
    Done(Filed),
}

/// What is to be done with a file, given what the index knows.
fn decide(transaction: &Transaction<'_>, root: &Path, filing: &Filing) -> Result<Decision> {
    let database = |source| Error::Index { path: root.join(layout::DATABASE), source };
    let known = find_one(transaction, &filing.entry.sha256).map_err(database)?;
    if let Some(known) = known {
        let file = known.file(root);
        if file != filing.source {
            if !filing.source.exists() {
                // Another process was faster.
                return Ok(Decision::Done(Filed::Known { path: known.path }));
            }
            if disk::holds(&file, &known.sha256, known.bytes)? {
                std::fs::remove_file(&filing.source).map_err(|e| Error::io(&filing.source, e))?;
                return Ok(Decision::Done(Filed::Known { path: known.path }));
            }
            if file.exists() {
                // Damaged bytes are kept beside the good ones, never overwritten.
                let aside = file.with_extension("damaged");
                std::fs::rename(&file, &aside).map_err(|e| Error::io(&file, e))?;
            }
            return Ok(Decision::Move { entry: Box::new(known), restores: true });
        }
    }
    let mut entry = filing.entry.clone();
    entry.path = free_path(transaction, root, filing, &entry).map_err(database)?;
    Ok(Decision::Move { entry: Box::new(entry), restores: false })
}

pub(super) fn find_one(connection: &rusqlite::Connection, sha256: &str) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {} FROM entries e WHERE e.sha256 = ?1", rows::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row([rows::blob(sha256)], rows::entry).optional()?;
    let Some((id, mut entry)) = found else { return Ok(None) };
    rows::fill(connection, id, &mut entry)?;
    Ok(Some(entry))
}

/// A path that no other record has, on disk or in the index, on case-insensitive file systems either.
fn free_path(
    transaction: &Transaction<'_>,
    root: &Path,
    filing: &Filing,
    entry: &Entry,
) -> rusqlite::Result<String> {
    let directory = layout::directory(entry);
    let name = filing.source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = layout::safe(&name);
    let name = if name.to_ascii_lowercase().ends_with(".trf") { name } else { format!("{name}.trf") };
    let plain = format!("{directory}/{name}");
    let hashed = format!("{directory}/{}", layout::with_hash(&name, &entry.sha256));
    let full = format!("{directory}/{}.trf", entry.sha256);
    for path in [&plain, &hashed] {
        let file = path.split('/').fold(root.to_owned(), |path, part| path.join(part));
        if file == filing.source {
            return Ok(path.clone());
        }
        let taken = transaction
            .prepare_cached(
                "SELECT 1 FROM entries WHERE path = ?1 AND sha256 <> ?2
                 UNION ALL SELECT 1 FROM moves WHERE to_path = ?1 AND sha256 <> ?2",
            )?
            .exists(params![path, rows::blob(&entry.sha256)])?;
        if !taken && !file.exists() {
            return Ok(path.clone());
        }
    }
    Ok(full)
}

fn intend_one(
    transaction: &Transaction<'_>,
    root: &Path,
    filing: &Filing,
    entry: &Entry,
) -> rusqlite::Result<i64> {
    let item_list = match filing.items.as_slice() {
        [] => None,
        items => Some(rows::item_list(transaction, items)?),
    };
    let from = filing.source.strip_prefix(root).unwrap_or(&filing.source);
    let json = serde_json::to_string(entry)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    transaction
        .prepare_cached(
            "INSERT INTO moves (sha256, from_path, to_path, entry, item_list) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![rows::blob(&entry.sha256), from.to_string_lossy(), entry.path, json, item_list])?;
    Ok(transaction.last_insert_rowid())
}

impl Entry {
    /// A new entry for a file that was read: a record that waits for its treatment, a service-mode beam, or no record at all.
    ///
    /// # Arguments
    /// * `read` — what the file says
    /// * `linac`, `centre` — names of the settings
    /// * `now` — the time of entry, and when a treatment is looked for
    pub fn new(
        read: &super::FileFacts,
        linac: Option<&str>,
        centre: Option<&str>,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Self {
        let (state, reason) = match &read.record {
            Err(why) => (State::UnknownErrorInLogfile, Some(why.clone())),
            Ok((facts, _)) if facts.field_label.is_empty() => {
                (State::NoFieldLabelInLogfile, Some("no field label: a beam of service mode".to_owned()))
            }
            Ok(_) => (State::NoMosaiqRecordFound, Some("not looked for yet".to_owned())),
        };
        Self {
            sha256: read.sha256.clone(),
            sha1: read.sha1.clone(),
            bytes: read.bytes,
            path: String::new(),
            state,
            reason,
            linac: linac.map(str::to_owned),
            centre: centre.map(str::to_owned),
            facts: read.record.as_ref().ok().map(|(facts, _)| facts.clone()),
            treatments: Vec::new(),
            candidates: Vec::new(),
            part_of: None,
            drift_s: None,
            tries: 0,
            next_try: (state == State::NoMosaiqRecordFound).then_some(now),
            decided_by: None,
            added: now,
        }
    }
}
