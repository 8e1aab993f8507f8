//! Determines the accepted revision of a node. The node proposes a valid candidate of its sources (P22), or adopts a
//! revision of other nodes.

mod adoption;
mod adoption_errors;
mod wait;

use std::{collections::BTreeMap, sync::Arc};

use towpath_coordination::{
    Accepted, Candidate, Store,
    accept::{self, AcceptError, Attempt, FleetIdentity, Found, Proposal, RevisionManifest, SCHEMA, VerifyPolicy},
};
use towpath_git::VerifyMode;
use towpath_host::Clock;
use towpath_render::objects::ObjectSet;
use towpath_state::{Acceptance as AcceptedState, Changes, Journal};

use self::adoption_errors::Adoption;
use super::{
    sources::{RefreshReport, Sources, requests::RequestError},
    writer::Effects,
};
use crate::{
    config::Settings,
    reconcile::{Revision, object_ids, runs},
    status::{
        PeerService,
        conditions::{Input, State},
        happenings,
    },
};

/// The accepted revision of a node, and the data that the node needs to accept a newer revision.
#[derive(Debug)]
pub(super) struct Acceptance {
    settings: Arc<Settings>,
    store: Arc<dyn Store>,
    journal: Arc<Journal>,
    sources: Arc<Sources>,
    peers: PeerService,
    clock: Arc<dyn Clock>,
    adoption: Adoption,
    revision: Option<Arc<Revision>>,
}

/// An accepted revision, and the journal changes that the node must write before it uses the revision.
#[derive(Debug)]
pub(super) struct Adopted {
    /// The revision. `revision` is `None` if the node already uses the accepted revision.
    pub(super) revision: Option<Arc<Revision>>,
    pub(super) effects: Effects<'static>,
}

/// The result of a proposal.
#[derive(Debug)]
pub(super) enum Proposed {
    Accepted(Adopted),
    /// Another node was the first to propose a revision.
    Lost,
    /// The node proposes nothing: the fleet rejects the node, or the node must first adopt a newer revision.
    Blocked,
}

impl Acceptance {
    pub(super) fn new(
        settings: Arc<Settings>,
        store: Arc<dyn Store>,
        journal: Arc<Journal>,
        sources: Arc<Sources>,
        peers: PeerService,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let adoption = Adoption::default();
        Self { settings, store, journal, sources, peers, clock, adoption, revision: None }
    }

    /// Returns the accepted revision with its objects. Returns `None` until the revision is loaded.
    pub(super) fn revision(&self) -> Option<Arc<Revision>> {
        self.revision.clone()
    }

    pub(super) fn peers(&self) -> &PeerService {
        &self.peers
    }

    /// Uses a revision from now on.
    pub(super) fn set_revision(&mut self, revision: Arc<Revision>) {
        self.revision = Some(revision);
    }

    /// Returns true if the data store contains an accepted revision that this node does not adopt.
    pub(super) fn has_adoption_error(&self) -> bool {
        self.adoption.has_adoption_error()
    }

    /// Returns the acceptance record from the journal.
    pub(super) fn accepted(&self) -> Accepted {
        self.journal.get_readable(&()).ok().flatten().unwrap_or_default()
    }

    /// Returns the manifest of the accepted revision from the journal.
    fn manifest(&self) -> RevisionManifest {
        self.journal.get_readable(&()).ok().flatten().unwrap_or_default()
    }

    /// Returns the identity of the fleet, which is equal on all nodes of the fleet. Without a shared data store, the
    /// identity is empty, so every change of the bootstrap file is permitted (P18).
    fn origin(&self) -> FleetIdentity {
        let Some(first) = self.settings.sources.first().filter(|_| self.store.shared()) else {
            return FleetIdentity::default();
        };
        FleetIdentity {
            from: format!("{} {} {:?}", self.settings.cluster, first.git.display_url(), first.git.reference),
            verify: match first.git.verify.mode {
                VerifyMode::None => VerifyPolicy::None,
                VerifyMode::Head => VerifyPolicy::Head,
                VerifyMode::Range => VerifyPolicy::Range,
            },
        }
    }

    /// Reads the acceptance record from the data store, and compares it with the acceptance record of this node.
    ///
    /// # Errors
    /// Fails if the data store does not answer.
    pub(super) fn find(&self, own: &Accepted) -> Result<Found, AcceptError> {
        accept::current(self.store.as_ref(), own)
    }

