//! Conversions between our values and Python's: one place for each, so that NaN, time zones and paths are treated alike.
//!
//! Rules: NaN never leaves in a scalar or a dict (QATrack+'s page loses every result when one does): it is None there.
//! Arrays keep NaN as "not stated", because an array of numbers has no None. Times are naive local time, as DICOM's are.

use chrono::{NaiveDate, NaiveDateTime};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

use crate::error::Failure;

/// A day from a date, a datetime (aware ones in local time), or a text as `2026-01-31` or `20260131`.
pub fn day(value: &Bound<'_, PyAny>) -> PyResult<NaiveDate> {
    if let Ok(text) = value.extract::<String>() {
        let text = text.trim();
        return NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .or_else(|_| NaiveDate::parse_from_str(text, "%Y%m%d"))
            .map_err(|_| not_a_day(&format!("{text:?}")).into());
    }
    if value.hasattr("hour")? {
        return Ok(moment(value)?.date());
    }
    value.extract().map_err(|_| not_a_day(&kind_of(value)).into())
}

/// A moment from a datetime; an aware one is converted to local time.
pub fn moment(value: &Bound<'_, PyAny>) -> PyResult<NaiveDateTime> {
    let wrong = || Failure::new("misuse", format!("{} is no datetime", kind_of(value)));
    let aware = value.getattr("tzinfo").map_err(|_| wrong())?;
    let naive = if aware.is_none() {
        value.clone()
    } else {
        let local = value.call_method0("astimezone")?;
        let keywords = pyo3::types::PyDict::new(value.py());
        keywords.set_item("tzinfo", value.py().None())?;
        local.call_method("replace", (), Some(&keywords))?
    };
    naive.extract().map_err(|_| wrong().into())
}

/// A column of numbers; NaN where there is none.
pub fn column<'py>(
    py: Python<'py>,
    values: impl Iterator<Item = Option<f64>>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    need_numpy(py)?;
    Ok(PyArray1::from_vec(py, values.map(|value| value.unwrap_or(f64::NAN)).collect()))
}

/// Pairs of numbers, shape (n, 2); NaN where there are none.
pub fn pairs<'py>(
    py: Python<'py>,
    values: impl Iterator<Item = Option<[f64; 2]>>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    need_numpy(py)?;
    let flat: Vec<f64> = values.flat_map(|pair| pair.unwrap_or([f64::NAN; 2])).collect();
    let rows = flat.len() / 2;
    PyArray1::from_vec(py, flat).reshape([rows, 2])
}

/// A finite number, or nothing.
pub fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

/// An error that says how to get numpy; without it the first array would end in a panic of the numpy crate.
pub fn need_numpy(py: Python<'_>) -> PyResult<()> {
    py.import("numpy").map(drop).map_err(|error| {
        Failure::new("misuse", format!("arrays need numpy, which cannot be imported: {}", error.value(py)))
            .hint(Some("pip install numpy; QATrack+'s environment has it"))
            .into()
    })
}

fn not_a_day(what: &str) -> Failure {
    Failure::new("misuse", format!("{what} is no date")).hint(Some("give a date, or a text as 2026-01-31"))
}

fn kind_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string())
}
