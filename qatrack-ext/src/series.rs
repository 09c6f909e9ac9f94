//! `Series`: the images of one session, as a composite test gets them.
//!
//! Input: rows of the catalog, and the files they name. Output: paths, numbers in IEC 61217 degrees and mm, and stored
//! pixels as numpy arrays, all in order of acquisition. Nothing of numpy is touched before an array is asked for.

use std::path::PathBuf;

use chrono::NaiveDateTime;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::convert;
use crate::error::{Failure, boundary, waiting};
use crate::pixels::{self, Frame, Samples};

/// One image's place and geometry.
#[derive(Debug, Clone)]
pub struct Image {
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// Where it lies.
    pub file: PathBuf,
    /// (300A,011E), IEC 61217.
    pub gantry_iec_deg: Option<f64>,
    /// (300A,0120), IEC 61217.
    pub collimator_iec_deg: Option<f64>,
    /// (300A,0122), IEC 61217.
    pub couch_iec_deg: Option<f64>,
    /// (3002,0026)
    pub sid_mm: Option<f64>,
    /// (3002,0011), at the SID: between rows, between columns.
    pub pixel_spacing_mm: Option<[f64; 2]>,
}

/// The images of one plan, one series and one day of acquisition, whole.
#[pyclass(frozen, module = "qatrack_ext")]
pub struct Series {
    /// A directory that holds these images and nothing else.
    #[pyo3(get)]
    pub path: PathBuf,
    /// When the first image was acquired, local time.
    #[pyo3(get)]
    pub acquired: Option<NaiveDateTime>,
    /// (0010,0020)
    #[pyo3(get)]
    pub patient_id: String,
    /// (300A,0002) of the plan.
    #[pyo3(get)]
    pub plan_label: Option<String>,
    /// SOP Instance UID of the plan.
    #[pyo3(get)]
    pub plan_uid: Option<String>,
    /// (0020,000E)
    #[pyo3(get)]
    pub series_uid: String,
    /// In order of acquisition.
    pub members: Vec<Image>,
    /// The array of all images, once it was asked for.
    pub array: PyOnceLock<Py<PyAny>>,
}

#[pymethods]
impl Series {
    #[getter]
    fn files(&self) -> Vec<PathBuf> {
        self.members.iter().map(|image| image.file.clone()).collect()
    }

    #[getter]
    fn instance_uids(&self) -> Vec<&str> {
        self.members.iter().map(|image| image.sop_instance_uid.as_str()).collect()
    }

