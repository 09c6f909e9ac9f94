//! The writing side: objects stream into temporary files, and one thread gives them their places.
//!
//! State of an object: streaming into `_incoming` -> whole (walked to its end, synced when `durability = "full"`) ->
//! committed (renamed, directory synced, in the catalog) -> acknowledged by the caller. The committer takes all objects
//! that wait and commits them together; none is reported before the commit that holds it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use dicom_object::FileMetaTableBuilder;
use tokio::sync::{broadcast, oneshot};

use super::catalog::Catalog;
use super::filing::{self, Dirty, Filed, Received};
use super::head::{self, Head};
use super::layout;
use super::reindex;
use super::walk::{Syntax, Walker};
use crate::error::{Error, Result};
use crate::names::{AeTitle, Uid, fits};
use crate::settings::{Durability, ImageSettings};

/// Most objects in one commit. Justification: bounds how long the first of them waits.
const BATCH_MAX: usize = 64;

/// Why an object is not taken; [`crate::scp`] turns each into its status.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Disk, quota, or the size limit of one object.
    #[error("out of resources: {0}")]
    OutOfResources(String),
    /// Class or instance in the data set differ from the command's.
    #[error("data set does not match: {0}")]
    Mismatch(String),
    /// The bytes are no data set in this transfer syntax, or end too early.
    #[error("cannot understand: {0}")]
    CannotUnderstand(Error),
    /// The SOP Instance UID is none.
    #[error("invalid SOP Instance UID")]
    InvalidInstance,
    /// The settings do not admit this patient.
    #[error("patient {0} is not admitted by node.access.patients")]
    PatientNotAdmitted(String),
    /// The settings do not admit this SOP class.
    #[error("SOP class {0} is not taken")]
    ClassNotTaken(String),
    /// A fault of ours.
    #[error("{0}")]
    Fault(Error),
}

/// What a C-STORE request says of its object.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Affected SOP Class UID.
    pub sop_class_uid: String,
    /// Affected SOP Instance UID, as sent.
    pub sop_instance_uid: String,
    /// Of the presentation context.
    pub transfer_syntax_uid: String,
    /// Who sends.
    pub calling_ae: AeTitle,
}

/// Told to whoever subscribed, after the commit.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Row id of the session.
    pub session: i64,
    /// Plan that has no label yet, and its patient.
    pub unresolved: Option<(Uid, String)>,
}

/// The writing side of one root; at most one per root exists on the machine.
#[derive(Debug)]
pub struct Store {
    settings: ImageSettings,
    patients: Vec<String>,
    object_bytes_max: u64,
    next_temporary: AtomicU64,
    /// Bytes of all objects, kept only when there is a quota.
    total_bytes: AtomicU64,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    arrived: broadcast::Sender<Arrived>,
    /// Held as long as the store lives.
    _lock: File,
}

#[derive(Debug)]
struct Job {
    received: Received,
    reply: oneshot::Sender<Result<Filed, Refusal>>,
}

