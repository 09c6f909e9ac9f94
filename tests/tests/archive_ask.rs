//! C-ECHO and C-FIND against real archives: relational where it works, hierarchical where not.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;

use scp_node::names::AeTitle;
use scp_node::scu::{Archive, Inquiry};
use scp_node::settings::{ArchiveSettings, Strategy};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::peers::{Destination, PeerArchive, free_port};
use tokio_util::sync::CancellationToken;

fn asked_as(calling: &str, archive: &PeerArchive) -> Archive {
    let settings =
        ArchiveSettings::new("a", AeTitle::new(archive.ae_title).unwrap(), "localhost", archive.port);
    Archive::new(&settings, &AeTitle::new(calling).unwrap())
}

/// Two studies: five plans and three series of two images each in the first, one series in the second; and another patient
/// whose ID differs by case only.
fn fill(directory: &Path) {
    for plan in 1..=5_u32 {
        let uids = (uid(&[1, 900 + plan]), uid(&[9, plan]));
        RtPlan { series_uid: uids.0, sop_instance_uid: uids.1, ..RtPlan::default() }.write(directory);
    }
    for series in 1..=4_u32 {
        for n in 1..=2_u32 {
            let study = if series == 4 { 2 } else { 1 };
            let image = RtImage {
                study_uid: uid(&[study]),
                series_uid: uid(&[study, series]),
                sop_instance_uid: uid(&[study, series, n]),
                instance_number: n,
                ..RtImage::default()
            };
            image.write(directory);
        }
    }
    let other = RtImage {
        patient_id: "qa_tb_wl".into(),
        study_uid: uid(&[3]),
        series_uid: uid(&[3, 1]),
        sop_instance_uid: uid(&[3, 1, 1]),
        ..RtImage::default()
    };
    other.write(directory);
}

async fn lists_everything(archive: &PeerArchive, expected: Strategy) {
    let objects = tempfile::tempdir().unwrap();
    fill(objects.path());
    archive.store(objects.path());
    let asked = asked_as("NODE", archive);
    let echo = asked.echo().await.unwrap();
    assert!(echo.find && echo.move_, "{}: {echo:?}", archive.name);
    for strategy in [Strategy::Auto, Strategy::Hierarchical] {
        let mut inquiry = Inquiry::new(&asked, strategy, &CancellationToken::new());
        let series = inquiry.series("QA_TB_WL").await.unwrap();
        let of_images: Vec<_> = series.iter().filter(|s| s.has_images()).cloned().collect();
        let of_plans: Vec<_> = series.iter().filter(|s| s.has_plans()).cloned().collect();
        assert_eq!((of_images.len(), of_plans.len()), (4, 5), "{}", archive.name);
        let images = inquiry.images("QA_TB_WL", &of_images).await.unwrap();
        assert_eq!(images.len(), 8, "{}", archive.name);
        let plans = inquiry.plans("QA_TB_WL", &of_plans).await.unwrap();
        assert_eq!(plans.len(), 5, "{}", archive.name);
        if strategy == Strategy::Auto {
            assert_eq!(inquiry.strategy(), expected, "{}", archive.name);
        }
        if archive.name == "Orthanc" {
            assert_eq!(plans.first().unwrap().label.as_deref(), Some("WL_10MV"));
            assert!(images.iter().all(|i| i.plan_uid.as_ref().unwrap().as_str() == uid(&[9, 1])));
            assert!(images.iter().all(|i| i.acquired.unwrap().to_string() == "2026-01-05 07:00:00"));
            assert!(of_images.iter().all(|s| s.instances == Some(2)));
        }
        inquiry.close().await;
    }
}

#[tokio::test]
async fn orthanc_answers_relational_and_hierarchical_queries() {
    let destination = [Destination::new("NODE", free_port())];
    if let Some(archive) = PeerArchive::orthanc(&destination) {
        lists_everything(&archive, Strategy::Relational).await;
    }
}

#[tokio::test]
async fn dcmqrscp_is_asked_about_a_patient_at_once_and_its_answers_are_sorted_out() {
    let destination = [Destination::new("NODE", free_port())];
    if let Some(archive) = PeerArchive::dcmqrscp(&destination) {
        lists_everything(&archive, Strategy::Relational).await;
    }
}

#[tokio::test]
async fn qrscp_answers_once_for_every_instance_and_its_answers_are_sorted_out() {
    let destination = [Destination::new("NODE", free_port())];
    if let Some(archive) = PeerArchive::qrscp(&destination) {
        // At SERIES level it takes an empty Study Instance UID for a key that is there.
        lists_everything(&archive, Strategy::Relational).await;
    }
}

#[tokio::test]
async fn a_real_archive_that_does_not_know_us_is_explained() {
    let Some(archive) = PeerArchive::orthanc(&[Destination::new("NODE", 1)]) else { return };
    let error = asked_as("STRANGER", &archive).echo().await.unwrap_err();
    assert!(error.hint().contains("STRANGER"), "{error} / {}", error.hint());
    let wrong = ArchiveSettings::new("a", AeTitle::new("WRONG").unwrap(), "localhost", archive.port);
    let error = Archive::new(&wrong, &AeTitle::new("NODE").unwrap()).echo().await.unwrap_err();
    assert!(error.to_string().contains("does not call itself WRONG"), "{error}");
}

#[tokio::test]
async fn an_archive_that_is_down_a_name_that_is_unknown_and_silence_have_their_own_sentences() {
    let node = AeTitle::new("NODE").unwrap();
    let mut settings = ArchiveSettings::new("a", AeTitle::new("ARIA_DB").unwrap(), "localhost", free_port());
    let down = Archive::new(&settings, &node).echo().await.unwrap_err();
    assert!(down.to_string().contains("nothing listens there"), "{down}");
    settings.host = "no-such-host.invalid".into();
    // A name server that does not answer either takes its time.
    settings.connect_timeout_s = 60.0;
    let unknown = Archive::new(&settings, &node).echo().await.unwrap_err();
    assert!(unknown.to_string().contains("cannot be resolved"), "{unknown}");
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.host = "127.0.0.1".into();
    settings.port = mute.local_addr().unwrap().port();
    settings.connect_timeout_s = 0.1;
    let silent = Archive::new(&settings, &node).echo().await.unwrap_err();
    assert!(silent.hint().contains("no DICOM service answers"), "{silent} / {}", silent.hint());
}
