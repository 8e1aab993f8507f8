//! Follows the fleet: adopts the accepted revision of other nodes, refreshes the sources, and proposes a candidate.

use std::sync::Arc;

use serde_json::Value;
use towpath_render::objects::{Held, ObjectSet};

use super::{
    acceptance::{Adopted, Proposed},
    main_loop::{Node, RunResult},
    membership::Membership,
    sources::{RefreshReport, RefreshResult, candidates::Refreshed},
    writer::Effects,
};
use crate::{
    config,
    events::{EventType, NewEvent},
    reconcile::{Revision, object_id},
    status::conditions::Input,
};

impl Node {
    /// Refreshes the sources, and accepts a new valid candidate revision. Returns the result of the refresh.
    pub fn refresh_and_propose(&mut self) -> RunResult {
        let now = self.clock.wall();
        self.writer.step(Input::Tick(now));
        if self.has_lost_its_state() {
            return RunResult::Held;
        }
        self.sources.begin_refresh();
        let joined = self.membership.join(&self.inbox);
        self.writer.write(joined);
        let adopted = self.follow_fleet();
        self.writer.write(self.membership.rejected_records());
        let certificates = self.membership.certificate_events();
        self.writer.write(certificates);
        let accepted = self.acceptance.accepted().commits;
        let Refreshed { report, effects, changes } = self.candidates.refresh(&accepted, now);
        self.writer.write(effects);
        match report.set.clone() {
            // The node has just adopted these commits from the data store, so the node does not propose them.
            Some(_) if adopted && report.commits == accepted => {}
            Some(set) => self.propose(&report, &set),
            None => self.load_last_good(),
        }
        self.writer.save(changes);
        self.sources.end_refresh();
        match report.worst {
            RefreshResult::Rejected => RunResult::Rejected,
            RefreshResult::Unreachable => RunResult::Unreachable,
            RefreshResult::Known => RunResult::Done,
        }
    }

    /// Loads the last good revision from the mirrors, without contacting the sources.
    pub fn load_last_good(&mut self) {
        match self.acceptance.last_good() {
            Ok(Some(revision)) => self.use_revision(revision),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot read the last good revision from the mirror"),
        }
    }

    /// Returns true if the state directory was lost, and shows the loss in the state of the node.
    pub(super) fn has_lost_its_state(&mut self) -> bool {
        let lost = self.membership.has_lost_its_state();
        if lost || self.writer.state().problems.contains_key("node state") {
            self.writer.step(self.membership.of_lost_state(lost));
        }
        lost
    }

    /// Adopts the fleet's accepted revision if its generation is higher than the generation of this node's revision. If
    /// the generations are equal, the acceptance record in the data store takes precedence (P26). Returns true if the
    /// node has adopted the acceptance record in the data store.
    fn follow_fleet(&mut self) -> bool {
        if !self.membership.is_shared() {
            return false;
        }
        let own = self.acceptance.accepted();
        let before = self.membership.fleet().known();
        let found = match self.acceptance.find(&own) {
            Ok(found) => found,
            Err(error) => {
                self.writer.step(Membership::of_store_error(&error));
                return false;
            }
        };
        self.membership.fleet().seen(before, found.revision);
        self.writer.step(Input::Node("store", None));
        if self.membership.fleet().needs_republish() {
            // The data store has lost writes of this node. The node therefore leaves the steady state, and publishes
            // its state again.
            self.invalidate_steady_state();
            self.membership.forget_published();
        }
        let tick = self.writer.state().tick;
        let own = match self.acceptance.adopt_from_peers(&own, found.record.generation, tick) {
            Some(adopted) => {
                self.adopt(adopted);
                self.acceptance.accepted()
            }
            None => own,
        };
        let why = match self.acceptance.adopt_found(&own, &found, tick) {
            Ok(adopted) => {
                adopted.into_iter().for_each(|adopted| self.adopt(adopted));
                None
            }
            Err(why) => Some(why),
        };
        let effects = self.acceptance.note_adoption_error(&own, &found, why);
        self.writer.write(effects);
        let now = self.acceptance.accepted();
        now.id() != own.id() && now.id() == found.record.id()
    }

    fn propose(&mut self, report: &RefreshReport, set: &Arc<ObjectSet>) {
        let is_rejected = self.membership.is_rejected().is_some();
        match self.acceptance.propose(report, set, self.writer.state(), is_rejected) {
            Ok(Proposed::Accepted(adopted)) => self.adopt(adopted),
            Ok(Proposed::Lost) => self.inbox.notify(|work| work.source_changed = true),
            Ok(Proposed::Blocked) => self.load_last_good(),
            Err(error) => {
                self.writer.step(Membership::of_store_error(&error));
                self.load_last_good();
            }
        }
    }

    /// Writes the journal changes for an accepted revision, and makes the revision current.
    fn adopt(&mut self, adopted: Adopted) {
        self.writer.write(adopted.effects);
        if let Some(revision) = adopted.revision {
            self.use_revision(revision);
        }
    }

    /// Makes a revision current: sets its trusted keys and rights, its alarms, and its mirrors.
    fn use_revision(&mut self, revision: Arc<Revision>) {
        self.writer.write(self.membership.follow(&revision));
        self.writer.write(held_objects(&revision.set));
        // The alarm about a lost node ends if the revision no longer names the node.
        let known = revision.set.all_nodes();
        let name = |event: &NewEvent| event.data.get("node").and_then(Value::as_str).unwrap_or_default().to_owned();
        let gone = |event: &NewEvent| event.event_type == EventType::NodeLost && !known.contains(&name(event));
        self.writer.write(Effects::default().alarms(gone, Vec::new()));
        self.writer.show_revision(&revision, self.sources.mirrors(&revision.set));
        self.acceptance.peers().update_gossip();
        self.warn(&revision);
        self.acceptance.set_revision(revision);
    }

    /// Updates the warnings about the settings of all sources, and logs the new warnings.
    fn warn(&self, revision: &Revision) {
        let mut warnings = self.settings.warnings.clone();
        let coordinated = self.settings.coordinated();
        let further = self.sources.further(&revision.set);
        warnings.extend(further.iter().flat_map(|source| config::source_warnings(source, coordinated)));
        for warning in self.writer.show_warnings(warnings) {
            tracing::warn!("{warning}");
        }
    }
}

/// Returns an alarm for each held object, in the namespace of the object.
fn held_objects(set: &ObjectSet) -> Effects<'static> {
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
    Effects::default().alarms(|event| event.event_type == EventType::RevisionObjectHeld, firing)
}
