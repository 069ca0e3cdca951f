//! Sizes and durations as people write and read them: `512MiB`, `10m`, `7d`.

use std::time::Duration;

pub(crate) use potluck_node::{parse_duration, parse_size};

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
