//! The catalog from the files alone: after a crash for what is new, on request for everything.

use std::collections::BTreeSet;
use std::fs::{File, FileType};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dicom_object::FileMetaTable;

use super::catalog::Catalog;
use super::filing::{self, Received};
use super::head::{self, Head};
use super::held;
use super::labels;
use super::layout;
use super::moves::Moves;
use super::notes;
use super::rows::PlanRecord;
use super::walk::{Syntax, Walker};
use crate::error::{Error, Result};
use crate::names::Uid;

/// `meta` key: since when (Unix s) files may be unknown to the catalog.
const OPEN_SINCE: &str = "open_since";
/// How much earlier than that directories are looked at: clocks step back.
const MARGIN: Duration = Duration::from_secs(3600);
/// Bytes before `DICM`. Source: PS3.10 §7.1.
const PREAMBLE: u64 = 128;

/// What a reindex found.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Objects in the catalog now.
    pub objects: u64,
    /// Files that are no DICOM objects, or damaged, and directories that this account may not read: path below the root and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Rebuilds the catalog of a root from its files.
///
/// The new catalog takes the old one's place only when it is whole; processes that read meanwhile see the old one.
///
/// # Errors
/// [`Error::Io`], [`Error::Catalog`]; [`Error::Misuse`] while a receiver runs.
pub fn rebuild(root: &Path) -> Result<Report> {
    let lock = super::store::lock(root)?;
    let mut catalog = open_or_replace(root)?;
    let report = catalog.moving(|catalog, moves| {
        catalog
            .connection()
            .execute_batch(
                "DELETE FROM instances; DELETE FROM sessions; DELETE FROM plans; DELETE FROM kept;",
            )
            .map_err(|e| catalog.error(e))?;
        let found = enter_all(catalog, moves, SystemTime::UNIX_EPOCH)?;
        moves.sync()?;
        let (io, unreadable): (Vec<_>, Vec<_>) =
            found.unreadable.into_iter().partition(|(_, error)| matches!(error, Error::Io { .. }));
        // A disk or share that fails now must not take the rows of what lies on it.
        if let Some((_, error)) = io.into_iter().next() {
            return Err(error);
        }
        let mut unreadable: Vec<_> =
            unreadable.into_iter().map(|(path, error)| (path, error.to_string())).collect();
        unreadable.extend(found.closed.into_iter().map(|(path, error)| (path, error.to_string())));
        Ok(Report { objects: found.objects, unreadable })
    })?;
    drop(lock);
    Ok(report)
}

/// What was entered, and what could not be.
#[derive(Debug, Default)]
struct Found {
    objects: u64,
    unreadable: Vec<(PathBuf, Error)>,
    closed: Closed,
}

/// Directories that this account may not read, below the root. They are passed over: one that is none of ours must not keep
/// a receiver from starting.
type Closed = Vec<(PathBuf, std::io::Error)>;

/// Opens the catalog; a damaged one gives way to an empty one: nothing in it is worth keeping, all of it is in the files.
fn open_or_replace(root: &Path) -> Result<Catalog> {
    match Catalog::open(root).and_then(|catalog| catalog.check().map(|()| catalog)) {
        Err(Error::Catalog { path, source }) if is_damage(&source) => {
            for suffix in ["sqlite", "sqlite-wal", "sqlite-shm"] {
                let file = path.with_extension(suffix);
                if file.exists() {
                    held::remove(&file).map_err(Error::io(&file))?;
                }
            }
            Catalog::open(root)
        }
        opened => opened,
    }
}

/// Whether the file itself is damaged; a busy, a newer or a forbidden one is not.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// At the start of a receiver: enters what the last one filed but did not commit, or all there is when the catalog was lost,
/// and marks that from now on files may be unknown to it.
///
/// # Arguments
/// * `full` — whether what is entered must survive a power cut: its sender may be told that it is there when it comes again
pub(super) fn before_receiving(catalog: &mut Catalog, full: bool) -> Result<()> {
    let since = catalog.meta(OPEN_SINCE).map_err(|e| catalog.error(e))?;
    if since.is_none() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mark = |catalog: &mut Catalog| {
            catalog.set_meta(OPEN_SINCE, Some(&now.to_string())).map_err(|e| catalog.error(e))
        };
        // The commits that follow are not synced one by one; the one thing that a power cut must not take is this.
        catalog.durably(mark)?;
    }
    let since = since.and_then(|s| s.parse().ok()).map(|s| UNIX_EPOCH + Duration::from_secs(s));
    let from = if catalog.is_empty()? {
        Some(UNIX_EPOCH)
    } else if let Some(since) = since {
        // A clock that was ahead then says nothing about what was written since.
        let since = if since > SystemTime::now() { UNIX_EPOCH } else { since };
        Some(since.checked_sub(MARGIN).unwrap_or(UNIX_EPOCH))
    } else if labels::waits_elsewhere(catalog)? {
        // Nobody says when; what it is called by says where.
        Some(SystemTime::now())
    } else {
        None
    };
    let found = catalog.moving(|catalog, moves| match from {
        Some(from) => {
            let found = enter_all(catalog, moves, from)?;
            if full { moves.sync().map(|()| found) } else { Ok(found) }
        }
        None => {
            // A catalog of before schema 3 does not know how long they are.
            let mut found = Found::default();
            enter_kept(catalog, &mut Moves::default(), &mut found.closed)?;
            labels::resolve_all(catalog, moves)?;
            moves.sync().map(|()| found)
        }
    })?;
    if since.is_some() || found.objects > 0 {
        tracing::info!(
            entered = found.objects,
            "the last run did not end in order, or the catalog was lost; looked for unknown files"
        );
    }
    if let Some((first, error)) = found.closed.first() {
        let first = layout::for_log(catalog.root(), &catalog.root().join(first));
        let directories = found.closed.len();
        tracing::warn!(directories, first = %first.display(), %error, "directories that cannot be read were passed over");
    }
    if !found.unreadable.is_empty() {
        let files = found.unreadable.len();
        tracing::warn!(
            files,
            "files that cannot be read are not in the catalog; `scp-node reindex` names them"
        );
    }
    Ok(())
}

