//! Moving what is missing to ourselves, and knowing that it arrived.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::inbox::Inbox;
use super::{Step, ours};
use crate::dimse::Status;
use crate::dimse::status::Class;
use crate::error::{Error, Result};
use crate::images::Catalog;
use crate::names::Uid;
use crate::scu::archive::Pending;
use crate::scu::{Inquiry, ListedImage, ListedPlan, MoveOutcome, explain, query};
use crate::settings::Settings;

/// UIDs in one request. Justification: 100 UIDs of 64 characters stay below the 16 KiB that small PDUs and some archives
/// allow for an identifier.
const UIDS_PER_MOVE: usize = 100;
/// How long an object may stay away after the archive said it was delivered, counted from the last arrival.
const ARRIVAL_GRACE: Duration = Duration::from_secs(3);
/// Pause between two looks into the catalog.
const LOOK: Duration = Duration::from_millis(10);
/// How often the receiver that we use may vanish. Justification: each time it is another process's, until it is ours.
const VANISHINGS_MAX: usize = 3;
/// How many missing UIDs an error names.
const UIDS_SHOWN: usize = 3;

/// Instances of one series that shall come.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub study_uid: Uid,
    pub series_uid: Uid,
    pub instances: Vec<Uid>,
    /// Whether they are all that the series has.
    pub is_whole_series: bool,
    /// How many others of their session are on disk: the archive has reached us then.
    pub here: usize,
}

/// Plans and images by series.
pub(super) fn wanted(plans: &[ListedPlan], images: &[ListedImage]) -> Vec<Wanted> {
    let plans = plans.iter().map(|p| (&p.study_uid, &p.series_uid, &p.plan_uid));
    let images = images.iter().map(|i| (&i.study_uid, &i.series_uid, &i.sop_instance_uid));
    let mut by_series: BTreeMap<(&Uid, &Uid), Vec<Uid>> = BTreeMap::new();
    for (study, series, instance) in plans.chain(images) {
        by_series.entry((study, series)).or_default().push(instance.clone());
    }
    by_series
        .into_iter()
        .map(|((study, series), instances)| Wanted {
            study_uid: study.clone(),
            series_uid: series.clone(),
            instances,
            is_whole_series: false,
            here: 0,
        })
        .collect()
}

