//! The extent of a value in the text of a YAML file.

use std::ops::Range;

/// The positions of a value in a text, as byte offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// The column of the key, or of the dash of a list, from 0.
    pub(super) column: usize,
    /// The end of the colon or dash before the value.
    pub(super) colon: usize,
    /// The end of the first part of the value: of a scalar in one line, or of the indicator of a literal block.
    pub(super) inline_end: usize,
    /// The end of the line with `inline_end`, without its line break.
    pub(super) line_end: usize,
    /// The end of the text of the value, with the line break of its last line.
    pub(super) end: usize,
    /// The begin of the text that follows a value in one line: the line break of `line_end`, or of `end`.
    pub(super) tail: usize,
    /// The value itself, if it is a scalar in one line or a collection in braces.
    pub(super) flow: Option<Range<usize>>,
}

impl Extent {
    /// Returns the extent of the value of a key in a map.
    pub(super) fn of_key(text: &str, key: usize, value: usize) -> Option<Self> {
        let colon = key_end(text, key)?;
        Self::new(text, column(text, key), colon, value.max(colon), true)
    }

    /// Returns the extent of a member of a list.
    pub(super) fn of_member(text: &str, value: usize) -> Option<Self> {
        let line = line_begin(text, value);
        match text.get(line..value)?.rfind("- ") {
            Some(dash) => {
                let dash = line.checked_add(dash)?;
                Self::new(text, column(text, dash), dash.checked_add(1)?, value, false)
            }
            // A member in brackets.
            None => Self::new(text, column(text, value), value, value, false),
        }
    }

    /// `with_members` is true if members of a list at the column belong to the value.
    fn new(text: &str, column: usize, colon: usize, value: usize, with_members: bool) -> Option<Self> {
        let rest = text.get(value..)?;
        let first = rest.chars().next().unwrap_or('\n');
        let is_in_line = !text.get(colon..value)?.contains('\n');
        let (inline_end, flow) = match first {
            '"' | '\'' => {
                let end = quoted_end(text, value)?;
                (end, Some(value..end))
            }
            '{' | '[' => {
                let end = flow_end(text, value)?;
                (end, Some(value..end))
            }
            '&' | '*' | '!' => return None,
            '|' | '>' if is_in_line => {
                let indicator = rest.find(|letter: char| !"|>+-0123456789".contains(letter)).unwrap_or(rest.len());
                (value.checked_add(indicator)?, None)
            }
            _ if is_in_line && !matches!(first, '\n' | '\r' | '#') => {
                let end = plain_end(text, value);
                (end, Some(value..end))
            }
            // A collection of lines, or nothing: the value begins after the line of its key.
            _ => (colon, None),
        };
        let line_end = line_end(text, inline_end);
        let end =
            if flow.is_some() { next_line(text, line_end) } else { block_end(text, line_end, column, with_members) };
        let tail = if flow.is_some() { line_end } else { before_break(text, end).max(line_end) };
        Some(Self { column, colon, inline_end, line_end, end, tail, flow })
    }
}

/// Returns the begin of the line with an offset.
pub(super) fn line_begin(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |at| at.saturating_add(1))
}

/// Returns the column of an offset in its line, in bytes from 0.
pub(super) fn column(text: &str, at: usize) -> usize {
    at.saturating_sub(line_begin(text, at))
}

/// Returns the end of a line, without its line break.
fn line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let line = rest.split('\n').next().unwrap_or_default();
    at.saturating_add(line.trim_end_matches('\r').len())
}

/// Returns the offset of the line break before an offset.
fn before_break(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.strip_suffix("\r\n").or_else(|| before.strip_suffix('\n')).unwrap_or(before).len()
}

/// Returns the end of the lines that belong to the entry of a key, which begins at an offset. Empty lines and comments at
/// the end do not belong to it.
pub(super) fn entry_end(text: &str, key: usize) -> usize {
    block_end(text, line_end(text, key), column(text, key), true)
}

/// Returns the end of the lines after a line that are indented by more than a column. With `with_members`, members of a
/// list at the same column belong to them, too.
fn block_end(text: &str, line_end: usize, column: usize, with_members: bool) -> usize {
    let mut at = next_line(text, line_end);
    let mut end = at;
    while let Some(line) = text.get(at..).and_then(|rest| rest.split_inclusive('\n').next()) {
        let shown = line.trim_end();
        let indent = line.len().saturating_sub(line.trim_start_matches(' ').len());
        let begins = shown.trim_start();
        let is_member = with_members && indent == column && (begins == "-" || begins.starts_with("- "));
        at = at.saturating_add(line.len());
        if begins.is_empty() {
            continue;
        }
        if indent <= column && !is_member {
            break;
        }
        end = at;
    }
    end
}

/// Returns the begin of the line after a line end.
fn next_line(text: &str, line_end: usize) -> usize {
    let rest = text.get(line_end..).unwrap_or_default();
    let width = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
    line_end.saturating_add(width)
}

/// Returns the end of the colon after a key.
fn key_end(text: &str, key: usize) -> Option<usize> {
    let rest = text.get(key..)?;
    let from = if rest.starts_with(['"', '\'']) { quoted_end(text, key)? } else { key };
    let rest = text.get(from..)?;
    let is_colon = |at: usize| {
        rest.get(at.saturating_add(1)..)
            .is_some_and(|after| after.is_empty() || after.starts_with([' ', '\n', '\r', '"']))
    };
    let (at, _) = rest.match_indices(':').find(|(at, _)| is_colon(*at))?;
    from.checked_add(at)?.checked_add(1)
}

/// Returns the end of a quoted scalar.
fn quoted_end(text: &str, start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let quote = rest.chars().next()?;
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' if quote == '"' => drop(letters.next()),
            '\'' if quote == '\'' && letters.next_if(|(_, next)| *next == '\'').is_some() => {}
            letter if letter == quote => return start.checked_add(at)?.checked_add(1),
            _ => {}
        }
    }
    None
}

/// Returns the end of a plain scalar in one line.
fn plain_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let line = rest.split(['\n', '\r']).next().unwrap_or_default();
    let line = line.split(" #").next().unwrap_or_default();
    // In braces, a comma or a closing bracket ends the scalar.
    let is_flow = is_within_braces(text, start);
    let line = if is_flow { line.split([',', '}', ']']).next().unwrap_or_default() } else { line };
    start.saturating_add(line.trim_end().len())
}

/// Returns true if a bracket is open before an offset of a line.
fn is_within_braces(text: &str, at: usize) -> bool {
    let before = text.get(line_begin(text, at)..at).unwrap_or_default();
    let count = |letters: [char; 2]| before.matches(letters).count();
    count(['{', '[']) > count(['}', ']'])
}

/// Returns the end of a collection in braces or brackets.
pub(super) fn flow_end(text: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        let letter = text.get(at..)?.chars().next()?;
        match letter {
            '{' | '[' => depth = depth.checked_add(1)?,
            '}' | ']' => depth = depth.checked_sub(1)?,
            '#' if text.get(..at)?.ends_with([' ', '\n', '\t']) => {
                at = line_end(text, at);
                continue;
            }
            // A quote begins a scalar only after an indicator.
            '"' | '\'' if text.get(..at)?.trim_end().ends_with(['{', '[', ',', ':']) => {
                at = quoted_end(text, at)?;
                continue;
            }
            _ => {}
        }
        at = at.checked_add(letter.len_utf8())?;
        if depth == 0 {
            return Some(at);
        }
    }
}
