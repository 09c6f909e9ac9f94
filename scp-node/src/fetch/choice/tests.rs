//! Which plan and images are chosen, from listings made by hand.

use super::*;

const OLD: &str = "2026-03-02T06:40:00";
const NEW: &str = "2026-03-09T06:40:00";
const NEWEST: &str = "2026-03-16T06:40:00";

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

/// An MV portal image of plan 9.1.
fn image(series: u32, n: u32, acquired: &str) -> ListedImage {
    ListedImage {
        sop_instance_uid: uid(&format!("1.{series}.{n}")),
        study_uid: uid("1"),
        series_uid: uid(&format!("1.{series}")),
        plan_uid: Some(uid("9.1")),
        acquired: acquired.parse().ok(),
        image_type: Some("ORIGINAL\\PRIMARY\\PORTAL".into()),
        beam: Some(Beam::Mv),
    }
}

fn plan(n: u32, label: Option<&str>) -> ListedPlan {
    ListedPlan {
        plan_uid: uid(&format!("9.{n}")),
        study_uid: uid("1"),
        series_uid: uid(&format!("8.{n}")),
        label: label.map(str::to_owned),
        dated: None,
    }
}

fn listing(images: Vec<ListedImage>) -> Listing {
    let plans = vec![plan(1, Some("WL")), plan(2, Some("OTHER"))];
    Listing { images, plans, ..Listing::default() }
}

fn wish() -> FetchRequest {
    FetchRequest::new("P", "WL")
}

fn last_numbers(images: &[ListedImage]) -> Vec<&str> {
    images.iter().map(|i| i.sop_instance_uid.as_str().strip_prefix("1.").unwrap()).collect()
}

