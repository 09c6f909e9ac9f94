//! `Delivery` and `check_delivery`: what was planned and delivered, as numpy arrays and plain values.
//!
//! Input: records and RT Plans as paths, bytes or anything with `.read()` (such as BIN_FILE), plans as pydicom data sets too.
//! Output: arrays in PyMedPhys's shapes and frames, a dict of str, finite numbers and None. All work is done while other Python
//! threads run.

use std::path::PathBuf;

use numpy::ndarray::ArrayView1;
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use trf_core::check::{CheckOptions, check_delivery as check};
use trf_core::gamma::Criteria;
use trf_core::metersetmap::Options;
use trf_core::rtplan::{Identity, Scope, WriteOptions};
use trf_core::{Error, MetersetMap, MetersetSource, RtPlan};

use crate::convert;
use crate::error::{Failure, boundary, waiting};
use crate::trf::{bytes_of, record_of};

/// Positions and cumulative meterset of all control points. Its arrays are read-only views: `.copy()` gives one to change.
#[pyclass(frozen, module = "qatrack_ext")]
pub struct Delivery {
    inner: trf_core::Delivery,
}

impl From<trf_core::Delivery> for Delivery {
    fn from(inner: trf_core::Delivery) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Delivery {
    /// The delivery that a record logs.
    #[staticmethod]
    #[pyo3(signature = (source, *, dose="raw"))]
    fn from_trf(py: Python<'_>, source: &Bound<'_, PyAny>, dose: &str) -> PyResult<Self> {
        boundary(|| {
            let dose = meterset_source(dose)?;
            let record = record_of(source)?;
            waiting(py, || trf_core::Delivery::from_record(&record, dose)).map(Self::from)
        })
    }

    /// The delivery that an RT Plan plans; a dict by number for `fraction_group="all"`.
    #[staticmethod]
    #[pyo3(signature = (plan, fraction_group=None, *, compatible=false))]
    fn from_dicom<'py>(
        py: Python<'py>,
        plan: &Bound<'py, PyAny>,
        fraction_group: Option<&Bound<'py, PyAny>>,
        compatible: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| {
            let plan = plan_of(plan)?;
            let scope = if compatible { Scope::Compatible } else { Scope::Full };
            let all = fraction_group
                .and_then(|group| group.extract::<String>().ok())
                .is_some_and(|word| word.eq_ignore_ascii_case("all"));
            if !all {
                let group = fraction_group.map(|group| group.extract::<i32>()).transpose()?;
                return Self::from(waiting(py, || plan.delivery(group, scope))?).into_bound_py_any(py);
            }
            let deliveries = waiting(py, || {
                let groups = plan.fraction_groups()?;
                groups
                    .iter()
                    .map(|group| Ok((group.number, plan.delivery(Some(group.number), scope)?)))
                    .collect::<Result<Vec<_>, Error>>()
            })?;
            let dict = PyDict::new(py);
            for (number, delivery) in deliveries {
                dict.set_item(number, Self::from(delivery))?;
            }
            Ok(dict.into_any())
        })
    }

    /// One delivery after the other; the meterset runs on.
    #[staticmethod]
    #[pyo3(signature = (*deliveries))]
    fn merge(py: Python<'_>, deliveries: Vec<PyRef<'_, Self>>) -> PyResult<Self> {
        boundary(|| {
            let parts: Vec<&trf_core::Delivery> = deliveries.iter().map(|delivery| &delivery.inner).collect();
            waiting(py, || trf_core::Delivery::merge(parts)).map(Self::from)
        })
    }

    /// Cumulative meterset, (n,), MU.
    #[getter]
    fn meterset_mu<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        view(slf, trf_core::Delivery::meterset_mu)
    }

    /// Gantry, (n,), bipolar degrees.
    #[getter]
    fn gantry_bipolar_deg<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        view(slf, trf_core::Delivery::gantry_bipolar_deg)
    }

    /// Collimator, (n,), bipolar degrees.
    #[getter]
    fn collimator_bipolar_deg<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        view(slf, trf_core::Delivery::collimator_bipolar_deg)
    }

    /// Leaf tips, (n, pairs, 2), mm.
    #[getter]
    fn mlc_mm<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray3<f64>>> {
        let delivery = &slf.get().inner;
        boundary(|| view(slf, trf_core::Delivery::mlc_mm)?.reshape([delivery.n_cp(), delivery.n_pairs(), 2]))
    }

    /// Jaws, (n, 2), mm.
    #[getter]
    fn jaw_mm<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        boundary(|| view(slf, trf_core::Delivery::jaw_mm)?.reshape([slf.get().inner.n_cp(), 2]))
    }

    /// Control points at which a beam begins.
    #[getter]
    fn beam_starts(&self) -> Vec<usize> {
        self.inner.beam_starts().to_vec()
    }

    /// Meterset from first to last control point, MU.
    #[getter]
    fn total_mu(&self) -> f64 {
        self.inner.total_mu()
    }

    /// Only the control points at which the meterset changes.
    fn filter(&self, py: Python<'_>) -> Self {
        py.detach(|| self.inner.filter()).into()
    }

    /// The beams that delivered something, each with its meterset from 0.
    fn beams(&self, py: Python<'_>) -> Vec<Self> {
        py.detach(|| self.inner.beams()).into_iter().map(Self::from).collect()
    }

    /// One delivery per gantry angle.
    #[pyo3(signature = (angles_deg, tolerance_deg=3.0, *, allow_missing=false))]
    fn split_by_gantry(
        &self,
        py: Python<'_>,
        angles_deg: Vec<f64>,
        tolerance_deg: f64,
        allow_missing: bool,
    ) -> PyResult<Vec<Self>> {
        boundary(|| {
            let parts =
                waiting(py, || self.inner.split_by_gantry(&angles_deg, tolerance_deg, allow_missing))?;
            Ok(parts.into_iter().map(Self::from).collect())
        })
    }

    /// Meterset per pixel, (jaw, leaf), MU; a list of maps if gantry angles are given.
    #[pyo3(signature = (gantry_angles=None, gantry_tolerance=3.0, grid_resolution=1.0, max_leaf_gap=400.0, leaf_pair_widths=None, min_step_per_pixel=10))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the arguments are those of pymedphys.Delivery.metersetmap"
    )]
    fn metersetmap<'py>(
        &self,
        py: Python<'py>,
        gantry_angles: Option<Vec<f64>>,
        gantry_tolerance: f64,
        grid_resolution: f64,
        max_leaf_gap: f64,
        leaf_pair_widths: Option<Vec<f64>>,
        min_step_per_pixel: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        boundary(|| {
            convert::need_numpy(py)?;
            let options = options(grid_resolution, max_leaf_gap, leaf_pair_widths, min_step_per_pixel);
            let Some(angles) = gantry_angles else {
                let map = waiting(py, || MetersetMap::new(&self.inner, &options))?;
                return Ok(pixels(py, map)?.into_any());
            };
            let maps =
                waiting(py, || MetersetMap::by_gantry(&self.inner, &angles, gantry_tolerance, &options))?;
            let maps = maps.into_iter().map(|map| pixels(py, map)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, maps)?.into_any())
        })
    }

    /// Axes of the maps: {"mlc": …, "jaw": …}, mm.
    #[staticmethod]
    #[pyo3(signature = (grid_resolution=1.0, max_leaf_gap=400.0, leaf_pair_widths=None))]
    fn metersetmap_grid(
        py: Python<'_>,
        grid_resolution: f64,
        max_leaf_gap: f64,
        leaf_pair_widths: Option<Vec<f64>>,
    ) -> PyResult<Bound<'_, PyDict>> {
        boundary(|| {
            convert::need_numpy(py)?;
            let options = options(grid_resolution, max_leaf_gap, leaf_pair_widths, 10);
            let map = waiting(py, || MetersetMap::new(&trf_core::Delivery::default(), &options))?;
            let (_, jaw_axis_mm, leaf_axis_mm) = map.into_parts();
            let dict = PyDict::new(py);
            dict.set_item("mlc", PyArray1::from_vec(py, leaf_axis_mm))?;
            dict.set_item("jaw", PyArray1::from_vec(py, jaw_axis_mm))?;
            Ok(dict)
        })
    }

    /// The delivery as an RT Plan (the bytes of a DICOM file) on the template of a plan.
    #[pyo3(signature = (template, fraction_group=None, *, keep_uid=false, label_suffix="_LOG"))]
    fn to_dicom<'py>(
        &self,
        py: Python<'py>,
        template: &Bound<'py, PyAny>,
        fraction_group: Option<i32>,
        keep_uid: bool,
        label_suffix: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        boundary(|| {
            let template = plan_of(template)?;
            let identity = if keep_uid {
                Identity::Keep
            } else {
                Identity::New { label_suffix: label_suffix.to_owned() }
            };
            let options = WriteOptions { identity, ..WriteOptions::default() };
            let bytes =
                waiting(py, || template.with_delivery(&self.inner, fraction_group, &options)?.to_bytes())?;
            Ok(PyBytes::new(py, &bytes))
        })
    }

    /// Columns by PyMedPhys's names, for `pymedphys.Delivery(**d.to_pymedphys())`.
    fn to_pymedphys<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        boundary(|| {
            let dict = PyDict::new(slf.py());
            dict.set_item("monitor_units", Self::meterset_mu(slf)?)?;
            dict.set_item("gantry", Self::gantry_bipolar_deg(slf)?)?;
            dict.set_item("collimator", Self::collimator_bipolar_deg(slf)?)?;
            dict.set_item("mlc", Self::mlc_mm(slf)?)?;
            dict.set_item("jaw", Self::jaw_mm(slf)?)?;
            Ok(dict)
        })
    }

    /// Number of control points.
    fn __len__(&self) -> usize {
        self.inner.n_cp()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Delivery {} control points, {} leaf pairs, {:.2} MU>",
            self.inner.n_cp(),
            self.inner.n_pairs(),
            self.inner.total_mu()
        )
    }
}

