//! The whole job: from "this patient's newest images of that plan" to files that are all there.
//!
//! [`kept`] answers at once from the catalog, within the time in which an archive's answer is fresh; [`fetch`] does the rest.
//! Steps: what the archive has (memory, or C-FIND) → which plan and session are meant (`choice`) → whether that session's
//! series still has the same images (one narrow C-FIND, unless it was just listed) → what of it is missing on disk → C-MOVE of that alone to our own AE (`mover`), into the running service or a receiver of our own (`inbox`) →
//! hand out when every listed instance is in the catalog, else nothing. Several processes may do this at once: they
//! take turns per patient when asking and looking inside, and per plan when moving, so that the second finds done what the first did.
//! Input: a patient ID and a label from a user, answers of an archive; neither is trusted with paths.

mod choice;
mod inbox;
mod lock;
mod memory;
mod mover;
mod on_disk;
mod refresh;

use std::collections::HashSet;
use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::images::{Catalog, Instance, PlanRecord, Session, SessionFilter};
use crate::names::{Uid, fits};
use crate::scu::{Archive, Inquiry, ListedImage, ListedPlan};
use crate::settings::Settings;

pub use choice::is_of_type;
use choice::{Choice, ChosenSession, Reason, Unread};
use inbox::Inbox;
#[cfg(feature = "server")]
pub(crate) use inbox::store_for_service;
pub use inbox::{has_guests, see_guests_out};
use lock::{Kind, Turn};
use memory::{Listing, Memory};
pub use memory::{TABLES as MEMORY_TABLES, last_answered};
use on_disk::on_disk;

/// How often headers may be fetched before the choice must stand. Justification: once for plans, once for images, and
/// once more when images name a plan that came between.
const ROUNDS_MAX: usize = 4;

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

    fn check(&self) -> Result<()> {
        if self.patient_id.trim().is_empty() {
            return Err(misuse("a patient ID is needed", "give --patient"));
        }
        if self.plan_label.as_deref().is_none_or(str::is_empty) && self.plan_uid.is_none() {
            return Err(misuse("a plan is needed", "give its label with --plan, or its UID with --plan-uid"));
        }
        Ok(())
    }
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
    request.check()?;
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
        whole_already(memory.catalog, &memory.listing(&request.patient_id)?, request)
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
    request.check()?;
    run(request, settings, cancel, progress).await
}

async fn run(
    request: &FetchRequest,
    settings: &Settings,
    cancel: &CancellationToken,
    progress: &mut dyn FnMut(Step),
) -> Result<Fetched> {
    let archive = Archive::new(settings.archive(request.archive.as_deref())?, &settings.node.ae_title);
    let mut catalog = Catalog::open(&settings.images.root)?;
    let mut memory = Memory::new(&mut catalog, &archive.peer());
    let strategy = refresh::strategy(&memory, &archive)?;
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
    if let Some(inbox) = job.inbox.take() {
        inbox.close().await;
    }
    inquiry.close().await;
    fetched
}

