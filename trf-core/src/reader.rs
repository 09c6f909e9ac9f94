//! A record: its bytes, its header, and its columns, each decoded only when asked for.
//!
//! Input: a file, bytes, or a reader, foreign. Output: [`Record`]. A cut last row is a [`Warning`], not an error: the
//! complete rows are there.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::header::{Header, Version};
use crate::items::{self, ItemPart, Meaning, Rule};

/// Time between rows, ms. (93 to 99 % of the steps of real timestamps are exactly this.)
pub const ROW_INTERVAL_MS: i64 = 40;

/// Largest record taken from a reader: 15 hours of version 4, 31 hours of version 1.
pub const MAX_RECORD_BYTES: u64 = 2 << 30;

/// From here on a file is read into huge pages: four minutes of version 1. Smaller ones are read before it matters.
const LARGE_BYTES: u64 = 4 << 20;

/// Something that is not as it should be in a record that can be read all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The file ends within a row, which was left out.
    CutRow {
        /// Bytes after the last complete row.
        left_over_bytes: usize,
        /// Bytes of a complete row.
        row_bytes: usize,
    },
    /// The header has no readable offset from UTC; local times are absent.
    NoUtcOffset,
    /// The total dose of the header is not a finite number.
    NoTotalDose,
    /// A string of the header is not UTF-8 and was read as Latin-1.
    NotUtf8 {
        /// The string.
        section: &'static str,
    },
    /// An item is listed twice; the second has `#2` after its name, and so on.
    DuplicateItem {
        /// The item.
        item: ItemPart,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::CutRow { left_over_bytes, row_bytes } => {
                write!(f, "the last row is cut: {left_over_bytes} of {row_bytes} bytes were left over")
            }
            Warning::NoUtcOffset => write!(f, "the header has no readable offset from UTC"),
            Warning::NoTotalDose => write!(f, "the header's total dose is not a number"),
            Warning::NotUtf8 { section } => write!(f, "the {section} is not UTF-8 and was read as Latin-1"),
            Warning::DuplicateItem { item } => write!(f, "item {item} is listed more than once"),
        }
    }
}

