//! `demo`: the main job on embedded defaults, against a simulated Aria.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{Local, NaiveTime};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Printer, serve};
use crate::demo::{AriaOptions, GeneratedPatient, PatientOptions, SimulatedAria};
use crate::error::{Error, Result};
use crate::fetch::{FetchRequest, Fetched, fetch};
use crate::images::Store;
use crate::scp;
use crate::scu::Archive;
use crate::settings::{ArchiveSettings, Settings};

/// Shows the main job without a hospital: a node, a simulated Aria, one Winston-Lutz series moved and filed.
///
/// Needs no settings and touches none. Patient, plans and images are invented.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ends after the fetch instead of staying up.
    #[arg(long)]
    once: bool,
    /// Keeps the images and the settings file here; else they are removed at the end.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// How often the freshness answer is taken; the fastest is shown.
const AGAIN: u32 = 3;

pub(super) fn run(args: &Args, printer: Printer) -> Result<ExitCode> {
    let place = Place::new(args.directory.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Network { what: "no runtime".into(), source })?;
    // Heard from the start: what was begun is ended in order and removed then, too.
    runtime.block_on(async { demo(args, &place, serve::stopped(), printer).await })?;
    Ok(ExitCode::SUCCESS)
}

/// Where the demo's files lie.
struct Place {
    directory: PathBuf,
    is_ours: bool,
}

