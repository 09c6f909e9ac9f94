//! `icom info`: what recorded files hold.

use std::path::PathBuf;
use std::process::ExitCode;

use icom_core::archive;
use icom_core::inspect::{Inspection, inspect};
use icom_core::item::{self, Item};
use icom_core::session::Record;
use serde::Serialize;

use super::super::Printer;
use crate::error::{Error, Result};

/// `icom info`.
#[derive(Debug, clap::Args)]
pub(super) struct Info {
    /// Records, `.xz` or raw bytes of a stream; patterns such as icom/patients/*/*.xz work on Windows too.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also lists all items of one message, with what is not understood verbatim.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    items: Option<usize>,
}

#[derive(Serialize)]
struct FileInfo {
    file: PathBuf,
    messages: u64,
    bytes: usize,
    skipped_bytes: u64,
    unparsed_bytes: u64,
    cut_bytes: u64,
    records: Vec<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemInfo>>,
}

#[derive(Serialize)]
struct ItemInfo {
    tag: String,
    name: Option<&'static str>,
    vr: String,
    part: char,
    value: String,
}

impl Info {
    /// The files that the arguments name, patterns expanded where the shell did not.
    fn named(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for named in &self.files {
            let text = named.to_string_lossy();
            if named.exists() || !text.contains(['*', '?']) {
                files.push(named.clone());
                continue;
            }
            // A bracket is a bracket: patients' directories may have some.
            let found = glob::glob(&text.replace('[', "[[]")).into_iter().flatten();
            let before = files.len();
            files.extend(found.filter_map(std::result::Result::ok));
            if files.len() == before {
                return Err(Error::NotFound {
                    what: format!("no file matches {text}"),
                    hint: "records lie in <icom.dir>/patients/<id>_<name>/*.xz".into(),
                });
            }
        }
        Ok(files)
    }

    pub(super) fn run(&self, printer: Printer) -> Result<ExitCode> {
        let mut all = Vec::new();
        for file in &self.named()? {
            let bytes = archive::read(file)?;
            let inspection = inspect(&bytes);
            if inspection.frames.is_empty() {
                return Err(icom_core::Error::Malformed {
                    section: "iCom record",
                    offset: 0,
                    expected: "a message with date and time",
                    found: format!("none in the {} bytes of {}", bytes.len(), file.display()),
                }
                .into());
            }
            let info = FileInfo {
                file: file.clone(),
                messages: inspection.counts.frames,
                bytes: bytes.len(),
                skipped_bytes: inspection.counts.skipped_bytes,
                unparsed_bytes: inspection.counts.unparsed_bytes,
                cut_bytes: inspection.counts.cut_bytes,
                items: self.items.map(|n| items(&inspection, n)),
                records: inspection.records,
            };
            print(&info, printer);
            all.push(info);
        }
        printer.json(&all);
        Ok(ExitCode::SUCCESS)
    }
}

fn items(inspection: &Inspection, n: usize) -> Vec<ItemInfo> {
    inspection
        .frames
        .get(n)
        .into_iter()
        .flat_map(|frame| frame.items())
        .map(|item| item_info(&item))
        .collect()
}

fn item_info(item: &Item<'_>) -> ItemInfo {
    ItemInfo {
        tag: item.tag.to_string(),
        name: item::name(item.tag),
        vr: String::from_utf8_lossy(&item.vr).into_owned(),
        part: item.part.letter(),
        value: item.text().into_owned(),
    }
}

fn print(info: &FileInfo, printer: Printer) {
    printer.line(format!("{}: {} messages, {} bytes", info.file.display(), info.messages, info.bytes));
    let outside = info.skipped_bytes + info.unparsed_bytes + info.cut_bytes;
    if outside > 0 {
        printer.line(format!(
            "  not understood: {} bytes between messages, {} within, {} cut at the end",
            info.skipped_bytes, info.unparsed_bytes, info.cut_bytes
        ));
    }
    for record in &info.records {
        print_record(record, printer);
    }
    for item in info.items.iter().flatten() {
        let name = item.name.unwrap_or("");
        printer.line(format!("  {} {} {} {name:<20} {}", item.tag, item.vr, item.part, item.value));
    }
}

fn print_record(record: &Record, printer: Printer) {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "not sent".into());
    printer.line(format!("  patient   {} {}", record.patient_id, text(&record.patient_name)));
    printer.line(format!("  machine   {}", text(&record.machine_id)));
    printer.line(format!("  time      {} to {} (linac's clock)", record.start, record.end));
    let uncertain = if record.mu_uncertain { ", perhaps more: messages are missing" } else { "" };
    printer.line(format!("  delivered {:.2} MU{uncertain}", record.mu));
    if record.mu_before_first_message > 0.0 {
        printer.line(format!(
            "            of which {:.2} MU before the first message",
            record.mu_before_first_message
        ));
    }
    printer.line(format!(
        "  counter   {} gaps, {} repeats",
        record.gaps,
        record.counter_repeats + record.repeats
    ));
    let readable = if record.pymedphys_readable { "yes" } else { "no: a message lacks MU or positions" };
    printer.line(format!("  PyMedPhys {readable}"));
    for field in &record.fields {
        let energy = text(&field.energy);
        printer.line(format!("  field     {:<12} {:>9.2} MU  {energy}", field.field_id, field.mu));
    }
}
