//! `trf check`: was delivered what was planned?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use trf_core::check::{BeamCheck, Check, CheckOptions, check_delivery, check_planned};
use trf_core::gamma::Criteria;
use trf_core::rtplan::PlanBeam;
use trf_core::{Record, Result, RtPlan};

use super::{DoseColumn, files, read_plan, with_suffix, write_whole};
use crate::cli::{Context, Printer, mosaiq, runtime};

/// Leaves named in the text.
const N_WORST: usize = 3;

/// Checks records against a plan.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The RT Plan that was to be delivered.
    #[arg(long, value_name = "RP.dcm", required_unless_present = "mosaiq", conflicts_with = "mosaiq")]
    plan: Option<PathBuf>,
    /// The field that was to be delivered, by its number in Mosaiq (FLD_ID), in place of --plan; may be given several times
    /// where several fields run as one record.
    #[arg(long, value_name = "FIELD_ID", conflicts_with = "fraction_group")]
    mosaiq: Vec<i64>,
    /// The site whose Mosaiq is asked, if several have one.
    #[arg(long, value_name = "NAME", requires = "mosaiq")]
    site: Option<String>,
    #[command(flatten)]
    files: files::Files,
    /// Draws a page: maps, difference, leaf errors. With several records their names are added to the file's.
    #[arg(long, value_name = "FILE.png")]
    png: Option<PathBuf>,
    /// Fraction group; found by gantry angle and dose if the plan has several.
    #[arg(long, value_name = "NUMBER")]
    fraction_group: Option<i32>,
    /// Grid of the maps in mm; it must divide the leaf width.
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    grid: f64,
    /// Gamma: dose criterion in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = Criteria::default().dose_percent)]
    gamma_dose: f64,
    /// Gamma: distance criterion in mm.
    #[arg(long, value_name = "MM", default_value_t = Criteria::default().distance_mm)]
    gamma_distance: f64,
    /// Gamma: points below this percentage of the largest are left out.
    #[arg(long, value_name = "PERCENT", default_value_t = Criteria::default().lower_dose_cutoff_percent)]
    gamma_cutoff: f64,
    /// Gamma: dose criterion relative to each point.
    #[arg(long)]
    gamma_local: bool,
    /// Exit with an error if less than this percentage of a beam's points passes.
    #[arg(long, value_name = "PERCENT")]
    min_pass: Option<f64>,
    /// Which dose column to use.
    #[arg(long, value_enum, default_value_t)]
    dose: DoseColumn,
}

/// What a record is checked against.
enum Planned {
    Plan(Box<RtPlan>),
    Fields(Vec<PlanBeam>),
}

impl Planned {
    fn check(&self, record: &Record, options: &CheckOptions) -> Result<Check> {
        match self {
            Self::Plan(plan) => check_delivery(record, plan, options),
            Self::Fields(beams) => check_planned(record, beams.clone(), options),
        }
    }
}

fn planned(
    args: &Args,
    context: impl FnOnce() -> crate::Result<Context>,
    printer: Printer,
) -> crate::Result<Option<Planned>> {
    if let Some(path) = &args.plan {
        return Ok(read_plan(path, printer).map(|plan| Planned::Plan(Box::new(plan))));
    }
    let context = context()?;
    let (_, settings) = mosaiq::site(context.settings(), args.site.as_deref())?;
    let server = settings.server()?;
    let beams = runtime::block_on(&context, |_| async {
        let mut mosaiq = trf_core::mosaiq::Mosaiq::connect(server).await?;
        let mut beams = Vec::new();
        for &field_id in &args.mosaiq {
            beams.push(mosaiq.field(field_id).await?.beam()?);
        }
        Ok(beams)
    })?;
    Ok(Some(Planned::Fields(beams)))
}

