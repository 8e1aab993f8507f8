//! Adopts revisions that other nodes have accepted, or records the reason to ignore a revision (P25).

use std::{path::Path, sync::Arc};

use towpath_coordination::{
    Accepted,
    accept::{self, AcceptError, Found, Made, Rejected, RevisionManifest, Standing},
    gossip::Wanted,
};
use towpath_state::{Acceptance, Changes};

use super::{
    advance::object_ids,
    conditions::{Input, Trouble},
    follow::{Lacking, Unfollowed},
    node::Node,
    reporting::happenings,
    revision::Revision,
    runs,
};

/// A record in the data store that this node does not adopt, and the reason.
#[derive(Debug, Clone)]
pub(super) struct NotFollowed {
    why: Unfollowed,
    record: Rejected,
}

impl NotFollowed {
    /// Returns whether the node must not propose a revision until the problem ends. The candidate of the node may be
    /// older than the accepted record of the fleet.
    pub(super) fn blocks(&self) -> bool {
        !matches!(self.why, Unfollowed::Rejected(_) | Unfollowed::Void(_))
    }

    /// Returns the record if this node may overwrite the record in the data store.
    pub(super) fn rejected(&self) -> Option<&Rejected> {
        (!self.blocks()).then_some(&self.record)
    }
}

impl Node {
    /// Adopts the accepted revision of the fleet if it is newer than the revision of this node. Returns whether the
    /// node has adopted the record of the data store.
    pub(super) fn adopt(&mut self) -> bool {
        if !self.store.shared() {
            return false;
        }
        let disk = self.accepted();
        let before = self.fleet.known();
        let found = match accept::current(self.store.as_ref(), &disk) {
            Ok(found) => found,
            Err(error) => {
                self.store_failed(&error);
                return false;
            }
        };
        self.fleet.seen(before, found.revision);
        self.step(Input::Own("store", None));
        if self.fleet.needs_republish() {
            // The data store has lost writes of this node. The node therefore leaves the steady state, and publishes
            // its state again.
            self.unsettle();
            self.last_published = None;
        }
        let disk = if self.adopt_from_peers(&disk, found.record.generation) { self.accepted() } else { disk };
        let why = self.adopt_found(&disk, &found);
        self.note_unfollowed(&found, why);
        let now = self.accepted();
        now.generation > disk.generation && now.digest() == found.record.digest()
    }

    /// Adopts the record of the data store. Returns the reason if the node cannot adopt the record.
    fn adopt_found(&mut self, disk: &Accepted, found: &Found) -> Option<Unfollowed> {
        match &found.standing {
            Standing::Nothing | Standing::Own | Standing::Older => None,
            // An invalid record has no generation to compare, so this case comes first.
            Standing::Void(why) if disk.generation == 0 => {
                Some(Unfollowed::Missing { why: why.clone(), answered: true, what: Lacking::Record })
            }
            Standing::Void(why) => Some(Unfollowed::Void(why.clone())),
            // The node may have adopted a newer record from a peer just before.
            _ if found.record.generation < disk.generation => None,
            Standing::Sound | Standing::Apart => self.take_over(disk, &found.record, None).err(),
        }
    }

    /// Turns an expired wait into a rejection, and reports the reason for which a record is not adopted.
    fn note_unfollowed(&mut self, found: &Found, why: Option<Unfollowed>) {
        let why = match why {
            Some(Unfollowed::Missing { why, answered, what }) => {
                let over = self.lacking.look(&found.id, what, answered, self.clock.monotonic());
                Some(match (over, what) {
                    (false, _) => Unfollowed::Missing { why, answered, what },
                    (true, Lacking::Record) => Unfollowed::Void(why),
                    (true, Lacking::Commit) => Unfollowed::Rejected(format!(
                        "for 10 minutes neither the git server nor another node supplied the commit: {why}"
                    )),
                    (true, Lacking::Agent) => {
                        Unfollowed::Rejected(format!("{why}; this node has waited 10 minutes for a newer agent"))
                    }
                    (true, Lacking::Manifest) => Unfollowed::Rejected(why),
                })
            }
            other => {
                self.lacking.end();
                other
            }
        };
        let Accepted { generation, by, .. } = &found.record;
        let what = |why: &str| format!("generation {generation} was accepted by {by}: {why}");
        let stays = "this node stays at its last good revision, and replaces the record with the next commit";
        let too_old = match &why {
            Some(Unfollowed::Missing { why, what: Lacking::Agent, .. }) => Some(what(why)),
            _ => None,
        };
        let (behind, rejected) = match &why {
            None | Some(Unfollowed::Missing { what: Lacking::Agent, .. }) => (None, None),
            Some(Unfollowed::Behind(why) | Unfollowed::Missing { why, .. }) => {
                (Some(Trouble::new("Progressing", what(why))), None)
            }
            Some(Unfollowed::Refused(why)) => (
                Some(Trouble::new(
                    "Refused",
                    format!("{why}; until the conflict is resolved, this node accepts no revision"),
                )),
                None,
            ),
            Some(Unfollowed::Rejected(why)) => {
                (None, Some(Trouble::new("RejectedLocally", format!("{}; {stays}", what(why)))))
            }
            Some(Unfollowed::Void(why)) => {
                let message = format!(
                    "ignored the invalid record of acceptance by {by}: {why}; nodes overwrite the record with a valid one"
                );
                (None, Some(Trouble::new("RejectedLocally", message)))
            }
        };
        // A generation is valid only if the chain of records leads to it.
        let counts = found.standing == Standing::Sound;
        self.unfollowed = why.map(|why| NotFollowed { why, record: Rejected { id: found.id.clone(), counts } });
        self.step(Input::Own("accepted", behind));
        self.step(Input::TooOld(too_old));
        self.step(Input::RejectedLocally(rejected));
    }

