//! fsync at an interval, on a thread of its own, so that a slow disk delays no append.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::THREAD_STACK;
use crate::{Error, Result};

/// Calls fsync at an interval, on a thread of its own.
#[derive(Debug)]
pub(super) struct Syncer {
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
    pub(super) fn start(file: Arc<File>, interval: Duration, dir: &Path) -> Result<Self> {
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

    /// There is something to sync.
    pub(super) fn dirty(&self) {
        self.shared.dirty.store(true, Ordering::Release);
    }

    /// Failed syncs.
    pub(super) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    pub(super) fn change_file(&self, current: Arc<File>, finished: Arc<File>) {
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