/// The plans of a patient, as the archive lists them, newest first; all labels, or one with `*` and `?`.
///
/// # Errors
/// As [`fetch`].
pub async fn plans(
    patient_id: &str,
    label: Option<&str>,
    archive: Option<&str>,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<Vec<ListedPlan>> {
    let listing = listing(patient_id, archive, settings, cancel, true).await?;
    let mut plans = listing.plans;
    if let Some(label) = label {
        plans.retain(|p| p.label.as_deref().is_some_and(|l| fits(label, l)));
    }
    plans.sort_by(|a, b| (b.dated, &b.plan_uid).cmp(&(a.dated, &a.plan_uid)));
    Ok(plans)
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
    let archive = Archive::new(settings.archive(archive)?, &settings.node.ae_title);
    let mut catalog = Catalog::open(&settings.images.root)?;
    let mut memory = Memory::new(&mut catalog, &archive.peer());
    let mut inquiry = Inquiry::new(&archive, refresh::strategy(&memory, &archive)?, cancel);
    refresh::ask(&mut memory, &mut inquiry, patient_id).await?;
    let mut listing = memory.catalog.snapshot(|| memory.listing(patient_id))?;
    let unlabelled: Vec<ListedPlan> = listing.plans.iter().filter(|p| p.label.is_none()).cloned().collect();
    if labels && !unlabelled.is_empty() {
        let request = FetchRequest { patient_id: patient_id.into(), ..FetchRequest::default() };
        let mut silent = |_| {};
        let mut job = Job::new(&request, settings, cancel, &mut silent);
        let moved = job.bring_headers(&mut memory, &mut inquiry, &unlabelled, &[]).await;
        if let Some(inbox) = job.inbox.take() {
            inbox.close().await;
        }
        moved?;
        listing = memory.catalog.snapshot(|| memory.listing(patient_id))?;
    }
    inquiry.close().await;
    Ok(listing)
}

/// One running fetch.
struct Job<'a> {
    request: &'a FetchRequest,
    settings: &'a Settings,
    cancel: &'a CancellationToken,
    progress: &'a mut dyn FnMut(Step),
    inbox: Option<Inbox>,
    moved: usize,
    /// Series whose images this job has listed.
    listed: HashSet<Uid>,
    /// Plans that did not come when they were to be read.
    unread: Unread,
}

impl<'a> Job<'a> {
    fn new(
        request: &'a FetchRequest,
        settings: &'a Settings,
        cancel: &'a CancellationToken,
        progress: &'a mut dyn FnMut(Step),
    ) -> Self {
        let (listed, unread) = (HashSet::new(), Unread::new());
        Self { request, settings, cancel, progress, inbox: None, moved: 0, listed, unread }
    }

    async fn run(&mut self, memory: &mut Memory<'_>, inquiry: &mut Inquiry) -> Result<Fetched> {
        let patient_id = self.request.patient_id.clone();
        let mut just_asked = self.ask(memory, inquiry, self.request.refresh).await?;
        let (mut rounds, mut was_missed) = (0, false);
        loop {
            let listing = memory.catalog.snapshot(|| memory.listing(&patient_id))?;
            match choice::choose(&listing, self.request, &self.unread) {
                Choice::Headers { .. } if rounds == ROUNDS_MAX => {
                    return Err(Error::Incomplete {
                        what: "the archive's objects do not tell what is needed to choose among them".into(),
                        hint: "look into the log for objects that were refused".into(),
                        missing: Vec::new(),
                        comment: None,
                    });
                }
                Choice::Headers { plans, images } => {
                    rounds += 1;
                    self.bring_headers(memory, inquiry, &plans, &images).await?;
                }
                Choice::Nothing(_) if !just_asked => just_asked = self.ask(memory, inquiry, true).await?,
                Choice::Nothing(error) => return Err(error),
                Choice::Sessions { sessions, notices } => {
                    // Within the freshness time only what is moved is worth a question.
                    if (just_asked || !is_there(&listing, &sessions))
                        && self.look_again(memory, inquiry, &listing, &sessions).await?
                    {
                        continue;
                    }
                    remember_plans(memory.catalog, &patient_id, &listing.plans, &sessions)?;
                    let plan = sessions.first().map_or("", |s| s.plan_uid.as_str());
                    let turn = format!("move {} {patient_id} {plan}", inquiry.archive().peer());
                    let _turn = self.turn(inquiry, &turn).await?;
                    if let Err(error) = self.bring_sessions(memory, inquiry, &listing, &sessions).await {
                        // What did not come may have been deleted meanwhile.
                        self.listed.clear();
                        let is_once = !std::mem::replace(&mut was_missed, true);
                        if is_once && is_missing(&error) {
                            match self.look_again(memory, inquiry, &listing, &sessions).await {
                                Ok(true) => continue,
                                Err(Error::Cancelled) => return Err(Error::Cancelled),
                                Ok(false) | Err(_) => {}
                            }
                        }
                        return Err(error);
                    }
                    return hand_out(
                        memory.catalog,
                        &patient_id,
                        &listing,
                        sessions,
                        notices,
                        (self.moved, inquiry.queries()),
                    );
                }
            }
        }
    }

