//! Creates human-readable diffs between two versions of a file.

use similar::TextDiff;

/// The maximum length of a diff, in lines.
const LINES: usize = 200;

/// Returns a unified diff of two file contents. The diff ends after 200 lines.
///
/// For binary files, and for files above 1 MiB, the diff shows only the sizes.
pub fn unified(path: &str, old: &[u8], new: &[u8]) -> String {
    let (Ok(old_text), Ok(new_text)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else {
        return format!("{path}: binary, {} bytes become {}", old.len(), new.len());
    };
    if old_text.contains('\0') || new_text.contains('\0') {
        return format!("{path}: binary, {} bytes become {}", old.len(), new.len());
    }
    if old.len().max(new.len()) > 1 << 20 {
        return format!("{path}: {} bytes become {}", old.len(), new.len());
    }
    let before = if old.is_empty() { "/dev/null".to_owned() } else { format!("a{path}") };
    let after = if new.is_empty() { "/dev/null".to_owned() } else { format!("b{path}") };
    cut(TextDiff::from_lines(old_text, new_text).unified_diff().header(&before, &after).to_string())
}

/// Returns at most 200 lines of a diff of two texts, with context lines but without headers.
pub fn lines(old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    let changes = diff.grouped_ops(3).into_iter().flatten().flat_map(|op| diff.iter_changes(&op).collect::<Vec<_>>());
    let shown = changes.map(|change| format!("{}{}\n", change.tag(), change.value().trim_end_matches('\n')));
    cut(shown.collect())
}

fn cut(text: String) -> String {
    let lines = text.lines().count();
    if lines <= LINES {
        return text;
    }
    let shown: String = text.split_inclusive('\n').take(LINES).collect();
    format!("{shown}… {} more lines\n", lines - LINES)
}
