//! From extracted records to "the record of this field of this patient": enter, align, file.
//!
//! Input: any `.trf` below `<trf.root>/to_be_indexed`, and the treatments that [`Treatments`] gives. Output: the index and its
//! directories, and an [`IndexRun`] without identities. First every new file is entered by what it says itself, so that it can be
//! found by machine, field and time at once, Mosaiq or not. Then all records whose treatment is to be looked for are aligned, day by
//! day of each linac; what found none is looked for again later, what is ambiguous waits for a person.

mod enter;
mod treatment;

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use trf_core::Zone;
use trf_core::index::{Counts, Index, Repaired};

use super::treatments::Treatments;
use super::turn::Turn;
use crate::error::{Error, Result};
use crate::settings::{LinacSettings, Settings, SiteSettings};

/// How the index is brought up to date.
#[derive(Clone, Debug, Default)]
pub struct IndexOptions {
    /// These linacs only; empty: all.
    pub only: Vec<String>,
    /// Matches each record by itself with PyMedPhys's rule.
    pub like_pymedphys: bool,
    /// Looks for all records without treatment now, whenever they would be due, also those given up.
    pub retry: bool,
    /// Enters files that lie in the index's directories but are not in it.
    pub rescan: bool,
}

/// What is being done, for a progress bar: step, done, of how many.
pub type IndexWatch<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// What a run did. No identities: names of linacs, counts, hashes.
#[derive(Clone, Debug, Serialize)]
pub struct IndexRun {
    /// When it began.
    pub started_utc: DateTime<Utc>,
    /// When it ended.
    pub finished_utc: DateTime<Utc>,
    /// What a crash of an earlier run had left.
    pub repaired: Repaired,
    /// Per linac; records of no linac of the settings stand under `-`.
    pub linacs: BTreeMap<String, LinacIndexed>,
    /// What did not work, and what to do about it.
    pub troubles: Vec<Trouble>,
    /// What the index holds now.
    pub counts: Counts,
    /// Whether it was stopped before its end; the rest is done by the next run.
    pub stopped: bool,
}

/// What a run did for one linac.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LinacIndexed {
    /// Records entered for the first time.
    pub new: usize,
    /// Files whose record was in the index already; the repetition was removed.
    pub known: usize,
    /// Of the new ones, beams of service mode.
    pub service_mode: usize,
    /// Of the new ones, files that are no readable record.
    pub unreadable: usize,
    /// Records whose treatment was found.
    pub matched: usize,
    /// Records that went to review.
    pub review: usize,
    /// Records that found no treatment this time.
    pub without_treatment: usize,
    /// Linac's clock minus the server's at the end of the newest day, in s.
    pub drift_s: Option<f64>,
}

/// Something that did not work, without identities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The site or linac, or the file's place below the root.
    pub about: String,
    /// What.
    pub text: String,
    /// [`Error::kind`]
    pub kind: String,
    /// What to do.
    pub hint: String,
}

impl Trouble {
    pub(super) fn new(about: &str, error: &Error) -> Self {
        Self {
            about: about.to_owned(),
            text: error.to_string(),
            kind: error.kind().to_owned(),
            hint: error.hint(),
        }
    }
}

impl IndexRun {
    /// Whether everything worked.
    pub fn is_clean(&self) -> bool {
        self.troubles.is_empty() && !self.stopped && self.repaired.vanished.is_empty()
    }
}

/// Brings the index up to date; blocking.
///
/// # Errors
/// [`Error::Cancelled`] while it waited for another run; [`Error::Catalog`] and [`Error::Io`] when the index cannot be written. What
/// one site, linac or file did wrong is in the run's troubles.
pub fn index(
    settings: &Settings,
    options: &IndexOptions,
    treatments: &mut dyn Treatments,
    watch: IndexWatch<'_>,
    cancel: &CancellationToken,
) -> Result<IndexRun> {
    let started_utc = Utc::now();
    let root = &settings.trf.root;
    let _turn = Turn::wait(root, || watch("waiting for another run", 0, 0), cancel)?;
    let index = Index::open(root)?;
    let repaired = index.repaired().clone();
    if !repaired.is_nothing() {
        tracing::warn!(
            finished = repaired.finished,
            undone = repaired.undone,
            moved_again = repaired.moved_again,
            vanished = repaired.vanished.len(),
            "an interrupted run was put right"
        );
    }
    let run = IndexRun {
        started_utc,
        finished_utc: started_utc,
        repaired,
        linacs: BTreeMap::new(),
        troubles: Vec::new(),
        counts: Counts::default(),
        stopped: false,
    };
    let mut job = Job { settings, options, index, run, watch, cancel, now: started_utc };
    job.enter()?;
    job.align(treatments)?;
    job.run.stopped = cancel.is_cancelled();
    job.run.counts = job.index.counts()?;
    job.run.finished_utc = Utc::now();
    Ok(job.run)
}

/// The linac and site of a record: by the directory it came in, else by the machine id in its header.
pub fn linac_of<'a>(
    settings: &'a Settings,
    directory: Option<&str>,
    machine: Option<&str>,
) -> Option<(&'a SiteSettings, &'a LinacSettings)> {
    let all = || settings.sites.iter().flat_map(|site| site.linacs.iter().map(move |linac| (site, linac)));
    let is = |name: &str, wanted: &str| !wanted.is_empty() && name.trim().eq_ignore_ascii_case(wanted.trim());
    let by_name = |wanted: &str| all().find(|(_, linac)| is(&linac.name, wanted));
    directory
        .and_then(by_name)
        .or_else(|| machine.and_then(by_name))
        .or_else(|| machine.and_then(|machine| all().find(|(_, linac)| is(&linac.mosaiq_name, machine))))
}

/// The zone of a site's wall clock, if it is set.
fn zone(site: &SiteSettings) -> Option<Zone> {
    site.mosaiq.as_ref().and_then(|mosaiq| mosaiq.zone().ok())
}

struct Job<'a> {
    settings: &'a Settings,
    options: &'a IndexOptions,
    index: Index,
    run: IndexRun,
    watch: IndexWatch<'a>,
    cancel: &'a CancellationToken,
    now: DateTime<Utc>,
}

impl Job<'_> {
    fn linac(&mut self, name: Option<&str>) -> &mut LinacIndexed {
        self.run.linacs.entry(name.unwrap_or("-").to_owned()).or_default()
    }

    fn is_wanted(&self, linac: Option<&str>) -> bool {
        let only = &self.options.only;
        only.is_empty()
            || linac.is_some_and(|name| only.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)))
    }

    fn trouble_with_file(&mut self, path: &Path, error: &Error) {
        let root = &self.settings.trf.root;
        // Below `indexed` the path names a patient: the file's own name does not.
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let place = path.strip_prefix(root).ok().and_then(|path| path.iter().next());
        let about = place.map_or(name.clone(), |place| format!("{}/…/{name}", place.to_string_lossy()));
        let text = match error {
            Error::Io { source, .. } => format!("cannot be moved or read: {source}"),
            other => other.to_string(),
        };
        tracing::error!(%about, error = %text, "a record could not be entered");
        self.run.troubles.push(Trouble { about, text, kind: error.kind().to_owned(), hint: error.hint() });
    }
}
