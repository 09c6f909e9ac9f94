//! Files and rows that change together: renames that can be taken back, inside a transaction that can be rolled back.
//!
//! A failure takes back the renames first and the rows after, under SQLite's write lock, so that no process ever sees rows
//! without their files. A crash between a rename and its commit is mended by [`super::reindex`] at the next start.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::catalog::Catalog;
use super::held;
use crate::error::{Error, Result};

/// What was done to files so far, and what must be synced before anything is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    done: Vec<Step>,
    /// Directories.
    dirty: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

#[derive(Debug)]
enum Step {
    Made(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Grew { path: PathBuf, from: u64 },
}

impl Moves {
    /// Renames a file, and makes the directory that it goes to when that is new.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.rename_by(held::rename, from, to)?;
        if cfg!(windows) {
            self.files.insert(to.into());
        }
        Ok(())
    }

    fn rename_by(
        &mut self,
        rename: impl Fn(&Path, &Path) -> std::io::Result<()>,
        from: &Path,
        to: &Path,
    ) -> Result<()> {
        match (rename(from, to), to.parent()) {
            (Err(error), Some(directory)) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make(directory)?;
                rename(from, to).map_err(Error::io(to))?;
            }
            (renamed, _) => renamed.map_err(Error::io(to))?,
        }
        self.entry(to);
        self.done.push(Step::Renamed { from: from.into(), to: to.into() });
        Ok(())
    }

    /// Renames a directory; what was to be synced below it is so at its new place.
    pub(super) fn rename_directory(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.rename_by(|from, to| std::fs::rename(from, to), from, to)?;
        self.entry(from);
        self.follow(from, to);
        Ok(())
    }

    /// What was to be synced at or below `from` lies at or below `to` now.
    fn follow(&mut self, from: &Path, to: &Path) {
        let here = |path: &PathBuf| match path.strip_prefix(from) {
            Ok(below) if below.as_os_str().is_empty() => to.to_path_buf(),
            Ok(below) => to.join(below),
            Err(_) => path.clone(),
        };
        self.dirty = self.dirty.iter().map(here).collect();
        self.files = self.files.iter().map(here).collect();
    }

    /// Makes a directory and those around it.
    pub(super) fn make(&mut self, directory: &Path) -> Result<()> {
        let mut missing = Vec::new();
        let mut here = Some(directory);
        while let Some(path) = here.filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
            missing.push(path);
            here = path.parent();
        }
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        for path in missing.into_iter().rev() {
            self.entry(path);
            self.done.push(Step::Made(path.into()));
        }
        Ok(())
    }

    /// This file's entry in its directory changed.
    pub(super) fn entry(&mut self, file: &Path) {
        self.dirty.extend(file.parent().filter(|p| !p.as_os_str().is_empty()).map(Path::to_path_buf));
    }

    /// This file is there, and nobody knows whether its name, and those of the directories around it, survive a power cut.
    pub(super) fn entries(&mut self, root: &Path, file: &Path) {
        let below = file.ancestors().skip(1).take_while(|directory| directory.starts_with(root));
        self.dirty.extend(below.map(Path::to_path_buf));
    }

    /// This file of so many bytes is about to grow.
    pub(super) fn grows(&mut self, path: &Path, from: u64) {
        self.entry(path);
        self.files.insert(path.into());
        self.done.push(Step::Grew { path: path.into(), from });
    }

    /// Syncs files that grew, and the directories.
    pub(super) fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| sync_file(file))?;
        self.dirty.iter().try_for_each(|directory| sync_directory(directory))
    }

    /// Takes back what was done since there were so many steps.
    fn undo(&mut self, steps: usize) {
        while self.done.len() > steps {
            match self.done.pop() {
                // It stays when another process put something into it meanwhile.
                Some(Step::Made(directory)) => {
                    if std::fs::remove_dir(&directory).is_ok() {
                        self.dirty.remove(&directory);
                    }
                }
                Some(Step::Grew { path, from }) => {
                    if let Err(error) = File::options().write(true).open(&path).and_then(|f| f.set_len(from))
                    {
                        tracing::warn!(%error, "a note of a plan cannot be taken back");
                    }
                }
                Some(Step::Renamed { from, to }) => match held::rename(&to, &from) {
                    Ok(()) => self.follow(&to, &from),
                    Err(error) => {
                        tracing::error!(%error, "a rename cannot be taken back; `scp-node reindex` finds what lies elsewhere");
                    }
                },
                None => return,
            }
        }
    }
}

