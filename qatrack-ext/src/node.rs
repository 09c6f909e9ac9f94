//! What the node has: its catalog's sessions as Python values.
//!
//! Input: the catalog, read only, so that any account that may read the images may call this at any time, whether the
//! service runs or not. Output: [`Series`] and plain dicts.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use scp_node::images::{Beam, Catalog, Instance, Session, SessionFilter};
use scp_node::settings::Settings;

use crate::convert;
use crate::error::{Failure, boundary, waiting};
use crate::series::{Image, Series};
use crate::view;

/// Which images of a session are meant: the rules of [`scp_node::fetch`].
#[derive(Debug, Clone)]
pub struct Wanted {
    /// One value that Image Type (0008,0008) must hold, or all of them joined by backslashes.
    pub image_type: Option<String>,
    /// The imager's beam (kV) instead of the treatment beam (MV).
    pub kv: bool,
}

impl Wanted {
    /// An image that does not say whether it is MV or kV counts as MV.
    pub fn takes(&self, image: &Instance) -> bool {
        let of_type = self.image_type.as_deref().is_none_or(|wanted| {
            image.image_type.as_deref().is_some_and(|values| scp_node::fetch::is_of_type(values, wanted))
        });
        of_type && self.kv == (image.beam == Some(Beam::Kv))
    }
}

/// A session's wanted images as a [`Series`].
///
/// # Errors
/// [`scp_node::Error::Io`] when a view cannot be made.
pub fn series_of(session: Session, images: &[Instance], cache: &Path) -> scp_node::Result<Series> {
    let members: Vec<Image> = images.iter().map(Image::from).collect();
    Ok(Series {
        path: view::of(&session.directory, &members, cache)?,
        acquired: images.iter().filter_map(|image| image.acquired).min().or(session.acquired),
        patient_id: session.patient_id,
        plan_label: session.plan_label,
        plan_uid: session.plan_uid,
        series_uid: session.series_uid,
        members,
        array: pyo3::sync::PyOnceLock::new(),
    })
}

impl From<&Instance> for Image {
    fn from(instance: &Instance) -> Self {
        Self {
            sop_instance_uid: instance.sop_instance_uid.clone(),
            file: instance.path.clone(),
            gantry_iec_deg: instance.gantry_iec_deg,
            collimator_iec_deg: instance.collimator_iec_deg,
            couch_iec_deg: instance.couch_iec_deg,
            sid_mm: instance.sid_mm,
            pixel_spacing_mm: instance.pixel_spacing_mm,
        }
    }
}

/// The sessions on disk, newest first: a list of dicts.
#[pyfunction]
#[pyo3(signature = (patient, plan=None, *, date=None, image_type="PORTAL", kv=false, plan_uid=None, limit=0))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
fn sessions<'py>(
    py: Python<'py>,
    patient: String,
    plan: Option<String>,
    date: Option<&Bound<'py, PyAny>>,
    image_type: Option<&str>,
    kv: bool,
    plan_uid: Option<String>,
    limit: usize,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    boundary(|| {
        let wanted = Wanted { image_type: image_type.map(ToOwned::to_owned), kv };
        let filter = SessionFilter {
            patient_id: Some(patient),
            plan_label: plan,
            plan_uid,
            date: date.map(convert::day).transpose()?,
            ..SessionFilter::default()
        };
        let found = waiting(py, || listed(&filter, &wanted, limit))?;
        found.into_iter().map(|(session, images)| as_dict(py, &session, &images)).collect()
    })
}

fn listed(
    filter: &SessionFilter,
    wanted: &Wanted,
    limit: usize,
) -> scp_node::Result<Vec<(Session, Vec<Instance>)>> {
    let settings = Settings::load(None, &[])?.settings;
    let catalog = match Catalog::open_readonly(&settings.images.root) {
        Err(scp_node::Error::NotFound { .. }) => return Ok(Vec::new()),
        catalog => catalog?,
    };
    let mut found = Vec::new();
    for session in catalog.sessions(filter)? {
        let images: Vec<_> =
            catalog.instances(&session)?.into_iter().filter(|image| wanted.takes(image)).collect();
        if !images.is_empty() {
            found.push((session, images));
        }
        if limit > 0 && found.len() == limit {
            break;
        }
    }
    Ok(found)
}

fn as_dict<'py>(py: Python<'py>, session: &Session, images: &[Instance]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("acquired", images.iter().filter_map(|image| image.acquired).min().or(session.acquired))?;
    dict.set_item("date", session.date)?;
    dict.set_item("patient_id", &session.patient_id)?;
    dict.set_item("plan_label", &session.plan_label)?;
    dict.set_item("plan_uid", &session.plan_uid)?;
    dict.set_item("series_uid", &session.series_uid)?;
    dict.set_item("path", &session.directory)?;
    dict.set_item("n_images", images.len())?;
    Ok(dict)
}

/// The session that lies in a directory, as the service's hook names it.
#[pyfunction]
#[pyo3(signature = (directory, image_type="PORTAL", kv=false))]
fn directory_series(
    py: Python<'_>,
    directory: PathBuf,
    image_type: Option<&str>,
    kv: bool,
) -> PyResult<Series> {
    boundary(|| {
        let wanted = Wanted { image_type: image_type.map(ToOwned::to_owned), kv };
        waiting(py, || in_directory(&directory, &wanted))
    })
}

fn in_directory(directory: &Path, wanted: &Wanted) -> Result<Series, Failure> {
    let settings = Settings::load(None, &[])?.settings;
    let catalog = Catalog::open_readonly(&settings.images.root)?;
    let same = |one: &Path, other: &Path| {
        one == other
            || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
    };
    let session = catalog
        .sessions(&SessionFilter::default())?
        .into_iter()
        .find(|session| same(&session.directory, directory))
        .ok_or_else(|| {
            Failure::new("not_found", format!("{} is no session of the catalog", directory.display())).hint(
                Some("give a session's directory below images.root; `scp-node reindex` rebuilds the catalog"),
            )
        })?;
    let images: Vec<_> =
        catalog.instances(&session)?.into_iter().filter(|image| wanted.takes(image)).collect();
    if images.is_empty() {
        let what = format!("{} has no image that fits", directory.display());
        return Err(Failure::new("not_found", what));
    }
    Ok(series_of(session, &images, &settings.analysis.cache)?)
}

/// Adds this file's functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sessions, module)?)?;
    module.add_function(wrap_pyfunction!(directory_series, module)?)
}