    /// Proposes the candidate revision of a refresh to the fleet. `is_rejected` is true if the fleet rejects this node.
    ///
    /// # Errors
    /// Fails if the data store does not answer, or if the node has no permission to write the acceptance record.
    pub(super) fn propose(
        &self,
        report: &RefreshReport,
        set: &Arc<ObjectSet>,
        state: &State,
        is_rejected: bool,
    ) -> Result<Proposed, AcceptError> {
        if is_rejected || self.adoption.blocks() {
            return Ok(Proposed::Blocked);
        }
        let own = self.accepted();
        let candidate = Candidate { commits: report.commits.clone(), schema: SCHEMA };
        let (digests, objects) = (runs::digests(set), object_ids(set));
        let joined = if digests.is_empty() { Vec::new() } else { accept::joined(self.store.as_ref())? };
        let proposal = Proposal {
            node: &self.settings.node,
            disk: &own,
            disk_manifest: &self.manifest(),
            candidate: &candidate,
            origin: &self.origin(),
            digests: &digests,
            joined: &joined,
            objects: &objects,
            rejected: self.adoption.rejected(),
            follows: self.store.shared(),
        };
        match accept::attempt(self.store.as_ref(), &proposal)? {
            Attempt::Accepted(accepted, manifest) => {
                Ok(Proposed::Accepted(self.of_accepted(report, set, state, &own, accepted, manifest)))
            }
            Attempt::Lost(won) => {
                tracing::info!(
                    generation = won.generation,
                    "another node proposed a revision first; adopting that revision"
                );
                Ok(Proposed::Lost)
            }
        }
    }

    /// Returns an accepted candidate, with the journal changes to write before the node uses the candidate.
    fn of_accepted(
        &self,
        report: &RefreshReport,
        set: &Arc<ObjectSet>,
        state: &State,
        own: &Accepted,
        accepted: Accepted,
        manifest: RevisionManifest,
    ) -> Adopted {
        // The commits and the number do not identify an acceptance, because the manifest is part of it (P26).
        let known = self.revision.as_ref().is_some_and(|revision| revision.id == accepted.id());
        let mut effects = Effects::default().input(Input::Node("store", None));
        if state.accepted.generation != accepted.generation || state.accepted.digest != accepted.digest() {
            tracing::info!(generation = accepted.generation, commits = ?accepted.commits, "accepted");
            let by_this_node = accepted.by == self.settings.node && self.store.shared();
            effects = effects.then(accepted_by(&accepted, &manifest, state.tick, by_this_node));
        }
        if accepted != *own || !known {
            effects = effects.changes(self.kept(&accepted, &manifest, report, &accepted.commits));
        }
        let revision =
            (!known).then(|| Arc::new(Revision::new(accepted, manifest, Arc::clone(set), &self.settings.node)));
        Adopted { revision, effects }
    }

    /// Returns the journal changes that record an accepted revision.
    fn kept(
        &self,
        accepted: &Accepted,
        manifest: &RevisionManifest,
        report: &RefreshReport,
        commits: &BTreeMap<String, String>,
    ) -> Changes {
        let mut changes = Changes::default();
        changes.set(accepted);
        changes.set(manifest);
        self.sources.remember(report, commits, (&self.journal, self.clock.wall()), &mut changes);
        changes
    }

    /// Loads the last good revision from the mirrors, without contacting the sources. Returns `None` if a revision is
    /// already loaded, or if the node has not accepted a revision.
    ///
    /// # Errors
    /// Fails if a mirror cannot be read.
    pub(super) fn last_good(&self) -> Result<Option<Arc<Revision>>, RequestError> {
        let accepted = self.accepted();
        if self.revision.is_some() || accepted.generation == 0 {
            return Ok(None);
        }
        let set = self.sources.load_accepted(&accepted.commits)?.set;
        Ok(set.map(|set| Arc::new(Revision::new(accepted, self.manifest(), set, &self.settings.node))))
    }
}

/// Returns the changes to the node's state and to the event log for an accepted revision. `tick` is the time of the
/// refresh. `by_this_node` is true if this node wrote the acceptance record.
fn accepted_by(accepted: &Accepted, manifest: &RevisionManifest, tick: i64, by_this_node: bool) -> Effects<'static> {
    let input = Input::Accepted(AcceptedState {
        generation: accepted.generation,
        digest: accepted.digest(),
        commits: accepted.commits.clone(),
        at: tick,
    });
    let mut events = vec![happenings::of_accepted(accepted)];
    if by_this_node {
        events.extend(happenings::of_acceptance(accepted.generation, manifest));
    }
    Effects::default().input(input).events(events)
}
