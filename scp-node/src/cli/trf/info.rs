//! `trf info`: a record in a dozen lines.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use trf_core::{Record, Summary};

use super::files::Files;
use crate::cli::Printer;

/// A record, and its columns if they were asked for.
#[derive(Debug, Serialize)]
struct Info {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    column_list: Option<Vec<Column>>,
}

#[derive(Debug, Serialize)]
struct Column {
    item: i16,
    part: i16,
    name: String,
    unit: &'static str,
    known_from: &'static str,
}

pub(super) fn run(files: &Files, brief: bool, columns: bool, printer: Printer) -> ExitCode {
    let done = files.each(printer, |path| {
        let record = Record::open(path)?;
        Ok(Info { summary: record.summary(), column_list: columns.then(|| column_list(&record)) })
    });
    if brief {
        let rows: Vec<_> = done.successes().map(|(path, info)| brief_row(path, &info.summary)).collect();
        printer.table(["start", "machine", "field", "seconds", "MU", "ended", "file"], &rows);
    } else {
        done.successes().for_each(|(path, info)| print(path, info, printer));
    }
    done.finish(printer)
}

fn column_list(record: &Record) -> Vec<Column> {
    let column = |column: trf_core::Column<'_>| Column {
        item: column.item().item,
        part: column.item().part,
        name: column.name().to_owned(),
        unit: column.unit(),
        known_from: column.provenance().words(),
    };
    record.columns().map(column).collect()
}

fn brief_row(path: &Path, s: &Summary) -> [String; 7] {
    [
        s.start_local.clone().unwrap_or_else(|| s.start_utc.clone()),
        printable(&s.machine_id),
        printable(&s.field),
        format!("{:.1}", s.duration_s),
        s.delivered_mu.map_or_else(|| "-".to_owned(), |mu| format!("{mu:.1}")),
        s.last_state.clone().unwrap_or_else(|| "-".to_owned()),
        path.display().to_string(),
    ]
}

/// Foreign text that cannot steer a terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn print(path: &Path, info: &Info, printer: Printer) {
    let s = &info.summary;
    printer.line(path.display().to_string());
    for (label, text) in lines(s) {
        printer.line(format!("  {label:<13} {}", printable(&text)));
    }
    for warning in &s.warnings {
        printer.line(format!("  {:<13} {warning}", "warning"));
    }
    let Some(columns) = &info.column_list else { return };
    let rows: Vec<_> = columns
        .iter()
        .map(|c| {
            [format!("  {}/{}", c.item, c.part), c.name.clone(), c.unit.to_owned(), c.known_from.to_owned()]
        })
        .collect();
    printer.table(["  item", "column", "unit", "known from"], &rows);
}

/// Label and text of each thing that the record says; what it does not say has no line.
fn lines(s: &Summary) -> Vec<(&'static str, String)> {
    let time = |local: &Option<String>, utc: &str| match local {
        Some(local) => format!("{local} ({utc})"),
        None => utc.to_owned(),
    };
    let field = if s.field.is_empty() { "none (service mode)".to_owned() } else { s.field.clone() };
    let mut lines = vec![
        ("machine", s.machine_id.clone()),
        ("field", field),
        ("start", time(&s.start_local, &s.start_utc)),
        ("end", time(&s.end_local, &s.end_utc)),
        ("duration", format!("{:.1} s, {} rows", s.duration_s, s.rows)),
        ("format", format!("version {}, {} columns", s.version, s.columns)),
    ];
    if let Some(ahead) = s.controller_minus_host_s {
        let word = if ahead < 0.0 { "behind" } else { "ahead of" };
        lines.push((
            "clocks",
            format!("controller {:.1} s {word} the host that wrote the times above", ahead.abs()),
        ));
    }
    lines.extend(s.header_total_mu.map(|mu| ("dose, header", format!("{mu} MU"))));
    lines.extend(s.delivered_mu.map(|mu| ("dose, counted", format!("{mu:.2} MU"))));
    if let (Some(seconds), Some(count)) = (s.radiation_on_s, s.radiation_on_count) {
        lines.push((
            "radiation on",
            format!("{seconds:.1} s in {count} part{}", if count == 1 { "" } else { "s" }),
        ));
    }
    if let Some([from, to]) = s.gantry_bipolar_deg {
        lines.push(("gantry", format!("{from:.1} to {to:.1} deg, bipolar")));
    }
    lines.extend(
        s.energy_codes.as_ref().filter(|codes| !codes.is_empty()).map(|codes| {
            ("energy code", codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }),
    );
    lines.extend(s.last_state.as_ref().map(|state| ("last state", state.clone())));
    if !s.unknown_items.is_empty() {
        lines.push(("unknown items", s.unknown_items.join(", ")));
    }
    lines
}
