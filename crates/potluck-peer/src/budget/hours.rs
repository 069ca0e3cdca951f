//! Hours: a part of the week by the local clock, to the minute.

use std::fmt;
use std::str::FromStr;

/// Minutes in a week, which begins on Monday at 00:00.
const WEEK_MIN: u32 = 7 * DAY_MIN;
/// Milliseconds in a week.
pub(super) const WEEK_MS: u64 = WEEK_MIN as u64 * MIN_MS;
const MIN_MS: u64 = 60_000;
const DAY_MIN: u32 = 24 * 60;
const WORDS: usize = WEEK_MIN.div_ceil(64) as usize;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Bytes of one text: every day by name with its hours is a tenth.
const TEXT_BYTES_MAX: usize = 1024;

/// Some minutes of the week.
#[derive(Clone, PartialEq, Eq)]
pub struct Hours([u64; WORDS]);

/// A text that names no part of the week. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoursError {
    text: String,
    why: &'static str,
}

impl Hours {
    /// The whole week.
    pub const ALWAYS: Hours = Hours(always());
    /// No minute of it.
    pub const NEVER: Hours = Hours([0; WORDS]);

    /// These and those.
    #[must_use]
    pub fn and(mut self, other: &Hours) -> Hours {
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
        self
    }

    /// Whether a moment of the week is within, in milliseconds since Monday 00:00.
    pub fn holds(&self, week_ms: u64) -> bool {
        self.has(minute(week_ms))
    }

    /// In how many milliseconds this ends, or begins, after a moment of the week. None if it never
    /// does.
    pub fn next_edge_ms(&self, week_ms: u64) -> Option<u64> {
        // Most people never write any hours.
        if *self == Hours::ALWAYS || *self == Hours::NEVER {
            return None;
        }
        let now = minute(week_ms);
        let within = self.has(now);
        let edge = (1..=WEEK_MIN).find(|ahead| self.has((now + ahead) % WEEK_MIN) != within)?;
        Some(u64::from(edge) * MIN_MS - week_ms % MIN_MS)
    }

    fn has(&self, minute: u32) -> bool {
        self.0[(minute / 64) as usize] >> (minute % 64) & 1 == 1
    }

    /// Adds the minutes from one to another, past the end of the week if need be.
    fn add(&mut self, from: u32, until: u32) {
        for minute in from..until {
            let minute = minute % WEEK_MIN;
            self.0[(minute / 64) as usize] |= 1 << (minute % 64);
        }
    }
}

/// Every minute of the week, and none past it: two equal parts of the week have equal words.
const fn always() -> [u64; WORDS] {
    let mut words = [u64::MAX; WORDS];
    words[WORDS - 1] = u64::MAX >> (64 * WORDS - WEEK_MIN as usize);
    words
}

fn minute(week_ms: u64) -> u32 {
    u32::try_from(week_ms % WEEK_MS / MIN_MS).unwrap_or(0)
}

/// `mon-fri 09:00-17:00`, `sat,sun 22:00-06:00` (until six the next morning), `18:00-24:00` (every
/// day), `mon-sun` (all day).
impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Hours, HoursError> {
        let fail = |why| HoursError { text: text.chars().take(40).collect(), why };
        if text.len() > TEXT_BYTES_MAX {
            return Err(fail("it is too long"));
        }
        let words: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
        let (days, clock) = match words.as_slice() {
            [one] if one.contains(':') => ("mon-sun", one.as_str()),
            [one] => (one.as_str(), "00:00-24:00"),
            [days, clock] => (days.as_str(), clock.as_str()),
            [] | [_, _, ..] => return Err(fail("expected days and hours")),
        };
        let (from, until) = clock_of(clock).ok_or_else(|| fail("the hours are not hh:mm-hh:mm"))?;
        let mut hours = Hours::NEVER;
        for range in days.split(',') {
            let days = days_of(range).ok_or_else(|| fail("the days are not mon to sun"))?;
            for day in days {
                hours.add(day * DAY_MIN + from, day * DAY_MIN + until);
            }
        }
        Ok(hours)
    }
}

/// Minutes of the day: the second one is past midnight if it is not after the first.
fn clock_of(text: &str) -> Option<(u32, u32)> {
    let (from, until) = text.split_once('-')?;
    let (from, until) = (time_of(from)?, time_of(until)?);
    let until = if until <= from { until + DAY_MIN } else { until };
    (from < DAY_MIN).then_some((from, until))
}

fn time_of(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    let time = hour * 60 + minute;
    (minute < 60 && time <= DAY_MIN).then_some(time)
}

