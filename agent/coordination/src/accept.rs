//! Accepting a revision: whoever has a candidate moves `accepted` from one generation to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::store::{Compare, Op, Outcome, Page, Row, Store, StoreError, Txn};

/// Where the record of acceptance stands.
pub use crate::keys::ACCEPTED as KEY;

/// The version of the records that this agent writes and understands.
pub const SCHEMA: u32 = 1;

/// What the fleet has agreed to go to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// The version of this record.
    pub schema: u32,
    /// The number of the revision.
    pub generation: u64,
    /// Its commits, by source.
    pub commits: BTreeMap<String, String>,
    /// The generation that it came from.
    pub parent: u64,
    /// The first source, the cluster and the store, written down with generation 1.
    pub origin: String,
}

/// The newest verified head of every source, loaded and found good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// Its commits, by source.
    pub commits: BTreeMap<String, String>,
    /// The version of the records.
    pub schema: u32,
}

/// A revision that could not be accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record is newer than this agent.
    #[error("the record of acceptance has schema {0}, and this agent knows {SCHEMA}: upgrade the agent")]
    TooOld(u32),
    /// The fleet began from something else.
    #[error("the fleet was begun from {theirs}, and this node is configured with {ours}")]
    OtherOrigin {
        /// What generation 1 was accepted from.
        theirs: String,
        /// What this node has.
        ours: String,
    },
    /// The record can't be read.
    #[error("the record of acceptance can't be read: {0}")]
    Unreadable(String),
}

/// What to do with a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is accepted already.
    Stay(Accepted),
    /// This transaction accepts it.
    Accept(Accepted, Txn),
}

/// Decides about a candidate, given the record that is in the store (with its revision) and the one on disk. The
/// disk wins where it is newer: a store may be restored, or empty after a restart.
///
/// # Errors
/// When the record in the store must not be followed.
pub fn decide(
    stored: Option<&Row>,
    disk: &Accepted,
    candidate: &Candidate,
    origin: &str,
) -> Result<Decision, AcceptError> {
    let in_store = stored.map(read).transpose()?.unwrap_or_default();
    if in_store.schema > SCHEMA {
        return Err(AcceptError::TooOld(in_store.schema));
    }
    if !in_store.origin.is_empty() && in_store.origin != origin {
        return Err(AcceptError::OtherOrigin { theirs: in_store.origin, ours: origin.to_owned() });
    }
    let newest = if disk.generation > in_store.generation { disk.clone() } else { in_store.clone() };
    let same = newest.commits == candidate.commits && newest.generation > 0;
    if same && newest.generation == in_store.generation {
        return Ok(Decision::Stay(in_store));
    }
    let generation = if same { newest.generation } else { newest.generation + 1 };
    let next = Accepted {
        schema: SCHEMA,
        generation,
        commits: candidate.commits.clone(),
        parent: generation - 1,
        origin: origin.to_owned(),
    };
    let compare = match stored {
        Some(row) => Compare::Revision(KEY.to_owned(), row.modified),
        None => Compare::Absent(KEY.to_owned()),
    };
    let value = serde_json::to_vec(&next).map_err(|error| AcceptError::Unreadable(error.to_string()))?;
    let put = Op::Put { key: KEY.to_owned(), value, lease: None };
    Ok(Decision::Accept(
        next,
        Txn { compare: vec![compare], then: vec![put], otherwise: vec![Op::Read(KEY.to_owned())] },
    ))
}

fn read(row: &Row) -> Result<Accepted, AcceptError> {
    serde_json::from_slice(&row.value).map_err(|error| AcceptError::Unreadable(error.to_string()))
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The candidate is the accepted revision.
    Accepted(Accepted),
    /// Somebody else was first, with this: start again from it.
    Lost(Accepted),
}

/// Tries to have a candidate accepted.
///
/// # Errors
/// When the store does not answer, or its record must not be followed.
pub fn attempt(
    store: &dyn Store,
    disk: &Accepted,
    candidate: &Candidate,
    origin: &str,
) -> Result<Attempt, AcceptError> {
    let page = Page { after: None, limit: 1 };
    let stored = store.read(KEY, &page)?.rows.into_iter().next();
    match decide(stored.as_ref(), disk, candidate, origin)? {
        Decision::Stay(accepted) => Ok(Attempt::Accepted(accepted)),
        Decision::Accept(next, txn) => match store.commit(&txn)? {
            Outcome::Done { .. } => Ok(Attempt::Accepted(next)),
            Outcome::Refused { answers, .. } => {
                let won = answers.first().and_then(|answer| answer.rows.first());
                Ok(Attempt::Lost(won.map(read).transpose()?.unwrap_or_default()))
            }
        },
    }
}

/// The record that is in the store.
///
/// # Errors
/// When the store does not answer, or the record can't be read.
pub fn current(store: &dyn Store) -> Result<Option<Accepted>, AcceptError> {
    let page = Page { after: None, limit: 1 };
    store.read(KEY, &page)?.rows.first().map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;

    fn candidate(commit: &str) -> Candidate {
        Candidate { commits: BTreeMap::from([("fleet".to_owned(), commit.to_owned())]), schema: SCHEMA }
    }

    #[test]
    fn generations_only_grow() {
        let store = LocalStore::default();
        let nothing = Accepted::default();
        let Attempt::Accepted(first) = attempt(&store, &nothing, &candidate("a"), "o").unwrap() else { panic!() };
        assert_eq!(first.generation, 1);
        assert_eq!(attempt(&store, &nothing, &candidate("a"), "o").unwrap(), Attempt::Accepted(first.clone()));
        let Attempt::Accepted(second) = attempt(&store, &first, &candidate("b"), "o").unwrap() else { panic!() };
        assert_eq!((second.generation, second.parent), (2, 1));
    }

    #[test]
    fn an_empty_store_is_filled_from_disk() {
        let store = LocalStore::default();
        let disk =
            Accepted { schema: SCHEMA, generation: 7, commits: candidate("a").commits, parent: 6, origin: "o".into() };
        let Attempt::Accepted(same) = attempt(&store, &disk, &candidate("a"), "o").unwrap() else { panic!() };
        assert_eq!(same.generation, 7);
        let Attempt::Accepted(next) = attempt(&LocalStore::default(), &disk, &candidate("b"), "o").unwrap() else {
            panic!()
        };
        assert_eq!(next.generation, 8);
    }

    #[test]
    fn who_loses_is_told_what_won() {
        let store = LocalStore::default();
        let Decision::Accept(_, late) = decide(None, &Accepted::default(), &candidate("b"), "o").unwrap() else {
            panic!()
        };
        attempt(&store, &Accepted::default(), &candidate("a"), "o").unwrap();
        let Outcome::Refused { answers, .. } = store.commit(&late).unwrap() else { panic!() };
        assert_eq!(read(&answers[0].rows[0]).unwrap().commits, candidate("a").commits);
    }

    #[test]
    fn another_origin_and_a_newer_schema_are_refused() {
        let store = LocalStore::default();
        attempt(&store, &Accepted::default(), &candidate("a"), "o").unwrap();
        assert!(matches!(
            attempt(&store, &Accepted::default(), &candidate("b"), "other"),
            Err(AcceptError::OtherOrigin { .. })
        ));
        let newer = Row { key: KEY.into(), value: br#"{"schema": 9}"#.to_vec(), created: 1, modified: 1 };
        assert!(matches!(
            decide(Some(&newer), &Accepted::default(), &candidate("b"), "o"),
            Err(AcceptError::TooOld(9))
        ));
    }
}