    /// Asks the archive unless somebody did within the freshness time, `again` even then.
    async fn ask(&mut self, memory: &mut Memory<'_>, inquiry: &mut Inquiry, again: bool) -> Result<bool> {
        let patient_id = &self.request.patient_id;
        let began_ms = refresh::now_ms();
        let _turn = self.turn_to_ask(inquiry).await?;
        // While we waited for our turn, somebody else may have asked: that answer is as new as ours would be. One of the
        // future is none: the clock was set back since.
        let asked_meanwhile = (began_ms..=refresh::now_ms()).contains(&memory.asked(patient_id)?.all_ms);
        let fresh_for_s = inquiry.archive().settings().fresh_for_s;
        if asked_meanwhile || (!again && refresh::is_fresh(memory, patient_id, fresh_for_s)?) {
            return Ok(asked_meanwhile);
        }
        (self.progress)(Step::Asking);
        self.listed = refresh::ask(memory, inquiry, patient_id).await?;
        Ok(true)
    }

    async fn turn_to_ask(&self, inquiry: &mut Inquiry) -> Result<Turn> {
        let turn = format!("ask {} {}", inquiry.archive().peer(), self.request.patient_id);
        self.turn(inquiry, &turn).await
    }

    /// Lists the series of these sessions anew, unless this job has listed them; whether they have changed.
    async fn look_again(
        &mut self,
        memory: &mut Memory<'_>,
        inquiry: &mut Inquiry,
        listing: &Listing,
        sessions: &[ChosenSession],
    ) -> Result<bool> {
        let mut series = Vec::new();
        for session in sessions {
            if self.listed.insert(session.series_uid.clone()) {
                series.push(session.series_uid.clone());
            }
        }
        if series.is_empty() {
            return Ok(false);
        }
        let _turn = self.turn_to_ask(inquiry).await?;
        refresh::look_again(memory, inquiry, &self.request.patient_id, listing, &series).await
    }

    /// The turn of this name. Who has to wait keeps no association meanwhile: archives have few, and close idle ones.
    async fn turn(&self, inquiry: &mut Inquiry, name: &str) -> Result<Turn> {
        let root = &self.settings.images.root;
        if let Some(turn) = Turn::take(root, name, Kind::Exclusive)? {
            return Ok(turn);
        }
        inquiry.rest().await;
        Turn::wait(root, name, Kind::Exclusive, self.cancel).await
    }

    /// Moves into the service, or a receiver of a fetch.
    async fn bring(
        &mut self,
        inquiry: &mut Inquiry,
        catalog: &Catalog,
        wanted: &mover::Wanted,
    ) -> Result<()> {
        let inbox = match &mut self.inbox {
            Some(inbox) => inbox,
            None => self.inbox.insert(Inbox::open(self.settings, self.cancel).await?),
        };
        self.moved += mover::bring(inquiry, inbox, catalog, self.settings, wanted, self.progress).await?;
        Ok(())
    }

    /// Moves objects whose headers are needed, since the archive does not tell what is in them. A plan that does not come
    /// is noted, and keeps no other one from being read.
    async fn bring_headers(
        &mut self,
        memory: &mut Memory<'_>,
        inquiry: &mut Inquiry,
        plans: &[ListedPlan],
        images: &[ListedImage],
    ) -> Result<()> {
        let turn = format!("look {} {}", inquiry.archive().peer(), self.request.patient_id);
        let _turn = self.turn(inquiry, &turn).await?;
        // While we waited for our turn, somebody else may have had them moved.
        let uids = plans.iter().map(|p| &p.plan_uid).chain(images.iter().map(|i| &i.sop_instance_uid));
        let there = on_disk(memory.catalog, uids)?;
        let plans: Vec<ListedPlan> = plans.iter().filter(|p| !there.contains(&p.plan_uid)).cloned().collect();
        let images: Vec<ListedImage> =
            images.iter().filter(|i| !there.contains(&i.sop_instance_uid)).cloned().collect();
        if plans.is_empty() && images.is_empty() {
            return Ok(());
        }
        let of_plans = mover::wanted(&plans, &[]);
        let of_images = mover::wanted(&[], &images);
        let wanted = of_plans.iter().chain(&of_images);
        tracing::info!(
            archive = %inquiry.archive().peer(),
            objects = wanted.map(|w| w.instances.len()).sum::<usize>(),
            "the archive does not tell what is in them: moving objects to look inside"
        );
        (self.progress)(Step::LookingInside { objects: plans.len() + images.len() });
        for series in of_plans {
            match self.bring(inquiry, memory.catalog, &series).await {
                Err(error) if is_missing(&error) => {
                    let came = on_disk(memory.catalog, &series.instances)?;
                    self.moved += came.len();
                    let comment = error.comment().map(str::to_owned);
                    let why = Reason { what: error.to_string(), hint: error.hint(), comment };
                    let stayed = series.instances.into_iter().filter(|plan| !came.contains(plan));
                    self.unread.extend(stayed.map(|plan| (plan, why.clone())));
                }
                moved => moved?,
            }
        }
        for series in of_images {
            self.bring(inquiry, memory.catalog, &series).await?;
        }
        Ok(())
    }

