//! The writing side: objects stream into temporary files, and `commit.rs` gives them their places.
//!
//! State of an object: streaming into `_incoming` -> whole (walked to its end, synced when `durability = "full"`) ->
//! committed (renamed, directory synced, in the catalog) -> acknowledged by the caller.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dicom_object::FileMetaTableBuilder;
use tokio::sync::broadcast;

use super::catalog::Catalog;
use super::commit::Committer;
use super::filing::{Filed, Received};
use super::head::{self, Head};
use super::held;
use super::layout;
use super::moves::Moves;
use super::quota::{Quota, Share};
use super::reindex;
use super::spool::{Blocks, Spool};
use super::walk::{Syntax, Walker};
use crate::dimse::identity::{IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION};
use crate::error::{Error, Result};
use crate::names::{AeTitle, Uid, fits};
use crate::settings::{Durability, ImageSettings};

/// An object asks the disk for room again when it has grown by so much. Justification: a call of the system, nothing beside
/// the writing of as many bytes.
const LOOK_AFTER: u64 = 16 << 20;
/// And when so much more is known to come. Justification: once for an image, when the length of its pixel data is known.
const LOOK_FOR: u64 = 1 << 20;

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
    quota: Quota,
    blocks: Blocks,
    committer: Committer,
    arrived: broadcast::Sender<Arrived>,
    /// Held as long as the store lives.
    _lock: File,
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
        let full = settings.durability == Durability::Full;
        reindex::before_receiving(&mut catalog, full).map_err(|error| for_log(root, error))?;
        let quota = Quota::new(&catalog, root.clone(), settings.quota_bytes)?;
        let (arrived, _) = broadcast::channel(1024);
        Ok(Self {
            settings: settings.clone(),
            patients: patients.to_vec(),
            object_bytes_max,
            next_temporary: AtomicU64::new(0),
            quota,
            blocks: Blocks::default(),
            committer: Committer::new(catalog, full, arrived.clone()),
            arrived,
            _lock: lock,
        })
    }

    fn is_synced(&self) -> bool {
        self.settings.durability == Durability::Full
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
        self.room(0)?;
        let meta = file_meta(&announced, &uid)?;
        let mut share = self.quota.share();
        share.take(meta.len() as u64)?;
        let (temporary, mut spool) = self.temporary()?;
        spool.write(&meta, 0).map_err(|e| storage_fault(&temporary.0, e))?;
        let syntax = Syntax::from_uid(&announced.transfer_syntax_uid);
        Ok(Incoming {
            store: self,
            temporary,
            spool,
            walker: Walker::new(syntax, head::wanted),
            syntax,
            head: None,
            meta_bytes: meta.len() as u64,
            share,
            looked_at: (0, 0),
            announced,
            uid,
        })
    }

    /// A new temporary file; not one that is left of an earlier run because somebody held it.
    fn temporary(&self) -> Result<(Temporary, Spool), Refusal> {
        loop {
            let n = self.next_temporary.fetch_add(1, Ordering::Relaxed);
            let path = self.settings.root.join(layout::INCOMING).join(format!("{n}.part"));
            match Spool::create(&path, self.is_synced(), &self.blocks) {
                Ok(spool) => return Ok((Temporary(path), spool)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(storage_fault(&path, error)),
            }
        }
    }

    /// Whether the disk has room for so many bytes more.
    fn room(&self, more: u64) -> Result<(), Refusal> {
        let (root, keep) = (&self.settings.root, self.settings.keep_free_bytes);
        let free = fs4::available_space(root).map_err(|e| Refusal::Fault(Error::io(root)(e)))?;
        if free < keep.saturating_add(more) {
            return Err(Refusal::OutOfResources(format!(
                "{free} bytes free, {more} to come, images.keep_free_bytes is {keep}"
            )));
        }
        Ok(())
    }

    /// Stops after the commit that runs; what is finished later is refused.
    pub fn close(&self) {
        self.committer.close();
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
    spool: Spool,
    temporary: Temporary,
    walker: Walker,
    syntax: Syntax,
    /// Known, and admitted, from when the pixel data begin.
    head: Option<Head>,
    meta_bytes: u64,
    share: Share<'s>,
    /// Where the object was when the disk was last asked for room, and which end was known.
    looked_at: (u64, u64),
    announced: Announced,
    uid: Uid,
}

/// Removes its file when dropped, unless it was [`Temporary::filed`].
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    /// The commit gave it another name, or removed it.
    fn filed(mut self) {
        self.0.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = held::remove(&self.0);
        }
    }
}

