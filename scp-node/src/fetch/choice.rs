//! Which plan and which images are meant. Pure: a listing and a wish in, a choice out.
//!
//! A plan's label may belong to several plans; then the images decide: the plan of the newest images that match. Plan,
//! date, image type and MV/kV are applied to every image, not to the first of a series. What a listing leaves open is
//! never guessed: the choice then names the objects whose headers must be had first, as far as they may change it.

mod sentences;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use sentences::PassedOver;

use super::memory::Listing;
use super::{FetchRequest, ListedSession};
use crate::error::Error;
use crate::images::Beam;
use crate::names::Uid;
use crate::scu::{ListedImage, ListedPlan};

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
        Err(error) => return Choice::Nothing(sentences::unless_unread(error, &unlabelled, unread)),
    };
    let mut open = Vec::new();
    let mut matching = Vec::new();
    let mut doubtful = Vec::new();
    let mut unlisted = Vec::new();
    let mut passed_over = PassedOver::default();
    let plans = Plans { candidates: &candidates, unlabelled: &unlabelled, known: listing.plan_uids() };
    for image in &listing.images {
        match judge(image, listing, &plans, wish) {
            Verdict::Matches => matching.push(image),
            Verdict::MatchesPlanWithoutLabel => doubtful.push(image),
            Verdict::MatchesUnknownPlan => unlisted.push(image),
            Verdict::Open => open.push(image.clone()),
            Verdict::Differs(why) => passed_over.count(why, image),
        }
    }
    let mut sessions = group(&matching, listing, &candidates);
    if let Some(before) = wish.before {
        passed_over.too_late = sessions.iter().filter_map(|s| s.acquired).filter(|a| *a >= before).min();
        sessions.retain(|s| s.acquired.is_some_and(|a| a < before));
        doubtful.retain(|i| i.acquired.is_some_and(|a| a < before));
        unlisted.retain(|i| i.acquired.is_some_and(|a| a < before));
    }
    open.retain(|image| wish.all_dates || sessions.first().is_none_or(|newest| may_change(newest, image)));
    open.extend(times_that_decide(&matching, &sessions, listing, wish));
    let named = |plan: &&&ListedPlan| doubtful.iter().any(|i| i.plan_uid.as_ref() == Some(&plan.plan_uid));
    let plans: Vec<ListedPlan> =
        unlabelled.values().filter(named).filter(is_to_be_read).map(|p| (*p).clone()).collect();
    if !open.is_empty() || !plans.is_empty() {
        return Choice::Headers { plans, images: open };
    }
    if let Some(error) = sentences::newer_but_unread(&doubtful, sessions.first(), wish, unread) {
        return Choice::Nothing(error);
    }
    let Some(newest) = sessions.first().cloned() else {
        return Choice::Nothing(passed_over.explain(wish, &unlisted));
    };
    let mut notices = sentences::notices(&candidates, listing, &sessions, &newest, wish);
    notices.extend(unread.iter().filter_map(|(plan, why)| sentences::notice_of_unread(plan, why, &doubtful)));
    unlisted.retain(|i| i.acquired > newest.acquired);
    notices.extend(sentences::of_unlisted_plans("newer images", &unlisted));
    if wish.all_dates {
        // Another plan that has the label is another plan all the same.
        sessions.retain(|s| s.plan_uid == newest.plan_uid);
    } else {
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

/// Whether an image of which something is not known yet may belong to the newest session, or to a newer one; by day, since
/// a time may be missing. Those of older ones stay where they are: a patient may have thousands.
fn may_change(newest: &ChosenSession, image: &ListedImage) -> bool {
    image.acquired.is_none() || image.date() >= newest.date
}

/// Images of which only the date is known, and whose time decides: which of several sessions of the newest day is the
/// newest, or whether it was before the time that is asked for.
fn times_that_decide(
    matching: &[&ListedImage],
    sessions: &[ChosenSession],
    listing: &Listing,
    wish: &FetchRequest,
) -> Vec<ListedImage> {
    let newest_day = sessions.first().and_then(|s| s.date);
    let is_shared = sessions.iter().filter(|s| s.date == newest_day).count() > 1;
    let decides = |date: NaiveDate| {
        wish.before.is_some_and(|b| b.date() == date && b.time() != NaiveTime::MIN)
            || is_shared && newest_day == Some(date)
    };
    let can_learn = |i: &&&ListedImage| !i.is_timed() && !listing.on_disk.contains(&i.sop_instance_uid);
    let open = matching.iter().filter(can_learn).filter(|i| i.date().is_some_and(decides));
    open.map(|i| (*i).clone()).collect()
}

/// Plans that may be meant: UID to label.
type Candidates = BTreeMap<Uid, Option<String>>;

fn candidates(listing: &Listing, wish: &FetchRequest) -> Result<Candidates, Error> {
    if let Some(plan_uid) = &wish.plan_uid {
        let label = listing.labels().find(|p| p.plan_uid == plan_uid).map(|p| p.label.to_owned());
        if let (Some(label), Some(wanted)) = (&label, &wish.plan_label)
            && label != wanted
        {
            return Err(Error::NotFound {
                what: format!("plan {plan_uid} is called `{label}`, not `{wanted}`"),
                hint: "leave out the label, or give the UID of the plan that has it".into(),
            });
        }
        return Ok([(plan_uid.clone(), label)].into());
    }
    let wanted = wish.plan_label.as_deref().unwrap_or_default();
    let with_label = listing.labels().filter(|p| p.label == wanted);
    let found: Candidates = with_label.map(|p| (p.plan_uid.clone(), Some(p.label.to_owned()))).collect();
    if found.is_empty() { Err(sentences::no_such_plan(listing, wanted)) } else { Ok(found) }
}

enum Verdict {
    Matches,
    /// All but the plan's label, which is not known.
    MatchesPlanWithoutLabel,
    /// All but the plan, of which nothing is known but that images name it.
    MatchesUnknownPlan,
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

struct Plans<'a> {
    candidates: &'a Candidates,
    unlabelled: &'a BTreeMap<&'a Uid, &'a ListedPlan>,
    /// Those that the archive lists, or whose label the catalog knows.
    known: BTreeSet<&'a Uid>,
}

fn judge(image: &ListedImage, listing: &Listing, plans: &Plans<'_>, wish: &FetchRequest) -> Verdict {
    let beam = if wish.kv { Beam::Kv } else { Beam::Mv };
    // What is still unknown of an image on disk, the image does not say. Of another one it may be the answer alone that
    // lacks it, also where the archive tells it of others.
    let can_learn = !listing.on_disk.contains(&image.sop_instance_uid);
    let mut open = false;
    let mut matches = Verdict::Matches;
    match &image.plan_uid {
        Some(plan) if plans.candidates.contains_key(plan) => {}
        Some(plan) if plans.unlabelled.contains_key(plan) => matches = Verdict::MatchesPlanWithoutLabel,
        Some(plan) if wish.plan_uid.is_none() && !plans.known.contains(plan) => {
            matches = Verdict::MatchesUnknownPlan;
        }
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
    match matches {
        // Not worth a look: it would be told at most.
        Verdict::MatchesUnknownPlan if open => Verdict::Differs(Difference::Plan),
        _ if open => Verdict::Open,
        matches => matches,
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

fn group(images: &[&ListedImage], listing: &Listing, candidates: &Candidates) -> Vec<ChosenSession> {
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
            acquired: first_acquired(images.iter()),
            images,
        })
        .collect();
    let dated: BTreeMap<&Uid, Option<NaiveDateTime>> =
        listing.labels().map(|p| (p.plan_uid, p.dated)).collect();
    // Of the same time: the newer plan.
    let age = |s: &ChosenSession| (s.acquired, dated.get(&s.plan_uid).copied().flatten());
    sessions.sort_by(|a, b| (age(b), &b.series_uid).cmp(&(age(a), &a.series_uid)));
    sessions
}

/// When the first of them was acquired, among those of which a time is known; midnight where there is none.
fn first_acquired<'a>(images: impl Iterator<Item = &'a ListedImage> + Clone) -> Option<NaiveDateTime> {
    let timed = images.clone().filter(|i| i.is_timed()).filter_map(|i| i.acquired).min();
    timed.or_else(|| images.filter_map(|i| i.acquired).min())
}

/// Plan, series and date: what makes a session.
type SessionKey<'a> = (Option<&'a Uid>, &'a Uid, Option<NaiveDate>);

/// The sessions of a patient, whatever their plan, for a user to look at; newest first.
pub(super) fn summarize(listing: &Listing) -> Vec<ListedSession> {
    let listed = |plan: &Uid| listing.plans.iter().find(|p| &p.plan_uid == plan);
    let labels: BTreeMap<&Uid, &str> = listing.labels().map(|p| (p.plan_uid, p.label)).collect();
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
                acquired: first_acquired(images.iter().copied()),
                plan_uid: plan.cloned(),
                plan_label: plan.and_then(|plan| labels.get(plan)).map(|l| (*l).to_owned()),
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

#[cfg(test)]
mod tests;