/// Moves these instances and waits until they are on disk; what did not come, also because the connection was cut, is
/// asked for once more; what did not come because the receiver was gone, over a new one.
///
/// # Returns
/// How many arrived.
/// # Errors
/// [`Error::PeerMisbehaved`] when the archive refuses or cannot deliver; [`Error::Incomplete`] when some stay away.
pub(super) async fn bring(
    inquiry: &mut Inquiry,
    inbox: &mut Inbox,
    catalog: &Catalog,
    settings: &Settings,
    wanted: &Wanted,
    progress: &mut dyn FnMut(Step),
) -> Result<usize> {
    let total = wanted.instances.len();
    let mut missing = absent(catalog, &wanted.instances)?;
    let mut worst = MoveOutcome::default();
    // Some archives fail on a list of SOP Instance UIDs (PS3.4 §C.4.2.1.4.2) with statuses that say anything but that
    // (pynetdicom: unknown destination); they are then asked for one at a time.
    let mut refuses_lists = false;
    let cancel = inquiry.cancel_token();
    let (mut attempt, mut vanishings) = (0, 0);
    let mut is_hopeless = false;
    while attempt < 2 && !missing.is_empty() && !is_hopeless {
        // The receiver may be gone since it was opened, or used last.
        inbox.renew(settings, &cancel).await?;
        let mut vanished = false;
        let whole = attempt == 0 && wanted.is_whole_series && missing.len() == total;
        let chunks: Vec<Vec<Uid>> = if whole {
            vec![missing.clone()]
        } else {
            missing.chunks(if refuses_lists { 1 } else { UIDS_PER_MOVE }).map(<[_]>::to_vec).collect()
        };
        for chunk in chunks {
            let outcome = match attempt_move(inquiry, catalog, settings, wanted, &chunk, whole, progress)
                .await
            {
                Ok(outcome) => outcome,
                // Something came before the connection was cut: the rest is asked for over a new one, once.
                Err(error) if attempt == 0 && is_cut(&error) && arrived_any(catalog, &chunk)? => {
                    tracing::warn!(archive = %inquiry.archive().peer(), kind = error.kind(), "a move was cut off");
                    wait_for(catalog, &chunk, &cancel).await?;
                    continue;
                }
                Err(error) => {
                    let missing = absent(catalog, &wanted.instances)?;
                    if matches!(error, Error::Timeout { .. })
                        && let Some(ours) = our_fault(inquiry, settings, catalog, wanted, &missing).await
                    {
                        return Err(ours);
                    }
                    return Err(broken_off(error, wanted, &missing));
                }
            };
            if !outcome.is_clean() && vanishings < VANISHINGS_MAX && inbox.renew(settings, &cancel).await? {
                (vanished, vanishings) = (true, vanishings + 1);
                break;
            }
            if outcome.status == Status::SUCCESS || !outcome.is_clean() && arrived_any(catalog, &chunk)? {
                wait_for(catalog, &chunk, &cancel).await?;
            }
            if !outcome.is_clean() {
                tracing::warn!(
                    archive = %inquiry.archive().peer(), status = %outcome.status,
                    failed = outcome.failed, warning = outcome.warning, "a move did not succeed wholly"
                );
                worst = outcome;
                if refuses_lists
                    && worst.status.class() == Class::Failure
                    && !arrived_any(catalog, &wanted.instances)?
                {
                    // It was not the list, then: what one object meets, all would meet.
                    is_hopeless = true;
                    break;
                }
            }
        }
        let before = std::mem::replace(&mut missing, absent(catalog, &wanted.instances)?).len();
        if vanished {
            // That was no fault of the archive's: it does not count.
            continue;
        }
        let nothing_came = missing.len() == before && worst.status.class() == Class::Failure;
        if nothing_came && !whole && before > 1 && !refuses_lists {
            // No attempt to have them sent, but to name them.
            (refuses_lists, worst) = (true, MoveOutcome::default());
            continue;
        }
        attempt += 1;
        // An unknown destination stays unknown: trying again would only delay the sentence that helps.
        if worst.status == Status::MOVE_DESTINATION_UNKNOWN {
            break;
        }
    }
    if missing.is_empty() {
        return Ok(total);
    }
    if let Some(ours) = our_fault(inquiry, settings, catalog, wanted, &missing).await {
        return Err(ours);
    }
    Err(failure(inquiry, settings, &worst, wanted, &missing))
}

/// The error when it is we who kept them away.
async fn our_fault(
    inquiry: &Inquiry,
    settings: &Settings,
    catalog: &Catalog,
    wanted: &Wanted,
    missing: &[Uid],
) -> Option<Error> {
    let here = wanted.here + wanted.instances.len() - missing.len();
    let reason = ours::reason(settings, inquiry.archive().settings(), catalog, here > 0).await?;
    if here == 0 {
        return Some(reason);
    }
    let hint = reason.hint();
    Some(incomplete(wanted, missing, Some(&reason), hint, None))
}

async fn attempt_move(
    inquiry: &mut Inquiry,
    catalog: &Catalog,
    settings: &Settings,
    wanted: &Wanted,
    chunk: &[Uid],
    whole: bool,
    progress: &mut dyn FnMut(Step),
) -> Result<MoveOutcome> {
    let query = if whole {
        query::move_series(&wanted.study_uid, &wanted.series_uid)
    } else {
        query::move_instances(&wanted.study_uid, &wanted.series_uid, chunk)
    };
    let total = chunk.len();
    progress(Step::Moving { done: 0, total });
    let cancel = inquiry.cancel_token();
    let destination = &settings.node.ae_title;
    let mut association = inquiry.association().await?;
    let mut seen = 0;
    // An archive that sends no pending responses is alive as long as objects arrive.
    let mut is_alive = || {
        let now = catalog.on_disk(chunk).map_or(0, |p| p.len());
        std::mem::replace(&mut seen, now) < now
    };
    let mut pending = |p: Pending| progress(Step::Moving { done: usize::from(p.done).min(total), total });
    let mut moved = association.move_to(destination, &query, &cancel, &mut is_alive, &mut pending).await;
    if moved.as_ref().is_err_and(|error| association.ended_idle(error)) {
        association = inquiry.archive().connect_or(&cancel).await?;
        moved = association.move_to(destination, &query, &cancel, &mut is_alive, &mut pending).await;
    }
    match moved {
        Ok(outcome) => {
            inquiry.give_back(association);
            progress(Step::Moving { done: total, total });
            Ok(outcome)
        }
        Err(Error::Timeout { seconds, .. })
            if wanted.here == 0 && !arrived_any(catalog, &wanted.instances)? =>
        {
            Err(explain::move_silent(association.peer(), seconds, destination, settings.node.port))
        }
        Err(error) => Err(error),
    }
}