impl Store {
    /// Opens the root: takes the receiver's lock, clears what a crash left, migrates, and reads what the catalog missed.
    ///
    /// # Arguments
    /// * `patients` — patterns of patient IDs that are admitted
    /// * `object_bytes_max` — largest object
    /// # Errors
    /// [`Error::Misuse`] when another receiver has this root; [`Error::Io`], [`Error::Catalog`].
    pub fn open(settings: &ImageSettings, patients: &[String], object_bytes_max: u64) -> Result<Self> {
        let root = &settings.root;
        let lock = lock(root)?;
        clear_incoming(root)?;
        let mut catalog = Catalog::open(root)?;
        reindex::after_crash(&mut catalog)?;
        let total = if settings.quota_bytes > 0 { catalog.total_bytes()? } else { 0 };
        let (jobs, queue) = mpsc::channel();
        let (arrived, _) = broadcast::channel(1024);
        let (full, announce) = (settings.durability == Durability::Full, arrived.clone());
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || commit_all(catalog, &queue, full, &announce))
            .map_err(Error::io(root))?;
        Ok(Self {
            settings: settings.clone(),
            patients: patients.to_vec(),
            object_bytes_max,
            next_temporary: AtomicU64::new(0),
            total_bytes: AtomicU64::new(total),
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            arrived,
            _lock: lock,
        })
    }

    /// Hears of every object after its commit.
    pub fn subscribe(&self) -> broadcast::Receiver<Arrived> {
        self.arrived.subscribe()
    }

    /// Begins an object.
    ///
    /// # Errors
    /// A [`Refusal`] when it cannot be taken; the caller then reads and drops its data set.
    pub fn begin(&self, announced: Announced) -> Result<Incoming<'_>, Refusal> {
        let uid = Uid::new(&announced.sop_instance_uid).ok_or(Refusal::InvalidInstance)?;
        self.room()?;
        let n = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.settings.root.join(layout::INCOMING).join(format!("{n}.part"));
        let mut file = File::create_new(&path).map_err(|e| storage_fault(&path, e))?;
        let meta = file_meta(&announced, &uid)?;
        file.write_all(&meta).map_err(|e| storage_fault(&path, e))?;
        let syntax = Syntax::from_uid(&announced.transfer_syntax_uid);
        Ok(Incoming {
            store: self,
            temporary: Temporary(path),
            file,
            walker: Walker::new(syntax, head::wanted),
            syntax,
            meta_bytes: meta.len() as u64,
            bytes: meta.len() as u64,
            announced,
            uid,
        })
    }

    /// Whether there is room at all.
    fn room(&self) -> Result<(), Refusal> {
        let (root, keep) = (&self.settings.root, self.settings.keep_free_bytes);
        let free = fs4::available_space(root).map_err(|e| Refusal::Fault(Error::io(root)(e)))?;
        if free < keep {
            return Err(Refusal::OutOfResources(format!(
                "{free} bytes free, images.keep_free_bytes is {keep}"
            )));
        }
        self.quota(0)
    }

    /// Whether the quota has room for so many bytes more.
    fn quota(&self, more: u64) -> Result<(), Refusal> {
        let (total, quota) = (self.total_bytes.load(Ordering::Relaxed), self.settings.quota_bytes);
        if quota > 0 && total.saturating_add(more) > quota {
            return Err(Refusal::OutOfResources(format!(
                "{total} bytes stored, images.quota_bytes is {quota}"
            )));
        }
        Ok(())
    }

    /// Commits what waits and stops; what is begun later is refused.
    pub fn close(&self) {
        let jobs = self.jobs.lock().map(|mut j| j.take());
        drop(jobs);
        let thread = self.thread.lock().ok().and_then(|mut t| t.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn submit(&self, job: Job) -> Result<(), Refusal> {
        let jobs = self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sent = jobs.as_ref().is_some_and(|j| j.send(job).is_ok());
        if sent { Ok(()) } else { Err(Refusal::Fault(Error::Cancelled)) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// An object on its way in. Dropped before [`Incoming::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming<'s> {
    store: &'s Store,
    temporary: Temporary,
    file: File,
    walker: Walker,
    syntax: Syntax,
    meta_bytes: u64,
    bytes: u64,
    announced: Announced,
    uid: Uid,
}

/// Removes its file when dropped; after a rename there is nothing to remove.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Incoming<'_> {
    /// The next bytes of the data set. Blocks on the disk: call it from a thread of the association's own.
    ///
    /// # Errors
    /// A [`Refusal`]; the object is lost then, and the caller drops it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.store.object_bytes_max {
            let limit = self.store.object_bytes_max;
            return Err(Refusal::OutOfResources(format!("larger than node.limits.object_bytes, {limit}")));
        }
        self.store.quota(self.bytes)?;
        self.walker.push(bytes).map_err(Refusal::CannotUnderstand)?;
        self.file.write_all(bytes).map_err(|e| storage_fault(&self.temporary.0, e))
    }

    /// The data set is whole: checks it, makes it durable, files it, and returns once it is committed.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing of the object is left then.
    pub async fn finish(self) -> Result<Filed, Refusal> {
        let Self { store, temporary, file, walker, syntax, meta_bytes, bytes, announced, uid } = self;
        let head = Head::new(&walker.finish().map_err(Refusal::CannotUnderstand)?, syntax);
        check(&head, &announced, &uid)?;
        if !store.patients.iter().any(|p| fits(p, &head.patient_id)) {
            return Err(Refusal::PatientNotAdmitted(layout::short_hash(&head.patient_id)));
        }
        if store.settings.durability == Durability::Full {
            file.sync_all().map_err(|e| storage_fault(&temporary.0, e))?;
        }
        // Windows renames no open file.
        drop(file);
        let received = Received {
            file: temporary.0.clone(),
            bytes,
            data_set_offset: meta_bytes,
            transfer_syntax_uid: announced.transfer_syntax_uid,
            sop_class_uid: announced.sop_class_uid,
            sop_instance_uid: uid,
            head,
        };
        let (reply, answer) = oneshot::channel();
        store.submit(Job { received, reply })?;
        let filed = answer.await.unwrap_or(Err(Refusal::Fault(Error::Cancelled)))?;
        if matches!(filed, Filed::New { .. }) {
            store.total_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(filed)
    }
}

fn check(head: &Head, announced: &Announced, uid: &Uid) -> Result<(), Refusal> {
    let class = head.sop_class_uid.as_deref().unwrap_or("none");
    if class != announced.sop_class_uid {
        return Err(Refusal::Mismatch(format!(
            "SOP class {} announced, {class} in the data set",
            announced.sop_class_uid
        )));
    }
    let instance = head.sop_instance_uid.as_deref().unwrap_or("none");
    if instance != uid.as_str() {
        return Err(Refusal::Mismatch(format!("SOP instance {uid} announced, another in the data set")));
    }
    Ok(())
}

/// Preamble, `DICM` and group 0002. Source: PS3.10 §7.1.
fn file_meta(announced: &Announced, uid: &Uid) -> Result<Vec<u8>, Refusal> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(&announced.sop_class_uid)
        .media_storage_sop_instance_uid(uid.as_str())
        .transfer_syntax(&announced.transfer_syntax_uid)
        .source_application_entity_title(announced.calling_ae.as_str())
        .build();
    let fault = |e: String| {
        Refusal::CannotUnderstand(Error::Malformed {
            section: "file meta information",
            offset: None,
            expected: "legal UIDs in the command and the presentation context".into(),
            found: e,
        })
    };
    let meta = meta.map_err(|e| fault(e.to_string()))?;
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM");
    meta.write(&mut bytes).map_err(|e| fault(e.to_string()))?;
    Ok(bytes)
}

