//! What is known of the clocks from other days decides where the day itself cannot.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{AlignOptions, Day, Drift, Log, Outcome, Treatment, align_day};

fn eight() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(2026, 3, 2).unwrap().and_hms_opt(8, 0, 0).unwrap().and_utc()
}

/// A record of 30 s that ended at eight by the linac's clock.
fn record() -> Log {
    Log {
        id: "a".into(),
        start_utc: eight() - TimeDelta::seconds(30),
        end_utc: eight(),
        field_label: "1-1".into(),
        field_name: "AP".into(),
        meterset_mu: 50.0,
        beams_mu: vec![50.0],
    }
}

/// The same field of another patient, ended so many seconds after eight by the server's clock.
fn row(patient: i64, ended_s: i64) -> Treatment {
    let edited_local = eight().naive_utc() + TimeDelta::seconds(ended_s);
    Treatment {
        ttx_id: patient,
        dhs_id: None,
        pat_id1: patient,
        patient_id: Some(format!("QA{patient}")),
        last_name: String::new(),
        first_name: String::new(),
        field_id: patient,
        field_label: "1-1".into(),
        field_name: "AP".into(),
        field_type: 13,
        meterset_mu: Some(50.0),
        created_local: edited_local - TimeDelta::seconds(31),
        edited_local,
        qa_mode: true,
        beam_complete: true,
        beam_on: true,
        canceled: false,
    }
}

fn day(before: Option<f64>, after: Option<f64>) -> Day {
    let clock = |seconds| Drift { seconds, spread_s: 3.0, n_pairs: 20 };
    let options = AlignOptions {
        drift_before: before.map(clock),
        drift_after: after.map(clock),
        ..AlignOptions::default()
    };
    align_day(&[record()], &[row(1, 0), row(2, 360)], &options)
}

fn matched(day: &Day) -> Option<&[usize]> {
    match day.outcomes.as_slice() {
        [Outcome::Matched { treatments, .. }] => Some(treatments),
        _ => None,
    }
}

#[test]
fn two_patients_minutes_apart_are_told_apart_by_the_clock_of_an_earlier_or_a_later_day() {
    assert_eq!(matched(&day(None, None)), None, "nothing tells how the clocks stood");
    for (clock, row) in [(0.0, 0), (-360.0, 1)] {
        assert_eq!(matched(&day(Some(clock), None)), Some(&[row][..]), "{clock} s the day before");
        assert_eq!(matched(&day(None, Some(clock))), Some(&[row][..]), "{clock} s the day after");
        assert_eq!(matched(&day(Some(clock), Some(clock))), Some(&[row][..]), "{clock} s on both days");
    }
}

#[test]
fn clocks_of_two_days_that_contradict_each_other_decide_nothing() {
    assert_eq!(matched(&day(Some(0.0), Some(-360.0))), None, "the clock was set, before or after the record");
}

/// A field that was not finished, whose row a person edited two hours later, made so many seconds before the record began.
fn edited_hours_later(made_before_s: i64) -> Treatment {
    let created_local = record().start_utc.naive_utc() - TimeDelta::seconds(made_before_s);
    let edited_local = created_local + TimeDelta::hours(2);
    Treatment { meterset_mu: Some(50.3), created_local, edited_local, beam_complete: false, ..row(1, 0) }
}

#[test]
fn a_row_that_was_edited_hours_later_is_not_given_what_ran_long_after_it_was_made() {
    let clock = Drift { seconds: 0.0, spread_s: 3.0, n_pairs: 40 };
    let options = AlignOptions { drift_before: Some(clock), ..AlignOptions::default() };
    let align = |made_before_s| align_day(&[record()], &[edited_hours_later(made_before_s)], &options);
    assert_eq!(matched(&align(10)), Some(&[0][..]), "it ran as soon as the row was made");
    let late = align(1500);
    assert!(matches!(late.outcomes.as_slice(), [Outcome::Ambiguous { .. }]), "a person decides: {late:?}");
}
