//! Selects, from the refs of a remote, the tag that a source follows.

use gix::ObjectId;

/// The maximum number of refs in a ref advertisement.
pub(crate) const MOST_REFS: usize = 1 << 17;

/// One ref of a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ref {
    /// The full name of the ref, such as `refs/heads/main`.
    pub(crate) name: String,
    /// The id of the object that the ref names; the id of the tag object if the ref is an annotated tag.
    pub(crate) object: ObjectId,
    /// The id of the commit to which the ref points, directly or through a tag object.
    pub(crate) commit: ObjectId,
}

/// The refs that a remote has advertised.
#[derive(Debug)]
pub(crate) struct Advertised {
    pub(crate) refs: Vec<Ref>,
    /// True if the remote advertised no refs. With protocol v2, a remote advertises only refs that match the request.
    pub(crate) empty: bool,
}

/// Returns a ref of a repository with the commit of the ref; `None` if the ref cannot be resolved to an object.
pub(crate) fn read(mut reference: gix::Reference<'_>) -> Option<Ref> {
    let name = reference.name().as_bstr().to_string();
    let object = reference.follow_to_object().ok()?.detach();
    let commit = reference.peel_to_id().ok()?.detach();
    Some(Ref { name, object, commit })
}

/// Finds tags in a mirror by a pattern for the name of a tag.
pub(crate) fn matching_tags(repository: &gix::Repository, pattern: &str) -> Result<Vec<Ref>, String> {
    let platform = repository.references().map_err(|error| error.to_string())?;
    let tags = platform.prefixed("refs/tags/").map_err(|error| error.to_string())?;
    let matches = |found: &Ref| found.name.strip_prefix("refs/tags/").is_some_and(|tag| glob_matches(pattern, tag));
    Ok(tags.flatten().take(MOST_REFS).filter_map(read).filter(matches).collect())
}

/// Returns the advertised tags that match a pattern and point to a commit, highest version first.
pub(crate) fn tags_at(advertised: &Advertised, pattern: &str, commit: ObjectId) -> Vec<Ref> {
    let matches = |found: &&Ref| {
        found.commit == commit && found.name.strip_prefix("refs/tags/").is_some_and(|tag| glob_matches(pattern, tag))
    };
    let mut found: Vec<Ref> = advertised.refs.iter().filter(matches).cloned().collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.name.strip_prefix("refs/tags/").and_then(version)));
    found
}

/// Returns the tag with the highest semantic version among the tags that match a pattern. A pattern without `*` matches
/// only the tag with the name in the pattern.
pub(crate) fn highest_tag(advertised: &Advertised, pattern: &str) -> Option<Ref> {
    let tags = advertised.refs.iter().filter_map(|found| Some((found.name.strip_prefix("refs/tags/")?, found)));
    if !pattern.contains('*') {
        return tags.clone().find(|(tag, _)| *tag == pattern).map(|(_, found)| found.clone());
    }
    let matching = tags.filter(|(tag, _)| glob_matches(pattern, tag));
    let versions = matching.filter_map(|(tag, found)| Some((version(tag)?, found)));
    versions.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, found)| found.clone())
}

/// Parses the semantic version in the name of a tag. The parser ignores a leading `v`, and sets missing parts of the
/// version to zero.
pub fn version(tag: &str) -> Option<semver::Version> {
    let text = tag.trim_start_matches(['v', 'V']);
    semver::Version::parse(text).ok().or_else(|| {
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        (plain && dots < 2).then(|| semver::Version::parse(&format!("{text}{}", ".0".repeat(2 - dots))).ok()).flatten()
    })
}

/// Returns true if a text matches a pattern, in which `*` is any text. The comparison takes time in proportion to the
/// length of the text times the length of the pattern, or less.
fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_version_is_followed() {
        let id = ObjectId::null(gix::hash::Kind::Sha1);
        let refs = ["v1.2.0", "v1.10.0", "v2.0.0", "v1.11.0-rc.1", "v1", "latest"].map(|tag| Ref {
            name: format!("refs/tags/{tag}"),
            object: id,
            commit: id,
        });
        let advertised = Advertised { refs: refs.to_vec(), empty: false };
        let found = |pattern| highest_tag(&advertised, pattern).map(|found| found.name);
        assert_eq!(found("v1.*").as_deref(), Some("refs/tags/v1.11.0-rc.1"));
        assert_eq!(found("v*").as_deref(), Some("refs/tags/v2.0.0"));
        assert_eq!(found("latest").as_deref(), Some("refs/tags/latest"));
        assert_eq!(found("v3.*"), None);
    }

    #[test]
    fn patterns_match_in_bounded_time() {
        for (glob, text, matches) in [
            ("v1.*", "v1.2", true),
            ("v1.*", "v2.2", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aba", true),
            ("*-prod-*", "v1-prod-2", true),
            ("a**b", "ab", true),
            ("release", "release1", false),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} {text}");
        }
        // A matcher with exponential backtracking would exceed the time limit of the test.
        assert!(!glob_matches(&"a*".repeat(30), &"a".repeat(29)));
        assert!(!glob_matches(&format!("{}b", "*a".repeat(30)), &"a".repeat(5000)));
    }
}
