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

/// A record of the field `name` from and to so many seconds after eight, by the linac's clock.
fn ran(name: &str, from_s: f64, to_s: f64, mu: f64) -> Log {
    let at = |seconds: f64| eight() + TimeDelta::milliseconds((seconds * 1e3) as i64);
    Log {
        start_utc: at(from_s),
        end_utc: at(to_s),
        field_name: name.into(),
        meterset_mu: mu,
        beams_mu: vec![mu],
        ..record()
    }
}

/// A row of the field `name`, made and edited so many seconds after eight, by the server's clock.
fn entered(patient: i64, name: &str, from_s: f64, to_s: f64, mu: f64) -> Treatment {
    let at = |seconds: f64| eight().naive_utc() + TimeDelta::milliseconds((seconds * 1e3) as i64);
    let (created_local, edited_local, field_name) = (at(from_s), at(to_s), name.into());
    Treatment { field_name, meterset_mu: Some(mu), created_local, edited_local, ..row(patient, 0) }
}

/// Fields of one patient after the other, ten minutes apart, of a linac whose clock shows so many seconds more than the server's.
fn ordinary_patients(clock_s: f64, from_s: f64) -> (Vec<Log>, Vec<Treatment>) {
    (0..6)
        .map(|n| {
            let (name, begin_s, mu) =
                (format!("F{n}"), from_s + 600.0 * f64::from(n), 80.0 + 15.0 * f64::from(n));
            let server_s = begin_s - clock_s;
            let row = entered(100 + i64::from(n), &name, server_s - 20.0, server_s + 43.0, mu);
            (ran(&name, begin_s, begin_s + 40.0, mu), row)
        })
        .unzip()
}

fn rows_of(outcome: &Outcome) -> &[usize] {
    match outcome {
        Outcome::Matched { treatments, .. } => treatments,
        _ => &[],
    }
}

#[test]
fn a_day_on_which_the_clock_was_set_does_not_shift_a_phantoms_records_by_one() {
    // The row of the first record was deleted, the record of the last row was lost, the clock was set over the weekend: each record
    // fits the next one's row if the clock was set only later in the morning.
    let (mut logs, mut rows) = ordinary_patients(-330.0, 2400.0);
    logs.splice(0..0, [ran("QA", -36.44, 0.0, 100.0), ran("QA", 64.88, 99.0, 100.0)]);
    rows.push(entered(1, "QA", 351.98, 433.04, 100.0));
    rows.push(entered(1, "QA", 448.4, 15_274.4, 100.0));
    let before = Drift { seconds: -384.0, spread_s: 13.0, n_pairs: 5 };
    let options = AlignOptions { drift_before: Some(before), ..AlignOptions::default() };
    let day = align_day(&logs, &rows, &options);
    assert_eq!(rows_of(&day.outcomes[0]), [0; 0], "its row was deleted: {:?}", day.outcomes[0]);
    assert_ne!(rows_of(&day.outcomes[1]), [7], "that is another's row: {:?}", day.outcomes[1]);
    for n in 2..logs.len() {
        assert_eq!(rows_of(&day.outcomes[n]), [n - 2], "{:?}", day.outcomes[n]);
    }
}

