//! One commit for all objects that wait: whoever finds the catalog free commits for everyone.
//!
//! An object is queued by the thread of its association, which then either commits what is queued, its own among it, or waits
//! because another thread does. So a single sender costs no hand-over between threads, and many share one transaction and one
//! sync of each directory. None is reported before the commit that holds it. After a commit the turn goes to whoever waits
//! longest, so that no association works for the others while its own sender waits.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError, mpsc};

use rusqlite::ffi;
use tokio::sync::broadcast;

use super::catalog::Catalog;
use super::filing::{self, Filed, Received};
use super::layout;
use super::reindex;
use super::store::{Arrived, Refusal, storage_fault};
use crate::error::{Error, Result, is_full};

/// Most objects in one commit. Justification: bounds how long the first of them waits.
const BATCH_MAX: usize = 64;

/// The catalog's one writer in this process.
#[derive(Debug)]
pub(super) struct Committer {
    waiting: Mutex<VecDeque<Job>>,
    /// `None` once closed.
    catalog: Mutex<Option<Catalog>>,
    full: bool,
    arrived: broadcast::Sender<Arrived>,
}

#[derive(Debug)]
struct Job {
    received: Received,
    reply: mpsc::Sender<Reply>,
}

/// What a waiting thread is told.
#[derive(Debug)]
enum Reply {
    Done(Result<Filed, Refusal>),
    /// The catalog is free, and this thread's object has waited longest.
    YourTurn,
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
        let (reply, told) = mpsc::channel();
        lock(&self.waiting).push_back(Job { received, reply });
        loop {
            self.commit_batch();
            match told.recv() {
                Ok(Reply::YourTurn) => {}
                Ok(Reply::Done(outcome)) => return outcome,
                Err(mpsc::RecvError) => return Err(Refusal::Fault(Error::Cancelled)),
            }
        }
    }

    /// Commits what waits, if the catalog is free, and passes the turn on.
    fn commit_batch(&self) {
        let catalog = match self.catalog.try_lock() {
            Ok(catalog) => catalog,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever has it passes the turn on after letting go, and what is queued by now is seen then.
            Err(TryLockError::WouldBlock) => return,
        };
        // Locals are dropped in reverse: the turn is passed on when the catalog is free again, after a panic too.
        let _next = Next(self);
        let mut catalog = catalog;
        let batch: Vec<Job> = {
            let mut waiting = lock(&self.waiting);
            let upto = waiting.len().min(BATCH_MAX);
            waiting.drain(..upto).collect()
        };
        match catalog.as_mut() {
            Some(catalog) if !batch.is_empty() => commit(catalog, batch, self.full, &self.arrived),
            // Closed: who waits is told by the drop.
            _ => drop(batch),
        }
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

/// Passes the turn on when dropped.
struct Next<'c>(&'c Committer);

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if let Some(job) = lock(&self.0.waiting).front() {
            let _ = job.reply.send(Reply::YourTurn);
        }
    }
}

/// After a panic too: the queue is whole at every step, and the next transaction undoes one that was left open.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn commit(catalog: &mut Catalog, batch: Vec<Job>, full: bool, arrived: &broadcast::Sender<Arrived>) {
    let mut outcomes = Vec::with_capacity(batch.len());
    let committed = catalog.moving(|catalog, moves| {
        for (n, job) in batch.iter().enumerate() {
            // What one of them did before it failed must not be committed with the others.
            let filed = catalog.part(moves, n == 0, |moves| filing::file(catalog, &job.received, moves));
            if catalog.gave_up() {
                // The rows of all are lost, and each sender is told why.
                return filed.map(|_| ());
            }
            outcomes.push(filed);
        }
        if full { moves.sync() } else { Ok(()) }
    });
    if let Err(error) = &committed {
        let error = copy(catalog.root(), error);
        tracing::error!(%error, objects = batch.len(), "a commit failed; none of its objects was acknowledged");
    }
    outcomes.resize_with(batch.len(), || Err(Error::Cancelled));
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        let outcome = match (&committed, outcome) {
            (Ok(()), Ok(filed)) => Ok(filed),
            (Ok(()), Err(error)) => Err(refusal(catalog.root(), &error)),
            (Err(error), _) => Err(refusal(catalog.root(), error)),
        };
        if let Ok(Filed::New { session, labelled, .. }) = &outcome {
            let head = &job.received.head;
            let plan = head.plan_uid.clone().filter(|_| !labelled);
            let unresolved = plan.map(|plan| (plan, head.patient_id.clone()));
            let _ = arrived.send(Arrived { session: *session, unresolved });
        }
        if let Ok(Filed::Kept { path }) = &outcome {
            let kept = path.file_name().unwrap_or_default().to_string_lossy();
            tracing::warn!(uid = %job.received.sop_instance_uid, %kept, "an instance came again with other bytes; both are kept");
        }
        let _ = job.reply.send(Reply::Done(outcome));
    }
}

