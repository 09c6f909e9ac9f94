//! Looks every few seconds at what nobody posts by himself: catalog, disks, the iCom listener.
//!
//! Input: the parts. Output: posts and gauges on the [`Board`]. A disk that hangs hangs one thread of ours and is told; the pages
//! show what the last look saw.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use icom_core::live::{Link, LinkState};
use icom_core::service::Status;
use icom_core::status::LinacStatus;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Level};
use super::server::Watched;
use crate::error::Result;
use crate::fetch::last_answered;
use crate::images::{Catalog, Totals};
use crate::scu::Archive;
use crate::settings::Settings;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// A look that takes longer says that a disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// A disk with less room is warned of, as multiples of `images.keep_free_bytes`.
const NEARLY_FULL: u64 = 4;

/// The parts' names on the board.
const CATALOG: &str = "catalog";
const DISK: &str = "disk of the images";
const ICOM_DISK: &str = "disk of iCom";
const ICOM: &str = "iCom";
const ICOM_ARCHIVE: &str = "iCom archive";

/// Looks until shutdown.
pub(super) async fn run(watched: Watched, shutdown: CancellationToken) {
    // More often in the beginning, while parts come up.
    for looks in 1.. {
        let of_thread = watched.clone();
        let mut look = tokio::task::spawn_blocking(move || of_thread.look());
        tokio::select! {
            _ = &mut look => {}
            () = tokio::time::sleep(PATIENCE) => {
                let root = watched.settings.images.root.display();
                watched.board.post(DISK, None, Level::Broken, format!("the disk of {root} does not answer"));
                tokio::select! { _ = look => {}, () = shutdown.cancelled() => return }
            }
            () = shutdown.cancelled() => return,
        }
        let pause = INTERVAL.min(Duration::from_secs(looks));
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

impl Watched {
    fn look(&self) {
        catalog(&self.board, &self.settings);
        images_disk(&self.board, &self.settings);
        if let Some(status) = self.icom.status() {
            let listener = self.settings.listener();
            disk(&self.board, ICOM_DISK, &listener.dir, 0);
            icom(&self.board, &status, Utc::now());
        }
    }
}

fn catalog(board: &Board, settings: &Settings) {
    let looked = Catalog::open_readonly(&settings.images.root).and_then(|catalog| {
        archives(board, settings, &catalog)?;
        catalog.totals()
    });
    match looked {
        Ok(Totals { objects, sessions, unlabelled, kept }) => {
            let note = if unlabelled > 0 {
                format!(
                    "{objects} objects in {sessions} sessions; {unlabelled} sessions wait for their plan's label"
                )
            } else {
                format!("{objects} objects in {sessions} sessions")
            };
            board.post(CATALOG, None, Level::Good, note);
            #[expect(clippy::cast_precision_loss, reason = "a metric; exact below 9 PB")]
            for (name, help, value) in [
                ("scp_node_catalog_objects", "Objects in the catalog.", objects),
                ("scp_node_catalog_sessions", "Sessions in the catalog.", sessions),
                (
                    "scp_node_catalog_unlabelled_sessions",
                    "Sessions whose plan has no known label yet.",
                    unlabelled,
                ),
                ("scp_node_catalog_kept", "Instances that came again with other bytes.", kept),
            ] {
                board.gauge(name, help, &[], value as f64);
            }
        }
        Err(error) => board.post(CATALOG, None, Level::Broken, format!("{error}; {}", error.hint())),
    }
}

/// An archive is asked only when somebody wants something; the page says when it last answered.
fn archives(board: &Board, settings: &Settings, catalog: &Catalog) -> Result<()> {
    for archive in &settings.archives {
        let part = archive_part(&archive.name);
        let peer = Archive::new(archive, &settings.node.ae_title).peer();
        let sentence = match last_answered(catalog, &peer)? {
            Some(at) => format!("last answered a query at {}", utc(at)),
            None => "no query answered yet; `scp-node echo` asks it".into(),
        };
        board.post(&part, None, Level::Good, sentence);
    }
    Ok(())
}

/// An archive's name on the board.
pub(super) fn archive_part(name: &str) -> String {
    format!("archive {name}")
}

fn images_disk(board: &Board, settings: &Settings) {
    disk(board, DISK, &settings.images.root, settings.images.keep_free_bytes);
}

fn disk(board: &Board, part: &str, dir: &Path, keep_free: u64) {
    let shown = dir.display();
    match fs4::available_space(dir) {
        Ok(free) => {
            let room = mebibytes(free);
            let (level, sentence) = match free {
                _ if free <= keep_free => {
                    (Level::Broken, format!("{room} free at {shown}: nothing more is stored; free some room"))
                }
                _ if free <= keep_free.saturating_mul(NEARLY_FULL).max(MINIMUM) => {
                    (Level::Warning, format!("only {room} free at {shown}: free some room"))
                }
                _ => (Level::Good, format!("{room} free at {shown}")),
            };
            board.post(part, None, level, sentence);
            #[expect(clippy::cast_precision_loss, reason = "a metric; exact below 9 PB")]
            let value = free as f64;
            board.gauge("scp_node_disk_free_bytes", "Bytes free for this account.", &[("part", part)], value);
        }
        Err(error) => board.post(part, None, Level::Broken, format!("{shown} cannot be looked at: {error}")),
    }
}

/// Bytes of one linac that wait: eight seconds of its stream.
const WAITING: u64 = 256 << 10;
/// A record is written in less, a day of one patient too.
const HANGS: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// Less room than this is worth a word on any disk: an hour of one linac's journal.
const MINIMUM: u64 = 128 << 20;

fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

fn icom(board: &Board, status: &Status, now: DateTime<Utc>) {
    for linac in &status.linacs {
        let (level, sentence) = linac_post(linac, now);
        board.post(ICOM, Some(&linac.linac), level, sentence);
    }
    let (level, sentence) = archive_post(status, now);
    board.post(ICOM_ARCHIVE, None, level, sentence);
}

fn archive_post(status: &Status, now: DateTime<Utc>) -> (Level, String) {
    let waiting = status.archive_waiting;
    let hangs = status.archive_busy_since.filter(|since| now.signed_duration_since(since) > HANGS);
    match (&status.archive_trouble, hangs) {
        (Some(trouble), _) => {
            let since = utc(trouble.since);
            (Level::Broken, format!("{waiting} records wait for the archive since {since}: {}", trouble.what))
        }
        (None, Some(since)) => {
            let since = utc(since);
            (
                Level::Broken,
                format!("one record is being written since {since}, {waiting} wait: the disk hangs"),
            )
        }
        (None, None) => (Level::Good, "records are archived as they end".into()),
    }
}

/// The worst that there is to say about a linac's stream.
fn linac_post(linac: &LinacStatus, now: DateTime<Utc>) -> (Level, String) {
    if let Some(trouble) = &linac.trouble {
        return (Level::Broken, format!("since {}: {}", utc(trouble.since), trouble.what));
    }
    if linac.waiting_journal_bytes > WAITING {
        let waiting = linac.waiting_journal_bytes >> 10;
        return (Level::Broken, format!("{waiting} KiB wait in memory for the journal's disk, which hangs"));
    }
    if linac.link.state != LinkState::Connected {
        return (Level::Warning, no_link(&linac.link));
    }
    if linac.waiting_derived_bytes > WAITING {
        return (
            Level::Warning,
            "interpretation is behind; the journal has everything, live state is late".into(),
        );
    }
    if linac.fsync_failures > 0 {
        let failures = linac.fsync_failures;
        return (
            Level::Warning,
            format!("{failures} fsyncs of the journal failed: a power failure may cost more"),
        );
    }
    if linac.lost_bytes > 0 {
        let lost = linac.lost_bytes;
        return (
            Level::Warning,
            format!("{lost} bytes were lost, because the journal's disk took none for too long"),
        );
    }
    if linac.unparsed_bytes > 0 {
        let bytes = linac.unparsed_bytes;
        return (
            Level::Warning,
            format!("{bytes} bytes in its messages are no items: values may be missing"),
        );
    }
    match linac.last_message {
        Some(at) if now.signed_duration_since(at) < chrono::TimeDelta::seconds(30) => {
            (Level::Good, "messages come".into())
        }
        _ => (Level::Warning, "connected, and no message for half a minute".into()),
    }
}

fn no_link(link: &Link) -> String {
    let why = link.last_end.map_or("not tried yet", |end| end.text());
    format!("no link since {}: {why}", utc(link.since))
}

fn utc(time: DateTime<Utc>) -> impl std::fmt::Display {
    time.format("%Y-%m-%d %H:%M UTC")
}

#[cfg(test)]
mod tests {
    use icom_core::live::LinkEnd;
    use icom_core::status::Trouble;

    use super::*;

    fn connected(now: DateTime<Utc>) -> LinacStatus {
        let link = Link { state: LinkState::Connected, since: now, last_end: None };
        LinacStatus { last_message: Some(now), ..LinacStatus::new("4299", link) }
    }

    #[test]
    fn the_worst_is_told_first_and_a_linac_that_is_off_is_no_fault_of_ours() {
        let now = Utc::now();
        let said = |linac: &LinacStatus| linac_post(linac, now);
        assert_eq!(said(&connected(now)).0, Level::Good);
        let off = Link { state: LinkState::Connecting, since: now, last_end: Some(LinkEnd::Unreachable) };
        let (level, sentence) = said(&LinacStatus { link: off, ..connected(now) });
        assert!(level == Level::Warning && sentence.ends_with("host unreachable"), "{sentence}");
        let trouble = Some(Trouble { since: now, what: "the journal waits: disk full".into() });
        let (level, sentence) = said(&LinacStatus { link: off, trouble, ..connected(now) });
        assert!(level == Level::Broken && sentence.contains("disk full"), "{sentence}");
        assert_eq!(said(&LinacStatus { waiting_journal_bytes: 1 << 20, ..connected(now) }).0, Level::Broken);
        for warned in [
            LinacStatus { lost_bytes: 1, ..connected(now) },
            LinacStatus { unparsed_bytes: 1, ..connected(now) },
            LinacStatus { fsync_failures: 1, ..connected(now) },
            LinacStatus { waiting_derived_bytes: 1 << 20, ..connected(now) },
            LinacStatus { last_message: Some(now - chrono::TimeDelta::seconds(31)), ..connected(now) },
        ] {
            assert_eq!(said(&warned).0, Level::Warning, "{warned:?}");
        }
    }

    #[test]
    fn an_archive_that_hangs_without_an_error_is_told() {
        let now = Utc::now();
        let busy = |seconds| Status {
            linacs: Vec::new(),
            archive_waiting: 3,
            archive_failures: 0,
            archive_trouble: None,
            archive_busy_since: Some(now - chrono::TimeDelta::seconds(seconds)),
            live_failures: 0,
        };
        assert_eq!(archive_post(&busy(5), now).0, Level::Good);
        let (level, sentence) = archive_post(&busy(61), now);
        assert!(level == Level::Broken && sentence.contains("hangs"), "{sentence}");
    }
}
