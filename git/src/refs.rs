//! The refs of a remote, and the choice of the ref that a source follows.

use std::path::{Path, PathBuf};

use gix::ObjectId;

use crate::{Mirror, Reference, SourceError, connection, deadline};

/// The maximum number of refs in a ref advertisement.
const MOST_REFS: usize = 1 << 17;

/// One ref of a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ref {
    /// The full name of the ref, such as `refs/heads/main`.
    pub(crate) name: String,
    /// The id of the object that the ref names. For an annotated tag, this object is the tag object.
    pub(crate) object: ObjectId,
    /// The id of the commit to which the ref leads.
    pub(crate) commit: ObjectId,
}

/// The refs that a remote has advertised.
#[derive(Debug)]
pub(crate) struct Advertised {
    pub(crate) refs: Vec<Ref>,
    /// True if the remote advertised no refs. With protocol v2, a remote advertises only refs that match the request.
    pub(crate) empty: bool,
}

impl Mirror {
    /// Returns the current ref on the remote that the source follows; `None` for a source that names a commit.
    pub(crate) fn target(&self) -> Result<Option<Ref>, SourceError> {
        let wanted = match &self.options().reference {
            Reference::Commit(_) => return Ok(None),
            Reference::Branch(branch) => format!("refs/heads/{branch}"),
            Reference::Tag(_) => "refs/tags/*".to_owned(),
        };
        let advertised = self.advertised(&wanted)?;
        let (found, shown) = match &self.options().reference {
            Reference::Tag(pattern) => (highest_tag(&advertised, pattern), format!("tag {pattern}")),
            _ => (
                advertised.refs.iter().find(|found| found.name == wanted).cloned(),
                wanted.replace("refs/heads/", "branch "),
            ),
        };
        found.map(Some).ok_or_else(|| SourceError::Missing {
            url: self.options().shown_url(),
            wanted: shown,
            empty: advertised.empty,
        })
    }

    /// Asks the remote for the refs that match a refspec.
    pub(crate) fn advertised(&self, wanted: &str) -> Result<Advertised, SourceError> {
        let advertised = match local_path(&self.options().url) {
            Some(local) => self.local_refs(&local, wanted)?,
            None => {
                self.prepare(self.path())?;
                let (path, options, wanted) = (self.path().to_owned(), self.options().clone(), wanted.to_owned());
                let time = options.limits.poll;
                let ended = deadline::run(time, move |_| connection::advertise(&path, &options, &wanted, time));
                self.ended(ended, time)??
            }
        };
        if advertised.refs.len() > MOST_REFS {
            return Err(self.too_much(format!("{MOST_REFS} refs")));
        }
        Ok(advertised)
    }

    /// Reads the refs of a local repository directly, without a git process.
    fn local_refs(&self, path: &Path, wanted: &str) -> Result<Advertised, SourceError> {
        let unreachable = |error: gix::Error| self.unreachable(error);
        let repository =
            gix::open_opts(path, gix::open::Options::isolated().open_path_as_is(false)).map_err(unreachable)?;
        let platform = repository.references().map_err(unreachable)?;
        let empty = platform.all().map_err(unreachable)?.next().is_none();
        let refs = match wanted.strip_suffix('*') {
            Some(prefix) => {
                let all = platform.prefixed(prefix).map_err(unreachable)?;
                all.flatten().take(MOST_REFS + 1).filter_map(read).collect()
            }
            None => repository.try_find_reference(wanted).map_err(unreachable)?.and_then(read).into_iter().collect(),
        };
        Ok(Advertised { refs, empty })
    }
}

/// Resolves a ref of a repository to its commit; `None` if the ref does not lead to an object.
fn read(mut reference: gix::Reference<'_>) -> Option<Ref> {
    let name = reference.name().as_bstr().to_string();
    let object = reference.follow_to_object().ok()?.detach();
    let commit = reference.peel_to_id().ok()?.detach();
    Some(Ref { name, object, commit })
}

/// Returns the tags in a mirror that match a pattern.
pub(crate) fn matching_tags(repository: &gix::Repository, pattern: &str) -> Result<Vec<Ref>, String> {
    let platform = repository.references().map_err(|error| error.to_string())?;
    let tags = platform.prefixed("refs/tags/").map_err(|error| error.to_string())?;
    let matches = |found: &Ref| found.name.strip_prefix("refs/tags/").is_some_and(|tag| glob_matches(pattern, tag));
    Ok(tags.flatten().take(MOST_REFS).filter_map(read).filter(matches).collect())
}

/// Returns the advertised tags that match a pattern and lead to a commit, highest version first.
pub(crate) fn tags_at(advertised: &Advertised, pattern: &str, commit: ObjectId) -> Vec<Ref> {
    let matches = |found: &&Ref| {
        found.commit == commit && found.name.strip_prefix("refs/tags/").is_some_and(|tag| glob_matches(pattern, tag))
    };
    let mut found: Vec<Ref> = advertised.refs.iter().filter(matches).cloned().collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.name.strip_prefix("refs/tags/").and_then(version)));
    found
}

/// Returns the path of a local repository; `None` for a remote URL.
fn local_path(url: &str) -> Option<PathBuf> {
    if let Some(path) = url.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    (url.starts_with('/') || url.starts_with("./") || url.starts_with("../")).then(|| PathBuf::from(url))
}

/// Returns the tag with the highest semantic version among the tags that match a pattern. A pattern without `*` is the
/// name of one tag.
fn highest_tag(advertised: &Advertised, pattern: &str) -> Option<Ref> {
    let tags = advertised.refs.iter().filter_map(|found| Some((found.name.strip_prefix("refs/tags/")?, found)));
    if !pattern.contains('*') {
        return tags.clone().find(|(tag, _)| *tag == pattern).map(|(_, found)| found.clone());
    }
    let matching = tags.filter(|(tag, _)| glob_matches(pattern, tag));
    let versions = matching.filter_map(|(tag, found)| Some((version(tag)?, found)));
    versions.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, found)| found.clone())
}

/// Parses the semantic version in the name of a tag. A leading `v` is ignored, and missing parts are zero.
pub fn version(tag: &str) -> Option<semver::Version> {
    let text = tag.trim_start_matches(['v', 'V']);
    semver::Version::parse(text).ok().or_else(|| {
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        (plain && dots < 2).then(|| semver::Version::parse(&format!("{text}{}", ".0".repeat(2 - dots))).ok()).flatten()
    })
}

/// Returns true if a text matches a pattern, in which `*` is any text. The time is at most the product of the lengths.
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
