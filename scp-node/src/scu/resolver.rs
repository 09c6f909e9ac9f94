//! The labels of plans that images name: asked in the background, so that an image is never kept waiting for its name.
//!
//! Input: what the store tells of images whose plan is unknown, and at the start what the catalog holds of them. Each plan
//! is asked at every archive of the settings; an archive that does not tell labels is asked to send the plan, whose label
//! the store then reads. Attempts are few and far between: an archive that is down, or a plan that it does not have, must
//! not be asked for ever.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Archive, Inquiry, ListedPlan, query};
use crate::dimse::status::Class;
use crate::error::{Error, Result};
use crate::fetch;
use crate::images::{Arrived, Catalog, PlanRecord};
use crate::names::Uid;
use crate::settings::{Settings, Strategy};

/// Pauses before the attempts. Justification: the first lets the plan itself, or the fetch that knows it, come first; the
/// last outlives an archive's nightly maintenance.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];

struct Waiting {
    patient_id: String,
    attempt: usize,
    due: Instant,
}

/// Runs until `shutdown`.
///
/// # Arguments
/// * `arrived` — from [`crate::images::Store::subscribe`]
pub async fn run(settings: Settings, mut arrived: Receiver<Arrived>, shutdown: CancellationToken) {
    if settings.archives.is_empty() {
        return;
    }
    let mut waiting = HashMap::new();
    note_all(&settings, &mut waiting);
    loop {
        let due = waiting.values().map(|w: &Waiting| w.due).min();
        tokio::select! {
            () = shutdown.cancelled() => return,
            event = arrived.recv() => match event {
                Ok(Arrived { unresolved: Some((plan_uid, patient_id)), .. }) => note(&mut waiting, plan_uid, patient_id),
                Ok(_) => {}
                // What was missed is in the catalog.
                Err(RecvError::Lagged(_)) => note_all(&settings, &mut waiting),
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                let next = waiting.iter().find(|(_, w)| w.due <= now).map(|(uid, _)| uid.clone());
                if let Some(plan_uid) = next {
                    attempt(&settings, &mut waiting, plan_uid, &shutdown).await;
                }
            },
        }
    }
}

fn note(waiting: &mut HashMap<Uid, Waiting>, plan_uid: Uid, patient_id: String) {
    let due = Instant::now() + PAUSES.first().copied().unwrap_or_default();
    waiting.entry(plan_uid).or_insert(Waiting { patient_id, attempt: 0, due });
}

fn note_all(settings: &Settings, waiting: &mut HashMap<Uid, Waiting>) {
    match Catalog::open(&settings.images.root).and_then(|c| c.unresolved_plans()) {
        Ok(plans) => plans.into_iter().for_each(|(uid, patient_id, _)| note(waiting, uid, patient_id)),
        Err(error) => tracing::warn!(%error, "cannot read which plans have no label"),
    }
}

async fn attempt(
    settings: &Settings,
    waiting: &mut HashMap<Uid, Waiting>,
    plan_uid: Uid,
    shutdown: &CancellationToken,
) {
    let Some(entry) = waiting.get_mut(&plan_uid) else { return };
    let patient_id = entry.patient_id.clone();
    entry.attempt += 1;
    let pause = PAUSES.get(entry.attempt).copied();
    entry.due = Instant::now() + pause.unwrap_or_default();
    match resolve(settings, &patient_id, &plan_uid, shutdown).await {
        Ok(true) => {
            tracing::info!(%plan_uid, "the plan's label is known, and its images lie under it");
            waiting.remove(&plan_uid);
        }
        Ok(false) | Err(_) if pause.is_none() => {
            tracing::warn!(%plan_uid, "the plan's label is not known, or a session of it cannot be renamed: images stay among the unresolved ones");
            waiting.remove(&plan_uid);
        }
        Ok(false) => {
            tracing::debug!(%plan_uid, "no archive knows this plan yet, or a session of it cannot be renamed yet")
        }
        // A file's path holds the patient's ID.
        Err(Error::Io { source, .. }) => {
            tracing::info!(%plan_uid, error = %source, "the plan's label could not be asked for; later again");
        }
        Err(error) => {
            tracing::info!(%plan_uid, %error, "the plan's label could not be asked for; later again");
        }
    }
}

