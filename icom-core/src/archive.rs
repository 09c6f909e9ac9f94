//! The archive: each record one `.xz` of its raw messages, where PyMedPhys's tools look for it.
//!
//! Input: a finished record and its messages in a spool file. Output: `<shelf>/<id>_<name>/<YYYYMMDD_HHMMSS>.xz` and a row in the index.
//! Trust in names: none, see [`crate::files`]. A file appears whole or not at all; two records of one second get names one
//! second apart, because PyMedPhys reads the stem as a time and nothing else; the same record again (a replay after a crash)
//! finds its own file. Two patients whose directories would differ by case only get two that do not: `abc~1a2b3c4d_NAME`.
//!
//! # Source
//! Layout: PyMedPhys's `_icom/patients.py` and its readers.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use lzma_rust2::{XzOptions, XzReader, XzWriter};
use sha2::{Digest, Sha256};

use crate::files::{patient_dir, publish};
use crate::index::{Index, IndexedRecord, Shelf};
use crate::session::Record;
use crate::{Error, Result};

/// Largest record read into memory; twice what a session may reach.
pub const MAX_RECORD_BYTES: u64 = 2 << 30;

/// Memory that decompressing may take; the largest preset of xz needs 65 MB.
const XZ_MEMORY_KB: u32 = 128 << 10;

/// Compression: messages are so alike that a higher preset costs time and saves nothing.
const XZ_PRESET: u32 = 2;

/// How far back the compression looks: a hundred messages, which are much like the one before. Eight times as much saves nothing, and
/// takes 8 MB again for every record.
const XZ_DICTIONARY_BYTES: u32 = 256 << 10;

/// How many seconds a name may be moved on.
const MAX_MOVED_SECONDS: i64 = 3600;

/// A record that waits to be archived.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) linac: String,
    pub(crate) record: Record,
    /// Its messages.
    pub(crate) spool: PathBuf,
    /// Where the linac's cursor stands once this is done.
    pub(crate) cursor: u64,
}

/// Which shelf a record belongs to.
#[must_use]
pub fn shelf_of(record: &Record) -> Shelf {
    match (record.delivered(), record.pymedphys_readable) {
        (true, true) => Shelf::Patients,
        (true, false) => Shelf::Incomplete,
        (false, _) => Shelf::NoMu,
    }
}

/// Directory of a shelf.
#[must_use]
pub fn shelf_dir(root: &Path, shelf: Shelf) -> PathBuf {
    match shelf {
        Shelf::Patients => root.join("patients"),
        Shelf::Incomplete => root.join("patients").join("unknown_error_in_record"),
        Shelf::NoMu => root.join("no_mu"),
    }
}

/// Archives a record: file first, then index and cursor, then the spool goes.
///
/// # Errors
/// [`Error::Io`], [`Error::Index`]; nothing is lost then, and it may be tried again.
pub(crate) fn store(root: &Path, index: &mut Index, finished: &Finished) -> Result<IndexedRecord> {
    let record = &finished.record;
    let shelf = shelf_of(record);
    let dir = dir_of(&shelf_dir(root, shelf), &record.patient_id, record.patient_name.as_deref())?;
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    let partial =
        dir.join(format!(".{}-{}.partial", crate::files::safe_part(&finished.linac), record.stream_start));
    let (file, sha256) = compress(&finished.spool, &partial)?;
    let path = match free_path(&dir, record, &sha256, |path| index.sha256_at(path, root))? {
        Free::Path(path) => {
            publish(file, &partial, &path)?;
            path
        }
        Free::Same(path) => {
            drop(file);
            std::fs::remove_file(&partial).map_err(Error::io(&partial))?;
            path
        }
    };
    let entry = IndexedRecord { linac: finished.linac.clone(), shelf, path, sha256, record: record.clone() };
    index.insert(&entry, root, finished.cursor)?;
    // A spool that stays is deleted at the next start.
    let _ = std::fs::remove_file(&finished.spool);
    Ok(entry)
}

