//! Gives an object its place: the rename and the row, together, under the catalog's write lock.
//!
//! Every function here runs inside `Catalog::moving`, so that of all processes one at a time moves files, and what fails
//! leaves neither rows nor files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::head::{Head, RT_IMAGE};
use super::held;
use super::labels;
use super::layout::{self, SessionKey};
use super::moves::Moves;
use super::reindex;
use super::rows::{TIME_FORMAT, beam_text};
use crate::error::{Error, Result};
use crate::names::Uid;

/// A whole object in a temporary file of the root's file system.
#[derive(Debug)]
pub struct Received {
    /// The file, meta information and data set.
    pub file: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// Where in the file the data set begins.
    pub data_set_offset: u64,
    /// (0002,0010)
    pub transfer_syntax_uid: String,
    /// (0002,0002)
    pub sop_class_uid: String,
    /// (0002,0003), checked.
    pub sop_instance_uid: Uid,
    /// What the data set says.
    pub head: Head,
}

/// Where an object went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filed {
    /// Under its final name; the session's row id.
    New {
        /// The session.
        session: i64,
        /// Absolute path.
        path: PathBuf,
        /// Whether the label of its plan was known.
        labelled: bool,
    },
    /// The same bytes were there already; nothing was written.
    Same,
    /// Another object with this UID was there; this one was kept beside.
    Kept {
        /// Absolute path.
        path: PathBuf,
    },
}

/// Files one received object.
pub(super) fn file(catalog: &Catalog, received: &Received, moves: &mut Moves) -> Result<Filed> {
    if let Some(entered) = catalog.entered(&received.sop_instance_uid)? {
        let path = &entered.path;
        if entered.is_there().map_err(Error::io(path))? {
            let same_syntax = entered.transfer_syntax_uid == received.transfer_syntax_uid;
            if !same_syntax || !same_data_set(received, path)? {
                return keep(catalog, received, path, moves);
            }
            discard(received);
            if received.head.is_plan() {
                labels::resolve_waiting(catalog, &received.sop_instance_uid, moves)?;
            }
            return Ok(Filed::Same);
        }
        // The row goes too, and the object is filed anew.
        forget(catalog, &received.sop_instance_uid)?;
    }
    let Place { session, directory: below, labelled, .. } =
        place(catalog, received, known(catalog, received, moves)?, None)?;
    let directory = catalog.root().join(&below);
    let path = directory.join(layout::file_name(prefix(&received.head), &received.sop_instance_uid));
    // Not in the catalog, yet there: a crash left it, or a power cut half of it.
    let is_there = path.try_exists().map_err(Error::io(&path))?;
    let there = is_there.then(|| reindex::read(&path, received.sop_instance_uid.clone()));
    match there {
        Some(Ok(_)) if same_data_set(received, &path)? => {
            discard(received);
            moves.entries(catalog.root(), &path);
        }
        Some(Ok(there)) => {
            enter(catalog, &there, &below, moves)?;
            forget_if_empty(catalog, session)?;
            moves.entries(catalog.root(), &path);
            return keep(catalog, received, &path, moves);
        }
        Some(Err(error @ Error::Io { .. })) => return Err(error),
        Some(Err(_)) => {
            set_aside(catalog, &received.sop_instance_uid, &path, moves)?;
            moves.rename(&received.file, &path)?;
        }
        None => moves.rename(&received.file, &path)?,
    }
    insert(catalog, received, session)?;
    labels::learn_from_plan(catalog, received, moves)?;
    Ok(Filed::New { session, path, labelled })
}

/// Removes the row of a session that got no object after all.
fn forget_if_empty(catalog: &Catalog, session: i64) -> Result<()> {
    catalog
        .connection()
        .execute(
            "DELETE FROM sessions WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM instances WHERE session_id = ?1)",
            [session],
        )
        .map(|_| ())
        .map_err(|e| catalog.error(e))
}

/// Enters an object that lies at its final place already: what a reindex does. Only where the others of its session lie in another
/// directory it joins them, since the row of a session tells one.
pub(super) fn enter(
    catalog: &Catalog,
    received: &Received,
    directory: &Path,
    moves: &mut Moves,
) -> Result<()> {
    let place = place(catalog, received, Key::of(received).find(catalog)?, Some(directory))?;
    if place.directory != directory {
        let name = layout::file_name(prefix(&received.head), &received.sop_instance_uid);
        let to = catalog.root().join(&place.directory).join(name);
        if to.exists() {
            set_aside(catalog, &received.sop_instance_uid, &to, moves)?;
        }
        moves.rename(&received.file, &to)?;
    }
    insert(catalog, received, place.session)
}

