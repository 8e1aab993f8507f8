//! The ancestry between a head and an accepted commit.

use gix::{ObjectId, Repository};

/// The relation of a head to the commit that was accepted before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// A first head: no commit was accepted before.
    First,
    /// The accepted commit itself.
    Same,
    /// A descendant of the accepted commit.
    Forward,
    /// An ancestor of the accepted commit, as on a remote that lags.
    Behind,
    /// Any other commit: history was rewritten, or a common ancestor cannot be computed.
    Rewound,
    /// A head of unknown ancestry, because the mirror lacks the accepted commit.
    Unknown,
}

/// Returns the relation of a head to an accepted commit.
pub(crate) fn movement(repository: &Repository, accepted: Option<ObjectId>, head: ObjectId) -> Movement {
    let Some(accepted) = accepted else { return Movement::First };
    if accepted == head {
        return Movement::Same;
    }
    if !repository.has_object(accepted) {
        return Movement::Unknown;
    }
    match repository.merge_base(accepted, head).map(|base| base.map(gix::Id::detach)) {
        Ok(Some(base)) if base == accepted => Movement::Forward,
        Ok(Some(base)) if base == head => Movement::Behind,
        _ => Movement::Rewound,
    }
}

/// Returns the commits after an accepted one up to a head, along first parents, oldest first.
///
/// Returns `None` if the accepted commit is not on that line, or if the line is longer than 100,000 commits.
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
