//! From extracted records to "the record of this field of this patient": enter, align, file.
//!
//! Input: any `.trf` below `<trf.root>/to_be_indexed`, and the treatments that [`Treatments`] gives. Output: the index and its
//! directories, and an [`IndexRun`] without identities. First every new file is entered by what it says itself, so that it can be
//! found by machine, field and time at once, Mosaiq or not. Then all records whose treatment is to be looked for are aligned, day by
//! day of each linac; what found none is looked for again later, what is ambiguous waits for a person.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use rayon::prelude::*;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use trf_core::Header;
use trf_core::align::{self, AlignOptions, Drift, Log, Outcome, Treatment, Unmatched};
use trf_core::index::{
    Candidate, ClockDay, Counts, Entry, FileFacts, Filed, Filing, Index, Part, Repaired, State, Treated,
    field_type, layout,
};

use super::treatments::Treatments;
use super::turn::Turn;
use crate::error::{Error, Result};
use crate::settings::{LinacSettings, Settings, SiteSettings};

/// Files that are read side by side and entered together.
const BATCH: usize = 64;
/// When one day of a linac ends and the next begins: as alignment has it, when nobody is treated.
const DAY_BEGINS: TimeDelta = TimeDelta::hours(4);
/// Pause before a treatment is looked for again, doubled each time.
const FIRST_RETRY: TimeDelta = TimeDelta::hours(1);
/// Its bound.
const LONGEST_RETRY: TimeDelta = TimeDelta::days(7);
/// For so long a treatment is looked for: rows of TrackTreatment that come later than this were not seen anywhere.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(60);

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
fn zone(site: &SiteSettings) -> Option<Tz> {
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

    /// Enters every new file by what it says itself.
    fn enter(&mut self) -> Result<()> {
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
                let local = |time: DateTime<Utc>| zone.map(|zone| time.with_timezone(&zone).naive_local());
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

    /// Looks for the treatments of all records that are due.
    fn align(&mut self, treatments: &mut dyn Treatments) -> Result<()> {
        let due = if self.options.retry { self.index.waiting()? } else { self.index.due(self.now)? };
        let mut days: BTreeMap<(String, String, NaiveDate), Vec<Entry>> = BTreeMap::new();
        let mut nowhere = Vec::new();
        for mut entry in due {
            let Some(facts) = &entry.facts else { continue };
            let day = day_of(facts.local_time);
            let found = linac_of(self.settings, entry.linac.as_deref(), Some(&facts.machine));
            if !self.is_wanted(found.map(|(_, linac)| linac.name.as_str())) {
                continue;
            }
            match found {
                Some((site, linac)) if site.mosaiq.is_some() => {
                    entry.linac = Some(linac.name.clone());
                    entry.centre = Some(site.name.clone());
                    days.entry((site.name.clone(), linac.name.clone(), day)).or_default().push(entry);
                }
                Some((site, _)) => nowhere.push((entry, format!("site {} has no [site.mosaiq]", site.name))),
                None => nowhere.push((entry, "its machine is in no [[site.linac]]".to_owned())),
            }
        }
        let later = nowhere.into_iter().map(|(entry, reason)| self.later(entry, reason)).collect();
        self.refile(later)?;
        let mut down: BTreeSet<String> = BTreeSet::new();
        let n_days = days.len();
        for (n, ((site, linac, day), due)) in days.into_iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            (self.watch)("aligning days", n, n_days);
            let Some((site, linac)) =
                linac_of(self.settings, Some(&linac), None).filter(|(s, _)| s.name == site)
            else {
                continue;
            };
            if down.contains(&site.name) {
                continue;
            }
            match self.align_day(site, linac, day, due, treatments) {
                Ok(()) => {}
                // Our own index, not a server.
                Err(error @ (Error::Io { .. } | Error::Trf(trf_core::Error::Index { .. }))) => {
                    return Err(error);
                }
                Err(error) => {
                    // A server that does not answer is not asked again for each day; a linac it does not know keeps no other.
                    let whole_site = matches!(error.kind(), "unreachable" | "settings" | "timeout");
                    let about = if whole_site { &site.name } else { &linac.name };
                    tracing::error!(%about, %error, hint = error.hint(), "treatments cannot be read");
                    let trouble = Trouble::new(about, &error);
                    if !self.run.troubles.contains(&trouble) {
                        self.run.troubles.push(trouble);
                    }
                    if whole_site {
                        down.insert(site.name.clone());
                    }
                }
            }
        }
        (self.watch)("aligning days", n_days, n_days);
        Ok(())
    }

    fn align_day(
        &mut self,
        site: &SiteSettings,
        linac: &LinacSettings,
        day: NaiveDate,
        due: Vec<Entry>,
        source: &mut dyn Treatments,
    ) -> Result<()> {
        let Some(zone) = zone(site) else {
            return Err(Error::Settings {
                key: "site.mosaiq.time_zone".into(),
                what: "is no IANA name such as Australia/Sydney".into(),
            });
        };
        let begins = day.and_time(NaiveTime::MIN) + DAY_BEGINS;
        let around = self.index.around(&linac.name, begins, begins + TimeDelta::days(1))?;
        // The ones that are due, and their neighbours.
        let mut entries: Vec<Entry> = due;
        let mut is_due = vec![true; entries.len()];
        let named: BTreeSet<String> = entries.iter().map(|entry| entry.sha256.clone()).collect();
        for entry in around.into_iter().filter(|entry| !named.contains(&entry.sha256)) {
            entries.push(entry);
            is_due.push(false);
        }
        let logs: Vec<Log> = entries.iter().filter_map(log).collect();
        if logs.len() != entries.len() {
            return Ok(());
        }
        let mut options = AlignOptions::new(zone);
        let Some((from, until)) = align::local_span(&logs, &options) else { return Ok(()) };
        let treatments = source.of(site, linac, from, until)?;
        let (before, after) = self.index.drifts_around(&linac.name, day)?;
        options.drift_before = before.map(|clock| drift(&clock, day));
        options.drift_after = after.map(|clock| drift(&clock, day));
        let outcomes = if self.options.like_pymedphys {
            logs.iter().map(|log| align::like_pymedphys(log, &treatments, &options)).collect()
        } else {
            let aligned = align::align_day(&logs, &treatments, &options);
            self.remember_clock(linac, day, aligned.drift)?;
            aligned.outcomes
        };
        let refiled = self.settle(&entries, &is_due, &outcomes, &treatments)?;
        self.refile(refiled)
    }

    fn remember_clock(&mut self, linac: &LinacSettings, day: NaiveDate, found: Option<Drift>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let n_pairs = u32::try_from(found.n_pairs).unwrap_or(u32::MAX);
        let clock = ClockDay { day, seconds: found.seconds, spread_s: found.spread_s, n_pairs };
        self.index.set_drift(&linac.name, &clock)?;
        self.linac(Some(&linac.name)).drift_s = Some(found.seconds);
        Ok(())
    }

    /// What each entry becomes; entries whose treatment is known stay as they are, but may turn out to be part of a delivery.
    fn settle(
        &mut self,
        entries: &[Entry],
        is_due: &[bool],
        outcomes: &[Outcome],
        treatments: &[Treatment],
    ) -> Result<Vec<Entry>> {
        let mut changed = Vec::new();
        for ((entry, &is_due), outcome) in entries.iter().zip(is_due).zip(outcomes) {
            let part = part_of(outcome, entries);
            if !is_due {
                if entry.state == State::Indexed
                    && part.is_some()
                    && part != entry.part_of
                    && is_same(entry, outcome, treatments)
                {
                    changed.push(Entry { part_of: part, ..entry.clone() });
                }
                continue;
            }
            let mut new = entry.clone();
            new.candidates.clear();
            match outcome {
                Outcome::Matched { treatments: rows, meterset_mu, .. } => {
                    let chosen = treated(rows, Some(meterset_mu), treatments);
                    let doubt = match self.doubt(entry, &chosen, part.as_ref())? {
                        Some(doubt) => Some(doubt),
                        None if chosen.is_empty() => Some("alignment named no treatment"),
                        None => None,
                    };
                    if let Some(doubt) = doubt {
                        new.candidates =
                            vec![Candidate { treatments: chosen, behind: Some(0.0), drift_s: None }];
                        changed.push(self.for_review(new, doubt));
                        continue;
                    }
                    new.treatments = chosen;
                    new.part_of = part;
                    new.state = State::Indexed;
                    new.reason = None;
                    new.next_try = None;
                    self.linac(new.linac.clone().as_deref()).matched += 1;
                    changed.push(new);
                }
                Outcome::Ambiguous { candidates } => {
                    new.candidates = candidates
                        .iter()
                        .map(|candidate| Candidate {
                            treatments: treated(&candidate.treatments, None, treatments),
                            behind: Some(candidate.behind).filter(|n| n.is_finite()),
                            drift_s: Some(candidate.drift_s).filter(|n| n.is_finite()),
                        })
                        .collect();
                    changed.push(self.for_review(new, "more than one treatment could be it"));
                }
                Outcome::Unmatched { reason } => {
                    let why = why(reason);
                    changed.push(self.later(new, why));
                }
            }
        }
        Ok(changed)
    }

    /// What speaks against a match that alignment is sure of.
    fn doubt(&self, entry: &Entry, chosen: &[Treated], part: Option<&Part>) -> Result<Option<&'static str>> {
        let patients: BTreeSet<_> = chosen.iter().map(|treated| treated.pat_id1).collect();
        if patients.len() > 1 {
            return Ok(Some("its treatments belong to more than one patient"));
        }
        // Records of one interrupted delivery share their treatment, nobody else does.
        if part.is_some() {
            return Ok(None);
        }
        for treated in chosen {
            let Some(ttx_id) = treated.ttx_id else { continue };
            if self.index.claimed_by(ttx_id)?.iter().any(|other| other.sha256 != entry.sha256) {
                return Ok(Some("its treatment is that of another record already"));
            }
        }
        Ok(None)
    }

    fn for_review(&mut self, mut entry: Entry, reason: &str) -> Entry {
        let was_there = entry.state == State::Review;
        entry = self.retried(entry, reason.to_owned());
        entry.state = State::Review;
        let counts = self.linac(entry.linac.clone().as_deref());
        counts.review += usize::from(!was_there);
        entry
    }

    /// No treatment now: again later, or not any more.
    fn later(&mut self, entry: Entry, reason: String) -> Entry {
        let mut entry = self.retried(entry, reason);
        entry.state = State::NoMosaiqRecordFound;
        entry.candidates.clear();
        self.linac(entry.linac.clone().as_deref()).without_treatment += 1;
        entry
    }

    fn retried(&self, mut entry: Entry, reason: String) -> Entry {
        let pause = FIRST_RETRY * 2_i32.saturating_pow(entry.tries.min(12));
        entry.tries = entry.tries.saturating_add(1);
        let over = self.now - entry.added > GIVE_UP_AFTER;
        entry.next_try = (!over).then(|| self.now + pause.min(LONGEST_RETRY));
        entry.reason = Some(if over { format!("{reason}; not looked for any more") } else { reason });
        entry
    }

    fn refile(&mut self, entries: Vec<Entry>) -> Result<()> {
        let root = self.settings.trf.root.clone();
        let filings: Vec<Filing> = entries
            .into_iter()
            .map(|entry| Filing { source: entry.file(&root), entry, items: Vec::new() })
            .collect();
        let results = self.index.file(&filings)?;
        for (filing, result) in filings.iter().zip(results) {
            if let Err(error) = result {
                self.trouble_with_file(&filing.source, &error.into());
            }
        }
        Ok(())
    }
}

