//! Asks a remote for its refs, and finds the ref that a source follows.

use std::path::{Path, PathBuf};

use super::{
    connection,
    refs::{Advertised, MOST_REFS, Ref, highest_tag, read},
};
use crate::{Reference, SourceError, deadline, repo::BareRepo};

/// Returns the ref of the remote that the source follows, or `None` if the source names a commit instead of a ref.
pub(crate) fn target(repo: &BareRepo) -> Result<Option<Ref>, SourceError> {
    let wanted = match &repo.options.reference {
        Reference::Commit(_) => return Ok(None),
        Reference::Branch(branch) => format!("refs/heads/{branch}"),
        Reference::Tag(_) => "refs/tags/*".to_owned(),
    };
    let advertised = advertised(repo, &wanted)?;
    let (found, shown) = match &repo.options.reference {
        Reference::Tag(pattern) => (highest_tag(&advertised, pattern), format!("tag {pattern}")),
        _ => (
            advertised.refs.iter().find(|found| found.name == wanted).cloned(),
            wanted.replace("refs/heads/", "branch "),
        ),
    };
    found.map(Some).ok_or_else(|| SourceError::Missing {
        url: repo.options.display_url(),
        wanted: shown,
        empty: advertised.empty,
    })
}

/// Asks the remote for the refs that match a refspec.
pub(crate) fn advertised(repo: &BareRepo, wanted: &str) -> Result<Advertised, SourceError> {
    let advertised = match local_path(&repo.options.url) {
        Some(local) => local_refs(repo, &local, wanted)?,
        None => {
            repo.create()?;
            let (remote, wanted) = (repo.clone(), wanted.to_owned());
            let time = repo.options.limits.poll;
            let ended = deadline::run(time, move |_| connection::advertise(&remote, &wanted, time));
            ended.within(&repo.options, time)??
        }
    };
    if advertised.refs.len() > MOST_REFS {
        return Err(repo.too_much(format!("{MOST_REFS} refs")));
    }
    Ok(advertised)
}

/// Reads the refs of a local repository directly, without a git process.
fn local_refs(repo: &BareRepo, path: &Path, wanted: &str) -> Result<Advertised, SourceError> {
    let unreachable = |error: gix::Error| repo.unreachable(error);
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

/// Returns the path in the URL of a local repository; `None` if the URL names another machine.
fn local_path(url: &str) -> Option<PathBuf> {
    if let Some(path) = url.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    (url.starts_with('/') || url.starts_with("./") || url.starts_with("../")).then(|| PathBuf::from(url))
}
