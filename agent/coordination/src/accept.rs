//! Accepts revisions: a node that has loaded newer commits than the accepted commits may write the next acceptance
//! record (P22).

mod chain;
mod id;
mod link;
mod manifest;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    keys,
    store::{Compare, Op, Outcome, Page, Row, Store, StoreError, Txn},
};

pub use self::{
    chain::{FARTHEST, LINKS_KEPT, Relation},
    id::AcceptedId,
    link::Link,
    manifest::{Made, ManifestEntry, RevisionManifest, joined, manifest_of},
    record::{AcceptError, Accepted, FleetIdentity, SCHEMA, VerifyPolicy},
};
/// The store key of the acceptance record.
pub use crate::keys::ACCEPTED as KEY;

/// The commits that a node proposes as the next revision, after the node has verified and loaded all these commits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// The commit of each source, by the name of the source.
    pub commits: BTreeMap<String, String>,
    /// The version of the schema in which the agent of the node writes store records.
    pub schema: u32,
}

/// The decision of a node about a candidate (proposed commits): keep the accepted revision, or write a new acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The candidate's commits are already accepted. The variant contains the acceptance record.
    Stay(Box<Accepted>),
    /// The node must write the candidate as the next acceptance. The node must write the manifest before the acceptance
    /// record, or in the same transaction.
    Accept(Box<Next>),
}

/// An acceptance that a node must write to the store, with the transaction that writes the acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The acceptance record to write.
    pub accepted: Accepted,
    /// The manifest of the acceptance record.
    pub manifest: RevisionManifest,
    /// The transaction that writes the acceptance record.
    pub txn: Txn,
}

/// The data from which a node computes the next acceptance.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// The name of the node that proposes the candidate.
    pub node: &'a str,
    /// The acceptance record on the disk of the proposing node.
    pub disk: &'a Accepted,
    /// The manifest that belongs to the acceptance record on the disk of the proposing node.
    pub disk_manifest: &'a RevisionManifest,
    /// The commits that the node proposes as the next revision.
    pub candidate: &'a Candidate,
    /// The settings that must be equal in the bootstrap files of all nodes of the fleet.
    pub origin: &'a FleetIdentity,
    /// The digest of each coordinated book of the candidate, by `namespace/name`.
    pub digests: &'a BTreeMap<String, String>,
    /// The names of all nodes that have joined the fleet.
    pub joined: &'a [String],
    /// The candidate's objects, by `Kind/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The acceptance record in the store, if the proposing node has rejected it.
    pub rejected: Option<&'a Rejected>,
    /// True if the node adopts the acceptance record in the store before it proposes a candidate. `follows` is false if
    /// several nodes run in one process, because each of these nodes reads the sources itself.
    pub follows: bool,
}

/// An acceptance record in the store that a node has rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The identifier of the rejected record, as in [`Found::id`].
    pub id: String,
    /// True if the generation of the next acceptance is the generation of the rejected record plus one. If `counts` is
    /// false, the generation of the next acceptance is the generation on the node's disk plus one. `counts` is false if
    /// the rejected record is invalid, or if no chain of links leads from the rejected record to the acceptance on
    /// disk.
    pub counts: bool,
}

