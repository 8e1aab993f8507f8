//! Reads durations such as `1h30m`, `90s` and `7d`. A number without a unit is not a valid duration.

use std::time::Duration;

use crate::problem::Finding;

const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1000)];

/// Reads a duration such as `1h30m`.
///
/// # Errors
/// Returns the reason why the duration is invalid, with the correct form as a hint.
pub fn duration(text: &str) -> Result<Duration, Finding> {
    let wrong = || Finding::new(format!("{text:?} is not a duration")).hint("write it like 90s, 5m, 1h30m or 7d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Finding::new(format!("{text:?} has no unit")).hint(format!("write {rest}s for seconds")));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (unit, milliseconds) = UNITS
            .iter()
            .find(|(unit, _)| behind.starts_with(unit) && !(*unit == "m" && behind.starts_with("ms")))
            .ok_or_else(wrong)?;
        total = number
            .checked_mul(*milliseconds)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= 100 * 365 * 86_400_000)
            .ok_or_else(|| Finding::new(format!("{text:?} is longer than a hundred years")))?;
        rest = &behind[unit.len()..];
    }
    Ok(Duration::from_millis(total))
}

/// Formats a duration as a text that [`duration`] can read, such as `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.as_millis() < 1000 {
        return format!("{}ms", duration.as_millis());
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        let part = match unit {
            "d" => seconds / size,
            "h" => seconds % 86_400 / size,
            "m" => seconds % 3600 / size,
            _ => seconds % 60,
        };
        if part > 0 {
            text.push_str(&format!("{part}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_formatted() {
        for (text, seconds) in [("1h30m", 5400), ("90s", 90), ("7d", 604_800), ("10m", 600)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds);
        }
        assert_eq!(duration("250ms").unwrap().as_millis(), 250);
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
        assert_eq!(duration("90").unwrap_err().hint.unwrap(), "write 90s for seconds");
        for wrong in ["", "s", "1x", "1h 2", "-1s", "99999999999999999999d", "9999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
