//! `trf(...)` and `TrfRecord`: a linac's log file as numpy arrays.
//!
//! Input: a path, bytes, or anything with `.read()`, such as the BIN_FILE of an upload test. Output: columns under the names
//! that PyMedPhys gives them, in the units of their names. Opening decodes no column; each is decoded when it is asked for,
//! while other Python threads run, into memory that numpy then owns.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, Utc};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use trf_core::items::Rule;
use trf_core::{Column, Header, ItemPart, Record};

use crate::convert;
use crate::delivery::{Delivery, meterset_source};
use crate::error::{Failure, boundary, waiting};
use crate::trf_index::{Wanted, newest};

/// A record of a linac's log.
#[pyclass(frozen, module = "qatrack_ext")]
pub struct TrfRecord {
    record: Arc<Record>,
    path: Option<PathBuf>,
}

impl TrfRecord {
    /// The decoded record.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    fn column(&self, key: &Bound<'_, PyAny>) -> PyResult<Column<'_>> {
        let column = match key.extract::<(i16, i16)>() {
            Ok((item, part)) => self.record.column_of(ItemPart::new(item, part)),
            Err(_) => self.record.column_named(&key.extract::<String>()?),
        };
        column.ok_or_else(|| pyo3::exceptions::PyKeyError::new_err(key.clone().unbind()))
    }

    /// The values of a column: words of code columns, whole numbers of counters, else doubles.
    fn values<'py>(&self, py: Python<'py>, column: Column<'_>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match column.rule() {
            Rule::Tenths | Rule::NegatedTenths => {
                PyArray1::from_vec(py, py.detach(|| column.values())).into_any()
            }
            Rule::Raw => PyArray1::from_vec(py, py.detach(|| column.raw())).into_any(),
            Rule::Unsigned16 => PyArray1::from_vec(py, py.detach(|| column.counts())).into_any(),
            rule @ (Rule::LinacState | Rule::WedgePosition) => words(py, rule, &column.raw())?,
        })
    }
}

/// The header's texts and numbers.
fn header_dict<'py>(py: Python<'py>, header: &Header) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item(intern!(py, "machine_id"), &header.machine_id)?;
    dict.set_item(intern!(py, "field"), &header.field)?;
    dict.set_item(intern!(py, "field_label"), header.field_label())?;
    dict.set_item(intern!(py, "field_name"), header.field_name())?;
    dict.set_item(intern!(py, "total_mu"), header.total_mu())?;
    dict.set_item(intern!(py, "version"), header.version.number())?;
    dict.set_item(intern!(py, "date"), &header.utc_text)?;
    dict.set_item(intern!(py, "timezone"), &header.utc_offset_text)?;
    dict.set_item(intern!(py, "end_utc"), header.end_utc)?;
    dict.set_item(intern!(py, "n_columns"), header.items.len())?;
    Ok(dict)
}

/// Codes as an array of text; each word is one Python object, however often it occurs.
fn words<'py>(py: Python<'py>, rule: Rule, codes: &[i32]) -> PyResult<Bound<'py, PyAny>> {
    let mut known = std::collections::HashMap::<i32, Bound<'py, PyString>>::new();
    let texts = codes
        .iter()
        .map(|&code| known.entry(code).or_insert_with(|| PyString::new(py, &rule.text(code))).clone());
    let keywords = PyDict::new(py);
    keywords.set_item("dtype", py.get_type::<PyAny>())?;
    py.import("numpy")?.call_method("array", (PyList::new(py, texts.collect::<Vec<_>>())?,), Some(&keywords))
}

