//! Time zones by IANA name, daylight saving included: the clinic's wall clock to UTC and back.
//!
//! The database is in the program, so that Windows and bare containers have it too, and in one piece of bytes: tables with a
//! pointer for each change of each zone would be patched by the loader at every start, whatever the command needs.

use std::sync::OnceLock;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone without daylight saving.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The zone with an IANA name such as `Australia/Sydney`; upper and lower case are alike. `None`: there is none.
    pub fn named(name: &str) -> Option<Self> {
        static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
        DATABASE.get_or_init(TimeZoneDatabase::bundled).get(name).ok().map(Self)
    }

    /// What the wall clock is ahead of UTC then.
    pub fn offset(&self, time: DateTime<Utc>) -> TimeDelta {
        // A time beyond what the library knows is one no clock shows.
        let time = jiff::Timestamp::from_second(time.timestamp()).unwrap_or_default();
        seconds(self.0.to_offset(time))
    }

    /// What the wall clock shows then.
    pub fn local(&self, time: DateTime<Utc>) -> NaiveDateTime {
        time.naive_utc() + self.offset(time)
    }

    /// The instants that `local` may be, earlier first: one, or two in the doubled and in the skipped hour.
    ///
    /// A clock that was put forward late, or a row written by a client with another clock, shows a time that does not exist;
    /// it is read with the offset before and with the offset after the change.
    pub fn instants(&self, local: NaiveDateTime) -> Vec<DateTime<Utc>> {
        let to_second = jiff::Timestamp::from_second(local.and_utc().timestamp()).unwrap_or_default();
        let shown = TimeZone::UTC.to_datetime(to_second);
        let offsets = match self.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => {
                vec![before, after]
            }
        };
        let mut instants: Vec<_> =
            offsets.into_iter().filter_map(|offset| local.checked_sub_signed(seconds(offset))).collect();
        instants.sort_unstable();
        instants.into_iter().map(|instant| instant.and_utc()).collect()
    }
}

fn seconds(offset: jiff::tz::Offset) -> TimeDelta {
    TimeDelta::seconds(i64::from(offset.seconds()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instants(zone: &str, local: &str) -> Vec<String> {
        let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M:%S%.f").unwrap();
        let instants = Zone::named(zone).unwrap().instants(local);
        instants.iter().map(|time| time.format("%m-%d %H:%M:%S%.3f").to_string()).collect()
    }

    #[test]
    fn the_doubled_hour_keeps_both_candidates() {
        let berlin = instants("Europe/Berlin", "2024-10-27 02:30:00.250");
        assert_eq!(berlin, ["10-27 00:30:00.250", "10-27 01:30:00.250"]);
        let sydney = instants("Australia/Sydney", "2024-04-07 02:30:00");
        assert_eq!(sydney, ["04-06 15:30:00.000", "04-06 16:30:00.000"]);
    }

    #[test]
    fn the_skipped_hour_is_read_with_either_offset() {
        let berlin = instants("Europe/Berlin", "2024-03-31 02:30:00");
        assert_eq!(berlin, ["03-31 00:30:00.000", "03-31 01:30:00.000"]);
        let sydney = instants("Australia/Sydney", "2024-10-06 02:30:00");
        assert_eq!(sydney, ["10-05 15:30:00.000", "10-05 16:30:00.000"]);
    }

    #[test]
    fn other_hours_are_one_instant_and_back_again() {
        let zone = Zone::named("Australia/Lord_Howe").unwrap();
        for local in ["2024-01-15 09:10:11.500", "2031-07-15 09:10:11.500", "1999-12-31 23:59:59.999"] {
            let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M:%S%.f").unwrap();
            let instants = zone.instants(local);
            assert_eq!(instants.len(), 1);
            assert_eq!(zone.local(instants[0]), local);
        }
    }

    #[test]
    fn what_is_no_zone_has_no_name() {
        assert!(Zone::named("Europe/Nowhere").is_none() && Zone::named("").is_none());
        assert_eq!(Zone::named("UTC").unwrap().offset(DateTime::UNIX_EPOCH), TimeDelta::zero());
    }
}
