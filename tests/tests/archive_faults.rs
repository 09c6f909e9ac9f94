//! What archives do wrong, and what no real peer can be made to do: the simulated Aria against the whole fetch.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use scp_node::Error;
use scp_node::demo::{
    AriaOptions, Faults, GeneratedPatient, Instance, PatientOptions, Rejection, SimulatedAria,
};
use scp_node::dimse::Status;
use scp_node::fetch::{FetchRequest, Fetched, Step, fetch, kept};
use scp_node::images::Catalog;
use scp_node::names::{AeTitle, Uid};
use scp_node::scu::Archive;
use scp_node::settings::{ArchiveSettings, Settings, Strategy};
use tests::peers::{free_port, until};
use tokio_util::sync::CancellationToken;

/// Longest wait for something that happens within a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);

struct Site {
    aria: SimulatedAria,
    patient: GeneratedPatient,
    settings: Settings,
    _directory: tempfile::TempDir,
}

impl Site {
    async fn start(faults: Faults) -> Self {
        let port = free_port();
        let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
        let options =
            AriaOptions::new(patient.instances.clone(), "SCP_NODE", ([127, 0, 0, 1], port).into()).unwrap();
        let aria = SimulatedAria::start(options).await.unwrap();
        aria.set_faults(faults);
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.node.bind = "127.0.0.1".parse().unwrap();
        settings.node.port = port;
        settings.images.root = directory.path().join("images");
        let mut archive =
            ArchiveSettings::new("aria", aria.ae_title().clone(), "127.0.0.1", aria.address().port());
        archive.connect_timeout_s = 1.0;
        archive.response_timeout_s = 1.0;
        settings.archives.push(archive);
        Self { aria, patient, settings, _directory: directory }
    }

    fn wish(&self) -> FetchRequest {
        FetchRequest { refresh: true, ..FetchRequest::new(&self.patient.patient_id, "WL_10MV") }
    }

    async fn fetch(&self, request: &FetchRequest) -> scp_node::Result<Fetched> {
        fetch(request, &self.settings, &CancellationToken::new(), &mut |_| {}).await
    }

    async fn fails(&self) -> Error {
        self.fetch(&self.wish()).await.unwrap_err()
    }

    /// The UIDs of the newest MV session of the plan that is in use.
    fn newest(&self) -> BTreeSet<String> {
        let plan = self.patient.plans.first().unwrap();
        let session = self.patient.mv_session(plan, *plan.sessions.first().unwrap());
        session.into_iter().map(|i| i.sop_instance_uid()).collect()
    }

    /// The newest MV session once more, as other images of the next day, in a series of its own.
    fn next_day(&self) -> Vec<Instance> {
        let plan = self.patient.plans.first().unwrap();
        let session = self.patient.mv_session(plan, *plan.sessions.first().unwrap());
        let next_day =
            |(n, i): (usize, &Instance)| altered(i, &format!("2.25.77.1.{n}"), "2.25.77.1", "20260317");
        session.into_iter().enumerate().map(next_day).collect()
    }

    /// Puts these into the archive as well.
    fn add(&self, more: &[Instance]) {
        self.aria.set_instances([&self.patient.instances, more].concat());
    }

    fn catalog(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(Catalog::file(&self.settings.images.root)).unwrap()
    }

