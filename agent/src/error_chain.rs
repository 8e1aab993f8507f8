//! Formats an error and its causes as one line.

/// Returns the text of an error and of its causes, and omits repeated texts. The function removes the user, the
/// password and the query from URLs.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let shown = inner.to_string();
        if !text.contains(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        cause = inner.source();
    }
    towpath_git::without_secrets(&text)
}