/// An entry as alignment sees it.
fn log(entry: &Entry) -> Option<Log> {
    let facts = entry.facts.as_ref()?;
    Some(Log {
        id: entry.sha256.clone(),
        start_utc: facts.start_utc,
        end_utc: facts.end_utc,
        field_label: facts.field_label.clone(),
        field_name: facts.field_name.clone(),
        meterset_mu: facts.delivered_mu.unwrap_or(0.0),
        beams_mu: facts.beams_mu.clone(),
    })
}

fn drift(clock: &ClockDay, day: NaiveDate) -> Drift {
    let known = Drift { seconds: clock.seconds, spread_s: clock.spread_s, n_pairs: clock.n_pairs as usize };
    known.after_days((day - clock.day).num_days() as f64)
}

fn part_of(outcome: &Outcome, entries: &[Entry]) -> Option<Part> {
    let Outcome::Matched { part_of: Some(part), .. } = outcome else { return None };
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let first = entries.get(part.first_log)?.sha256.clone();
    Some(Part { first, part: number(part.part), parts: number(part.parts) })
}

/// Whether alignment finds again what the index knows.
fn is_same(entry: &Entry, outcome: &Outcome, treatments: &[Treatment]) -> bool {
    let Outcome::Matched { treatments: rows, .. } = outcome else { return false };
    let found = rows.iter().filter_map(|&row| treatments.get(row)).map(|treatment| Some(treatment.ttx_id));
    found.eq(entry.treatments.iter().map(|treated| treated.ttx_id))
}

