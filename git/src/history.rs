//! How a ref has moved, and whether it may.

use gix::{ObjectId, Repository};

/// How a head stands to the commit that was accepted before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// Nothing was accepted before.
    First,
    /// It is the same.
    Same,
    /// It descends from it.
    Forward,
    /// It is an ancestor of it: a mirror that lags.
    Behind,
    /// It is neither: history was rewritten.
    Rewound,
    /// The accepted commit is not in the mirror: nothing can be said of descent.
    Unknown,
}

/// How a head stands to an accepted commit.
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

/// The commits behind an accepted one up to a head, along first parents, oldest first; None where the accepted
/// commit is not on that line.
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