/// Makes a file's bytes durable, and on Windows its name. Documented: FlushFileBuffers writes what is buffered of the file to the
/// device. Inferred, and not measured in a power cut: that is its name, too, since NTFS writes its log up to the last change of the file,
/// and `std::fs::rename` asks for no write-through.
fn sync_file(file: &Path) -> Result<()> {
    let open = || File::options().write(true).open(file);
    held::once_free(open).and_then(|file| file.sync_all()).map_err(Error::io(file))
}

/// Makes a directory's entries durable. Windows has no such call: there each file is told ([`sync_file`]).
fn sync_directory(directory: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(directory).and_then(|d| d.sync_all()).map_err(Error::io(directory))?;
    }
    Ok(())
}

impl Catalog {
    /// Runs `work` under the write lock, and undoes its rows when it fails.
    pub(crate) fn transaction<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.moving(|catalog, _| work(catalog))
    }

    /// Runs `work` under the write lock, and undoes its moves and rows when it or the commit fails.
    pub(super) fn moving<T>(&mut self, work: impl FnOnce(&Self, &mut Moves) -> Result<T>) -> Result<T> {
        if !self.connection().is_autocommit() {
            // A panic left one open.
            self.run("ROLLBACK")?;
        }
        // rusqlite's own guard would borrow the connection that `work` needs.
        self.run("BEGIN IMMEDIATE")?;
        let mut moves = Moves::default();
        let done = work(self, &mut moves).and_then(|value| self.run("COMMIT").map(|()| value));
        if done.is_err() {
            moves.undo(0);
            let _ = self.run("ROLLBACK");
        }
        done
    }

    /// Runs a part of a transaction that may fail without the rest.
    ///
    /// # Arguments
    /// * `is_first` — nothing was done in this transaction yet: a failure begins it anew, and no savepoint is needed
    /// # Errors
    /// Those of `work`, after its moves and rows were undone. When SQLite gave up the whole transaction ([`Catalog::gave_up`]), all
    /// later parts and the commit fail too.
    pub(super) fn part<T>(
        &self,
        moves: &mut Moves,
        is_first: bool,
        work: impl FnOnce(&mut Moves) -> Result<T>,
    ) -> Result<T> {
        if self.gave_up() {
            return Err(Error::Cancelled);
        }
        if !is_first {
            self.run("SAVEPOINT part")?;
        }
        let steps = moves.done.len();
        let done = work(moves);
        if done.is_err() {
            moves.undo(steps);
        }
        match (is_first, &done) {
            (true, Ok(_)) => {}
            (true, Err(_)) => {
                if !self.gave_up() {
                    self.run("ROLLBACK")?;
                }
                self.run("BEGIN IMMEDIATE")?;
            }
            (false, Ok(_)) => self.run("RELEASE part")?,
            (false, Err(_)) if self.gave_up() => {}
            (false, Err(_)) => {
                self.run("ROLLBACK TO part")?;
                self.run("RELEASE part")?;
            }
        }
        done
    }

    /// Whether SQLite gave up the transaction that runs, as it may on a full disk. Source: sqlite.org/lang_transaction.html §3.
    pub(super) fn gave_up(&self) -> bool {
        self.connection().is_autocommit()
    }

    /// A statement without values that is needed again and again.
    fn run(&self, sql: &str) -> Result<()> {
        let run = || self.connection().prepare_cached(sql)?.execute([]);
        run().map(|_| ()).map_err(|e| self.error(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::Unsupported { what: "a test".into() }
    }

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(root.path()).unwrap();
        (root, catalog)
    }

    #[test]
    fn a_failure_takes_back_renames_of_files_and_directories_in_reverse() {
        let (root, mut catalog) = catalog();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("session")).unwrap();
        std::fs::write(at("part"), "image").unwrap();
        let failed = catalog.moving(|catalog, moves| {
            moves.rename(&at("part"), &at("session/image"))?;
            moves.rename_directory(&at("session"), &at("patient/plan/session"))?;
            catalog.set_meta("k", Some("v")).map_err(|e| catalog.error(e))?;
            moves.sync()?;
            Err::<(), _>(failure())
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(at("part")).unwrap(), b"image");
        assert_eq!(std::fs::read_dir(at("session")).unwrap().count(), 0);
        assert!(!at("patient").exists(), "directories that were made for it are gone");
        assert_eq!(catalog.meta("k").unwrap(), None);
    }

    #[test]
    fn a_part_that_fails_takes_nothing_else_with_it() {
        for is_first in [true, false] {
            a_part_fails(is_first);
        }
    }

    fn a_part_fails(is_first: bool) {
        let (root, mut catalog) = catalog();
        let at = |name: &str| root.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(at(name), name).unwrap();
        }
        let set =
            |catalog: &Catalog, key: &str| catalog.set_meta(key, Some("v")).map_err(|e| catalog.error(e));
        catalog
            .moving(|catalog, moves| {
                let failed = catalog.part(moves, is_first, |moves| {
                    moves.rename(&at("a"), &at("x/a"))?;
                    set(catalog, "a")?;
                    Err::<(), _>(failure())
                });
                assert!(failed.is_err());
                catalog.part(moves, false, |moves| {
                    moves.rename(&at("b"), &at("y/b"))?;
                    set(catalog, "b")
                })?;
                moves.sync()
            })
            .unwrap();
        assert!(at("a").exists() && at("y/b").exists() && !at("x").exists());
        assert_eq!((catalog.meta("a").unwrap(), catalog.meta("b").unwrap()), (None, Some("v".into())));
    }

    #[test]
    fn a_transaction_that_sqlite_gave_up_in_a_part_commits_nothing_and_takes_back_all_moves() {
        let (root, mut catalog) = catalog();
        let at = |name: &str| root.path().join(name);
        for name in ["a", "c"] {
            std::fs::write(at(name), name).unwrap();
        }
        let file = |catalog: &Catalog, moves: &mut Moves, name: &str| {
            moves.rename(&at(name), &at("x").join(name))?;
            catalog.set_meta(name, Some("v")).map_err(|e| catalog.error(e))
        };
        let done = catalog.moving(|catalog, moves| {
            catalog.part(moves, true, |moves| file(catalog, moves, "a"))?;
            let lost = catalog.part(moves, false, |_| catalog.run("ROLLBACK").and(Err::<(), _>(failure())));
            assert!(matches!(lost, Err(Error::Unsupported { .. })) && catalog.gave_up(), "{lost:?}");
            assert!(catalog.part(moves, false, |moves| file(catalog, moves, "c")).is_err());
            Ok(())
        });
        assert!(done.is_err());
        assert!(at("a").exists() && at("c").exists() && !at("x").exists());
        assert_eq!((catalog.meta("a").unwrap(), catalog.meta("c").unwrap()), (None, None));

        // Of the first part nothing else is lost.
        let done = catalog.moving(|catalog, moves| {
            let lost = catalog.part(moves, true, |_| catalog.run("ROLLBACK").and(Err::<(), _>(failure())));
            assert!(matches!(lost, Err(Error::Unsupported { .. })), "what failed is told: {lost:?}");
            catalog.part(moves, false, |moves| file(catalog, moves, "c"))
        });
        done.unwrap();
        assert!(at("x/c").exists());
        assert_eq!(catalog.meta("c").unwrap(), Some("v".into()));
    }

    #[test]
    fn what_lies_below_a_renamed_directory_is_synced_at_its_new_place() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("waits")).unwrap();
        std::fs::write(at("part"), "image").unwrap();
        let mut moves = Moves::default();
        moves.rename(&at("part"), &at("waits/image")).unwrap();
        moves.rename_directory(&at("waits"), &at("patient/session")).unwrap();
        assert!(moves.dirty.contains(&at("patient/session")) && !moves.dirty.contains(&at("waits")));
        moves.sync().unwrap();
    }
}
