//! What a user is told of a choice: why it is this one, what else may be meant, and why there is none.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime};

use super::{Candidates, ChosenSession, Difference, FetchRequest, Reason, Unread};
use crate::error::Error;
use crate::fetch::memory::Listing;
use crate::names::Uid;
use crate::scu::{ListedImage, ListedPlan};

/// Most labels, or plans, that an error lists.
const LABELS_SHOWN: usize = 12;

/// The error that there is no such plan; where it may be one whose label is not known, that this is not known.
pub(super) fn unless_unread(
    error: Error,
    unlabelled: &BTreeMap<&Uid, &ListedPlan>,
    unread: &Unread,
) -> Error {
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
pub(super) fn newer_but_unread(
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

pub(super) fn notice_of_unread(plan: &Uid, why: &Reason, doubtful: &[&ListedImage]) -> Option<String> {
    let images = doubtful.iter().filter(|i| i.plan_uid.as_ref() == Some(plan)).count();
    (images > 0).then(|| {
        format!(
            "the label of plan {plan} (images that name it: {images}) is not known ({}): --plan-uid chooses it if it is the one that is meant",
            why.what
        )
    })
}

pub(super) fn no_such_plan(listing: &Listing, wanted: &str) -> Error {
    let mut labels: Vec<&str> = listing.labels().map(|p| p.label).collect();
    labels.sort_unstable();
    labels.dedup();
    let mut unknown: Vec<&Uid> = listing.images.iter().filter_map(|i| i.plan_uid.as_ref()).collect();
    let known = listing.plan_uids();
    unknown.retain(|plan| !known.contains(plan));
    unknown.sort_unstable();
    unknown.dedup();
    let alike = labels.iter().find(|l| l.to_lowercase() == wanted.to_lowercase());
    let hint = match (alike, labels.len()) {
        (Some(alike), _) => format!("upper and lower case count: there is `{alike}`"),
        (None, 0) if !unknown.is_empty() => {
            unknown.truncate(LABELS_SHOWN);
            let unknown: Vec<&str> = unknown.into_iter().map(Uid::as_str).collect();
            format!(
                "the archive lists no plan of this patient, but images name plans: --plan-uid chooses one ({})",
                unknown.join(", ")
            )
        }
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

pub(super) fn notices(
    candidates: &Candidates,
    listing: &Listing,
    sessions: &[ChosenSession],
    newest: &ChosenSession,
    wish: &FetchRequest,
) -> Vec<String> {
    if candidates.len() < 2 {
        return Vec::new();
    }
    let label = wish.plan_label.as_deref().unwrap_or_default();
    let others: Vec<&str> = candidates.keys().filter(|u| **u != newest.plan_uid).map(Uid::as_str).collect();
    let dated = |plan: &Uid| listing.labels().find(|p| p.plan_uid == plan).and_then(|p| p.dated);
    let why = match sessions.iter().find(|s| s.plan_uid != newest.plan_uid) {
        None => "only it has such images",
        Some(other) if other.acquired != newest.acquired => "the newest images belong to it",
        Some(other) if dated(&newest.plan_uid) > dated(&other.plan_uid) => {
            "it is the newer plan of those with images of the same time"
        }
        Some(_) => "one had to be taken of those with images of the same time",
    };
    vec![format!(
        "{} plans are called `{label}`: took {}, since {why}; --plan-uid chooses another ({})",
        candidates.len(),
        newest.plan_uid,
        others.join(", ")
    )]
}

/// Images of plans of which nothing is known but their UID: they may be meant.
pub(super) fn of_unlisted_plans(which: &str, images: &[&ListedImage]) -> Vec<String> {
    let mut by_plan: BTreeMap<&Uid, usize> = BTreeMap::new();
    images.iter().filter_map(|i| i.plan_uid.as_ref()).for_each(|plan| *by_plan.entry(plan).or_default() += 1);
    let told = by_plan.into_iter().map(|(plan, n)| {
        format!(
            "{which} name plan {plan}, which the archive does not list ({n}): --plan-uid {plan} chooses them"
        )
    });
    told.collect()
}

/// Why images were passed over, for the sentence when none is left.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    date: usize,
    newest_other_date: Option<NaiveDate>,
    /// The earliest session that was not before the time that was asked for.
    pub(super) too_late: Option<NaiveDateTime>,
    image_type: usize,
    other_beam: usize,
    unknown_beam: usize,
}

impl PassedOver {
    pub(super) fn count(&mut self, why: Difference, image: &ListedImage) {
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

    pub(super) fn explain(&self, wish: &FetchRequest, unlisted: &[&ListedImage]) -> Error {
        let (wanted, other, flag) =
            if wish.kv { ("kV", "MV", "leave out --kv") } else { ("MV", "kV", "add --kv") };
        let on = wish.date.map(|d| format!(" of {d}")).unwrap_or_default();
        let before = wish.before.map(|b| format!(" before {b}")).unwrap_or_default();
        let plan = match (&wish.plan_uid, &wish.plan_label) {
            (Some(uid), _) => format!("plan {uid}"),
            (None, Some(label)) => format!("plan `{label}`"),
            (None, None) => "this plan".into(),
        };
        let hint = if let (Some(earliest), Some(before)) = (self.too_late, wish.before) {
            format!("the earliest image is of {earliest}, which is not before {before}")
        } else if self.unknown_beam > 0 {
            format!("{} images of it say neither MV nor kV, so they are not used", self.unknown_beam)
        } else if self.other_beam > 0 {
            format!("{} {other} images of it are there: {flag} if you mean those", self.other_beam)
        } else if self.image_type > 0 {
            format!("{} images of it have another Image Type: check --image-type", self.image_type)
        } else if let Some(date) = self.newest_other_date {
            format!("the newest image of it is of {date}")
        } else if !unlisted.is_empty() {
            of_unlisted_plans("images", unlisted).join("; ")
        } else {
            "no image names this plan: the images may not have reached the archive yet, or belong to another plan".into()
        };
        Error::NotFound { what: format!("the archive has no {wanted} image{on}{before} for {plan}"), hint }
    }
}
