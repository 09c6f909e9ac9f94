//! What archives do wrong, and what no real peer can be made to do: the simulated Aria against the whole fetch.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod listing;
mod moving;

use std::collections::BTreeSet;
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use scp_node::Error;
use scp_node::demo::{Faults, Instance, PatientOptions};
use scp_node::fetch::{FetchRequest, Fetched};
use scp_node::images::Catalog;
use tests::site::Site;

/// Longest wait for something that happens within a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);

/// How long an impatient fetch waits for an answer, seconds.
const IMPATIENT_S: f64 = 2.0;

async fn start(faults: Faults) -> Site {
    Site::start(&PatientOptions::small(), faults, 30.0).await
}

/// Where it is waited in vain.
async fn start_impatient(faults: Faults) -> Site {
    Site::start(&PatientOptions::small(), faults, IMPATIENT_S).await
}

fn wish(site: &Site) -> FetchRequest {
    FetchRequest { refresh: true, ..FetchRequest::new(&site.patient.patient_id, "WL_10MV") }
}

async fn fails(site: &Site) -> Error {
    site.fetch(&wish(site)).await.unwrap_err()
}

/// The newest MV session of the plan that is in use.
fn newest_session(site: &Site) -> Vec<&Instance> {
    let plan = site.patient.plans.first().unwrap();
    site.patient.mv_session(plan, *plan.sessions.first().unwrap())
}

/// Its UIDs.
fn newest(site: &Site) -> BTreeSet<String> {
    newest_session(site).into_iter().map(|i| i.sop_instance_uid()).collect()
}

/// The same session once more, as other images of the next day, in a series of its own.
fn next_day(site: &Site) -> Vec<Instance> {
    let next_day =
        |(n, i): (usize, &Instance)| altered(i, &format!("2.25.77.1.{n}"), "2.25.77.1", "20260317");
    newest_session(site).into_iter().enumerate().map(next_day).collect()
}

/// Puts these into the archive as well.
fn add(site: &Site, more: &[Instance]) {
    site.aria.set_instances([&site.patient.instances, more].concat());
}

fn catalog(site: &Site) -> rusqlite::Connection {
    rusqlite::Connection::open(Catalog::file(&site.settings.images.root)).unwrap()
}

/// What is remembered of the archive's answers.
fn remembered(site: &Site) -> Vec<String> {
    let sql = "SELECT 'series ' || series_uid || ' ' || ifnull(instances, '-') FROM listed_series
               UNION SELECT 'image ' || sop_instance_uid FROM listed_images
               UNION SELECT 'plan ' || plan_uid || ' ' || label FROM listed_plans ORDER BY 1";
    let catalog = catalog(site);
    let mut statement = catalog.prepare(sql).unwrap();
    statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

fn n_moves(site: &Site) -> usize {
    site.aria.asked().iter().filter(|a| a.what == "C-MOVE").count()
}

/// The same picture as another object, of another series and day.
fn altered(image: &Instance, uid: &str, series: &str, date: &str) -> Instance {
    let mut image = image.clone();
    for (tag, vr, text) in [
        (tags::SOP_INSTANCE_UID, VR::UI, uid),
        (tags::SERIES_INSTANCE_UID, VR::UI, series),
        (tags::ACQUISITION_DATE, VR::DA, date),
        (tags::CONTENT_DATE, VR::DA, date),
    ] {
        image.header.put(DataElement::new(tag, vr, PrimitiveValue::from(text)));
    }
    image
}

fn uids_of(instances: &[Instance]) -> BTreeSet<String> {
    instances.iter().map(Instance::sop_instance_uid).collect()
}

fn uids(fetched: &Fetched) -> BTreeSet<String> {
    fetched.sessions.iter().flat_map(|s| &s.instances).map(|i| i.sop_instance_uid.clone()).collect()
}

fn contains(error: &Error, sentence: &str, hint: &str) {
    assert!(error.to_string().contains(sentence), "{error}");
    assert!(error.hint().contains(hint), "{error}\n{}", error.hint());
}
