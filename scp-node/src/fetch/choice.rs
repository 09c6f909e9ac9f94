//! Which plan and which images are meant. Pure: a listing and a wish in, a choice out.
//!
//! A plan's label may belong to several plans; then the images decide: the plan of the newest images that match. Plan,
//! date, image type and MV/kV are applied to every image, not to the first of a series. What a listing leaves open is
//! never guessed: the choice then names the objects whose headers must be had first, as far as they may change it.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime};

use super::memory::Listing;
use super::{FetchRequest, ListedSession};
use crate::error::Error;
use crate::images::Beam;
use crate::names::Uid;
use crate::scu::{ListedImage, ListedPlan};

/// Most labels that an error lists.
const LABELS_SHOWN: usize = 12;

/// The images of one session, as the archive lists them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ChosenSession {
    pub plan_uid: Uid,
    pub plan_label: Option<String>,
    pub series_uid: Uid,
    pub date: Option<NaiveDate>,
    /// Acquisition of the first image.
    pub acquired: Option<NaiveDateTime>,
    pub images: Vec<ListedImage>,
}

/// What a listing allows to decide.
#[derive(Debug)]
pub(super) enum Choice {
    /// Newest first; one unless all dates are wanted. Notices are for the user.
    Sessions { sessions: Vec<ChosenSession>, notices: Vec<String> },
    /// These must be had first, since the archive does not tell what the choice needs.
    Headers { plans: Vec<ListedPlan>, images: Vec<ListedImage> },
    /// Nothing matches.
    Nothing(Error),
}

/// Plans whose label neither the archive tells nor the plan itself, since it does not come: UID to why. Aria, for one, does
/// not export plans with an empty Beam Sequence.
pub(super) type Unread = BTreeMap<Uid, Reason>;

/// Why a plan did not come, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub what: String,
    pub hint: String,
    /// In the archive's own words, for the user alone.
    pub comment: Option<String>,
}

/// Chooses.
pub(super) fn choose(listing: &Listing, wish: &FetchRequest, unread: &Unread) -> Choice {
    let unlabelled = unlabelled(listing, wish);
    let is_to_be_read = |plan: &&&ListedPlan| !unread.contains_key(&plan.plan_uid);
    let candidates = match candidates(listing, wish) {
        Ok(candidates) => candidates,
        Err(_) if unlabelled.values().any(|p| is_to_be_read(&p)) => {
            let plans = unlabelled.values().filter(is_to_be_read).map(|p| (*p).clone()).collect();
            return Choice::Headers { plans, images: Vec::new() };
        }
        Err(error) => return Choice::Nothing(unless_unread(error, &unlabelled, unread)),
    };
    let mut open = Vec::new();
    let mut matching = Vec::new();
    let mut doubtful = Vec::new();
    let mut passed_over = PassedOver::default();
    for image in &listing.images {
        match judge(image, listing, &candidates, &unlabelled, wish) {
            Verdict::Matches => matching.push(image),
            Verdict::MatchesPlanWithoutLabel => doubtful.push(image),
            Verdict::Open => open.push(image.clone()),
            Verdict::Differs(why) => passed_over.count(why, image),
        }
    }
    let mut sessions = group(&matching, &candidates);
    if let Some(before) = wish.before {
        sessions.retain(|s| s.acquired.is_some_and(|a| a < before));
        doubtful.retain(|i| i.acquired.is_some_and(|a| a < before));
    }
    open.retain(|image| wish.all_dates || sessions.first().is_none_or(|newest| may_change(newest, image)));
    let named = |plan: &&&ListedPlan| doubtful.iter().any(|i| i.plan_uid.as_ref() == Some(&plan.plan_uid));
    let plans: Vec<ListedPlan> =
        unlabelled.values().filter(named).filter(is_to_be_read).map(|p| (*p).clone()).collect();
    if !open.is_empty() || !plans.is_empty() {
        return Choice::Headers { plans, images: open };
    }
    if let Some(error) = newer_but_unread(&doubtful, sessions.first(), wish, unread) {
        return Choice::Nothing(error);
    }
    let Some(newest) = sessions.first() else { return Choice::Nothing(passed_over.explain(wish)) };
    let mut notices = notices(&candidates, &sessions, newest, wish);
    notices.extend(unread.iter().filter_map(|(plan, why)| notice_of_unread(plan, why, &doubtful)));
    if !wish.all_dates {
        sessions.truncate(1);
    }
    Choice::Sessions { sessions, notices }
}

