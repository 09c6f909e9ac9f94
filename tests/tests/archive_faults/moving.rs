//! Connections, C-MOVE and what comes of it.

use std::time::{Duration, Instant};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use scp_node::Error;
use scp_node::demo::{Faults, Rejection};
use scp_node::dimse::Status;
use scp_node::fetch::{FetchRequest, Step, fetch, kept};
use scp_node::images::layout::short_hash;
use scp_node::names::{AeTitle, Uid};
use scp_node::scu::Archive;
use tests::peers::{free_port, until};
use tokio_util::sync::CancellationToken;

use super::{
    IMPATIENT_S, LONG, add, catalog, contains, fails, n_moves, newest, newest_session, start,
    start_impatient, uids, wish,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_asked_for_once_more_and_nothing_else() {
    for faults in [
        Faults { fail_next: 2, ..Faults::default() },
        Faults { warn_next: 2, ..Faults::default() },
        Faults { lie_next: 1, ..Faults::default() },
    ] {
        let site = start(faults.clone()).await;
        let fetched = site.fetch(&wish(&site)).await.unwrap();
        assert_eq!(uids(&fetched), newest(&site));
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
    let site = start_impatient(Faults::default()).await;
    let lost = newest(&site).into_iter().next().unwrap();
    site.aria.set_faults(Faults { fail_instances: [lost.clone()].into(), ..Faults::default() });
    // The second time all others are here, and only the lost one is asked for.
    for n in 1..=2 {
        let error = fails(&site).await;
        contains(&error, "1 of 4 objects are missing", "Beam Sequence");
        let Error::Incomplete { missing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(missing, std::slice::from_ref(&lost));
        assert_eq!(n_moves(&site), 2 * n, "asked for once, and once more for the missing one");
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
        let error = fails(&site).await;
        contains(&error, &format!("1 of 4 objects are missing ({lost})"), hint);
    }
    site.aria.set_faults(Faults::default());
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (newest(&site), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_get_no_delivery_has_its_own_sentence() {
    let site = start_impatient(Faults::default()).await;
    site.aria.set_faults(Faults { move_status: Some(Status(0xA801)), ..Faults::default() });
    contains(
        &fails(&site).await,
        "does not know the move destination SCP_NODE",
        "trusted as a destination too",
    );
    site.aria.set_faults(Faults { move_status: Some(Status(0xA702)), ..Faults::default() });
    contains(&fails(&site).await, "could not send to us", "firewall");
    site.aria.set_faults(Faults { move_status: Some(Status(0xC000)), ..Faults::default() });
    contains(&fails(&site).await, "moved nothing to us", "firewall");
    let nobody = ([127, 0, 0, 1], free_port()).into();
    site.aria.set_faults(Faults { wrong_destination: Some(nobody), ..Faults::default() });
    contains(&fails(&site).await, "to us", "IP address and port");
    let quick = Duration::from_millis(20);
    site.aria.set_faults(Faults { never_calls_back: Some(quick), ..Faults::default() });
    contains(&fails(&site).await, "to us", "firewall");
    site.aria.set_faults(Faults { never_calls_back: Some(Duration::from_secs(60)), ..Faults::default() });
    contains(&fails(&site).await, "nothing reached our port", "firewall");
    site.aria.set_faults(Faults { lie_next: usize::MAX, ..Faults::default() });
    contains(&fails(&site).await, "4 of 4 objects are missing", "says that it delivered them");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rejection_and_each_silence_has_its_own_sentence() {
    let site = start_impatient(Faults::default()).await;
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
        contains(&fails(&site).await, sentence, hint);
    }
    site.aria.set_faults(Faults { silent: true, ..Faults::default() });
    contains(&fails(&site).await, "association request took longer", "restart the archive's service");
    site.aria.set_faults(Faults { find_status: Some(Status(0xA700)), ..Faults::default() });
    contains(&fails(&site).await, "out of resources", "in a minute");
    site.aria.set_faults(Faults { drop_after_answers: Some(0), ..Faults::default() });
    contains(&fails(&site).await, "the connection was closed", "log");
    let slow = Faults { answer_delay: Duration::from_secs(60), ..Faults::default() };
    site.aria.set_faults(slow);
    contains(&fails(&site).await, "the answer to C-FIND took longer than 2 s", "response_timeout_s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ae_title_is_told_from_an_unknown_one() {
    let site = start(Faults::default()).await;
    let mut settings = site.settings.archives.first().unwrap().clone();
    let us = AeTitle::new("SCP_NODE").unwrap();
    settings.ae_title = AeTitle::new("OTHER").unwrap();
    contains(
        &Archive::new(&settings, &us).echo().await.unwrap_err(),
        "does not call itself OTHER",
        "ae_title",
    );
    site.aria.distrust("SCP_NODE");
    contains(&fails(&site).await, "does not know our AE title SCP_NODE", "trusted application entities");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_archive_is_waited_for() {
    let slow = Faults {
        answer_delay: Duration::from_millis(5),
        // Slower than the response time as a whole, but alive.
        sub_operation_delay: Duration::from_secs_f64(IMPATIENT_S * 0.3),
        ..Faults::default()
    };
    let site = start_impatient(slow).await;
    let mut steps = Vec::new();
    let fetched =
        fetch(&wish(&site), &site.settings, &CancellationToken::new(), &mut |s| steps.push(s)).await.unwrap();
    assert_eq!(uids(&fetched), newest(&site));
    assert!(steps.contains(&Step::Moving { done: 2, total: 4 }), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_connection_left_is_asked_for_over_a_new_one_once_and_then_by_the_next_fetch() {
    let site = start(Faults { drop_after_sub_operations: Some(2), ..Faults::default() }).await;
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (newest(&site), 4), "two and two");

    // One of four, then one of three.
    let site = start(Faults { drop_after_sub_operations: Some(1), ..Faults::default() }).await;
    contains(&fails(&site).await, "2 of 4 objects are missing", "try again");
    site.aria.set_faults(Faults::default());
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (newest(&site), 2));

    let site = start(Faults { drop_after_sub_operations: Some(0), ..Faults::default() }).await;
    assert_eq!(fails(&site).await.kind(), "unreachable", "nothing came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_removed_or_a_power_cut_emptied_is_moved_again() {
    let site = start(Faults::default()).await;
    let fresh = FetchRequest { refresh: false, ..wish(&site) };
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
    let site = start(Faults { closes_idle_after: Some(patience), ..Faults::default() }).await;
    // A receiver that starts, or stops: the fetch waits for it, while its associations have nothing to do.
    let lock = site.settings.images.root.join("_incoming/lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let receiver = std::fs::File::create(&lock).unwrap();
    receiver.lock().unwrap();
    let (wish, settings) = (wish(&site), site.settings.clone());
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fetch(&wish, &settings, &CancellationToken::new(), &mut |_| {}))
    });
    until("the archive was asked", LONG, || site.aria.begun() > 0);
    until("the archive has closed its associations", LONG, || site.aria.open_associations() == 0);
    drop(receiver);
    assert_eq!(uids(&waiting.join().unwrap().unwrap()), newest(&site));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_his_turn_keeps_no_association() {
    let site = start(Faults::default()).await;
    let peer = Archive::new(site.settings.archives.first().unwrap(), &site.settings.node.ae_title).peer();
    let series = newest_session(&site).first().unwrap().text(tags::SERIES_INSTANCE_UID).to_owned();
    let turn = format!("move {peer} {} {}", site.patient.patient_id, &short_hash(&series)[..1]);
    let locks = site.settings.images.root.join("_catalog/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = locks.join(format!("{}.lock", short_hash(&turn)));
    let mover = std::fs::File::create(lock).unwrap();
    mover.lock().unwrap();
    let (wish, settings) = (wish(&site), site.settings.clone());
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fetch(&wish, &settings, &CancellationToken::new(), &mut |_| {}))
    });
    until("the archive was asked", LONG, || site.aria.begun() > 0);
    until("the associations are released", LONG, || site.aria.open_associations() == 0);
    assert!(!waiting.is_finished() && n_moves(&site) == 0, "it waits");
    drop(mover);
    assert_eq!(uids(&waiting.join().unwrap().unwrap()), newest(&site));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_answers_without_end_is_stopped_by_bytes() {
    let site = start(Faults { answers_without_end: Some(900_000), ..Faults::default() }).await;
    let error = fails(&site).await;
    assert!(matches!(error, Error::Limit { what: "the bytes of an archive's answers", .. }), "{error}");
}

/// Cancels what the archive is busy with, and gives how long the fetch then took to end.
async fn cancelled(faults: &Faults, what: &str) -> Duration {
    let site = start(faults.clone()).await;
    let mut settings = site.settings.clone();
    settings.archives.first_mut().unwrap().response_timeout_s = 3600.0;
    let (wish, cancel) = (wish(&site), CancellationToken::new());
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
    let took = start.elapsed();
    // The archive notes what it was asked after it has answered.
    until("it is noted", LONG, || site.aria.asked().last().is_some_and(|a| a.what == what));
    let asked = site.aria.asked();
    let last: Vec<_> = asked.iter().rev().take(2).map(|a| (a.what, a.status)).collect();
    assert_eq!(last, [(what, Status(0xFE00)), ("C-CANCEL", Status(0xFE00))], "{asked:?}");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_and_a_cancelled_move_are_cancelled_at_the_archive_too() {
    for (faults, what) in [
        (Faults { answer_delay: Duration::from_secs(50), ..Faults::default() }, "C-FIND"),
        (Faults { stall_after_sub_operations: Some(1), ..Faults::default() }, "C-MOVE"),
    ] {
        // 2 s are what an archive gets that does not answer a C-CANCEL. A machine that is busy may need as long, once.
        let mut understood = false;
        for _ in 0..3 {
            understood = understood || cancelled(&faults, what).await < Duration::from_millis(1900);
        }
        assert!(understood, "{what}: 0xFE00 was not understood");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limit_and_cancellation_end_a_fetch_at_once() {
    let site = start(Faults { stall_after_sub_operations: Some(1), ..Faults::default() }).await;
    let mut settings = site.settings.clone();
    settings.archives.first_mut().unwrap().response_timeout_s = 3600.0;
    let limited = FetchRequest { timeout: Some(Duration::from_millis(300)), ..wish(&site) };
    let start = Instant::now();
    let error = fetch(&limited, &settings, &CancellationToken::new(), &mut |_| {}).await.unwrap_err();
    contains(&error, "longer than 0.3 s", "goes on from there");
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
    });
    let error = fetch(&wish(&site), &settings, &cancel, &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), "cancelled");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // Nothing of them is left: the port is free and the directory can be received into.
    site.aria.set_faults(Faults::default());
    assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), newest(&site));
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
    let site = start(Faults::default()).await;
    // One that no image names, one whose images are of the same day, one whose images are older.
    let mut plan =
        site.patient.instances.iter().find(|i| i.text(tags::MODALITY) == "RTPLAN").unwrap().clone();
    for (tag, uid) in [(tags::SOP_INSTANCE_UID, "2.25.77.5"), (tags::SERIES_INSTANCE_UID, "2.25.77.6")] {
        plan.header.put(DataElement::new(tag, VR::UI, PrimitiveValue::from(uid)));
    }
    add(&site, &[plan]);
    let (same_day, older) =
        (&site.patient.plans.get(1).unwrap().uid, &site.patient.plans.get(2).unwrap().uid);
    for (plan, is_told) in [("2.25.77.5", false), (same_day.as_str(), true), (older.as_str(), true)] {
        site.aria.set_faults(not_exported(plan));
        let fetched = site.fetch(&wish(&site)).await.unwrap_or_else(|e| panic!("{plan}: {e}"));
        assert_eq!(uids(&fetched), newest(&site));
        let told = fetched.notices.iter().any(|n| n.contains(plan) && n.contains("--plan-uid"));
        assert_eq!(told, is_told, "{:?}", fetched.notices);
        let images = site.settings.images.root.clone();
        std::fs::remove_dir_all(images).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_a_label_that_may_be_the_wanted_one_is_told_instead_of_an_older_session() {
    let site = start_impatient(Faults::default()).await;
    let wanted = site.patient.plans.first().unwrap().uid.clone();
    site.aria.set_faults(not_exported(&wanted));
    let error = fails(&site).await;
    contains(&error, &wanted, &format!("--plan-uid {wanted}"));
    let by_uid = FetchRequest { plan_uid: Uid::new(&wanted), ..wish(&site) };
    assert_eq!(uids(&site.fetch(&by_uid).await.unwrap()), newest(&site));
    let nobody_s = FetchRequest { plan_label: Some("NO_SUCH".into()), ..wish(&site) };
    contains(&site.fetch(&nobody_s).await.unwrap_err(), "no plan called `NO_SUCH`", &wanted);
    // What is not the plan's fault ends the fetch as before.
    let silent = Faults { never_calls_back: Some(Duration::from_secs(60)), ..not_exported(&wanted) };
    site.aria.set_faults(silent);
    let images = site.settings.images.root.clone();
    std::fs::remove_dir_all(images).unwrap();
    contains(&fails(&site).await, "nothing reached our port", "firewall");
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
    let site = start(Faults { empty_keys: silent, ..Faults::default() }).await;
    let (one, two) = (wish(&site), FetchRequest { kv: true, ..wish(&site) });
    let (one, two) = tokio::join!(site.fetch(&one), site.fetch(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(uids(&one), newest(&site));
    let there: i64 = catalog(&site).query_row("SELECT count(*) FROM instances", [], |r| r.get(0)).unwrap();
    let stored: usize = site.aria.asked().iter().filter(|a| a.what == "C-MOVE").map(|a| a.results).sum();
    let there = there as usize;
    assert_eq!((stored, one.moved + two.moved), (there, there));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_refuse_ourselves_is_no_fault_of_the_archive_nor_of_a_firewall() {
    let mut site = start(Faults::default()).await;
    let usual = site.settings.clone();
    site.settings.node.access.patients = vec!["NOBODY".into()];
    contains(&fails(&site).await, "takes no objects of this patient", "node.access.patients");
    assert_eq!(n_moves(&site), 0, "nothing could arrive");
    site.settings = usual.clone();
    site.settings.node.access.calling_ae = vec!["OTHER".into()];
    contains(&fails(&site).await, "node.access.calling_ae", "ARIA_DB");
    site.settings = usual.clone();
    site.settings.node.access.networks = vec!["10.1.0.0/16".to_owned().try_into().unwrap()];
    contains(&fails(&site).await, "node.access.networks", "127.0.0.1");
    site.settings = usual.clone();
    site.settings.images.keep_free_bytes = 1 << 60;
    contains(&fails(&site).await, "images.keep_free_bytes", "make room");
    site.settings = usual;
    assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), newest(&site));
}
