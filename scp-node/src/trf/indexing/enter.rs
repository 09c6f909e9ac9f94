//! New files into the index, by what they say themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rayon::prelude::*;
use trf_core::Header;
use trf_core::index::{Entry, FileFacts, Filed, Filing, State, layout};

use super::{Job, linac_of, zone};
use crate::error::{Error, Result};

/// Files that are read side by side and entered together.
const BATCH: usize = 64;

impl Job<'_> {
    /// Enters every new file by what it says itself.
    pub(super) fn enter(&mut self) -> Result<()> {
        let root = self.settings.trf.root.clone();
        let incoming = root.join(layout::TO_BE_INDEXED);
        let mut files: Vec<(Option<String>, PathBuf)> = Vec::new();
        for path in records_below(&incoming)? {
            // `<linac>/…/name.trf`; PyMedPhys puts all linacs into one directory.
            let below = path.strip_prefix(&incoming).unwrap_or(&path);
            let linac = below.parent().and_then(|parent| parent.iter().next());
            files.push((linac.map(|name| name.to_string_lossy().into_owned()), path));
        }
        if self.options.rescan {
            for path in self.unknown_files(&root)? {
                files.push((None, path));
            }
        }
        for (n, batch) in files.chunks(BATCH).enumerate() {
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            (self.watch)("entering records", n * BATCH, files.len());
            self.enter_batch(batch)?;
        }
        (self.watch)("entering records", files.len(), files.len());
        Ok(())
    }

    /// Files in the index's directories that it does not know.
    fn unknown_files(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let mut places: Vec<PathBuf> = vec![root.join(layout::INDEXED), root.join("to_be_reviewed")];
        places.extend(State::ALL.map(|state| root.join(state.word())));
        let known: BTreeSet<PathBuf> =
            self.index.find(&Default::default())?.iter().map(|entry| entry.file(root)).collect();
        let mut unknown = Vec::new();
        for place in places {
            unknown.extend(records_below(&place)?.into_iter().filter(|path| !known.contains(path)));
        }
        unknown.sort();
        unknown.dedup();
        Ok(unknown)
    }

    fn enter_batch(&mut self, batch: &[(Option<String>, PathBuf)]) -> Result<()> {
        let settings = self.settings;
        let read: Vec<_> = batch
            .par_iter()
            .map(|(directory, path)| {
                let machine = Header::read(path).ok().map(|header| header.machine_id);
                let known = linac_of(settings, directory.as_deref(), machine.as_deref());
                let zone = known.and_then(|(site, _)| zone(site));
                let local = |time: DateTime<Utc>| zone.as_ref().map(|zone| zone.local(time));
                let name = known.map(|(_, linac)| linac.name.clone());
                (path, name, known.map(|(site, _)| site.name.clone()), FileFacts::read(path, local))
            })
            .collect();
        let mut filings = Vec::new();
        for (path, linac, centre, read) in read {
            if !self.is_wanted(linac.as_deref()) {
                continue;
            }
            match read {
                Ok(read) => {
                    let entry = Entry::new(&read, linac.as_deref(), centre.as_deref(), self.now);
                    let items = read.record.map(|(_, items)| items).unwrap_or_default();
                    filings.push(Filing { source: path.clone(), entry, items });
                }
                // Gone since it was listed: another run took it.
                Err(trf_core::Error::Io { .. }) if !path.exists() => {}
                Err(error) => self.trouble_with_file(path, &error.into()),
            }
        }
        let results = self.index.file(&filings)?;
        for (filing, result) in filings.into_iter().zip(results) {
            let counts = self.linac(filing.entry.linac.as_deref());
            match result {
                Ok(Filed::Moved { .. }) => {
                    counts.new += 1;
                    counts.service_mode += usize::from(filing.entry.state == State::NoFieldLabelInLogfile);
                    counts.unreadable += usize::from(filing.entry.state == State::UnknownErrorInLogfile);
                }
                Ok(Filed::Known { .. }) => counts.known += 1,
                Ok(Filed::Restored { .. }) => {
                    counts.known += 1;
                    tracing::warn!(
                        record = filing.entry.short(),
                        "a record's file was gone or damaged, and is restored"
                    );
                }
                Err(error) => self.trouble_with_file(&filing.source, &error.into()),
            }
        }
        Ok(())
    }
}

/// All `.trf` below a directory, in order of name; none where there is no such directory.
fn records_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(&directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(&directory))?;
            let kind = entry.file_type().map_err(Error::io(&directory))?;
            let path = entry.path();
            // Links are not followed: they may lead out of the directory, or in circles.
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("trf"))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
