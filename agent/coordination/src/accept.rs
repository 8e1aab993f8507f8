//! Accepting a revision: whoever has a candidate moves `accepted` from one generation to the next.

mod record;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    keys,
    store::{Compare, Op, Outcome, Page, Row, Store, StoreError, Txn},
};

pub use self::{
    record::{Accepted, Origin, SCHEMA, Strictness},
    table::{BookEntry, Table, joined, table_of},
};
/// Where the record of acceptance stands.
pub use crate::keys::ACCEPTED as KEY;

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
    #[error("the fleet was begun from {theirs}, and this node is configured with {ours}; correct its bootstrap file")]
    OtherOrigin {
        /// What generation 1 was accepted from.
        theirs: String,
        /// What this node has.
        ours: String,
    },
    /// The fleet verifies more than this node would.
    #[error(
        "the fleet was begun with verify.mode {theirs} for its first source, and this node is configured with {ours}; set at least {theirs} in its bootstrap file"
    )]
    Weaker {
        /// What generation 1 was accepted with.
        theirs: &'static str,
        /// What this node has.
        ours: &'static str,
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
    /// This transaction accepts it, once its table stands in the store.
    Accept(Box<Next>),
}

/// An acceptance that is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The record.
    pub accepted: Accepted,
    /// Its table.
    pub table: Table,
    /// What writes the record.
    pub txn: Txn,
}

/// What a node brings to an acceptance.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// The node.
    pub node: &'a str,
    /// What it has on its own disk.
    pub disk: &'a Accepted,
    /// The table that came with that.
    pub disk_table: &'a Table,
    /// What it has found good.
    pub candidate: &'a Candidate,
    /// What must be the same on all nodes.
    pub origin: &'a Origin,
    /// The digests of the candidate's coordinated books.
    pub digests: &'a BTreeMap<String, String>,
    /// Who has joined.
    pub joined: &'a [String],
    /// The candidate's objects, by `Kind/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The generation of the record in the store, where that does not verify for this node: then it does not exist for
    /// it, but for its number.
    pub poisoned: Option<u64>,
    /// Whether the node goes where others have gone before it proposes anything: not within one process, where all look
    /// at the sources themselves.
    pub follows: bool,
}

/// Decides about a candidate, given the record that is in the store (with its revision), its table, and what is on
/// disk. The disk wins where it is newer: a store may be restored, or empty after a restart.
///
/// # Errors
/// When the record in the store must not be followed.
pub fn decide(stored: Option<&Row>, table: &Table, proposal: &Proposal<'_>) -> Result<Decision, AcceptError> {
    let Proposal { node, disk, disk_table, candidate, origin, .. } = *proposal;

    let in_store = stored.map(read).transpose()?.unwrap_or_default();
    in_store.admits(origin)?;
    let poisoned = proposal.poisoned == Some(in_store.generation);
    let disk_wins = poisoned || disk.generation > in_store.generation;
    let (newest, known) = if disk_wins { (disk.clone(), disk_table) } else { (in_store.clone(), table) };
    let same = newest.commits == candidate.commits && newest.generation > 0;
    if same && (poisoned || newest.generation == in_store.generation) {
        return Ok(Decision::Stay(newest));
    }
    let generation = if same { newest.generation } else { newest.generation.max(in_store.generation) + 1 };
    let table = known.next(generation, proposal);
    let accepted = Accepted {
        schema: SCHEMA,
        generation,
        commits: candidate.commits.clone(),
        parent: if same { newest.parent } else { newest.generation },
        origin: origin.from.clone(),
        verify: if newest.generation == 0 { origin.verify } else { newest.verify },
        table: table.digest(),
        table_before: newest.table.clone(),
        by: node.to_owned(),
    };
    let compare = match stored {
        Some(row) => Compare::Revision(KEY.to_owned(), row.modified),
        None => Compare::Absent(KEY.to_owned()),
    };
    let value = serde_json::to_vec(&accepted).map_err(|error| AcceptError::Unreadable(error.to_string()))?;
    let mut then = vec![Op::put(KEY, value)];
    let old = &newest.table_before;
    if !old.is_empty() && *old != accepted.table && *old != accepted.table_before {
        then.push(Op::DeleteAll(keys::whole_table(old)));
    }
    let txn = Txn { compare: vec![compare], then, otherwise: vec![Op::Read(KEY.to_owned())] };
    Ok(Decision::Accept(Box::new(Next { accepted, table, txn })))
}

