//! Settings to linacs: what [`trf_core::collect`] needs, out of `[trf]` and `[[site.linac]]`.
//!
//! Input: settings. Output: [`Collected`], and posts on the board. Blocking: the service calls it on a thread for blocking work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use trf_core::collect::{After, Layout, Level, Linac, Options};
pub use trf_core::collect::{
    Collected, ExtractedZip, FetchedZip, Freshness, LinacRun, Progress, RefusedZip, Steps, Trouble, Watch,
};
use trf_core::share::{Password, Share, SmbAddress};

use crate::error::{Error, Result};
use crate::settings::{AfterExtract, LinacSettings, Settings};
use crate::web::{self, Board};

/// What the board calls this part of the service.
pub const PART: &str = "TRF logs";

/// A watch that looks away.
pub fn quiet() -> Watch {
    Arc::new(|_, _| {})
}

/// Fetches new zips and takes their records out: of all linacs, or of those in `only`.
///
/// Blocking. Several linacs at once, each isolated; a second run at the same time takes turns with this one, linac by linac. What goes
/// wrong with a linac is in its [`LinacRun`] and in the log.
///
/// # Errors
/// [`Error::NotFound`] for a name in `only` that is no linac; [`Error::Settings`] if nothing is to be collected from.
pub fn collect(
    settings: &Settings,
    only: &[String],
    steps: Steps,
    watch: &Watch,
    cancel: &CancellationToken,
) -> Result<Collected> {
    let linacs = linacs(settings, only, steps)?;
    Ok(trf_core::collect::collect(linacs, &options(settings), steps, watch, cancel))
}

/// When each linac was last fetched from, out of what is remembered; no network.
pub fn freshness(settings: &Settings) -> Vec<Freshness> {
    let linacs = with_share(settings).map(|linac| linac.name.as_str());
    trf_core::collect::freshness(&options(settings), linacs)
}

/// Posts on the board how fresh each linac's logs are.
pub fn post(settings: &Settings, board: &Board) {
    for fresh in freshness(settings) {
        let (level, sentence) = sentence(&fresh);
        board.post(PART, Some(&fresh.linac), level, sentence);
        if let Some(days) = fresh.days_without_fetch {
            board.gauge(
                "scp_node_trf_days_without_fetch",
                "Days since the linac's diagnostics zips were last fetched; it keeps them for eight.",
                &[("linac", &fresh.linac)],
                f64::from(i32::try_from(days).unwrap_or(i32::MAX)),
            );
        }
    }
}

fn sentence(fresh: &Freshness) -> (web::Level, String) {
    let why = fresh.last_error.as_ref().map_or(String::new(), |error| format!("; last try: {error}"));
    let level = match fresh.level {
        Level::Losing => web::Level::Broken,
        Level::Warning => web::Level::Warning,
        Level::Fine if fresh.last_error.is_some() => web::Level::Warning,
        Level::Fine => web::Level::Good,
    };
    (level, format!("{}{why}", fresh.text))
}

fn with_share(settings: &Settings) -> impl Iterator<Item = &LinacSettings> {
    settings.sites.iter().flat_map(|site| &site.linacs).filter(|linac| linac.has_share())
}

fn linacs(settings: &Settings, only: &[String], steps: Steps) -> Result<Vec<Linac>> {
    let mut linacs: Vec<Linac> = with_share(settings)
        .map(|linac| {
            let share = (steps != Steps::Extract).then(|| share(linac).map_err(|error| trouble(&error)));
            Linac { name: linac.name.clone(), share }
        })
        .collect();
    if steps != Steps::Fetch {
        // Zips may be put into the directories by hand, or by PyMedPhys.
        let waiting = Layout::new(&settings.trf.root).linacs_waiting();
        let new = waiting.into_iter().filter(|name| linacs.iter().all(|linac| linac.name != *name));
        let new: Vec<Linac> = new.map(|name| Linac { name, share: None }).collect();
        linacs.extend(new);
    }
    let known = linacs.iter().map(|linac| linac.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = only.iter().find(|name| linacs.iter().all(|linac| linac.name != **name)) {
        let hint = if known.is_empty() {
            "none has nss_path or nss_host".into()
        } else {
            format!("there are: {known}")
        };
        return Err(Error::NotFound { what: format!("no linac `{name}` has log files to collect"), hint });
    }
    if linacs.is_empty() && steps != Steps::Extract {
        return Err(Error::Settings {
            key: "site.linac".into(),
            what: "no linac has a share: give it nss_path, or nss_host with nss_user and nss_password".into(),
        });
    }
    linacs.retain(|linac| only.is_empty() || only.contains(&linac.name));
    Ok(linacs)
}

fn share(linac: &LinacSettings) -> Result<Share> {
    if linac.nss_host.trim().is_empty() {
        return Ok(Share::Path(PathBuf::from(linac.nss_path.trim())));
    }
    let password =
        linac.nss_password.as_ref().map_or(Ok(String::new()), |p| p.reveal("site.linac.nss_password"))?;
    Ok(Share::Smb(SmbAddress {
        host: linac.nss_host.trim().to_owned(),
        port: linac.nss_port,
        share: linac.nss_share.trim().to_owned(),
        directory: linac.nss_directory.trim().to_owned(),
        user: linac.nss_user.trim().to_owned(),
        password: Password(password),
        encrypt: linac.nss_encrypt,
    }))
}

fn trouble(error: &Error) -> Trouble {
    Trouble { text: error.to_string(), kind: error.kind(), hint: error.hint() }
}

fn options(settings: &Settings) -> Options {
    let trf = &settings.trf;
    let mut options = Options::new(&trf.root);
    options.pattern.clone_from(&trf.zips);
    options.after = match trf.after_extract {
        AfterExtract::Move => After::Move,
        AfterExtract::Keep => After::Keep,
        AfterExtract::Remove => After::Remove,
    };
    options.keep_free_bytes = trf.keep_free_bytes;
    options.warn_after_days = i64::from(trf.warn_after_days);
    options.at_once = usize::from(trf.at_once);
    options.stall = Duration::from_secs_f64(trf.stall_s);
    options.read_twice = trf.read_twice;
    options
}
