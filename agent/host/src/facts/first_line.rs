//! Reads files with one line, such as /etc/machine-id.

use std::fs;

/// Returns the first line of a file, without blanks at both ends. Returns `None` if the line is empty or unreadable.
pub(super) fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