/// Plans without a label that may have the wanted one. What is still unknown of a plan on disk, the plan does not say.
fn unlabelled<'a>(listing: &'a Listing, wish: &FetchRequest) -> BTreeMap<&'a Uid, &'a ListedPlan> {
    let may_be_it = |p: &&ListedPlan| p.label.is_none() && !listing.on_disk.contains(&p.plan_uid);
    let plans = listing.plans.iter().filter(|_| wish.plan_uid.is_none()).filter(may_be_it);
    plans.map(|p| (&p.plan_uid, p)).collect()
}

/// The error that there is no such plan; where it may be one whose label is not known, that this is not known.
fn unless_unread(error: Error, unlabelled: &BTreeMap<&Uid, &ListedPlan>, unread: &Unread) -> Error {
    let Some((plan, why)) = unlabelled.keys().find_map(|uid| unread.get_key_value(*uid)) else {
        return error;
    };
    let n = unlabelled.len();
    let which = if n == 1 { format!("plan {plan}") } else { format!("{n} plans, such as {plan},") };
    Error::Incomplete {
        what: format!("{error}; the label of {which} is not known ({})", why.what),
        hint: format!("--plan-uid {plan} chooses it if it is the one that is meant; {}", why.hint),
        missing: unlabelled.keys().map(ToString::to_string).collect(),
        comment: why.comment.clone(),
    }
}

/// Images of a later day than what would be handed out, of a plan that may be the wanted one: an older session must not
/// pass for the newest.
fn newer_but_unread(
    doubtful: &[&ListedImage],
    newest: Option<&ChosenSession>,
    wish: &FetchRequest,
    unread: &Unread,
) -> Option<Error> {
    let image = doubtful.iter().max_by_key(|i| i.acquired)?;
    let (plan, why) = unread.get_key_value(image.plan_uid.as_ref()?)?;
    if newest.is_some_and(|newest| image.date() <= newest.date) {
        return None;
    }
    let label = wish.plan_label.as_deref().unwrap_or_default();
    let on = image.date().map(|d| format!(" (of {d})")).unwrap_or_default();
    let other = newest
        .map(|n| format!(", --plan-uid {} the one that is called `{label}` for certain", n.plan_uid))
        .unwrap_or_default();
    Some(Error::Incomplete {
        what: format!(
            "the newest images{on} belong to plan {plan}, which may be called `{label}`: its label is not known ({})",
            why.what
        ),
        hint: format!("--plan-uid {plan} chooses it{other}; {}", why.hint),
        missing: vec![plan.to_string()],
        comment: why.comment.clone(),
    })
}

fn notice_of_unread(plan: &Uid, why: &Reason, doubtful: &[&ListedImage]) -> Option<String> {
    let images = doubtful.iter().filter(|i| i.plan_uid.as_ref() == Some(plan)).count();
    (images > 0).then(|| {
        format!(
            "the label of plan {plan} (images that name it: {images}) is not known ({}): --plan-uid chooses it if it is the one that is meant",
            why.what
        )
    })
}

/// Whether an image of which something is not known yet may belong to the newest session, or to a newer one; by day, since
/// a time may be missing. Those of older ones stay where they are: a patient may have thousands.
fn may_change(newest: &ChosenSession, image: &ListedImage) -> bool {
    image.acquired.is_none() || image.date() >= newest.date
}

/// Plans that may be meant: UID to label.
type Candidates = BTreeMap<Uid, Option<String>>;

fn candidates(listing: &Listing, wish: &FetchRequest) -> Result<Candidates, Error> {
    if let Some(plan_uid) = &wish.plan_uid {
        let label = listing.plans.iter().find(|p| &p.plan_uid == plan_uid).and_then(|p| p.label.clone());
        if let (Some(label), Some(wanted)) = (&label, &wish.plan_label)
            && label != wanted
        {
            return Err(Error::NotFound {
                what: format!("plan {plan_uid} is called `{label}`, not `{wanted}`"),
                hint: "leave out the label, or give the UID of the plan that has it".into(),
            });
        }
        return Ok([(plan_uid.clone(), label.or_else(|| wish.plan_label.clone()))].into());
    }
    let wanted = wish.plan_label.as_deref().unwrap_or_default();
    let with_label = listing.plans.iter().filter(|p| p.label.as_deref() == Some(wanted));
    let found: Candidates = with_label.map(|p| (p.plan_uid.clone(), p.label.clone())).collect();
    if found.is_empty() { Err(no_such_plan(listing, wanted)) } else { Ok(found) }
}