pub(super) fn run(
    args: &Args,
    context: impl FnOnce() -> crate::Result<Context>,
    printer: Printer,
) -> crate::Result<ExitCode> {
    let Some(planned) = planned(args, context, printer)? else { return Ok(ExitCode::FAILURE) };
    let options = CheckOptions {
        fraction_group: args.fraction_group,
        meterset: args.dose.into(),
        resolution_mm: args.grid,
        gamma: Criteria {
            dose_percent: args.gamma_dose,
            distance_mm: args.gamma_distance,
            lower_dose_cutoff_percent: args.gamma_cutoff,
            local: args.gamma_local,
            ..Criteria::default()
        },
    };
    let several = args.files.is_several();
    let pages = files::Targets::default();
    let done = args.files.each(printer, |path| {
        let check = planned.check(&Record::open(path)?, &options)?;
        if let Some(png) = &args.png {
            let page = if several {
                with_suffix(&pages.stem(path, Some(&beside(png)))?, ".png")
            } else {
                png.clone()
            };
            write_page(&check, &page)?;
        }
        Ok(check)
    });
    let mut passed = true;
    for (path, check) in done.successes() {
        print(path, check, printer);
        for beam in &check.beams {
            let too_few =
                args.min_pass.filter(|least| beam.gamma.pass_rate_percent.is_none_or(|rate| rate < *least));
            if let Some(least) = too_few {
                printer.note(format!(
                    "{}: beam {}: less than {least} % of the points pass",
                    path.display(),
                    beam.number
                ));
                passed = false;
            }
        }
    }
    let code = done.finish(printer);
    Ok(if passed { code } else { ExitCode::FAILURE })
}

/// The directory for several pages: the name that was given, without its ending.
fn beside(png: &Path) -> PathBuf {
    png.with_extension("")
}

fn write_page(check: &Check, page: &Path) -> Result<()> {
    let bytes = check.to_png()?;
    write_whole(page, |out, _| Ok(std::io::Write::write_all(out, &bytes)?)).map(|_| ())
}

fn print(path: &Path, check: &Check, printer: Printer) {
    printer.line(path.display().to_string());
    printer.line(format!("  machine {}, field {:?}, {}", check.machine_id, check.field, check.planned_by()));
    check.beams.iter().for_each(|beam| print_beam(beam, printer));
    if !check.beams_not_in_record.is_empty() {
        printer.line(format!("  not in this record: beams {:?}", check.beams_not_in_record));
    }
    for warning in &check.warnings {
        printer.note(format!("warning: {}: {warning}", path.display()));
    }
}

fn print_beam(beam: &BeamCheck, printer: Printer) {
    let name = beam.name.as_deref().map(|name| format!(" {name:?}")).unwrap_or_default();
    printer.line(format!("  beam {}{name}", beam.number));
    printer.line(format!("    {}", beam.headline()));
    let axes = [
        ("leaves", "mm", &beam.positions.leaves_mm),
        ("jaw Y2", "mm", &beam.positions.jaw_y2_mm),
        ("jaw Y1", "mm", &beam.positions.jaw_y1_mm),
        ("gantry", "°", &beam.positions.gantry_deg),
        ("collimator", "°", &beam.positions.collimator_deg),
    ];
    for (axis, unit, errors) in axes {
        if let Some(errors) = errors.beam_on {
            printer.line(format!(
                "    {axis:<11} RMS {:.2}, 95 % {:.2}, max {:.2} {unit}",
                errors.rms, errors.p95, errors.max
            ));
        }
    }
    let worst = beam.worst_leaves().into_iter().take(N_WORST);
    let worst: Vec<String> = worst.map(|leaf| format!("{} ({:.2} mm)", leaf.name, leaf.max_mm())).collect();
    if !worst.is_empty() {
        printer.line(format!("    worst       {}", worst.join(", ")));
    }
    if let (Some(holds), Some(interruptions)) = (beam.beam_hold_count, beam.interruption_count) {
        printer.line(format!("    beam        held {holds} times, interrupted {interruptions} times"));
    }
}
