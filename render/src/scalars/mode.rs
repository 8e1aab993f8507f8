//! File modes, written as quoted octal digits.

use crate::problem::Finding;

/// Reads a file mode such as `"0644"`.
///
/// # Errors
/// Returns the reason why the mode is invalid.
pub fn mode(text: &str) -> Result<u32, Finding> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let wrong = || Finding::new(format!("{text:?} is not a mode")).hint("write octal digits in quotes, like \"0644\"");
    // The parser of the standard library would accept a sign.
    if !(3..=4).contains(&digits.len()) || digits.starts_with('+') {
        return Err(wrong());
    }
    u32::from_str_radix(digits, 8).map_err(|_| wrong())
}

/// Returns the correct spelling of a file mode that was written as a number.
pub fn mode_spelling(number: i64) -> String {
    // YAML parsers read 0o644 as 420 and 0o755 as 493. Any other number of three octal digits was written without a
    // prefix.
    let as_written = number.to_string();
    let octal = as_written.len() == 3 && as_written.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    if octal && number != 420 && number != 493 { format!("\"0{as_written}\"") } else { format!("\"{number:04o}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_parsed() {
        assert_eq!(mode("0644").unwrap(), 0o644);
        assert_eq!(mode("4755").unwrap(), 0o4755);
        assert!(mode("0888").is_err());
        assert!(mode("rw-r--r--").is_err());
        for signed in ["+644", "-644", "0o+64", "0o+644"] {
            assert!(mode(signed).is_err(), "{signed}");
        }
        assert_eq!(mode_spelling(644), "\"0644\"");
        assert_eq!(mode_spelling(0o644), "\"0644\"");
        assert_eq!(mode_spelling(0o755), "\"0755\"");
    }
}