fn no_such_plan(listing: &Listing, wanted: &str) -> Error {
    let mut labels: Vec<&str> = listing.plans.iter().filter_map(|p| p.label.as_deref()).collect();
    labels.sort_unstable();
    labels.dedup();
    let alike = labels.iter().find(|l| l.to_lowercase() == wanted.to_lowercase());
    let hint = match (alike, labels.len()) {
        (Some(alike), _) => format!("upper and lower case count: there is `{alike}`"),
        (None, 0) => {
            "the archive lists no plan of this patient: check the patient ID, upper and lower case count"
                .into()
        }
        (None, n) => {
            let more = if n > LABELS_SHOWN { ", …" } else { "" };
            labels.truncate(LABELS_SHOWN);
            format!("the patient's plans are: {}{more}", labels.join(", "))
        }
    };
    Error::NotFound { what: format!("the archive has no plan called `{wanted}` for this patient"), hint }
}

enum Verdict {
    Matches,
    /// All but the plan's label, which is not known.
    MatchesPlanWithoutLabel,
    Open,
    Differs(Difference),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    Plan,
    Date,
    ImageType,
    OtherBeam,
    UnknownBeam,
}

fn judge(
    image: &ListedImage,
    listing: &Listing,
    candidates: &Candidates,
    unlabelled: &BTreeMap<&Uid, &ListedPlan>,
    wish: &FetchRequest,
) -> Verdict {
    let beam = if wish.kv { Beam::Kv } else { Beam::Mv };
    // What is still unknown of an image on disk, the image does not say. Of another one it may be the answer alone that
    // lacks it, also where the archive tells it of others.
    let can_learn = !listing.on_disk.contains(&image.sop_instance_uid);
    let mut open = false;
    let mut has_label = true;
    match &image.plan_uid {
        Some(plan) if candidates.contains_key(plan) => {}
        Some(plan) if unlabelled.contains_key(plan) => has_label = false,
        None if can_learn => open = true,
        _ => return Verdict::Differs(Difference::Plan),
    }
    if let Some(wanted) = wish.date {
        match image.date() {
            Some(date) if date == wanted => {}
            None if can_learn => open = true,
            _ => return Verdict::Differs(Difference::Date),
        }
    } else if image.acquired.is_none() && can_learn {
        open = true;
    }
    if let Some(wanted) = &wish.image_type {
        match &image.image_type {
            Some(image_type) if is_of_type(image_type, wanted) => {}
            None if can_learn => open = true,
            _ => return Verdict::Differs(Difference::ImageType),
        }
    }
    match image.beam {
        Some(found) if found == beam => {}
        Some(_) => return Verdict::Differs(Difference::OtherBeam),
        // A picture that was computed has no beam, so that looking inside would not help.
        None if image.image_type.as_deref().is_some_and(|t| is_of_type(t, "DRR")) => {
            return Verdict::Differs(Difference::UnknownBeam);
        }
        // Where the unit is missing, the header may still hold the voltage.
        None if can_learn => open = true,
        None => return Verdict::Differs(Difference::UnknownBeam),
    }
    match (open, has_label) {
        (true, _) => Verdict::Open,
        (false, true) => Verdict::Matches,
        (false, false) => Verdict::MatchesPlanWithoutLabel,
    }
}

/// Whether an Image Type holds the wanted value, or is exactly the wanted values when several are given, as Aria matches.
pub fn is_of_type(image_type: &str, wanted: &str) -> bool {
    // A code string has upper-case letters only (PS3.5 §6.2, CS), yet not every archive and user keeps to it.
    let same = |a: &str, b: &str| a.trim().eq_ignore_ascii_case(b.trim());
    let (mut have, want) = (image_type.split('\\'), wanted.split('\\'));
    if !wanted.contains('\\') {
        return have.any(|value| same(value, wanted));
    }
    have.clone().count() == want.clone().count() && have.zip(want).all(|(value, wanted)| same(value, wanted))
}

fn group(images: &[&ListedImage], candidates: &Candidates) -> Vec<ChosenSession> {
    let mut groups: BTreeMap<(&Uid, &Uid, Option<NaiveDate>), Vec<ListedImage>> = BTreeMap::new();
    for image in images {
        if let Some(plan) = &image.plan_uid {
            groups.entry((plan, &image.series_uid, image.date())).or_default().push((*image).clone());
        }
    }
    let mut sessions: Vec<ChosenSession> = groups
        .into_iter()
        .map(|((plan, series, date), images)| ChosenSession {
            plan_uid: plan.clone(),
            plan_label: candidates.get(plan).cloned().flatten(),
            series_uid: series.clone(),
            date,
            acquired: images.iter().filter_map(|i| i.acquired).min(),
            images,
        })
        .collect();
    sessions.sort_by(|a, b| (b.acquired, &b.series_uid).cmp(&(a.acquired, &a.series_uid)));
    sessions
}

/// Plan, series and date: what makes a session.
type SessionKey<'a> = (Option<&'a Uid>, &'a Uid, Option<NaiveDate>);

