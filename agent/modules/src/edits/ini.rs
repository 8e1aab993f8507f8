//! The module `ini` manages one setting of an ini file. An ini file has sections in brackets, settings with `=` or `:`,
//! and comments after `;` or `#`.
//!
//! Ini files have no common standard, so the module edits single lines, and keeps all other lines.

use serde_json::{Map, Value};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::value::{EditError, Format, Part, resolve};
use crate::{Module, Resolved, resource::resource};

/// The implementation of the module `ini` and of the format of ini files.
#[derive(Debug)]
pub(crate) struct Ini;

impl Module for Ini {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Ini::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&Ini, params))
    }
}

impl Format for Ini {
    fn module(&self) -> &'static dyn Module {
        &Ini
    }

    fn has_sections(&self) -> bool {
        true
    }

    fn read(&self, text: &str) -> Result<Value, EditError> {
        Ok(read(text))
    }

    fn set(&self, text: &str, way: &[Part], value: &Value) -> Result<String, EditError> {
        set(text, way, value)
    }

    fn remove(&self, text: &str, way: &[Part]) -> Result<String, EditError> {
        remove(text, way)
    }
}

/// A parsed line of an ini file.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Section(&'a str),
    /// A setting as three texts: the name, the part of the line before the value, and the value with the comment.
    Setting(&'a str, &'a str, &'a str),
    Other,
}

fn line(text: &str) -> Line<'_> {
    let plain = text.trim();
    if plain.is_empty() || plain.starts_with([';', '#']) {
        return Line::Other;
    }
    if let Some((name, _)) = plain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return Line::Section(name.trim());
    }
    let Some(at) = text.find(['=', ':']) else { return Line::Other };
    let behind = &text[at + 1..];
    let value = at + 1 + (behind.len() - behind.trim_start_matches([' ', '\t']).len());
    Line::Setting(text[..at].trim(), &text[..value], text[value..].trim_end())
}

/// Splits the text after the `=` of a setting into the value and the comment. In a quoted value, `;` and `#` do not
/// begin a comment.
fn parts(value: &str) -> (&str, &str) {
    if value.starts_with([';', '#']) {
        return ("", value);
    }
    let quoted = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let from = quoted.and_then(|quote| value[1..].find(quote)).map_or(0, |end| end + 2);
    let behind = &value[from..];
    let comment = behind
        .char_indices()
        .zip(behind.chars().skip(1))
        .find(|((_, blank), next)| blank.is_whitespace() && matches!(next, ';' | '#'))
        .map_or(value.len(), |((at, _), _)| from + at);
    let end = value[..comment].trim_end().len();
    value.split_at(end)
}

/// Returns the line numbers of a section; `None` if the file does not have the section. If `section` is `None`, the
/// range contains the lines before the first section.
fn section(lines: &[&str], name: Option<&str>) -> Option<std::ops::Range<usize>> {
    let begins = |from: usize| lines[from..].iter().position(|text| matches!(line(text), Line::Section(_)));
    let from = match name {
        None => 0,
        Some(name) => lines.iter().position(|text| line(text) == Line::Section(name))? + 1,
    };
    Some(from..begins(from).map_or(lines.len(), |at| from + at))
}

/// Returns an error if a setting continues on the next line, because the module `ini` edits only single lines.
fn refuse_continued(lines: &[&str], at: usize) -> Result<(), EditError> {
    let next = lines.get(at + 1).copied().unwrap_or_default();
    let more = next.starts_with([' ', '\t']) && !next.trim().is_empty() && !next.trim_start().starts_with([';', '#']);
    if more || lines[at].trim_end().ends_with('\\') {
        return Err(format!(
            "cannot edit the setting in line {}: the setting continues on the next line; \
             manage the file with the module `file`",
            at + 1
        ));
    }
    Ok(())
}