impl Incoming<'_> {
    /// Where the next bytes of the data set may be put; never empty. [`Incoming::take`] takes them.
    pub fn room(&mut self) -> &mut [u8] {
        self.spool.room()
    }

    /// The next bytes of the data set are the first so many of [`Incoming::room`]. Blocks on the disk: call it from a thread of the
    /// association's own.
    ///
    /// # Errors
    /// A [`Refusal`]; the object is lost then, and the caller drops it.
    pub fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.grow(bytes)?;
        self.walker.push(self.spool.peek(bytes)).map_err(Refusal::CannotUnderstand)?;
        let ahead = self.walked()?;
        self.spool.fill(bytes, ahead).map_err(|e| storage_fault(&self.temporary.0, e))
    }

    /// The next bytes of the data set, wherever they lie. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Incoming::take`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.grow(bytes.len())?;
        self.walker.push(bytes).map_err(Refusal::CannotUnderstand)?;
        let ahead = self.walked()?;
        self.spool.write(bytes, ahead).map_err(|e| storage_fault(&self.temporary.0, e))
    }

    /// What the walker's last bytes told: whether the object is admitted, whether there is room; how many bytes are known to
    /// follow.
    fn walked(&mut self) -> Result<u64, Refusal> {
        // Not at the end, when the sender waits for its answer; and of an object that is refused no pixel data are written.
        if self.head.is_none()
            && let Some(values) = self.walker.before_pixel_data()
        {
            self.head = Some(admit(self.store, Head::new(values, self.syntax), &self.announced, &self.uid)?);
        }
        let ahead = self.walker.ahead();
        self.look_for_room(ahead)?;
        Ok(ahead)
    }

    /// Counts bytes that come, against the quota and the limit of one object.
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.share.take(bytes as u64)?;
        let limit = self.store.object_bytes_max;
        if self.share.bytes() > limit {
            return Err(Refusal::OutOfResources(format!("larger than node.limits.object_bytes, {limit}")));
        }
        Ok(())
    }

    /// Asks the disk for room as soon as it is known how much is to come, and now and then, since others write as well.
    fn look_for_room(&mut self, ahead: u64) -> Result<(), Refusal> {
        let (here, end) = (self.share.bytes(), self.share.bytes() + ahead);
        if here < self.looked_at.0 + LOOK_AFTER && end < self.looked_at.1 + LOOK_FOR {
            return Ok(());
        }
        self.looked_at = (here, end);
        self.store.room(ahead)
    }

    /// The data set is whole: checks it, makes it durable, files it, and returns once it is committed. Blocks on the disk.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing of the object is left then.
    pub fn finish(self) -> Result<Filed, Refusal> {
        let Self { store, temporary, spool, walker, syntax, head, meta_bytes, share, announced, uid, .. } =
            self;
        let values = walker.finish().map_err(Refusal::CannotUnderstand)?;
        let head = match head {
            Some(head) => head,
            None => admit(store, Head::new(&values, syntax), &announced, &uid)?,
        };
        // Closes the file too: Windows renames no open one.
        spool.finish(store.is_synced()).map_err(|e| storage_fault(&temporary.0, e))?;
        let received = Received {
            file: temporary.0.clone(),
            bytes: share.bytes(),
            data_set_offset: meta_bytes,
            transfer_syntax_uid: announced.transfer_syntax_uid,
            sop_class_uid: announced.sop_class_uid,
            sop_instance_uid: uid,
            head,
        };
        let filed = store.committer.commit(received)?;
        temporary.filed();
        if filed != Filed::Same {
            share.spent();
        }
        Ok(filed)
    }
}

/// Whether an object is what was announced, of a patient that the settings admit.
fn admit(store: &Store, head: Head, announced: &Announced, uid: &Uid) -> Result<Head, Refusal> {
    let class = head.sop_class_uid.as_deref().unwrap_or_default();
    if class != announced.sop_class_uid {
        // What is no UID may be anything, and this is logged.
        let found = Uid::new(class).map_or_else(|| "none".into(), |uid| uid.to_string());
        return Err(Refusal::Mismatch(format!(
            "SOP class {} announced, {found} in the data set",
            announced.sop_class_uid
        )));
    }
    let instance = head.sop_instance_uid.as_deref().unwrap_or("none");
    if instance != uid.as_str() {
        return Err(Refusal::Mismatch(format!("SOP instance {uid} announced, another in the data set")));
    }
    if !store.patients.iter().any(|p| fits(p, &head.patient_id)) {
        return Err(Refusal::PatientNotAdmitted(layout::short_hash(&head.patient_id)));
    }
    Ok(head)
}

/// Preamble, `DICM` and group 0002. Source: PS3.10 §7.1.
fn file_meta(announced: &Announced, uid: &Uid) -> Result<Vec<u8>, Refusal> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(&announced.sop_class_uid)
        .media_storage_sop_instance_uid(uid.as_str())
        .transfer_syntax(&announced.transfer_syntax_uid)
        .implementation_class_uid(IMPLEMENTATION_CLASS)
        .implementation_version_name(IMPLEMENTATION_VERSION)
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
pub(super) fn storage_fault(path: &Path, error: std::io::Error) -> Refusal {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Refusal::OutOfResources(error.to_string()),
        _ => Refusal::Fault(Error::io(path)(error)),
    }
}

/// A start's error goes to the log: without what its path tells of a patient.
fn for_log(root: &Path, error: Error) -> Error {
    match error {
        Error::Io { path, source } => Error::io(layout::for_log(root, &path))(source),
        other => other,
    }
}

/// Takes the root for this process.
pub(super) fn lock(root: &Path) -> Result<File> {
    let incoming = root.join(layout::INCOMING);
    let mut moves = Moves::default();
    moves.make(&incoming)?;
    moves.sync()?;
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
            match std::fs::remove_file(&path) {
                Ok(()) => cleared += 1,
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "what is left of an unfinished object cannot be removed now");
                }
            }
        }
    }
    if cleared > 0 {
        tracing::info!(cleared, "removed unfinished objects of an earlier run");
    }
    Ok(())
}