/// Reads a record's raw messages, from `.xz` (also concatenated streams) or plain.
///
/// # Errors
/// [`Error::Io`], [`Error::Limit`], [`Error::Malformed`] if the compression is damaged.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let Messages { mut reader, is_xz } = Messages::open(path)?;
    let mut bytes = Vec::new();
    let limit = MAX_RECORD_BYTES + 1;
    let read = reader.by_ref().take(limit).read_to_end(&mut bytes);
    read.map_err(|error| match is_xz {
        true => Error::Malformed {
            section: "xz compression",
            offset: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            expected: "an intact stream",
            found: error.to_string(),
        },
        false => Error::io(path)(error),
    })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_RECORD_BYTES {
        return Err(Error::Limit { what: "size of an iCom record in bytes", limit: MAX_RECORD_BYTES });
    }
    Ok(bytes)
}

/// A record's raw messages, one piece after the other.
struct Messages {
    reader: Box<dyn Read>,
    is_xz: bool,
}

impl Messages {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::new(file);
        let mut head = [0; XZ_MAGIC.len()];
        let got = read_up_to(&mut reader, &mut head).map_err(Error::io(path))?;
        let head = head.get(..got).unwrap_or_default();
        let all = std::io::Cursor::new(head.to_vec()).chain(reader);
        let is_xz = head == XZ_MAGIC;
        let reader: Box<dyn Read> =
            if is_xz { Box::new(XzReader::new_mem_limit(all, true, XZ_MEMORY_KB)) } else { Box::new(all) };
        Ok(Self { reader, is_xz })
    }
}

/// Hash of a record's messages; a damaged or unreadable file has none.
fn sha256_of(path: &Path) -> Option<String> {
    let mut hash = Hashing { into: std::io::sink(), sha256: Sha256::new() };
    std::io::copy(&mut Messages::open(path).ok()?.reader, &mut hash).ok()?;
    Some(hex(&hash.sha256.finalize()))
}

/// Hashes what it passes on.
struct Hashing<W> {
    into: W,
    sha256: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.sha256.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

/// Lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A patient's directory on a shelf, which no other patient has, on file systems that ignore case either.
fn dir_of(shelf: &Path, patient_id: &str, patient_name: Option<&str>) -> Result<PathBuf> {
    let name = patient_dir(patient_id, patient_name);
    let taken = match std::fs::read_dir(shelf) {
        Ok(entries) => {
            let mut same = Vec::new();
            for entry in entries {
                let other = entry.map_err(Error::io(shelf))?.file_name();
                same.extend(
                    other.into_string().ok().filter(|other| other.to_lowercase() == name.to_lowercase()),
                );
            }
            !same.is_empty() && !same.contains(&name)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => return Err(Error::Io { path: shelf.to_owned(), source }),
    };
    let hash = crc32fast::hash(name.as_bytes());
    let name = if taken { patient_dir(&format!("{patient_id}~{hash:08x}"), patient_name) } else { name };
    Ok(shelf.join(name))
}

fn compress(spool: &Path, partial: &Path) -> Result<(File, String)> {
    let mut source = File::open(spool).map_err(Error::io(spool))?;
    let target = File::create(partial).map_err(Error::io(partial))?;
    let mut options = XzOptions::with_preset(XZ_PRESET);
    options.lzma_options.dict_size = XZ_DICTIONARY_BYTES;
    let xz = XzWriter::new(target, options).map_err(Error::io(partial))?;
    let mut hashing = Hashing { into: xz, sha256: Sha256::new() };
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = source.read(&mut buffer).map_err(Error::io(spool))?;
        let Some(bytes) = buffer.get(..got).filter(|bytes| !bytes.is_empty()) else { break };
        hashing.write_all(bytes).map_err(Error::io(partial))?;
    }
    let file = hashing.into.finish().map_err(Error::io(partial))?;
    Ok((file, hex(&hashing.sha256.finalize())))
}

enum Free {
    /// Nothing has this name.
    Path(PathBuf),
    /// This very record has it.
    Same(PathBuf),
}

/// `known` tells what the index knows a file's messages by: what is another record is not read.
fn free_path(
    dir: &Path,
    record: &Record,
    sha256: &str,
    known: impl Fn(&Path) -> Result<Option<String>>,
) -> Result<Free> {
    for moved in 0..MAX_MOVED_SECONDS {
        let stamp = record.start + TimeDelta::seconds(moved);
        let path = dir.join(format!("{}.xz", stamp.format("%Y%m%d_%H%M%S")));
        if !path.exists() {
            return Ok(Free::Path(path));
        }
        let other = known(&path)?.is_some_and(|known| known != sha256);
        if !other && sha256_of(&path).is_some_and(|found| found == sha256) {
            return Ok(Free::Same(path));
        }
    }
    Err(Error::Limit { what: "records of one patient in one hour", limit: 3600 })
}

fn read_up_to(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

const XZ_MAGIC: [u8; 6] = [0xFD, b'7', b'z', b'X', b'Z', 0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Message, time};
    use crate::index::Query;
    use crate::inspect::inspect;
    use crate::settings::index_path;

    /// A record of messages that show these metersets, all within one second.
    fn finished(root: &Path, metersets_mu: &[f64]) -> Finished {
        let message = |(n, mu): (usize, &f64)| {
            let counter = u8::try_from(n).unwrap();
            Message { linac_time: time(0), counter, meterset_mu: Some(*mu), ..Message::example() }.encode()
        };
        let bytes: Vec<u8> = metersets_mu.iter().enumerate().flat_map(message).collect();
        let spool = root.join("spool");
        std::fs::write(&spool, &bytes).unwrap();
        Finished { linac: "linac 1".into(), record: inspect(&bytes).records.remove(0), spool, cursor: 1 }
    }

    #[test]
    fn records_of_one_second_do_not_collide_and_the_same_again_finds_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut index = Index::open(&index_path(root)).unwrap();
        let first = store(root, &mut index, &finished(root, &[0.0, 5.0])).unwrap().path;
        let second = store(root, &mut index, &finished(root, &[0.0, 7.0])).unwrap().path;
        let again = store(root, &mut index, &finished(root, &[0.0, 5.0])).unwrap().path;
        assert_eq!(again, first);
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let expected = |s| (time(0) + TimeDelta::seconds(s)).format("%Y%m%d_%H%M%S").to_string();
        assert_eq!((stem(&first), stem(&second)), (expected(0), expected(1)));
        assert_eq!(index.find(&Query::default(), root).unwrap().len(), 2);
    }

