//! The linac's diagnostics zips: which records are in one, and each record's bytes as a stream.
//!
//! Input: a zip file as the linac wrote it to its share. Output: [`Contents`], and per record a reader. Memory does not grow with
//! the zip: its directory is walked entry by entry, a record passes through one buffer.
//!
//! Trust: none. A zip that could be meant to harm (names that leave the directory, links, overlapping or duplicate members, more than it
//! can hold, encryption) is refused as a whole by [`examine`]; a member that is damaged is refused by itself by
//! [`each_record`], since the other records of that day are worth having. Errors name members by number, not by name: the name
//! of a record holds the field's name.
//!
//! Unsupported: compression other than stored and deflate, zips in several parts, encrypted members.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, Read};
use std::path::Path;

use zip::read::{Config, ZipFileEntry};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use crate::error::{Error, Result};
use crate::reader::MAX_RECORD_BYTES;

/// Most members. A diagnostics zip holds some thousands; the bound keeps what is remembered of them to 5 MB.
pub const MAX_MEMBERS: usize = 200_000;
/// Most bytes of all records of a zip, unpacked: 20 days of beam without a pause.
pub const MAX_RECORDS_BYTES: u64 = 64 << 30;
/// Deflate makes at most 1032 bytes of one. Source: RFC 1951, 258 bytes for two bits at best.
const MAX_RATIO: u64 = 1032;
/// Longest name of a record on disk, with room for an ending of ours below the 255 of NTFS and ext4.
const MAX_NAME_BYTES: usize = 200;
/// What a local header takes besides its name. Source: PKWARE APPNOTE 4.3.7.
const LOCAL_HEADER_BYTES: u64 = 30;
/// One buffer for the directory, one for contents.
const BUFFER_BYTES: usize = 64 << 10;
/// What errors call the file.
const SECTION: &str = "diagnostics zip";

/// What a zip holds, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Members of all kinds.
    pub n_members: usize,
    /// Records (`.trf`).
    pub n_records: usize,
    /// Their size unpacked, as the zip says; more is never read.
    pub record_bytes: u64,
}

/// A record in a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its place in the zip's directory, from 1.
    pub number: usize,
    /// A file name for it, legal on NTFS; without directories.
    pub file_name: String,
    /// Its size unpacked.
    pub bytes: u64,
}

/// Walks the whole directory of the zip at `path` and checks it; unpacks nothing.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`] or [`Error::Limit`] with the reason to refuse it; [`Error::Io`].
pub fn examine(path: &Path) -> Result<Contents> {
    let mut zip = open(path)?;
    let n_members = zip.len();
    if n_members > MAX_MEMBERS {
        let (found, limit) = (n_members as u64, MAX_MEMBERS as u64);
        return Err(Error::Limit { what: "number of members of the diagnostics zip", found, limit });
    }
    let mut contents = Contents { n_members, n_records: 0, record_bytes: 0 };
    let mut names = HashSet::new();
    let mut extents = Vec::new();
    for (number, entry) in (1..).zip(zip.files().map_err(|e| explain(path, 0, e))?) {
        let entry = entry.map_err(|e| explain(path, number, e))?;
        let name = checked_name(&entry, number)?;
        if !names.insert(hash(&name.to_lowercase())) {
            return Err(refused(number, &entry, "names that occur once", "the name of an earlier member"));
        }
        let header = LOCAL_HEADER_BYTES.saturating_add(entry.name_raw().len() as u64);
        let end = entry.header_start().saturating_add(header).saturating_add(entry.compressed_size());
        extents.push((entry.header_start(), end, entry.central_header_start(), number));
        if is_record(&entry, &name) {
            check_record(&entry, number)?;
            contents.n_records += 1;
            contents.record_bytes = contents.record_bytes.saturating_add(entry.size());
        }
    }
    if contents.record_bytes > MAX_RECORDS_BYTES {
        let found = contents.record_bytes;
        return Err(Error::Limit { what: "size of the records unpacked", found, limit: MAX_RECORDS_BYTES });
    }
    check_extents(extents)?;
    Ok(contents)
}