/// A decoded header and the rows' bytes.
///
/// Cheap to open: no value is decoded before it is asked for. See [`Record::column`] and [`Record::table`].
#[derive(Debug)]
pub struct Record {
    bytes: Bytes,
    header: Header,
    names: Vec<Cow<'static, str>>,
    rules: Vec<Rule>,
    n_rows: usize,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

impl Record {
    /// Reads the file at `path` into memory.
    ///
    /// # Errors
    /// As [`Header::parse`]; [`Error::Io`]; [`Error::Limit`] for more than [`MAX_RECORD_BYTES`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if (LARGE_BYTES..=MAX_RECORD_BYTES).contains(&size) {
            if let Some(bytes) = in_huge_pages(&mut file, size) {
                return Self::new(Bytes::Mapped(bytes));
            }
            file.rewind().map_err(|e| Error::io(path, e))?;
        }
        Self::read_with_capacity(file, path, size)
    }

    /// Maps the file at `path` into memory, so that only what is asked for is read from the disk.
    ///
    /// For files on a local disk that nobody shortens meanwhile: where a mapped file is truncated, or its share goes
    /// away, the operating system ends the process. [`Record::open`] gives an error instead.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn map(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
            return Self::from_bytes(Vec::new()); // an empty file cannot be mapped
        }
        #[expect(unsafe_code, reason = "mapping is unsafe by nature; the documentation names the condition")]
        // SAFETY: the map is read only and private to this process; the caller keeps the file from being shortened.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Self::new(Bytes::Mapped(map))
    }

    /// Takes a record that is already in memory.
    ///
    /// # Errors
    /// As [`Header::parse`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Bytes::Owned(bytes))
    }

    /// Reads a record from `reader` to its end. `path` names it in errors.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn from_reader(reader: impl Read, path: impl AsRef<Path>) -> Result<Self> {
        Self::read_with_capacity(reader, path.as_ref(), 0)
    }

    fn read_with_capacity(reader: impl Read, path: &Path, size: u64) -> Result<Self> {
        let too_large =
            |found| Error::Limit { what: "size of a record in bytes", limit: MAX_RECORD_BYTES, found };
        if size > MAX_RECORD_BYTES {
            return Err(too_large(size));
        }
        // One more than the file's size, so that the read which finds the end needs no second buffer.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
        reader.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        match bytes.len() as u64 {
            found if found > MAX_RECORD_BYTES => Err(too_large(found)),
            _ => Self::from_bytes(bytes),
        }
    }

    fn new(bytes: Bytes) -> Result<Self> {
        let header = Header::parse(bytes.as_ref())?;
        let rows = bytes.as_ref().len().saturating_sub(header.n_bytes);
        let row_bytes = header.row_bytes();
        let n_rows = rows.checked_div(row_bytes).unwrap_or(0);
        let left_over_bytes = rows.checked_rem(row_bytes).unwrap_or(0);
        let mut warnings = header_warnings(&header);
        if left_over_bytes > 0 {
            warnings.push(Warning::CutRow { left_over_bytes, row_bytes });
        }
        let (names, rules) = columns(&header.items, &mut warnings);
        Ok(Record { bytes, header, names, rules, n_rows, warnings })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Number of complete rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of columns, timestamps not counted.
    pub fn n_columns(&self) -> usize {
        self.header.items.len()
    }

    /// What is not as it should be.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Bytes after the last complete row; 0 in a record that was not cut.
    pub fn left_over_bytes(&self) -> usize {
        self.bytes.as_ref().len().saturating_sub(self.header.n_bytes).saturating_sub(self.rows().len())
    }

    /// The whole record as it is in the file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The column at `index` of the file's order.
    pub fn column(&self, index: usize) -> Option<Column<'_>> {
        Some(Column {
            record: self,
            index,
            item: *self.header.items.get(index)?,
            rule: *self.rules.get(index)?,
        })
    }

    /// All columns, in the file's order.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = Column<'_>> {
        let parts = self.header.items.iter().zip(&self.rules).enumerate();
        parts.map(|(index, (&item, &rule))| Column { record: self, index, item, rule })
    }

    /// The (first) column of `item`.
    pub fn column_of(&self, item: ItemPart) -> Option<Column<'_>> {
        self.column(self.header.items.iter().position(|i| *i == item)?)
    }

    /// The column named `name`, such as `Step Dose/Actual Value (Mu)`.
    pub fn column_named(&self, name: &str) -> Option<Column<'_>> {
        self.column(self.names.iter().position(|n| n == name)?)
    }

    /// As [`Record::column_of`], for a column that is needed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the column that the record lacks.
    pub fn required(&self, item: ItemPart) -> Result<Column<'_>> {
        self.column_of(item).ok_or_else(|| {
            Error::unsupported(format!("a record without `{}` (item {item})", items::meaning(item).name))
                .with_hint("the record can be shown as a table, but not be evaluated as a delivery")
        })
    }

    /// Timestamps of the rows: Unix milliseconds of the controller's clock; `None` in version 1, which has none.
    pub fn timestamps_ms(&self) -> Option<impl ExactSizeIterator<Item = i64> + '_> {
        let rows = self.header.version.has_timestamps().then(|| self.row_chunks())?;
        Some(rows.map(|row| timestamp(row).unwrap_or_default()))
    }

    /// Time of each row from the start of the record in s: from the timestamps where there are any, else row · 0.04.
    pub fn time_s(&self) -> Vec<f64> {
        match (self.timestamps_ms(), self.timestamp_at(0)) {
            (Some(stamps), Some(first)) => stamps.map(|t| t.wrapping_sub(first) as f64 / 1000.0).collect(),
            _ => self.nominal_time_s(),
        }
    }

    /// Time of each row as Elekta's tool and PyMedPhys print it: row · 0.04 s.
    pub fn nominal_time_s(&self) -> Vec<f64> {
        (0..self.n_rows).map(row_time_s).collect()
    }

    /// Start of the record in UTC on the host's clock: the header's time, which is the end, less rows · 0.04 s.
    pub fn start_utc(&self) -> DateTime<Utc> {
        let rows = i64::try_from(self.n_rows).unwrap_or(i64::MAX);
        let duration = TimeDelta::try_milliseconds(rows.saturating_mul(ROW_INTERVAL_MS)).unwrap_or_default();
        self.header.end_utc.checked_sub_signed(duration).unwrap_or(self.header.end_utc)
    }

    /// End of the record in UTC on the host's clock, resolution 1 s.
    pub fn end_utc(&self) -> DateTime<Utc> {
        self.header.end_utc
    }

    /// Time of the first row on the controller's clock; `None` in version 1 and without rows.
    pub fn controller_start_utc(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.timestamp_at(0)?)
    }

    /// Time of the last row on the controller's clock; `None` in version 1 and without rows.
    pub fn controller_end_utc(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.timestamp_at(self.n_rows.checked_sub(1)?)?)
    }

    /// What the controller's clock shows more than the host's at the end of the record, in s (known to about 1 s).
    pub fn controller_minus_host_s(&self) -> Option<f64> {
        let last = self.timestamp_at(self.n_rows.checked_sub(1)?)?;
        Some(last.checked_sub(self.header.end_utc.timestamp_millis())? as f64 / 1000.0)
    }

    /// The bytes of all complete rows.
    pub(crate) fn rows(&self) -> &[u8] {
        let length = self.n_rows.saturating_mul(self.header.row_bytes());
        let rows = self.bytes.as_ref().get(self.header.n_bytes..).unwrap_or_default();
        rows.get(..length).unwrap_or_default()
    }

    /// The complete rows, each with its timestamp.
    pub(crate) fn row_chunks(&self) -> std::slice::ChunksExact<'_, u8> {
        self.rows().chunks_exact(self.header.row_bytes().max(1))
    }

    /// The rules of all columns.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn timestamp_at(&self, row: usize) -> Option<i64> {
        if !self.header.version.has_timestamps() {
            return None;
        }
        timestamp(self.row_chunks().nth(row)?)
    }
}

