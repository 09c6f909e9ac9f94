//! Records of one linac's zips, from `diagnostics/to_be_indexed/<linac>/` to `to_be_indexed/<linac>/`; then the zip is moved.
//!
//! A record is `NAME.trf.part` until its checksum was right, it is on the disk and reads back the same. A record that is there already,
//! byte for byte, is not written twice; another one of the same name gets eight digits of its hash.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::layout::with_addition;
use super::state::{Stage, State, Zip};
use super::{
    After, ExtractedZip, Job, LinacRun, Progress, RefusedZip, hex, make_directory, stopped, sync_directory,
};
use crate::diagnostics::{self, Member};
use crate::error::{Error, Result};

/// One buffer, through which every record passes.
const BUFFER_BYTES: usize = 256 << 10;

/// What came of a zip's records.
#[derive(Debug, Default)]
struct Taken {
    new: usize,
    known: usize,
    bytes: u64,
    damaged: Vec<String>,
}

/// What came of one record.
enum Record {
    New(u64),
    Known(u64),
    Damaged(String),
}

impl Job<'_> {
    /// Takes the records out of all zips that wait.
    ///
    /// # Errors
    /// What stopped it, such as a full disk; a zip that is refused stops nothing.
    pub(super) fn extract(&self, state: &mut State, run: &mut LinacRun) -> Result<()> {
        let zips = waiting(&self.layout.zips_waiting(self.linac))?;
        if zips.is_empty() {
            return Ok(());
        }
        let records = self.layout.records(self.linac);
        make_directory(&records)?;
        remove_parts(&records)?;
        for zip in zips {
            self.check_cancelled()?;
            self.extract_one(&zip, &records, state, run)?;
        }
        Ok(())
    }

    fn extract_one(&self, zip: &Path, records: &Path, state: &mut State, run: &mut LinacRun) -> Result<()> {
        let name = zip.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = state.zips.get(&name).cloned();
        if let Some(Zip { stage: Stage::Extracted { .. }, bytes, .. }) = &known
            && self.options.after == After::Keep
            && std::fs::metadata(zip).is_ok_and(|metadata| metadata.len() == *bytes)
        {
            return Ok(());
        }
        let sha256 = self.hash_file(zip)?;
        let is_ours = known.as_ref().is_some_and(|known| known.sha256 == sha256);
        if let Some(Zip { stage: Stage::Extracted { .. }, .. }) = &known
            && is_ours
        {
            // Killed between the last record and the move.
            return self.put_away(zip).map(drop);
        }
        let is_damaged_here = known.as_ref().is_some_and(|known| !known.sha256.is_empty()) && !is_ours;
        let contents = if is_damaged_here {
            // Fetched again by the next run, whatever its content.
            state.zips.remove(&name);
            let what =
                "the copy on this disk is not the one that was fetched; it is fetched again".to_owned();
            Err(Error::Malformed {
                section: "diagnostics zip",
                offset: 0,
                expected: "the bytes that were fetched".into(),
                found: what,
            })
        } else {
            diagnostics::examine(zip)
        };
        let contents = match contents {
            Ok(contents) => contents,
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => return self.refuse(zip, &name, &sha256, error.to_string(), 0, state, run),
        };
        self.check_room(records, contents.record_bytes, "unpacking the records")?;
        (self.tell)(Progress::Extracting { records: contents.n_records });
        let mut taken = Taken::default();
        diagnostics::each_record(zip, |member, content| {
            self.check_cancelled()?;
            match self.take_record(member, content, records).map_err(|error| nameless(error, records))? {
                Record::New(bytes) => {
                    (taken.new, taken.bytes) = (taken.new + 1, taken.bytes.saturating_add(bytes))
                }
                Record::Known(bytes) => {
                    (taken.known, taken.bytes) = (taken.known + 1, taken.bytes.saturating_add(bytes))
                }
                Record::Damaged(reason) => taken.damaged.push(reason),
            }
            (self.tell)(Progress::Records { records: 1 });
            Ok(())
        })?;
        sync_directory(records)?;
        let n_records = taken.new + taken.known;
        if let Some(first) = taken.damaged.first() {
            let reason =
                format!("{} of {} records are damaged: {first}", taken.damaged.len(), contents.n_records);
            return self.refuse(zip, &name, &sha256, reason, n_records, state, run);
        }
        // Remembered before the zip goes: what is killed in between only has to move it.
        remember(state, zip, &name, &sha256, Stage::Extracted { records: n_records })?;
        state.save(&self.layout.state(self.linac))?;
        let kept_at = self.put_away(zip)?;
        let Taken { new: records, known, bytes, .. } = taken;
        run.extracted.push(ExtractedZip { name, records, known, bytes, kept_at });
        Ok(())
    }

    /// Writes one record, and gives it its name once it is verified.
    fn take_record(&self, member: &Member, content: &mut dyn Read, records: &Path) -> Result<Record> {
        let target = records.join(&member.file_name);
        let mut part = target.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let (bytes, sha256) = match self.write_part(&part, content) {
            Ok(written) => written,
            Err(Unwritten::Damaged(reason)) => {
                let _ = std::fs::remove_file(&part);
                return Ok(Record::Damaged(reason));
            }
            Err(Unwritten::Failed(error)) => {
                let _ = std::fs::remove_file(&part);
                return Err(error);
            }
        };
        if self.hash_file(&part)? != sha256 {
            let text = "what was written is not what was unpacked: the disk or the memory is faulty";
            return Err(Error::io(&part, std::io::Error::other(text)));
        }
        let other = with_addition(&target, sha256.get(..8).unwrap_or_default());
        for target in [&target, &other] {
            if !target.exists() {
                std::fs::rename(&part, target).map_err(|e| Error::io(target, e))?;
                return Ok(Record::New(bytes));
            }
            if self.hash_file(target)? == sha256 {
                std::fs::remove_file(&part).map_err(|e| Error::io(&part, e))?;
                return Ok(Record::Known(bytes));
            }
        }
        // The file that has this record's hash in its name is another one: cut by a power failure, or put there by hand.
        std::fs::rename(&part, &other).map_err(|e| Error::io(&other, e))?;
        Ok(Record::New(bytes))
    }

    fn write_part(&self, part: &Path, content: &mut dyn Read) -> Result<(u64, String), Unwritten> {
        let on_disk = |error| Unwritten::Failed(full_disk(part, error));
        let mut file = File::create(part).map_err(on_disk)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0_u64;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Unwritten::Failed(stopped()));
            }
            let got = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(match diagnostics::damage(&error) {
                        Some(reason) => Unwritten::Damaged(reason),
                        None => Unwritten::Failed(Error::io(part, error)),
                    });
                }
            };
            let read = buffer.get(..got).unwrap_or_default();
            file.write_all(read).map_err(on_disk)?;
            hasher.update(read);
            bytes = bytes.saturating_add(got as u64);
            (self.tell)(Progress::Checking);
        }
        file.sync_all().map_err(on_disk)?;
        Ok((bytes, hex(hasher)))
    }

    /// Puts a zip aside that holds what it should not, and remembers why.
    #[expect(clippy::too_many_arguments, reason = "all of it is told about one zip")]
    fn refuse(
        &self,
        zip: &Path,
        name: &str,
        sha256: &str,
        reason: String,
        records: usize,
        state: &mut State,
        run: &mut LinacRun,
    ) -> Result<()> {
        if state.zips.contains_key(name) {
            remember(state, zip, name, sha256, Stage::Refused { reason: reason.clone() })?;
        }
        state.save(&self.layout.state(self.linac))?;
        let kept_at = self.move_to(zip, &self.layout.zips_refused(self.linac))?;
        run.refused.push(RefusedZip { name: name.to_owned(), reason, records, kept_at });
        Ok(())
    }

    /// Does with a zip that is done what the settings say.
    fn put_away(&self, zip: &Path) -> Result<Option<PathBuf>> {
        match self.options.after {
            After::Keep => Ok(Some(zip.to_path_buf())),
            After::Move => self.move_to(zip, &self.layout.zips_done(self.linac)).map(Some),
            After::Remove => std::fs::remove_file(zip).map(|()| None).map_err(|e| Error::io(zip, e)),
        }
    }

    /// Moves a zip; one that lies there already with the same bytes takes its place.
    fn move_to(&self, zip: &Path, directory: &Path) -> Result<PathBuf> {
        make_directory(directory)?;
        let mut target = directory.join(zip.file_name().unwrap_or_default());
        if target.exists() {
            let sha256 = self.hash_file(zip)?;
            if self.hash_file(&target)? != sha256 {
                target = with_addition(&target, sha256.get(..8).unwrap_or_default());
            }
        }
        std::fs::rename(zip, &target).map_err(|e| Error::io(&target, e))?;
        sync_directory(directory)?;
        Ok(target)
    }
}