/// Plan against record: a dict of plain values; `png` names a file for the page.
#[pyfunction]
#[pyo3(signature = (record, plan, *, fraction_group=None, dose="raw", grid_resolution=1.0, gamma_dose_percent=3.0, gamma_distance_mm=2.0, gamma_cutoff_percent=10.0, gamma_local=false, png=None))]
#[expect(clippy::too_many_arguments, reason = "each is a named argument in Python")]
fn check_delivery<'py>(
    py: Python<'py>,
    record: &Bound<'py, PyAny>,
    plan: &Bound<'py, PyAny>,
    fraction_group: Option<i32>,
    dose: &str,
    grid_resolution: f64,
    gamma_dose_percent: f64,
    gamma_distance_mm: f64,
    gamma_cutoff_percent: f64,
    gamma_local: bool,
    png: Option<PathBuf>,
) -> PyResult<Bound<'py, PyAny>> {
    boundary(|| {
        let options = CheckOptions {
            fraction_group,
            meterset: meterset_source(dose)?,
            resolution_mm: grid_resolution,
            gamma: Criteria {
                dose_percent: gamma_dose_percent,
                distance_mm: gamma_distance_mm,
                lower_dose_cutoff_percent: gamma_cutoff_percent,
                local: gamma_local,
                ..Criteria::default()
            },
        };
        let (record, plan) = (record_of(record)?, plan_of(plan)?);
        let text = waiting(py, || -> Result<String, Failure> {
            let check = check(&record, &plan, &options)?;
            if let Some(png) = &png {
                std::fs::write(png, check.to_png()?).map_err(|source| Error::io(png, source))?;
            }
            serde_json::to_string(&check).map_err(|error| Failure::new("internal", error))
        })?;
        py.import("json")?.call_method1("loads", (text,))
    })
}

