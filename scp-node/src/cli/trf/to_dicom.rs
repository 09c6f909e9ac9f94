//! `trf to-dicom`: what was delivered, as an RT Plan.

use std::path::PathBuf;
use std::process::ExitCode;

use trf_core::rtplan::{Identity, WriteOptions};
use trf_core::{Delivery, Record};

use super::{DoseColumn, Out, files, read_plan, with_suffix, write_whole};
use crate::cli::Printer;

/// Writes what was delivered as an RT Plan.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The RT Plan that was to be delivered; all that a record does not say is taken from it.
    #[arg(long, value_name = "RP.dcm")]
    plan: PathBuf,
    #[command(flatten)]
    files: files::Files,
    #[command(flatten)]
    out: Out,
    /// Fraction group; found by gantry angle and dose if the plan has several.
    #[arg(long, value_name = "NUMBER")]
    fraction_group: Option<i32>,
    /// Appended to the plan's label.
    #[arg(long, value_name = "TEXT", default_value = "_LOG")]
    label_suffix: String,
    /// Keeps SOP Instance UID, label and approval of the plan. Only for comparisons: two plans then share a UID.
    #[arg(long, conflicts_with = "label_suffix")]
    keep_uid: bool,
    /// Which dose column to use.
    #[arg(long, value_enum, default_value_t)]
    dose: DoseColumn,
}

pub(super) fn run(args: &Args, printer: Printer) -> ExitCode {
    let Some(plan) = read_plan(&args.plan, printer) else { return ExitCode::FAILURE };
    let identity = if args.keep_uid {
        Identity::Keep
    } else {
        Identity::New { label_suffix: args.label_suffix.clone() }
    };
    let options = WriteOptions { identity, ..WriteOptions::default() };
    super::convert(&args.files, args.out.out.as_deref(), printer, |record: &Record, stem| {
        let delivery = Delivery::from_record(record, args.dose.into())?;
        let bytes = plan.with_delivery(&delivery, args.fraction_group, &options)?.to_bytes()?;
        Ok(vec![write_whole(&with_suffix(stem, "_RP.dcm"), |out, _| {
            Ok(std::io::Write::write_all(out, &bytes)?)
        })?])
    })
}