#[pymethods]
impl TrfRecord {
    /// What the header says, as plain values.
    #[getter]
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        boundary(|| {
            let header = self.record.header();
            let dict = header_dict(py, header)?;
            dict.set_item("items", header.items.iter().map(|i| (i.item, i.part)).collect::<Vec<_>>())?;
            Ok(dict)
        })
    }

    /// Everything that `scp-node trf info` prints: plain str, numbers and None.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| {
            let text = waiting(py, || {
                serde_json::to_string(&self.record.summary()).map_err(|error| Failure::new("internal", error))
            })?;
            py.import("json")?.call_method1("loads", (text,))
        })
    }

    /// Where the record was read from; None if from memory.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    /// Names of the columns, in the file's order.
    #[getter]
    fn columns(&self) -> Vec<&str> {
        self.record.columns().map(|column| column.name()).collect()
    }

    /// True units by column; "" where there is none or it is unknown.
    #[getter]
    fn units<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        boundary(|| {
            let dict = PyDict::new(py);
            self.record.columns().try_for_each(|column| dict.set_item(column.name(), column.unit()))?;
            Ok(dict)
        })
    }

    /// What is not as it should be, such as a cut last row.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.record.warnings().iter().map(ToString::to_string).collect()
    }

    /// Bytes after the last complete row; 0 in a record that was not cut.
    #[getter]
    fn left_over_bytes(&self) -> usize {
        self.record.left_over_bytes()
    }

    /// Start of the record on the host's clock: the header's time less rows · 0.04 s.
    #[getter]
    fn start_utc(&self) -> DateTime<Utc> {
        self.record.start_utc()
    }

    /// End of the record on the host's clock: what the header says, to the second.
    #[getter]
    fn end_utc(&self) -> DateTime<Utc> {
        self.record.end_utc()
    }

    /// Start in the site's offset from UTC; None if the header has none that can be read.
    #[getter]
    fn start_local(&self) -> Option<DateTime<FixedOffset>> {
        self.record.header().utc_offset.map(|offset| self.record.start_utc().with_timezone(&offset))
    }

    /// End in the site's offset from UTC; None if the header has none that can be read.
    #[getter]
    fn end_local(&self) -> Option<DateTime<FixedOffset>> {
        self.record.header().end_local()
    }

    /// Time of the first row on the controller's clock; None in version 1.
    #[getter]
    fn controller_start_utc(&self) -> Option<DateTime<Utc>> {
        self.record.controller_start_utc()
    }

    /// Time of the last row on the controller's clock; None in version 1.
    #[getter]
    fn controller_end_utc(&self) -> Option<DateTime<Utc>> {
        self.record.controller_end_utc()
    }

    /// What the controller's clock shows more than the host's, in s; None in version 1.
    #[getter]
    fn controller_minus_host_s(&self) -> Option<f64> {
        self.record.controller_minus_host_s()
    }

    /// Time of each row since the first, s.
    #[getter]
    fn time_s<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| {
            convert::need_numpy(py)?;
            Ok(PyArray1::from_vec(py, py.detach(|| self.record.time_s())))
        })
    }

    /// Unix milliseconds of each row on the controller's clock; None in version 1.
    #[getter]
    fn timestamps_ms<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        boundary(|| {
            convert::need_numpy(py)?;
            let stamps: Option<Vec<i64>> = py.detach(|| self.record.timestamps_ms().map(Iterator::collect));
            Ok(stamps.map(|stamps| PyArray1::from_vec(py, stamps)))
        })
    }

    /// Cumulative meterset since the first row in MU, from the 1/64 MU counter, across wraps and restarts.
    #[getter]
    fn meterset_mu<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| {
            convert::need_numpy(py)?;
            let meterset = waiting(py, || self.record.meterset())?;
            Ok(PyArray1::from_vec(py, meterset.meterset_mu))
        })
    }

    /// The delivery that the record logs, one control point per row.
    #[pyo3(signature = (*, dose="raw"))]
    fn delivery(&self, py: Python<'_>, dose: &str) -> PyResult<Delivery> {
        boundary(|| {
            let dose = meterset_source(dose)?;
            waiting(py, || trf_core::Delivery::from_record(&self.record, dose)).map(Delivery::from)
        })
    }

    /// The integers of a column as stored, by name or `(item, part)`.
    fn raw<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<i32>>> {
        boundary(|| {
            convert::need_numpy(py)?;
            let column = self.column(key)?;
            Ok(PyArray1::from_vec(py, py.detach(|| column.raw())))
        })
    }

    /// All columns as doubles, `(rows, columns)`; codes stay numbers. Each column is contiguous.
    fn to_numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| self.table(py)?.getattr("T"))
    }

    /// A pandas DataFrame: PyMedPhys's columns and index (time in s), `timestamp_utc` first where there are timestamps.
    fn to_pandas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| {
            let pandas = py.import("pandas").map_err(|error| {
                Failure::new(
                    "misuse",
                    format!("to_pandas needs pandas, which cannot be imported: {}", error.value(py)),
                )
                .hint(Some("pip install pandas"))
            })?;
            let table = self.table(py)?;
            let columns = PyDict::new(py);
            if let Some(stamps) = self.timestamps_ms(py)? {
                let keywords = PyDict::new(py);
                keywords.set_item("unit", "ms")?;
                keywords.set_item("utc", true)?;
                // A damaged timestamp is absent (NaT), and the rest of the table is there.
                keywords.set_item("errors", "coerce")?;
                columns.set_item(
                    "timestamp_utc",
                    pandas.call_method("to_datetime", (stamps,), Some(&keywords))?,
                )?;
            }
            for column in self.record.columns() {
                let values = match column.rule() {
                    Rule::Tenths | Rule::NegatedTenths => table.get_item(column.index())?,
                    _ => self.values(py, column)?,
                };
                columns.set_item(column.name(), values)?;
            }
            let keywords = PyDict::new(py);
            let index = PyArray1::from_vec(py, self.record.nominal_time_s());
            keywords.set_item("index", pandas.getattr("Index")?.call1((index,))?)?;
            keywords.set_item("copy", false)?;
            pandas.call_method("DataFrame", (columns,), Some(&keywords))
        })
    }

    /// A column by name or `(item, part)`: words of code columns, whole numbers of counters, else doubles.
    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| {
            convert::need_numpy(py)?;
            self.values(py, self.column(key)?)
        })
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> bool {
        self.column(key).is_ok()
    }

    /// Number of complete rows.
    fn __len__(&self) -> usize {
        self.record.n_rows()
    }

    fn __repr__(&self) -> String {
        let header = self.record.header();
        format!(
            "<TrfRecord machine {:?}, field {:?}, {} rows, ended {}>",
            header.machine_id,
            header.field,
            self.record.n_rows(),
            header.end_utc.format("%Y-%m-%d %H:%M:%SZ"),
        )
    }
}

