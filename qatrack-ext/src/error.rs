//! What crosses into Python when something goes wrong, and the one boundary every exported function runs through.
//!
//! Input: errors of our crates, and panics. Output: the classes of `qatrack_ext._errors`, made in Python because
//! `create_exception!` takes one base and ours have two (`Error` and the built-in that users already catch).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use pyo3::prelude::*;

/// An error on its way to Python. Needs no interpreter, so it is made while the GIL is free.
#[derive(Debug)]
pub struct Failure {
    kind: &'static str,
    message: String,
    hint: Option<String>,
    offset: Option<u64>,
    path: Option<PathBuf>,
    missing: Box<[String]>,
}

impl Failure {
    /// A failure with a one-line message that stands alone.
    ///
    /// `kind` is one of the words in `qatrack_ext._errors`, which maps each to a class.
    pub fn new(kind: &'static str, message: impl ToString) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
            offset: None,
            path: None,
            missing: Box::default(),
        }
    }

    /// Adds the remedy.
    pub fn hint(mut self, hint: Option<impl ToString>) -> Self {
        self.hint = hint.map(|hint| hint.to_string());
        self
    }

    /// Adds the byte at which the input is wrong.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Adds the SOP Instance UIDs that did not arrive.
    pub fn missing(mut self, uids: &[String]) -> Self {
        self.missing = uids.into();
        self
    }

    /// Adds the file concerned.
    pub fn path(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }
}

impl From<scp_node::Error> for Failure {
    fn from(error: scp_node::Error) -> Self {
        let hint = error.hint();
        let failure = Self::new(error.kind(), &error)
            .hint(Some(hint).filter(|hint| !hint.is_empty()))
            .missing(error.missing());
        match &error {
            scp_node::Error::Malformed { offset: Some(offset), .. } => failure.offset(*offset),
            scp_node::Error::Io { path, .. } | scp_node::Error::Catalog { path, .. } => failure.path(path),
            _ => failure,
        }
    }
}

impl From<trf_core::Error> for Failure {
    fn from(error: trf_core::Error) -> Self {
        use trf_core::Error;
        let failure = Self::new(error.kind(), error.text()).hint(Some(error.hint()));
        match &error {
            Error::Malformed { offset, .. } => failure.offset(*offset),
            Error::Io { path, .. } | Error::Index { path, .. } => failure.path(path),
            _ => failure,
        }
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| {
            let made = py.import("qatrack_ext._errors").and_then(|errors| {
                errors.getattr("make")?.call1((
                    failure.kind,
                    &failure.message,
                    failure.hint.as_deref(),
                    failure.offset,
                    failure.path.as_ref().map(|path| path.display().to_string()),
                    failure.missing.into_vec(),
                ))
            });
            match made {
                Ok(error) => Self::from_value(error),
                Err(broken) => broken,
            }
        })
    }
}

/// Runs the body of an exported function: a panic in it becomes `qatrack_ext.InternalError`.
///
/// PyO3 would turn the panic into a `BaseException`, which QATrack+ does not catch: the whole page's results would be
/// lost, and on Windows one of its ten threads with them.
pub fn boundary<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let cause = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        let failure = Failure::new("internal", format!("internal error in qatrack_ext: {cause}"))
            .hint(Some("please report this with the server's log"));
        Err(failure.into())
    })
}

/// Runs `work` while other Python threads run: for everything that waits, reads files or computes.
pub fn waiting<T: Send, E: Into<Failure> + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| error.into().into())
}

/// Panics on purpose: the test of the boundary calls it.
#[pyfunction]
#[pyo3(signature = (while_waiting=false))]
fn _force_panic(py: Python<'_>, while_waiting: bool) -> PyResult<()> {
    boundary(|| {
        if while_waiting {
            return waiting(py, || -> Result<(), Failure> { panic!("forced while waiting") });
        }
        panic!("forced")
    })
}

/// Adds this file's functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_force_panic, module)?)
}
