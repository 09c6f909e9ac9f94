//! Bringing what is remembered of a patient up to date, with as few and as narrow questions as possible.

use std::time::{SystemTime, UNIX_EPOCH};

use super::memory::{Asked, Change, Memory};
use crate::error::Result;
use crate::names::Uid;
use crate::scu::{Archive, Inquiry, ListedSeries};
use crate::settings::Strategy;

/// How long labels are believed while the counts of their series do not change: a plan may be renamed in Aria without
/// becoming another instance.
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

/// How the archive is asked: as set, else as found out before.
pub(super) fn strategy(memory: &Memory<'_>, archive: &Archive) -> Result<Strategy> {
    match archive.settings().strategy {
        Strategy::Auto => memory.strategy(),
        set => Ok(set),
    }
}

/// Asks the archive what it has of the patient, and remembers it.
pub(super) async fn ask(memory: &mut Memory<'_>, inquiry: &mut Inquiry, patient_id: &str) -> Result<()> {
    let began_ms = now_ms();
    let before = memory.asked(patient_id)?;
    let known = memory.series(patient_id)?;
    let series = inquiry.series(patient_id).await?;
    let changed = |s: &&ListedSeries| {
        s.instances.is_none() || known.get(&s.series_uid).is_none_or(|k| k.instances != s.instances)
    };
    // Also when they were asked for in the future, by a clock that was set back since.
    let plans_too_old = !(0..=PLANS_TRUSTED_MS).contains(&began_ms.saturating_sub(before.plans_ms));
    let of_plans: Vec<ListedSeries> =
        series.iter().filter(|s| s.has_plans() && (plans_too_old || changed(s))).cloned().collect();
    let of_images: Vec<ListedSeries> =
        series.iter().filter(|s| s.has_images() && changed(s)).cloned().collect();
    let plans = if of_plans.is_empty() { Vec::new() } else { inquiry.plans(patient_id, &of_plans).await? };
    let images =
        if of_images.is_empty() { Vec::new() } else { inquiry.images(patient_id, &of_images).await? };
    // A series that was listed short of its count is growing: it is asked for again next time.
    let settled = |s: ListedSeries| {
        let of_series = |uid: &Uid| uid == &s.series_uid;
        let listed = images.iter().filter(|i| of_series(&i.series_uid)).count()
            + plans.iter().filter(|p| of_series(&p.series_uid)).count();
        let instances = s.instances.filter(|n| *n as usize == listed);
        ListedSeries { instances, ..s }
    };
    let asked = Asked {
        all_ms: began_ms,
        plans_ms: if plans_too_old || before.plans_ms == 0 { began_ms } else { before.plans_ms },
    };
    let relisted = of_plans.into_iter().chain(of_images).map(settled).collect();
    let strategy = inquiry.strategy();
    memory.update(patient_id, &Change { relisted, images, plans, strategy, asked, series })
}