/// Gives each record of an examined zip to `take`, in the zip's order; the reader ends with an error if the record is damaged.
///
/// # Errors
/// As [`examine`], and what `take` gives, which ends the walk.
pub fn each_record(path: &Path, mut take: impl FnMut(&Member, &mut dyn Read) -> Result<()>) -> Result<()> {
    let mut zip = open(path)?;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut body = BufReader::with_capacity(BUFFER_BYTES, file);
    for (number, entry) in (1..).zip(zip.files().map_err(|e| explain(path, 0, e))?) {
        let entry = entry.map_err(|e| explain(path, number, e))?;
        let name = checked_name(&entry, number)?;
        if !is_record(&entry, &name) {
            continue;
        }
        let member = Member { number, file_name: file_name(&name), bytes: entry.size() };
        match entry.with_reader(&mut body, ZipReadOptions::new()) {
            Ok(content) => take(&member, &mut Whole { content, left: member.bytes, number })?,
            Err(error) => take(&member, &mut Broken(Some(explain(path, number, error))))?,
        }
    }
    Ok(())
}

/// Whether the file ends as a zip does; one that is still being written does not.
pub fn has_end(path: &Path) -> bool {
    !matches!(open(path), Err(Error::Malformed { .. }))
}

/// What a damaged record's reader ends with.
///
/// `std::io::Error` carries it, so that readers stay plain; [`damage`] gets it out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damage(String);

/// The reason if `error` came from a damaged record and not from the disk.
pub fn damage(error: &std::io::Error) -> Option<String> {
    let reason = error.get_ref()?.downcast_ref::<Damage>()?;
    Some(reason.0.clone())
}

fn damaged(number: usize, what: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(Damage(format!("member {number} is damaged: {what}")))
}

/// Gives exactly as many bytes as announced, or an error.
struct Whole<R> {
    content: R,
    left: u64,
    number: usize,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let got = self.content.read(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::Interrupted => error,
            // What the disk says has a number of the system; all else is the content's fault.
            _ if error.raw_os_error().is_some() => error,
            _ => damaged(self.number, error),
        })?;
        match self.left.checked_sub(got as u64) {
            Some(left) if got > 0 || left == 0 => self.left = left,
            Some(left) => return Err(damaged(self.number, format!("{left} bytes are missing at its end"))),
            None => return Err(damaged(self.number, "it unpacks to more than it says")),
        }
        Ok(got)
    }
}

/// A member that cannot even be begun.
struct Broken(Option<Error>);

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.take() {
            Some(error) => Err(std::io::Error::other(Damage(error.to_string()))),
            None => Ok(0),
        }
    }
}

type Zip = ZipIterable<BufReader<File>>;

fn open(path: &Path) -> Result<Zip> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    ZipIterable::try_new(BufReader::with_capacity(BUFFER_BYTES, file), Config::default())
        .map_err(|e| explain(path, 0, e))
}

/// The member's name, which must stay below the directory that a zip is unpacked to, whatever the system.
fn checked_name(entry: &ZipFileEntry<'_>, number: usize) -> Result<String> {
    let wanted = "names that stay below the zip's directory";
    let name =
        entry.name().map_err(|_| refused(number, entry, "names that can be read", "one that cannot"))?;
    let found = match name.chars().nth(1) {
        _ if name.is_empty() => "an empty name",
        _ if name.contains('\0') => "a name with a NUL",
        _ if name.starts_with(['/', '\\']) => "an absolute name",
        Some(':') => "a name with a drive",
        _ if name.split(['/', '\\']).any(|part| part == "..") => "a name with `..`",
        _ if entry.is_symlink() => "a link",
        _ => return Ok(name.into_owned()),
    };
    Err(refused(number, entry, wanted, found))
}

fn is_record(entry: &ZipFileEntry<'_>, name: &str) -> bool {
    !entry.is_dir() && name.to_lowercase().ends_with(".trf")
}

