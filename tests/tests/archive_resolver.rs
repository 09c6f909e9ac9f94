//! Labels of plans that images name: asked from the archive in the background, and the images filed under them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dicom_dictionary_std::tags;
use scp_node::demo::{AriaOptions, Faults, GeneratedPatient, PatientOptions, SimulatedAria};
use scp_node::dimse::Status;
use scp_node::fetch::{FetchRequest, fetch};
use scp_node::images::{Catalog, SessionFilter, Store};
use scp_node::names::{AeTitle, Uid};
use scp_node::scp;
use scp_node::scu::resolver;
use scp_node::settings::ArchiveSettings;
use tests::peers::objects::{RtImage, RtPlan};
use tests::peers::{Destination, PeerArchive, free_port, run_tool};
use tests::site::node_settings;
use tokio_util::sync::CancellationToken;

async fn an_image_is_filed_under_its_label_once_the_archive_told_it(
    start: fn(&[Destination]) -> Option<PeerArchive>,
) {
    let port = free_port();
    let Some(archive) = start(&[Destination::new("NODE", port)]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (plans, images) = (directory.path().join("plans"), directory.path().join("sent"));
    RtPlan::default().write(&plans);
    RtImage::default().write(&images);
    // Another one, whose image comes while the resolver runs.
    let (plan_uid, later) = ("2.25.900.9.2".to_owned(), directory.path().join("later"));
    let label = Some("WL_6FFF".to_owned());
    RtPlan {
        sop_instance_uid: plan_uid.clone(),
        series_uid: "2.25.900.1.901".into(),
        label,
        ..RtPlan::default()
    }
    .write(&plans);
    RtImage {
        sop_instance_uid: "2.25.900.1.2.1".into(),
        series_uid: "2.25.900.1.2".into(),
        plan_uid: Some(plan_uid.clone()),
        ..RtImage::default()
    }
    .write(&later);
    archive.store(&plans);
    let mut settings = node_settings(directory.path(), port);
    settings.node.ae_title = AeTitle::new("NODE").unwrap();
    let asked = AeTitle::new(archive.ae_title).unwrap();
    settings.archives.push(ArchiveSettings::new("archive", asked, "localhost", archive.port));
    let store = Arc::new(Store::open(&settings.images, &["*".to_owned()], 1 << 30).unwrap());
    let shutdown = CancellationToken::new();
    let listener = scp::bind(&settings.node).await.unwrap();
    let (s, st, token) = (settings.clone(), Arc::clone(&store), shutdown.clone());
    let receiver = tokio::spawn(async move { scp::run(listener, &s, st, token).await });
    let arrived = store.subscribe();
    let send = async |images: PathBuf| {
        let sent = tokio::task::spawn_blocking(move || {
            let port = port.to_string();
            run_tool("storescu", &["-aec", "NODE", "+sd", "localhost", &port, images.to_str().unwrap()])
        });
        assert!(sent.await.unwrap().status.success());
    };
    send(images).await;
    let session_of = |plan_uid: Option<&String>| {
        let catalog = Catalog::open_readonly(&settings.images.root).unwrap();
        let filter = SessionFilter { plan_uid: plan_uid.cloned(), ..SessionFilter::default() };
        catalog.newest_session(&filter).unwrap().unwrap()
    };
    let session = || session_of(None);
    assert_eq!(session().plan_label, None, "the image is filed before its label is known");
    assert!(session().directory.to_str().unwrap().contains("_unresolved"));
    let resolver = tokio::spawn(resolver::run(settings.clone(), arrived, shutdown.clone()));
    let named = async |plan_uid| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while session_of(plan_uid).plan_label.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "{}: no label in time", archive.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    named(None).await;
    assert_eq!(session().plan_label.as_deref(), Some("WL_10MV"));
    assert!(session().directory.join("RI.2.25.900.1.1.1.dcm").is_file(), "{}", session().directory.display());
    send(later).await;
    named(Some(&plan_uid)).await;
    assert_eq!(session_of(Some(&plan_uid)).plan_label.as_deref(), Some("WL_6FFF"));
    shutdown.cancel();
    receiver.await.unwrap().unwrap();
    resolver.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_tells_the_label() {
    an_image_is_filed_under_its_label_once_the_archive_told_it(PeerArchive::orthanc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qrscp_which_tells_no_labels_is_asked_for_the_plan() {
    an_image_is_filed_under_its_label_once_the_archive_told_it(PeerArchive::qrscp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_has_the_plan_but_cannot_send_it_does_not_keep_the_next_from_being_asked() {
    let port = free_port();
    let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
    let plan = Uid::new(&patient.plans.first().unwrap().uid).unwrap();
    let start = async |faults| {
        let node = ([127, 0, 0, 1], port).into();
        let options = AriaOptions::new(patient.instances.clone(), "SCP_NODE", node).unwrap();
        let aria = SimulatedAria::start(options).await.unwrap();
        aria.set_faults(faults);
        aria
    };
    let unlabelled = Faults { missing_keys: vec![tags::RT_PLAN_LABEL], ..Faults::default() };
    let (first, second) = (start(unlabelled.clone()).await, start(Faults::default()).await);
    let directory = tempfile::tempdir().unwrap();
    let mut settings = node_settings(directory.path(), port);
    for (name, aria) in [("first", &first), ("second", &second)] {
        let asked = ArchiveSettings::new(name, aria.ae_title().clone(), "127.0.0.1", aria.address().port());
        settings.archives.push(asked);
    }
    let by_uid = FetchRequest {
        patient_id: patient.patient_id.clone(),
        plan_uid: Some(plan.clone()),
        ..FetchRequest::default()
    };
    fetch(&by_uid, &settings, &CancellationToken::new(), &mut |_| {}).await.unwrap();
    let label =
        || Catalog::open_readonly(&settings.images.root).unwrap().plan(&plan).unwrap().map(|p| p.label);
    assert_eq!(label(), None);
    first.set_faults(Faults { move_status: Some(Status(0xC000)), ..unlabelled });
    let store = Store::open(&settings.images, &["*".to_owned()], 1 << 30).unwrap();
    let shutdown = CancellationToken::new();
    let resolver = tokio::spawn(resolver::run(settings.clone(), store.subscribe(), shutdown.clone()));
    // Its first attempt, after a second; the second one would come ten seconds later.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(9);
    while label().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the second archive was not asked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(label().as_deref(), Some("WL_10MV"));
    shutdown.cancel();
    resolver.await.unwrap();
}
