//! Parses the URLs of repositories that tasks name, and the URL patterns that a Namespace allows.
//!
//! The parser accepts only a strict form of URL, so that this crate and the git client understand each URL in the same
//! way. A URL must not contain a password, an escape, a dot segment, or a character that two parsers can read
//! differently.

use std::fmt;

use super::glob::glob_matches;

/// The URL of a repository, parsed into scheme, user, host, port and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::objects) struct RepositoryUrl {
    scheme: &'static str,
    user: Option<String>,
    host: String,
    port: Option<String>,
    path: String,
}

/// The reason why a URL or a URL pattern is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::objects) enum UrlError {
    /// The scheme is neither https nor ssh.
    Scheme,
    /// The URL contains a forbidden user or password.
    Credentials,
    /// A part of the URL is empty, or contains a forbidden character. The string in this variant is the name of the
    /// wrong part.
    Part(&'static str),
    /// The path contains `..`, an empty segment or a dot segment.
    Segments,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("it is neither an https nor an ssh URL"),
            Self::Credentials => f.write_str("it has a user or a password"),
            Self::Part(part) => write!(f, "its {part} is empty or has a character that is not allowed"),
            Self::Segments => f.write_str("its path has an empty segment, \".\" or \"..\""),
        }
    }
}

impl RepositoryUrl {
    /// Parses a URL of the form `https://HOST[:PORT]/PATH`, `ssh://[USER@]HOST[:PORT]/PATH` or `[USER@]HOST:PATH`.
    ///
    /// # Errors
    /// Returns an error if the URL has another form.
    pub(in crate::objects) fn read(url: &str) -> Result<Self, UrlError> {
        let (scheme, authority, path) = split(url)?;
        Self::parse(scheme, authority, path.ok_or(UrlError::Part("path"))?, "")
    }

    /// Parses a URL pattern, which has the form of a URL. In a pattern, `*` matches any characters of one part of the
    /// URL. A URL pattern without a path allows every path on the host of the pattern.
    ///
    /// # Errors
    /// Returns an error if the pattern has another form.
    pub(in crate::objects) fn pattern(pattern: &str) -> Result<Self, UrlError> {
        let (scheme, authority, path) = split(pattern)?;
        Self::parse(scheme, authority, path.unwrap_or("*"), "*")
    }

    fn parse(scheme: &'static str, authority: &str, path: &str, more: &str) -> Result<Self, UrlError> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some() && scheme == "https" || user.is_some_and(|user| user.contains(':')) {
            return Err(UrlError::Credentials);
        }
        let (host, port) = host_and_port(host);
        let allowed = |text: &str, characters: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || characters.contains(c) || more.contains(c))
        };
        if user.is_some_and(|user| !allowed(user, "._-") || user.starts_with('-')) {
            return Err(UrlError::Part("user"));
        }
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if !inner.map_or_else(|| allowed(host, ".-"), |inner| allowed(inner, ":.")) || host.starts_with('-') {
            return Err(UrlError::Part("host"));
        }
        if port.is_some_and(|port| !allowed(port, "") || port.chars().any(|c| c.is_ascii_alphabetic())) {
            return Err(UrlError::Part("port"));
        }
        if !allowed(path, "._~!$&'()+,;=@:-/") {
            return Err(UrlError::Part("path"));
        }
        let inside = path.strip_suffix('/').unwrap_or(path);
        if inside.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(UrlError::Segments);
        }
        let default = if scheme == "https" { "443" } else { "22" };
        Ok(Self {
            scheme,
            user: user.map(str::to_owned),
            host: host.to_ascii_lowercase(),
            port: port.filter(|port| *port != default).map(str::to_owned),
            path: path.to_owned(),
        })
    }

    /// Returns true if this pattern allows a URL. A URL pattern without a user allows only the user `git`. A URL
    /// pattern without a port allows only the default port of the scheme.
    pub(in crate::objects) fn allows(&self, url: &Self) -> bool {
        let user = match (&self.user, &url.user) {
            (Some(pattern), Some(user)) => glob_matches(pattern, user),
            (Some(_), None) => false,
            (None, user) => user.as_deref().is_none_or(|user| user == "git"),
        };
        let port = match (&self.port, &url.port) {
            (Some(pattern), Some(port)) => glob_matches(pattern, port),
            (Some(pattern), None) => pattern == "*",
            (None, port) => port.is_none(),
        };
        self.scheme == url.scheme
            && user
            && port
            && glob_matches(&self.host, &url.host)
            && glob_matches(&self.path, &url.path)
    }
}

