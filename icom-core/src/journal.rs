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

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use crate::files::sync_dir;
use crate::{Error, Result};

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes as they came from the socket.
    Data,
    /// A link was made.
    Connected,
    /// A link ended; the payload says how.
    Disconnected,
    /// The service began after an orderly stop.
    OpenedClean,
    /// The service began after a crash: up to one fsync interval of bytes may be missing before this entry.
    OpenedUnclean,
    /// The service stopped in order.
    Closed,
    /// The link changed otherwise, such as refused; the payload says how.
    Link,
    /// Bytes were received and had to be dropped, because the disk took none; the payload is their number in decimal.
    Lost,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it holds.
    pub kind: Kind,
    /// When it was received.
    pub at: DateTime<Utc>,
    /// Stream offset at its beginning.
    pub offset: u64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl Entry {
    /// Stream offset behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(if self.kind == Kind::Data { to_u64(self.payload.len()) } else { 0 })
    }
}

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
        self.syncer.shared.failures.load(Ordering::Relaxed)
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
        self.syncer.shared.dirty.store(true, Ordering::Release);
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

/// Reads entries from an offset on, over segments, up to what is written so far.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    current: Option<(u64, PathBuf, BufReader<File>)>,
    position: u64,
    from: u64,
}

impl JournalReader {
    /// Begins at the entry that holds stream offset `from`, or the first after it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: &Path, from: u64) -> Result<Self> {
        let mut reader = Self { dir: dir.to_owned(), current: None, position: 0, from };
        let start = segments(dir)?.into_iter().rev().find(|(start, _)| *start <= from);
        match start
            .map_or_else(|| segments(dir).map(|all| all.into_iter().next()), |found| Ok(Some(found)))?
        {
            Some((start, path)) => reader.enter(start, path)?,
            None => return Ok(reader),
        }
        Ok(reader)
    }

    /// The next entry; `None` at the end of what is written, from where a later call goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            let Some((start, path, file)) = &mut self.current else { return Ok(None) };
            match read_entry(file).map_err(Error::io(&*path))? {
                Some((entry, len)) => {
                    self.position = self.position.saturating_add(len);
                    if entry.end() > self.from || (entry.kind != Kind::Data && entry.offset >= self.from) {
                        return Ok(Some(entry));
                    }
                }
                None => {
                    // The end, or a part of an entry that is just being written.
                    let after = *start;
                    file.seek(SeekFrom::Start(self.position)).map_err(Error::io(&*path))?;
                    let next = segments(&self.dir)?.into_iter().find(|(start, _)| *start > after);
                    match next {
                        Some((start, path)) => self.enter(start, path)?,
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    fn enter(&mut self, start: u64, path: PathBuf) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 17, File::open(&path).map_err(Error::io(&path))?);
        let mut magic = [0; MAGIC.len()];
        // A segment that was being created when the power failed may be shorter.
        let whole = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
        self.position = if whole { to_u64(MAGIC.len()) } else { 0 };
        self.current = Some((start, path, file));
        Ok(())
    }
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

fn encode(kind: Kind, at: DateTime<Utc>, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[kind.byte(), 0, 0, 0]);
    bytes.extend_from_slice(&at.timestamp_micros().to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32fast::hash(bytes.get(4..).unwrap_or_default()).to_le_bytes();
    bytes.iter_mut().zip(crc).for_each(|(byte, value)| *byte = value);
    bytes
}

/// The next entry and its length; `None` for whatever is no whole entry.
fn read_entry(reader: &mut impl Read) -> std::io::Result<Option<(Entry, u64)>> {
    let mut header = [0; HEADER_LEN];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let [c0, c1, c2, c3, l0, l1, l2, l3, kind, _, _, _, times @ ..] = header;
    let [at @ .., o0, o1, o2, o3, o4, o5, o6, o7] = times;
    let payload_len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let at = DateTime::from_timestamp_micros(i64::from_le_bytes(at));
    let (Some(kind), Some(at), true) = (Kind::from_byte(kind), at, payload_len <= MAX_PAYLOAD_LEN) else {
        return Ok(None);
    };
    let mut payload = vec![0; payload_len];
    if !read_whole(reader, &mut payload)? {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(4..).unwrap_or_default());
    hasher.update(&payload);
    if hasher.finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Ok(None);
    }
    let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let len = to_u64(HEADER_LEN.saturating_add(payload.len()));
    Ok(Some((Entry { kind, at, offset, payload }, len)))
}

fn read_whole(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Connected => 1,
            Self::Disconnected => 2,
            Self::OpenedClean => 3,
            Self::OpenedUnclean => 4,
            Self::Closed => 5,
            Self::Lost => 6,
            Self::Link => 7,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Data,
            1 => Self::Connected,
            2 => Self::Disconnected,
            3 => Self::OpenedClean,
            4 => Self::OpenedUnclean,
            5 => Self::Closed,
            6 => Self::Lost,
            7 => Self::Link,
            _ => return None,
        })
    }
}

/// Calls fsync at an interval, on a thread of its own.
#[derive(Debug)]
struct Syncer {
    shared: Arc<SyncShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct SyncShared {
    dirty: AtomicBool,
    failures: AtomicU64,
    files: Mutex<SyncFiles>,
    wake: Condvar,
}

#[derive(Debug)]
struct SyncFiles {
    current: Arc<File>,
    finished: Vec<Arc<File>>,
    stop: bool,
}

impl Syncer {
    fn start(file: Arc<File>, interval: Duration, dir: &Path) -> Result<Self> {
        let files = SyncFiles { current: file, finished: Vec::new(), stop: false };
        let shared = Arc::new(SyncShared {
            dirty: AtomicBool::new(true),
            failures: AtomicU64::new(0),
            files: Mutex::new(files),
            wake: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("icom-fsync".into())
            .stack_size(THREAD_STACK)
            .spawn(move || of_thread.run(interval))
            .map_err(Error::io(dir))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn change_file(&self, current: Arc<File>, finished: Arc<File>) {
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.current = current;
        files.finished.push(finished);
    }
}

impl SyncShared {
    fn run(&self, interval: Duration) {
        loop {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut files, _) = self
                .wake
                .wait_timeout_while(files, interval, |files| !files.stop)
                .unwrap_or_else(PoisonError::into_inner);
            let stop = files.stop;
            let mut due = std::mem::take(&mut files.finished);
            due.push(Arc::clone(&files.current));
            drop(files);
            if self.dirty.swap(false, Ordering::AcqRel) {
                for file in due {
                    if file.sync_data().is_err() {
                        self.failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            if stop {
                return;
            }
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; if it did, the journal is closed all the same.
            let _ = thread.join();
        }
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Enough for what the helper threads do; 64 linacs have some 200 of them.
pub(crate) const THREAD_STACK: usize = 512 * 1024;

const MAGIC: &[u8; 8] = b"ICOMJRN1";
const EXTENSION: &str = "icj";
const HEADER_LEN: usize = 28;
/// The listener reads at most 64 kB at once; more is a damaged length.
const MAX_PAYLOAD_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests {
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
}
