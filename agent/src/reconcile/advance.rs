//! Proposes a valid candidate revision from the heads of the sources, and publishes the accepted revision (P22).

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use towpath_coordination::{
    Accepted, Candidate,
    accept::{self, Attempt, FleetIdentity, Proposal, SCHEMA, VerifyPolicy},
};
use towpath_git::VerifyMode;
use towpath_render::objects::{Held, ObjectSet};
use towpath_state::{Acceptance, Changes, RejectedCandidates};

use super::{
    adoption::NotFollowed,
    conditions::Input,
    node::{Ended, Node},
    reporting::happenings,
    revision::Revision,
    runs,
    sources::Looked,
};
use crate::{
    config,
    events::{EventType, NewEvent},
};

/// The maximum number of rejected candidates that the node remembers (P23).
const REJECTED: usize = 100;

impl Node {
    /// Refreshes the sources, and accepts a new valid candidate revision. Returns the result of the refresh.
    pub fn advance(&mut self) -> Ended {
        let now = self.clock.wall();
        self.step(Input::Looked(now));
        if self.has_lost_its_state() {
            return Ended::Held;
        }
        self.join();
        let adopted = self.adopt();
        self.report_rejected_records();
        let accepted = self.accepted();
        let looked =
            self.sources.look(&self.journal, &accepted.commits, &self.rejected, u64::try_from(now / 1000).unwrap_or(0));
        for input in looked.inputs.clone() {
            self.step(input);
        }
        for problem in &looked.problems {
            tracing::error!("{}", towpath_git::without_secrets(&problem.to_string()));
        }
        let news = !looked.refused.is_subset(&self.rejected);
        self.rejected.extend(looked.refused.iter().cloned());
        while self.rejected.len() > REJECTED {
            self.rejected.pop_first();
        }
        let ended = match (looked.rejected, looked.unreachable) {
            (true, _) => Ended::Rejected,
            (false, true) => Ended::Unreachable,
            (false, false) => Ended::Done,
        };
        self.remember_heads(&looked);
        match looked.set.clone() {
            // The node has just adopted these commits from the data store, so the node does not propose them.
            Some(_) if adopted && looked.commits == accepted.commits => {}
            Some(set) => self.accept(&accepted, looked, set),
            None => self.fall_back(&accepted),
        }
        let mut changes = Changes::default();
        if news {
            changes.set(&RejectedCandidates(self.rejected.clone()));
        }
        self.save(changes);
        ended
    }

    /// Returns the identity of the fleet, which is equal on all its nodes. The identity is empty without a shared data
    /// store, because the bootstrap file of a single server may change freely (P18).
    pub(super) fn origin(&self) -> FleetIdentity {
        let Some(first) = self.settings.sources.first().filter(|_| self.store.shared()) else {
            return FleetIdentity::default();
        };
        FleetIdentity {
            from: format!("{} {} {:?}", self.settings.cluster, first.git.shown_url(), first.git.reference),
            verify: match first.git.verify.mode {
                VerifyMode::None => VerifyPolicy::None,
                VerifyMode::Head => VerifyPolicy::Head,
                VerifyMode::Range => VerifyPolicy::Range,
            },
        }
    }

    /// Returns the manifest of the accepted revision from the journal.
    pub(super) fn manifest(&self) -> accept::RevisionManifest {
        self.journal.get_readable(&()).ok().flatten().unwrap_or_default()
    }

    pub(super) fn accepted(&self) -> Accepted {
        self.journal.get_readable(&()).ok().flatten().unwrap_or_default()
    }

    fn remember_heads(&mut self, looked: &Looked) {
        self.polled.set(&looked.sources, &looked.heads);
    }

    fn accept(&mut self, disk: &Accepted, looked: Looked, set: Arc<ObjectSet>) {
        if self.is_rejected().is_some() || self.unfollowed.as_ref().is_some_and(NotFollowed::blocks) {
            // A node proposes nothing if the fleet rejects the node, or if the node must first adopt a newer revision.
            self.fall_back(disk);
            return;
        }
        let candidate = Candidate { commits: looked.commits.clone(), schema: SCHEMA };
        let known = self.revision.as_ref().is_some_and(|revision| revision.commits == looked.commits);
        let digests = runs::digests(&set);
        let objects = object_ids(&set);
        let disk_manifest = self.manifest();
        let joined = if digests.is_empty() { Ok(Vec::new()) } else { accept::joined(self.store.as_ref()) };
        let attempt = joined.map_err(accept::AcceptError::from).and_then(|joined| {
            let proposal = Proposal {
                node: &self.settings.node,
                disk,
                disk_manifest: &disk_manifest,
                candidate: &candidate,
                origin: &self.origin(),
                digests: &digests,
                joined: &joined,
                objects: &objects,
                rejected: self.unfollowed.as_ref().and_then(NotFollowed::rejected),
                follows: self.store.shared(),
            };
            accept::attempt(self.store.as_ref(), &proposal)
        });
        let (accepted, manifest) = match attempt {
            Ok(Attempt::Accepted(accepted, manifest)) => (accepted, manifest),
            Ok(Attempt::Lost(won)) => {
                self.queue.poke(|wake| wake.moved = true);
                tracing::info!(
                    generation = won.generation,
                    "another node proposed a revision first; adopting that revision"
                );
                return;
            }
            Err(error) => {
                self.store_failed(&error);
                self.fall_back(disk);
                return;
            }
        };
        self.step(Input::Own("store", None));
        if accepted.generation != self.state.accepted.generation || self.state.accepted.commits != accepted.commits {
            tracing::info!(generation = accepted.generation, commits = ?accepted.commits, "accepted");
            self.step(Input::Accepted(Acceptance {
                generation: accepted.generation,
                commits: accepted.commits.clone(),
                at: self.state.looked,
            }));
            let mut events = vec![happenings::of_accepted(&accepted)];
            if accepted.by == self.settings.node && self.store.shared() {
                events.extend(happenings::of_acceptance(accepted.generation, &manifest));
            }
            self.record_events(events);
        }
        if accepted != *disk || !known {
            let mut changes = Changes::default();
            changes.set(&accepted);
            changes.set(&manifest);
            self.sources.remember(&looked, &accepted.commits, (&self.journal, self.clock.wall()), &mut changes);
            self.save(changes);
        }
        if !known || self.revision.as_ref().is_some_and(|revision| revision.generation != accepted.generation) {
            self.show(Some(Arc::new(Revision::new(accepted, manifest, set, &self.settings.node))));
        }
    }

