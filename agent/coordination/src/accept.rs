//! Accepting a revision: whoever has a candidate moves `accepted` from one generation to the next.

mod chain;
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
    chain::{FARTHEST, KEPT, Link, Standing},
    record::{Accepted, Origin, SCHEMA, Strictness},
    table::{BookEntry, Made, Table, joined, table_of},
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
    /// The record can't be written.
    #[error("cannot write the record of acceptance: {0}")]
    Unwritable(String),
}

/// What to do with a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is accepted already.
    Stay(Box<Accepted>),
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
    /// The record of the store that this node does not follow.
    pub rejected: Option<&'a Rejected>,
    /// Whether the node goes where others have gone before it proposes anything: not within one process, where all look
    /// at the sources themselves.
    pub follows: bool,
}

/// A record of the store that a node does not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which record it is: see [`Found::id`].
    pub id: String,
    /// Whether its number counts: then the next acceptance has the number after it. The number of a void record does
    /// not, nor that of one to which no chain leads: then the next acceptance has the number after the node's own.
    pub counts: bool,
}

/// The record of acceptance as it is in the store.
#[derive(Debug, Clone, Default)]
struct Stored {
    /// The record. `None` where there is none, or it can't be read.
    record: Option<Accepted>,
    /// Its digest and signer; for one that can't be read, the digest of its bytes.
    id: String,
    /// Why it can't be read.
    unreadable: Option<String>,
}

impl Stored {
    fn of(row: Option<&Row>) -> Self {
        use sha2::Digest as _;
        let Some(row) = row else { return Self::default() };
        match serde_json::from_slice::<Accepted>(&row.value) {
            Ok(record) => {
                Self { id: format!("{} {}", record.digest(), record.by), record: Some(record), unreadable: None }
            }
            Err(error) => Self {
                record: None,
                id: format!("unreadable {}", hex::encode(&sha2::Sha256::digest(&row.value)[..16])),
                unreadable: Some(error.to_string()),
            },
        }
    }
}

/// Decides about a candidate, given the record that is in the store (with its revision), its table, and what is on
/// disk. The disk wins where it is newer: a store may be restored, or empty after a restart. It also wins over a record
/// that this node does not follow.
///
/// # Errors
/// When the record in the store must not be followed.
pub fn decide(stored: Option<&Row>, table: &Table, proposal: &Proposal<'_>) -> Result<Decision, AcceptError> {
    let Proposal { node, disk, disk_table, candidate, origin, .. } = *proposal;

    let Stored { record, id, .. } = Stored::of(stored);
    let rejected = proposal.rejected.filter(|rejected| rejected.id == id);
    let in_store = record.filter(|_| rejected.is_none_or(|rejected| rejected.counts)).unwrap_or_default();
    if rejected.is_none() {
        in_store.admits(origin)?;
    }
    let disk_wins = rejected.is_some() || disk.generation > in_store.generation;
    let (newest, known) = if disk_wins { (disk, disk_table) } else { (&in_store, table) };
    let same = newest.commits == candidate.commits && newest.generation > 0;
    let counts = rejected.is_some_and(|rejected| rejected.counts);
    if same && (counts || newest.generation == in_store.generation) {
        return Ok(Decision::Stay(Box::new(newest.clone())));
    }
    let (accepted, table) = if same {
        (Accepted { by: node.to_owned(), ..newest.clone() }, known.clone())
    } else {
        let before = if counts { &in_store } else { newest };
        let generation = before.generation.checked_add(1);
        let generation = generation.ok_or_else(|| AcceptError::Unwritable("no number is left".into()))?;
        let table = known.next(generation, proposal);
        let accepted = Accepted {
            schema: SCHEMA,
            generation,
            commits: candidate.commits.clone(),
            parent: before.generation,
            before: (before.generation > 0).then(|| before.link()),
            origin: origin.from.clone(),
            verify: if newest.generation == 0 { origin.verify } else { newest.verify },
            table: table.digest(),
            table_before: newest.table.clone(),
            by: node.to_owned(),
        };
        (accepted, table)
    };
    let txn = writing(stored, &accepted, newest)?;
    Ok(Decision::Accept(Box::new(Next { accepted, table, txn })))
}

