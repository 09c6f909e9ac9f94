//! PyMedPhys's index.json, read and written, so that a site can switch in either direction.
//!
//! Input: an `index.json` that PyMedPhys wrote, with its files below `indexed/`: every file is read and compared with its key (SHA-1)
//! before its entry counts. Output: the same form, of all records whose treatment is known. Entries of PyMedPhys know no
//! TrackTreatment row; several fields in one record become its first field there.
//! Source: PyMedPhys 0.41, `_trf/manage/index.py`; compared in `tests/tests/trf_pymedphys.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use chrono::{DateTime, NaiveDateTime, Utc};
use rayon::prelude::*;
use rusqlite::TransactionBehavior;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entry::{Entry, FileFacts, State, Treated};
use super::{Index, filing, layout, rows};
use crate::{Error, Result};

/// Files that are read side by side, and entered in one transaction.
const BATCH: usize = 128;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Entries taken over; their files stay where they are.
    pub imported: usize,
    /// Entries whose record the index had already.
    pub known: usize,
    /// Entries that were not taken over: name in PyMedPhys's index, and why.
    pub refused: Vec<(String, String)>,
}

/// What an export did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Entries written.
    pub written: usize,
    /// Records that PyMedPhys's index has no place for: those in review, without treatment, unreadable or of service mode.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct TheirEntry {
    filepath: String,
    delivery_details: TheirDetails,
    #[serde(default)]
    local_time: Option<String>,
}

#[derive(Deserialize)]
struct TheirDetails {
    patient_id: Option<serde_json::Value>,
    field_id: i64,
    last_name: Option<String>,
    first_name: Option<String>,
    qa_mode: Option<serde_json::Value>,
    field_type: Option<String>,
    beam_completed: Option<serde_json::Value>,
}

impl Index {
    /// Takes over PyMedPhys's index of this root.
    ///
    /// # Arguments
    /// * `path` — its index.json, which must lie in this index's root
    /// * `linac_of`, `now` — names of the settings by machine id; the time of entry
    /// * `watch` — told how many of how many entries are done
    /// # Errors
    /// [`Error::Misuse`] when it lies elsewhere, [`Error::Malformed`] when it is no such index, [`Error::Io`], [`Error::Index`].
    pub fn import_pymedphys(
        &mut self,
        path: &Path,
        linac_of: &(dyn Fn(&str) -> Option<String> + Sync),
        now: DateTime<Utc>,
        watch: &dyn Fn(usize, usize),
    ) -> Result<Imported> {
        let directory = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        if directory != std::fs::canonicalize(&self.root).ok() {
            return Err(Error::misuse(format!("{} is not in {}", path.display(), self.root.display()))
                .with_hint("set trf.root to the root_directory of PyMedPhys's [trf_logfiles]"));
        }
        let theirs = read_theirs(path)?;
        let theirs: Vec<(&String, &TheirEntry)> = theirs.iter().collect();
        let mut imported = Imported::default();
        for (n, batch) in theirs.chunks(BATCH).enumerate() {
            watch(n * BATCH, theirs.len());
            let root = self.root.clone();
            let read: Vec<_> = batch
                .par_iter()
                .map(|(sha1, theirs)| ((*sha1).clone(), take_over(&root, sha1, theirs, linac_of, now)))
                .collect();
            let failed = self.failed();
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
            for (sha1, taken) in read {
                match taken {
                    Err(why) => imported.refused.push((sha1, why)),
                    Ok((entry, _))
                        if filing::find_one(&transaction, &entry.sha256).map_err(&failed)?.is_some() =>
                    {
                        imported.known += 1;
                    }
                    Ok((entry, items)) => {
                        let list = rows::item_list(&transaction, &items).map_err(&failed)?;
                        rows::upsert(&transaction, &entry, Some(list)).map_err(&failed)?;
                        imported.imported += 1;
                    }
                }
            }
            transaction.commit().map_err(&failed)?;
        }
        watch(theirs.len(), theirs.len());
        Ok(imported)
    }