    /// Adopts a revision that peers have accepted and that the data store does not show. The data store was rolled
    /// back, or hides the record. A failure blocks nothing, because the data store does not contain the record. Returns
    /// whether a revision was adopted (P103).
    fn adopt_from_peers(&mut self, disk: &Accepted, stored: u64) -> bool {
        let Some((record, manifest)) = self.newer_of_peers(stored.max(disk.generation)) else { return false };
        let why = match accept::judge_announced(&record, disk) {
            Standing::Sound | Standing::Apart => self.take_over(disk, &record, Some(manifest)).err(),
            other => Some(Unfollowed::Void(format!("{other:?}"))),
        };
        if let Some(why) = &why {
            tracing::warn!(
                generation = record.generation,
                by = record.by,
                ?why,
                "ignored a revision that other nodes announce and the data store does not contain"
            );
        }
        why.is_none()
    }

    /// Returns an accepted revision that peers announce and supply, if its generation is greater than `known`.
    fn newer_of_peers(&self, known: u64) -> Option<(Accepted, RevisionManifest)> {
        let gossip = self.handle.shared.gossip.get()?;
        let announced = gossip.announced();
        if announced.generation <= known {
            return None;
        }
        let asked = gossip.ask(&announced.by, |peers, node, address| {
            let (record, manifest) = peers.acceptance(node, address)?;
            Accepted::of_announced(&record, &manifest, &announced.digest)
                .ok_or_else(|| "the node follows another revision".into())
        });
        asked
            .inspect_err(|why| {
                tracing::warn!(
                    generation = announced.generation,
                    "nodes announce a generation that the data store does not contain, but no node supplies it: {why}"
                )
            })
            .ok()
    }

    fn take_over(
        &mut self,
        disk: &Accepted,
        current: &Accepted,
        manifest: Option<RevisionManifest>,
    ) -> Result<(), Unfollowed> {
        let behind = |why: String| Unfollowed::Behind(why);
        current.admits(&self.origin()).map_err(|error| match error {
            AcceptError::TooOld(_) => {
                let answered = self.sources.first.iter().all(|source| self.sources.mirror(source).answers());
                Unfollowed::Missing { why: error.to_string(), answered, what: Lacking::Agent }
            }
            _ => Unfollowed::Refused(error.to_string()),
        })?;
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => accept::manifest_of(self.store.as_ref(), current)
                .map_err(|error| behind(error.to_string()))?
                .ok_or_else(|| {
                    let why = "the manifest of the revision is not in the data store".to_owned();
                    Unfollowed::Missing { why, answered: true, what: Lacking::Manifest }
                })?,
        };
        let peers = |wanted: &Wanted, into: &Path| match self.handle.shared.gossip.get() {
            Some(gossip) => gossip.ask(&current.by, |peers, node, address| peers.pack(node, address, wanted, into)),
            None => Err("this node cannot connect to other nodes; set tls and listen.api".into()),
        };
        let now = self.clock.wall();
        let looked = self.sources.follow(&self.journal, &disk.commits, &current.commits, now, &peers)?;
        let Some(set) = looked.set.clone() else {
            let first = looked.problems.first().map(ToString::to_string).unwrap_or_default();
            return Err(Unfollowed::Rejected(format!("cannot load the revision on this node: {first}")));
        };
        let (digests, objects, disk_manifest) = (runs::digests(&set), object_ids(&set), self.manifest());
        let made = Made { digests: &digests, objects: &objects, disk, disk_manifest: &disk_manifest };
        manifest.check(current, &made).map_err(Unfollowed::Rejected)?;
        tracing::info!(generation = current.generation, by = current.by, "adopted the revision of another node");
        self.step(Input::Accepted(Acceptance {
            generation: current.generation,
            commits: current.commits.clone(),
            at: self.state.looked,
        }));
        let mut events = vec![happenings::of_accepted(current)];
        if current.by == self.settings.node {
            // This node accepted the revision itself, but the answer of the data store was lost.
            events.extend(happenings::of_acceptance(current.generation, &manifest));
        }
        self.record_events(events);
        let mut changes = Changes::default();
        changes.set(current);
        changes.set(&manifest);
        self.sources.remember(&looked, &current.commits, (&self.journal, now), &mut changes);
        self.save(changes);
        let revision = Revision::new(current.clone(), manifest, set, &self.settings.node);
        self.show(Some(Arc::new(revision)));
        Ok(())
    }
}
