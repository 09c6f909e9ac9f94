//! One run of the index at a time, over all processes: a lock on a file that ends with its process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The file, below the root.
const NAME: &str = "index.lock";
/// How often a turn that another has is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn; blocking.
    ///
    /// # Arguments
    /// * `waiting` — told once if another has it
    pub(super) fn wait(root: &Path, waiting: impl FnOnce(), cancel: &CancellationToken) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(Error::io(root))?;
        let path = root.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(Error::Cancelled),
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(RETRY);
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
            }
        }
    }
}
