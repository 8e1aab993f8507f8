//! Computes the relation between the head of a source and its accepted commit.

use gix::{ObjectId, Repository};

/// The relation of a source's head to the accepted commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestry {
    /// No commit of the source is accepted yet.
    First,
    /// The head is the accepted commit itself.
    Same,
    /// The head is a descendant of the accepted commit.
    Forward,
    /// The head is an older commit than the accepted commit, for example because the git server was restored from a
    /// backup.
    Behind,
    /// The head is neither an ancestor nor a descendant of the accepted commit: the history was rewritten, or cannot be
    /// read.
    Rewound,
    /// The relation is unknown, because the mirror lacks the accepted commit.
    Unknown,
}

/// Returns the relation of a source's head to the accepted commit.
pub(crate) fn ancestry(repository: &Repository, accepted: Option<ObjectId>, head: ObjectId) -> Ancestry {
    let Some(accepted) = accepted else { return Ancestry::First };
    if accepted == head {
        return Ancestry::Same;
    }
    if !repository.has_object(accepted) {
        return Ancestry::Unknown;
    }
    match repository.merge_base(accepted, head).map(|base| base.map(gix::Id::detach)) {
        Ok(Some(base)) if base == accepted => Ancestry::Forward,
        Ok(Some(base)) if base == head => Ancestry::Behind,
        _ => Ancestry::Rewound,
    }
}

/// Returns the commits after the accepted commit, up to and including a head, along first parents. The list begins with
/// the oldest commit.
///
/// Returns `None` if the first parents of the head do not lead to the accepted commit within 100,000 commits.
pub(crate) fn first_parents(repository: &Repository, accepted: ObjectId, head: ObjectId) -> Option<Vec<ObjectId>> {
    const LIMIT: usize = 100_000;
    let mut line = Vec::new();
    let mut at = head;
    while at != accepted {
        line.push(at);
        if line.len() > LIMIT {
            return None;
        }
        at = repository.find_commit(at).ok()?.parent_ids().next()?.detach();
    }
    line.reverse();
    Some(line)
}
