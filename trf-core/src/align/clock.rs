//! The server's wall clock to UTC: an hour that occurs twice gives two instants, one that is skipped gives the two it may stand for.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// The instants that `local` may be, earlier first: one, or two in the doubled and in the skipped hour.
///
/// A clock that was put forward late, or a row written by a client with another clock, shows a time that does not exist;
/// it is read with the offset before and with the offset after the change.
pub(super) fn instants(zone: Tz, local: NaiveDateTime) -> Vec<DateTime<Utc>> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(time) => vec![time.to_utc()],
        MappedLocalTime::Ambiguous(first, second) => vec![first.to_utc(), second.to_utc()],
        MappedLocalTime::None => around_gap(zone, local),
    }
}

fn around_gap(zone: Tz, local: NaiveDateTime) -> Vec<DateTime<Utc>> {
    /// No zone skips more than a day.
    const FAR: TimeDelta = TimeDelta::hours(25);
    let with_offset_of = |other: Option<NaiveDateTime>| {
        let other = other?;
        let offset = other.signed_duration_since(zone.from_local_datetime(&other).earliest()?.naive_utc());
        Some(local.checked_sub_signed(offset)?.and_utc())
    };
    let mut both: Vec<_> = [local.checked_sub_signed(FAR), local.checked_add_signed(FAR)]
        .into_iter()
        .filter_map(with_offset_of)
        .collect();
    both.sort_unstable();
    both.dedup();
    both
}

/// Creation and last edit of a row as instants: one pair, or two where the creation may be either of two.
///
/// Of the edits that may be meant, the first that is not before the creation is.
pub(super) fn spans(
    zone: Tz,
    created: NaiveDateTime,
    edited: NaiveDateTime,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let edits = instants(zone, edited);
    let mut spans: Vec<_> = instants(zone, created)
        .into_iter()
        .filter_map(|create| Some((create, *edits.iter().find(|&&edit| edit >= create)?)))
        .collect();
    if spans.is_empty() {
        // Edited before it was created: a clock was set back in between. The creation is what is known.
        spans = instants(zone, created).into_iter().map(|create| (create, create)).collect();
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
    }

    fn texts(times: &[DateTime<Utc>]) -> Vec<String> {
        times.iter().map(|t| t.format("%m-%d %H:%M").to_string()).collect()
    }

    #[test]
    fn the_doubled_hour_keeps_both_candidates() {
        let berlin = instants(chrono_tz::Europe::Berlin, at("2024-10-27 02:30:00"));
        assert_eq!(texts(&berlin), ["10-27 00:30", "10-27 01:30"]);
        let sydney = instants(chrono_tz::Australia::Sydney, at("2024-04-07 02:30:00"));
        assert_eq!(texts(&sydney), ["04-06 15:30", "04-06 16:30"]);
    }

    #[test]
    fn the_skipped_hour_is_read_with_either_offset() {
        let berlin = instants(chrono_tz::Europe::Berlin, at("2024-03-31 02:30:00"));
        assert_eq!(texts(&berlin), ["03-31 00:30", "03-31 01:30"]);
        let sydney = instants(chrono_tz::Australia::Sydney, at("2024-10-06 02:30:00"));
        assert_eq!(texts(&sydney), ["10-05 15:30", "10-05 16:30"]);
    }

    #[test]
    fn a_row_across_the_change_lasts_as_long_as_it_did() {
        let spans = spans(chrono_tz::Europe::Berlin, at("2024-10-27 02:55:00"), at("2024-10-27 02:05:00"));
        assert_eq!(spans.len(), 1, "only the first 02:55 lies before a 02:05: {spans:?}");
        assert_eq!((spans[0].1 - spans[0].0).num_minutes(), 10);
    }

    #[test]
    fn a_row_within_the_doubled_hour_may_be_either_of_two() {
        let spans = spans(chrono_tz::Europe::Berlin, at("2024-10-27 02:10:00"), at("2024-10-27 02:15:00"));
        assert_eq!(spans.iter().map(|(c, e)| (*e - *c).num_minutes()).collect::<Vec<_>>(), [5, 5]);
    }
}