/// The transaction that writes a record and its links, if the store still has what was read.
fn writing(stored: Option<&Row>, accepted: &Accepted, newest: &Accepted) -> Result<Txn, AcceptError> {
    let compare = match stored {
        Some(row) => Compare::Revision(KEY.to_owned(), row.modified),
        None => Compare::Absent(KEY.to_owned()),
    };
    let value = serde_json::to_vec(accepted).map_err(|error| AcceptError::Unwritable(error.to_string()))?;
    let mut then = vec![Op::put(KEY, value)];
    then.extend(accepted.link().put());
    then.extend(accepted.before.as_ref().and_then(Link::put));
    if let Some(oldest) = accepted.generation.checked_sub(KEPT).filter(|oldest| *oldest > 0) {
        then.push(Op::Delete(keys::link(oldest)));
    }
    let old = &newest.table_before;
    if !old.is_empty() && *old != accepted.table && *old != accepted.table_before {
        then.push(Op::DeleteAll(keys::whole_table(old)));
    }
    Ok(Txn { compare: vec![compare], then, otherwise: vec![Op::Read(KEY.to_owned())] })
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The candidate is the accepted revision.
    Accepted(Accepted, Table),
    /// The store has another record, which this node has not judged yet: it looks at that one first.
    Lost(Accepted),
}

/// Tries to have a candidate accepted.
///
/// # Errors
/// When the store does not answer, or its record must not be followed.
pub fn attempt(store: &dyn Store, proposal: &Proposal<'_>) -> Result<Attempt, AcceptError> {
    let row = read_row(store)?;
    let Stored { record, id, .. } = Stored::of(row.as_ref());
    let judged = proposal.rejected.is_some_and(|rejected| rejected.id == id);
    let in_store = record.unwrap_or_default();
    if proposal.follows && row.is_some() && !judged && !proposal.knows(&in_store) {
        // It was accepted since this node has looked: what it found good then may be what came before.
        return Ok(Attempt::Lost(in_store));
    }
    let table = if judged || in_store.table == proposal.disk.table {
        proposal.disk_table.clone()
    } else {
        table_of(store, &in_store)?.unwrap_or_default()
    };
    match decide(row.as_ref(), &table, proposal)? {
        Decision::Stay(accepted) => {
            if !accepted.table.is_empty() && accepted.table == table.digest() && table_of(store, &accepted)?.is_none() {
                // The store has lost it, and this node has not.
                table.put(store)?;
            }
            Ok(Attempt::Accepted(*accepted, table))
        }
        Decision::Accept(next) => {
            next.table.put(store)?;
            if !judged && next.accepted.generation > in_store.generation.saturating_add(1) {
                // The store has gone back, or is empty: its links lead nowhere.
                store.commit(&Txn { then: vec![Op::DeleteAll(keys::LINKS.to_owned())], ..Txn::default() })?;
            }
            match store.commit(&next.txn)? {
                Outcome::Done { .. } => Ok(Attempt::Accepted(next.accepted, next.table)),
                Outcome::Refused { answers, .. } => {
                    let won = answers.first().and_then(|answer| answer.rows.first());
                    Ok(Attempt::Lost(Stored::of(won).record.unwrap_or_default()))
                }
            }
        }
    }
}

impl Proposal<'_> {
    /// Whether the node has judged a record, or goes on from its own disk whatever that record is.
    fn knows(&self, in_store: &Accepted) -> bool {
        let older = in_store.generation > 0 && in_store.generation < self.disk.generation;
        older || in_store.generation == self.disk.generation && in_store.digest() == self.disk.digest()
    }
}

fn read_row(store: &dyn Store) -> Result<Option<Row>, StoreError> {
    let page = Page { after: None, limit: 1 };
    Ok(store.read(KEY, &page)?.rows.into_iter().find(|row| row.key == KEY))
}

/// The record that is in the store, and how it relates to what a node has on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record. The default one where there is none, or it can't be read.
    pub record: Accepted,
    /// Names the record: two with the same id are the same.
    pub id: String,
    /// How it relates to the disk.
    pub standing: Standing,
    /// The revision of the store.
    pub revision: u64,
}

