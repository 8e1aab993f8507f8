//! Errors with their causes, as one line.

/// Returns an error with its causes, each once. URLs in it have no user, password and query.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