/// Returns the line end of a file: LF or CRLF. Returns an error if the file contains both LF and CRLF.
fn line_end(text: &str) -> Result<&'static str, EditError> {
    match (text.matches("\r\n").count(), text.matches('\n').count()) {
        (0, _) => Ok("\n"),
        (dos, all) if dos == all => Ok("\r\n"),
        _ => Err("the file mixes LF and CRLF line ends; manage the file with the module `file`".into()),
    }
}

fn place(way: &[Part]) -> (Option<&str>, &str) {
    match way {
        [section, key, ..] => (Some(&section.name), &key.name),
        [key] => (None, &key.name),
        [] => (None, ""),
    }
}

/// Parses an ini file. Each section becomes a map. In the parsed document, the settings before the first section are
/// members of the top-level map. If a setting occurs several times, the document contains the last value.
fn read(text: &str) -> Value {
    let mut whole = Map::new();
    let mut at: Option<&str> = None;
    for text in text.lines() {
        match line(text) {
            Line::Section(name) => {
                at = Some(name);
                whole.entry(name).or_insert_with(|| Value::Object(Map::new()));
            }
            Line::Setting(name, _, value) => {
                let into = match at {
                    None => &mut whole,
                    Some(section) => match whole.get_mut(section) {
                        Some(Value::Object(section)) => section,
                        _ => continue,
                    },
                };
                into.insert(name.to_owned(), Value::String(parts(value).0.to_owned()));
            }
            Line::Other => {}
        }
    }
    Value::Object(whole)
}

fn set(text: &str, way: &[Part], value: &Value) -> Result<String, EditError> {
    let (name, key) = place(way);
    let value = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let end = line_end(text)?;
    let mut lines: Vec<&str> = text.lines().collect();
    // A new setting copies the spacing of the settings around it.
    let between = |lines: &[&str]| {
        let written = lines.iter().find_map(|text| match line(text) {
            Line::Setting(name, before, _) => before.trim_start().strip_prefix(name).map(str::to_owned),
            _ => None,
        });
        written.unwrap_or_else(|| " = ".into())
    };
    let mut new = Vec::new();
    match section(&lines, name) {
        Some(range) => {
            let here = |text: &&str| matches!(line(text), Line::Setting(found, ..) if found == key);
            if let Some(at) = lines[range.clone()].iter().rposition(here).map(|at| range.start + at)
                && let Line::Setting(_, before, old) = line(lines[at])
            {
                refuse_continued(&lines, at)?;
                let comment = parts(old).1;
                let blank = if comment.starts_with([';', '#']) { " " } else { "" };
                new.push(format!("{before}{value}{blank}{comment}"));
                lines.splice(at..=at, new.iter().map(String::as_str));
            } else {
                let last = lines[range.clone()].iter().rposition(|text| matches!(line(text), Line::Setting(..)));
                if let Some(last) = last {
                    refuse_continued(&lines, range.start + last)?;
                }
                let at = last.map_or(range.start, |at| range.start + at + 1);
                let around = if last.is_some() { &lines[range] } else { &lines[..] };
                new.push(format!("{key}{}{value}", between(around)));
                lines.splice(at..at, new.iter().map(String::as_str));
            }
        }
        None => {
            if lines.last().is_some_and(|last| !last.trim().is_empty()) {
                new.push(String::new());
            }
            new.push(format!("[{}]", name.unwrap_or_default()));
            new.push(format!("{key}{}{value}", between(&lines)));
            lines.extend(new.iter().map(String::as_str));
        }
    }
    Ok(joined(&lines, end, text))
}

fn remove(text: &str, way: &[Part]) -> Result<String, EditError> {
    let (name, key) = place(way);
    let end = line_end(text)?;
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some(range) = section(&lines, name) {
        for at in range.rev() {
            if matches!(line(lines[at]), Line::Setting(found, ..) if found == key) {
                refuse_continued(&lines, at)?;
                lines.remove(at);
            }
        }
    }
    Ok(joined(&lines, end, text))
}

fn joined(lines: &[&str], end: &str, old: &str) -> String {
    let text = lines.join(end);
    if old.is_empty() || old.ends_with('\n') && !lines.is_empty() { format!("{text}{end}") } else { text }
}
