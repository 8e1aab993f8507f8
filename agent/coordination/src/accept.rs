//! Acceptance of a revision: any node with a candidate moves `accepted` from one generation to the next (P22).

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
/// The key of the acceptance record.
pub use crate::keys::ACCEPTED as KEY;

/// The newest verified heads of all sources, which this node has loaded without errors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// The commits, by source.
    pub commits: BTreeMap<String, String>,
    /// The version of the records.
    pub schema: u32,
}

/// The reason why a revision cannot be accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// A store that did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that is newer than this agent (P12).
    #[error("the record of acceptance has schema {0}, and this agent knows {SCHEMA}: upgrade the agent")]
    TooOld(u32),
    /// A fleet that began with another first source (P18).
    #[error("the fleet was begun from {theirs}, and this node is configured with {ours}; correct its bootstrap file")]
    OtherOrigin {
        /// The origin with which generation 1 was accepted.
        theirs: String,
        /// The origin of this node.
        ours: String,
    },
    /// A fleet that verifies more strictly than this node.
    #[error(
        "the fleet was begun with verify.mode {theirs} for its first source, and this node is configured with {ours}; set at least {theirs} in its bootstrap file"
    )]
    Weaker {
        /// The policy with which generation 1 was accepted.
        theirs: &'static str,
        /// The policy of this node.
        ours: &'static str,
    },
    /// A record that cannot be written.
    #[error("cannot write the record of acceptance: {0}")]
    Unwritable(String),
}

/// The decision about a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The accepted record, which has the candidate's commits already.
    Stay(Box<Accepted>),
    /// The acceptance to try. The manifest of the revision must be in the store before the transaction runs.
    Accept(Box<Next>),
}

/// An acceptance to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The record.
    pub accepted: Accepted,
    /// The manifest of the record.
    pub manifest: RevisionManifest,
    /// The transaction that writes the record.
    pub txn: Txn,
}

/// The inputs that a node brings to an acceptance.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// The node.
    pub node: &'a str,
    /// The acceptance on the node's own disk.
    pub disk: &'a Accepted,
    /// The manifest of that acceptance.
    pub disk_manifest: &'a RevisionManifest,
    /// The candidate.
    pub candidate: &'a Candidate,
    /// The identity that all nodes of the fleet must share.
    pub origin: &'a FleetIdentity,
    /// The digests of the candidate's coordinated books.
    pub digests: &'a BTreeMap<String, String>,
    /// The nodes that have joined.
    pub joined: &'a [String],
    /// The candidate's objects, by `Kind/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The record in the store that this node does not follow.
    pub rejected: Option<&'a Rejected>,
    /// True if the node adopts the fleet's record before it proposes one. The nodes of one process do not, because each
    /// of them looks at the sources itself.
    pub follows: bool,
}

/// A record in the store that a node does not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The identifier of the record: see [`Found::id`].
    pub id: String,
    /// True if the record's number counts: the next acceptance then gets the number after it. Otherwise the next
    /// acceptance gets the number after the node's own. That is so for a void record, and for one to which no chain
    /// leads.
    pub counts: bool,
}

/// The acceptance record as it is in the store.
#[derive(Debug, Clone, Default)]
struct Stored {
    /// The record. `None` if there is none, or it cannot be parsed.
    record: Option<Accepted>,
    /// The digest and the signer of the record. For a record that cannot be parsed, the digest of its bytes.
    id: String,
    /// The reason why the record cannot be parsed.
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

/// Decides about a candidate from the record in the store, its manifest, and the acceptance on disk. The disk wins if
/// it is newer, because a store may be restored, or empty after a restart. It also wins over a rejected record.
///
/// # Errors
/// The record in the store must not be followed.
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

/// Returns the transaction that writes a record and its links. It requires that the store still has the record that was
/// read.
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

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The accepted revision, which is the candidate, and its manifest.
    Accepted(Accepted, RevisionManifest),
    /// Another record in the store. The node judges it before it proposes again.
    Lost(Accepted),
}

/// The number of manifest pages up to which the manifest and its record are written together.
const PAGES_AT_ONCE: usize = 4;

/// Tries to have a candidate accepted.
///
/// # Errors
/// The store does not answer, or its record must not be followed.
pub fn attempt(store: &dyn Store, proposal: &Proposal<'_>) -> Result<Attempt, AcceptError> {
    let row = read_row(store)?;
    let Stored { record, id, .. } = Stored::of(row.as_ref());
    let judged = proposal.rejected.is_some_and(|rejected| rejected.id == id);
    let in_store = record.unwrap_or_default();
    if proposal.follows && row.is_some() && !judged && !proposal.knows(&in_store) {
        // Another node accepted it meanwhile, so this node's candidate may be the older revision.
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
                // The store has lost the manifest, but this node still has it (P24).
                manifest.put(store)?;
            }
            Ok(Attempt::Accepted(*accepted, manifest))
        }
        Decision::Accept(mut next) => {
            let pages = next.manifest.pages();
            if pages.len() <= PAGES_AT_ONCE {
                // The manifest is part of the same transaction, so a late acceptance leaves no manifest in the store.
                next.txn.then.splice(..0, pages);
            } else {
                next.manifest.put(store)?;
            }
            if !judged && next.accepted.generation > in_store.generation.saturating_add(1) {
                // The store was rolled back or is empty, so its links lead nowhere.
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
    /// Returns whether the node knows a record, or continues from its own disk in any case.
    fn knows(&self, in_store: &Accepted) -> bool {
        let older = in_store.generation > 0 && in_store.generation < self.disk.generation;
        older || in_store.generation == self.disk.generation && in_store.digest() == self.disk.digest()
    }
}

fn read_row(store: &dyn Store) -> Result<Option<Row>, StoreError> {
    let page = Page { after: None, limit: 1 };
    Ok(store.read(KEY, &page)?.rows.into_iter().find(|row| row.key == KEY))
}

/// The record in the store, and its relation to the acceptance on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record. The default one if there is none, or it cannot be parsed.
    pub record: Accepted,
    /// The identifier of the record. Two records with the same one are equal.
    pub id: String,
    /// The relation of the record to the disk.
    pub standing: Standing,
    /// The store revision of the read.
    pub revision: u64,
}

/// Reads the record in the store, and judges it by its chain.
///
/// # Errors
/// The store does not answer.
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

/// Returns whether the store answers.
pub fn answers(store: &dyn Store) -> bool {
    read_row(store).is_ok()
}

/// Judges a record that another node has sent. The message has no chain to check, so only the next acceptance counts. A
/// number alone proves nothing (P103).
pub fn judge_announced(record: &Accepted, disk: &Accepted) -> Standing {
    match chain::standing(record, &BTreeMap::new(), disk) {
        Standing::Apart => Standing::Void(format!(
            "no chain of acceptances leads from generation {} to {}: only the data store can show one",
            record.generation, disk.generation
        )),
        other => other,
    }
}
