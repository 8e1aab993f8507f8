//! Output to stdout: one JSON or YAML document, or text for people. The module [`terminal`] escapes all output.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, Write as _},
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::{exit::Failure, terminal};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text for people
    Text,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

/// The output options of commands that print data.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// The output format
    #[arg(long, short, value_enum, default_value = "text")]
    pub(super) output: Format,
}

/// Prints a document in the requested format.
pub(super) fn print<T: Serialize>(format: Format, document: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
    match format {
        Format::Text => write(&text()),
        Format::Json => put(&terminal::escape_json(&json(document)?)),
        Format::Yaml => put(&yaml(document)?),
    }
}

/// Prints one document of a sequence of documents: JSON as one line, or YAML after a `---` line.
pub(super) fn print_record<T: Serialize>(
    format: Format,
    document: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Text => write(&text()),
        Format::Json => {
            let line = serde_json::to_string(document).map_err(|error| Failure::error(&error))?;
            put(&format!("{}\n", terminal::escape_json(&line)))
        }
        Format::Yaml => put(&format!("---\n{}", yaml(document)?)),
    }
}

fn yaml<T: Serialize>(document: &T) -> Result<String, Failure> {
    let value = serde_json::to_value(document).map_err(|error| Failure::error(&error))?;
    let yaml = towpath_render::document::to_yaml(&value);
    // YAML escapes depend on the style of each string. JSON is valid YAML, and has only one style.
    let plain = matches!(terminal::escape(&yaml), Cow::Borrowed(_));
    Ok(if plain { yaml } else { terminal::escape_json(&json(document)?).into_owned() })
}

fn json<T: Serialize>(document: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(document).map(|text| text + "\n").map_err(|error| Failure::error(&error))
}

/// Writes text for people to stdout.
pub(super) fn write(text: &str) -> Result<(), Failure> {
    put(&terminal::screen(text))
}

/// Writes escaped text. A closed pipe is not an error.
fn put(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::error(&error)),
    }
}

/// Reports progress on stderr.
pub(super) fn progress(text: &str) {
    terminal::message(text);
}

/// Formats a table with a header. The width of a column is the width of its longest cell.
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

/// Marks text with a colour, if stdout is a terminal and `NO_COLOR` is not set.
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
    format!("{}{text}{}", terminal::colour_mark(code), terminal::colour_mark(0))
}

/// The meaning of a colour in the output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Good,
    Bad,
    Odd,
}

/// Returns the name of an outcome with a colour that shows success or failure.
pub(super) fn outcome(word: &str) -> String {
    let colour = match word {
        "failed" => Colour::Bad,
        "held" | "unknown" => Colour::Odd,
        "changed" => Colour::Good,
        _ => return word.to_owned(),
    };
    coloured(word, colour)
}

/// Formats a JSON value as one short line.
pub(super) fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