    async fn bring_sessions(
        &mut self,
        memory: &Memory<'_>,
        inquiry: &mut Inquiry,
        listing: &Listing,
        sessions: &[ChosenSession],
    ) -> Result<()> {
        for session in sessions {
            self.bring_session(memory.catalog, inquiry, listing, session).await?;
        }
        Ok(())
    }

    async fn bring_session(
        &mut self,
        catalog: &Catalog,
        inquiry: &mut Inquiry,
        listing: &Listing,
        session: &ChosenSession,
    ) -> Result<()> {
        let here = on_disk(catalog, session.images.iter().map(|i| &i.sop_instance_uid))?;
        let missing: Vec<Uid> = session
            .images
            .iter()
            .map(|i| &i.sop_instance_uid)
            .filter(|uid| !here.contains(*uid))
            .cloned()
            .collect();
        let Some(first) = session.images.first().filter(|_| !missing.is_empty()) else { return Ok(()) };
        let in_series = listing.images.iter().filter(|i| i.series_uid == session.series_uid).count();
        let wanted = mover::Wanted {
            study_uid: first.study_uid.clone(),
            series_uid: session.series_uid.clone(),
            is_whole_series: in_series == missing.len(),
            instances: missing,
            here: here.len(),
        };
        self.bring(inquiry, catalog, &wanted).await
    }
}

/// Everything that was chosen, if it is all on disk and filed under the label that the archive lists.
fn whole_already(catalog: &Catalog, listing: &Listing, request: &FetchRequest) -> Result<Option<Fetched>> {
    let Choice::Sessions { sessions, notices } = choice::choose(listing, request, &Unread::new()) else {
        return Ok(None);
    };
    if !is_there(listing, &sessions)
        || !untold(catalog, &request.patient_id, &listing.plans, &sessions)?.is_empty()
    {
        return Ok(None);
    }
    match hand_out(catalog, &request.patient_id, listing, sessions, notices, (0, 0)) {
        // A file may have been removed.
        Err(Error::Incomplete { .. }) => Ok(None),
        handed_out => handed_out.map(Some),
    }
}

fn is_there(listing: &Listing, sessions: &[ChosenSession]) -> bool {
    let mut images = sessions.iter().flat_map(|session| &session.images);
    images.all(|image| listing.on_disk.contains(&image.sop_instance_uid))
}

/// Whether a move ended without what was wanted, for whatever reason the archive gives.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Incomplete { .. } | Error::PeerMisbehaved { .. })
}

/// Tells the catalog the labels of the plans that images are about to be filed under.
fn remember_plans(
    catalog: &mut Catalog,
    patient_id: &str,
    plans: &[ListedPlan],
    sessions: &[ChosenSession],
) -> Result<()> {
    for record in untold(catalog, patient_id, plans, sessions)? {
        catalog.remember_plan(&record)?;
    }
    Ok(())
}