    pub(super) fn show(&mut self, revision: Option<Arc<Revision>>) {
        if let Some(revision) = &revision {
            self.speech.follow(revision, &self.settings);
            let node = revision.set.nodes.get(&self.settings.node);
            self.fleet.give_keys(node.map(|node| node.public_keys.clone()).filter(|keys| !keys.is_empty()));
            self.step_fleet();
            self.alarm_held(&revision.set);
            // The alarm about a lost node ends if the revision no longer names the node.
            let known = revision.set.all_nodes();
            let name = |event: &NewEvent| event.data.get("node").and_then(Value::as_str).unwrap_or_default().to_owned();
            let gone = |event: &NewEvent| event.event_type == EventType::NodeLost && !known.contains(&name(event));
            self.set_alarms(gone, Vec::new());
        }
        let mirrors = revision.as_ref().map(|revision| self.sources.mirrors(&revision.set)).unwrap_or_default();
        self.handle.set_revision(revision.clone(), mirrors);
        self.handle.tell_gossip();
        self.revision = revision;
        self.warn();
    }

    /// Updates the warnings about the settings of all sources, and logs the new warnings.
    fn warn(&self) {
        let mut warnings = self.settings.warnings.clone();
        if let Some(revision) = &self.revision {
            let further = self.sources.further(&revision.set);
            let coordinated = self.settings.coordinated();
            warnings.extend(further.iter().flat_map(|source| config::source_warnings(source, coordinated)));
        }
        for warning in self.handle.set_warnings(warnings) {
            tracing::warn!("{warning}");
        }
    }

    /// Sets an alarm for each held object, in the namespace of the object.
    fn alarm_held(&self, set: &ObjectSet) {
        let alarm = |held: &Held| {
            let key = held.object.as_ref().map(|object| &object.key);
            let what = key.map_or_else(|| format!("Source/{}", held.problem.source), object_id);
            let message = format!(
                "{what} has become invalid and is held: {}:{}: {}",
                held.problem.file, held.problem.line, held.problem.message
            );
            let namespace = key.map(|key| key.namespace.as_str()).unwrap_or_default();
            NewEvent::new(EventType::RevisionObjectHeld, message)
                .because("InvalidObjects")
                .about(what, namespace)
                .with("source", held.problem.source.as_str())
                .with("file", held.problem.file.as_str())
                .with("line", held.problem.line)
        };
        let firing = set.held.values().map(alarm).collect();
        self.set_alarms(|event| event.event_type == EventType::RevisionObjectHeld, firing);
    }

    /// Loads the last good revision from the mirrors if no revision is loaded yet.
    fn fall_back(&mut self, accepted: &Accepted) {
        if self.revision.is_some() || accepted.generation == 0 {
            return;
        }
        match self.sources.load_accepted(&accepted.commits) {
            Ok(looked) => {
                if let Some(set) = looked.set {
                    let revision = Revision::new(accepted.clone(), self.manifest(), set, &self.settings.node);
                    self.show(Some(Arc::new(revision)));
                }
            }
            Err(error) => tracing::error!(%error, "cannot read the last good revision from the mirror"),
        }
    }

    /// Loads the last good revision from the mirrors, without contacting the sources.
    pub fn load_last_good(&mut self) {
        let accepted = self.accepted();
        self.fall_back(&accepted);
    }
}

/// Returns the ids of all objects of a revision, including held objects, in the form that manifests use.
pub(super) fn object_ids(set: &ObjectSet) -> BTreeSet<String> {
    let held = set.held.keys().filter_map(|(_, key)| key.as_ref());
    set.objects.keys().chain(held).map(object_id).collect()
}

/// Returns the id of an object in the form that manifests use: `kind/namespace/name`.
pub(super) fn object_id(key: &towpath_render::objects::Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}