fn refusal(root: &Path, error: &Error) -> Refusal {
    match error {
        Error::Io { path, source } => storage_fault(&layout::for_log(root, path), same_kind(source)),
        Error::Catalog { path, source } if is_full(path, source) => {
            Refusal::OutOfResources("the catalog's disk is full".into())
        }
        other => Refusal::Fault(copy(root, other)),
    }
}

/// One error may concern a whole batch, so it is copied by its kind; for logs, so without what its path tells of a patient.
fn copy(root: &Path, error: &Error) -> Error {
    match error {
        Error::Io { path, source } => Error::io(layout::for_log(root, path))(same_kind(source)),
        Error::Catalog { path, source } => {
            // What is no failure of SQLite's, such as a value of another type, has its text only.
            let code = source.sqlite_error().copied().unwrap_or_else(|| ffi::Error::new(ffi::SQLITE_ERROR));
            let source = rusqlite::Error::SqliteFailure(code, Some(source.to_string()));
            Error::Catalog { path: path.clone(), source }
        }
        Error::Cancelled => Error::Cancelled,
        other => Error::Misuse { what: other.to_string(), hint: other.hint() },
    }
}

fn same_kind(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::images::SessionFilter;
    use crate::images::head::{Head, RT_IMAGE, RT_PLAN};
    use crate::images::walk::{Path as At, Syntax};
    use crate::names::Uid;

    const IMPLICIT: &str = dicom_dictionary_std::uids::IMPLICIT_VR_LITTLE_ENDIAN;

    /// A whole object in a temporary file, as an association hands it over.
    fn received(root: &Path, class: &str, uid: &str, values: &[(u32, u32, &str)]) -> Received {
        let file = root.join(layout::INCOMING).join(format!("{uid}.part"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, uid).unwrap();
        let mut all = vec![(0, 0x0008_0016, class), (0, 0x0008_0018, uid), (0, 0x0010_0020, "QA_WL")];
        all.extend(values);
        let values =
            all.into_iter().map(|(parent, tag, v)| (At { parent, tag }, v.as_bytes().to_vec())).collect();
        Received {
            file,
            bytes: uid.len() as u64,
            data_set_offset: 0,
            transfer_syntax_uid: IMPLICIT.into(),
            sop_class_uid: class.into(),
            sop_instance_uid: Uid::new(uid).unwrap(),
            head: Head::new(&values, Syntax::from_uid(IMPLICIT)),
        }
    }

    fn image(root: &Path, uid: &str) -> Received {
        received(root, RT_IMAGE, uid, &[(0, 0x0020_000E, "1.2.5"), (0x300C_0002, 0x0008_1155, "1.2.9.1")])
    }

    fn committer(root: &Path) -> Arc<Committer> {
        Arc::new(Committer::new(Catalog::open(root).unwrap(), true, broadcast::channel(64).0))
    }

    /// Queues them while the catalog is held, so that one commit takes all; their outcomes.
    fn together(committer: &Arc<Committer>, objects: Vec<Received>) -> Vec<Result<Filed, Refusal>> {
        let held = committer.catalog.lock().unwrap();
        let threads: Vec<_> = objects
            .into_iter()
            .map(|received| {
                let (other, queued) = (Arc::clone(committer), lock(&committer.waiting).len());
                let thread = std::thread::spawn(move || other.commit(received));
                while lock(&committer.waiting).len() == queued {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        drop(held);
        // Nobody was told that the catalog is free: as after any commit, the first one is.
        drop(Next(committer));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    fn rows(root: &Path) -> Vec<PathBuf> {
        let catalog = Catalog::open_readonly(root).unwrap();
        let sessions = catalog.sessions(&SessionFilter::default()).unwrap();
        sessions.iter().flat_map(|s| catalog.instances(s).unwrap()).map(|i| i.path).collect()
    }

    #[test]
    fn an_image_and_the_plan_that_names_its_directory_may_share_a_commit() {
        let root = tempfile::tempdir().unwrap();
        let committer = committer(root.path());
        let plan = received(root.path(), RT_PLAN, "1.2.9.1", &[(0, 0x300A_0002, "WL")]);
        let objects = vec![image(root.path(), "1.2.3.1"), plan, image(root.path(), "1.2.3.2")];
        for outcome in together(&committer, objects) {
            assert!(matches!(outcome, Ok(Filed::New { .. })), "{outcome:?}");
        }
        let rows = rows(root.path());
        assert_eq!(rows.len(), 2);
        for path in rows {
            assert!(path.exists() && path.starts_with(root.path().join("QA_WL/WL")), "{}", path.display());
        }
    }

    #[test]
    fn an_object_that_fails_leaves_the_others_of_its_commit_alone() {
        let root = tempfile::tempdir().unwrap();
        let committer = committer(root.path());
        let gone = image(root.path(), "1.2.3.2");
        std::fs::remove_file(&gone.file).unwrap();
        let objects = vec![image(root.path(), "1.2.3.1"), gone, image(root.path(), "1.2.3.3")];
        let outcomes = together(&committer, objects);
        assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(rows(root.path()).iter().filter(|path| path.exists()).count(), 2);
        assert_eq!(rows(root.path()).len(), 2);
    }

    #[test]
    fn a_catalog_that_finds_no_room_refuses_all_objects_of_its_commit_and_says_why() {
        let root = tempfile::tempdir().unwrap();
        let committer = committer(root.path());
        let limit = |pages: u32| {
            let catalog = committer.catalog.lock().unwrap();
            let set = format!("PRAGMA max_page_count = {pages}");
            catalog.as_ref().unwrap().connection().query_row(&set, [], |_| Ok(())).unwrap();
        };
        // No less than there are.
        limit(1);
        let objects = || (0..BATCH_MAX).map(|n| image(root.path(), &format!("1.2.3.{n}"))).collect();
        for outcome in together(&committer, objects()) {
            assert!(matches!(outcome, Err(Refusal::OutOfResources(_))), "{outcome:?}");
        }
        assert!(rows(root.path()).is_empty());
        let incoming = std::fs::read_dir(root.path().join(layout::INCOMING)).unwrap();
        assert_eq!(incoming.count(), BATCH_MAX, "what was moved already is taken back");
        limit(u32::MAX - 1);
        assert!(together(&committer, objects()).iter().all(Result::is_ok));
    }

    #[test]
    fn a_commits_error_keeps_its_blame_and_tells_no_patient() {
        let root = Path::new("/images");
        let failed = |code| Error::Catalog {
            path: root.join("_catalog/catalog.sqlite"),
            source: rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("what it said".into())),
        };
        let refused = refusal(root, &failed(ffi::SQLITE_CORRUPT));
        let Refusal::Fault(copied @ Error::Catalog { .. }) = &refused else { panic!("{refused:?}") };
        let original = failed(ffi::SQLITE_CORRUPT);
        assert_eq!(
            (copied.to_string(), copied.hint(), copied.kind()),
            (original.to_string(), original.hint(), original.kind())
        );
        assert!(matches!(refusal(root, &failed(ffi::SQLITE_FULL)), Refusal::OutOfResources(_)));
        use std::io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, StorageFull};
        for (kind, is_full) in
            [(StorageFull, true), (QuotaExceeded, true), (FileTooLarge, true), (PermissionDenied, false)]
        {
            let refused = refusal(root, &Error::io(root.join("PATIENT/WL"))(kind.into()));
            assert_eq!(matches!(refused, Refusal::OutOfResources(_)), is_full, "{kind}: {refused:?}");
            assert!(!refused.to_string().contains("PATIENT"), "{refused}");
        }
    }

    #[test]
    fn more_objects_than_one_commit_takes_are_all_filed_in_turns() {
        let root = tempfile::tempdir().unwrap();
        let committer = committer(root.path());
        let objects = (0..3 * BATCH_MAX).map(|n| image(root.path(), &format!("1.2.3.{n}"))).collect();
        let outcomes = together(&committer, objects);
        assert!(outcomes.iter().all(Result::is_ok));
        // Three commits of a whole batch each; nobody is left waiting.
        assert!(lock(&committer.waiting).is_empty());
        assert_eq!(rows(root.path()).len(), 3 * BATCH_MAX);
    }

    #[test]
    fn whoever_is_queued_while_the_catalog_closes_is_refused_and_does_not_wait_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let committer = committer(root.path());
        let (told, outcome) = mpsc::channel();
        let held = committer.catalog.lock().unwrap();
        let (other, object) = (Arc::clone(&committer), image(root.path(), "1.2.3.4"));
        std::thread::spawn(move || told.send(other.commit(object)));
        while lock(&committer.waiting).is_empty() {
            std::thread::yield_now();
        }
        drop(held);
        committer.close();
        assert!(outcome.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    }
}