/// `series.number` of what is chosen, session by session, newest first.
fn chosen(listing: &Listing, wish: &FetchRequest) -> Vec<String> {
    match choose(listing, wish, &Unread::new()) {
        Choice::Sessions { sessions, .. } => {
            sessions.iter().map(|s| last_numbers(&s.images).join(" ")).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// What must be looked into first: plans, then images.
fn open(listing: &Listing, wish: &FetchRequest) -> (Vec<String>, Vec<String>) {
    match choose(listing, wish, &Unread::new()) {
        Choice::Headers { plans, images } => (
            plans.iter().map(|p| p.plan_uid.to_string()).collect(),
            last_numbers(&images).into_iter().map(str::to_owned).collect(),
        ),
        other => panic!("{other:?}"),
    }
}

fn nothing(listing: &Listing, wish: &FetchRequest, unread: &Unread) -> Error {
    match choose(listing, wish, unread) {
        Choice::Nothing(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn plan_date_type_and_beam_are_those_of_each_image() {
    let mut images: Vec<_> = (1..=6).map(|n| image(1, n, NEW)).collect();
    images[1].plan_uid = Some(uid("9.2"));
    images[2].acquired = OLD.parse().ok();
    images[3].image_type = Some("ORIGINAL\\PRIMARY\\SIMULATOR".into());
    images[4].beam = Some(Beam::Kv);
    let listing = listing(images);
    assert_eq!(chosen(&listing, &wish()), ["1.1 1.4 1.6"]);
    let all = FetchRequest { all_dates: true, ..wish() };
    assert_eq!(chosen(&listing, &all), ["1.1 1.4 1.6", "1.3"]);
    let by_date = FetchRequest { date: "2026-03-02".parse().ok(), ..wish() };
    assert_eq!(chosen(&listing, &by_date), ["1.3"]);
    let before = FetchRequest { before: NEW.parse().ok(), ..wish() };
    assert_eq!(chosen(&listing, &before), ["1.3"]);
    let portal = FetchRequest { image_type: Some("portal".into()), ..wish() };
    assert_eq!(chosen(&listing, &portal), ["1.1 1.6"]);
    assert_eq!(chosen(&listing, &FetchRequest { kv: true, ..wish() }), ["1.5"]);
    let other = FetchRequest { plan_label: None, plan_uid: Some(uid("9.2")), ..wish() };
    assert_eq!(chosen(&listing, &other), ["1.2"]);
}

#[test]
fn of_two_plans_with_one_label_that_of_the_newest_matching_images_is_taken_and_told() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, NEWEST), image(3, 1, OLD)]);
    listing.images[1].plan_uid = Some(uid("9.2"));
    listing.plans[1].label = Some("WL".into());
    let Choice::Sessions { sessions, notices } = choose(&listing, &wish(), &Unread::new()) else { panic!() };
    assert_eq!(sessions.iter().map(|s| s.plan_uid.as_str()).collect::<Vec<_>>(), ["9.2"]);
    let notice = notices.first().unwrap();
    assert!(
        notice.contains("took 9.2, since the newest images belong to it") && notice.contains("(9.1)"),
        "{notice}"
    );
    // As kV images they do not count.
    listing.images[1].beam = Some(Beam::Kv);
    let Choice::Sessions { sessions, notices } = choose(&listing, &wish(), &Unread::new()) else { panic!() };
    assert_eq!(sessions[0].plan_uid.as_str(), "9.1");
    assert!(notices[0].contains("only it has such images"), "{notices:?}");
    let wrong = FetchRequest { plan_uid: Some(uid("9.1")), plan_label: Some("OTHER".into()), ..wish() };
    assert!(nothing(&listing, &wrong, &Unread::new()).to_string().contains("is called `WL`, not `OTHER`"));
}

#[test]
fn what_is_not_told_is_looked_into_where_it_may_change_the_choice_and_absent_on_disk() {
    let images = vec![image(1, 1, NEW), image(1, 2, NEW), image(2, 1, NEWEST), image(3, 1, OLD)];
    type Forget = fn(&mut ListedImage);
    let portal = FetchRequest { image_type: Some("PORTAL".into()), ..wish() };
    for forget in
        [(|i| i.plan_uid = None) as Forget, |i| i.acquired = None, |i| i.image_type = None, |i| i.beam = None]
    {
        // One of the chosen session's, a newer one, an older one.
        let mut listing = listing(images.clone());
        [1, 2, 3].into_iter().for_each(|n| forget(&mut listing.images[n]));
        let may_be_newer = listing.images[3].acquired.is_none();
        let expected: &[&str] = if may_be_newer { &["1.2", "2.1", "3.1"] } else { &["1.2", "2.1"] };
        assert_eq!(open(&listing, &portal).1, expected);
        assert_eq!(
            open(&listing, &FetchRequest { all_dates: true, ..portal.clone() }).1,
            ["1.2", "2.1", "3.1"]
        );
        listing.on_disk = [1, 2, 3].map(|n| listing.images[n].sop_instance_uid.clone()).into();
        if may_be_newer {
            // An image without a date is one all the same, and older than all others.
            assert_eq!(chosen(&listing, &portal), ["1.1"]);
            assert_eq!(chosen(&listing, &FetchRequest { all_dates: true, ..portal.clone() }).len(), 4);
        } else {
            assert_eq!(chosen(&listing, &portal), ["1.1"]);
        }
    }
}

#[test]
fn what_differs_otherwise_and_what_was_computed_is_not_looked_into() {
    let mut listing = listing((1..=5).map(|n| image(1, n, NEW)).collect());
    listing.images[1].plan_uid = None;
    listing.images[1].beam = Some(Beam::Kv);
    listing.images[2].acquired = None;
    listing.images[2].plan_uid = Some(uid("9.2"));
    listing.images[3].acquired = None;
    listing.images[3].beam = None;
    listing.images[3].image_type = Some("DERIVED\\SECONDARY\\DRR".into());
    assert_eq!(chosen(&listing, &wish()), ["1.1 1.5"]);
}

#[test]
fn a_plan_without_a_label_is_read_where_it_may_be_meant() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, OLD)]);
    listing.plans.extend([plan(3, None), plan(4, None)]);
    listing.images[1].plan_uid = Some(uid("9.3"));
    assert_eq!(open(&listing, &wish()), (vec!["9.3".to_owned()], vec![]), "nothing names 9.4");
    listing.on_disk = [uid("9.3")].into();
    assert_eq!(chosen(&listing, &wish()), ["1.1"], "it has none");
    listing.on_disk.clear();
    assert_eq!(chosen(&listing, &FetchRequest { plan_uid: Some(uid("9.1")), ..wish() }), ["1.1"]);
    let unknown = FetchRequest::new("P", "NO_SUCH");
    assert_eq!(open(&listing, &unknown).0, ["9.3", "9.4"]);
}

