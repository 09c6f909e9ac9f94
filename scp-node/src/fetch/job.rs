//! One running fetch: asks, chooses, looks inside and moves, in turns with others, until a choice stands and is on disk.
//!
//! States: listed -> (headers are needed: moved, listed again) -> chosen -> (its series changed: listed again) -> moved ->
//! handed out. What is needed at most: [`ROUNDS_MAX`] times headers, one more list when something that was listed did not come.

use std::collections::HashSet;

use tokio_util::sync::CancellationToken;

use super::choice::{self, Choice, ChosenSession, Reason, Unread};
use super::hand_out::{hand_out, is_there, remember_plans};
use super::inbox::Inbox;
use super::lock::{Kind, Turn};
use super::memory::{Listing, Memory};
use super::{FetchRequest, Fetched, Step, mover, ours, refresh};
use crate::error::{Error, Result};
use crate::images::{Catalog, layout};
use crate::names::Uid;
use crate::scu::{Inquiry, ListedImage, ListedPlan};
use crate::settings::Settings;

/// How often headers may be fetched before the choice must stand. Justification: once for plans, once for images, once
/// more when images name a plan that came between, and once when a date that is read makes a time decide.
const ROUNDS_MAX: usize = 4;

/// When the archive is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// When nobody asked within the freshness time.
    UnlessFresh,
    /// Even then.
    Anyway,
    /// Even then, and for labels that are believed to be known.
    LabelsToo,
}

/// One running fetch.
pub(super) struct Job<'a> {
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
    pub(super) fn new(
        request: &'a FetchRequest,
        settings: &'a Settings,
        cancel: &'a CancellationToken,
        progress: &'a mut dyn FnMut(Step),
    ) -> Self {
        let (listed, unread) = (HashSet::new(), Unread::new());
        Self { request, settings, cancel, progress, inbox: None, moved: 0, listed, unread }
    }

    /// All of it, to images that are whole on disk.
    pub(super) async fn run(&mut self, memory: &mut Memory<'_>, inquiry: &mut Inquiry) -> Result<Fetched> {
        let patient_id = self.request.patient_id.clone();
        let began_ms = refresh::now_ms();
        let ask = if self.request.refresh { Ask::Anyway } else { Ask::UnlessFresh };
        let mut just_asked = self.ask(memory, inquiry, ask).await?;
        let (mut rounds, mut was_missed, mut labels_anew) = (0, false, false);
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
                // Renamed plans too are seen before anybody is told that there is none.
                Choice::Nothing(_) if !labels_anew && memory.asked(&patient_id)?.plans_ms < began_ms => {
                    labels_anew = true;
                    just_asked = self.ask(memory, inquiry, Ask::LabelsToo).await?;
                }
                Choice::Nothing(error) => return Err(error),
                Choice::Sessions { sessions, notices } => {
                    // Within the freshness time only what is moved is worth a question.
                    if (just_asked || !is_there(&listing, &sessions))
                        && self.look_again(memory, inquiry, &listing, &sessions).await?
                    {
                        continue;
                    }
                    remember_plans(memory.catalog, &patient_id, &listing.plans, &sessions)?;
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
                    // What the objects say may differ from what was told of them: the choice must still stand.
                    if !is_there(&listing, &sessions) {
                        continue;
                    }
                    return hand_out(
                        memory.catalog,
                        self.request,
                        &listing,
                        sessions,
                        notices,
                        (self.moved, inquiry.queries()),
                    );
                }
            }
        }
    }

    /// Lets the receiver go.
    pub(super) async fn close(self) {
        if let Some(inbox) = self.inbox {
            inbox.close().await;
        }
    }

    /// Asks the archive; whether it has answered, us or another one, since we began to.
    pub(super) async fn ask(
        &mut self,
        memory: &mut Memory<'_>,
        inquiry: &mut Inquiry,
        ask: Ask,
    ) -> Result<bool> {
        let patient_id = &self.request.patient_id;
        let began_ms = refresh::now_ms();
        let _turn = self.turn_to_ask(inquiry).await?;
        // While we waited for our turn, somebody else may have asked: that answer is as new as ours would be. One of the
        // future is none: the clock was set back since.
        let asked = memory.asked(patient_id)?;
        let last_ms = if ask == Ask::LabelsToo { asked.plans_ms } else { asked.all_ms };
        let asked_meanwhile = (began_ms..=refresh::now_ms()).contains(&last_ms);
        let fresh_for_s = inquiry.archive().settings().fresh_for_s;
        let is_enough = ask == Ask::UnlessFresh && refresh::is_fresh(memory, patient_id, fresh_for_s)?;
        if asked_meanwhile || is_enough {
            return Ok(asked_meanwhile);
        }
        (self.progress)(Step::Asking);
        self.listed = refresh::ask(memory, inquiry, patient_id, ask == Ask::LabelsToo).await?;
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
        ours::takes_patient(self.settings, &self.request.patient_id)?;
        let inbox = match &mut self.inbox {
            Some(inbox) => inbox,
            None => self.inbox.insert(Inbox::open(self.settings, self.cancel).await?),
        };
        self.moved += mover::bring(inquiry, inbox, catalog, self.settings, wanted, self.progress).await?;
        Ok(())
    }

    /// Moves objects whose headers are needed, since the archive does not tell what is in them. A plan that does not come
    /// is noted, and keeps no other one from being read.
    pub(super) async fn bring_headers(
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
        let there = memory.catalog.on_disk(uids)?;
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
                    let came = memory.catalog.on_disk(&series.instances)?;
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
        // By series, whoever chose it and why; of 16 turns per patient, since each leaves a small file for ever.
        let series = layout::short_hash(session.series_uid.as_str());
        let nth = series.get(..1).unwrap_or_default();
        let turn = format!("move {} {} {nth}", inquiry.archive().peer(), self.request.patient_id);
        let _turn = self.turn(inquiry, &turn).await?;
        let here = catalog.on_disk(session.images.iter().map(|i| &i.sop_instance_uid))?;
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

/// Whether a move ended without what was wanted, for whatever reason the archive gives.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Incomplete { .. } | Error::PeerMisbehaved { .. })
}
