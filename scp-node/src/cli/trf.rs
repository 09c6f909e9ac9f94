//! `trf info|to-csv|to-parquet|check|to-dicom|fetch|extract|index|sync|find|review`: the linac's log files as a person, a spreadsheet or a script reads them.

mod check;
mod collect;
mod files;
mod find;
mod index;
mod info;
mod to_dicom;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use trf_core::csv::{self, Dialect};
use trf_core::{Error, MetersetSource, Record, Result, RtPlan};

use super::{Context, Printer};
use crate::trf::collect::Steps;

/// Shows and converts Elekta's log files (.trf).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints what a record is: machine, field, times, dose, how it ended.
    Info {
        #[command(flatten)]
        files: files::Files,
        /// One line per record.
        #[arg(long)]
        brief: bool,
        /// Also lists the columns with their items and units.
        #[arg(long, conflicts_with = "brief")]
        columns: bool,
    },
    /// Writes records as CSV.
    ToCsv {
        #[command(flatten)]
        files: files::Files,
        #[command(flatten)]
        out: Out,
        /// Which layout to write.
        #[arg(long, value_enum, default_value_t = DialectName::Clean)]
        dialect: DialectName,
    },
    /// Writes records as Parquet, one file per record, the header as metadata.
    ToParquet {
        #[command(flatten)]
        files: files::Files,
        #[command(flatten)]
        out: Out,
    },
    /// Checks records against the plan that was to be delivered: dose, MetersetMap, gamma, leaf errors.
    Check(check::Args),
    /// Writes what was delivered as an RT Plan, NAME_RP.dcm, on the template of the plan.
    ToDicom(to_dicom::Args),
    /// Copies new diagnostics zips from the linacs' shares, resumable and verified.
    Fetch(collect::Args),
    /// Finds out whose records those are that were extracted, and files them by patient and field.
    Index(index::IndexArgs),
    /// Fetches, extracts and indexes, as the service does at the times of trf.sync_at.
    Sync(index::Args),
    /// Finds records by patient, field, machine, day or plan.
    Find(find::FindArgs),
    /// Lists the records that could be more than one treatment, and takes the decision.
    Review(find::ReviewArgs),
    /// Takes the records out of the zips that were fetched or put into `diagnostics/to_be_indexed/LINAC`.
    Extract(collect::Args),
}

#[derive(Debug, clap::Args)]
struct Out {
    /// Directory to write to; else beside each record.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Which dose column to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DoseColumn {
    /// The raw counter, 1/64 MU.
    #[default]
    Raw,
    /// Step Dose, 0.1 MU, as PyMedPhys takes it.
    Step,
}

impl From<DoseColumn> for MetersetSource {
    fn from(column: DoseColumn) -> Self {
        match column {
            DoseColumn::Raw => Self::RawCounter,
            DoseColumn::Step => Self::StepDose,
        }
    }
}

