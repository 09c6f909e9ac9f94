//! The node's settings and TOML texts, for the Python side: it has no TOML reader of its own before Python 3.11.
//!
//! Input: the settings file that `scp_node::settings` finds, or a text. Output: JSON texts, which Python reads fast and
//! without a dependency.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::error::{Failure, boundary, waiting};

/// The settings in force, as JSON.
#[pyfunction]
#[pyo3(signature = (config=None))]
fn settings_json(py: Python<'_>, config: Option<PathBuf>) -> PyResult<String> {
    boundary(|| {
        waiting(py, || {
            let settings = scp_node::settings::Settings::load(config.as_deref(), &[])?.settings;
            serde_json::to_string(&settings).map_err(|error| Failure::new("internal", error))
        })
    })
}

/// A TOML text as JSON; `name` is what an error calls it.
#[pyfunction]
fn toml_to_json(py: Python<'_>, text: &str, name: &str) -> PyResult<String> {
    boundary(|| {
        waiting(py, || {
            let table: toml::Table = toml::from_str(text)
                .map_err(|error| Failure::new("malformed", format!("{name} is no TOML: {error}")))?;
            serde_json::to_string(&table).map_err(|error| Failure::new("internal", error))
        })
    })
}

/// Adds this file's functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(settings_json, module)?)?;
    module.add_function(wrap_pyfunction!(toml_to_json, module)?)
}