#[test]
fn a_plan_that_cannot_be_read_is_told_where_its_images_are_older_and_an_error_where_they_are_newer() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, OLD)]);
    listing.plans.push(plan(3, None));
    listing.images[1].plan_uid = Some(uid("9.3"));
    let why = Reason { what: "it does not come".into(), hint: "see to it".into(), comment: None };
    let unread: Unread = [(uid("9.3"), why)].into();
    let Choice::Sessions { sessions, notices } = choose(&listing, &wish(), &unread) else { panic!() };
    assert_eq!((sessions[0].plan_uid.as_str(), notices.len()), ("9.1", 1));
    assert!(
        notices[0].contains("plan 9.3 (images that name it: 1)") && notices[0].contains("it does not come"),
        "{notices:?}"
    );
    let unknown = nothing(&listing, &FetchRequest::new("P", "NO_SUCH"), &unread);
    assert!(unknown.to_string().contains("the label of plan 9.3 is not known"), "{unknown}");
    listing.images[1].acquired = NEWEST.parse().ok();
    let error = nothing(&listing, &wish(), &unread);
    assert_eq!(error.kind(), "incomplete", "{error}");
    assert!(
        error.hint().contains("--plan-uid 9.3") && error.hint().contains("see to it"),
        "{}",
        error.hint()
    );
    // Of another beam than is wanted, or after the time that is asked for, they do not matter.
    let before = FetchRequest { before: NEWEST.parse().ok(), ..wish() };
    assert!(matches!(choose(&listing, &before, &unread), Choice::Sessions { .. }));
    listing.images[1].beam = Some(Beam::Kv);
    assert!(
        matches!(choose(&listing, &wish(), &unread), Choice::Sessions { notices, .. } if notices.is_empty())
    );
}

#[test]
fn an_error_says_what_is_there_instead() {
    let mut listing = listing(vec![image(1, 1, NEW)]);
    let hint = |listing: &Listing, wish: &FetchRequest| nothing(listing, wish, &Unread::new()).hint();
    assert!(hint(&listing, &FetchRequest::new("P", "wl")).contains("there is `WL`"));
    assert!(hint(&listing, &FetchRequest::new("P", "X")).contains("OTHER, WL"));
    assert!(hint(&listing, &FetchRequest { kv: true, ..wish() }).contains("leave out --kv"));
    assert!(
        hint(&listing, &FetchRequest { date: "2026-01-01".parse().ok(), ..wish() }).contains("2026-03-09")
    );
    assert!(
        hint(&listing, &FetchRequest { image_type: Some("X".into()), ..wish() }).contains("--image-type")
    );
    listing.images[0].plan_uid = None;
    listing.on_disk = [uid("1.1.1")].into();
    assert!(hint(&listing, &wish()).contains("no image names this plan"));
    assert!(hint(&Listing::default(), &wish()).contains("lists no plan of this patient"));
}

#[test]
fn a_date_without_a_time_is_looked_into_where_the_time_decides() {
    const DAY: &str = "2026-03-09T00:00:00";
    let alone = listing(vec![image(1, 1, DAY), image(2, 1, OLD)]);
    assert_eq!(chosen(&alone, &wish()), ["1.1"], "the only session of its day");
    let mut shared = listing(vec![image(1, 1, NEW), image(9, 1, DAY), image(3, 1, OLD)]);
    assert_eq!(open(&shared, &wish()).1, ["9.1"]);
    assert_eq!(open(&alone, &FetchRequest { before: NEW.parse().ok(), ..wish() }).1, ["1.1"]);
    let day_begins = FetchRequest { before: DAY.parse().ok(), ..wish() };
    assert_eq!(chosen(&alone, &day_begins), ["2.1"], "whatever the time, it is not before its day");
    shared.images[1].acquired = "2026-03-09T06:00:00".parse().ok();
    assert_eq!(chosen(&shared, &wish()), ["1.1"], "told meanwhile");
    // It has none.
    shared.images[1].acquired = DAY.parse().ok();
    shared.on_disk = [uid("1.9.1")].into();
    assert_eq!(chosen(&shared, &wish()), ["1.1"]);
}

