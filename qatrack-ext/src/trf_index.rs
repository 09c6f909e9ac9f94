//! Records by what people know of them: `trf(machine=…)` and `trf_find(...)` ask the index that `scp-node trf sync` keeps.
//!
//! Input: names and times as a composite test has them. Output: a path, or plain dicts. The index is read only, its file is the only
//! thing shared with the service.

use std::path::PathBuf;

use chrono::NaiveDateTime;
use pyo3::prelude::*;
use pyo3::types::PyList;
use trf_core::RtPlan;
use trf_core::index::{Entry, Index, Query, State};

use crate::convert;
use crate::error::{Failure, boundary, waiting};

/// Opens the index that the settings name.
fn open(config: Option<PathBuf>) -> Result<Index, Failure> {
    let settings = scp_node::settings::Settings::load(config.as_deref(), &[])?.settings;
    Index::open_read_only(&settings.trf.root).map_err(Failure::from)
}

/// What a composite test knows of a record.
pub(crate) struct Wanted {
    pub(crate) machine: Option<String>,
    pub(crate) field: Option<String>,
    pub(crate) patient: Option<String>,
    pub(crate) near: Option<NaiveDateTime>,
    pub(crate) within_h: f64,
    pub(crate) config: Option<PathBuf>,
}

/// The newest record, or the one nearest to a time.
pub(crate) fn newest(wanted: Wanted) -> Result<PathBuf, Failure> {
    if !(wanted.within_h.is_finite() && wanted.within_h > 0.0) {
        return Err(Failure::new("misuse", "within_h is no positive number of hours"));
    }
    let index = open(wanted.config)?;
    let query = Query {
        machine: wanted.machine,
        field: wanted.field,
        patient_id: wanted.patient,
        near: wanted.near,
        limit: 1,
        ..Query::default()
    };
    let not_found = |what: String| {
        let hint = "`scp-node trf find` shows what is in the index; what the linac made today comes with its next backup";
        Failure::new("not_found", what).hint(Some(hint))
    };
    let found = index.find(&query)?.into_iter().find(|entry| entry.facts.is_some());
    let Some(entry) = found else {
        return Err(not_found("no record in the index is meant by this".to_owned()));
    };
    if let Some(apart_s) = wanted.near.and_then(|near| entry.distance_s(near))
        && apart_s > wanted.within_h * 3600.0
    {
        let (apart_h, within_h) = (apart_s / 3600.0, wanted.within_h);
        return Err(not_found(format!("the nearest record is {apart_h:.1} h away, more than {within_h} h")));
    }
    Ok(place(&index, entry))
}

/// The file, also if it is moved in this moment.
fn place(index: &Index, entry: Entry) -> PathBuf {
    let file = entry.file(index.root());
    match index.by_sha256(&entry.sha256) {
        Ok(Some(now)) if !file.exists() => now.file(index.root()),
        _ => file,
    }
}

/// Records of the index as plain dicts, newest first.
#[pyfunction]
#[pyo3(signature = (*, patient=None, field=None, machine=None, day=None, plan=None, state=None, qa_mode=None, near=None, limit=100, config=None))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
fn trf_find<'py>(
    py: Python<'py>,
    patient: Option<String>,
    field: Option<String>,
    machine: Option<String>,
    day: Option<&Bound<'py, PyAny>>,
    plan: Option<PathBuf>,
    state: Option<String>,
    qa_mode: Option<bool>,
    near: Option<&Bound<'py, PyAny>>,
    limit: usize,
    config: Option<PathBuf>,
) -> PyResult<Bound<'py, PyList>> {
    boundary(|| {
        let state = state.map(|word| known_state(&word)).transpose()?;
        let mut query = Query {
            patient_id: patient,
            field,
            machine,
            day: day.map(convert::day).transpose()?,
            state,
            qa_mode,
            near: near.map(convert::moment).transpose()?,
            limit,
            ..Query::default()
        };
        if plan.is_some() && (query.patient_id.is_some() || query.field.is_some()) {
            return Err(Failure::new("misuse", "plan names patient and fields itself: leave them out").into());
        }
        let text = waiting(py, move || -> Result<String, Failure> {
            if let Some(path) = plan {
                RtPlan::open(&path)
                    .and_then(|plan| query.of_plan(&plan))
                    .map_err(|e| Failure::from(e).path(&path))?;
            }
            let index = open(config)?;
            let plain: Vec<_> = index.find(&query)?.iter().map(|entry| entry.plain(index.root())).collect();
            serde_json::to_string(&plain).map_err(|error| Failure::new("internal", error))
        })?;
        Ok(py.import("json")?.call_method1("loads", (text,))?.cast_into::<PyList>()?)
    })
}

fn known_state(word: &str) -> Result<State, Failure> {
    State::from_word(word).ok_or_else(|| {
        let words = State::ALL.map(State::word).join(", ");
        Failure::new("misuse", format!("{word:?} is no state of a record"))
            .hint(Some(format!("one of {words}")))
    })
}

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(trf_find, module)?)
}
