//! `series()` and `plans()`: from a patient and a plan to images that are whole on disk.
//!
//! Input: what a composite test names; the node's settings. Output: a [`Series`], or an error that stands alone in one
//! line. All the work is `scp_node::fetch`'s, which shares one move among threads and processes, uses the service when
//! it runs and hosts the receiver when it does not; here it gets a runtime of its own, while the GIL is free.

use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use scp_node::fetch::FetchRequest;
use scp_node::images::{Catalog, Instance, Session, SessionFilter};
use scp_node::names::{AeTitle, Uid};
use scp_node::scu::ListedPlan;
use scp_node::settings::{ArchiveSettings, Settings};
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::error::{Failure, boundary, waiting};
use crate::node::{Wanted, series_of};
use crate::series::Series;

/// Longest time that a call may be told to wait; a page is gone long before.
const TIMEOUT_MAX_S: f64 = 3600.0;

/// AE title, address and port, as pynetdicom_wrapper's AEConfig has them.
type Entity = (String, String, u16);

/// The images of a plan's newest session, fetched from the archive when they are not here.
#[pyfunction]
#[pyo3(signature = (patient, plan, *, date=None, before=None, image_type="PORTAL", kv=false, plan_uid=None, fetch=true,
    timeout=20.0, archive=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
fn series(
    py: Python<'_>,
    patient: String,
    plan: Option<String>,
    date: Option<&Bound<'_, PyAny>>,
    before: Option<&Bound<'_, PyAny>>,
    image_type: Option<&str>,
    kv: bool,
    plan_uid: Option<&str>,
    fetch: bool,
    timeout: f64,
    archive: Option<String>,
) -> PyResult<Series> {
    boundary(|| {
        let asked = Asked {
            patient,
            plan,
            plan_uid: plan_uid.map(uid).transpose()?,
            date: date.map(convert::day).transpose()?,
            before: before.map(convert::moment).transpose()?,
            wanted: Wanted { image_type: image_type.map(ToOwned::to_owned), kv },
            timeout: limit(timeout)?,
            archive,
        };
        waiting(py, || {
            let settings = Settings::load(None, &[])?.settings;
            if fetch { asked.fetched(&settings) } else { asked.on_disk(&settings) }
        })
    })
}

/// The plans of a patient as the archive lists them, newest first: a list of dicts.
#[pyfunction]
#[pyo3(signature = (patient, plan=None, *, timeout=20.0, archive=None))]
fn plans<'py>(
    py: Python<'py>,
    patient: &str,
    plan: Option<&str>,
    timeout: f64,
    archive: Option<&str>,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    boundary(|| {
        let timeout = limit(timeout)?;
        let found = waiting(py, || {
            let settings = Settings::load(None, &[])?.settings;
            listed(patient, plan, archive, &settings, timeout)
        })?;
        found.iter().map(|plan| as_dict(py, plan)).collect()
    })
}

/// For `qatrack_ext.compat`: its entities take the place of the settings' where they are given.
#[pyfunction]
#[pyo3(signature = (patient, plan, local, remote, timeout))]
fn _compat_plans<'py>(
    py: Python<'py>,
    patient: &str,
    plan: &str,
    local: Option<Entity>,
    remote: Option<Entity>,
    timeout: f64,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    boundary(|| {
        let timeout = limit(timeout)?;
        let found = waiting(py, || listed(patient, Some(plan), None, &entities(local, remote)?, timeout))?;
        found.iter().map(|plan| as_dict(py, plan)).collect()
    })
}

/// Likewise for images.
#[pyfunction]
#[pyo3(signature = (patient, plan_uid, date, image_type, kv, local, remote, timeout))]
#[expect(clippy::too_many_arguments, reason = "one call of a Python module that has no other user")]
fn _compat_series(
    py: Python<'_>,
    patient: String,
    plan_uid: &str,
    date: Option<&Bound<'_, PyAny>>,
    image_type: String,
    kv: bool,
    local: Option<Entity>,
    remote: Option<Entity>,
    timeout: f64,
) -> PyResult<Series> {
    boundary(|| {
        let asked = Asked {
            patient,
            plan: None,
            plan_uid: Some(uid(plan_uid)?),
            date: date.map(convert::day).transpose()?,
            before: None,
            wanted: Wanted { image_type: Some(image_type), kv },
            timeout: limit(timeout)?,
            archive: None,
        };
        waiting(py, || asked.fetched(&entities(local, remote)?))
    })
}

/// What was asked for, in our types.
struct Asked {
    patient: String,
    plan: Option<String>,
    plan_uid: Option<Uid>,
    date: Option<NaiveDate>,
    before: Option<NaiveDateTime>,
    wanted: Wanted,
    timeout: Duration,
    archive: Option<String>,
}

