//! A record as text, in three dialects.
//!
//! | dialect | files | content |
//! |---|---|---|
//! | [`Dialect::PyMedPhys`] | `*_header.csv`, `*_table.csv` | what `pymedphys trf to-csv` writes, byte for byte where that is right |
//! | [`Dialect::Elekta`] | `*.csv` | what Elekta's own tool writes, byte for byte |
//! | [`Dialect::Clean`] | `*_clean.csv`, `*_clean.json` | true units in the names, time of the timestamps, running meterset, no sentinel |
//!
//! Source: the vendor's decodes of real records, and PyMedPhys 0.41. Neither tool's text is known for unknown items (we write
//! `Item 4004/1` and the integer), nor the vendor's for records with timestamps (we write the same columns).

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat};
use rayon::prelude::*;

use crate::digits::{push_integer, push_short_hundredths, push_short_tenths, push_tenths, push_thousandths};
use crate::header::{Header, Version};
use crate::items::{self, ItemPart, Rule};
use crate::reader::{ROW_INTERVAL_MS, Record};

/// Which tool's text to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As `pymedphys trf to-csv`, with the header's dose and the couch angle right.
    PyMedPhys,
    /// As Elekta's tool.
    Elekta,
    /// Our own.
    Clean,
}

/// Control point of a row that belongs to none.
const NO_CONTROL_POINT: i32 = -32767;
/// Rows formatted by one thread at a time: about half a megabyte of text.
const ROWS_PER_TASK: usize = 256;
/// Tasks whose text is held until it is written: bounds memory to some tens of megabytes.
const TASKS_IN_MEMORY: usize = 32;

/// Writes the rows of `record`, with the lines before them that the dialect has.
///
/// # Errors
/// What `out` gives.
pub fn write_table(record: &Record, dialect: Dialect, out: &mut impl Write) -> io::Result<()> {
    let writer = RowWriter::new(record, dialect);
    out.write_all(&writer.head())?;
    let tasks: Vec<usize> = (0..record.n_rows()).step_by(ROWS_PER_TASK).collect();
    for batch in tasks.chunks(TASKS_IN_MEMORY) {
        let texts: Vec<Vec<u8>> = batch.par_iter().map(|first| writer.rows(*first)).collect();
        texts.iter().try_for_each(|text| out.write_all(text))?;
    }
    Ok(())
}

/// Writes the header table of [`Dialect::PyMedPhys`]; the dose is in MU (PyMedPhys 0.41 prints ten times as much).
///
/// # Errors
/// What `out` gives.
pub fn write_pymedphys_header(header: &Header, out: &mut impl Write) -> io::Result<()> {
    let n = header.items.len();
    let texts = [&header.machine_id, &header.utc_text, &header.utc_offset_text].map(|t| quoted(t));
    let mu = header.total_mu().map_or_else(String::new, |mu| format!("{mu:?}"));
    writeln!(
        out,
        ",machine,date,timezone,field_label,field_name,mu,version,item_parts_number,item_parts_length,item_parts"
    )?;
    writeln!(
        out,
        "0,{},{},{},{mu},{},{n},{},\"{}\"",
        texts.join(","),
        quoted(header.field_label()),
        quoted(header.field_name()),
        header.version.number(),
        2 * n,
        numpy_text(&header.items)
    )
}

/// How the integers of a column become text.
#[derive(Clone, Copy)]
enum Cell {
    Integer,
    Unsigned16,
    /// x / 10, always with a decimal.
    Tenths,
    /// −x / 10, always with a decimal; 0 is `-0.0`, as pandas prints it.
    NegatedTenths,
    /// x / 10 without a zero decimal.
    ShortTenths,
    NegatedShortTenths,
    /// The word of a code, the code where it is not known.
    Word(Rule),
    /// x, empty for [`NO_CONTROL_POINT`].
    ControlPoint,
}

struct RowWriter<'a> {
    record: &'a Record,
    dialect: Dialect,
    cells: Vec<Cell>,
    /// Running meterset of [`Dialect::Clean`], if the record has a dose counter.
    meterset_mu: Option<Vec<f64>>,
}

impl<'a> RowWriter<'a> {
    fn new(record: &'a Record, dialect: Dialect) -> Self {
        let cells = record.columns().map(|column| cell(column.item(), column.rule(), dialect)).collect();
        let meterset_mu =
            if dialect == Dialect::Clean { record.meterset().ok().map(|m| m.meterset_mu) } else { None };
        RowWriter { record, dialect, cells, meterset_mu }
    }

    fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let first: &[&str] = match self.dialect {
            Dialect::PyMedPhys if self.has_timestamps() => {
                &["", "unknown1", "unknown2", "unknown3", "unknown4"]
            }
            Dialect::PyMedPhys => &[""],
            Dialect::Elekta => {
                elekta_header(self.record, &mut out);
                &["Time (s)"]
            }
            Dialect::Clean if self.meterset_mu.is_some() => &["time_s", "utc", "meterset_mu"],
            Dialect::Clean => &["time_s", "utc"],
        };
        out.extend_from_slice(first.join(",").as_bytes());
        for column in self.record.columns() {
            out.push(b',');
            match self.dialect {
                Dialect::Clean => out.extend_from_slice(clean_name(column.item(), column.name()).as_bytes()),
                _ => out.extend_from_slice(column.name().as_bytes()),
            }
        }
        self.end_row(&mut out);
        out
    }

    fn rows(&self, first: usize) -> Vec<u8> {
        /// Bytes of text per value, a little more than real records need.
        const VALUE_TEXT_BYTES: usize = 6;
        let mut out = Vec::with_capacity(ROWS_PER_TASK * (self.cells.len() + 5) * VALUE_TEXT_BYTES);
        let rows = self.record.row_chunks().skip(first).take(ROWS_PER_TASK);
        for (row, bytes) in (first..).zip(rows) {
            let (stamp, values) =
                bytes.split_at_checked(self.record.header().version.prefix_bytes()).unwrap_or_default();
            let stamp = stamp.first_chunk().map(|b| i64::from_le_bytes(*b));
            self.push_first_columns(&mut out, row, stamp);
            if self.record.header().version == Version::V4 {
                self.push_values(&mut out, values.as_chunks().0, i32::from_le_bytes);
            } else {
                self.push_values(&mut out, values.as_chunks().0, |b| i16::from_le_bytes(b).into());
            }
            self.end_row(&mut out);
        }
        out
    }

    fn push_first_columns(&self, out: &mut Vec<u8>, row: usize, stamp: Option<i64>) {
        let hundredths = (row as u64).saturating_mul(ROW_INTERVAL_MS.unsigned_abs() / 10);
        match self.dialect {
            Dialect::Elekta => push_short_hundredths(out, hundredths),
            Dialect::PyMedPhys => {
                push_short_hundredths(out, hundredths);
                if hundredths.is_multiple_of(100) {
                    out.extend_from_slice(b".0");
                }
                // The four words of the timestamp, low word first.
                for word in stamp.iter().flat_map(|s| (0..4).map(move |i| s >> (16 * i) & 0xffff)) {
                    out.push(b',');
                    push_integer(out, word);
                }
            }
            Dialect::Clean => self.push_clean_columns(out, row, stamp),
        }
    }

    fn push_clean_columns(&self, out: &mut Vec<u8>, row: usize, stamp: Option<i64>) {
        let nominal_ms = i64::try_from(row).unwrap_or(i64::MAX).saturating_mul(ROW_INTERVAL_MS);
        let first_ms = self.record.timestamp_at(0);
        let time_ms = stamp.zip(first_ms).map_or(nominal_ms, |(now, first)| now.saturating_sub(first));
        push_thousandths(out, time_ms);
        out.push(b',');
        let start_ms = first_ms.unwrap_or_else(|| self.record.start_utc().timestamp_millis());
        if let Some(utc) = start_ms.checked_add(time_ms).and_then(DateTime::from_timestamp_millis) {
            out.extend_from_slice(utc.to_rfc3339_opts(SecondsFormat::Millis, true).as_bytes());
        }
        if let Some(mu) = self.meterset_mu.as_ref().and_then(|meterset| meterset.get(row)) {
            out.extend_from_slice(format!(",{mu}").as_bytes());
        }
    }

    fn push_values<const N: usize>(
        &self,
        out: &mut Vec<u8>,
        values: &[[u8; N]],
        read: impl Fn([u8; N]) -> i32,
    ) {
        for (cell, bytes) in self.cells.iter().zip(values) {
            out.push(b',');
            push_cell(out, *cell, read(*bytes));
        }
    }

    fn end_row(&self, out: &mut Vec<u8>) {
        if self.dialect == Dialect::Elekta {
            out.push(b',');
        }
        out.push(b'\n');
    }

    fn has_timestamps(&self) -> bool {
        self.record.header().version.has_timestamps()
    }
}

fn cell(item: ItemPart, rule: Rule, dialect: Dialect) -> Cell {
    match (rule, dialect) {
        (Rule::Raw, Dialect::Clean) if item == items::CONTROL_POINT => Cell::ControlPoint,
        (Rule::Raw, _) => Cell::Integer,
        (Rule::Unsigned16, _) => Cell::Unsigned16,
        (Rule::LinacState | Rule::WedgePosition, _) => Cell::Word(rule),
        (Rule::Tenths, Dialect::PyMedPhys) => Cell::Tenths,
        (Rule::NegatedTenths, Dialect::PyMedPhys) => Cell::NegatedTenths,
        (Rule::Tenths, _) => Cell::ShortTenths,
        (Rule::NegatedTenths, _) => Cell::NegatedShortTenths,
    }
}