/// Reads the plan that all records of a command share; `None` after the error is printed.
fn read_plan(path: &Path, printer: Printer) -> Option<RtPlan> {
    match RtPlan::open(path) {
        Ok(plan) => Some(plan),
        Err(error) => {
            let text = files::error_line(path, &error);
            printer.note(format!("error: {text}"));
            printer.note(format!("hint: {}", error.hint()));
            printer.json(&serde_json::json!({"error": text, "hint": error.hint()}));
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DialectName {
    /// Ours: NAME_clean.csv and NAME_clean.json, true units, running meterset, times from the timestamps.
    Clean,
    /// NAME_header.csv and NAME_table.csv as `pymedphys trf to-csv` writes them, but dose and couch angle right.
    #[value(name = "pymedphys")]
    PyMedPhys,
    /// NAME.csv as Elekta's own tool writes it.
    Elekta,
}

/// What became of one record.
#[derive(Debug, Serialize)]
struct Converted {
    written: Vec<PathBuf>,
    rows: usize,
    warnings: Vec<String>,
}

/// Files are shown and converted whatever the settings say; only what asks others needs them.
pub(super) fn run(
    args: &Args,
    context: impl FnOnce() -> crate::Result<Context>,
    printer: Printer,
) -> crate::Result<ExitCode> {
    Ok(match &args.action {
        Action::Fetch(args) => collect::run(args, Steps::Fetch, &context()?)?,
        Action::Index(args) => index::run(args, &context()?)?,
        Action::Sync(args) => index::run_sync(args, &context()?)?,
        Action::Find(args) => find::run(args, &context()?)?,
        Action::Review(args) => find::review(args, &context()?)?,
        Action::Extract(args) => collect::run(args, Steps::Extract, &context()?)?,
        Action::Info { files, brief, columns } => info::run(files, *brief, *columns, printer),
        Action::ToCsv { files, out, dialect } => {
            convert(files, out.out.as_deref(), printer, |record, stem| to_csv(record, stem, *dialect))
        }
        Action::ToParquet { files, out } => convert(files, out.out.as_deref(), printer, to_parquet),
        Action::Check(args) => return check::run(args, context, printer),
        Action::ToDicom(args) => to_dicom::run(args, printer),
    })
}

fn convert(
    files: &files::Files,
    out: Option<&Path>,
    printer: Printer,
    write: impl Fn(&Record, &Path) -> Result<Vec<PathBuf>> + Sync,
) -> ExitCode {
    let targets = files::Targets::default();
    let done = files.each(printer, |path| {
        let stem = targets.stem(path, out)?;
        let record = Record::open(path)?;
        let written = write(&record, &stem)?;
        let warnings = record.warnings().iter().map(ToString::to_string).collect();
        Ok(Converted { written, rows: record.n_rows(), warnings })
    });
    for (path, converted) in done.successes() {
        let names: Vec<_> = converted.written.iter().map(|p| p.display().to_string()).collect();
        printer.line(format!("{}: {} rows -> {}", path.display(), converted.rows, names.join(", ")));
        for warning in &converted.warnings {
            printer.note(format!("warning: {}: {warning}", path.display()));
        }
    }
    done.finish(printer)
}

fn to_csv(record: &Record, stem: &Path, dialect: DialectName) -> Result<Vec<PathBuf>> {
    let table = |suffix: &str, dialect| {
        write_whole(&with_suffix(stem, suffix), |out, _| {
            csv::write_table(record, dialect, out).map_err(Into::into)
        })
    };
    match dialect {
        DialectName::PyMedPhys => {
            let header = write_whole(&with_suffix(stem, "_header.csv"), |out, _| {
                csv::write_pymedphys_header(record.header(), out).map_err(Into::into)
            })?;
            Ok(vec![header, table("_table.csv", Dialect::PyMedPhys)?])
        }
        DialectName::Elekta => Ok(vec![table(".csv", Dialect::Elekta)?]),
        DialectName::Clean => {
            let summary = write_whole(&with_suffix(stem, "_clean.json"), |out, _| {
                serde_json::to_writer_pretty(&mut *out, &record.summary()).map_err(std::io::Error::from)?;
                Ok(writeln!(out)?)
            })?;
            Ok(vec![table("_clean.csv", Dialect::Clean)?, summary])
        }
    }
}

fn to_parquet(record: &Record, stem: &Path) -> Result<Vec<PathBuf>> {
    let written = write_whole(&with_suffix(stem, ".parquet"), |out, path| {
        trf_core::parquet::write(record, out, path).map_err(WriteError::Known)
    })?;
    Ok(vec![written])
}

/// An error while writing, with or without its path.
enum WriteError {
    Io(std::io::Error),
    Known(Error),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        WriteError::Io(error)
    }
}

/// Writes a file under another name and renames it when it is whole: nobody reads half a table.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>, &Path) -> Result<(), WriteError>,
) -> Result<PathBuf> {
    let partial = with_suffix(path, &format!(".{}.part", std::process::id()));
    let file = File::create(&partial).map_err(|e| Error::io(&partial, e))?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out, path)
        .and_then(|()| out.flush().map_err(WriteError::Io))
        .and_then(|()| std::fs::rename(&partial, path).map_err(WriteError::Io));
    match written {
        Ok(()) => Ok(path.to_path_buf()),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(match error {
                WriteError::Io(source) => Error::io(path, source),
                WriteError::Known(error) => error,
            })
        }
    }
}

fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