    #[getter]
    fn gantry_iec_deg<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| convert::column(py, self.members.iter().map(|image| image.gantry_iec_deg)))
    }

    #[getter]
    fn collimator_iec_deg<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| convert::column(py, self.members.iter().map(|image| image.collimator_iec_deg)))
    }

    #[getter]
    fn couch_iec_deg<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| convert::column(py, self.members.iter().map(|image| image.couch_iec_deg)))
    }

    #[getter]
    fn sid_mm<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        boundary(|| convert::column(py, self.members.iter().map(|image| image.sid_mm)))
    }

    #[getter]
    fn pixel_spacing_mm<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        boundary(|| convert::pairs(py, self.members.iter().map(|image| image.pixel_spacing_mm)))
    }

    /// Stored pixels of all images, `(n, rows, columns)`; read at the first use and kept.
    #[getter]
    fn images(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        boundary(|| {
            let array = self.array.get_or_try_init(py, || {
                let files = self.files();
                let frames = waiting(py, || {
                    files.iter().map(|file| pixels::read(file)).collect::<Result<Vec<_>, _>>()
                })?;
                stack(py, frames)
            })?;
            Ok(array.clone_ref(py))
        })
    }

    /// Stored pixels of one image, `(rows, columns)`.
    fn image(&self, py: Python<'_>, index: isize) -> PyResult<Py<PyAny>> {
        boundary(|| {
            let n = self.members.len();
            let at = if index < 0 { n.checked_add_signed(index) } else { usize::try_from(index).ok() };
            let image = at.and_then(|at| self.members.get(at)).ok_or_else(|| {
                pyo3::exceptions::PyIndexError::new_err(format!("image {index} of {n}: there is none"))
            })?;
            let frame = waiting(py, || pixels::read(&image.file))?;
            let (rows, columns) = (frame.rows, frame.columns);
            let stacked = stack(py, vec![frame])?;
            Ok(stacked.bind(py).call_method1("reshape", ((rows, columns),))?.unbind())
        })
    }

    /// Everything but the pixels as str, numbers and None: what a composite test may return.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        boundary(|| {
            let dict = PyDict::new(py);
            dict.set_item("path", self.path.display().to_string())?;
            let files: Vec<_> = self.members.iter().map(|image| image.file.display().to_string()).collect();
            dict.set_item("files", files)?;
            dict.set_item("acquired", self.acquired.map(|t| t.format("%Y-%m-%d %H:%M:%S").to_string()))?;
            dict.set_item("patient_id", &self.patient_id)?;
            dict.set_item("plan_label", &self.plan_label)?;
            dict.set_item("plan_uid", &self.plan_uid)?;
            dict.set_item("series_uid", &self.series_uid)?;
            dict.set_item("instance_uids", self.instance_uids())?;
            let column = |of: fn(&Image) -> Option<f64>| -> Vec<Option<f64>> {
                self.members.iter().map(|image| convert::finite(of(image))).collect()
            };
            dict.set_item("gantry_iec_deg", column(|image| image.gantry_iec_deg))?;
            dict.set_item("collimator_iec_deg", column(|image| image.collimator_iec_deg))?;
            dict.set_item("couch_iec_deg", column(|image| image.couch_iec_deg))?;
            dict.set_item("sid_mm", column(|image| image.sid_mm))?;
            let spacing: Vec<_> = self.members.iter().map(|image| image.pixel_spacing_mm).collect();
            dict.set_item("pixel_spacing_mm", spacing)?;
            Ok(dict)
        })
    }

    fn __len__(&self) -> usize {
        self.members.len()
    }

    fn __repr__(&self) -> String {
        let acquired = self
            .acquired
            .map_or_else(|| "time not stated".to_owned(), |t| t.format("%Y-%m-%d %H:%M:%S").to_string());
        let plan = self.plan_label.as_deref().unwrap_or("?");
        format!("<Series of {} images, plan {plan}, {acquired}>", self.members.len())
    }
}

/// Frames of one size and type as one array `(n, rows, columns)`.
fn stack(py: Python<'_>, frames: Vec<Frame>) -> PyResult<Py<PyAny>> {
    convert::need_numpy(py)?;
    let Some(first) = frames.first() else {
        return Err(Failure::new("not_found", "this series has no images").into());
    };
    let shape = [frames.len(), first.rows, first.columns];
    if frames.iter().any(|frame| [frame.rows, frame.columns] != [first.rows, first.columns]) {
        return Err(differ("sizes"));
    }
    macro_rules! joined {
        ($variant:ident) => {{
            let mut all = Vec::with_capacity(shape.iter().product());
            for frame in frames {
                match frame.samples {
                    Samples::$variant(samples) => all.extend(samples),
                    _ => return Err(differ("pixel types")),
                }
            }
            shaped(py, all, shape)
        }};
    }
    match first.samples {
        Samples::U8(_) => joined!(U8),
        Samples::U16(_) => joined!(U16),
        Samples::I16(_) => joined!(I16),
        Samples::U32(_) => joined!(U32),
        Samples::I32(_) => joined!(I32),
    }
}

fn shaped<T: Element>(py: Python<'_>, samples: Vec<T>, shape: [usize; 3]) -> PyResult<Py<PyAny>> {
    Ok(PyArray1::from_vec(py, samples).reshape(shape)?.into_any().unbind())
}

fn differ(what: &str) -> PyErr {
    Failure::new("misuse", format!("the images of this series have different {what}"))
        .hint(Some("take them one by one with image(i)"))
        .into()
}

/// Adds this file's class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Series>()
}
