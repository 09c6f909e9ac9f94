//! The whole job: from "this patient's newest images of that plan" to files that are all there.
//!
//! [`kept`] answers at once from the catalog, within the time in which an archive's answer is fresh; [`fetch`] does the rest.
//! Steps of a `job`: what the archive has (`memory`, or C-FIND by `refresh`) → which plan and session are meant (`choice`) →
//! whether that session's series still has the same images (one narrow C-FIND, unless it was just listed) → what of it is
//! missing on disk → C-MOVE of that alone to our own AE (`mover`), into the running service or a receiver of our own (`inbox`)
//! → `hand_out` when every listed instance is there, else nothing. Several processes may do this at once: they take turns
//! (`lock`) per patient when asking and looking inside, and per series when moving, so that the second finds done what the
//! first did. Input: a patient ID and a label from a user, answers of an archive; neither is trusted with paths.

mod choice;
mod hand_out;
mod inbox;
mod job;
mod lock;
mod memory;
mod mover;
mod ours;
mod refresh;

use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::images::{Catalog, Instance, Session};
use crate::names::{Uid, fits};
use crate::scu::{Archive, Inquiry, ListedPlan};
use crate::settings::Settings;

pub use choice::is_of_type;
#[cfg(feature = "server")]
pub(crate) use inbox::store_for_service;
pub use inbox::{has_guests, see_guests_out};
use job::{Ask, Job};
pub use memory::last_answered;
use memory::{Listing, Memory};
pub(crate) use memory::{remember_strategy, strategy};

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct FetchRequest {
    /// (0010,0020), exact.
    pub patient_id: String,
    /// (300A,0002), exact; needed unless `plan_uid` is given.
    pub plan_label: Option<String>,
    /// Forces one of several plans with the same label.
    pub plan_uid: Option<Uid>,
    /// Acquisition date; the newest when absent.
    pub date: Option<NaiveDate>,
    /// Only sessions acquired before this.
    pub before: Option<NaiveDateTime>,
    /// One value that Image Type must hold, or several, separated by `\`, that it must be.
    pub image_type: Option<String>,
    /// The imager's beam (kV) instead of the treatment beam (MV).
    pub kv: bool,
    /// Every session of the plan instead of the newest.
    pub all_dates: bool,
    /// Name of the archive; the first one when absent.
    pub archive: Option<String>,
    /// Limit of the whole job; none when absent.
    pub timeout: Option<Duration>,
    /// Asks the archive even within the freshness time.
    pub refresh: bool,
}

/// One session that is whole on disk.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FetchedSession {
    /// The session; its directory holds the files.
    pub session: Session,
    /// The images that were asked for, in order of acquisition. The directory may hold others, such as the kV images
    /// of the same series.
    pub instances: Vec<Instance>,
    /// SOP Instance UIDs of other images of the session that lie in its directory though the archive no longer lists them.
    pub unlisted: Vec<String>,
}

/// What was handed out, and what it took.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Fetched {
    /// Newest first; never empty; one unless all dates were wanted.
    pub sessions: Vec<FetchedSession>,
    /// The plan of the newest session.
    pub plan_uid: String,
    /// Its label, where known.
    pub plan_label: Option<String>,
    /// What the user should know, such as a label that two plans share.
    pub notices: Vec<String>,
    /// How many images were moved; 0 when all were there.
    pub moved: usize,
    /// How many C-FINDs were sent; 0 within the freshness time.
    pub queries: usize,
}

/// What is going on, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The archive is being asked.
    Asking,
    /// Objects are fetched only to read what the archive does not tell.
    LookingInside {
        /// How many.
        objects: usize,
    },
    /// Images are on their way.
    Moving {
        /// Arrived or failed so far.
        done: usize,
        /// All that were missing.
        total: usize,
    },
}

impl FetchRequest {
    /// The newest MV session of a plan.
    pub fn new(patient_id: &str, plan_label: &str) -> Self {
        Self { patient_id: patient_id.into(), plan_label: Some(plan_label.into()), ..Self::default() }
    }

    /// Itself, without the spaces that mean nothing.
    fn checked(&self) -> Result<Self> {
        let patient_id = checked_patient_id(&self.patient_id)?.to_owned();
        let plan_label = self.plan_label.as_deref().map(|l| l.trim_matches(' ').to_owned());
        if plan_label.as_deref().is_none_or(str::is_empty) && self.plan_uid.is_none() {
            return Err(misuse("a plan is needed", "give its label with --plan, or its UID with --plan-uid"));
        }
        Ok(Self { patient_id, plan_label: plan_label.filter(|l| !l.is_empty()), ..self.clone() })
    }
}

