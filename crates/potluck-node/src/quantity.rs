//! Sizes, rates and durations as people write them: `512MiB`, `1.5GB`, `500KiB/s`, `10m`, `7d`.

use std::time::Duration;

/// Reads a size in bytes: a number with `B`, `KiB`, `MiB`, `GiB` or `TiB` (powers of 1024), `KB`,
/// `MB`, `GB` or `TB` (powers of 1000), or none. Less than a byte is dropped.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZES)
        .ok_or_else(|| format!("`{text}` is not a size; write it like 512MiB, 1.5GB or 2GiB"))
}

/// Reads a rate in bytes per second: a size with `/s` behind it.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim_end().strip_suffix("/s");
    size.and_then(|size| parse(size.trim_end(), &SIZES))
        .ok_or_else(|| format!("`{text}` is not a rate; write it like 500KiB/s or 2MB/s"))
}

/// Reads a duration: a number with `ms`, `s`, `m`, `h` or `d`. Less than a millisecond is dropped.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration; write it like 30s, 10m, 2h or 7d"))
}

/// A size as [`parse_size`] reads it back to the byte: in the largest unit of which it is a whole
/// number.
pub(crate) fn write_size(bytes: u64) -> String {
    write(bytes, &SIZES)
}

/// A duration of so many milliseconds as [`parse_duration`] reads it back.
pub(crate) fn write_duration(ms: u64) -> String {
    write(ms, &DURATIONS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(a, b)| (a, Some(b)));
    let mut total = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    if let Some(fraction) = fraction {
        if fraction.is_empty() || fraction.len() > DECIMALS_MAX {
            return None;
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(*factor) / scale;
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(total)
}

fn write(number: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().filter(|(_, factor)| number != 0 && number.is_multiple_of(*factor));
    match fits.max_by_key(|(name, factor)| (*factor, !name.is_empty())) {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => format!("0{}", units[units.len() - 1].0),
    }
}

/// Nine digits after the point tell a byte in a gigabyte.
const DECIMALS_MAX: usize = 9;
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("", 1),
    ("B", 1),
];
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_bytes_of_either_family() {
        let sizes = [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("64KiB", 65_536),
            ("512 MiB", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("0.5KiB", 512),
            ("4GiB", 4 << 30),
            ("2TB", 2_000_000_000_000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "MiB", "1.GiB", ".5GiB", "-1", "5kib", "1.2.3MB", "18446744073709551615KiB"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("1.0000000001GiB").is_err());
    }

    #[test]
    fn a_rate_says_per_what() {
        assert_eq!(parse_rate("500KiB/s"), Ok(512_000));
        assert_eq!(parse_rate("1.5 MB /s"), Ok(1_500_000));
        for text in ["500KiB", "500", "/s", "4Mbit/s", "1MiB/min"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        let durations = [
            ("250ms", 250),
            ("30s", 30_000),
            ("1.5h", 5_400_000),
            ("10m", 600_000),
            ("7d", 604_800_000),
        ];
        for (text, ms) in durations {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "m", "1w", "-3s", "213503982335d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for bytes in [0, 1, 999, 1000, 1024, 1536, 512 << 20, 1_500_000_000, 3 << 40, u64::MAX] {
            assert_eq!(parse_size(&write_size(bytes)), Ok(bytes), "{}", write_size(bytes));
        }
        for ms in [0, 1, 1500, 60_000, 5_400_000, 86_400_000] {
            let text = write_duration(ms);
            assert_eq!(parse_duration(&text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let shown = [2 << 30, 1536, 1_000_000, 0].map(write_size);
        assert_eq!(shown, ["2GiB", "1536B", "1MB", "0B"]);
        assert_eq!([180_000, 0].map(write_duration), ["3m", "0s"]);
    }
}
