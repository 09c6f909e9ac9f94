//! A record as a Parquet file: one row per logged row, the header as metadata.
//!
//! Columns: `time_s`, `timestamp_utc` (versions with timestamps), `meterset_mu` (if there is a dose counter), then those of the
//! record under Elekta's names, as `qatrack_ext`'s `to_pandas()` has them: tenths as doubles, counts as 32-bit integers, states
//! and wedge positions as words. Each field's metadata has its true `unit`; the file's has the [`Summary`](crate::Summary)
//! as JSON under `trf`.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::items::{self, Rule};
use crate::reader::{Column, Record};

/// Rows that are held decoded at a time: 3 MB per 100 columns.
const ROWS_PER_BATCH: usize = 4096;
/// Key of the metadata.
const METADATA_KEY: &str = "trf";

/// Writes `record` to `out`, which `path` names in errors.
///
/// # Errors
/// [`Error::Io`].
pub fn write(record: &Record, out: impl Write + Send, path: &Path) -> Result<()> {
    let io = |e: parquet::errors::ParquetError| Error::io(path, std::io::Error::other(e));
    let arrow = |e: arrow_schema::ArrowError| Error::io(path, std::io::Error::other(e));
    let table = Writer::new(record);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(metadata(record)))
        .build();
    let schema = Arc::new(table.schema());
    let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties)).map_err(io)?;
    for first in (0..record.n_rows()).step_by(ROWS_PER_BATCH) {
        let rows = first..first.saturating_add(ROWS_PER_BATCH).min(record.n_rows());
        let batch = RecordBatch::try_new(Arc::clone(&schema), table.arrays(&rows)).map_err(arrow)?;
        writer.write(&batch).map_err(io)?;
    }
    writer.close().map_err(io)?;
    Ok(())
}

fn metadata(record: &Record) -> Vec<KeyValue> {
    let summary = serde_json::to_string(&record.summary()).unwrap_or_default();
    vec![KeyValue::new(METADATA_KEY.to_owned(), summary)]
}

struct Writer<'a> {
    record: &'a Record,
    time_s: Vec<f64>,
    timestamps_ms: Option<Vec<i64>>,
    meterset_mu: Option<Vec<f64>>,
}

impl<'a> Writer<'a> {
    fn new(record: &'a Record) -> Self {
        Writer {
            record,
            time_s: record.time_s(),
            timestamps_ms: record.timestamps_ms().map(Iterator::collect),
            meterset_mu: record.meterset().ok().map(|meterset| meterset.meterset_mu),
        }
    }

    fn schema(&self) -> Schema {
        let mut fields = vec![field("time_s", DataType::Float64, "s")];
        if self.timestamps_ms.is_some() {
            let stamp = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
            fields.push(field("timestamp_utc", stamp, ""));
        }
        if self.meterset_mu.is_some() {
            fields.push(field("meterset_mu", DataType::Float64, "MU"));
        }
        fields.extend(self.record.columns().map(|c| field(c.name(), data_type(c.rule()), c.unit())));
        Schema::new(fields)
    }

    fn arrays(&self, rows: &Range<usize>) -> Vec<ArrayRef> {
        let part = |values: &[f64]| -> ArrayRef {
            Arc::new(Float64Array::from(values.get(rows.clone()).unwrap_or_default().to_vec()))
        };
        let mut arrays = vec![part(&self.time_s)];
        if let Some(stamps) = &self.timestamps_ms {
            let stamps = stamps.get(rows.clone()).unwrap_or_default().to_vec();
            arrays.push(Arc::new(TimestampMillisecondArray::from(stamps).with_timezone("UTC")));
        }
        arrays.extend(self.meterset_mu.as_deref().map(part));
        arrays.extend(self.record.columns().map(|column| array(&column, rows)));
        arrays
    }
}

fn field(name: &str, data_type: DataType, unit: &str) -> Field {
    let field = Field::new(name, data_type, false);
    if unit.is_empty() { field } else { field.with_metadata([("unit".to_owned(), unit.to_owned())]) }
}

fn data_type(rule: Rule) -> DataType {
    match rule {
        Rule::Raw | Rule::Unsigned16 => DataType::Int32,
        Rule::Tenths | Rule::NegatedTenths => DataType::Float64,
        Rule::LinacState | Rule::WedgePosition => DataType::Utf8,
    }
}

fn array(column: &Column<'_>, rows: &Range<usize>) -> ArrayRef {
    let raw = || column.raw_in(rows.clone());
    match column.rule() {
        Rule::Raw => Arc::new(Int32Array::from(raw())),
        Rule::Unsigned16 => Arc::new(Int32Array::from_iter_values(raw().into_iter().map(items::unsigned16))),
        Rule::Tenths | Rule::NegatedTenths => Arc::new(Float64Array::from(column.values_in(rows.clone()))),
        rule @ (Rule::LinacState | Rule::WedgePosition) => {
            Arc::new(StringArray::from_iter_values(raw().into_iter().map(|code| rule.text(code))))
        }
    }
}
