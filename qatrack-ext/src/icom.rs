//! The linac's state now, and what it delivered: `qatrack_ext.icom`, `icom_deliveries`, `icom_record`.
//!
//! Input: names, days, files. Output: plain dicts (str, finite numbers, lists, None) and `IcomRecord`s. Everything is read from files
//! and SQLite that the listener wrote; no socket is touched. Trust: none in the files.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use icom_core::delivery::{Rules, from_icom};
use icom_core::index::{Index, IndexedRecord, Query};
use icom_core::inspect::inspect;
use icom_core::live::{self, Live};
use icom_core::session::Record;
use icom_core::settings::index_path;
use icom_core::{Error, archive};
use pyo3::prelude::*;

use crate::convert::day;
use crate::delivery::Delivery;
use crate::error::{Failure, boundary, waiting};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Malformed { .. } => "malformed",
            Error::PeerMisbehaved { .. } => "peer_misbehaved",
            Error::Unsupported { .. } => "unsupported",
            Error::Limit { .. } => "limit",
            Error::Io { .. } | Error::Index { .. } => "io",
            Error::Stale { .. } => "not_found",
            _ => "misuse",
        };
        let failure = Self::new(kind, &error).hint(Some(error.hint()));
        match &error {
            Error::Malformed { offset, .. } => failure.offset(*offset),
            Error::Io { path, .. } | Error::Index { path, .. } => failure.path(path),
            _ => failure,
        }
    }
}

/// The listener's directory: `dir` if given, else that of the settings.
fn directory(dir: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match dir {
        Some(dir) => Ok(dir),
        None => Ok(scp_node::settings::Settings::load(config.as_deref(), &[])?.settings.listener().dir),
    }
}

/// The live state of a linac as JSON; `_icom.py` makes a `Snapshot` of it.
#[pyfunction]
#[pyo3(signature = (linac, max_age=5.0, dir=None, config=None))]
fn icom_json(
    py: Python<'_>,
    linac: String,
    max_age: f64,
    dir: Option<PathBuf>,
    config: Option<PathBuf>,
) -> PyResult<String> {
    boundary(|| waiting(py, || state_json(&linac, max_age, dir, config)))
}

fn state_json(
    linac: &str,
    max_age: f64,
    dir: Option<PathBuf>,
    config: Option<PathBuf>,
) -> Result<String, Failure> {
    let max_age = Duration::try_from_secs_f64(max_age)
        .map_err(|_| Failure::new("misuse", format!("max_age={max_age}: give seconds, such as 5.0")))?;
    let now = Utc::now();
    let live = live::read(&directory(dir, config)?, linac, max_age, now)?;
    state(&live, now).map(|state| state.to_string())
}

/// The snapshot's own values first, then what the listener adds.
fn state(live: &Live, now: DateTime<Utc>) -> Result<serde_json::Value, Failure> {
    let internal = |error: serde_json::Error| Failure::new("internal", error);
    let mut state = serde_json::to_value(&live.snapshot).map_err(internal)?;
    if let Some(map) = state.as_object_mut() {
        let age_ms = live.age(now).map_or(0, |age| age.num_milliseconds().max(0));
        map.insert("linac".into(), live.linac.clone().into());
        map.insert("received_utc".into(), serde_json::to_value(live.received).map_err(internal)?);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of an age below max_age")]
        map.insert("age_s".into(), (age_ms as f64 / 1000.0).into());
        map.insert("beam_on".into(), live.beam_on.into());
        map.insert("link".into(), serde_json::to_value(live.link).map_err(internal)?);
    }
    Ok(state)
}

/// Records of the listener's archive that match, oldest first.
#[pyfunction]
#[pyo3(signature = (linac=None, patient=None, day=None, *, without_mu=false, dir=None, config=None))]
fn icom_deliveries(
    py: Python<'_>,
    linac: Option<String>,
    patient: Option<String>,
    day: Option<&Bound<'_, PyAny>>,
    without_mu: bool,
    dir: Option<PathBuf>,
    config: Option<PathBuf>,
) -> PyResult<Vec<IcomRecord>> {
    boundary(|| {
        let day = day.map(self::day).transpose()?;
        let query = Query { linac, patient_id: patient, day, without_mu };
        waiting(py, || -> Result<_, Failure> {
            let dir = directory(dir, config)?;
            let found = Index::open_read_only(&index_path(&dir))?.find(&query, &dir)?;
            Ok(found.into_iter().map(IcomRecord::from).collect())
        })
    })
}

