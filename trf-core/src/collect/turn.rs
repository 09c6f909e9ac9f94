//! One process at a time works on a linac: a lock on a small file, which ends with its process however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How often a turn that another has is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Longest wait. A whole week of zips over a slow tunnel takes less; past it, the other one hangs.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 3600);

/// A turn; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn; `waiting` is called again and again meanwhile.
    pub(super) fn wait(path: &Path, cancel: &CancellationToken, waiting: impl Fn()) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if cancel.is_cancelled() {
                return Err(super::stopped());
            }
            if started.elapsed() > LONGEST_WAIT {
                return Err(Error::misuse("another run has been busy with this linac for two hours")
                    .with_hint("look for a `scp-node trf` that hangs and end it, or restart the service"));
            }
            waiting();
            std::thread::sleep(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_second_waits_until_the_first_has_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state").join("4299.lock");
        let cancel = CancellationToken::new();
        let first = Turn::wait(&path, &cancel, || panic!("nobody else has it")).unwrap();
        let (waited, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let turn = Turn::wait(&path, &cancel, || waited.store(true, Ordering::SeqCst));
                assert!(done.load(Ordering::SeqCst), "both had it at once");
                turn
            });
            while !waited.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
            drop(first);
            let second = second.join().unwrap().unwrap();
            cancel.cancel();
            assert!(Turn::wait(&path, &cancel, || {}).unwrap_err().to_string().contains("stopped"));
            drop(second);
        });
    }
}