impl Asked {
    fn fetched(&self, settings: &Settings) -> Result<Series, Failure> {
        let request = FetchRequest {
            patient_id: self.patient.clone(),
            plan_label: self.plan.clone(),
            plan_uid: self.plan_uid.clone(),
            date: self.date,
            before: self.before,
            image_type: self.wanted.image_type.clone(),
            kv: self.wanted.kv,
            archive: self.archive.clone(),
            timeout: Some(self.timeout),
            ..FetchRequest::default()
        };
        let fetched = match scp_node::fetch::kept(&request, settings)? {
            Some(fetched) => fetched,
            None => {
                let cancel = CancellationToken::new();
                runtime()?.block_on(scp_node::fetch::fetch(&request, settings, &cancel, &mut |_| {}))?
            }
        };
        for notice in &fetched.notices {
            tracing::warn!("{notice}");
        }
        let label = fetched.plan_label;
        let first = fetched.sessions.into_iter().next();
        let found =
            first.ok_or_else(|| Failure::new("internal", "the fetch gave no session and no error"))?;
        self.whole(found.session, &found.instances, label, settings)
    }

    /// The newest session that the catalog has; nobody is asked.
    fn on_disk(&self, settings: &Settings) -> Result<Series, Failure> {
        let catalog = Catalog::open_readonly(&settings.images.root)?;
        let filter = SessionFilter {
            patient_id: Some(self.patient.clone()),
            plan_label: self.plan.clone(),
            plan_uid: self.plan_uid.as_ref().map(ToString::to_string),
            date: self.date,
            before: self.before,
            ..SessionFilter::default()
        };
        for session in catalog.sessions(&filter)? {
            let mut images = catalog.instances(&session)?;
            images.retain(|image| self.wanted.takes(image));
            if !images.is_empty() {
                return self.whole(session, &images, None, settings);
            }
        }
        let plan = self.plan.as_deref().unwrap_or("that UID");
        let day = self.date.map(|date| format!(" of {date}")).unwrap_or_default();
        Err(Failure::new("not_found", format!("no images of plan {plan}{day} are on disk"))
            .hint(Some("with fetch=True the archive is asked too")))
    }

    fn whole(
        &self,
        mut session: Session,
        images: &[Instance],
        label: Option<String>,
        settings: &Settings,
    ) -> Result<Series, Failure> {
        session.plan_label = label.or(session.plan_label).or_else(|| self.plan.clone());
        Ok(series_of(session, images, &settings.analysis.cache)?)
    }
}

fn listed(
    patient: &str,
    plan: Option<&str>,
    archive: Option<&str>,
    settings: &Settings,
    timeout: Duration,
) -> Result<Vec<ListedPlan>, Failure> {
    let cancel = CancellationToken::new();
    let asking = scp_node::fetch::plans(patient, plan, archive, settings, &cancel);
    let listed = runtime()?.block_on(async {
        tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| {
            Err(scp_node::Error::Timeout {
                what: "asking the archive for plans".into(),
                seconds: timeout.as_secs_f64(),
                hint: "try again, or give a longer timeout".into(),
            })
        })
    })?;
    for notice in &listed.notices {
        tracing::warn!("{notice}");
    }
    Ok(listed.plans)
}

fn as_dict<'py>(py: Python<'py>, plan: &ListedPlan) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("plan_label", &plan.label)?;
    dict.set_item("plan_uid", plan.plan_uid.as_str())?;
    dict.set_item("study_uid", plan.study_uid.as_str())?;
    dict.set_item("dated", plan.dated)?;
    Ok(dict)
}

/// A runtime for one call: two threads, since a hosted receiver must answer while the move waits for it.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("qatrack_ext")
        .enable_all()
        .build()
        .map_err(|error| Failure::new("io", format!("cannot start threads: {error}")))
}

fn entities(local: Option<Entity>, remote: Option<Entity>) -> Result<Settings, Failure> {
    let mut settings = Settings::load(None, &[])?.settings;
    let title = |text: &str| {
        AeTitle::new(text).map_err(|error| Failure::new("misuse", format!("AE title {text:?}: {error}")))
    };
    if let Some((ae_title, ip, port)) = local {
        settings.node.ae_title = title(&ae_title)?;
        settings.node.bind =
            ip.parse().map_err(|_| Failure::new("misuse", format!("{ip:?} is no IP address")))?;
        settings.node.port = port;
    }
    if let Some((ae_title, host, port)) = remote {
        settings.archives = vec![ArchiveSettings::new("remote_conf", title(&ae_title)?, &host, port)];
    }
    Ok(settings)
}

fn uid(text: &str) -> Result<Uid, Failure> {
    Uid::new(text.trim()).ok_or_else(|| {
        Failure::new("misuse", format!("plan_uid is {text:?}, which is no UID"))
            .hint(Some("give the plan's SOP Instance UID, or leave it out"))
    })
}

fn limit(seconds: f64) -> Result<Duration, Failure> {
    if seconds > 0.0 && seconds <= TIMEOUT_MAX_S {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(Failure::new("misuse", format!("timeout is {seconds}, not between 0 and {TIMEOUT_MAX_S} s")))
}

/// Adds this file's functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(series, module)?)?;
    module.add_function(wrap_pyfunction!(plans, module)?)?;
    module.add_function(wrap_pyfunction!(_compat_plans, module)?)?;
    module.add_function(wrap_pyfunction!(_compat_series, module)?)
}