    #[test]
    fn records_without_mu_are_kept_for_their_time_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut index = Index::open(&index_path(root)).unwrap();
        let with = store(root, &mut index, &finished(root, &[0.0, 5.0])).unwrap();
        let without = store(root, &mut index, &finished(root, &[0.0, 0.0])).unwrap();
        assert_eq!((with.shelf, without.shelf), (Shelf::Patients, Shelf::NoMu));
        assert!(without.path.starts_with(root.join("no_mu")) && without.path.exists());
        let ended = without.record.received_to;
        assert!(index.forget_without_mu(ended, root).unwrap().is_empty(), "its time has not come");
        let forgotten = index.forget_without_mu(ended + TimeDelta::seconds(1), root).unwrap();
        assert_eq!(forgotten, [without.path]);
        let all = Query { without_mu: true, ..Query::default() };
        let left: Vec<_> = index.find(&all, root).unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(left, [with.path]);
    }

    #[test]
    fn patients_whose_ids_differ_by_case_only_have_directories_that_differ_by_more() {
        let shelf = tempfile::tempdir().unwrap();
        let dir = |id: &str, name: &str| {
            let dir = dir_of(shelf.path(), id, Some(name)).unwrap();
            std::fs::create_dir_all(&dir).unwrap();
            dir.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(dir("qa_wl", "MOCK"), "qa_wl_MOCK");
        let other = dir("QA_WL", "MOCK");
        assert!(other.starts_with("QA_WL~") && other.ends_with("_MOCK"), "{other}");
        assert_ne!(dir("Qa_Wl", "MOCK").to_lowercase(), other.to_lowercase());
        // The same again finds its own.
        assert_eq!((dir("qa_wl", "MOCK"), dir("QA_WL", "MOCK")), ("qa_wl_MOCK".into(), other));
        assert_eq!(dir("QA_WL", "OTHER"), "QA_WL_OTHER");
    }
}