impl TrfRecord {
    /// All columns, `(columns, rows)`.
    ///
    /// numpy makes the array, because it asks the system for huge pages: an hour's record has 60 000 small ones to be faulted in.
    fn table<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        convert::need_numpy(py)?;
        let shape = (self.record.n_columns(), self.record.n_rows());
        let array = py.import("numpy")?.call_method1("empty", (shape,))?.cast_into::<PyArray2<f64>>()?;
        let mut values = array.readwrite();
        let values = values.as_slice_mut().map_err(|error| Failure::new("internal", error))?;
        waiting(py, || self.record.table_into(values))?;
        Ok(array)
    }
}

/// Reads a record from a path, from bytes, from anything with `.read()`, or from the index.
#[pyfunction]
#[pyo3(signature = (source=None, *, machine=None, field=None, near=None, patient=None, within_h=12.0, config=None))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
fn trf(
    py: Python<'_>,
    source: Option<&Bound<'_, PyAny>>,
    machine: Option<String>,
    field: Option<String>,
    near: Option<&Bound<'_, PyAny>>,
    patient: Option<String>,
    within_h: f64,
    config: Option<PathBuf>,
) -> PyResult<TrfRecord> {
    boundary(|| {
        let asked = machine.is_some() || field.is_some() || patient.is_some();
        match source {
            Some(_) if asked || near.is_some() => {
                Err(Failure::new("misuse", "a record is given, or looked for in the index, not both").into())
            }
            Some(source) => read(source),
            None if !asked => Err(Failure::new("misuse", "which record?")
                .hint(Some(
                    "give a path, bytes or a file; or machine=, field= or patient= to look in the index",
                ))
                .into()),
            None => {
                let near = near.map(convert::moment).transpose()?;
                let wanted = Wanted { machine, field, patient, near, within_h, config };
                let path = waiting(py, || newest(wanted))?;
                opened(py, path)
            }
        }
    })
}

fn read(source: &Bound<'_, PyAny>) -> PyResult<TrfRecord> {
    if let Ok(path) = source.extract::<PathBuf>() {
        return opened(source.py(), path);
    }
    let bytes = bytes_of(source)?;
    let record = waiting(source.py(), || Record::from_bytes(bytes))?;
    Ok(TrfRecord { record: Arc::new(record), path: None })
}

fn opened(py: Python<'_>, path: PathBuf) -> PyResult<TrfRecord> {
    let record = py.detach(|| Record::open(&path)).map_err(|e| Failure::from(e).path(&path))?;
    Ok(TrfRecord { record: Arc::new(record), path: Some(path) })
}

/// The record that a `TrfRecord` holds, or that a path, bytes or a file have.
pub(crate) fn record_of(source: &Bound<'_, PyAny>) -> PyResult<Arc<Record>> {
    match source.cast::<TrfRecord>() {
        Ok(known) => Ok(Arc::clone(known.get().record())),
        Err(_) => Ok(read(source)?.record),
    }
}

/// The header of the file at `path`, without reading its rows.
#[pyfunction]
fn trf_header(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    boundary(|| {
        let header = py.detach(|| Header::read(&path)).map_err(|e| Failure::from(e).path(&path))?;
        header_dict(py, &header)
    })
}

/// The bytes of a bytes-like or file-like object; a file-like one is read from its start and left where it was.
pub(crate) fn bytes_of(source: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = source.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    if !source.hasattr("read")? {
        // bytearray, memoryview, anything with the buffer protocol; bytes(5) would be five zeros.
        let copied = source.py().import("builtins")?.getattr("memoryview")?.call1((source,));
        return copied.and_then(|view| view.call_method0("tobytes")?.extract()).map_err(|_| {
            let kind = source.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            Failure::new("misuse", format!("{kind} is neither a path, nor bytes, nor a file"))
                .hint(Some("give a path, bytes, or an open file; in an upload test, BIN_FILE"))
                .into()
        });
    }
    let position = source.call_method0("tell").ok();
    if position.is_some() {
        source.call_method1("seek", (0,))?;
    }
    let bytes = source.call_method0("read")?;
    if let Some(position) = position {
        source.call_method1("seek", (position,))?;
    }
    match bytes.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => Err(Failure::new("misuse", "the file gives text, not bytes")
            .hint(Some("open it with mode \"rb\""))
            .into()),
    }
}

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TrfRecord>()?;
    module.add_function(wrap_pyfunction!(trf, module)?)?;
    module.add_function(wrap_pyfunction!(trf_header, module)?)
}
