//! Entered records to their treatments: day by day of each linac; what found none is looked for again later.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use trf_core::align::{self, AlignOptions, Drift, Log, Outcome, Treatment, Unmatched};
use trf_core::index::{Candidate, ClockDay, Entry, Filing, Part, State, Treated, field_type};

use super::{Job, Trouble, linac_of, zone};
use crate::error::{Error, Result};
use crate::settings::{LinacSettings, SiteSettings};
use crate::trf::treatments::Treatments;

/// When one day of a linac ends and the next begins: as alignment has it, when nobody is treated.
const DAY_BEGINS: TimeDelta = TimeDelta::hours(4);
/// Pause before a treatment is looked for again, doubled each time.
const FIRST_RETRY: TimeDelta = TimeDelta::hours(1);
/// Its bound.
const LONGEST_RETRY: TimeDelta = TimeDelta::days(7);
/// For so long a treatment is looked for: rows of TrackTreatment that come later than this were not seen anywhere.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(60);

impl Job<'_> {
    /// Looks for the treatments of all records that are due.
    pub(super) fn align(&mut self, treatments: &mut dyn Treatments) -> Result<()> {
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
                // Nothing was measured; as a record of 0 MU it would fit what was canceled.
                _ if facts.delivered_mu.is_none() => {
                    nowhere
                        .push((entry, "the record has no dose counter to know its treatment by".to_owned()));
                }
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
        let named: BTreeSet<String> = due.iter().map(|entry| entry.sha256.clone()).collect();
        let neighbours = around.into_iter().filter(|entry| !named.contains(&entry.sha256));
        let all = due.into_iter().map(|entry| (entry, true)).chain(neighbours.map(|entry| (entry, false)));
        let (mut entries, mut is_due, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, due) in all {
            let Some(log) = log(&entry) else { continue };
            entries.push(entry);
            is_due.push(due);
            logs.push(log);
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

/// An entry as alignment sees it; `None` for what has no dose counter.
fn log(entry: &Entry) -> Option<Log> {
    let facts = entry.facts.as_ref()?;
    Some(Log {
        id: entry.sha256.clone(),
        start_utc: facts.start_utc,
        end_utc: facts.end_utc,
        field_label: facts.field_label.clone(),
        field_name: facts.field_name.clone(),
        meterset_mu: facts.delivered_mu?,
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