/// One patient, not several, without the spaces at its ends, which mean nothing (PS3.5 §6.2, LO).
fn checked_patient_id(text: &str) -> Result<&str> {
    let patient_id = text.trim_matches(' ');
    if patient_id.is_empty() {
        return Err(misuse("a patient ID is needed", "give --patient"));
    }
    if patient_id.contains('\\') {
        return Err(misuse(
            "a patient ID holds no backslash, which separates values in DICOM",
            "give the ID of one patient",
        ));
    }
    if patient_id.chars().all(|c| matches!(c, '*' | '?')) {
        return Err(misuse(
            "a patient ID of wildcards alone means every patient",
            "give the ID of one patient",
        ));
    }
    Ok(patient_id)
}

fn misuse(what: &str, hint: &str) -> Error {
    Error::Misuse { what: what.into(), hint: hint.into() }
}

/// What is wanted, if the archive was asked within the freshness time and all of it is on disk; else `None`, and it is
/// [`fetch`]'s turn.
///
/// Asks nobody, waits for nobody and writes nothing, so that it needs neither a runtime nor the right to write.
///
/// # Errors
/// [`Error::Misuse`], [`Error::Settings`]; [`Error::Catalog`] when the catalog cannot be read.
pub fn kept(request: &FetchRequest, settings: &Settings) -> Result<Option<Fetched>> {
    let request = &request.checked()?;
    let archive = Archive::new(settings.archive(request.archive.as_deref())?, &settings.node.ae_title);
    if request.refresh {
        return Ok(None);
    }
    let mut catalog = match Catalog::open_readonly(&settings.images.root) {
        Err(Error::NotFound { .. }) => return Ok(None),
        catalog => catalog?,
    };
    if !catalog.is_current()? {
        return Ok(None);
    }
    let memory = Memory::new(&mut catalog, &archive.peer());
    memory.catalog.snapshot(|| {
        if !refresh::is_fresh(&memory, &request.patient_id, archive.settings().fresh_for_s)? {
            return Ok(None);
        }
        hand_out::whole_already(memory.catalog, &memory.listing(&request.patient_id)?, request)
    })
}

/// Fetches, whole or not at all.
///
/// Its future is not `Send`, since the catalog's connection stays in it: run it by `block_on`. When nothing listens on
/// our port it receives by itself, on a thread of its own, which lives on for a while when other fetches use it: see
/// [`see_guests_out`].
///
/// # Errors
/// [`Error::NotFound`] when nothing matches; [`Error::Incomplete`] when not all arrived; [`Error::Unreachable`],
/// [`Error::PeerMisbehaved`] or [`Error::Timeout`] with what to check; [`Error::Cancelled`].
pub async fn fetch(
    request: &FetchRequest,
    settings: &Settings,
    cancel: &CancellationToken,
    progress: &mut dyn FnMut(Step),
) -> Result<Fetched> {
    let request = &request.checked()?;
    let archive = Archive::new(settings.archive(request.archive.as_deref())?, &settings.node.ae_title);
    let mut catalog = Catalog::open(&settings.images.root)?;
    let strategy = strategy(&mut catalog, &archive)?;
    let mut memory = Memory::new(&mut catalog, &archive.peer());
    let mut inquiry = Inquiry::new(&archive, strategy, cancel);
    let mut job = Job::new(request, settings, cancel, progress);
    let work = job.run(&mut memory, &mut inquiry);
    // The limit is the work's alone: what is whole in time is handed out, whatever others still want of our receiver.
    let fetched = match request.timeout {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                what: "fetching the images".into(),
                seconds: limit.as_secs_f64(),
                hint: "what has arrived is kept: try again, it goes on from there".into(),
            })
        }),
    };
    job.close().await;
    inquiry.close().await;
    fetched
}

/// Plans as an archive lists them.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedPlans {
    /// Newest first.
    pub plans: Vec<ListedPlan>,
    /// What the user should know: plans of which no label is known, and which may be meant.
    pub notices: Vec<String>,
}

