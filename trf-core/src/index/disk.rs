//! Moves of files that survive a power cut, on every system.

use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::entry::hex;
use crate::{Error, Result};

/// Moves a file to a place where none is; across file systems by a verified copy.
///
/// The caller holds the database's write lock, so that nobody else of ours takes the place meanwhile.
pub(super) fn move_file(from: &Path, to: &Path, sha256: &str) -> Result<()> {
    if let Some(directory) = to.parent() {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
    }
    match std::fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => copy(from, to, sha256),
        Err(error) => Err(Error::io(if from.exists() { to } else { from }, error)),
    }
}

fn copy(from: &Path, to: &Path, sha256: &str) -> Result<()> {
    let partial = to.with_extension("part");
    let copied = std::fs::copy(from, &partial)
        .and_then(|_| std::fs::File::options().write(true).open(&partial)?.sync_all())
        .map_err(|e| Error::io(&partial, e))
        .and_then(|()| match hash(&partial)? == sha256 {
            true => std::fs::rename(&partial, to).map_err(|e| Error::io(to, e)),
            false => Err(Error::malformed("copy of a record", 0, "the bytes of the original", "others")),
        });
    if copied.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    copied?;
    to.parent().map_or(Ok(()), sync_directory)?;
    std::fs::remove_file(from).map_err(|e| Error::io(from, e))
}

/// SHA-256 of a file, hexadecimal.
pub(super) fn hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&digest.finalize())),
            Ok(n) => digest.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}

/// Whether this file is there with these bytes.
pub(super) fn holds(path: &Path, sha256: &str, bytes: u64) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() == bytes => Ok(hash(path)? == sha256),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Makes the names in a directory durable, if it is there. NTFS journals names by itself.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    if directory.exists() {
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|e| Error::io(directory, e))?;
    }
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

/// Removes directories that a move left empty, up to `root`, which stays.
pub(super) fn remove_empty_directories(mut directory: Option<&Path>, root: &Path) {
    while let Some(empty) = directory.filter(|d| *d != root && d.starts_with(root)) {
        if std::fs::remove_dir(empty).is_err() {
            return;
        }
        directory = empty.parent();
    }
}