/// The plans of these sessions whose label the catalog does not know, or knows otherwise.
fn untold(
    catalog: &Catalog,
    patient_id: &str,
    plans: &[ListedPlan],
    sessions: &[ChosenSession],
) -> Result<Vec<PlanRecord>> {
    let mut untold = Vec::new();
    for plan in plans.iter().filter(|p| sessions.iter().any(|s| s.plan_uid == p.plan_uid)) {
        let Some(label) = plan.label.clone() else { continue };
        if catalog.plan(&plan.plan_uid)?.is_none_or(|known| known.label != label) {
            untold.push(PlanRecord {
                plan_uid: plan.plan_uid.clone(),
                patient_id: patient_id.into(),
                label,
                dated: plan.dated,
            });
        }
    }
    Ok(untold)
}

/// The sessions from the catalog, which must hold every image that was chosen, and its file.
///
/// # Arguments
/// * `moved`, `queries` — what it took
fn hand_out(
    catalog: &Catalog,
    patient_id: &str,
    listing: &Listing,
    chosen: Vec<ChosenSession>,
    mut notices: Vec<String>,
    (moved, queries): (usize, usize),
) -> Result<Fetched> {
    let plan = chosen.first().map(|c| (c.plan_uid.to_string(), c.plan_label.clone())).unwrap_or_default();
    let from_catalog = |c: &ChosenSession| from_catalog(catalog, patient_id, listing, c);
    let sessions: Vec<FetchedSession> = chosen.iter().map(from_catalog).collect::<Result<_>>()?;
    notices.extend(sessions.iter().filter(|s| !s.unlisted.is_empty()).map(unlisted));
    Ok(Fetched { sessions, plan_uid: plan.0, plan_label: plan.1, notices, moved, queries })
}

/// The directory is not named: it holds the patient's ID, and notices are logged.
fn unlisted(session: &FetchedSession) -> String {
    format!(
        "the directory also holds {} of the session that the archive no longer lists ({}): only the {} files that --json names are meant, as qatrack_ext takes them",
        if session.unlisted.len() == 1 {
            "an image".into()
        } else {
            format!("{} images", session.unlisted.len())
        },
        session.unlisted.join(", "),
        session.instances.len()
    )
}

fn from_catalog(
    catalog: &Catalog,
    patient_id: &str,
    listing: &Listing,
    chosen: &ChosenSession,
) -> Result<FetchedSession> {
    let filter = SessionFilter {
        patient_id: Some(patient_id.to_owned()),
        plan_uid: Some(chosen.plan_uid.to_string()),
        series_uid: Some(chosen.series_uid.to_string()),
        ..SessionFilter::default()
    };
    let wanted: HashSet<&str> = chosen.images.iter().map(|i| i.sop_instance_uid.as_str()).collect();
    for session in catalog.sessions(&filter)? {
        let all = catalog.instances(&session)?;
        let is_wanted = |i: &Instance| wanted.contains(i.sop_instance_uid.as_str());
        let (instances, others): (Vec<Instance>, Vec<Instance>) = all.into_iter().partition(is_wanted);
        if instances.len() < wanted.len() {
            continue;
        }
        let there = |i: &&Instance| i.path.try_exists().unwrap_or(true);
        let missing: Vec<String> =
            instances.iter().filter(|i| !there(i)).map(|i| i.sop_instance_uid.clone()).collect();
        if !missing.is_empty() {
            return Err(Error::Incomplete {
                what: format!("{} of {} files are gone from the disk", missing.len(), wanted.len()),
                hint: "somebody removes files below images.root: try again, they are fetched anew".into(),
                missing,
                comment: None,
            });
        }
        let is_listed =
            |i: &Instance| listing.images.iter().any(|l| l.sop_instance_uid.as_str() == i.sop_instance_uid);
        // Others of the session may be listed, such as its kV images; and a file that is gone does no harm.
        let unlisted = others.iter().filter(|i| !is_listed(i) && there(i));
        let unlisted = unlisted.map(|i| i.sop_instance_uid.clone()).collect();
        return Ok(FetchedSession { session, instances, unlisted });
    }
    Err(Error::Incomplete {
        what:
            "the images are on disk, but what they say about plan or date differs from what the archive lists"
                .into(),
        hint:
            "run `scp-node reindex`; if it stays so, the archive changed the images after they were fetched"
                .into(),
        missing: Vec::new(),
        comment: None,
    })
}