/// Enters what has no row: plans that were told, kept objects, and the files of directories that changed since then; then moves
/// the sessions whose plan's label is known by now.
fn enter_all(catalog: &Catalog, moves: &mut Moves, since: SystemTime) -> Result<Found> {
    let mut found = Found::default();
    let moved = forget_moved(catalog)?;
    read_plan_notes(catalog)?;
    enter_kept(catalog, moves, &mut found.closed)?;
    for directory in session_directories(catalog.root(), since, &moved, &mut found.closed)? {
        enter_directory(catalog, &directory, &mut found, moves)?;
    }
    labels::resolve_all(catalog, moves)?;
    Ok(found)
}

/// The receiver ends in order: every file is in the catalog.
pub(super) fn closed(catalog: &Catalog) -> Result<()> {
    let close = || {
        catalog.set_meta(OPEN_SINCE, None)?;
        catalog.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    close().map_err(|e| catalog.error(e))
}

/// Sessions whose directory was renamed just before a crash that the catalog did not live to see: their files are gone, and
/// their directory, unless a later image made it again. Their rows go, and the files are entered where they lie now; renaming a
/// directory does not change its own time, so what its name holds of the series is returned.
fn forget_moved(catalog: &Catalog) -> Result<BTreeSet<String>> {
    let rows = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = catalog.connection().prepare(
            "SELECT i.sop_instance_uid, s.series_uid FROM sessions s JOIN instances i ON i.session_id = s.id
             WHERE s.plan_label IS NULL AND s.plan_uid <> '' AND s.kind = 'images'",
        )?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
        rows.collect()
    };
    let mut moved = BTreeSet::new();
    for (uid, series_uid) in rows().map_err(|e| catalog.error(e))? {
        let Some(uid) = Uid::new(&uid) else { continue };
        // What cannot be looked for is not gone.
        if catalog.entered(&uid)?.is_some_and(|entered| !entered.is_there().unwrap_or(true)) {
            filing::forget(catalog, &uid)?;
            moved.insert(layout::short_hash(&series_uid));
        }
    }
    Ok(moved)
}

/// Enters plans that archives told, where the catalog does not know them.
fn read_plan_notes(catalog: &Catalog) -> Result<()> {
    for plan in notes::read(catalog.root())?.values() {
        if catalog.plan(&plan.plan_uid)?.is_none() {
            labels::enter_plan(catalog, plan)?;
        }
    }
    Ok(())
}

fn enter_kept(catalog: &Catalog, moves: &mut Moves, closed: &mut Closed) -> Result<()> {
    for path in files(&catalog.root().join(layout::KEPT), closed)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // RI.<uid>.<16 hex>.dcm
        let uid =
            name.strip_suffix(".dcm").and_then(|n| n.rsplit_once('.')).and_then(|(n, _)| n.split_once('.'));
        if let Some(uid) = uid.and_then(|(_, uid)| Uid::new(uid)) {
            filing::enter_kept(catalog, &uid, &path)?;
            moves.entries(catalog.root(), &path);
        }
    }
    Ok(())
}

