//! Matches names and paths with the patterns in a Namespace. In a pattern, `*` matches any text.

/// Returns true if a pattern matches a text. In the pattern, `*` matches any text.
pub(super) fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Returns true if a path is equal to a prefix or below the prefix. The prefix `a/b` does not match `a/bc`, because
/// whole components are compared. In a component of the prefix, `*` matches any text without a slash.
pub(in crate::objects) fn below_prefix(prefix: &str, path: &str) -> bool {
    let plain = |component: &str| !matches!(component, "" | "." | "..");
    let components = |text: &str| -> Vec<String> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() { Vec::new() } else { text.split('/').map(str::to_owned).collect() }
    };
    let (prefix_parts, parts) = (components(prefix), components(path));
    prefix.starts_with('/') == path.starts_with('/')
        && parts.iter().all(|part| plain(part) && !part.contains('%') && !part.contains('\\'))
        && prefix_parts.iter().all(|part| plain(part))
        && prefix_parts.len() <= parts.len()
        && prefix_parts.iter().zip(&parts).all(|(glob, part)| glob_matches(glob, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_compares_whole_components() {
        for (prefix, path, allowed) in [
            ("secret/data/app", "secret/data/app", true),
            ("secret/data/app", "secret/data/app/db", true),
            ("secret/data/app/", "secret/data/app/db", true),
            ("secret/data/app", "secret/data/apple", false),
            ("secret/data/app", "secret/data", false),
            ("secret/data/app", "secret/data/app/../other", false),
            ("secret/data/app", "secret/data/app/%2e%2e/other", false),
            ("secret/data/app", "secret/data/app//db", false),
            ("secret/data/*/db", "secret/data/app/db/x", true),
            ("secret/data/*", "secret/data", false),
            ("secret/data/a*", "secret/data/app/db", true),
            ("secret/data/a*b", "secret/data/a/b", false),
            ("/etc/app", "/etc/app/key", true),
            ("/etc/app", "etc/app/key", false),
            ("/etc/app", "/etc/app-two/key", false),
            ("/", "/etc/app", true),
            ("", "secret/x", true),
            ("/etc/../root", "/etc/../root/x", false),
        ] {
            assert_eq!(below_prefix(prefix, path), allowed, "{path} below {prefix}");
        }
    }
}
