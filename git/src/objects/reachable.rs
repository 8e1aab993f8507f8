//! Finds the git objects of a commit and its history.

use std::{
    collections::BTreeSet,
    str::FromStr as _,
    sync::atomic::{AtomicBool, Ordering},
};

use gix::{ObjectId, Repository, objs::tree::EntryKind};

use crate::{SourceError, repo::BareRepo};

/// Checks that `gix` can read the fetched history of a commit, and that no object is missing. The mirror can send a
/// checked commit to other nodes.
///
/// The function skips the history of commits that a ref of the mirror names, because an earlier fetch has checked this
/// history.
pub(crate) fn check_history(repo: &BareRepo, commit: &str, stop: &AtomicBool) -> Result<(), SourceError> {
    let repository = repo.open()?;
    let refused = |message: String| SourceError::Pack { message };
    let commit = ObjectId::from_str(commit).map_err(|error| refused(error.to_string()))?;
    let references = repository.references().map_err(|error| repo.corrupt(error.to_string()))?;
    let before = references.all().map_err(|error| repo.corrupt(error.to_string()))?;
    let before = before.flatten().filter_map(|mut reference| reference.peel_to_id().ok());
    let before = before.map(gix::Id::detach).filter(|id| repository.find_commit(*id).is_ok());
    let before: BTreeSet<ObjectId> = before.collect();
    let given = walk(&repository, commit, before.into_iter().collect(), &mut BTreeSet::new(), stop)
        // The walk may fail because an older ref is damaged. Then the whole history of the commit is read instead.
        .or_else(|_| walk(&repository, commit, Vec::new(), &mut BTreeSet::new(), stop));
    given.map(drop).map_err(refused)
}

/// Returns the ids of the objects in a commit and its history. The result omits the objects in the commit `have` and in
/// the history of this commit.
pub(crate) fn needed_objects(
    repository: &Repository,
    commit: ObjectId,
    have: Option<ObjectId>,
) -> Result<Vec<ObjectId>, String> {
    let mut seen: BTreeSet<ObjectId> = BTreeSet::new();
    if let Some(have) = have {
        gather(repository, tree(repository, have)?, &mut seen, &mut Vec::new())?;
    }
    walk(repository, commit, have.into_iter().collect(), &mut seen, &AtomicBool::new(false))
}

/// Returns the ids of the objects of a commit and its history. The result omits the objects in `seen`, and the commits
/// in `hidden` with their history.
fn walk(
    repository: &Repository,
    commit: ObjectId,
    hidden: Vec<ObjectId>,
    seen: &mut BTreeSet<ObjectId>,
    stop: &AtomicBool,
) -> Result<Vec<ObjectId>, String> {
    let mut found = Vec::new();
    for info in repository.rev_walk([commit]).with_hidden(hidden).all().map_err(|error| error.to_string())? {
        if stop.load(Ordering::Relaxed) {
            return Err("the check of the history exceeded its time limit".into());
        }
        let id = info.map_err(|error| error.to_string())?.id;
        found.push(id);
        gather(repository, tree(repository, id)?, seen, &mut found)?;
    }
    Ok(found)
}

fn tree(repository: &Repository, commit: ObjectId) -> Result<ObjectId, String> {
    let commit = repository.find_commit(commit).map_err(|error| error.to_string())?;
    commit.tree_id().map(gix::Id::detach).map_err(|error| error.to_string())
}

/// Adds a tree and all objects below the tree to `found`, except the objects in `seen`.
fn gather(
    repository: &Repository,
    root: ObjectId,
    seen: &mut BTreeSet<ObjectId>,
    found: &mut Vec<ObjectId>,
) -> Result<(), String> {
    let mut trees = vec![root];
    while let Some(id) = trees.pop() {
        if !seen.insert(id) {
            continue;
        }
        found.push(id);
        let tree = repository.find_tree(id).map_err(|error| error.to_string())?;
        for entry in tree.iter() {
            let entry = entry.map_err(|error| error.to_string())?;
            match entry.mode().kind() {
                EntryKind::Tree => trees.push(entry.oid().to_owned()),
                // The entry of a submodule names a commit in another repository, so there is no object to add.
                EntryKind::Commit => {}
                _ if seen.insert(entry.oid().to_owned()) => {
                    if !repository.has_object(entry.oid()) {
                        return Err(format!("the object {} is missing", entry.oid()));
                    }
                    found.push(entry.oid().to_owned());
                }
                _ => {}
            }
        }
    }
    Ok(())
}
