//! One commit for all objects that wait: whoever finds the catalog free commits for everyone.
//!
//! An object is queued by the thread of its association, which then either commits what is queued, its own among it, or waits
//! because another thread does. So a single sender costs no hand-over between threads, and many share one transaction and one
//! sync of each directory. None is reported before the commit that holds it.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError, mpsc};

use tokio::sync::broadcast;

use super::catalog::Catalog;
use super::filing::{self, Dirty, Filed, Received};
use super::reindex;
use super::store::{Arrived, Refusal};
use crate::error::{Error, Result};
use crate::names::Uid;

/// Most objects in one commit. Justification: bounds how long the first of them waits.
const BATCH_MAX: usize = 64;

/// The catalog's one writer in this process.
#[derive(Debug)]
pub(super) struct Committer {
    waiting: Mutex<Vec<Job>>,
    /// `None` once closed.
    catalog: Mutex<Option<Catalog>>,
    full: bool,
    arrived: broadcast::Sender<Arrived>,
}

#[derive(Debug)]
struct Job {
    received: Received,
    reply: mpsc::SyncSender<Result<Filed, Refusal>>,
}

impl Committer {
    /// # Arguments
    /// * `full` — whether directories are synced before anything is reported
    /// * `arrived` — hears of every new object after its commit
    pub(super) fn new(catalog: Catalog, full: bool, arrived: broadcast::Sender<Arrived>) -> Self {
        Self { waiting: Mutex::default(), catalog: Mutex::new(Some(catalog)), full, arrived }
    }

    /// Files one object and returns once it is committed. Blocks.
    ///
    /// # Errors
    /// A [`Refusal`]; the object is not visible then.
    pub(super) fn commit(&self, received: Received) -> Result<Filed, Refusal> {
        let (reply, outcome) = mpsc::sync_channel(1);
        lock(&self.waiting).push(Job { received, reply });
        // Whoever holds the catalog looks at the queue once more after letting go, so nothing queued here is forgotten.
        while !lock(&self.waiting).is_empty() {
            let mut catalog = match self.catalog.try_lock() {
                Ok(catalog) => catalog,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => break,
            };
            let batch = {
                let mut waiting = lock(&self.waiting);
                let upto = waiting.len().min(BATCH_MAX);
                waiting.drain(..upto).collect()
            };
            match catalog.as_mut() {
                Some(catalog) => commit(catalog, batch, self.full, &self.arrived),
                None => drop::<Vec<Job>>(batch),
            }
        }
        outcome.recv().unwrap_or(Err(Refusal::Fault(Error::Cancelled)))
    }

    /// Waits for the commit that runs, and stops: what is committed later is refused.
    pub(super) fn close(&self) {
        let catalog = lock(&self.catalog).take();
        // Who was queued while the catalog was held here waits for nobody.
        lock(&self.waiting).clear();
        let Some(catalog) = catalog else { return };
        if let Err(error) = reindex::closed(&catalog) {
            tracing::warn!(%error, "the catalog could not be closed in order; the next start looks for unknown files");
        }
    }
}

/// After a panic too: the queue is whole at every step, and the next transaction undoes one that was left open.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn commit(catalog: &mut Catalog, batch: Vec<Job>, full: bool, arrived: &broadcast::Sender<Arrived>) {
    let mut outcomes = Vec::with_capacity(batch.len());
    let committed = catalog.transaction(|catalog| {
        let mut dirty = Dirty::default();
        for job in &batch {
            outcomes.push(filing::file(catalog, &job.received, &mut dirty));
        }
        if full { dirty.sync() } else { Ok(()) }
    });
    if let Err(error) = &committed {
        tracing::error!(%error, objects = batch.len(), "a commit failed; none of its objects was acknowledged");
        // The rows are rolled back; the files must go as well, or they would be visible without being acknowledged.
        for outcome in &outcomes {
            if let Ok(Filed::New { path, .. }) = outcome {
                let _ = std::fs::remove_file(path);
            }
        }
    }
    outcomes.resize_with(batch.len(), || Err(Error::Cancelled));
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        let outcome = match (&committed, outcome) {
            (Ok(()), Ok(filed)) => Ok(filed),
            (Ok(()), Err(error)) => Err(refusal(&error)),
            (Err(error), _) => Err(refusal(error)),
        };
        if let Ok(Filed::New { session, .. }) = &outcome {
            let unresolved = unresolved(catalog, &job.received);
            let _ = arrived.send(Arrived { session: *session, unresolved });
        }
        if let Ok(Filed::Kept { path }) = &outcome {
            let kept = path.file_name().unwrap_or_default().to_string_lossy();
            tracing::warn!(uid = %job.received.sop_instance_uid, %kept, "an instance came again with other bytes; both are kept");
        }
        let _ = job.reply.send(outcome);
    }
}

fn unresolved(catalog: &Catalog, received: &Received) -> Option<(Uid, String)> {
    let plan = received.head.plan_uid.as_ref()?;
    match catalog.plan(plan) {
        Ok(None) => Some((plan.clone(), received.head.patient_id.clone())),
        _ => None,
    }
}

/// One error may concern a whole batch, so it is copied by its kind.
fn refusal(error: &Error) -> Refusal {
    let full = |kind| matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    match error {
        Error::Io { source, .. } if full(source.kind()) => Refusal::OutOfResources(source.to_string()),
        Error::Catalog { source: rusqlite::Error::SqliteFailure(e, _), .. }
            if e.code == rusqlite::ErrorCode::DiskFull =>
        {
            Refusal::OutOfResources("the catalog's disk is full".into())
        }
        Error::Io { path, source } => Refusal::Fault(Error::Io {
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        }),
        other => Refusal::Fault(Error::Misuse { what: other.to_string(), hint: other.hint() }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::images::head::Head;
    use crate::images::walk::Syntax;

    #[test]
    fn whoever_is_queued_while_the_catalog_closes_is_refused_and_does_not_wait_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let committer = Committer::new(Catalog::open(root.path()).unwrap(), false, broadcast::channel(1).0);
        let (told, outcome) = mpsc::channel();
        let committer = std::sync::Arc::new(committer);
        let held = committer.catalog.lock().unwrap();
        let other = committer.clone();
        let received = Received {
            file: root.path().join("none"),
            bytes: 0,
            data_set_offset: 0,
            transfer_syntax_uid: "1.2.840.10008.1.2".into(),
            sop_class_uid: "1.2.3".into(),
            sop_instance_uid: Uid::new("1.2.3.4").unwrap(),
            head: Head::new(&BTreeMap::new(), Syntax::from_uid("1.2.840.10008.1.2")),
        };
        std::thread::spawn(move || told.send(other.commit(received)));
        while lock(&committer.waiting).is_empty() {
            std::thread::yield_now();
        }
        drop(held);
        committer.close();
        assert!(outcome.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    }
}
