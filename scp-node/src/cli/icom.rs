//! `icom listen|info|replay|emulate`: a linac's iCom stream, received, shown, played.

mod emulate;
mod info;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use icom_core::{LinacSettings, ListenerSettings};
use tokio_util::sync::CancellationToken;

use super::{Context, Printer};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// Listens to Elekta's iCom stream, shows and plays what was recorded, emulates a linac.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Listens to linacs until stopped; a drop-in for `pymedphys icom listen`. Records go to DIR/patients, live state to DIR/live.
    Listen(Listen),
    /// Prints what recorded files hold.
    Info(info::Info),
    /// Makes the index of records again from the files: after it was lost, or to take in what PyMedPhys archived.
    Reindex(Reindex),
    /// Plays a recorded file to a client, as its linac did.
    Replay(emulate::Replay),
    /// Emulates a linac, with faults on demand, and reports how its client behaved.
    Emulate(emulate::Emulate),
}

/// `icom listen`.
#[derive(Debug, clap::Args)]
struct Listen {
    /// Linac to listen to, HOST or HOST:PORT, or NAME=HOST:PORT; may be given several times.
    #[arg(long = "linac", required = true, value_name = "[NAME=]HOST[:PORT]")]
    linacs: Vec<String>,
    /// Where records, live state and index go.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Where the journal goes; a local disk. Else OUT/journal.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Gives the first linac's stream to other clients at this address, such as 0.0.0.0:1706.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pass_through: Option<SocketAddr>,
    /// Longest wait for beam-off when stopped, seconds; else the settings' `icom.beam_off_wait_s`, 60.
    #[arg(long, value_name = "SECONDS")]
    beam_off_wait: Option<u32>,
    /// Without PyMedPhys's ring of messages, OUT/live/HOST/NNN.txt.
    #[arg(long)]
    no_ring: bool,
}

/// `icom reindex`.
#[derive(Debug, clap::Args)]
struct Reindex {
    /// The listener's directory; else that of the settings.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Files are shown and linacs emulated whatever the settings say; `listen` takes times and limits of `[icom]`, and its log, from them.
pub(super) fn run(
    args: &Args,
    context: impl FnOnce() -> Result<Context>,
    printer: Printer,
) -> Result<ExitCode> {
    match &args.action {
        Action::Listen(listen) => listen.run(context()?.settings(), printer),
        Action::Info(info) => info.run(printer),
        Action::Reindex(Reindex { out: Some(dir) }) => reindex(dir, printer),
        Action::Reindex(Reindex { out: None }) => reindex(&context()?.settings().listener().dir, printer),
        Action::Replay(replay) => replay.run(printer),
        Action::Emulate(emulate) => emulate.run(printer),
    }
}

impl Listen {
    fn settings(&self, base: &ListenerSettings) -> Result<ListenerSettings> {
        let mut linacs = Vec::new();
        for (n, text) in self.linacs.iter().enumerate() {
            let (name, address) = text.split_once('=').map_or((None, text.as_str()), |(n, a)| (Some(n), a));
            let mut linac = LinacSettings::at(address)?;
            if let Some(name) = name {
                linac.name = name.to_owned();
            }
            linac.pass_through = self.pass_through.filter(|_| n == 0);
            linacs.push(linac);
        }
        Ok(ListenerSettings {
            dir: self.out.clone(),
            journal_dir: self.journal.clone().unwrap_or_default(),
            beam_off_wait_s: self.beam_off_wait.unwrap_or(base.beam_off_wait_s),
            finish_on_stop: true,
            pymedphys_live: !self.no_ring,
            linacs,
            ..base.clone()
        })
    }

    fn run(&self, settings: &Settings, printer: Printer) -> Result<ExitCode> {
        super::logging::start(&settings.log);
        let settings = self.settings(&settings.icom)?;
        settings.check()?;
        runtime()?.block_on(async {
            // Heard from here on: links that are open are closed in order, however soon a stop comes.
            let stop_asked = super::serve::stopped();
            let shutdown = CancellationToken::new();
            let handle = crate::icom::IcomHandle::default();
            let task = tokio::spawn(crate::icom::run(settings, handle, shutdown.clone()));
            let names = self.linacs.join(", ");
            printer.note(format!("listening to {names}; Ctrl-C stops, once the beam is off"));
            let aborted = task.abort_handle();
            tokio::select! {
                () = stop_asked => {}
                // A start that fails ends the task at once.
                () = ended(&aborted) => {}
            }
            shutdown.cancel();
            task.await.map_err(|error| Error::Misuse {
                what: format!("the listener ended unexpectedly: {error}"),
                hint: "please report this with the log".into(),
            })?
        })?;
        printer.json(&serde_json::json!({"stopped": true}));
        Ok(ExitCode::SUCCESS)
    }
}

/// The service may run meanwhile.
pub(super) fn reindex(dir: &Path, printer: Printer) -> Result<ExitCode> {
    let report = icom_core::reindex::rebuild(dir)?;
    printer.json(&report);
    printer.line(format!(
        "iCom: {} records were right, {} were added from files, {} were removed",
        report.kept, report.added, report.removed
    ));
    if let Some(aside) = &report.damaged {
        printer.note(format!("the damaged index is now {}", aside.display()));
    }
    for (path, why) in &report.unreadable {
        printer.note(format!("warning: {}: {why}", path.display()));
    }
    Ok(if report.unreadable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| Error::Network { what: "starting the runtime".into(), source })
}

async fn ended(task: &tokio::task::AbortHandle) {
    while !task.is_finished() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