fn prefix(head: &Head) -> &'static str {
    if head.is_plan() {
        return "RP";
    }
    match head.modality.as_deref() {
        _ if head.sop_class_uid.as_deref() == Some(RT_IMAGE) => "RI",
        Some("RTDOSE") => "RD",
        Some("RTSTRUCT") => "RS",
        Some("CT") => "CT",
        _ => "DCM",
    }
}

/// Removes the row of an instance whose file is not what it was, and that of its session when it was the last one.
pub(super) fn forget(catalog: &Catalog, uid: &Uid) -> Result<()> {
    let forget = || {
        let c = &catalog.connection();
        let session = c
            .prepare_cached("DELETE FROM instances WHERE sop_instance_uid = ?1 RETURNING session_id")?
            .query_row([uid.as_str()], |row| row.get(0))
            .optional()?;
        Ok(session)
    };
    match forget().map_err(|e| catalog.error(e))? {
        Some(session) => forget_if_empty(catalog, session),
        None => Ok(()),
    }
}

/// Where an object belongs.
struct Place {
    /// Row id.
    session: i64,
    /// Below the root.
    directory: PathBuf,
    labelled: bool,
    /// Its plan's label is known, and it lies where sessions without one do.
    is_to_move: bool,
}

/// What makes two objects lie in one session.
struct Key<'r> {
    kind: &'static str,
    patient_id: &'r str,
    plan_uid: Option<&'r Uid>,
    series: &'r str,
    date: String,
}

/// A session that has a row, and when it began.
type Known = Option<(Place, Option<String>)>;

impl<'r> Key<'r> {
    fn of(received: &'r Received) -> Self {
        let head = &received.head;
        let is_plan = head.is_plan();
        Self {
            kind: if is_plan { "plan" } else { "images" },
            patient_id: &head.patient_id,
            plan_uid: if is_plan { Some(&received.sop_instance_uid) } else { head.plan_uid.as_ref() },
            series: head.series_uid.as_deref().unwrap_or_default(),
            date: head.date.filter(|_| !is_plan).map(|d| d.to_string()).unwrap_or_default(),
        }
    }

    /// The plan's UID as rows hold it.
    fn plan(&self) -> &'r str {
        self.plan_uid.map(Uid::as_str).unwrap_or_default()
    }

    fn find(&self, catalog: &Catalog) -> Result<Known> {
        catalog
            .connection()
            .prepare_cached(
                "SELECT id, directory, acquired, plan_label IS NOT NULL,
                     plan_label IS NULL AND EXISTS (SELECT 1 FROM plans WHERE plans.plan_uid = ?2) FROM sessions
                 WHERE patient_id = ?1 AND plan_uid = ?2 AND series_uid = ?3 AND date = ?4 AND kind = ?5",
            )
            .and_then(|mut s| {
                s.query_row(params![self.patient_id, self.plan(), self.series, self.date, self.kind], |r| {
                    let directory = layout::native(&r.get::<_, String>(1)?);
                    let (session, labelled, is_to_move) = (r.get(0)?, r.get(3)?, r.get(4)?);
                    let place = Place { session, directory, labelled, is_to_move };
                    Ok((place, r.get::<_, Option<String>>(2)?))
                })
                .optional()
            })
            .map_err(|e| catalog.error(e))
    }
}

/// The session that a new object joins, at its place: its directory may have been held when its plan's label was told, or
/// renamed by a process that did not live to say so in the row.
fn known(catalog: &Catalog, received: &Received, moves: &mut Moves) -> Result<Known> {
    let key = Key::of(received);
    match (key.find(catalog)?, key.plan_uid) {
        (Some((Place { is_to_move: true, .. }, _)), Some(plan)) => {
            labels::resolve_waiting(catalog, plan, moves)?;
            key.find(catalog)
        }
        (known, _) => Ok(known),
    }
}