enum Unwritten {
    Damaged(String),
    Failed(Error),
}

/// The error with the directory in place of the record, whose name holds the field's name: errors are logged.
fn nameless(error: Error, directory: &Path) -> Error {
    match error {
        Error::Io { source, .. } => Error::io(directory, source),
        error => error,
    }
}

fn full_disk(path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::StorageFull {
        return Error::io(path, error);
    }
    let text = "the disk became full while records were unpacked; the zip is kept";
    Error::io(path, std::io::Error::new(std::io::ErrorKind::StorageFull, text))
}

/// Notes how far a zip got; one that was put there by hand is noted for the first time.
fn remember(state: &mut State, zip: &Path, name: &str, sha256: &str, stage: Stage) -> Result<()> {
    let bytes = std::fs::metadata(zip).map_err(|e| Error::io(zip, e))?.len();
    let entry = state.zips.entry(name.to_owned()).or_insert_with(|| Zip {
        bytes,
        modified_utc: None,
        sha256: String::new(),
        fetched_utc: chrono::Utc::now(),
        attempts: 0,
        stage: Stage::Fetched,
    });
    entry.sha256 = sha256.to_owned();
    entry.stage = stage;
    Ok(())
}

/// The zips of a directory, by name.
fn waiting(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(directory, error)),
    };
    let mut zips = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(directory, e))?.path();
        let is_zip = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
        if is_zip && path.is_file() {
            zips.push(path);
        }
    }
    zips.sort();
    Ok(zips)
}

/// Removes what a killed run left unfinished.
fn remove_parts(records: &Path) -> Result<()> {
    for entry in std::fs::read_dir(records).map_err(|e| Error::io(records, e))?.flatten() {
        if entry.file_name().to_string_lossy().ends_with(".trf.part") {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io(records, e))?;
        }
    }
    Ok(())
}
