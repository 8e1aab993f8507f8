//! Data to stdout: one JSON or YAML document, or text for people.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use super::{Format, exit::Failure};

/// Prints a document, or the text that stands for it.
pub(super) fn print<T: Serialize>(format: Format, document: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let rendered = match format {
        Format::Text => text(),
        Format::Json => json(document)?,
        Format::Yaml => {
            towpath_render::document::to_yaml(&serde_json::to_value(document).map_err(|error| Failure::error(&error))?)
        }
    };
    write(&rendered)
}

fn json<T: Serialize>(document: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(document).map(|text| text + "\n").map_err(|error| Failure::error(&error))
}

/// Writes text to stdout. A reader that has gone away is no failure.
pub(super) fn write(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::error(&error)),
    }
}

/// Tells of progress on stderr.
#[expect(clippy::print_stderr, reason = "progress goes to stderr")]
pub(super) fn progress(text: &str) {
    eprintln!("{text}");
}

/// A table with a head; columns as wide as they need be.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(std::iter::once(head[column].len()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        format!("{}\n", padded.trim_end())
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// A colour for a terminal, unless NO_COLOR is set.
pub(super) fn coloured(text: &str, colour: Colour) -> String {
    let on = std::io::stdout().is_terminal() && towpath_host::process::environment("NO_COLOR").is_none();
    if !on {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Good => 32,
        Colour::Bad => 31,
        Colour::Odd => 33,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// What a colour says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Good,
    Bad,
    Odd,
}

/// The colour of an outcome.
pub(super) fn outcome(word: &str) -> String {
    let colour = match word {
        "failed" => Colour::Bad,
        "held" | "unknown" => Colour::Odd,
        "changed" => Colour::Good,
        _ => return word.to_owned(),
    };
    coloured(word, colour)
}

/// A value of JSON as one short line.
pub(super) fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
