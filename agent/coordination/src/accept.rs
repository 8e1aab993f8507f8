//! Accepting a revision: whoever has a candidate moves `accepted` from one generation to the next.

mod chain;
mod manifest;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    keys,
    store::{Compare, Op, Outcome, Page, Row, Store, StoreError, Txn},
};

pub use self::{
    chain::{FARTHEST, KEPT, Link, Standing},
    manifest::{Made, ManifestEntry, RevisionManifest, joined, manifest_of},
    record::{Accepted, FleetIdentity, SCHEMA, VerifyPolicy},
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
    /// This transaction accepts it, once its manifest stands in the store.
    Accept(Box<Next>),
}

/// An acceptance that is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The record.
    pub accepted: Accepted,
    /// Its manifest.
    pub manifest: RevisionManifest,
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
    /// The manifest that came with that.
    pub disk_manifest: &'a RevisionManifest,
    /// What it has found good.
    pub candidate: &'a Candidate,
    /// What must be the same on all nodes.
    pub origin: &'a FleetIdentity,
    /// The digests of the candidate's coordinated books.
    pub digests: &'a BTreeMap<String, String>,
    /// Who has joined.
    pub joined: &'a [String],
    /// The candidate's objects, by `SlotState/namespace/name`.
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

/// Decides about a candidate, given the record that is in the store (with its revision), its manifest, and what is on
/// disk. The disk wins where it is newer: a store may be restored, or empty after a restart. It also wins over a record
/// that this node does not follow.
///
/// # Errors
/// When the record in the store must not be followed.
pub fn decide(
    stored: Option<&Row>,
    manifest: &RevisionManifest,
    proposal: &Proposal<'_>,
) -> Result<Decision, AcceptError> {
    let Proposal { node, disk, disk_manifest, candidate, origin, .. } = *proposal;

    let Stored { record, id, .. } = Stored::of(stored);
    let rejected = proposal.rejected.filter(|rejected| rejected.id == id);
    let in_store = record.filter(|_| rejected.is_none_or(|rejected| rejected.counts)).unwrap_or_default();
    if rejected.is_none() {
        in_store.admits(origin)?;
    }
    let disk_wins = rejected.is_some() || disk.generation > in_store.generation;
    let (newest, known) = if disk_wins { (disk, disk_manifest) } else { (&in_store, manifest) };
    let same = newest.commits == candidate.commits && newest.generation > 0;
    let counts = rejected.is_some_and(|rejected| rejected.counts);
    if same && (counts || newest.generation == in_store.generation) {
        return Ok(Decision::Stay(Box::new(newest.clone())));
    }
    let (accepted, manifest) = if same {
        (Accepted { by: node.to_owned(), ..newest.clone() }, known.clone())
    } else {
        let before = if counts { &in_store } else { newest };
        let generation = before.generation.checked_add(1);
        let generation = generation.ok_or_else(|| AcceptError::Unwritable("no number is left".into()))?;
        let manifest = known.next(generation, proposal);
        let accepted = Accepted {
            schema: SCHEMA,
            generation,
            commits: candidate.commits.clone(),
            parent: before.generation,
            before: (before.generation > 0).then(|| before.link()),
            origin: origin.from.clone(),
            verify: if newest.generation == 0 { origin.verify } else { newest.verify },
            manifest: manifest.digest(),
            manifest_before: newest.manifest.clone(),
            by: node.to_owned(),
        };
        (accepted, manifest)
    };
    let txn = writing(stored, &accepted, newest)?;
    Ok(Decision::Accept(Box::new(Next { accepted, manifest, txn })))
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
    let old = &newest.manifest_before;
    if !old.is_empty() && *old != accepted.manifest && *old != accepted.manifest_before {
        then.push(Op::DeleteAll(keys::whole_manifest(old)));
    }
    Ok(Txn { compare: vec![compare], then, otherwise: vec![Op::Read(KEY.to_owned())] })
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The candidate is the accepted revision.
    Accepted(Accepted, RevisionManifest),
    /// The store has another record, which this node has not judged yet: it looks at that one first.
    Lost(Accepted),
}

/// The largest manifest that is written together with its record, in pages.
const PAGES_AT_ONCE: usize = 4;

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
    let manifest = if judged || in_store.manifest == proposal.disk.manifest {
        proposal.disk_manifest.clone()
    } else {
        manifest_of(store, &in_store)?.unwrap_or_default()
    };
    match decide(row.as_ref(), &manifest, proposal)? {
        Decision::Stay(accepted) => {
            if !accepted.manifest.is_empty()
                && accepted.manifest == manifest.digest()
                && manifest_of(store, &accepted)?.is_none()
            {
                // The store has lost it, and this node has not.
                manifest.put(store)?;
            }
            Ok(Attempt::Accepted(*accepted, manifest))
        }
        Decision::Accept(mut next) => {
            let pages = next.manifest.pages();
            if pages.len() <= PAGES_AT_ONCE {
                // One request, and one that comes too late leaves no manifest behind.
                next.txn.then.splice(..0, pages);
            } else {
                next.manifest.put(store)?;
            }
            if !judged && next.accepted.generation > in_store.generation.saturating_add(1) {
                // The store has gone back, or is empty: its links lead nowhere.
                store.commit(&Txn { then: vec![Op::DeleteAll(keys::LINKS.to_owned())], ..Txn::default() })?;
            }
            match store.commit(&next.txn)? {
                Outcome::Done { .. } => Ok(Attempt::Accepted(next.accepted, next.manifest)),
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
