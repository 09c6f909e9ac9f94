//! What the objects may take in all, `images.quota_bytes`.
//!
//! Input: bytes as they come, [`Share::take`]; what an object that stays has taken, [`Share::spent`]. Output: a refusal where it is
//! too much. State: bytes stored, as counted at the start and by every object since, and bytes on their way. When they are used up,
//! the disk is asked which files are still there: somebody may have removed some to make room.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use super::store::Refusal;
use crate::error::Result;

/// How many times as long as a count took none follows it. Justification: a count asks the disk for each file, and a sender that is
/// refused may try again at once; so counting has a twentieth of the time at most.
const REST: u32 = 20;
/// And at least so long.
const REST_MIN: Duration = Duration::from_secs(1);

/// Counts what there is against what there may be.
#[derive(Debug)]
pub(super) struct Quota {
    root: PathBuf,
    /// 0: none.
    limit_bytes: u64,
    /// Of objects that stay; of those of earlier runs only when there is a limit.
    stored_bytes: AtomicU64,
    on_their_way_bytes: AtomicU64,
    /// When the disk may be asked again; locked while it is asked.
    ask_again: Mutex<Option<Instant>>,
}

/// Bytes that count for a quota of so many. Rows of files that somebody removed to make room do not when it is nearly used up; before
/// that they need not be told apart, which asks the disk for each. Without a quota 0.
///
/// # Errors
/// [`Error::Catalog`](crate::Error::Catalog)
pub fn stored_bytes(catalog: &Catalog, limit_bytes: u64) -> Result<u64> {
    if limit_bytes == 0 {
        return Ok(0);
    }
    let total = catalog.total_bytes()?;
    if total < limit_bytes / 4 * 3 { Ok(total) } else { catalog.bytes_on_disk() }
}

impl Quota {
    /// Counts what `catalog` has.
    ///
    /// # Errors
    /// As [`stored_bytes`].
    pub(super) fn new(catalog: &Catalog, root: PathBuf, limit_bytes: u64) -> Result<Self> {
        let stored_bytes = AtomicU64::new(stored_bytes(catalog, limit_bytes)?);
        let (on_their_way_bytes, ask_again) = (AtomicU64::new(0), Mutex::new(None));
        Ok(Self { root, limit_bytes, stored_bytes, on_their_way_bytes, ask_again })
    }

    /// The share of an object that begins.
    pub(super) const fn share(&self) -> Share<'_> {
        Share { quota: self, bytes: 0 }
    }

    fn taken(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed) + self.on_their_way_bytes.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.limit_bytes > 0 && self.taken() > self.limit_bytes
    }

    /// Asks the disk what is still there, unless that was done just now or another thread does it.
    fn count_anew(&self) {
        let mut ask_again = match self.ask_again.try_lock() {
            Ok(ask_again) => ask_again,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let began = Instant::now();
        if ask_again.is_some_and(|at| began < at) {
            return;
        }
        let before = self.stored_bytes.load(Ordering::Relaxed);
        // A session that was just moved is missed by one count, not by two. What is filed meanwhile counts twice until the next time.
        let count = || {
            let catalog = Catalog::open_readonly(&self.root)?;
            Ok::<_, crate::Error>(catalog.bytes_on_disk()?.max(catalog.bytes_on_disk()?))
        };
        match count() {
            Ok(there) if there < before => {
                self.stored_bytes.fetch_sub(before - there, Ordering::Relaxed);
                tracing::info!(
                    free = before - there,
                    "files were removed: their part of images.quota_bytes is free again"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "what is stored cannot be counted anew for images.quota_bytes")
            }
        }
        *ask_again = Some(Instant::now() + (began.elapsed() * REST).max(REST_MIN));
    }
}

/// What an object has of the quota; given back when dropped, unless it was [`Share::spent`].
#[derive(Debug)]
pub(super) struct Share<'q> {
    quota: &'q Quota,
    bytes: u64,
}

impl Share<'_> {
    /// Bytes taken so far: the object's.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes so many more. May ask the disk for all files.
    ///
    /// # Errors
    /// [`Refusal::OutOfResources`]
    pub(super) fn take(&mut self, more: u64) -> Result<(), Refusal> {
        self.quota.on_their_way_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if self.quota.is_exceeded() {
            self.quota.count_anew();
        }
        if self.quota.is_exceeded() {
            return Err(Refusal::OutOfResources(format!(
                "{} bytes stored or on their way, images.quota_bytes is {}",
                self.quota.taken() - self.bytes,
                self.quota.limit_bytes
            )));
        }
        Ok(())
    }

    /// The object stays.
    pub(super) fn spent(self) {
        // Dropped after that: never counted too little.
        self.quota.stored_bytes.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.quota.on_their_way_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
