//! The temporary file of an object that streams in: written in whole blocks, its space reserved ahead, its writing begun early.
//!
//! Input: pieces of any size, copied or read straight into [`Spool::room`]. Output: the same bytes in a file, in writes of one
//! size that begin at multiples of it, for which the kernel takes its largest pages; that costs it far less than the pieces as they
//! come. Nothing is durable before [`Spool::finish`].

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a write. Justification: measured on ext4, 3.28 MB in 128 KiB 630, in 256 KiB 585, in 512 KiB 580 us of CPU; two
/// of 256 KiB stay in the second-level cache.
const BLOCK: usize = 256 * 1024;
/// When less than a block is to come, a write takes as much, so that little is left to write at the end, when the sender waits
/// for its answer.
const LAST: usize = 64 * 1024;
/// Less is not worth a reservation.
const PAGE: u64 = 4096;
/// Blocks reserved ahead at most. Justification: a length in a data set may be a lie; this much may be held by one until its
/// association ends.
const RESERVE_MAX: u64 = 16 << 20;
/// How much is written before the disk is told to begin. Justification: large enough for long writes, small enough that
/// little is left to wait for at the end.
const EARLY: u64 = 512 << 10;

/// Blocks of memory that objects fill one after the other; as many as ever were filled at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Blocks {
    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BLOCK])
    }
}

/// A file that grows. Its bytes are in the file only after [`Spool::finish`].
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    /// Whether the disk is told to begin early, since it will have to end before the acknowledgement.
    early: bool,
    block: Vec<u8>,
    blocks: Blocks,
    /// Bytes of the block that are filled.
    filled: usize,
    written: u64,
    reserved: u64,
    /// How much of the file the disk was told to write.
    begun: u64,
}

impl Drop for Spool {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.blocks.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

impl Spool {
    /// A new file.
    ///
    /// # Errors
    /// That of the system; also when there is such a file.
    pub(super) fn create(path: &Path, early: bool, blocks: &Blocks) -> std::io::Result<Self> {
        let file = File::create_new(path)?;
        let blocks = blocks.clone();
        Ok(Self { file, early, block: blocks.take(), blocks, filled: 0, written: 0, reserved: 0, begun: 0 })
    }

    /// Where the next bytes go; never empty. [`Spool::fill`] takes what was put there.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.block.get_mut(self.filled..).unwrap_or_default()
    }

    /// The first so many bytes of [`Spool::room`].
    pub(super) fn peek(&self, bytes: usize) -> &[u8] {
        self.block.get(self.filled..self.filled + bytes).unwrap_or_default()
    }

    /// Appends the first so many bytes of [`Spool::room`].
    ///
    /// # Arguments
    /// * `ahead` — how many bytes are known to follow these; a hint
    /// # Errors
    /// That of the system; the file is of no use then.
    pub(super) fn fill(&mut self, bytes: usize, ahead: u64) -> std::io::Result<()> {
        self.filled = (self.filled + bytes).min(self.block.len());
        self.reserve(self.written + self.filled as u64, ahead);
        let is_near_end = (1..BLOCK as u64).contains(&ahead);
        let enough = if is_near_end { LAST } else { self.block.len() };
        if self.filled >= enough { self.put() } else { Ok(()) }
    }

    /// Appends a copy of these bytes.
    ///
    /// # Errors
    /// As [`Spool::fill`].
    pub(super) fn write(&mut self, mut bytes: &[u8], ahead: u64) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            self.fill(now.len(), ahead + later.len() as u64)?;
            bytes = later;
        }
        Ok(())
    }

    /// Writes what is filled.
    fn put(&mut self) -> std::io::Result<()> {
        self.file.write_all(self.block.get(..self.filled).unwrap_or_default())?;
        self.written += self.filled as u64;
        self.filled = 0;
        if self.early && self.written - self.begun >= EARLY {
            system::begin(&self.file, self.begun, self.written);
            self.begun = self.written;
        }
        Ok(())
    }

    /// Reserves blocks for what is known to come. A full disk is told by the write that does not fit, not here.
    fn reserve(&mut self, end: u64, ahead: u64) {
        if ahead >= PAGE && self.reserved < end + PAGE {
            let to = end + ahead.min(RESERVE_MAX);
            system::reserve(&self.file, self.written, to);
            self.reserved = to;
        }
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// That of the system.
    pub(super) fn finish(mut self, sync: bool) -> std::io::Result<()> {
        self.put()?;
        if sync {
            self.file.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper of sync_file_range and fallocate among our dependencies")]
mod system {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn range(from: u64, to: u64) -> Option<(i64, i64)> {
        Some((i64::try_from(from).ok()?, i64::try_from(to.checked_sub(from)?).ok()?))
    }

    /// Begins to write these bytes of the file to the disk, and does not wait. Only a hint: durability comes from the sync at the end.
    pub(super) fn begin(file: &File, from: u64, to: u64) {
        if let Some((offset, length)) = range(from, to) {
            // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
            unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    /// Reserves blocks; the file's length stays. Only a hint: not every file system can, and a full one is told by the write.
    pub(super) fn reserve(file: &File, from: u64, to: u64) {
        if let Some((offset, length)) = range(from, to) {
            // SAFETY: as above.
            unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, length) };
        }
    }
}

/// Elsewhere the writes and the sync at the end do all.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;

    pub(super) fn begin(_file: &File, _from: u64, _to: u64) {}

    pub(super) fn reserve(_file: &File, _from: u64, _to: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_file_holds_the_pieces_in_order_whatever_their_sizes_and_what_is_said_of_more(
            pieces in proptest::collection::vec((0usize..700_000, proptest::option::of(0u64..1 << 40), proptest::bool::ANY), 0..12),
            early: bool,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let (path, blocks) = (directory.path().join("o"), Blocks::default());
            let mut spool = Spool::create(&path, early, &blocks).unwrap();
            let mut expected = Vec::new();
            for (k, (size, ahead, in_place)) in pieces.into_iter().enumerate() {
                let mut piece: Vec<u8> = (0..size).map(|i| (i * 7 + k) as u8).collect();
                if in_place {
                    let room = spool.room();
                    piece.truncate(room.len());
                    room[..piece.len()].copy_from_slice(&piece);
                    proptest::prop_assert!(spool.peek(piece.len()) == piece);
                    spool.fill(piece.len(), ahead.unwrap_or(0)).unwrap();
                } else {
                    spool.write(&piece, ahead.unwrap_or(0)).unwrap();
                }
                proptest::prop_assert!(!spool.room().is_empty());
                expected.extend_from_slice(&piece);
            }
            spool.finish(early).unwrap();
            proptest::prop_assert!(std::fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("o");
        std::fs::write(&path, "there").unwrap();
        let error = Spool::create(&path, false, &Blocks::default()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"there");
    }

    #[test]
    fn blocks_are_used_again_by_the_objects_that_follow() {
        let (directory, blocks) = (tempfile::tempdir().unwrap(), Blocks::default());
        for n in 0..5 {
            let mut spool = Spool::create(&directory.path().join(n.to_string()), false, &blocks).unwrap();
            spool.write(b"bytes", 0).unwrap();
            spool.finish(false).unwrap();
        }
        assert_eq!(blocks.0.lock().unwrap().len(), 1);
    }
}
