//! Reading the journal, from any offset, while it may still be written.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::entry::{Entry, Kind, read_entry};
use super::{MAGIC, segments, to_u64};
use crate::{Error, Result};

/// Reads entries from an offset on, over segments, up to what is written so far.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    current: Option<(u64, PathBuf, BufReader<File>)>,
    position: u64,
    from: u64,
}

impl JournalReader {
    /// Begins at the entry that holds stream offset `from`, or the first after it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: &Path, from: u64) -> Result<Self> {
        let mut reader = Self { dir: dir.to_owned(), current: None, position: 0, from };
        let start = segments(dir)?.into_iter().rev().find(|(start, _)| *start <= from);
        match start
            .map_or_else(|| segments(dir).map(|all| all.into_iter().next()), |found| Ok(Some(found)))?
        {
            Some((start, path)) => reader.enter(start, path)?,
            None => return Ok(reader),
        }
        Ok(reader)
    }

    /// The next entry; `None` at the end of what is written, from where a later call goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            let Some((start, path, file)) = &mut self.current else { return Ok(None) };
            match read_entry(file).map_err(Error::io(&*path))? {
                Some((entry, len)) => {
                    self.position = self.position.saturating_add(len);
                    if entry.end() > self.from || (entry.kind != Kind::Data && entry.offset >= self.from) {
                        return Ok(Some(entry));
                    }
                }
                None => {
                    // The end, or a part of an entry that is just being written.
                    let after = *start;
                    file.seek(SeekFrom::Start(self.position)).map_err(Error::io(&*path))?;
                    let next = segments(&self.dir)?.into_iter().find(|(start, _)| *start > after);
                    match next {
                        Some((start, path)) => self.enter(start, path)?,
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    fn enter(&mut self, start: u64, path: PathBuf) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 17, File::open(&path).map_err(Error::io(&path))?);
        let mut magic = [0; MAGIC.len()];
        // A segment that was being created when the power failed may be shorter.
        let whole = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
        self.position = if whole { to_u64(MAGIC.len()) } else { 0 };
        self.current = Some((start, path, file));
        Ok(())
    }
}