/// One day or several: past Sunday it goes on with Monday.
fn days_of(text: &str) -> Option<Vec<u32>> {
    let day = |name: &str| (0..).zip(DAYS).find(|(_, day)| *day == name).map(|(n, _)| n);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u32, u32) = (day(first)?, day(last)?);
    let count = (last + 7 - first) % 7 + 1;
    Some((0..count).map(|ahead| (first + ahead) % 7).collect())
}

/// `Fri 18:00`, as the local clock shows it.
pub(super) fn clock(week_ms: u64) -> String {
    let minute = minute(week_ms);
    let (day, minute) = (DAYS[(minute / DAY_MIN) as usize], minute % DAY_MIN);
    let (first, rest) = day.split_at(1);
    format!("{}{rest} {:02}:{:02}", first.to_ascii_uppercase(), minute / 60, minute % 60)
}

impl fmt::Display for HoursError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no part of the week: {}; write for example `mon-fri 09:00-17:00`",
            self.text, self.why
        )
    }
}

impl std::error::Error for HoursError {}

/// The parts of the week, as `Mon 09:00 to Mon 17:00`.
impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Hours::ALWAYS {
            return f.write_str("always");
        }
        let edge =
            |minute: &u32| self.has(*minute) && !self.has((minute + WEEK_MIN - 1) % WEEK_MIN);
        let starts = (0..WEEK_MIN).filter(edge).map(|start| u64::from(start) * MIN_MS);
        let spans = starts.filter_map(|start| Some((start, start + self.next_edge_ms(start)?)));
        let spans = spans.map(|(start, end)| format!("{} to {}", clock(start), clock(end)));
        f.debug_list().entries(spans).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    /// Minutes of the week that are within.
    fn count(hours: &Hours) -> usize {
        (0..WEEK_MIN).filter(|minute| hours.has(*minute)).count()
    }

    const HOUR_MS: u64 = 60 * MIN_MS;

    #[test]
    fn hours_begin_and_end_on_the_minute() {
        let office = hours("mon-fri 09:00-17:00");
        assert!(!office.holds(9 * HOUR_MS - 1));
        assert!(office.holds(9 * HOUR_MS));
        assert!(office.holds(17 * HOUR_MS - 1));
        assert!(!office.holds(17 * HOUR_MS));
        assert_eq!(office.next_edge_ms(9 * HOUR_MS - 1), Some(1));
        assert_eq!(office.next_edge_ms(9 * HOUR_MS), Some(8 * HOUR_MS));
        let friday = 4 * 24 * HOUR_MS + 17 * HOUR_MS;
        assert_eq!(office.next_edge_ms(friday), Some(64 * HOUR_MS), "Monday morning");
        assert_eq!(Hours::ALWAYS.next_edge_ms(5), None);
        assert_eq!(Hours::NEVER.next_edge_ms(5), None);
    }

    #[test]
    fn a_night_ends_the_next_morning_and_a_week_goes_round() {
        assert_eq!(hours("mon-sun 00:00-24:00"), Hours::ALWAYS);
        assert_eq!(hours("mon-sun"), Hours::ALWAYS);
        assert_eq!(hours("00:00-24:00"), Hours::ALWAYS);
        let night = hours("Sun 22:00-06:00");
        assert!(night.holds(0) && night.holds(6 * HOUR_MS - 1) && !night.holds(6 * HOUR_MS));
        assert_eq!(count(&night), 8 * 60);
        assert_eq!(count(&hours("sat-mon 12:00-13:00")), 3 * 60);
        let two = hours("mon,wed 10:00-11:00").and(&hours("tue 10:00-11:00"));
        assert_eq!(two, hours("mon-wed 10:00-11:00"));
        assert_eq!(format!("{:?}", hours("sun 22:00-06:00")), "[\"Sun 22:00 to Mon 06:00\"]");
        assert_eq!(format!("{:?} {:?}", Hours::ALWAYS, Hours::NEVER), "always []");
    }

    #[test]
    fn what_is_no_part_of_the_week_is_refused_with_the_reason() {
        let long = format!("{}sun 10:00-11:00", "mon,".repeat(TEXT_BYTES_MAX / 4));
        for text in ["", "mon tue wed", "mon 9-17", "mon 09:00-24:01", "mon 24:00-25:00", &long] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
        for text in ["day 09:00-17:00", "mon- 09:00-17:00", "mon +9:00-17:00", "mon 09:60-17:00"] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
        let error = "montag 09:00-17:00".parse::<Hours>().unwrap_err().to_string();
        assert!(error.contains("mon to sun") && error.contains("mon-fri 09:00-17:00"), "{error}");
    }
}
