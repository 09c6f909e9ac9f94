//! After a crash: what was under way is finished or undone, as the intents say.

use std::path::{Path, PathBuf};

use rusqlite::TransactionBehavior;
use serde::Serialize;

use super::entry::Entry;
use super::{Index, disk, rows};
use crate::{Error, Result};

/// What a crash had left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Files that were moved already: their rows were written now.
    pub finished: usize,
    /// Files that were not moved yet: they are where they were, and will be found there again.
    pub undone: usize,
    /// Files whose row was written but whose move a power cut had undone: moved again.
    pub moved_again: usize,
    /// Short names of records whose file is neither where it was nor where it should be; a path would name the patient.
    pub vanished: Vec<String>,
}

impl Repaired {
    /// Whether there was nothing to do.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

struct Left {
    id: i64,
    from: PathBuf,
    entry: Entry,
    item_list: Option<i64>,
    done: bool,
}

impl Index {
    /// Finishes or undoes what is under way. An intent of a process that is alive is taken away only before its file was moved; it
    /// writes it again then.
    pub(super) fn repair(&mut self) -> Result<Repaired> {
        let failed = self.failed();
        let any = self.connection.prepare_cached("SELECT 1 FROM moves").and_then(|mut s| s.exists([]));
        if !any.map_err(&failed)? {
            return Ok(Repaired::default());
        }
        let root = self.root.clone();
        let mut repaired = Repaired::default();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        for left in left(&transaction, &root).map_err(&failed)? {
            let to = left.entry.file(&root);
            let arrived = disk::holds(&to, &left.entry.sha256, left.entry.bytes)?;
            match (left.done, arrived) {
                (true, true) => {}
                (false, true) => {
                    rows::upsert(&transaction, &left.entry, left.item_list).map_err(&failed)?;
                    repaired.finished += 1;
                }
                (true, false) if left.from.exists() && !to.exists() => {
                    disk::move_file(&left.from, &to, &left.entry.sha256)?;
                    repaired.moved_again += 1;
                }
                (false, false) if left.from.exists() => repaired.undone += 1,
                (_, false) => repaired.vanished.push(left.entry.short().to_owned()),
            }
            if arrived && left.from != to && disk::holds(&left.from, &left.entry.sha256, left.entry.bytes)? {
                std::fs::remove_file(&left.from).map_err(|e| Error::io(&left.from, e))?;
            }
            for directory in [to.parent(), left.from.parent()].into_iter().flatten() {
                disk::sync_directory(directory)?;
            }
            transaction.execute("DELETE FROM moves WHERE id = ?1", [left.id]).map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)?;
        Ok(repaired)
    }
}

fn left(connection: &rusqlite::Connection, root: &Path) -> rusqlite::Result<Vec<Left>> {
    let mut statement =
        connection.prepare("SELECT id, from_path, entry, item_list, done FROM moves ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        let json: String = row.get(2)?;
        let entry = serde_json::from_str(&json).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
        })?;
        Ok(Left {
            id: row.get(0)?,
            // An absolute path replaces the root.
            from: root.join(row.get::<_, String>(1)?),
            entry,
            item_list: row.get(3)?,
            done: row.get(4)?,
        })
    })?;
    rows.collect()
}
