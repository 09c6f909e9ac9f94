//! `sessions` and `reindex`: what is on disk, without a network.

use std::process::ExitCode;

use chrono::NaiveDate;

use super::Context;
use crate::error::Result;
use crate::images::{Catalog, SessionFilter, reindex};

/// Lists the sessions on disk, newest first: the images of one plan, one series and one day.
///
/// What is here, whether the archive has more or not: only `fetch` knows, and hands out, whole sessions.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this patient ID.
    #[arg(long, value_name = "ID")]
    patient: Option<String>,
    /// Only of the plan with this label.
    #[arg(long, value_name = "LABEL")]
    plan: Option<String>,
    /// Only of this day.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = super::day)]
    date: Option<NaiveDate>,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let catalog = Catalog::open_readonly(&context.settings().images.root)?;
    let sessions = catalog.sessions(&SessionFilter {
        patient_id: args.patient.clone(),
        plan_label: args.plan.clone(),
        date: args.date,
        limit: args.limit.unwrap_or(0),
        ..SessionFilter::default()
    })?;
    context.printer.json(&sessions);
    let rows: Vec<_> = sessions
        .iter()
        .map(|s| {
            [
                s.patient_id.clone(),
                s.plan_label.clone().unwrap_or_else(|| "(not known yet)".into()),
                s.acquired.map_or_else(|| "(no date)".into(), |t| t.format("%Y-%m-%d %H:%M:%S").to_string()),
                s.images.to_string(),
                s.directory.display().to_string(),
            ]
        })
        .collect();
    context.printer.table(["patient", "plan", "acquired", "images", "directory"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// Rebuilds the catalog from the files alone; needed only when it was lost or damaged, or files were moved by hand.
///
/// Stop the service first.
#[derive(Debug, clap::Args)]
pub(super) struct ReindexArgs {}

pub(super) fn reindex(_args: &ReindexArgs, context: &Context) -> Result<ExitCode> {
    let report = reindex::rebuild(&context.settings().images.root)?;
    context.printer.json(&report);
    context.printer.line(format!("{} objects are in the catalog", report.objects));
    for (path, why) in &report.unreadable {
        context.printer.note(format!("warning: {}: {why}", path.display()));
    }
    Ok(if report.unreadable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
