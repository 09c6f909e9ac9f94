//! `fetch`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::NaiveDate;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Context, Printer, runtime};
use crate::error::{Error, Result};
use crate::fetch::{FetchRequest, Fetched, Step, fetch, kept};
use crate::names::Uid;

/// Fetches the images of a plan from an archive, and prints the directory where they lie.
///
/// Takes the newest MV session unless told otherwise, moves only what is not on disk yet, and ends with an error, and
/// nothing printed, when not every image arrived. Uses the service if it runs, else receives by itself for the while.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Patient ID, exactly as in the archive.
    #[arg(long, value_name = "ID")]
    patient: String,
    /// Label of the plan, exactly as in the archive.
    #[arg(long, value_name = "LABEL", required_unless_present = "plan_uid")]
    plan: Option<String>,
    /// SOP Instance UID of the plan: chooses one of several plans with the same label.
    #[arg(long, value_name = "UID")]
    plan_uid: Option<String>,
    /// Images acquired on this day instead of the newest.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = super::day)]
    date: Option<NaiveDate>,
    /// Only images whose Image Type holds this value, such as PORTAL; with backslashes, is exactly these values.
    #[arg(long, value_name = "VALUE")]
    image_type: Option<String>,
    /// kV images of the imager instead of MV images of the treatment beam.
    #[arg(long)]
    kv: bool,
    /// Every session of the plan instead of one.
    #[arg(long, conflicts_with = "date")]
    all_dates: bool,
    /// Name of an [[archive]] in the settings; the first one when left out.
    #[arg(long, value_name = "NAME")]
    archive: Option<String>,
    /// Asks the archive even if it was asked a moment ago.
    #[arg(long)]
    refresh: bool,
    /// Gives up after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
}

impl Args {
    fn request(&self) -> Result<FetchRequest> {
        let wrong = |what: String, hint: &str| Error::Misuse { what, hint: hint.into() };
        let plan_uid = match &self.plan_uid {
            None => None,
            Some(text) => Some(Uid::new(text).ok_or_else(|| {
                wrong(
                    format!("`{}` is not a UID", text.escape_debug()),
                    "`scp-node find plans` lists the plans' UIDs",
                )
            })?),
        };
        let timeout = self.timeout.map(Duration::try_from_secs_f64).transpose();
        Ok(FetchRequest {
            patient_id: self.patient.clone(),
            plan_label: self.plan.clone(),
            plan_uid,
            date: self.date,
            before: None,
            image_type: self.image_type.clone(),
            kv: self.kv,
            all_dates: self.all_dates,
            archive: self.archive.clone(),
            timeout: timeout
                .map_err(|_| wrong("--timeout is not a number of seconds".into(), "such as --timeout 60"))?,
            refresh: self.refresh,
        })
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let request = args.request()?;
    let printer = context.printer;
    let start = Instant::now();
    let kept = kept(&request, context.settings())?;
    let was_asked = kept.is_none();
    let fetched = match kept {
        Some(fetched) => fetched,
        None => ask(&request, context)?,
    };
    for notice in &fetched.notices {
        printer.note(format!("note: {notice}"));
    }
    summary(&fetched, was_asked, start.elapsed(), printer);
    printer.json(&fetched);
    for session in fetched.sessions.iter().rev() {
        printer.line(session.session.directory.display().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(request: &FetchRequest, context: &Context) -> Result<Fetched> {
    let mut display = Display::new(context.printer);
    let fetched = runtime::block_on(context, |cancel| {
        let display = &mut display;
        async move { fetch(request, context.settings(), &cancel, &mut |step| display.show(&step)).await }
    });
    display.clear();
    fetched
}

/// To stderr, so that standard output holds nothing but directories.
fn summary(fetched: &Fetched, was_asked: bool, took: Duration, printer: Printer) {
    if printer.is_json() {
        return;
    }
    let images: usize = fetched.sessions.iter().map(|s| s.instances.len()).sum();
    let acquired = fetched.sessions.first().and_then(|s| s.session.acquired);
    let when = acquired.map(|a| format!(" acquired {}", a.format("%Y-%m-%d %H:%M:%S"))).unwrap_or_default();
    let plan = fetched.plan_label.as_deref().unwrap_or(&fetched.plan_uid);
    let sessions = match fetched.sessions.len() {
        1 => String::new(),
        n => format!(" in {n} sessions, the newest"),
    };
    let moved = match fetched.moved {
        0 if !was_asked => {
            "all were on disk, as the archive told a moment ago (--refresh asks again)".to_owned()
        }
        0 => "all were on disk".to_owned(),
        n => format!("{n} objects moved"),
    };
    let noun = if images == 1 { "image" } else { "images" };
    printer.note(format!("{images} {noun} of {plan}{sessions}{when}; {moved}; {:.2} s", took.as_secs_f64()));
}

/// Progress on a terminal; nothing elsewhere.
struct Display(Option<ProgressBar>);

impl Display {
    fn new(printer: Printer) -> Self {
        Self(printer.is_watched().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    fn show(&mut self, step: &Step) {
        let Some(bar) = &self.0 else { return };
        match step {
            Step::Asking => bar.set_message("asking the archive"),
            Step::LookingInside { objects } => {
                bar.set_message(format!(
                    "the archive does not tell what is in them: looking into {objects} objects"
                ));
            }
            Step::Moving { done, total } => {
                if bar.length() != Some(*total as u64) {
                    bar.set_length(*total as u64);
                    if let Ok(style) =
                        ProgressStyle::with_template("moving {wide_bar} {pos} of {len} images, {elapsed}")
                    {
                        bar.set_style(style);
                    }
                }
                bar.set_position(*done as u64);
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
