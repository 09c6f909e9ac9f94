//! `trf index|sync`: records to their patients.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;
use trf_core::index::{Index, layout};

use super::collect::{Bars, watch};
use crate::cli::{Context, Printer, runtime};
use crate::error::{Error, Result};
use crate::trf::indexing::{self, IndexOptions, IndexRun, Trouble};
use crate::trf::sync::{SyncRun, sync};
use crate::trf::treatments::MosaiqTreatments;
use crate::trf::{collect, report};

/// Which records, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these linacs; else all.
    #[arg(value_name = "LINAC")]
    linacs: Vec<String>,
    /// Matches each record by itself with PyMedPhys's rule, 240 s around the header's time, instead of whole days.
    #[arg(long)]
    like_pymedphys: bool,
    /// Looks for the treatments of all records that have none, also of those not due yet or given up.
    #[arg(long)]
    retry: bool,
}

/// `trf index`.
#[derive(Debug, clap::Args)]
pub(super) struct IndexArgs {
    #[command(flatten)]
    which: Args,
    /// Also enters records that lie in the index's directories but are not in it, such as after a loss of the database.
    #[arg(long)]
    rescan: bool,
    /// Takes over PyMedPhys's index; without FILE the index.json of trf.root.
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "export_pymedphys")]
    import_pymedphys: Option<Option<PathBuf>>,
    /// Writes the index as PyMedPhys reads it; without FILE the index.json of trf.root.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    export_pymedphys: Option<Option<PathBuf>>,
}

impl Args {
    fn options(&self) -> IndexOptions {
        IndexOptions {
            only: self.linacs.clone(),
            like_pymedphys: self.like_pymedphys,
            retry: self.retry,
            rescan: false,
        }
    }
}

