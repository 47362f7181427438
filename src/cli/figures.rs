//! Number formats for CLI output: short, with a unit, in even width.

use std::time::Duration;

/// Formats a rate as a percentage, such as `93.1 %`; `None` is a dash.
pub(super) fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", rate * 100.0))
}

/// Formats a number with a decimal unit, such as `950`, `12.3k` or `4.56M`.
pub(super) fn count(number: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match UNITS.iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{}{unit}", three(number / size)),
        None if number > 0.0 && number < 10.0 && number.fract() > 0.0 => format!("{number:.1}"),
        None => format!("{number:.0}"),
    }
}

/// Formats a number of bytes with a binary unit, such as `950B` or `12.3KiB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{}{unit}", three(number as f64 / *size as f64)),
        None => format!("{number}B"),
    }
}

/// Formats a number with three significant digits.
fn three(number: f64) -> String {
    match number {
        number if number >= 99.95 => format!("{number:.0}"),
        number if number >= 9.995 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

/// Formats microseconds, such as `350us`, `1.2ms` or `3.4s`; `None` is a dash.
pub(super) fn micros(us: Option<u64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1_000 => format!("{us}us"),
        Some(us) if us < 1_000_000 => format!("{}ms", three(us as f64 / 1e3)),
        Some(us) => format!("{}s", three(us as f64 / 1e6)),
    }
}

/// Formats milliseconds with the two largest units, such as `45s`, `5m 3s`, `2h 5m` or `3d 4h`.
pub(super) fn span(ms: i64) -> String {
    let seconds = Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if ms > 0 && ms < 10_000 => format!("{:.1}s", ms as f64 / 1e3),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        (..) => format!("{days}d {hours}h"),
    }
}

/// Formats a key as one line of at most `width` characters. Control characters become `?`; bytes of a key that is not
/// UTF-8 are escaped as `\xNN`.
pub(super) fn key(key: &[u8], width: usize) -> String {
    let text: String = match std::str::from_utf8(key) {
        Ok(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        Err(_) => key.escape_ascii().to_string(),
    };
    cut(&text, width)
}

/// Truncates text to `width` characters; the last character of truncated text is an ellipsis.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        assert_eq!([0.0, 7.0, 2.5, 999.0, 12_345.0, 4.56e6].map(count), ["0", "7", "2.5", "999", "12.3k", "4.56M"]);
        assert_eq!([0, 1023, 1 << 20, 3 << 29].map(bytes), ["0B", "1023B", "1.00MiB", "1.50GiB"]);
        assert_eq!([Some(0.9312), None].map(percent), ["93.1 %", "-"]);
        assert_eq!([Some(350), Some(1_200), None].map(micros), ["350us", "1.20ms", "-"]);
        assert_eq!(
            [500, 45_000, 303_000, 7_500_000, 273_600_000].map(span),
            ["0.5s", "45s", "5m 3s", "2h 5m", "3d 4h"]
        );
    }

    #[test]
    fn keys_stay_on_one_line() {
        assert_eq!(
            (key(b"a\nb", 9), key(b"\xff\x00", 99), key(b"abcdef", 4)),
            ("a?b".into(), "\\xff\\x00".into(), "abc…".into())
        );
    }
}
