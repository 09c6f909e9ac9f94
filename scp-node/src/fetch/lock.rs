//! Turns between processes: locks on small files beside the catalog. A lock ends with its process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::images::layout;

/// How often a lock that another holds is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Whether others may hold the lock too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    Exclusive,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Arguments
    /// * `name` — what is locked; any text
    pub(super) async fn wait(
        root: &Path,
        name: &str,
        kind: Kind,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        loop {
            if let Some(turn) = Self::take(root, name, kind)? {
                return Ok(turn);
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::Cancelled),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// The turn, if nobody else has it.
    pub(super) fn take(root: &Path, name: &str, kind: Kind) -> Result<Option<Self>> {
        let path = file(root, name);
        let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = match open() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(root);
                std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
                open()
            }
            // Made by another account: a lock needs no right to write.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => File::open(&path),
            opened => opened,
        };
        let file = file.map_err(Error::io(&path))?;
        let taken = match kind {
            Kind::Shared => file.try_lock_shared(),
            Kind::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io(&path)(e)),
        }
    }
}

/// One small file per name; names are few: some per patient that was ever fetched. Removing one would race with those
/// who wait for it.
fn file(root: &Path, name: &str) -> PathBuf {
    root.join(layout::CATALOG).join("locks").join(format!("{}.lock", layout::short_hash(name)))
}
