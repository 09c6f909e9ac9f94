//! Creation and last edit of a row, on the server's wall clock, to UTC: in the doubled and in the skipped hour they may be two pairs.

use chrono::{DateTime, NaiveDateTime, Utc};

use crate::Zone;

/// Creation and last edit of a row as instants: one pair, or two where the creation may be either of two.
///
/// Of the edits that may be meant, the first that is not before the creation is.
pub(super) fn spans(
    zone: &Zone,
    created: NaiveDateTime,
    edited: NaiveDateTime,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let edits = zone.instants(edited);
    let mut spans: Vec<_> = zone
        .instants(created)
        .into_iter()
        .filter_map(|create| Some((create, *edits.iter().find(|&&edit| edit >= create)?)))
        .collect();
    if spans.is_empty() {
        // Edited before it was created: a clock was set back in between. The creation is what is known.
        spans = zone.instants(created).into_iter().map(|create| (create, create)).collect();
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
    }

    fn berlin(created: &str, edited: &str) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        spans(&Zone::named("Europe/Berlin").unwrap(), at(created), at(edited))
    }

    #[test]
    fn a_row_across_the_change_lasts_as_long_as_it_did() {
        let spans = berlin("2024-10-27 02:55:00", "2024-10-27 02:05:00");
        assert_eq!(spans.len(), 1, "only the first 02:55 lies before a 02:05: {spans:?}");
        assert_eq!((spans[0].1 - spans[0].0).num_minutes(), 10);
    }

    #[test]
    fn a_row_within_the_doubled_hour_may_be_either_of_two() {
        let spans = berlin("2024-10-27 02:10:00", "2024-10-27 02:15:00");
        assert_eq!(spans.iter().map(|(c, e)| (*e - *c).num_minutes()).collect::<Vec<_>>(), [5, 5]);
    }
}