/// The plans of a patient, all labels, or one with `*` and `?`.
///
/// # Errors
/// As [`fetch`].
pub async fn plans(
    patient_id: &str,
    label: Option<&str>,
    archive: Option<&str>,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<ListedPlans> {
    let mut plans = listing(patient_id, archive, settings, cancel, true).await?.plans;
    plans.sort_by(|a, b| (b.dated, &b.plan_uid).cmp(&(a.dated, &a.plan_uid)));
    let unlabelled: Vec<&Uid> = plans.iter().filter(|p| p.label.is_none()).map(|p| &p.plan_uid).collect();
    let which = match unlabelled.as_slice() {
        [] => None,
        [plan] => Some(format!("plan {plan}")),
        [plan, ..] => Some(format!("{} plans, such as {plan}", unlabelled.len())),
    };
    let notice = which.map(|which| {
        format!(
            "no label is known of {which}: the archive neither tells it nor sends the plan; fetch --plan-uid chooses one"
        )
    });
    if let Some(label) = label.map(|l| l.trim_matches(' ')) {
        plans.retain(|p| p.label.as_deref().is_some_and(|l| fits(label, l)));
    }
    Ok(ListedPlans { plans, notices: notice.into_iter().collect() })
}

/// One session of images, as the archive lists it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ListedSession {
    /// (0020,000E)
    pub series_uid: Uid,
    /// Acquisition of the first image.
    pub acquired: Option<NaiveDateTime>,
    /// The plan that the images name.
    pub plan_uid: Option<Uid>,
    /// Its label.
    pub plan_label: Option<String>,
    /// MV images.
    pub mv: usize,
    /// kV images.
    pub kv: usize,
    /// Images that say neither.
    pub unknown: usize,
    /// How many of them are on disk already.
    pub on_disk: usize,
    /// What the archive does not tell of them, `plan` or `date`, while not all are on disk to look into.
    pub untold: Vec<&'static str>,
}

/// The image sessions of a patient, as the archive lists them, newest first. With a label or date also those of which the
/// archive does not tell it: they may be meant, and finding out would move them.
///
/// # Errors
/// As [`fetch`].
pub async fn sessions(
    patient_id: &str,
    label: Option<&str>,
    date: Option<NaiveDate>,
    archive: Option<&str>,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<Vec<ListedSession>> {
    let label = label.map(|l| l.trim_matches(' '));
    let listing = listing(patient_id, archive, settings, cancel, label.is_some()).await?;
    let mut sessions = choice::summarize(&listing);
    sessions.retain(|s| {
        let fits_or_untold =
            |l| s.plan_label.as_deref().map_or(s.untold.contains(&"plan"), |have| fits(l, have));
        let is_of = |d| s.acquired.map_or(s.untold.contains(&"date"), |a| a.date() == d);
        label.is_none_or(fits_or_untold) && date.is_none_or(is_of)
    });
    Ok(sessions)
}

/// What the archive has of a patient; with `labels`, plans whose label it does not tell are moved to be read.
async fn listing(
    patient_id: &str,
    archive: Option<&str>,
    settings: &Settings,
    cancel: &CancellationToken,
    labels: bool,
) -> Result<Listing> {
    let patient_id = checked_patient_id(patient_id)?;
    let archive = Archive::new(settings.archive(archive)?, &settings.node.ae_title);
    let mut catalog = Catalog::open(&settings.images.root)?;
    let strategy = strategy(&mut catalog, &archive)?;
    let mut memory = Memory::new(&mut catalog, &archive.peer());
    let mut inquiry = Inquiry::new(&archive, strategy, cancel);
    let request = FetchRequest { patient_id: patient_id.into(), ..FetchRequest::default() };
    let mut silent = |_| {};
    let mut job = Job::new(&request, settings, cancel, &mut silent);
    // In turn, lest a slow answer put an older listing in the place of a fetch's. Who looks for a plan may just have
    // renamed it.
    job.ask(&mut memory, &mut inquiry, Ask::LabelsToo).await?;
    let mut listing = memory.catalog.snapshot(|| memory.listing(patient_id))?;
    let unlabelled: Vec<ListedPlan> = listing.plans.iter().filter(|p| p.label.is_none()).cloned().collect();
    if labels && !unlabelled.is_empty() {
        let moved = job.bring_headers(&mut memory, &mut inquiry, &unlabelled, &[]).await;
        job.close().await;
        moved?;
        listing = memory.catalog.snapshot(|| memory.listing(patient_id))?;
    }
    inquiry.close().await;
    Ok(listing)
}
