//! The journal: received bytes, durable before anything interprets them.
//!
//! Input: bytes and link events with the time they came. Output: files `<stream offset>.icj` in one directory per linac, and
//! their entries again in order. Trust in the files: none; each entry has a checksum, and whatever a crash left torn at the
//! end is cut off and counted.
//!
//! ```text
//! segment = "ICOMJRN1" entry*
//! entry   = crc32(4) payload length(4) kind(1) 0(3) time, µs since 1970 (8) stream offset(8) payload     little endian
//! ```
//!
//! The stream offset counts the payload bytes ever received from this linac; it names places in the stream for as long as
//! the directory lives. A thread calls fsync at a set interval, so that a slow disk delays no append.

mod entry;
mod reader;
mod syncer;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

pub use entry::{Entry, Kind};
use entry::{encode, read_entry};
pub use reader::JournalReader;
use syncer::Syncer;

use crate::files::{replace, sync_dir};
use crate::{Error, Result};

/// How the journal writes.
#[derive(Debug, Clone, Copy)]
pub struct JournalSettings {
    /// Time between two fsyncs.
    pub fsync_interval: Duration,
    /// Size at which a new segment begins.
    pub segment_bytes: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { fsync_interval: Duration::from_secs(1), segment_bytes: 16 << 20 }
    }
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the last run ended without closing its journal.
    pub unclean: bool,
    /// Bytes of a torn last entry that were cut off.
    pub torn_bytes: u64,
}

/// Appends entries. One process at a time: the directory is locked.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    settings: JournalSettings,
    segment: Segment,
    offset: u64,
    syncer: Syncer,
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes of whole entries; the file is cut to it after a failed append.
    good_len: u64,
    /// Whether the last append failed and may have left part of an entry.
    torn: bool,
}

impl Journal {
    /// Opens the journal in `dir`, repairs its end, and notes the opening. `at_least` is the offset that the index knows to be
    /// done: a journal that lost its end in a power failure, or was deleted, goes on behind it.
    ///
    /// # Errors
    /// [`Error::Misuse`] if another process has it open, [`Error::Io`].
    pub fn open(
        dir: &Path,
        settings: JournalSettings,
        at_least: u64,
        now: DateTime<Utc>,
    ) -> Result<(Self, Recovery)> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let lock = lock(dir)?;
        let (segment, offset, recovery) = match segments(dir)?.pop() {
            Some((start, path)) => recover(start, &path)?,
            None => (Segment::create(dir, at_least)?, at_least, Recovery { unclean: false, torn_bytes: 0 }),
        };
        let (segment, offset) =
            if offset < at_least { (Segment::create(dir, at_least)?, at_least) } else { (segment, offset) };
        let syncer = Syncer::start(Arc::clone(&segment.file), settings.fsync_interval, dir)?;
        let mut journal = Self { dir: dir.to_owned(), settings, segment, offset, syncer, _lock: lock };
        let kind = if recovery.unclean { Kind::OpenedUnclean } else { Kind::OpenedClean };
        journal.append(kind, now, &[])?;
        Ok((journal, recovery))
    }

    /// Stream offset of the next byte.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Counts of the fsync thread.
    #[must_use]
    pub fn sync_failures(&self) -> u64 {
        self.syncer.failures()
    }

    /// Appends an entry; gives its offset. After an error nothing of it counts, and it may be tried again.
    ///
    /// # Errors
    /// [`Error::Io`], such as a full disk.
    pub fn append(&mut self, kind: Kind, at: DateTime<Utc>, payload: &[u8]) -> Result<u64> {
        if self.segment.good_len >= self.settings.segment_bytes && kind == Kind::Data {
            self.rotate()?;
        }
        let offset = self.offset;
        let bytes = encode(kind, at, offset, payload);
        self.segment.append(&bytes)?;
        self.syncer.dirty();
        if kind == Kind::Data {
            self.offset = self.offset.saturating_add(to_u64(payload.len()));
        }
        Ok(offset)
    }

    /// Notes an orderly stop and makes everything durable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn close(mut self, now: DateTime<Utc>) -> Result<()> {
        self.append(Kind::Closed, now, &[])?;
        self.segment.file.sync_all().map_err(Error::io(&self.segment.path))
    }

    /// Deletes segments that end at or before `done` and were last written before `older_than`; gives the bytes freed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prune(&self, done: u64, older_than: SystemTime) -> Result<u64> {
        let segments = segments(&self.dir)?;
        let mut freed = 0_u64;
        for ((_, path), (next_start, _)) in segments.iter().zip(segments.iter().skip(1)) {
            let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
            let written = metadata.modified().map_err(Error::io(path))?;
            if *next_start > done || written >= older_than {
                break;
            }
            std::fs::remove_file(path).map_err(Error::io(path))?;
            freed = freed.saturating_add(metadata.len());
        }
        Ok(freed)
    }

    /// Notes that everything before `offset` is archived, so that an index that is lost repeats nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note_done(&self, offset: u64) -> Result<()> {
        replace(&self.dir.join(DONE), offset.to_string().as_bytes())
    }

    fn rotate(&mut self) -> Result<()> {
        let next = Segment::create(&self.dir, self.offset)?;
        let before = std::mem::replace(&mut self.segment, next);
        self.syncer.change_file(Arc::clone(&self.segment.file), before.file);
        Ok(())
    }
}