/// The session's row and its directory; made when it is new.
fn place(catalog: &Catalog, received: &Received, known: Known, at: Option<&Path>) -> Result<Place> {
    let head = &received.head;
    let is_plan = head.is_plan();
    let key = Key::of(received);
    let acquired = head.acquired().filter(|_| !is_plan).map(|t| t.format(TIME_FORMAT).to_string());
    if let Some((place, began)) = known {
        // A session begins with its first image, which need not come first.
        if acquired.is_some() && (began.is_none() || acquired < began) {
            catalog
                .connection()
                .prepare_cached("UPDATE sessions SET acquired = ?2 WHERE id = ?1")
                .and_then(|mut s| s.execute(params![place.session, acquired]))
                .map_err(|e| catalog.error(e))?;
        }
        return Ok(place);
    }
    let label = match (is_plan, key.plan_uid, at) {
        (true, ..) => head.plan_label.clone(),
        (false, None, _) => None,
        (false, Some(uid), None) => catalog.plan(uid)?.map(|plan| plan.label),
        (false, Some(uid), Some(directory)) => label_at(catalog, directory, uid)?,
    };
    let directory = match at {
        Some(directory) => directory.to_path_buf(),
        None if is_plan => layout::plan_directory(&head.patient_id, label.as_deref()),
        None => free_directory(catalog, head, label.as_deref())?,
    };
    catalog
        .connection()
        .prepare_cached(
            "INSERT INTO sessions (kind, patient_id, plan_uid, plan_label, series_uid, date, acquired, directory)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .and_then(|mut s| {
            let directory = layout::slashed(&directory);
            let Key { kind, patient_id, series, ref date, .. } = key;
            s.insert(params![kind, patient_id, key.plan(), label, series, date, acquired, directory])
        })
        .map(|session| Place { session, directory, labelled: label.is_some(), is_to_move: false })
        .map_err(|e| catalog.error(e))
}

/// The label that a session's directory below the root was named by, if it was; a component that was cut tells it with the
/// plan's record.
fn label_at(catalog: &Catalog, directory: &Path, plan_uid: &Uid) -> Result<Option<String>> {
    let mut parts = directory.components().filter_map(|c| c.as_os_str().to_str());
    let (Some(patient), Some(component)) = (parts.next(), parts.next()) else { return Ok(None) };
    if patient == layout::UNRESOLVED {
        return Ok(None);
    }
    if let Some(label) = layout::unpart(component) {
        return Ok(Some(label));
    }
    let label = catalog.plan(plan_uid)?.map(|plan| plan.label);
    Ok(label.filter(|label| layout::part(label) == component))
}

/// The session's directory; another one beside it where two plans of one label share series and date.
fn free_directory(catalog: &Catalog, head: &Head, label: Option<&str>) -> Result<PathBuf> {
    let key = SessionKey {
        patient_id: &head.patient_id,
        plan_uid: head.plan_uid.as_ref(),
        plan_label: label,
        series_uid: head.series_uid.as_deref().unwrap_or_default(),
        date: head.date,
        time: head.time,
    };
    let directory = key.directory();
    if !is_taken(catalog, &directory, None)? {
        return Ok(directory);
    }
    let plan = head.plan_uid.as_ref().map(Uid::as_str).unwrap_or_default();
    Ok(beside(&directory, plan))
}

/// Whether another session than `own` has this directory.
pub(super) fn is_taken(catalog: &Catalog, directory: &Path, own: Option<i64>) -> Result<bool> {
    catalog
        .connection()
        .prepare_cached("SELECT 1 FROM sessions WHERE directory = ?1 AND id IS NOT ?2")
        .and_then(|mut s| s.exists(params![layout::slashed(directory), own]))
        .map_err(|e| catalog.error(e))
}

pub(super) fn beside(directory: &Path, plan_uid: &str) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    directory.with_file_name(format!("{name}_{}", layout::short_hash(plan_uid)))
}

