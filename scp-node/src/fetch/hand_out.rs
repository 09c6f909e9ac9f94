//! From a choice to sessions of the catalog: all that was chosen, with files that are there, or nothing.

use std::collections::HashSet;

use super::choice::{self, Choice, ChosenSession, Unread};
use super::memory::Listing;
use super::{FetchRequest, Fetched, FetchedSession};
use crate::error::{Error, Result};
use crate::images::{Catalog, Instance, PlanRecord, SessionFilter};
use crate::scu::ListedPlan;

/// Everything that was chosen, if it is all on disk and filed under the label that the archive lists.
pub(super) fn whole_already(
    catalog: &Catalog,
    listing: &Listing,
    request: &FetchRequest,
) -> Result<Option<Fetched>> {
    let Choice::Sessions { sessions, notices } = choice::choose(listing, request, &Unread::new()) else {
        return Ok(None);
    };
    if !is_there(listing, &sessions)
        || !untold(catalog, &request.patient_id, &listing.plans, &sessions)?.is_empty()
    {
        return Ok(None);
    }
    match hand_out(catalog, request, listing, sessions, notices, (0, 0)) {
        // A file may have been removed.
        Err(Error::Incomplete { .. }) => Ok(None),
        handed_out => handed_out.map(Some),
    }
}

pub(super) fn is_there(listing: &Listing, sessions: &[ChosenSession]) -> bool {
    let mut images = sessions.iter().flat_map(|session| &session.images);
    images.all(|image| listing.on_disk.contains(&image.sop_instance_uid))
}

/// Tells the catalog the labels of the plans that images are about to be filed under.
pub(super) fn remember_plans(
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

/// The plans of these sessions whose label the catalog does not know, or knows otherwise, or that sessions still wait for.
fn untold(
    catalog: &Catalog,
    patient_id: &str,
    plans: &[ListedPlan],
    sessions: &[ChosenSession],
) -> Result<Vec<PlanRecord>> {
    let mut untold = Vec::new();
    for plan in plans.iter().filter(|p| sessions.iter().any(|s| s.plan_uid == p.plan_uid)) {
        let Some(label) = plan.label.clone() else { continue };
        let is_known = catalog.plan(&plan.plan_uid)?.is_some_and(|known| known.label == label);
        if !is_known || catalog.has_waiting(&plan.plan_uid)? {
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
pub(super) fn hand_out(
    catalog: &Catalog,
    request: &FetchRequest,
    listing: &Listing,
    chosen: Vec<ChosenSession>,
    mut notices: Vec<String>,
    (moved, queries): (usize, usize),
) -> Result<Fetched> {
    let plan = chosen.first().map(|c| (c.plan_uid.to_string(), c.plan_label.clone())).unwrap_or_default();
    let from_catalog = |c: &ChosenSession| from_catalog(catalog, request, listing, c);
    let sessions: Vec<FetchedSession> = chosen.iter().map(from_catalog).collect::<Result<_>>()?;
    for fetched in &sessions {
        match miscounted(listing, &fetched.session.series_uid) {
            Some(notice) => notices.push(notice),
            None if fetched.unlisted.is_empty() => {}
            None => notices.push(unlisted(fetched)),
        }
    }
    Ok(Fetched { sessions, plan_uid: plan.0, plan_label: plan.1, notices, moved, queries })
}

/// What an archive counts and does not list may be an image that is missing here.
fn miscounted(listing: &Listing, series_uid: &str) -> Option<String> {
    let (_, n) = listing.miscounted.iter().find(|(uid, _)| uid.as_str() == series_uid)?;
    (n.counted > n.listed).then(|| {
        format!("the archive counts {} images in series {series_uid} and lists {}", n.counted, n.listed)
    })
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

/// Whether what the objects say of their time is what was asked for; what they do not say is the archive's to say.
fn is_in_time(instances: &[Instance], request: &FetchRequest) -> bool {
    let mut acquired = instances.iter().filter_map(|i| i.acquired);
    let is_before = |b| acquired.clone().min().is_none_or(|a| a < b);
    request.before.is_none_or(is_before) && request.date.is_none_or(|d| acquired.all(|a| a.date() == d))
}

fn from_catalog(
    catalog: &Catalog,
    request: &FetchRequest,
    listing: &Listing,
    chosen: &ChosenSession,
) -> Result<FetchedSession> {
    let filter = SessionFilter {
        patient_id: Some(request.patient_id.clone()),
        plan_uid: Some(chosen.plan_uid.to_string()),
        series_uid: Some(chosen.series_uid.to_string()),
        ..SessionFilter::default()
    };
    let wanted: HashSet<&str> = chosen.images.iter().map(|i| i.sop_instance_uid.as_str()).collect();
    for session in catalog.sessions(&filter)? {
        let all = catalog.instances(&session)?;
        let is_wanted = |i: &Instance| wanted.contains(i.sop_instance_uid.as_str());
        let (instances, others): (Vec<Instance>, Vec<Instance>) = all.into_iter().partition(is_wanted);
        if instances.len() < wanted.len() || !is_in_time(&instances, request) {
            continue;
        }
        let there = |i: &&Instance| i.is_there();
        let missing: Vec<String> =
            instances.iter().filter(|i| !there(i)).map(|i| i.sop_instance_uid.clone()).collect();
        if !missing.is_empty() {
            return Err(Error::Incomplete {
                what: format!("{} of {} files are gone from the disk, or cut", missing.len(), wanted.len()),
                hint: "files below images.root were removed or damaged: try again, they are fetched anew"
                    .into(),
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
        what: "the images are on disk, but what they say about patient, plan or date differs from what the archive lists"
            .into(),
        hint: "the archive changed them after they were fetched, or a corrected file was put into images.root: for the former, move their session's directory out of images.root, run `scp-node reindex`, and fetch again; for the latter, `scp-node reindex` is enough"
            .into(),
        missing: Vec::new(),
        comment: None,
    })
}