/// Reads a file into memory of huge pages; `None` where the system has none, or the file's size changes meanwhile.
#[cfg(target_os = "linux")]
fn in_huge_pages(file: &mut File, size: u64) -> Option<Mmap> {
    let mut memory = memmap2::MmapMut::map_anon(usize::try_from(size).ok()?).ok()?;
    memory.advise(memmap2::Advice::HugePage).ok()?;
    file.read_exact(&mut memory).ok()?;
    let ends = file.read(&mut [0]).ok()? == 0;
    ends.then(|| memory.make_read_only().ok()).flatten()
}

#[cfg(not(target_os = "linux"))]
fn in_huge_pages(_: &mut File, _: u64) -> Option<Mmap> {
    None
}

fn row_time_s(row: usize) -> f64 {
    // Whole hundredths divided once give the double nearest to the decimal number, as rounding to two decimals does.
    (row.saturating_mul(4)) as f64 / 100.0
}

fn timestamp(row: &[u8]) -> Option<i64> {
    row.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))
}

fn header_warnings(header: &Header) -> Vec<Warning> {
    let mut warnings: Vec<Warning> =
        header.not_utf8.iter().map(|section| Warning::NotUtf8 { section }).collect();
    if header.utc_offset.is_none() {
        warnings.push(Warning::NoUtcOffset);
    }
    if header.total_mu().is_none() {
        warnings.push(Warning::NoTotalDose);
    }
    warnings
}

/// Names and rules of the columns; a repeated item gets a number after its name.
fn columns(items: &[ItemPart], warnings: &mut Vec<Warning>) -> (Vec<Cow<'static, str>>, Vec<Rule>) {
    let mut seen = std::collections::HashMap::<ItemPart, usize>::with_capacity(items.len());
    items
        .iter()
        .map(|&item| {
            let Meaning { name, rule, .. } = items::meaning(item);
            let count = seen.entry(item).or_default();
            *count += 1;
            if *count == 2 {
                warnings.push(Warning::DuplicateItem { item });
            }
            (if *count > 1 { Cow::Owned(format!("{name} #{count}")) } else { name }, rule)
        })
        .unzip()
}