fn insert(catalog: &Catalog, received: &Received, session: i64) -> Result<()> {
    let head = &received.head;
    let spacing = head.pixel_spacing_mm;
    catalog
        .connection()
        .prepare_cached(
            "INSERT INTO instances VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )
        .and_then(|mut s| {
            s.execute(params![
                received.sop_instance_uid.as_str(),
                session,
                layout::file_name(prefix(head), &received.sop_instance_uid),
                received.bytes as i64,
                received.sop_class_uid,
                received.transfer_syntax_uid,
                head.study_uid,
                head.instance_number,
                head.modality,
                head.image_type,
                head.acquired().map(|t| t.format(TIME_FORMAT).to_string()),
                head.beam().map(beam_text),
                head.gantry_iec_deg,
                head.collimator_iec_deg,
                head.couch_iec_deg,
                head.sid_mm,
                spacing.map(|[rows, _]| rows),
                spacing.map(|[_, columns]| columns),
                head.rows,
                head.columns,
                head.machine,
            ])
        })
        .map(|_| ())
        .map_err(|e| catalog.error(e))
}

/// Keeps an object whose UID another object has already: below `_kept`, in the same directories, named by its bytes.
fn keep(catalog: &Catalog, received: &Received, there: &Path, moves: &mut Moves) -> Result<Filed> {
    let path = kept_path(catalog, there, &received.file)?;
    if let Some(same) = kept_before(catalog, &received.sop_instance_uid, &path)? {
        discard(received);
        moves.entries(catalog.root(), &same);
        return Ok(Filed::Same);
    }
    moves.rename(&received.file, &path)?;
    enter_kept(catalog, &received.sop_instance_uid, &path)?;
    Ok(Filed::Kept { path })
}

/// Where these bytes are kept already; not where they would be now, when their session moved since.
fn kept_before(catalog: &Catalog, uid: &Uid, path: &Path) -> Result<Option<PathBuf>> {
    if path.exists() {
        return Ok(Some(path.to_path_buf()));
    }
    let find = || -> rusqlite::Result<Vec<String>> {
        let mut statement =
            catalog.connection().prepare_cached("SELECT path FROM kept WHERE sop_instance_uid = ?1")?;
        statement.query_map([uid.as_str()], |row| row.get(0))?.collect()
    };
    let kept = find().map_err(|e| catalog.error(e))?;
    let mut kept = kept.iter().map(|path| catalog.root().join(layout::native(path)));
    Ok(kept.find(|kept| kept.file_name() == path.file_name() && kept.exists()))
}

/// Removes the temporary file of an object whose bytes are there. One that cannot be removed is no fault of the object: the next start
/// clears it.
fn discard(received: &Received) {
    if let Err(error) = held::remove(&received.file) {
        let uid = &received.sop_instance_uid;
        tracing::warn!(%uid, %error, "the temporary file of an instance that came again cannot be removed now");
    }
}

/// Moves a file that is in the way, and cannot be what its name says, below `_kept`.
fn set_aside(catalog: &Catalog, uid: &Uid, path: &Path, moves: &mut Moves) -> Result<()> {
    let kept = kept_path(catalog, path, path)?;
    moves.rename(path, &kept)?;
    enter_kept(catalog, uid, &kept)?;
    tracing::warn!(%uid, "a damaged file without a row was in the way of this instance; it lies below _kept now");
    Ok(())
}

/// Where the bytes of `file` are kept that belong beside `there`.
fn kept_path(catalog: &Catalog, there: &Path, file: &Path) -> Result<PathBuf> {
    let digest = layout::hex(&digest(file)?);
    let below = there.strip_prefix(catalog.root()).unwrap_or(there);
    let directory = catalog.root().join(layout::KEPT).join(below.parent().unwrap_or(Path::new("")));
    let stem = below.file_stem().unwrap_or_default().to_string_lossy();
    Ok(directory.join(format!("{stem}.{}.dcm", &digest[..16])))
}

/// The row of a kept file.
pub(super) fn enter_kept(catalog: &Catalog, uid: &Uid, path: &Path) -> Result<()> {
    let bytes = path.metadata().map_err(Error::io(path))?.len();
    let relative = path.strip_prefix(catalog.root()).unwrap_or(path);
    catalog
        .connection()
        .execute(
            "REPLACE INTO kept VALUES (?1, ?2, ?3)",
            params![layout::slashed(relative), uid.as_str(), bytes as i64],
        )
        .map(|_| ())
        .map_err(|e| catalog.error(e))
}

fn digest(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            return Ok(hasher.finalize().to_vec());
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
}

/// Whether both hold the same data set; the file meta information names the sender and may differ.
fn same_data_set(received: &Received, there: &Path) -> Result<bool> {
    let mut a = File::open(&received.file).map_err(Error::io(&received.file))?;
    let mut b = File::open(there).map_err(Error::io(there))?;
    let length = b.metadata().map_err(Error::io(there))?.len();
    let Some(offset) = data_set_offset(&mut b) else { return Ok(false) };
    if received.bytes.checked_sub(received.data_set_offset) != length.checked_sub(offset) {
        return Ok(false);
    }
    a.seek(SeekFrom::Start(received.data_set_offset)).map_err(Error::io(&received.file))?;
    b.seek(SeekFrom::Start(offset)).map_err(Error::io(there))?;
    let (mut x, mut y) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let n = a.read(&mut x).map_err(Error::io(&received.file))?;
        if n == 0 {
            return Ok(true);
        }
        let (Some(x), Some(y)) = (x.get(..n), y.get_mut(..n)) else { return Ok(false) };
        if b.read_exact(y).is_err() || x != y {
            return Ok(false);
        }
    }
}

/// Where the data set of a file begins: 128 bytes, `DICM`, and group 0002 by its length. Source: PS3.10 §7.1.
pub(super) fn data_set_offset(file: &mut File) -> Option<u64> {
    let mut head = [0u8; 144];
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_exact(&mut head).ok()?;
    let (magic, group) = (head.get(128..132)?, head.get(132..140)?);
    if magic != b"DICM" || group != b"\x02\0\0\0UL\x04\0" {
        return None;
    }
    let length = u32::from_le_bytes(head.get(140..144)?.try_into().ok()?);
    Some(144 + u64::from(length))
}
