//! Checks whether strings have the format that the schema requires, such as a name, a time or a port.

use serde_json::Value;
use towpath_proto::Field;

use crate::{
    problem::Finding,
    scalars::{self, Count, Schedule},
    tree,
};

/// Checks a string against the format that the schema defines for its field.
pub(super) fn format(field: &Field, text: &str) -> Result<(), Finding> {
    let Some(format) = field.format else { return Ok(()) };
    match format {
        "duration" => scalars::duration(text).map(drop),
        "mode" => scalars::mode(text).map(drop),
        "count" => Count::read(&Value::String(text.to_owned())).map(drop),
        "percent" => match Count::read(&Value::String(text.to_owned())) {
            Ok(Count::Percent(_)) => Ok(()),
            _ => Err(Finding::new(format!("{text:?} is not a percentage")).hint("write it like 10%")),
        },
        "cron" => Schedule::read(text).map(drop),
        "regex" => regex::Regex::new(text).map(drop).map_err(|error| {
            Finding::new(format!(
                "not a regular expression: {}",
                error.to_string().lines().last().unwrap_or_default().trim()
            ))
        }),
        "path" => {
            tree::join("", text).map(drop).map_err(|why| Finding::new(why).hint("write a path relative to the source"))
        }
        "commit" if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(()),
        "revocable" if revocable(text) => Ok(()),
        "revocable" => Err(Finding::new(format!("{text:?} is neither a serial number nor a public key"))
            .hint("write a serial number as `towpath pki` prints it (3f:0a:91), or a key (ed25519:…)")),
        "commit" => {
            Err(Finding::new(format!("{text:?} is not a full commit id")).hint("write all 40 hexadecimal digits"))
        }
        "name" => name(text),
        "identifier" => identifier(text),
        "time" => time(text),
        "datetime" => chrono::DateTime::parse_from_rfc3339(text).map(drop).map_err(|_| {
            Finding::new(format!("{text:?} is not a time")).hint("write it like \"2026-12-24T18:00:00Z\"")
        }),
        "timezone" => time_zone(text),
        "port" => port(text),
        "size" => size(text),
        "line" if text.contains(|character: char| character.is_control()) => {
            Err(Finding::new(format!("{text:?} has a control character")).hint("write one line of text"))
        }
        "publicKey" => public_key(text),
        "recipient" => recipient(text),
        _ => Ok(()),
    }
}

fn name(text: &str) -> Result<(), Finding> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed) && text.as_bytes()[0].is_ascii_alphanumeric()
    {
        return Ok(());
    }
    Err(Finding::new(format!("{text:?} is not a name"))
        .hint("use letters, digits, '-', '.' and '_', beginning with a letter or digit"))
}

fn identifier(text: &str) -> Result<(), Finding> {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if text.bytes().all(rest) && text.bytes().next().is_some_and(|first| !first.is_ascii_digit()) {
        return Ok(());
    }
    Err(Finding::new(format!("{text:?} cannot be used in expressions"))
        .hint("use letters, digits and '_', not beginning with a digit"))
}

fn time(text: &str) -> Result<(), Finding> {
    let part =
        |text: &str, limit: u32| text.len() == 2 && scalars::digits::<u32>(text).is_some_and(|number| number < limit);
    match text.split_once(':') {
        Some((hours, minutes)) if part(hours, 24) && part(minutes, 60) => Ok(()),
        _ => Err(Finding::new(format!("{text:?} is not a time of day")).hint("write it like \"22:00\"")),
    }
}

fn time_zone(text: &str) -> Result<(), Finding> {
    if tzdb_data::find_tz(text.as_bytes()).is_some() {
        return Ok(());
    }
    let meant = towpath_proto::did_you_mean(text, tzdb_data::TZ_NAMES.iter().copied());
    let hint = meant
        .map_or_else(|| "write it like Europe/Berlin, or UTC".to_owned(), |meant| format!("did you mean {meant}?"));
    Err(Finding::new(format!("{text:?} is not a time zone")).hint(hint))
}

fn port(text: &str) -> Result<(), Finding> {
    let number = text.rsplit_once(':').map_or(text, |(_, port)| port);
    match scalars::digits::<u16>(number) {
        Some(1..) => Ok(()),
        _ => Err(Finding::new(format!("{text:?} is not a port")).hint("write PORT or HOST:PORT")),
    }
}

fn public_key(text: &str) -> Result<(), Finding> {
    // A public key has 32 bytes, which are 43 characters in base64.
    let key = text.strip_prefix("ed25519:").or_else(|| text.strip_prefix("x25519:")).unwrap_or_default();
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    if key.trim_end_matches('=').len() == 43 && key.trim_end_matches('=').bytes().all(letter) {
        return Ok(());
    }
    Err(Finding::new(format!("{text:?} is not a public key"))
        .hint("write both keys as `towpath status -o json` of the node shows them: ed25519:… and x25519:…"))
}

/// Checks the form of an `age` recipient. `towpath secrets` also checks that the recipient is a valid public key.
fn recipient(text: &str) -> Result<(), Finding> {
    // A prefix, 32 bytes and a checksum: 62 characters of Bech32, which lacks b, i, o and 1.
    let letter = |byte: u8| byte.is_ascii_lowercase() && !b"bio".contains(&byte) || matches!(byte, b'0' | b'2'..=b'9');
    let is_key = |key: &str| key.len() == 58 && key.bytes().all(letter);
    if text.strip_prefix("age1").is_some_and(is_key) {
        return Ok(());
    }
    let finding = if text.starts_with("age1pq1") || text.starts_with("age1tagpq1") {
        Finding::new("post-quantum recipients are not supported yet")
    } else {
        Finding::new(format!("{text:?} is not an age recipient"))
    };
    Err(finding.hint("write an X25519 recipient as `towpath secrets keygen` prints it: age1…"))
}

fn size(text: &str) -> Result<(), Finding> {
    crate::template::filters::human_to_bytes(text)
        .map(drop)
        .map_err(|why| Finding::new(why).hint("write it like 64MiB"))
}

/// Returns true if a text is a valid entry of the list `revoked`: the serial number of a certificate, or a public key.
fn revocable(text: &str) -> bool {
    match text.strip_prefix("ed25519:") {
        Some(key) => key.trim_end_matches('=').len() == 43,
        None => {
            text.chars().any(|digit| digit.is_ascii_hexdigit())
                && text.chars().all(|digit| digit == ':' || digit.is_ascii_hexdigit())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_with_a_sign_is_refused() {
        for good in ["22:00", "00:59"] {
            assert!(time(good).is_ok(), "{good}");
        }
        for wrong in ["+1:00", "22:+1", "2:00", "24:00"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(port("443").is_ok() && port("a.example:8080").is_ok());
        for wrong in ["+443", "a.example:+80", "0", "65536", ""] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