/// A full disk is the sender's business to retry; all else is ours.
fn storage_fault(path: &Path, error: std::io::Error) -> Refusal {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Refusal::OutOfResources(error.to_string()),
        _ => Refusal::Fault(Error::io(path)(error)),
    }
}

/// Takes the root for this process.
pub(super) fn lock(root: &Path) -> Result<File> {
    let incoming = root.join(layout::INCOMING);
    std::fs::create_dir_all(&incoming).map_err(Error::io(&incoming))?;
    let path = incoming.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Misuse {
            what: format!("another receiver files into {}", root.display()),
            hint: "stop the other one, or set another images.root".into(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io(&path)(error)),
    }
}

/// Removes what was on its way in when the last receiver died.
fn clear_incoming(root: &Path) -> Result<()> {
    let directory = root.join(layout::INCOMING);
    let mut cleared = 0;
    for entry in std::fs::read_dir(&directory).map_err(Error::io(&directory))? {
        let path = entry.map_err(Error::io(&directory))?.path();
        if path.extension().is_some_and(|e| e == "part") {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
            cleared += 1;
        }
    }
    if cleared > 0 {
        tracing::info!(cleared, "removed unfinished objects of an earlier run");
    }
    Ok(())
}

/// The committer's thread: ends when the store is closed.
fn commit_all(
    mut catalog: Catalog,
    queue: &mpsc::Receiver<Job>,
    full: bool,
    arrived: &broadcast::Sender<Arrived>,
) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            match queue.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        commit(&mut catalog, batch, full, arrived);
    }
    if let Err(error) = reindex::closed(&catalog) {
        tracing::warn!(%error, "the catalog could not be closed in order; the next start looks for unknown files");
    }
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
