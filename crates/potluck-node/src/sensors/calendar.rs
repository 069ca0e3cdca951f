//! The local calendar: where in the week it is, and when the day and the month end.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use potluck_unit::Time;

/// What the local clock and calendar say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Local {
    /// What the local clock shows, in milliseconds since Monday 00:00.
    pub(super) week_ms: u64,
    /// When the local day ends.
    pub(super) day_ends: Time,
    /// When the local month ends.
    pub(super) month_ends: Time,
}

/// What the calendar of a place says at a time; of the system's place without one. A day may have 23
/// or 25 hours, and need not start at midnight.
pub(super) fn at(now: Time, zone: Option<&TimeZone>) -> Local {
    let millis = i64::try_from(now.0).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    // The zone may be changed while the node runs; it is looked up anew every few minutes.
    let zoned = at.to_zoned(zone.cloned().unwrap_or_else(TimeZone::system));
    let local = zoned.datetime();
    let days = u64::from(local.weekday().to_monday_zero_offset().unsigned_abs());
    let part = |part: i8| u64::from(part.unsigned_abs());
    let seconds = (part(local.hour()) * 60 + part(local.minute())) * 60 + part(local.second());
    let millis = u64::from(local.millisecond().unsigned_abs());
    // At the end of all calendars there is no next day.
    let ends = |next: Result<Zoned, jiff::Error>| {
        let next = next.ok().and_then(|next| u64::try_from(next.timestamp().as_millisecond()).ok());
        next.map_or(Time(now.0.saturating_add(DAY_MS)), Time)
    };
    let month = zoned.last_of_month().and_then(|last| last.tomorrow());
    Local {
        week_ms: days * DAY_MS + seconds * 1000 + millis,
        day_ends: ends(zoned.tomorrow().and_then(|next| next.start_of_day())),
        month_ends: ends(month.and_then(|next| next.start_of_day())),
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 60 * 60 * 1000;
    /// A Monday.
    const MONDAY: &str = "2026-03-23T00:00:00Z";

    fn time(text: &str) -> Time {
        let at: Timestamp = text.parse().unwrap();
        Time(at.as_millisecond().try_into().unwrap())
    }

    /// Central European time, without the system's list of zones.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn the_week_starts_on_monday_at_midnight() {
        let at = |text: &str| at(time(text), Some(&TimeZone::UTC)).week_ms;
        assert_eq!(at(MONDAY), 0);
        assert_eq!(at("2026-03-22T23:59:59.999Z"), 7 * DAY_MS - 1);
        assert_eq!(at("2026-03-25T13:30:00Z"), 2 * DAY_MS + 13 * HOUR_MS + HOUR_MS / 2);
    }

    #[test]
    fn the_day_on_which_clocks_go_forward_has_23_hours() {
        let zone = berlin();
        // Sunday 29 March 2026: at 02:00 it is 03:00.
        let before = at(time("2026-03-29T00:30:00Z"), Some(&zone));
        let after = at(time("2026-03-29T01:30:00Z"), Some(&zone));
        assert_eq!(before.week_ms, 6 * DAY_MS + HOUR_MS + HOUR_MS / 2);
        assert_eq!(after.week_ms, 6 * DAY_MS + 3 * HOUR_MS + HOUR_MS / 2);
        let start = at(time("2026-03-28T22:59:59Z"), Some(&zone)).day_ends;
        assert_eq!(start, time("2026-03-28T23:00:00Z"));
        assert_eq!(before.day_ends, start.plus_ms(23 * HOUR_MS));
        assert_eq!(after.day_ends, before.day_ends);
    }

    #[test]
    fn the_day_on_which_clocks_go_back_has_25_hours() {
        let zone = berlin();
        // Sunday 25 October 2026: 02:30 comes twice.
        let (first, second) = (time("2026-10-25T00:30:00Z"), time("2026-10-25T01:30:00Z"));
        assert_eq!(at(first, Some(&zone)).week_ms, at(second, Some(&zone)).week_ms);
        let start = at(time("2026-10-24T21:00:00Z"), Some(&zone)).day_ends;
        assert_eq!(at(first, Some(&zone)).day_ends, start.plus_ms(25 * HOUR_MS));
    }

    #[test]
    fn a_month_ends_with_its_last_local_day() {
        let zone = berlin();
        let month = |text: &str| at(time(text), Some(&zone)).month_ends;
        // It is winter at its start and summer at its end.
        assert_eq!(month("2026-03-01T12:00:00Z"), time("2026-03-31T22:00:00Z"));
        // Already April there.
        assert_eq!(month("2026-03-31T22:00:00Z"), time("2026-04-30T22:00:00Z"));
        assert_eq!(month("2028-02-29T12:00:00Z"), time("2028-02-29T23:00:00Z"));
        assert_eq!(month("2026-12-31T23:30:00Z"), time("2027-01-31T23:00:00Z"));
    }

    #[test]
    fn a_day_may_start_without_a_midnight() {
        // Chile: on Sunday 6 September 2026 midnight is 01:00.
        let zone = TimeZone::posix("<-04>4<-03>,M9.1.6/24,M4.1.6/24").unwrap();
        let ends = at(time("2026-09-05T20:00:00Z"), Some(&zone)).day_ends;
        assert_eq!(ends, time("2026-09-06T04:00:00Z"));
        assert_eq!(at(ends, Some(&zone)).week_ms, 6 * DAY_MS + HOUR_MS);
    }

    #[test]
    fn a_clock_that_is_far_off_still_has_a_calendar() {
        for now in [Time(0), Time(u64::MAX), time("9999-12-30T10:00:00Z")] {
            let local = at(now, Some(&berlin()));
            assert!(local.week_ms < 7 * DAY_MS, "{now:?}");
            assert!(local.day_ends >= now && local.month_ends >= now, "{now:?}: {local:?}");
        }
    }
}