/// A plan from a path, bytes, a file, or a pydicom data set.
fn plan_of(source: &Bound<'_, PyAny>) -> PyResult<RtPlan> {
    let py = source.py();
    if let Ok(path) = source.extract::<PathBuf>() {
        return py.detach(|| RtPlan::open(&path)).map_err(|error| Failure::from(error).path(&path).into());
    }
    let bytes = if source.hasattr("save_as")? {
        let buffer = py.import("io")?.getattr("BytesIO")?.call0()?;
        source.call_method1("save_as", (&buffer,))?;
        buffer.call_method0("getvalue")?.extract()?
    } else {
        bytes_of(source)?
    };
    waiting(py, || RtPlan::from_bytes(&bytes))
}

pub(crate) fn meterset_source(dose: &str) -> Result<MetersetSource, Failure> {
    match dose {
        "raw" => Ok(MetersetSource::RawCounter),
        "step" => Ok(MetersetSource::StepDose),
        other => Err(Failure::new("misuse", format!("dose={other:?} is neither \"raw\" nor \"step\""))
            .hint(Some("\"raw\" is the counter of 1/64 MU, \"step\" Step Dose as PyMedPhys takes it"))),
    }
}

fn options(
    resolution_mm: f64,
    max_leaf_gap_mm: f64,
    widths_mm: Option<Vec<f64>>,
    steps_per_pixel: u32,
) -> Options {
    let default = Options::default();
    Options {
        resolution_mm,
        max_leaf_gap_mm,
        leaf_widths_mm: widths_mm.unwrap_or(default.leaf_widths_mm),
        steps_per_pixel,
        close_overlaps: false,
    }
}

/// An array of the delivery's own numbers, not a copy: read-only, and it keeps the delivery alive.
#[expect(unsafe_code, reason = "numpy has no safe way to show memory that Rust owns")]
fn view<'py>(
    owner: &Bound<'py, Delivery>,
    values: impl FnOnce(&trf_core::Delivery) -> &[f64],
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    boundary(|| {
        convert::need_numpy(owner.py())?;
        let values = ArrayView1::from(values(&owner.get().inner));
        // SAFETY: the class is frozen, so the numbers neither move nor change while `owner` lives; the array holds `owner`,
        // and nobody can write through it.
        let array = unsafe { PyArray1::borrow_from_array(&values, owner.clone().into_any()) };
        array.readwrite().make_nonwriteable();
        Ok(array)
    })
}

fn pixels(py: Python<'_>, map: MetersetMap) -> PyResult<Bound<'_, PyArray2<f64>>> {
    let shape = map.shape();
    PyArray1::from_vec(py, map.into_parts().0).reshape(shape)
}

/// Adds this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Delivery>()?;
    module.add_function(wrap_pyfunction!(check_delivery, module)?)
}