    /// What is remembered of the archive's answers.
    fn remembered(&self) -> Vec<String> {
        let sql = "SELECT 'series ' || series_uid || ' ' || ifnull(instances, '-') FROM listed_series
                   UNION SELECT 'image ' || sop_instance_uid FROM listed_images
                   UNION SELECT 'plan ' || plan_uid || ' ' || label FROM listed_plans ORDER BY 1";
        let catalog = self.catalog();
        let mut statement = catalog.prepare(sql).unwrap();
        statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn moves(&self) -> usize {
        self.aria.asked().iter().filter(|a| a.what == "C-MOVE").count()
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plans_with_one_label_the_one_of_the_newest_images_is_taken_and_the_other_can_be_forced() {
    let site = Site::start(Faults::default()).await;
    let fetched = site.fetch(&site.wish()).await.unwrap();
    assert_eq!(uids(&fetched), site.newest());
    assert_eq!(fetched.moved, 4, "neither kV images nor computed ones are moved");
    let (used, replaced) = (site.patient.plans.first().unwrap(), site.patient.plans.get(2).unwrap());
    assert_eq!(fetched.plan_uid, used.uid);
    let notice = fetched.notices.first().unwrap();
    assert!(notice.contains("2 plans are called `WL_10MV`") && notice.contains(&replaced.uid), "{notice}");
    let forced = FetchRequest { plan_uid: Uid::new(&replaced.uid), ..site.wish() };
    let fetched = site.fetch(&forced).await.unwrap();
    assert_eq!(fetched.plan_uid, replaced.uid);
    let date = *replaced.sessions.first().unwrap();
    let expected =
        site.patient.mv_session(replaced, date).into_iter().map(|i| i.sop_instance_uid()).collect();
    assert_eq!(uids(&fetched), expected);
    // On a day on which only the replaced plan was used, its images decide.
    let by_date = FetchRequest { date: Some(date), ..site.wish() };
    assert_eq!(site.fetch(&by_date).await.unwrap().plan_uid, replaced.uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_lack_is_read_from_the_objects() {
    let unanswered = [
        vec![tags::RT_PLAN_LABEL],
        vec![tags::REFERENCED_RT_PLAN_SEQUENCE],
        vec![tags::IMAGE_TYPE],
        vec![tags::ACQUISITION_DATE, tags::ACQUISITION_TIME, tags::CONTENT_DATE, tags::CONTENT_TIME],
        vec![tags::PRIMARY_DOSIMETER_UNIT],
        vec![tags::NUMBER_OF_SERIES_RELATED_INSTANCES],
    ];
    for keys in unanswered {
        for faults in [
            Faults { missing_keys: keys.clone(), ..Faults::default() },
            Faults { empty_keys: keys.clone(), ..Faults::default() },
        ] {
            let site = Site::start(faults).await;
            let request = FetchRequest { image_type: Some("PORTAL".into()), ..site.wish() };
            let fetched =
                site.fetch(&request).await.unwrap_or_else(|e| panic!("{keys:?}: {e}\n{}", e.hint()));
            assert_eq!(uids(&fetched), site.newest(), "{keys:?}");
            let again = site.fetch(&request).await.unwrap();
            assert_eq!((uids(&again), again.moved), (site.newest(), 0), "{keys:?}: looked into once only");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_relational_is_walked_through() {
    for status in [0xA900, 0xC000] {
        let site = Site::start(Faults { hierarchical_only: Some(Status(status)), ..Faults::default() }).await;
        assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), site.newest());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_asked_for_once_more_and_nothing_else() {
    for faults in [
        Faults { fail_next: 2, ..Faults::default() },
        Faults { warn_next: 2, ..Faults::default() },
        Faults { lie_next: 1, ..Faults::default() },
    ] {
        let site = Site::start(faults.clone()).await;
        let fetched = site.fetch(&site.wish()).await.unwrap();
        assert_eq!(uids(&fetched), site.newest());
        let moves: Vec<_> = site.aria.asked().into_iter().filter(|a| a.what == "C-MOVE").collect();
        let sent: usize = moves.iter().map(|m| m.results).sum();
        // A lie is counted by the archive as sent.
        assert_eq!(sent, 4 + faults.lie_next, "each image was sent once: {moves:?}");
        let retries = usize::from(faults.warn_next == 0);
        assert_eq!(moves.len(), 1 + retries, "{moves:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_not_whole_is_not_handed_out_and_the_missing_are_named() {
    let site = Site::start(Faults::default()).await;
    let lost = site.newest().into_iter().next().unwrap();
    site.aria.set_faults(Faults { fail_instances: [lost.clone()].into(), ..Faults::default() });
    // The second time all others are here, and only the lost one is asked for.
    for n in 1..=2 {
        let error = site.fails().await;
        contains(&error, "1 of 4 objects are missing", "Beam Sequence");
        let Error::Incomplete { missing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(missing, std::slice::from_ref(&lost));
        assert_eq!(site.moves(), 2 * n, "asked for once, and once more for the missing one");
    }
    // Whatever the archive says now: it has reached us before.
    for (faults, hint) in [
        (Faults { move_status: Some(Status(0xA702)), ..Faults::default() }, "firewall"),
        (Faults { move_status: Some(Status(0xA801)), ..Faults::default() }, "trusted as a destination too"),
        (
            Faults { never_calls_back: Some(Duration::from_secs(60)), ..Faults::default() },
            "response_timeout_s",
        ),
        (Faults { drop_after_sub_operations: Some(0), ..Faults::default() }, "log"),
    ] {
        site.aria.set_faults(faults);
        let error = site.fails().await;
        contains(&error, &format!("1 of 4 objects are missing ({lost})"), hint);
    }
    site.aria.set_faults(Faults::default());
    let fetched = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (site.newest(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_get_no_delivery_has_its_own_sentence() {
    let site = Site::start(Faults::default()).await;
    site.aria.set_faults(Faults { move_status: Some(Status(0xA801)), ..Faults::default() });
    contains(
        &site.fails().await,
        "does not know the move destination SCP_NODE",
        "trusted as a destination too",
    );
    site.aria.set_faults(Faults { move_status: Some(Status(0xA702)), ..Faults::default() });
    contains(&site.fails().await, "could not send to us", "firewall");
    site.aria.set_faults(Faults { move_status: Some(Status(0xC000)), ..Faults::default() });
    contains(&site.fails().await, "moved nothing to us", "firewall");
    let nobody = ([127, 0, 0, 1], free_port()).into();
    site.aria.set_faults(Faults { wrong_destination: Some(nobody), ..Faults::default() });
    contains(&site.fails().await, "to us", "IP address and port");
    let quick = Duration::from_millis(20);
    site.aria.set_faults(Faults { never_calls_back: Some(quick), ..Faults::default() });
    contains(&site.fails().await, "to us", "firewall");
    site.aria.set_faults(Faults { never_calls_back: Some(Duration::from_secs(60)), ..Faults::default() });
    contains(&site.fails().await, "nothing reached our port", "firewall");
    site.aria.set_faults(Faults { lie_next: usize::MAX, ..Faults::default() });
    contains(&site.fails().await, "4 of 4 objects are missing", "says that it delivered them");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rejection_and_each_silence_has_its_own_sentence() {
    let site = Site::start(Faults::default()).await;
    let sentences = [
        (Rejection::NoReason, "gives no reason", "trusted"),
        (Rejection::ApplicationContext, "application context", "DICOM service"),
        (Rejection::CallingAe, "does not know our AE title SCP_NODE", "trusted application entities"),
        (Rejection::CalledAe, "does not call itself ARIA_DB", "ae_title"),
        (Rejection::Congestion, "temporary congestion", "in a minute"),
        (Rejection::LocalLimit, "number of associations", "in a minute"),
    ];
    for (reject, sentence, hint) in sentences {
        site.aria.set_faults(Faults { reject: Some(reject), ..Faults::default() });
        contains(&site.fails().await, sentence, hint);
    }
    site.aria.set_faults(Faults { silent: true, ..Faults::default() });
    contains(&site.fails().await, "association request took longer", "restart the archive's service");
    site.aria.set_faults(Faults { find_status: Some(Status(0xA700)), ..Faults::default() });
    contains(&site.fails().await, "out of resources", "in a minute");
    site.aria.set_faults(Faults { drop_after_answers: Some(0), ..Faults::default() });
    contains(&site.fails().await, "the connection was closed", "log");
    let slow = Faults { answer_delay: Duration::from_secs(60), ..Faults::default() };
    site.aria.set_faults(slow);
    contains(&site.fails().await, "the answer to C-FIND took longer than 1 s", "response_timeout_s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ae_title_is_told_from_an_unknown_one() {
    let site = Site::start(Faults::default()).await;
    let mut settings = site.settings.archives.first().unwrap().clone();
    let us = AeTitle::new("SCP_NODE").unwrap();
    settings.ae_title = AeTitle::new("OTHER").unwrap();
    contains(
        &Archive::new(&settings, &us).echo().await.unwrap_err(),
        "does not call itself OTHER",
        "ae_title",
    );
    site.aria.distrust("SCP_NODE");
    contains(&site.fails().await, "does not know our AE title SCP_NODE", "trusted application entities");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_archive_is_waited_for() {
    let slow = Faults {
        answer_delay: Duration::from_millis(5),
        // Slower than the response time as a whole, but alive.
        sub_operation_delay: Duration::from_millis(400),
        ..Faults::default()
    };
    let site = Site::start(slow).await;
    let mut steps = Vec::new();
    let fetched =
        fetch(&site.wish(), &site.settings, &CancellationToken::new(), &mut |s| steps.push(s)).await.unwrap();
    assert_eq!(uids(&fetched), site.newest());
    assert!(steps.contains(&Step::Moving { done: 2, total: 4 }), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_connection_left_is_asked_for_over_a_new_one_once_and_then_by_the_next_fetch() {
    let site = Site::start(Faults { drop_after_sub_operations: Some(2), ..Faults::default() }).await;
    let fetched = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (site.newest(), 4), "two and two");

    // One of four, then one of three.
    let site = Site::start(Faults { drop_after_sub_operations: Some(1), ..Faults::default() }).await;
    contains(&site.fails().await, "2 of 4 objects are missing", "try again");
    site.aria.set_faults(Faults::default());
    let fetched = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (site.newest(), 2));

    let site = Site::start(Faults { drop_after_sub_operations: Some(0), ..Faults::default() }).await;
    assert_eq!(site.fails().await.kind(), "unreachable", "nothing came");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_no_longer_lists_is_told_and_not_handed_out() {
    let site = Site::start(Faults::default()).await;
    site.fetch(&site.wish()).await.unwrap();
    let gone = site.newest().into_iter().next().unwrap();
    let mut left = site.patient.instances.clone();
    left.retain(|i| i.sop_instance_uid() != gone);
    site.aria.set_instances(left);
    let fetched = site.fetch(&site.wish()).await.unwrap();
    let within_freshness = kept(&FetchRequest { refresh: false, ..site.wish() }, &site.settings).unwrap();
    for fetched in [fetched, within_freshness.unwrap()] {
        let session = fetched.sessions.first().unwrap();
        assert_eq!(session.instances.len(), 3);
        assert_eq!(session.unlisted, std::slice::from_ref(&gone));
        assert_eq!(tests::node::files_below(&session.session.directory, ".dcm").len(), 4);
        let notice = fetched.notices.last().unwrap();
        assert!(notice.contains("no longer lists") && notice.contains(&gone), "{notice}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_removed_or_a_power_cut_emptied_is_moved_again() {
    let site = Site::start(Faults::default()).await;
    let fresh = FetchRequest { refresh: false, ..site.wish() };
    let first = site.fetch(&fresh).await.unwrap();
    let session = first.sessions.first().unwrap();
    let removed = session.instances.first().unwrap();
    std::fs::remove_file(&removed.path).unwrap();
    assert_eq!(kept(&fresh, &site.settings).unwrap(), None, "not all of it is here");
    site.aria.set_faults(Faults { fail_next: usize::MAX, ..Faults::default() });
    let error = site.fetch(&fresh).await.unwrap_err();
    contains(&error, &format!("1 of 4 objects are missing ({})", removed.sop_instance_uid), "log");
    site.aria.set_faults(Faults::default());
    let again = site.fetch(&fresh).await.unwrap();
    assert_eq!((again.moved, &again.sessions), (1, &first.sessions));
    assert!(removed.path.is_file());
    assert_eq!(kept(&fresh, &site.settings).unwrap().unwrap().sessions, first.sessions);
    // As a power cut leaves files of which the name was written, and the bytes were not.
    std::fs::write(&removed.path, b"").unwrap();
    assert_eq!(kept(&fresh, &site.settings).unwrap(), None, "not all of it is whole");
    let again = site.fetch(&fresh).await.unwrap();
    assert_eq!((again.moved, &again.sessions), (1, &first.sessions));
    assert_eq!(removed.path.metadata().unwrap().len(), removed.bytes);
    // All of them: the directory is gone too.
    std::fs::remove_dir_all(&session.session.directory).unwrap();
    let again = site.fetch(&fresh).await.unwrap();
    assert_eq!((again.moved, &again.sessions), (4, &first.sessions));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_closes_idle_associations_is_connected_anew() {
    let patience = Duration::from_millis(500);
    let site = Site::start(Faults { closes_idle_after: Some(patience), ..Faults::default() }).await;
    // A receiver that starts, or stops: the fetch waits for it, while its associations have nothing to do.
    let lock = site.settings.images.root.join("_incoming/lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let receiver = std::fs::File::create(&lock).unwrap();
    receiver.lock().unwrap();
    let (wish, settings) = (site.wish(), site.settings.clone());
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fetch(&wish, &settings, &CancellationToken::new(), &mut |_| {}))
    });
    until("the archive was asked", LONG, || site.aria.begun() > 0);
    until("the archive has closed its associations", LONG, || site.aria.open_associations() == 0);
    drop(receiver);
    assert_eq!(uids(&waiting.join().unwrap().unwrap()), site.newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_his_turn_keeps_no_association() {
    let site = Site::start(Faults::default()).await;
    let peer = Archive::new(site.settings.archives.first().unwrap(), &site.settings.node.ae_title).peer();
    let turn = format!("move {peer} {} {}", site.patient.patient_id, site.patient.plans.first().unwrap().uid);
    let locks = site.settings.images.root.join("_catalog/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = locks.join(format!("{}.lock", scp_node::images::layout::short_hash(&turn)));
    let mover = std::fs::File::create(lock).unwrap();
    mover.lock().unwrap();
    let (wish, settings) = (site.wish(), site.settings.clone());
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fetch(&wish, &settings, &CancellationToken::new(), &mut |_| {}))
    });
    until("the archive was asked", LONG, || site.aria.begun() > 0);
    until("the associations are released", LONG, || site.aria.open_associations() == 0);
    drop(mover);
    assert_eq!(uids(&waiting.join().unwrap().unwrap()), site.newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_answers_without_end_is_stopped_by_bytes() {
    let site = Site::start(Faults { answers_without_end: Some(900_000), ..Faults::default() }).await;
    let error = site.fails().await;
    assert!(matches!(error, Error::Limit { what: "the bytes of an archive's answers", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_and_a_cancelled_move_are_cancelled_at_the_archive_too() {
    for (faults, what) in [
        (Faults { answer_delay: Duration::from_secs(50), ..Faults::default() }, "C-FIND"),
        (Faults { stall_after_sub_operations: Some(1), ..Faults::default() }, "C-MOVE"),
    ] {
        let site = Site::start(faults).await;
        let mut settings = site.settings.clone();
        settings.archives.first_mut().unwrap().response_timeout_s = 3600.0;
        let (wish, cancel) = (site.wish(), CancellationToken::new());
        let (token, (moving, moves)) = (cancel.clone(), std::sync::mpsc::channel());
        let fetching = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let mut progress = |step| {
                if matches!(step, Step::Moving { done: 1.., .. }) {
                    let _ = moving.send(());
                }
            };
            runtime.block_on(fetch(&wish, &settings, &token, &mut progress))
        });
        if what == "C-MOVE" {
            moves.recv().unwrap();
        } else {
            until("the archive is asked", LONG, || site.aria.begun() > 0);
        }
        let start = Instant::now();
        cancel.cancel();
        assert_eq!(fetching.join().unwrap().unwrap_err().kind(), "cancelled");
        // 2 s are what an archive gets that does not answer a C-CANCEL.
        assert!(start.elapsed() < Duration::from_millis(1900), "{what}: 0xFE00 was not understood");
        let asked = site.aria.asked();
        let last: Vec<_> = asked.iter().rev().take(2).map(|a| (a.what, a.status)).collect();
        assert_eq!(last, [(what, Status(0xFE00)), ("C-CANCEL", Status(0xFE00))], "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limit_and_cancellation_end_a_fetch_at_once() {
    let site = Site::start(Faults { stall_after_sub_operations: Some(1), ..Faults::default() }).await;
    let mut settings = site.settings.clone();
    settings.archives.first_mut().unwrap().response_timeout_s = 3600.0;
    let limited = FetchRequest { timeout: Some(Duration::from_millis(300)), ..site.wish() };
    let start = Instant::now();
    let error = fetch(&limited, &settings, &CancellationToken::new(), &mut |_| {}).await.unwrap_err();
    contains(&error, "longer than 0.3 s", "goes on from there");
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
    });
    let error = fetch(&site.wish(), &settings, &cancel, &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), "cancelled");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // Nothing of them is left: the port is free and the directory can be received into.
    site.aria.set_faults(Faults::default());
    assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), site.newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn cropped_answers_are_not_taken_for_all_and_nothing_known_is_forgotten() {
    for crop in [
        Faults { crop_series: Some(3), ..Faults::default() },
        Faults { crop_images: Some(2), ..Faults::default() },
        // Asked series by series, study by study.
        Faults { crop_series: Some(2), hierarchical_only: Some(Status(0xA900)), ..Faults::default() },
        // One relational query over the whole patient.
        Faults {
            crop_images: Some(20),
            empty_keys: vec![tags::NUMBER_OF_SERIES_RELATED_INSTANCES],
            ..Faults::default()
        },
    ] {
        let site = Site::start(Faults { crop_series: None, crop_images: None, ..crop.clone() }).await;
        site.fetch(&site.wish()).await.unwrap();
        let before = site.remembered();
        let newer = site.next_day();
        site.add(&newer);
        site.aria.set_faults(crop.clone());
        let moves = site.moves();
        let error = site.fails().await;
        contains(&error, "ended the query before it had told all", "limit of results");
        assert_eq!((site.remembered(), site.moves()), (before, moves), "{crop:?}");
        site.aria.set_faults(Faults { crop_series: None, crop_images: None, ..crop });
        assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), uids_of(&newer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_a_warning_are_answers_and_a_cancel_of_the_archive_s_own_is_not_an_end() {
    for faults in [
        Faults { pending_status: Some(Status(0xFF01)), ..Faults::default() },
        Faults { last_status: Some(Status(0xB000)), ..Faults::default() },
        Faults { last_status: Some(Status(0x0107)), ..Faults::default() },
    ] {
        let site = Site::start(faults.clone()).await;
        assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), site.newest(), "{faults:?}");
    }
    let site = Site::start(Faults { last_status: Some(Status(0xFE00)), ..Faults::default() }).await;
    contains(&site.fails().await, "before it had told all (C-FIND status 0xFE00)", "limit of results");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_keeps_nobody_from_asking() {
    for refresh in [true, false] {
        let site = Site::start(Faults::default()).await;
        site.fetch(&site.wish()).await.unwrap();
        let ahead =
            "UPDATE asked SET asked_ms = asked_ms + 3600000, plans_asked_ms = plans_asked_ms + 3600000";
        site.catalog().execute(ahead, []).unwrap();
        let newer = site.next_day();
        site.add(&newer);
        let request = FetchRequest { refresh, ..site.wish() };
        assert_eq!(uids(&site.fetch(&request).await.unwrap()), uids_of(&newer), "refresh: {refresh}");
    }
}

/// Every plan of the patient under another label.
fn renamed(site: &Site) -> Vec<Instance> {
    let mut instances = site.patient.instances.clone();
    for plan in instances.iter_mut().filter(|i| i.text(tags::MODALITY) == "RTPLAN") {
        let label = format!("{}_NEW", plan.text(tags::RT_PLAN_LABEL));
        plan.header.put(DataElement::new(tags::RT_PLAN_LABEL, VR::SH, PrimitiveValue::from(label)));
    }
    instances
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_believed_for_twelve_hours_and_not_longer() {
    let renamed_is_found = async |shift_h: i64| {
        let site = Site::start(Faults::default()).await;
        site.fetch(&site.wish()).await.unwrap();
        site.aria.set_instances(renamed(&site));
        let shift = "UPDATE asked SET plans_asked_ms = plans_asked_ms + ?1 * 3600000";
        site.catalog().execute(shift, [shift_h]).unwrap();
        let request = FetchRequest { plan_label: Some("WL_10MV_NEW".into()), ..site.wish() };
        match site.fetch(&request).await {
            Ok(fetched) => uids(&fetched) == site.newest(),
            Err(error) => {
                assert_eq!(error.kind(), "not_found", "{error}");
                false
            }
        }
    };
    assert!(!renamed_is_found(-11).await);
    assert!(renamed_is_found(-13).await);
    assert!(renamed_is_found(1).await, "asked for in the future, by a clock that was set back since");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_lack_of_some_images_is_read_from_those_though_others_are_told() {
    let dates =
        [tags::ACQUISITION_DATE, tags::ACQUISITION_TIME, tags::CONTENT_DATE, tags::CONTENT_TIME].to_vec();
    let beam = [tags::PRIMARY_DOSIMETER_UNIT, tags::EXPOSURE_SEQUENCE].to_vec();
    for keys in [vec![tags::REFERENCED_RT_PLAN_SEQUENCE], dates, vec![tags::IMAGE_TYPE], beam] {
        for untold in [1, 4] {
            let site = Site::start(Faults::default()).await;
            let request = FetchRequest { image_type: Some("PORTAL".into()), ..site.wish() };
            site.fetch(&request).await.unwrap();
            let newer = site.next_day();
            site.add(&newer);
            let empty_keys_of =
                newer.iter().take(untold).map(|i| (i.sop_instance_uid(), keys.clone())).collect();
            site.aria.set_faults(Faults { empty_keys_of, ..Faults::default() });
            let fetched = site.fetch(&request).await.unwrap();
            assert_eq!(uids(&fetched), uids_of(&newer), "{keys:?} of {untold}");
            assert_eq!(fetched.moved, 4, "{keys:?} of {untold}: nothing else is looked into");
            let by_date = FetchRequest { date: "2026-03-17".parse().ok(), ..request.clone() };
            let again = site.fetch(&by_date).await.unwrap();
            assert_eq!((uids(&again), again.moved), (uids_of(&newer), 0), "{keys:?} of {untold}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_object_itself_lacks_is_looked_for_once_and_then_absent() {
    let site = Site::start(Faults::default()).await;
    let mut newer = site.next_day();
    for image in &mut newer {
        image.header.remove_element(tags::REFERENCED_RT_PLAN_SEQUENCE);
    }
    site.add(&newer);
    let fetched = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (site.newest(), 8), "those of no plan were looked into");
    let again = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&again), again.moved), (site.newest(), 0));
}

/// What the archive holds after an image of the newest session was deleted, and another one taken into its series.
fn retaken(site: &Site) -> (Vec<Instance>, BTreeSet<String>) {
    let mut instances = site.patient.instances.clone();
    let mut session = site.newest();
    let deleted = session.pop_first().unwrap();
    let image = instances.iter_mut().find(|i| i.sop_instance_uid() == deleted).unwrap();
    let (series, date) = (image.text(tags::SERIES_INSTANCE_UID), image.text(tags::ACQUISITION_DATE));
    *image = altered(image, "2.25.77.9", &series, &date);
    session.insert("2.25.77.9".into());
    (instances, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_retaken_into_its_series_is_seen_though_the_count_is_the_same() {
    for faults in [Faults::default(), Faults { wrong_counts: true, ..Faults::default() }] {
        let is_counted_right = !faults.wrong_counts;
        let site = Site::start(faults).await;
        site.fetch(&site.wish()).await.unwrap();
        let unchanged = site.fetch(&site.wish()).await.unwrap();
        if is_counted_right {
            assert_eq!(unchanged.queries, 2, "the series, and the images of the one that is handed out");
        }
        let (instances, session) = retaken(&site);
        site.aria.set_instances(instances);
        let fetched = site.fetch(&site.wish()).await.unwrap();
        assert_eq!((uids(&fetched), fetched.moved), (session, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_which_all_was_deleted_makes_way_for_the_one_before() {
    let site = Site::start(Faults::default()).await;
    site.fetch(&site.wish()).await.unwrap();
    // In its series there are as many images as before, others, of the other beam.
    let newest = site.newest();
    let mut instances = site.patient.instances.clone();
    for image in instances.iter_mut().filter(|i| newest.contains(&i.sop_instance_uid())) {
        image.header.put(DataElement::new(
            tags::PRIMARY_DOSIMETER_UNIT,
            VR::CS,
            PrimitiveValue::from("MINUTE"),
        ));
        let uid = format!("{}.1", image.sop_instance_uid());
        image.header.put(DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, PrimitiveValue::from(uid)));
    }
    site.aria.set_instances(instances);
    let plan = site.patient.plans.first().unwrap();
    let before = site.patient.mv_session(plan, *plan.sessions.get(1).unwrap());
    let expected = before.into_iter().map(|i| i.sop_instance_uid()).collect();
    assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_retaken_meanwhile_is_seen_after_the_move_that_missed_the_deleted_one() {
    let site = Site::start(Faults::default()).await;
    let (instances, session) = retaken(&site);
    let mut meanwhile = Some(instances);
    let mut retake = |step| {
        if matches!(step, Step::Moving { .. })
            && let Some(instances) = meanwhile.take()
        {
            site.aria.set_instances(instances);
        }
    };
    let fetched = fetch(&site.wish(), &site.settings, &CancellationToken::new(), &mut retake).await.unwrap();
    assert_eq!(uids(&fetched), session);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_within_the_freshness_time_is_listed_anew_and_what_is_there_is_not() {
    let site = Site::start(Faults::default()).await;
    let other = FetchRequest { plan_label: Some("WL_6FFF".into()), ..site.wish() };
    site.fetch(&other).await.unwrap();
    let (instances, session) = retaken(&site);
    site.aria.set_instances(instances);
    let request = FetchRequest { refresh: false, ..site.wish() };
    assert_eq!(uids(&site.fetch(&request).await.unwrap()), session);
    let again = site.fetch(&request).await.unwrap();
    assert_eq!((uids(&again), again.queries), (session, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_freshness_time_ends() {
    let mut site = Site::start(Faults::default()).await;
    site.settings.archives.first_mut().unwrap().fresh_for_s = 3600.0;
    let request = FetchRequest { refresh: false, ..site.wish() };
    site.fetch(&request).await.unwrap();
    let newer = site.next_day();
    site.add(&newer);
    assert_eq!(site.fetch(&request).await.unwrap().queries, 0);
    site.settings.archives.first_mut().unwrap().fresh_for_s = 0.001;
    let asked_a_moment_ago = Instant::now();
    until("a millisecond is over", Duration::from_secs(5), || {
        asked_a_moment_ago.elapsed() > Duration::from_millis(2)
    });
    assert_eq!(uids(&site.fetch(&request).await.unwrap()), uids_of(&newer));
}

/// An archive that tells no labels, and cannot export this plan.
fn not_exported(plan_uid: &str) -> Faults {
    Faults {
        empty_keys: vec![tags::RT_PLAN_LABEL],
        fail_instances: [plan_uid.to_owned()].into(),
        ..Faults::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_cannot_be_exported_keeps_no_other_from_being_fetched() {
    let site = Site::start(Faults::default()).await;
    // One that no image names, one whose images are of the same day, one whose images are older.
    let mut plan =
        site.patient.instances.iter().find(|i| i.text(tags::MODALITY) == "RTPLAN").unwrap().clone();
    for (tag, uid) in [(tags::SOP_INSTANCE_UID, "2.25.77.5"), (tags::SERIES_INSTANCE_UID, "2.25.77.6")] {
        plan.header.put(DataElement::new(tag, VR::UI, PrimitiveValue::from(uid)));
    }
    site.add(&[plan]);
    let (same_day, older) =
        (&site.patient.plans.get(1).unwrap().uid, &site.patient.plans.get(2).unwrap().uid);
    for (plan, is_told) in [("2.25.77.5", false), (same_day.as_str(), true), (older.as_str(), true)] {
        site.aria.set_faults(not_exported(plan));
        let fetched = site.fetch(&site.wish()).await.unwrap_or_else(|e| panic!("{plan}: {e}"));
        assert_eq!(uids(&fetched), site.newest());
        let told = fetched.notices.iter().any(|n| n.contains(plan) && n.contains("--plan-uid"));
        assert_eq!(told, is_told, "{:?}", fetched.notices);
        let images = site.settings.images.root.clone();
        std::fs::remove_dir_all(images).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_a_label_that_may_be_the_wanted_one_is_told_instead_of_an_older_session() {
    let site = Site::start(Faults::default()).await;
    let wanted = site.patient.plans.first().unwrap().uid.clone();
    site.aria.set_faults(not_exported(&wanted));
    let error = site.fails().await;
    contains(&error, &wanted, &format!("--plan-uid {wanted}"));
    let by_uid = FetchRequest { plan_uid: Uid::new(&wanted), ..site.wish() };
    assert_eq!(uids(&site.fetch(&by_uid).await.unwrap()), site.newest());
    let nobody_s = FetchRequest { plan_label: Some("NO_SUCH".into()), ..site.wish() };
    contains(&site.fetch(&nobody_s).await.unwrap_err(), "no plan called `NO_SUCH`", &wanted);
    // What is not the plan's fault ends the fetch as before.
    let silent = Faults { never_calls_back: Some(Duration::from_secs(60)), ..not_exported(&wanted) };
    site.aria.set_faults(silent);
    let images = site.settings.images.root.clone();
    std::fs::remove_dir_all(images).unwrap();
    contains(&site.fails().await, "nothing reached our port", "firewall");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_must_look_into_the_same_objects_move_each_once() {
    let silent = vec![
        tags::RT_PLAN_LABEL,
        tags::REFERENCED_RT_PLAN_SEQUENCE,
        tags::IMAGE_TYPE,
        tags::ACQUISITION_DATE,
        tags::CONTENT_DATE,
        tags::PRIMARY_DOSIMETER_UNIT,
        tags::EXPOSURE_SEQUENCE,
        tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
    ];
    let site = Site::start(Faults { empty_keys: silent, ..Faults::default() }).await;
    let (one, two) = (site.wish(), FetchRequest { kv: true, ..site.wish() });
    let (one, two) = tokio::join!(site.fetch(&one), site.fetch(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(uids(&one), site.newest());
    let there: i64 = site.catalog().query_row("SELECT count(*) FROM instances", [], |r| r.get(0)).unwrap();
    let stored: usize = site.aria.asked().iter().filter(|a| a.what == "C-MOVE").map(|a| a.results).sum();
    let there = there as usize;
    assert_eq!((stored, one.moved + two.moved), (there, there));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_archive_is_asked_is_found_out_once() {
    let site = Site::start(Faults { hierarchical_only: Some(Status(0xA900)), ..Faults::default() }).await;
    let relational = |asked: &[scp_node::demo::Asked]| {
        asked.iter().filter(|a| a.what == "C-FIND" && a.status == Status(0xA900)).count()
    };
    site.fetch(&site.wish()).await.unwrap();
    let first = site.aria.asked();
    assert_eq!(relational(&first), 1, "{first:?}");
    site.add(&site.next_day());
    site.fetch(&site.wish()).await.unwrap();
    let second = site.aria.asked().split_off(first.len());
    assert!(!second.is_empty() && relational(&second) == 0, "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strategy_that_is_set_is_followed() {
    let mut site = Site::start(Faults::default()).await;
    site.settings.archives.first_mut().unwrap().strategy = Strategy::Hierarchical;
    assert_eq!(uids(&site.fetch(&site.wish()).await.unwrap()), site.newest());
    let finds: Vec<_> = site.aria.asked().into_iter().filter(|a| a.what == "C-FIND").collect();
    let above = |a: &scp_node::demo::Asked| {
        let keys = &a.identifier;
        keys.starts_with("STUDY ") || (keys.contains("StudyInstanceUID=") && !keys.contains("PatientID"))
    };
    assert!(finds.len() > 3 && finds.iter().all(above), "{finds:?}");

    let mut site = Site::start(Faults { hierarchical_only: Some(Status(0xA900)), ..Faults::default() }).await;
    site.settings.archives.first_mut().unwrap().strategy = Strategy::Relational;
    contains(&site.fails().await, "does not match its information model", "strategy = \"hierarchical\"");
    assert_eq!(site.aria.asked().len(), 1, "{:?}", site.aria.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn image_types_mixed_in_one_series_are_chosen_per_image() {
    let site = Site::start(Faults::default()).await;
    let mut newer = site.next_day();
    let portal: BTreeSet<String> = newer.iter().skip(2).map(Instance::sop_instance_uid).collect();
    for image in newer.iter_mut().take(2) {
        let simulator = PrimitiveValue::Strs(
            ["ORIGINAL", "PRIMARY", "SIMULATOR"].into_iter().map(String::from).collect(),
        );
        image.header.put(DataElement::new(tags::IMAGE_TYPE, VR::CS, simulator));
    }
    site.add(&newer);
    let request = FetchRequest { image_type: Some("PORTAL".into()), ..site.wish() };
    let fetched = site.fetch(&request).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (portal, 2));
    let all = site.fetch(&site.wish()).await.unwrap();
    assert_eq!((uids(&all), all.moved), (uids_of(&newer), 2));
}
