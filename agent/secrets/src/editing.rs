//! The text in which an editor shows decrypted values: a YAML map from the keys to the values.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;
use towpath_render::document::{Limits, parse};
use zeroize::{Zeroize as _, Zeroizing};

use crate::Plaintext;

/// The reason why an edited text cannot be read. No error contains a value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EditError {
    /// The error that the text is not valid YAML.
    #[error("line {line}: {message}")]
    NotYaml {
        /// The line of the first problem.
        line: usize,
        /// The problem.
        message: String,
    },
    /// The error that the text is not a map.
    #[error("the text is not a list of `key: value` lines")]
    NoMap,
    /// The error that a value is not text.
    #[error("the value of {0} is not text; write it in double quotes")]
    NoText(String),
}

/// Returns the text with the values that are UTF-8. The first lines are comments.
pub fn write(comments: &[String], values: &BTreeMap<String, Plaintext>) -> Zeroizing<String> {
    let size: usize = values.values().map(|value| value.expose().len()).sum();
    // The text is at most six times as long as the values, so the buffer does not grow and leaves no copies.
    let mut text = Zeroizing::new(String::with_capacity(size.saturating_mul(6).saturating_add(64 << 10)));
    for comment in comments {
        text.push_str(&format!("# {comment}\n"));
    }
    for (key, value) in values {
        let Some(value) = value.text() else { continue };
        text.push_str(&quoted(key));
        text.push_str(": ");
        push_value(&mut text, value);
    }
    text
}

fn push_value(text: &mut String, value: &str) {
    let is_literal = value.chars().all(|letter| letter == '\n' || letter == '\t' || !letter.is_control());
    let lines = value.strip_suffix('\n').unwrap_or(value);
    if !lines.contains('\n') || !is_literal || value.starts_with([' ', '\n', '\t']) || lines.ends_with('\n') {
        text.push_str(&quoted(value));
        text.push('\n');
        return;
    }
    text.push_str(if value.ends_with('\n') { "|\n" } else { "|-\n" });
    for line in lines.split('\n') {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
}

/// Returns a text in double quotes. JSON and YAML agree on these, apart from characters that YAML wants escaped.
fn quoted(text: &str) -> Zeroizing<String> {
    let mut quoted = Zeroizing::new(String::with_capacity(text.len().saturating_mul(6).saturating_add(2)));
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            letter if letter.is_control() || matches!(letter, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Reads the values of an edited text.
///
/// # Errors
/// When the text is not a map of texts.
pub fn read(text: &str) -> Result<BTreeMap<String, Plaintext>, EditError> {
    let (documents, problems) = parse("", "", text.as_bytes(), Limits::default());
    if let Some(problem) = problems.into_iter().next() {
        return Err(EditError::NotYaml { line: problem.line, message: problem.message });
    }
    let mut documents = documents.into_iter();
    let map = match (documents.next().map(|document| document.value), documents.next()) {
        (None, _) => return Ok(BTreeMap::new()),
        (Some(Value::Object(map)), None) => map,
        _ => return Err(EditError::NoMap),
    };
    let mut values = BTreeMap::new();
    let mut refused = None;
    for (key, value) in map {
        match value {
            Value::String(value) => drop(values.insert(key, Plaintext::new(value.into_bytes()))),
            mut other => {
                wipe(&mut other);
                refused.get_or_insert(key);
            }
        }
    }
    refused.map_or(Ok(values), |key| Err(EditError::NoText(key)))
}

/// Zeroes the texts in a value.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(members) => members.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_values_are_read_back() {
        let long = "x\n".repeat(3);
        let texts = [
            "",
            "hunter2",
            "yes",
            "007",
            " x",
            "x ",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            "\na",
            &long,
            "a: b #c",
            "\"\\'",
            "\t\nx",
            "\u{1}\u{7f}\u{85}\u{2028}",
            "-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n",
            "é",
            "a\r\nb\n",
            "\u{feff}x",
        ];
        let values: BTreeMap<String, Plaintext> = texts
            .iter()
            .enumerate()
            .map(|(at, text)| (format!("{at}: {text:.3}"), Plaintext::copied(text.as_bytes())))
            .collect();
        let text = write(&["a comment".into()], &values);
        let back = read(&text).unwrap();
        assert!(text.starts_with("# a comment\n"));
        assert_eq!(back.keys().collect::<Vec<_>>(), values.keys().collect::<Vec<_>>());
        for (key, value) in &values {
            assert!(back[key].is(value), "{key:?} {:?} {:?}", back[key].text(), value.text());
        }
    }

    #[test]
    fn values_of_several_lines_are_shown_as_lines() {
        let values = BTreeMap::from([("key".to_owned(), Plaintext::copied(b"a\n\nb\n"))]);
        assert_eq!(&*write(&[], &values), "\"key\": |\n  a\n\n  b\n");
        let binary = BTreeMap::from([("key".to_owned(), Plaintext::copied(&[0xff]))]);
        assert_eq!(&*write(&[], &binary), "");
    }

    #[test]
    fn text_without_a_map_of_texts_is_refused_without_its_values() {
        assert_eq!(read("").unwrap().len(), 0);
        assert_eq!(read("# only\n").unwrap().len(), 0);
        assert_eq!(read("- hunter2\n").unwrap_err(), EditError::NoMap);
        assert_eq!(read("a: x\n---\nb: hunter2\n").unwrap_err(), EditError::NoMap);
        for text in ["a: 1\n", "a: [hunter2]\n", "a: {b: hunter2}\n", "a:\n", "a: true\n"] {
            assert_eq!(read(text).unwrap_err(), EditError::NoText("a".into()), "{text}");
        }
        for text in ["a: \"hunter2\n", "a: x\na: hunter2\n", "a: [hunter2\n", "\ta: hunter2\n"] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, EditError::NotYaml { .. }) && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