fn check_record(entry: &ZipFileEntry<'_>, number: usize) -> Result<()> {
    const REMEDY: &str = "unpack it by hand, and put the records into to_be_indexed/<linac>";
    if entry.encrypted() {
        return Err(
            Error::unsupported(format!("an encrypted record in the zip (member {number})")).with_hint(REMEDY)
        );
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        let what = format!("the compression of a record in the zip (member {number})");
        return Err(Error::unsupported(what).with_hint(REMEDY));
    }
    if entry.size() > MAX_RECORD_BYTES {
        let found = entry.size();
        return Err(Error::Limit { what: "size of a record in the zip", found, limit: MAX_RECORD_BYTES });
    }
    // 64 bytes for what the smallest deflate stream takes.
    if entry.size() > entry.compressed_size().saturating_add(64).saturating_mul(MAX_RATIO) {
        return Err(refused(number, entry, "a size that deflate can reach", "a larger one"));
    }
    Ok(())
}

/// No byte may belong to two members: that is how small zips hold terabytes.
fn check_extents(mut extents: Vec<(u64, u64, u64, usize)>) -> Result<()> {
    extents.sort_unstable();
    let directory = extents.iter().map(|(.., central, _)| *central).min().unwrap_or(u64::MAX);
    let next_starts = extents.iter().skip(1).map(|(start, ..)| *start).chain([directory]);
    for ((start, end, _, number), next) in extents.iter().zip(next_starts) {
        if *end > next {
            return Err(Error::Malformed {
                section: SECTION,
                offset: *start,
                expected: "members that lie one after the other".into(),
                found: format!("member {number} overlapping the next"),
            });
        }
    }
    Ok(())
}

fn refused(number: usize, entry: &ZipFileEntry<'_>, expected: &str, found: &str) -> Error {
    Error::Malformed {
        section: SECTION,
        offset: entry.header_start(),
        expected: expected.to_owned(),
        found: format!("{found} (member {number})"),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The last part of a member's name as a file name that NTFS takes and no shell trips over.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let legal = |c: char| if c.is_control() || r#"<>:"|?*"#.contains(c) { '_' } else { c };
    let stem: String = last.chars().map(legal).collect();
    let stem = stem.get(..stem.len().saturating_sub(4)).unwrap_or_default();
    // `CON.trf` is a device on Windows, however it ends; a name that begins with a dot is hidden elsewhere.
    let base = stem.split('.').next().unwrap_or_default().trim().to_uppercase();
    let numbered = |prefix: &str| {
        base.strip_prefix(prefix).is_some_and(|n| n.chars().count() == 1 && n.chars().all(char::is_numeric))
    };
    let device = matches!(base.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT");
    let prefix = if device || stem.is_empty() || stem.starts_with('.') { "_" } else { "" };
    let mut end = stem.len().min(MAX_NAME_BYTES);
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    // What is cut off is told apart by a hash of the whole.
    let cut = if end < stem.len() { format!("~{:08x}", hash(stem) & 0xffff_ffff) } else { String::new() };
    format!("{prefix}{}{cut}.trf", stem.get(..end).unwrap_or_default())
}

/// What the library says about member `number` (0: the zip itself).
fn explain(path: &Path, number: usize, error: ZipError) -> Error {
    let place = if number == 0 { String::new() } else { format!(" (member {number})") };
    let malformed = |expected: &str, found: String| Error::Malformed {
        section: SECTION,
        offset: 0,
        expected: expected.to_owned(),
        found: format!("{found}{place}"),
    };
    match error {
        ZipError::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            malformed("a whole zip", "its end too early".into())
        }
        ZipError::Io(source) => Error::io(path, source),
        ZipError::InvalidArchive(what) => malformed("a whole zip", what.to_lowercase()),
        ZipError::UnsupportedArchive(what) => {
            Error::unsupported(format!("{} in the zip{place}", what.to_lowercase()))
                .with_hint("unpack it by hand, and put the records into to_be_indexed/<linac>")
        }
        other => malformed("a zip", other.to_string().to_lowercase()),
    }
}

#[cfg(test)]
mod tests;
