//! `trf find|review`: what the index holds, and what a person decides.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{NaiveDate, NaiveDateTime};
use clap::Subcommand;
use trf_core::RtPlan;
use trf_core::index::{Entry, Index, Query, State, Treated};

use crate::cli::{Context, Printer};
use crate::error::{Error, Result};

/// What to look for; all that is given must hold.
#[derive(Debug, clap::Args)]
pub(super) struct FindArgs {
    /// Patient ID.
    #[arg(long)]
    patient: Option<String>,
    /// Field label, field name, `label/name`, or Mosaiq's field ID.
    #[arg(long)]
    field: Option<String>,
    /// Machine id of the records, or the linac's name in the settings.
    #[arg(long)]
    machine: Option<String>,
    /// Day on the site's clock, such as 2026-11-21.
    #[arg(long, value_name = "DATE")]
    day: Option<NaiveDate>,
    /// RT Plan: records of its patient whose field is one of its beams.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["patient", "field"])]
    plan: Option<PathBuf>,
    /// Only the record nearest to this time on the site's clock, such as 2026-11-21T07:10.
    #[arg(long, value_name = "TIME", value_parser = local_time)]
    near: Option<NaiveDateTime>,
    /// Where the record stands.
    #[arg(long, value_parser = ["indexed", "review", "no_mosaiq_record_found", "unknown_error_in_logfile", "no_field_label_in_logfile"])]
    state: Option<String>,
    /// QA mode only.
    #[arg(long, conflicts_with = "clinical")]
    qa: bool,
    /// Clinical mode only.
    #[arg(long)]
    clinical: bool,
    /// At most so many, newest first; 0 is all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// The path of each record only, one a line.
    #[arg(long)]
    paths: bool,
}

/// A time as people write it.
fn local_time(text: &str) -> std::result::Result<NaiveDateTime, String> {
    ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .ok_or_else(|| "expected a time such as 2026-11-21T07:10".to_owned())
}