/// A recorded file, whoever wrote it: this listener or PyMedPhys.
#[pyfunction]
fn icom_record(py: Python<'_>, path: PathBuf) -> PyResult<IcomRecord> {
    boundary(|| {
        waiting(py, || -> Result<_, Failure> {
            let bytes = archive::read(&path)?;
            let mut records = inspect(&bytes).records.into_iter();
            match (records.next(), records.next()) {
                (Some(record), None) => Ok(IcomRecord { linac: None, path: path.clone(), record }),
                (None, _) => {
                    Err(Failure::new("malformed", "there is no iCom message of a patient in this file")
                        .hint(Some("is it a record of an iCom listener?"))
                        .path(&path))
                }
                (Some(_), Some(_)) => {
                    Err(Failure::new("unsupported", "this file holds messages of more than one patient")
                        .hint(Some("PyMedPhys's listener mixed them; `scp-node icom info` shows which"))
                        .path(&path))
                }
            }
        })
    })
}

/// One use of a linac by one patient.
#[pyclass(frozen, module = "qatrack_ext")]
struct IcomRecord {
    linac: Option<String>,
    path: PathBuf,
    record: Record,
}

impl From<IndexedRecord> for IcomRecord {
    fn from(found: IndexedRecord) -> Self {
        Self { linac: Some(found.linac), path: found.path, record: found.record }
    }
}

#[pymethods]
impl IcomRecord {
    /// The linac's name in the settings; None of a file that was opened by its path.
    #[getter]
    fn linac(&self) -> Option<&str> {
        self.linac.as_deref()
    }

    /// The file.
    #[getter]
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The linac's name on the wire.
    #[getter]
    fn machine_id(&self) -> Option<&str> {
        self.record.machine_id.as_deref()
    }

    /// Patient's ID.
    #[getter]
    fn patient_id(&self) -> &str {
        &self.record.patient_id
    }

    /// Patient's name as sent.
    #[getter]
    fn patient_name(&self) -> Option<&str> {
        self.record.patient_name.as_deref()
    }

    /// First message, on the linac's clock.
    #[getter]
    fn start(&self) -> NaiveDateTime {
        self.record.start
    }

    /// Last message, on the linac's clock.
    #[getter]
    fn end(&self) -> NaiveDateTime {
        self.record.end
    }

    /// Delivered MU.
    #[getter]
    fn mu(&self) -> f64 {
        self.record.mu
    }

    /// Places where messages are missing.
    #[getter]
    fn gaps(&self) -> u64 {
        self.record.gaps
    }

    /// Everything the index knows, as plain values.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = serde_json::to_string(&self.record).map_err(|error| Failure::new("internal", error))?;
        py.import("json")?.call_method1("loads", (json,))
    }

    /// Control points; `compatible=True` gives PyMedPhys's numbers.
    #[pyo3(signature = (*, compatible=false))]
    fn delivery(&self, py: Python<'_>, compatible: bool) -> PyResult<Delivery> {
        boundary(|| {
            let rules = if compatible { Rules::PyMedPhys } else { Rules::Complete };
            waiting(py, || -> Result<_, Failure> {
                let bytes = archive::read(&self.path)?;
                Ok(from_icom(&bytes, rules)?.into())
            })
        })
    }

    fn __repr__(&self) -> String {
        // No patient: representations end in logs.
        let machine = self.record.machine_id.as_deref().unwrap_or("unknown machine");
        format!("<IcomRecord {machine} {} {:.2} MU>", self.record.start, self.record.mu)
    }
}

/// Adds this file's functions and classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<IcomRecord>()?;
    module.add_function(wrap_pyfunction!(icom_json, module)?)?;
    module.add_function(wrap_pyfunction!(icom_deliveries, module)?)?;
    module.add_function(wrap_pyfunction!(icom_record, module)?)
}
