//! `trf fetch|extract`: log files from the linacs' shares to records on disk.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cli::{Context, Printer, runtime};
use crate::error::{Error, Result};
use crate::trf::collect::{self, Collected, LinacRun, Progress, Steps, Watch};
use crate::trf::report;

/// Which linacs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these linacs; else all.
    #[arg(value_name = "LINAC")]
    linacs: Vec<String>,
}

/// What a run prints as JSON.
#[derive(Serialize)]
struct Report<'a> {
    clean: bool,
    #[serde(flatten)]
    collected: &'a Collected,
}

/// Exit codes: 0 all is as it should be, 1 a linac failed or a zip was refused.
pub(super) fn run(args: &Args, steps: Steps, context: &Context) -> Result<ExitCode> {
    let printer = context.printer;
    let settings = context.settings().clone();
    let only = args.linacs.clone();
    let bars = Arc::new(Bars::new(printer));
    let watch = watch(&bars);
    let collected = runtime::block_on(context, |cancel: CancellationToken| async move {
        let work = move || collect::collect(&settings, &only, steps, &watch, &cancel);
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::Misuse {
            what: format!("collecting ended unexpectedly: {error}"),
            hint: "please report this with the log".into(),
        })?
    })?;
    bars.clear();
    let what = if steps == Steps::Fetch { "fetch" } else { "extract" };
    let report = Report { clean: collected.is_clean(), collected: &collected };
    if let Err(error) = report::keep(&context.settings().trf.root, what, collected.started_utc, &report) {
        printer.note(format!("warning: the report is not kept: {error}"));
    }
    printer.json(&report);
    for run in &collected.linacs {
        tell(run, steps, printer);
    }
    if collected.linacs.is_empty() {
        printer.line("no zips wait for their records to be taken out");
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a person reads of one linac.
pub(super) fn tell(run: &LinacRun, steps: Steps, printer: Printer) {
    let linac = &run.linac;
    if let (Some(zips), Steps::Fetch | Steps::Both) = (run.zips_on_share, steps) {
        let bytes: u64 = run.fetched.iter().map(|zip| zip.bytes).sum();
        let new = run.fetched.len();
        printer.line(format!("{linac}: {zips} zips on the share, {new} fetched ({})", megabytes(bytes)));
    }
    for zip in &run.fetched {
        let resumed = match zip.resumed_bytes {
            0 => String::new(),
            bytes => format!(", of which {} were here already", megabytes(bytes)),
        };
        let hash = zip.sha256.get(..16).unwrap_or_default();
        printer.line(format!("  {}  {}{resumed}  sha256 {hash}…", zip.name, megabytes(zip.bytes)));
    }
    if steps != Steps::Fetch {
        let records: usize = run.extracted.iter().map(|zip| zip.records).sum();
        let (zips, bytes) = (run.extracted.len(), run.extracted.iter().map(|zip| zip.bytes).sum());
        printer.line(format!("{linac}: {records} records out of {zips} zips ({})", megabytes(bytes)));
    }
    for zip in run.extracted.iter().filter(|zip| zip.known > 0) {
        printer.line(format!("  {}: {} records were here already", zip.name, zip.known));
    }
    for zip in &run.refused {
        printer.note(format!("error: {linac}: {} is refused: {}", zip.name, zip.reason));
        let taken = if zip.records > 0 {
            format!("; its {} sound records were taken out", zip.records)
        } else {
            String::new()
        };
        printer.note(format!("hint: it is kept at {}{taken}", zip.kept_at.display()));
    }
    for warning in &run.warnings {
        printer.note(format!("warning: {linac}: {warning}"));
    }
    for trouble in &run.errors {
        printer.note(format!("error: {linac}: {}", trouble.text));
        printer.note(format!("hint: {}", trouble.hint));
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal of megabytes")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// One bar per linac, on a terminal.
pub(in crate::cli) struct Bars {
    all: Option<MultiProgress>,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

/// A watch that shows bars.
pub(in crate::cli) fn watch(bars: &Arc<Bars>) -> Watch {
    let bars = Arc::clone(bars);
    Arc::new(move |linac, progress| bars.show(linac, progress))
}

impl Bars {
    pub(in crate::cli) fn new(printer: Printer) -> Self {
        Self { all: printer.is_watched().then(MultiProgress::new), bars: Mutex::default() }
    }

    pub(in crate::cli) fn clear(&self) {
        if let Some(all) = &self.all {
            let _ = all.clear();
        }
    }

    fn show(&self, linac: &str, progress: &Progress) {
        let Some(all) = &self.all else { return };
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(linac.to_owned()).or_insert_with(|| {
            all.add(
                ProgressBar::new_spinner()
                    .with_prefix(linac.to_owned())
                    .with_style(style("{prefix:12} {spinner} {msg}")),
            )
        });
        match progress {
            Progress::Waiting => bar.set_message("another run has the turn; waiting"),
            Progress::Connecting => bar.set_message("connecting"),
            Progress::Listed { zips, new, new_bytes } => {
                bar.set_length(*new_bytes);
                bar.set_position(0);
                bar.set_message(format!("{new} of {zips} zips"));
                bar.set_style(style(
                    "{prefix:12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
                ));
            }
            Progress::Copied { bytes } => bar.inc(*bytes),
            Progress::Reconnecting => bar.set_message("connection lost; connecting again"),
            Progress::Checking => bar.tick(),
            Progress::Extracting { records } => {
                bar.set_length(*records as u64);
                bar.set_position(0);
                bar.set_message("");
                bar.set_style(style("{prefix:12} {bar:30} {pos}/{len} records {msg}"));
            }
            Progress::Records { records } => bar.inc(*records as u64),
            Progress::Finished => bar.finish_and_clear(),
            // What is not known here moves the bar at least.
            _ => bar.tick(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
