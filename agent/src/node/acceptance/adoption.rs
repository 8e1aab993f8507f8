//! Adopts revisions that other nodes have accepted (P25).

use std::sync::Arc;

use towpath_coordination::{
    Accepted,
    accept::{self, AcceptError, Found, Made, Relation, RevisionManifest},
    gossip::PackRequest,
};

use super::{Acceptance, Adopted, accepted_by};
use crate::{
    node::{
        sources::{
            follow::{AdoptionError, Lacking},
            requests::WritePack,
        },
        writer::Effects,
    },
    reconcile::{Revision, object_ids, runs},
};

impl Acceptance {
    /// Adopts `found`, the accepted revision in the data store. If the node cannot adopt the revision, the function
    /// returns the reason. `tick` is the time of the refresh.
    pub(in crate::node) fn adopt_found(
        &self,
        own: &Accepted,
        found: &Found,
        tick: i64,
    ) -> Result<Option<Adopted>, AdoptionError> {
        match &found.relation {
            Relation::Nothing | Relation::Own | Relation::Older => Ok(None),
            // An invalid record has no generation to compare, so this case comes first.
            Relation::Void(why) if own.generation == 0 => {
                Err(AdoptionError::Missing { why: why.clone(), answered: true, what: Lacking::Record })
            }
            Relation::Void(why) => Err(AdoptionError::Void(why.clone())),
            // The node may have adopted a newer record from a peer just before.
            _ if found.record.generation < own.generation => Ok(None),
            Relation::Sound | Relation::Apart => self.adopt_revision(own, &found.record, None, tick).map(Some),
        }
    }

    /// Remembers why an acceptance record is not adopted, and returns the state machine inputs that show the reason.
    /// `own` is the acceptance record that this node has adopted.
    pub(in crate::node) fn note_adoption_error(
        &mut self,
        own: &Accepted,
        found: &Found,
        why: Option<AdoptionError>,
    ) -> Effects<'static> {
        let is_sure = || own.generation > 0 || self.sources.answer() == Some(true);
        self.adoption.note(found, why, self.clock.monotonic(), is_sure)
    }

    /// Adopts a revision that the data store does not contain, but that peers supply. A data store can lack an accepted
    /// revision, for example after a rollback. If the data store has no record of the revision, a failed adoption does
    /// not block the node (P103).
    pub(in crate::node) fn adopt_from_peers(&self, own: &Accepted, stored: u64, tick: i64) -> Option<Adopted> {
        let (record, manifest) = self.newer_of_peers(stored.max(own.generation))?;
        let adopted = match accept::judge_announced(&record, own) {
            Relation::Sound | Relation::Apart => self.adopt_revision(own, &record, Some(manifest), tick),
            other => Err(AdoptionError::Void(format!("{other:?}"))),
        };
        adopted
            .inspect_err(|why| {
                if matches!(why, AdoptionError::Pending(_)) {
                    return;
                }
                tracing::warn!(
                    generation = record.generation,
                    by = record.by,
                    ?why,
                    "ignored a revision that other nodes announce and the data store does not contain"
                );
            })
            .ok()
    }

    /// Returns an accepted revision that peers announce and supply, if its generation is greater than `known`.
    fn newer_of_peers(&self, known: u64) -> Option<(Accepted, RevisionManifest)> {
        let gossip = self.peers.shared_gossip()?;
        let announced = gossip.announced();
        if announced.id.generation <= known {
            return None;
        }
        let (gossip, by, digest) = (gossip.clone(), announced.by.clone(), announced.id.digest.clone());
        let ask = move || {
            gossip.ask(&by, |peers, node, address| {
                let (record, manifest) = peers.acceptance(node, address)?;
                Accepted::of_announced(&record, &manifest, &digest)
                    .ok_or_else(|| "the node follows another revision".into())
            })
        };
        let asked = self.sources.requests().acceptance(&announced.id.digest, ask)?;
        asked
            .inspect_err(|why| {
                tracing::warn!(
                    generation = announced.id.generation,
                    "nodes announce a generation that the data store does not contain, but no node supplies it: {why}"
                )
            })
            .ok()
    }

    /// Fetches, checks and loads a revision that another node has accepted.
    fn adopt_revision(
        &self,
        own: &Accepted,
        current: &Accepted,
        manifest: Option<RevisionManifest>,
        tick: i64,
    ) -> Result<Adopted, AdoptionError> {
        current.admits(&self.origin()).map_err(|error| match error {
            AcceptError::TooOld(_) => {
                let why = error.to_string();
                match self.sources.answer() {
                    Some(answered) => AdoptionError::Missing { why, answered, what: Lacking::Agent },
                    None => AdoptionError::Pending(why),
                }
            }
            _ => AdoptionError::Refused(error.to_string()),
        })?;
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => accept::manifest_of(self.store.as_ref(), current)
                .map_err(|error| AdoptionError::Behind(error.to_string()))?
                .ok_or_else(|| {
                    let why = "the manifest of the revision is not in the data store".to_owned();
                    AdoptionError::Missing { why, answered: true, what: Lacking::Manifest }
                })?,
        };
        let peers = |wanted: PackRequest| -> WritePack {
            let (service, by) = (self.peers.clone(), current.by.clone());
            Box::new(move |into| match service.shared_gossip() {
                Some(gossip) => gossip.ask(&by, |peers, node, address| peers.fetch_pack(node, address, &wanted, into)),
                None => Err("this node cannot connect to other nodes; set tls and listen.api".into()),
            })
        };
        let report = self.sources.follow(&self.journal, &own.commits, &current.commits, self.clock.wall(), &peers)?;
        let Some(set) = report.set.clone() else {
            let first = report.problems.first().map(ToString::to_string).unwrap_or_default();
            return Err(AdoptionError::Rejected(format!("cannot load the revision on this node: {first}")));
        };
        let (digests, objects, own_manifest) = (runs::digests(&set), object_ids(&set), self.manifest());
        let made = Made { digests: &digests, objects: &objects, disk: own, disk_manifest: &own_manifest };
        manifest.check(current, &made).map_err(AdoptionError::Rejected)?;
        tracing::info!(generation = current.generation, by = current.by, "adopted the revision of another node");
        // If the record is by this node, the node accepted the revision itself, but the answer of the data store was
        // lost.
        let by_this_node = current.by == self.settings.node;
        let effects = accepted_by(current, &manifest, tick, by_this_node).changes(self.kept(
            current,
            &manifest,
            &report,
            &current.commits,
        ));
        let revision = Revision::new(current.clone(), manifest, set, &self.settings.node);
        Ok(Adopted { revision: Some(Arc::new(revision)), effects })
    }
}