/// The sessions of a patient, whatever their plan, for a user to look at; newest first.
pub(super) fn summarize(listing: &Listing) -> Vec<ListedSession> {
    let listed = |plan: &Uid| listing.plans.iter().find(|p| &p.plan_uid == plan);
    let on_disk = |uid: &Uid| listing.on_disk.contains(uid);
    let mut groups: BTreeMap<SessionKey<'_>, Vec<&ListedImage>> = BTreeMap::new();
    for image in &listing.images {
        groups.entry((image.plan_uid.as_ref(), &image.series_uid, image.date())).or_default().push(image);
    }
    let count = |images: &[&ListedImage], beam| images.iter().filter(|i| i.beam == beam).count();
    let mut sessions: Vec<ListedSession> = groups
        .into_iter()
        .map(|((plan, series, date), images)| {
            let there = images.iter().filter(|i| on_disk(&i.sop_instance_uid)).count();
            let plan_is_untold = match plan {
                None => there < images.len(),
                Some(plan) => listed(plan).is_some_and(|p| p.label.is_none() && !on_disk(plan)),
            };
            let date_is_untold = date.is_none() && there < images.len();
            let untold = [("plan", plan_is_untold), ("date", date_is_untold)];
            ListedSession {
                series_uid: series.clone(),
                acquired: images.iter().filter_map(|i| i.acquired).min(),
                plan_uid: plan.cloned(),
                plan_label: plan.and_then(listed).and_then(|p| p.label.clone()),
                mv: count(&images, Some(Beam::Mv)),
                kv: count(&images, Some(Beam::Kv)),
                unknown: count(&images, None),
                on_disk: there,
                untold: untold
                    .into_iter()
                    .filter_map(|(what, is_untold)| is_untold.then_some(what))
                    .collect(),
            }
        })
        .collect();
    sessions.sort_by(|a, b| (b.acquired, &b.series_uid).cmp(&(a.acquired, &a.series_uid)));
    sessions
}

fn notices(
    candidates: &Candidates,
    sessions: &[ChosenSession],
    newest: &ChosenSession,
    wish: &FetchRequest,
) -> Vec<String> {
    if candidates.len() < 2 {
        return Vec::new();
    }
    let label = wish.plan_label.as_deref().unwrap_or_default();
    let others: Vec<&str> = candidates.keys().filter(|u| **u != newest.plan_uid).map(Uid::as_str).collect();
    let also = sessions.iter().any(|s| s.plan_uid != newest.plan_uid);
    let why = if also { "the newest images belong to it" } else { "only it has such images" };
    vec![format!(
        "{} plans are called `{label}`: took {}, since {why}; --plan-uid chooses another ({})",
        candidates.len(),
        newest.plan_uid,
        others.join(", ")
    )]
}

/// Why images were passed over, for the sentence when none is left.
#[derive(Debug, Default)]
struct PassedOver {
    date: usize,
    newest_other_date: Option<NaiveDate>,
    image_type: usize,
    other_beam: usize,
    unknown_beam: usize,
}

impl PassedOver {
    fn count(&mut self, why: Difference, image: &ListedImage) {
        match why {
            Difference::Plan => {}
            Difference::Date => {
                self.date += 1;
                self.newest_other_date = self.newest_other_date.max(image.date());
            }
            Difference::ImageType => self.image_type += 1,
            Difference::OtherBeam => self.other_beam += 1,
            Difference::UnknownBeam => self.unknown_beam += 1,
        }
    }

    fn explain(&self, wish: &FetchRequest) -> Error {
        let (wanted, other, flag) =
            if wish.kv { ("kV", "MV", "leave out --kv") } else { ("MV", "kV", "add --kv") };
        let on = wish.date.map(|d| format!(" of {d}")).unwrap_or_default();
        let plan = match (&wish.plan_label, &wish.plan_uid) {
            (Some(label), _) => format!("plan `{label}`"),
            (None, Some(uid)) => format!("plan {uid}"),
            (None, None) => "this plan".into(),
        };
        let hint = if self.unknown_beam > 0 {
            format!("{} images of it say neither MV nor kV, so they are not used", self.unknown_beam)
        } else if self.other_beam > 0 {
            format!("{} {other} images of it are there: {flag} if you mean those", self.other_beam)
        } else if self.image_type > 0 {
            format!("{} images of it have another Image Type: check --image-type", self.image_type)
        } else if let Some(date) = self.newest_other_date {
            format!("the newest image of it is of {date}")
        } else {
            "no image names this plan: the images may not have reached the archive yet, or belong to another plan".into()
        };
        Error::NotFound { what: format!("the archive has no {wanted} image{on} for {plan}"), hint }
    }
}

#[cfg(test)]
mod tests;