/// Exit codes: 0 something was found, 1 nothing.
pub(super) fn run(args: &FindArgs, context: &Context) -> Result<ExitCode> {
    let mut query = Query {
        patient_id: args.patient.clone(),
        field: args.field.clone(),
        field_among: Vec::new(),
        machine: args.machine.clone(),
        day: args.day,
        state: args.state.as_deref().and_then(State::from_word),
        qa_mode: (args.qa || args.clinical).then_some(args.qa),
        near: args.near,
        limit: args.limit,
    };
    if let Some(plan) = &args.plan {
        query.of_plan(&RtPlan::open(plan)?)?;
    }
    let index = Index::open_read_only(&context.settings().trf.root)?;
    let found = index.find(&query)?;
    let printer = context.printer;
    printer.json(&found.iter().map(|entry| entry.plain(index.root())).collect::<Vec<_>>());
    if found.is_empty() {
        printer.line("no record");
        printer.note("note: records that were not fetched yet come with `scp-node trf sync`");
        return Ok(ExitCode::FAILURE);
    }
    if args.paths {
        found.iter().for_each(|entry| printer.line(entry.file(index.root()).display().to_string()));
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["RECORD", "END", "MACHINE", "FIELD", "MU", "PATIENT", "MODE", "STATE"];
    printer.table(header, &found.iter().map(row).collect::<Vec<_>>());
    if args.limit > 0 && found.len() == args.limit && args.near.is_none() {
        printer.note(format!("note: the newest {} are shown; --limit 0 shows all", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(entry: &Entry) -> [String; 8] {
    let facts = entry.facts.as_ref();
    let dash = || "-".to_owned();
    let mode = match entry.qa_mode() {
        Some(true) => "qa",
        Some(false) => "clinical",
        None => "-",
    };
    [
        entry.short().to_owned(),
        facts.map_or_else(dash, |f| f.local_time.format("%Y-%m-%d %H:%M:%S").to_string()),
        entry.linac.clone().or_else(|| facts.map(|f| f.machine.clone())).unwrap_or_else(dash),
        facts.map_or_else(dash, field),
        facts.and_then(|f| f.delivered_mu).map_or_else(dash, |mu| format!("{mu:.1}")),
        entry.treatments.first().and_then(|t| t.patient_id.clone()).unwrap_or_else(dash),
        mode.to_owned(),
        entry.state.word().to_owned(),
    ]
}

fn field(facts: &trf_core::index::Facts) -> String {
    if facts.field_label.is_empty() {
        facts.field_name.clone()
    } else {
        format!("{}/{}", facts.field_label, facts.field_name)
    }
}

/// What to do with the records in review; without an action they are listed.
#[derive(Debug, clap::Args)]
pub(super) struct ReviewArgs {
    #[command(subcommand)]
    action: Option<ReviewAction>,
}

#[derive(Debug, Subcommand)]
enum ReviewAction {
    /// Lists the records with their candidates.
    List,
    /// Says which candidate a record is, and moves it to its patient.
    Decide {
        /// The beginning of the record's name, as the list shows it.
        record: String,
        /// Number of the candidate; `none` if it is none of them.
        candidate: String,
        /// Who decides; else the account's name.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

pub(super) fn review(args: &ReviewArgs, context: &Context) -> Result<ExitCode> {
    let root = &context.settings().trf.root;
    match &args.action {
        None | Some(ReviewAction::List) => list(&Index::open_read_only(root)?, context.printer),
        Some(ReviewAction::Decide { record, candidate, by }) => {
            let number = match candidate.as_str() {
                "none" => None,
                text => Some(text.parse::<usize>().map_err(|_| Error::Misuse {
                    what: format!("`{text}` is no candidate"),
                    hint: "give the number that the list shows, or `none`".into(),
                })?),
            };
            let account = || std::env::var("USER").or_else(|_| std::env::var("USERNAME")).ok();
            let by = by.clone().or_else(account).unwrap_or_else(|| "unknown".into());
            let mut index = Index::open(root)?;
            let entry = index.decide(record, number, &by)?;
            context.printer.json(&entry.plain(index.root()));
            context.printer.line(format!("{} is {} now: {}", entry.short(), entry.state.word(), entry.path));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(index: &Index, printer: Printer) -> Result<ExitCode> {
    let reviews = index.reviews()?;
    printer.json(&reviews.iter().map(|entry| entry.plain(index.root())).collect::<Vec<_>>());
    if reviews.is_empty() {
        printer.line("nothing to decide");
    }
    for entry in &reviews {
        let facts = entry.facts.as_ref();
        let when = facts.map_or_else(String::new, |f| f.local_time.format("%Y-%m-%d %H:%M:%S").to_string());
        let what = facts.map_or_else(String::new, field);
        let mu = facts.and_then(|f| f.delivered_mu).map_or_else(String::new, |mu| format!("  {mu:.1} MU"));
        let linac = entry.linac.as_deref().unwrap_or("-");
        printer.line(format!("{}  {linac}  {when}  {what}{mu}", entry.short()));
        printer.line(format!("  {}", entry.reason.as_deref().unwrap_or_default()));
        for (n, candidate) in entry.candidates.iter().enumerate() {
            let clock = candidate.drift_s.map_or_else(String::new, |s| format!("  clock {s:+.0} s"));
            printer.line(format!("  {}{clock}", n + 1));
            candidate.treatments.iter().for_each(|treated| printer.line(format!("     {}", told(treated))));
        }
    }
    if !reviews.is_empty() {
        printer.line("decide with: scp-node trf review decide RECORD NUMBER");
    }
    Ok(ExitCode::SUCCESS)
}

/// A treatment for the person who must know whose it is.
fn told(t: &Treated) -> String {
    let when = t.created_local.map_or_else(String::new, |time| time.format("%H:%M:%S").to_string());
    let mu = t.meterset_mu.map_or_else(String::new, |mu| format!("  {mu:.1} MU"));
    let mode = if t.qa_mode { "qa" } else { "clinical" };
    let id = t.patient_id.as_deref().unwrap_or("-");
    let name = format!("{}, {}", t.last_name, t.first_name);
    format!("{id}  {name}  field {} {}/{}  {when}{mu}  {mode}", t.field_id, t.field_label, t.field_name)
}