fn treated(rows: &[usize], delivered_mu: Option<&Vec<f64>>, treatments: &[Treatment]) -> Vec<Treated> {
    let mu = |n: usize| delivered_mu.and_then(|mu| mu.get(n).copied()).filter(|mu| mu.is_finite());
    let row = |(n, &row): (usize, &usize)| {
        treatments.get(row).map(|t| Treated {
            ttx_id: Some(t.ttx_id),
            dhs_id: t.dhs_id,
            pat_id1: Some(t.pat_id1),
            patient_id: t.patient_id.clone(),
            last_name: t.last_name.clone(),
            first_name: t.first_name.clone(),
            field_id: t.field_id,
            field_label: t.field_label.clone(),
            field_name: t.field_name.clone(),
            field_type: field_type(t.field_type),
            meterset_mu: t.meterset_mu.filter(|mu| mu.is_finite()),
            delivered_mu: mu(n),
            created_local: Some(t.created_local),
            edited_local: Some(t.edited_local),
            qa_mode: t.qa_mode,
            beam_completed: t.beam_complete,
        })
    };
    rows.iter().enumerate().filter_map(row).collect()
}

/// The day of the clinic.
fn day_of(local_time: NaiveDateTime) -> NaiveDate {
    (local_time - DAY_BEGINS).date()
}

/// Why no treatment can be meant, for people.
fn why(reason: &Unmatched) -> String {
    match reason {
        Unmatched::NoFieldLabel => "no field label".to_owned(),
        Unmatched::NoSuchField => "no treatment of that day has this field".to_owned(),
        Unmatched::OtherTime { nearest_s } => {
            format!("no treatment of this field at that time; the nearest is {nearest_s:.0} s away")
        }
        Unmatched::OtherMeterset { planned_mu } => {
            format!("the treatment at that time has another meterset: {planned_mu:.1} MU")
        }
        Unmatched::Taken => "the treatments that fit belong to other records".to_owned(),
        _ => "no treatment fits".to_owned(),
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
