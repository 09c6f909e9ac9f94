//! A directory that holds some files and nothing else, for programs that take a directory: pylinac.
//!
//! Input: files of a session, of which others (kV images, images that arrive later) are to be left out. Output: the
//! session's own directory when it holds just these files, else a directory of links under the analysis cache, named
//! after the instances, made once and never changed. Where the account may not link (it does not own the files), the
//! files are copied. Nothing here writes into the images' directories.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use scp_node::{Error, Result};

use crate::series::Image;

/// Numbers the threads of this process that make views at once.
static MADE: AtomicU64 = AtomicU64::new(0);

/// The directory that shows exactly `members`.
///
/// # Errors
/// [`Error::Io`] when a file or the cache cannot be read or written.
pub fn of(directory: &Path, members: &[Image], cache: &Path) -> Result<PathBuf> {
    let wanted: BTreeSet<OsString> =
        members.iter().filter_map(|image| image.file.file_name().map(Into::into)).collect();
    if names_in(directory)? == wanted {
        return Ok(directory.to_path_buf());
    }
    let views = cache.join("views");
    let view = views.join(name_of(members));
    if view.is_dir() {
        return Ok(view);
    }
    // Made beside its place and then renamed: whoever finds it finds all of it, and two makers do no harm.
    make_shared(&views)?;
    let n = MADE.fetch_add(1, Ordering::Relaxed);
    let part = views.join(format!("{}.{}-{n}.part", name_of(members), std::process::id()));
    let made = fill(&part, members).and_then(|()| match std::fs::rename(&part, &view) {
        Err(_) if view.is_dir() => Ok(()),
        renamed => renamed.map_err(Error::io(&view)),
    });
    if part.exists() {
        // What is left over is ours alone; that it cannot be removed is no reason to withhold the images.
        let _ = std::fs::remove_dir_all(&part);
    }
    made.map(|()| view)
}

fn fill(part: &Path, members: &[Image]) -> Result<()> {
    std::fs::create_dir_all(part).map_err(Error::io(part))?;
    for image in members {
        let target = part.join(image.file.file_name().unwrap_or_default());
        if std::fs::hard_link(&image.file, &target).is_err() {
            std::fs::copy(&image.file, &target).map_err(Error::io(&image.file))?;
        }
    }
    Ok(())
}

fn names_in(directory: &Path) -> Result<BTreeSet<OsString>> {
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory))?;
    entries.map(|entry| Ok(entry.map_err(Error::io(directory))?.file_name())).collect()
}

/// Makes a directory that the group may write too: the service's account and the web server's share the cache.
fn make_shared(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let shared = std::fs::Permissions::from_mode(0o2775);
        std::fs::set_permissions(directory, shared).map_err(Error::io(directory))?;
    }
    Ok(())
}

fn name_of(members: &[Image]) -> String {
    let mut uids: Vec<&str> = members.iter().map(|image| image.sop_instance_uid.as_str()).collect();
    uids.sort_unstable();
    // 128 bits: two sets of images must never be taken for each other.
    let digest = Sha256::digest(uids.join("\n").as_bytes());
    scp_node::images::layout::hex(digest.get(..16).unwrap_or_default())
}