#[test]
fn all_dates_are_those_of_the_plan_that_is_told() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, NEWEST), image(3, 1, OLD)]);
    listing.images[1].plan_uid = Some(uid("9.2"));
    listing.plans[1].label = Some("WL".into());
    let all = FetchRequest { all_dates: true, ..wish() };
    assert_eq!(chosen(&listing, &all), ["2.1"]);
    // Of the same second: the newer plan's, whatever the series are called.
    listing.images[1].acquired = NEW.parse().ok();
    listing.plans[0].dated = NEW.parse().ok();
    listing.plans[1].dated = OLD.parse().ok();
    assert_eq!(chosen(&listing, &all), ["1.1", "3.1"]);
    let Choice::Sessions { notices, .. } = choose(&listing, &all, &Unread::new()) else { panic!() };
    assert!(notices[0].contains("took 9.1, since it is the newer plan"), "{notices:?}");
}

#[test]
fn plans_that_images_name_and_the_archive_does_not_list_count_or_are_told() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, NEWEST), image(3, 1, OLD)]);
    listing.images[1].plan_uid = Some(uid("9.7"));
    listing.images[2].plan_uid = Some(uid("9.8"));
    let Choice::Sessions { sessions, notices } = choose(&listing, &wish(), &Unread::new()) else { panic!() };
    assert_eq!((sessions[0].plan_uid.as_str(), notices.len()), ("9.1", 1), "{notices:?}");
    assert!(notices[0].contains("newer images name plan 9.7") && notices[0].contains("--plan-uid 9.7"));
    listing.images.remove(0);
    assert!(nothing(&listing, &wish(), &Unread::new()).hint().contains("images name plan 9.7"));
    listing.known.push(crate::images::PlanRecord {
        plan_uid: uid("9.7"),
        patient_id: "P".into(),
        label: "WL".into(),
        dated: None,
    });
    assert_eq!(chosen(&listing, &wish()), ["2.1"], "the catalog knows its label");
    listing.plans.clear();
    let other = FetchRequest::new("P", "OTHER");
    assert!(nothing(&listing, &other, &Unread::new()).hint().contains("the patient's plans are: WL"));
    listing.known.clear();
    let hint = nothing(&listing, &other, &Unread::new()).hint();
    assert!(hint.contains("--plan-uid chooses one (9.7, 9.8)"), "{hint}");
}

#[test]
fn the_sentence_names_what_was_asked_for() {
    let mut listing = listing(vec![image(1, 1, NEW), image(2, 1, NEWEST)]);
    let before = FetchRequest { before: OLD.parse().ok(), ..wish() };
    let error = nothing(&listing, &before, &Unread::new());
    assert!(error.to_string().contains("before 2026-03-02 06:40:00"), "{error}");
    assert!(error.hint().contains("the earliest image is of 2026-03-09 06:40:00"), "{}", error.hint());
    let by_uid = FetchRequest { plan_uid: Some(uid("9.9")), ..wish() };
    assert!(nothing(&listing, &by_uid, &Unread::new()).to_string().contains("for plan 9.9"));
    // A label that nobody told is not handed back as the plan's.
    listing.plans[0].label = None;
    let by_uid = FetchRequest { plan_uid: Some(uid("9.1")), ..wish() };
    let Choice::Sessions { sessions, .. } = choose(&listing, &by_uid, &Unread::new()) else { panic!() };
    assert_eq!(sessions[0].plan_label, None);
}
