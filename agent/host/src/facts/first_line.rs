//! Reads files of the kernel and of the system that consist of one line.

use std::fs;

/// Returns the first line of a file, without surrounding blanks; `None` if the file is unreadable or the line is empty.
pub(super) fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