fn is_cut(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::PeerMisbehaved { .. })
}

fn absent(catalog: &Catalog, instances: &[Uid]) -> Result<Vec<Uid>> {
    let here = catalog.on_disk(instances)?;
    Ok(instances.iter().filter(|uid| !here.contains(*uid)).cloned().collect())
}

fn arrived_any(catalog: &Catalog, instances: &[Uid]) -> Result<bool> {
    Ok(!catalog.on_disk(instances)?.is_empty())
}

/// Waits while objects still arrive: an archive may answer before its last store is through.
async fn wait_for(catalog: &Catalog, instances: &[Uid], cancel: &CancellationToken) -> Result<()> {
    let mut before: HashSet<Uid> = catalog.on_disk(instances)?;
    let mut last = Instant::now();
    while before.len() < instances.len() && last.elapsed() < ARRIVAL_GRACE {
        tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = catalog.on_disk(instances)?;
        if now.len() > before.len() {
            (before, last) = (now, Instant::now());
        }
    }
    Ok(())
}

/// What the archive's answers mean for those that are still missing.
fn failure(
    inquiry: &Inquiry,
    settings: &Settings,
    worst: &MoveOutcome,
    wanted: &Wanted,
    missing: &[Uid],
) -> Error {
    let (peer, node) = (inquiry.archive().peer(), &settings.node);
    let here = wanted.here + wanted.instances.len() - missing.len();
    let refused = explain::move_failed(&peer, worst, here, &node.ae_title, node.port);
    if here == 0 && worst.status != Status::SUCCESS {
        return refused;
    }
    let hint = if worst.is_clean() {
        format!(
            "the archive says that it delivered them: check that port {} of this machine is ours, that Aria's entry of {} names this machine, and our log for refused objects",
            node.port, node.ae_title
        )
    } else if missing.len() == wanted.instances.len() && worst.completed.unwrap_or(0) == 0 {
        format!(
            "{}; if other images do not come any more either, check the firewall for port {} of this machine",
            refused.hint(),
            node.port
        )
    } else {
        refused.hint()
    };
    incomplete(wanted, missing, None, hint, refused.comment())
}

/// The move could not be carried to its end: with something of the session here, what counts is what is missing.
fn broken_off(error: Error, wanted: &Wanted, missing: &[Uid]) -> Error {
    let is_about_us = matches!(error, Error::Timeout { .. }) || is_cut(&error);
    let here = wanted.here + wanted.instances.len() - missing.len();
    if here == 0 || missing.is_empty() || !is_about_us {
        return error;
    }
    let hint = error.hint();
    incomplete(wanted, missing, Some(&error), hint, error.comment())
}

fn incomplete(
    wanted: &Wanted,
    missing: &[Uid],
    cause: Option<&Error>,
    hint: String,
    comment: Option<&str>,
) -> Error {
    let shown: Vec<&str> = missing.iter().take(UIDS_SHOWN).map(Uid::as_str).collect();
    let more = match missing.len() - shown.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let cause = cause.map(|c| format!(": {c}")).unwrap_or_default();
    Error::Incomplete {
        what: format!(
            "{} of {} objects are missing ({}{more}), so nothing is handed out{cause}",
            missing.len(),
            wanted.here + wanted.instances.len(),
            shown.join(", ")
        ),
        hint,
        missing: missing.iter().map(Uid::to_string).collect(),
        comment: comment.map(ToOwned::to_owned),
    }
}
