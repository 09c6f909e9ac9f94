//! The command line: parse, call the library, print. One file per command, no logic here.

mod config;
mod demo;
mod echo;
mod fetch;
mod find;
mod icom;
mod logging;
mod mosaiq;
mod print;
mod runtime;
mod serve;
mod sessions;
mod trf;

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::NaiveDate;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::settings::{Resolved, Settings};
pub use print::Printer;

/// Receives, asks for and files the images of linac QA, and hands them to QATrack+.
#[derive(Debug, Parser)]
#[command(name = "scp-node", version, max_term_width = 100)]
pub struct Cli {
    /// Settings file; else SCP_NODE_CONFIG, else the system's place.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting, such as node.port=11113; may be given several times.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints JSON for scripts instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Serve(serve::Args),
    Echo(echo::Args),
    Find(find::Args),
    Fetch(fetch::Args),
    Sessions(sessions::Args),
    Reindex(sessions::ReindexArgs),
    /// Shows, checks or writes the settings.
    Config(config::Args),
    /// Listens to Elekta's iCom stream, shows and plays what was recorded, emulates a linac.
    Icom(icom::Args),
    /// Collects, shows and converts Elekta's log files (.trf).
    Trf(trf::Args),
    /// Asks the record and verify system.
    Mosaiq(mosaiq::Args),
}

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The settings in force, and where each came from.
    pub resolved: Resolved,
    /// Where output goes.
    pub printer: Printer,
}

impl Context {
    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.resolved.settings
    }
}

/// Runs the command that the process was called with.
///
/// Exit codes: 0 done, 1 it did not work (one `error:` line and a `hint:` line on stderr), 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are what was asked for.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        Err(error) => {
            Printer::new(std::env::args_os().any(|word| word == "--json")).usage(&error);
            return ExitCode::from(2);
        }
    };
    let printer = Printer::new(cli.json);
    let mut code = run(cli, printer).unwrap_or_else(|error| {
        printer.error(&error);
        ExitCode::FAILURE
    });
    runtime::see_guests_out(printer);
    if let Some(error) = printer.lost() {
        printer.error(&error);
        code = ExitCode::FAILURE;
    }
    code
}

fn run(cli: Cli, printer: Printer) -> Result<ExitCode> {
    match &cli.command {
        // Its own settings, whatever the file says.
        Command::Demo(_) if cli.config.is_some() || !cli.set.is_empty() => Err(Error::Misuse {
            what: "the demo has settings of its own: --config and --set change nothing there".into(),
            hint: "leave them out; `scp-node serve` runs with yours".into(),
        }),
        Command::Demo(args) => demo::run(args, printer),
        Command::Serve(args) => serve::run(args, &cli.context(printer)?),
        Command::Sessions(args) => sessions::run(args, &cli.context(printer)?),
        Command::Reindex(args) => sessions::reindex(args, &cli.context(printer)?),
        // `config` must work on settings that are wrong, so it loads them itself.
        Command::Config(args) => config::run(args, cli.config.as_deref(), &cli.set, printer),
        Command::Icom(args) => icom::run(args, || cli.context(printer), printer),
        Command::Echo(args) => echo::run(args, &cli.context(printer)?),
        Command::Find(args) => find::run(args, &cli.context(printer)?),
        Command::Fetch(args) => fetch::run(args, &cli.context(printer)?),
        // What works on files alone does so whatever the settings say.
        Command::Trf(args) => trf::run(args, || cli.context(printer), printer),
        Command::Mosaiq(args) => mosaiq::run(args, &cli.context(printer)?),
    }
}

/// A day, as an option takes it.
fn day(text: &str) -> Result<NaiveDate, String> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map_err(|_| "there is no such day; write it as 2026-11-26".into())
}

impl Cli {
    /// Loads the settings; every command but `config` begins with it.
    fn context(&self, printer: Printer) -> Result<Context> {
        Ok(Context { resolved: Settings::load(self.config.as_deref(), &self.set)?, printer })
    }
}