/// Whether a plan whose label is known has named all its sessions; `None` when it is not known. A session whose directory was held
/// when the label became known is renamed now.
fn has_named(settings: &Settings, plan_uid: &Uid) -> Result<Option<bool>> {
    let mut catalog = Catalog::open(&settings.images.root)?;
    let Some(plan) = catalog.plan(plan_uid)? else { return Ok(None) };
    catalog.remember_plan(&plan)?;
    Ok(Some(!catalog.has_waiting(plan_uid)?))
}

/// Whether the label is known afterwards, and no session waits for it.
async fn resolve(
    settings: &Settings,
    patient_id: &str,
    plan_uid: &Uid,
    cancel: &CancellationToken,
) -> Result<bool> {
    let mut first_error = None;
    for archive in &settings.archives {
        if let Some(done) = has_named(settings, plan_uid)? {
            return Ok(done);
        }
        let archive = Archive::new(archive, &settings.node.ae_title);
        let remembered = fetch::strategy(&mut Catalog::open(&settings.images.root)?, &archive)?;
        let mut inquiry = Inquiry::new(&archive, remembered, cancel);
        let listed = plan_by_uid(&mut inquiry, patient_id, plan_uid).await;
        let strategy = inquiry.strategy();
        inquiry.close().await;
        if strategy != remembered {
            fetch::remember_strategy(&mut Catalog::open(&settings.images.root)?, &archive, strategy)?;
        }
        match listed {
            Ok(Some(plan)) => match plan.label {
                Some(label) => {
                    let record = PlanRecord {
                        plan_uid: plan_uid.clone(),
                        patient_id: patient_id.to_owned(),
                        label,
                        dated: plan.dated,
                    };
                    Catalog::open(&settings.images.root)?.remember_plan(&record)?;
                    return Ok(has_named(settings, plan_uid)?.unwrap_or(false));
                }
                None => match have_sent(&archive, &plan, settings, cancel).await {
                    Ok(()) => {}
                    Err(Error::Cancelled) => return Err(Error::Cancelled),
                    Err(error) => first_error = first_error.or(Some(error)),
                },
            },
            Ok(None) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match (has_named(settings, plan_uid)?, first_error) {
        (Some(done), _) => Ok(done),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(false),
    }
}

/// One plan by its UID, as the archive lists it; `None` when it has no such plan of this patient.
///
/// # Errors
/// As [`Archive::connect`] and [`Inquiry::series`].
pub async fn plan_by_uid(
    inquiry: &mut Inquiry,
    patient_id: &str,
    plan_uid: &Uid,
) -> Result<Option<ListedPlan>> {
    if inquiry.strategy() != Strategy::Hierarchical {
        let cancel = inquiry.cancel_token();
        let mut association = inquiry.association().await?;
        let outcome = association.find(&query::plan_by_uid(patient_id, plan_uid), &cancel).await?;
        inquiry.give_back(association);
        let plans = outcome.answers.iter().filter_map(|a| ListedPlan::read(a, patient_id, None));
        let found = plans.filter(|p| &p.plan_uid == plan_uid).find(|p| p.label.is_some());
        if outcome.status.class() != Class::Failure && found.is_some() {
            return Ok(found);
        }
    }
    let mut series = inquiry.series(patient_id).await?;
    series.retain(super::ListedSeries::has_plans);
    let plans = inquiry.plans(patient_id, &series).await?;
    Ok(plans.into_iter().find(|p| &p.plan_uid == plan_uid))
}

/// Has the plan sent to our receiver, which reads the label.
async fn have_sent(
    archive: &Archive,
    plan: &ListedPlan,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut association = archive.connect_or(cancel).await?;
    let query = query::move_instances(&plan.study_uid, &plan.series_uid, [&plan.plan_uid]);
    let destination = &settings.node.ae_title;
    let outcome = association.move_to(destination, &query, cancel, || false, |_| {}).await?;
    association.release().await;
    if outcome.is_clean() {
        return Ok(());
    }
    Err(super::explain::move_failed(&archive.peer(), &outcome, 0, destination, settings.node.port))
}
