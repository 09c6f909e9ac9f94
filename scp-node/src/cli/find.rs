//! `find plans|series`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Subcommand;

use super::{Context, runtime};
use crate::error::{Error, Result};
use crate::fetch::{self, ListedPlans};
use crate::names::Uid;

/// Lists what an archive has of a patient: plans, or series of images.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The patient's plans: label, date, UID. An archive that does not tell labels is asked to send the plans.
    Plans {
        #[command(flatten)]
        whose: Whose,
    },
    /// The patient's image series by acquisition date: plan, MV and kV images, how many are on disk already.
    Series {
        #[command(flatten)]
        whose: Whose,
        /// Only images acquired on this day.
        #[arg(long, value_name = "YYYY-MM-DD", value_parser = super::day)]
        date: Option<NaiveDate>,
    },
}

#[derive(Debug, clap::Args)]
struct Whose {
    /// Patient ID, exactly as in the archive.
    #[arg(long, value_name = "ID")]
    patient: String,
    /// Only plans with this label; * and ? stand for any characters.
    #[arg(long, value_name = "LABEL")]
    plan: Option<String>,
    /// Name of an [[archive]] in the settings; the first one when left out.
    #[arg(long, value_name = "NAME")]
    archive: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    match &args.what {
        What::Plans { whose } => plans(whose, context),
        What::Series { whose, date } => series(whose, *date, context),
    }
}

fn plans(whose: &Whose, context: &Context) -> Result<ExitCode> {
    let (patient, label, archive) = (&whose.patient, whose.plan.as_deref(), whose.archive.as_deref());
    let ListedPlans { plans, notices } = runtime::block_on(context, |cancel| async move {
        fetch::plans(patient, label, archive, context.settings(), &cancel).await
    })?;
    for notice in notices {
        context.printer.note(format!("note: {notice}"));
    }
    if plans.is_empty() {
        return Err(nothing("plans", whose, None));
    }
    context.printer.json(&plans);
    let rows: Vec<_> =
        plans.iter().map(|p| [text(p.label.as_deref()), time(p.dated), p.plan_uid.to_string()]).collect();
    context.printer.table(["plan", "dated", "plan UID"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn series(whose: &Whose, date: Option<NaiveDate>, context: &Context) -> Result<ExitCode> {
    let (patient, label, archive) = (&whose.patient, whose.plan.as_deref(), whose.archive.as_deref());
    let sessions = runtime::block_on(context, |cancel| async move {
        fetch::sessions(patient, label, date, archive, context.settings(), &cancel).await
    })?;
    if sessions.is_empty() {
        return Err(nothing("series of RT Images", whose, date));
    }
    context.printer.json(&sessions);
    let rows: Vec<_> = sessions
        .iter()
        .map(|s| {
            [
                time(s.acquired),
                // Where no label is known, what `fetch --plan-uid` takes.
                text(s.plan_label.as_deref().or(s.plan_uid.as_ref().map(Uid::as_str))),
                s.mv.to_string(),
                s.kv.to_string(),
                s.unknown.to_string(),
                format!("{} of {}", s.on_disk, s.mv + s.kv + s.unknown),
                s.series_uid.to_string(),
            ]
        })
        .collect();
    for what in ["plan", "date"] {
        let n = sessions.iter().filter(|s| s.untold.contains(&what)).count();
        if n > 0 {
            context.printer.note(format!(
                "note: of {n} of these series the archive does not tell the {what} (`-`); `fetch` looks into the images itself"
            ));
        }
    }
    context.printer.table(["acquired", "plan", "MV", "kV", "?", "on disk", "series UID"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// That nothing fits, with all that was asked for.
fn nothing(what: &str, whose: &Whose, date: Option<NaiveDate>) -> Error {
    let label = whose.plan.as_deref().map(|label| format!(" with label `{label}`")).unwrap_or_default();
    let day = date.map(|day| format!(" of {day}")).unwrap_or_default();
    Error::NotFound {
        what: format!("the archive has no {what} of patient `{}`{label}{day}", whose.patient),
        hint: match (date, &whose.plan) {
            (Some(_), _) => "leave --date out to see which days there are",
            (None, Some(_)) => "leave --plan out to see what the patient has; upper and lower case count",
            (None, None) => "check the patient ID; upper and lower case count",
        }
        .into(),
    }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

fn time(value: Option<chrono::NaiveDateTime>) -> String {
    value.map_or_else(|| "-".into(), |t| t.format("%Y-%m-%d %H:%M:%S").to_string())
}