fn enter_directory(catalog: &Catalog, directory: &Path, found: &mut Found, moves: &mut Moves) -> Result<()> {
    let root = catalog.root();
    let below = directory.strip_prefix(root).unwrap_or(directory);
    for path in files_of(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let uid =
            name.strip_suffix(".dcm").and_then(|n| n.split_once('.')).and_then(|(_, uid)| Uid::new(uid));
        let Some(uid) = uid else { continue };
        if let Some(entered) = catalog.entered(&uid)? {
            if entered.path != path || entered.is_there().map_err(Error::io(&path))? {
                continue;
            }
            filing::forget(catalog, &uid)?;
        }
        match read(&path, uid) {
            Ok(received) => {
                if received.head.is_plan() {
                    enter_plan_label(catalog, &received)?;
                }
                moves.entries(root, &path);
                filing::enter(catalog, &received, below, moves)?;
                found.objects += 1;
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => found.unreadable.push((path.strip_prefix(root).unwrap_or(&path).into(), error)),
        }
    }
    Ok(())
}

fn enter_plan_label(catalog: &Catalog, received: &Received) -> Result<()> {
    let Some(label) = received.head.plan_label.clone() else { return Ok(()) };
    let plan_uid = received.sop_instance_uid.clone();
    // What an archive told later than the plan was received is in the notes, and stays.
    if catalog.plan(&plan_uid)?.is_some() {
        return Ok(());
    }
    let patient_id = received.head.patient_id.clone();
    labels::enter_plan(catalog, &PlanRecord { plan_uid, patient_id, label, dated: received.head.plan_date })
}

/// Reads an object on disk to its end, of which its head is kept: a file that a power cut left half is no object.
///
/// # Errors
/// [`Error::Malformed`] when it is no DICOM file, not whole, or not the instance that its name says.
pub(super) fn read(path: &Path, uid: Uid) -> Result<Received> {
    let malformed = |section, expected: &str, found: String| Error::Malformed {
        section,
        offset: None,
        expected: expected.into(),
        found,
    };
    let mut file = File::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    let offset = filing::data_set_offset(&mut file)
        .ok_or_else(|| malformed("DICOM file", "file meta information", "none".into()))?;
    file.seek(SeekFrom::Start(PREAMBLE)).map_err(Error::io(path))?;
    let meta = FileMetaTable::from_reader(BufReader::new(&file))
        .map_err(|e| malformed("file meta information", "group 0002", e.to_string()))?;
    let text = |uid: &str| uid.trim_end_matches(['\0', ' ']).to_owned();
    let transfer_syntax_uid = text(&meta.transfer_syntax);
    let syntax = Syntax::from_uid(&transfer_syntax_uid);
    let mut walker = Walker::new(syntax, head::wanted);
    file.seek(SeekFrom::Start(offset)).map_err(Error::io(path))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            break;
        }
        walker.push(buffer.get(..n).unwrap_or_default())?;
    }
    let head = Head::new(&walker.finish()?, syntax);
    if head.sop_instance_uid.as_deref() != Some(uid.as_str()) {
        return Err(malformed("DICOM file", &format!("SOP Instance UID {uid}"), "another".into()));
    }
    Ok(Received {
        file: path.into(),
        bytes,
        data_set_offset: offset,
        transfer_syntax_uid,
        sop_class_uid: text(&meta.media_storage_sop_class_uid),
        sop_instance_uid: uid,
        head,
    })
}

/// Directories that hold objects and changed since then, or whose names hold one of `moved`; those of plans first, since they
/// tell labels that names of directories may have cut.
fn session_directories(
    root: &Path,
    since: SystemTime,
    moved: &BTreeSet<String>,
    closed: &mut Closed,
) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(directory) = stack.pop() {
        let (entries, changed) = match listed(&directory) {
            Ok(listed) => listed,
            Err(error) if directory == root => return Err(Error::io(&directory)(error)),
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                closed.push((directory.strip_prefix(root).unwrap_or(&directory).into(), error));
                continue;
            }
            Err(error) => return Err(Error::io(&directory)(error)),
        };
        let mut has_files = false;
        for (path, kind) in entries {
            if kind.is_dir() && !is_passed_over(root, &path) {
                stack.push(path);
            } else if kind.is_file() {
                has_files |= path.extension().is_some_and(|e| e == "dcm");
            }
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if has_files && (changed >= since || name.split('_').any(|part| moved.contains(part))) {
            found.push(directory);
        }
    }
    // The order of the rest decides nothing, but two runs should do the same.
    found.sort_by_cached_key(|directory| (!directory.ends_with(layout::PLAN), directory.clone()));
    Ok(found)
}

/// What is in a directory, and when that changed.
fn listed(directory: &Path) -> std::io::Result<(Vec<(PathBuf, FileType)>, SystemTime)> {
    let entries = std::fs::read_dir(directory)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    });
    let entries = entries.collect::<std::io::Result<_>>()?;
    Ok((entries, std::fs::metadata(directory)?.modified()?))
}

/// Whether a directory of the root holds no filed objects: those of our own, and what file systems have at the top of a volume.
fn is_passed_over(root: &Path, directory: &Path) -> bool {
    let first = directory.strip_prefix(root).ok().and_then(|p| p.components().next());
    let Some(Component::Normal(first)) = first else { return false };
    [layout::INCOMING, layout::KEPT, layout::CATALOG].iter().any(|name| first == *name)
        || ["lost+found", "System Volume Information", "$RECYCLE.BIN"]
            .iter()
            .any(|name| first.eq_ignore_ascii_case(name))
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(paths),
        entries => entries.map_err(Error::io(directory))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io(directory))?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == "dcm") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// All files below a directory; none when it is not there.
fn files(directory: &Path, closed: &mut Closed) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for path in session_directories(directory, UNIX_EPOCH, &BTreeSet::new(), closed)? {
        found.extend(files_of(&path)?);
    }
    Ok(found)
}