    /// Writes the index as PyMedPhys has it.
    ///
    /// A file that is there is replaced only if the index knows all its entries.
    ///
    /// # Errors
    /// [`Error::Misuse`] when entries would be lost; [`Error::Io`], [`Error::Index`].
    pub fn export_pymedphys(&self, path: &Path) -> Result<Exported> {
        if path.exists() {
            self.knows_all_of(path)?;
        }
        let partial = path.with_extension("json.part");
        let written = self.write_theirs(&partial).and_then(|exported| {
            std::fs::rename(&partial, path).map_err(|e| Error::io(path, e))?;
            Ok(exported)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written
    }

    fn knows_all_of(&self, path: &Path) -> Result<()> {
        let mut unknown = 0;
        for sha1 in read_theirs(path)?.keys() {
            let known = self
                .connection
                .prepare_cached("SELECT 1 FROM entries WHERE sha1 = ?1")
                .and_then(|mut statement| statement.exists([rows::blob(sha1)]))
                .map_err(self.failed())?;
            unknown += usize::from(!known);
        }
        if unknown == 0 {
            return Ok(());
        }
        Err(Error::misuse(format!("{} has {unknown} entries that are not in our index", path.display()))
            .with_hint(
                "import them first with `scp-node trf index --import-pymedphys`, or name another file",
            ))
    }

    fn write_theirs(&self, path: &Path) -> Result<Exported> {
        let io = |error: std::io::Error| Error::io(path, error);
        let mut out = BufWriter::new(File::create(path).map_err(io)?);
        let sql = format!(
            "SELECT {}, l.items FROM entries e LEFT JOIN item_lists l ON l.id = e.item_list ORDER BY e.id",
            rows::COLUMNS
        );
        let mut exported = Exported::default();
        let mut statement = self.connection.prepare(&sql).map_err(self.failed())?;
        let mut rows_left = statement.query([]).map_err(self.failed())?;
        out.write_all(b"{").map_err(io)?;
        while let Some(row) = rows_left.next().map_err(self.failed())? {
            let (id, mut entry) = rows::entry(row).map_err(self.failed())?;
            if entry.state == State::Indexed {
                rows::fill(&self.connection, id, &mut entry).map_err(self.failed())?;
            }
            let items: Option<Vec<u8>> = row.get("items").map_err(self.failed())?;
            let Some(theirs) = theirs(&entry, &items.unwrap_or_default()) else {
                exported.left_out += 1;
                continue;
            };
            let comma = if exported.written == 0 { "" } else { "," };
            write!(out, "{comma}\n  \"{}\": {theirs}", entry.sha1).map_err(io)?;
            exported.written += 1;
        }
        out.write_all(b"\n}\n").map_err(io)?;
        out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
        Ok(exported)
    }
}

fn read_theirs(path: &Path) -> Result<BTreeMap<String, TheirEntry>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        // The parser's own words may show a name.
        Error::malformed(
            "PyMedPhys's index",
            error.column(),
            "an object of entries with filepath and delivery_details",
            format!("something else in line {}", error.line()),
        )
    })
}

/// One entry of theirs as ours, after its file was read and compared.
fn take_over(
    root: &Path,
    sha1: &str,
    theirs: &TheirEntry,
    linac_of: &(dyn Fn(&str) -> Option<String> + Sync),
    now: DateTime<Utc>,
) -> std::result::Result<(Entry, Vec<crate::ItemPart>), String> {
    let parts: Vec<&str> = theirs.filepath.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|part| *part == ".." || part.contains(':')) {
        return Err("its path leaves the directory of indexed records".to_owned());
    }
    let path = format!("{}/{}", layout::INDEXED, parts.join("/"));
    let file = path.split('/').fold(root.to_owned(), |path, part| path.join(part));
    let local_time = theirs
        .local_time
        .as_deref()
        .and_then(|text| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok());
    let read = match FileFacts::read(&file, |_| local_time) {
        Ok(read) => read,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err("its file is gone".to_owned());
        }
        Err(error) => return Err(format!("its file cannot be read: {}", error.hint())),
    };
    if read.sha1 != sha1 {
        return Err("its file holds other bytes".to_owned());
    }
    let Ok((facts, items)) = &read.record else {
        return Err("its file is no readable record".to_owned());
    };
    let details = &theirs.delivery_details;
    let mut entry = Entry::new(&read, linac_of(&facts.machine).as_deref(), parts.first().copied(), now);
    entry.path = path;
    entry.state = State::Indexed;
    entry.reason = Some("taken over from PyMedPhys's index".to_owned());
    entry.next_try = None;
    entry.treatments = vec![Treated {
        patient_id: details.patient_id.as_ref().and_then(text),
        last_name: details.last_name.clone().unwrap_or_default(),
        first_name: details.first_name.clone().unwrap_or_default(),
        field_id: details.field_id,
        field_label: facts.field_label.clone(),
        field_name: facts.field_name.clone(),
        field_type: details.field_type.clone().unwrap_or_else(|| "Unspecified".to_owned()),
        qa_mode: details.qa_mode.as_ref().is_some_and(truth),
        beam_completed: details.beam_completed.as_ref().is_some_and(truth),
        ..Treated::default()
    }];
    let items = items.clone();
    Ok((entry, items))
}

/// Text that JSON holds as text or as a number.
fn text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Truth that JSON holds as `true` or as 1.
fn truth(value: &serde_json::Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_i64().is_some_and(|n| n != 0))
}

/// An entry as PyMedPhys writes it; `None` if it has no place for it.
fn theirs(entry: &Entry, items: &[u8]) -> Option<serde_json::Value> {
    let (facts, treated) = (entry.facts.as_ref()?, entry.treatments.first()?);
    let filepath = entry.path.strip_prefix(layout::INDEXED)?.strip_prefix('/')?;
    let item_parts: Vec<i16> = items
        .chunks_exact(2)
        .map(|pair| {
            i16::from_le_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)])
        })
        .collect();
    Some(json!({
        "filepath": filepath,
        "delivery_details": {
            "patient_id": treated.patient_id,
            "field_id": treated.field_id,
            "last_name": treated.last_name,
            "first_name": treated.first_name,
            "qa_mode": treated.qa_mode,
            "field_type": treated.field_type,
            "beam_completed": treated.beam_completed,
        },
        "logfile_header": {
            "machine": facts.machine,
            "date": facts.utc_text,
            "timezone": facts.utc_offset_text,
            "field_label": facts.field_label,
            "field_name": facts.field_name,
            "mu": facts.total_dose_tenth_mu,
            "version": facts.version,
            "item_parts_number": item_parts.len() / 2,
            "item_parts_length": item_parts.len(),
            "item_parts": item_parts,
        },
        "local_time": facts.local_time.format("%Y-%m-%d %H:%M:%S").to_string(),
    }))
}
