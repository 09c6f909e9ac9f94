//! Bringing what is remembered of a patient up to date, with as few and as narrow questions as possible.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::memory::{Asked, Change, Listing, Memory};
use crate::error::Result;
use crate::names::Uid;
use crate::scu::{Inquiry, ListedImage, ListedSeries};

/// How long a fetch believes labels while the counts of their series do not change: a plan may be renamed in Aria without
/// becoming another instance. A label that nothing has is looked for anew at once.
const PLANS_TRUSTED_MS: i64 = 12 * 3600 * 1000;

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Whether the patient was asked about within the freshness time. A clock that was set back makes nothing fresh.
pub(super) fn is_fresh(memory: &Memory<'_>, patient_id: &str, fresh_for_s: f64) -> Result<bool> {
    let age_ms = now_ms().saturating_sub(memory.asked(patient_id)?.all_ms);
    Ok(age_ms >= 0 && (age_ms as f64) < fresh_for_s * 1000.0)
}

/// Asks the archive what it has of the patient, and remembers it.
///
/// # Arguments
/// * `labels_anew` — whether plans are listed that are believed to be known
/// # Returns
/// The series whose images were listed, all that are counted.
pub(super) async fn ask(
    memory: &mut Memory<'_>,
    inquiry: &mut Inquiry,
    patient_id: &str,
    labels_anew: bool,
) -> Result<HashSet<Uid>> {
    let began_ms = now_ms();
    let before = memory.asked(patient_id)?;
    let known = memory.series(patient_id)?;
    let series = inquiry.series(patient_id).await?;
    // A series that was listed otherwise than counted is growing: it is asked for again.
    let miscounted = memory.miscounted(patient_id)?;
    let changed = |s: &&ListedSeries| {
        s.instances.is_none()
            || miscounted.contains_key(&s.series_uid)
            || known.get(&s.series_uid).is_none_or(|k| k.instances != s.instances)
    };
    // Also when they were asked for in the future, by a clock that was set back since.
    let plans_too_old =
        labels_anew || !(0..=PLANS_TRUSTED_MS).contains(&began_ms.saturating_sub(before.plans_ms));
    let of_plans: Vec<ListedSeries> =
        series.iter().filter(|s| s.has_plans() && (plans_too_old || changed(s))).cloned().collect();
    let of_images: Vec<ListedSeries> =
        series.iter().filter(|s| s.has_images() && changed(s)).cloned().collect();
    let plans = if of_plans.is_empty() { Vec::new() } else { inquiry.plans(patient_id, &of_plans).await? };
    let images =
        if of_images.is_empty() { Vec::new() } else { inquiry.images(patient_id, &of_images).await? };
    let asked = Asked { all_ms: began_ms, plans_ms: if plans_too_old { began_ms } else { before.plans_ms } };
    let mut listed: HashSet<Uid> = of_images.iter().map(|s| s.series_uid.clone()).collect();
    let relisted = of_plans.into_iter().chain(of_images).collect();
    let strategy = inquiry.strategy();
    memory.update(patient_id, &Change { relisted, images, plans, strategy, asked, series })?;
    let miscounted = memory.miscounted(patient_id)?;
    listed.retain(|series| !miscounted.contains_key(series));
    Ok(listed)
}

/// The count is older than this listing: one that it does not bear out says nothing any more.
fn settled(series: ListedSeries, images: &[ListedImage]) -> ListedSeries {
    let listed = images.iter().filter(|i| i.series_uid == series.series_uid).count();
    let instances = series.instances.filter(|n| *n as usize == listed);
    ListedSeries { instances, ..series }
}

/// Asks which images these series have now, lists anew those that have others than listed, and remembers it: a count says
/// nothing about an image that was deleted and another one that was taken in its place.
///
/// # Returns
/// Whether there were any.
pub(super) async fn look_again(
    memory: &mut Memory<'_>,
    inquiry: &mut Inquiry,
    patient_id: &str,
    listing: &Listing,
    series: &[Uid],
) -> Result<bool> {
    let known = memory.series(patient_id)?;
    let series: Vec<ListedSeries> = series.iter().filter_map(|uid| known.get(uid)).cloned().collect();
    let there = inquiry.instances(patient_id, &series).await?;
    let listed = |uid: &Uid| -> HashSet<Uid> {
        let images = listing.images.iter().filter(|i| &i.series_uid == uid);
        images.map(|i| i.sop_instance_uid.clone()).collect()
    };
    let both = series.into_iter().zip(there);
    let others: Vec<ListedSeries> =
        both.filter(|(s, there)| &listed(&s.series_uid) != there).map(|(s, _)| s).collect();
    if others.is_empty() {
        return Ok(false);
    }
    let images = inquiry.images(patient_id, &others).await?;
    let was_whole = |s: &ListedSeries| !listing.miscounted.contains_key(&s.series_uid);
    let relisted = others.into_iter().map(|s| if was_whole(&s) { settled(s, &images) } else { s }).collect();
    let change = Change {
        relisted,
        images,
        plans: Vec::new(),
        strategy: inquiry.strategy(),
        asked: memory.asked(patient_id)?,
        series: known.into_values().collect(),
    };
    memory.update(patient_id, &change)?;
    Ok(true)
}