/// One column of a record; decodes only itself.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    record: &'a Record,
    index: usize,
    item: ItemPart,
    rule: Rule,
}

impl<'a> Column<'a> {
    /// Position in the file's order.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What is logged.
    pub fn item(&self) -> ItemPart {
        self.item
    }

    /// The name, such as `Step Dose/Actual Value (Mu)`; `Item 4004/1` for an unknown item.
    pub fn name(&self) -> &'a str {
        self.record.names.get(self.index).map_or("", |name| name)
    }

    /// True unit, empty where there is none or it is unknown.
    pub fn unit(&self) -> &'static str {
        items::meaning(self.item).unit
    }

    /// How we know what the item means.
    pub fn provenance(&self) -> items::Provenance {
        items::meaning(self.item).provenance
    }

    /// From stored integer to value.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Number of values: the record's rows.
    pub fn len(&self) -> usize {
        self.record.n_rows
    }

    /// Whether the record has no rows.
    pub fn is_empty(&self) -> bool {
        self.record.n_rows == 0
    }

    /// The integers as stored.
    pub fn raw(&self) -> Vec<i32> {
        self.map(|raw| raw)
    }

    /// The integers, where a negative counter of 16 bits was stored for a large one.
    pub fn counts(&self) -> Vec<i32> {
        match self.rule {
            Rule::Unsigned16 => self.map(items::unsigned16),
            _ => self.raw(),
        }
    }

    /// The values, in the column's unit; codes stay numbers.
    pub fn values(&self) -> Vec<f64> {
        // One closure per rule, so that the loop over rows has no branch.
        match self.rule {
            Rule::Raw | Rule::LinacState | Rule::WedgePosition => self.map(f64::from),
            rule @ Rule::Tenths => self.map(|raw| rule.apply(raw)),
            rule @ Rule::NegatedTenths => self.map(|raw| rule.apply(raw)),
            rule @ Rule::Unsigned16 => self.map(|raw| rule.apply(raw)),
        }
    }

    /// The integers of some rows, as stored.
    #[cfg(feature = "parquet")]
    pub(crate) fn raw_in(&self, rows: Range<usize>) -> Vec<i32> {
        self.map_in(rows, |raw| raw)
    }

    /// The values of some rows.
    #[cfg(feature = "parquet")]
    pub(crate) fn values_in(&self, rows: Range<usize>) -> Vec<f64> {
        self.map_in(rows, |raw| self.rule.apply(raw))
    }

    /// The value of `row`.
    pub fn value(&self, row: usize) -> Option<f64> {
        self.value_in(self.record.row_chunks().nth(row)?)
    }

    /// The words of a code column, `None` for a code that is not known; all `None` in a column of numbers.
    pub fn labels(&self) -> Vec<Option<&'static str>> {
        self.map(|raw| self.rule.label(raw))
    }

    /// The value in one of the record's rows.
    pub(crate) fn value_in(&self, row: &[u8]) -> Option<f64> {
        self.raw_of(row).map(|raw| self.rule.apply(raw))
    }

    fn raw_of(&self, row: &[u8]) -> Option<i32> {
        let version = self.record.header.version;
        let offset = version.prefix_bytes() + self.index * version.value_bytes();
        let bytes = row.get(offset..)?;
        match version {
            Version::V4 => bytes.first_chunk().map(|b| i32::from_le_bytes(*b)),
            _ => bytes.first_chunk().map(|b| i32::from(i16::from_le_bytes(*b))),
        }
    }

    fn map<T>(&self, f: impl Fn(i32) -> T) -> Vec<T> {
        self.map_in(0..self.len(), f)
    }

    fn map_in<T>(&self, rows: Range<usize>, f: impl Fn(i32) -> T) -> Vec<T> {
        let mut values = Vec::with_capacity(rows.len().min(self.len()));
        let rows = self.record.row_chunks().skip(rows.start).take(rows.len());
        // A complete row has all its values, so no row is dropped here.
        values.extend(rows.filter_map(|row| self.raw_of(row)).map(f));
        values
    }
}
