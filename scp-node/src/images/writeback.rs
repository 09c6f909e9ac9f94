//! Telling the disk to begin with what is written already, while the rest still arrives: the sync at the end then waits for little.

use std::fs::File;

/// Begins to write these bytes of the file to the disk, and does not wait. Only a hint: durability comes from the sync at the end.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper of sync_file_range is to be had")]
pub(super) fn begin(file: &File, from: u64, to: u64) {
    use std::os::fd::AsRawFd;

    let (Ok(offset), Ok(length)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from))) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Elsewhere the sync at the end does all.
#[cfg(not(target_os = "linux"))]
pub(super) fn begin(_file: &File, _from: u64, _to: u64) {}
