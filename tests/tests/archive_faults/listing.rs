//! C-FIND: what answers say, lack and hide, and what is remembered of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use scp_node::demo::{Faults, Instance};
use scp_node::dimse::Status;
use scp_node::fetch::{FetchRequest, Step, fetch, kept, plans, sessions};
use scp_node::images::{Catalog, Store};
use scp_node::names::Uid;
use scp_node::scu::resolver;
use scp_node::settings::Strategy;
use tests::peers::until;
use tests::site::Site;
use tokio_util::sync::CancellationToken;

use super::{
    LONG, add, altered, catalog, contains, fails, n_moves, newest, next_day, remembered, start, uids,
    uids_of, wish,
};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plans_with_one_label_the_one_of_the_newest_images_is_taken_and_the_other_can_be_forced() {
    let site = start(Faults::default()).await;
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!(uids(&fetched), newest(&site));
    assert_eq!(fetched.moved, 4, "neither kV images nor computed ones are moved");
    let (used, replaced) = (site.patient.plans.first().unwrap(), site.patient.plans.get(2).unwrap());
    assert_eq!(fetched.plan_uid, used.uid);
    let notice = fetched.notices.first().unwrap();
    assert!(notice.contains("2 plans are called `WL_10MV`") && notice.contains(&replaced.uid), "{notice}");
    let forced = FetchRequest { plan_uid: Uid::new(&replaced.uid), ..wish(&site) };
    let fetched = site.fetch(&forced).await.unwrap();
    assert_eq!(fetched.plan_uid, replaced.uid);
    let date = *replaced.sessions.first().unwrap();
    let expected =
        site.patient.mv_session(replaced, date).into_iter().map(|i| i.sop_instance_uid()).collect();
    assert_eq!(uids(&fetched), expected);
    // On a day on which only the replaced plan was used, its images decide.
    let by_date = FetchRequest { date: Some(date), ..wish(&site) };
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
            let site = start(faults).await;
            let request = FetchRequest { image_type: Some("PORTAL".into()), ..wish(&site) };
            let fetched =
                site.fetch(&request).await.unwrap_or_else(|e| panic!("{keys:?}: {e}\n{}", e.hint()));
            assert_eq!(uids(&fetched), newest(&site), "{keys:?}");
            let again = site.fetch(&request).await.unwrap();
            assert_eq!((uids(&again), again.moved), (newest(&site), 0), "{keys:?}: looked into once only");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_relational_is_walked_through() {
    for status in [0xA900, 0xC000] {
        let site = start(Faults { hierarchical_only: Some(Status(status)), ..Faults::default() }).await;
        assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), newest(&site));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_no_longer_lists_is_told_and_not_handed_out() {
    let site = start(Faults::default()).await;
    site.fetch(&wish(&site)).await.unwrap();
    let gone = newest(&site).into_iter().next().unwrap();
    let mut left = site.patient.instances.clone();
    left.retain(|i| i.sop_instance_uid() != gone);
    site.aria.set_instances(left);
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    let within_freshness = kept(&FetchRequest { refresh: false, ..wish(&site) }, &site.settings).unwrap();
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
        let site = start(Faults { crop_series: None, crop_images: None, ..crop.clone() }).await;
        site.fetch(&wish(&site)).await.unwrap();
        let before = remembered(&site);
        let newer = next_day(&site);
        add(&site, &newer);
        site.aria.set_faults(crop.clone());
        let moves = n_moves(&site);
        let error = fails(&site).await;
        contains(&error, "ended the query before it had told all", "limit of results");
        assert_eq!((remembered(&site), n_moves(&site)), (before, moves), "{crop:?}");
        site.aria.set_faults(Faults { crop_series: None, crop_images: None, ..crop });
        assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), uids_of(&newer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_a_warning_are_answers_and_a_cancel_of_the_archive_s_own_is_not_an_end() {
    for faults in [
        Faults { pending_status: Some(Status(0xFF01)), ..Faults::default() },
        Faults { last_status: Some(Status(0xB000)), ..Faults::default() },
        Faults { last_status: Some(Status(0x0107)), ..Faults::default() },
    ] {
        let site = start(faults.clone()).await;
        assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), newest(&site), "{faults:?}");
    }
    let site = start(Faults { last_status: Some(Status(0xFE00)), ..Faults::default() }).await;
    contains(&fails(&site).await, "before it had told all (C-FIND status 0xFE00)", "limit of results");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_keeps_nobody_from_asking() {
    for refresh in [true, false] {
        let site = start(Faults::default()).await;
        site.fetch(&wish(&site)).await.unwrap();
        let ahead =
            "UPDATE asked SET asked_ms = asked_ms + 3600000, plans_asked_ms = plans_asked_ms + 3600000";
        catalog(&site).execute(ahead, []).unwrap();
        let newer = next_day(&site);
        add(&site, &newer);
        let request = FetchRequest { refresh, ..wish(&site) };
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
    let old_is_believed = async |shift_h: i64| {
        let site = start(Faults::default()).await;
        site.fetch(&wish(&site)).await.unwrap();
        site.aria.set_instances(renamed(&site));
        let shift = "UPDATE asked SET plans_asked_ms = plans_asked_ms + ?1 * 3600000";
        catalog(&site).execute(shift, [shift_h]).unwrap();
        match site.fetch(&wish(&site)).await {
            Ok(fetched) => uids(&fetched) == newest(&site),
            Err(error) => {
                contains(&error, "no plan called `WL_10MV`", "WL_10MV_NEW");
                false
            }
        }
    };
    assert!(old_is_believed(-11).await);
    assert!(!old_is_believed(-13).await);
    assert!(!old_is_believed(1).await, "asked for in the future, by a clock that was set back since");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_renamed_just_now_is_found_by_its_new_name() {
    let site = start(Faults::default()).await;
    let fresh = |label: &str| FetchRequest { refresh: false, plan_label: Some(label.into()), ..wish(&site) };
    let before = site.fetch(&fresh("WL_10MV")).await.unwrap();
    site.aria.set_instances(renamed(&site));
    let after = site.fetch(&fresh("WL_10MV_NEW")).await.unwrap();
    assert_eq!((uids(&after), after.moved), (uids(&before), 0));
    assert_eq!(after.plan_label.as_deref(), Some("WL_10MV_NEW"));
    let cancel = CancellationToken::new();
    let listed = plans("QA_TB_WL", Some("*_NEW"), None, &site.settings, &cancel);
    assert_eq!(listed.await.unwrap().plans.len(), site.patient.plans.len());
    // One that never was is looked for once, and then told.
    let series = || site.aria.asked().iter().filter(|a| a.identifier.starts_with("SERIES")).count();
    let before = series();
    let error = site.fetch(&fresh("WL_NONE")).await.unwrap_err();
    contains(&error, "no plan called `WL_NONE`", "WL_10MV_NEW");
    assert_eq!(series() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_lack_of_some_images_is_read_from_those_though_others_are_told() {
    let dates =
        [tags::ACQUISITION_DATE, tags::ACQUISITION_TIME, tags::CONTENT_DATE, tags::CONTENT_TIME].to_vec();
    let beam = [tags::PRIMARY_DOSIMETER_UNIT, tags::EXPOSURE_SEQUENCE].to_vec();
    for keys in [vec![tags::REFERENCED_RT_PLAN_SEQUENCE], dates, vec![tags::IMAGE_TYPE], beam] {
        for untold in [1, 4] {
            let site = start(Faults::default()).await;
            let request = FetchRequest { image_type: Some("PORTAL".into()), ..wish(&site) };
            site.fetch(&request).await.unwrap();
            let newer = next_day(&site);
            add(&site, &newer);
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
    let site = start(Faults::default()).await;
    let mut newer = next_day(&site);
    for image in &mut newer {
        image.header.remove_element(tags::REFERENCED_RT_PLAN_SEQUENCE);
    }
    add(&site, &newer);
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (newest(&site), 8), "those of no plan were looked into");
    let again = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&again), again.moved), (newest(&site), 0));
}

/// What the archive holds after an image of the newest session was deleted, and another one taken into its series.
fn retaken(site: &Site) -> (Vec<Instance>, BTreeSet<String>) {
    let mut instances = site.patient.instances.clone();
    let mut session = newest(site);
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
        let site = start(faults).await;
        site.fetch(&wish(&site)).await.unwrap();
        let unchanged = site.fetch(&wish(&site)).await.unwrap();
        if is_counted_right {
            assert_eq!(unchanged.queries, 2, "the series, and the images of the one that is handed out");
        }
        let (instances, session) = retaken(&site);
        site.aria.set_instances(instances);
        let fetched = site.fetch(&wish(&site)).await.unwrap();
        assert_eq!((uids(&fetched), fetched.moved), (session, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_which_all_was_deleted_makes_way_for_the_one_before() {
    let site = start(Faults::default()).await;
    site.fetch(&wish(&site)).await.unwrap();
    // In its series there are as many images as before, others, of the other beam.
    let newest = newest(&site);
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
    assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_retaken_meanwhile_is_seen_after_the_move_that_missed_the_deleted_one() {
    let site = start(Faults::default()).await;
    let (instances, session) = retaken(&site);
    let mut meanwhile = Some(instances);
    let mut retake = |step| {
        if matches!(step, Step::Moving { .. })
            && let Some(instances) = meanwhile.take()
        {
            site.aria.set_instances(instances);
        }
    };
    let fetched = fetch(&wish(&site), &site.settings, &CancellationToken::new(), &mut retake).await.unwrap();
    assert_eq!(uids(&fetched), session);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_within_the_freshness_time_is_listed_anew_and_what_is_there_is_not() {
    let site = start(Faults::default()).await;
    let other = FetchRequest { plan_label: Some("WL_6FFF".into()), ..wish(&site) };
    site.fetch(&other).await.unwrap();
    let (instances, session) = retaken(&site);
    site.aria.set_instances(instances);
    let request = FetchRequest { refresh: false, ..wish(&site) };
    assert_eq!(uids(&site.fetch(&request).await.unwrap()), session);
    let again = site.fetch(&request).await.unwrap();
    assert_eq!((uids(&again), again.queries), (session, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_freshness_time_ends() {
    let mut site = start(Faults::default()).await;
    site.settings.archives.first_mut().unwrap().fresh_for_s = 3600.0;
    let request = FetchRequest { refresh: false, ..wish(&site) };
    site.fetch(&request).await.unwrap();
    let newer = next_day(&site);
    add(&site, &newer);
    assert_eq!(site.fetch(&request).await.unwrap().queries, 0);
    site.settings.archives.first_mut().unwrap().fresh_for_s = 0.001;
    let asked_a_moment_ago = Instant::now();
    until("a millisecond is over", Duration::from_secs(5), || {
        asked_a_moment_ago.elapsed() > Duration::from_millis(2)
    });
    assert_eq!(uids(&site.fetch(&request).await.unwrap()), uids_of(&newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_archive_is_asked_is_found_out_once() {
    let site = start(Faults { hierarchical_only: Some(Status(0xA900)), ..Faults::default() }).await;
    let relational = |asked: &[scp_node::demo::Asked]| {
        asked.iter().filter(|a| a.what == "C-FIND" && a.status == Status(0xA900)).count()
    };
    site.fetch(&wish(&site)).await.unwrap();
    let first = site.aria.asked();
    assert_eq!(relational(&first), 1, "{first:?}");
    add(&site, &next_day(&site));
    site.fetch(&wish(&site)).await.unwrap();
    let second = site.aria.asked().split_off(first.len());
    assert!(!second.is_empty() && relational(&second) == 0, "{second:?}");
    // Who asks for labels in the background keeps to it.
    let plan = Uid::new(&site.patient.plans.first().unwrap().uid).unwrap();
    catalog(&site).execute_batch("DELETE FROM plans; UPDATE sessions SET plan_label = NULL").unwrap();
    let store = Store::open(&site.settings.images, &["*".to_owned()], 1 << 30).unwrap();
    let shutdown = CancellationToken::new();
    let n = site.aria.asked().len();
    let resolver = tokio::spawn(resolver::run(site.settings.clone(), store.subscribe(), shutdown.clone()));
    let label = || Catalog::open_readonly(&site.settings.images.root).unwrap().plan(&plan).unwrap();
    until("the label is known", LONG, || label().is_some());
    let third = site.aria.asked().split_off(n);
    assert!(!third.is_empty() && relational(&third) == 0, "{third:?}");
    shutdown.cancel();
    resolver.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strategy_that_is_set_is_followed() {
    let mut site = start(Faults::default()).await;
    site.settings.archives.first_mut().unwrap().strategy = Strategy::Hierarchical;
    assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), newest(&site));
    let finds: Vec<_> = site.aria.asked().into_iter().filter(|a| a.what == "C-FIND").collect();
    let above = |a: &scp_node::demo::Asked| {
        let keys = &a.identifier;
        keys.starts_with("STUDY ") || (keys.contains("StudyInstanceUID=") && !keys.contains("PatientID"))
    };
    assert!(finds.len() > 3 && finds.iter().all(above), "{finds:?}");

    let mut site = start(Faults { hierarchical_only: Some(Status(0xA900)), ..Faults::default() }).await;
    site.settings.archives.first_mut().unwrap().strategy = Strategy::Relational;
    contains(&fails(&site).await, "does not match its information model", "strategy = \"hierarchical\"");
    assert_eq!(site.aria.asked().len(), 1, "{:?}", site.aria.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn image_types_mixed_in_one_series_are_chosen_per_image() {
    let site = start(Faults::default()).await;
    let mut newer = next_day(&site);
    let portal: BTreeSet<String> = newer.iter().skip(2).map(Instance::sop_instance_uid).collect();
    for image in newer.iter_mut().take(2) {
        let simulator = PrimitiveValue::Strs(
            ["ORIGINAL", "PRIMARY", "SIMULATOR"].into_iter().map(String::from).collect(),
        );
        image.header.put(DataElement::new(tags::IMAGE_TYPE, VR::CS, simulator));
    }
    add(&site, &newer);
    let request = FetchRequest { image_type: Some("PORTAL".into()), ..wish(&site) };
    let fetched = site.fetch(&request).await.unwrap();
    assert_eq!((uids(&fetched), fetched.moved), (portal, 2));
    let all = site.fetch(&wish(&site)).await.unwrap();
    assert_eq!((uids(&all), all.moved), (uids_of(&newer), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sessions_of_one_day_whose_times_are_not_told_the_later_one_is_taken() {
    let site = start(Faults::default()).await;
    let mut later = next_day(&site);
    // A series UID that comes before the other one's says nothing about time.
    let mut earlier = later.clone();
    for (n, (early, late)) in earlier.iter_mut().zip(&mut later).enumerate() {
        let uid = format!("2.25.78.{n}");
        for (tag, vr, text) in [
            (tags::SOP_INSTANCE_UID, VR::UI, uid.as_str()),
            (tags::SERIES_INSTANCE_UID, VR::UI, "2.25.78"),
            (tags::ACQUISITION_TIME, VR::TM, "060000"),
        ] {
            early.header.put(DataElement::new(tag, vr, PrimitiveValue::from(text)));
        }
        late.header.put(DataElement::new(tags::ACQUISITION_TIME, VR::TM, PrimitiveValue::from("180000")));
    }
    add(&site, &[earlier.clone(), later.clone()].concat());
    for empty in [vec![tags::ACQUISITION_TIME], vec![tags::ACQUISITION_DATE, tags::ACQUISITION_TIME]] {
        site.aria.set_faults(Faults { empty_keys: empty, ..Faults::default() });
        assert_eq!(uids(&site.fetch(&wish(&site)).await.unwrap()), uids_of(&later));
        let noon = "2026-03-17T12:00:00".parse().ok();
        let before = site.fetch(&FetchRequest { before: noon, ..wish(&site) }).await.unwrap();
        assert_eq!(uids(&before), uids_of(&earlier));
        std::fs::remove_dir_all(&site.settings.images.root).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_and_not_listed_is_told() {
    let site = start(Faults { wrong_counts: true, ..Faults::default() }).await;
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    let told = |n: &String| n.contains("the archive counts") && n.contains("images in series");
    assert!(fetched.notices.iter().any(told), "{:?}", fetched.notices);
    let series: Vec<_> = site.aria.asked().into_iter().filter(|a| a.what == "C-FIND").collect();
    site.aria.set_faults(Faults::default());
    let fetched = site.fetch(&wish(&site)).await.unwrap();
    assert!(!fetched.notices.iter().any(told), "{:?} {series:?}", fetched.notices);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_and_who_fetches_ask_one_after_the_other() {
    let slow = Faults { answer_delay: Duration::from_millis(20), ..Faults::default() };
    let site = start(slow).await;
    let cancel = CancellationToken::new();
    let request = wish(&site);
    let found = plans(&site.patient.patient_id, None, None, &site.settings, &cancel);
    let (fetched, found) = tokio::join!(site.fetch(&request), found);
    assert_eq!((uids(&fetched.unwrap()), found.is_ok()), (newest(&site), true));
    let asked: Vec<bool> = site.aria.asked().iter().map(|a| a.identifier.starts_with("SERIES")).collect();
    assert!(asked[0] && !asked[1], "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_patient_is_asked_for_and_no_more() {
    let site = start(Faults::default()).await;
    let cancel = CancellationToken::new();
    for wrong in ["", "  ", "*", "?*", "A\\B"] {
        let error = site.fetch(&FetchRequest::new(wrong, "WL_10MV")).await.unwrap_err();
        assert_eq!(error.kind(), "misuse", "{wrong}: {error}");
        let found = plans(wrong, None, None, &site.settings, &cancel).await.map(|_| ());
        assert_eq!(found.unwrap_err().kind(), "misuse", "{wrong}");
        let found = sessions(wrong, None, None, None, &site.settings, &cancel).await.map(|_| ());
        assert_eq!(found.unwrap_err().kind(), "misuse", "{wrong}");
    }
    assert!(site.aria.asked().is_empty());
    let spaced = FetchRequest::new(&format!(" {} ", site.patient.patient_id), "WL_10MV ");
    assert_eq!(uids(&site.fetch(&spaced).await.unwrap()), newest(&site));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_archive_is_no_hierarchical_one() {
    let site = start(Faults { find_status: Some(Status(0xA700)), ..Faults::default() }).await;
    contains(&fails(&site).await, "out of resources", "in a minute");
    assert_eq!(site.aria.asked().len(), 1, "{:?}", site.aria.asked());
    site.aria.set_faults(Faults::default());
    site.fetch(&wish(&site)).await.unwrap();
    let strategy: String =
        catalog(&site).query_row("SELECT strategy FROM archives", [], |r| r.get(0)).unwrap();
    assert_eq!(strategy, "relational");
}
