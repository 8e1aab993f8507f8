//! Filters on text: `regex_replace`, `regex_search`, `regex_findall`, `quote`, `human_to_bytes` and `to_duration`.

use std::time::Duration;

use minijinja::{Environment, Error, State, value::Kwargs, value::Rest, value::Value};
use regex::{Regex, RegexBuilder};

use super::metered::{self, charge, wrong};

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "regex_replace", regex_replace);
    metered::add(environment, "regex_search", regex_search);
    metered::add(environment, "regex_findall", regex_findall);
    metered::add(environment, "quote", |value: &Value| quote(&value.to_string()));
    metered::add(environment, "human_to_bytes", |value: &Value| human_to_bytes(&value.to_string()).map_err(wrong));
    metered::add(environment, "to_duration", |seconds: f64| -> Result<String, Error> {
        let duration = Duration::try_from_secs_f64(seconds).map_err(|error| wrong(format!("to_duration: {error}")))?;
        Ok(crate::scalars::format_duration(duration))
    });
}

fn regex(pattern: &str, options: &Kwargs) -> Result<Regex, Error> {
    let regex = RegexBuilder::new(pattern)
        .case_insensitive(options.get::<Option<bool>>("ignorecase")?.unwrap_or(false))
        .multi_line(options.get::<Option<bool>>("multiline")?.unwrap_or(false))
        .size_limit(1 << 20)
        .build();
    regex.map_err(|error| {
        wrong(format!("not a regular expression: {}", error.to_string().lines().last().unwrap_or_default().trim()))
    })
}

/// Charges the fuel for a search with a regular expression. The cost grows with the product of the length of the text
/// and the number of states of the pattern. For example, the repetition `{1000}` adds about a thousand states to a
/// pattern.
fn charge_search(state: &State<'_, '_>, pattern: &str, text: &str) -> Result<(), Error> {
    let mut states = pattern.len();
    for part in pattern.split('{').skip(1) {
        let bounds = part.split('}').next().unwrap_or_default().split(',');
        let most = bounds.filter_map(|bound| bound.trim().parse::<usize>().ok()).max().unwrap_or(1);
        states = states.saturating_mul(most.max(1));
    }
    charge(state, text.len().saturating_mul(1 + states / 64))
}

/// Charges the fuel for one match of a search. If the pattern can match a text of any length, each search may read the
/// whole rest of the text.
fn charge_match(state: &State<'_, '_>, pattern: &str, text: &str, end: usize) -> Result<(), Error> {
    let any_length = pattern.contains(['*', '+']) || pattern.contains(",}");
    if any_length { charge(state, text.len().saturating_sub(end) / 16) } else { Ok(()) }
}

/// Converts groups in Python's form, `\1` and `\g<name>`, to the form of the regex crate, `${1}` and `${name}`.
fn replacement(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '$']) {
        out.push_str(&rest[..at]);
        let found = &rest[at..];
        if let Some(behind) = found.strip_prefix('$') {
            out.push_str("$$");
            rest = behind;
            continue;
        }
        let behind = &found[1..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count().min(2);
        if digits > 0 {
            out.push_str(&format!("${{{}}}", &behind[..digits]));
            rest = &behind[digits..];
        } else if let Some((name, end)) = behind.strip_prefix("g<").and_then(|name| name.split_once('>')) {
            out.push_str(&format!("${{{name}}}"));
            rest = end;
        } else {
            let (character, length) = match behind.chars().next() {
                Some('n') => ('\n', 1),
                Some('t') => ('\t', 1),
                Some('\\') => ('\\', 1),
                _ => ('\\', 0),
            };
            out.push(character);
            rest = &behind[length..];
        }
    }
    out.push_str(rest);
    out
}

fn regex_replace(
    state: &State<'_, '_>,
    text: &Value,
    pattern: &str,
    with: &str,
    options: Kwargs,
) -> Result<String, Error> {
    let regex = regex(pattern, &options)?;
    let count = options.get::<Option<usize>>("count")?.unwrap_or(0);
    options.assert_all_used()?;
    let (text, with) = (text.to_string(), replacement(with));
    charge_search(state, pattern, &text)?;
    let mut out = String::new();
    let mut copied = 0;
    for (number, found) in regex.captures_iter(&text).enumerate() {
        if count > 0 && number == count {
            break;
        }
        let Some(whole) = found.get(0) else { break };
        charge_match(state, pattern, &text, whole.end())?;
        let before = out.len();
        out.push_str(&text[copied..whole.start()]);
        found.expand(&with, &mut out);
        charge(state, out.len() - before)?;
        copied = whole.end();
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

fn regex_search(
    state: &State<'_, '_>,
    text: &Value,
    pattern: &str,
    groups: Rest<String>,
    options: Kwargs,
) -> Result<Value, Error> {
    let regex = regex(pattern, &options)?;
    options.assert_all_used()?;
    let text = text.to_string();
    charge_search(state, pattern, &text)?;
    let Some(found) = regex.captures(&text) else { return Ok(Value::from(())) };
    if groups.is_empty() {
        return Ok(Value::from(found.get(0).map_or("", |whole| whole.as_str())));
    }
    let mut values = Vec::new();
    for group in groups.iter() {
        let group_of = match group.strip_prefix("\\g<").and_then(|name| name.strip_suffix('>')) {
            Some(name) => name.parse().map_or_else(|_| found.name(name), |number| found.get(number)),
            None => {
                let number = group.strip_prefix('\\').and_then(|number| number.parse().ok());
                found.get(number.ok_or_else(|| {
                    wrong(format!("regex_search: {group:?} is not a group: write \\\\1 or \\\\g<name>"))
                })?)
            }
        };
        values.push(group_of.map_or(Value::from(()), |part| Value::from(part.as_str())));
    }
    Ok(Value::from(values))
}

fn regex_findall(state: &State<'_, '_>, text: &Value, pattern: &str, options: Kwargs) -> Result<Value, Error> {
    let regex = regex(pattern, &options)?;
    options.assert_all_used()?;
    let text = text.to_string();
    charge_search(state, pattern, &text)?;
    let part = |found: &regex::Captures<'_>, group| Value::from(found.get(group).map_or("", |part| part.as_str()));
    let mut all = Vec::new();
    for found in regex.captures_iter(&text) {
        charge_match(state, pattern, &text, found.get(0).map_or(text.len(), |whole| whole.end()))?;
        all.push(match found.len() {
            1 => part(&found, 0),
            2 => part(&found, 1),
            groups => Value::from((1..groups).map(|group| part(&found, group)).collect::<Vec<_>>()),
        });
    }
    Ok(Value::from(all))
}

/// Quotes a word for use in a shell command line.
fn quote(text: &str) -> String {
    let safe = |character: char| character.is_ascii_alphanumeric() || "@%+=:,./-_".contains(character);
    if !text.is_empty() && text.chars().all(safe) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

/// Converts a size such as `10M`, `1.5 GiB` or `512` to bytes. All units are powers of 1024, as in Ansible.
pub(crate) fn human_to_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size in bytes");
    let trimmed = text.trim();
    let end = trimmed.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(trimmed.len());
    let number: f64 = trimmed[..end].parse().map_err(|_| wrong())?;
    let unit = trimmed[end..].trim().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024_f64.powi(power);
    if !bytes.is_finite() || bytes >= 9.2e18 {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bounds were checked above")]
    let whole = bytes.round() as u64;
    Ok(whole)
}
