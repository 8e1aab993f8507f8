//! SSH: a list of allowed signers and a signature, with a zero byte between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use towpath_git::fuzzing::{date, signature};

const PAYLOAD: &[u8] = b"tree 1111111111111111111111111111111111111111\n\nmessage\n";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (keys, signed) = text.split_once('\0').unwrap_or((text, ""));
    if signature(keys, signed.as_bytes(), PAYLOAD, 1_800_000_000).is_ok() {
        // The same signature over other bytes is bad.
        for other in [&PAYLOAD[1..], &[PAYLOAD, b"more"].concat(), b""] {
            assert!(signature(keys, signed.as_bytes(), other, 1_800_000_000).is_err(), "it counts for other bytes");
        }
    }
    // A date that is taken is one of the calendar: counted back, it is the same.
    for word in keys.split(['"', '=', ',', ' ', '\n']) {
        if let Some(seconds) = date(word) {
            assert!(word.starts_with(&day(seconds)), "{word} is taken for {}", day(seconds));
        }
    }
});

/// YYYYMMDD of a time, counted year by year and month by month.
fn day(seconds: u64) -> String {
    let mut days = seconds / 86_400;
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}{month:02}{:02}", days + 1)
}
