//! `mosaiq check`: can we ask Mosaiq, does its clock show what the settings say, and does it know our machines?

use std::path::Path;
use std::process::ExitCode;

use chrono::{NaiveDateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use trf_core::index::{ClockDay, Index};
use trf_core::mosaiq::{About, Activity, Machine, Mosaiq};

use super::{Context, Printer, runtime};
use crate::error::{Error, Result};
use crate::settings::{Encrypt, LinacSettings, MosaiqSettings, Settings, SiteSettings};

/// Asks the record and verify system.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Connects, names the server, and checks rights, time zone and machines; exits 1 if records could not be matched.
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The site whose Mosaiq is asked; every site that has one when left out.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// How many days back machines are looked for.
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=366))]
    days: u16,
}

/// What came out for one site.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Report(Box<Report>),
    Failed(Failed),
}

/// Why a site, of several, could not be asked.
#[derive(Debug, Serialize)]
struct Failed {
    site: String,
    error: String,
    kind: &'static str,
    hint: String,
}

/// What a site's Mosaiq told.
#[derive(Debug, Serialize)]
struct Report {
    site: String,
    peer: String,
    encrypt: Encrypt,
    about: About,
    time: Time,
    machines: Vec<MachineReport>,
    /// Machines that treated and are no linac of the settings.
    others: Vec<String>,
    /// What keeps records from being matched.
    problems: Vec<String>,
    /// What should be better.
    warnings: Vec<String>,
}

/// Clocks.
#[derive(Debug, Serialize)]
struct Time {
    zone: String,
    /// What the server's wall clock is ahead of UTC, in minutes.
    server_offset_min: i64,
    /// What the zone of the settings says for now.
    zone_offset_min: i64,
    /// Server minus this computer, s.
    server_ahead_s: f64,
}