/// Divides a URL into scheme, authority and path. The returned path has no leading slash, and is `None` if the URL has
/// no path.
fn split(text: &str) -> Result<(&'static str, &str, Option<&str>), UrlError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => "https",
            "ssh" => "ssh",
            _ => return Err(UrlError::Scheme),
        };
        return Ok(match rest.split_once('/') {
            Some((authority, path)) => (scheme, authority, Some(path)),
            None => (scheme, rest, None),
        });
    }
    // In the scp form, the host ends at the first colon. A slash must not precede the colon.
    let colon = if let Some(end) = text.find("]:") { Some(end + 1) } else { text.find(':') };
    let (authority, path) = colon.map(|at| (&text[..at], &text[at + 1..])).ok_or(UrlError::Scheme)?;
    if authority.contains('/') || !authority.contains('@') {
        return Err(UrlError::Scheme);
    }
    Ok(("ssh", authority, Some(path.strip_prefix('/').unwrap_or(path))))
}

fn host_and_port(host: &str) -> (&str, Option<&str>) {
    let colon = match host.find(']') {
        Some(end) => host[end..].find(':').map(|at| end + at),
        None => host.find(':'),
    };
    colon.map_or((host, None), |at| (&host[..at], Some(&host[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_compared_by_its_parts() {
        for (pattern, url, allowed) in [
            ("https://git.example.org/*", "https://git.example.org/shared.git", true),
            ("https://git.example.org/*", "https://GIT.example.org:443/shared.git", true),
            ("https://git.example.org/team/*", "https://git.example.org/team/a/b.git", true),
            ("https://git.example.org/team/*", "https://git.example.org/teams/a.git", false),
            ("https://git.example.org/*", "https://git.example.org:8443/shared.git", false),
            ("https://git.example.org:*/*", "https://git.example.org:8443/shared.git", true),
            ("https://git.example.org:*/*", "https://git.example.org/shared.git", true),
            ("https://*.example.org/*", "https://git.example.org/shared.git", true),
            ("https://*.example.org/*", "https://evil.org/x.example.org/y", false),
            ("https://*example.org/*", "https://evil.org/example.org/y", false),
            ("https://git.example.org/*", "https://git.example.org.evil.org/y", false),
            ("https://git.example.org/*", "ssh://git.example.org/y", false),
            ("ssh://git.example.org/*", "git@git.example.org:team/a.git", true),
            ("git@git.example.org:team/*", "ssh://git@git.example.org/team/a.git", true),
            ("git@git.example.org:team/*", "ssh://git.example.org/team/a.git", false),
            ("ssh://git.example.org/*", "ssh://root@git.example.org/a.git", false),
            ("ssh://[fe80::1]/*", "ssh://git@[fe80::1]/a.git", true),
        ] {
            let (read, known) = (RepositoryUrl::read(url).unwrap(), RepositoryUrl::pattern(pattern).unwrap());
            assert_eq!(known.allows(&read), allowed, "{pattern} and {url}");
        }
    }

    #[test]
    fn ambiguous_url_is_refused() {
        for (url, error) in [
            ("https://git.example.org@evil.org/x.git", UrlError::Credentials),
            ("https://user:password@git.example.org/x.git", UrlError::Credentials),
            ("ssh://git:password@git.example.org/x.git", UrlError::Credentials),
            ("https://git.example.org/team/../other/x.git", UrlError::Segments),
            ("https://git.example.org/team/./x.git", UrlError::Segments),
            ("https://git.example.org//x.git", UrlError::Segments),
            ("https://git.example.org/team/%2e%2e/x.git", UrlError::Part("path")),
            ("https://git.example.org/team\\x.git", UrlError::Part("path")),
            ("https://git.example.org/x.git?a=b", UrlError::Part("path")),
            ("https://git.example.org/x.git#a", UrlError::Part("path")),
            ("https://git.example.org/x\n.git", UrlError::Part("path")),
            ("https://git.example.org", UrlError::Part("path")),
            ("https:///x.git", UrlError::Part("host")),
            ("ssh://-oProxyCommand=id/x.git", UrlError::Part("host")),
            ("ssh://-l@git.example.org/x.git", UrlError::Part("user")),
            ("git@-oProxyCommand:x.git", UrlError::Part("host")),
            ("https://git.example.org:x/y", UrlError::Part("port")),
            ("https://git.example.org\u{3002}evil.org/x", UrlError::Part("host")),
            ("http://git.example.org/x.git", UrlError::Scheme),
            ("file:///etc", UrlError::Scheme),
            ("ext::sh -c id", UrlError::Scheme),
            ("/srv/git/x.git", UrlError::Scheme),
        ] {
            assert_eq!(RepositoryUrl::read(url), Err(error), "{url}");
        }
    }

    #[test]
    fn pattern_without_a_path_allows_every_path_of_its_host() {
        let allows = |pattern: &str, url: &str| {
            RepositoryUrl::pattern(pattern).unwrap().allows(&RepositoryUrl::read(url).unwrap())
        };
        assert!(allows("https://localhost:*", "https://localhost:8443/a/b.git"));
        assert!(!allows("https://localhost*", "https://evil.org/localhost/x"));
        assert!(!allows("https://*.example.org", "https://evil.org/x.example.org"));
        assert_eq!(RepositoryUrl::pattern("*"), Err(UrlError::Scheme));
    }
}
