//! Ini files: sections in brackets, settings with `=` or `:`, comments behind `;` or `#`. Line by line, as no two
//! programs that read them agree on more.

use serde_json::{Map, Value};

use super::Part;

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Section(&'a str),
    /// The name, what stands before the value, the value with what stands behind it.
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

/// A value, and the comment behind it with the blanks between the two.
fn parts(value: &str) -> (&str, &str) {
    let comment = value
        .char_indices()
        .zip(value.chars().skip(1))
        .find(|((_, blank), next)| blank.is_whitespace() && matches!(next, ';' | '#'))
        .map_or(value.len(), |((at, _), _)| at);
    let end = value[..comment].trim_end().len();
    value.split_at(end)
}

/// The lines of a section, or of what stands before the first; None where there is no such section.
fn section(lines: &[&str], name: Option<&str>) -> Option<std::ops::Range<usize>> {
    let begins = |from: usize| lines[from..].iter().position(|text| matches!(line(text), Line::Section(_)));
    let from = match name {
        None => 0,
        Some(name) => lines.iter().position(|text| line(text) == Line::Section(name))? + 1,
    };
    Some(from..begins(from).map_or(lines.len(), |at| from + at))
}

fn place(way: &[Part]) -> (Option<&str>, &str) {
    match way {
        [section, key, ..] => (Some(&section.name), &key.name),
        [key] => (None, &key.name),
        [] => (None, ""),
    }
}

/// Sections as maps beside the settings that stand before them. Of two settings of one name the last counts.
pub(super) fn read(text: &str) -> Value {
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

pub(super) fn set(text: &str, way: &[Part], value: &Value) -> String {
    let (name, key) = place(way);
    let value = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<&str> = text.lines().collect();
    // As the settings around it are written.
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
                new.push(format!("{before}{value}{}", parts(old).1));
                lines.splice(at..=at, new.iter().map(String::as_str));
            } else {
                let last = lines[range.clone()].iter().rposition(|text| matches!(line(text), Line::Setting(..)));
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
    joined(&lines, end, text)
}

pub(super) fn remove(text: &str, way: &[Part]) -> String {
    let (name, key) = place(way);
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some(range) = section(&lines, name) {
        for at in range.rev() {
            if matches!(line(lines[at]), Line::Setting(found, ..) if found == key) {
                lines.remove(at);
            }
        }
    }
    joined(&lines, end, text)
}

fn joined(lines: &[&str], end: &str, old: &str) -> String {
    let text = lines.join(end);
    if old.is_empty() || old.ends_with('\n') && !lines.is_empty() { format!("{text}{end}") } else { text }
}