/// The acceptance record that a node has read from the store.
#[derive(Debug, Clone, Default)]
struct Stored {
    /// The parsed record. `None` if the store has no record, or the record cannot be parsed.
    record: Option<Accepted>,
    /// The digest and the signer of the record. If the record cannot be parsed, `id` contains a digest of the bytes of
    /// the record.
    id: String,
    /// The reason why the record cannot be parsed. `None` if the record was parsed.
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

/// Decides whether a node must write a candidate as the next acceptance. The node compares the candidate with the
/// record in the store. If the store was restored or wiped, or if the node has rejected the record in the store, the
/// node compares the candidate with the acceptance on its disk.
///
/// # Errors
/// Returns an error if the node cannot follow the record in the store.
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
    // After a restore, two revisions may have the same number (P26). The rejected revision of the store would hold all
    // rollouts until the next commit, so this node accepts its own revision again, with the next number.
    let is_rival = counts && in_store.generation == disk.generation;
    if same && !is_rival && (counts || newest.generation == in_store.generation) {
        return Ok(Decision::Stay(Box::new(newest.clone())));
    }
    let (accepted, manifest) = if same && !is_rival {
        (Accepted { by: node.to_owned(), ..newest.clone() }, known.clone())
    } else {
        let before = if counts { &in_store } else { newest };
        let generation = before.generation.checked_add(1);
        let generation = generation.ok_or_else(|| AcceptError::Unwritable("no generation number is left".into()))?;
        let manifest = known.following(generation, proposal.digests, proposal.joined, proposal.objects);
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

/// Returns the transaction that writes an acceptance record, and extends the chain of acceptances. The transaction
/// fails if the acceptance record in the store has changed since the node read it.
fn writing(stored: Option<&Row>, accepted: &Accepted, newest: &Accepted) -> Result<Txn, AcceptError> {
    let compare = match stored {
        Some(row) => Compare::Revision(KEY.to_owned(), row.modified),
        None => Compare::Absent(KEY.to_owned()),
    };
    let value = serde_json::to_vec(accepted).map_err(|error| AcceptError::Unwritable(error.to_string()))?;
    let mut then = vec![Op::put(KEY, value)];
    then.extend(accepted.link().put());
    then.extend(accepted.before.as_ref().and_then(Link::put));
    if let Some(oldest) = accepted.generation.checked_sub(LINKS_KEPT).filter(|oldest| *oldest > 0) {
        then.push(Op::Delete(keys::link(oldest)));
    }
    let old = &newest.manifest_before;
    if !old.is_empty() && *old != accepted.manifest && *old != accepted.manifest_before {
        then.push(Op::DeleteAll(keys::whole_manifest(old)));
    }
    Ok(Txn { compare: vec![compare], then, otherwise: vec![Op::Read(KEY.to_owned())] })
}

/// The result of an attempt to accept a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The candidate is now the accepted revision. The variant contains the acceptance record and the manifest.
    Accepted(Accepted, RevisionManifest),
    /// Another node has written an acceptance record first. The variant contains the record of the other node. This
    /// node must check the record of the other node before it proposes its candidate again.
    Lost(Accepted),
}

/// The maximum number of manifest pages that a node writes in the same transaction as the acceptance record.
const PAGES_AT_ONCE: usize = 4;

/// Tries to make a candidate the accepted revision.
///
/// # Errors
/// Returns an error if the store does not answer, or if the node cannot follow the record in the store.
pub fn attempt(store: &dyn Store, proposal: &Proposal<'_>) -> Result<Attempt, AcceptError> {
    let row = read_row(store)?;
    let Stored { record, id, .. } = Stored::of(row.as_ref());
    let judged = proposal.rejected.is_some_and(|rejected| rejected.id == id);
    let in_store = record.unwrap_or_default();
    if proposal.follows && row.is_some() && !judged && !proposal.knows(&in_store) {
        // Another node wrote this record after the last read, so the candidate may be older than the accepted revision.
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
                // The manifest is in the same transaction as its record, so a failed transaction leaves no manifest in
                // the store.
                next.txn.then.splice(..0, pages);
            } else {
                next.manifest.put(store)?;
            }
            if !judged && next.accepted.generation > in_store.generation.saturating_add(1) {
                // The store was rolled back or wiped, so the links in it do not lead to the new record.
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
    /// Returns true if the record on the node's disk is as new as the record in the store, or newer. A node whose
    /// record on disk is older than the record in the store does not propose a candidate.
    fn knows(&self, in_store: &Accepted) -> bool {
        let older = in_store.generation > 0 && in_store.generation < self.disk.generation;
        older || in_store.id() == self.disk.id()
    }
}

fn read_row(store: &dyn Store) -> Result<Option<Row>, StoreError> {
    let page = Page { after: None, limit: 1 };
    Ok(store.read(KEY, &page)?.rows.into_iter().find(|row| row.key == KEY))
}

/// The acceptance record in the store, and its relation to the acceptance record on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The acceptance record. `record` has the default value if the store has no acceptance record, or if the record
    /// cannot be parsed.
    pub record: Accepted,
    /// The identifier of the record. Two records with the same identifier are equal.
    pub id: String,
    /// The result of the comparison with the acceptance record on the node's disk.
    pub relation: Relation,
    /// The store revision at which the record was read.
    pub revision: u64,
}

/// Reads the acceptance record in the store, and checks the chain of acceptances.
///
/// # Errors
/// The store does not answer.
pub fn current(store: &dyn Store, disk: &Accepted) -> Result<Found, AcceptError> {
    let read = store.read(KEY, &Page { after: None, limit: 1 })?;
    let row = read.rows.into_iter().find(|row| row.key == KEY);
    let Stored { record, id, unreadable } = Stored::of(row.as_ref());
    let relation = match (&record, unreadable) {
        (_, Some(why)) => Relation::Void(format!("cannot parse the record: {why}")),
        (None, None) => Relation::Nothing,
        (Some(record), None) => chain::relation(record, &chain::links(store, record, disk.generation)?, disk),
    };
    Ok(Found { record: record.unwrap_or_default(), id, relation, revision: read.revision })
}

/// Returns true if the data store answers a read request.
pub fn answers(store: &dyn Store) -> bool {
    read_row(store).is_ok()
}

impl Accepted {
    /// Parses the acceptance record and the manifest that another node has sent. `None` if the record does not have the
    /// announced digest, or if the manifest does not have the digest that the record contains.
    pub fn of_announced(record: &[u8], manifest: &[u8], digest: &str) -> Option<(Self, RevisionManifest)> {
        let accepted: Self = serde_json::from_slice(record).ok()?;
        let manifest: RevisionManifest = serde_json::from_slice(manifest).ok()?;
        (accepted.digest() == digest && accepted.manifest == manifest.digest()).then_some((accepted, manifest))
    }
}

/// Compares the record on this node's disk with an acceptance record that another node has sent. The other node sends
/// no further links of the chain, so the links in the record must lead to the generation on this node's disk (P103).
pub fn judge_announced(record: &Accepted, disk: &Accepted) -> Relation {
    match chain::relation(record, &BTreeMap::new(), disk) {
        Relation::Apart => Relation::Void(format!(
            "the record of generation {} does not follow directly after generation {} of this node, and another node cannot send the chain",
            record.generation, disk.generation
        )),
        other => other,
    }
}
