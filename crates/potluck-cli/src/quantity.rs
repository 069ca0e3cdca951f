//! Sizes and durations as people write and read them: `512MiB`, `10m`, `7d`.

use std::time::Duration;

/// Reads a size: a whole number of bytes, or one with `KiB`, `MiB` or `GiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    parse(text, &units)
        .ok_or_else(|| format!("`{text}` is not a size; write it like 512MiB, 64KiB or 2GiB"))
}

/// Reads a duration: a whole number with `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    parse(text, &units)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration; write it like 30s, 10m, 2h or 7d"))
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size for people, in its largest sensible unit.
pub(crate) fn show_size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} KiB", bytes >> 10),
        10_000_000..=9_999_999_999 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// A duration as a flag would take it, in milliseconds that fit a record.
pub(crate) fn ms_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration for people, in its largest sensible unit.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_whole() {
        let sizes =
            [("0", 0), ("17", 17), ("64KiB", 65_536), ("512 MiB", 512 << 20), ("4GiB", 4 << 30)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "5MB", "-1", "5kib", "18446744073709551615KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        let durations = [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("7d", 604_800_000)];
        for (text, ms) in durations {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "m", "1.5h", "1w", "-3s", "213503982335d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_one_unit() {
        let shown = [0, 9_999, 65_536, 512 << 20, 64 << 30].map(show_size);
        assert_eq!(shown, ["0 B", "9999 B", "64 KiB", "512 MiB", "64 GiB"]);
    }

    #[test]
    fn durations_are_shown_in_one_unit() {
        let shown = [800, 42_000, 600_000, 7_200_000, 604_800_000]
            .map(|ms| show_duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0.8 s", "42 s", "10 min", "2 h", "7 days"]);
    }
}