#[test]
fn a_record_between_two_of_one_patient_is_not_given_to_another() {
    // Patient 1 has the first field, patient 2 all four after it; the row of the second field of patient 2 was deleted, and
    // patient 1 has one of the same name and nearly the same meterset that a person edited hours later.
    let names = ["AP", "AP", "PA", "LLAT", "RLAT"];
    let metersets = [76.4, 28.5, 121.75, 56.5, 68.7];
    let begins = |n: usize| 600.0 * f64::from(u8::from(n > 0)) + 70.0 * n as f64;
    let log = |n: usize| ran(names[n], begins(n), begins(n) + 40.0, metersets[n]);
    let row =
        |n: usize| entered(1 + i64::from(n > 0), names[n], begins(n) - 20.0, begins(n) + 43.0, metersets[n]);
    let logs: Vec<Log> = (0..5).map(log).collect();
    let late = entered(1, "PA", 300.0, 15_000.0, 122.4);
    let rows = vec![row(0), row(1), late, row(3), row(4)];
    let options = AlignOptions {
        drift_before: Some(Drift { seconds: 0.0, spread_s: 3.0, n_pairs: 40 }),
        ..AlignOptions::default()
    };
    let day = align_day(&logs, &rows, &options);
    for n in [0, 1, 3, 4] {
        assert_eq!(rows_of(&day.outcomes[n]), [n], "{:?}", day.outcomes[n]);
    }
    assert!(matches!(day.outcomes[2], Outcome::Ambiguous { .. }), "a person decides: {:?}", day.outcomes[2]);
}

#[test]
fn an_unfinished_field_gets_no_more_after_another_patient_lay_there() {
    // Patient 1's field was interrupted for today, and its row edited hours later; patient 2 comes, then patient 3, whose row of the
    // same name was deleted: its record would be a further part of patient 1's field.
    let (mut logs, mut rows) = ordinary_patients(0.0, 4000.0);
    logs.splice(
        0..0,
        [
            ran("AP", 0.0, 14.0, 53.0),
            ran("PA", 55.0, 104.0, 108.3),
            ran("IMRT", 520.0, 650.0, 150.0),
            ran("AP", 1135.0, 1192.0, 87.4),
            ran("PA", 1205.0, 1254.0, 82.9),
        ],
    );
    let unfinished = Treatment { beam_complete: false, ..entered(1, "AP", -85.0, 10_800.0, 197.1) };
    rows.extend([
        unfinished,
        entered(1, "PA", 20.0, 106.0, 108.3),
        entered(2, "IMRT", 480.0, 653.0, 150.0),
        entered(3, "PA", 1195.0, 1257.0, 82.9),
    ]);
    let before = Drift { seconds: 0.0, spread_s: 3.0, n_pairs: 40 };
    let options = AlignOptions { drift_before: Some(before), ..AlignOptions::default() };
    let day = align_day(&logs, &rows, &options);
    for (log, row) in [(1, 7), (2, 8), (4, 9)] {
        assert_eq!(rows_of(&day.outcomes[log]), [row], "{:?}", day.outcomes[log]);
    }
    assert_eq!(rows_of(&day.outcomes[3]), [0; 0], "its own row was deleted: {:?}", day.outcomes[3]);
}

#[test]
fn a_clock_is_not_put_forward_by_more_than_it_shows_between_two_records() {
    // One field in two parts, each with its row; the clock is set later, by as much as makes both parts fit the first row.
    let (mut logs, mut rows) = ordinary_patients(399.0, 8000.0);
    logs.splice(0..0, [ran("PA", 0.0, 51.0, 193.58), ran("PA", 133.0, 180.0, 105.78)]);
    let first = Treatment { beam_complete: false, ..entered(1, "PA", -290.0, -211.4, 299.4) };
    let second = Treatment { field_id: first.field_id, ..entered(1, "PA", -190.7, -87.3, 299.4) };
    rows.extend([first, second]);
    let before = Drift { seconds: 264.0, spread_s: 8.0, n_pairs: 34 };
    let options = AlignOptions { drift_before: Some(before), ..AlignOptions::default() };
    let day = align_day(&logs, &rows, &options);
    assert_eq!(rows_of(&day.outcomes[0]), [6], "{:?}", day.outcomes[0]);
    // Near a step a person may be asked, but is not told that the two are alike.
    match &day.outcomes[1] {
        Outcome::Matched { treatments, .. } => assert_eq!(treatments, &[7]),
        Outcome::Ambiguous { candidates } => {
            let far = candidates.iter().skip(1).all(|other| other.behind > options.margin);
            assert!(candidates[0].treatments == [7] && far, "{candidates:?}");
        }
        other => panic!("{other:?}"),
    }
}