/// Reads the record that is in the store, and judges it by its chain.
///
/// # Errors
/// When the store does not answer.
pub fn current(store: &dyn Store, disk: &Accepted) -> Result<Found, AcceptError> {
    let read = store.read(KEY, &Page { after: None, limit: 1 })?;
    let row = read.rows.into_iter().find(|row| row.key == KEY);
    let Stored { record, id, unreadable } = Stored::of(row.as_ref());
    let standing = match (&record, unreadable) {
        (_, Some(why)) => Standing::Void(format!("cannot read it: {why}")),
        (None, None) => Standing::Nothing,
        (Some(record), None) => chain::standing(record, &chain::links(store, record, disk.generation)?, disk),
    };
    Ok(Found { record: record.unwrap_or_default(), id, standing, revision: read.revision })
}

/// Whether the store answers.
pub fn answers(store: &dyn Store) -> bool {
    read_row(store).is_ok()
}

/// Judges a record that another node has sent. There is no chain to look at, so only the next acceptance counts: a
/// number proves nothing by itself.
pub fn told(record: &Accepted, disk: &Accepted) -> Standing {
    match chain::standing(record, &BTreeMap::new(), disk) {
        Standing::Apart => Standing::Void(format!(
            "no chain of acceptances leads from generation {} to {}: only the data store can show one",
            record.generation, disk.generation
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;

    fn candidate(commit: &str) -> Candidate {
        let id = format!("{:0<40}", hex::encode(commit));
        Candidate { commits: BTreeMap::from([("fleet".to_owned(), id)]), schema: SCHEMA }
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
                rejected: None,
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
    fn rejected_record_is_replaced_by_the_next_number() {
        let store = LocalStore::default();
        let (good, table) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
        accepted(propose(&store, &good, "x1", "o"));
        let stored = store.read(KEY, &Page::default()).unwrap().rows.remove(0);
        let decided = |commit: &str, counts: bool| {
            let rejected = Rejected { id: Stored::of(Some(&stored)).id, counts };
            let proposal = Proposal {
                node: "n2",
                disk: &good,
                disk_table: &table,
                candidate: &candidate(commit),
                origin: &Origin { from: "o".into(), verify: Strictness::Head },
                digests: &BTreeMap::from([("n/b".to_owned(), "a".to_owned())]),
                joined: &[],
                objects: &BTreeSet::new(),
                rejected: Some(&rejected),
                follows: true,
            };
            decide(Some(&stored), &Table::default(), &proposal).unwrap()
        };
        assert_eq!(
            decided("a1", true),
            Decision::Stay(Box::new(good.clone())),
            "it stays until there is something new"
        );
        let Decision::Accept(next) = decided("a2", true) else { panic!("it goes on from its own") };
        assert_eq!((next.accepted.generation, next.accepted.parent), (3, 2));
        assert_eq!(next.table.books["n/b"].since, 1, "the book is as it was before the rejected record");
        // A void record gives no number, and is written over at once.
        let Decision::Accept(back) = decided("a1", false) else { panic!("it puts back its own") };
        assert_eq!((back.accepted.generation, back.accepted.digest()), (1, good.digest()));
        let Decision::Accept(next) = decided("a2", false) else { panic!("it goes on from its own") };
        assert_eq!((next.accepted.generation, next.accepted.before), (2, Some(good.link())));
    }

    #[test]
    fn node_proposes_nothing_over_a_record_that_it_has_not_judged() {
        let store = LocalStore::default();
        let (first, _) = accepted(propose(&store, &Accepted::default(), "a", "o"));
        let (second, _) = accepted(propose(&store, &first, "b", "o"));
        let tried = |disk: &Accepted, commit: &str, id: Option<&str>| {
            let rejected = id.map(|id| Rejected { id: id.to_owned(), counts: true });
            let proposal = Proposal {
                node: "n2",
                disk,
                disk_table: &Table::default(),
                candidate: &candidate(commit),
                origin: &Origin { from: "o".into(), verify: Strictness::Head },
                digests: &BTreeMap::new(),
                joined: &[],
                objects: &BTreeSet::new(),
                rejected: rejected.as_ref(),
                follows: true,
            };
            attempt(&store, &proposal).unwrap()
        };
        assert_eq!(tried(&first, "a", None), Attempt::Lost(second.clone()), "it would take the fleet back");
        assert_eq!(tried(&first, "b", None), Attempt::Lost(second.clone()), "it has not checked the table of it");
        assert_eq!(tried(&first, "c", Some("other")), Attempt::Lost(second.clone()), "another one is rejected");
        let forked = Accepted { origin: "other".into(), ..second.clone() };
        assert_eq!(tried(&forked, "c", None), Attempt::Lost(second.clone()), "of the same number");
        assert!(matches!(tried(&second, "c", None), Attempt::Accepted(third, _) if third.generation == 3));
    }

    #[test]
    fn record_that_is_not_a_number_or_not_json_is_void_and_written_over() {
        let numbers = ["-1", "1.5", "18446744073709551616", "1e30", "null", "\"7\"", "[]", "18446744073709551615"];
        for number in numbers {
            let store = LocalStore::default();
            let (first, table) = accepted(propose(&store, &Accepted::default(), "a", "o"));
            let mut forged = serde_json::to_string(&first).unwrap();
            forged = forged.replace("\"generation\":1", &format!("\"generation\":{number}"));
            store.commit(&Txn { then: vec![Op::put(KEY, forged.into_bytes())], ..Txn::default() }).unwrap();
            let found = current(&store, &first).unwrap();
            assert!(matches!(found.standing, Standing::Void(_)), "{number}: {found:?}");
            let rejected = Rejected { id: found.id, counts: false };
            let proposal = Proposal {
                node: "n2",
                disk: &first,
                disk_table: &table,
                candidate: &candidate("b"),
                origin: &Origin { from: "o".into(), verify: Strictness::Head },
                digests: &BTreeMap::new(),
                joined: &[],
                objects: &BTreeSet::new(),
                rejected: Some(&rejected),
                follows: true,
            };
            let (next, _) = accepted(attempt(&store, &proposal));
            assert_eq!((next.generation, next.parent), (2, 1), "{number}");
            assert_eq!(current(&store, &first).unwrap().standing, Standing::Sound);
        }
    }

    #[test]
    fn store_keeps_the_links_of_the_last_generations() {
        let store = LocalStore::default();
        let mut all = vec![Accepted::default()];
        for number in 1..=KEPT + 5 {
            all.push(accepted(propose(&store, &all[all.len() - 1], ["a", "b"][number as usize % 2], "o")).0);
        }
        let kept = |after: u64| {
            let page = Page { after: Some(keys::link(after)), limit: 5000 };
            store.read(keys::LINKS, &page).unwrap().rows.len() as u64
        };
        assert_eq!(kept(0), KEPT);
        assert_eq!(current(&store, &all[500]).unwrap().standing, Standing::Sound);
        assert_eq!(current(&store, &all[4]).unwrap().standing, Standing::Apart, "generation 5 is no longer kept");
        store.commit(&Txn { then: vec![Op::Delete(keys::link(700))], ..Txn::default() }).unwrap();
        assert!(matches!(current(&store, &all[500]).unwrap().standing, Standing::Void(_)), "a gap");
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
            rejected: None,
            follows: false,
        };
        let Decision::Accept(late) = decide(None, &Table::default(), &late).unwrap() else { panic!() };
        propose(&store, &Accepted::default(), "a", "o").unwrap();
        let Outcome::Refused { answers, .. } = store.commit(&late.txn).unwrap() else { panic!() };
        assert_eq!(Stored::of(answers[0].rows.first()).record.unwrap().commits, candidate("a").commits);
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
            rejected: None,
            follows: false,
        };
        assert!(matches!(decide(Some(&newer), &Table::default(), &any), Err(AcceptError::TooOld(9))));
    }

    #[test]
    fn number_that_a_node_announces_counts_only_next_to_the_own_one() {
        let of = |generation: u64, before: Option<Link>| Accepted {
            schema: SCHEMA,
            generation,
            parent: generation - 1,
            before,
            commits: candidate("a").commits,
            ..Accepted::default()
        };
        let own = of(7, Some(of(6, None).link()));
        assert_eq!(told(&of(8, Some(own.link())), &own), Standing::Sound);
        for number in [20, 1 << 31, 1 << 53, u64::MAX] {
            let parent = of(number - 1, Some(of(number - 2, None).link()));
            assert!(matches!(told(&of(number, Some(parent.link())), &own), Standing::Void(_)), "{number}");
        }
    }
}