impl Segment {
    fn create(dir: &Path, start: u64) -> Result<Self> {
        let path = dir.join(format!("{start:020}.{EXTENSION}"));
        let mut file = open_rw(&path, true)?;
        file.set_len(0).map_err(Error::io(&path))?;
        file.write_all(MAGIC).map_err(Error::io(&path))?;
        sync_dir(dir)?;
        Ok(Self { path, file: Arc::new(file), good_len: to_u64(MAGIC.len()), torn: false })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.torn {
            self.repair().map_err(Error::io(&self.path))?;
        }
        self.torn = true;
        (&*self.file).write_all(bytes).map_err(Error::io(&self.path))?;
        self.torn = false;
        self.good_len = self.good_len.saturating_add(to_u64(bytes.len()));
        Ok(())
    }

    fn repair(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.good_len)?;
        (&*self.file).seek(SeekFrom::Start(self.good_len))?;
        self.torn = false;
        Ok(())
    }
}

/// What [`Journal::note_done`] noted last in this directory, 0 if nothing.
#[must_use]
pub fn done(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.join(DONE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Segments of a directory by their first offset.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let start = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(start), Some(EXTENSION)) = (start, path.extension().and_then(|e| e.to_str())) {
            found.push((start, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn recover(start: u64, path: &Path) -> Result<(Segment, u64, Recovery)> {
    let file = open_rw(path, false)?;
    let len = file.metadata().map_err(Error::io(path))?.len();
    let mut reader = BufReader::new(&file);
    let mut magic = [0; MAGIC.len()];
    let mut good_len = 0;
    let mut offset = start;
    let mut closed = false;
    if reader.read_exact(&mut magic).is_ok() && magic == *MAGIC {
        good_len = to_u64(MAGIC.len());
        while let Some((entry, len)) = read_entry(&mut reader).map_err(Error::io(path))? {
            good_len = good_len.saturating_add(len);
            offset = entry.end();
            closed = entry.kind == Kind::Closed;
        }
    }
    drop(reader);
    let recovery = Recovery { unclean: !closed, torn_bytes: len.saturating_sub(good_len) };
    let mut segment = Segment { path: path.to_owned(), file: Arc::new(file), good_len, torn: true };
    segment.repair().map_err(Error::io(path))?;
    if good_len == 0 {
        segment.append(MAGIC)?;
    }
    Ok((segment, offset, recovery))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = open_rw(&path, true)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Misuse {
            what: format!(
                "{} is in use by another listener: stop it first, or use another directory",
                dir.display()
            ),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(Error::Io { path, source }),
    }
}

fn open_rw(path: &Path, create: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)
        .map_err(Error::io(path))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Enough for what the helper threads do; 64 linacs have some 200 of them.
pub(crate) const THREAD_STACK: usize = 512 * 1024;

const MAGIC: &[u8; 8] = b"ICOMJRN1";
const EXTENSION: &str = "icj";
const DONE: &str = "done";

#[cfg(test)]
mod tests {
    use super::entry::HEADER_LEN;
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_763_708_400_123_456).unwrap()
    }

    fn open(dir: &Path) -> (Journal, Recovery) {
        Journal::open(dir, JournalSettings { segment_bytes: 100, ..Default::default() }, 0, now()).unwrap()
    }

    fn data(dir: &Path, from: u64) -> Vec<u8> {
        let mut reader = JournalReader::open(dir, from).unwrap();
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            if entry.kind == Kind::Data {
                all.extend(entry.payload);
            }
        }
        all
    }

    #[test]
    fn entries_come_back_in_order_over_segments() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, recovery) = open(dir.path());
        assert_eq!(recovery, Recovery { unclean: false, torn_bytes: 0 });
        for n in 0..50_u8 {
            assert_eq!(journal.append(Kind::Data, now(), &[n; 10]).unwrap(), u64::from(n) * 10);
        }
        journal.close(now()).unwrap();
        assert!(segments(dir.path()).unwrap().len() > 10);
        assert_eq!(data(dir.path(), 0).len(), 500);
        assert_eq!(data(dir.path(), 250)[0], 25);
        let (journal, recovery) = open(dir.path());
        assert_eq!((journal.offset(), recovery.unclean), (500, false));
    }

    #[test]
    fn a_torn_end_is_cut_off_and_told_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        journal.append(Kind::Data, now(), b"whole").unwrap();
        journal.append(Kind::Data, now(), b"torn").unwrap();
        drop(journal);
        let (_, path) = segments(dir.path()).unwrap().pop().unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        open_rw(&path, false).unwrap().set_len(len - 2).unwrap();
        let (mut journal, recovery) = open(dir.path());
        assert_eq!(recovery, Recovery { unclean: true, torn_bytes: to_u64(HEADER_LEN) + 2 });
        assert_eq!(journal.append(Kind::Data, now(), b" again").unwrap(), 5);
        assert_eq!(data(dir.path(), 0), b"whole again");
    }

    #[test]
    fn a_damaged_entry_hides_only_the_rest_of_its_segment() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        for n in 0..20_u8 {
            journal.append(Kind::Data, now(), &[n; 10]).unwrap();
        }
        let (_, second) = segments(dir.path()).unwrap().swap_remove(1);
        let mut bytes = std::fs::read(&second).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&second, bytes).unwrap();
        assert_eq!(data(dir.path(), 0).len(), 190);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, _) = open(dir.path());
        let error = Journal::open(dir.path(), JournalSettings::default(), 0, now()).unwrap_err();
        assert!(error.to_string().contains("another listener"));
    }

    #[test]
    fn only_what_is_done_and_old_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        for n in 0..50_u8 {
            journal.append(Kind::Data, now(), &[n; 10]).unwrap();
        }
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(journal.prune(500, SystemTime::UNIX_EPOCH).unwrap(), 0);
        assert!(journal.prune(250, later).unwrap() > 0);
        assert_eq!(data(dir.path(), 250)[0], 25);
    }

    #[test]
    fn goes_on_behind_what_the_index_knows_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), JournalSettings::default(), 5000, now()).unwrap();
        assert_eq!(journal.offset(), 5000);
    }

    #[test]
    fn what_is_done_is_known_without_an_index() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(done(dir.path()), 0);
        let (journal, _) = open(dir.path());
        journal.note_done(123).unwrap();
        journal.note_done(456).unwrap();
        assert_eq!(done(dir.path()), 456);
        std::fs::write(dir.path().join(DONE), "garbage").unwrap();
        assert_eq!(done(dir.path()), 0);
    }
}
