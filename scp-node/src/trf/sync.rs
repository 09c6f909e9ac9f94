//! `sync`: fetch, extract, index; what PyMedPhys calls `trf orchestrate`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::collect::{self, Collected, Steps, Watch};
use super::indexing::{self, IndexOptions, IndexRun, IndexWatch, Trouble};
use super::treatments::Treatments;
use crate::error::{Error, Result};
use crate::settings::Settings;

/// What a run did.
#[derive(Debug, Serialize)]
pub struct SyncRun {
    /// Whether all is as it should be.
    pub clean: bool,
    /// When it began.
    pub started_utc: DateTime<Utc>,
    /// Fetching and extracting; `None` where no linac has a share.
    pub collected: Option<Collected>,
    /// Why nothing was fetched, if that is so.
    pub trouble: Option<Trouble>,
    /// The index.
    pub indexed: IndexRun,
}

/// Fetches, extracts and indexes; blocking.
///
/// Whatever fetching does, what is extracted is indexed; whatever Mosaiq does, what was fetched can be found.
///
/// # Errors
/// As [`indexing::index`].
pub fn sync(
    settings: &Settings,
    options: &IndexOptions,
    treatments: &mut dyn Treatments,
    watch: (&Watch, IndexWatch<'_>),
    cancel: &CancellationToken,
) -> Result<SyncRun> {
    let started_utc = Utc::now();
    let has_share = settings.sites.iter().flat_map(|site| &site.linacs).any(|linac| linac.has_share());
    // Without shares, zips may still be put into the directories by hand.
    let steps = if has_share { Steps::Both } else { Steps::Extract };
    let (collected, trouble) = match collect::collect(settings, &options.only, steps, watch.0, cancel) {
        Ok(collected) => (Some(collected), None),
        // A linac without share has records all the same: put there by hand, or by another program.
        Err(Error::NotFound { .. }) if !options.only.is_empty() => (None, None),
        Err(error @ Error::Cancelled) => return Err(error),
        Err(error) => {
            tracing::error!(%error, hint = error.hint(), "log files are not fetched");
            (None, Some(Trouble::new("fetch", &error)))
        }
    };
    let indexed = indexing::index(settings, options, treatments, watch.1, cancel)?;
    let clean = trouble.is_none() && indexed.is_clean() && collected.as_ref().is_none_or(Collected::is_clean);
    Ok(SyncRun { clean, started_utc, collected, trouble, indexed })
}