fn read(row: &Row) -> Result<Accepted, AcceptError> {
    serde_json::from_slice(&row.value).map_err(|error| AcceptError::Unreadable(error.to_string()))
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The candidate is the accepted revision.
    Accepted(Accepted, Table),
    /// Somebody else was first, with this: start again from it.
    Lost(Accepted),
}

/// Tries to have a candidate accepted.
///
/// # Errors
/// When the store does not answer, or its record must not be followed.
pub fn attempt(store: &dyn Store, proposal: &Proposal<'_>) -> Result<Attempt, AcceptError> {
    let page = Page { after: None, limit: 1 };
    let stored = store.read(KEY, &page)?.rows.into_iter().next();
    let in_store = stored.as_ref().map(read).transpose()?.unwrap_or_default();
    let based_on = proposal.poisoned.unwrap_or(proposal.disk.generation);
    if proposal.follows && in_store.generation > based_on && in_store.commits != proposal.candidate.commits {
        // It was accepted since this node has looked: what it found good then may be what came before.
        return Ok(Attempt::Lost(in_store));
    }
    let table = if in_store.table == proposal.disk.table {
        proposal.disk_table.clone()
    } else {
        table_of(store, &in_store)?.unwrap_or_default()
    };
    match decide(stored.as_ref(), &table, proposal)? {
        Decision::Stay(accepted) => {
            if !accepted.table.is_empty() && accepted.table == table.digest() && table_of(store, &accepted)?.is_none() {
                // The store has lost it, and this node has not.
                table.put(store)?;
            }
            Ok(Attempt::Accepted(accepted, table))
        }
        Decision::Accept(next) => {
            next.table.put(store)?;
            match store.commit(&next.txn)? {
                Outcome::Done { .. } => Ok(Attempt::Accepted(next.accepted, next.table)),
                Outcome::Refused { answers, .. } => {
                    let won = answers.first().and_then(|answer| answer.rows.first());
                    Ok(Attempt::Lost(won.map(read).transpose()?.unwrap_or_default()))
                }
            }
        }
    }
}