/// Exit codes: 0 all is as it should be, 1 something did not work and is told.
pub(super) fn run(args: &IndexArgs, context: &Context) -> Result<ExitCode> {
    let settings = context.settings();
    let default = settings.trf.root.join(layout::PYMEDPHYS_INDEX);
    if let Some(file) = &args.export_pymedphys {
        return export(file.as_ref().unwrap_or(&default), context);
    }
    if let Some(file) = &args.import_pymedphys {
        return import(file.clone().unwrap_or(default), context);
    }
    check_linacs(&args.which.linacs, context)?;
    let options = IndexOptions { rescan: args.rescan, ..args.which.options() };
    let (job, bar) = (settings.clone(), Arc::new(Bar::new(context.printer)));
    let shown = Arc::clone(&bar);
    let run = blocking(context, move |cancel, runtime| {
        let mut treatments = MosaiqTreatments::new(runtime);
        let watch = |step: &str, done, all| shown.show(step, done, all);
        indexing::index(&job, &options, &mut treatments, &watch, &cancel)
    })?;
    bar.clear();
    keep("index", run.started_utc, &run, context);
    context.printer.json(&serde_json::json!({"clean": run.is_clean(), "indexed": run}));
    tell(&run, context.printer);
    Ok(if run.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As [`run`].
pub(super) fn run_sync(args: &Args, context: &Context) -> Result<ExitCode> {
    check_linacs(&args.linacs, context)?;
    let (job, options) = (context.settings().clone(), args.options());
    let bars = Arc::new(Bars::new(context.printer));
    let bar = Arc::new(Bar::new(context.printer));
    let (collecting, shown) = (watch(&bars), Arc::clone(&bar));
    let run: SyncRun = blocking(context, move |cancel, runtime| {
        let mut treatments = MosaiqTreatments::new(runtime);
        let indexing = |step: &str, done, all| shown.show(step, done, all);
        sync(&job, &options, &mut treatments, (&collecting, &indexing), &cancel)
    })?;
    bars.clear();
    bar.clear();
    keep("sync", run.started_utc, &run, context);
    let printer = context.printer;
    printer.json(&run);
    for linac in run.collected.iter().flat_map(|collected| &collected.linacs) {
        super::collect::tell(linac, collect::Steps::Both, printer);
    }
    run.trouble.iter().for_each(|trouble| tell_trouble(trouble, printer));
    tell(&run.indexed, printer);
    Ok(if run.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_linacs(wanted: &[String], context: &Context) -> Result<()> {
    let known: Vec<&str> = context
        .settings()
        .sites
        .iter()
        .flat_map(|site| &site.linacs)
        .map(|linac| linac.name.as_str())
        .collect();
    match wanted.iter().find(|name| !known.iter().any(|known| known.eq_ignore_ascii_case(name))) {
        Some(name) => Err(Error::NotFound {
            what: format!("no linac is called `{name}`"),
            hint: format!("there are: {}", known.join(", ")),
        }),
        None => Ok(()),
    }
}

/// Work that blocks, on a thread that may ask the runtime to wait for Mosaiq.
fn blocking<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce(CancellationToken, tokio::runtime::Handle) -> Result<T> + Send + 'static,
) -> Result<T> {
    runtime::block_on(context, |cancel| async move {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || work(cancel, runtime)).await.map_err(|error| Error::Misuse {
            what: format!("it ended unexpectedly: {error}"),
            hint: "please report this with the log".into(),
        })?
    })
}

fn keep(what: &str, started: chrono::DateTime<Utc>, run: &impl serde::Serialize, context: &Context) {
    if let Err(error) = report::keep(&context.settings().trf.root, what, started, run) {
        context.printer.note(format!("warning: the report is not kept: {error}"));
    }
}

/// What a person reads of a run.
fn tell(run: &IndexRun, printer: Printer) {
    let repaired = &run.repaired;
    if !repaired.is_nothing() {
        printer.note(format!(
            "note: an interrupted run was put right: {} moves finished, {} undone, {} made again",
            repaired.finished, repaired.undone, repaired.moved_again
        ));
    }
    for record in &repaired.vanished {
        printer.note(format!(
            "error: the file of record {record} is neither where it was nor where it should be"
        ));
        printer.note("hint: look for it in a backup, put it below to_be_indexed and index again");
    }
    let header =
        ["LINAC", "NEW", "KNOWN", "MATCHED", "REVIEW", "NO TREATMENT", "SERVICE", "UNREADABLE", "CLOCK"];
    let rows: Vec<[String; 9]> = run
        .linacs
        .iter()
        .map(|(name, l)| {
            let clock = l.drift_s.map_or_else(|| "-".to_owned(), |s| format!("{s:+.0} s"));
            let [new, known, matched, review, without, service, unreadable] =
                [l.new, l.known, l.matched, l.review, l.without_treatment, l.service_mode, l.unreadable]
                    .map(|n| n.to_string());
            [name.clone(), new, known, matched, review, without, service, unreadable, clock]
        })
        .collect();
    if rows.is_empty() {
        printer.line("nothing new");
    } else {
        printer.table(header, &rows);
    }
    let counts = &run.counts;
    printer.line(format!(
        "{} records in the index: {} with their treatment, {} in review, {} without ({} are looked for again), {} of service mode, {} unreadable",
        counts.records,
        counts.indexed,
        counts.review,
        counts.no_mosaiq_record_found,
        counts.tried_again,
        counts.no_field_label_in_logfile,
        counts.unknown_error_in_logfile
    ));
    if counts.review > 0 {
        printer.note("note: `scp-node trf review` shows what a person must decide");
    }
    run.troubles.iter().for_each(|trouble| tell_trouble(trouble, printer));
    if run.stopped {
        printer.note("note: stopped; the next run does the rest");
    }
}

fn tell_trouble(trouble: &Trouble, printer: Printer) {
    printer.note(format!("error: {}: {}", trouble.about, trouble.text));
    if !trouble.hint.is_empty() {
        printer.note(format!("hint: {}", trouble.hint));
    }
}

fn import(file: PathBuf, context: &Context) -> Result<ExitCode> {
    let (settings, bar) = (context.settings().clone(), Bar::new(context.printer));
    let mut index = Index::open(&settings.trf.root)?;
    let linac_of = |machine: &str| {
        indexing::linac_of(&settings, None, Some(machine)).map(|(_, linac)| linac.name.clone())
    };
    let watch = |done, all| bar.show("taking over", done, all);
    let imported = index.import_pymedphys(&file, &linac_of, Utc::now(), &watch)?;
    bar.clear();
    context.printer.json(&imported);
    context.printer.line(format!(
        "{} entries taken over, {} known already, {} refused",
        imported.imported,
        imported.known,
        imported.refused.len()
    ));
    for (sha1, why) in &imported.refused {
        context.printer.note(format!("error: {sha1}: {why}"));
    }
    if !imported.refused.is_empty() {
        context.printer.note("hint: the files that are there are entered by `scp-node trf index --rescan`");
    }
    Ok(if imported.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(file: &std::path::Path, context: &Context) -> Result<ExitCode> {
    let exported = Index::open_read_only(&context.settings().trf.root)?.export_pymedphys(file)?;
    context.printer.json(&exported);
    context.printer.line(format!("{} entries in {}", exported.written, file.display()));
    if exported.left_out > 0 {
        context.printer.note(format!(
            "note: {} records have no treatment, are of service mode or unreadable: PyMedPhys's index has no place for them",
            exported.left_out
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// One bar on a terminal.
struct Bar(Option<Mutex<ProgressBar>>);

impl Bar {
    fn new(printer: Printer) -> Self {
        let style = || ProgressStyle::with_template("{msg:24} {bar:30} {pos}/{len} {eta}");
        let bar = || ProgressBar::new(0).with_style(style().unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(printer.is_watched().then(|| Mutex::new(bar())))
    }

    fn show(&self, step: &str, done: usize, all: usize) {
        let Some(bar) = &self.0 else { return };
        let bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set_message(step.to_owned());
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.lock().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
        }
    }
}
