//! This module contains the only functions that write to a terminal. The functions escape control characters from git,
//! the network and commands. A closed output stream never ends a command.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    sync::OnceLock,
};

/// Returns true if a character can move the cursor, change the terminal, or reorder the shown text. Newline and tab are
/// permitted, because both characters only affect the layout.
fn is_control(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        // Separators of lines and paragraphs, and characters that control the direction of text.
        '\u{2028}'
        | '\u{2029}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => true,
        // Tag characters, which are invisible and can carry text.
        '\u{e0000}'..='\u{e007f}' => true,
        other => other.is_control(),
    }
}

/// Returns text with each control character in its escaped form, such as `\u{1b}`.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_control(character) {
            escaped.extend(character.escape_unicode());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns a JSON document whose control characters are escaped in JSON syntax. In JSON, control characters occur only
/// in strings.
pub(super) fn escape_json(document: &str) -> Cow<'_, str> {
    if !document.contains(is_control) {
        return Cow::Borrowed(document);
    }
    let mut escaped = String::with_capacity(document.len() + 16);
    for character in document.chars() {
        if is_control(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns the mark that represents a colour in text. The mark contains a random number, so that text from git or the
/// network cannot contain a valid mark.
pub(super) fn colour_mark(code: u8) -> String {
    format!("\u{fdd0}{}:{code}\u{fdd1}", nonce())
}

fn nonce() -> &'static str {
    static NONCE: OnceLock<String> = OnceLock::new();
    NONCE.get_or_init(|| uuid::Uuid::new_v4().simple().to_string())
}

/// Returns escaped text for a terminal. Escape sequences replace the colour marks.
pub(super) fn screen(text: &str) -> String {
    let mut shown = escape(text).into_owned();
    if shown.contains('\u{fdd0}') {
        for code in [0, 31, 32, 33] {
            shown = shown.replace(&colour_mark(code), &format!("\u{1b}[{code}m"));
        }
    }
    shown
}

/// Writes a message to stderr. The function ignores a failed write to stderr, because the failure cannot be reported.
pub(super) fn message(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{}", escape(text));
}

/// The output of the log. Each event is escaped, and all lines except its first line are indented, so that no line can
/// imitate an event. A closed stderr never ends the agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(event(&String::from_utf8_lossy(bytes)).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

fn event(text: &str) -> String {
    let (lines, end) = text.strip_suffix('\n').map_or((text, ""), |lines| (lines, "\n"));
    format!("{}{end}", escape(lines).replace('\n', "\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_layout_stays() {
        for (raw, shown) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("line\rover", "line\\u{d}over"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}"),
            ("a\u{2028}b\u{e0041}", "a\\u{2028}b\\u{e0041}"),
            ("äöü 日本 ✓", "äöü 日本 ✓"),
        ] {
            assert_eq!(escape(raw), shown);
        }
    }

    #[test]
    fn json_stays_the_same_document() {
        let document = serde_json::json!({"a": "\u{9b}31m\u{202e}\u{7f}\u{e0041}\u{1b}", "b": ["\t", "ä"]});
        let text = serde_json::to_string_pretty(&document).unwrap();
        let escaped = escape_json(&text);
        assert!(!escaped.contains(is_control));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), document);
    }

    #[test]
    fn colours_are_shown_and_forged_marks_are_not() {
        let coloured = format!("{}ok{}", colour_mark(32), colour_mark(0));
        assert_eq!(screen(&coloured), "\u{1b}[32mok\u{1b}[0m");
        assert!(!screen("\u{fdd0}00:32\u{fdd1}\u{1b}[32mforged").contains('\u{1b}'));
        // A mark without its random part is not a valid mark.
        let known = coloured.replace(nonce(), "");
        assert!(known.len() < coloured.len() && !screen(&known).contains('\u{1b}'));
    }

    #[test]
    fn continued_line_of_an_event_cannot_pass_for_an_event() {
        assert_eq!(event("WARN a\nINFO accepted\u{1b}[1m\n"), "WARN a\n    INFO accepted\\u{1b}[1m\n");
    }
}