/// The record that is in the store, and the revision of the store.
///
/// # Errors
/// When the store does not answer, or the record can't be read.
pub fn current(store: &dyn Store) -> Result<(Option<Accepted>, u64), AcceptError> {
    let page = Page { after: None, limit: 1 };
    let found = store.read(KEY, &page)?;
    Ok((found.rows.first().map(read).transpose()?, found.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;

    fn candidate(commit: &str) -> Candidate {
        Candidate { commits: BTreeMap::from([("fleet".to_owned(), commit.to_owned())]), schema: SCHEMA }
    }

    fn propose(store: &LocalStore, disk: &Accepted, commit: &str, origin: &str) -> Result<Attempt, AcceptError> {
        propose_as(store, disk, commit, &Origin { from: origin.to_owned(), verify: Strictness::Head })
    }

    fn propose_as(store: &LocalStore, disk: &Accepted, commit: &str, origin: &Origin) -> Result<Attempt, AcceptError> {
        let digests = BTreeMap::from([("n/b".to_owned(), commit[..1].to_owned())]);
        attempt(
            store,
            &Proposal {
                node: "n1",
                disk,
                disk_table: &table_of(store, disk).unwrap().unwrap_or_default(),
                candidate: &candidate(commit),
                origin,
                digests: &digests,
                joined: &joined(store).unwrap(),
                objects: &BTreeSet::from([format!("TaskBook/n/{}", &commit[..1])]),
                poisoned: None,
                follows: false,
            },
        )
    }

    fn accepted(attempt: Result<Attempt, AcceptError>) -> (Accepted, Table) {
        match attempt.unwrap() {
            Attempt::Accepted(accepted, table) => (accepted, table),
            Attempt::Lost(_) => panic!("lost"),
        }
    }

    #[test]
    fn generations_only_grow() {
        let store = LocalStore::default();
        let nothing = Accepted::default();
        let (first, _) = accepted(propose(&store, &nothing, "a", "o"));
        assert_eq!(first.generation, 1);
        assert_eq!(accepted(propose(&store, &nothing, "a", "o")).0, first);
        let (second, _) = accepted(propose(&store, &first, "b", "o"));
        assert_eq!((second.generation, second.parent), (2, 1));
    }

    #[test]
    fn a_book_is_the_same_since_the_generation_that_changed_it() {
        let store = LocalStore::default();
        let join = |node: &str| {
            store.commit(&Txn { then: vec![Op::put(keys::joined(node), vec![])], ..Txn::default() }).unwrap();
        };
        join("n1");
        let (first, table) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
        assert_eq!(table.books["n/b"].since, 1);
        join("n2");
        // The digest of the book is the first letter of the commit: the same.
        let (second, table) = accepted(propose(&store, &first, "a2", "o"));
        assert_eq!((second.generation, table.books["n/b"].since), (2, 1));
        assert_eq!(table.joined[&1], ["n1"], "who joined later is not waited for");
        let (third, table) = accepted(propose(&store, &second, "b1", "o"));
        assert_eq!(table.books["n/b"].since, 3);
        assert_eq!(table.joined[&3], ["n1", "n2"]);
        assert_eq!(table_of(&store, &third).unwrap().unwrap(), table);
        accepted(propose(&store, &third, "c1", "o"));
        assert_eq!(table_of(&store, &second).unwrap(), None, "tables that nobody needs go");
    }

    #[test]
    fn what_is_gone_and_comes_back_is_born_again() {
        let store = LocalStore::default();
        let (first, table) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
        assert_eq!(table.births["TaskBook/n/a"], 1);
        let (second, table) = accepted(propose(&store, &first, "a2", "o"));
        assert_eq!(table.births["TaskBook/n/a"], 1);
        let (third, table) = accepted(propose(&store, &second, "b1", "o"));
        assert_eq!(table.births, BTreeMap::from([("TaskBook/n/b".to_owned(), 3)]));
        let (_, table) = accepted(propose(&store, &third, "a3", "o"));
        assert_eq!(table.births["TaskBook/n/a"], 4);
    }

    #[test]
    fn a_record_that_does_not_verify_is_passed_over_with_the_next_number() {
        let store = LocalStore::default();
        let (good, table) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
        accepted(propose(&store, &good, "x1", "o"));
        let stored = store.read(KEY, &Page::default()).unwrap().rows.remove(0);
        let decided = |commit: &str| {
            let proposal = Proposal {
                node: "n2",
                disk: &good,
                disk_table: &table,
                candidate: &candidate(commit),
                origin: &Origin { from: "o".into(), verify: Strictness::Head },
                digests: &BTreeMap::from([("n/b".to_owned(), "a".to_owned())]),
                joined: &[],
                objects: &BTreeSet::new(),
                poisoned: Some(2),
                follows: true,
            };
            decide(Some(&stored), &Table::default(), &proposal).unwrap()
        };
        assert_eq!(decided("a1"), Decision::Stay(good.clone()), "it stays where it is until there is something new");
        let Decision::Accept(next) = decided("a2") else { panic!("it goes on from its own") };
        assert_eq!((next.accepted.generation, next.accepted.parent), (3, 1));
        assert_eq!(next.table.books["n/b"].since, 1, "the book is as it was before the poisoned record");
    }

    #[test]
    fn who_has_not_seen_what_was_accepted_proposes_nothing() {
        let store = LocalStore::default();
        let (first, _) = accepted(propose(&store, &Accepted::default(), "a", "o"));
        let (second, _) = accepted(propose(&store, &first, "b", "o"));
        let tried = |disk: &Accepted, commit: &str, poisoned: Option<u64>| {
            let proposal = Proposal {
                node: "n2",
                disk,
                disk_table: &Table::default(),
                candidate: &candidate(commit),
                origin: &Origin { from: "o".into(), verify: Strictness::Head },
                digests: &BTreeMap::new(),
                joined: &[],
                objects: &BTreeSet::new(),
                poisoned,
                follows: true,
            };
            attempt(&store, &proposal).unwrap()
        };
        assert_eq!(tried(&first, "a", None), Attempt::Lost(second.clone()), "it would take the fleet back");
        assert_eq!(tried(&first, "c", Some(1)), Attempt::Lost(second.clone()), "another one is poisoned");
        assert!(matches!(tried(&second, "c", None), Attempt::Accepted(third, _) if third.generation == 3));
    }

    #[test]
    fn an_empty_store_is_filled_from_disk() {
        let disk = Accepted {
            schema: SCHEMA,
            generation: 7,
            commits: candidate("a").commits,
            parent: 6,
            origin: "o".into(),
            ..Accepted::default()
        };
        assert_eq!(accepted(propose(&LocalStore::default(), &disk, "a", "o")).0.generation, 7);
        assert_eq!(accepted(propose(&LocalStore::default(), &disk, "b", "o")).0.generation, 8);
    }

    #[test]
    fn who_loses_is_told_what_won() {
        let store = LocalStore::default();
        let digests = BTreeMap::new();
        let late = Proposal {
            node: "n2",
            disk: &Accepted::default(),
            disk_table: &Table::default(),
            candidate: &candidate("b"),
            origin: &Origin { from: "o".into(), verify: Strictness::Head },
            digests: &digests,
            joined: &[],
            objects: &BTreeSet::new(),
            poisoned: None,
            follows: false,
        };
        let Decision::Accept(late) = decide(None, &Table::default(), &late).unwrap() else { panic!() };
        propose(&store, &Accepted::default(), "a", "o").unwrap();
        let Outcome::Refused { answers, .. } = store.commit(&late.txn).unwrap() else { panic!() };
        assert_eq!(read(&answers[0].rows[0]).unwrap().commits, candidate("a").commits);
    }

    #[test]
    fn another_origin_weaker_verification_and_a_newer_schema_are_refused() {
        let store = LocalStore::default();
        propose(&store, &Accepted::default(), "a", "o").unwrap();
        assert!(matches!(propose(&store, &Accepted::default(), "b", "other"), Err(AcceptError::OtherOrigin { .. })));
        for (verify, admitted) in [(Strictness::None, false), (Strictness::Head, true), (Strictness::Range, true)] {
            let tried = propose_as(&store, &Accepted::default(), "a", &Origin { from: "o".into(), verify });
            assert_eq!(matches!(tried, Err(AcceptError::Weaker { .. })), !admitted, "{verify:?}: {tried:?}");
        }
        let newer = Row { key: KEY.into(), value: br#"{"schema": 9}"#.to_vec(), created: 1, modified: 1 };
        let any = Proposal {
            node: "n",
            disk: &Accepted::default(),
            disk_table: &Table::default(),
            candidate: &candidate("b"),
            origin: &Origin { from: "o".into(), verify: Strictness::Head },
            digests: &BTreeMap::new(),
            joined: &[],
            objects: &BTreeSet::new(),
            poisoned: None,
            follows: false,
        };
        assert!(matches!(decide(Some(&newer), &Table::default(), &any), Err(AcceptError::TooOld(9))));
    }
}
