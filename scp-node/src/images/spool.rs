//! The temporary file of an object that streams in: written in whole pages, its blocks reserved ahead, its writing begun early.
//!
//! Input: pieces of any size. Output: the same bytes in a file, in long writes that begin and end at page boundaries, which
//! costs the kernel far less than the pieces as they come. Nothing is durable before [`Spool::finish`].

use std::fs::File;
use std::io::{IoSlice, Write};
use std::path::Path;

/// Pieces are held back until so much can be written. Justification: measured; longer writes cost no less.
const LONG: usize = 128 * 1024;
/// Writes end at multiples of it. Justification: the page of every system we run on, or a divisor of it.
const PAGE: u64 = 4096;
/// Blocks reserved ahead at most. Justification: a length in a data set may be a lie; this much may be held by one until its
/// association ends.
const RESERVE_MAX: u64 = 16 << 20;
/// How much is written before the disk is told to begin. Justification: large enough for long writes, small enough that
/// little is left to wait for at the end.
const EARLY: u64 = 512 << 10;

/// A file that grows. Its bytes are in the file only after [`Spool::finish`].
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    /// Whether the disk is told to begin early, since it will have to end before the acknowledgement.
    early: bool,
    held: Vec<u8>,
    written: u64,
    reserved: u64,
    /// How much of the file the disk was told to write.
    begun: u64,
}

impl Spool {
    /// A new file.
    ///
    /// # Errors
    /// That of the system; also when there is such a file.
    pub(super) fn create(path: &Path, early: bool) -> std::io::Result<Self> {
        let file = File::create_new(path)?;
        Ok(Self {
            file,
            early,
            held: Vec::with_capacity(LONG + PAGE as usize),
            written: 0,
            reserved: 0,
            begun: 0,
        })
    }

    /// Appends.
    ///
    /// # Arguments
    /// * `ahead` — how many bytes are known to follow these; a hint
    /// # Errors
    /// That of the system; the file is of no use then.
    pub(super) fn write(&mut self, bytes: &[u8], ahead: u64) -> std::io::Result<()> {
        let end = self.written + (self.held.len() + bytes.len()) as u64;
        self.reserve(end, ahead);
        let whole_pages = (end / PAGE * PAGE).saturating_sub(self.written) as usize;
        // Bytes of this piece that complete the pages; the held ones all lie before them.
        let now = whole_pages.checked_sub(self.held.len()).filter(|_| whole_pages >= LONG);
        let (now, later) = bytes.split_at(now.unwrap_or(0).min(bytes.len()));
        if !now.is_empty() {
            self.put(now)?;
        }
        self.held.extend_from_slice(later);
        Ok(())
    }

    /// Writes what is held, and then these.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut slices = &mut [IoSlice::new(&self.held), IoSlice::new(bytes)][..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.file.write_vectored(slices) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.held.clear();
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
        self.put(&[])?;
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
            sizes in proptest::collection::vec((0usize..300_000, proptest::option::of(0u64..1 << 40)), 0..12),
            early: bool,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("o");
            let mut spool = Spool::create(&path, early).unwrap();
            let mut expected = Vec::new();
            for (k, (size, ahead)) in sizes.into_iter().enumerate() {
                let piece: Vec<u8> = (0..size).map(|i| (i * 7 + k) as u8).collect();
                spool.write(&piece, ahead.unwrap_or(0)).unwrap();
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
        let error = Spool::create(&path, false).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"there");
    }
}
