//! New zips of one linac, from its share to `diagnostics/to_be_indexed/<linac>/`: resumable, verified, in place only when whole.
//!
//! While it is copied, a zip is `NAME.part`, and `NAME.part.json` says which file on the share it is of and how much of it is surely on
//! the disk, with that part's hash. A cut connection, a kill or a power cut costs what came after that.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layout::{check_name, with_addition};
use super::state::{Stage, State, Zip, same_time};
use super::{FetchedZip, Job, LinacRun, Progress, hex, make_directory, replace, stopped, sync_directory};
use crate::diagnostics;
use crate::error::{Error, Result};
use crate::share::{ReadError, Remote, Share, Source};

/// After so many bytes, what is copied is made sure: what a kill costs, and few waits for the disk.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// How often a lost connection is sought again without a byte of progress.
const RETRIES: u32 = 4;
/// The wait before the first retry; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

impl Job<'_> {
    /// Copies what is new.
    ///
    /// # Errors
    /// What kept it from getting everything; zips that were complete before are in place.
    pub(super) fn fetch(&self, share: &Share, state: &mut State, run: &mut LinacRun) -> Result<()> {
        let waiting = self.layout.zips_waiting(self.linac);
        make_directory(&waiting)?;
        (self.tell)(Progress::Connecting);
        let mut source = Some(Source::open(share, self.cancel)?);
        let listed = source.as_mut().map_or(Ok(Vec::new()), |s| s.list(&self.options.pattern))?;
        run.zips_on_share = Some(listed.len());
        state.newest_zip_utc = listed.iter().filter_map(|remote| remote.modified).max();
        if listed.is_empty() {
            run.warnings.push(format!(
                "{share} holds no zip that fits `{}`: check the directory, and that the linac writes its diagnostics there",
                self.options.pattern
            ));
        }
        let mut new = Vec::new();
        for remote in &listed {
            if let Err(error) = check_name("zip", &remote.name) {
                run.warnings.push(format!("{error}; passed over"));
            } else if !state.knows(remote) && !self.adopt(remote, state) {
                new.push(remote);
            }
        }
        tidy(&waiting, &new);
        // What the linac will remove first comes first.
        new.sort_by_key(|remote| remote.modified);
        let left = |remote: &&Remote| {
            remote.bytes.saturating_sub(Meta::of(&waiting, remote).map_or(0, |meta| meta.done))
        };
        let new_bytes = new.iter().map(left).sum();
        (self.tell)(Progress::Listed { zips: listed.len(), new: new.len(), new_bytes });
        for remote in new {
            self.check_cancelled()?;
            if let Some(fetched) = self.get(share, &mut source, remote, state, run)? {
                run.fetched.push(fetched);
            }
            state.save(&self.layout.state(self.linac))?;
        }
        state.forget(&listed);
        Ok(())
    }

    /// Takes a zip for known that lies here with the right size: PyMedPhys's, or ours if memory was lost.
    ///
    /// The size, since PyMedPhys leaves half a zip under its final name when a copy is cut.
    fn adopt(&self, remote: &Remote, state: &mut State) -> bool {
        if state.zips.contains_key(&remote.name) {
            return false;
        }
        let has = |directory: PathBuf| {
            std::fs::metadata(directory.join(&remote.name))
                .is_ok_and(|m| m.is_file() && m.len() == remote.bytes)
        };
        let stage = if has(self.layout.zips_done(self.linac)) {
            Stage::Extracted { records: 0 }
        } else if has(self.layout.zips_waiting(self.linac)) {
            Stage::Fetched
        } else {
            return false;
        };
        state.zips.insert(remote.name.clone(), seen(remote, String::new(), 0, stage));
        true
    }

    /// Copies, verifies and puts one zip into place; `None` if the share's file is not one yet, or no longer there.
    fn get(
        &self,
        share: &Share,
        source: &mut Option<Source>,
        remote: &Remote,
        state: &mut State,
        run: &mut LinacRun,
    ) -> Result<Option<FetchedZip>> {
        let waiting = self.layout.zips_waiting(self.linac);
        let mut copy = Copy::open(&waiting, remote)?;
        let room = self.check_room(&waiting, remote.bytes.saturating_sub(copy.done), &remote.name);
        if room.is_err() && copy.done == 0 {
            copy.discard();
        }
        room?;
        let resumed_bytes = copy.done;
        if let Err(error) = self.copy(share, source, remote, &mut copy) {
            if matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
            {
                // A full disk harms more than this copy: give the room back.
                copy.discard();
            }
            if self.is_gone(source, remote) {
                copy.discard();
                run.warnings.push(format!("{} was removed from the share before it was copied", remote.name));
                return Ok(None);
            }
            return Err(error);
        }
        let sha256 = self.verify(share, source, remote, &mut copy)?;
        let earlier = state.zips.get(&remote.name).filter(|zip| zip.is(remote));
        let attempts = earlier.map_or(0, |zip| zip.attempts).saturating_add(1);
        let unfinished_before = earlier.is_some_and(|zip| zip.stage == Stage::Unfinished);
        let changed = self
            .listed_again(source, remote)?
            .is_none_or(|now| now.bytes != remote.bytes || !same_time(now.modified, remote.modified));
        // A file without a zip's end is tried again in the next run; if it has not changed by then, it is damaged and not unfinished.
        if changed || (!unfinished_before && !diagnostics::has_end(&copy.part)) {
            copy.discard();
            if !changed {
                state.zips.insert(remote.name.clone(), seen(remote, sha256, attempts, Stage::Unfinished));
            }
            run.warnings.push(format!(
                "{}: the linac is still writing it; it is fetched by the next run",
                remote.name
            ));
            return Ok(None);
        }
        self.put(&waiting, remote, &copy, &sha256)?;
        state.zips.insert(remote.name.clone(), seen(remote, sha256.clone(), attempts, Stage::Fetched));
        Ok(Some(FetchedZip { name: remote.name.clone(), bytes: remote.bytes, sha256, resumed_bytes }))
    }

    /// Copies to the end, connecting again as long as that helps.
    fn copy(&self, share: &Share, slot: &mut Option<Source>, remote: &Remote, copy: &mut Copy) -> Result<()> {
        let mut tries = 0;
        loop {
            let before = copy.done;
            let opened = match slot.take() {
                Some(source) => Ok(source),
                None => Source::open(share, self.cancel),
            };
            let error = match opened {
                Ok(mut source) => {
                    let read = source.read(&remote.name, copy.done, remote.bytes, &mut |part| {
                        self.check_cancelled()?;
                        copy.take(part)?;
                        (self.tell)(Progress::Copied { bytes: part.len() as u64 });
                        Ok(())
                    });
                    match read {
                        Ok(()) => {
                            *slot = Some(source);
                            return Ok(());
                        }
                        Err(ReadError::Sink(error)) => {
                            *slot = Some(source);
                            let _ = copy.checkpoint();
                            return Err(error);
                        }
                        Err(ReadError::Source(error)) => error,
                    }
                }
                Err(error) => error,
            };
            copy.checkpoint()?;
            if copy.done > before {
                tries = 0;
            }
            if tries >= RETRIES || self.cancel.is_cancelled() {
                return Err(error);
            }
            (self.tell)(Progress::Reconnecting);
            self.pause(FIRST_PAUSE * 2_u32.pow(tries))?;
            tries += 1;
        }
    }

    fn pause(&self, time: Duration) -> Result<()> {
        let until = std::time::Instant::now() + time;
        while std::time::Instant::now() < until {
            self.check_cancelled().map_err(|_| stopped())?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether the share still works and no longer has the file.
    fn is_gone(&self, source: &mut Option<Source>, remote: &Remote) -> bool {
        matches!(self.listed_again(source, remote), Ok(None)) && source.is_some()
    }

    fn listed_again(&self, source: &mut Option<Source>, remote: &Remote) -> Result<Option<Remote>> {
        let listed = source.as_mut().map_or(Ok(Vec::new()), |source| source.list(&remote.name))?;
        Ok(listed.into_iter().find(|now| now.name == remote.name))
    }

    /// Compares what is on the disk with what came, and if wished with what comes a second time.
    fn verify(
        &self,
        share: &Share,
        slot: &mut Option<Source>,
        remote: &Remote,
        copy: &mut Copy,
    ) -> Result<String> {
        copy.checkpoint()?;
        let came = hex(copy.hasher.clone());
        if copy.done != remote.bytes || self.hash_file(&copy.part)? != came {
            copy.discard();
            let text = "what was written is not what came: the disk or the memory is faulty";
            return Err(Error::io(&copy.part, std::io::Error::other(text)));
        }
        if self.options.read_twice {
            let mut again = Sha256::new();
            let mut source = slot.take().map_or_else(|| Source::open(share, self.cancel), Ok)?;
            let read = source.read(&remote.name, 0, remote.bytes, &mut |part| {
                again.update(part);
                (self.tell)(Progress::Checking);
                self.check_cancelled()
            });
            read.map_err(|ended| match ended {
                ReadError::Source(error) | ReadError::Sink(error) => error,
            })?;
            *slot = Some(source);
            if hex(again) != came {
                copy.discard();
                let what = format!("{} read twice gives two different files", remote.name);
                return Err(Error::PeerMisbehaved { peer: share.to_string(), what });
            }
        }
        Ok(came)
    }

    /// Gives the copy its final name. A file that has it already keeps its own, unless it is the beginning of this one.
    fn put(&self, waiting: &Path, remote: &Remote, copy: &Copy, sha256: &str) -> Result<()> {
        let mut target = waiting.join(&remote.name);
        if target.exists() && !self.is_beginning_of(&target, copy)? {
            target = with_addition(&target, sha256.get(..8).unwrap_or_default());
        }
        std::fs::rename(&copy.part, &target).map_err(|e| Error::io(&target, e))?;
        let _ = std::fs::remove_file(&copy.meta);
        sync_directory(waiting)
    }

    /// Whether `old` holds the first bytes of the copy: then it is a copy that was cut.
    fn is_beginning_of(&self, old: &Path, copy: &Copy) -> Result<bool> {
        let bytes = std::fs::metadata(old).map_err(|e| Error::io(old, e))?.len();
        let beginning = hash_beginning(&copy.part, bytes)?;
        Ok(beginning.is_some_and(|hasher| self.hash_file(old).is_ok_and(|old| old == hex(hasher))))
    }
}

fn seen(remote: &Remote, sha256: String, attempts: u32, stage: Stage) -> Zip {
    Zip {
        bytes: remote.bytes,
        modified_utc: remote.modified,
        sha256,
        fetched_utc: Utc::now(),
        attempts,
        stage,
    }
}

/// Removes parts of zips that are not wanted any more: the share has dropped them.
fn tidy(waiting: &Path, new: &[&Remote]) {
    for entry in std::fs::read_dir(waiting).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let of = name.strip_suffix(".part").or_else(|| name.strip_suffix(".part.json"));
        if of.is_some_and(|of| new.iter().all(|remote| remote.name != of)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Which file a `.part` is of, and how much of it is surely on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    bytes: u64,
    modified_utc: Option<DateTime<Utc>>,
    done: u64,
    sha256_of_done: String,
}

impl Meta {
    /// What is known of a part of this very file.
    fn of(waiting: &Path, remote: &Remote) -> Option<Self> {
        let text = std::fs::read(waiting.join(format!("{}.part.json", remote.name))).ok()?;
        let meta: Self = serde_json::from_slice(&text).ok()?;
        let same = meta.bytes == remote.bytes && same_time(meta.modified_utc, remote.modified);
        (same && meta.done <= remote.bytes).then_some(meta)
    }
}

/// A copy that is being made.
struct Copy {
    file: File,
    part: PathBuf,
    meta: PathBuf,
    remote: Remote,
    hasher: Sha256,
    done: u64,
    sure: u64,
}

impl Copy {
    /// Opens the part, and goes on with it if its sure bytes are what they were.
    fn open(waiting: &Path, remote: &Remote) -> Result<Self> {
        let part = waiting.join(format!("{}.part", remote.name));
        let meta = waiting.join(format!("{}.part.json", remote.name));
        let known = Meta::of(waiting, remote);
        let sure = match &known {
            Some(known) => hash_beginning(&part, known.done)?
                .filter(|hasher| hex(hasher.clone()) == known.sha256_of_done)
                .map(|hasher| (hasher, known.done)),
            None => None,
        };
        let (hasher, done) = sure.unwrap_or_default();
        let failed = |error| Error::io(&part, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&part)
            .map_err(failed)?;
        file.set_len(done).map_err(failed)?;
        file.seek(SeekFrom::Start(done)).map_err(failed)?;
        Ok(Self { file, part, meta, remote: remote.clone(), hasher, done, sure: done })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.failed(error))?;
        self.hasher.update(bytes);
        self.done = self.done.saturating_add(bytes.len() as u64);
        if self.done.saturating_sub(self.sure) >= CHECKPOINT_BYTES { self.checkpoint() } else { Ok(()) }
    }

    /// Makes what was taken sure.
    fn checkpoint(&mut self) -> Result<()> {
        if self.done == self.sure {
            return Ok(());
        }
        self.file.sync_all().map_err(|error| self.failed(error))?;
        let meta = Meta {
            bytes: self.remote.bytes,
            modified_utc: self.remote.modified,
            done: self.done,
            sha256_of_done: hex(self.hasher.clone()),
        };
        let text = serde_json::to_vec(&meta).map_err(|error| self.failed(error.into()))?;
        replace(&self.meta, &text)?;
        self.sure = self.done;
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        if error.kind() != std::io::ErrorKind::StorageFull {
            return Error::io(&self.part, error);
        }
        let mb = self.remote.bytes.div_ceil(1_000_000);
        let text = format!("the disk became full while a zip of {mb} MB was copied");
        Error::io(&self.part, std::io::Error::new(std::io::ErrorKind::StorageFull, text))
    }

    /// Removes it; the next run begins anew.
    fn discard(&self) {
        let _ = std::fs::remove_file(&self.part);
        let _ = std::fs::remove_file(&self.meta);
    }
}

/// The hasher over the first `bytes` of a file; `None` if it has fewer, or is not there.
fn hash_beginning(path: &Path, bytes: u64) -> Result<Option<Sha256>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    let mut hasher = Sha256::new();
    let mut left = bytes;
    let mut file = file.take(bytes);
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(got) => {
                hasher.update(buffer.get(..got).unwrap_or_default());
                left = left.saturating_sub(got as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
    Ok(Some(hasher))
}