#[inline]
fn push_cell(out: &mut Vec<u8>, cell: Cell, raw: i32) {
    let x = i64::from(raw);
    match cell {
        Cell::Tenths => push_tenths(out, x),
        Cell::NegatedTenths if x == 0 => out.extend_from_slice(b"-0.0"),
        Cell::NegatedTenths => push_tenths(out, -x),
        Cell::ShortTenths => push_short_tenths(out, x),
        Cell::NegatedShortTenths => push_short_tenths(out, -x),
        Cell::Unsigned16 => push_integer(out, items::unsigned16(raw).into()),
        Cell::ControlPoint if raw == NO_CONTROL_POINT => {}
        Cell::Integer | Cell::ControlPoint => push_integer(out, x),
        Cell::Word(rule) => match rule.label(raw) {
            Some(word) => out.extend_from_slice(word.as_bytes()),
            None => push_integer(out, x),
        },
    }
}

/// The eight lines before the columns, and the empty one. Leaves are counted; the scale is a constant of Elekta's tool.
fn elekta_header(record: &Record, out: &mut Vec<u8>) {
    let header = record.header();
    let is_leaf = |item: &&ItemPart| {
        (0..items::N_LEAF_PAIRS)
            .any(|k| items::y1_leaf(k) == Some(**item) || items::y2_leaf(k) == Some(**item))
    };
    let dose = header.total_mu().map_or_else(String::new, |mu| format!("{mu} MU"));
    let lines = [
        format!("Version = {}", header.version.number()),
        format!("Linac Id = {}", one_line(&header.machine_id)),
        format!("Treatment Name = {}", one_line(&header.field)),
        format!("Total Dose = {dose}"),
        format!("Number of Leaves  = {}", header.items.iter().filter(is_leaf).count()),
        format!("UTC Time = {}", one_line(&header.utc_text)),
        format!("UTC Offset = {}", one_line(&header.utc_offset_text)),
        "Linac Scale = Bipolar".to_owned(),
        String::new(),
    ];
    lines.iter().for_each(|line| {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    });
}

/// Foreign text that must not begin a line of its own.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// `text` as a CSV field, quoted only where it must be.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Name of a column of [`Dialect::Clean`]: lower case, with the true unit at its end, such as `y2_leaf_40_mm`.
///
/// The Step Dose and the raw counter keep their meaning, dose of the running beam; the running sum is `meterset_mu`.
pub fn clean_name(item: ItemPart, name: &str) -> String {
    let meaning = items::meaning(item);
    let fixed = match item {
        items::CONTROL_POINT => "control_point",
        items::ENERGY => "energy_code",
        items::LINAC_STATE => "linac_state",
        items::DOSE_RATE => "dose_rate_mu_per_min",
        items::STEP_DOSE => "step_dose_mu",
        items::DOSE_RAW => "dose_counter_64th_mu",
        items::PRF_PAUSES => "prf_pauses",
        items::WEDGE => "wedge_position",
        items::GANTRY => "gantry_bipolar_deg",
        items::COLLIMATOR => "collimator_bipolar_deg",
        items::MLC_STATUS => "mlc_status",
        _ => "",
    };
    let (name, number) = name.rsplit_once(" #").unwrap_or((name, ""));
    if !fixed.is_empty() {
        return [fixed, number].join(" ").trim_end().replace(' ', "_");
    }
    let (quantity, part) = name.split_once('/').unwrap_or((name, ""));
    let part = part.split(" (").next().unwrap_or("").replace("Scaled Actual", "").replace("Actual ", "");
    let words = [quantity, &part, meaning.unit, number].join(" ");
    words.to_lowercase().split_whitespace().collect::<Vec<_>>().join("_")
}

/// The item list as numpy 1.26 prints an array of integers: lines of 75 characters, a short form past 1000 numbers.
fn numpy_text(items: &[ItemPart]) -> String {
    const LINE_WIDTH: usize = 74;
    const SHORT_FORM_FROM: usize = 1001;
    const EDGE: usize = 3;
    let numbers: Vec<i16> = items.iter().flat_map(|i| [i.item, i.part]).collect();
    let short = numbers.len() >= SHORT_FORM_FROM;
    let shown: Vec<i16> = if short {
        let (head, tail) = (numbers.iter().take(EDGE), numbers.iter().skip(numbers.len() - EDGE));
        head.chain(tail).copied().collect()
    } else {
        numbers
    };
    let width = shown.iter().map(|n| n.to_string().len()).max().unwrap_or(0);
    let mut words: Vec<String> = shown.iter().map(|n| format!("{n:width$}")).collect();
    if short {
        words.insert(EDGE, "...".to_owned());
    }
    let mut text = String::new();
    let mut line = String::from(" ");
    for (position, word) in words.iter().enumerate() {
        if line.len() + word.len() > LINE_WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = String::from(" ");
        }
        line.push_str(word);
        if position + 1 < words.len() {
            line.push(' ');
        }
    }
    text.push_str(&line);
    format!("[{}]", text.get(1..).unwrap_or_default())
}