#[derive(Debug, Serialize)]
struct MachineReport {
    name: String,
    in_mosaiq: String,
    staff: Vec<Machine>,
    activity: Option<Activity>,
    /// The linac's clock less the server's, from the newest day with matched records.
    clock: Option<ClockDay>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let Action::Check(check) = &args.action;
    let sites = match &check.site {
        Some(name) => vec![site(context.settings(), Some(name))?],
        None => {
            let sites: Vec<_> = with_mosaiq(context.settings()).collect();
            if sites.is_empty() { vec![site(context.settings(), None)?] } else { sites }
        }
    };
    let mut outcomes = runtime::block_on(context, |cancel| async move {
        let mut outcomes = Vec::new();
        let is_only = sites.len() == 1;
        for (site, settings) in sites {
            outcomes.push(match report(site, settings, check.days, &cancel).await {
                Ok(report) => Outcome::Report(Box::new(report)),
                Err(error) if is_only || matches!(error, Error::Cancelled) => return Err(error),
                // The others are asked all the same.
                Err(error) => Outcome::Failed(Failed {
                    site: site.name.clone(),
                    error: error.to_string(),
                    kind: error.kind(),
                    hint: error.hint(),
                }),
            });
        }
        Ok(outcomes)
    })?;
    compare_clocks(&context.settings().trf.root, &mut outcomes);
    for outcome in &outcomes {
        match outcome {
            Outcome::Report(report) => print(report, check.days, context.printer),
            Outcome::Failed(failed) => {
                context.printer.note(format!("error: site {:?}: {}", failed.site, failed.error));
                context.printer.note(format!("hint: {}", failed.hint));
            }
        }
    }
    context.printer.json(&outcomes);
    let is_well =
        |outcome: &Outcome| matches!(outcome, Outcome::Report(report) if report.problems.is_empty());
    Ok(if outcomes.iter().all(is_well) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn with_mosaiq(settings: &Settings) -> impl Iterator<Item = (&SiteSettings, &MosaiqSettings)> {
    settings.sites.iter().filter_map(|site| Some((site, site.mosaiq.as_ref()?)))
}

/// The site of this name, or the only one, with its Mosaiq.
///
/// # Errors
/// [`Error::Settings`] if there is none, or several and no name.
pub(super) fn site<'a>(
    settings: &'a Settings,
    name: Option<&str>,
) -> Result<(&'a SiteSettings, &'a MosaiqSettings)> {
    let known = || with_mosaiq(settings).map(|(site, _)| site.name.as_str()).collect::<Vec<_>>().join(", ");
    let wrong = |what: String| Err(Error::Settings { key: "site.mosaiq".into(), what });
    let mut sites = with_mosaiq(settings)
        .filter(|(site, _)| name.is_none_or(|name| site.name.eq_ignore_ascii_case(name)));
    match (sites.next(), sites.next(), name) {
        (Some(found), None, _) => Ok(found),
        (None, _, Some(name)) => {
            wrong(format!("no site called `{name}` has a Mosaiq; those that have one: {}", known()))
        }
        (None, _, None) => wrong(
            "no Mosaiq is set: add [site.mosaiq] with host, time_zone, user and password to a [[site]]"
                .into(),
        ),
        (Some(_), Some(_), _) => wrong(format!("there are several: choose one with --site: {}", known())),
    }
}

async fn report(
    site: &SiteSettings,
    settings: &MosaiqSettings,
    days: u16,
    cancel: &CancellationToken,
) -> Result<Report> {
    let server = settings.server()?;
    let peer = server.peer();
    let asked = async {
        let mut mosaiq = Mosaiq::connect(server).await?;
        let about = mosaiq.about().await?;
        let now = Utc::now().naive_utc();
        let since = about.local.checked_sub_signed(TimeDelta::days(days.into())).unwrap_or(about.local);
        let mut report = Report {
            site: site.name.clone(),
            peer,
            encrypt: settings.encrypt,
            time: clocks(settings, &about, now)?,
            about,
            machines: Vec::new(),
            others: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        judge(&mut report);
        if report.about.rights.iter().all(|right| right.read == Some(true)) {
            machines(&mut mosaiq, site, since, &mut report).await?;
        }
        Ok(report)
    };
    tokio::select! {
        report = asked => report,
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}

fn clocks(settings: &MosaiqSettings, about: &About, now: NaiveDateTime) -> Result<Time> {
    let offset = settings.zone()?.offset(about.utc.and_utc());
    Ok(Time {
        zone: settings.time_zone.clone(),
        server_offset_min: about.utc_offset().num_minutes(),
        zone_offset_min: offset.num_minutes(),
        server_ahead_s: (about.utc - now).num_milliseconds() as f64 / 1000.0,
    })
}

/// What the server has told about rights and time.
fn judge(report: &mut Report) {
    for right in &report.about.rights {
        match right.read {
            Some(true) => {}
            Some(false) => {
                report.problems.push(format!("this login may not read {}: it needs db_datareader", right.table));
            }
            None => report.problems.push(format!(
                "there is no table {}, or it is hidden from this login: check the database, give db_datareader",
                right.table
            )),
        }
    }
    if report.about.rights.iter().any(|right| right.write) {
        report.warnings.push(
            "this login may also change Mosaiq's tables: better give it db_datareader alone".to_owned(),
        );
    }
    let time = &report.time;
    if time.server_offset_min != time.zone_offset_min {
        report.problems.push(format!(
            "the server's wall clock is {} from UTC, {} is {}: correct site.mosaiq.time_zone",
            offset(time.server_offset_min),
            time.zone,
            offset(time.zone_offset_min)
        ));
    }
    if time.server_ahead_s.abs() > 30.0 {
        report.warnings.push(format!(
            "the server's clock and this computer's differ by {:.0} s: one of them is not set by the network",
            time.server_ahead_s
        ));
    }
}

async fn machines(
    mosaiq: &mut Mosaiq,
    site: &SiteSettings,
    since: NaiveDateTime,
    report: &mut Report,
) -> Result<()> {
    let active = mosaiq.machines_since(since).await?;
    let mut known = Vec::new();
    for linac in &site.linacs {
        let name = linac.in_mosaiq();
        let machine = match mosaiq.machine(name).await {
            Ok(staff) => {
                known.extend(staff.iter().map(|machine| machine.staff_id));
                let activity = mosaiq.activity(name, since).await?;
                MachineReport { activity: Some(activity), staff, ..machine(linac) }
            }
            Err(error @ trf_core::Error::Misuse { .. }) => {
                report.problems.push(format!(
                    "{error}; it may be called otherwise: set mosaiq_name of linac {}",
                    linac.name
                ));
                machine(linac)
            }
            Err(error) => return Err(error.into()),
        };
        report.machines.push(machine);
    }
    report.others =
        active.into_iter().filter(|machine| !known.contains(&machine.staff_id)).map(|m| m.name).collect();
    Ok(())
}

/// What the index knows about the linacs' clocks; a site that has none yet is no error.
fn compare_clocks(root: &Path, outcomes: &mut [Outcome]) {
    let Ok(index) = Index::open_read_only(root) else { return };
    for outcome in outcomes {
        let Outcome::Report(report) = outcome else { continue };
        for machine in &mut report.machines {
            machine.clock = index.newest_drift(&machine.name).ok().flatten();
        }
    }
}

fn machine(linac: &LinacSettings) -> MachineReport {
    MachineReport {
        name: linac.name.clone(),
        in_mosaiq: linac.in_mosaiq().to_owned(),
        staff: Vec::new(),
        activity: None,
        clock: None,
    }
}

fn print(report: &Report, days: u16, printer: Printer) {
    let about = &report.about;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
    let encrypted = match report.encrypt {
        Encrypt::Full => "all encrypted",
        Encrypt::Login => "the login encrypted",
        Encrypt::None => "encrypted only if the server insists",
    };
    printer.line(format!("site {:?}: {}", report.site, report.peer));
    printer.line(format!("  server    {}, {}", or_unknown(&about.server), about.product));
    printer.line(format!(
        "  database  {} as {}, {encrypted}, read only",
        or_unknown(&about.database),
        or_unknown(&about.login)
    ));
    let readable: Vec<_> = about.rights.iter().filter(|r| r.read == Some(true)).map(|r| r.table).collect();
    printer.line(format!("  reads     {}", readable.join(", ")));
    let time = &report.time;
    printer.line(format!(
        "  time      {} from UTC; {} is {}; {:+.1} s against this computer",
        offset(time.server_offset_min),
        time.zone,
        offset(time.zone_offset_min),
        time.server_ahead_s
    ));
    for machine in &report.machines {
        let seen = match &machine.activity {
            Some(Activity { n_rows: 0, .. }) => format!("no treatment in the last {days} days"),
            Some(Activity { n_rows, last_local }) => {
                let last = last_local
                    .map_or_else(String::new, |t| format!(", the last at {}", t.format("%Y-%m-%d %H:%M")));
                format!("{n_rows} treatments in the last {days} days{last}")
            }
            None => "not known".into(),
        };
        let clock = machine.clock.map_or_else(String::new, |clock| {
            format!(
                "; its clock {:+.1} s against the server's on {} (±{:.1} s, {} records)",
                clock.seconds, clock.day, clock.spread_s, clock.n_pairs
            )
        });
        printer.line(format!("  machine   {}: {seen}{clock}", machine.name));
    }
    if !report.others.is_empty() {
        printer.line(format!("  others    {}", report.others.join(", ")));
    }
    for warning in &report.warnings {
        printer.note(format!("warning: {warning}"));
    }
    for problem in &report.problems {
        printer.note(format!("error: {problem}"));
    }
}

/// Minutes as people write them: +10:00.
fn offset(minutes: i64) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}
