//! Python module `qatrack_ext._native`: the compiled part of `qatrack_ext`.
//!
//! Input: calls from QATrack+'s composite tests, any number of threads and processes at once. Output: Python values
//! and the errors of `qatrack_ext._errors`. Every exported function runs through [`error::boundary`] (no panic leaves
//! as a `BaseException`) and does whatever waits or computes inside [`error::waiting`] (the GIL is free meanwhile).
//! Each room has one file with a `register` function, called here.

pub mod convert;
pub mod delivery;
pub mod error;
pub mod fetch;
pub mod icom;
pub mod node;
pub mod pixels;
pub mod series;
pub mod settings;
pub mod trf;
pub mod trf_index;
pub mod view;

use pyo3::prelude::*;

/// Registers each room's functions and classes.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::register(module)?;
    settings::register(module)?;
    series::register(module)?;
    trf::register(module)?;
    trf_index::register(module)?;
    delivery::register(module)?;
    icom::register(module)?;
    node::register(module)?;
    fetch::register(module)?;
    // PyO3 lists every name, private ones too; `_native.pyi` says what there is, and nobody imports `*` from here.
    module.delattr("__all__")?;
    Ok(())
}
