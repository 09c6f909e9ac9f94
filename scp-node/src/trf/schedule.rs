//! `sync` as a task of the service, at the times of `trf.sync_at`.
//!
//! Isolated: it runs on a thread of its own; a linac, a Mosaiq or a bug of ours that stops it is told on the board and in the log, and
//! touches neither DICOM nor iCom. The next time comes all the same.

use std::time::Duration;

use chrono::{DateTime, Local, NaiveTime, TimeDelta, TimeZone, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trf_core::index::{Counts, Index, layout};

use super::collect;
use super::indexing::{IndexOptions, LinacIndexed};
use super::sync::{SyncRun, sync};
use super::treatments::MosaiqTreatments;
use super::{REVIEW_PART, report};
use crate::error::{Error, Result};
use crate::settings::{Settings, SiteSettings};
use crate::web::{Board, Level};

/// What the board calls the run as a whole.
const PART: &str = "TRF index";
/// How often the clock is looked at: a computer may sleep, and its clock may be set.
const LOOK: Duration = Duration::from_secs(20);
/// How often the board is brought up to date between runs: days without a fetch go on, and people decide reviews.
const STANDING: Duration = Duration::from_secs(3600);
/// A service that starts, and whose last run is older than this, catches up at once: Windows Update restarts at night too.
const CATCH_UP_AFTER: TimeDelta = TimeDelta::hours(20);

/// Runs until shutdown; ends at once where nothing is set.
pub async fn run(settings: Settings, board: Board, shutdown: CancellationToken) {
    let times = settings.trf.sync_times();
    let anything =
        |site: &SiteSettings| site.mosaiq.is_some() || site.linacs.iter().any(|linac| linac.has_share());
    if times.is_empty() || !settings.sites.iter().any(anything) {
        return;
    }
    standing(&settings, &board).await;
    let mut told = Instant::now();
    let mut last = report::newest(&settings.trf.root, "sync");
    loop {
        let now = Utc::now();
        let due = last.is_none_or(|last| now - last > CATCH_UP_AFTER)
            || last.is_some_and(|last| next_after(last, &times, &Local).is_some_and(|next| next <= now));
        if due {
            last = Some(now);
            once(&settings, &board, &shutdown).await;
            told = Instant::now();
        } else if told.elapsed() >= STANDING {
            standing(&settings, &board).await;
            told = Instant::now();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Tells how things stand without a run: how fresh each linac's logs are, and what the index holds.
async fn standing(settings: &Settings, board: &Board) {
    let (settings, board) = (settings.clone(), board.clone());
    let look = move || {
        collect::post(&settings, &board);
        let root = &settings.trf.root;
        if !root.join(layout::DATABASE).exists() {
            return; // nothing was indexed yet
        }
        match Index::open_read_only(root).and_then(|index| index.counts()) {
            Ok(counts) => post_counts(&counts, &board),
            Err(error) => tracing::warn!(error = error.text(), "the index of records cannot be read"),
        }
    };
    if let Err(panic) = tokio::task::spawn_blocking(look).await {
        tracing::error!(%panic, "how the log files stand cannot be told; please report this with the log");
    }
}

/// One run, whatever happens in it.
async fn once(settings: &Settings, board: &Board, shutdown: &CancellationToken) {
    let (job, cancel) = (settings.clone(), shutdown.clone());
    let runtime = tokio::runtime::Handle::current();
    let work = move || -> Result<SyncRun> {
        let mut treatments = MosaiqTreatments::new(runtime);
        let quiet = |_: &str, _: usize, _: usize| {};
        let watch = collect::quiet();
        sync(&job, &IndexOptions::default(), &mut treatments, (&watch, &quiet), &cancel)
    };
    let result = match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::Misuse {
            what: format!("it ended unexpectedly: {panic}"),
            hint: "please report this with the log".into(),
        }),
    };
    collect::post(settings, board);
    match result {
        Err(Error::Cancelled) => {}
        Err(error) => {
            tracing::error!(%error, hint = error.hint(), "log files are not indexed");
            board.post(PART, None, Level::Broken, format!("the last run failed: {error}; {}", error.hint()));
        }
        Ok(run) => {
            tell(&run, board);
            if let Err(error) = report::keep(&settings.trf.root, "sync", run.started_utc, &run) {
                tracing::warn!(%error, "the report is not kept");
            }
        }
    }
}

fn tell(run: &SyncRun, board: &Board) {
    let indexed = &run.indexed;
    let sum = |of: fn(&LinacIndexed) -> usize| indexed.linacs.values().map(of).sum::<usize>();
    let counts = &indexed.counts;
    tracing::info!(
        new = sum(|l| l.new),
        matched = sum(|l| l.matched),
        review = counts.review,
        without_treatment = counts.no_mosaiq_record_found,
        records = counts.records,
        troubles = indexed.troubles.len(),
        "log files are indexed"
    );
    match indexed.troubles.first() {
        None => {
            board.post(PART, None, Level::Good, format!("{} records, {} new", counts.records, sum(|l| l.new)))
        }
        Some(first) => {
            let more = indexed.troubles.len() - 1;
            let more = if more == 0 { String::new() } else { format!("; and {more} more in the report") };
            board.post(
                PART,
                None,
                Level::Warning,
                format!("{}: {}; {}{more}", first.about, first.text, first.hint),
            );
        }
    }
    post_counts(counts, board);
}

fn post_counts(counts: &Counts, board: &Board) {
    if counts.review == 0 {
        board.withdraw(REVIEW_PART, None);
    } else {
        let sentence = format!("{} records wait for a decision: `scp-node trf review`", counts.review);
        board.post(REVIEW_PART, None, Level::Warning, sentence);
    }
    let states = [
        ("indexed", counts.indexed),
        ("review", counts.review),
        ("no_mosaiq_record_found", counts.no_mosaiq_record_found),
        ("unknown_error_in_logfile", counts.unknown_error_in_logfile),
        ("no_field_label_in_logfile", counts.no_field_label_in_logfile),
    ];
    for (state, n) in states {
        #[expect(clippy::cast_precision_loss, reason = "a count of records")]
        board.gauge("scp_node_trf_records", "Records in the index, by state.", &[("state", state)], n as f64);
    }
}

/// The first of these times of day after a moment; one that the clock skips in spring comes an hour later.
fn next_after<Z: TimeZone>(moment: DateTime<Utc>, times: &[NaiveTime], zone: &Z) -> Option<DateTime<Utc>> {
    let today = moment.with_timezone(zone).date_naive();
    let days = today.iter_days().take(3);
    let moments = days.flat_map(|day| {
        times.iter().filter_map(move |time| {
            let local = day.and_time(*time);
            let at = zone.from_local_datetime(&local).earliest();
            at.or_else(|| zone.from_local_datetime(&(local + TimeDelta::hours(1))).earliest())
        })
    });
    moments.map(|at| at.with_timezone(&Utc)).filter(|at| *at > moment).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> NaiveTime {
        NaiveTime::parse_from_str(text, "%H:%M").unwrap()
    }

    fn next(after: &str, times: &[&str]) -> String {
        let times: Vec<_> = times.iter().map(|text| time(text)).collect();
        let after = DateTime::parse_from_rfc3339(after).unwrap().with_timezone(&Utc);
        next_after(after, &times, &chrono_tz::Europe::Berlin).unwrap().to_rfc3339()
    }

    #[tokio::test]
    async fn what_the_index_holds_is_on_the_board_before_the_first_run() {
        let root = tempfile::tempdir().unwrap();
        let board = Board::default();
        let mut settings = Settings::default();
        settings.trf.root = root.path().to_path_buf();
        standing(&settings, &board).await;
        assert!(board.metrics().is_empty(), "there is no index yet");
        drop(Index::open(root.path()).unwrap());
        board.post(REVIEW_PART, None, Level::Warning, "3 records wait for a decision");
        standing(&settings, &board).await;
        let states: usize = board.metrics().iter().map(|metric| metric.values.len()).sum();
        assert_eq!(states, 5, "a number for each state: {:?}", board.metrics());
        assert!(board.posts().is_empty(), "nothing waits any more");
    }

    #[test]
    fn the_next_run_is_the_first_time_of_day_on_the_wall_clock() {
        assert_eq!(next("2026-11-21T03:00:00Z", &["05:30", "13:00"]), "2026-11-21T04:30:00+00:00");
        assert_eq!(next("2026-11-21T04:30:00Z", &["05:30", "13:00"]), "2026-11-21T12:00:00+00:00");
        assert_eq!(next("2026-11-21T12:00:00Z", &["05:30", "13:00"]), "2026-11-22T04:30:00+00:00");
    }

    #[test]
    fn the_skipped_hour_is_run_and_the_doubled_one_is_run_once() {
        assert_eq!(next("2026-03-28T20:00:00Z", &["02:30"]), "2026-03-29T01:30:00+00:00");
        assert_eq!(next("2026-10-24T20:00:00Z", &["02:30"]), "2026-10-25T00:30:00+00:00");
        assert_eq!(next("2026-10-25T00:30:00Z", &["02:30"]), "2026-10-26T01:30:00+00:00");
    }
}