impl Place {
    fn new(wanted: Option<&Path>) -> Result<Self> {
        let directory = match wanted {
            Some(directory) => std::path::absolute(directory).map_err(Error::io(directory))?,
            None => std::env::temp_dir().join(format!("scp-node-demo-{}", std::process::id())),
        };
        std::fs::create_dir_all(&directory).map_err(Error::io(&directory))?;
        Ok(Self { directory, is_ours: wanted.is_none() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_ours {
            // It holds invented data in the system's temporary directory: what cannot be removed does no harm.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// What the table shows.
#[derive(Debug, serde::Serialize)]
struct Row {
    step: &'static str,
    asked: String,
    result: String,
    ms: f64,
}

async fn demo(args: &Args, place: &Place, stopped: impl Future<Output = ()>, printer: Printer) -> Result<()> {
    let begin = Instant::now();
    let mut settings = Settings::default();
    settings.node.bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    settings.images.root = place.directory.join("images");
    let listener = bind_or_any(settings.node.port).await?;
    settings.node.port = port_of(&listener)?;
    let aria = start_aria(&settings).await?;
    let archive = ArchiveSettings::new("aria", aria.ae_title().clone(), "127.0.0.1", aria.address().port());
    settings.archives = vec![archive];
    // A name that no settings file of the user's has.
    let config = place.directory.join("scp-node-demo.toml");
    let text = toml::to_string(&settings).map_err(|e| Error::Unsupported { what: e.to_string() })?;
    std::fs::write(&config, text).map_err(Error::io(&config))?;

    let store =
        Store::open(&settings.images, &settings.node.access.patients, settings.node.limits.object_bytes)?;
    let stop = CancellationToken::new();
    let node = tokio::spawn({
        let (settings, stop) = (settings.clone(), stop.clone());
        async move { scp::run(listener, &settings, Arc::new(store), stop).await }
    });
    printer.line(format!(
        "node {} on 127.0.0.1:{}, simulated Aria {} on {}, ready in {:.0} ms\n",
        settings.node.ae_title,
        settings.node.port,
        aria.ae_title(),
        aria.address(),
        begin.elapsed().as_secs_f64() * 1e3
    ));

    let show = async {
        let (rows, fetched) = job(&settings, &aria).await?;
        report(&rows, &fetched, printer);
        if place.is_ours {
            printer.line("(removed when the demo ends; `--directory DIR` keeps them)");
        }
        if !args.once {
            invite(&config, &fetched, printer);
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let shown = tokio::select! {
        shown = show => shown,
        () = stopped => Ok(()),
    };
    stop.cancel();
    drop(aria);
    node.await.map_err(|e| Error::Unsupported { what: format!("the node ended: {e}") })??;
    shown
}

/// The default port if it is free, else any.
async fn bind_or_any(port: u16) -> Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(|source| Error::Network { what: "no free port on 127.0.0.1".into(), source }),
    }
}

fn port_of(listener: &TcpListener) -> Result<u16> {
    let address = listener.local_addr();
    Ok(address.map_err(|source| Error::Network { what: "no address".into(), source })?.port())
}

async fn start_aria(settings: &Settings) -> Result<SimulatedAria> {
    // A session never crosses midnight: this morning's, or yesterday's while the morning is young.
    let now = Local::now().naive_local();
    let early = NaiveTime::from_hms_opt(8, 0, 0).unwrap_or_default();
    let day = if now.time() < early { now.date() - chrono::Days::new(1) } else { now.date() };
    let newest = day.and_time(NaiveTime::from_hms_opt(6, 41, 10).unwrap_or_default());
    let mut patient = GeneratedPatient::winston_lutz(&PatientOptions::full_size(newest));
    // Two plans share the label; the pictures of this label are drawn before the clock runs.
    let plans: Vec<_> = patient.plans.iter().filter(|p| p.label == GeneratedPatient::LABEL_10MV).collect();
    let uids: Vec<_> = plans.iter().map(|p| p.uid.clone()).collect();
    let today = newest.format("%Y%m%d").to_string();
    for instance in &mut patient.instances {
        let of_plan = instance.plan_uid().is_some_and(|uid| uids.contains(&uid));
        if of_plan && instance.text(dicom_dictionary_std::tags::ACQUISITION_DATE) == today {
            instance.draw();
        }
    }
    let node = SocketAddr::new(settings.node.bind, settings.node.port);
    let mut options = AriaOptions::new(patient.instances, settings.node.ae_title.as_str(), node)?;
    // Aria's port by custom if it is free, else any.
    options.listen.set_port(51402);
    if let Ok(aria) = SimulatedAria::start(options.clone()).await {
        return Ok(aria);
    }
    options.listen.set_port(0);
    SimulatedAria::start(options).await
}

/// Echo, fetch, and fetch again.
async fn job(settings: &Settings, aria: &SimulatedAria) -> Result<(Vec<Row>, Fetched)> {
    let archive = settings.archive(None)?;
    let begin = Instant::now();
    let echo = Archive::new(archive, &settings.node.ae_title).echo().await?;
    let mut rows = vec![Row {
        step: "echo",
        asked: "C-ECHO".into(),
        result: format!("find {}, move {}", yes(echo.find), yes(echo.move_)),
        ms: ms(begin.elapsed()),
    }];
    let request = FetchRequest {
        // As a Winston-Lutz test asks: what was measured, no planning system's picture of a beam.
        image_type: Some("PORTAL".into()),
        ..FetchRequest::new("QA_TB_WL", GeneratedPatient::LABEL_10MV)
    };
    let cancel = CancellationToken::new();
    let asked_before = aria.asked().len();
    let begin = Instant::now();
    let fetched = fetch(&request, settings, &cancel, &mut |_| {}).await?;
    let took = begin.elapsed();
    for asked in aria.asked().split_off(asked_before) {
        let (step, result) = if asked.what == "C-MOVE" {
            let rate = asked.bytes as f64 / 1e6;
            ("move", format!("{} images, {rate:.1} MB, status {}", asked.results, asked.status))
        } else {
            ("find", format!("{} answer{}", asked.results, if asked.results == 1 { "" } else { "s" }))
        };
        rows.push(Row {
            step,
            asked: format!("{} {}", asked.what, asked.identifier),
            result,
            ms: ms(asked.took),
        });
    }
    rows.push(Row {
        step: "fetch",
        asked: format!("newest MV session of {}", GeneratedPatient::LABEL_10MV),
        result: format!("{} moved, all of {} here", fetched.moved, images(&fetched)),
        ms: ms(took),
    });
    let mut again = Duration::MAX;
    let mut queries = 0;
    for _ in 0..AGAIN {
        let begin = Instant::now();
        queries += fetch(&request, settings, &cancel, &mut |_| {}).await?.queries;
        again = again.min(begin.elapsed());
    }
    rows.push(Row {
        step: "again",
        asked: "the same, within archive.fresh_for_s".into(),
        result: format!("{queries} questions, 0 moved"),
        ms: ms(again),
    });
    Ok((rows, fetched))
}

fn report(rows: &[Row], fetched: &Fetched, printer: Printer) {
    let cells: Vec<_> = rows
        .iter()
        .map(|r| [r.step.to_owned(), shorten(&r.asked), r.result.clone(), format!("{:.1}", r.ms)])
        .collect();
    printer.table(["step", "asked", "result", "ms"], &cells);
    for notice in &fetched.notices {
        printer.line(format!("\nnote: {notice}"));
    }
    for session in &fetched.sessions {
        printer.line(format!(
            "\n{} images in\n{}",
            session.instances.len(),
            session.session.directory.display()
        ));
    }
    printer.json(&serde_json::json!({"steps": rows, "fetched": fetched}));
}

fn invite(config: &Path, fetched: &Fetched, printer: Printer) {
    let program = std::env::current_exe().map_or_else(|_| "scp-node".into(), |p| pasteable(&p));
    let commands = [
        "echo aria".to_owned(),
        "find plans --patient QA_TB_WL".to_owned(),
        format!("fetch --patient QA_TB_WL --plan {}", GeneratedPatient::LABEL_6FFF),
        format!("fetch --patient QA_TB_WL --plan-uid {} --all-dates", fetched.plan_uid),
        "sessions --patient QA_TB_WL".to_owned(),
    ];
    printer.line("\nBoth stay up until Ctrl-C. In another terminal, try:");
    for command in commands {
        printer.line(format!("  {program} --config {} {command}", pasteable(config)));
    }
}

/// A path as a shell takes it.
fn pasteable(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text }
}

fn images(fetched: &Fetched) -> usize {
    fetched.sessions.iter().map(|s| s.instances.len()).sum()
}

fn yes(offered: bool) -> &'static str {
    if offered { "yes" } else { "no" }
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// A table fits a terminal.
fn shorten(text: &str) -> String {
    const WIDTH: usize = 72;
    if text.chars().count() <= WIDTH {
        text.to_owned()
    } else {
        text.chars().take(WIDTH - 1).collect::<String>() + "…"
    }
}
