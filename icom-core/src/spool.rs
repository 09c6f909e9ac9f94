//! The messages of an open record, one after the other in a plain file beside the journal.
//!
//! It can be made again from the journal at any time, so nothing here is durable: a start deletes what the last run left.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An open record's messages.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) path: PathBuf,
    file: File,
    good_len: u64,
}

impl Spool {
    pub(crate) fn create(dir: &Path, stream_start: u64) -> Result<Self> {
        let path = dir.join(format!("{PREFIX}{stream_start:020}{SUFFIX}"));
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, good_len: 0 })
    }

    /// Appends a message; after an error nothing of it counts, and it may be tried again.
    pub(crate) fn append(&mut self, message: &[u8]) -> Result<()> {
        let written = self.file.write_all(message);
        match written {
            Ok(()) => self.good_len = self.good_len.saturating_add(u64::try_from(message.len()).unwrap_or(0)),
            Err(_) => {
                self.file.set_len(self.good_len).map_err(Error::io(&self.path))?;
                self.file.seek(SeekFrom::Start(self.good_len)).map_err(Error::io(&self.path))?;
            }
        }
        written.map_err(Error::io(&self.path))
    }

    /// Deletes what earlier runs left.
    pub(crate) fn clear(dir: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let ours = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            if ours {
                std::fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}

const PREFIX: &str = "spool-";
const SUFFIX: &str = ".icom";
